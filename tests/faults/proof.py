"""What holds of every pair of a check: passed on a healthy machine, found where the fault is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

import pytest

from conftest import Rig
from faults import Fault, Twin, matrix, severity_of, with_parameter


class Pairs:
    """The tests of the pairs of some tables: a test class inherits it and names them."""

    tables: ClassVar[tuple[str, ...]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        twins = matrix.twins(*self.tables)
        if "fault" in metafunc.fixturenames:
            metafunc.parametrize(("twin", "check", "fault"), matrix.faults(twins))
        else:
            metafunc.parametrize("twins", matrix.on_the_same_machine(twins))

    def test_passes_on_a_healthy_machine(self, healthy_rig: Rig, twins: dict[str, Twin]) -> None:
        assert_all_pass(healthy_rig, twins)

    def test_fails_where_the_fault_is_and_nowhere_else(
        self, healthy_rig: Rig, twin: Twin, check: str, fault: Fault
    ) -> None:
        assert_fails_where_the_fault_is_and_nowhere_else(healthy_rig, check, twin, fault)


def assert_all_pass(rig: Rig, twins: Mapping[str, Twin]) -> None:
    """Hold the healthy halves of pairs whose healthy machine is the same."""
    ((healthy, options),) = {(twin.healthy, twin.options) for twin in twins.values()}
    healthy(rig)
    run = rig.validate(*options)
    names = [with_parameter(check, twin.parameter) for check, twin in twins.items()]
    assert {name: run.outcome(name) for name in names} == dict.fromkeys(names, "passed"), run.stdout


def assert_fails_where_the_fault_is_and_nowhere_else(rig: Rig, check: str, twin: Twin, fault: Fault) -> None:
    """Hold the other half."""
    fault.inject(rig)
    run = rig.validate(*twin.options)
    name = with_parameter(check, fault.parameter)
    assert run.outcome(name) == ("warned" if (fault.severity or severity_of(check)) == "warning" else "failed"), (
        run.stdout
    )
    finding = run.finding(name)
    assert re.search(fault.message, finding["message"])
    assert re.search(fault.fix, "\n".join(finding["fix"]))
    assert finding["fix"], "a finding says how to fix it"
    assert finding["why"], "and why it matters"
    assert finding["action"] == (fault.action or finding["action"])
    # One root cause: what depends on it waits for it. Where every GPU has the fault, each of them is named.
    assert {blocker.partition("[")[0] for blocker in run.blockers} <= {check}
    assert {gap["waits_for"] for gap in run.bionemo["not_run"]} <= {f"bionemo/{name}"}
    assert run.verdict == ("BLOCKED" if run.blockers else "READY_FOR_INSTALL")
    assert run.returncode == (1 if run.blockers else 0)
