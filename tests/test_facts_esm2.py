"""The table of ESM-2: sourced, dated, and true of the models that transformers builds."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_bionemo import facts
from pytest_bionemo.facts import esm2
from pytest_bionemo.facts.esm2 import Configuration
from pytest_bionemo.workloads import esm2 as workload

TAGS = {"doc", "src", "pypi", "iss", "ran", "mem", "secondary"}
PUBLISHED = ["8M", "35M", "150M", "650M", "3B", "15B"]


def rows() -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for value in facts.load("esm2").values():
        found += value if isinstance(value, list) else [value]
    return found


def test_the_table_is_required() -> None:
    assert "esm2" in facts._REQUIRED


def test_every_row_has_source_date_and_tag() -> None:
    assert len(rows()) == 5 + 7
    for row in rows():
        assert row["source"].strip(), row
        assert row["tag"] in TAGS, row
        assert datetime.date.fromisoformat(row["date"]) >= datetime.date(2026, 11, 22), row


def test_every_tag_is_explained_at_the_top() -> None:
    header = (Path(facts.__file__).parent / "esm2.toml").read_text(encoding="utf-8").partition("\n\n")[0]
    explained = {line.split()[1] for line in header.splitlines() if line.startswith("#   ")}
    assert explained >= TAGS


def test_the_published_sizes_and_ours_are_there_from_small_to_large() -> None:
    assert [size.name for size in esm2.configurations()] == ["tiny", *PUBLISHED]
    counts = [size.parameters for size in esm2.configurations()]
    assert counts == sorted(counts)


def test_only_the_size_that_is_no_published_model_is_marked_as_ours() -> None:
    ours = [row["name"] for row in facts.load("esm2")["configuration"] if row.get("ours")]
    assert ours == ["tiny"]
    assert [size.name for size in esm2.configurations() if size.model is None] == ours


@pytest.mark.parametrize("size", esm2.configurations(), ids=lambda size: size.name)
def test_a_size_has_the_shape_of_esm2(size: Configuration) -> None:
    assert size.hidden % size.heads == 0
    assert size.ffn == (2 if size.name == "tiny" else 4) * size.hidden
    if size.model:
        assert size.model == f"esm2_t{size.layers}_{size.name}_UR50D"


@pytest.mark.parametrize("size", esm2.configurations(), ids=lambda size: size.name)
def test_the_parameters_are_those_of_the_model_that_transformers_builds(size: Configuration) -> None:
    """Without memory for them: 15B has 60 GB of weights."""
    with torch.device("meta"):
        model = workload.build(size.name)
    counted = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert sum(counted.values()) == size.parameters
    assert sum(number for name, number in counted.items() if workload.is_trained(name)) == size.trained_parameters


def test_an_unknown_size_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"'7B' is not a size of ESM-2\. Choose from: tiny, 8M, .*15B\."):
        esm2.find("7B")


def test_the_alphabet_has_twenty_residues_apart_from_the_special_tokens() -> None:
    tokens = esm2.alphabet()
    residues = set(range(tokens.first_residue, tokens.last_residue + 1))
    special = {tokens.cls, tokens.pad, tokens.eos, tokens.mask}
    assert len(residues) == 20
    assert len(special) == 4
    assert not residues & special
    assert max(residues | special) < tokens.size
    assert tokens.random_guess_loss == pytest.approx(math.log(33))


def test_the_training_is_one_that_can_fail_and_can_pass() -> None:
    training = esm2.training()
    assert 0 < training.learning_rate < 1e-2
    assert 0 < training.betas[0] < training.betas[1] < 1
    assert training.eps > 0
    assert training.weight_decay >= 0
    assert training.gradient_clip > 0
    assert training.steps >= 10
    # A fall by less than the scatter of untrained models would say nothing; one to below zero cannot be.
    assert 0.1 <= training.least_fall < esm2.alphabet().random_guess_loss - training.untrained_margin
    assert 0 < training.untrained_margin < esm2.alphabet().random_guess_loss / 2


def test_what_all_sizes_share_is_a_setting_that_transformers_knows() -> None:
    from transformers import EsmConfig

    shared = esm2.common()
    config = EsmConfig(**shared)
    assert {name: getattr(config, name) for name in shared} == dict(shared)
