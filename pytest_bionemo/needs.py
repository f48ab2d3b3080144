"""What a check may ask for.

Each fixture here gives what another check establishes, and says so when it is not there: *not run: waits for
driver::loads*. That is decided from what the probes see, never from another check's outcome, so it holds
under ``-k``, ``-n``, ``--lf`` and in any order. The fixtures are registered on the suite: no conftest can
shadow them, and no test outside the suite sees them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NoReturn

import pytest

from pytest_bionemo import rules
from pytest_bionemo.baseline import Baseline, Circumstances
from pytest_bionemo.checking import NotRun, not_applicable, wait_for
from pytest_bionemo.compute import Compute, ComputeDevice, circumstances_of, devices_of
from pytest_bionemo.desk import Desk, DeskError
from pytest_bionemo.facts import architectures, stack
from pytest_bionemo.facts.instances import Instance
from pytest_bionemo.fixtures import family_of, machine_of
from pytest_bionemo.model import Gpu, GpuEnv
from pytest_bionemo.options import Options
from pytest_bionemo.probes import libraries, packages, visible
from pytest_bionemo.probes.bionemo import BionemoPackage
from pytest_bionemo.probes.child import Answer, Child
from pytest_bionemo.probes.fabric import Fabric
from pytest_bionemo.probes.health import GpuHealth
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.imports import Imports, Program
from pytest_bionemo.probes.job import Job
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.mounts import Mount
from pytest_bionemo.probes.platforms import Databricks, HyperPod, Platform, Slurm
from pytest_bionemo.probes.platforms.slurm import Containers
from pytest_bionemo.probes.storage import Storage
from pytest_bionemo.probes.toolkit import Toolkit
from pytest_bionemo.probes.torch_build import TorchBuild
from pytest_bionemo.ranks import MEET, Encounter, Ranks
from pytest_bionemo.worker import Workers
from pytest_bionemo.workloads.meeting import Place, staying

OPTIONS = pytest.StashKey[Options]()
WORKERS = pytest.StashKey[Workers]()
# The default port of torch.distributed, where none is given.
_PORT = 29500
# How many deadlines of one workload the fastest node waits for the slowest one.
_ARRIVAL = 5
_TELLING_S = 15.0
REPORTS = pytest.StashKey[Path]()
"""The folder of this run's report."""
BASELINE = pytest.StashKey[Baseline]()
"""The earlier run that this one is compared with, if there is one."""
LOCKS = pytest.StashKey[Path]()
"""Where processes of pytest-xdist agree on who uses a device; only in such a process."""

# fixture: the check that establishes what it gives
ESTABLISHED_BY = {
    "linux": "host::runs_linux",
    "storage": "host::folders_answer",
    "driver": "driver::loads",
    "torch_is_due": "driver::loads",
    "gpus": "driver::devices_present",
    "any_gpu": "driver::devices_present",
    "gpu": "driver::answers",
    "answering_gpus": "driver::answers",
    "gpu_health": "health::can_be_read",
    "torch_installed": "torch::installed",
    "torch_build": "torch::imports",
    "cuda_torch": "torch::is_cuda_build",
    "own_libcuda": "driver::libcuda_fits",
    "usable_torch": "driver::supports_torch_cuda",
    "device": "torch::sees_same_gpus",
    "worker": "torch::computes",
    "nodes": "collectives::every_node_arrives",
    "ranks": "collectives::ranks_meet",
    "local_ranks": "interconnect::devices_meet",
    "shared_folders": "platform::shared_file_systems_answer",
    "libfabric": "platform::efa_has_libfabric",
    "whole_package": "packages::is_whole",
    "importable_package": "packages::namespace_is_clean",
    "imported_package": "packages::imports_deeply",
}


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
        _wait_for_gpu(gpu)
    return gpu


@pytest.fixture(scope="session")
def answering_gpus(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Every GPU of this machine, all of them answering."""
    silent = next((gpu for gpu in gpus if not gpu.answers), None)
    if silent:
        _wait_for_gpu(silent)
    return gpus


def _wait_for_gpu(gpu: Gpu) -> NoReturn:
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
    return _compute(request.param, request)


def _compute(found: ComputeDevice | None, request: pytest.FixtureRequest) -> Compute:
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
        _wait_for_gpu(gpu)
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
    return _computing(device)


def _computing(device: Compute) -> Compute:
    if not device.computes():
        wait_for(f"{ESTABLISHED_BY['worker']}[{device.name}]", f"{device.name} does not compute")
    return device


@pytest.fixture(scope="session")
def undisturbed(request: pytest.FixtureRequest) -> None:
    """Nothing else of this run is at work: what is timed beside other checks is no measurement."""
    if hasattr(request.config, "workerinput"):
        wait_for(None, "what is timed under pytest-xdist means nothing: run it without -n")


# ------------------------------------------------------------------------------------- several devices at once


@pytest.fixture(scope="session")
def encounter(undisturbed: None, job: Job, machine: Machine, bionemo_options: Options) -> Iterator[Encounter]:
    """Where this node is among those of its job; the first one keeps the desk at which their ranks meet."""
    found = _place(job, machine.host.hostname)
    with _desk(found.port, found.job, bionemo_options.timeout) if job.node_rank == 0 else nullcontext():
        yield Encounter(found)


def _place(job: Job, hostname: str) -> Place:
    # torchrun's own store has the port that it gives.
    port = (job.port or _PORT) + (job.launcher == "torchrun")
    # The tasks of an array have one id, the steps of a job one port; a job of torchrun, or by hand, often has no id.
    meeting = ":".join(str(part) for part in (job.id or "", job.step, port) if part is not None)
    hosts = list(job.hosts)
    return Place(job.node_rank, job.nodes, job.address or "127.0.0.1", port, hosts, meeting, job.node or hostname)


@pytest.fixture(scope="session")
def arrival(encounter: Encounter, bionemo_options: Options) -> Iterator[Answer]:
    """What became of the meeting of all nodes: each waits here until the slowest one is through what comes before."""
    limit = _ARRIVAL * bionemo_options.timeout
    told = {"place": encounter.place.to_json(), "deadline_s": limit}
    deadline = limit + bionemo_options.timeout
    doing = f"waiting for all {encounter.place.nodes} nodes of the job"
    child = Child("pytest_bionemo.workloads.meeting:arrive", deadline, arguments=told, doing=doing)
    answer = child.answer()
    has_met = answer.value is not None and not answer.value["missed"]
    with staying(encounter.place.to_json()) if has_met and encounter.place.node_rank else nullcontext():
        yield answer
    child.close()


@pytest.fixture(scope="session")
def nodes(arrival: Answer, encounter: Encounter) -> Encounter:
    """All nodes of the job, all of them here."""
    missed = arrival.failure if arrival.value is None else arrival.value["missed"]
    if missed:
        wait_for(ESTABLISHED_BY["nodes"], f"not every node of the job is here: {missed}")
    return encounter


@pytest.fixture
def own_ranks(request: pytest.FixtureRequest, encounter: Encounter, nodes: Encounter) -> Ranks:
    """The devices of this node, ready to meet the others; where they are not, the others are told not to wait."""
    try:
        return _ranks(request, encounter)
    except NotRun as gap:
        if not encounter.is_absent:
            encounter.is_absent = True
            told = {"place": encounter.place.to_json(), "reason": gap.reason}
            target = "pytest_bionemo.workloads.meeting:say_absent"
            Child(target, _TELLING_S, arguments=told, doing="telling the other nodes").answer()
        raise


@pytest.fixture
def ranks(own_ranks: Ranks) -> Ranks:
    """The ranks of all nodes, which have met before."""
    if not own_ranks.meets(MEET):
        wait_for(ESTABLISHED_BY["ranks"], "the ranks of the job do not meet")
    return own_ranks


@pytest.fixture(scope="session")
def local_encounter(undisturbed: None, machine: Machine) -> Iterator[Encounter]:
    """Where the devices of this node meet among themselves."""
    with _desk(0, "") as desk:
        name = machine.job.node if machine.job else None
        yield Encounter(Place(0, 1, "127.0.0.1", desk.port, [name or machine.host.hostname]))


@pytest.fixture
def own_local_ranks(request: pytest.FixtureRequest, machine: Machine, bionemo_options: Options) -> Ranks:
    """The devices of this node, at least two, as ranks among themselves."""
    devices = devices_of(machine, bionemo_options)
    if len(devices) < 2:
        not_applicable("there are no two devices here")
    if any(device.mig for device in devices):
        not_applicable("slices of a GPU (MIG) do not talk to each other")
    return _ranks(request, request.getfixturevalue("local_encounter"))


@pytest.fixture
def local_ranks(own_local_ranks: Ranks) -> Ranks:
    """The same, which have met before."""
    if not own_local_ranks.meets(MEET):
        wait_for(ESTABLISHED_BY["local_ranks"], "the devices of this node do not meet")
    return own_local_ranks


@pytest.fixture
def team(request: pytest.FixtureRequest, machine: Machine) -> Ranks:
    """All ranks that train together: those of the job, or without one of several nodes the devices of this node."""
    several = machine.job is not None and machine.job.nodes > 1
    found: Ranks = request.getfixturevalue("ranks" if several else "local_ranks")
    return found


@pytest.fixture(scope="session")
def report_folder(request: pytest.FixtureRequest) -> Path:
    """Where the report is written, and in a job the reports of all nodes: the one place where anything may be."""
    return request.config.stash[REPORTS]


def _ranks(request: pytest.FixtureRequest, encounter: Encounter) -> Ranks:
    machine: Machine = request.getfixturevalue("machine")
    options: Options = request.getfixturevalue("bionemo_options")
    request.getfixturevalue("torch_build")
    found = [_computing(_compute(device, request)) for device in devices_of(machine, options) or [None]]
    return Ranks(found, request.getfixturevalue("workers"), encounter, options.timeout)


@contextmanager
def _desk(port: int, job: str, patience_s: float = 0) -> Iterator[Desk]:
    try:
        desk = Desk(port, job, patience_s)
    except DeskError as error:
        wait_for(None, error)
    try:
        yield desk
    finally:
        desk.close()


# ------------------------------------------------------------------------------------------------- platforms


def _require_told(what: str, machine: Machine) -> None:
    if what in machine.surroundings.said:
        return
    if place := rules.unwell_surrounding(machine):
        wait_for(ESTABLISHED_BY["shared_folders"], f"{place} does not answer")
    wait_for(None, f"the {what} could not be looked at: {machine.surroundings.failure}")


@pytest.fixture(scope="session")
def platform(linux: Host, machine: Machine) -> Platform:
    """The platforms that this is, none or several."""
    _require_told("platform", machine)
    return machine.platform


@pytest.fixture(scope="session")
def fabric(linux: Host, machine: Machine) -> Fabric:
    """The network between nodes."""
    _require_told("fabric", machine)
    assert machine.fabric, "it was told"
    return machine.fabric


@pytest.fixture(scope="session")
def instance(platform: Platform) -> Instance:
    """The type of this instance, as the table has it."""
    found, unknown = rules.instance_of(platform)
    if found is None:
        not_applicable(unknown)
    return found


@pytest.fixture(scope="session")
def efa(fabric: Fabric) -> Fabric:
    """A machine with adapters of AWS for traffic between nodes (EFA)."""
    if not fabric.efa:
        not_applicable("there is no EFA adapter here (/sys/class/infiniband has none of the driver efa)")
    return fabric


@pytest.fixture(scope="session")
def libfabric(efa: Fabric, host: Host) -> Fabric:
    """The same with a libfabric that programs find."""
    if not rules.is_given_efa(efa, host):
        not_applicable("this container was given no EFA adapter: /dev/infiniband has none")
    if efa.libfabric is None or not efa.libfabric.is_found:
        wait_for(ESTABLISHED_BY["libfabric"], "programs do not find libfabric")
    return efa


@pytest.fixture(scope="session")
def hyperpod(platform: Platform) -> HyperPod:
    """A node of SageMaker HyperPod."""
    if platform.hyperpod is None:
        not_applicable("this is no SageMaker HyperPod")
    return platform.hyperpod


@pytest.fixture(scope="session")
def slurm(platform: Platform) -> Slurm:
    """A node of Slurm."""
    if platform.slurm is None:
        not_applicable("this is no node of Slurm")
    return platform.slurm


@pytest.fixture(scope="session")
def job(machine: Machine) -> Job:
    """The job of several nodes of which this machine is one."""
    if machine.job is None or machine.job.nodes == 1:
        not_applicable("this is no job of several nodes")
    found = machine.job_of_lightning
    assert found, "Lightning takes no job away"
    return found


@pytest.fixture(scope="session")
def slurm_containers(slurm: Slurm, machine: Machine) -> Containers:
    """How this node of Slurm starts containers."""
    _require_told("containers", machine)
    found = machine.surroundings.containers
    if found is None:
        not_applicable("Slurm's configuration has no pyxis (plugstack.conf)")
    return found


@pytest.fixture(scope="session")
def databricks(platform: Platform) -> Databricks:
    """Databricks compute."""
    if platform.databricks is None:
        not_applicable("this is not Databricks")
    return platform.databricks


@pytest.fixture(scope="session")
def mount_table(linux: Host, machine: Machine) -> tuple[Mount, ...]:
    """Every mount of this process."""
    if machine.mount_table is None:
        wait_for(None, "/proc/self/mountinfo names no mount, so that nobody knows which file systems there are")
    return machine.mount_table


@pytest.fixture(scope="session")
def shared_mounts(mount_table: tuple[Mount, ...], machine: Machine) -> tuple[Mount, ...]:
    """The file systems that this machine shares with others, at least one."""
    if not machine.shared_mounts:
        not_applicable("no file system is mounted that machines share")
    return machine.shared_mounts


@pytest.fixture(scope="session")
def mount_answers(shared_mounts: tuple[Mount, ...], machine: Machine) -> Answer:
    """What each of them answered, asked in a child process."""
    return machine.mount_answers


# ----------------------------------------------------------------------------------------- BioNeMo's packages


@pytest.fixture
def package(name: str, request: pytest.FixtureRequest, linux: Host) -> BionemoPackage:
    """The BioNeMo package that the check is about, whole or not."""
    found = family_of(request.config).package(name)
    if not found.is_installed:
        not_applicable(f"{name} is not installed")
    return found


@pytest.fixture
def whole_package(package: BionemoPackage) -> BionemoPackage:
    """The package with all its files."""
    if package.found is None or not package.found.is_whole:
        wait_for(
            f"{ESTABLISHED_BY['whole_package']}[{package.name}]", f"the installation of {package.name} is damaged"
        )
    return package


@pytest.fixture
def importable_package(whole_package: BionemoPackage, machine: Machine) -> BionemoPackage:
    """The package, with nothing known in the way of its import."""
    name, torch = whole_package.name, machine.torch_build
    if packages.namespace_intruder("bionemo"):
        wait_for(ESTABLISHED_BY["importable_package"], "another bionemo hides it")
    if not packages.is_for_this_python(name):
        wait_for(f"packages::fits_platform[{name}]", f"{name} is built for another Python or processor")
    if torch.import_error and any(needed.name == "torch" for needed in whole_package.requirements):
        established = "torch_build" if torch.is_installed else "torch_installed"
        wait_for(ESTABLISHED_BY[established], f"{name} needs PyTorch, which does not import")
    return whole_package


@pytest.fixture
def imported_package(importable_package: BionemoPackage) -> BionemoPackage:
    """The package, imported in every part of it that is known."""
    name = importable_package.name
    if not importable_package.imported.is_usable:
        wait_for(f"{ESTABLISHED_BY['imported_package']}[{name}]", f"{name} does not import")
    return importable_package


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
