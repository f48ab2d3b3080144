"""The table of what a machine has to offer: sourced, dated, and in an order that makes sense."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from pytest_bionemo import facts
from pytest_bionemo.facts import host, wheels

TAGS = {"doc", "src", "pypi", "iss", "ran", "mem", "secondary", "own"}


def rows() -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for value in facts.load("host").values():
        found += value if isinstance(value, list) else [value]
    return found


def test_the_table_is_required() -> None:
    assert "host" in facts._REQUIRED


def test_every_row_has_source_date_and_tag() -> None:
    assert len(rows()) == 13 + 3
    for row in rows():
        assert row["source"].strip(), row
        assert row["tag"] in TAGS, row
        assert datetime.date.fromisoformat(row["date"]) >= datetime.date(2026, 11, 22), row


def test_every_tag_is_explained_at_the_top() -> None:
    header = (Path(facts.__file__).parent / "host.toml").read_text(encoding="utf-8").partition("\n\n")[0]
    assert {line.split()[1] for line in header.splitlines() if line.startswith("#   ")} == TAGS


def test_a_choice_of_this_project_says_that_it_is_one_and_why() -> None:
    for row in rows():
        if "value" in row:
            assert row["source"].startswith("this project's choice") == (row["tag"] == "own"), row
            assert row["about"], row
            assert row["unit"] in ("bytes", "files", "tasks", "percent", "cores", "distance"), row


def test_every_threshold_is_positive_and_there_once() -> None:
    thresholds = facts.load("host")["threshold"]
    names = [row["name"] for row in thresholds]
    assert len(set(names)) == len(names)
    assert all(host.threshold(name) > 0 for name in names)


def test_thresholds_fit_each_other() -> None:
    of_a_container = host.threshold("shared_memory_of_a_container")
    assert of_a_container == 64 << 20
    assert of_a_container < host.threshold("shared_memory_for_several_gpus") < host.threshold("locked_memory")
    assert host.threshold("available_memory") < host.threshold("memory_per_gpu")
    assert host.threshold("disk_for_temporary_files") < host.threshold("disk_for_caches")
    assert host.threshold("remote_node") > 10


def test_an_unknown_threshold_is_an_error() -> None:
    with pytest.raises(LookupError):
        host.threshold("luck")


def test_the_clock_begins_before_the_table_was_written_and_ends_long_after() -> None:
    clock = host.clock()
    written = datetime.datetime.fromisoformat(facts.load("host")["clock"]["not_before"] + "T00:00:00+00:00")
    assert written.timestamp() - clock.earliest == clock.tolerance == 24 * 3600
    assert clock.latest - clock.earliest > 15 * 365 * 24 * 3600


def test_the_recommended_python_is_one_that_pytorch_has_wheels_for() -> None:
    recommended = host.recommended_python()
    assert Version(recommended) < Version(host.newest_python())
    assert all(recommended in SpecifierSet(wheel.python) for wheel in wheels.releases())


def test_drivers_with_a_powersave_of_their_own_are_those_of_the_active_mode() -> None:
    assert host.own_powersave() == ("intel_pstate", "amd-pstate-epp")
