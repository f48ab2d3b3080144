"""Fourier transforms, which cuFFT computes on a GPU: how fast, and whether back and forth gives the same numbers."""

from __future__ import annotations

import math
from typing import Any

from pytest_bionemo.workloads import device, timing


def run(length: int, side: int, budget_s: float, seed: int, attempt: int = 1) -> dict[str, Any]:
    """Transform single-precision complex numbers, in one dimension and in two.

    :param length: of the one-dimensional transform.
    :param side: of the square one.
    :param budget_s: for each of the two.
    :param seed: of the numbers.
    :param attempt: 1, or 2 for a second measurement.
    :return: ``line`` and ``square`` (seconds of one transform), ``least_flop`` (of each: see
        :func:`least_operations`), ``error`` (the largest relative error, in the 2-norm, after there and back) and
        ``error_bound`` (see :func:`error_bound`).
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    line, square = (
        torch.randn(shape, dtype=torch.complex64, generator=generator).to(device())
        for shape in ((length,), (side, side))
    )
    there_and_back = [(line, torch.fft.ifft(torch.fft.fft(line))), (square, torch.fft.ifft2(torch.fft.fft2(square)))]
    return {
        "line": timing.measure(lambda: torch.fft.fft(line), budget_s=budget_s).seconds(),
        "square": timing.measure(lambda: torch.fft.fft2(square), budget_s=budget_s).seconds(),
        "least_flop": {"line": least_operations(length), "square": least_operations(side * side)},
        "error": max(float((was - now).norm() / was.norm()) for was, now in there_and_back),
        "error_bound": error_bound(max(length, side * side)),
    }


def least_operations(points: int) -> float:
    """Real operations of the leanest transform known, 34/9 N log2 N to leading order, less a tenth.

    Source: S. G. Johnson and M. Frigo, "A modified split-radix FFT with fewer arithmetic operations", 2007. The tenth
    stands for the lower-order terms; for two dimensions, N is the number of points in all.
    """
    return 0.9 * 34 / 9 * points * math.log2(points)


def error_bound(points: int) -> float:
    """The largest relative error of a transform and its inverse in single precision.

    Each of the log2 N passes of each direction adds less than 3 units of roundoff in the 2-norm (N. J. Higham,
    "Accuracy and stability of numerical algorithms", 2002, theorem 24.2, with correctly rounded twiddle factors);
    twice that for libraries whose factors are not.
    """
    return 2 * 2 * 3 * math.log2(points) * 2.0**-24 * math.sqrt(2)
