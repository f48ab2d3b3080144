"""Which platforms this is: several can hold at once (HyperPod, Slurm, AWS).

From files and variables alone. No metadata service is asked: it is a network, and where it is blocked it only makes
one wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_bionemo.probes.child import note
from pytest_bionemo.probes.platforms import cloud, databricks, hyperpod, kubernetes, slurm
from pytest_bionemo.probes.platforms.cloud import Cloud
from pytest_bionemo.probes.platforms.databricks import Databricks
from pytest_bionemo.probes.platforms.hyperpod import HyperPod
from pytest_bionemo.probes.platforms.kubernetes import Kubernetes
from pytest_bionemo.probes.platforms.slurm import Slurm

__all__ = ["NAMES", "Cloud", "Databricks", "HyperPod", "Kubernetes", "Platform", "Slurm", "read", "steps"]

_CLOUDS = {"aws": "AWS", "azure": "Azure", "gcp": "Google Cloud"}
NAMES = ("databricks", "hyperpod", "slurm", "kubernetes", *_CLOUDS)
"""The words of ``Platform.names``."""


@dataclass(frozen=True)
class Platform:
    """What is recognised; None where it is not that platform. A container is told by ``Host.container``."""

    databricks: Databricks | None = None
    hyperpod: HyperPod | None = None
    slurm: Slurm | None = None
    kubernetes: Kubernetes | None = None
    cloud: Cloud | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """One word for each."""
        found = {
            "databricks": self.databricks,
            "hyperpod": self.hyperpod,
            "slurm": self.slurm,
            "kubernetes": self.kubernetes,
            self.cloud.name if self.cloud else "": self.cloud,
        }
        return tuple(name for name, what in found.items() if what)

    @property
    def scheduler(self) -> str | None:
        """Who gives out the GPUs."""
        if self.slurm:
            return "slurm"
        return "kubernetes" if self.kubernetes else None

    @property
    def instance_type(self) -> str | None:
        """As its cloud names it, without SageMaker's ``ml.``; None where no file tells."""
        # The machine knows what it is; HyperPod's description of the cluster can be stale on workers.
        found = (self.cloud.instance_type if self.cloud else None) or (
            self.hyperpod.instance_type if self.hyperpod else None
        )
        return found.removeprefix("ml.") if found else None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Platform:
        """Read back what a child process said."""
        managed = data["hyperpod"]
        return cls(
            databricks=Databricks(**data["databricks"]) if data["databricks"] else None,
            hyperpod=HyperPod(**{**managed, "problems": tuple(managed["problems"])}) if managed else None,
            slurm=Slurm(**data["slurm"]) if data["slurm"] else None,
            kubernetes=Kubernetes(**data["kubernetes"]) if data["kubernetes"] else None,
            cloud=Cloud(**data["cloud"]) if data["cloud"] else None,
        )

    def describe(self) -> str:
        """'HyperPod with Slurm, AWS p5.48xlarge'; empty where nothing is recognised."""
        scheduler = {"slurm": "Slurm", "kubernetes": "Kubernetes"}.get(self.scheduler or "", "")
        parts = [
            f"Databricks {self.databricks.kind}" if self.databricks else "",
            " with ".join(filter(None, ["HyperPod" if self.hyperpod else "", scheduler])),
            " ".join(filter(None, [_CLOUDS[self.cloud.name] if self.cloud else "", self.instance_type or ""])),
        ]
        return ", ".join(filter(None, parts))


def read(variables: Mapping[str, str], root: Path = Path("/")) -> Platform:
    """Look at the files of this machine and at these variables of the environment."""
    *_, whole = steps(variables, root)
    return whole


def steps(variables: Mapping[str, str], root: Path = Path("/")) -> Iterator[Platform]:
    """The same, first without Slurm, whose configuration can lie on a file system that hangs."""
    note("looking at the files of clouds and clusters")
    where = cloud.read(root)
    managed = hyperpod.read(variables, root, where.instance_id if where else None)
    found = Platform(
        databricks=databricks.read(variables, root),
        hyperpod=managed,
        kubernetes=kubernetes.read(variables, root, is_node=bool(managed and managed.orchestrator == "kubernetes")),
        cloud=where,
    )
    yield found
    yield replace(found, slurm=slurm.read(variables, root))
