"""Which driver runs which CUDA, from ``drivers.toml``.

Drivers and CUDA versions are text as the vendor writes them ("550.144.03", "580.95.05-open", "13.2") and are
compared by their leading numbers. Every function raises ValueError, naming the text, when it is given
something that is no version, and FactsError when the table cannot be read. Source: NVIDIA's CUDA toolkit
release notes, see the table's rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_bionemo.facts import load
from pytest_bionemo.facts.versions import leading as _version

__all__ = ["bionemo_minimum", "family_minimum", "is_older", "newest_family", "toolkit_driver"]


def is_older(driver: str, than: str) -> bool:
    """Whether ``driver`` is an older version than ``than``; "580" and "580.0" are equal."""
    return _version(driver) < _version(than)


def family_minimum(cuda: str) -> str | None:
    """The oldest Linux driver that runs anything built for this CUDA's major version ("13.0" gives "580").

    This is the hard rule of minor-version compatibility. Below it only a forward-compatibility package helps.
    None for a CUDA major version that the table does not know.
    """
    major = _version(cuda).major
    return next((str(row["minimum"]) for row in _rows("family") if row["cuda_major"] == major), None)


def toolkit_driver(cuda: str) -> str | None:
    """The oldest Linux driver with every feature of this toolkit ("13.2" gives "595.45.04").

    The lowest over all updates of the toolkit; a third number, as in "13.2.2", is ignored. None for a toolkit
    that the table does not know.
    """
    toolkit = _version(cuda).release[:2]
    drivers = (str(row["driver"]) for row in _rows("toolkit") if _version(row["cuda"]).release[:2] == toolkit)
    return min(drivers, key=_version, default=None)


def newest_family(driver: str) -> int | None:
    """The highest CUDA major version that this driver runs ("550.144.03" gives 12).

    Older families run as well: drivers are backward compatible. None when it runs no family of the table.
    """
    families = (int(row["cuda_major"]) for row in _rows("family") if not is_older(driver, row["minimum"]))
    return max(families, default=None)


def bionemo_minimum() -> str:
    """The oldest driver that BioNeMo's own documentation supports. Older ones may work, without a promise."""
    return str(load("drivers")["bionemo"]["minimum_driver"])


def _rows(kind: str) -> Sequence[Mapping[str, Any]]:
    rows: Sequence[Mapping[str, Any]] = load("drivers")[kind]
    return rows
