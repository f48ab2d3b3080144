"""The checks that the plugins and conftest files of this folder offer: pytest itself is asked for them.

In a process of its own, with a deadline: whatever a conftest file does, the shipped checks are explained. The modules
of the checks are imported here, each with a deadline too, and what they print is no part of an explanation.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import NoReturn

from pytest_bionemo.explain.asking import MARK
from pytest_bionemo.explain.explanation import Check, checks_in
from pytest_bionemo.suite import BROKEN_IMPORT, import_checks

_DEADLINE_S = 60
# Without the current folder on sys.path: a file there could stand in for any module.
_RUN_PYTEST = "import sys; sys.path[:] = filter(None, sys.path); import pytest; sys.exit(pytest.main())"


def project_checks() -> list[Check]:
    """Checks of this project, in its order; none where there is no project, or it cannot be read.

    What keeps pytest from reading it is printed by pytest, and what cannot be imported by this function, to stderr.
    """
    return [check for name in _modules() for check in _checks_of(name)]


def _modules() -> Iterator[str]:
    arguments = ["-p", "pytest_bionemo.explain.asking", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RUN_PYTEST, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        print(
            f"pytest did not read this project within {_DEADLINE_S} s: its own checks are not known", file=sys.stderr
        )
        return
    answer = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if answer is None:
        print("pytest does not read this project: its own checks are not known", file=sys.stderr)
        return
    told = json.loads(answer.removeprefix(MARK))
    sys.path += [entry for entry in told["path"] if entry not in sys.path]
    yield from told["modules"]


def _checks_of(name: str) -> list[Check]:
    try:
        with redirect_stdout(sys.stderr), _deadline():
            return checks_in(import_checks(name))
    except BROKEN_IMPORT as error:
        print(f"{name} cannot be imported: {type(error).__name__}: {error}", file=sys.stderr)
        return []


@contextmanager
def _deadline() -> Iterator[None]:
    """Ends what waits, or goes round, in Python; this program has no other use for the signal."""

    def end(number: int, frame: object) -> NoReturn:
        raise TimeoutError(f"not within {_DEADLINE_S} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(_DEADLINE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
