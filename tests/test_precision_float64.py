"""Agreement with FP64: the bound holds, is attained by the worst roundings, and is broken by an error beyond it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kernels import replaced
from pytest_bionemo.workloads import float64_agreement
from pytest_bionemo.workloads.float64_agreement import FORMATS, compare, error_bound, make_operands

SIZE, TERMS = 48, 256
# Those whose bound is below 2^-5.
SHARP = ("fp32", "tf32", "bf16", "fp16")

Fault = Callable[[torch.Tensor], object]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20261122)


def run(format: str, seed: int = 1) -> dict[str, Any]:
    return float64_agreement.run(format, SIZE, TERMS, seed)


def faulty(fault: Fault) -> Callable[..., torch.Tensor]:
    def kernel(a: torch.Tensor, b: torch.Tensor, *_: object) -> torch.Tensor:
        if a.dtype == torch.float8_e4m3fn:
            a, b = a.float(), b.float()
        result = torch.bmm(a.unsqueeze(0), b.unsqueeze(0))[0]
        if result.dtype != torch.float64:
            fault(result)
        return result

    return kernel


@pytest.mark.parametrize("format", FORMATS)
def test_a_healthy_device_stays_within_the_bound(format: str) -> None:
    for seed in range(3):
        found = run(format, seed)
        assert (found["not_finite"], found["beyond"]) == (0, 0)
        assert 0 < found["largest_share"] < 0.5


@pytest.mark.parametrize("format", SHARP)
@pytest.mark.parametrize("place", [(0, 0), (5, 7), (SIZE - 1, SIZE - 1)])
def test_a_relative_error_of_a_32nd_in_one_element_is_found_wherever_it_is(
    format: str, place: tuple[int, int]
) -> None:
    with replaced("mm", faulty(lambda result: result[place].mul_(1 + 2.0**-5))):
        found = run(format)
    assert (found["not_finite"], found["beyond"]) == (0, 1)
    assert tuple(found["worst"][:2]) == place
    assert found["largest_share"] == pytest.approx(2.0**-5 / found["bound"], rel=0.5)


def test_fp8_finds_an_error_of_a_quarter() -> None:
    with replaced("_scaled_mm", faulty(lambda result: result[5, 7].mul_(1.25))):
        found = run("fp8")
    assert found["beyond"] == 1
    assert found["worst"][:2] == [5, 7]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("format", SHARP)
def test_one_element_that_is_no_number_is_found(format: str, value: float) -> None:
    with replaced("mm", faulty(lambda result: result[5, 7].fill_(value))):
        found = run(format)
    assert (found["not_finite"], found["beyond"]) == (1, 0)
    assert found["worst"][:2] == [5, 7]
    assert found["largest_share"] < 1, "of the others"


def test_a_result_without_one_number_has_no_largest_error() -> None:
    with replaced("mm", faulty(lambda result: result.fill_(torch.nan))):
        found = run("fp32")
    assert found["not_finite"] == SIZE * SIZE
    assert found["largest_share"] is None


@pytest.mark.parametrize("format", FORMATS)
def test_the_worst_roundings_attain_the_bound_and_do_not_break_it(format: str, generator: torch.Generator) -> None:
    """Every rounding as far up as it can go: of each operand, of each of K additions, and of the result."""
    a, b = (operand.double() for operand in make_operands(SIZE, TERMS, generator))
    number_format = FORMATS[format]
    operands, step, last = (1 + u for u in (number_format.operands, number_format.accumulation, number_format.result))
    worst = ((a * operands) @ (b * operands)) * step**TERMS * last
    found = compare(worst, a @ b, number_format.bound(TERMS))
    assert 0.9 < found["largest_share"] <= 1
    # One more rounding of the result, and the bound is broken wherever there is one.
    broken = compare(worst * (1 + 2.0**-7), a @ b, number_format.bound(TERMS))
    assert broken["beyond"] == SIZE * SIZE


def test_nothing_cancels(generator: torch.Generator) -> None:
    a, b = (operand.double() for operand in make_operands(SIZE, TERMS, generator))
    torch.testing.assert_close(a.abs() @ b.abs(), (a @ b).abs())
    assert set((a @ b).sign().flatten().tolist()) == {-1.0, 1.0}
    assert a.abs().min() >= 0.5
    assert a.abs().max() <= 2


def test_a_sum_of_too_many_terms_has_no_bound() -> None:
    with pytest.raises(ValueError, match=r"8192 terms at a unit roundoff of 0\.00012.*: there is no bound"):
        error_bound(8192, 0.0, 0.0, 2.0**-13, 0.0)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "_scaled_mm"])
def test_what_an_older_pytorch_lacks_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, name)
    assert run("fp8") == {"absent": f"torch.{name}", "refused": None}


def test_a_refusal_is_told_and_a_fault_is_raised() -> None:
    def kernel(*_: object) -> torch.Tensor:
        raise RuntimeError(text)

    with replaced("_scaled_mm", kernel):
        text = "only supported on CUDA devices with compute capability >= 9.0"
        assert run("fp8") == {"absent": None, "refused": text}
        text = "CUDA error: unspecified launch failure"
        with pytest.raises(RuntimeError, match="unspecified launch failure"):
            run("fp8")


def test_the_precision_of_the_process_is_left_as_it_was() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        for format in FORMATS:
            run(format)
            assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
