"""Repeats: the same bits every time on a healthy device, and one bit that does not repeat is found."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from kernels import replaced
from pytest_bionemo.workloads import repeatability

OPERATIONS = ["product", "softmax", "layer norm", "attention"]
SIZE = 64


def repeat(dtypes: tuple[str, ...] = ("bfloat16",), repeats: int = 6) -> dict[str, Any]:
    return repeatability.run(SIZE, repeats, dtypes, seed=5)


def test_a_healthy_device_repeats_itself() -> None:
    dtypes = ("bfloat16", "float16", "float32")
    found = repeat(dtypes)
    assert list(found["operations"]) == [f"{name} in {dtype}" for dtype in dtypes for name in OPERATIONS]
    for seen in found["operations"].values():
        assert seen == {
            "elements": SIZE**2,
            "repeats": 6,
            "differing_repeats": 0,
            "differing_elements": 0,
            "first": None,
        }
    assert found["elements_compared"] == len(dtypes) * len(OPERATIONS) * 6 * SIZE**2
    assert (found["differing_elements"], found["found_flip"]) == (0, True)


@pytest.mark.parametrize("struck", [2, 5, 7])
def test_one_bit_that_does_not_repeat_is_found(struck: int) -> None:
    calls = itertools.count(1)

    def mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        result = torch.mm(a, b, out=torch.empty(a.shape[0], b.shape[1], dtype=a.dtype))
        if next(calls) == struck:
            result.view(torch.int16)[3, 9] ^= 1
        return result

    with replaced("mm", mm):
        found = repeat()
    seen = found["operations"]["product in bfloat16"]
    assert (seen["differing_repeats"], seen["differing_elements"]) == (1, 1)
    number, element, got, first = seen["first"]
    assert (number, element) == (struck - 1, 3 * SIZE + 9)
    assert int(got, 16) ^ int(first, 16) == 1
    assert found["differing_elements"] == 1
    assert found["found_flip"] is True, "the product that the self-proof is made with is right again"


def test_a_first_result_that_is_wrong_differs_from_every_repeat() -> None:
    calls = itertools.count(1)

    def softmax(x: torch.Tensor, dim: int, half_to_float: bool) -> torch.Tensor:
        result: torch.Tensor = torch.ops.aten._softmax.out(x, dim, half_to_float, out=torch.empty_like(x))
        return -result if next(calls) == 1 else result

    with replaced("_softmax", softmax):
        seen = repeat(("float32",))["operations"]["softmax in float32"]
    assert (seen["differing_repeats"], seen["differing_elements"]) == (6, 6 * SIZE**2)


def test_not_a_number_repeats_like_any_bits() -> None:
    def mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        result = torch.mm(a, b, out=torch.empty(a.shape[0], b.shape[1], dtype=a.dtype))
        result[0, 0] = float("nan")
        return result

    with replaced("mm", mm):
        assert repeat()["differing_elements"] == 0


def test_a_blind_comparison_does_not_prove_itself() -> None:
    with replaced("ne.Tensor", lambda a, b: torch.zeros(a.shape, dtype=torch.bool)):
        found = repeat()
    assert found["differing_elements"] == 0
    assert found["found_flip"] is False


def test_a_hundred_flips_of_a_hundred_are_found() -> None:
    generator = torch.Generator().manual_seed(1)
    for dtype in (torch.bfloat16, torch.float32):
        data = torch.randn((SIZE, SIZE), generator=generator).to(dtype)
        # A result that is laid out in another order than it is counted in, as that of an attention may be.
        assert all(repeatability.finds_flip(data.t(), data.t, generator) for _ in range(50))


@pytest.mark.parametrize("size", [0, 63, 100])
def test_a_size_that_gives_no_whole_heads_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size {size}: expected a multiple of 64"):
        repeatability.run(size, 1, ["float32"], seed=1)
