"""The report of a run that has not finished, and how a verdict is put into a report.

Apart from ``document``, and with the standard library alone: a notebook writes it before its run is started, with
its own folder on ``sys.path``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

from pytest_bionemo.verdict import SCHEMA_VERSION

if TYPE_CHECKING:
    from pytest_bionemo.verdict import Verdict


class Asked(Protocol):
    """What was asked of a run, as far as its report repeats it."""

    @property
    def level(self) -> str:
        """How much is run: quick, standard or full."""

    @property
    def device(self) -> str:
        """The device: cuda or cpu."""

    @property
    def require(self) -> str:
        """The verdict that is required: install or ready."""

    @property
    def targets(self) -> Sequence[str]:
        """The workloads that must be runnable."""


def now() -> datetime:
    """The current time, in UTC."""
    return datetime.now(timezone.utc)


def start(asked: Asked, started: datetime) -> dict[str, Any]:
    """What is known before anything has run."""
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "pytest-bionemo", "version": _own_version()},
        "started": started.isoformat(timespec="seconds"),
        "level": asked.level,
        "device": asked.device,
        "require": asked.require,
        "required_targets": list(asked.targets),
        "checks": [],
        "topics": [],
        "deselected": [],
    }


def _own_version() -> str:
    try:
        return metadata.version("pytest-bionemo")
    except metadata.PackageNotFoundError:
        return "unknown"


def unfinished(asked: Asked, started: datetime) -> dict[str, Any]:
    """The whole document of a run that has not finished, without its verdict."""
    return {
        "created": time.time(),
        "duration": 0.0,
        "exitcode": None,
        "root": "",
        "environment": {},
        "summary": {},
        "tests": [],
        "bionemo": start(asked, started),
    }


def with_verdict(report: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    """The document with its verdict, which comes first: people read it from the top."""
    run = {"schema_version": SCHEMA_VERSION, **verdict.to_json(), **report["bionemo"], **verdict.to_json()}
    return {"bionemo": run} | dict(report) | {"bionemo": run}
