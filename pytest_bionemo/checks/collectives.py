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

    Fix: look at the nodes that did not come, or leave them out of the job.
    """
    if arrival.value is None:
        wait_for(None, f"the meeting of the nodes gave no answer: {arrival.failure}")
    if missed := arrival.value["missed"]:
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

    Fix: leave the node that is named out, and have its adapters and cables looked at.
    """
    # Before all ranks meet at once: where a path is broken, they cannot, and would not know which one it is.
    judge_pairs(own_ranks)


@check(level="standard")
def ranks_meet(own_ranks: Ranks) -> None:
    """The devices of all nodes form one process group, and add up.

    Fix: look at the node that is named, and at the network between the nodes.
    """
    require_meeting(own_ranks)


@check(level="standard")
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def values_are_exact(ranks: Ranks, operation: str) -> None:
    """What the ranks exchange arrives as it was sent, and sums are exact, at every size.

    Fix: take the node that is named out of use.
    """
    judge_operation(ranks, operation, "collective")


@check(severity="warning", level="standard")
def uses_the_fastest_network(ranks: Ranks, fabric: Fabric) -> None:
    """The ranks talk over the fastest network that the node has.

    Fix: give the job the adapters and libraries of that network.
    """
    judge_network(ranks.run(MEET)[0]["network"], fabric)
