"""Which devices CUDA would show: what the driver has, as CUDA_VISIBLE_DEVICES lets it be seen."""

import ctypes
import os
import re
from dataclasses import dataclass, field

from ._standin import SPEC

COUNT_FAILED = (
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
    "NumCudaDevices() that might have already set an error? Error "
)
NO_DRIVER = (
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver "
    "from http://www.nvidia.com/Download/index.aspx"
)
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version {}). Please update your GPU driver by "
    "downloading and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx "
    "Alternatively, go to: https://pytorch.org to install a PyTorch version that has been compiled with your "
    "version of the CUDA driver."
)


@dataclass(frozen=True)
class Device:
    """A device as CUDA shows it; its UUID with its prefix."""

    uuid: str
    name: str
    major: int
    minor: int
    total_memory: int


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver has it."""

    device: Device
    in_mig_mode: bool = False
    slices: dict[tuple[int, int], Device] = field(default_factory=dict)

    @property
    def shown(self) -> Device | None:
        """What CUDA shows of it: a GPU in MIG mode only through its first slice."""
        return next(iter(self.slices.values()), None) if self.in_mig_mode else self.device


@dataclass(frozen=True)
class Found:
    """The devices to be seen, and why CUDA cannot use them."""

    devices: list[Device]
    failure: str | None = None
    has_driver: bool = True


def find() -> Found:
    """The devices to be seen now."""
    if SPEC["cuda"] is None:
        return Found([])
    if SPEC["devices"] != "driver":
        return Found([Device(*device) for device in SPEC["devices"]])
    try:
        driver = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return Found([], has_driver=False)
    code = driver.nvmlInit_v2()
    if code == 18:
        return Found([], COUNT_FAILED + "803: system has unsupported display driver / cuda driver combination")
    if code:
        return Found([], has_driver=False)
    try:
        version = ctypes.c_int()
        driver.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(version))
        devices = _visible(_gpus(driver), os.environ.get("CUDA_VISIBLE_DEVICES"))
        too_old = version.value // 1000 < int(SPEC["cuda"].split(".")[0])
        return Found(devices, TOO_OLD.format(version.value) if too_old else None)
    finally:
        driver.nvmlShutdown()


def _gpus(driver: ctypes.CDLL) -> list[Gpu]:
    """The GPUs that answer."""
    count = ctypes.c_uint()
    driver.nvmlDeviceGetCount_v2(ctypes.byref(count))
    gpus = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        if driver.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)):
            continue
        mode, pending = ctypes.c_uint(), ctypes.c_uint()
        if driver.nvmlDeviceGetMigMode(handle, ctypes.byref(mode), ctypes.byref(pending)) or not mode.value:
            gpus.append(Gpu(_device(driver, handle)))
            continue
        slices = {}
        for number in range(7):
            mig, instance, compute = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_uint()
            if driver.nvmlDeviceGetMigDeviceHandleByIndex(handle, number, ctypes.byref(mig)):
                continue
            driver.nvmlDeviceGetGpuInstanceId(mig, ctypes.byref(instance))
            driver.nvmlDeviceGetComputeInstanceId(mig, ctypes.byref(compute))
            slices[instance.value, compute.value] = _device(driver, mig)
        gpus.append(Gpu(_device(driver, handle), True, slices))
    return gpus


def _device(driver: ctypes.CDLL, handle: ctypes.c_void_p) -> Device:
    uuid, name = ctypes.create_string_buffer(96), ctypes.create_string_buffer(96)
    major, minor = ctypes.c_int(), ctypes.c_int()
    memory = (ctypes.c_ulonglong * 3)()
    driver.nvmlDeviceGetUUID(handle, uuid, 96)
    driver.nvmlDeviceGetName(handle, name, 96)
    driver.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
    driver.nvmlDeviceGetMemoryInfo(handle, memory)
    return Device(uuid.value.decode(), name.value.decode(), major.value, minor.value, memory[0])


def _visible(gpus: list[Gpu], variable: str | None) -> list[Device]:
    """CUDA's rules: the first invalid entry ends the list, a device named twice empties it, and a process
    that sees a MIG slice sees only that one."""
    chosen: list[Device] = []
    if variable is None:
        chosen = [gpu.shown for gpu in gpus if gpu.shown]
    else:
        entries = [entry.strip() for entry in variable.split(",")]
        form = _form(entries[0])
        for entry in entries:
            device = _named(entry, gpus) if _form(entry) == form else None
            if device is None:
                break
            if device in chosen:
                return []
            chosen.append(device)
    return [device for device in chosen if device.uuid.startswith("MIG-")][:1] or chosen


def _form(entry: str) -> str:
    return entry[:4] if entry.startswith(("GPU-", "MIG-")) else "number"


def _named(entry: str, gpus: list[Gpu]) -> Device | None:
    """The device that an entry names; numbers are read as strtoul reads them."""
    of_instance = re.fullmatch(r"MIG-(GPU-[^/]+)/(\d+)/(\d+)", entry)
    if of_instance:
        uuid, instance, compute = of_instance.groups()
        return next((g.slices.get((int(instance), int(compute))) for g in gpus if g.device.uuid == uuid), None)
    if entry.startswith("MIG-"):
        slices = [slice_ for gpu in gpus for slice_ in gpu.slices.values() if slice_.uuid.startswith(entry)]
        return slices[0] if len(slices) == 1 else None
    if entry.startswith("GPU-"):
        named = [gpu for gpu in gpus if gpu.device.uuid.startswith(entry)]
        return named[0].shown if len(named) == 1 else None
    number = re.match(r"\+?\d+", entry)
    return gpus[int(number.group())].shown if number and int(number.group()) < len(gpus) else None
