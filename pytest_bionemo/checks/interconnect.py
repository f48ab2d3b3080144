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

    Fix: look at the device that is named, and at what NCCL says: NCCL_DEBUG=INFO.
    """
    require_meeting(own_local_ranks)


@check(level="standard")
def peers_are_reached_directly(local_ranks: Ranks) -> None:
    """GPUs that NVLink joins reach each other's memory without the host.

    Fix: let NCCL use it, and look at the fabric manager and at the links.
    """
    require_peers(local_ranks)


@check(level="standard")
def pairs_at_full_speed(local_ranks: Ranks) -> None:
    """Every device sends to every other one as fast as their link carries it, and what arrives is right.

    Fix: look at the links of the GPU that is named; otherwise have the node replaced.
    """
    judge_pairs(local_ranks)


@check(level="standard")
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def values_are_exact(local_ranks: Ranks, operation: str) -> None:
    """What the devices exchange arrives as it was sent, and sums are exact, at every size; links carry what they can.

    Fix: look at the links of the GPUs; otherwise have the node replaced.
    """
    judge_operation(local_ranks, operation, "node")
