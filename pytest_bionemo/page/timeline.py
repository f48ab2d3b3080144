"""Numbers over the runs of a machine: SVG made from numbers alone, as :mod:`pytest_bionemo.page.drawing` makes it.

Runs stand at equal distances, in their order: those of one afternoon can be told apart beside those of a year. A band
shows what is within the limits of the first run, a dotted line where the software changed.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from pytest_bionemo.page.shell import number, shown

if TYPE_CHECKING:
    from markupsafe import Markup

HEIGHT = 132
_TOP, _BOTTOM = 12, 22
_INSIDE = (2.0, 98.0)
# At least so much of the middle is shown to either side: noise of a percent is to look like one.
_LEAST = 0.15
_SINGLE = 2  # of so many devices the intervals are drawn, of more they would cover each other


@dataclass(frozen=True)
class Moment:
    """One run: what it is called, when it began, and what became another with it ("driver 580.95.05", ...)."""

    name: str
    when: str
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Point:
    """One number of a device in the run of this place. ``word`` compares it with the device's number before."""

    run: int
    value: float
    ends: tuple[float, float]
    word: str = ""


@dataclass(frozen=True)
class Course:
    """One quantity over the runs, by device.

    ``limit`` is the share of a number below which another is no longer as good: 0.9. ``word`` is what became of the
    newest numbers: the worst that is said of one of them, "" if there is nothing to say.
    """

    name: str
    unit: str
    devices: Mapping[str, Sequence[Point]]
    limit: float
    word: str = ""

    @property
    def title(self) -> str:
        """'matmul bf16'."""
        return self.name.replace("_", " ")

    @property
    def points(self) -> list[Point]:
        """Those of all devices."""
        return [point for points in self.devices.values() for point in points]

    @property
    def newest(self) -> list[Point]:
        """The last number of each device."""
        return [points[-1] for points in self.devices.values()]

    @property
    def said(self) -> str:
        """The newest numbers: '610.1 to 612.3 TFLOP/s'."""
        values = sorted(point.value for point in self.newest)
        low, high = number(values[0], self.unit), number(values[-1], self.unit)
        return low if low == high else f"{low} to {high}"


@dataclass(frozen=True)
class _Frame:
    """From which to which value a drawing goes, and how many runs there are."""

    low: float
    high: float
    runs: int

    @classmethod
    def around(cls, course: Course, runs: int) -> _Frame:
        values = [value for point in course.points for value in (point.value, *_drawn_ends(course, point))]
        middle = sorted(values)[len(values) // 2]
        low, high = min(*values, middle * (1 - _LEAST)), max(*values, middle * (1 + _LEAST))
        room = (high - low) * 0.06
        return cls(low - room, high + room, runs)

    def x(self, run: int) -> str:
        """In per cent of the width."""
        left, right = _INSIDE
        return f"{left + (right - left) * (run / (self.runs - 1) if self.runs > 1 else 0.5):.4g}%"

    def y(self, value: float) -> float:
        """In pixels from above; at the edge if it is off it."""
        share = (value - self.low) / (self.high - self.low)
        return round(HEIGHT - _BOTTOM - min(max(share, 0.0), 1.0) * (HEIGHT - _TOP - _BOTTOM), 1)


def draw(course: Course, moments: Sequence[Moment]) -> Markup:
    """The drawing of one quantity. Its text alternative says what became of it; the page has a table too."""
    from markupsafe import Markup

    inside = "".join(parts(course, moments))
    label = escape(_say(course, moments), quote=True)
    return Markup(  # noqa: S704 - numbers and escaped texts
        f'<svg class="course" role="img" height="{HEIGHT}" aria-label="{label}">{inside}</svg>'
    )


def parts(course: Course, moments: Sequence[Moment]) -> Iterator[str]:
    """What is inside of the drawing, which is ``HEIGHT`` high and takes any width."""
    frame = _Frame.around(course, len(moments))
    yield from _band(course, frame)
    yield from _scale(course, frame)
    yield from _changes(moments, frame)
    yield from _dates(moments, frame)
    for device, points in course.devices.items():
        yield from _line(course, device, points, moments, frame)
    yield from _names(course, frame)


def _say(course: Course, moments: Sequence[Moment]) -> str:
    worse = [f"{device} worse in {moments[point.run].name}" for device, point in _worse(course)]
    said = ", ".join(worse) if worse else "never worse than in the run before"
    return shown(f"{course.title} over {len(moments)} runs: {course.said} in the newest; {said}", 400)


def _worse(course: Course) -> Iterator[tuple[str, Point]]:
    for device, points in course.devices.items():
        yield from ((device, point) for point in points if point.word == "worse")


def _band(course: Course, frame: _Frame) -> Iterator[str]:
    """What is as good as the first number of each device: of all of them, the widest."""
    first = [points[0].value for points in course.devices.values()]
    top, bottom = frame.y(max(first) / course.limit), frame.y(min(first) * course.limit)
    yield f'<rect class="band" x="0" width="100%" y="{top}" height="{max(1.0, round(bottom - top, 1))}"/>'


def _scale(course: Course, frame: _Frame) -> Iterator[str]:
    for value in _ticks(frame.low, frame.high):
        y = frame.y(value)
        yield f'<line class="g" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
        yield f'<text class="v" x="0" y="{y + 4}" dx="-6">{escape(number(value, course.unit))}</text>'


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    return [step * place for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _changes(moments: Sequence[Moment], frame: _Frame) -> Iterator[str]:
    for place, moment in enumerate(moments):
        if moment.changed:
            said = escape(shown(f"{moment.name}: {', '.join(moment.changed)}", 300))
            x = frame.x(place)
            yield f'<line class="change" x1="{x}" x2="{x}" y1="{_TOP - 6}" y2="{HEIGHT - _BOTTOM}">'
            yield f"<title>{said}</title></line>"


def _dates(moments: Sequence[Moment], frame: _Frame) -> Iterator[str]:
    last = len(moments) - 1
    for place in dict.fromkeys((0, last)):
        anchor = "middle" if last == 0 else "start" if place == 0 else "end"
        text = escape(shown(moments[place].when, 20))
        yield f'<text class="{anchor}" x="{frame.x(place)}" y="{HEIGHT - 6}">{text}</text>'


def _line(
    course: Course, device: str, points: Sequence[Point], moments: Sequence[Moment], frame: _Frame
) -> Iterator[str]:
    for before, after in itertools.pairwise(points):
        yield (
            f'<line class="l" x1="{frame.x(before.run)}" y1="{frame.y(before.value)}" '
            f'x2="{frame.x(after.run)}" y2="{frame.y(after.value)}"/>'
        )
    for point in points:
        x, y = frame.x(point.run), frame.y(point.value)
        if ends := _drawn_ends(course, point):
            low, high = map(frame.y, ends)
            yield f'<line class="ci" x1="{x}" x2="{x}" y1="{low}" y2="{high}"/>'
        said = f"{device} {number(point.value, course.unit)}, {moments[point.run].name} of {moments[point.run].when}"
        yield from _mark(x, y, point.word, escape(shown(f"{said}{f': {point.word}' if point.word else ''}", 300)))


def _names(course: Course, frame: _Frame) -> Iterator[str]:
    """Beside the marks of what is worse. Names of many devices would lie on each other: there are so many."""
    by_run: dict[int, list[tuple[str, float]]] = {}
    for device, point in _worse(course):
        by_run.setdefault(point.run, []).append((device, point.value))
    for run, found in by_run.items():
        name = shown(found[0][0], 20) if len(found) == 1 else f"{len(found)} devices"
        y = frame.y(statistics.median(value for _, value in found)) + 4
        anchor, aside = ("end", -10) if run > frame.runs / 2 else ("start", 10)
        yield f'<text class="{anchor}" x="{frame.x(run)}" y="{y:g}" dx="{aside}">{escape(name)}</text>'


def _mark(x: str, y: float, word: str, said: str) -> Iterator[str]:
    """A dot; a square on its corner where it is worse, a ring where it is better: no colour alone tells."""
    if word == "worse":
        yield f'<svg class="mark" x="{x}" y="{y}"><path class="bad" d="M0 -6L6 0L0 6L-6 0Z">'
        yield f"<title>{said}</title></path></svg>"
    else:
        kind, size = ("up", 4.5) if word == "better" else ("dot", 2.6)
        yield f'<circle class="{kind}" cx="{x}" cy="{y}" r="{size}"><title>{said}</title></circle>'


def _drawn_ends(course: Course, point: Point) -> tuple[float, float] | tuple[()]:
    return point.ends if len(course.devices) <= _SINGLE else ()
