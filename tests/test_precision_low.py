"""Low-precision products: exact as they are, found where they are not, of operands laid out as documented."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kernels import replaced
from pytest_bionemo.workloads import low_precision
from pytest_bionemo.workloads.low_precision import COLUMNS, FORMATS, ROWS, TERMS

ON_THE_CPU = ("fp16", "bf16", "fp8")
BLOCKS = {"fp8_block": 128, "mxfp8": 32, "nvfp4": 16}
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

Kernel = Callable[..., torch.Tensor]


def run(format: str) -> dict[str, Any]:
    return low_precision.run(format, seed=5)


def product_of(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """By another kernel than mm's."""
    return torch.bmm(a.unsqueeze(0), b.unsqueeze(0))[0]


def with_fault(fault: Callable[[torch.Tensor], object]) -> Kernel:
    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        result = product_of(a, b)
        if result.is_floating_point():  # and not the reference, in integers
            fault(result)
        return result

    return kernel


@pytest.mark.parametrize("format", ON_THE_CPU)
def test_products_of_the_cpu_are_exact(format: str) -> None:
    found = run(format)
    assert (found["absent"], found["refused"]) == (None, None)
    assert list(found["products"]) == list(FORMATS[format][1])
    for product in found["products"].values():
        assert product == {"elements": ROWS * COLUMNS, "mismatches": 0, "first": None}


def test_fp8_multiplies_what_a_forward_and_a_backward_pass_do() -> None:
    assert list(FORMATS["fp8"][1]) == ["E4M3 x E4M3", "E5M2 x E4M3", "E4M3 x E5M2"]


@pytest.mark.parametrize("format", ["fp16", "bf16"])
@pytest.mark.parametrize(
    "fault",
    [
        lambda result: result.view(torch.int16)[5, 7].bitwise_xor_(1),
        lambda result: result[5, 7].fill_(torch.nan),
    ],
)
def test_one_wrong_element_is_found_with_its_place(format: str, fault: Callable[[torch.Tensor], object]) -> None:
    with replaced("mm", with_fault(fault)):
        (product,) = run(format)["products"].values()
    assert product["mismatches"] == 1
    assert product["first"][:2] == [5, 7]
    assert product["first"][2] != product["first"][3]


def test_a_kernel_that_leaves_out_a_scale_is_found() -> None:
    with replaced("_scaled_mm", lambda a, b, scale_a, scale_b, *_: reading(a, b, scale_a, torch.ones(()))):
        products = run("fp8")["products"]
    assert len(products) == 3
    assert all(product["mismatches"] > ROWS * COLUMNS / 2 for product in products.values())


# ---- the layouts, read by an independent reader


def reading(a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor) -> torch.Tensor:
    """The product of operands and scales that are in plain order."""
    return ((a.double() * scale_a.double()) @ (b.double() * scale_b.double())).bfloat16()


def from_bytes(packed: torch.Tensor) -> torch.Tensor:
    """The numbers of packed E2M1, by the bits of the format: a sign, and one of eight values."""
    values = torch.tensor([*E2M1, *(-value for value in E2M1)])
    codes = packed.contiguous().view(torch.uint8).int()
    return torch.stack([values[codes & 15], values[codes >> 4]], dim=-1).reshape(codes.shape[0], -1)


def unswizzled(scales: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Scale by scale, by the formula of cuBLAS's documentation."""
    flat, found = scales.float().tolist(), torch.zeros(rows, columns)
    for row in range(rows):
        for column in range(columns):
            tile = 512 * ((row // 128) * (columns // 4) + column // 4)
            found[row, column] = flat[tile + (row % 32) * 16 + (row % 128) // 32 * 4 + column % 4]
    return found


def tensor_core(is_swizzled: bool = True) -> Kernel:
    """What the tensor cores of Blackwell do with the operands of MXFP8 and NVFP4."""

    def scaled(side: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        is_packed = side.dtype == torch.float4_e2m1fn_x2
        numbers = from_bytes(side) if is_packed else side.float()
        blocks = TERMS // (16 if is_packed else 32)
        plain = unswizzled(scales, len(numbers), blocks) if is_swizzled else scales.float().view(-1, blocks)
        return numbers * plain.repeat_interleave(TERMS // blocks, dim=1)

    def kernel(
        a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor, *_: object
    ) -> torch.Tensor:
        return (scaled(a, scale_a).double() @ scaled(b.T, scale_b).double().T).bfloat16()

    return kernel


def hopper(
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor, *_: object
) -> torch.Tensor:
    """FP8 with a scale for 128 numbers, in the only order that PyTorch's kernel takes: ScaledBlas.cpp."""
    assert (scale_a.shape, scale_a.stride()) == ((ROWS, 2), (1, ROWS))
    assert (scale_b.shape, scale_b.stride()) == ((2, COLUMNS), (COLUMNS, 1))
    return reading(a, b, scale_a.repeat_interleave(128, dim=1), scale_b.repeat_interleave(128, dim=0))


@pytest.mark.parametrize(
    ("format", "kernel"), [("fp8_block", hopper), ("mxfp8", tensor_core()), ("nvfp4", tensor_core())]
)
def test_an_independent_reader_of_the_block_scaled_operands_gets_the_exact_product(
    format: str, kernel: Kernel
) -> None:
    with replaced("_scaled_mm", kernel):
        found = run(format)
    assert found["refused"] is None
    (product,) = found["products"].values()
    assert product == {"elements": ROWS * COLUMNS, "mismatches": 0, "first": None}


@pytest.mark.parametrize("format", ["mxfp8", "nvfp4"])
def test_scales_in_another_order_are_found(format: str) -> None:
    with replaced("_scaled_mm", tensor_core(is_swizzled=False)):
        (product,) = run(format)["products"].values()
    assert product["mismatches"] > ROWS * COLUMNS / 2


@pytest.mark.parametrize("format", FORMATS)
def test_operands_and_sums_are_exact_where_14_bits_of_a_sum_are_kept(format: str) -> None:
    block, _ = FORMATS[format]
    assert block == BLOCKS.get(format)
    a, b = (
        low_precision.make_operand(rows, block, torch.Generator().manual_seed(seed))
        for seed, rows in enumerate((ROWS, COLUMNS))
    )
    assert set(a.integers.flatten().tolist()) == set(range(-3, 4))
    assert set(a.exponents.flatten().tolist()) == ({0, 1} if block else {0})
    assert (a.value.abs() @ b.value.abs().T).max() < 2**14
    # Not all results are the same number: a kernel that returns zeros would not do.
    assert len(set((a.value @ b.value.T).flatten().tolist())) > 100


def test_scales_that_fill_no_tile_are_refused() -> None:
    with pytest.raises(ValueError, match="100 x 4 scales do not fill tiles of 128 x 4"):
        low_precision.swizzled(torch.zeros(100, 4))


# ---- a build that has not got it


@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("fp8", "float8_e5m2"),
        ("fp8", "_scaled_mm"),
        ("mxfp8", "float8_e8m0fnu"),
        ("nvfp4", "float4_e2m1fn_x2"),
    ],
)
def test_what_an_older_pytorch_lacks_is_named(format: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, name)
    found = run(format)
    assert (found["absent"], found["refused"]) == (f"torch.{name}", None)


@pytest.mark.parametrize("format", BLOCKS)
def test_a_refusal_is_told_in_the_words_of_pytorch(format: str) -> None:
    found = run(format)
    assert found["absent"] is None
    assert found["refused"].startswith("Invalid scaling configuration.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DeepSeek style (1x128, 128x128) scaling only supported in CUDA for SM90", True),
        ("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic`", True),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasLtMatmul`", False),
        ("CUDA error: an illegal memory access was encountered", False),
        ("cuDNN error: CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED", False),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", False),
    ],
)
def test_a_fault_is_no_refusal(text: str, expected: bool) -> None:
    assert low_precision.is_refusal(RuntimeError(text)) is expected

    def kernel(*_: object) -> torch.Tensor:
        raise RuntimeError(text)

    with replaced("_scaled_mm", kernel):
        if expected:
            assert run("fp8")["refused"] == text
        else:
            with pytest.raises(RuntimeError, match=text[:20]):
                run("fp8")


def test_an_unknown_format_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"'fp6' is not a format. Choose from: fp16, bf16, fp8"):
        run("fp6")
