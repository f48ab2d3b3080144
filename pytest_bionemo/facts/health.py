"""What a healthy GPU has, and how many errors are still no fault, from ``health.toml``."""

from __future__ import annotations

from pytest_bionemo.facts import load

__all__ = ["limit", "nvlinks"]


def nvlinks(model: str) -> int | None:
    """How many NVLinks a GPU of this model (``GpuModel.name``) has up on its board; None where none is certain."""
    return next((row["count"] for row in load("health")["nvlinks"] if row["model"] == model), None)


def limit(name: str) -> float:
    """The most that is no fault. Raises LookupError for a name without a row."""
    for row in load("health")["limit"]:
        if row["name"] == name:
            return float(row["value"])
    raise LookupError(f"no limit of the name {name!r} is on record")
