"""One device at work, as a check sees it: it runs workloads there and puts numbers into the report."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from pytest_bionemo import judging
from pytest_bionemo.baseline import Baseline, Circumstances, Earlier, software
from pytest_bionemo.checking import fail, wait_for
from pytest_bionemo.facts import gpus
from pytest_bionemo.facts.gpus import GpuModel
from pytest_bionemo.judging import Limits
from pytest_bionemo.model import Action, Gpu, GpuEnv, Measurement, MigDevice
from pytest_bionemo.options import Options
from pytest_bionemo.probes import visible
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.torch_build import TorchBuild
from pytest_bionemo.terms import Level
from pytest_bionemo.worker import Device, Numbers, Trouble, Workers, WorkloadFailed

T = TypeVar("T")

MEASUREMENT = "bionemo_measurement"  # the property in which a check records a number
WORKLOADS = "pytest_bionemo.workloads."
_KERNEL_LOG = "look at the kernel log: $ sudo dmesg | grep -i -e nvrm -e xid"


@dataclass(frozen=True)
class ComputeDevice:
    """Where workloads run: a GPU, a MIG slice of one, or (without ``gpu``) the CPU in a rehearsal.

    ``name`` is short ("gpu0", "gpu0-mig1", "cpu0"); ``label`` is the UUID, the name where there is none.
    """

    name: str
    label: str
    gpu: Gpu | None = None
    mig: MigDevice | None = None

    @property
    def device(self) -> Device:
        """For its worker."""
        return Device.of_gpu(self.label, self.name) if self.gpu else Device.cpu(self.label)


def devices_of(machine: Machine, options: Options) -> tuple[ComputeDevice, ...]:
    """The devices that this run may use: those that CUDA_VISIBLE_DEVICES leaves visible.

    In a rehearsal it is the CPU, as often as ``--bionemo-expect-gpus`` says. Empty where there is none, and where
    the variable counts GPUs in an order that only CUDA knows and torch does not tell their UUIDs.
    """
    if options.device == "cpu":
        return tuple(ComputeDevice(f"cpu{index}", f"cpu{index}") for index in range(options.expect_gpus or 1))
    env = machine.gpu_env
    seen = visible.read(env.gpus, machine.variables)
    if seen.value is None:
        return tuple(device for gpu in env.gpus for device in devices_on(gpu))
    named = seen.uuids if seen.exact else _uuids_in_torch(machine.torch_build)
    return tuple(dict.fromkeys(device for uuid in named for device in _devices_called(uuid, env)))


def _uuids_in_torch(torch: TorchBuild) -> tuple[str, ...]:
    return tuple(device.uuid for device in torch.devices if device.uuid)


def _devices_called(uuid: str, env: GpuEnv) -> list[ComputeDevice]:
    """The GPU of this UUID, with its slices instead of itself in MIG mode; or the slice."""
    found = [device for gpu in env.gpus for device in devices_on(gpu)]
    bare = visible.bare(uuid)
    slices = [device for device in found if device.mig and visible.bare(device.mig.uuid) == bare]
    return slices or [
        device for device in found if device.gpu and bare in (visible.bare(device.gpu.label), str(device.gpu.index))
    ]


def devices_on(gpu: Gpu) -> list[ComputeDevice]:
    """The GPU itself, or its slices in MIG mode."""
    name = f"gpu{gpu.index}"
    slices = enumerate(gpu.mig_devices if gpu.mig_enabled else ())
    return [ComputeDevice(f"{name}-mig{index}", mig.uuid, gpu, mig) for index, mig in slices] or [
        ComputeDevice(name, gpu.label, gpu)
    ]


def circumstances_of(machine: Machine, options: Options) -> Circumstances:
    """Where and how this run measures."""
    env, torch = machine.gpu_env, machine.torch_build
    stack = {"torch": torch.version, "torch_cuda": torch.cuda, "cudnn": torch.cudnn, "nccl": torch.nccl}
    return Circumstances(
        level=options.level,
        device=options.device,
        hostname=machine.host.hostname,
        devices=tuple(gpu.uuid for gpu in env.gpus if gpu.uuid),
        slices=tuple(mig.uuid for gpu in env.gpus for mig in gpu.mig_devices),
        visible=machine.variables.get("CUDA_VISIBLE_DEVICES"),
        software=software({"driver": env.driver, **stack}),
        nodes=machine.job.nodes if machine.job else 1,
        pretended=len(devices_of(machine, options)) if options.device == "cpu" else 0,
    )


class Compute:
    """One device and what a check can do with it."""

    def __init__(
        self,
        device: ComputeDevice,
        workers: Workers,
        machine: Machine,
        options: Options,
        properties: list[tuple[str, object]],
        baseline: Baseline | None = None,
    ) -> None:
        self._device = device
        self._workers = workers
        self._machine = machine
        self._properties = properties
        self._baseline = baseline
        self.level: Level = options.level
        self.is_rehearsal = options.device == "cpu"

    @property
    def name(self) -> str:
        """Short: "gpu0", "gpu0-mig1", "cpu0"."""
        return self._device.name

    @property
    def label(self) -> str:
        """The UUID of the GPU or slice; the name in a rehearsal."""
        return self._device.label

    @property
    def gpu(self) -> Gpu | None:
        """The GPU, or the one of which this is a slice; None in a rehearsal."""
        return self._device.gpu

    @property
    def mig(self) -> MigDevice | None:
        """The slice, None where it is a whole GPU."""
        return self._device.mig

    @property
    def compute_capability(self) -> tuple[int, int] | None:
        """(major, minor); None in a rehearsal."""
        return self.gpu.compute_capability if self.gpu else None

    @property
    def memory_bytes(self) -> int | None:
        """Of the GPU or slice; None in a rehearsal and for a GPU that shares the host's memory."""
        if self.mig:
            return self.mig.memory_bytes
        return self.gpu.memory_bytes if self.gpu else None

    @property
    def model(self) -> GpuModel | None:
        """The product, with its physical bounds; None in a rehearsal, for a slice, and where the table has no row."""
        if self.gpu is None or self.gpu.name is None or self.mig:
            return None
        return gpus.find(self.gpu.name, self.gpu.memory_bytes)

    @property
    def torch(self) -> TorchBuild:
        """The PyTorch that runs on it."""
        return self._machine.torch_build

    def __str__(self) -> str:
        if self.gpu is None:
            return self.name
        return f"{self.name} ({self.mig.name if self.mig else self.gpu.name})"

    def size(self, *, rehearsal: T, standard: T, full: T | None = None) -> T:
        """How much work to do: a rehearsal is small, and ``full`` is as ``standard`` unless it is given."""
        if self.is_rehearsal:
            return rehearsal
        return full if self.level == "full" and full is not None else standard

    def run(self, workload: str, /, **parameters: Any) -> Numbers:
        """The numbers of a workload on this device, as "module:function" below ``pytest_bionemo.workloads``.

        The first request starts it on every device of the run; asked again with the same parameters, it is not run
        again. One that hangs, dies, runs out of memory or breaks CUDA ends the check with a finding.

        :raises WorkloadFailed: if it broke off with an error of its own.
        """
        __tracebackhide__ = True
        try:
            return self._workers.run(self.label, WORKLOADS + workload, **parameters)
        except WorkloadFailed as error:
            self.explain(error, workload)
            raise

    def peers(self, workload: str, /, **parameters: Any) -> dict[str, Numbers]:
        """The numbers of the same workload on the other devices, by label; those that gave none are left out."""
        found = {}
        for label in self._workers.labels:
            if label != self.label:
                try:
                    found[label] = self._workers.run(label, WORKLOADS + workload, **parameters)
                except WorkloadFailed:
                    continue
        return found

    def computes(self) -> bool:
        """Whether the device gives right numbers at all: what ``torch::computes`` establishes."""
        try:
            return self.is_right(self._workers.run(self.label, f"{WORKLOADS}smoke:run"))
        except WorkloadFailed:
            return False

    def is_right(self, smoke: Numbers) -> bool:
        """Whether these numbers of the smoke workload are of this device alone, and right."""
        return smoke["wrong"] == 0 and smoke["devices"] == 1 and self._is_named_by(smoke["uuid"])

    def _is_named_by(self, uuid: str | None) -> bool:
        # Whether torch reports a slice by its own UUID or by its GPU's is not known.
        own = {visible.bare(label) for label in (self.label, self.gpu.label if self.gpu else "")}
        return uuid is None or visible.bare(uuid) in own

    def earlier(self, name: str, unit: str) -> Earlier | None:
        """What this device measured by this name in the run that is the baseline; None where there is none."""
        return self._baseline.find(name, unit, self.label) if self._baseline else None

    def earlier_rulers(self, name: str, unit: str, rehearsed: Limits = judging.REHEARSED_BEFORE) -> dict[str, Any]:
        """The same for :func:`judging.judge`; ``rehearsed`` are its limits in a rehearsal.

        Where the driver, say, is another one than then, it blames no device: what is slower is degraded at worst.
        """
        found = self.earlier(name, unit)
        if found is None or self._baseline is None:
            return {}
        limits = rehearsed if self.is_rehearsal else judging.NODE
        if not self._baseline.is_alike:
            limits = Limits(limits.degraded, low=0.0)
        return {"baseline": found.value, "baseline_ci95": found.ci95, "baseline_limits": limits}

    def measure(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        samples: int | None = None,
        ci95: Sequence[float] | None = None,
        bound: float | None = None,
        reference: float | None = None,
        peer_median: float | None = None,
        judgement: str | None = None,
        nodes: int | None = None,
    ) -> Measurement:
        """Put a number of this device into the report, with its rulers (see :class:`Measurement`).

        The baseline is what it measured by this name before, where there is such a run.

        :raises ValueError: for a name of anything but small letters, digits and underscores.
        """
        if not re.fullmatch(r"[a-z0-9_]+", name):
            raise ValueError(f"{name!r} is no name of a number: use small letters, digits and underscores")
        interval = (ci95[0], ci95[1]) if ci95 else None
        finite = value if math.isfinite(value) else None
        before = self.earlier(name, unit)
        baseline = before.value if before else None
        measurement = Measurement(
            name, finite, unit, self.label, samples, interval, bound, reference, peer_median, baseline, judgement,
            nodes=nodes,
        )  # fmt: skip
        self._properties.append((MEASUREMENT, json.dumps(measurement.to_json())))
        return measurement

    def explain(self, error: WorkloadFailed, workload: str) -> None:
        """End the check with a finding where the device or its software is at fault, and not the workload."""
        __tracebackhide__ = True
        seen = f"{self}: the workload {workload} "
        if error.trouble is Trouble.NOT_STARTED:
            wait_for(None, f"{self}: {workload.partition(':')[0]} was {error.text}")
        if error.trouble is Trouble.HANG:
            self._blame(
                f"{seen}gave {error.text} and was killed",
                why="a training step would hang there and hold the whole job",
                fix=["if this machine is only slow, raise --bionemo-timeout", *self._reset()],
                action=Action.RESET_GPU,
            )
        if error.trouble is Trouble.OUT_OF_MEMORY:
            self._blame(
                f"{seen}ran out of memory: {error.text}",
                why="a model would not fit where this does not",
                fix=["end what else uses the memory: $ nvidia-smi" if self.gpu else "give the job more memory"],
                action=Action.FREE_GPU,
            )
        if error.trouble is Trouble.CUDA_ERROR:
            self._blame(
                f"{seen}broke CUDA: {error.text}",
                why="after such an error no kernel runs in this process any more",
                fix=[_KERNEL_LOG, *self._reset()],
                action=Action.RESET_GPU,
            )
        if error.trouble is Trouble.LIBRARY_ERROR:
            self._blame(
                f"{seen}failed in a CUDA library: {error.text}",
                why="the library is of another version than PyTorch was built with, or cannot start here",
                fix=["take folders with CUDA libraries out of LD_LIBRARY_PATH", "or reinstall PyTorch"],
            )
        if error.trouble is Trouble.DEATH:
            self._blame(f"{seen}died: {error.text}", **_DEATHS["SIGKILL" in error.text])

    def _blame(self, message: str, *, why: str, fix: Sequence[str], action: Action = Action.FIX_SOFTWARE) -> NoReturn:
        __tracebackhide__ = True
        # No GPU took part in a rehearsal: there is none to reset.
        fail(message, why=why, fix=fix, action=action if self.gpu else Action.FIX_SOFTWARE)

    def _reset(self) -> list[str]:
        if self.gpu is None:
            return []
        return [f"reset the GPU: $ sudo nvidia-smi --gpu-reset -i {self.gpu.label}", "or reboot the node"]


_DEATHS: Mapping[bool, Mapping[str, Any]] = {
    True: {
        "why": "the kernel kills a process when the machine or the job's cgroup runs out of memory",
        "fix": ["look at the kernel log: $ sudo dmesg | grep -i -e oom -e killed", "give the job more memory"],
    },
    False: {
        "why": "a library crashes the interpreter, and would crash a training",
        "fix": ["reinstall PyTorch and what was compiled against it", _KERNEL_LOG],
    },
}
