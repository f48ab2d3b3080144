"""How far values of healthy devices lie apart, told from values of which some are not healthy. Pure.

Deviations are in the logarithm, so that 5 % slower is as much of a rate as of a duration, and positive where slow.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# The half of a normal distribution that is on one side, up to these shares: how many standard deviations that is.
_QUANTILES = {
    share: statistics.NormalDist().inv_cdf((1 + share) / 2) for share in (0.5, 0.75, 0.9, 0.97, 0.99, 0.997)
}
_MEDIAN_DEVIATION = _QUANTILES[0.5]
# So many values have to lie beyond a quantile: one of them alone may be a slip of the clock.
_BEYOND = 3
_LEAST_SPREAD = 1e-4
_EFFICIENCY = 0.37
"""Of the median absolute deviation: it knows as much as a standard deviation of this share of the values."""
_MANY = 200
_OUTERMOST = 0.1
_FEWEST_OUTER = 10
_ALIKE = 1e-12
_EXPONENTIAL = 1e-6
_HEAVIEST = 0.9


@dataclass(frozen=True)
class Outer:
    """How the far-off values thin out, by the generalised Pareto distribution: timings have more of them than normal.

    The share ``rarity`` of all values is further out than ``begin`` deviations on one side. ``scale`` is how much
    further they are, and ``shape`` how heavy the tail is: 0 thins exponentially, 1/4 with the fourth power.
    """

    begin: float
    rarity: float
    scale: float
    shape: float

    def beyond(self, distance: float) -> float:
        """The probability of a value beyond this distance; 0 for what is not far off."""
        further = (distance - self.begin) / self.scale
        if further <= 0:
            return 0.0
        if self.shape < _EXPONENTIAL:
            return self.rarity * math.exp(-further)
        return self.rarity * float((1 + self.shape * further) ** (-1 / self.shape))


@dataclass(frozen=True)
class Spread:
    """The middle of the values, as a logarithm, and one standard deviation of the healthy ones.

    ``freedom`` is how many degrees of freedom the deviation is worth; ``outer`` is what is known of the far-off
    values, None where they are too few.
    """

    middle: float
    deviation: float
    freedom: int
    outer: Outer | None = None

    def confidence(self, distance: float, numbers: float) -> float:
        """How sure it is that a value so many deviations on the slow side is not one of the healthy ones.

        :param numbers: how many values its node has: the more, the more often one of a healthy node is so far out.
        :return: 1 less the probability that a healthy node has any such value, 0 at least.
        """
        chance = tail(distance, self.freedom)
        if self.outer is not None:
            chance = max(chance, self.outer.beyond(distance))
        return max(0.0, 1.0 - numbers * chance)

    def distance_of(self, confidence: float, numbers: float) -> float:
        """How many deviations it takes to be so sure."""
        low, high = 0.0, 1e6
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.confidence(middle, numbers) < confidence else (low, middle)
        return high


def estimate(logs: Sequence[float]) -> Spread:
    """The spread of the healthy among these logarithms of durations (or of rates, negative).

    Slow devices must not widen it, and neither must a heavy tail of healthy ones be taken for slow devices. So the
    slow side counts up to its median alone, and the other side, where no device is for being slow, with its tail, as
    far as there are values: the widest of these is taken.
    """
    middle = statistics.median(logs)
    fast = sorted(middle - value for value in logs if value <= middle)
    slow = sorted(value - middle for value in logs if value >= middle)
    widths = [statistics.median(slow) / _MEDIAN_DEVIATION]
    for share, deviations in _QUANTILES.items():
        position = math.ceil(share * len(fast)) - 1
        if share == 0.5 or len(fast) - 1 - position >= _BEYOND:
            widths.append(fast[position] / deviations)
    freedom = max(1, int(_EFFICIENCY * (len(logs) - 1)))
    deviation = max(*widths, _LEAST_SPREAD)
    return Spread(middle, deviation, freedom, _outer([value / deviation for value in fast]))


def _outer(fast: Sequence[float]) -> Outer | None:
    """What the outermost tenth says of the tail, to the safe side.

    The shape is the moment estimate of Dekkers, Einmahl and de Haan (Annals of Statistics 17, 1989, 1833) and one
    standard error of it.
    """
    number = int(len(fast) * _OUTERMOST)
    if number < _FEWEST_OUTER or fast[-number - 1] <= 0:
        return None
    begin, outermost = fast[-number - 1], fast[-number:]
    first = statistics.fmean(math.log(value / begin) for value in outermost)
    second = statistics.fmean(math.log(value / begin) ** 2 for value in outermost)
    if second - first**2 < _ALIKE:
        return None
    estimated = first + 1 - 0.5 / (1 - first**2 / second)
    shape = min(_HEAVIEST, max(0.0, estimated + math.sqrt((1 + estimated**2) / number)))
    # Half of all values are on this side.
    return Outer(begin, number / len(fast) / 2, (statistics.fmean(outermost) - begin) * (1 - shape), shape)


def tail(distance: float, freedom: int) -> float:
    """The probability that Student's t of so many degrees of freedom is beyond this distance.

    By the closed form for an even number of degrees (Abramowitz and Stegun, 26.7.4), to which an odd one is rounded
    down; the normal distribution from 200 on. No smaller than 1e-12: that is where rounding begins.
    """
    if distance <= 0:
        return 0.5
    if freedom >= _MANY:
        return max(1e-12, math.erfc(distance / math.sqrt(2)) / 2)
    even = max(2, freedom - freedom % 2)
    angle = math.atan(distance / math.sqrt(even))
    term = total = 1.0
    for position in range(1, even // 2):
        term *= (2 * position - 1) / (2 * position) * math.cos(angle) ** 2
        total += term
    return max(1e-12, (1 - math.sin(angle) * total) / 2)
