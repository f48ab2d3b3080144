"""How a check judges pairs of nodes, and blames the one that is slow: every node of the job says the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from pytest_bionemo import judging
from pytest_bionemo.checking import fail, wait_for
from pytest_bionemo.judging import Limits, Word
from pytest_bionemo.model import Action
from pytest_bionemo.ranks import Ranks, leaving_out
from pytest_bionemo.slow_paths import Culprit, culprits, trials, usual
from pytest_bionemo.worker import Numbers


def judge_pairs(ranks: Ranks) -> None:
    """Measure pairs of nodes, put what this one reaches into the report, and end the check with who is slow."""
    __tracebackhide__ = True
    if not ranks.meets("pairs:attend"):
        wait_for("collectives::ranks_meet", "not every rank of the job is here")
    limits = judging.REHEARSAL if ranks.is_rehearsal else judging.FEW
    budget = ranks.first.size(rehearsal=0.15, standard=0.5, full=2.0)
    found = ranks.run("pairs:run", limit=limits.low, budget_s=budget)[0]
    slow, degraded = (
        culprits(found["hosts"], found["paths"], limit=limit) for limit in (limits.low, limits.degraded)
    )
    reached = usual(found["hosts"], found["paths"], limit=limits.low)
    _measure(ranks, found, reached, _word(ranks, slow, degraded))
    if slow or degraded:
        _report(ranks, slow or degraded, reached, limits, is_low=bool(slow))


def _word(ranks: Ranks, slow: Sequence[Culprit], degraded: Sequence[Culprit]) -> Word:
    own = ranks.place.host
    if any(own in culprit.hosts for culprit in slow):
        return Word.LOW
    if any(own in culprit.hosts for culprit in degraded):
        return Word.DEGRADED
    # Two nodes have nobody to be compared with.
    return Word.GOOD if ranks.place.nodes > 2 else Word.UNJUDGED


def _measure(ranks: Ranks, found: Numbers, reached: float, word: Word) -> None:
    """The rate of the slowest direction with the best partner."""
    own = [trial for trial in trials(found["paths"]) if ranks.place.node_rank in trial.nodes]
    best = max(own, key=lambda trial: trial.rate)
    ranks.first.measure(
        "node_to_node",
        best.rate,
        "GB/s",
        ci95=best.interval,
        peer_median=reached if ranks.place.nodes > 2 else None,
        judgement=word.value,
        nodes=ranks.nodes,
    )


def _report(ranks: Ranks, found: Sequence[Culprit], reached: float, limits: Limits, *, is_low: bool) -> NoReturn:
    __tracebackhide__ = True
    hosts = list(dict.fromkeys(host for culprit in found for host in culprit.hosts))
    is_node = all(culprit.is_node for culprit in found)
    look = "adapters and cables of that node" if is_node else "switches and cables between them"
    fail(
        f"{'; '.join(culprit.text for culprit in found)}. The nodes of this job reach {reached:.3g} GB/s",
        why="every step of a training on several nodes waits for the slowest path between two of them",
        fix=[
            leaving_out(ranks.place, hosts),
            f"look at the {look}: $ ethtool -S <interface> ; ibstat ; nvidia-smi nvlink -e",
        ],
        action=_action(ranks, is_node and is_low),
        severity=None if is_low else "warning",
        blames=() if ranks.place.host in hosts else hosts,
    )


def _action(ranks: Ranks, is_node: bool) -> Action:
    # No GPU took part in a rehearsal, and a path belongs to no node.
    return Action.REPLACE_NODE if is_node and not ranks.is_rehearsal else Action.FIX_SOFTWARE
