"""Is this number good, for this device? Its rulers: the physical bound, a reference, its peers, its own past.

Pure: numbers in, one word and its reason out. What is decided on is the confidence interval, its better end: a device
is not called slow for a measurement that is merely uncertain. Where the thresholds come from is said beside them;
what other validators use is between 0.75 of one measurement and 0.90 of the best GPU of the node.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

BEYOND_PHYSICS = 1.03
"""Above this share of the physical bound the measurement is broken; 3 % is for bounds that are rounded."""

LOW = 0.80
"""Below this share of the reference a device is too slow to train on: others warn at 0.75 to 0.90 of theirs, healthy
GPUs of one node differ by 5 % and more (stas00), and sources for one GPU by up to 19 %."""

DEGRADED = 0.92
"""Below this share of the reference it is slower than it should be."""


@dataclass(frozen=True)
class Limits:
    """Shares of a ruler below which a device is degraded, and low."""

    degraded: float
    low: float

    def of(self, share: float) -> Limits:
        """The same for a device that has this share of what the ruler is for."""
        return Limits(self.degraded * share, self.low * share)


CALIBRATED = Limits(DEGRADED, LOW)
"""Of a reference that somebody measured on this model."""

UNCALIBRATED = Limits(LOW, LOW / 2)
"""Of one that was derived: it may be off by as much as models of one architecture differ, and not by half."""

PRODUCTS = Limits(0.40, 0.25)
"""Of the physical bound of matrix products. On record are 0.63 and more of it. Cards that are short of power stay
below (an L4 of 72 W seldom exceeds 0.6), but not below their base clock, which is 0.37 (T4) of the highest or more,
and libraries reach 0.7 of what that allows. A clock that is pinned low, 210 of 1695 MHz, leaves 0.12."""

MEMORY = Limits(0.50, 0.25)
"""Of the physical bound of memory: 0.61 is the least on record, of which this is ``UNCALIBRATED``."""

LINK = Limits(0.30, 0.10)
"""Of the bound of the link to the host, which is that of the GPU and 16 lanes: a host of the generation before leaves
0.4 of it, 8 lanes as much. One lane leaves 0.06."""

NVLINK = Limits(0.40, 0.20)
"""Of the bound of NVLink, by the bus bandwidth of collectives: healthy nodes reach 228 of 300 GB/s (A100) and, with
sums that are formed in the switch, 460 of 787 (H100; Azure's floors for its virtual machines). PCIe leaves 0.1."""

NODE = Limits(0.90, 0.80)
"""Of the median of the other devices, from three on: twice the spread within a healthy node, and as far again."""

FEW = Limits(0.80, 0.67)
"""Of the best of one or two others: that one may itself be above the middle, and there is no telling."""

REHEARSAL = Limits(0.50, 0.50)
"""Pretend devices share the cores of one processor, and get of them what its scheduler gives."""

REHEARSED_BEFORE = Limits(0.20, 0.20)
"""Of an earlier rehearsal: from one to the next whatever else the processor does is another, too."""

PRETENDED_PAIRS = Limits(0.10, 0.10)
"""Of pretend devices the one of a pair may wait for its core while the other sends."""

_FEW = 2


class Word(str, Enum):
    """How good a number is, worst first."""

    UNTRUSTED = "untrusted"
    LOW = "low"
    DEGRADED = "degraded"
    UNJUDGED = "unjudged"
    UNCALIBRATED = "uncalibrated"
    GOOD = "good"


@dataclass(frozen=True)
class Judgement:
    """The word; the ruler that decided, as a phrase; and whether a second measurement could change the word."""

    word: Word
    because: str
    borderline: bool = False
    peer_median: float | None = None


@dataclass(frozen=True)
class _Ruler:
    """What the value is compared with, its limits, and the best that it can say of a device."""

    name: str
    value: float
    limits: Limits
    best_word: Word = Word.GOOD
    alike_from: float = math.inf  # from here on the value and the ruler cannot be told apart

    def word(self, value: float) -> Word:
        if value >= self.alike_from:
            return self.best_word
        share = value / self.value
        if share < self.limits.low:
            return Word.LOW
        return Word.DEGRADED if share < self.limits.degraded else self.best_word


def judge(
    value: float,
    *,
    ci95: Sequence[float] | None = None,
    higher_is_better: bool = True,
    bound: float | None = None,
    bound_limits: Limits | None = None,
    reference: float | None = None,
    is_calibrated: bool = True,
    peers: Sequence[float] = (),
    peer_limits: Limits | None = None,
    baseline: float | None = None,
    baseline_ci95: Sequence[float] | None = None,
    baseline_limits: Limits | None = None,
) -> Judgement:
    """Compare a number with its rulers; the worst word counts.

    - ``untrusted``: better than ``BEYOND_PHYSICS`` times the bound, or no positive number at all;
    - ``low``, ``degraded``: worse than the shares of a ruler that are named above, with the better end of the
      confidence interval;
    - ``uncalibrated``: good, but by a reference that was derived and not measured (its limits: ``UNCALIBRATED``);
    - ``unjudged``: there is neither a reference nor a peer nor a baseline; the bound alone calls nothing good;
    - ``good``.

    ``borderline`` says that the two ends of the interval would be given different words.

    :param value: what was measured.
    :param ci95: its 95 % confidence interval, lower end first.
    :param higher_is_better: False for durations: then all rulers are durations, the bound the shortest possible.
    :param bound: what the device can physically do.
    :param bound_limits: shares of the bound that a healthy device reaches, whatever its model; None where the bound
        is too far away to say.
    :param reference: what a healthy device of its kind does.
    :param is_calibrated: whether somebody measured the reference on this model.
    :param peers: what the other devices of this kind on the same machine do.
    :param peer_limits: ``NODE`` from three peers on, else ``FEW``, unless given.
    :param baseline: what this device did before.
    :param baseline_ci95: its confidence interval: only what lies apart from it is worse.
    :param baseline_limits: ``NODE`` unless given.
    """
    if not (math.isfinite(value) and value > 0):
        return Judgement(Word.UNTRUSTED, f"{value!r} is no measurement")
    best_possible = _rate(bound, higher_is_better)
    rulers = _rulers(
        bound=best_possible,
        bound_limits=bound_limits,
        reference=_rate(reference, higher_is_better),
        is_calibrated=is_calibrated,
        peers=[rate for peer in peers if (rate := _rate(peer, higher_is_better))],
        peer_limits=peer_limits,
        baseline=_rate(baseline, higher_is_better),
        baseline_from=_worse_end(baseline_ci95, higher_is_better),
        baseline_limits=baseline_limits,
    )
    rate = value if higher_is_better else 1 / value
    peer_median = statistics.median(peers) if peers else None
    if best_possible is not None and rate > BEYOND_PHYSICS * best_possible:
        return Judgement(Word.UNTRUSTED, f"{rate / best_possible:.4g} x the physical bound", peer_median=peer_median)
    if not rulers:
        return Judgement(Word.UNJUDGED, "no reference, no peer, no baseline")
    ends = ci95 or (value, value)
    worse, better = ends if higher_is_better else (1 / ends[1], 1 / ends[0])
    return _judge_rate(rate, worse, better, rulers, peer_median)


def _judge_rate(
    rate: float, worse: float, better: float, rulers: Sequence[_Ruler], peer_median: float | None
) -> Judgement:
    """The worst word of those rulers that find fault, else the word of the ruler that knows most."""
    order = list(Word)
    faulting = [ruler for ruler in rulers if ruler.word(better) is not ruler.best_word]
    decisive = min(
        faulting or rulers,
        key=lambda ruler: (
            order.index(ruler.word(better)) if faulting else 0,
            -order.index(ruler.best_word),
            rate / ruler.value,
        ),
    )
    is_borderline = any(ruler.word(worse) is not ruler.word(better) for ruler in rulers)
    because = f"{rate / decisive.value:.2f} x {decisive.name}"
    return Judgement(decisive.word(better), because, is_borderline, peer_median)


def _rate(value: float | None, higher_is_better: bool) -> float | None:
    """As a rate, of which more is better; None where there is no such ruler."""
    if not value:
        return None
    return value if higher_is_better else 1 / value


def _worse_end(ci95: Sequence[float] | None, higher_is_better: bool) -> float:
    """Of an interval, as a rate; beyond everything where there is none."""
    if not ci95 or not all(end > 0 for end in ci95):
        return math.inf
    return ci95[0] if higher_is_better else 1 / ci95[1]


def _rulers(
    *,
    bound: float | None,
    bound_limits: Limits | None,
    reference: float | None,
    is_calibrated: bool,
    peers: Sequence[float],
    peer_limits: Limits | None,
    baseline: float | None,
    baseline_from: float,
    baseline_limits: Limits | None,
) -> list[_Ruler]:
    found = []
    if bound and bound_limits:
        found.append(_Ruler("its physical bound", bound, bound_limits, Word.UNJUDGED))
    if reference and is_calibrated:
        found.append(_Ruler("the reference", reference, CALIBRATED))
    elif reference:
        name = "what its architecture should reach (uncalibrated)"
        found.append(_Ruler(name, reference, UNCALIBRATED, Word.UNCALIBRATED))
    if len(peers) > _FEW:
        name = f"the median of the {len(peers)} other devices"
        found.append(_Ruler(name, statistics.median(peers), peer_limits or NODE))
    elif peers:
        found.append(_Ruler("the best other device", max(peers), peer_limits or FEW))
    if baseline:
        found.append(_Ruler("its own earlier value", baseline, baseline_limits or NODE, alike_from=baseline_from))
    return found
