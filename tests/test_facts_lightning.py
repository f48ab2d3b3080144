"""The table of Lightning: sourced, dated, and about packages that there are."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from pytest_bionemo import facts
from pytest_bionemo.facts import family, lightning

TABLE = facts.load("lightning")
ROWS: list[Mapping[str, Any]] = [*TABLE["distribution"], *TABLE["requirement"]]
TAGS = {"doc", "src", "pypi", "iss", "ran", "mem", "secondary"}


def name_of(row: Mapping[str, Any]) -> str:
    return str(row.get("name") or row["by"])


def test_a_validation_does_not_start_without_the_table() -> None:
    assert "lightning" in facts._REQUIRED


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_every_row_has_source_date_and_tag(row: Mapping[str, Any]) -> None:
    assert row["source"].strip()
    assert row["tag"] in TAGS
    assert datetime.date.fromisoformat(row["date"]) >= datetime.date(2026, 11, 22)


def test_every_tag_is_explained_at_the_top() -> None:
    header = Path(facts.__file__).with_name("lightning.toml").read_text(encoding="utf-8").partition("\n\n")[0]
    assert {line.split()[1] for line in header.splitlines() if line.startswith("#   ")} >= TAGS


def test_nothing_else_stands_in_the_table() -> None:
    assert set(TABLE) == {"distribution", "requirement"}


def test_the_distributions_in_the_order_in_which_one_is_chosen() -> None:
    assert dict(lightning.modules()) == {"lightning": "lightning.pytorch", "pytorch-lightning": "pytorch_lightning"}
    assert next(iter(lightning.modules())) == "lightning"


@pytest.mark.parametrize("row", TABLE["requirement"], ids=name_of)
def test_a_requirement_is_of_a_known_package_on_lightning(row: Mapping[str, Any]) -> None:
    assert row["on"] in lightning.modules()
    assert row["by"] == canonicalize_name(row["by"])
    assert row["by"] == "nemo-toolkit" or family.find(row["by"])
    assert all(extra == canonicalize_name(extra) for extra in row.get("extras", ()))
    assert row["link"].startswith("https://")


def test_no_requirement_appears_twice() -> None:
    pairs = [(row["by"], row["on"]) for row in TABLE["requirement"]]
    assert len(set(pairs)) == len(pairs) > 1


def test_nemo_caps_lightning_below_what_is_current_and_in_extras_alone() -> None:
    (row,) = [row for row in TABLE["requirement"] if row["by"] == "nemo-toolkit"]
    assert "2.4.0" in SpecifierSet(row["specifier"])
    assert "2.5.0" not in SpecifierSet(row["specifier"])
    assert "2.6.6" not in SpecifierSet(row["specifier"])
    assert row["extras"]


def test_bionemo_llm_has_no_cap() -> None:
    (row,) = [row for row in TABLE["requirement"] if row["by"] == "bionemo-llm"]
    assert "2.6.6" in SpecifierSet(row["specifier"])
    assert "2.2.0" not in SpecifierSet(row["specifier"])


def test_a_reason_is_found_by_both_names() -> None:
    known = lightning.reason("nemo-toolkit", "lightning")
    assert known
    assert "2.5" in known.why
    assert known.link == "https://github.com/NVIDIA-NeMo/Speech/pull/11694"
    assert lightning.reason("nemo-toolkit", "pytorch-lightning") is None
    assert lightning.reason("somebody", "lightning") is None
