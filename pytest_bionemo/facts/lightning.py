"""Lightning's distributions, and why packages bind its version, from ``lightning.toml``.

Every function raises FactsError when the table cannot be read.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_bionemo.facts import load

__all__ = ["Reason", "modules", "reason"]


@dataclass(frozen=True)
class Reason:
    """Why a package binds the version of another, and where to read about it."""

    why: str
    link: str


@functools.cache
def modules() -> Mapping[str, str]:
    """The module of each distribution of Lightning, in the order in which one is chosen."""
    return {row["name"]: row["module"] for row in load("lightning")["distribution"]}


def reason(by: str, on: str) -> Reason | None:
    """Why the one package requires versions of the other, None if it is not on record. Names are normalised."""
    for row in load("lightning")["requirement"]:
        if (row["by"], row["on"]) == (by, on):
            return Reason(row["why"], row["link"])
    return None
