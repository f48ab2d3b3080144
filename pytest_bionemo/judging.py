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
class PeerLimits:
    """Shares of what peers do below which a device is degraded, and low."""

    degraded: float
    low: float


NODE = PeerLimits(0.90, 0.80)
"""Of the median of the other devices, from three on: twice the spread within a healthy node, and as far again."""

FEW = PeerLimits(0.80, 0.67)
"""Of the best of one or two others: that one may itself be above the middle, and there is no telling."""

REHEARSAL = PeerLimits(0.50, 0.50)
"""Pretend devices share the cores of one processor, and get of them what its scheduler gives."""

_FEW = 2


class Word(str, Enum):
    """How good a number is, worst first."""

    UNTRUSTED = "untrusted"
    LOW = "low"
    DEGRADED = "degraded"
    UNCALIBRATED = "uncalibrated"
    UNJUDGED = "unjudged"
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
    """What the value is compared with, and the shares of it below which it is degraded and low."""

    name: str
    value: float
    degraded: float
    low: float
    lowest_word: Word = Word.LOW

    def word(self, value: float) -> Word:
        share = value / self.value
        if share < self.low:
            return self.lowest_word
        return Word.DEGRADED if share < self.degraded else Word.GOOD


def judge(
    value: float,
    *,
    ci95: Sequence[float] | None = None,
    higher_is_better: bool = True,
    bound: float | None = None,
    reference: float | None = None,
    is_calibrated: bool = True,
    peers: Sequence[float] = (),
    peer_limits: PeerLimits | None = None,
    baseline: float | None = None,
) -> Judgement:
    """Compare a number with its rulers; the worst word counts.

    - ``untrusted``: better than ``BEYOND_PHYSICS`` times the bound, or no positive number at all;
    - ``low``, ``degraded``: worse than the shares of a ruler that are named above, with the better end of the
      confidence interval;
    - ``uncalibrated``: good, but by a reference that was derived and not measured. Such a reference calls nothing
      low: below ``LOW`` of it is ``degraded``;
    - ``unjudged``: there is neither a reference nor a peer nor a baseline; the bound alone calls nothing good;
    - ``good``.

    ``borderline`` says that the two ends of the interval would be given different words.

    :param value: what was measured.
    :param ci95: its 95 % confidence interval, lower end first.
    :param higher_is_better: False for durations: then all rulers are durations, the bound the shortest possible.
    :param bound: what the device can physically do.
    :param reference: what a healthy device of its kind does.
    :param is_calibrated: whether somebody measured the reference on this model.
    :param peers: what the other devices of this kind on the same machine do.
    :param peer_limits: ``NODE`` from three peers on, else ``FEW``, unless given.
    :param baseline: what this device did before; held to the limits of ``NODE``.
    """
    if not (math.isfinite(value) and value > 0):
        return Judgement(Word.UNTRUSTED, f"{value!r} is no measurement")
    rulers = _rulers(
        reference=_rate(reference, higher_is_better),
        is_calibrated=is_calibrated,
        peers=[rate for peer in peers if (rate := _rate(peer, higher_is_better))],
        peer_limits=peer_limits,
        baseline=_rate(baseline, higher_is_better),
    )
    best_possible = _rate(bound, higher_is_better)
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
    order = list(Word)
    decisive = min(rulers, key=lambda ruler: (order.index(ruler.word(better)), rate / ruler.value))
    word = decisive.word(better)
    if word is Word.GOOD and not any(ruler.lowest_word is Word.LOW for ruler in rulers):
        word = Word.UNCALIBRATED
    is_borderline = any(ruler.word(worse) is not ruler.word(better) for ruler in rulers)
    return Judgement(word, f"{rate / decisive.value:.2f} x {decisive.name}", is_borderline, peer_median)


def _rate(value: float | None, higher_is_better: bool) -> float | None:
    """As a rate, of which more is better; None where there is no such ruler."""
    if not value:
        return None
    return value if higher_is_better else 1 / value


def _rulers(
    *,
    reference: float | None,
    is_calibrated: bool,
    peers: Sequence[float],
    peer_limits: PeerLimits | None,
    baseline: float | None,
) -> list[_Ruler]:
    found = []
    if reference:
        found.append(
            _Ruler("the reference", reference, DEGRADED, LOW)
            if is_calibrated
            else _Ruler("what its architecture should reach (uncalibrated)", reference, LOW, LOW, Word.DEGRADED)
        )
    if len(peers) > _FEW:
        limits = peer_limits or NODE
        name = f"the median of the {len(peers)} other devices"
        found.append(_Ruler(name, statistics.median(peers), limits.degraded, limits.low))
    elif peers:
        limits = peer_limits or FEW
        found.append(_Ruler("the best other device", max(peers), limits.degraded, limits.low))
    if baseline:
        found.append(_Ruler("its own earlier value", baseline, NODE.degraded, NODE.low))
    return found
