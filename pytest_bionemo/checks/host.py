"""The machine around Python."""

from __future__ import annotations

from packaging.version import Version

from pytest_bionemo.checking import check, fail
from pytest_bionemo.facts import wheels
from pytest_bionemo.model import Action
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.machine import Machine


@check()
def runs_linux(host: Host) -> None:
    """The operating system is Linux."""
    if host.system != "Linux":
        fail(
            f"the operating system is {host.system}; PyTorch for CUDA and BioNeMo run on Linux",
            why="no CUDA build of PyTorch and no BioNeMo package is published for it",
            fix="run on Linux, on Windows inside WSL 2",
            action=Action.REPLACE_NODE,
        )


@check()
def has_supported_processor(host: Host) -> None:
    """The processor architecture is one that PyTorch is built for."""
    supported = wheels.supported_machines()
    if host.machine not in supported:
        fail(
            f"the processor is {host.machine}; PyTorch for CUDA is built for {' and '.join(supported)}",
            why="pip finds no PyTorch to install",
            fix=f"use a machine with one of: {', '.join(supported)}",
            action=Action.REPLACE_NODE,
        )


@check()
def has_glibc_for_torch(host: Host, machine: Machine) -> None:
    """The C library can load PyTorch's wheels."""
    needed = wheels.minimum_glibc()
    if machine.torch_build.version is not None:
        return  # it is loaded: no stronger proof
    if host.glibc is None:
        seen = "the C library is not glibc"
    elif Version(host.glibc) < Version(needed):
        seen = f"glibc is {host.glibc}"
    else:
        return
    fail(
        f"{seen}; PyTorch's wheels need glibc {needed} or newer",
        why="pip finds no PyTorch to install, or the one installed elsewhere does not load",
        fix="use a newer Linux, or a container image with one (Ubuntu 20.04, Debian 10, RHEL 8 and newer)",
        action=Action.REPLACE_NODE,
    )
