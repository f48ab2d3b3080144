"""The fault matrix: every shipped check on a healthy machine, and what it must say where a fault is injected.

One module a topic, or a few; each has a table ``TWINS``. A fault goes in at the lowest level that can be reached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ParamSpec

from conftest import Rig

Change = Callable[[Rig], object]
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
    "process": "a real process that holds, hangs or dies",
}


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
