"""Installed distributions, from their metadata alone: nothing is imported."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.utils import canonicalize_name

_CUDA_SUFFIX = re.compile(r"-cu(\d\d)$")
_TOOLKIT_WHEELS = frozenset(
    f"nvidia-{name}"
    for name in (
        "cublas", "cuda-cupti", "cuda-nvrtc", "cuda-runtime", "cufft", "cufile", "curand", "cusolver",
        "cusparse", "nvjitlink", "nvtx",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Package:
    """One installed distribution.

    ``version`` is None where the metadata cannot be read. ``missing`` are modules that its RECORD lists and that
    are not there. ``duplicates`` are other versions of it in the same folder, which an interrupted installation
    leaves behind; one in a later folder of ``sys.path`` is hidden by this one, which is how layers are made.
    """

    name: str
    version: str | None
    requires_python: str | None
    missing: tuple[str, ...]
    duplicates: tuple[str, ...]


def find(name: str) -> Package | None:
    """The distribution of this name that Python would use, None if it is not installed."""
    found = list(metadata.distributions(name=name))
    if not found:
        return None
    first, *others = found
    here = [_version(other) for other in others if _folder(other) == _folder(first)]
    return Package(
        name=name,
        version=_version(first),
        requires_python=field(first, "Requires-Python"),
        missing=tuple(_missing(first)),
        duplicates=tuple(sorted({other for other in here if other and other != _version(first)})),
    )


def version(name: str) -> str | None:
    """The installed version of this distribution, None if it is not installed or cannot be read."""
    try:
        return _version(metadata.distribution(name))
    except metadata.PackageNotFoundError:
        return None


def field(distribution: metadata.Distribution, name: str) -> str | None:
    """A field of the metadata, None where it is not there: by Python version, asking for it warns or raises."""
    with suppress(KeyError, TypeError):  # a dist-info folder without METADATA
        if name in distribution.metadata:
            return distribution.metadata[name]
    return None


def cuda_majors() -> Mapping[str, int]:
    """The installed wheels that are built for one CUDA major version: normalised name to that version.

    A suffix names it (``nvidia-cublas-cu12``, ``transformer_engine_cu12``). Since CUDA 13 the wheels of the
    toolkit have none, and some count versions of their own: the un-suffixed ``nvidia-cuda-runtime`` is what
    tells for all of them.
    """
    suffixed: dict[str, int] = {}
    plain: list[str] = []
    for name in _names():
        if match := _CUDA_SUFFIX.search(name):
            suffixed[name] = int(match[1])
        elif name in _TOOLKIT_WHEELS:
            plain.append(name)
    runtime = version("nvidia-cuda-runtime") if plain else None
    major = int(runtime.partition(".")[0]) if runtime else None
    return suffixed | {name: major for name in plain if major is not None}


def _missing(distribution: metadata.Distribution) -> Iterator[str]:
    # Not Distribution.files: since Python 3.12 it leaves out what is missing.
    for row in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
        if row and _is_module(row[0]) and not Path(str(distribution.locate_file(row[0]))).exists():
            yield row[0]


def _is_module(file: str) -> bool:
    # What images and pip install --target legitimately leave out: bytecode, tests, scripts outside the folder.
    path = PurePosixPath(file)
    return path.suffix in (".py", ".so") and not {"..", "test", "tests"} & set(path.parts)


def _folder(distribution: metadata.Distribution) -> Path:
    return Path(str(distribution.locate_file(""))).resolve()


def _names() -> set[str]:
    found = (field(distribution, "Name") for distribution in metadata.distributions())
    return {canonicalize_name(name) for name in found if name}


def _version(distribution: metadata.Distribution) -> str | None:
    return field(distribution, "Version")
