"""Products in each format against the same product in FP64, element by element, within a bound that is derived.

Higham, "Accuracy and Stability of Numerical Algorithms" (2nd edition, 2002), chapter 3, with the unit roundoff u of
each of the three roundings that there are, t being the bits of a significand:

* the operands are rounded to the format: a' = a (1 + d), |d| <= u_in. u_in is 2^-t; 2^-(t-1) where the hardware
  may cut off instead of rounding, as it may in TF32; 0 where they are exact already.
* the sum of K products is accumulated: |s - a'b'| <= gamma_K |a'||b'| with gamma_K = K u_acc / (1 - K u_acc), in
  any order (section 3.1). In FP32, u_acc is 2^-24. Tensor cores align the products of one block to the largest and
  cut off (Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", 2021): each of K products
  and K / b sums then loses less than 2^-23 of the largest, together less than K 2^-22 |a'||b'|, so u_acc is 2^-22.
  Hopper's FP8 keeps about 14 bits (DeepSeek-V3 technical report, section 3.3.2): u_acc is 2^-13.
* the result is rounded to its format: |c - s| <= u_out |s|.

Together |c - ab| <= ((1 + u_in)^2 (1 + gamma_K) (1 + u_out) - 1) |a||b|, where |a||b| is the product of the absolute
values. Operands are from 1/2 to 2 in absolute value, with a sign for each row of A and each column of B: then nothing
cancels, |a||b| is |ab| itself, and the bound is the same relative one for every element, as sharp as it can be. No
number comes near underflow or overflow, which the bound does not know of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_bionemo.workloads import device
from pytest_bionemo.workloads.low_precision import Absent, is_refusal, scaled_mm
from pytest_bionemo.workloads.matmul_precision import float32_products

if TYPE_CHECKING:
    import torch

Multiply = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]

TENSOR_CORE = 2.0**-22
HOPPER_FP8 = 2.0**-13


@dataclass(frozen=True)
class Format:
    """How to multiply A and B (both FP32, on the device), and the unit roundoffs of that."""

    multiply: Multiply
    operands: float
    accumulation: float
    result: float

    def bound(self, terms: int) -> float:
        """The largest error of a sum of so many products, as a share of the product of the absolute values."""
        return error_bound(terms, self.operands, self.operands, self.accumulation, self.result)


def run(format: str, size: int, terms: int, seed: int) -> dict[str, Any]:
    """Multiply A (size x terms) and B (terms x size).

    :param format: a key of ``FORMATS``.
    :return: ``absent`` (what this build of PyTorch lacks, or None), ``refused`` (why PyTorch would not multiply, or
        None), and else ``bound`` (relative), ``not_finite`` (elements that are NaN or infinite), ``largest_share``
        (of the finite elements, the largest error as a share of its bound: above 1 it is broken), ``beyond`` (how
        many are), ``worst`` ([row, column, got, expected] of the first that is not finite, or else of the one with
        the largest error).
    """
    import torch

    number_format = FORMATS[format]
    generator = torch.Generator().manual_seed(seed)
    a, b = make_operands(size, terms, generator)
    try:
        result = number_format.multiply(a.to(device()), b.to(device()))
    except Absent as error:
        return {"absent": str(error), "refused": None}
    except (RuntimeError, ValueError) as error:
        if not is_refusal(error):
            raise
        return {"absent": None, "refused": " ".join(str(error).split())[:300]}
    bound = number_format.bound(terms)
    return {"absent": None, "refused": None, "bound": bound, **compare(result, a.double() @ b.double(), bound)}


def make_operands(size: int, terms: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B in FP32 on the CPU: no two terms of a sum have different signs."""
    import torch

    a, b = (torch.rand(shape, generator=generator) * 1.5 + 0.5 for shape in ((size, terms), (terms, size)))
    rows, columns = (2 * torch.randint(0, 2, (size,), generator=generator) - 1 for _ in range(2))
    return a * rows[:, None], b * columns


def error_bound(terms: int, left: float, right: float, accumulation: float, result: float) -> float:
    """The relative bound of this module's derivation, from the unit roundoffs.

    :raises ValueError: if so many terms are too many: the bound would be infinite.
    """
    if terms * accumulation >= 1:
        raise ValueError(f"{terms} terms at a unit roundoff of {accumulation}: there is no bound")
    gamma = terms * accumulation / (1 - terms * accumulation)
    return (1 + left) * (1 + right) * (1 + gamma) * (1 + result) - 1


def compare(result: torch.Tensor, reference: torch.Tensor, bound: float) -> dict[str, Any]:
    """Hold a result against its FP64 reference, on the CPU: what :func:`run` returns from ``not_finite`` on."""
    import torch

    got = result.detach().cpu().double()
    share = (got - reference).abs() / (bound * reference.abs())
    finite = torch.isfinite(got)
    worst = int(torch.where(finite, share, torch.inf).argmax())
    row, column = divmod(worst, reference.shape[1])
    return {
        "not_finite": int((~finite).sum()),
        "largest_share": float(share[finite].max()) if finite.any() else None,
        "beyond": int((share[finite] > 1).sum()),
        "worst": [row, column, float(got[row, column]), float(reference[row, column])],
    }


def _in_fp32(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    with float32_products("highest"):
        return a @ b


def _in_tf32(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    with float32_products("high"):
        return a @ b


def _under_autocast(dtype: str) -> Multiply:
    def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        import torch

        with float32_products("highest"), torch.autocast(a.device.type, dtype=getattr(torch, dtype)):
            return a @ b

    return multiply


def _in_fp8(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    import torch

    dtype = getattr(torch, "float8_e4m3fn", None)
    if dtype is None:
        raise Absent("torch.float8_e4m3fn")
    one = torch.ones((), device=a.device)
    return scaled_mm(a.to(dtype), b.T.contiguous().to(dtype), one, one)


FORMATS = {
    "fp32": Format(_in_fp32, operands=0.0, accumulation=2.0**-24, result=0.0),
    "tf32": Format(_in_tf32, operands=2.0**-10, accumulation=TENSOR_CORE, result=0.0),
    "bf16": Format(_under_autocast("bfloat16"), operands=2.0**-8, accumulation=TENSOR_CORE, result=2.0**-8),
    "fp16": Format(_under_autocast("float16"), operands=2.0**-11, accumulation=TENSOR_CORE, result=2.0**-11),
    "fp8": Format(_in_fp8, operands=2.0**-4, accumulation=HOPPER_FP8, result=2.0**-8),
}
