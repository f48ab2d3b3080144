"""Autocast: right as PyTorch has it, and found where it computes in another precision than the dtype tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from kernels import replaced
from pytest_bionemo.workloads import KIND, autocast
from pytest_bionemo.workloads.autocast import FORMATS, Function

SEED = 3


def dtype_of(format: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, FORMATS[format].dtype)
    return dtype


def run(format: str) -> dict[str, dict[str, Any]]:
    operations: dict[str, dict[str, Any]] = autocast.run(format, SEED)["operations"]
    return operations


def without_autocast(function: Callable[..., torch.Tensor], dtype: torch.dtype, result: torch.dtype) -> Any:
    """A kernel that computes in one dtype and casts to another."""

    def kernel(*operands: object, **options: object) -> torch.Tensor:
        cast = [operand.to(dtype) if isinstance(operand, torch.Tensor) else operand for operand in operands]
        with torch.autocast("cpu", enabled=False):
            return function(*cast, **options).to(result)

    return kernel


@pytest.mark.parametrize("format", FORMATS)
def test_every_operation_is_right_in_dtype_and_arithmetic(format: str) -> None:
    operations = run(format)
    assert {seen["kind"] for seen in operations.values()} == {"lower", "fp32", "widest"}
    for name, seen in operations.items():
        assert seen["dtype"] == seen["expected_dtype"], name
        assert seen["right"] == seen["elements"] > 0, name
        assert seen["wrong"] == 0, name


@pytest.mark.parametrize("format", FORMATS)
def test_the_witness_is_a_number_that_only_fp32_has(format: str) -> None:
    witness = torch.tensor(FORMATS[format].witness)
    assert witness != 1
    assert witness.to(dtype_of(format)) == 1
    # And neither sum is changed by being rounded to the format so much that it could be taken for the other.
    terms = autocast.pattern(FORMATS[format])
    kept, rounded = terms.sum(), terms.to(dtype_of(format)).float().sum()
    assert rounded == 0.5
    assert kept == pytest.approx(FORMATS[format].wrong)
    assert (kept.to(dtype_of(format)) - kept).abs() < 0.25 * (kept - rounded)


LOWER = {"mm": "matmul", "matmul": "matmul", "bmm": "bmm", "addmm": "addmm", "linear": "linear", "conv1d": "conv1d",
         "conv2d": "conv2d", "scaled_dot_product_attention": "scaled_dot_product_attention"}  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("operation", [name for name in LOWER if name != "mm"])
def test_an_operation_that_computes_in_fp32_and_casts_is_found(format: str, operation: str) -> None:
    silent = without_autocast(getattr(torch.ops.aten, operation), torch.float32, dtype_of(format))
    with replaced(operation, silent, "AutocastCPU"):
        seen = run(format)[LOWER[operation]]
    assert seen["dtype"] == seen["expected_dtype"], "the dtype does not tell"
    assert (seen["right"], seen["wrong"]) == (0, seen["elements"])


def test_one_operation_at_fault_leaves_the_others_right() -> None:
    silent = without_autocast(torch.ops.aten.linear, torch.float32, torch.bfloat16)
    with replaced("linear", silent, "AutocastCPU"):
        operations = run("bf16")
    assert [name for name, seen in operations.items() if seen["right"] < seen["elements"]] == ["linear"]


def test_an_operation_that_autocast_leaves_out_is_told_by_its_dtype() -> None:
    with replaced("linear", without_autocast(torch.ops.aten.linear, torch.float32, torch.float32), "AutocastCPU"):
        seen = run("bf16")["linear"]
    assert (seen["dtype"], seen["expected_dtype"]) == ("torch.float32", "torch.bfloat16")


@pytest.mark.parametrize("format", FORMATS)
def test_a_loss_that_computes_in_the_lower_precision_and_casts_is_found(format: str) -> None:
    rough = without_autocast(torch.ops.aten.mse_loss, dtype_of(format), torch.float32)
    with replaced("mse_loss", rough, "AutocastCPU"):
        seen = run(format)["mse_loss"]
    assert seen["dtype"] == seen["expected_dtype"], "the dtype does not tell"
    assert seen["wrong"] > seen["elements"] / 2


def test_a_result_that_is_no_number_is_right_in_no_precision() -> None:
    with replaced("linear", lambda *_: torch.full((8, 16), torch.nan, dtype=torch.bfloat16), "AutocastCPU"):
        seen = run("bf16")["linear"]
    assert (seen["right"], seen["wrong"]) == (0, 0)


def functions_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Function]:
    monkeypatch.setenv(KIND, "cuda")
    found = {**autocast.in_fp32(), **autocast.in_widest()}
    monkeypatch.setenv(KIND, "cpu")
    assert {"softmax", "layer_norm", "sum", "exp", "cross_entropy", "dot"} <= set(found)
    return found


@pytest.mark.parametrize("format", FORMATS)
def test_of_each_operation_in_fp32_on_the_gpu_the_two_precisions_are_told_apart(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their arithmetic, on the CPU: that autocast picks it on a GPU cannot be seen without one."""
    x, y, classes = autocast.make_operands(torch.Generator().manual_seed(SEED))
    x, y = (operand.to(dtype_of(format)) for operand in (x, y))
    for name, function in functions_of_the_gpu(monkeypatch).items():
        reference = function(x.double(), y.double(), classes)
        fine = autocast.compare(function(x.float(), y.float(), classes), reference)
        rough = autocast.compare(function(x, y, classes).float(), reference)
        assert fine["wrong"] == 0, name
        assert rough["wrong"] > 0, name


def test_the_state_of_autocast_and_products_is_left_as_it_was() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        run("bf16")
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cudnn.allow_tf32
        assert not torch.is_autocast_enabled("cpu")
    finally:
        torch.set_float32_matmul_precision("highest")
