"""The numbers of a machine over its runs, as a page or as a drawing alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import metadata

from pytest_bionemo import judging
from pytest_bionemo.baseline import Circumstances, Key
from pytest_bionemo.history import table
from pytest_bionemo.history.compare import Change, Number, judge, numbers_beside
from pytest_bionemo.history.store import Stored
from pytest_bionemo.judging import Limits
from pytest_bionemo.model import count
from pytest_bionemo.page.shell import PageError, render
from pytest_bionemo.page.timeline import HEIGHT, Course, Moment, Point, draw, parts
from pytest_bionemo.report.terminal import show_number
from pytest_bionemo.reports import Report
from pytest_bionemo.showing import shown

RUNS_AT_MOST = 200
"""The newest ones; a drawing of more has no room for them."""

_GAP, _WIDTH, _LEFT = 34, 900, 110


class PlotError(Exception):
    """There is nothing to draw; the message is one line."""


@dataclass(frozen=True)
class _Row:
    """One number of the newest run; ``before`` and ``first`` are a word and a change, both "" where there is none."""

    title: str
    device: str
    value: float
    shown: str
    before: tuple[str, str]
    first: tuple[str, str]
    rank: tuple[int, float]


def draw_runs(
    machine: str, found: Sequence[tuple[Stored, Report]], out: str, names: Collection[str], level: str | None
) -> str:
    """The text of a file: a page if ``out`` ends in .html, a drawing if it ends in .svg.

    :param names: the quantities to draw; all if there are none.
    :param level: that of the runs to draw; None: that of the newest.
    :raises PlotError: one line.
    """
    kind = out.rpartition(".")[2].lower()
    if kind not in ("html", "svg"):
        raise PlotError(f"-o {out}: a page ends in .html, a drawing in .svg")
    if not found:
        raise PlotError(f"no run of {machine} can be read")
    chosen = [pair for pair in found if pair[1].level == (level or found[-1][1].level)][-RUNS_AT_MOST:]
    if not chosen:
        raise PlotError(f"no run of {machine} is of level {level}")
    moments, courses = _moments(chosen), _courses([report for _, report in chosen])
    if unknown := set(names) - {course.name for course in courses}:
        known = ", ".join(course.name for course in courses)
        raise PlotError(f"--number {min(unknown)!r} is no number of these runs. Choose from: {known}")
    rows = sorted(_rows(courses, [report for _, report in chosen]), key=lambda row: row.rank)
    courses = _worst_first([course for course in courses if not names or course.name in names], rows)
    if not courses:
        raise PlotError("these runs have measured nothing that could be compared: level quick runs no kernel")
    if kind == "svg":
        return _svg(machine, courses, moments)
    try:
        return _page(machine, courses, moments, [row for row in rows if row.title in {one.title for one in courses}])
    except PageError as error:
        raise PlotError(str(error)) from None


def _moments(runs: Sequence[tuple[Stored, Report]]) -> list[Moment]:
    found: list[Moment] = []
    former: Circumstances | None = None
    for stored, report in runs:
        run = report.document["bionemo"]
        now = Circumstances.of(run)
        changed = tuple(former.differences(now)) if former else ()
        when = str(run.get("started", ""))[:16].replace("T", " ")
        found.append(Moment(f"{stored.number:04d} {stored.name}", when, changed))
        former = now
    return found


def _courses(reports: Sequence[Report]) -> list[Course]:
    """In the order in which they are measured."""
    limits = _limits(reports[-1])
    names = table.names_of(reports[-1])
    by_key: dict[Key, list[tuple[int, Number]]] = {}
    newest = Circumstances.of(reports[-1].document["bionemo"])
    for place, report in enumerate(reports):
        for key, one in numbers_beside(newest, report).items():
            by_key.setdefault(key, []).append((place, one))
    by_quantity: dict[tuple[str, str], dict[str, list[Point]]] = {}
    for (name, unit, device), numbers in by_key.items():
        label = names.get(device or "") or shown(device or "", 20)
        by_quantity.setdefault((name, unit), {})[label] = list(_points(unit, numbers, limits))
    return [Course(name, shown(unit), devices, limits.degraded) for (name, unit), devices in by_quantity.items()]


def _worst_first(courses: Sequence[Course], rows: Sequence[_Row]) -> list[Course]:
    """With the word that the newest run deserves, for which it is enough that one device is worse."""
    worse = {row.title for row in rows if Change.WORSE.value in (row.before[0], row.first[0])}
    found = [replace(course, word=Change.WORSE.value if course.title in worse else "") for course in courses]
    return sorted(found, key=lambda course: not course.word)


def _points(unit: str, numbers: Sequence[tuple[int, Number]], limits: Limits) -> Iterator[Point]:
    former: Number | None = None
    for place, one in numbers:
        word = judge(unit, former, one, limits) if former else Change.SAME
        told = word.value if word in (Change.WORSE, Change.BETTER) else ""
        yield Point(place, one.value, one.ends, told)
        former = one


def _limits(report: Report) -> Limits:
    return judging.REHEARSED_BEFORE if report.device == "cpu" else judging.NODE


def _page(machine: str, courses: Sequence[Course], moments: Sequence[Moment], rows: Sequence[_Row]) -> str:
    worse = sum(1 for row in rows if Change.WORSE.value in (row.before[0], row.first[0]))
    better = sum(1 for row in rows if row.before[0] == Change.BETTER.value)
    word = Change.WORSE if worse else Change.BETTER if better else Change.SAME
    of = f"of {count(len(rows), 'number')} of the newest run"
    sentence = f"{worse or 'None'} {of} {'is' if worse < 2 else 'are'} worse than before, over {len(moments)} runs."
    return render(
        "history.html.j2",
        styles=("history.css",),
        title=f"{machine}: history",
        name=machine,
        said="history of a machine",
        verdict=word.value,
        sentence=sentence,
        sections=[("courses", "Over time", len(courses)), ("numbers", "The newest run", len(rows)),
                  ("runs", "Runs", len(moments))],
        made=f"Made by pytest-bionemo {_version()} from {count(len(moments), 'report')}, "
        f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC.",
        courses=[(course, draw(course, moments)) for course in courses],
        moments=moments,
        rows=rows,
    )  # fmt: skip


def _version() -> str:
    try:
        return metadata.version("pytest-bionemo")
    except metadata.PackageNotFoundError:
        return "unknown"


def _rows(courses: Sequence[Course], reports: Sequence[Report]) -> Iterator[_Row]:
    limits = _limits(reports[-1])
    for course in courses:
        for device, points in course.devices.items():
            if points[-1].run == len(reports) - 1:
                yield _row(course, device, points, limits)


def _row(course: Course, device: str, points: Sequence[Point], limits: Limits) -> _Row:
    newest = points[-1]
    changes = [_change(course.unit, earlier, newest, limits) for earlier in (points[-2:-1], points[:1])]
    first = changes[1] if len(points) > 1 else ("", "")
    order = [change.value for change in Change]
    rank = min(order.index(word) if word else len(order) for word, _ in (changes[0], first))
    slower = points[0].value / newest.value * (1 if course.unit != "s" else -1)
    return _Row(course.title, device, newest.value, show_number(newest.value, shown(course.unit)), changes[0], first,
                (rank, -slower))  # fmt: skip


def _change(unit: str, earlier: Sequence[Point], newest: Point, limits: Limits) -> tuple[str, str]:
    if not earlier:
        return "", ""
    before, after = (Number(point.value, point.ends) for point in (earlier[0], newest))
    return judge(unit, before, after, limits).value, table.percent(after.value / before.value - 1)


_STYLE = """\
svg{font:12px system-ui,sans-serif;color-scheme:light dark;--page:#fff;--soft:#eef1f4;--line:#dde1e6;--ink:#1b1f24;
--dim:#59626d;--accent:#0a5ca8;--good:#17703a;--bad:#b3251c}
@media (prefers-color-scheme:dark){svg{--page:#14171b;--soft:#232930;--line:#323a43;--ink:#e5e8eb;--dim:#a0a9b3;
--accent:#82bbf7;--good:#62cf8f;--bad:#ff8f85}}
.paper{fill:var(--page)}.title{font-weight:600;fill:var(--ink)}.now{text-anchor:end;fill:var(--ink)}
"""


def _svg(machine: str, courses: Sequence[Course], moments: Sequence[Moment]) -> str:
    from html import escape
    from pathlib import Path

    from pytest_bionemo.page import shell

    step = HEIGHT + _GAP
    height = step * len(courses) + _GAP
    own = Path(shell.__file__).with_name("templates").joinpath("history.css").read_text(encoding="utf-8")
    style = _STYLE + "".join(line + "\n" for line in own.splitlines() if line.startswith((".course ", ".mark")))
    drawn = "".join(
        f'<text class="title" x="{_LEFT}" y="{step * place + 24}">{escape(shown(course.title))}</text>'
        f'<text class="now" x="{_WIDTH - 20}" y="{step * place + 24}">{escape(course.said)}</text>'
        f'<svg class="course" x="{_LEFT}" y="{step * place + _GAP}" width="{_WIDTH - _LEFT - 20}" height="{HEIGHT}" '
        f'overflow="visible">{"".join(parts(course, moments))}</svg>'
        for place, course in enumerate(courses)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}"><title>{escape(machine)}: history</title><style>{style}</style>'
        f'<rect class="paper" width="100%" height="100%"/>{drawn}</svg>\n'
    )
