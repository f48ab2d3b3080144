"""The machine, its driver, its GPUs, and what the run was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from pytest_bionemo import rules
from pytest_bionemo.baseline import Baseline, Circumstances
from pytest_bionemo.checking import wait_for
from pytest_bionemo.compute import circumstances_of
from pytest_bionemo.fixtures import machine_of
from pytest_bionemo.model import Gpu, GpuEnv
from pytest_bionemo.needs.established import ESTABLISHED_BY
from pytest_bionemo.needs.kept import BASELINE, OPTIONS, REPORTS
from pytest_bionemo.options import Options
from pytest_bionemo.probes import libraries
from pytest_bionemo.probes.health import GpuHealth
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.storage import Storage


@pytest.fixture(scope="session")
def bionemo_options(request: pytest.FixtureRequest) -> Options:
    """The options of this run."""
    return request.config.stash[OPTIONS]


@pytest.fixture(scope="session")
def baseline(request: pytest.FixtureRequest) -> Baseline | None:
    """The earlier run that this one is compared with; None where there is none."""
    return request.config.stash.get(BASELINE, None)


@pytest.fixture(scope="session")
def circumstances(machine: Machine, bionemo_options: Options) -> Circumstances:
    """Where and how this run measures."""
    return circumstances_of(machine, bionemo_options)


@pytest.fixture(scope="session")
def report_folder(request: pytest.FixtureRequest) -> Path:
    """Where the report is written, and in a job the reports of all nodes: the one place where anything may be."""
    return request.config.stash[REPORTS]


@pytest.fixture(scope="session")
def machine(request: pytest.FixtureRequest) -> Machine:
    """Every probe of this run."""
    return machine_of(request.config)


@pytest.fixture(scope="session")
def host(machine: Machine) -> Host:
    """The operating system, processor, C library and container."""
    return machine.host


@pytest.fixture(scope="session")
def gpu_env(machine: Machine) -> GpuEnv:
    """What NVML said, also where it did not answer."""
    return machine.gpu_env


@pytest.fixture(scope="session")
def linux(host: Host) -> Host:
    """A machine that runs Linux."""
    if not rules.is_linux(host):
        wait_for(ESTABLISHED_BY["linux"], f"the operating system is {host.system}")
    return host


@pytest.fixture(scope="session")
def driver(bionemo_options: Options, linux: Host, gpu_env: GpuEnv) -> GpuEnv:
    """The NVIDIA driver, answering."""
    if bionemo_options.device == "cpu":
        wait_for(None, "a rehearsal on the CPU asks no GPU")
    if not gpu_env.has_driver:
        wait_for(ESTABLISHED_BY["driver"], "the NVIDIA driver does not answer")
    return gpu_env


@pytest.fixture(scope="session")
def gpus(driver: GpuEnv) -> tuple[Gpu, ...]:
    """The GPUs of this machine, at least one."""
    if not driver.gpus:
        wait_for(ESTABLISHED_BY["gpus"], "the driver sees no GPU")
    return driver.gpus


@pytest.fixture(scope="session")
def storage(machine: Machine) -> Storage:
    """The folders that training writes to, all of them answering."""
    if place := rules.unwell_folder(machine):
        wait_for(ESTABLISHED_BY["shared_folders"], f"{place} does not answer")
    if machine.storage.failure:
        wait_for(ESTABLISHED_BY["storage"], "a folder does not answer")
    return machine.storage


@pytest.fixture
def any_gpu(request: pytest.FixtureRequest, gpus: tuple[Gpu, ...]) -> Gpu:
    """One GPU, whether it answers or not: a check that asks for it runs once for each."""
    gpu: Gpu = request.param
    return gpu


@pytest.fixture
def gpu(request: pytest.FixtureRequest, gpus: tuple[Gpu, ...]) -> Gpu:
    """One GPU that answers: a check that asks for it runs once for each."""
    gpu: Gpu = request.param
    if not gpu.answers:
        wait_for_gpu(gpu)
    return gpu


@pytest.fixture(scope="session")
def answering_gpus(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Every GPU of this machine, all of them answering."""
    silent = next((gpu for gpu in gpus if not gpu.answers), None)
    if silent:
        wait_for_gpu(silent)
    return gpus


def wait_for_gpu(gpu: Gpu) -> NoReturn:
    """End the check: it cannot run as long as this GPU does not answer."""
    wait_for(f"{ESTABLISHED_BY['gpu']}[gpu{gpu.index}]", f"GPU {gpu.index} does not answer")


@pytest.fixture
def gpu_health(gpu: Gpu, machine: Machine) -> GpuHealth:
    """How the GPU is: a check that asks for it, and for ``gpu``, runs once for each."""
    found = machine.health.of(gpu.index)
    if found is None or found.lost:
        culprit = gpu.index if found else machine.unread_gpu
        wait_for(f"{ESTABLISHED_BY['gpu_health']}[gpu{culprit}]", f"GPU {culprit} stopped answering")
    return found


@pytest.fixture(scope="session")
def own_libcuda(gpus: tuple[Gpu, ...], machine: Machine) -> libraries.CudaLibrary | None:
    """The libcuda that LD_LIBRARY_PATH puts first, fit for this driver; None if it names none."""
    found = machine.libcuda
    if rules.libcuda_problem(found, machine.gpu_env, machine.torch_build):
        wait_for(ESTABLISHED_BY["own_libcuda"], "another libcuda comes before the driver's")
    return found
