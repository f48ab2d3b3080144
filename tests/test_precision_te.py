"""A layer of Transformer Engine, played by a package that quantizes on the CPU: the real one needs a GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_bionemo.workloads import te_fp8
from pytest_bionemo.workloads.te_fp8 import RECIPES
from standin.transformer_engine import UNDEFINED_SYMBOL, write_transformer_engine

SIZE, TERMS = 64, 256

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install one for this test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda **kinds: write_transformer_engine(tmp_path, **kinds)
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformer_engine"]:
        del sys.modules[name]


def run(format: str = "fp8") -> dict[str, Any]:
    return te_fp8.run(format, SIZE, TERMS, seed=4)


@pytest.mark.parametrize("old", [False, True], ids=["autocast", "fp8_autocast"])
@pytest.mark.parametrize("format", RECIPES)
def test_a_layer_that_quantizes_stays_within_the_bound(format: str, old: bool, install: Install) -> None:
    install(old=old)
    assert te_fp8.imports() == {"error": None}
    found = run(format)
    assert (found["absent"], found["refused"]) == (None, None)
    assert (found["not_finite"], found["beyond"]) == (0, 0)
    assert 0.01 < found["largest_share"] < 0.5
    assert found["elements"] == SIZE * SIZE
    assert found["as_unquantized"] < 0.8 * SIZE * SIZE, "BF16 hides the quantization of many"
    assert (found["gradient_not_finite"], found["gradient_elements"]) == (0, 2 * SIZE * TERMS)
    assert found["gradient_zero"] < SIZE * TERMS


def test_a_layer_that_does_not_quantize_is_found(install: Install) -> None:
    install(code="to_e4m3 = lambda numbers: numbers\n")
    assert run()["as_unquantized"] == SIZE * SIZE


def test_a_wrong_result_is_found(install: Install) -> None:
    install(code="exact = to_e4m3\ndef to_e4m3(numbers): return exact(numbers) * 1.25\n")
    assert run()["beyond"] == SIZE * SIZE


def test_gradients_that_are_no_numbers_are_counted(install: Install) -> None:
    install(code="Product.backward = staticmethod(lambda _, g: (g.sum(1, keepdim=True).expand(64, 256) * torch.nan,"
                 " torch.zeros(64, 256, dtype=g.dtype)))\n")  # fmt: skip
    found = run()
    assert (found["gradient_not_finite"], found["gradient_zero"]) == (SIZE * TERMS, SIZE * TERMS)


def test_a_recipe_that_this_release_has_not_got_is_named(install: Install) -> None:
    install(code="import transformer_engine.common.recipe as recipe; del recipe.NVFP4BlockScaling\n")
    te_fp8.imports()
    assert run("nvfp4") == {"absent": "transformer_engine.common.recipe.NVFP4BlockScaling", "refused": None}


@pytest.mark.parametrize("error", ["RuntimeError", "AssertionError"])
def test_a_refusal_is_told(install: Install, error: str) -> None:
    text = "Device compute capability 8.9 or higher required for FP8 execution."
    install(code=f"def autocast(**_): raise {error}({text!r})\n")
    assert run() == {"absent": None, "refused": text}


def test_a_fault_of_cuda_is_no_refusal(install: Install) -> None:
    install(code="def autocast(**_): raise RuntimeError('CUDA error: unspecified launch failure')\n")
    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        run()


def test_an_import_that_fails_is_told_with_its_error(install: Install) -> None:
    install(import_error=UNDEFINED_SYMBOL)
    assert te_fp8.imports() == {"error": f"ImportError: {UNDEFINED_SYMBOL}"}
