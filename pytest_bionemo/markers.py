"""The marker ``gpu_env``: validated when tests are collected; a test that cannot run here is skipped, or fails."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_bionemo import demands, options
from pytest_bionemo.demands import Demand
from pytest_bionemo.facts import FactsError
from pytest_bionemo.probes.machine import Machine

if TYPE_CHECKING:
    # What pytest.fail and pytest.skip raise; their public names are attributes that type checkers cannot see.
    from _pytest.outcomes import Failed, Skipped
else:
    Failed, Skipped = pytest.fail.Exception, pytest.skip.Exception

MARKER = "gpu_env"

REFUSED = "bionemo_refused"
"""Where a process of pytest-xdist leaves the line that the controller is to end with."""


class NotMet(Failed):
    """What fails a test in a strict run, before anything of it has run."""

    __module__ = "builtins"  # as of pytest's own: it is shown without its module


def skip_or_fail(config: pytest.Config, reason: str) -> NoReturn:
    """End a test, from it or from a fixture, for which something is missing here: in a strict run it fails.

    It is reported at the test's own line, in one line without a traceback.
    """
    __tracebackhide__ = True
    if options.read(config).strict:
        raise Failed(reason, pytrace=False)
    raise Skipped(reason, _use_item_location=True)


def enforce(
    config: pytest.Config, items: list[pytest.Item], marked: Sequence[pytest.Item], machine: Callable[[], Machine]
) -> None:
    """Validate the markers of these tests, and see to it that they count when the tests run.

    ``items`` are the tests of the run; ``machine`` gives its probes: they are asked when the first such test runs.

    :raises pytest.UsageError: one line that names the test and what is wrong with its marker.
    """
    for item in marked:
        try:
            demanded_by(item)
        except (ValueError, FactsError) as error:
            return _refuse(config, items, f"{item.nodeid}: {error}")
    if any(demand.nvlink is not None for item in items for demand in demanded_by(item)):
        machine().include_health()  # before a fixture asks: the driver is asked once
    kind = FailUnmet if options.read(config).strict else SkipUnmet
    config.pluginmanager.register(kind(machine), "bionemo_markers")


def _refuse(config: pytest.Config, items: list[pytest.Item], line: str) -> None:
    if not hasattr(config, "workerinput"):
        raise pytest.UsageError(line)
    # A usage error of a worker would end the run with an internal error: the controller raises this one.
    config.workeroutput[REFUSED] = line  # type: ignore[attr-defined]
    items.clear()


def demanded_by(item: pytest.Item) -> tuple[Demand, ...]:
    """What its markers demand, each once: those of its module and its class, too."""
    marks = reversed(list(item.iter_markers(MARKER)))
    return tuple(dict.fromkeys(demands.read(mark.args, mark.kwargs) for mark in marks))


class _Enforcement:
    """Knows of each test of one run why its demands are not met: those of all its markers have to be."""

    def __init__(self, machine: Callable[[], Machine]) -> None:
        self._machine = machine
        self._reasons: dict[tuple[Demand, ...], str] = {}

    def reason(self, item: pytest.Item) -> str:
        """Why the test cannot run here; empty if it can. Asked once for the same demands."""
        demanded = demanded_by(item)
        if demanded and demanded not in self._reasons:
            machine = self._machine()
            unmet = [one for each in demanded for one in demands.unmet(each, machine)]
            self._reasons[demanded] = demands.describe(unmet)
        return self._reasons.get(demanded, "")


class SkipUnmet(_Enforcement):
    """Skips what cannot run here."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip the test by a mark of its own: so pytest reports its line, not ours."""
        if reason := self.reason(item):
            item.add_marker(pytest.mark.skip(reason=reason))


class FailUnmet(_Enforcement):
    """Fails what cannot run here."""

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Fail the test: after pytest has skipped what is to be skipped anyway, before any fixture is set up."""
        if reason := self.reason(item):
            raise NotMet(reason, pytrace=False)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let it be the test that has failed: not its setup, and not as it was expected to."""
        report = yield
        if call.excinfo and isinstance(call.excinfo.value, NotMet):
            report.when, report.outcome = "call", "failed"
            vars(report).pop("wasxfail", None)
        return report
