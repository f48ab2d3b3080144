"""How to get BioNeMo: what works on this machine is a command, what does not is a reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_bionemo import install_options
from pytest_bionemo.model import Gpu, GpuEnv
from pytest_bionemo.probes import host, packages
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.torch_build import TorchBuild

NO_TORCH = TorchBuild(import_error="ModuleNotFoundError: No module named 'torch'")


def options(
    *,
    torch: TorchBuild | None = None,
    driver: str | None = "580.95.05",
    numpy: str | None = None,
    gpus: Sequence[Gpu] = (),
    **of_host: Any,
) -> list[str]:
    """The options of a machine: Python 3.12 on x86_64 with PyTorch and a new driver unless told otherwise."""
    told = {"python": "3.12.3", "machine": "x86_64", "container": None, **of_host}
    machine = SimpleNamespace(
        host=replace(host.read(), **told),
        gpu_env=GpuEnv(driver=driver, gpus=tuple(gpus)),
        torch_build=torch or TorchBuild(version="2.13.0"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packages, "version", partial(dict.get, {"numpy": numpy}))
        return install_options.lines(cast(Machine, machine))


def commands(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("$ ")]


def headings(lines: list[str]) -> list[str]:
    return [match[0] for line in lines if (match := re.match("(not )?[ABC]", line))]


def test_a_new_machine_has_all_three() -> None:
    lines = options()
    assert headings(lines) == ["A", "B", "C"]
    assert commands(lines) == [
        "$ git clone https://github.com/NVIDIA-BioNeMo/bionemo-framework",
        "$ docker build -t esm2_native_te .",
        '$ docker run --rm -it --gpus all --network host --ipc=host -v "$PWD":/recipe -w /recipe esm2_native_te',
        '$ pip install --no-build-isolation "flash-attn>=2.1.1,<=2.8.1"',
        '$ pip install --no-build-isolation "transformer-engine[pytorch]==2.9.0"',
        "$ pip install -r requirements.txt",
        '$ pip install bionemo-core bionemo-scdl bionemo-moco bionemo-noodles "pyarrow<26"',
        "$ docker run --rm -it --gpus all --ipc=host --ulimit memlock=-1 --ulimit stack=67108864 "
        "nvcr.io/nvidia/clara/bionemo-framework:2.7.1",
    ]


def test_on_arm_and_python_3_13_what_cannot_be_had_is_told_with_its_reason() -> None:
    lines = options(machine="aarch64", python="3.13.1")
    assert "$ pip install bionemo-core bionemo-scdl" in lines
    assert (
        "without bionemo-noodles: it has no wheel for Python 3.13.1 on aarch64, and no source distribution" in lines
    )
    assert "without bionemo-moco: it needs numpy below 2, which has no wheel for Python 3.13: this is 3.13.1" in lines
    assert lines[-1] == (
        "not C, the framework container: nvcr.io/nvidia/clara/bionemo-framework:2.7.1 is for x86_64, this is aarch64"
    )
    assert "not without a container: it is for Python 3.12.*, this is 3.13.1" in lines


def test_an_old_driver_runs_no_recipe() -> None:
    lines = options(driver="550.54.15")
    assert headings(lines) == ["not A", "B", "C"]
    assert "CUDA 13.2 needs driver 580 or newer, this is 550.54.15" in lines[0]
    assert "CUDA 13.0 needs driver 580 or newer, this is 550.54.15" in lines[0]
    assert not [line for line in lines if "git clone" in line]


H100 = Gpu(0, name="NVIDIA H100 80GB HBM3", memory_bytes=85_520_809_984, compute_capability=(9, 0))
RTX4090 = Gpu(0, name="NVIDIA GeForce RTX 4090", memory_bytes=25_757_220_864, compute_capability=(8, 9))
T4 = Gpu(0, name="Tesla T4", memory_bytes=16_106_127_360, compute_capability=(7, 5))


def test_an_old_driver_of_data_centre_gpus_may_be_lifted_by_the_container() -> None:
    lines = options(driver="550.54.15", gpus=[H100])
    assert headings(lines) == ["A", "B", "C"]
    told = next(line for line in lines if "cuda-compat" in line)
    assert told.startswith("its CUDA 13.2 needs the cuda-compat that it brings, for driver 550.54.15 is older")
    assert "not without a container: CUDA 13.0 needs driver 580 or newer, this is 550.54.15" in lines
    assert not [line for line in options(gpus=[H100]) if "cuda-compat" in line]
    assert headings(options(driver="550.54.15", gpus=[RTX4090])) == ["not A", "B", "C"]
    assert headings(options(driver="525.60.13", gpus=[H100])) == ["not A", "B", "C"]


def test_gpus_that_the_recipes_do_not_train_on_are_told() -> None:
    first, *_ = options(gpus=[H100, T4])
    assert first.startswith("not A, the recipes")
    assert first.endswith("they train in bf16, which needs compute capability 8.0; a GPU here has 7.5")


def test_a_very_old_driver_runs_no_container() -> None:
    assert headings(options(driver="470.82.01")) == ["not A", "B", "not C"]


def test_without_a_driver_nothing_is_excluded_by_it() -> None:
    assert headings(options(driver=None)) == ["A", "B", "C"]


def test_a_python_that_no_package_is_for_has_no_option_b() -> None:
    lines = options(python="3.9.18")
    assert headings(lines) == ["A", "not B", "C"]
    assert not [line for line in lines if "pip install bionemo" in line]


def test_pytorch_comes_first_where_it_is_not_installed() -> None:
    lines = options(torch=NO_TORCH)
    start = next(number for number, line in enumerate(lines) if line.startswith("B:"))
    assert lines[start + 1].startswith('$ pip install "torch==')
    assert lines[start + 2].startswith("$ pip install bionemo-core")
    assert not [line for line in commands(options()) if "torch==" in line]


def test_a_numpy_that_would_be_replaced_is_told() -> None:
    told = "it replaces numpy 2.4.6 by one below 2, which bionemo-moco needs: leave that out to keep yours"
    assert told in options(numpy="2.4.6")
    assert told not in options(numpy="1.26.4")
    assert told not in options(numpy="2.4.6", python="3.13.0")


def test_a_container_has_no_docker() -> None:
    lines = options(container="docker")
    assert len([line for line in lines if line.startswith("on the host, not in this container, build")]) == 1
    assert len([line for line in lines if line.startswith("C: on the host, not in this container, ")]) == 1


def test_no_option_is_an_empty_line_or_two() -> None:
    for lines in (options(), options(python="3.9.18", machine="aarch64", driver="470.82.01")):
        assert all(line.strip() and "\n" not in line for line in lines)
