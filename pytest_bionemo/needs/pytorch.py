"""PyTorch, and what is built on it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pytest_bionemo import rules
from pytest_bionemo.checking import wait_for
from pytest_bionemo.facts import stack
from pytest_bionemo.model import Gpu, GpuEnv
from pytest_bionemo.needs.established import ESTABLISHED_BY
from pytest_bionemo.needs.kept import WORKERS
from pytest_bionemo.options import Options
from pytest_bionemo.probes import libraries, packages
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.imports import Imports, Program
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.toolkit import Toolkit
from pytest_bionemo.probes.torch_build import TorchBuild


@pytest.fixture(scope="session")
def torch_is_due(bionemo_options: Options, linux: Host, machine: Machine) -> None:
    """A PyTorch can be installed, and the driver is known: only then can be said which build is right."""
    if not rules.has_torch_processor(linux):
        wait_for("host::has_supported_processor", f"the processor is {linux.machine}")
    if machine.torch_build.version is None and not rules.has_torch_glibc(linux):
        wait_for("host::has_glibc_for_torch", "the C library is too old for PyTorch's wheels")
    if machine.torch_build.version is None and (problem := rules.python_problem(linux)):
        wait_for("host::has_python_for_torch", f"this is {problem}")
    if bionemo_options.device == "cuda" and not machine.gpu_env.has_driver:
        wait_for(ESTABLISHED_BY["driver"], "the NVIDIA driver does not answer")


@pytest.fixture(scope="session")
def torch_installed(torch_is_due: None, machine: Machine) -> TorchBuild:
    """An installed PyTorch, whether it imports or not."""
    if not machine.torch_build.is_installed:
        wait_for(ESTABLISHED_BY["torch_installed"], "PyTorch is not installed")
    return machine.torch_build


@pytest.fixture(scope="session")
def torch_build(torch_installed: TorchBuild) -> TorchBuild:
    """A PyTorch that imports."""
    if torch_installed.import_error:
        wait_for(ESTABLISHED_BY["torch_build"], "PyTorch does not import")
    return torch_installed


@pytest.fixture(scope="session")
def cuda_torch(driver: GpuEnv, torch_build: TorchBuild) -> TorchBuild:
    """A PyTorch that is built for CUDA."""
    if torch_build.cuda is None:
        wait_for(ESTABLISHED_BY["cuda_torch"], "PyTorch is not built for CUDA")
    return torch_build


@pytest.fixture(scope="session")
def usable_torch(
    gpus: tuple[Gpu, ...],
    own_libcuda: libraries.CudaLibrary | None,
    cuda_torch: TorchBuild,
    driver: GpuEnv,
) -> TorchBuild:
    """A PyTorch whose CUDA this driver runs."""
    if rules.driver_runs(driver, cuda_torch, own_libcuda) is not True:
        wait_for(ESTABLISHED_BY["usable_torch"], f"the driver does not run CUDA {cuda_torch.cuda}")
    return cuda_torch


@pytest.fixture(scope="session")
def cuda_toolkit(machine: Machine) -> Toolkit | None:
    """The CUDA toolkit, None where there is none."""
    return machine.toolkit


@pytest.fixture(scope="session")
def shadowed_libraries(machine: Machine) -> tuple[libraries.Shadow, ...]:
    """Libraries of installed NVIDIA wheels that LD_LIBRARY_PATH replaces."""
    return libraries.shadows(machine.variables)


@pytest.fixture(scope="session")
def stack_imports(request: pytest.FixtureRequest, machine: Machine, bionemo_options: Options) -> Iterator[Imports]:
    """What importing each installed distribution that the recipes are built on does, after PyTorch."""
    on_gpu = bionemo_options.device == "cuda" and bool(machine.torch_build.devices)
    programs = {
        one.name: Program(("torch", one.module), on_gpu=on_gpu)
        for one in stack.distributions()
        if one.judged_by is None and packages.find(one.name)
    }
    takes_one = on_gpu and any(gpu.takes_one_process for gpu in machine.health.gpus)
    if takes_one and WORKERS in request.config.stash:
        request.config.stash[WORKERS].rest()
    # In a process of pytest-xdist each is asked for on its own: another one asks for the others.
    ahead = not hasattr(request.config, "workerinput") and not takes_one
    found = Imports(programs, bionemo_options.timeout, {**os.environ, **machine.variables}, ahead=ahead)
    yield found
    found.close()
