"""Products in each low-precision format, by the kernel that the format has, of operands whose product is exact.

The operands are integers from -3 to 3, which every format here holds, FP4 included; the scales are powers of two.
Sums stay below 2^14 and typically below 2^10, so that they are exact also where tensor cores keep 14 bits of a
sum (Hopper's FP8: DeepSeek-V3 technical report, section 3.3.2). The right product is computed in 64-bit integers
on the CPU and rounded once to the format of the result: there is no tolerance.

FP8 multiplies E4M3 with E4M3, as a forward pass does, and E5M2 with E4M3 on either side, as a backward pass does;
two E5M2 operands are in no hardware. FP8 block scaling has one FP32 scale for 128 numbers of a row, MXFP8 one power
of two (E8M0) for 32, NVFP4 one E4M3 scale for 16 numbers of four bits (E2M1), two of which are in a byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_bionemo.workloads import device
from pytest_bionemo.workloads.matmul_precision import float32_products

if TYPE_CHECKING:
    import torch

ROWS, TERMS, COLUMNS = 256, 256, 128
_LARGEST = 3
_TILE_ROWS, _TILE_COLUMNS = 128, 4
_E8M0_BIAS = 127
# The codes of 0, 1, 2 and 3 in E2M1, and its sign.
_E2M1_CODES = (0b0000, 0b0010, 0b0100, 0b0101)
_E2M1_SIGN = 0b1000

# What cuBLAS says where it has no kernel for what it is asked. Any other error of it is a fault.
_NO_KERNEL = re.compile(r"CUBLAS_STATUS_(NOT_SUPPORTED|ARCH_MISMATCH|INVALID_VALUE)")


class Absent(Exception):
    """A dtype or function that this build of PyTorch does not have; the argument is its name."""


@dataclass(frozen=True)
class Operand:
    """A matrix of integers (rows x terms), and of each block of it in a row the exponent of its scale."""

    integers: torch.Tensor
    exponents: torch.Tensor

    @property
    def value(self) -> torch.Tensor:
        """The scaled matrix, in 64-bit integers."""
        block = self.integers.shape[1] // self.exponents.shape[1]
        return self.integers << self.exponents.repeat_interleave(block, dim=1)


Multiply = Callable[[Operand, Operand], "torch.Tensor"]


def run(format: str, seed: int) -> dict[str, Any]:
    """Multiply in one format.

    :param format: a key of ``FORMATS``.
    :param seed: of the operands.
    :return: ``absent`` (the dtype or function of PyTorch that this build lacks, or None), ``refused`` (why PyTorch
        would not multiply, or None), ``products`` (for each pair of operand types, by its name: ``elements``,
        ``mismatches``, and ``first``: [row, column, got, expected] or None).
    :raises ValueError: for a format that is not in ``FORMATS``.
    """
    import torch

    if format not in FORMATS:
        raise ValueError(f"{format!r} is not a format. Choose from: {', '.join(FORMATS)}.")
    block, kernels = FORMATS[format]
    generator = torch.Generator().manual_seed(seed)
    a, b = (make_operand(rows, block, generator) for rows in (ROWS, COLUMNS))
    right = a.value @ b.value.T
    products: dict[str, Any] = {}
    try:
        with float32_products("highest"):
            for name, multiply in kernels.items():
                products[name] = _compare(multiply(a, b), right)
    except Absent as error:
        return {"absent": str(error), "refused": None, "products": products}
    except (RuntimeError, ValueError) as error:
        if not is_refusal(error):
            raise
        return {"absent": None, "refused": " ".join(str(error).split())[:300], "products": products}
    return {"absent": None, "refused": None, "products": products}


def make_operand(rows: int, block: int | None, generator: torch.Generator) -> Operand:
    """Random integers, and for each block of so many of them a scale of 1 or 2; None: 1 for all."""
    import torch

    integers = torch.randint(-_LARGEST, _LARGEST + 1, (rows, TERMS), generator=generator)
    blocks = TERMS // block if block else 1
    return Operand(integers, torch.randint(0, 2 if block else 1, (rows, blocks), generator=generator))


def is_refusal(error: Exception) -> bool:
    """Whether a library says that it has no kernel for this, rather than that one went wrong."""
    text = str(error)
    is_fault = "CUDA error" in text or "out of memory" in text or "_STATUS_" in text
    return bool(_NO_KERNEL.search(text)) or not is_fault


def swizzled(scales: torch.Tensor) -> torch.Tensor:
    """Block scales (rows x columns) in the order in which the tensor cores of Blackwell read them.

    Tiles of 128 x 4, one row of tiles after the other; in a tile, the scale of row r and column c is at
    16 (r mod 32) + 4 (r div 32) + c. Source: cuBLAS documentation, "1D Block Scaling Factors Layout".

    :raises ValueError: if the scales do not fill whole tiles.
    """
    rows, columns = scales.shape
    if rows % _TILE_ROWS or columns % _TILE_COLUMNS:
        raise ValueError(f"{rows} x {columns} scales do not fill tiles of {_TILE_ROWS} x {_TILE_COLUMNS}")
    tiles = scales.view(rows // _TILE_ROWS, _TILE_ROWS // 32, 32, columns // _TILE_COLUMNS, _TILE_COLUMNS)
    return tiles.permute(0, 3, 2, 1, 4).reshape(-1)


def _compare(result: torch.Tensor, expected: torch.Tensor) -> dict[str, Any]:
    result = result.cpu()
    rounded = expected.to(result.dtype)
    wrong = result != rounded
    mismatches = int(wrong.sum())
    first = None
    if mismatches:
        row, column = (int(index) for index in wrong.nonzero()[0])
        first = [row, column, float(result[row, column]), float(rounded[row, column])]
    return {"elements": result.numel(), "mismatches": mismatches, "first": first}


def _plain(dtype: str) -> Multiply:
    def multiply(a: Operand, b: Operand) -> torch.Tensor:
        left, right = (side.value.to(_dtype(dtype)).to(device()) for side in (a, b))
        return left @ right.T

    return multiply


def _fp8(left: str, right: str) -> Multiply:
    def multiply(a: Operand, b: Operand) -> torch.Tensor:
        import torch

        # 1/2 and 2: a scale that is left out, or applied twice, shows.
        scales = (torch.tensor(scale, device=device()) for scale in (0.5, 2.0))
        return scaled_mm(_to_float8(a, left), _to_float8(b, right), *scales)

    return multiply


def _fp8_block(a: Operand, b: Operand) -> torch.Tensor:
    # The scales of one column of blocks lie together in memory: those of b by being transposed.
    left, right = ((2.0**side.exponents).T.contiguous().to(device()) for side in (a, b))
    return scaled_mm(_to_float8(a, "float8_e4m3fn"), _to_float8(b, "float8_e4m3fn"), left.T, right)


def _mxfp8(a: Operand, b: Operand) -> torch.Tensor:
    import torch

    e8m0 = _dtype("float8_e8m0fnu")
    scales = (swizzled(side.exponents + _E8M0_BIAS).to(torch.uint8).to(device()).view(e8m0) for side in (a, b))
    return scaled_mm(_to_float8(a, "float8_e4m3fn"), _to_float8(b, "float8_e4m3fn"), *scales)


def _nvfp4(a: Operand, b: Operand) -> torch.Tensor:
    e2m1, e4m3 = _dtype("float4_e2m1fn_x2"), _dtype("float8_e4m3fn")
    scales = (swizzled(2.0**side.exponents).to(e4m3).to(device()) for side in (a, b))
    left, right = (pack_e2m1(side.integers).to(device()).view(e2m1) for side in (a, b))
    return scaled_mm(left, right, *scales)


def pack_e2m1(integers: torch.Tensor) -> torch.Tensor:
    """Integers from -3 to 3 as E2M1, two in a byte, the first of them in its lower half."""
    import torch

    codes = torch.tensor(_E2M1_CODES)[integers.abs()] + torch.where(integers < 0, _E2M1_SIGN, 0)
    return (codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8)


def _to_float8(operand: Operand, dtype: str) -> torch.Tensor:
    import torch

    return operand.integers.to(torch.float32).to(_dtype(dtype)).to(device())


def scaled_mm(a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor) -> torch.Tensor:
    """The product of a (rows x terms) and the transpose of b (columns x terms), in BF16.

    :raises Absent: where this PyTorch has no such function.
    """
    import torch

    function = getattr(torch, "_scaled_mm", None)
    if function is None:
        raise Absent("torch._scaled_mm")
    product: torch.Tensor = function(a, b.T, scale_a=scale_a, scale_b=scale_b, out_dtype=torch.bfloat16)
    return product


def _dtype(name: str) -> torch.dtype:
    import torch

    found: torch.dtype | None = getattr(torch, name, None)
    if found is None:
        raise Absent(f"torch.{name}")
    return found


def _pairs() -> Iterator[tuple[str, Multiply]]:
    for left, right in (("e4m3fn", "e4m3fn"), ("e5m2", "e4m3fn"), ("e4m3fn", "e5m2")):
        yield f"{left[:4].upper()} x {right[:4].upper()}", _fp8(f"float8_{left}", f"float8_{right}")


# The numbers that share a scale, and the products to compute.
FORMATS: dict[str, tuple[int | None, dict[str, Multiply]]] = {
    "fp16": (None, {"FP16 x FP16": _plain("float16")}),
    "bf16": (None, {"BF16 x BF16": _plain("bfloat16")}),
    "fp8": (None, dict(_pairs())),
    "fp8_block": (128, {"E4M3 x E4M3": _fp8_block}),
    "mxfp8": (32, {"E4M3 x E4M3": _mxfp8}),
    "nvfp4": (16, {"E2M1 x E2M1": _nvfp4}),
}
