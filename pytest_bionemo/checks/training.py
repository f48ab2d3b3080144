"""Training ESM-2 with all ranks of the job: it learns what one rank learns, how fast, and it survives a lost rank.

On one node without a job its devices are the ranks. Every node runs these checks, and each answers for its own
devices; what is another node's fault blames that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pytest_bionemo import judging
from pytest_bionemo.checking import CheckFailed, NotRun, check, fail, not_applicable, wait_for
from pytest_bionemo.compute import Compute
from pytest_bionemo.judging import Judgement, Limits, Word
from pytest_bionemo.model import Action, count
from pytest_bionemo.probes import packages
from pytest_bionemo.ranks import Ranks
from pytest_bionemo.worker import Numbers, Trouble, WorkloadFailed
from pytest_bionemo.workloads import parallel_checkpoint, parallel_esm2

_SEED = 20261123
_STEPS = 5
_STEPS_SAVED = 3
# Less, and of all that a device could do, waiting takes the larger part.
_LEAST_EFFICIENCY = 0.5
# Pretend devices share the cores of one processor: short steps wait for those as much as for each other.
_LEAST_EFFICIENCY_REHEARSED = 0.15
_REHEARSAL = Limits(0.15, 0.15)
"""Of the steps of other ranks, where those are pretend devices."""
# What the other ranks say of the one that was killed on purpose.
_LOST = f"in the step '{parallel_checkpoint.KILLED_IN}': died"


# ------------------------------------------------------------------------------------------- what is learnt


@check(level="standard")
@pytest.mark.parametrize("strategy", parallel_esm2.STRATEGIES, ids=str)
def learns_as_one_rank(team: Ranks, strategy: str) -> None:
    """A training by all ranks has, step by step, the losses of one rank with the same global batches.

    Why: ranks that exchange wrong gradients, or get other batches than they should, train another model than was
    meant.

    How it decides: every rank trains alone with the same global batches, too: the losses of each step may differ by
    no more than rounding explains, which the two trainings give. A rank that differs from most of the others is
    named.

    Fix: look at what the topics numerics and collectives find on the node that is named.
    """
    numbers = team.run("parallel_esm2:run", strategy=strategy, course=_course(team, _STEPS))
    if numbers[0].get("unsupported"):
        not_applicable(numbers[0]["unsupported"])
    if lacking := numbers[0].get("lacking"):
        wait_for(None, f"not every rank can train by {strategy.upper()}: {'; '.join(lacking)}")
    trained = f"{count(numbers[0]['ranks'], 'rank')} by {strategy.upper()}"
    _measure_differences(team.devices, f"training_{strategy}_loss_difference", numbers)
    _judge_losses(team, trained, numbers)


def _course(team: Ranks, steps: int) -> dict[str, Any]:
    _require_esm2(team)
    first = team.first
    return {
        "model": first.size(rehearsal="tiny", standard="8M"),
        "sequences": 2,
        "length": first.size(rehearsal=32, standard=128),
        "steps": steps,
        "seed": _SEED,
    }


def _require_esm2(team: Ranks) -> None:
    """Go on only where every rank can build ESM-2: those that can would wait for one that does not come."""
    __tracebackhide__ = True
    if packages.version("transformers") is None:
        team.lacking("transformers is not installed")
        not_applicable("transformers is not installed, which ESM-2 is built with")
    errors = {device.name: device.run("esm2:try_build", name="8M")["error"] for device in team.devices}
    name, error = next(((name, error) for name, error in errors.items() if error), (None, None))
    others = team.lacking(error and f"transformers cannot build ESM-2: {error}")
    if error:
        wait_for(f"forward::esm2_builds[{name}]", f"transformers cannot build ESM-2: {error}")
    if others:
        wait_for(None, f"not every node can train ESM-2: {'; '.join(others)}")


def _measure_differences(devices: Sequence[Compute], name: str, numbers: Sequence[Numbers]) -> None:
    for device, found in zip(devices, numbers, strict=True):
        # The step that comes nearest to what rounding may do.
        pairs = [pair for pair in zip(found["differences"], found["tolerances"], strict=True) if None not in pair]
        if pairs:
            difference, tolerance = max(pairs, key=lambda pair: pair[0] / pair[1])
            device.measure(name, difference, "nat", bound=tolerance)


def _judge_losses(team: Ranks, trained: str, numbers: Sequence[Numbers]) -> None:
    """End the check with what differs: a device by itself, a rank among the others, or what they exchange."""
    __tracebackhide__ = True
    ranks = numbers[0]["ranks"]
    if dissenting := numbers[0]["dissenting"]:
        # Of two that differ, nobody can say which one is wrong.
        culprits = dissenting if 2 * len(dissenting) < ranks else []
        _report_rank(
            team,
            f"{trained}: alone, with the same batches, {_listed(dissenting)} learns otherwise than the other ranks",
            culprits,
        )
    # Every rank holds the others against its own training alone, which no other one doubts.
    odd = next((found for found in numbers if found["odd"]), None)
    if odd is None:
        return
    first = odd["odd"][0]
    seen = (
        f"{trained}: the loss of step {first['step']} is {_shown(first['loss'])} on {_listed([first])}; "
        f"one rank alone with the same batches has {_shown(first['expected'])}, "
        f"and rounding explains {_shown(first['tolerance'])}"
    )
    if 2 * odd["odd_ranks"] < ranks:
        _report_rank(team, seen, odd["odd"])
    others = f", and so on {odd['odd_ranks'] - 1} more" if odd["odd_ranks"] > 1 else ""
    fail(
        f"{seen}{others}",
        why="what the ranks exchange is not what they computed: another model is trained than was meant",
        fix=[
            "look at the findings of interconnect and collectives first",
            "install one PyTorch and one NCCL on all nodes, without variables NCCL_* of your own",
        ],
    )


def _report_rank(team: Ranks, seen: str, culprits: Sequence[Mapping[str, Any]]) -> NoReturn:
    __tracebackhide__ = True
    hosts = list(dict.fromkeys(one["host"] for one in culprits))
    is_ours = team.place.host in hosts or not hosts
    looks = "look at numerics and health " + ("on this node" if is_ours else f"in the report of {', '.join(hosts)}")
    ends = "if they find nothing, take the device out of service"
    fail(
        seen,
        why="one device that computes wrongly spoils the gradients of all",
        fix=[looks, ends if hosts else "train over other nodes: which of these is wrong cannot be seen from here"],
        action=Action.REPLACE_NODE if hosts and not team.is_rehearsal else Action.FIX_SOFTWARE,
        blames=() if is_ours else hosts,
    )


def _listed(ranks: Iterable[Mapping[str, Any]]) -> str:
    return " and ".join(f"rank {one['rank']} ({one['host']}, {one['device']})" for one in ranks)


def _shown(loss: float | None) -> str:
    return "no number" if loss is None else f"{loss:.7g}"


# ------------------------------------------------------------------------------------------------- how fast


def _timed(team: Ranks) -> list[Numbers]:
    _require_esm2(team)
    first = team.first
    return team.run(
        "parallel_speed:run",
        models=first.size(rehearsal=["tiny"], standard=["650M", "150M", "8M"]),
        sequences=4,
        length=first.size(rehearsal=64, standard=1024),
        budget_s=first.size(rehearsal=0.4, standard=5.0),
        seed=_SEED,
    )


@check(severity="warning", level="standard", needs=("undisturbed",))
def keeps_pace(team: Ranks) -> None:
    """No device of this node trains slower than those of the other ranks.

    Why: all ranks wait for the slowest one, in every step.

    How it decides: the time of a step without the exchange, measured on all ranks at once, is compared with that of
    the other ranks on devices of this kind.

    Fix: look for throttling, other processes and low clocks on the device that is named.
    """
    slow: list[tuple[Compute, Numbers, Judgement]] = []
    for device, found in zip(team.devices, _timed(team), strict=True):
        alone = found["alone"]
        peers = _peers(found)
        judgement = judging.judge(
            alone["value"],
            ci95=(alone["p5"], alone["p95"]) if team.is_rehearsal else alone["ci95"],
            higher_is_better=False,
            peers=peers,
            peer_limits=_REHEARSAL if team.is_rehearsal else None,
            **device.earlier_rulers("training_step_alone", "s", _REHEARSAL),
        )
        device.measure(
            "training_step_alone",
            alone["value"],
            "s",
            samples=alone["samples"],
            ci95=alone["ci95"],
            peer_median=judgement.peer_median,
            judgement=judgement.word.value,
        )
        if judgement.word in (Word.LOW, Word.DEGRADED):
            slow.append((device, found, judgement))
    if slow:
        fail(
            "; ".join(
                f"{device}: a step of ESM-2 {found['model']} without the exchange takes "
                f"{found['alone']['value']:.3g} s, {judgement.because}{_beside(device, judgement)}"
                for device, found, judgement in slow
            ),
            why="all ranks wait for the slowest one, in every step",
            fix=[
                "look at the findings of benchmark and health on this node, and end what else runs on it",
                "if nothing explains it, leave the node out of trainings",
            ],
            action=Action.NONE,
        )


def _beside(device: Compute, judgement: Judgement) -> str:
    before = device.earlier("training_step_alone", "s")
    rulers = {"median of the other ranks": judgement.peer_median, "earlier value": before.value if before else None}
    said = [f"{name} {seconds:.3g} s" for name, seconds in rulers.items() if seconds]
    return f" ({', '.join(said)})" if said else ""


def _peers(found: Numbers) -> list[float]:
    """The steps of the other ranks on devices of this kind."""
    own = found["rank"]
    return [
        seconds
        for rank, (seconds, kind) in enumerate(zip(found["alone_by_rank"], found["kinds"], strict=True))
        if rank != own and kind == found["kinds"][own]
    ]


@check(severity="warning", level="standard", needs=("undisturbed",))
def scales(team: Ranks) -> None:
    """All ranks together train nearly as many tokens a second as they do alone.

    Why: where the devices wait for each other most of the time, more nodes make a training no faster.

    How it decides: tokens a second of all ranks together are divided by what they train alone at the same time; the
    better end of the interval has to reach the least share.

    Fix: look at what network NCCL uses, and at the rank that the others wait for.
    """
    found = _timed(team)[0]
    by_rank, together = found["alone_by_rank"], found["together"]
    each = found["tokens"] / found["ranks"]
    capacity = sum(each / seconds for seconds in by_rank)
    rate = found["tokens"] / together["value"]
    low, high = (found["tokens"] / seconds for seconds in reversed(together["ci95"]))
    # What is left where the exchange hides behind nothing: a healthy training is above it.
    unhidden = max(by_rank) / (max(by_rank) + found["exchange"]["value"])
    least = _LEAST_EFFICIENCY_REHEARSED if team.is_rehearsal else _LEAST_EFFICIENCY
    is_enough = high / capacity >= least
    word = (Word.GOOD if is_enough else Word.LOW).value
    samples = together["samples"]
    name = f"training_{found['model'].lower()}"
    team.first.measure(
        f"{name}_tokens",
        rate,
        "tokens/s",
        samples=samples,
        ci95=(low, high),
        reference=capacity,
        nodes=team.nodes,
    )
    team.first.measure(
        f"{name}_scaling_efficiency",
        rate / capacity,
        "1",
        samples=samples,
        ci95=(low / capacity, high / capacity),
        reference=unhidden,
        judgement=word,
        nodes=team.nodes,
    )
    middle = sorted(by_rank)[len(by_rank) // 2]
    spread = (max(by_rank) - min(by_rank)) / middle
    team.first.measure(f"{name}_step_spread", spread, "1", samples=len(by_rank), nodes=team.nodes)
    if not is_enough:
        fail(
            f"{count(found['ranks'], 'rank')} train {rate:.4g} tokens/s of ESM-2 {found['model']} together, "
            f"{rate / capacity:.0%} of the {capacity:.4g} that they train alone at the same time; an exchange of all "
            f"gradients takes {found['exchange']['value']:.3g} s of a step of {together['value']:.3g} s",
            why="the devices wait for each other for most of the time: more nodes would make it no faster",
            fix=[
                "look at the findings of interconnect and collectives: which network NCCL uses",
                "and at training::keeps_pace in the reports of all nodes: whom they wait for",
            ],
            action=Action.NONE,
        )


# ------------------------------------------------------------------------------------------- what is survived


@check(level="standard")
def resumes_after_a_killed_rank(team: Ranks, report_folder: Path) -> None:
    """A training that loses a rank goes on from its checkpoint, on a file system that all nodes share.

    Why: in a long training a node is lost sooner or later: what is not in a checkpoint that can be loaded is lost
    with it.

    How it decides: a sharded checkpoint is saved, one rank is killed, all others have to name it; then the training
    is resumed, what was loaded is compared bit by bit with what was saved, and its losses with those of one rank.

    Fix: give --bionemo-report a folder on a file system that all nodes share, and look at that file system.
    """
    here = {"folder": str(report_folder)}
    course = _course(team, _STEPS_SAVED)
    with _removing_checkpoint(team, here):
        _lose_a_rank(team, report_folder, course)
        numbers = team.run("parallel_checkpoint:resume", here, course=course)
    found = numbers[0]
    _judge_files(team, report_folder, found)
    for step in ("save", "load"):
        seconds = found[f"{step}_s"]
        team.first.measure(f"training_checkpoint_{step}", seconds, "s", samples=found["ranks"], nodes=team.nodes)
    if found["changed"]:
        hosts = list(dict.fromkeys(one["host"] for one in found["changed"]))
        fail(
            f"what {_listed(found['changed'])} loaded from the checkpoint in {report_folder} is not what was saved: "
            "its bits differ",
            why="a resumed training goes on from another model; PyTorch does not verify what it loads",
            fix=["have that file system and the memory of the node tested", "write checkpoints to another one"],
            action=Action.FIX_SOFTWARE,
            blames=() if team.place.host in hosts else hosts,
        )
    _judge_losses(team, f"{count(found['ranks'], 'rank')} by {found['strategy'].upper()}, resumed", numbers)


@contextmanager
def _removing_checkpoint(team: Ranks, here: Mapping[str, str]) -> Iterator[None]:
    """On the first node, whatever happens: in a worker, since a shared file system may hang."""
    try:
        yield
    finally:
        if team.place.node_rank == 0:
            with suppress(CheckFailed, NotRun, WorkloadFailed):
                team.first.run("parallel_checkpoint:remove", **here, place=team.place.to_json())


def _judge_files(team: Ranks, folder: Path, found: Numbers) -> None:
    __tracebackhide__ = True
    if broken := found.get("broken"):
        hosts = list(dict.fromkeys(one["host"] for one in broken))
        fail(
            f"{_listed(broken)} failed in {folder} when {broken[0]['error']}",
            why="what is lost with a rank cannot be recovered",
            fix=["look at that file system: its room, its quota, its rights", "write checkpoints to another one"],
            blames=() if team.place.host in hosts else hosts,
        )


def _lose_a_rank(team: Ranks, folder: Path, course: Mapping[str, Any]) -> None:
    """Go on only where the last rank was killed, and all others said that it was that one."""
    __tracebackhide__ = True
    for device, outcome in team.outcomes("parallel_checkpoint:interrupt", {"folder": str(folder)}, course=course):
        if not isinstance(outcome, WorkloadFailed):
            _judge_files(team, folder, outcome)
            _report_no_loss(outcome, folder)
        is_last = team.place.node_rank == team.place.nodes - 1 and device is team.devices[-1]
        if is_last and outcome.trouble is Trouble.DEATH and "SIGKILL" in outcome.text:
            continue
        if not is_last and outcome.trouble is Trouble.MISSED and outcome.text.endswith(_LOST):
            continue
        team.explain(device, outcome, "parallel_checkpoint:interrupt")


def _report_no_loss(outcome: Numbers, folder: Path) -> NoReturn:
    __tracebackhide__ = True
    if blind := outcome.get("blind"):
        wait_for(
            None,
            f"{folder} is not shared: {', '.join(blind)} does not see what the first node writes there. "
            "Give --bionemo-report a folder on a file system that all nodes share",
        )
    fail(
        "a rank was killed, and the training went on without it",
        why="it goes on with a part of its batches, or hangs later",
        fix="look at the findings of collectives",
    )
