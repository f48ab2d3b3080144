"""History as lines of text: the runs of a machine, and two of them compared."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pytest_bionemo.history.compare import Change, Compared, Comparison, numbers_of
from pytest_bionemo.history.store import Stored
from pytest_bionemo.model import count, describe_gpus
from pytest_bionemo.report.terminal import show_number
from pytest_bionemo.reports import Report
from pytest_bionemo.showing import shown

_LABEL = 9
_LISTED_AT_MOST = 40
_NARROWEST_NAME, _LONGEST_NAME = 16, 48
_INDENT = "  "
_WIDE = 100  # columns from which on there is room for everything
_MANY, _SMALL, _NARROW = 9.0, 0.1, 0.01
_RUN = ("  run", "started", "level", "verdict", "driver", "torch", "numbers")
_LABELS = {Change.WORSE: "WORSE", Change.CANNOT_TELL: "unclear", Change.SAME: "same", Change.BETTER: "better"}


def runs(machine: str, found: Sequence[tuple[Stored, Report]], damaged: Iterable[str], width: int) -> Iterator[str]:
    """The runs of one machine, oldest first."""
    newest = found[-1][1] if found else None
    what = f": {_what(newest)}" if newest else ""
    yield from _wrapped(f"{machine}{what}", width)
    rows = [_RUN, *(_run(stored, report) for stored, report in found)] if found else []
    kept = [column for column in range(len(_RUN)) if width >= _WIDE or _RUN[column] not in ("torch", "numbers")]
    if rows:
        yield from _columns([[row[column] for column in kept] for row in rows], width)
    for line in damaged:
        yield from _labelled("skipped", line, width)


def _what(report: Report) -> str:
    if report.device == "cpu":
        return "rehearsals on the CPU"
    return shown(describe_gpus(report.gpus))


def _run(stored: Stored, report: Report) -> tuple[str, ...]:
    facts = report.environment
    return (
        f"{_INDENT}{stored.number:04d} {stored.name}",
        _when(report),
        shown(report.level),
        report.verdict,
        shown(facts.get("driver") or "none"),
        shown(facts.get("torch") or "none"),
        str(len(numbers_of(report))),
    )


def _when(report: Report) -> str:
    return shown(str(report.document["bionemo"].get("started", "")))[:16].replace("T", " ")


def comparison(
    found: Comparison, before: tuple[str, Report], after: tuple[str, Report], width: int, *, every: bool = False
) -> Iterator[str]:
    """Two runs compared, worst first; what is the same is counted, and listed with ``every``.

    :param before: what the run is called, and the run; ``after`` likewise.
    """
    yield f" BioNeMo history: {headline(found)} ".center(width, "=")
    for label, (name, report) in (("before", before), ("after", after)):
        yield from _labelled(label, f"{name}, {_when(report)}, level {shown(report.level)}, {report.verdict}", width)
    for position, text in enumerate(found.differences):
        yield from _labelled("" if position else "differs", shown(text, 300), width)
    if found.refused:
        yield from _labelled("REFUSED", f"no number is compared: {shown(found.refused, 300)}", width)
        return
    names = names_of(before[1]) | names_of(after[1])
    for change in Change:
        alike = [number for number in found.numbers if number.verdict is change]
        if alike and (change is not Change.SAME or every):
            yield ""
            yield from _alike(change, alike, names, width, None if every else _LISTED_AT_MOST)
    yield from _left_over(found, every, width)


def headline(found: Comparison) -> str:
    """'1 of 212 numbers is worse, 3 better'."""
    if found.refused:
        return "not comparable"
    words = Counter(number.verdict for number in found.numbers)
    worse, better = words[Change.WORSE], words[Change.BETTER]
    of = f"{worse or 'none'} of {count(len(found.numbers), 'number')} {'is' if worse < 2 else 'are'} worse"
    return f"{of}, {better} better" if better else of


def _alike(
    change: Change, numbers: Sequence[Compared], names: Mapping[str, str], width: int, most: int | None
) -> Iterator[str]:
    rows = [_row(number, names) for number in numbers[:most]]
    header = (_LABELS[change], "device", "before", "after", "change (95 %)")
    yield from _columns([header, *rows], width)
    if len(numbers) > len(rows):
        yield f"{_INDENT}and {len(numbers) - len(rows)} more: --all lists them"


def _row(number: Compared, names: Mapping[str, str]) -> tuple[str, ...]:
    lower, upper = number.change_ci95
    device = number.device or ""
    return (
        _INDENT + shown(number.name.replace("_", " ")),
        names.get(device) or shown(device, 20),
        show_number(number.before.value, shown(number.unit)),
        show_number(number.after.value, shown(number.unit)),
        f"{percent(number.change)} ({_ends(lower, upper)})",
    )


def percent(share: float) -> str:
    """A change: '-9.8%', '+120%'; as a factor, 'x12', where it is many times as much."""
    return _percent(share, 0 if abs(share) >= _SMALL else 1, "%")


def _ends(lower: float, upper: float) -> str:
    digits = 0 if upper - lower >= _NARROW else 1
    return f"{_percent(lower, digits)} to {_percent(upper, digits)}"


def _percent(share: float, digits: int, sign: str = "") -> str:
    return f"x{share + 1:.3g}" if share >= _MANY else f"{100 * share:+.{digits}f}{sign}"


def names_of(report: Report) -> dict[str, str]:
    """The short names of the devices, gpu0, by UUID."""
    return {gpu.uuid: f"gpu{gpu.index}" for gpu in report.gpus if gpu.uuid}


def _left_over(found: Comparison, every: bool, width: int) -> Iterator[str]:
    same = sum(1 for number in found.numbers if number.verdict is Change.SAME)
    said = {
        "same": count(same, "number") + " (--all lists them)" if same and not every else "",
        "gone": _listed(found.missing),
        "new": _listed(found.new),
    }
    if any(said.values()):
        yield ""
    for label, text in said.items():
        if text:
            yield from _labelled(label, text, width)


def _listed(numbers: Sequence[tuple[str, str | None]]) -> str:
    names = list(dict.fromkeys(shown(name, _LONGEST_NAME) for name, _ in numbers))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{count(len(numbers), 'number')}: {', '.join(names[:3])}{more}" if names else ""


def _columns(rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """The first column gives way where the rows are too wide for it."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    others = sum(widths[1:]) + 2 * len(widths[1:])
    widths[0] = max(_NARROWEST_NAME, min(widths[0], width - others))
    for row in rows:
        cells = [_cut(row[0], widths[0]).ljust(widths[0])]
        cells += [cell.ljust(size) for cell, size in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join(cells).rstrip()


def _cut(text: str, width: int) -> str:
    """The middle goes: names begin alike, and end with what tells them apart."""
    if len(text) <= width:
        return text
    tail = (width - 2) // 2
    return f"{text[: width - 2 - tail]}..{text[-tail:]}"


def _labelled(label: str, text: str, width: int) -> Iterator[str]:
    for position, line in enumerate(_wrapped(text, width - _LABEL)):
        yield f"{label if position == 0 else '':{_LABEL}}{line}"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(20, width), break_long_words=False, break_on_hyphens=False) or [""]
