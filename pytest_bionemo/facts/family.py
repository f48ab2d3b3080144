"""The BioNeMo packages and the images that hold them, from ``packages.toml``.

Every function raises FactsError when the table cannot be read.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from packaging.specifiers import SpecifierSet

from pytest_bionemo.facts import load

__all__ = ["Container", "FamilyPackage", "containers", "find", "installable", "packages", "pip_set", "repository",
           "together"]  # fmt: skip


@dataclass(frozen=True)
class FamilyPackage:
    """One BioNeMo package: ``name`` as pip knows it, ``status`` alive, broken, recipe or removed.

    ``platforms`` are the tags of its wheels ("cp311 manylinux_2_28_x86_64"), empty where it runs on any. ``python``
    is the specifier of the Pythons that it can really be had for and ``python_reason`` why those are fewer than its
    metadata say. ``modules`` are those whose import shows that it works, ``trial`` the workload that tries it, and
    ``where`` the place where it can be had. ``named`` marks the seven that the family's own material names.
    """

    name: str
    import_name: str | None
    category: str
    on_pypi: bool
    requires_python: str
    platforms: tuple[str, ...]
    status: str
    fate: str
    named: bool = False
    latest: str | None = None
    where: str = "PyPI"
    python: str = ""
    python_reason: str = ""
    modules: tuple[str, ...] = ()
    trial: str | None = None
    makes_cache: bool = False

    def obstacle(self, python: str, machine: str) -> str | None:
        """Why pip finds no working one for this Python ("3.11.7") and processor ("x86_64"); None if it does."""
        if not self.on_pypi or self.status != "alive":
            return self.fate
        if python not in SpecifierSet(self.requires_python, prereleases=True):
            return f"it needs Python {self.requires_python}, this is {python}"
        if python not in SpecifierSet(self.python, prereleases=True):
            return f"{self.python_reason}: this is {python}"
        tag = "cp" + "".join(python.split(".")[:2])
        if self.platforms and not any(
            platform.startswith(f"{tag} ") and platform.endswith(machine) for platform in self.platforms
        ):
            return f"it has no wheel for Python {python} on {machine}, and no source distribution"
        return None

    def installs_on(self, python: str, machine: str) -> bool:
        """Whether pip finds a working one for this Python ("3.11.7") and processor ("x86_64")."""
        return self.obstacle(python, machine) is None


@dataclass(frozen=True)
class Container:
    """An image: what it ``holds``, the ``flags`` of docker run, its ``cuda`` and the processors it is for.

    ``compat_driver`` is the oldest that its own cuda-compat may lift, on data-centre GPUs; None: none is known.
    """

    image: str
    flags: str
    cuda: str
    machines: tuple[str, ...]
    holds: str
    compat_driver: str | None


@functools.cache
def packages() -> tuple[FamilyPackage, ...]:
    """Every package of the table."""
    return tuple(
        FamilyPackage(
            name=row["name"],
            import_name=row.get("import"),
            category=row["category"],
            on_pypi=row["on_pypi"],
            requires_python=row["requires_python"],
            platforms=tuple(row.get("platforms", ())),
            status=row["status"],
            fate=row["fate"],
            named=row.get("named", False),
            latest=row.get("latest"),
            where=row["where"],
            python=row.get("python", ""),
            python_reason=row.get("python_reason", ""),
            modules=tuple(row.get("deep_imports", filter(None, [row.get("import")]))),
            trial=row.get("trial"),
            makes_cache=row.get("makes_cache", False),
        )
        for row in load("packages")["package"]
    )


def find(name: str) -> FamilyPackage:
    """The package of this name. Raises LookupError for one that the table does not have."""
    try:
        return next(package for package in packages() if package.name == name)
    except StopIteration:
        raise LookupError(f"{name} is not in the table of packages") from None


def installable(python: str, machine: str) -> tuple[FamilyPackage, ...]:
    """Of the packages that BioNeMo names, those that pip can install today and that work here."""
    return tuple(package for package in packages() if package.named and package.installs_on(python, machine))


def together(names: Collection[str]) -> tuple[str, ...]:
    """The requirements that pip must be given, too, where these packages are installed together."""
    rows = load("packages")["together"]
    return tuple(row["add"] for row in rows if set(row["packages"]) <= set(names))


def containers() -> Mapping[str, Container]:
    """The images by name: "framework" and "recipes"."""
    return {
        row["name"]: Container(
            row["image"], row["flags"], row["cuda"], tuple(row["machines"]), row["holds"], row.get("compat_driver")
        )
        for row in load("packages")["container"]
    }


def pip_set() -> Mapping[str, Any]:
    """What a recipe takes without a container, by name (``python``, ``cuda``, ``torch`` ...)."""
    found: Mapping[str, Any] = load("packages")["pip_set"]
    return found


def repository() -> Mapping[str, Any]:
    """Where the recipes are: ``url``, the folder ``recipes`` in it, and the name of an ``example``."""
    found: Mapping[str, Any] = load("packages")["repository"]
    return found
