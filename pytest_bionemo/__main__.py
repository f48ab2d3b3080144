"""``python -m pytest_bionemo validate | checks | explain | fleet | ctrf | history | html | metrics``.

``validate`` is ``pytest --bionemo-validate`` isolated from the folder that it is started in: no conftest, no
ini file, no module of that folder. ``checks`` lists every shipped check, as a page in Markdown with ``--markdown``.
``explain`` says of one check, or of every finding of a report, why it matters and how it decides.
``fleet`` folds the reports of many nodes into one verdict.
``ctrf`` turns a report into the Common Test Report Format.
``history`` keeps reports, compares them and draws them over time.
``html`` makes a page of one, or of a fleet.
``metrics`` makes time series of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from pytest_bionemo.isolated import pytest_arguments

if TYPE_CHECKING:
    from pytest_bionemo.checking import CheckSpec

_USAGE = """\
usage: python -m pytest_bionemo validate [pytest options]
       python -m pytest_bionemo checks [--markdown]
       python -m pytest_bionemo explain CHECK | --report FILE [--json | --markdown]
       python -m pytest_bionemo fleet PATH... [--expect NODES] [--json FILE] (fleet --help tells more)
       python -m pytest_bionemo ctrf REPORT [-o FILE]
       python -m pytest_bionemo history save | list | show | compare | plot (history --help tells more)
       python -m pytest_bionemo html REPORT [-o FILE]
       python -m pytest_bionemo metrics PATH... [-o FILE] [--series N]

validate  is this machine ready for BioNeMo? The same as pytest --bionemo-validate, isolated from the
          folder that it is started in (no conftest, no ini file). Options: pytest --help
checks    list every check with its title, severity, level, what it needs and how it is fixed
explain   why a check matters, how it decides, how its findings are fixed, and its sources
fleet     fold the reports of many nodes into one verdict: who is ready, who is not, who is missing
ctrf      turn the JSON report of a run into the Common Test Report Format (ctrf.io)
history   keep runs of this machine: has it become slower?
html      turn a report, or the fleet document, into one page that needs nothing else
metrics   turn reports of nodes and the fleet document into metrics for Prometheus"""

_USAGE_ERROR = 4
# Without the current folder on sys.path: a file there could stand in for any module.
_RUN_PYTEST = "import sys; sys.path[:] = filter(None, sys.path); import pytest; sys.exit(pytest.main())"


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status."""
    command, *rest = arguments or ("",)
    _leave_out_the_current_folder()
    if command == "validate":
        return validate(rest)
    if command == "checks" and rest in ([], ["--markdown"]):
        import shutil

        print("\n".join(document_checks() if rest else list_checks(shutil.get_terminal_size().columns)))
        return 0
    if command == "explain":
        from pytest_bionemo.explain import command as explain

        return explain.main(rest)
    if command == "html":
        from pytest_bionemo.page import command as page

        return page.main(rest)
    if command == "fleet":
        from pytest_bionemo.fleet import command as fleet

        return fleet.main(rest)
    if command == "ctrf" and (len(rest) == 1 or (len(rest) == 3 and rest[1] == "-o")):
        from pytest_bionemo import ctrf

        return ctrf.export(rest[0], rest[2] if len(rest) == 3 else None)
    if command == "history":
        from pytest_bionemo.history import command as history

        return history.main(rest)
    if command == "metrics":
        from pytest_bionemo import metrics

        return metrics.main(rest)
    if command in ("-h", "--help"):
        print(_USAGE)
        return 0
    wrong = f"{' '.join(arguments)!r} is not a command" if command else "no command is given"
    known = "validate, checks, explain, fleet, ctrf, history, html, metrics"
    print(f"error: {wrong}. Choose from: {known}.\n{_USAGE}", file=sys.stderr)
    return _USAGE_ERROR


def _leave_out_the_current_folder() -> None:
    """Reports lie in folders that others write to: no command imports a module of the current one."""
    try:
        here = os.getcwd()  # noqa: PTH109 - os is loaded
    except FileNotFoundError:  # it was removed, with all that was in it
        return
    sys.path[:] = [entry for entry in sys.path if entry not in ("", here)]


def validate(pytest_options: Sequence[str]) -> NoReturn:
    """Run the shipped checks, isolated from the current folder. Does not return."""
    # A fresh interpreter in the place of this one: pytest has to be there before the plugin is imported.
    os.execv(sys.executable, [sys.executable, "-c", _RUN_PYTEST, *pytest_arguments(pytest_options)])


def list_checks(width: int) -> Iterator[str]:
    """The lines of the list, wrapped at ``width`` columns."""
    # Imported late, like shutil: while this module is imported, the current folder is on sys.path.
    import textwrap

    def wrap(text: str, indent: str = "      ") -> list[str]:
        return textwrap.wrap(text, width - 6, initial_indent="      ", subsequent_indent=indent)

    for topic, title, checks in _shipped_checks():
        yield from textwrap.wrap(f"{topic}: {title}", width - 2, subsequent_indent="  ")
        for name, spec, needed in checks:
            yield f"  {name}  ({spec.severity}, {spec.level})"
            yield from wrap(spec.title)
            if needed:
                yield from wrap(f"needs {', '.join(needed)}", "        ")
            if spec.fix:
                yield from wrap(f"fix: {spec.fix}", "        ")
        yield ""


def document_checks() -> Iterator[str]:
    """The lines of the page that lists them, in Markdown."""
    yield "# Every check"
    yield ""
    yield "A finding tells more: what was seen, and the commands that fix it on the machine at hand. This page is"
    yield "made by `python -m pytest_bionemo checks --markdown`."
    for topic, title, checks in _shipped_checks():
        yield from ("", f"## {topic}", "", title)
        for name, spec, needed in checks:
            yield from ("", f"### {topic}::{name}", "", spec.title, "")
            yield f"- severity {spec.severity}, from level {spec.level} on"
            if needed:
                yield f"- needs {', '.join(f'`{check}`' for check in needed)}"
            if spec.fix:
                yield f"- fix: {spec.fix}"


def _shipped_checks() -> Iterator[tuple[str, str, list[tuple[str, CheckSpec, list[str]]]]]:
    """Each topic with its title and its checks: name, what is declared, and the checks that it waits for."""
    from pytest_bionemo.checking import spec_of
    from pytest_bionemo.checks import shipped
    from pytest_bionemo.suite import NAME, import_checks, topic_of

    for module_name in shipped():
        module = import_checks(module_name)
        title = (module.__doc__ or "").strip().partition("\n")[0]
        declared = [(name, spec, function) for name, function in vars(module).items() if (spec := spec_of(function))]
        checks = [(name, spec, _established(function, spec.needs)) for name, spec, function in declared]
        yield f"{NAME}/{topic_of(module_name)}", title, checks


def _established(function: object, needs: Sequence[str]) -> list[str]:
    import inspect

    from pytest_bionemo.needs.established import ESTABLISHED_BY

    asked = [*inspect.signature(function).parameters, *needs]  # type: ignore[arg-type]
    return list(dict.fromkeys(ESTABLISHED_BY[name] for name in asked if name in ESTABLISHED_BY))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
