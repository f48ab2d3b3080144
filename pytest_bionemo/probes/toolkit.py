"""The CUDA toolkit, where there is one: the nvcc that would build extensions for torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_RELEASE = re.compile(r"release (\d+\.\d+)")
_DEADLINE_S = 10


@dataclass(frozen=True)
class Toolkit:
    """An installed toolkit: its nvcc, the CUDA version that it says ("13.0"), or the error that it gave.

    ``named_by`` says where it was found: the variable, ``PATH`` or the default folder.
    """

    nvcc: str
    named_by: str
    cuda: str | None
    error: str | None = None


def find() -> Toolkit | None:
    """The toolkit that ``torch.utils.cpp_extension`` would use, by the same order; None if there is none."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(variable):
            return _ask(Path(home, "bin", "nvcc"), variable)
    if nvcc := shutil.which("nvcc"):
        return _ask(Path(nvcc), "PATH")
    default = Path("/usr/local/cuda/bin/nvcc")
    return _ask(default, "the default folder") if default.exists() else None


def _ask(nvcc: Path, named_by: str) -> Toolkit:
    try:
        said = subprocess.run(
            [str(nvcc), "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DEADLINE_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Toolkit(str(nvcc), named_by, None, str(error))
    release = _RELEASE.search(said)
    return Toolkit(str(nvcc), named_by, release[1] if release else None, None if release else said.strip())
