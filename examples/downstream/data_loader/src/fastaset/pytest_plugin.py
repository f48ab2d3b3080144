"""Checks of this package in ``pytest --bionemo-validate``, wherever both are installed."""

from __future__ import annotations

import os

import pytest


# Without pytest-bionemo nobody asks, and nothing is said.
@pytest.hookimpl(optionalhook=True)
def pytest_bionemo_checks(config: pytest.Config) -> list[str]:
    """The modules with our checks: one topic each."""
    return ["fastaset.checks.sequences"]


@pytest.hookimpl(optionalhook=True)
def pytest_bionemo_environment(config: pytest.Config) -> dict[str, object]:
    """Facts of ours for the report."""
    return {"fastaset_folder": os.environ.get("FASTASET")}
