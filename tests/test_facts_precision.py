"""The table of number formats: sourced, dated, in order, and true of every GPU by each owner's rule."""

from __future__ import annotations

import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from pytest_bionemo import facts
from pytest_bionemo.facts import gpus, precision
from pytest_bionemo.facts.gpus import GpuModel
from pytest_bionemo.facts.precision import PYTORCH, TRANSFORMER_ENGINE

TAGS = {"doc", "src", "pypi", "iss", "ran", "mem", "secondary"}
FORMATS = ("fp16", "bf16", "tf32", "fp8", "fp8_block", "mxfp8", "nvfp4")
OWNERS = {PYTORCH, TRANSFORMER_ENGINE, "BioNeMo ESM-2", "BioNeMo Geneformer"}
EVERY_RULE = [rule for format in FORMATS for rule in precision.rules(format)]

# Compute capability, and the formats that a build for CUDA 13.0 has on it, by PyTorch and by Transformer Engine.
BY_CAPABILITY = [
    ((6, 0), "", ""),
    ((7, 0), "fp16", ""),
    ((7, 5), "fp16", ""),
    ((8, 0), "fp16 bf16 tf32", ""),
    ((8, 6), "fp16 bf16 tf32", ""),
    ((8, 9), "fp16 bf16 tf32 fp8", "fp8"),
    ((9, 0), "fp16 bf16 tf32 fp8 fp8_block", "fp8 fp8_block"),
    ((10, 0), "fp16 bf16 tf32 fp8 mxfp8 nvfp4", "fp8 fp8_block mxfp8 nvfp4"),
    ((10, 3), "fp16 bf16 tf32 fp8 mxfp8 nvfp4", "fp8 fp8_block mxfp8 nvfp4"),
    ((12, 0), "fp16 bf16 tf32 fp8 mxfp8 nvfp4", "fp8 fp8_block nvfp4"),
]


def test_the_table_is_required() -> None:
    assert "precision" in facts._REQUIRED


def test_every_format_has_a_rule_of_pytorch() -> None:
    assert precision.formats() == FORMATS
    assert all(precision.rules(format, PYTORCH) for format in FORMATS)
    assert {rule.by for rule in EVERY_RULE} == OWNERS


def test_every_rule_has_source_date_and_tag() -> None:
    for rule in EVERY_RULE:
        assert rule.source.strip(), rule
        assert rule.tag in TAGS, rule
        assert datetime.date.fromisoformat(rule.date) >= datetime.date(2026, 11, 22), rule


def test_every_tag_is_explained_at_the_top() -> None:
    header = Path(facts.__file__).with_name("precision.toml").read_text("utf-8").partition("\n\n")[0]
    assert {line.split()[1] for line in header.splitlines() if line.startswith("#   ")} >= TAGS


def test_no_rule_appears_twice_and_alternatives_do_not_overlap() -> None:
    for format in FORMATS:
        for owner in OWNERS:
            rules = sorted(precision.rules(format, owner), key=lambda rule: rule.minimum)
            for lower, higher in pairwise(rules):
                assert lower.below is not None
                assert lower.below <= higher.minimum


def test_every_range_of_capabilities_holds_one() -> None:
    assert all(rule.below is None or rule.minimum < rule.below for rule in EVERY_RULE)


@pytest.mark.parametrize(("capability", "by_pytorch", "by_engine"), BY_CAPABILITY)
def test_the_rules_say_what_each_capability_has(capability: tuple[int, int], by_pytorch: str, by_engine: str) -> None:
    for owner, expected in ((PYTORCH, by_pytorch), (TRANSFORMER_ENGINE, by_engine)):
        found = [format for format in FORMATS if precision.supports(format, owner, capability, "13.0")]
        assert found == expected.split()


@pytest.mark.parametrize("gpu", gpus.models(), ids=lambda gpu: gpu.name)
def test_the_rules_and_the_peaks_of_each_gpu_agree(gpu: GpuModel) -> None:
    peaks = {"fp16": gpu.fp16_tflops, "bf16": gpu.bf16_tflops, "tf32": gpu.tf32_tflops, "fp8": gpu.fp8_tflops}
    for format, peak in peaks.items():
        assert precision.supports(format, PYTORCH, gpu.compute_capability, "13.0") == (peak is not None)


@pytest.mark.parametrize(
    ("format", "owner", "capability", "cuda", "expected"),
    [
        ("fp8", TRANSFORMER_ENGINE, (8, 9), "12.1", True),
        ("fp8", TRANSFORMER_ENGINE, (8, 9), "11.8", False),
        ("fp8", TRANSFORMER_ENGINE, (9, 0), "11.8", True),
        ("fp8_block", TRANSFORMER_ENGINE, (9, 0), "12.8", False),
        # As text 12.10 would come before 12.9.
        ("fp8_block", TRANSFORMER_ENGINE, (9, 0), "12.10", True),
        ("fp8_block", PYTORCH, (9, 0), "12.9", True),
        ("fp8", "BioNeMo ESM-2", (8, 9), "13.0", False),
        ("fp8", "BioNeMo Geneformer", (8, 9), "13.0", True),
        ("mxfp8", "BioNeMo ESM-2", (12, 0), "13.0", False),
        ("tf32", TRANSFORMER_ENGINE, (9, 0), "13.0", False),
    ],
)
def test_owners_differ_and_cuda_counts(
    format: str, owner: str, capability: tuple[int, int], cuda: str, expected: bool
) -> None:
    assert precision.supports(format, owner, capability, cuda) is expected


def test_a_format_is_described_by_every_owner() -> None:
    assert precision.describe("fp8") == (
        "PyTorch: compute capability 8.9 or newer; Transformer Engine: 9.0 or newer, or 8.9 to below 9.0 with CUDA "
        "12.1 or newer; BioNeMo ESM-2: 9.0 or newer; BioNeMo Geneformer: 8.9 or newer"
    )


def test_an_unknown_format_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"no rule for the format 'fp6'. Choose from: fp16, bf16, tf32"):
        precision.rules("fp6")


def test_a_cuda_that_is_no_version_is_named() -> None:
    with pytest.raises(ValueError, match="'twelve' is not a version"):
        precision.supports("fp8_block", PYTORCH, (9, 0), "twelve")
