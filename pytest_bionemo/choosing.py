"""Which GPU a test gets: the one with the most free memory, or the one that it names, of those that it may use."""

from __future__ import annotations

from pytest_bionemo.compute import ComputeDevice, devices_of, devices_on
from pytest_bionemo.model import Gpu, GpuEnv, MigDevice, count
from pytest_bionemo.options import Options
from pytest_bionemo.probes import nvml, visible
from pytest_bionemo.probes.child import Child
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.worker import Device

ALL = "the visible devices"


class NoGpu(Exception):
    """There is none that can be chosen; the text says why."""


def freest(machine: Machine, options: Options) -> Gpu:
    """The visible GPU with the most free memory now: the driver is asked anew, in a child process.

    :raises NoGpu: if none is visible, or none answers.
    """
    usable = [one.gpu.label for one in _visible(machine, options) if one.gpu]
    if not usable:
        raise NoGpu(f"needs a GPU: {_why_none(machine)}")
    asked = Child(nvml.TARGET, options.timeout, machine.environment, doing="asking the NVIDIA driver")
    now = nvml.from_answer(asked.answer())
    answering = [gpu for gpu in now.gpus if gpu.answers and gpu.label in usable]
    if not answering:
        raise NoGpu(f"needs a GPU that answers: {_described(now)}")
    return max(answering, key=lambda gpu: gpu.free_memory_bytes or 0)


def device_for(choice: Gpu | MigDevice | str | None, machine: Machine, options: Options) -> Device:
    """What a worker shall see: this GPU or slice alone, no GPU ("cpu"), or all that this process sees (None).

    :raises ValueError: one line, for what is none of these or not visible here.
    """
    __tracebackhide__ = True
    if choice is None:
        return Device(ALL)
    if choice == "cpu":
        return Device.cpu()
    label = _label(choice)
    devices = _visible(machine, options)
    # Of a GPU in MIG mode it is the first slice: CUDA uses no more than one.
    for one in devices:
        if one.gpu and label in (one.label, one.gpu.uuid):
            return Device.of_gpu(one.label)
    here = ", ".join(one.label for one in devices) or _why_none(machine)
    raise ValueError(f"run_in_worker: device {label} is not visible here: {here}.")


def _label(choice: object) -> str:
    __tracebackhide__ = True
    found = choice.uuid if isinstance(choice, Gpu | MigDevice) else choice
    if not isinstance(found, str) or not found.startswith(("GPU-", "MIG-")):
        raise ValueError(
            f"run_in_worker: device={choice!r} is neither a Gpu of gpu_env.gpus, nor the UUID of one or of a MIG "
            "slice (GPU-..., MIG-...), nor 'cpu'."
        )
    return found


def _visible(machine: Machine, options: Options) -> tuple[ComputeDevice, ...]:
    env = machine.gpu_env
    seen = visible.read(env.gpus, machine.variables)
    if not seen.exact and len(seen.uuids) == len(env.gpus):
        # All of them, in whatever order: nobody has to know it.
        return tuple(device for gpu in env.gpus for device in devices_on(gpu))
    return devices_of(machine, options._replace(device="cuda"))


def _why_none(machine: Machine) -> str:
    env = machine.gpu_env
    seen = visible.read(env.gpus, machine.variables)
    if env.gpus and seen.problem:
        return f"{visible.VARIABLE}={seen.value}: {seen.problem}"
    if env.gpus and not seen.exact:
        leaves = f"{visible.VARIABLE}={seen.value} leaves {len(seen.uuids)} of {count(len(env.gpus), 'GPU')}"
        return f"{leaves}, and which is left only CUDA knows: set {visible.ORDER}=PCI_BUS_ID"
    return _described(env)


def _described(env: GpuEnv) -> str:
    return env.describe() if env.failure else f"here is {env.describe()}"
