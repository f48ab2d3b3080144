"""Whether products of FP32 matrices are computed in TF32: told from one number that TF32 does not have.

TF32 keeps 11 bits of a significand, FP32 has 24. 1 + 2^-12 is an FP32 number, and 1 in TF32, whether the device
rounds its operands to the nearest or cuts them off. Its product with the identity matrix is exact in both: it is
1 + 2^-12 where FP32 was used, and 1, with a relative error of 2.4e-4, where TF32 was.
"""

from __future__ import annotations

import os
from typing import Any, Literal

from pytest_bionemo.workloads import device
from pytest_bionemo.workloads.matmul_precision import float32_products

# With this variable cuBLAS uses TF32 always (1) or never (0), whatever a program asks for.
_OVERRIDE = "NVIDIA_TF32_OVERRIDE"

WITNESS = 1 + 2.0**-12


def run(size: int) -> dict[str, Any]:
    """Multiply once with TF32 allowed and once with it forbidden.

    :param size: rows and columns of the square operands.
    :return: ``allowed`` and ``forbidden``, each with ``in_fp32``, ``in_tf32`` and ``in_neither``: how many elements
        of the product are what FP32 gives, what TF32 gives, and something else; ``override`` (the variable
        that decides instead, as "name=value", or None).
    """
    counts = {"allowed": _count(size, "high"), "forbidden": _count(size, "highest")}
    return {**counts, "override": f"{_OVERRIDE}={os.environ[_OVERRIDE]}" if os.environ.get(_OVERRIDE) else None}


def _count(size: int, precision: Literal["highest", "high"]) -> dict[str, int]:
    import torch

    witness = torch.full((size, size), WITNESS, device=device())
    with float32_products(precision):
        product = witness @ torch.eye(size, device=device())
    in_fp32, in_tf32 = (int((product == value).sum()) for value in (WITNESS, 1.0))
    return {"in_fp32": in_fp32, "in_tf32": in_tf32, "in_neither": product.numel() - in_fp32 - in_tf32}
