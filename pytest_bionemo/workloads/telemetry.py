"""What the GPU says of itself while it works: clock, power, temperature, and why its clock is held down.

Sampled by a thread during the load: a GPU that idles before and after shows nothing. NVML (nvidia-ml-py) is asked by
UUID, since its indices and CUDA's may differ; of a MIG slice its GPU answers, where this user may ask it.
"""

from __future__ import annotations

import os
import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

INTERVAL_S = 0.02

# Bits of NVML's clocks event reasons (throttle reasons before driver 535), source: nvml.h.
REASONS = {
    0x001: "idle",
    0x002: "applications clock setting",
    0x004: "software power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "hardware power brake",
    0x100: "display clock setting",
}
HARDWARE_FAULTS = 0x008 | 0x040 | 0x080
"""The hardware halves the clock or worse: too hot, or the power supply asks for it."""
TOO_HOT = 0x020 | 0x040
"""The clock is held down for the temperature, by software or hardware."""


def names(reasons: int) -> list[str]:
    """What the bits mean, each by itself; a bit that nobody has named yet by its value."""
    bits = [1 << place for place in range(reasons.bit_length()) if reasons >> place & 1]
    return [REASONS.get(bit, f"reason {bit:#x}") for bit in bits]


@dataclass
class Watch:
    """What was seen of one GPU. ``silent`` says why nothing was, where NVML does not answer."""

    reasons: list[int] = field(default_factory=list)
    sm_clocks_mhz: list[int] = field(default_factory=list)
    temperatures_c: list[int] = field(default_factory=list)
    powers_w: list[float] = field(default_factory=list)
    silent: str | None = None
    denied: bool = False

    def report(self) -> dict[str, Any]:
        """As numbers of a workload.

        ``samples``; ``reasons`` (bits, or-ed) and ``reason_names``; ``hardware_share`` and ``hot_share`` (of the
        samples with such a bit); ``sm_clock_hz`` (median), ``temperature_c`` (highest), ``power_w`` (mean);
        ``silent`` and ``denied`` (NVML does not offer this here, or not to this user). None: NVML does not say.
        """
        seen = 0
        for one in self.reasons:
            seen |= one
        return {
            "samples": len(self.reasons),
            "reasons": seen,
            "reason_names": names(seen),
            "hardware_share": _share(self.reasons, HARDWARE_FAULTS),
            "hot_share": _share(self.reasons, TOO_HOT),
            "sm_clock_hz": statistics.median(self.sm_clocks_mhz) * 1e6 if self.sm_clocks_mhz else None,
            "temperature_c": max(self.temperatures_c, default=None),
            "power_w": statistics.fmean(self.powers_w) if self.powers_w else None,
            "silent": self.silent,
            "denied": self.denied,
        }


class Silent(Exception):
    """NVML does not answer for this worker's GPU; ``denied``: not here, or not to this user, which is no fault."""

    def __init__(self, reason: str, *, denied: bool = False) -> None:
        super().__init__(reason)
        self.denied = denied


@contextmanager
def watching(interval_s: float = INTERVAL_S) -> Iterator[Watch]:
    """Watch this worker's GPU for as long as the block runs; the first sample is taken after one interval."""
    watch = Watch()
    try:
        gpu = NvmlGpu()
    except Silent as error:
        watch.silent, watch.denied = str(error), error.denied
        yield watch
        return
    over = threading.Event()
    thread = threading.Thread(target=_sample, args=(gpu, watch, over, interval_s), daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        # A driver that no longer answers must not hold the workload.
        thread.join(2 + interval_s)
        if not thread.is_alive():
            gpu.close()


class NvmlGpu:
    """The GPU of this worker as NVML sees it; of a MIG slice, the GPU that it is a part of.

    :raises Silent: from every method, where NVML does not answer.
    """

    def __init__(self) -> None:
        uuid = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if not uuid.startswith(("GPU-", "MIG-")):
            raise Silent("no GPU is named by its UUID")
        try:
            import pynvml
        except ImportError as error:
            raise Silent(f"nvidia-ml-py does not import: {error}") from error
        self._nvml = pynvml
        self._ask(pynvml.nvmlInit)
        self._handle = self._ask(pynvml.nvmlDeviceGetHandleByUUID, uuid)
        if uuid.startswith("MIG-"):
            self._handle = self._ask(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, self._handle)

    def clock_reasons(self) -> int:
        """Why the clock is held down, as bits."""
        nvml = self._nvml
        # The second is its name before driver 535, and the only one that bindings of that age know.
        functions = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        found = [getattr(nvml, name) for name in functions if hasattr(nvml, name)]
        try:
            return int(found[0](self._handle))
        except nvml.NVMLError as error:
            if error.value != nvml.NVML_ERROR_FUNCTION_NOT_FOUND:
                raise self._silent(error) from error
            return int(self._ask(found[-1], self._handle))

    def sm_clock_mhz(self) -> int:
        """Of the multiprocessors, now."""
        return int(self._ask(self._nvml.nvmlDeviceGetClockInfo, self._handle, self._nvml.NVML_CLOCK_SM))

    def highest_sm_clock_mhz(self) -> int:
        """Of the multiprocessors, ever."""
        return int(self._ask(self._nvml.nvmlDeviceGetMaxClockInfo, self._handle, self._nvml.NVML_CLOCK_SM))

    def highest_memory_clock_mhz(self) -> int:
        """Of the memory; it transfers twice in each."""
        return int(self._ask(self._nvml.nvmlDeviceGetMaxClockInfo, self._handle, self._nvml.NVML_CLOCK_MEM))

    def memory_bus_bits(self) -> int:
        """How wide the memory is."""
        return int(self._ask(self._nvml.nvmlDeviceGetMemoryBusWidth, self._handle))

    def temperature_c(self) -> int:
        """Of the chip."""
        return int(self._ask(self._nvml.nvmlDeviceGetTemperature, self._handle, self._nvml.NVML_TEMPERATURE_GPU))

    def power_w(self) -> float:
        """Of the board."""
        return int(self._ask(self._nvml.nvmlDeviceGetPowerUsage, self._handle)) / 1000

    def close(self) -> None:
        """Let go of NVML."""
        with suppress(Silent):
            self._ask(self._nvml.nvmlShutdown)

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._nvml.NVMLError as error:
            raise self._silent(error) from error

    def _silent(self, error: Any) -> Silent:
        refusals = (self._nvml.NVML_ERROR_NOT_SUPPORTED, self._nvml.NVML_ERROR_NO_PERMISSION)
        return Silent(str(error), denied=error.value in refusals)


def _sample(gpu: NvmlGpu, watch: Watch, over: threading.Event, interval_s: float) -> None:
    while not over.wait(interval_s):
        try:
            watch.reasons.append(gpu.clock_reasons())
        except Silent as error:
            watch.silent, watch.denied = str(error), error.denied
        for read, into in (
            (gpu.sm_clock_mhz, watch.sm_clocks_mhz),
            (gpu.temperature_c, watch.temperatures_c),
            (gpu.power_w, watch.powers_w),
        ):
            with suppress(Silent):  # this one it does not tell
                into.append(read())  # type: ignore[arg-type]


def _share(reasons: list[int], bits: int) -> float | None:
    return sum(bool(one & bits) for one in reasons) / len(reasons) if reasons else None
