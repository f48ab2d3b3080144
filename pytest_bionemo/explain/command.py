"""``python -m pytest_bionemo explain CHECK``: finds what is meant, and explains it; or every finding of a report."""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import NoReturn

from pytest_bionemo.explain import words
from pytest_bionemo.explain.explanation import Check, Explanation, explain, shipped_checks
from pytest_bionemo.explain.project import project_checks
from pytest_bionemo.explain.words import Section
from pytest_bionemo.facts import FactsError
from pytest_bionemo.reports import Report, ReportedFinding
from pytest_bionemo.standard_output import drop_the_rest
from pytest_bionemo.suite import NAME
from pytest_bionemo.verdict import ReportError

_USAGE_ERROR = 4
_CLOSE = 3
_LONGEST = 2000


class UsageError(Exception):
    """What was typed cannot be done; the message is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See python -m pytest_bionemo explain --help.")


def main(arguments: Sequence[str]) -> int:
    """Explain what is named; returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options = _options(arguments)
        lines = _of_check(options) if options.report is None else _of_report(options)
        print("\n".join(lines), flush=True)
    except (UsageError, ReportError, FactsError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return _USAGE_ERROR
    except BrokenPipeError:
        drop_the_rest()  # whoever read has seen enough
        return 1
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    if sys.flags.optimize > 1:
        raise UsageError("what explains a check is in its docstring: unset PYTHONOPTIMIZE, drop python -OO.")
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.check is None) == (options.report is None):
        parser.error("name a check, or a report with --report FILE")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m pytest_bionemo explain",
        description="What a check checks, why it matters, how it decides, how to fix what it finds, and its sources.",
        epilog="Nothing is run: no driver is asked, and no torch imported. Exit status: 0, or 4 for a usage error.",
    )
    parser.add_argument(
        "check",
        nargs="?",
        metavar="CHECK",
        help="the id of a check or a part of it: driver::loads, loads, precision, bionemo/driver::answers[gpu0]; "
        "where several match, they are listed",
    )
    parser.add_argument("--report", metavar="FILE", help="explain every finding of this report")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON: a list, one object for each check that matches")
    form.add_argument("--markdown", action="store_true", help="as Markdown, every check that matches")
    return parser


# ------------------------------------------------------------------------------------------------ what is meant


def matching(asked: str, checks: Sequence[Check]) -> list[Check]:
    """The checks that are meant, those that fit best alone: an id, a name, a topic, a part of an id."""
    wanted = asked.removeprefix(f"{NAME}/").partition("[")[0].strip().lower()
    if not wanted:
        return []
    fits = (
        lambda check: check.id.lower() == wanted,
        lambda check: check.name.lower() == wanted,
        lambda check: check.topic.lower() == wanted.removesuffix("::"),
        lambda check: wanted in check.id.lower(),
    )
    return next((found for fit in fits if (found := [check for check in checks if fit(check)])), [])


def _find(asked: str) -> tuple[list[Check], list[Check]]:
    """What is meant, and every check that there is.

    A shipped check that is named in full is found without asking the project for its own.
    """
    checks = shipped_checks()
    found = matching(asked, checks)
    if len(found) != 1 or (found[0].id not in asked and found[0].name != asked):
        checks += project_checks()
        found = matching(asked, checks)
    if not found:
        raise UsageError(_unknown(asked, checks))
    return found, checks


def _unknown(asked: str, checks: Sequence[Check]) -> str:
    known = {text.lower(): text for check in checks for text in (check.topic, check.name, check.id)}
    wanted = asked.removeprefix(f"{NAME}/").partition("[")[0].lower()
    near = [known[text] for text in get_close_matches(wanted, list(known), _CLOSE)]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    said = f"{_plain(asked, 200)!r} is no check, no topic and no part of one.{hint}"
    return f"{said} To list all: python -m pytest_bionemo checks"


# ------------------------------------------------------------------------------------------------- one check


def _of_check(options: argparse.Namespace) -> Iterator[str]:
    found, checks = _find(options.check)
    width = shutil.get_terminal_size().columns
    if len(found) > 1 and not (options.json or options.markdown):
        yield f"{len(found)} checks match {_plain(options.check)!r}:"
        yield from words.listing(found, width)
        yield f"To explain one: $ python -m pytest_bionemo explain {found[0].id}"
        return
    instance = _instance(options.check) if len(found) == 1 else ""
    yield from _print([(explain(check, checks, instance), []) for check in found], options)


def _instance(asked: str) -> str:
    """What an id has in brackets: 'gpu0-fp16'."""
    return _plain(asked).partition("[")[2].removesuffix("]")


def _print(
    explained: Sequence[tuple[Explanation, Sequence[ReportedFinding]]], options: argparse.Namespace
) -> Iterator[str]:
    if options.json:
        yield json.dumps([_json(told, findings) for told, findings in explained], indent=2)
        return
    width = shutil.get_terminal_size().columns
    for position, (told, findings) in enumerate(explained):
        seen = list(_seen(findings))
        if position:
            yield from ("",) if options.markdown else ("", "-" * min(width, 80), "")
        yield from words.markdown(told, seen) if options.markdown else words.text(told, width, seen, _strong())


def _strong() -> Callable[[str], str]:
    """Bold, on a terminal that shows it."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    is_wanted = is_terminal and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
    return (lambda text: f"\x1b[1m{text}\x1b[0m") if is_wanted else str


def _json(told: Explanation, findings: Sequence[ReportedFinding]) -> dict[str, object]:
    document = told.to_json()
    if findings:
        document["findings"] = [
            {"check": one.check, "severity": one.severity, "message": one.message, "fix": list(one.fix)}
            for one in findings
        ]
    return document


# -------------------------------------------------------------------------------------------------- a report


def _of_report(options: argparse.Namespace) -> Iterator[str]:
    report = Report.load(options.report)
    by_check: dict[str, list[ReportedFinding]] = {}
    for finding in report.findings:
        by_check.setdefault(finding.check.removeprefix(f"{NAME}/").partition("[")[0], []).append(finding)
    checks = shipped_checks()
    if not by_check.keys() <= {check.id for check in checks}:
        checks += project_checks()
    known = {check.id: check for check in checks}
    explained = [
        (explain(known[name], checks) if name in known else _foreign(findings[0]), findings)
        for name, findings in by_check.items()
    ]
    if not explained and not options.json:
        yield f"{_plain(report.summary)}: there is no finding to explain"
        return
    yield from _print(explained, options)


def _foreign(finding: ReportedFinding) -> Explanation:
    """A check that is not here, another project's or another version's: what the report says of it."""
    identity = _plain(finding.check).partition("[")[0]
    return Explanation(
        id=identity, title=_plain(finding.title), topic=identity.partition("::")[0].rpartition("/")[2],
        topic_title="", severity=_plain(finding.severity), level="quick", runs_for={}, more=None,
        why=_plain(finding.why) or None, how=None, rulers=[], waits_for=[], through_them=[], not_applicable=[],
        fix=None, facts=[], links=[_plain(link) for link in finding.links],
        command=f"pytest {shlex.quote(identity)}",
    )  # fmt: skip


def _seen(findings: Sequence[ReportedFinding]) -> Iterator[Section]:
    if not findings:
        return
    several = len(findings) > 1
    yield Section(
        "what the report says",
        [f"{_plain(one.check)}: {_plain(one.message)}" if several else _plain(one.message) for one in findings],
    )
    fixes = dict.fromkeys(_plain(line) for one in findings for line in one.fix)
    yield Section("what to do", (), list(fixes))


def _plain(text: str, longest: int = _LONGEST) -> str:
    """A text of a report, in which nothing steers a terminal or turns the direction of writing."""
    joined = " ".join(text[: 4 * longest].split())
    shown = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in joined)
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."
