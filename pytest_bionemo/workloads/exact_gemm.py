"""Matrix products whose right answer is known to the last bit.

The operands are integers, times a power of two for each row of A and each column of B. They are so small that
every partial sum is exactly representable in FP32, in which all these formats accumulate, so the right result
depends on no kernel, GPU or library: C[i, j] = 2^(e[i] + f[j]) * (an integer), rounded once to the format.

Limits, for K terms of integers up to m: m must fit the significand (8 bits in BF16, 11 in FP16 and TF32, 24 in
FP32) and K * m^2 <= 2^24; in FP16 the largest sum must also stay below 65504, with its scale.

The expected product is computed in FP64, another unit of the GPU, and verified on the CPU by Freivalds' method
in 64-bit integers: A (B r) = C r for random r from 0 to 2^16 - 1. A wrong product passes one trial with a
probability of at most 2^-16 (R. Freivalds, "Probabilistic machines can use less running time", 1977).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_bionemo.workloads import device

if TYPE_CHECKING:
    import torch

_TRIAL_BITS = 16
_TRIALS = 3


@dataclass(frozen=True)
class Format:
    """A number format: torch's dtype, its significand in bits, the exponents of the scales, its largest value."""

    dtype: str
    significand: int
    exponents: int
    largest: float = math.inf

    def largest_integer(self, terms: int) -> int:
        """The largest operand for which a sum of so many products is exact; 1 at least."""
        largest_sum = min(2.0**24, self.largest / 4.0**self.exponents)
        return max(1, min(int(2**self.significand), math.isqrt(int(largest_sum / terms))))


FORMATS = {
    "bf16": Format("bfloat16", 8, 8),
    "fp16": Format("float16", 11, 1, 65504.0),
    "tf32": Format("float32", 11, 8),
    "fp32": Format("float32", 24, 8),
}


# At more terms even operands of one would overflow FP16.
LARGEST_SIZE = 8192


@dataclass(frozen=True)
class Problem:
    """Operands and the product that is known to be right, all on the device and in the format."""

    a: torch.Tensor
    b: torch.Tensor
    expected: torch.Tensor

    @property
    def multiply_accumulates(self) -> int:
        """Of one product."""
        return self.a.shape[0] * self.a.shape[1] * self.b.shape[1]


def run(format: str, size: int, repeats: int, seed: int) -> dict[str, Any]:
    """Multiply again and again, every element of every result compared with the right one.

    :param format: a key of ``FORMATS``.
    :param size: rows, columns and terms of the square operands.
    :param repeats: products, each with rows and columns in another order: what is computed by one multiprocessor
        is computed by another the next time.
    :param seed: of the operands and orders.
    :return: ``mismatches`` (elements), ``first`` ([row, column, got, expected] or None),
        ``verified_multiply_accumulates``, ``reference_error_probability``, ``found_output_flip`` and
        ``found_input_flip`` (the self-proof: a known bit is flipped in a result and in an operand).
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with _precision_of(format):
        problem = make_problem(FORMATS[format], size, generator)
        mismatches, first = 0, None
        for _ in range(repeats):
            shuffled = shuffle(problem, generator)
            result = shuffled.a @ shuffled.b
            wrong = result != shuffled.expected
            found = int(wrong.sum())
            if found and first is None:
                first = _describe_first(wrong, result, shuffled.expected)
            mismatches += found
        return {
            "mismatches": mismatches,
            "first": first,
            "verified_multiply_accumulates": repeats * problem.multiply_accumulates,
            "reference_error_probability": 2.0 ** (-_TRIAL_BITS * _TRIALS),
            "found_output_flip": finds_output_flip(problem, generator),
            "found_input_flip": finds_input_flip(problem, generator),
        }


def make_problem(format: Format, size: int, generator: torch.Generator) -> Problem:
    """Random operands of the format, and their verified product.

    :raises ValueError: if the size is not between 1 and ``LARGEST_SIZE``.
    :raises ArithmeticError: if the product in FP64 does not stand the verification.
    """
    import torch

    if not 1 <= size <= LARGEST_SIZE:
        raise ValueError(f"size {size} is not between 1 and {LARGEST_SIZE}")
    largest = format.largest_integer(size)
    a, b = (torch.randint(-largest, largest + 1, (size, size), generator=generator) for _ in range(2))
    product = (a.to(device(), torch.float64) @ b.to(device(), torch.float64)).cpu().to(torch.int64)
    if not is_product(a, b, product, generator):
        raise ArithmeticError("the product in FP64 is wrong: it cannot serve as the reference")
    rows, columns = (2.0 ** torch.randint(-format.exponents, format.exponents + 1, (size,), generator=generator)
                     for _ in range(2))  # fmt: skip
    dtype: torch.dtype = getattr(torch, format.dtype)
    # Powers of two and small integers: every value here is exact in FP64, and only the product is rounded, once.
    scaled = (a * rows[:, None], b * columns[None, :], product.double() * rows[:, None].double() * columns.double())
    return Problem(*(part.to(dtype).to(device()) for part in scaled))


def is_product(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, generator: torch.Generator) -> bool:
    """Whether c is the product of a and b, all of them 64-bit integers on the CPU, by Freivalds' method."""
    import torch

    for _ in range(_TRIALS):
        r = torch.randint(0, 2**_TRIAL_BITS, (b.shape[1], 1), generator=generator)
        if not torch.equal(a @ (b @ r), c @ r):
            return False
    return True


def shuffle(problem: Problem, generator: torch.Generator) -> Problem:
    """The same problem with its rows and columns in another order."""
    import torch

    rows = torch.randperm(problem.a.shape[0], generator=generator).to(problem.a.device)
    columns = torch.randperm(problem.b.shape[1], generator=generator).to(problem.b.device)
    return Problem(problem.a[rows], problem.b[:, columns], problem.expected[rows][:, columns])


def finds_output_flip(problem: Problem, generator: torch.Generator) -> bool:
    """Flip one random bit of one random element of a result: exactly that element must be found."""
    result = problem.a @ problem.b
    place = _flip_a_bit(result, generator)
    wrong = result != problem.expected
    return int(wrong.sum()) == 1 and bool(wrong.flatten()[place])


def finds_input_flip(problem: Problem, generator: torch.Generator) -> bool:
    """Flip the sign bit of one random operand that is not zero: mistakes must show in its row alone."""
    a = problem.a.clone()
    place = _some_nonzero(a, generator)
    a.view(-1)[place] *= -1
    wrong = (a @ problem.b != problem.expected).any(dim=1)
    return int(wrong.sum()) == 1 and bool(wrong[place // a.shape[1]])


def _some_nonzero(tensor: torch.Tensor, generator: torch.Generator) -> int:
    import torch

    places = tensor.flatten().nonzero().flatten()
    return int(places[int(torch.randint(len(places), (1,), generator=generator))])


def _flip_a_bit(tensor: torch.Tensor, generator: torch.Generator) -> int:
    import torch

    bits = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
    flat = tensor.view(bits).view(-1)
    place = int(torch.randint(flat.numel(), (1,), generator=generator))
    # Not the sign: minus zero equals zero.
    bit = int(torch.randint(8 * tensor.element_size() - 1, (1,), generator=generator))
    flat[place] ^= 1 << bit
    return place


def _describe_first(wrong: torch.Tensor, result: torch.Tensor, expected: torch.Tensor) -> list[Any]:
    row, column = (int(index) for index in wrong.nonzero()[0])
    return [row, column, float(result[row, column]), float(expected[row, column])]


@contextmanager
def _precision_of(format: str) -> Iterator[None]:
    import torch

    matmul = torch.backends.cuda.matmul
    precision = torch.get_float32_matmul_precision()
    reduced = (matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction)
    try:
        # Otherwise split sums are added in the format itself, where they are not exact.
        matmul.allow_fp16_reduced_precision_reduction = False
        matmul.allow_bf16_reduced_precision_reduction = False
        torch.set_float32_matmul_precision("high" if format == "tf32" else "highest")
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction = reduced
