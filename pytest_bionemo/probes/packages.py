"""Installed distributions, from their metadata alone: nothing is imported."""

from __future__ import annotations

import csv
import functools
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from packaging.tags import Tag, parse_tag, sys_tags
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

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
    ``damage`` is a phrase for what makes it impossible to say what belongs to it, None where nothing does.
    """

    name: str
    version: str | None
    requires_python: str | None
    missing: tuple[str, ...]
    duplicates: tuple[str, ...]
    damage: str | None = None

    @property
    def has_valid_version(self) -> bool:
        """Whether its version is one by the standard (PEP 440), so that it can be compared."""
        return self.version is not None and is_valid(self.version)

    @property
    def is_whole(self) -> bool:
        """Whether everything that belongs to it is there, once."""
        return self.has_valid_version and not (self.missing or self.duplicates or self.damage)


def find(name: str) -> Package | None:
    """The distribution of this name that Python would use, None if it is not installed."""
    found = list(metadata.distributions(name=name))
    if not found:
        return None
    first, *others = found
    here = [_version(other) for other in others if _folder(other) == _folder(first)]
    try:
        missing, damage = tuple(_missing(first)), _damage(first)
    except (UnicodeDecodeError, csv.Error) as error:
        missing, damage = (), f"its RECORD cannot be read ({error})"
    return Package(
        name=name,
        version=_version(first),
        requires_python=field(first, "Requires-Python"),
        missing=missing,
        duplicates=tuple(sorted({other for other in here if other and other != _version(first)})),
        damage=damage,
    )


def is_valid(version: str) -> bool:
    """Whether this is a version by the standard (PEP 440)."""
    try:
        Version(version)
    except InvalidVersion:
        return False
    return True


def version(name: str) -> str | None:
    """The installed version of this distribution, None if it is not installed or cannot be read."""
    try:
        return _version(metadata.distribution(name))
    except metadata.PackageNotFoundError:
        return None


def is_installed(name: str) -> bool:
    """Whether there is a distribution of this name, even one whose metadata cannot be read."""
    return next(iter(metadata.distributions(name=name)), None) is not None


def wheel_tags(name: str) -> frozenset[Tag]:
    """For which Pythons and systems the installed files were built; empty where the installation does not say."""
    try:
        text = metadata.distribution(name).read_text("WHEEL") or ""
    except (metadata.PackageNotFoundError, UnicodeDecodeError):
        return frozenset()
    lines = [line.removeprefix("Tag:").strip() for line in text.splitlines() if line.startswith("Tag:")]
    return frozenset(tag for line in lines if line.count("-") == 2 for tag in parse_tag(line))


def is_for_this_python(name: str) -> bool:
    """Whether what is installed was built for this interpreter and this system, as far as it says."""
    tags = wheel_tags(name)
    return not tags or not tags.isdisjoint(_supported())


def brings(name: str, module: str) -> bool:
    """Whether this module is one that the installed distribution brings; True, too, where it has no list of files."""
    try:
        distribution = metadata.distribution(name)
        listed = [PurePosixPath(row[0]) for row in csv.reader((distribution.read_text("RECORD") or "").splitlines())
                  if row]  # fmt: skip
    except (metadata.PackageNotFoundError, UnicodeDecodeError, csv.Error):
        return True
    if not listed or _editable_folder(distribution):
        return True
    *folders, last = module.split(".")
    place = PurePosixPath(*folders)
    return any(
        (path.parent == place and path.name.partition(".")[0] == last and _is_module(str(path)))
        or path == place / last / "__init__.py"
        for path in listed
    )


def namespace_intruder(name: str) -> str | None:
    """The file that makes a namespace package a plain one, and so hides all its parts but those beside it."""
    spec = PathFinder.find_spec(name, sys.path)
    return spec.origin if spec is not None and spec.origin is not None else None


@functools.cache
def _supported() -> frozenset[Tag]:
    return frozenset(sys_tags())


def field(distribution: metadata.Distribution, name: str) -> str | None:
    """A field of the metadata, None where it is not there: by Python version, asking for it warns or raises."""
    # A dist-info folder without METADATA, or with one that is no text.
    with suppress(KeyError, TypeError, UnicodeDecodeError):
        fields = distribution.metadata  # read from its file each time
        if name in fields:
            return fields[name]
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


def _damage(distribution: metadata.Distribution) -> str | None:
    folder = _editable_folder(distribution)
    if folder is not None:
        return None if folder.is_dir() else f"it is installed as editable from {folder}, which is gone"
    # pip always writes one; an image's own packages may come without.
    if (distribution.read_text("INSTALLER") or "").strip() == "pip" and not distribution.read_text("RECORD"):
        return "its RECORD, the list of its files, is gone"
    return None


def _editable_folder(distribution: metadata.Distribution) -> Path | None:
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        is_editable = origin.get("dir_info", {}).get("editable") is True
        return Path(unquote(urlsplit(origin["url"]).path)) if is_editable else None
    except (ValueError, LookupError, TypeError, AttributeError):  # it is not what the standard says
        return None


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
