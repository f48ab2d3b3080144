"""The BioNeMo packages: which are installed, and whether each installation is whole."""

from __future__ import annotations

import pytest
from packaging.specifiers import SpecifierSet

from pytest_bionemo.checking import check, fail, not_applicable
from pytest_bionemo.facts import family
from pytest_bionemo.probes import packages
from pytest_bionemo.probes.host import Host


def _install(name: str, *options: str) -> str:
    known = family.find(name)
    if not known.on_pypi:  # whatever somebody may publish there under its name is not it
        return f"install it again from where it came: it is not on PyPI ({known.fate})"
    return " ".join(["$ pip install", *options, name])


@check()
@pytest.mark.parametrize("name", [package.name for package in family.packages()], ids=str)
def is_whole(name: str, host: Host) -> None:
    """The installed package is complete and made for this Python."""
    package = packages.find(name)
    if package is None:
        not_applicable(f"{name} is not installed")
    if package.version is None:
        fail(
            f"the metadata of {name} cannot be read",
            why="an installation was interrupted",
            fix=_install(name, "--force-reinstall --no-deps"),
        )
    if package.duplicates:
        fail(
            f"{name} is installed more than once: {package.version}, {', '.join(package.duplicates)}",
            why="an installation was interrupted, or two folders of sys.path hold it",
            fix=[
                "uninstall it, repeated until nothing is left:",
                f"$ pip uninstall {name}",
                "then install it once:",
                _install(name),
            ],
        )
    if package.missing:
        fail(
            f"{name} {package.version} lacks {len(package.missing)} of its files, such as {package.missing[0]}",
            why="the installation is damaged: imports fail now or later",
            fix=_install(name, "--force-reinstall --no-deps"),
        )
    if package.requires_python and host.python not in SpecifierSet(package.requires_python, prereleases=True):
        fail(
            f"{name} {package.version} needs Python {package.requires_python}, this is {host.python}",
            why="the package was installed past pip's own check",
            fix=f"use a Python of {package.requires_python}",
        )
