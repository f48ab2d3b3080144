"""How the devices of one node talk to each other: over NVLink or PCIe, in pairs and all together."""

from __future__ import annotations

import pytest

from pytest_bionemo.checking import check
from pytest_bionemo.exchanging import judge_operation, judge_pairs, require_meeting, require_peers
from pytest_bionemo.ranks import Ranks
from pytest_bionemo.workloads.collectives import OPERATIONS


@check(level="standard")
def devices_meet(own_local_ranks: Ranks) -> None:
    """The devices of this node form one process group, and add up.

    Why: training on several devices begins with this; where they do not meet, it hangs until a timeout that names
    nobody.

    How it decides: the worker of each device joins one process group within a deadline and adds up ones: the sum has
    to be the number of devices. A device that does not come, dies or hangs is named by the others.

    Fix: look at the device that is named, and at what NCCL says: NCCL_DEBUG=INFO.
    """
    require_meeting(own_local_ranks)


@check(level="standard")
def peers_are_reached_directly(local_ranks: Ranks) -> None:
    """GPUs that NVLink joins reach each other's memory without the host.

    Why: what the GPUs exchange would go through the memory of the host, at a tenth of the speed.

    How it decides: NCCL's own log says by which way each pair of devices talks; where the model has NVLink, that has
    to be peer to peer.

    Fix: let NCCL use it, and look at the fabric manager and at the links.
    """
    require_peers(local_ranks)


@check(level="standard")
def pairs_at_full_speed(local_ranks: Ranks) -> None:
    """Every device sends to every other one as fast as their link carries it, and what arrives is right.

    Why: training on several GPUs waits for their slowest link.

    How it decides: each device sends to each other one in turn: what arrives has to be right, and each rate is judged
    by the bound of the link and, where a switch joins them all alike, by the median of all pairs.

    Fix: look at the links of the GPU that is named; otherwise have the node replaced.
    """
    judge_pairs(local_ranks)


@check(level="standard")
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def values_are_exact(local_ranks: Ranks, operation: str) -> None:
    """What the devices exchange arrives as it was sent, and sums are exact, at every size; links carry what they can.

    Why: a link or a kernel that changes values makes a training compute wrong gradients, and not notice.

    How it decides: operands are integers whose sums are exact: one wrong number at any size is a finding, and a bit
    that is flipped on purpose has to be seen. The bus bandwidth is judged by the rulers below.

    Fix: look at the links of the GPUs; otherwise have the node replaced.
    """
    judge_operation(local_ranks, operation, "node")
