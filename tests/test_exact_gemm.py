"""Exact products: right ones are found right, and one wrong element among thousands is found, every time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pytest_bionemo.worker import Device, Workers
from pytest_bionemo.workloads import exact_gemm
from pytest_bionemo.workloads.exact_gemm import FORMATS, LARGEST_SIZE, Problem

WORKLOAD = "pytest_bionemo.workloads.exact_gemm:run"

# What a faulty GPU does, at the lowest level that a machine without one has: in the process of the worker, each
# product of two matrices passes through this.
FAULTY = """
import builtins

_import = builtins.__import__


def spoil(torch):
    multiply = torch.Tensor.__matmul__
    last = {{}}

    def faulty(a, b):
        result = multiply(a, b)
        if result.dtype in (torch.float64, torch.int64):
            return result
        {fault}
        return result

    torch.Tensor.__matmul__ = faulty


def watch(name, *args, **kwargs):
    module = _import(name, *args, **kwargs)
    if name == "torch" and hasattr(module, "Tensor") and not hasattr(module, "is_spoilt"):
        module.is_spoilt = True
        spoil(module)
    return module


builtins.__import__ = watch
"""


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20261122)


@pytest.fixture
def faulty_run(tmp_path: Path) -> Iterator[Callable[[str], dict[str, object]]]:
    """The workload in a worker whose matrix products have a fault."""
    made: list[Workers] = []

    def run(fault: str) -> dict[str, object]:
        (tmp_path / "sitecustomize.py").write_text(FAULTY.format(fault=fault))
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        made.append(Workers([Device("cpu", {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path})], 120))
        return dict(made[-1].run("cpu", WORKLOAD, format="fp32", size=64, repeats=3, seed=1))

    yield run
    for workers in made:
        workers.close()


def problem(name: str, generator: torch.Generator, size: int = 64) -> Problem:
    return exact_gemm.make_problem(FORMATS[name], size, generator)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [1, 17, 256])
def test_a_healthy_device_makes_no_mistake(name: str, size: int) -> None:
    found = exact_gemm.run(name, size, repeats=2, seed=7)
    assert found["mismatches"] == 0
    assert found["first"] is None
    assert found["verified_multiply_accumulates"] == 2 * size**3
    assert found["found_output_flip"] is True


@pytest.mark.parametrize("name", FORMATS)
def test_the_self_proof_finds_a_flip_in_an_operand(name: str) -> None:
    assert exact_gemm.run(name, 64, repeats=1, seed=3)["found_input_flip"] is True


@pytest.mark.parametrize("name", FORMATS)
def test_one_flipped_bit_is_found_a_hundred_times_of_a_hundred(name: str, generator: torch.Generator) -> None:
    known = problem(name, generator)
    assert all(exact_gemm.finds_output_flip(known, generator) for _ in range(100))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [16, 4096, LARGEST_SIZE])
def test_every_partial_sum_is_exact_in_single_precision(name: str, size: int) -> None:
    number_format = FORMATS[name]
    largest = number_format.largest_integer(size)
    assert size * largest**2 <= 2**24
    assert size * largest**2 * 4.0**number_format.exponents <= number_format.largest
    assert largest <= 2**number_format.significand
    # And the operands are as large as they can be.
    assert largest == 2**number_format.significand or size * (largest + 1) ** 2 > min(
        2**24, number_format.largest / 4.0**number_format.exponents
    )


@pytest.mark.parametrize("name", FORMATS)
def test_the_scales_exercise_the_exponents(name: str, generator: torch.Generator) -> None:
    known = problem(name, generator)
    exponents = set(known.a[known.a != 0].abs().float().log2().floor().int().tolist())
    assert len(exponents) > 2 * FORMATS[name].exponents


@pytest.mark.parametrize("size", [0, -1, LARGEST_SIZE + 1])
def test_a_size_that_cannot_be_exact_is_refused(size: int, generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match=f"size {size} is not between 1 and {LARGEST_SIZE}"):
        exact_gemm.make_problem(FORMATS["fp16"], size, generator)


def test_a_right_product_stands_the_verification(generator: torch.Generator) -> None:
    a, b = (torch.randint(-45, 46, (40, 40), generator=generator) for _ in range(2))
    assert exact_gemm.is_product(a, b, a @ b, generator)


def test_a_product_with_one_wrong_element_does_not(generator: torch.Generator) -> None:
    a, b = (torch.randint(-45, 46, (40, 40), generator=generator) for _ in range(2))
    passed = 0
    for place in range(100):
        wrong = a @ b
        wrong.view(-1)[place * 16] += 1
        passed += exact_gemm.is_product(a, b, wrong, generator)
    assert passed == 0


def test_another_order_is_the_same_problem(generator: torch.Generator) -> None:
    known = problem("fp32", generator)
    shuffled = exact_gemm.shuffle(known, generator)
    assert torch.equal(shuffled.a @ shuffled.b, shuffled.expected)
    assert not torch.equal(shuffled.expected, known.expected)


def test_the_precision_of_the_process_is_left_as_it_was() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        exact_gemm.run("tf32", 8, repeats=1, seed=1)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_faultless_worker_is_the_control(faulty_run: Callable[[str], dict[str, object]]) -> None:
    assert faulty_run("pass")["mismatches"] == 0


@pytest.mark.parametrize(
    ("fault", "mismatches"),
    [
        # One element of each product, always at the same place: a defective multiprocessor.
        ("result[5, 7] += 1 + result[5, 7].abs()", 3),
        ("result[5, 7] = float('nan')", 3),
        # The lowest bit of one element.
        ("result.view(torch.int32)[5, 7] ^= 1", 3),
    ],
)
def test_a_worker_with_a_defect_is_found(
    faulty_run: Callable[[str], dict[str, object]], fault: str, mismatches: int
) -> None:
    found = faulty_run(fault)
    assert found["mismatches"] == mismatches
    assert isinstance(found["first"], list)
    assert found["first"][:2] == [5, 7]
    assert found["found_output_flip"] is False, "with a second wrong element the self-proof does not hold"


def test_a_kernel_that_returns_the_last_result_is_found(faulty_run: Callable[[str], dict[str, object]]) -> None:
    found = faulty_run("last.setdefault('result', result); result = last['result'].clone()")
    assert isinstance(found["mismatches"], int)
    # The first product is right; the others are of rows and columns in another order.
    assert 64 * 64 < found["mismatches"] <= 2 * 64 * 64


def test_a_wrong_reference_is_no_reference(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    right = torch.Tensor.__matmul__

    def wrong(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        product = right(a, b)
        return product + 1 if product.dtype is torch.float64 else product

    monkeypatch.setattr(torch.Tensor, "__matmul__", wrong)
    with pytest.raises(ArithmeticError, match="cannot serve as the reference"):
        problem("fp32", generator)
