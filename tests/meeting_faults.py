"""Workloads that meet, for the tests of meetings: on one of the ranks a fault is put, for real."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from pytest_bionemo.workloads.meeting import Meeting, meet


def exchange(
    place: Mapping[str, Any], name: str, fault: str = "", on: int = -1, deadline_s: float = 60
) -> dict[str, Any]:
    """Sum the ranks, over and over; rank ``on`` misbehaves in the middle."""
    import torch
    import torch.distributed as dist

    with meet(name, place, deadline_s) as ranks, ranks.group():
        sums = []
        for turn in range(4):
            ranks.step(f"sum {turn}")
            if ranks.rank == on and turn == 2:
                FAULTS[fault](ranks)
            numbers = torch.full((1 << 16,), ranks.rank + 1.0)
            dist.all_reduce(numbers)
            sums.append(sorted(set(numbers.tolist())))
        return {"sums": sums, "rank": ranks.rank, "size": ranks.size, "hosts": [rank.host for rank in ranks.ranks]}


def tell(place: Mapping[str, Any], name: str, deadline_s: float = 60) -> dict[str, Any]:
    """Share what each rank is, without torch."""
    with meet(name, place, deadline_s) as ranks:
        return {"said": ranks.share("who", [ranks.rank, ranks.ranks[ranks.rank].device])}


def be_killed(_: Meeting) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def be_stopped(_: Meeting) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def stay_behind(_: Meeting) -> None:
    time.sleep(600)


def make_a_mistake(_: Meeting) -> None:
    raise ValueError("a shape that does not fit")


FAULTS = {
    "killed": be_killed,
    "stopped": be_stopped,
    "behind": stay_behind,
    "mistake": make_a_mistake,
}
