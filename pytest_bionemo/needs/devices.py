"""The devices that compute, each with its worker."""

from __future__ import annotations

import pytest

from pytest_bionemo.checking import wait_for
from pytest_bionemo.compute import Compute, ComputeDevice, devices_of
from pytest_bionemo.facts import architectures
from pytest_bionemo.model import Gpu
from pytest_bionemo.needs.established import ESTABLISHED_BY
from pytest_bionemo.needs.hardware import wait_for_gpu
from pytest_bionemo.needs.kept import LOCKS, WORKERS
from pytest_bionemo.options import Options
from pytest_bionemo.probes import visible
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.torch_build import TorchBuild
from pytest_bionemo.worker import Workers


@pytest.fixture(scope="session")
def workers(request: pytest.FixtureRequest, machine: Machine, bionemo_options: Options) -> Workers:
    """The processes in which workloads run, one for each device; none is started before it is needed."""
    stash = request.config.stash
    if WORKERS not in stash:
        devices = [device.device for device in devices_of(machine, bionemo_options)]
        stash[WORKERS] = Workers(devices, bionemo_options.timeout, stash.get(LOCKS, None))
    return stash[WORKERS]


@pytest.fixture
def device(request: pytest.FixtureRequest, torch_build: TorchBuild, workers: Workers) -> Compute:
    """A device that torch should be able to use: a check that asks for it runs once for each.

    A GPU that torch does not see, or has no code for, is not given to any workload.
    """
    return as_device(request.param, request)


def as_device(found: ComputeDevice | None, request: pytest.FixtureRequest) -> Compute:
    """A device as the check that asks sees it; the check does not run where torch should not be able to use it."""
    machine: Machine = request.getfixturevalue("machine")
    options: Options = request.getfixturevalue("bionemo_options")
    torch: TorchBuild = request.getfixturevalue("torch_build")
    if options.device == "cuda":
        request.getfixturevalue("usable_torch")
        _require_in_torch(found, machine, torch)
    assert found, "a rehearsal has a CPU"
    workers: Workers = request.getfixturevalue("workers")
    baseline = request.getfixturevalue("baseline")
    return Compute(found, workers, machine, options, request.node.user_properties, baseline)


def _require_in_torch(device: ComputeDevice | None, machine: Machine, torch: TorchBuild) -> None:
    if device is None:
        if visible.read(machine.gpu_env.gpus, machine.variables).problem:
            wait_for("driver::visible_devices_valid", f"{visible.VARIABLE} is not valid")
        wait_for(ESTABLISHED_BY["device"], "PyTorch does not say which GPUs it sees")
    gpu = device.gpu
    assert gpu, "only a rehearsal has a device that is no GPU"
    if not gpu.answers:
        wait_for_gpu(gpu)
    if gpu.compute_capability and architectures.match(torch.arch_list, gpu.compute_capability) is None:
        wait_for(f"torch::covers[gpu{gpu.index}]", f"PyTorch holds no code for {gpu.name}")
    if not _is_seen(device, gpu, torch):
        wait_for(ESTABLISHED_BY["device"], f"PyTorch does not see {device.name}")


def _is_seen(device: ComputeDevice, gpu: Gpu, torch: TorchBuild) -> bool:
    uuids = {visible.bare(seen.uuid) for seen in torch.devices if seen.uuid}
    # Of a GPU in MIG mode CUDA shows a process one slice; each worker is given its own.
    return bool(torch.devices) and (not uuids or device.mig is not None or visible.bare(gpu.label) in uuids)


@pytest.fixture
def worker(device: Compute) -> Compute:
    """A device that gives right answers: a check that asks for it runs once for each."""
    return computing(device)


def computing(device: Compute) -> Compute:
    """The same device, which gives right answers; otherwise the check does not run."""
    if not device.computes():
        wait_for(f"{ESTABLISHED_BY['worker']}[{device.name}]", f"{device.name} does not compute")
    return device


@pytest.fixture(scope="session")
def undisturbed(request: pytest.FixtureRequest) -> None:
    """Nothing else of this run is at work: what is timed beside other checks is no measurement."""
    if hasattr(request.config, "workerinput"):
        wait_for(None, "what is timed under pytest-xdist means nothing: run it without -n")
