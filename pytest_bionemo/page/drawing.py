"""Drawings of numbers: SVG made from numbers alone, so that it needs no escape but that of its few texts.

Places along an axis are per cent of the width: a drawing takes whatever width the page gives it, and its marks and
letters keep their size. Colours come from the page's classes: a drawing follows it into the dark and onto paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from pytest_bionemo.page.numbers import RULERS, Number, Quantity
from pytest_bionemo.page.shell import number, shown
from pytest_bionemo.report.terminal import PREFIXED

if TYPE_CHECKING:
    from markupsafe import Markup

_LANE, _TOP, _BOTTOM = 13, 10, 20
_WIDE = 30.0
"""The ratio of the largest to the smallest number from which on an axis is logarithmic."""
_TICKS = 4
LANES_AT_MOST = 64
# The shape of a mark by what was said of the number: a colour alone says nothing to many.
_MARK_OF = {"untrusted": "bad", "low": "bad", "degraded": "warn"}


@dataclass(frozen=True)
class Axis:
    """What a drawing shows, from ``low`` to ``high``, in equal steps or in equal ratios."""

    low: float
    high: float
    is_logarithmic: bool

    @classmethod
    def over(cls, values: Sequence[float]) -> Axis:
        """An axis for these values: from 0 on, unless they differ too much to be told apart there."""
        positive = [value for value in values if value > 0]
        if positive and len(positive) == len(values) and max(positive) / min(positive) > _WIDE:
            return cls(min(positive) / 1.5, max(positive) * 1.5, True)
        low, high = min(0.0, *values), max(0.0, *values)
        room = (high - low) * 0.06 or 1.0
        return cls(low - (room if low < 0 else 0), high + room, False)

    def place(self, value: float) -> float:
        """Where a value lies, in per cent of the width; at the edge if it is off it."""
        if self.is_logarithmic:
            if value <= 0:
                return 0.0
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return 100 * min(max(share, 0.0), 1.0)

    def ticks(self) -> list[float]:
        """A few round values."""
        return self._powers() if self.is_logarithmic else self._steps()

    def _steps(self) -> list[float]:
        rough = (self.high - self.low) / _TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
        first = math.ceil(self.low / step)
        return [step * place for place in range(first, math.floor(self.high / step) + 1)]

    def _powers(self) -> list[float]:
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        apart = max(1, math.ceil((last - first + 1) / (_TICKS + 1)))
        return [10.0**power for power in range(first, last + 1, apart)]


def strip(quantity: Quantity) -> Markup:
    """One axis with a lane for each device: its value, its interval and its rulers.

    Its text alternative says the range and the rulers; the page has every number in a table too.
    """
    from markupsafe import Markup

    drawn = [one for one in quantity.numbers if one.value is not None][:LANES_AT_MOST]
    axis = Axis.over([value for one in drawn for value in _values(one)])
    height = _TOP + _LANE * len(drawn) + _BOTTOM
    parts = [
        f'<svg class="strip" role="img" height="{height}" aria-label="{escape(_say(quantity, axis))}">',
        *_grid(axis, quantity.unit, height - _BOTTOM),
        *_shared_rulers(drawn, axis, height - _BOTTOM),
        *(part for lane, one in enumerate(drawn) for part in _lane(one, drawn, axis, lane)),
        "</svg>",
    ]
    return Markup("".join(parts))  # noqa: S704 - numbers and escaped texts


def _values(one: Number) -> Iterator[float]:
    yield one.value or 0.0
    yield from one.interval or ()
    yield from one.rulers.values()


def _say(quantity: Quantity, axis: Axis) -> str:
    devices = f"{len(quantity.numbers)} devices" if len(quantity.numbers) > 1 else quantity.numbers[0].device or "one"
    rulers = ", ".join(f"{word} {value}" for _, word, value, _ in quantity.legend)
    scale = "logarithmic" if axis.is_logarithmic else "linear"
    return shown(f"{quantity.title} on {devices}: {quantity.shown}; {rulers}; {scale} axis", 400)


def _grid(axis: Axis, unit: str, bottom: int) -> Iterator[str]:
    for tick in axis.ticks():
        at = _percent(axis.place(tick))
        label = number(tick, unit if unit in PREFIXED else "1")
        yield f'<line class="g" x1="{at}" x2="{at}" y1="{_TOP - 4}" y2="{bottom}"/>'
        yield f'<text class="t" x="{at}" y="{bottom + 14}">{escape(label)}</text>'


def _shared_rulers(numbers: Iterable[Number], axis: Axis, bottom: int) -> Iterator[str]:
    for field in RULERS:
        value = _shared(numbers, field)
        if value is not None:
            at = _percent(axis.place(value))
            yield f'<line class="r {field}" x1="{at}" x2="{at}" y1="{_TOP - 4}" y2="{bottom}"/>'
            yield _mark(field, at, _TOP - 5)


def _shared(numbers: Iterable[Number], field: str) -> float | None:
    """The ruler of all devices, if they have one."""
    values = {one.rulers.get(field) for one in numbers}
    return values.pop() if len(values) == 1 else None


def _lane(one: Number, numbers: Sequence[Number], axis: Axis, lane: int) -> Iterator[str]:
    y = _TOP + _LANE * lane + _LANE // 2
    yield f'<text class="d" x="0" y="{y + 4}" dx="-8">{escape(shown(one.device, 12))}</text>'
    for field, value in one.rulers.items():
        if _shared(numbers, field) is None:
            yield _mark(field, _percent(axis.place(value)), y)
    if one.interval:
        low, high = (_percent(axis.place(end)) for end in one.interval)
        yield f'<line class="ci" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
    yield _mark(_MARK_OF.get(one.judgement, "value"), _percent(axis.place(one.value or 0.0)), y)


def _mark(kind: str, at: str, y: int) -> str:
    return f'<use href="#k-{kind}" x="{at}" y="{y}"/>'


def _percent(place: float) -> str:
    return f"{place:.4g}%"
