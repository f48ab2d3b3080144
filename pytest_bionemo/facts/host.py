"""What the machine around the GPUs has to offer, from ``host.toml``.

Every function raises FactsError when the table cannot be read.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_bionemo.facts import load

__all__ = ["Clock", "clock", "newest_python", "own_powersave", "recommended_python", "threshold"]


@dataclass(frozen=True)
class Clock:
    """Between which times a clock can be right, in seconds since 1970, and by how many seconds it may be off."""

    earliest: float
    latest: float
    tolerance: float


def threshold(name: str) -> int:
    """The value of this row, in the unit that the table names. Raises LookupError for a row that is not there."""
    return _thresholds()[name]


@functools.cache
def _thresholds() -> Mapping[str, int]:
    return {row["name"]: int(row["value"]) for row in load("host")["threshold"]}


def clock() -> Clock:
    """When this table was written, and some years later."""
    row = load("host")["clock"]
    start = datetime.datetime.fromisoformat(row["not_before"]).replace(tzinfo=datetime.timezone.utc)
    tolerance = float(row["tolerance_hours"]) * 3600
    end = start + datetime.timedelta(days=365.25 * row["years"])
    return Clock(start.timestamp() - tolerance, end.timestamp(), tolerance)


def own_powersave() -> tuple[str, ...]:
    """The drivers of processor frequency whose "powersave" is not the slowest frequency."""
    return tuple(load("host")["scaling"]["own_powersave"])


def newest_python() -> str:
    """The newest Python ("3.15") that PyTorch has wheels for."""
    return str(load("host")["python"]["newest"])


def recommended_python() -> str:
    """The Python that BioNeMo's own images and steps use ("3.12")."""
    return str(load("packages")["pip_set"]["python"]).removeprefix("==").removesuffix(".*")
