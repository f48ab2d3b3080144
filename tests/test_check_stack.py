"""The topic stack: versions that recipes do not take, known breaks, and compiled parts that do not load."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from conftest import Rig, Run
from faults import proves
from pytest_bionemo.facts import stack
from standin import B200x8, H100x8
from standin.distributions import write_distribution
from standin.torch_package import StandinTorch

Installed = Mapping[str, str]


def install(rig: Rig, installed: Installed) -> None:
    for name, version in installed.items():
        write_distribution(rig.site, name, version)


def quick(rig: Rig, installed: Installed) -> Run:
    install(rig, installed)
    return rig.validate("bionemo/stack", "--bionemo-device=cpu")


# ------------------------------------------------------------------------------------------------------ versions

OUTSIDE = {
    "transformer-engine": ({"transformer_engine": "2.4.0"}, "transformer-engine 2.4.0 is installed, expected >=2.9"),
    "flash-attn": (
        {"flash_attn": "2.8.4", "transformer-engine": "2.20.2"},
        "flash-attn 2.8.4 is installed, expected >=2.1.1,<2.8.4",
    ),
    "torchao": ({"torchao": "0.14.0"}, "torchao 0.14.0 is installed, expected !=0.14.0"),
}
INSIDE = {
    "transformer-engine": {"transformer_engine": "2.9.0"},
    "flash-attn": {"flash_attn": "2.8.3.post2", "transformer-engine": "2.20.2"},
    "torchao": {"torchao": "0.14.1"},
}


@pytest.mark.parametrize("name", OUTSIDE)
@proves("stack::version_fits", "a version outside of the window", "distribution")
def test_a_version_that_recipes_do_not_take_is_a_warning(rig: Rig, name: str) -> None:
    installed, message = OUTSIDE[name]
    run = quick(rig, installed)
    assert run.warnings == [f"stack::version_fits[{name}]"]
    finding = run.finding(f"stack::version_fits[{name}]")
    assert finding["message"] == message
    assert finding["fix"][0].startswith("$ pip install --no-build-isolation")
    assert finding["links"]
    assert run.blockers == []


@pytest.mark.parametrize("name", INSIDE)
def test_a_version_that_recipes_take_is_no_finding(rig: Rig, name: str) -> None:
    run = quick(rig, INSIDE[name])
    assert run.outcome(f"stack::version_fits[{name}]") == "passed"
    assert run.warnings == []


def test_what_no_package_uses_has_no_window(rig: Rig) -> None:
    run = quick(rig, {"flash-attn": "1.0"})
    assert run.outcome("stack::version_fits[flash-attn]") == "not_applicable"
    assert run.outcome("stack::version_fits[torchao]") == "not_applicable"


def test_a_window_of_blackwell_counts_on_blackwell_alone(rig: Rig) -> None:
    install(rig, {"flash-attn": "2.7.0", "transformer-engine": "2.20.2"})
    rig.torch = StandinTorch()
    rig.node = H100x8
    assert rig.validate("bionemo/stack").warnings == []
    rig.node = B200x8
    finding = rig.validate("bionemo/stack").finding("stack::version_fits[flash-attn]")
    assert finding["message"] == "flash-attn 2.7.0 is installed, expected >=2.7.3"
    assert "Blackwell" in finding["why"]
    assert finding["fix"] == ['$ pip install --no-build-isolation "flash-attn>=2.1.1,<2.8.4,>=2.7.3"']


# ------------------------------------------------------------------------------------------------- known breaks

BROKEN: dict[str, Installed] = {
    "nemo-toolkit-2.7": {"bionemo-llm": "2.4.5", "nemo_toolkit": "3.0.0"},
    "pyarrow-26": {"pyarrow": "26.0.1", "numpy": "1.26.4"},
    "webdatamodule-lightning": {"bionemo-webdatamodule": "1.0.0"},
    "torchao-abi": {"torchao": "0.12.0", "torch": "2.9.1"},
    "warp-1.13": {"warp-lang": "1.13.0", "subquadratic-ops-torch-cu13": "0.3.1"},
    "evo2-cuda-13": {"bionemo-evo2": "2.0", "subquadratic-ops-torch-cu13": "0.3.1"},
}


@pytest.mark.parametrize("id", [change.id for change in stack.changes()])
@proves("stack::spared_by", "a known breaking change", "distribution")
def test_a_known_break_is_a_warning_where_it_matters_and_nowhere_else(rig: Rig, id: str) -> None:
    if id == "evo2-cuda-13":
        rig.torch = StandinTorch(cuda="12.8")
    run = quick(rig, BROKEN[id])
    assert run.warnings == [f"stack::spared_by[{id}]"]
    finding = run.finding(f"stack::spared_by[{id}]")
    (change,) = [change for change in stack.changes() if change.id == id]
    assert finding["message"].endswith(change.what)
    assert all(version in finding["message"] for version in BROKEN[id].values())
    assert finding["fix"] == list(change.fix)


def test_a_change_in_what_is_not_installed_is_nothing_to_tell(rig: Rig) -> None:
    run = quick(rig, {"numpy": "1.26.4", "lightning": "2.6.6", "nemo_toolkit": "3.0.0"})
    assert run.warnings == []
    assert {run.outcome(f"stack::spared_by[{change.id}]") for change in stack.changes()} == {"not_applicable"}


def test_what_an_import_shows_is_told_once(rig: Rig) -> None:
    write_distribution(rig.site, "pyarrow", "26.0.1")
    write_distribution(rig.site, "numpy", "1.26.4")
    write_distribution(rig.site, "bionemo-scdl", "0.1.3")
    run = rig.rehearse("bionemo/stack::spared_by")
    assert run.outcome("stack::spared_by[pyarrow-26]") == "not_applicable"


# ------------------------------------------------------------------------------------------------ compiled parts


def broken(rig: Rig, name: str, code: str) -> None:
    module = next(one.module for one in stack.distributions() if one.name == name)
    *folders, last = module.split(".")
    files = {"/".join([*folders[: depth + 1], "__init__.py"]): "" for depth in range(len(folders))}
    write_distribution(rig.site, name, "1.0", {**files, "/".join([*folders, f"{last}.py"]): code})


# What an import raises, in the words of the loader, and how it is told.
CAUSES: dict[str, tuple[str, str, str, str]] = {
    "undefined symbol": (
        "flash-attn",
        "raise ImportError('flash_attn_2_cuda.so: undefined symbol: _ZN5torch7LibraryC1E')",
        "built for another PyTorch",
        "--no-build-isolation --no-deps --no-cache-dir --force-reinstall flash-attn",
    ),
    "cuDNN": (
        "megatron-core",
        "raise RuntimeError('cuDNN Error: CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED')",
        "another cuDNN",
        "CUDNN_PATH",
    ),
    "CUDA major": (
        "torchao",
        "import ctypes; ctypes.CDLL('libcudart.so.7')",
        "another major version of CUDA",
        "install a build of torchao for PyTorch's CUDA",
    ),
    "something missing": ("accelerate", "import nothing_here", "not installed", "pip install accelerate"),
    "anything": ("nemo-toolkit", "1 / 0", "do not start", "--force-reinstall --no-deps nemo-toolkit"),
    "abort": ("megatron-fsdp", "import os; os.abort()", "do not start", "--force-reinstall --no-deps megatron-fsdp"),
}


@proves("stack::imports", "compiled parts do not load", "distribution")
def test_compiled_parts_that_do_not_load_are_told_with_their_cause(torch_rig: Rig) -> None:
    for name, code, _, _ in CAUSES.values():
        broken(torch_rig, name, code)
    run = torch_rig.rehearse("bionemo/stack::imports")
    assert sorted(run.blockers) == sorted(f"stack::imports[{name}]" for name, *_ in CAUSES.values())
    for name, _, why, fix in CAUSES.values():
        finding = run.finding(f"stack::imports[{name}]")
        assert f"{name} 1.0" in finding["message"]
        assert why in finding["why"]
        assert fix in finding["fix"][0]


def healthy(rig: Rig) -> None:
    broken(rig, "torchao", "")


def spoilt(rig: Rig) -> None:
    code = (
        "import torch\n"
        "library = torch.library.Library('aten', 'IMPL')\n"
        "library.impl('mm', lambda a, b: torch.zeros(a.shape[0], b.shape[1]), 'CPU')\n"
    )
    broken(rig, "torchao", code)


@pytest.mark.parametrize(("inject", "outcome"), [(healthy, "passed"), (spoilt, "failed")])
def test_pytorch_has_to_compute_after_the_import(
    torch_rig: Rig, inject: Callable[[Rig], object], outcome: str
) -> None:
    inject(torch_rig)
    run = torch_rig.rehearse("bionemo/stack::imports")
    assert run.outcome("stack::imports[torchao]") == outcome
    if outcome == "failed":
        message = run.finding("stack::imports[torchao]")["message"]
        assert message == (
            "after importing torchao 1.0, PyTorch does not compute on the CPU: the sum of a product is 0, "
            "expected 262144"
        )


def test_what_needs_the_driver_is_not_judged_without_it(torch_rig: Rig) -> None:
    broken(torch_rig, "flash-attn", "import ctypes; ctypes.CDLL('libcuda.so.77')")
    run = torch_rig.rehearse("bionemo/stack::imports")
    assert run.outcome("stack::imports[flash-attn]") == "not_applicable"
    assert run.outcome("stack::imports[torchao]") == "not_applicable"


def test_a_known_break_explains_the_import_that_shows_it(torch_rig: Rig) -> None:
    broken(torch_rig, "torchao", "raise ImportError('undefined symbol: x')")
    info = next(torch_rig.site.glob("torchao-1.0.dist-info"))
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: torchao\nVersion: 0.12.0\n")
    run = torch_rig.rehearse("bionemo/stack")
    assert run.blockers == ["stack::imports[torchao]"]
    assert "torchao before 0.13 loads kernels" in run.finding("stack::imports[torchao]")["why"]
    assert run.warnings == []


def test_imports_wait_for_pytorch(rig: Rig) -> None:
    broken(rig, "torchao", "")
    run = rig.rehearse("bionemo/stack::imports[torchao]")
    assert run.gap("stack::imports[torchao]")["waits_for"] == "bionemo/torch::installed"
