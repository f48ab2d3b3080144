"""Which arithmetic autocast really uses, operation by operation: its dtype and its numbers.

PyTorch's autocast has three classes of operations ("Autocast Op Reference" of its documentation), and they are not
the same on the GPU and on the CPU: softmax, layer_norm, exp and sum run in FP32 on the GPU, and in the dtype of their
input on the CPU, so that here they stand for the GPU alone.

*Lower precision* (matrix products, convolutions, attention). The operands are FP32: 31 times w = 1 + 2^-(t+1), 31
times -1 and twice 1/4, each multiplied by one. Formats of t bits do not have w: it becomes 1, and the sum is exactly
1/2. Arithmetic in FP32 keeps w, and the sum is 1/2 + 31 * 2^-(t+1). The two differ by 12 % in BF16 and 1.5 % in FP16,
which no rounding of the result can hide: so a product that is computed in FP32 and only then cast is told from a
true one. Every partial sum is exact, in every order; in attention, w is in the values, and every weight is 1/64.

*FP32* (softmax, norms, sums, losses) and *widest* (FP32 if any operand is). The operands are of the lower precision,
and so exact in FP32; for the widest, one of them is FP32. The result must be FP32 and as near to the one in FP64 as
FP32 arithmetic on a few terms comes: within 2^-18 of the largest element. Arithmetic in BF16 or FP16 rounds by up to
2^-8 or 2^-11 of a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_bionemo.workloads import device
from pytest_bionemo.workloads.matmul_precision import float32_products

if TYPE_CHECKING:
    import torch

_TERMS = 64
_ROWS, _WIDTH = 32, 64
_RIGHT = 0.5
_TOLERANCE = 2.0**-18
# The share of the distance between the two possible sums at which a result counts as one of them.
_NEAR = 0.25


@dataclass(frozen=True)
class Format:
    """torch's dtype, and its significand in bits."""

    dtype: str
    significand: int

    @property
    def witness(self) -> float:
        """A number of FP32 that this format rounds to 1."""
        return float(1 + 2.0 ** -(self.significand + 1))

    @property
    def wrong(self) -> float:
        """The sum when it is computed in FP32."""
        return _RIGHT + 31 * (self.witness - 1)


FORMATS = {"bf16": Format("bfloat16", 8), "fp16": Format("float16", 11)}

Product = Callable[["torch.Tensor"], "torch.Tensor"]
Function = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor"], "torch.Tensor"]


def run(format: str, seed: int) -> dict[str, Any]:
    """Run an operation of each kind under autocast.

    :param format: a key of ``FORMATS``.
    :param seed: of the operands of the operations in FP32.
    :return: ``operations``: by name, ``kind`` ("lower", "fp32" or "widest"), ``dtype`` and ``expected_dtype`` of the
        result, and of how many of its ``elements`` the value is that of the right arithmetic (``right``) and that of
        the wrong one (``wrong``: FP32 for a lower precision, anything else for FP32).
    """
    import torch

    number_format = FORMATS[format]
    dtype: torch.dtype = getattr(torch, number_format.dtype)
    generator = torch.Generator().manual_seed(seed)
    x, y, classes = make_operands(generator)
    operations: dict[str, Any] = {}
    with float32_products("highest"), torch.autocast(device().type, dtype=dtype):
        for name, product in lower_precision().items():
            result = product(pattern(number_format).to(device()))
            operations[name] = {"kind": "lower", **_describe(result, dtype), **_lower(result, number_format)}
    low = x.to(dtype)
    for kind, functions, other in (("fp32", in_fp32(), y.to(dtype)), ("widest", in_widest(), y)):
        for name, function in functions.items():
            with torch.autocast(device().type, dtype=dtype):
                result = function(low.to(device()), other.to(device()), classes.to(device()))
            reference = function(low.double(), other.double(), classes)
            described = _describe(result, torch.float32)
            operations[name] = {"kind": kind, **described, **compare(result, reference)}
    return {"operations": operations}


def pattern(number_format: Format) -> torch.Tensor:
    """The 64 terms, in FP32, on the CPU."""
    import torch

    terms = torch.full((_TERMS,), -1.0)
    terms[0 : _TERMS - 2 : 2] = number_format.witness
    terms[-2:] = 0.25
    return terms


def make_operands(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two matrices in FP32 (32 x 64), from 1/2 to 3/2 and from 2 to 6, and a column number for each row.

    Numbers nearer to each other could have an exact difference in any precision.
    """
    import torch

    x, y = (torch.rand(_ROWS, _WIDTH, generator=generator) for _ in range(2))
    return x + 0.5, 4 * y + 2, torch.randint(_WIDTH, (_ROWS,), generator=generator)


def lower_precision() -> Mapping[str, Product]:
    """Operations of the lower precision, on both kinds of device; each sums the 64 terms, attention their mean."""
    import torch
    import torch.nn.functional as F

    def ones(*shape: int) -> torch.Tensor:
        return torch.ones(shape, device=device())

    def attention(terms: torch.Tensor) -> torch.Tensor:
        values = terms.view(1, 1, _TERMS, 1).expand(1, 2, _TERMS, 16).contiguous()
        zeros = torch.zeros_like(values)
        return F.scaled_dot_product_attention(zeros, zeros, values) * _TERMS

    return {
        "matmul": lambda terms: terms.repeat(8, 1) @ ones(_TERMS, 16),
        "bmm": lambda terms: torch.bmm(terms.repeat(2, 8, 1), ones(2, _TERMS, 16)),
        "addmm": lambda terms: torch.addmm(ones(16) * 0, terms.repeat(8, 1), ones(_TERMS, 16)),
        "linear": lambda terms: F.linear(ones(8, _TERMS), terms.repeat(16, 1)),
        "conv1d": lambda terms: F.conv1d(ones(2, 16, 11), terms.view(16, 4).repeat(8, 1, 1)),
        "conv2d": lambda terms: F.conv2d(ones(2, 16, 9, 9), terms.view(16, 2, 2).repeat(8, 1, 1, 1)),
        "scaled_dot_product_attention": attention,
    }


def in_fp32() -> Mapping[str, Function]:
    """Operations that autocast runs in FP32 on this kind of device."""
    import torch
    import torch.nn.functional as F

    losses: dict[str, Function] = {
        "mse_loss": lambda x, y, _: F.mse_loss(x, y, reduction="none"),
        "l1_loss": lambda x, y, _: F.l1_loss(x, y, reduction="none"),
        "smooth_l1_loss": lambda x, y, _: F.smooth_l1_loss(x, y, reduction="none"),
        "huber_loss": lambda x, y, _: F.huber_loss(x, y, reduction="none"),
        "prod": lambda x, y, _: torch.prod(x[:, :8], dim=1),
    }
    if device().type == "cpu":
        return losses
    return losses | {
        "cross_entropy": lambda x, _, classes: F.cross_entropy(x, classes, reduction="none"),
        "softmax": lambda x, y, _: F.softmax(x, dim=1),
        "log_softmax": lambda x, y, _: F.log_softmax(x, dim=1),
        "layer_norm": lambda x, y, _: F.layer_norm(x, (_WIDTH,)),
        "sum": lambda x, y, _: x.sum(dim=1),
        "cumsum": lambda x, y, _: x.cumsum(dim=1),
        "exp": lambda x, y, _: x.exp(),
        "log": lambda x, y, _: x.log(),
        "pow": lambda x, y, _: x.pow(3),
    }


def in_widest() -> Mapping[str, Function]:
    """Operations that autocast runs in the widest dtype of their operands, here FP32, on this kind of device."""
    import torch

    if device().type == "cpu":
        return {"cat": lambda x, y, _: torch.cat([x, y]), "stack": lambda x, y, _: torch.stack([x, y])}
    return {
        "dot": lambda x, y, _: torch.dot(x[0], y[0]),
        "addcmul": lambda x, y, _: torch.addcmul(y, x, y),
        "atan2": lambda x, y, _: torch.atan2(x, y),
    }


def compare(result: torch.Tensor, reference: torch.Tensor) -> dict[str, int]:
    """How many elements are as near to the FP64 reference as FP32 comes, and how many are not."""
    error = (result.detach().cpu().double() - reference).abs()
    right = int((error <= _TOLERANCE * reference.abs().max()).sum())
    return {"right": right, "wrong": error.numel() - right}


def _lower(result: torch.Tensor, number_format: Format) -> dict[str, int]:
    place = (result.detach().cpu().double() - _RIGHT) / (number_format.wrong - _RIGHT)
    right, wrong = (int(((place - where).abs() < _NEAR).sum()) for where in (0, 1))
    return {"right": right, "wrong": wrong}


def _describe(result: torch.Tensor, expected: torch.dtype) -> dict[str, Any]:
    return {"dtype": str(result.dtype), "expected_dtype": str(expected), "elements": result.numel()}
