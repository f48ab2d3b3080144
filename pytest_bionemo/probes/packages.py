"""Installed distributions, from their metadata alone: nothing is imported."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

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

    ``version`` is None where the metadata cannot be read. ``missing`` are files that its RECORD lists and that
    are not there; ``duplicates`` are the versions of further installations of the same distribution that
    this one hides.
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
    return Package(
        name=name,
        version=_version(first),
        requires_python=first.metadata["Requires-Python"] if _version(first) else None,
        missing=tuple(_missing(first)),
        duplicates=tuple(version for other in others if (version := _version(other))),
    )


def version(name: str) -> str | None:
    """The installed version of this distribution, None if it is not installed or cannot be read."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
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
        if row and not Path(str(distribution.locate_file(row[0]))).exists():
            yield row[0]


def _names() -> set[str]:
    found = (distribution.metadata["Name"] for distribution in metadata.distributions())
    return {canonicalize_name(name) for name in found if name}


def _version(distribution: metadata.Distribution) -> str | None:
    try:
        return distribution.version
    except (KeyError, TypeError):  # a dist-info folder without METADATA, by Python version
        return None
