"""``python -m pytest_bionemo html``: the page of a report, or of a fleet, from its JSON document alone."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from pytest_bionemo.fleet import sources
from pytest_bionemo.fleet.node import TOOL
from pytest_bionemo.fleet.reading import DEADLINE_S, read_all, seconds
from pytest_bionemo.page.shell import PageError, expect_jinja, shown
from pytest_bionemo.report import atomic
from pytest_bionemo.standard_output import drop_the_rest
from pytest_bionemo.verdict import ReportError

_USAGE_ERROR = 4
_LONGEST_LINE = 1000
_COMMAND = "python -m pytest_bionemo html"


class UsageError(Exception):
    """There is nothing to make a page of; the message is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE_ERROR, f"error: {message}. See {_COMMAND} --help\n")


class _Page(NamedTuple):
    """What a child hands over: no text of an error."""

    html: str


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    parser = _Parser(
        prog=_COMMAND,
        description="The page of a report, or of the document that fleet --json wrote.",
        epilog="exit status: 0 the page is written, 4 it is not",
        allow_abbrev=False,
    )
    parser.add_argument(
        "report", metavar="REPORT", help="its file, a folder that holds one, or - for the standard input"
    )
    parser.add_argument(
        "-o", dest="out", metavar="FILE", help="where the page goes (default: beside the report); - prints it"
    )
    parser.add_argument(
        "--timeout", type=seconds, default=DEADLINE_S, metavar="SECONDS", help="to read it (default: %(default)g)"
    )
    chosen = parser.parse_args(arguments)
    return export(chosen.report, chosen.out, chosen.timeout)


def export(report: str, out: str | None = None, deadline_s: float = DEADLINE_S) -> int:
    """Write the page of a report; returns the exit status: 0, or 4 if there is none, with one line that says why.

    :param report: its file, a folder that holds one report, or "-" for the standard input.
    :param out: the file of the page; None: beside the report, "-": the standard output.
    :param deadline_s: how long reading and rendering may take.
    """
    try:
        expect_jinja()
        path = report if report == sources.STANDARD_INPUT else _only(report)
        place = _place(path, out)
        html = _made(path, deadline_s)
        if place is None:
            _print(html)
        else:
            _save(place, html)
            print(f"page     {place}", file=sys.stderr if report == sources.STANDARD_INPUT else sys.stdout)
    except (PageError, UsageError, sources.SourceError) as error:
        said = str(error)
    else:
        return 0
    print(f"error: {shown(' '.join(said.split()), _LONGEST_LINE)}", file=sys.stderr)
    return _USAGE_ERROR


def _only(name: str) -> str:
    """The one report that a name stands for."""
    found = sources.files([name])
    if not found:
        raise UsageError(f"{name} holds no report. Name the file of a report.")
    if len(found) > 1:
        raise UsageError(
            f"{name} holds {len(found)} reports. Name one of them, or fold them: "
            f"$ python -m pytest_bionemo fleet {name} --html FILE"
        )
    return found[0]


def _place(path: str, out: str | None) -> Path | None:
    """Where the page goes; None for the standard output."""
    if "-" in (out, path if out is None else None):
        return None
    try:
        place = Path(path).with_suffix(".html") if out is None else Path(out).expanduser()
        if place.is_dir():
            place = place / (f"{Path(path).stem}.html" if path != "-" else "page.html")
        is_the_report = path != "-" and place.exists() and place.samefile(path)
    except (OSError, RuntimeError) as error:  # a name too long, a closed folder, the home of nobody
        raise _unwritable(out or "a page beside the report", error) from None
    if is_the_report:
        raise UsageError(f"{place} is the report itself. Choose another -o.")
    return place


def _unwritable(place: object, error: Exception) -> UsageError:
    why = getattr(error, "strerror", None) or str(error).rstrip(".")
    return UsageError(f"{place}: {why}. Choose another -o.")


def _save(place: Path, html: str) -> None:
    try:
        atomic.save(place, html.encode())
    except OSError as error:
        raise _unwritable(place, error) from None


def _made(path: str, deadline_s: float) -> str:
    """The page, made in a child: a file system that hangs ends with the deadline."""
    is_piped = path == sources.STANDARD_INPUT
    content = sys.stdin.buffer.read(sources.LARGEST_REPORT + 1) if is_piped else None
    (_, found) = next(read_all([(path, content)], _render, deadline_s))
    if isinstance(found, str):
        raise UsageError(f"{'standard input' if is_piped else path}: {found}")
    return found.html


def _render(content: bytes, path: str) -> _Page:
    document = _decode(content)
    if isinstance(document, dict) and document.get("tool") == TOOL:
        from pytest_bionemo.page.fleet import fleet_page

        return _Page(fleet_page(document))
    from pytest_bionemo.page.node import node_page

    return _Page(node_page(document))  # type: ignore[arg-type]  # what is no mapping is no report, and it says so


def _decode(content: bytes) -> object:
    if not content.strip():
        raise ReportError("is empty: its run was ended while it wrote it")
    if len(content) > sources.LARGEST_REPORT:
        raise ReportError("is larger than any report")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"is no JSON: it is truncated or damaged ({error})") from None


def _print(html: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", newline="")  # what the page says of itself, whatever the locale
    try:
        sys.stdout.write(html)
        sys.stdout.flush()
    except OSError as error:
        drop_the_rest()
        if not isinstance(error, BrokenPipeError):  # whoever read has seen enough
            raise _unwritable("the standard output", error) from None
