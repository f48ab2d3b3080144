"""The fault matrix: every shipped check on a healthy machine, and what it must say where a fault is injected.

One module a topic, or a few; each has a table ``TWINS``. A fault goes in at the lowest level that can be reached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ParamSpec

import pytest

if TYPE_CHECKING:
    from conftest import Rig

Change = Callable[["Rig"], object]
P = ParamSpec("P")

LAYERS = {
    "driver library": "a stand-in for libnvidia-ml.so.1 that the driver's own would be called through",
    "C library": "a library before the C library that answers uname(2) and the like",
    "PyTorch": "a stand-in for the PyTorch package, or the real one with a kernel replaced",
    "distribution": "the files of an installed distribution in a real virtual environment",
    "environment": "variables of the environment",
    "file": "real files in a mount namespace of the run's own",
    "file system": "a real file system mounted in a namespace of the run's own",
    "limit": "a real limit of the process (setrlimit(2)) or of its control group",
    "network": "a real link between network namespaces, shaped by a token bucket filter (tc-tbf(8))",
    "process": "a real process that holds, hangs or dies",
    "kernel": "a kernel of the real PyTorch replaced inside a worker on the CPU, which has no GPU to replace",
    "package": "a function of a real installed package replaced inside the process that imports it",
    "worker": "what a worker answers to a check that only a GPU can be asked",
}


@dataclass(frozen=True)
class Row:
    """One row of the matrix: the fault, where it goes in, the check that must catch it, and as what."""

    check: str
    fault: str
    layer: str
    severity: str
    action: str

    @property
    def verdict(self) -> str:
        """Of a run with this fault and no other."""
        return "BLOCKED" if self.severity == "blocker" else "as without it"


def proves(
    check: str, fault: str, layer: str, action: str = "FIX_SOFTWARE", severity: str | None = None
) -> pytest.MarkDecorator:
    """Mark a test that injects this fault: it fails unless the check has found it, as it is said here.

    ``severity`` is the finding's where that is not the check's own.
    """
    assert layer in LAYERS, layer
    return pytest.mark.fault(Row(check, fault, layer, severity or severity_of(check), action))


def severity_of(check: str) -> str:
    """That with which a check is declared."""
    from pytest_bionemo.checking import spec_of
    from pytest_bionemo.suite import import_checks

    topic, _, name = check.partition("::")
    spec = spec_of(getattr(import_checks(f"pytest_bionemo.checks.{topic}"), name))
    assert spec, check
    return spec.severity


@dataclass(frozen=True)
class Fault:
    """What is done to the healthy machine, and what the check must say of it.

    ``message`` and ``fix`` are regular expressions. ``parameter`` is that of the check which finds it, None for one
    without. ``severity`` is the finding's where that is not the check's own. ``layer`` is where it goes in: that of
    the injection unless given (see :func:`layer_of`).
    """

    inject: Change
    message: str
    fix: str = ""
    action: str = "FIX_SOFTWARE"
    parameter: str | None = None
    severity: str | None = None
    layer: str = ""


@dataclass(frozen=True)
class Twin:
    """A check on a healthy machine and on broken ones. ``parameter`` is that of the healthy run."""

    faults: Mapping[str, Fault]
    healthy: Change = field(default=lambda rig: None)
    parameter: str = ""
    options: tuple[str, ...] = ()


def with_parameter(check: str, parameter: str | None) -> str:
    """The check's short id."""
    return f"{check}[{parameter}]" if parameter else check


def at(layer: str) -> Callable[[Callable[P, Change]], Callable[P, Change]]:
    """Say of a function that makes injections where these go in."""

    def mark(make: Callable[P, Change]) -> Callable[P, Change]:
        def marked(*args: P.args, **kwargs: P.kwargs) -> Change:
            return done_at(layer)(make(*args, **kwargs))

        return marked

    return mark


def done_at(layer: str) -> Callable[[Change], Change]:
    """Say of an injection where it goes in."""

    def mark(change: Change) -> Change:
        change.__dict__["layer"] = layer
        return change

    return mark


def layer_of(fault: Fault) -> str:
    """Where the fault goes in: a word of ``LAYERS``."""
    return fault.layer or str(fault.inject.__dict__.get("layer", ""))
