"""What an instance type has, from ``instances.toml``.

Every function raises FactsError when the table cannot be read.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_bionemo.facts import load

__all__ = ["Instance", "find", "names"]

_UNSURE = ("mem",)


@dataclass(frozen=True)
class Instance:
    """One instance type.

    ``nvlinks`` is the number of links of each GPU, ``efa`` that of EFA adapters, ``infiniband`` that of InfiniBand
    ports; None where it is not known. ``gpudirect`` says whether EFA reads and writes the memory of GPUs.
    """

    name: str
    cloud: str
    gpu: str
    gpus: int
    nvlinks: int | None
    efa: int | None
    infiniband: int | None
    gpudirect: bool
    note: str | None
    source: str
    date: str
    tag: str

    @property
    def is_sure(self) -> bool:
        """Whether a node may be judged by it: what is only recalled may be shown, not held against anybody."""
        return self.tag not in _UNSURE


def find(name: str) -> Instance | None:
    """The instance type of this name, with or without SageMaker's ``ml.``; None where it is not on record."""
    return _all().get(name.strip().lower().removeprefix("ml."))


def names() -> tuple[str, ...]:
    """Every type on record, as its cloud writes it."""
    return tuple(instance.name for instance in _all().values())


@functools.cache
def _all() -> Mapping[str, Instance]:
    # Azure writes its types in several ways: Standard_NC40ads_H100_v5, Standard_NC40ADS_H100_V5.
    return {name.lower(): _instance(name, row) for row in load("instances")["instance"] for name in row["types"]}


def _instance(name: str, row: Mapping[str, Any]) -> Instance:
    return Instance(
        name=name,
        cloud=row["cloud"],
        gpu=row["gpu"],
        gpus=row["gpus"],
        nvlinks=row.get("nvlinks"),
        efa=row.get("efa"),
        infiniband=row.get("infiniband"),
        gpudirect=row.get("gpudirect", False),
        note=row.get("note"),
        source=row["source"],
        date=row["date"],
        tag=row["tag"],
    )
