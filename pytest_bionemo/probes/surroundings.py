"""What is around the machine: its platforms, the network between nodes, how Slurm starts containers.

``read`` runs in a child process: configurations and libraries can lie on a file system that hangs.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_bionemo.probes import fabric, platforms
from pytest_bionemo.probes.child import Answer
from pytest_bionemo.probes.fabric import Fabric
from pytest_bionemo.probes.platforms import Platform, slurm
from pytest_bionemo.probes.platforms.slurm import Containers

TARGET = f"{__name__}:read"
_LOOKING = ", while looking at "


@dataclass(frozen=True)
class Surroundings:
    """``said`` has what the child came to say, of ``platform``, ``fabric`` and ``containers``.

    ``first`` is the platform as far as it was told before anything could hang. ``failure`` is why the rest is not
    there.
    """

    said: Mapping[str, Any]
    first: Mapping[str, Any] | None = None
    failure: str | None = None

    @property
    def platform(self) -> Platform:
        """What is recognised, as far as it was told."""
        data = self.said.get("platform") or self.first
        return Platform.from_json(data) if data else Platform()

    @property
    def fabric(self) -> Fabric | None:
        """The network between nodes; None where it was not told."""
        data = self.said.get("fabric")
        return Fabric.from_json(data) if data else None

    @property
    def containers(self) -> Containers | None:
        """How Slurm starts containers; None where it does not, or where it was not told."""
        data = self.said.get("containers")
        return Containers.from_json(data) if data else None

    @property
    def silent_folder(self) -> str | None:
        """The folder at which the child was looking when its time had passed."""
        before, separator, folder = (self.failure or "").partition(_LOOKING)
        return folder if separator and before.startswith("no answer within") and folder.startswith("/") else None

    def to_json(self) -> dict[str, Any]:
        """Plain builtins."""
        return {"said": dict(self.said), "first": self.first, "failure": self.failure}


def from_answer(answer: Answer) -> Surroundings:
    """What the child said, as far as it came."""
    said = {name: value for one in answer.before for name, value in one.items()}
    failure = None if answer.value is not None else answer.failure or "no answer"
    return Surroundings(said, said.pop("first", None), failure)


def read(shared: list[str]) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """In the child: look around. ``shared`` are the places of shared file systems, which others ask."""
    platform = Platform()
    for name, platform in zip(("first", "platform"), platforms.steps(os.environ), strict=True):
        yield {name: _plain(asdict(platform))}
    yield {"fabric": _plain(asdict(fabric.read(os.environ)))}
    found = slurm.containers(os.environ, shared) if platform.slurm else None
    yield {"containers": _plain(asdict(found)) if found else None}
    return {}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
