"""The BioNeMo packages, from ``packages.toml``."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet

from pytest_bionemo.facts import load


@dataclass(frozen=True)
class FamilyPackage:
    """One BioNeMo package: ``name`` as pip knows it, ``status`` alive, broken, recipe or removed.

    ``platforms`` are the tags of its wheels ("cp311 manylinux_2_28_x86_64"), empty where it runs on any.
    """

    name: str
    import_name: str
    category: str
    on_pypi: bool
    requires_python: str
    platforms: tuple[str, ...]
    status: str
    fate: str

    def installs_on(self, python: str, machine: str) -> bool:
        """Whether pip finds a working one for this Python ("3.11.7") and processor ("x86_64")."""
        if not self.on_pypi or self.status != "alive":
            return False
        if not SpecifierSet(self.requires_python, prereleases=True).contains(python):
            return False
        tag = "cp" + "".join(python.split(".")[:2])
        return not self.platforms or any(
            platform.startswith(f"{tag} ") and platform.endswith(machine) for platform in self.platforms
        )


@functools.cache
def packages() -> tuple[FamilyPackage, ...]:
    """Every package of the table."""
    return tuple(
        FamilyPackage(
            name=row["name"],
            import_name=row["import"],
            category=row["category"],
            on_pypi=row["on_pypi"],
            requires_python=row["requires_python"],
            platforms=tuple(row.get("platforms", ())),
            status=row["status"],
            fate=row["fate"],
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
    """The packages that pip can install today and that work, for this Python and processor."""
    return tuple(package for package in packages() if package.installs_on(python, machine))
