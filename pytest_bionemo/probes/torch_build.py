"""The PyTorch that this interpreter would import: what it was built for, and which devices it sees.

``read`` runs in a child process; the pytest process never imports torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from pytest_bionemo.probes.child import Answer, note

Value = TypeVar("Value")

TARGET = f"{__name__}:read"
STARTING_CUDA = "starting CUDA in torch"
_ABSENT = "ModuleNotFoundError: No module named 'torch'"


@dataclass(frozen=True)
class TorchDevice:
    """One CUDA device as torch names it; ``uuid`` in NVML's form ("GPU-..."), None where torch has none."""

    uuid: str | None
    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int


@dataclass(frozen=True)
class TorchBuild:
    """What ``import torch`` gave.

    ``import_error`` is the exact error when it does not import; then nothing else is known. ``cuda`` and
    ``hip`` are the versions it was built for ("13.0"). ``arch_list`` is ``torch.cuda.get_arch_list()``.
    ``device_error`` is the error or warning of counting and reading its devices.
    """

    version: str | None = None
    cuda: str | None = None
    hip: str | None = None
    cudnn: int | None = None
    nccl: str | None = None
    arch_list: tuple[str, ...] = ()
    devices: tuple[TorchDevice, ...] = ()
    location: str | None = None
    import_error: str | None = None
    device_error: str | None = None

    @property
    def is_installed(self) -> bool:
        """Whether there is a torch to import at all."""
        return self.import_error != _ABSENT

    def to_json(self) -> dict[str, Any]:
        """Plain builtins."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TorchBuild:
        """Read back what ``to_json`` wrote."""
        devices = tuple(
            TorchDevice(**{**device, "compute_capability": tuple(device["compute_capability"])})
            for device in data["devices"]
        )
        return cls(**{**data, "devices": devices, "arch_list": tuple(data["arch_list"])})


def from_answer(answer: Answer) -> TorchBuild:
    """What the child said; a child that hung or died is an import that failed."""
    if answer.value is None:
        return TorchBuild(import_error=answer.failure)
    return TorchBuild.from_json(answer.value)


def read() -> dict[str, Any]:
    """Import torch in this process and describe it. Never raises for what torch does."""
    try:
        import torch
    except BaseException as error:  # a library's exit() at import is an answer too
        return TorchBuild(import_error=_first_cause(error)).to_json()
    if getattr(torch, "__file__", None) is None:  # a folder that an uninstalled torch left behind
        return TorchBuild(import_error=_ABSENT).to_json()
    devices, device_error = _read_devices(torch)
    nccl = _or_none(lambda: torch.cuda.nccl.version())  # type: ignore[no-untyped-call]
    return TorchBuild(
        version=str(torch.__version__),
        cuda=torch.version.cuda,
        hip=getattr(torch.version, "hip", None),
        cudnn=_or_none(lambda: torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        nccl=".".join(map(str, nccl)) if isinstance(nccl, tuple) else None,
        arch_list=_read_arch_list(torch),
        devices=devices,
        location=torch.__file__,
        device_error=device_error,
    ).to_json()


def _read_arch_list(torch: Any) -> tuple[str, ...]:
    # torch.cuda.get_arch_list() is empty where no device is available, which is when it is needed most.
    flags = _or_none(lambda: torch._C._cuda_getArchFlags())
    return tuple(flags.split() if flags else _or_none(lambda: torch.cuda.get_arch_list()) or ())


def _read_devices(torch: Any) -> tuple[tuple[TorchDevice, ...], str | None]:
    if torch.version.cuda is None:
        return (), None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        note(STARTING_CUDA)
        try:
            torch.cuda.init()
            found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        except Exception as error:  # torch raises RuntimeError, AssertionError and its own types
            return (), f"{type(error).__name__}: {error}"
    said = "; ".join(str(warning.message) for warning in caught)
    return tuple(_describe(device) for device in found), (said or None) if not found else None


def _describe(device: Any) -> TorchDevice:
    uuid = getattr(device, "uuid", None)
    return TorchDevice(
        uuid=_nvml_form(str(uuid)) if uuid is not None else None,
        name=device.name,
        compute_capability=(device.major, device.minor),
        memory_bytes=device.total_memory,
    )


def _nvml_form(uuid: str) -> str:
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _or_none(ask: Callable[[], Value]) -> Value | None:
    try:
        return ask()
    except Exception:  # the part of torch that a CPU build does not have
        return None
