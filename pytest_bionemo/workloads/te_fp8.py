"""A layer of Transformer Engine in each of its low-precision recipes, against the same product in FP64.

The bound is the one of :mod:`.float64_agreement`, with the roundoff of the quantized operands: 2^-4 for E4M3 and
2^-2 for E2M1, the format of NVFP4. It holds because no operand becomes subnormal: their absolute values are from 1/2
to 2, and every recipe scales the largest of a block to the largest of the format, or not at all. The operands are
rounded to BF16 before, in the layer and in the reference alike.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_bionemo.workloads import device
from pytest_bionemo.workloads.float64_agreement import HOPPER_FP8, compare, error_bound, make_operands
from pytest_bionemo.workloads.low_precision import is_refusal

if TYPE_CHECKING:
    import torch

# The recipe's class in transformer_engine.common.recipe, and the unit roundoff of its operands.
RECIPES = {
    "fp8": ("DelayedScaling", 2.0**-4),
    "fp8_block": ("Float8BlockScaling", 2.0**-4),
    "mxfp8": ("MXFP8BlockScaling", 2.0**-4),
    "nvfp4": ("NVFP4BlockScaling", 2.0**-2),
}


def imports() -> dict[str, Any]:
    """Import Transformer Engine, and use the device after it: its import has broken CUDA before (its issue 1911).

    :return: ``error``: the text of the import's error, or None.
    """
    import torch

    try:
        import_module("transformer_engine.pytorch")
    except Exception as error:  # an ImportError, and whatever else the loading of its libraries raises
        return {"error": f"{type(error).__name__}: {error}"}
    torch.ones(8, device=device()).sum().item()
    return {"error": None}


def run(format: str, size: int, terms: int, seed: int) -> dict[str, Any]:
    """Run a linear layer from ``terms`` to ``size`` features on ``size`` rows, forward and backward.

    :param format: a key of ``RECIPES``.
    :return: ``absent`` (what this Transformer Engine lacks, or None), ``refused`` (why it would not run, or None),
        and else what :func:`.float64_agreement.compare` returns, ``bound``, ``as_unquantized`` (how many of the
        ``elements`` are what the same layer gives in BF16: all of them if nothing was quantized), and of both
        gradients together ``gradient_elements`` and how many are ``gradient_not_finite`` and ``gradient_zero``.
    """
    import torch

    recipes = import_module("transformer_engine.common.recipe")
    name, roundoff = RECIPES[format]
    if not hasattr(recipes, name):
        return {"absent": f"transformer_engine.common.recipe.{name}", "refused": None}
    generator = torch.Generator().manual_seed(seed)
    a, b = (operand.bfloat16() for operand in make_operands(size, terms, generator))
    try:
        quantized, plain, gradients = _run_layer(a, b, getattr(recipes, name)())
    except (RuntimeError, ValueError, AssertionError) as error:
        if not is_refusal(error):
            raise
        return {"absent": None, "refused": " ".join(str(error).split())[:300]}
    bound = error_bound(terms, roundoff, roundoff, HOPPER_FP8, 2.0**-8)
    return {
        "absent": None,
        "refused": None,
        "bound": bound,
        **compare(quantized, a.double() @ b.double(), bound),
        "elements": quantized.numel(),
        "as_unquantized": int((quantized == plain).sum()),
        "gradient_elements": gradients.numel(),
        "gradient_not_finite": int((~torch.isfinite(gradients)).sum()),
        "gradient_zero": int((gradients == 0).sum()),
    }


def _run_layer(a: torch.Tensor, b: torch.Tensor, recipe: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    import torch

    te = import_module("transformer_engine.pytorch")
    layer = te.Linear(b.shape[0], b.shape[1], bias=False, params_dtype=torch.bfloat16, device=device().type)
    with torch.no_grad():
        layer.weight.copy_(b.T)
    rows = a.to(device(), copy=True).requires_grad_()
    plain = layer(rows).detach()
    with _quantizing(te, recipe):
        quantized = layer(rows)
    quantized.sum().backward()
    assert rows.grad is not None, "the layer is differentiable"
    return quantized.detach(), plain, torch.cat([rows.grad.flatten(), layer.weight.grad.flatten()])


def _quantizing(te: Any, recipe: Any) -> Any:
    # fp8_autocast before release 2.9, and deprecated since.
    if hasattr(te, "autocast"):
        return te.autocast(enabled=True, recipe=recipe)
    return te.fp8_autocast(enabled=True, fp8_recipe=recipe)
