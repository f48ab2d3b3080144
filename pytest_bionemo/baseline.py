"""What this machine measured before: numbers by device, and what was another then.

Pure: documents in, numbers out. A number is compared with that of the same device alone: the same UUID, or in a
rehearsal the same processor of the same host. Numbers that were judged slow or broken then are no baseline, and of
another level none is: other sizes are measured there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_bionemo.model import count
from pytest_bionemo.showing import shown

Key = tuple[str, str, "str | None"]
"""Name, unit and device of a number."""

UNSOUND = ("low", "degraded", "untrusted")
"""Judgements of numbers that are no baseline: what is slow already would hide that it stays so."""

# Numbers that several devices have together begin so, whichever of them the report gives them to; this one has not.
_TOGETHER = ("collective_", "node_", "send_to_", "training_")
_ALONE = "training_step_alone"

# Of the report's environment, what a change of speed may come from.
_SOFTWARE = ("driver", "torch", "torch_cuda", "cudnn", "nccl")
_IDS_SHOWN = 2
_LARGEST = 1e100
_LONGEST_SHOWN, _LONGEST_LIST = 64, 10_000


@dataclass(frozen=True)
class Earlier:
    """A number that was measured before, and its 95 % confidence interval."""

    value: float
    ci95: tuple[float, float] | None = None

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Earlier:
        """What :func:`dataclasses.asdict` made of it."""
        return cls(found["value"], tuple(found["ci95"]) if found["ci95"] else None)


@dataclass(frozen=True)
class Circumstances:
    """Where and how numbers were measured: what has to be the same for them to be compared.

    ``devices`` are the UUIDs of whole GPUs and ``slices`` those of their MIG slices, as they are counted; ``visible``
    is CUDA_VISIBLE_DEVICES. ``pretended`` is how many devices a rehearsal makes of its processor.
    """

    level: str
    device: str
    hostname: str | None
    devices: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    visible: str | None = None
    software: Mapping[str, str | None] = field(default_factory=dict)
    nodes: int = 1
    pretended: int = 0

    @classmethod
    def of(cls, run: Mapping[str, Any]) -> Circumstances:
        """Those of a report's key ``bionemo``."""
        environment = run.get("environment", {})
        job = environment.get("job") or {}
        gpus = run.get("gpus", [])
        return cls(
            level=shown(run["level"]),
            device=shown(run["device"]),
            hostname=_text(environment.get("hostname")),
            devices=tuple(shown(gpu["uuid"]) for gpu in gpus if gpu["uuid"]),
            slices=tuple(shown(slice_["uuid"]) for gpu in gpus for slice_ in gpu.get("mig_devices", [])),
            visible=_text(environment.get("variables", {}).get("CUDA_VISIBLE_DEVICES")),
            software=software(environment),
            nodes=int(job.get("nodes", 1)),
            pretended=len({check["device"] for check in run["checks"]} - {None}),
        )

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Circumstances:
        """What :func:`dataclasses.asdict` made of it."""
        return cls(**{**found, "devices": tuple(found["devices"]), "slices": tuple(found["slices"])})

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
        if self.is_rehearsal and self.pretended != now.pretended and self.pretended:
            devices = count(self.pretended, "device")
            return f"it pretends {devices}, and this one {now.pretended}: they share the cores"
        if self.shares_a_device_with(now):
            return ""
        if now.is_rehearsal:
            before, after = (_said(one.hostname, "none") for one in (self, now))
            return f"it is of the host {before}, and this is {after}"
        return f"it is of another machine: of {_named(self.devices)}, and this one has {_named(now.devices)}"

    def can_compare(self, name: str, device: str | None, now: Circumstances) -> bool:
        """Whether a number of this name and device is of the same thing in both, where numbers can be compared."""
        return self._tells_apart(device) and (not is_of_several(name) or self._has_the_same_devices_as(now))

    def _tells_apart(self, device: str | None) -> bool:
        """Whether a device of this label is the same one in every run: a GPU without a UUID goes by its place."""
        return self.is_rehearsal or device in self.devices or device in self.slices

    def _has_the_same_devices_as(self, now: Circumstances) -> bool:
        """Whether the same devices work together, counted in the same order: gpu1 is the same one."""
        if self.is_rehearsal:
            return self.nodes == now.nodes
        own, others = ((one.nodes, one.devices, one.slices, one.visible) for one in (self, now))
        return own == others

    def differences(self, now: Circumstances) -> Iterator[str]:
        """A phrase for each thing that was another then, though numbers can be compared."""
        for name in _SOFTWARE:
            before, after = self.software.get(name), now.software.get(name)
            if before != after:
                yield f"{name}: {_said(before, 'none')} before, {_said(after, 'none')} now"
        if not self.is_rehearsal:
            yield from self._other_devices(now)
        if self.nodes != now.nodes:
            yield f"nodes of the job: {self.nodes} before, {now.nodes} now"

    def _other_devices(self, now: Circumstances) -> Iterator[str]:
        gone = set(self.devices) - set(now.devices)
        new = set(now.devices) - set(self.devices)
        if gone:
            yield f"no longer here: {_named(sorted(gone))}"
        if new:
            yield f"not here before: {_named(sorted(new))}"
        if not (gone or new) and self.devices != now.devices:
            yield f"the GPUs are counted in another order: {_named(self.devices)} before, {_named(now.devices)} now"
        if set(self.slices) != set(now.slices):
            yield f"MIG slices: {_named(self.slices, 'none')} before, {_named(now.slices, 'none')} now"
        if self.visible != now.visible:
            before, after = (_said(one.visible, "not set") for one in (self, now))
            yield f"CUDA_VISIBLE_DEVICES: {before} before, {after} now"


def software(environment: Mapping[str, Any]) -> dict[str, str | None]:
    """What a change of speed may come from, of a report's environment."""
    return {name: _text(environment.get(name)) for name in _SOFTWARE}


def is_of_several(name: str) -> bool:
    """Whether the number of this name is that of devices together, and says little of the one that it is given to."""
    return name.startswith(_TOGETHER) and name != _ALONE


@dataclass(frozen=True)
class Baseline:
    """An earlier run as a ruler of this one.

    ``name`` is how it is spoken of, ``started`` when it was, as ISO 8601. ``numbers`` are those that can be compared;
    ``refused`` says why none can be, "" if they can. ``skipped`` is a line for each damaged file that was passed over
    on the way to this run. ``is_alike`` if nothing but the devices can be what makes a number another one now.
    """

    name: str
    started: str
    circumstances: Circumstances
    numbers: Mapping[Key, Earlier]
    refused: str = ""
    skipped: tuple[str, ...] = ()
    is_alike: bool = True

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
        numbers = {
            (name, unit, device): number
            for (name, unit, device), number in ([] if refused else sound(run.get("measurements", [])))
            if then.can_compare(name, device, now)
        }
        if not refused and not numbers:
            refused = "it holds no number that could be compared"
        is_alike = not any(then.differences(now))
        return cls(shown(name), _text(run["started"]) or "", then, numbers, refused, skipped, is_alike)

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
        if "test" in entry or entry["judgement"] in UNSOUND or not is_usual(value):
            continue
        yield (entry["name"], entry["unit"], entry["device"]), Earlier(float(value), interval(entry["ci95"]))


def interval(ends: Any) -> tuple[float, float] | None:
    """Both ends, lower first, of what a report holds as one; None where it holds none."""
    if not ends or not all(map(is_usual, ends)):
        return None
    lower, upper = sorted(map(float, ends))
    return lower, upper


def is_usual(value: Any) -> bool:
    """Whether something measures as much: a report that somebody has edited can hold anything.

    What is 0, negative or not finite is no ruler, and what is larger or smaller cannot be multiplied and divided.
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and 1 / _LARGEST < value < _LARGEST


def _text(value: object) -> str | None:
    # Never cut: it is compared. A list of visible devices is long.
    return None if value is None else shown(value, _LONGEST_LIST)


def _said(value: str | None, none: str) -> str:
    return none if value is None else shown(value, _LONGEST_SHOWN) or "''"


def _named(devices: Iterable[str], none: str = "no GPU") -> str:
    ids = list(devices)
    first = ", ".join(ids[:_IDS_SHOWN])
    more = f" and {len(ids) - _IDS_SHOWN} more" if len(ids) > _IDS_SHOWN else ""
    return f"{first}{more}" if ids else none
