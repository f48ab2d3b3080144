"""Two runs, number by number: better, same, worse, or cannot tell.

The same judgement as within a run (:func:`pytest_bionemo.judging.judge`): worse is what lies apart from the earlier
interval and beyond the limits of a healthy device. What may lie on both sides of a limit is not told.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from pytest_bionemo import judging
from pytest_bionemo.baseline import Circumstances, Key, interval, is_usual
from pytest_bionemo.fleet.node import is_compared
from pytest_bionemo.judging import Judgement, Limits, Word
from pytest_bionemo.model import Measurement
from pytest_bionemo.reports import Report

_SLOW = (Word.LOW, Word.DEGRADED)


class Change(str, Enum):
    """What became of a number, worst first."""

    WORSE = "worse"
    CANNOT_TELL = "cannot tell"
    SAME = "same"
    BETTER = "better"


@dataclass(frozen=True)
class Number:
    """One side of a comparison; ``ci95`` is None where the interval is not known."""

    value: float
    ci95: tuple[float, float] | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """The interval, lower end first; the value itself where there is none."""
        return self.ci95 or (self.value, self.value)


@dataclass(frozen=True)
class Compared:
    """One number before and after, in ``unit``.

    ``change`` is after / before - 1, and ``change_ci95`` its interval: what the two intervals leave possible.
    ``speed`` is how many times as fast it is now, of a duration too: below 1 is slower.
    """

    name: str
    unit: str
    device: str | None
    before: Number
    after: Number
    verdict: Change
    change: float
    change_ci95: tuple[float, float]
    speed: float

    def to_json(self) -> dict[str, Any]:
        """Plain builtins."""
        return {**asdict(self), "verdict": self.verdict.value}


@dataclass(frozen=True)
class Comparison:
    """Two runs: their numbers, worst first, and what was another besides.

    ``refused`` says why no number can be compared, "" if they can. ``missing`` are numbers of the first run (name and
    device) that the second has not, ``new`` the other way round.
    """

    numbers: tuple[Compared, ...]
    differences: tuple[str, ...]
    refused: str
    missing: tuple[tuple[str, str | None], ...] = ()
    new: tuple[tuple[str, str | None], ...] = ()

    @property
    def worse(self) -> tuple[Compared, ...]:
        """The regressions."""
        return tuple(number for number in self.numbers if number.verdict is Change.WORSE)

    def to_json(self) -> dict[str, Any]:
        """Plain builtins."""
        return {
            "refused": self.refused or None,
            "differences": list(self.differences),
            "numbers": [number.to_json() for number in self.numbers],
            "missing": [list(one) for one in self.missing],
            "new": [list(one) for one in self.new],
        }


def compare(before: Report, after: Report) -> Comparison:
    """The numbers of two runs whose unit says which end is the better one: rates, and durations in seconds."""
    then, now = (Circumstances.of(report.document["bionemo"]) for report in (before, after))
    if refused := then.why_not(now):
        return Comparison((), (), refused)
    limits = judging.REHEARSED_BEFORE if now.is_rehearsal else judging.NODE
    first, second = numbers_beside(now, before), numbers_beside(then, after)
    found = [_compared(key, first[key], second[key], limits) for key in first if key in second]
    order = list(Change)
    return Comparison(
        numbers=tuple(sorted(found, key=lambda one: (order.index(one.verdict), one.speed))),
        differences=tuple(then.differences(now)),
        refused="" if found else "they have no number in common",
        missing=tuple((name, device) for name, unit, device in first if (name, unit, device) not in second),
        new=tuple((name, device) for name, unit, device in second if (name, unit, device) not in first),
    )


def numbers_of(report: Report) -> dict[Key, Number]:
    """The numbers of a run that can be compared, by name, unit and device: not those that were beyond physics."""
    return {
        (entry.name, entry.unit, entry.device): Number(float(entry.value), interval(entry.ci95))
        for entry in report.measurements
        if entry.value is not None and _can_be_compared(entry)
    }


def numbers_beside(other: Circumstances, report: Report) -> dict[Key, Number]:
    """The numbers of a run that can be compared with those of a run in the other circumstances."""
    own = Circumstances.of(report.document["bionemo"])
    return (
        {}
        if own.why_not(other)
        else {
            (name, unit, device): number
            for (name, unit, device), number in numbers_of(report).items()
            if own.can_compare(name, device, other)
        }
    )


def _can_be_compared(entry: Measurement) -> bool:
    is_ours = entry.test is None and entry.judgement != Word.UNTRUSTED.value
    return is_ours and is_compared(entry.unit) and is_usual(entry.value)


def judge(unit: str, before: Number, after: Number, limits: Limits = judging.NODE) -> Change:
    """What became of a number.

    ::

        judge("GB/s", Number(100, (99, 101)), Number(80, (79, 81)))  # Change.WORSE
        judge("GB/s", Number(100, (99, 101)), Number(96, (95, 97)))  # Change.SAME: within 10 %
        judge("GB/s", Number(100, (60, 140)), Number(80, (50, 110)))  # Change.CANNOT_TELL
    """
    if _judged(unit, before, after, limits).word in _SLOW:
        return Change.WORSE
    if _judged(unit, after, before, limits).word in _SLOW:
        return Change.BETTER
    lower, upper = _ratios(before, after)
    return Change.SAME if limits.degraded <= lower and upper <= 1 / limits.degraded else Change.CANNOT_TELL


def _judged(unit: str, before: Number, after: Number, limits: Limits) -> Judgement:
    return judging.judge(
        after.value,
        ci95=after.ends,
        higher_is_better=unit != "s",
        baseline=before.value,
        baseline_ci95=before.ends,
        baseline_limits=limits,
    )


def _compared(key: Key, before: Number, after: Number, limits: Limits) -> Compared:
    name, unit, device = key
    ratio = after.value / before.value
    lower, upper = _ratios(before, after)
    return Compared(
        name=name,
        unit=unit,
        device=device,
        before=before,
        after=after,
        verdict=judge(unit, before, after, limits),
        change=ratio - 1,
        change_ci95=(lower - 1, upper - 1),
        speed=1 / ratio if unit == "s" else ratio,
    )


def _ratios(before: Number, after: Number) -> tuple[float, float]:
    """Of after to before, the least and the most that their intervals leave possible."""
    return after.ends[0] / before.ends[1], after.ends[1] / before.ends[0]
