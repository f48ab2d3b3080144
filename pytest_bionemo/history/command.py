"""``python -m pytest_bionemo history``: keep runs, list and show them, compare two, draw all over time."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pytest_bionemo.baseline import Circumstances
from pytest_bionemo.history import table
from pytest_bionemo.history.baselines import LAST
from pytest_bionemo.history.compare import compare
from pytest_bionemo.history.store import VARIABLE, Store, Stored, StoreError, check_name, folder, load
from pytest_bionemo.report import atomic
from pytest_bionemo.reports import Report
from pytest_bionemo.standard_output import drop_the_rest
from pytest_bionemo.verdict import DAMAGED, ReportError

_USAGE_ERROR = 4
_PROGRAM = "python -m pytest_bionemo history"


class UsageError(Exception):
    """What was typed cannot be done; the message is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See {_PROGRAM} --help.")


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status.

    0: done, and nothing is worse. 1: ``compare`` found what is worse. 4: it cannot be done, or runs be compared.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # slurmd and cron set no locale
    try:
        options = _parser().parse_args(arguments)
        status: int = _COMMANDS[options.command](options, Store(folder(os.environ)))
        sys.stdout.flush()
    except (UsageError, StoreError, ReportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except DAMAGED as error:
        print(f"error: a report is damaged ({type(error).__name__}: {error})", file=sys.stderr)
        return _USAGE_ERROR
    except BrokenPipeError:
        drop_the_rest()  # whoever read has seen enough
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_PROGRAM,
        description="Keep runs of this machine, and compare them.",
        epilog=f"exit status: 0 done, 1 something is worse, 4 a usage error. Runs are kept in ${VARIABLE}, else "
        "below $XDG_STATE_HOME, else below ~/.local/state. A RUN is its number or name, last, or a report's file.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    where = _Parser(add_help=False)
    where.add_argument("--machine", metavar="ID", help="the beginning of its name, where the history has several")

    save = commands.add_parser("save", help="keep a report", allow_abbrev=False)
    save.add_argument("report", metavar="REPORT", help="the JSON report of a run")
    save.add_argument("--name", metavar="NAME", help="what the run is called (default: its level)")
    commands.add_parser("list", help="the runs of every machine", parents=[where], allow_abbrev=False)
    show = commands.add_parser("show", help="what a run found", parents=[where], allow_abbrev=False)
    show.add_argument("run", metavar="RUN")
    versus = commands.add_parser(
        "compare", help="what has become of the numbers", parents=[where], allow_abbrev=False
    )
    versus.add_argument("before", metavar="RUN", help="the earlier run")
    versus.add_argument("after", metavar="RUN", help="the later one")
    versus.add_argument("--json", action="store_true", help="as a JSON document")
    versus.add_argument("--all", action="store_true", help="list what is the same, too")
    plot = commands.add_parser("plot", help="the numbers over time", parents=[where], allow_abbrev=False)
    plot.add_argument(
        "-o", dest="out", metavar="FILE", help="a page (.html) or a drawing alone (.svg); without it, the page"
    )
    plot.add_argument(
        "--number", action="append", metavar="NAME", help="only this one, such as matmul_bf16; repeatable"
    )
    plot.add_argument("--level", help="only runs of this level (default: that of the newest run)")
    return parser


def _save(options: argparse.Namespace, store: Store) -> int:
    report = load(Path(options.report))
    name = report.level if options.name is None else check_name(options.name)
    print(f"kept     {store.save(report.document, name)}")
    return 0


def _list(options: argparse.Namespace, store: Store) -> int:
    machines = [_machine(options, store)] if options.machine else store.machines()
    if not machines:
        print(f"no run is kept in {store.path}: $ pytest --bionemo-validate --bionemo-save")
    for position, machine in enumerate(machines):
        if position:
            print()
        found, damaged = store.readable(machine)
        for line in table.runs(machine, found, damaged, _width()):
            print(line)
    return 0


def _show(options: argparse.Namespace, store: Store) -> int:
    print(_pick(options.run, options, store)[1])
    return 0


def _compare(options: argparse.Namespace, store: Store) -> int:
    before, after = (_pick(name, options, store) for name in (options.before, options.after))
    found = compare(before[1], after[1])
    if options.json:
        runs = {side: _circumstances(*run) for side, run in (("before", before), ("after", after))}
        print(json.dumps({**runs, **found.to_json()}, indent=1))
    else:
        for line in table.comparison(found, before, after, _width(), every=options.all):
            print(line)
    if found.refused:
        return _USAGE_ERROR
    return 1 if found.worse else 0


def _circumstances(name: str, report: Report) -> dict[str, object]:
    then = Circumstances.of(report.document["bionemo"])
    started = report.document["bionemo"]["started"]
    return {"run": name, "started": started, "level": then.level, "device": then.device, "software": then.software}


def _plot(options: argparse.Namespace, store: Store) -> int:
    from pytest_bionemo.history import plotting

    machine = _machine(options, store)
    found, damaged = store.readable(machine)
    for line in damaged:
        print(f"skipped: {line}", file=sys.stderr)
    try:
        text = plotting.draw_runs(machine, found, options.out or ".html", options.number or (), options.level)
    except plotting.PlotError as error:
        raise UsageError(str(error)) from None
    if options.out is None:
        sys.stdout.write(text)
    else:
        _write(Path(options.out), text)
        print(f"plot     {options.out}")
    return 0


def _write(path: Path, text: str) -> None:
    try:
        atomic.replace(path, text.encode())
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}. Choose another -o.") from None


def _machine(options: argparse.Namespace, store: Store) -> str:
    """The one machine that is meant."""
    machines = store.machines()
    meant = [machine for machine in machines if machine.startswith(options.machine or "")]
    if len(meant) == 1:
        return meant[0]
    if not machines:
        raise UsageError(f"no run is kept in {store.path}: $ pytest --bionemo-validate --bionemo-save")
    if not meant:
        raise UsageError(f"--machine {options.machine!r} is none of: {', '.join(machines)}.")
    raise UsageError(f"which machine is meant? Add --machine with one of: {', '.join(meant)}.")


def _pick(name: str, options: argparse.Namespace, store: Store) -> tuple[str, Report]:
    """The run of this number or name, the last one, or the report in a file; and what to call it."""
    if name.endswith(".json") or os.sep in name:
        return name, load(Path(name))
    runs = store.runs(_machine(options, store))
    if name == LAST:
        # One that is damaged is passed over, and named.
        return _newest(runs)
    called = [stored for stored in runs if _is_number(name, stored)] or [run for run in runs if run.name == name]
    if not called:
        known = ", ".join(f"{stored.number} {stored.name}" for stored in runs[-5:])
        raise UsageError(f"{name!r} is no run of this machine. The last ones are: {known}.")
    return called[-1].path.name, called[-1].load()


def _is_number(name: str, stored: Stored) -> bool:
    return name.isascii() and name.isdigit() and name.lstrip("0") == str(stored.number)


def _newest(runs: Sequence[Stored]) -> tuple[str, Report]:
    for stored in reversed(runs):
        try:
            return stored.path.name, stored.load()
        except ReportError as error:
            print(f"skipped: {error}", file=sys.stderr)
    raise UsageError("no run of this machine can be read")


def _width() -> int:
    import shutil

    return shutil.get_terminal_size((100, 24)).columns


_COMMANDS = {"save": _save, "list": _list, "show": _show, "compare": _compare, "plot": _plot}
