"""Shared CUDA libraries that LD_LIBRARY_PATH puts before those of the driver and of the wheels."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePath

from pytest_bionemo.probes import packages

VARIABLE = "LD_LIBRARY_PATH"

# A driver version has three digits in front. libcuda.so.1.1, as in WSL 2, carries none.
_VERSIONED = re.compile(r"\.so\.(\d{3,}\.\d+(?:\.\d+)?)$")
_NVIDIA_LIBRARY = re.compile(r"^lib(cu|nv|nccl)\w*\.so\.\d+$")


@dataclass(frozen=True)
class CudaLibrary:
    """The ``libcuda.so.1`` that LD_LIBRARY_PATH finds first.

    ``version`` is the driver version in the name of the file that it points to, None if it has none.
    ``is_stub`` is true for the toolkit's link-time stub, which no program can run on.
    """

    path: Path
    version: str | None
    is_stub: bool


@dataclass(frozen=True)
class Shadow:
    """A library of a wheel that another file of the same name on LD_LIBRARY_PATH comes before."""

    wheel: str
    library: str
    path: Path


def search_path(environment: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """The folders of LD_LIBRARY_PATH, first one first."""
    return tuple(Path(folder) for folder in environment.get(VARIABLE, "").split(":") if folder)


def libcuda(environment: Mapping[str, str] = os.environ) -> CudaLibrary | None:
    """The user-mode driver that LD_LIBRARY_PATH puts before the installed one; None if it names none."""
    for folder in search_path(environment):
        path = folder / "libcuda.so.1"
        if path.exists():
            resolved = path.resolve()
            versioned = _VERSIONED.search(resolved.name)
            return CudaLibrary(path, versioned[1] if versioned else None, "stubs" in resolved.parts)
    return None


def shadows(environment: Mapping[str, str] = os.environ) -> tuple[Shadow, ...]:
    """Libraries of installed NVIDIA wheels that LD_LIBRARY_PATH replaces."""
    folders = search_path(environment)
    if not folders:
        return ()
    found = []
    for wheel, library in _wheel_libraries():
        path = next((folder / library.name for folder in folders if (folder / library.name).exists()), None)
        if path is not None and path.resolve() != Path(library).resolve():
            found.append(Shadow(wheel, library.name, path))
    return tuple(found)


def _wheel_libraries() -> list[tuple[str, PurePath]]:
    return [
        (f"{name} {packages.field(distribution, 'Version')}", Path(str(file.locate())))
        for distribution in metadata.distributions()
        if (name := packages.field(distribution, "Name") or "").lower().startswith("nvidia-")
        for file in distribution.files or ()
        if _NVIDIA_LIBRARY.match(file.name)
    ]
