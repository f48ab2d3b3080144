"""Inverses of symmetric positive definite matrices, by cuSOLVER on a GPU: how fast, and whether they are inverses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_bionemo.workloads import device, timing

if TYPE_CHECKING:
    import torch


def run(sizes: list[int], budget_s: float, seed: int, attempt: int = 1) -> dict[str, Any]:
    """Factorise and invert, in single precision.

    :param sizes: of the square matrices.
    :param budget_s: for each size.
    :param seed: of the numbers.
    :param attempt: 1, or 2 for a second measurement.
    :return: ``seconds`` (of one inverse, by size), ``flop`` (of one, by size: n^3, a Cholesky factorisation and the
        inverse from it), ``residuals`` (by size: the largest element of A inv(A) - 1) and ``residual_bounds``.
    """
    generator = _generator(seed)
    seconds, residuals, bounds = {}, {}, {}
    for size in sizes:
        matrix = _well_conditioned(size, generator)
        seconds[str(size)] = timing.measure(lambda a=matrix: _invert(a), budget_s=budget_s).seconds()  # type: ignore[misc]
        residuals[str(size)] = _residual(matrix, _invert(matrix))
        bounds[str(size)] = residual_bound(size)
    return {
        "seconds": seconds,
        "flop": {str(size): float(size**3) for size in sizes},
        "residuals": residuals,
        "residual_bounds": bounds,
    }


def residual_bound(size: int) -> float:
    """The largest element that A X - 1 can have for the computed inverse X of such a matrix.

    Rounding errors of a Cholesky factorisation and of two triangular solves: at most 3 n u times the condition
    number, 9 here (N. J. Higham, "Accuracy and stability of numerical algorithms", 2002, sections 10.1 and 14.3),
    with u = 2^-24; a factor of 2 for the norms.
    """
    return 2 * 3 * size * 2.0**-24 * 9


def _generator(seed: int) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(seed)


def _well_conditioned(size: int, generator: torch.Generator) -> torch.Tensor:
    """1 + X X^T / n: for normally distributed X its eigenvalues lie between 1 and about 5 (Marchenko, Pastur)."""
    import torch

    x = torch.randn(size, size, generator=generator).to(device())
    return x @ x.T / size + torch.eye(size, device=device())


def _invert(matrix: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.cholesky_inverse(torch.linalg.cholesky_ex(matrix).L)


def _residual(matrix: torch.Tensor, inverse: torch.Tensor) -> float:
    import torch

    product = matrix.double() @ inverse.double()
    return float((product - torch.eye(len(matrix), dtype=torch.float64, device=matrix.device)).abs().max())
