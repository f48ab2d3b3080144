"""A small package that plays a CUDA build of torch, as far as a probe can ask it without running a kernel."""

from __future__ import annotations

import builtins
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .distributions import remove_file, write_distribution

__all__ = ["Device", "StandinTorch", "remove_file", "write_distribution", "write_torch"]

Device = tuple[str, str, int, int, int]
"""UUID, name, compute capability major and minor, bytes of memory."""

_FILES = Path(__file__).parent / "torch_files"
_CU130 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")


@dataclass(frozen=True)
class StandinTorch:
    """A build of torch, and what goes wrong with it.

    ``cuda=None`` is a CPU build. With ``devices="driver"`` the devices are the stand-in driver's, under
    CUDA's rules for CUDA_VISIBLE_DEVICES; a driver of an older CUDA major than ``cuda`` makes CUDA unusable,
    with torch's own warning, while ``device_count()`` still counts, as it does in torch. A list of devices is
    shown as it is.

    ``import_error`` is "<built-in exception>: <message>". ``init_error`` is what ``torch.cuda.init`` and
    ``get_device_properties`` raise as RuntimeError; where it begins with "Unexpected error from
    cudaGetDeviceCount()", ``is_available`` warns of it and says False; with ``init_hangs``, ``init`` never ends.
    ``warns`` is the UserWarning with
    which ``is_available`` says False.
    """

    version: str = "2.14.1"
    cuda: str | None = "13.0"
    hip: str | None = None
    arch_list: tuple[str, ...] = _CU130
    cudnn: int | None = 92400
    nccl: tuple[int, ...] | None = (2, 30, 7)
    import_error: str | None = None
    import_hangs: bool = False
    import_crashes: bool = False
    prints_on_import: str | None = None
    devices: Literal["driver"] | Sequence[Device] = "driver"
    init_error: str | None = None
    init_hangs: bool = False
    warns: str | None = None
    git_version: str = "5e1f2c3a9b8d7e6f50413223140516273849a0b1"
    requires: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.import_error is not None:
            kind, separator, _ = self.import_error.partition(": ")
            exception = getattr(builtins, kind, None)
            if not separator or not isinstance(exception, type) or not issubclass(exception, BaseException):
                raise ValueError(f"not '<built-in exception>: <message>': {self.import_error!r}")
        if isinstance(self.devices, str) and self.devices != "driver":
            raise ValueError(f"devices are 'driver' or a list, not {self.devices!r}")


def write_torch(site: Path, spec: StandinTorch | None = None) -> None:
    """Install that build into a site folder."""
    spec = spec or StandinTorch()
    files = {
        f"torch/{path.relative_to(_FILES).as_posix()}": path.read_text("utf-8")
        for path in sorted(_FILES.rglob("*.py"))
    }
    files["torch/_standin.json"] = json.dumps(dataclasses.asdict(spec), indent=1)
    write_distribution(site, "torch", spec.version, files, ">=3.10", spec.requires)
