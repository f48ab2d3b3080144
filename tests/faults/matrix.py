"""The rows of the fault matrix, and its page."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from faults import LAYERS, Row, Twin, layer_of, severity_of
from pytest_bionemo.checks import shipped
from pytest_bionemo.suite import declared_checks, import_checks, topic_of
from standin import PROFILES

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "fault-matrix.md"
_TABLES = ("base", "health", "host", "platform")
_HEADING = """\
# The fault matrix

Every shipped check is tested on healthy machines, where it passes, and with these faults injected, each as low as it
can be reached. The tests hold every row against a run: the check finds the fault, with this severity and action.
A finding that only warns leaves the verdict as it would be without the fault.

*This page is made by* `python -m faults` *in the folder of the tests, which hold the two against each other.*
"""


def rows() -> list[Row]:
    """All rows, in the order of the checks."""
    found = [*_of_tables(), *_of_tests()]
    order = {name: number for number, name in enumerate(checks())}
    return sorted(found, key=lambda row: order[row.check])


def checks() -> list[str]:
    """Every shipped check, in the order of a run."""
    return [
        f"{topic_of(module)}::{name}"
        for module in shipped()
        for name in declared_checks(import_checks(module), "full")
    ]


def twins(*tables: str) -> dict[str, Twin]:
    """Each check with its faults, of these tables or of all."""
    found: list[dict[str, Twin]] = [importlib.import_module(f"faults.{name}").TWINS for name in tables or _TABLES]
    return {check: twin for table in found for check, twin in table.items()}


def faults(pairs: Mapping[str, Twin]) -> list[Any]:
    """A pair, its check and one of its faults, as parameters of a test; all but the first of a check are marked."""
    return [
        pytest.param(twin, check, fault, id=f"{check}-{name}", marks=[pytest.mark.further_fault] if index else [])
        for check, twin in pairs.items()
        for index, (name, fault) in enumerate(twin.faults.items())
    ]


def on_the_same_machine(pairs: Mapping[str, Twin]) -> list[Any]:
    """The checks whose healthy machine is the same, which one run can hold, as parameters of a test."""
    found: dict[Any, dict[str, Twin]] = {}
    for check, twin in pairs.items():
        found.setdefault((twin.healthy, twin.options), {})[check] = twin
    return [
        pytest.param(group, id=next(iter(group)) + (f" and {len(group) - 1} more" if len(group) > 1 else ""))
        for group in found.values()
    ]


def _of_tables() -> Iterator[Row]:
    for check, twin in twins().items():
        for title, fault in twin.faults.items():
            yield Row(check, title, layer_of(fault), fault.severity or severity_of(check), fault.action)


def _of_tests() -> Iterator[Row]:
    for path in sorted(TESTS.glob("test_c*.py")):
        for value in vars(importlib.import_module(path.stem)).values():
            for mark in getattr(value, "pytestmark", ()):
                if mark.name == "fault":
                    yield mark.args[0]
                if mark.name == "parametrize":
                    yield from (inner.args[0] for one in mark.args[1] for inner in getattr(one, "marks", ())
                                if inner.name == "fault")  # fmt: skip


def machines() -> list[str]:
    """The healthy ones, on which no check raises anything."""
    platforms = importlib.import_module("test_platforms").PROFILES
    return [*PROFILES, *platforms]


def page() -> str:
    """The whole page, in Markdown."""
    every = rows()
    layers = sorted({row.layer for row in every}, key=list(LAYERS).index)
    table = [
        f"| `{row.check}` | {row.fault} | {row.layer} | {row.severity} | {row.action} | {row.verdict} |"
        for row in every
    ]
    return "\n".join(
        [
            _HEADING,
            f"{len(every)} faults, {len({row.check for row in every})} checks.",
            "",
            "| check that finds it | fault | layer | severity | action | verdict |",
            "|---|---|---|---|---|---|",
            *table,
            "",
            "## Healthy machines",
            "",
            f"On each of these {len(machines())} no check, of whatever topic, fails, warns or waits: the verdict is",
            "READY_FOR_INSTALL.",
            "",
            *(f"- {name}" for name in machines()),
            "",
            "## Layers",
            "",
            *(f"- **{layer}**: {LAYERS[layer]}" for layer in layers),
            "",
        ]
    )
