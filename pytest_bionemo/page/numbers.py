"""The measurements of a report as a page shows them: by quantity, over all devices, each beside its rulers.

Pure: what is no finite number is None here, whatever the report has in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_bionemo.page.shell import number
from pytest_bionemo.page.values import finite

RULERS = {"bound": "the bound", "reference": "the reference", "peer_median": "its peers", "baseline": "before"}
"""The fields of a measurement, and what a page calls them."""
WORDS = ("untrusted", "low", "degraded", "unjudged", "uncalibrated", "good")
"""Of a judgement, worst first."""
_TO = "send_to_"
_MATRIX_AT_MOST = 64
_SEVERAL, _SMALL = 10, 0.1


@dataclass(frozen=True)
class Number:
    """One measurement. ``device`` is its short name (gpu0), ``rulers`` are those that exist, by their field."""

    device: str
    value: float | None
    unit: str
    interval: tuple[float, float] | None
    rulers: Mapping[str, float]
    samples: int | None
    judgement: str

    @property
    def shown(self) -> str:
        """With its unit: '612.3 TFLOP/s'."""
        return number(self.value, self.unit)

    @property
    def shown_interval(self) -> str:
        """The 95 % confidence interval; "" where there is none."""
        return _range(self.interval, self.unit) if self.interval else ""


@dataclass(frozen=True)
class Quantity:
    """All devices' measurements of one thing. ``test`` is the id of somebody's test that measured it."""

    name: str
    unit: str
    test: str
    numbers: tuple[Number, ...]

    @property
    def title(self) -> str:
        """'matmul bf16'."""
        return self.name.replace("_", " ")

    @property
    def judgement(self) -> str:
        """The worst word of all devices; "" if none was judged."""
        return min((one.judgement for one in self.numbers), key=rank)

    @property
    def concerned(self) -> str:
        """The devices with that word, where not all have it."""
        word = self.judgement
        named = [one.device for one in self.numbers if one.judgement == word]
        return ", ".join(named) if word and len(named) < len(self.numbers) else ""

    @property
    def has_ruler(self) -> bool:
        """Whether there is something to draw a number beside."""
        return any(one.rulers and one.value is not None for one in self.numbers)

    @property
    def shown(self) -> str:
        """'610.1 to 612.3 TFLOP/s'."""
        return _range([one.value for one in self.numbers if one.value is not None], self.unit)

    @property
    def legend(self) -> list[tuple[str, str, str, str]]:
        """Of each ruler its field, what it is called, its value, and what share of it was reached."""
        return [
            (field, word, _range(values, self.unit), _shares(self.numbers, field))
            for field, word in RULERS.items()
            if (values := [one.rulers[field] for one in self.numbers if field in one.rulers])
        ]


@dataclass(frozen=True)
class Matrix:
    """What each device sends to each other one: a row for each sender, None where it sends nothing."""

    devices: tuple[str, ...]
    unit: str
    rows: tuple[tuple[Number | None, ...], ...]

    @property
    def fastest(self) -> float:
        """The largest value; 0 where there is none."""
        return max((one.value or 0.0 for row in self.rows for one in row if one), default=0.0)

    def step(self, one: Number) -> int:
        """The colour of a cell: its share of the fastest, in tenths."""
        return round(10 * max(one.value or 0.0, 0.0) / self.fastest) if self.fastest else 0


def quantities(measurements: Iterable[Mapping[str, Any]], labels: Mapping[str, str]) -> list[Quantity]:
    """Group the measurements of a report, in its order.

    :param labels: the short names of the devices by what the report calls them.
    """
    found: dict[tuple[str, str, str], list[Number]] = {}
    for entry in measurements:
        # A test may call a number as a check does, or by the unit of another test.
        key = (str(entry["name"]), str(entry.get("unit") or "1"), str(entry.get("test") or "").partition("[")[0])
        found.setdefault(key, []).append(_number(entry, key[1], labels))
    return [Quantity(*key, tuple(numbers)) for key, numbers in found.items()]


def split(found: Sequence[Quantity]) -> tuple[list[Quantity], Matrix | None]:
    """Take out what devices send to each other, which is a matrix; None if none is there or it is too large."""
    sent = [one for one in found if _is_sent(one)]
    targets = [one.name.removeprefix(_TO) for one in sent]
    senders = [number.device for one in sent for number in one.numbers]
    devices = tuple(dict.fromkeys([*sorted({*senders, *targets}, key=_natural)]))
    if not 2 <= len(devices) <= _MATRIX_AT_MOST or len({one.unit for one in sent}) != 1:
        return list(found), None
    cells = {(number.device, one.name.removeprefix(_TO)): number for one in sent for number in one.numbers}
    rows = tuple(tuple(cells.get((source, target)) for target in devices) for source in devices)
    return [one for one in found if not _is_sent(one)], Matrix(devices, sent[0].unit, rows)


def _is_sent(quantity: Quantity) -> bool:
    return quantity.name.startswith(_TO) and not quantity.test


def _number(entry: Mapping[str, Any], unit: str, labels: Mapping[str, str]) -> Number:
    device = str(entry.get("device") or "")
    return Number(
        device=labels.get(device, device),
        value=finite(entry.get("value")),
        unit=unit,
        interval=_interval(entry.get("ci95")),
        rulers={field: value for field in RULERS if (value := finite(entry.get(field))) is not None},
        samples=entry.get("samples"),
        judgement=str(entry.get("judgement") or ""),
    )


def _interval(ends: object) -> tuple[float, float] | None:
    if not isinstance(ends, Sequence) or isinstance(ends, str) or len(ends) != 2:
        return None
    low, high = finite(ends[0]), finite(ends[1])
    return (low, high) if low is not None and high is not None else None


def rank(word: str) -> int:
    """The place of a judgement, worst first: a word that nobody knows is the worst, no word the best."""
    if not word:
        return len(WORDS)
    return WORDS.index(word) if word in WORDS else 0


def _natural(text: str) -> tuple[str, int, str]:
    head = text.rstrip("0123456789")
    digits = text[len(head) :][:9]
    return head, int(digits) if digits.isascii() and digits else -1, text


def _range(values: Sequence[float], unit: str) -> str:
    if not values:
        return "no number"
    lowest, highest = number(min(values), unit), number(max(values), unit)
    if lowest == highest:
        return lowest
    # The unit once, where both ends have the same.
    start, _, of_lowest = lowest.rpartition(" ")
    return f"{start if of_lowest == highest.rpartition(' ')[2] and start else lowest} to {highest}"


def _shares(numbers: Iterable[Number], field: str) -> str:
    shares = [
        one.value / one.rulers[field] for one in numbers if one.value is not None and one.rulers.get(field, 0) > 0
    ]
    ends = list(dict.fromkeys(map(_share, (min(shares), max(shares))))) if shares else []
    return " to ".join(ends) + (" of" if ends and ends[-1].endswith("%") else "")


def _share(share: float) -> str:
    """A whole number of percent, two digits of a small one; times where it is several times as much."""
    if share >= _SEVERAL:
        return f"{share:,.0f} x"
    return f"{share:.0%}" if share >= _SMALL else f"{100 * share:.2g}%"
