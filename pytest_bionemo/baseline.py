"""What this machine measured before: numbers by device, and what was another then.

Pure: documents in, numbers out. A number is compared with that of the same device alone: the same UUID, or in a
rehearsal the same processor of the same host. Numbers that were judged slow or broken then are no baseline, and of
another level none is: other sizes are measured there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_bionemo.model import count

Key = tuple[str, str, "str | None"]
"""Name, unit and device of a number."""

UNSOUND = ("low", "degraded", "untrusted")
"""Judgements of numbers that are no baseline: what is slow already would hide that it stays so."""

BETWEEN_NODES = "collective_"
"""Begins the names of numbers that belong to the nodes of a job together, and to no device."""

# Of the report's environment, what a change of speed may come from.
_SOFTWARE = ("driver", "torch", "torch_cuda", "cudnn", "nccl")
_IDS_SHOWN = 2


@dataclass(frozen=True)
class Earlier:
    """A number that was measured before, and its 95 % confidence interval."""

    value: float
    ci95: tuple[float, float] | None = None


@dataclass(frozen=True)
class Circumstances:
    """Where and how numbers were measured: what has to be the same for them to be compared.

    ``devices`` are UUIDs of whole GPUs, sorted; none in a rehearsal, which is of its host. ``at_work`` is on how many
    devices the checks ran at once, which share power, cooling or cores.
    """

    level: str
    device: str
    hostname: str | None
    devices: tuple[str, ...] = ()
    software: Mapping[str, str | None] = field(default_factory=dict)
    nodes: int = 1
    at_work: int = 1

    @classmethod
    def of(cls, run: Mapping[str, Any]) -> Circumstances:
        """Those of a report's key ``bionemo``."""
        environment = run.get("environment", {})
        job = environment.get("job") or {}
        return cls(
            level=run["level"],
            device=run["device"],
            hostname=environment.get("hostname"),
            devices=tuple(sorted(gpu["uuid"] for gpu in run.get("gpus", []) if gpu["uuid"])),
            software=software(environment),
            nodes=job.get("nodes", 1),
            at_work=len({check["device"] for check in run["checks"]} - {None}),
        )

    @property
    def is_rehearsal(self) -> bool:
        """Whether nothing but a processor was at work."""
        return self.device == "cpu"

    def shares_a_device_with(self, other: Circumstances) -> bool:
        """Whether any device is the same one. In a rehearsal it is the host's processor."""
        if self.is_rehearsal or other.is_rehearsal:
            return self.device == other.device and self.hostname == other.hostname
        return bool(set(self.devices) & set(other.devices))

    def why_not(self, now: Circumstances) -> str:
        """Why no number of that time can be compared with those of now; "" if they can be."""
        if self.device != now.device:
            kinds = {"cpu": "a rehearsal on the CPU", "cuda": "a run on GPUs"}
            return f"it is {kinds.get(self.device, self.device)}, and this one is {kinds.get(now.device, now.device)}"
        if self.level != now.level:
            return f"it is of level {self.level}, and this one of level {now.level}, which measures other sizes"
        if self.is_rehearsal and self.at_work != now.at_work:
            return f"it pretends {count(self.at_work, 'device')}, and this one {now.at_work}: they share the cores"
        if self.shares_a_device_with(now):
            return ""
        if now.is_rehearsal:
            return f"it is of the host {self.hostname}, and this is {now.hostname}"
        return f"it is of another machine: of {_named(self.devices)}, and this one has {_named(now.devices)}"

    def differences(self, now: Circumstances) -> Iterator[str]:
        """A phrase for each thing that was another then, though numbers can be compared."""
        for name in _SOFTWARE:
            before, after = self.software.get(name), now.software.get(name)
            if before != after:
                yield f"{name}: {before or 'none'} before, {after or 'none'} now"
        gone = set(self.devices) - set(now.devices)
        new = set(now.devices) - set(self.devices)
        if gone:
            yield f"no longer here: {_named(sorted(gone))}"
        if new:
            yield f"not here before: {_named(sorted(new))}"
        if self.at_work != now.at_work:
            yield f"devices at work: {self.at_work} before, {now.at_work} now"
        if self.nodes != now.nodes:
            yield f"nodes of the job: {self.nodes} before, {now.nodes} now"


def software(environment: Mapping[str, Any]) -> dict[str, str | None]:
    """What a change of speed may come from, of a report's environment."""
    return {name: environment.get(name) for name in _SOFTWARE}


@dataclass(frozen=True)
class Baseline:
    """An earlier run as a ruler of this one.

    ``name`` is how it is spoken of, ``started`` when it was, as ISO 8601. ``numbers`` are those that can be compared;
    ``refused`` says why none can be, "" if they can. ``skipped`` is a line for each damaged file that was passed over
    on the way to this run.
    """

    name: str
    started: str
    circumstances: Circumstances
    numbers: Mapping[Key, Earlier]
    refused: str = ""
    skipped: tuple[str, ...] = ()

    @classmethod
    def absent(cls, name: str, why: str, now: Circumstances, skipped: tuple[str, ...] = ()) -> Baseline:
        """That of a run for which nothing is there to compare it with."""
        return cls(name, "", now, {}, why, skipped)

    @classmethod
    def of(
        cls, document: Mapping[str, Any], name: str, now: Circumstances, skipped: tuple[str, ...] = ()
    ) -> Baseline:
        """What a report is worth as a baseline of a run in these circumstances.

        ::

            baseline = Baseline.of(document, "0003_standard.json", Circumstances.of(run))
            baseline.find("memory_copy", "GB/s", "GPU-4f0c...")  # Earlier(1843.2, (1840.1, 1845.9)), or None
        """
        run = document["bionemo"]
        then = Circumstances.of(run)
        refused = then.why_not(now)
        numbers = {} if refused else dict(sound(run.get("measurements", [])))
        if then.nodes != now.nodes:
            numbers = {key: number for key, number in numbers.items() if not key[0].startswith(BETWEEN_NODES)}
        if not refused and not numbers:
            refused = "it holds no number"
        return cls(name, run["started"], then, numbers, refused, skipped)

    def find(self, name: str, unit: str, device: str | None) -> Earlier | None:
        """The number of this name, unit and device; None where there was none."""
        return self.numbers.get((name, unit, device))

    def describe(self) -> str:
        """'0003_standard.json of 2026-11-20'."""
        return f"{self.name} of {self.started[:10]}" if self.started else self.name

    def to_json(self, compared: int, differences: Iterable[str]) -> dict[str, Any]:
        """What the report says of it: ``compared`` is how many numbers of this run have a number of that one."""
        return {
            "name": self.name,
            "started": self.started or None,
            "compared": compared,
            "refused": self.refused or None,
            "differences": list(differences),
            "skipped": list(self.skipped),
        }


def sound(measurements: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Key, Earlier]]:
    """The numbers of our checks on which nothing was found wrong."""
    for entry in measurements:
        value = entry["value"]
        if "test" in entry or entry["judgement"] in UNSOUND or not is_number(value):
            continue
        yield (entry["name"], entry["unit"], entry["device"]), Earlier(float(value), interval(entry["ci95"]))


def interval(ends: Any) -> tuple[float, float] | None:
    """Both ends, lower first, of what a report holds as one; None where it holds none."""
    if not ends or not all(map(is_number, ends)):
        return None
    lower, upper = sorted(map(float, ends))
    return lower, upper


def is_number(value: Any) -> bool:
    """Whether it is finite: a report that somebody has edited can hold anything."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _named(devices: Iterable[str]) -> str:
    ids = list(devices)
    shown = ", ".join(ids[:_IDS_SHOWN])
    more = f" and {len(ids) - _IDS_SHOWN} more" if len(ids) > _IDS_SHOWN else ""
    return f"{shown}{more}" if ids else "no GPU"
