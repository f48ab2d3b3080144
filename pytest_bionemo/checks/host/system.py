"""The system that Python runs on: Linux, its processor, glibc, and the version of Python."""

from __future__ import annotations

from pytest_bionemo import rules
from pytest_bionemo.checking import check, fail
from pytest_bionemo.facts import host as facts
from pytest_bionemo.facts import wheels
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.machine import Machine


@check()
def runs_linux(host: Host) -> None:
    """The operating system is Linux.

    Why: no CUDA build of PyTorch and no BioNeMo package is published for another system.

    How it decides: it compares what the kernel calls itself with Linux; WSL 2 is Linux.

    Fix: run on Linux; on Windows, inside WSL 2.
    """
    if not rules.is_linux(host):
        fail(
            f"the operating system is {host.system}; PyTorch for CUDA and BioNeMo run on Linux",
            why="no CUDA build of PyTorch and no BioNeMo package is published for it",
            fix=["run this on Linux", "or, on Windows, inside WSL 2"],
        )


@check(needs=["linux"])
def has_supported_processor(host: Host) -> None:
    """The processor architecture is one that PyTorch is built for.

    Why: pip finds no PyTorch for CUDA to install on any other processor.

    How it decides: it looks the architecture of the processor up among those that PyTorch's wheels for CUDA are built
    for.

    Fix: use a machine with a processor that PyTorch for CUDA is built for.
    """
    if not rules.has_torch_processor(host):
        supported = wheels.supported_machines()
        fail(
            f"the processor is {host.machine}; PyTorch for CUDA is built for {' and '.join(supported)}",
            why="pip finds no PyTorch to install",
            fix=f"use a machine with one of: {', '.join(supported)}",
        )


@check(needs=["linux"])
def has_glibc_for_torch(host: Host, machine: Machine) -> None:
    """The C library can load PyTorch's wheels.

    Why: with an older C library pip finds no PyTorch, and one that was installed elsewhere does not load.

    How it decides: it compares the version of glibc with the oldest that the wheels of PyTorch run on. A PyTorch that
    has been imported is the stronger proof: then no version is compared.

    Fix: use a newer Linux, or a container image with one.
    """
    # A PyTorch that is loaded is the stronger proof.
    if machine.torch_build.version is None and not rules.has_torch_glibc(host):
        seen = f"glibc is {host.glibc}" if host.glibc else "the C library is not glibc"
        fail(
            f"{seen}; PyTorch's wheels need glibc {wheels.minimum_glibc()} or newer",
            why="pip finds no PyTorch to install, or the one installed elsewhere does not load",
            fix="use a newer Linux, or a container image with one (Ubuntu 20.04, Debian 10, RHEL 8 and newer)",
        )


@check(needs=["linux"])
def has_python_for_torch(host: Host, machine: Machine) -> None:
    """PyTorch has wheels for this Python.

    Why: for any other Python pip finds no PyTorch to install.

    How it decides: it looks for a 64-bit Python of a version that wheels are published for. A PyTorch that has been
    imported is the stronger proof.

    Fix: use a 64-bit Python of a version that PyTorch has wheels for.
    """
    if machine.torch_build.version is None and (problem := rules.python_problem(host)):
        newest = facts.newest_python()
        fail(
            f"this is {problem}; PyTorch has wheels for 64-bit Pythons up to {newest}",
            why="pip finds no PyTorch to install",
            fix=f"make a virtual environment with Python {facts.recommended_python()}, which BioNeMo's recipes use",
        )
