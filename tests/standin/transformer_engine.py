"""A small package that plays Transformer Engine: a linear layer that really quantizes its operands, on any device."""

from __future__ import annotations

from pathlib import Path

from .distributions import write_distribution

__all__ = ["UNDEFINED_SYMBOL", "VERSION", "write_transformer_engine"]

VERSION = "2.9.0"
UNDEFINED_SYMBOL = "transformer_engine_torch.cpython-311-x86_64-linux-gnu.so: undefined symbol: _ZN3c105ErrorC2E"

_RECIPES = """
class DelayedScaling: pass
class Float8BlockScaling: pass
class MXFP8BlockScaling: pass
class NVFP4BlockScaling: pass
"""
_PYTORCH = """
import contextlib
import torch
from transformer_engine.common.recipe import NVFP4BlockScaling

used = []

def to_e4m3(numbers):
    return numbers.float().to(torch.float8_e4m3fn).float()

def to_e2m1(numbers):
    blocks = numbers.float().view(-1, 16)
    scale = to_e4m3(blocks.abs().amax(1, keepdim=True) / 6)
    grid = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    nearest = ((blocks / scale).abs()[..., None] - grid).abs().argmin(-1)
    return (grid[nearest] * blocks.sign() * scale).view(numbers.shape)

class Product(torch.autograd.Function):
    @staticmethod
    def forward(context, rows, weight):
        context.save_for_backward(rows, weight)
        if used:
            quantize = to_e2m1 if isinstance(used[-1], NVFP4BlockScaling) else to_e4m3
            rows, weight = quantize(rows), quantize(weight)
        return (rows.float() @ weight.float().T).bfloat16()

    @staticmethod
    def backward(context, gradient):
        rows, weight = context.saved_tensors
        return gradient @ weight, gradient.T @ rows

class Linear(torch.nn.Module):
    def __init__(self, in_features, out_features, *, bias, params_dtype, device):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(out_features, in_features, dtype=params_dtype, device=device))

    def forward(self, rows):
        return Product.apply(rows, self.weight)

@contextlib.contextmanager
def {autocast}(enabled, {recipe}):
    used.append({recipe})
    yield
    used.pop()
"""


def write_transformer_engine(
    site: Path, *, code: str = "", import_error: str | None = None, old: bool = False
) -> None:
    """Install it.

    ``code`` runs at the end of ``transformer_engine.pytorch``; ``import_error`` is the text of an ImportError there.
    ``old`` has the names of releases before 2.9.
    """
    pytorch = _PYTORCH.replace("{autocast}", "fp8_autocast" if old else "autocast")
    pytorch = pytorch.replace("{recipe}", "fp8_recipe" if old else "recipe")
    broken = f"raise ImportError({import_error!r})\n" if import_error else ""
    files = {
        "transformer_engine/__init__.py": "",
        "transformer_engine/common/__init__.py": "",
        "transformer_engine/common/recipe.py": _RECIPES,
        "transformer_engine/pytorch.py": broken + pytorch + code,
    }
    write_distribution(site, "transformer_engine", VERSION, files)
