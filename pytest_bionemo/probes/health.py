"""What NVML says of the health of each GPU: memory errors, heat, links, settings, who else is at work on it.

It is read by the child that reads the driver and its devices (``probes/nvml.py``), with the same handles, after it
has handed these over: a question that hangs or crashes takes the answers of one GPU and of those after it, and
nothing of what the driver said.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from ctypes import c_int32
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from pytest_bionemo.probes import host
from pytest_bionemo.probes.child import Answer, note

T = TypeVar("T")

# NVML return codes (nvml.h). That one of these answers a question is no fault: the GPU, its mode or this driver has
# no such thing.
_UNSUPPORTED = {
    3: "does not support it",  # NVML_ERROR_NOT_SUPPORTED
    6: "has none",  # NVML_ERROR_NOT_FOUND
    13: "has a driver library that is too old to say",  # NVML_ERROR_FUNCTION_NOT_FOUND
    22: "is a virtual GPU",  # NVML_ERROR_VGPU_ECC_NOT_SUPPORTED
    25: "has a driver library that is too old to say",  # NVML_ERROR_ARGUMENT_VERSION_MISMATCH
    26: "has a driver library that no longer says it",  # NVML_ERROR_DEPRECATED
}
# No fault only where NVML is documented to answer so: for a link, a threshold or a field that is not there.
_INVALID_ARGUMENT = 2
# No fault only in a container and of a GPU in MIG mode, whose owner is another one.
_NO_PERMISSION = 4
CORRUPTED_INFOROM = 14
GPU_IS_LOST = 15
RESET_REQUIRED = 16

# Numbers that are none: -1 of either size, as which NVML also writes "not available".
_NO_NUMBER = (2**32 - 1, 2**64 - 1)
# In degrees Celsius: a chip that is colder or hotter does not work, nor is a limit set elsewhere.
_COLDEST, _HOTTEST = 1, 130
_LEAST_THRESHOLD, _MOST_THRESHOLD = 60, 130
_LEAST_MARGIN, _MOST_MARGIN = -60, 130
_MOST_OPERATING_MARGIN = 20
_MOST_LINKS = 64
_LINKS_SO_FAR = 18  # NVML_NVLINK_MAX_LINKS of the models that are on record
# nvmlClocksEventReason*: those that have been given out, the last of them for "unknown"; new ones come singly.
_KNOWN_REASONS = 0x7FF | 1 << 63
_MOST_NEW_REASONS = 4
# Bits that are also set while the clock is being changed are read again, so many times at this distance.
_PASSING_REASONS = 0x8 | 0x20 | 0x40 | 0x80
_READ_AGAIN, _READ_AGAIN_S = 2, 0.05
_MOST_MHZ = 10_000
_MOST_WATTS = 10_000
_WIDTHS = (1, 2, 4, 8, 12, 16, 32)

_RECOVERY_ACTION_FIELD = 230  # NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, which an older nvidia-ml-py does not name
_SLOWDOWN_TLIMIT_FIELD, _OPERATING_TLIMIT_FIELD = 194, 196  # NVML_FI_DEV_TEMPERATURE_{SLOWDOWN,GPU_MAX}_TLIMIT
_TEMPERATURE_MAX_OPERATING = 3  # NVML_TEMPERATURE_THRESHOLD_GPU_MAX
_REPLAY, _RECOVERY, _CRC_FLIT = 0, 1, 2  # NVML_NVLINK_ERROR_DL_*


@dataclass(frozen=True)
class Silence:
    """Why NVML did not answer a question: the function, and in words what it said instead.

    ``is_unsupported``: there is nothing to be told of this GPU by this driver to this user. Else it should have been.
    ``code`` is what NVML returned, None where it was not that.
    """

    call: str
    text: str
    is_unsupported: bool
    code: int | None = None


@dataclass(frozen=True)
class Ecc:
    """Error correction: whether it is on, and the errors that it could not correct.

    ``volatile`` are those since the driver was loaded, ``aggregate`` those of the GPU's life.
    """

    volatile: int
    aggregate: int


@dataclass(frozen=True)
class RemappedRows:
    """Rows of memory that spare ones replace, by the cause; what is still to be done, and what could not be."""

    correctable: int
    uncorrectable: int
    pending: bool
    failed: bool


@dataclass(frozen=True)
class RetiredPages:
    """Pages of memory that are no longer used, by the cause; before Ampere, which remaps rows."""

    single_bit: int
    double_bit: int
    pending: bool


@dataclass(frozen=True)
class PciLink:
    """The link to the host: lanes in use and lanes that both ends have, and the fastest generation of both ends."""

    width: int
    max_width: int
    max_generation: int | None


@dataclass(frozen=True)
class NvLinks:
    """Which of the GPU's NVLinks are up, by their number."""

    up: tuple[int, ...]
    down: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many it has."""
        return len(self.up) + len(self.down)


@dataclass(frozen=True)
class NvLinkErrors:
    """Errors of all NVLinks since the driver was loaded: packets sent again, links trained again, damaged packets."""

    replays: int
    recoveries: int
    crc: int


@dataclass(frozen=True)
class Fabric:
    """What the GPU knows of its NVSwitch fabric: ``state`` and ``status`` of joining it, the bits of its health."""

    state: int
    status: int
    health: int


@dataclass(frozen=True)
class Memory:
    """Memory that is taken, without what the driver keeps for itself, in bytes."""

    total: int
    used: int


@dataclass(frozen=True)
class Process:
    """A process that computes on the GPU, and the bytes that it holds; None where NVML does not know.

    ``started_this_run``: pytest descends from it, as from the kernel of a notebook that asked for this run.
    """

    pid: int
    memory_bytes: int | None
    started_this_run: bool = False


# nvmlComputeMode_t
_EXCLUSIVE_THREAD, _EXCLUSIVE_PROCESS = 1, 3


@dataclass(frozen=True)
class GpuHealth:
    """One GPU. What it does not say is None, and ``silent`` has the reason under the name of the field.

    ``clock_reasons`` are NVML's bits for why the clock is held down, and stays so. Temperatures are in degrees
    Celsius. ``temperature_margin`` is how many are left until the GPU has the highest one that it is made for;
    ``margin_slowdown`` and ``margin_operating`` are the margins at which its clock is halved, and at which it begins
    to be lowered. Clocks are in MHz: the one that is set and the one that is set out of the box. Power limits are in
    watts. ``inforom`` is NVML's code for its state, ``recovery_action`` for what the driver wants done.
    ``processes`` are those of others than this run; ``own_bytes`` is what this run's own hold.
    """

    index: int
    vbios: str | None = None
    ecc_enabled: bool | None = None
    ecc: Ecc | None = None
    sram_threshold_exceeded: bool | None = None
    remapped_rows: RemappedRows | None = None
    retired_pages: RetiredPages | None = None
    clock_reasons: int | None = None
    temperature: int | None = None
    temperature_shutdown: int | None = None
    temperature_slowdown: int | None = None
    temperature_operating: int | None = None
    temperature_margin: int | None = None
    margin_slowdown: int | None = None
    margin_operating: int | None = None
    pci_link: PciLink | None = None
    pcie_replays: int | None = None
    nvlinks: NvLinks | None = None
    nvlink_errors: NvLinkErrors | None = None
    fabric: Fabric | None = None
    compute_mode: int | None = None
    mig_mode: bool | None = None
    mig_mode_pending: bool | None = None
    memory: Memory | None = None
    processes: tuple[Process, ...] | None = None
    own_bytes: int = 0
    persistence: bool | None = None
    power_limit: float | None = None
    default_power_limit: float | None = None
    application_clock: int | None = None
    default_application_clock: int | None = None
    inforom: int | None = None
    recovery_action: int | None = None
    silent: Mapping[str, Silence] = field(default_factory=dict)

    @property
    def takes_one_process(self) -> bool:
        """Whether its compute mode lets no second process use it."""
        return self.compute_mode in (_EXCLUSIVE_THREAD, _EXCLUSIVE_PROCESS)

    @property
    def lost(self) -> Silence | None:
        """The answer that says that the GPU is lost or has to be reset; None if there was none."""
        return next((one for one in self.silent.values() if one.text in _LOST.values()), None)

    def to_json(self) -> dict[str, Any]:
        """Plain builtins."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GpuHealth:
        """Read back what ``to_json`` wrote."""
        read = {name: kind(**data[name]) for name, kind in _PARTS.items() if data[name] is not None}
        if read.get("nvlinks"):
            read["nvlinks"] = NvLinks(tuple(data["nvlinks"]["up"]), tuple(data["nvlinks"]["down"]))
        if data["processes"] is not None:
            read["processes"] = tuple(Process(**process) for process in data["processes"])
        read["silent"] = {name: Silence(**silence) for name, silence in data["silent"].items()}
        return cls(**{**data, **read})


_PARTS: Mapping[str, Callable[..., Any]] = {
    "ecc": Ecc,
    "remapped_rows": RemappedRows,
    "retired_pages": RetiredPages,
    "pci_link": PciLink,
    "nvlinks": NvLinks,
    "nvlink_errors": NvLinkErrors,
    "fabric": Fabric,
    "memory": Memory,
}
_LOST = {GPU_IS_LOST: "the GPU is lost", RESET_REQUIRED: "the GPU has to be reset"}


def lost_text(code: int) -> str:
    """What ``Silence.text`` is for ``GPU_IS_LOST`` or ``RESET_REQUIRED``."""
    return _LOST[code]


@dataclass(frozen=True)
class Health:
    """The GPUs of this machine that could be asked.

    ``failure`` says how the reading ended before its end, None if it did not. ``counts`` is how many GPUs the driver
    said there were before all of them were asked, and afterwards.
    """

    gpus: tuple[GpuHealth, ...] = ()
    failure: str | None = None
    counts: tuple[int, int] | None = None

    def of(self, index: int) -> GpuHealth | None:
        """The GPU of this index; None if the reading did not get to it."""
        return next((gpu for gpu in self.gpus if gpu.index == index), None)

    def to_json(self) -> dict[str, Any]:
        """Plain builtins."""
        return {"gpus": [gpu.to_json() for gpu in self.gpus], "failure": self.failure, "counts": self.counts}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Health:
        """Read back what ``to_json`` wrote."""
        counts = data["counts"]
        return cls(
            tuple(GpuHealth.from_json(gpu) for gpu in data["gpus"]),
            data["failure"],
            tuple(counts) if counts else None,
        )


def from_answer(answer: Answer) -> Health:
    """What the child said of health; the driver and its devices came before it."""
    gpus = tuple(GpuHealth.from_json(said) for said in answer.before[1:])
    if answer.value is None:
        return Health(gpus, answer.failure or "no answer")
    counts = answer.value.get("counts")
    return Health(gpus, None, tuple(counts) if counts else None)


# ------------------------------------------------------------------------------------------------ in the child


class _Unanswered(Exception):
    """NVML did not answer a question in a way that can be used."""

    def __init__(self, silence: Silence) -> None:
        super().__init__(silence.text)
        self.silence = silence


def read_gpu(nvml: Any, handle: Any, index: int) -> GpuHealth:
    """Ask one GPU everything. Never raises for what NVML says."""
    return _Reader(nvml, handle, index).read()


class _Reader:
    """Asks one GPU. Each ``_read_<field>`` gives the value of that field, or raises :class:`_Unanswered`."""

    def __init__(self, nvml: Any, handle: Any, index: int) -> None:
        self._nvml, self._handle, self._index = nvml, handle, index
        self._ours = 0
        self._doing = ""
        self._link_states: dict[int, bool] | None = None

    def read(self) -> GpuHealth:
        values: dict[str, Any] = {}
        silent: dict[str, Silence] = {}
        for one in fields(GpuHealth):
            reader = getattr(self, f"_read_{one.name}", None)
            if reader is None:
                continue
            try:
                values[one.name] = reader()
            except _Unanswered as error:
                silent[one.name] = error.silence
        if values.get("mig_mode") or host.container():
            silent = {name: _excused(silence) for name, silence in silent.items()}
        return GpuHealth(index=self._index, **values, own_bytes=self._ours, silent=silent)

    def _ask(self, call: str, *arguments: Any) -> Any:
        """Call an NVML function for this GPU."""
        if call != self._doing:
            note(f"asking GPU {self._index}: {call}")
            self._doing = call
        nvml = self._nvml
        function = getattr(nvml, call, None)
        if function is None:
            raise _Unanswered(Silence(call, "cannot be asked by this nvidia-ml-py, which is too old", True))
        try:
            return function(self._handle, *arguments)
        except nvml.NVMLError as error:
            raise _Unanswered(_silence(call, error.value, str(error))) from error
        except Exception as error:  # what the driver wrote does not fit what the binding makes of it
            text = f"its answer cannot be read: {type(error).__name__}: {error}"
            raise _Unanswered(Silence(call, text, False)) from error

    def _number(self, call: str, *arguments: Any, most: int = 2**53, least: int = 0) -> int:
        """The same, for a number that lies in these bounds."""
        return _within(call, self._ask(call, *arguments), least, most)

    def _optional(self, call: str, *arguments: Any, least: int = 0, most: int = 2**53) -> int:
        """The same, where NVML says of an argument that it is not valid when the GPU has no such thing."""
        try:
            return self._number(call, *arguments, least=least, most=most)
        except _Unanswered as error:
            raise _Unanswered(_absent(error.silence)) from error

    def _field(self, number: int, least: int, most: int) -> int:
        """The value of a field; those with a sign and those without, of any length, have this number in its end."""
        call = "nvmlDeviceGetFieldValues"
        (value,) = self._ask(call, [number])
        if code := value.nvmlReturn:
            raise _Unanswered(_absent(_silence(call, code, f"code {code}")))
        return _within(call, c_int32(value.value.uiVal).value, least, most)

    def _flag(self, call: str, *arguments: Any) -> bool:
        return bool(self._number(call, *arguments, most=1))

    def _read_vbios(self) -> str:
        found: str | bytes = self._ask("nvmlDeviceGetVbiosVersion")
        return found.decode(errors="replace") if isinstance(found, bytes) else found

    def _read_ecc_enabled(self) -> bool:
        call = "nvmlDeviceGetEccMode"
        current, _ = self._ask(call)
        return bool(_within(call, current, 0, 1))

    def _read_ecc(self) -> Ecc:
        uncorrected, volatile, aggregate = 1, 0, 1  # NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_*_ECC
        call = "nvmlDeviceGetTotalEccErrors"
        return Ecc(self._number(call, uncorrected, volatile), self._number(call, uncorrected, aggregate))

    def _read_sram_threshold_exceeded(self) -> bool:
        call = "nvmlDeviceGetSramEccErrorStatus"
        status = self._struct(call, "c_nvmlEccSramErrorStatus_v1_t")
        return bool(_within(call, status.bThresholdExceeded, 0, 1))

    def _struct(self, call: str, kind: str) -> Any:
        """Have a structure filled that this nvidia-ml-py knows by that name."""
        make = getattr(self._nvml, kind, None)
        if make is None:
            raise _Unanswered(Silence(call, "cannot be asked by this nvidia-ml-py, which is too old", True))
        from ctypes import byref

        struct = make()
        self._ask(call, byref(struct))
        return struct

    def _read_remapped_rows(self) -> RemappedRows:
        call = "nvmlDeviceGetRemappedRows"
        correctable, uncorrectable, pending, failed = self._ask(call)
        return RemappedRows(
            _within(call, correctable, 0, 2**24),
            _within(call, uncorrectable, 0, 2**24),
            bool(_within(call, pending, 0, 1)),
            bool(_within(call, failed, 0, 1)),
        )

    def _read_retired_pages(self) -> RetiredPages:
        single_bit, double_bit = 0, 1  # NVML_PAGE_RETIREMENT_CAUSE_*
        pending = self._flag("nvmlDeviceGetRetiredPagesPendingStatus")
        call = "nvmlDeviceGetRetiredPages"
        return RetiredPages(len(self._ask(call, single_bit)), len(self._ask(call, double_bit)), pending)

    def _first_of(self, *ways: Callable[[], T]) -> T:
        """What the first of them says that is supported: an older driver or binding has the later ones only."""
        for way in ways[:-1]:
            try:
                return way()
            except _Unanswered as error:
                if not _absent(error.silence).is_unsupported:
                    raise
        return ways[-1]()

    def _read_clock_reasons(self) -> int:
        reasons = self._ask_reasons()
        for _ in range(_READ_AGAIN):
            if reasons & _PASSING_REASONS:
                time.sleep(_READ_AGAIN_S)
                reasons &= self._ask_reasons()
        return reasons

    def _ask_reasons(self) -> int:
        reasons = self._first_of(
            lambda: self._number("nvmlDeviceGetCurrentClocksEventReasons", most=2**64),
            lambda: self._number("nvmlDeviceGetCurrentClocksThrottleReasons", most=2**64),
        )
        if (reasons & ~_KNOWN_REASONS).bit_count() > _MOST_NEW_REASONS:
            raise _Unanswered(Silence(self._doing, f"gives {reasons:#x}, which cannot be", False))
        return reasons & _KNOWN_REASONS

    def _read_temperature(self) -> int:
        return self._number("nvmlDeviceGetTemperature", 0, least=_COLDEST, most=_HOTTEST)  # NVML_TEMPERATURE_GPU

    def _threshold(self, kind: int) -> int:
        call = "nvmlDeviceGetTemperatureThreshold"
        degrees = self._optional(call, kind, most=_MOST_THRESHOLD)
        if degrees == 0:
            raise _Unanswered(Silence(call, "has none", True))
        return _within(call, degrees, _LEAST_THRESHOLD, _MOST_THRESHOLD)

    def _read_temperature_shutdown(self) -> int:
        return self._threshold(0)

    def _read_temperature_slowdown(self) -> int:
        return self._threshold(1)

    def _read_temperature_operating(self) -> int:
        return self._threshold(_TEMPERATURE_MAX_OPERATING)

    def _read_temperature_margin(self) -> int:
        return self._optional("nvmlDeviceGetMarginTemperature", least=_LEAST_MARGIN, most=_MOST_MARGIN)

    def _read_margin_slowdown(self) -> int:
        return self._field(_SLOWDOWN_TLIMIT_FIELD, _LEAST_MARGIN, 0)  # beyond what it is made for

    def _read_margin_operating(self) -> int:
        return self._field(_OPERATING_TLIMIT_FIELD, _LEAST_MARGIN, _MOST_OPERATING_MARGIN)

    def _read_pci_link(self) -> PciLink:
        widths = [self._number(f"nvmlDeviceGet{which}PcieLinkWidth") for which in ("Curr", "Max")]
        for width in widths:
            if width not in _WIDTHS:
                raise _Unanswered(Silence("nvmlDeviceGetCurrPcieLinkWidth", f"gives a width of {width}", False))
        generation = None
        with suppress(_Unanswered):
            generation = self._number("nvmlDeviceGetMaxPcieLinkGeneration", most=16)
        return PciLink(widths[0], widths[1], generation)

    def _read_pcie_replays(self) -> int:
        return self._number("nvmlDeviceGetPcieReplayCounter", most=2**32)

    def _links(self) -> dict[int, bool]:
        """Each NVLink that the GPU has, and whether it is up."""
        if self._link_states is None:
            self._link_states = self._ask_links()
        return self._link_states

    def _ask_links(self) -> dict[int, bool]:
        # After the last one NVML says that there is none: of one in the middle that is no answer.
        call = "nvmlDeviceGetNvLinkState"
        states: dict[int, bool] = {}
        missing: dict[int, _Unanswered] = {}
        for link in range(_MOST_LINKS):
            if missing and link >= _LINKS_SO_FAR:
                break
            try:
                states[link] = bool(self._optional(call, link, most=1))
            except _Unanswered as error:
                if not error.silence.is_unsupported:
                    raise
                missing[link] = error
        if not states:
            raise missing[0]
        odd = min(missing, default=_MOST_LINKS)
        if odd < max(states):
            raise _Unanswered(Silence(call, f"tells of link {max(states)}, and not of link {odd}", False))
        return states

    def _read_nvlinks(self) -> NvLinks:
        states = self._links()
        return NvLinks(
            tuple(link for link, is_up in states.items() if is_up),
            tuple(link for link, is_up in states.items() if not is_up),
        )

    def _read_nvlink_errors(self) -> NvLinkErrors:
        links = [link for link, is_up in self._links().items() if is_up]
        if not links:
            raise _Unanswered(Silence("nvmlDeviceGetNvLinkErrorCounter", "has no NVLink that is up", True))
        call = "nvmlDeviceGetNvLinkErrorCounter"
        return NvLinkErrors(
            *(sum(self._number(call, link, kind) for link in links) for kind in (_REPLAY, _RECOVERY, _CRC_FLIT))
        )

    def _read_fabric(self) -> Fabric:
        found = self._first_of(
            lambda: self._struct("nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfo_v2_t"),
            self._older_fabric,
        )
        # The state is one byte; what follows it need not be set.
        return Fabric(found.state & 0xFF, found.status, getattr(found, "healthMask", 0))

    def _older_fabric(self) -> Any:
        from ctypes import Structure, byref, c_uint8, c_uint32

        # nvmlGpuFabricInfo_t, which 12.535 of the binding has with a cluster's name of another length.
        class FabricInfo(Structure):
            _fields_ = [("cluster", c_uint8 * 16), ("status", c_uint32), ("clique", c_uint32), ("state", c_uint32)]

        found = FabricInfo()
        self._ask("nvmlDeviceGetGpuFabricInfo", byref(found))
        return found

    def _read_compute_mode(self) -> int:
        return self._number("nvmlDeviceGetComputeMode", most=3)

    def _mig(self) -> tuple[bool, bool]:
        call = "nvmlDeviceGetMigMode"
        current, pending = self._ask(call)
        return bool(_within(call, current, 0, 1)), bool(_within(call, pending, 0, 1))

    def _read_mig_mode(self) -> bool:
        return self._mig()[0]

    def _read_mig_mode_pending(self) -> bool:
        return self._mig()[1]

    def _read_memory(self) -> Memory:
        call = "nvmlDeviceGetMemoryInfo"
        # Of the second version "used" is without what the driver keeps.
        found = self._first_of(
            lambda: self._ask(call, getattr(self._nvml, "nvmlMemory_v2", None)), lambda: self._ask(call)
        )
        total = _within(call, found.total, 1, 2**53)
        return Memory(total, _within(call, found.used, 0, total))

    def _read_processes(self) -> tuple[Process, ...]:
        if hasattr(getattr(self._nvml, "c_nvmlProcessInfo_t", None), "usedGpuCcProtectedMemory"):
            # 12.535 of the binding takes each for longer than drivers before and after 535.43 to 535.86 write it.
            text = "cannot be asked by this nvidia-ml-py, whose processes are not those of the driver"
            raise _Unanswered(Silence("nvmlDeviceGetComputeRunningProcesses_v3", text, True))
        processes = {
            process.pid: process for kind in ("Graphics", "Compute") for process in self._ask_processes(kind)
        }
        ours = {process.pid for process in processes.values() if _is_of_this_run(process.pid)}
        self._ours = sum(processes[pid].memory_bytes or 0 for pid in ours)
        return tuple(process for process in processes.values() if process.pid not in ours)

    def _ask_processes(self, kind: str) -> list[Process]:
        # By version: the function without one raises an error of its own where the driver is older than the binding.
        call = f"nvmlDeviceGet{kind}RunningProcesses"
        try:
            found = self._first_of(lambda: self._ask(f"{call}_v3"), lambda: self._ask(f"{call}_v2"))
        except _Unanswered as error:
            if kind == "Graphics" and error.silence.is_unsupported:
                return []  # nothing draws on a GPU that cannot
            raise
        return [Process(one.pid, one.usedGpuMemory, _started_this_run(one.pid)) for one in found]

    def _read_persistence(self) -> bool:
        return self._flag("nvmlDeviceGetPersistenceMode")

    def _watts(self, call: str) -> float:
        return self._number(call, most=_MOST_WATTS * 1000, least=1) / 1000

    def _read_power_limit(self) -> float:
        return self._watts("nvmlDeviceGetPowerManagementLimit")

    def _read_default_power_limit(self) -> float:
        return self._watts("nvmlDeviceGetPowerManagementDefaultLimit")

    def _clock(self, call: str) -> int:
        return self._number(call, 1, most=_MOST_MHZ, least=1)  # NVML_CLOCK_SM

    def _read_application_clock(self) -> int:
        return self._clock("nvmlDeviceGetApplicationsClock")

    def _read_default_application_clock(self) -> int:
        return self._clock("nvmlDeviceGetDefaultApplicationsClock")

    def _read_inforom(self) -> int:
        call = "nvmlDeviceValidateInforom"
        try:
            self._ask(call)
        except _Unanswered as error:
            cause = error.__cause__
            if getattr(cause, "value", None) == CORRUPTED_INFOROM:
                return CORRUPTED_INFOROM
            raise
        return 0

    def _read_recovery_action(self) -> int:
        return self._field(_RECOVERY_ACTION_FIELD, 0, 2**16)


def _silence(call: str, code: int, text: str) -> Silence:
    if code in _LOST:
        return Silence(call, _LOST[code], False, code)
    return Silence(call, _UNSUPPORTED.get(code, text), code in _UNSUPPORTED, code)


def _absent(silence: Silence) -> Silence:
    """The same where an argument that is not valid is one of which the GPU has none."""
    return replace(silence, text="has none", is_unsupported=True) if silence.code == _INVALID_ARGUMENT else silence


def _excused(silence: Silence) -> Silence:
    """The same where this user need not be told."""
    is_denied = silence.code == _NO_PERMISSION
    return replace(silence, text="does not tell this user", is_unsupported=True) if is_denied else silence


def _within(call: str, value: int, least: int, most: int) -> int:
    if value in _NO_NUMBER or not least <= value <= most:
        shown = -1 if value in _NO_NUMBER else value
        raise _Unanswered(Silence(call, f"gives {shown}, which cannot be", False))
    return value


def _is_of_this_run(pid: int, root: Path = Path("/")) -> bool:
    """Whether it is the process that started this one, or descends from it: pytest, and what it started."""
    return os.getppid() in _ancestors(pid, root)


def _ancestors(pid: int, root: Path) -> set[int]:
    """The process itself, that which started it, and so on, but for the first of all."""
    seen: set[int] = set()
    while pid not in seen and pid > 1:
        seen.add(pid)
        pid = _parent(pid, root)
    return seen


def _started_this_run(pid: int, root: Path = Path("/")) -> bool:
    """Whether pytest descends from it: a notebook or a script that asked for this run, or a shell before it."""
    return pid > 1 and pid in _ancestors(_parent(os.getppid(), root), root)


def _parent(pid: int, root: Path) -> int:
    """The process that started it; 0 where that cannot be read."""
    with suppress(OSError, ValueError, IndexError):
        # The name, in parentheses, may hold anything: what counts comes after the last one.
        return int((root / f"proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    return 0
