"""The devices, as far as they can be seen without a kernel."""

import signal
import warnings
from collections import defaultdict
from dataclasses import dataclass

from .. import _devices
from .._standin import SPEC
from . import nccl

__all__ = [
    "current_device",
    "device_count",
    "empty_cache",
    "get_arch_list",
    "get_device_capability",
    "get_device_name",
    "get_device_properties",
    "init",
    "is_available",
    "is_initialized",
    "max_memory_allocated",
    "nccl",
    "reset_peak_memory_stats",
    "synchronize",
]

_found: _devices.Found | None = None  # CUDA looks once a process
_initialized = False
_warned = False


@dataclass(frozen=True)
class _CUuuid:
    value: str

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class _CudaDeviceProperties:
    name: str
    major: int
    minor: int
    total_memory: int
    uuid: _CUuuid


def _look() -> _devices.Found:
    """What CUDA found."""
    global _found
    if _found is None:
        _found = _devices.find()
    return _found


def _failure() -> str | None:
    """Why counting the devices fails."""
    init_error: str | None = SPEC["init_error"]
    if init_error and init_error.startswith("Unexpected error from cudaGetDeviceCount()"):
        return init_error
    return _look().failure


def is_available() -> bool:
    """Whether there is a device; why there is none is a warning, given once."""
    global _warned
    if SPEC["cuda"] is None:
        return False
    failure = _failure()
    warning = SPEC["warns"] or (f"CUDA initialization: {failure}" if failure else None)
    if warning and not _warned:
        _warned = True
        warnings.warn(warning, UserWarning, stacklevel=2)
    return not warning and bool(_look().devices)


def device_count() -> int:
    """The devices that the driver shows, which may be more than this build can use."""
    return len((_found or _devices.find()).devices)


def init() -> None:
    """Initialise CUDA, or say why that cannot be."""
    global _initialized
    if SPEC["cuda"] is None:
        raise AssertionError("Torch not compiled with CUDA enabled")
    if SPEC["init_hangs"]:
        signal.pause()
    error = SPEC["init_error"] or SPEC["warns"] or _failure()
    if error:
        prefix = "CUDA initialization: "
        raise RuntimeError(error[len(prefix) :] if error.startswith(prefix) else error)
    if not _look().devices:
        raise RuntimeError("No CUDA GPUs are available" if _look().has_driver else _devices.NO_DRIVER)
    _initialized = True


def is_initialized() -> bool:
    """Whether this process has initialised CUDA."""
    return _initialized


def get_device_properties(device: int = 0) -> _CudaDeviceProperties:
    """What CUDA knows of a device."""
    init()
    devices = _look().devices
    if not 0 <= device < len(devices):
        raise AssertionError("Invalid device id")
    seen = devices[device]
    bare = seen.uuid[4:] if seen.uuid.startswith(("GPU-", "MIG-")) else seen.uuid
    return _CudaDeviceProperties(seen.name, seen.major, seen.minor, seen.total_memory, _CUuuid(bare))


def get_device_name(device: int = 0) -> str:
    """The name of a device."""
    return get_device_properties(device).name


def get_device_capability(device: int = 0) -> tuple[int, int]:
    """The compute capability of a device."""
    properties = get_device_properties(device)
    return properties.major, properties.minor


def get_arch_list() -> list[str]:
    """The architectures in the build."""
    return list(SPEC["arch_list"]) if SPEC["cuda"] is not None else []


class _Allocator:
    """The bytes of one device: how many are allocated, and how many were at most."""

    def __init__(self) -> None:
        self.allocated = self.peak = 0

    def add(self, size: int) -> None:
        self.allocated += size
        self.peak = max(self.peak, self.allocated)


allocators: defaultdict[int, _Allocator] = defaultdict(_Allocator)


def _of(device: object) -> _Allocator:
    from .. import _device

    init()
    index = current_device() if device is None else _device.device(device).index
    return allocators[index or 0]


def current_device() -> int:
    """The device that is used where none is named."""
    init()
    return 0


def max_memory_allocated(device: object = None) -> int:
    """The most bytes that tensors took since the start, or since the peak was reset."""
    return _of(device).peak


def reset_peak_memory_stats(device: object = None) -> None:
    """Count the peak from what is allocated now."""
    found = _of(device)
    found.peak = found.allocated


def synchronize() -> None:
    """Wait for the device, which has nothing to do."""
    init()


def empty_cache() -> None:
    """Give back what is not in use: nothing is kept."""
