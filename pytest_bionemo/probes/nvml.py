"""The NVIDIA driver and its devices, as NVML (nvidia-ml-py) reports them.

``read`` runs in a child process: the first NVML call on a sick GPU can hang for ever. NVML is initialised once and
each GPU's handle asked for once: how the GPUs are is read there too, after what they are has been handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

from pytest_bionemo.facts import versions
from pytest_bionemo.model import Gpu, GpuEnv, MigDevice, NvmlFailure
from pytest_bionemo.probes import health
from pytest_bionemo.probes.child import Answer, note

TARGET = f"{__name__}:read"

HANDLE = "nvmlDeviceGetHandleByIndex"
"""The error that a GPU has which cannot be asked anything."""

# More than any machine has: what a driver that counts so many says is not to be believed.
_MOST_GPUS = 1024
_MOST_MEMORY_BYTES = 2**50

_Handles = dict[int, Any]


def from_answer(answer: Answer) -> GpuEnv:
    """What the child said of the driver; a child that hung or died before that is a failure of NVML."""
    if not answer.before:
        return GpuEnv(failure=NvmlFailure(None, answer.failure or "no answer"))
    return GpuEnv.from_json(answer.before[0])


def read(with_health: bool = False) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Ask NVML in this process. Never raises for what NVML says.

    First the driver and its devices (``GpuEnv``), then one GPU after the other (``GpuHealth``).
    """
    try:
        import pynvml
    except Exception as error:  # whatever a damaged installation raises
        text = f"nvidia-ml-py does not import: {type(error).__name__}: {error}"
        yield GpuEnv(failure=NvmlFailure(None, text)).to_json()
        return {}
    handles: _Handles = {}
    try:
        pynvml.nvmlInit()
        env = _read_driver(pynvml, handles)
    except pynvml.NVMLError as error:
        env = GpuEnv(failure=NvmlFailure(error.value, str(error)))
    except UnicodeError as error:
        env = GpuEnv(failure=NvmlFailure(None, f"what it says is no text: {error}"))
    yield env.to_json()
    if with_health and env.failure is None:
        for index, handle in handles.items():
            yield health.read_gpu(pynvml, handle, index).to_json()
        with suppress(pynvml.NVMLError):
            return {"counts": [len(env.gpus) + env.hidden_gpus, pynvml.nvmlDeviceGetCount()]}
    return {}


def _read_driver(nvml: Any, handles: _Handles) -> GpuEnv:
    """What the driver says; the handles of the GPUs that have one are left in ``handles``."""
    driver = _text(nvml.nvmlSystemGetDriverVersion())
    if not versions.is_version(driver):
        return GpuEnv(failure=NvmlFailure(None, f"it gives {driver!r} for its version"))
    nvml_version, cuda_driver, total = _nvml_version(nvml), _cuda_version(nvml), nvml.nvmlDeviceGetCount()
    if total > _MOST_GPUS:
        return GpuEnv(failure=NvmlFailure(None, f"it counts {total} GPUs"))
    gpus = tuple(gpu for index in range(total) if (gpu := _read_gpu(nvml, index, handles)))
    return GpuEnv(
        driver=driver,
        nvml=nvml_version,
        cuda_driver=cuda_driver,
        gpus=gpus,
        failure=_no_permission(nvml) if total and not gpus else None,
        hidden_gpus=total - len(gpus),
    )


def _no_permission(nvml: Any) -> NvmlFailure:
    code = nvml.NVML_ERROR_NO_PERMISSION
    return NvmlFailure(code, str(nvml.NVMLError(code)))


def _nvml_version(nvml: Any) -> str | None:
    try:
        return _text(nvml.nvmlSystemGetNVMLVersion())
    except (nvml.NVMLError, UnicodeError):
        return None  # the driver answers all the same


def _cuda_version(nvml: Any) -> str | None:
    try:
        version = nvml.nvmlSystemGetCudaDriverVersion()
    except nvml.NVMLError:
        return None  # a driver without its CUDA library: what torch sees will tell
    return f"{version // 1000}.{version % 1000 // 10}"


def _read_gpu(nvml: Any, index: int, handles: _Handles) -> Gpu | None:
    """What the GPU of this index says; None if it is not one of this user's or job's."""
    note(f"asking GPU {index}")
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError as error:
        if error.value == nvml.NVML_ERROR_NO_PERMISSION:
            return None
        return Gpu(index, errors={HANDLE: str(error)})
    handles[index] = handle
    errors: dict[str, str] = {}

    def ask(function: Callable[..., Any], *args: Any, expected: tuple[int, ...] = ()) -> Any:
        try:
            return function(*args)
        except nvml.NVMLError as error:
            if error.value not in (nvml.NVML_ERROR_NOT_SUPPORTED, *expected):
                errors[function.__name__] = str(error)
        except UnicodeError as error:
            errors[function.__name__] = f"its answer is no text ({error})"
        return None

    pci = ask(nvml.nvmlDeviceGetPciInfo, handle)
    memory = _ask_memory(nvml, ask, handle)
    if memory and not memory.free <= memory.total <= _MOST_MEMORY_BYTES:
        errors["nvmlDeviceGetMemoryInfo"] = f"{memory.free} bytes free of {memory.total} cannot be"
        memory = None
    mig = ask(nvml.nvmlDeviceGetMigMode, handle)
    return Gpu(
        index=index,
        uuid=ask(nvml.nvmlDeviceGetUUID, handle),
        name=ask(nvml.nvmlDeviceGetName, handle),
        pci_address=_text(pci.busId) if pci else None,
        memory_bytes=memory.total if memory else None,
        free_memory_bytes=memory.free if memory else None,
        compute_capability=ask(nvml.nvmlDeviceGetCudaComputeCapability, handle),
        mig_enabled=bool(mig[0]) if mig else None,
        mig_devices=tuple(_read_mig(nvml, ask, handle)) if mig and mig[0] else (),
        errors=errors or None,
    )


def _ask_memory(nvml: Any, ask: Callable[..., Any], handle: Any) -> Any:
    # In Kubernetes the parent of a MIG slice does not let its memory be read (nvidia-container-toolkit #842).
    return ask(nvml.nvmlDeviceGetMemoryInfo, handle, expected=(nvml.NVML_ERROR_NO_PERMISSION,))


def _read_mig(nvml: Any, ask: Callable[..., Any], parent: Any) -> list[MigDevice]:
    # A slot that holds no slice is not found; one that holds another job's is not permitted.
    empty = (nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_ERROR_NO_PERMISSION)
    devices = []
    for index in range(ask(nvml.nvmlDeviceGetMaxMigDeviceCount, parent) or 0):
        handle = ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, parent, index, expected=empty)
        uuid = ask(nvml.nvmlDeviceGetUUID, handle) if handle is not None else None
        if uuid is None:
            continue
        memory = _ask_memory(nvml, ask, handle)
        devices.append(
            MigDevice(
                uuid=uuid,
                name=ask(nvml.nvmlDeviceGetName, handle) or "",
                memory_bytes=memory.total if memory else 0,
                gpu_instance=ask(nvml.nvmlDeviceGetGpuInstanceId, handle),
                compute_instance=ask(nvml.nvmlDeviceGetComputeInstanceId, handle),
                free_memory_bytes=memory.free if memory else None,
            )
        )
    return devices


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
