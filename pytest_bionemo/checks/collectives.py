"""What a job of several nodes rests on: all of them are there, and what they compute together is right.

Every node of the job runs these checks at the same time. Where a rank of another node is at fault, the finding blames
that node, and every node but that one says the same.
"""

from __future__ import annotations

import pytest

from pytest_bionemo.blaming import judge_pairs
from pytest_bionemo.checking import check, fail, wait_for
from pytest_bionemo.exchanging import judge_network, judge_operation, require_meeting
from pytest_bionemo.model import Action
from pytest_bionemo.probes.child import Answer
from pytest_bionemo.probes.fabric import Fabric
from pytest_bionemo.ranks import MEET, Encounter, Ranks, leaving_out
from pytest_bionemo.workloads.collectives import OPERATIONS


@check(level="standard")
def every_node_arrives(encounter: Encounter, arrival: Answer) -> None:
    """Every node of the job is there.

    Why: a training over these nodes would wait for the one that is missing, until it gives up.

    How it decides: the first node keeps a desk to which all others report within a deadline; all of them learn who
    did not come.

    Fix: look at the nodes that did not come, or leave them out of the job.
    """
    if arrival.value is None:
        wait_for(None, f"the meeting of the nodes gave no answer: {arrival.failure}")
    if missed := arrival.value["missed"]:
        if not arrival.value["blames"]:
            # Only a scheduler knows the name of one that never came; a finding would be one of this node.
            wait_for(None, missed)
        others = [host for host in arrival.value["blames"] if host != encounter.place.host]
        fail(
            missed,
            why="a training over these nodes would wait for it, until it gives up",
            fix=[
                "look at the output of its pytest: it ended, or was never started",
                *([f"or {leaving_out(encounter.place, others)}"] if others else []),
            ],
            action=Action.REBOOT_NODE,
            blames=others,
        )


@check(level="standard")
def no_slow_link(own_ranks: Ranks) -> None:
    """Every node exchanges data with the others as fast as they do among themselves.

    Why: every step of a training on several nodes waits for the slowest path between two of them.

    How it decides: nodes exchange data in rounds of pairs, so that each meets several others: a node that is slow
    with all of them is at fault, a pair that is slow alone is its path. Each path is held against what the others
    reach.

    Fix: leave the node that is named out, and have its adapters and cables looked at.
    """
    # Before all ranks meet at once: where a path is broken, they cannot, and would not know which one it is.
    judge_pairs(own_ranks)


@check(level="standard")
def ranks_meet(own_ranks: Ranks) -> None:
    """The devices of all nodes form one process group, and add up.

    Why: training over several nodes begins with this; where the ranks do not meet, it hangs until a timeout that
    names nobody.

    How it decides: every rank of the job joins one process group within a deadline and adds up ones: the sum has to
    be the number of ranks. A rank that is missing, dead or hanging is named by all others, with its host.

    Fix: look at the node that is named, and at the network between the nodes.
    """
    require_meeting(own_ranks)


@check(level="standard")
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def values_are_exact(ranks: Ranks, operation: str) -> None:
    """What the ranks exchange arrives as it was sent, and sums are exact, at every size.

    Why: a node that changes what it passes on makes a training compute wrong gradients, and not notice.

    How it decides: operands are integers whose sums are exact: one wrong number at any size is a finding, which names
    the rank that all mistakes have in common. A bit that is flipped on purpose has to be seen.

    Fix: take the node that is named out of use.
    """
    judge_operation(ranks, operation, "collective")


@check(severity="warning", level="standard")
def uses_the_fastest_network(ranks: Ranks, fabric: Fabric) -> None:
    """The ranks talk over the fastest network that the node has.

    Why: traffic between nodes is many times slower over TCP than over EFA or InfiniBand, and NCCL falls back without
    a word.

    How it decides: NCCL's own log says which network it took; that must not be sockets where the node has EFA or
    active RDMA adapters, nor a slower interface than the fastest.

    Fix: give the job the adapters and libraries of that network.
    """
    judge_network(ranks.run(MEET)[0]["network"], fabric)
