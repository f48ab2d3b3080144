"""The NVIDIA driver and its devices, as NVML (nvidia-ml-py) reports them.

``read`` runs in a child process: the first NVML call on a sick GPU can hang for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_bionemo.model import Gpu, GpuEnv, MigDevice, NvmlFailure
from pytest_bionemo.probes.child import Answer

TARGET = f"{__name__}:read"


def from_answer(answer: Answer) -> GpuEnv:
    """What the child said; a child that hung or died is a failure of NVML."""
    if answer.value is None:
        return GpuEnv(failure=NvmlFailure(None, answer.failure or "no answer"))
    return GpuEnv.from_json(answer.value)


def read() -> dict[str, Any]:
    """Ask NVML in this process. Never raises for what NVML says."""
    try:
        import pynvml
    except Exception as error:  # whatever a damaged installation raises
        text = f"nvidia-ml-py does not import: {type(error).__name__}: {error}"
        return GpuEnv(failure=NvmlFailure(None, text)).to_json()
    try:
        pynvml.nvmlInit()
        return _read_driver(pynvml).to_json()
    except pynvml.NVMLError as error:
        return GpuEnv(failure=NvmlFailure(error.value, str(error))).to_json()


def _read_driver(nvml: Any) -> GpuEnv:
    return GpuEnv(
        driver=nvml.nvmlSystemGetDriverVersion(),
        nvml=nvml.nvmlSystemGetNVMLVersion(),
        cuda_driver=_cuda_version(nvml),
        gpus=tuple(_read_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())),
    )


def _cuda_version(nvml: Any) -> str | None:
    try:
        version = nvml.nvmlSystemGetCudaDriverVersion()
    except nvml.NVMLError:
        return None  # a driver without its CUDA library: what torch sees will tell
    return f"{version // 1000}.{version % 1000 // 10}"


def _read_gpu(nvml: Any, index: int) -> Gpu:
    errors: dict[str, str] = {}

    def ask(function: Callable[..., Any], *args: Any, expected: int = nvml.NVML_ERROR_NOT_SUPPORTED) -> Any:
        try:
            return function(*args)
        except nvml.NVMLError as error:
            if error.value != expected:
                errors[function.__name__] = str(error)
            return None

    handle = ask(nvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:
        return Gpu(index, errors=errors)
    pci = ask(nvml.nvmlDeviceGetPciInfo, handle)
    memory = ask(nvml.nvmlDeviceGetMemoryInfo, handle)
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


def _read_mig(nvml: Any, ask: Callable[..., Any], parent: Any) -> list[MigDevice]:
    devices = []
    for index in range(ask(nvml.nvmlDeviceGetMaxMigDeviceCount, parent) or 0):
        # A slot that holds no slice is not found.
        handle = ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, parent, index, expected=nvml.NVML_ERROR_NOT_FOUND)
        uuid = ask(nvml.nvmlDeviceGetUUID, handle) if handle is not None else None
        if uuid is None:
            continue
        memory = ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        devices.append(
            MigDevice(
                uuid=uuid,
                name=ask(nvml.nvmlDeviceGetName, handle) or "",
                memory_bytes=memory.total if memory else 0,
                gpu_instance=ask(nvml.nvmlDeviceGetGpuInstanceId, handle),
                compute_instance=ask(nvml.nvmlDeviceGetComputeInstanceId, handle),
            )
        )
    return devices


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
