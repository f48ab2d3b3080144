"""The tables of Xids and of what a healthy GPU has."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from pytest_bionemo import facts
from pytest_bionemo.facts import gpus, health, xids

FOLDER = Path(facts.__file__).parent
TAGS = {"doc", "src", "pypi", "iss", "ran", "mem", "secondary"}


@pytest.mark.parametrize("name", ["health", "xids"])
def test_every_row_has_source_date_and_tag(name: str) -> None:
    rows = [row for kind in facts.load(name).values() for row in kind]
    assert len(rows) > 5
    for row in rows:
        assert row["source"].strip(), row
        assert row["tag"] in TAGS, row
        assert datetime.date.fromisoformat(row["date"]) >= datetime.date(2026, 11, 22), row
    header = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").partition("\n\n")[0]
    assert {line.split()[1] for line in header.splitlines() if line.startswith("#   ")} >= TAGS


def test_no_xid_has_two_meanings() -> None:
    codes = [code for row in facts.load("xids")["xid"] for code in row["codes"]]
    assert len(set(codes)) == len(codes) == len(xids.meanings())
    assert all(0 < code < 1000 for code in codes)


def test_every_xid_says_what_it_means_and_asks_for() -> None:
    for code, meaning in xids.meanings().items():
        assert meaning.text, code
        assert meaning.text[-1] != ".", code
        assert meaning.kind in (*xids.CLASSES, "told"), code
        assert meaning.source.startswith("NV: "), code


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (13, "application"), (31, "application"), (43, "application"), (45, "application"), (94, "application"),
        (92, "watch"), (48, "reset"), (64, "reset"), (74, "reset"), (95, "reset"), (119, "reset"), (140, "reset"),
        (79, "reboot"), (151, "reboot"), (168, "reboot"), (54, "replace"), (154, "told"), (899, "watch"),
    ],
)  # fmt: skip
def test_the_xids_that_matter_ask_for_what_nvidia_and_aws_say(code: int, kind: str) -> None:
    assert xids.find(code).kind == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)", "reboot"),
        ("GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)", "reset"),
        ("GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)", "reset"),
        ("GPU recovery action changed from 0x0 (None) to 0x3 (Drain P2P)", "drain"),
        ("GPU recovery action changed from 0x2 (Node Reboot Required) to 0x0 (None)", "none"),
        ("GPU recovery action changed from 0x0 (None) to 0x9 (Something New)", None),
        ("", None),
    ],
)
def test_the_driver_tells_what_it_wants_in_words(text: str, kind: str | None) -> None:
    assert xids.told(text) == kind


def test_nvlinks_are_those_of_models_that_are_on_record() -> None:
    rows = {row["model"]: row["count"] for row in facts.load("health")["nvlinks"]}
    by_name = {model.name: model for model in gpus.models()}
    assert len(rows) == len(facts.load("health")["nvlinks"])
    for name, count in rows.items():
        model = by_name[name]
        assert not model.nvlink_bridge, name
        assert model.nvlink_gbs, name
        # A link has carried 50 GB/s, both directions, from its second generation to its fourth, then 100.
        assert model.nvlink_gbs / count in (50, 100), name
    boards = {model.name for model in gpus.models() if model.nvlink_gbs and not model.nvlink_bridge}
    assert boards - rows.keys() == {"V100 SXM2", "GH200 96GB", "GH200 144GB"}
    assert health.nvlinks("T4") is None


def test_a_limit_without_a_row_is_an_error() -> None:
    assert health.limit("pcie_replays_per_minute") == 8
    with pytest.raises(LookupError, match="no limit of the name 'mood'"):
        health.limit("mood")
