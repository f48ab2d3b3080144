"""BioNeMo packages for tests: real ones, installed with pip, and ones whose modules do what a test wants."""

from __future__ import annotations

import fcntl
import importlib.metadata
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_bionemo.facts import family

from .distributions import write_distribution
from .environment import Environment, closure

__all__ = ["install", "make_environment", "spoil_imports", "write_package"]

# Linked, and not installed: PyTorch is too large to be downloaded again.
_LINKED = ["pytest-bionemo", "pytest-xdist", "torch"]

_SITECUSTOMIZE = """
import sys
from importlib.machinery import PathFinder

SPOILT = {spoilt!r}


class Spoiler:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        code = SPOILT.pop(name, None)
        spec = PathFinder.find_spec(name, path, target) if code else None
        if spec is not None:
            load = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (load(module), exec(code, {{"module": module}}))
        return spec


sys.meta_path.insert(0, Spoiler)
"""


def make_environment(folder: Path, command: str) -> Environment:
    """A fresh environment in which this pip command was run, one for all tests of a run.

    ``folder`` is one that all processes of a run share. The packages come from the index that pip is configured for.
    """
    with (folder / "bionemo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place, done = folder / "bionemo", folder / "bionemo.done"
        if done.exists():
            return Environment(place, place / "venv/bin/python", Path(done.read_text()))
        place.mkdir()
        environment = Environment.create(place, _LINKED)
        install(environment, shlex.split(command))
        done.write_text(str(environment.site))
        return environment


def install(environment: Environment, command: Sequence[str]) -> None:
    """Run a command that begins with "pip install" in the environment; what is linked there stays as it is."""
    linked = environment.folder / "linked.txt"
    linked.write_text("".join(f"{name}=={importlib.metadata.version(name)}\n" for name in closure(_LINKED)))
    pip, *arguments = command
    assert pip == "pip"
    options = ["--quiet", "--disable-pip-version-check", "--constraint", str(linked)]
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(environment.python), *arguments, *options],
        check=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )


def write_package(site: Path, name: str, code: str = "", requires: Sequence[str] = (), version: str = "1.0") -> Path:
    """A BioNeMo package of empty modules; the first of those whose import is checked runs the code."""
    known = family.find(name)
    first, *_ = known.modules
    files = {f"{module.replace('.', '/')}.py": "" for module in known.modules}
    files[f"{first.replace('.', '/')}.py"] = code
    return write_distribution(site, name, version, files, requires=requires)


def spoil_imports(site: Path, spoilt: dict[str, str]) -> None:
    """Run code, with ``module`` in scope, in every process as soon as it has imported the module of that name."""
    for code in spoilt.values():
        compile(code, "<spoilt>", "exec")
    (site / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(spoilt=spoilt))
