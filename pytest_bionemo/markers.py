"""The marker ``gpu_env``: validated when tests are collected; a test that cannot run here is skipped, or fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

import pytest

from pytest_bionemo import demands, options, unmet
from pytest_bionemo.demands import Demand
from pytest_bionemo.facts import FactsError
from pytest_bionemo.probes.machine import Machine

MARKER = "gpu_env"

REFUSED = "bionemo_refused"
"""Where a process of pytest-xdist leaves the line that the controller is to end with."""

_PLUGIN = "bionemo_markers"
_DEMANDED: pytest.StashKey[tuple[Demand, ...]] = pytest.StashKey()
"""What the markers of a test demanded when it was collected."""


def skip_or_fail(config: pytest.Config, reason: str) -> NoReturn:
    """End a test, from it or from a fixture, for which something is missing here: in a strict run it fails.

    It is reported at the test's own line, in one line without a traceback.
    """
    __tracebackhide__ = True
    unmet.end(options.read(config).strict, reason)


def enforce(
    config: pytest.Config, items: list[pytest.Item], marked: Sequence[pytest.Item], machine: Callable[[], Machine]
) -> None:
    """Validate the markers of these tests, and see to it that they count when the tests run.

    ``items`` are the tests of the run; ``machine`` gives its probes: they are asked when the first such test runs.

    :raises pytest.UsageError: one line that names the test and what is wrong with its marker.
    """
    for item in marked:
        try:
            item.stash[_DEMANDED] = demanded_by(item)
        except (ValueError, FactsError) as error:
            return _refuse(config, items, f"{item.nodeid}: {error}")
    if any(demand.nvlink is not None for item in items for demand in item.stash.get(_DEMANDED, ())):
        machine().include_health()  # before a fixture asks: the driver is asked once
    if not config.pluginmanager.has_plugin(_PLUGIN):  # somebody may collect twice
        config.pluginmanager.register(_Enforcement(config, machine), _PLUGIN)


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
    """Ends each test of one run whose demands are not met: those of all its markers have to be."""

    def __init__(self, config: pytest.Config, machine: Callable[[], Machine]) -> None:
        self._config = config
        self._machine = machine
        self._reasons: dict[tuple[Demand, ...], str] = {}

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """After pytest has skipped what is to be skipped anyway, before any fixture is set up."""
        if reason := self._reason(item.stash.get(_DEMANDED, ())):
            skip_or_fail(self._config, reason)

    def _reason(self, demanded: tuple[Demand, ...]) -> str:
        """Why a test cannot run here; empty if it can. Asked once for the same demands."""
        if demanded and demanded not in self._reasons:
            machine = self._machine()
            missing = [one for each in demanded for one in demands.unmet(each, machine)]
            self._reasons[demanded] = demands.describe(missing)
        return self._reasons.get(demanded, "")
