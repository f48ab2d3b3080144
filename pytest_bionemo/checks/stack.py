"""What BioNeMo's recipes are built on: versions that fit, and compiled parts after which CUDA still works."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.checks.packages import known_cause, list_failures
from pytest_bionemo.facts import stack, versions
from pytest_bionemo.facts.stack import Change, Window
from pytest_bionemo.model import GpuEnv
from pytest_bionemo.options import Options
from pytest_bionemo.probes import packages
from pytest_bionemo.probes.imports import Imports
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.torch_build import TorchBuild

_IMPORTED = [one.name for one in stack.distributions() if one.judged_by is None]
_INSTALL = {one.name: one.install for one in stack.distributions()}
_WINDOWED = list(dict.fromkeys(window.of for window in stack.windows()))
# In this mode of a GPU one process may use it, and that is our worker.
_TAKEN = "busy or unavailable"


@check(severity="warning", about="{name}")
@pytest.mark.parametrize("name", _WINDOWED, ids=str)
def version_fits(name: str, gpu_env: GpuEnv) -> None:
    """The installed version is one that BioNeMo's recipes take.

    Why: with a version outside its window a recipe fails, or falls back to slower code, often long after the start.

    How it decides: it compares the installed version with each window on record for a library that is installed
    beside it, or for a GPU of this kind.

    Fix: install a version within the window that the finding names.
    """
    version = packages.version(name)
    if version is None:
        not_applicable(f"{name} is not installed")
    windows = [window for window in stack.windows() if window.of == name and _counts(window, gpu_env)]
    if not windows:
        not_applicable(f"{name} {version} is used by nothing that is installed")
    missed = [window for window in windows if not versions.admits(window.specifier, version)]
    if missed:
        wanted = _INSTALL[name] + ",".join(window.specifier for window in windows)
        fail(
            f"{name} {version} is installed, expected {' and '.join(window.specifier for window in missed)}",
            why="; ".join(dict.fromkeys(window.why for window in missed)),
            fix=f'$ pip install --no-build-isolation "{wanted}"',
            links=list(dict.fromkeys(window.link for window in missed)),
        )


def _counts(window: Window, env: GpuEnv) -> bool:
    if window.beside and packages.version(window.beside) is None:
        return False
    least = window.compute_capability
    return least is None or any(capability >= least for capability in env.capabilities)


@check(severity="warning")
@pytest.mark.parametrize("change", stack.changes(), ids=lambda change: change.id)
def spared_by(change: Change, machine: Machine, bionemo_options: Options) -> None:
    """A change that is known to break something breaks nothing that is installed.

    Why: some releases break others although the metadata of both allow them: pip installs them together, and the
    failure comes at run time.

    How it decides: each change on record names the packages and versions that it concerns; where they are installed,
    and no import that is tried would show it, that is a finding.

    Fix: install the version that the finding names, or use the container.
    """
    if not change.matters(packages.version, machine.torch_build.cuda):
        not_applicable("what it breaks is not installed")
    shown_by = next((name for name in change.shown_by if packages.find(name)), None)
    if shown_by and bionemo_options.level != "quick":
        not_applicable(f"the import of {shown_by} is tried, which shows it")
    installed = [f"{name} {version}" for name in sorted(change.names) if (version := packages.version(name))]
    fail(
        f"{', '.join(installed)}: {change.what}",
        why="the metadata of these packages do not tell, and pip installs them together",
        fix=change.fix,
        links=[change.link],
    )


class _Cause(NamedTuple):
    """Why an import fails with an error like this, and what helps."""

    pattern: str
    why: str
    fix: str


_CAUSES = (
    _Cause(
        r"undefined symbol",
        "its compiled part was built for another PyTorch: the C++ interfaces differ",
        "$ pip install --no-build-isolation --no-deps --no-cache-dir --force-reinstall {name}",
    ),
    _Cause(
        r"CUDNN_STATUS_SUBLIBRARY|libcudnn",
        "it was built with another cuDNN than the one that is found",
        "set CUDNN_PATH to the cuDNN that PyTorch brings, or install {name} again with --no-build-isolation",
    ),
    _Cause(
        r"lib(cudart|cublas\w*|cufft|curand|cusolver|cusparse|nvrtc|nvJitLink)\S*\.so\.\d+: cannot open",
        "it was built for another major version of CUDA than PyTorch{cuda}",
        "install a build of {name} for PyTorch's CUDA{cuda}, or build it here with --no-build-isolation",
    ),
    _Cause(
        r"No module named",
        "something that it needs is not installed",
        "install what the error names, or: $ pip install {name}",
    ),
    _Cause(
        r"no answer within",
        "the import hangs, or the file system is slow",
        "raise --bionemo-timeout, or look at the disk",
    ),
    _Cause("", "recipes that use it do not start", "$ pip install --force-reinstall --no-deps {name}"),
)


@check(level="standard", about="{name}")
@pytest.mark.parametrize("name", _IMPORTED, ids=str)
def imports(name: str, torch_build: TorchBuild, stack_imports: Imports) -> None:
    """The compiled parts load after PyTorch's, and PyTorch computes after that.

    Why: compiled parts that were built for another PyTorch, CUDA or cuDNN load wrongly, or break CUDA for the whole
    process.

    How it decides: a child process with a deadline imports PyTorch and then the package, and computes on the device
    afterwards; known texts of errors tell the cause.

    Fix: build the package for the PyTorch that is installed.
    """
    if packages.find(name) is None:
        not_applicable(f"{name} is not installed")
    called = f"{name} {packages.version(name)}"
    seen = stack_imports.of(name)
    if seen.end:
        _fail_import(name, f"importing {called}: {seen.end}", seen.end, torch_build.cuda)
    if seen.failures:
        text = list_failures(seen.failures)
        if not torch_build.devices and "libcuda.so" in text:
            not_applicable(f"{name} does not import without the NVIDIA driver: {text}")
        change = known_cause(name, seen.failures, torch_build.cuda)
        if change:
            fail(f"{called} does not import: {text}", why=change.what, fix=change.fix, links=[change.link])
        _fail_import(name, f"{called} does not import: {text}", text, torch_build.cuda)
    if seen.cuda_error:
        if _TAKEN in seen.cuda_error:
            wait_for(None, f"the GPU takes no second process: {seen.cuda_error}")
        place = "a GPU" if torch_build.devices else "the CPU"
        _fail_import(
            name,
            f"after importing {called}, PyTorch does not compute on {place}: {seen.cuda_error}",
            seen.cuda_error,
            torch_build.cuda,
        )


def _fail_import(name: str, message: str, text: str, cuda: str | None) -> None:
    cause = next(cause for cause in _CAUSES if re.search(cause.pattern, text))
    built = {"name": name, "cuda": f" ({cuda})" if cuda else ""}
    fixes: Sequence[str] = [cause.fix.format(**built)]
    fail(message, why=cause.why.format(**built), fix=fixes)
