"""``python -m pytest_bionemo fleet``: reads reports, folds them, and says what the fleet is ready for."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pytest_bionemo.fleet import hosts, sources, table
from pytest_bionemo.fleet.folding import Asked, Unreadable, fold, is_enough
from pytest_bionemo.fleet.node import LEVELS, Node, read
from pytest_bionemo.fleet.reading import DEADLINE_S, Sharer, read_all, seconds
from pytest_bionemo.report import atomic
from pytest_bionemo.standard_output import drop_the_rest

_USAGE_ERROR = 4
_UNITS = {"": 3600.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PRINTS = ("table", "json", "exclude", "passing", "failing", "unknown", "missing", "hyperpod")


class UsageError(Exception):
    """What was typed cannot be done; the message is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See python -m pytest_bionemo fleet --help.")


def main(arguments: Sequence[str]) -> int:
    """Fold the reports that are named; returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A message can have letters that the terminal has not: slurmd and cron set no locale.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options = _parser().parse_args(arguments)
        asked = _asked(options)
        if options.html:
            _expect_pages()
        nodes, unreadable = _read_all(options.paths, options.timeout)
        document = fold(nodes, unreadable, asked, time.time())
        _write(document, options)
    except (UsageError, sources.SourceError, hosts.HostsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except BrokenPipeError:
        drop_the_rest()  # whoever read has seen enough
        return 1
    return 0 if is_enough(document, asked.require) else 1


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m pytest_bionemo fleet",
        description="Fold the reports of many nodes into one verdict.",
        epilog="exit status: 0 READY or READY_FOR_INSTALL, 1 anything else, 4 a usage error",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="a report, a folder of reports, a pattern, or - for standard input")
    add(
        "--expect",
        action="append",
        default=[],
        metavar="NODES",
        help="that must have reported: a number, a list such as node[1-4,7], or @FILE with such lists; repeatable",
    )
    add("--job", metavar="ID", help="only the reports of this job")
    add("--level", choices=LEVELS, default=LEVELS[0], help="the lowest level that will do (default: quick)")
    add("--max-age", metavar="TIME", help="how old a report may be: 90m, 24h, 7d")
    add(
        "--require",
        choices=("install", "ready"),
        default="install",
        help="with ready, READY_FOR_INSTALL also exits 1",
    )
    add("--json", metavar="FILE", help="write the document of the fleet")
    add("--html", metavar="FILE", help="write it as a page for people, one self-contained file")
    add(
        "--lists",
        metavar="DIR",
        help="write passing_nodes.txt, failing_nodes.txt, unknown_nodes.txt, missing_nodes.txt, exclude.txt there",
    )
    add(
        "--print",
        choices=_PRINTS,
        default="table",
        dest="what",
        help="what goes to standard output: exclude is a list for srun --exclude, hyperpod a line for each node",
    )
    add(
        "--timeout",
        type=seconds,
        default=DEADLINE_S,
        metavar="SECONDS",
        help="for each report (default: %(default)g)",
    )
    return parser  # fmt: skip


def _expect_pages() -> None:
    """Before anything is read: reading 10,000 reports takes a while."""
    from pytest_bionemo.page.shell import PageError, expect_jinja

    try:
        expect_jinja()
    except PageError as error:
        raise UsageError(f"--html: {error}") from None


def _asked(options: argparse.Namespace) -> Asked:
    named: list[str] = []
    number: int | None = None
    for text in options.expect:
        if text.isascii() and text.isdigit():
            number = _number(text, number)
        elif text.startswith("@"):
            named += _listed_in(text[1:])
        else:
            named += hosts.expand(text)
    _expect_different_places(options)
    return Asked(
        hosts=tuple(dict.fromkeys(named)),
        nodes=number,
        level=options.level,
        max_age_s=_seconds(options.max_age),
        job=options.job,
        require=options.require,
    )


def _expect_different_places(options: argparse.Namespace) -> None:
    for name in ("job", "json", "html", "lists"):
        if getattr(options, name) == "":
            raise UsageError(f"--{name} '' is empty: is a variable not set?")
    if options.json and _is_same(options.json, options.lists):
        raise UsageError(f"--json {options.json}: a file, and --lists a folder. Choose different names.")
    if options.html and (_is_same(options.html, options.json) or _is_same(options.html, options.lists)):
        raise UsageError(f"--html {options.html}: --json or --lists has the same name. Choose different names.")


def _is_same(one: str, other: str | None) -> bool:
    return other is not None and os.path.realpath(one) == os.path.realpath(other)


def _number(text: str, former: int | None) -> int:
    if len(text) > 9 or int(text) == 0:
        raise UsageError(f"--expect {text}: a fleet has 1 to 999999999 nodes.")
    if former not in (None, int(text)):
        raise UsageError(f"--expect {former} and --expect {text} contradict each other. Give one number.")
    return int(text)


def _listed_in(name: str) -> tuple[str, ...]:
    try:
        return hosts.expand(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"--expect @{name}: {why}") from None


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)", text, re.ASCII)
    if match is None:
        raise UsageError(f"--max-age {text!r} is no time. Write 90m, 24h or 7d.")
    return float(match[1]) * _UNITS[match[2]]


def _read_all(names: Sequence[str], deadline_s: float) -> tuple[list[Node], list[Unreadable]]:
    nodes: list[Node] = []
    unreadable: list[Unreadable] = []
    sharer = Sharer()
    for path, found in read_all(_contents(names), read, deadline_s):
        if isinstance(found, Node):
            nodes.append(sharer.node(found))
        else:
            unreadable.append(Unreadable(path, found))
    return nodes, unreadable


def _contents(names: Sequence[str]) -> Iterator[tuple[str, bytes | None]]:
    paths = sources.files(name for name in names if name != sources.STANDARD_INPUT)
    yield from ((path, None) for path in paths)
    if sources.STANDARD_INPUT in names:
        for number, content in enumerate(sources.split(sys.stdin.buffer), 1):
            yield sources.describe(number), content


def _write(document: Mapping[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        _save(Path(options.json), json.dumps(document, indent=1))
    if options.lists:
        _make(Path(options.lists))
        for name in ("passing", "failing", "unknown", "missing"):
            _save(Path(options.lists, f"{name}_nodes.txt"), "\n".join(_hosts(document, name)))
        _save(Path(options.lists, "exclude.txt"), document["exclude"])
    if options.html:
        _save(Path(options.html), _page(document))
    try:
        for line in _output(document, options.what):
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_the_rest()
        raise UsageError(f"standard output cannot be written: {error.strerror}") from None


def _page(document: Mapping[str, Any]) -> str:
    from pytest_bionemo.page.fleet import fleet_page
    from pytest_bionemo.verdict import ReportError

    try:
        return fleet_page(document)
    except ReportError as error:
        raise UsageError(f"--html: {error}") from None


def _output(document: Mapping[str, Any], what: str) -> Iterator[str]:
    if what == "table":
        yield from table.lines(document, _width())
    elif what == "json":
        yield json.dumps(document, indent=1)
    elif what == "exclude":
        yield document["exclude"]
    elif what == "hyperpod":
        yield from document["hyperpod"]
    else:
        yield from _hosts(document, what)


def _hosts(document: Mapping[str, Any], status: str) -> list[str]:
    if status == "missing":
        return list(document["missing"])
    return [node["host"] for node in document["nodes"] if node["status"] == status]


def _width() -> int:
    import shutil

    return shutil.get_terminal_size((100, 24)).columns


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--lists {folder}: {error.strerror}") from None


def _save(path: Path, text: str) -> None:
    try:
        atomic.save(path, f"{text}\n".encode() if text else b"")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
