"""The BioNeMo packages of this environment: what their metadata say, and what importing them does."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from pytest_bionemo.facts import family
from pytest_bionemo.facts.family import FamilyPackage
from pytest_bionemo.probes import packages, requirements
from pytest_bionemo.probes.imports import Imported, Imports, Program
from pytest_bionemo.probes.packages import Package
from pytest_bionemo.probes.requirements import Requirement

_WORKLOADS = "pytest_bionemo.workloads."


@dataclass(frozen=True)
class BionemoPackage:
    """One BioNeMo package as it is here: ``known`` is what is on record, ``found`` None where it is not installed."""

    known: FamilyPackage
    found: Package | None
    imports: Imports

    @property
    def name(self) -> str:
        """The distribution, as pip knows it."""
        return self.known.name

    @property
    def is_installed(self) -> bool:
        """Whether it is installed, whole or not."""
        return self.found is not None

    @property
    def version(self) -> str | None:
        """The installed version; None where it is not installed, or its metadata are damaged."""
        return self.found.version if self.found else None

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """What it needs, and what that needs in turn."""
        return requirements.closure(self.name)

    @property
    def unmet(self) -> tuple[Requirement, ...]:
        """Those of them that nothing installed meets."""
        return tuple(requirement for requirement in self.requirements if not requirement.is_met)

    @property
    def imported(self) -> Imported:
        """What importing all that is known of it does, in a process of its own; the first question takes seconds."""
        return self.imports.of(self.name) if self.is_installed else Imported(end=f"{self.name} is not installed")

    @property
    def import_error(self) -> str | None:
        """Why it does not import: the first cause. None where it does."""
        imported = self.imported
        return next((f"{failure.module}: {failure.reason}" for failure in imported.failures), imported.end)

    @property
    def module(self) -> ModuleType:
        """The package itself, such as ``bionemo.scdl``, imported into this process by the first question."""
        if self.known.import_name is None:
            raise LookupError(f"{self.name} has no module of its own to import")
        return import_module(self.known.import_name)

    def obstacle(self, wanted: SpecifierSet) -> str | None:
        """Why it cannot be used, in one line that says what to do about it; None if it can."""
        if self.found is None:
            nowhere = self.known.obstacle(platform.python_version(), platform.machine())
            return f"{self.name} is not installed: {nowhere or f'pip install {self.name}'}"
        if str(wanted) and not (self.found.has_valid_version and wanted.contains(self.version or "", True)):
            return f"{self.name} {self.version or 'of unknown version'} is installed, this test needs {wanted}"
        return f"{self.name} {self.version} does not import: {self.import_error}" if self.import_error else None

    def __repr__(self) -> str:
        return f"<BionemoPackage: {self.name} {self.version or 'not installed'}>"


def specifier_of(name: str, text: str | None) -> SpecifierSet:
    """The versions that somebody asks for, all where it is None. Raises ValueError for what is no specifier."""
    __tracebackhide__ = True
    if text is None or isinstance(text, str):
        with suppress(InvalidSpecifier):
            return SpecifierSet(text or "")
    raise ValueError(f"{name}: {text!r} is no version specifier, such as '>=0.1' or '>=0.1,<2'.")


def _modules(known: FamilyPackage) -> tuple[str, ...]:
    """Those on record that the installed release has: an older one may lack some. All where it seems to have none."""
    return tuple(module for module in known.modules if packages.brings(known.name, module)) or known.modules


class Family:
    """All of them, imported side by side by the first question; see :class:`.imports.Imports` for the arguments.

    With ``trials`` each does its work on a little data, too.
    """

    def __init__(
        self, timeout: float, environment: Mapping[str, str], *, ahead: bool = True, trials: bool = True
    ) -> None:
        self._found = {known.name: packages.find(known.name) for known in family.packages()}
        programs = {
            known.name: Program(_modules(known), _WORKLOADS + known.trial if trials and known.trial else None)
            for known in family.packages()
            if self._found[known.name]
        }
        self._imports = Imports(programs, timeout, environment, ahead=ahead)

    def package(self, name: str) -> BionemoPackage:
        """The package of this name, installed or not. Raises LookupError for one that is on no record."""
        __tracebackhide__ = True
        if name not in self._found:
            near = get_close_matches(name, self._found, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise LookupError(f"{name} is no BioNeMo package.{hint} Choose from: {', '.join(self._found)}.")
        return BionemoPackage(family.find(name), self._found[name], self._imports)

    def close(self) -> None:
        """End the processes, and remove what they wrote."""
        self._imports.close()
