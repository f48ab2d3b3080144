"""How a test ends for which something is missing here: skipped, or failed in a strict run."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    # What pytest.fail and pytest.skip raise; their public names are attributes that type checkers cannot see.
    from _pytest.outcomes import Failed, Skipped
else:
    Failed, Skipped = pytest.fail.Exception, pytest.skip.Exception


class NotMet(Failed):
    """What fails a test in a strict run for which something is missing."""

    __module__ = "builtins"  # as of pytest's own: it is shown without its module


def end(strict: bool, reason: str) -> NoReturn:
    """Skip the test, at its own line; or fail it, in one line without a traceback."""
    __tracebackhide__ = True
    if strict:
        raise NotMet(reason, pytrace=False)
    raise Skipped(reason, _use_item_location=True)


class Strict:
    """The plugin of a strict run: what is missing fails a test that is expected to fail, too."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let it be the test that has failed: not its setup, and not as it was expected to."""
        report = yield
        if call.excinfo and isinstance(call.excinfo.value, NotMet):
            report.when = "call" if report.when == "setup" else report.when
            report.outcome = "failed"
            vars(report).pop("wasxfail", None)
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Have unittest's expectedFailure, which keeps no error, leave this one to pytest."""
        expected = getattr(item, "addExpectedFailure", None)
        if expected is None:
            return (yield)
        vars(item)["addExpectedFailure"] = partial(_unless_not_met, item, expected)
        try:
            return (yield)
        finally:
            del vars(item)["addExpectedFailure"]


def _unless_not_met(item: Any, expected: Any, test: object, error: Any, *reason: str) -> None:
    if isinstance(error[1], NotMet):
        item.addFailure(test, error)
    else:
        expected(test, error, *reason)
