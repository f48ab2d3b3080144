"""The pairs of the topic health: see test_twins.py."""

from __future__ import annotations

import pytest

from conftest import Rig
from faults import Fault, Twin, matrix
from faults.proof import assert_all_pass, assert_fails_where_the_fault_is_and_nowhere_else

TWINS = matrix.twins("health")
FAULTS = matrix.faults(TWINS)


@pytest.mark.parametrize("twins", matrix.on_the_same_machine(TWINS))
def test_passes_on_a_healthy_machine(healthy_rig: Rig, twins: dict[str, Twin]) -> None:
    assert_all_pass(healthy_rig, twins)


@pytest.mark.parametrize(("check", "fault"), FAULTS)
def test_fails_where_the_fault_is_and_nowhere_else(healthy_rig: Rig, check: str, fault: Fault) -> None:
    assert_fails_where_the_fault_is_and_nowhere_else(healthy_rig, check, TWINS[check], fault)
