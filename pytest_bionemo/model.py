"""The words of the project as types: what travels between probes, checks, report and verdict.

Everything here is frozen data. A type that crosses a process carries its JSON form beside it
(``to_json``/``from_json``): probes run in child processes, reports are read back from files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from pytest_bionemo.terms import Severity


class Action(str, Enum):
    """What has to be done about a finding, weakest first."""

    NONE = "NONE"
    FIX_SOFTWARE = "FIX_SOFTWARE"
    FREE_GPU = "FREE_GPU"
    RESET_GPU = "RESET_GPU"
    REBOOT_NODE = "REBOOT_NODE"
    REPLACE_NODE = "REPLACE_NODE"

    @property
    def strength(self) -> int:
        """Its place in the order: the action for a node is the strongest of its findings."""
        return list(Action).index(self)


class Outcome(str, Enum):
    """How one check ended."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not_applicable"
    NOT_RUN = "not_run"
    ERROR = "error"


class VerdictName(str, Enum):
    """The answer to the one question."""

    READY = "READY"
    READY_FOR_INSTALL = "READY_FOR_INSTALL"
    BLOCKED = "BLOCKED"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True)
class Finding:
    """A failed check: what was seen and expected, why it matters, how to fix it.

    A ``fix`` line that starts with ``$ `` is a command to type. ``severity`` is the check's own unless given.
    ``blames`` are the hosts of a job that are at fault, where this machine is not: the action is for them.
    """

    message: str
    why: str = ""
    fix: tuple[str, ...] = ()
    action: Action = Action.FIX_SOFTWARE
    links: tuple[str, ...] = ()
    severity: Severity | None = None
    blames: tuple[str, ...] = ()

    def describe(self) -> str:
        """All of it as lines of text: what was seen, why it matters, how to fix it, where to read on."""
        why = [f"why: {self.why}"] if self.why else []
        fix = [f"{'     ' if position else 'fix: '}{line}" for position, line in enumerate(self.fix)]
        return "\n".join([self.message, *why, *fix, *(f"see: {link}" for link in self.links)])


@dataclass(frozen=True)
class Measurement:
    """A number with its rulers, all in ``unit``.

    ``value`` is None where no finite number came out. ``device`` is the UUID of the GPU or slice ("cpu0" in a
    rehearsal, None in a test that names none), ``samples`` how many times it was measured, ``ci95`` the 95 %
    confidence interval of the value. The rulers: ``bound`` is what the device can physically do, ``reference`` what a
    healthy one of its model does, ``peer_median`` what the devices of this machine do, ``baseline`` what this device
    did before. None: there is no such ruler. ``judgement`` is a word of ``pytest_bionemo.judging``; None for a number
    that is only reported. ``test`` is the id of somebody's test that has measured it, None for a check. ``nodes`` is
    how many nodes have measured it together, None where it is this one's own.
    """

    name: str
    value: float | None
    unit: str
    device: str | None
    samples: int | None = None
    ci95: tuple[float, float] | None = None
    bound: float | None = None
    reference: float | None = None
    peer_median: float | None = None
    baseline: float | None = None
    judgement: str | None = None
    test: str | None = None
    nodes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain builtins."""
        left_out = {name for name in ("test", "nodes") if getattr(self, name) is None}
        return {name: value for name, value in asdict(self).items() if name not in left_out}


@dataclass(frozen=True)
class MigDevice:
    """One MIG slice of a GPU, as NVML names it."""

    uuid: str
    name: str
    memory_bytes: int
    gpu_instance: int | None = None
    compute_instance: int | None = None
    free_memory_bytes: int | None = None


@dataclass(frozen=True)
class Gpu:
    """One physical GPU as NVML sees it.

    ``index`` is NVML's (PCI bus order). ``compute_capability`` is (major, minor). A value that NVML does not
    support on this GPU is None; an NVML call that failed is in ``errors`` (function name to error text).
    """

    index: int
    uuid: str | None = None
    name: str | None = None
    pci_address: str | None = None
    memory_bytes: int | None = None
    free_memory_bytes: int | None = None
    compute_capability: tuple[int, int] | None = None
    mig_enabled: bool | None = None
    mig_devices: tuple[MigDevice, ...] = ()
    errors: Mapping[str, str] | None = None

    @property
    def answers(self) -> bool:
        """Whether NVML could say which GPU this is, what it can run and how much memory it has.

        A GPU that shares the host's memory has none of its own to report: that is no silence.
        """
        has_memory = self.memory_bytes is not None or "nvmlDeviceGetMemoryInfo" not in (self.errors or {})
        return has_memory and None not in (self.uuid, self.name, self.compute_capability)

    @property
    def label(self) -> str:
        """Its UUID; its index where NVML gives none."""
        return self.uuid or f"gpu{self.index}"

    def __repr__(self) -> str:
        memory = f", {self.memory_bytes / 1e9:.1f} GB" if self.memory_bytes else ""
        capability = ", compute capability {}.{}".format(*self.compute_capability) if self.compute_capability else ""
        return f"<Gpu {self.index}: {self.name or 'unreadable'}{memory}{capability}>"

    def to_json(self) -> dict[str, Any]:
        """Plain builtins."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Gpu:
        """Read back what ``to_json`` wrote."""
        capability = data["compute_capability"]
        return cls(
            **{
                **data,
                "compute_capability": tuple(capability) if capability else None,
                "mig_devices": tuple(MigDevice(**mig) for mig in data["mig_devices"]),
            }
        )


@dataclass(frozen=True)
class NvmlFailure:
    """Why NVML did not answer.

    ``code`` is NVML's return code; None when the probe's child process hung, died or could not load pynvml.
    """

    code: int | None
    text: str


@dataclass(frozen=True)
class GpuEnv:
    """What the NVIDIA driver says about this machine. Reading it opens no CUDA context.

    ``driver`` is the kernel driver's version ("580.95.05"), ``cuda_driver`` the highest CUDA version that its
    user-mode library supports ("13.0"): no installed toolkit. ``gpus`` are those that this user and job may
    use; ``hidden_gpus`` counts the others of the machine. ``failure`` is set when NVML did not answer.
    """

    driver: str | None = None
    nvml: str | None = None
    cuda_driver: str | None = None
    gpus: tuple[Gpu, ...] = ()
    failure: NvmlFailure | None = None
    hidden_gpus: int = 0

    @property
    def has_driver(self) -> bool:
        """Whether NVML answered."""
        return self.failure is None and self.driver is not None

    @property
    def capabilities(self) -> tuple[tuple[int, int], ...]:
        """The different compute capabilities on this machine, lowest first."""
        return tuple(sorted({gpu.compute_capability for gpu in self.gpus if gpu.compute_capability}))

    def driver_is(self, specifier: str) -> bool:
        """Whether the driver is within a specifier: ``gpu_env.driver_is(">=580")``.

        Versions are compared as such: as text, "1000" is less than "580". False without a driver.

        :raises ValueError: for what is no specifier.
        """
        return _is_within(specifier, self.driver)

    def cuda_is(self, specifier: str) -> bool:
        """Whether the newest CUDA that the driver runs is within a specifier: ``gpu_env.cuda_is(">=12.8")``.

        False without a driver, and where it does not tell.

        :raises ValueError: for what is no specifier.
        """
        return _is_within(specifier, self.cuda_driver)

    def gpus_with(
        self,
        *,
        min_memory_gb: float = 0,
        free_memory_gb: float = 0,
        compute_capability: str = "",
        dtype: str | None = None,
    ) -> tuple[Gpu, ...]:
        """The GPUs that have all of this: ``assert len(gpu_env.gpus_with(min_memory_gb=40, dtype="bf16")) >= 2``.

        One that does not tell what is asked for is none of them. They are whole GPUs of the machine, whatever
        CUDA_VISIBLE_DEVICES and MIG leave a process of them: the marker ``gpu_env`` goes by what a process sees.

        :param min_memory_gb: at least so many GB (10**9 bytes), as GPUs are sold.
        :param free_memory_gb: at least so many GB that were free when the driver was asked.
        :param compute_capability: a specifier such as ">=8.0".
        :param dtype: a number format that the GPU multiplies in hardware, such as "bf16" or "fp8".
        :raises ValueError: for what is no specifier, and for a format of which the package knows no rule.
        """
        from pytest_bionemo.facts import precision, versions

        wanted = versions.specifier(compute_capability) if compute_capability else None
        if dtype is not None:
            precision.rules(dtype)

        def has_all(gpu: Gpu) -> bool:
            capability = gpu.compute_capability
            return bool(
                (not min_memory_gb or (gpu.memory_bytes or 0) >= min_memory_gb * 1e9)
                and (not free_memory_gb or (gpu.free_memory_bytes or 0) >= free_memory_gb * 1e9)
                and (wanted is None or (capability and versions.admits(wanted, "{}.{}".format(*capability))))
                and (dtype is None or (capability and precision.is_in_gpu(dtype, capability)))
            )

        return tuple(filter(has_all, self.gpus))

    def to_json(self) -> dict[str, Any]:
        """Plain builtins."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GpuEnv:
        """Read back what ``to_json`` wrote."""
        failure = data["failure"]
        return cls(
            **{
                **data,
                "gpus": tuple(Gpu.from_json(gpu) for gpu in data["gpus"]),
                "failure": NvmlFailure(**failure) if failure else None,
            }
        )

    def __repr__(self) -> str:
        return f"<GpuEnv: {self.describe()}>"

    def describe(self) -> str:
        """One phrase: how many GPUs of which kind, and the driver."""
        if self.failure:
            return f"no NVIDIA driver answers ({self.failure.text})"
        hidden = f" and {self.hidden_gpus} that this user may not use" if self.hidden_gpus else ""
        return f"{describe_gpus(self.gpus)}{hidden}, driver {self.driver}"


def _is_within(specifier: str, version: str | None) -> bool:
    # Not above: whoever reads a report needs no versions.
    from pytest_bionemo.facts import versions

    wanted = versions.specifier(specifier)
    return version is not None and versions.admits(wanted, str(versions.leading(version)))


def describe_gpus(gpus: tuple[Gpu, ...]) -> str:
    """'8 GPUs (NVIDIA H100 80GB HBM3)', '1 GPU (Tesla T4)', 'no GPU'."""
    if not gpus:
        return "no GPU"
    kinds = [gpu.name or "unreadable" for gpu in gpus]
    names = sorted(set(kinds), key=kinds.index)
    listed = names[0] if len(names) == 1 else ", ".join(f"{kinds.count(name)} x {name}" for name in names)
    return f"{count(len(gpus), 'GPU')} ({listed})"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """'1 GPU', '2 GPUs', '1 library', '2 libraries'."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
