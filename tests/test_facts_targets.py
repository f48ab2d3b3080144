"""The table of targets: sourced, dated, complete, and of one mind with the other tables."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pytest_bionemo import facts
from pytest_bionemo.facts import esm2, gpus, precision, targets
from pytest_bionemo.facts.targets import Target

TAGS = {"doc", "src", "pypi", "iss", "ran", "mem", "secondary"}
KINDS = ("recipe", "target", "checkpoint", "published")
EVERY = targets.targets()
# What its name says, in parameters.
SIZES = {
    "evo2-1b": 1e9, "evo2-7b": 7e9, "evo2-40b": 40e9, "geneformer-10m": 10e6, "geneformer-106m": 106e6,
    "codonfm-80m": 80e6, "codonfm-600m": 600e6, "codonfm-1b": 1e9, "codonfm-5b": 5e9, "amplify-120m": 120e6,
    "amplify-350m": 350e6, "llama3-8b": 8e9, "llama3-70b": 70e9,
}  # fmt: skip


def rows() -> list[Mapping[str, Any]]:
    table = facts.load("targets")
    return [table["overhead"], *(row for kind in KINDS for row in table[kind])]


def test_the_table_is_required() -> None:
    assert "targets" in facts._REQUIRED


def test_every_row_has_source_date_and_tag() -> None:
    for row in rows():
        assert row["source"].strip(), row
        assert row["tag"] in TAGS, row
        assert datetime.date.fromisoformat(row["date"]) >= datetime.date(2026, 11, 22), row


def test_every_tag_is_explained_at_the_top() -> None:
    header = (Path(facts.__file__).parent / "targets.toml").read_text(encoding="utf-8").partition("\n\n")[0]
    explained = {line.split()[1] for line in header.splitlines() if line.startswith("#   ")}
    assert explained >= TAGS


def test_every_workload_of_the_mission_is_there() -> None:
    published = [f"esm2-{size.name.lower()}" for size in esm2.configurations() if size.model]
    assert targets.names() == (*published, *SIZES)


def test_names_are_unique_and_fit_into_a_node_id() -> None:
    assert len(set(targets.names())) == len(EVERY)
    assert all(name == name.lower() and name.replace("-", "").isalnum() for name in targets.names())


@pytest.mark.parametrize("name", SIZES)
def test_a_name_says_how_many_parameters_there_are(name: str) -> None:
    assert targets.find(name).shape.parameters == pytest.approx(SIZES[name], rel=0.12)


@pytest.mark.parametrize("target", EVERY, ids=lambda target: target.name)
def test_a_shape_has_the_parameters_that_it_should_have(target: Target) -> None:
    """Attention, feed-forward layers and embeddings make up nearly all of them."""
    shape = target.shape
    attention = 2 * shape.hidden**2 * (1 + shape.key_heads / shape.heads)
    layer = attention + (3 if shape.gated else 2) * shape.hidden * shape.ffn
    embeddings = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    assert shape.layers * layer + embeddings == pytest.approx(shape.parameters, rel=0.15)
    assert shape.hidden % shape.heads == shape.heads % shape.key_heads == 0


def test_the_shapes_of_esm2_are_those_of_its_own_table() -> None:
    for size in esm2.configurations()[1:]:
        shape = targets.find(f"esm2-{size.name.lower()}").shape
        assert (shape.parameters, shape.layers, shape.hidden, shape.ffn, shape.heads) == (
            size.parameters, size.layers, size.hidden, size.ffn, size.heads,
        )  # fmt: skip


def test_every_row_is_of_something_that_there_is() -> None:
    table = facts.load("targets")
    assert {row["target"] for kind in ("checkpoint", "published") for row in table[kind]} <= set(targets.names())
    assert {row["recipe"] for row in table["target"]} == {row["name"] for row in table["recipe"]}
    assert {row["gpu"] for row in table["published"]} <= {model.name for model in gpus.models()}


@pytest.mark.parametrize("row", facts.load("targets")["recipe"], ids=lambda row: row["name"])
def test_a_recipe_states_what_it_needs(row: Mapping[str, Any]) -> None:
    required = {Requirement(text).name for text in row["requires"]}
    assert "torch" in required
    assert len(required) == len(row["requires"])
    assert set(row.get("after_torch", ())) <= required
    assert str(SpecifierSet(row.get("python", ""))) or "python" not in row
    assert row["folder"].startswith("bionemo-recipes/")
    assert row["image"].partition(":")[2]


@pytest.mark.parametrize("target", EVERY, ids=lambda target: target.name)
def test_every_format_has_a_rule_and_the_first_asks_least(target: Target) -> None:
    recipe = target.recipe
    assert set(recipe.formats) <= set(precision.formats())
    assert recipe.least_capability() == (8, 0)
    for capability in ((7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (12, 0)):
        trains = [recipe.trains_in(format, capability, "13.0") for format in recipe.formats]
        assert trains[0] == (capability >= (8, 0))
        assert trains[0] or not any(trains)


@pytest.mark.parametrize(
    ("name", "capability", "formats"),
    [
        ("esm2-650m", (8, 9), "bf16"),  # BioNeMo's README asks for 9.0
        ("geneformer-10m", (8, 9), "bf16 fp8"),  # its README for 8.9
        ("evo2-7b", (8, 9), "bf16 fp8"),  # and Transformer Engine as well
        ("esm2-650m", (9, 0), "bf16 fp8"),
        ("esm2-650m", (10, 0), "bf16 fp8 mxfp8 nvfp4"),
        ("esm2-650m", (7, 5), ""),
    ],
)
def test_each_recipe_goes_by_its_own_rules(name: str, capability: tuple[int, int], formats: str) -> None:
    recipe = targets.find(name).recipe
    assert [one for one in recipe.formats if recipe.trains_in(one, capability, None)] == formats.split()


def usable(name: str, capability: tuple[int, int]) -> list[str]:
    target = targets.find(name)
    return [
        checkpoint.name
        for checkpoint in target.checkpoints
        if checkpoint.is_for(capability) and target.recipe.trains_in(checkpoint.format, capability, "13.0")
    ]


@pytest.mark.parametrize(
    ("name", "on_ampere", "on_hopper", "on_blackwell"),
    [
        ("evo2-1b", ["evo2/1b-8k-bf16:1.0"], ["evo2/1b-8k:1.0", "evo2/1b-8k-bf16:1.0"],
         ["evo2/1b-8k:1.0", "evo2/1b-8k-bf16:1.0"]),
        ("evo2-7b", ["evo2/7b-8k:1.0", "evo2/7b-1m:1.0"], ["evo2/7b-8k:1.0", "evo2/7b-1m:1.0"],
         ["evo2/7b-8k:1.0", "evo2/7b-1m:1.0"]),
        ("evo2-40b", ["evo2/40b-1m-fp8-bf16:1.0"], ["arcinstitute/savanna_evo2_40b_base", "evo2/40b-1m-fp8-bf16:1.0"],
         ["evo2/40b-1m-fp8-bf16:1.0"]),
    ],
)  # fmt: skip
def test_the_checkpoints_of_evo2_are_for_the_gpus_of_its_matrix(
    name: str, on_ampere: list[str], on_hopper: list[str], on_blackwell: list[str]
) -> None:
    assert usable(name, (8, 0)) == on_ampere
    assert usable(name, (9, 0)) == on_hopper
    assert usable(name, (10, 0)) == on_blackwell


@pytest.mark.parametrize("target", EVERY, ids=lambda target: target.name)
def test_what_is_published_is_possible(target: Target) -> None:
    for figure in target.published:
        model = next(model for model in gpus.models() if model.name == figure.gpu)
        # The fastest format on record is four times as fast as BF16, FP4 included.
        most = 4 * 1e12 * (model.bf16_tflops or 0)
        done = {"tokens/s": 6 * target.shape.parameters * figure.value, "TFLOP/s": 1e12 * figure.value, "s": 1.0}
        assert 0 < done[figure.unit] < most
        assert figure.gpus >= 1


def test_what_targets_need_is_normalised_and_holds_their_names() -> None:
    needed = targets.needed_by(["esm2-8m", "evo2-7b"])
    assert {"esm2-8m", "evo2-7b", "transformer-engine", "nvdlfw-inspect", "bionemo-noodles", "torch"} <= needed
    assert "bionemo-scdl" not in needed
    assert targets.needed_by([]) == frozenset()


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(LookupError, match="esm2-7b is not in the table of targets"):
        targets.find("esm2-7b")
