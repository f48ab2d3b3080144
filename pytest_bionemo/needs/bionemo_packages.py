"""BioNeMo's packages, one by one."""

from __future__ import annotations

import pytest

from pytest_bionemo.checking import not_applicable, wait_for
from pytest_bionemo.fixtures import family_of
from pytest_bionemo.needs.established import ESTABLISHED_BY
from pytest_bionemo.probes import packages
from pytest_bionemo.probes.bionemo import BionemoPackage
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.machine import Machine


@pytest.fixture
def package(name: str, request: pytest.FixtureRequest, linux: Host) -> BionemoPackage:
    """The BioNeMo package that the check is about, whole or not."""
    found = family_of(request.config).package(name)
    if not found.is_installed:
        not_applicable(f"{name} is not installed")
    return found


@pytest.fixture
def whole_package(package: BionemoPackage) -> BionemoPackage:
    """The package with all its files."""
    if package.found is None or not package.found.is_whole:
        wait_for(
            f"{ESTABLISHED_BY['whole_package']}[{package.name}]", f"the installation of {package.name} is damaged"
        )
    return package


@pytest.fixture
def importable_package(whole_package: BionemoPackage, machine: Machine) -> BionemoPackage:
    """The package, with nothing known in the way of its import."""
    name, torch = whole_package.name, machine.torch_build
    if packages.namespace_intruder("bionemo"):
        wait_for(ESTABLISHED_BY["importable_package"], "another bionemo hides it")
    if not packages.is_for_this_python(name):
        wait_for(f"packages::fits_platform[{name}]", f"{name} is built for another Python or processor")
    if torch.import_error and any(needed.name == "torch" for needed in whole_package.requirements):
        established = "torch_build" if torch.is_installed else "torch_installed"
        wait_for(ESTABLISHED_BY[established], f"{name} needs PyTorch, which does not import")
    return whole_package


@pytest.fixture
def imported_package(importable_package: BionemoPackage) -> BionemoPackage:
    """The package, imported in every part of it that is known."""
    name = importable_package.name
    if not importable_package.imported.is_usable:
        wait_for(f"{ESTABLISHED_BY['imported_package']}[{name}]", f"{name} does not import")
    return importable_package
