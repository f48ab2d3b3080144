"""What a test demands of the machine: the arguments of the marker ``gpu_env``, validated, and held against it."""

from __future__ import annotations

import inspect
import math
import reprlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement

from pytest_bionemo.facts import precision, versions
from pytest_bionemo.model import Gpu, MigDevice, NvmlFailure, count
from pytest_bionemo.probes import nvml, packages, platforms, visible
from pytest_bionemo.probes.machine import Machine

_NO_DRIVER = (9, 12)  # NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_LIBRARY_NOT_FOUND
_NO_LINK = (2, 3, 6)  # NVML_ERROR_INVALID_ARGUMENT (no link of this number), _NOT_SUPPORTED, _NOT_FOUND
_MEMORY, _CAPABILITY, _MIG = (
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetMigMode",
)
# A line of an error shows a value, not a page of it.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100


@dataclass(frozen=True)
class Demand:
    """What one marker demands. None and empty: nothing of that kind. GB are 10**9 bytes, as GPUs are sold."""

    min_gpus: int
    min_memory_gb: float | None
    free_memory_gb: float | None
    compute_capability: str | None
    dtype: tuple[str, ...]
    nvlink: bool | None
    driver: str | None
    cuda: str | None
    torch: str | None
    mig: bool | None
    platform: tuple[str, ...]
    packages: tuple[str, ...]


class Unmet(NamedTuple):
    """What is needed ("1 GPU with 40 GB"), and what there is instead ("here are 2 with 24.1 GB")."""

    need: str
    seen: str


def demand(
    *,
    min_gpus: int = 1,
    min_memory_gb: float | None = None,
    free_memory_gb: float | None = None,
    compute_capability: str | None = None,
    dtype: str | Collection[str] | None = None,
    nvlink: bool | None = None,
    driver: str | None = None,
    cuda: str | None = None,
    torch: str | None = None,
    mig: bool | None = None,
    platform: str | Collection[str] | None = None,
    packages: str | Collection[str] | None = None,
) -> Demand:
    """The signature of the marker ``gpu_env``.

    A GPU counts if it is visible to this process and has all that is demanded of one.

    :param min_gpus: how many of them there must be.
    :param min_memory_gb: the memory of each; the host's where a GPU has none of its own.
    :param free_memory_gb: what was free of it when the driver was first asked.
    :param compute_capability: a specifier, such as ">=8.0".
    :param dtype: number formats that it multiplies in hardware, all of them, such as "bf16" or ["bf16", "fp8"].
    :param nvlink: True: one of its NVLinks is up. False: none is.
    :param mig: True: it is a MIG slice. False: it is a whole GPU.
    :param driver: a specifier for the NVIDIA driver, such as ">=580".
    :param cuda: a specifier for the newest CUDA that this driver runs, such as ">=12.8".
    :param torch: a specifier for the installed PyTorch, such as ">=2.6".
    :param platform: where this must run, or several of which one will do: "slurm", ["aws", "azure"].
    :param packages: requirements that the installed distributions must meet, such as ["bionemo-scdl>=0.1"].
    :raises ValueError: a line that names the argument, its value and what it takes.
    """
    formats = [name for name in precision.formats() if precision.rules(name, precision.PYTORCH)]
    return Demand(
        min_gpus=_number_of_gpus(min_gpus),
        min_memory_gb=_gigabytes("min_memory_gb", min_memory_gb),
        free_memory_gb=_gigabytes("free_memory_gb", free_memory_gb),
        compute_capability=_specifier("compute_capability", compute_capability),
        dtype=_words("dtype", dtype, formats),
        nvlink=_flag("nvlink", nvlink),
        driver=_specifier("driver", driver),
        cuda=_specifier("cuda", cuda),
        torch=_specifier("torch", torch),
        mig=_flag("mig", mig),
        platform=_words("platform", platform, platforms.NAMES),
        packages=tuple(found for text in _texts("packages", packages) if (found := _requirement(text))),
    )


ARGUMENTS = tuple(inspect.signature(demand).parameters)


def read(args: Sequence[object], kwargs: Mapping[str, Any]) -> Demand:
    """What these arguments of the marker demand.

    :raises ValueError: a line that names the first that is wrong, and what it takes.
    """
    if args:
        raise ValueError(f"gpu_env({_SHORT.repr(args[0])}): it takes keywords alone, such as gpu_env(min_gpus=2).")
    for name in kwargs:
        if name not in ARGUMENTS:
            given = f"gpu_env({name}={_SHORT.repr(kwargs[name])})"
            raise ValueError(f"{given}: it has no argument {name}.{_choices(name, ARGUMENTS)}")
    return demand(**kwargs)


def unmet(wanted: Demand, machine: Machine) -> list[Unmet]:
    """What of it this machine has not. What cannot be found out is not met."""
    return [*_unmet_by_driver(wanted, machine), *_unmet_by_software(wanted, machine)]


def describe(unmet: Sequence[Unmet]) -> str:
    """'needs 1 GPU with 40 GB, here are 2 with 24.1 GB'; what is missing for one reason is told in one go."""
    needs: dict[str, list[str]] = {}
    for need, seen in dict.fromkeys(unmet):
        needs.setdefault(seen, []).append(need)
    return "; ".join(
        f"needs {'; '.join(several)}: {seen}" if len(several) > 1 else f"needs {several[0]}, {seen}"
        for seen, several in needs.items()
    )


# ------------------------------------------------------------------------------------------------ the arguments


def _wrong(name: str, value: object, takes: str) -> ValueError:
    return ValueError(f"gpu_env({name}={_SHORT.repr(value)}): {name} takes {takes}")


def _choices(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name.lower(), known, n=1)
    return f"{f' Did you mean {near[0]}?' if near else ''} Choose from: {', '.join(known)}."


def _number_of_gpus(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _wrong("min_gpus", value, "a number of GPUs from 1 on, such as 2.")
    return value


def _gigabytes(name: str, value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise _wrong(name, value, "a number of GB (10**9 bytes) above 0, such as 40.")
    return float(value)


def _flag(name: str, value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, value, "True or False.")
    return value


def _specifier(name: str, value: object) -> str | None:
    if value is None:
        return None
    try:
        return str(versions.specifier(value if isinstance(value, str) else ""))
    except ValueError:
        raise _wrong(name, value, "a specifier of versions as text, such as '>=8.0' or '>=12.4,<13'.") from None


def _texts(name: str, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    several = (value,) if isinstance(value, str) else value
    is_list = isinstance(several, list | tuple | set | frozenset) and several
    if not is_list or not all(isinstance(one, str) for one in several):  # type: ignore[attr-defined]
        raise _wrong(name, value, "a text, or a list of texts that is not empty.")
    return tuple(several)  # type: ignore[arg-type]


def _words(name: str, value: object, known: Collection[str]) -> tuple[str, ...]:
    words = _texts(name, value)
    for word in words:
        if word not in known:
            raise ValueError(f"gpu_env({name}={_SHORT.repr(value)}): no {name} is {word!r}.{_choices(word, known)}")
    return words


def _requirement(text: str) -> str | None:
    """The requirement in its plain form; None where its own marker says that it is none here."""
    takes = "requirements such as 'bionemo-scdl>=0.1', without an extra and without an address."
    try:
        found = Requirement(text)
        is_wanted = found.marker is None or found.marker.evaluate()
    except (InvalidRequirement, UndefinedComparison, UndefinedEnvironmentName):
        raise _wrong("packages", text, takes) from None
    if found.url or found.extras:
        raise _wrong("packages", text, takes)
    return f"{found.name}{found.specifier}" if is_wanted else None


# --------------------------------------------------------------------------------------------- GPUs and driver


class _Seen(NamedTuple):
    """Whether a device has what is demanded, and what it has: "24.1 GB"."""

    fits: bool
    text: str


class _Device(NamedTuple):
    """What CUDA takes for a device: a GPU, or a MIG slice of one."""

    gpu: Gpu
    mig: MigDevice | None

    @property
    def shares_memory(self) -> bool:
        """Whether it uses the host's memory, and NVML has none of its own to tell of, as in a GB10."""
        return self.mig is None and self.gpu.memory_bytes is None and self.gpu.answers

    def memory_in(self, machine: Machine) -> int | None:
        if self.shares_memory:
            return machine.limits.memory_total
        return (self.mig.memory_bytes or None) if self.mig else self.gpu.memory_bytes

    def free_in(self, machine: Machine) -> int | None:
        if self.shares_memory:
            return machine.limits.memory_available
        return self.mig.free_memory_bytes if self.mig else self.gpu.free_memory_bytes

    @property
    def names(self) -> tuple[str | None, ...]:
        """What CUDA_VISIBLE_DEVICES can call it: a GPU that has no UUID goes by its index."""
        return (self.mig.uuid if self.mig else None, self.gpu.uuid, str(self.gpu.index))


class _Condition(NamedTuple):
    """What is demanded of a device ("40 GB"), and how one is judged."""

    need: str
    judge: Callable[[_Device], _Seen]


class _Devices(NamedTuple):
    """The devices of which this process sees ``number``, and what hides others, as a phrase."""

    candidates: tuple[_Device, ...]
    number: int
    note: str


def _unmet_by_driver(wanted: Demand, machine: Machine) -> Iterator[Unmet]:
    env = machine.gpu_env
    conditions = list(_conditions(wanted, machine))
    gpus = _with(count(wanted.min_gpus, "GPU"), [condition.need for condition in conditions])
    if env.failure:
        silence = _no_answer(env.failure)
        yield Unmet(gpus, silence)
        for name, specifier in (("driver", wanted.driver), ("CUDA", wanted.cuda)):
            if specifier:
                yield Unmet(f"{name} {specifier}", silence)
        return
    devices = _devices(machine)
    seen = [_judge(device, conditions) for device in devices.candidates]
    # Where nobody knows which ones are visible, those that do not fit may be among them.
    if devices.number - sum(not one.fits for one in seen) < wanted.min_gpus:
        yield Unmet(gpus, _describe([one.text for one in seen]) + devices.note)
    yield from _unmet_version("driver", wanted.driver, env.driver)
    yield from _unmet_version("CUDA", wanted.cuda, env.cuda_driver)


def _unmet_version(name: str, specifier: str | None, found: str | None) -> Iterator[Unmet]:
    if specifier is None:
        return
    if found is None:
        yield Unmet(f"{name} {specifier}", "it could not be asked: the driver does not tell")
    elif not versions.admits(specifier, str(versions.leading(found))):  # builds append to it: "580.95.05-open"
        yield Unmet(f"{name} {specifier}", f"here is {found}")


def _no_answer(failure: NvmlFailure) -> str:
    if failure.code in _NO_DRIVER:
        return f"no NVIDIA driver answers ({failure.text})"
    return f"the NVIDIA driver could not be asked: {failure.text}"


def _devices(machine: Machine) -> _Devices:
    """What CUDA_VISIBLE_DEVICES leaves visible.

    Of several slices CUDA shows a process one, and which is its own affair; so is the order in which it counts GPUs
    unless it is told one.
    """
    env = machine.gpu_env
    seen = visible.read(env.gpus, machine.variables)
    found = tuple(device for gpu in env.gpus for device in _devices_on(gpu))
    hidden = f", and {count(env.hidden_gpus, 'GPU')} that this user may not use" if env.hidden_gpus else ""
    if unsliced := sum(bool(gpu.mig_enabled and not gpu.mig_devices) for gpu in env.gpus):
        hidden += f", and {count(unsliced, 'GPU')} in MIG mode without a slice"
    if seen.value is not None and seen.exact:
        found = tuple(device for uuid in seen.uuids for device in found if uuid in device.names)
    number = len(found) if seen.value is None or seen.exact else min(len(seen.uuids), len(found))
    if seen.value is not None and len(seen.uuids) < len(env.gpus):
        problem = f": {seen.problem}" if seen.problem else ""
        hidden += f" ({visible.VARIABLE}={seen.value} leaves {len(seen.uuids)} of {len(env.gpus)}{problem})"
    if any(device.mig for device in found) and number > 1:
        return _Devices(found, 1, f"{hidden}, of which CUDA shows a process one")
    if number < len(found):
        hidden += f", and which is left only CUDA knows: set {visible.ORDER}=PCI_BUS_ID"
    return _Devices(found, number, hidden)


def _devices_on(gpu: Gpu) -> list[_Device]:
    # In MIG mode nothing runs on the GPU but on its slices.
    return [_Device(gpu, mig) for mig in gpu.mig_devices] if gpu.mig_enabled else [_Device(gpu, None)]


def _judge(device: _Device, conditions: Sequence[_Condition]) -> _Seen:
    if error := (device.gpu.errors or {}).get(nvml.HANDLE):
        return _Seen(False, f" that could not be asked: {error}")
    found = [condition.judge(device) for condition in conditions]
    return _Seen(all(one.fits for one in found), _with("", [one.text for one in found]))


def _conditions(wanted: Demand, machine: Machine) -> Iterator[_Condition]:
    if (memory := wanted.min_memory_gb) is not None:
        yield _Condition(f"{memory:g} GB", lambda device: _memory(device, device.memory_in(machine), memory, ""))
    if (free := wanted.free_memory_gb) is not None:
        yield _Condition(f"{free:g} GB free", lambda device: _memory(device, device.free_in(machine), free, " free"))
    if (specifier := wanted.compute_capability) is not None:
        yield _Condition(f"compute capability {specifier}", lambda device: _capability(device, specifier))
    for name in wanted.dtype:
        yield _Condition(name, lambda device, name=name: _format(device, name))  # type: ignore[misc]
    if (nvlink := wanted.nvlink) is not None:
        yield _Condition(_has("NVLink", nvlink), lambda device: _nvlink(device, nvlink, machine))
    if (mig := wanted.mig) is not None:
        yield _Condition(_has("MIG", mig), lambda device: _mig(device, mig))


def _unknown(device: _Device, what: str, call: str) -> _Seen:
    error = (device.gpu.errors or {}).get(call, "NVML does not tell")
    return _Seen(False, f"{what} that could not be asked: {error}")


def _memory(device: _Device, found: int | None, least: float, free: str) -> _Seen:
    if found is None:
        return _unknown(device, f"{free} memory".strip(), _MEMORY)
    # Rounded down: what is short of 40 GB does not read as 40 GB.
    return _Seen(found >= least * 1e9, f"{math.floor(found / 1e8) / 10:g} GB{free}")


def _capability(device: _Device, specifier: str) -> _Seen:
    found = device.gpu.compute_capability
    if found is None:
        return _unknown(device, "a compute capability", _CAPABILITY)
    text = "{}.{}".format(*found)
    return _Seen(versions.admits(specifier, text), f"compute capability {text}")


def _format(device: _Device, name: str) -> _Seen:
    found = device.gpu.compute_capability
    if found is None:
        return _unknown(device, "a compute capability", _CAPABILITY)
    fits = precision.is_in_gpu(name, found)
    return _Seen(fits, name if fits else "no {} (compute capability {}.{})".format(name, *found))


def _nvlink(device: _Device, wanted: bool, machine: Machine) -> _Seen:
    if device.mig:  # slices use none
        return _Seen(not wanted, _has("NVLink", False))
    health = machine.health.of(device.gpu.index)
    if health is None:
        return _Seen(False, f"NVLink that could not be asked: {machine.health.failure or 'no answer'}")
    silence = health.silent.get("nvlinks")
    if silence and silence.code not in _NO_LINK:
        return _Seen(False, f"NVLink that could not be asked: {silence.text}")
    is_up = bool(health.nvlinks and health.nvlinks.up)
    return _Seen(is_up is wanted, _has("NVLink", is_up))


def _mig(device: _Device, wanted: bool) -> _Seen:
    if device.gpu.mig_enabled is None and _MIG in (device.gpu.errors or {}):
        return _unknown(device, "MIG", _MIG)
    return _Seen(bool(device.mig) is wanted, _has("MIG", bool(device.mig)))


# --------------------------------------------------------------------------------- platform and distributions


def _unmet_by_software(wanted: Demand, machine: Machine) -> Iterator[Unmet]:
    if wanted.torch is not None:
        yield from _unmet_distribution("torch", wanted.torch, f"torch {wanted.torch}")
    if wanted.platform:
        yield from _unmet_platform(wanted.platform, machine)
    for text in wanted.packages:
        requirement = Requirement(text)
        yield from _unmet_distribution(requirement.name, str(requirement.specifier), text)


def _unmet_platform(wanted: Sequence[str], machine: Machine) -> Iterator[Unmet]:
    here = machine.platform.names
    if set(wanted).isdisjoint(here):
        silence = machine.surroundings.failure
        seen = f"it could not be asked: {silence}" if silence else f"here is {_and(here) or 'none that is known'}"
        yield Unmet(f"the platform {' or '.join(wanted)}", seen)


def _unmet_distribution(name: str, specifier: str, need: str) -> Iterator[Unmet]:
    if not packages.is_installed(name):
        yield Unmet(need, f"{name} is not installed")
        return
    found = packages.version(name)
    if found is None:
        yield Unmet(need, f"the version of {name} could not be asked: its metadata give none")
    elif not versions.admits(specifier, found):
        yield Unmet(need, f"here is {found}")


# ------------------------------------------------------------------------------------------------------ phrases


def _has(what: str, has: bool) -> str:
    return what if has else f"no {what}"


def _with(what: str, parts: Sequence[str]) -> str:
    return f"{what} with {_and(parts)}" if parts else what


def _and(parts: Sequence[str]) -> str:
    *others, last = parts or ("",)
    return f"{', '.join(others)} and {last}" if others else last


def _describe(devices: Sequence[str]) -> str:
    """'here are 2 with 24.1 GB', 'here are 3: 1 with 24.1 GB, 2 with 80 GB', 'here is none'."""
    kinds = Counter(devices)
    if not kinds:
        return "here is none"
    here = f"here is {len(devices)}" if len(devices) == 1 else f"here are {len(devices)}"
    if len(kinds) == 1:
        return here + devices[0]
    return f"{here}: " + ", ".join(f"{number}{text or ' that answers'}" for text, number in kinds.items())
