"""GPU models, their physical bounds and what was measured on them, from ``gpus.toml``."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pytest_bionemo.facts import load

__all__ = [
    "FORMATS",
    "Architecture",
    "GpuModel",
    "Processor",
    "Reference",
    "architecture",
    "find",
    "models",
    "processor",
    "references",
]

FORMATS = ("fp32", "tf32", "fp16", "bf16", "fp8")
"""Number formats of matrix products."""

# The share of the memory as sold (GB) that devices report (GiB). ECC and the driver keep up to 9 % (a T4
# shows 14.6 of 16); the next smaller product of the same family is at least 10 % below.
_LEAST_MEMORY, _MOST_MEMORY = 0.905, 1.05

# Virtual GPUs name their profile last: "A10-24Q", "A100-2-10C".
_VGPU_PROFILE = re.compile(r"\d+[ABCQ]")


@dataclass(frozen=True)
class GpuModel:
    """One GPU product and the most that one such GPU can physically do.

    TFLOPS are dense, at boost clock, tensor formats with fp32 accumulation; None where the GPU has no
    tensor cores for the format. Where sources disagree the row holds the highest value and ``also`` the
    others.
    """

    name: str
    match: tuple[str, ...]
    """Each entry is a set of words that a device name must have."""
    compute_capability: tuple[int, int]
    segment: Literal["datacenter", "workstation", "geforce"]
    fp32_tflops: float
    tf32_tflops: float | None
    fp16_tflops: float
    bf16_tflops: float | None
    fp8_tflops: float | None
    half_rate: bool
    """The tensor cores run at half the rate of their architecture."""
    memory_gb: tuple[float, ...]
    """As sold, every size that this row stands for. The device reports about that many GiB."""
    bandwidth_gbs: float
    nvlink_gbs: float | None
    """Total of both directions, GB/s; None without NVLink."""
    nvlink_bridge: bool
    """NVLink exists only where a bridge is fitted."""
    host_link_gbs: float | None
    """One direction of the chip-to-chip link to its processor, GB/s; None where it is PCIe."""
    also: str | None
    confidence: Literal["high", "medium", "low"]
    source: str
    """Codes of the table's [sources], separated by commas."""
    date: str
    tag: str

    def tflops(self, format: str) -> float | None:
        """The most TFLOP/s in one of ``FORMATS``; None where the GPU has no tensor cores for it."""
        found: float | None = getattr(self, f"{format}_tflops")
        return found


@dataclass(frozen=True)
class Reference:
    """What somebody measured on a healthy GPU of a model."""

    model: str
    quantity: str
    """``matmul_<format>``, ``memory_bandwidth``, ``host_to_device`` or ``device_to_host``."""
    value: float
    unit: str
    """TFLOP/s or GB/s."""
    method: str
    torch: str | None
    note: str | None
    source: str
    date: str
    tag: str


@dataclass(frozen=True)
class Architecture:
    """What one multiprocessor of an architecture can do, and what a healthy GPU of it reaches."""

    compute_capability: tuple[int, int]
    flop_per_clock: Mapping[str, int]
    """By format, for each multiprocessor; an FMA is two."""
    efficiency: Mapping[str, float]
    """By format, and ``memory``: the share of its bound; empty where nobody measured."""
    pcie_gbs: float
    """One direction of the link to the host, GB/s."""

    def tflops(self, format: str, multiprocessors: int, clock_hz: float) -> float | None:
        """The most TFLOP/s of so many multiprocessors at this clock; None where it has not the format."""
        per_clock = self.flop_per_clock.get(format)
        return None if per_clock is None else per_clock * multiprocessors * clock_hz / 1e12


@dataclass(frozen=True)
class Processor:
    """More than any core of any processor does: the physical bound of a rehearsal."""

    clock_hz: float
    flop_per_clock: Mapping[str, int]
    bytes_per_clock: int

    def tflops(self, format: str, cores: int) -> float:
        """The most TFLOP/s of so many cores."""
        return self.flop_per_clock[format] * cores * self.clock_hz / 1e12

    def bandwidth_gbs(self, cores: int) -> float:
        """The most GB/s that so many cores read and write, from the nearest cache."""
        return self.bytes_per_clock * cores * self.clock_hz / 1e9


@functools.cache
def references(model: str, quantity: str) -> tuple[Reference, ...]:
    """What was measured on this model (``GpuModel.name``), lowest first; empty where nobody did."""
    rows = [row for row in load("gpus")["reference"] if model in row["gpus"] and row["quantity"] == quantity]
    return tuple(sorted((_reference(row, model) for row in rows), key=lambda found: found.value))


def architecture(compute_capability: tuple[int, int]) -> Architecture | None:
    """The architecture of this compute capability; None where the table has no row."""
    wanted = "{}.{}".format(*compute_capability)
    row = next((row for row in load("gpus")["architecture"] if row["compute_capability"] == wanted), None)
    if row is None:
        return None
    return Architecture(compute_capability, row["flop_per_clock"], row.get("efficiency", {}), float(row["pcie_gbs"]))


def processor() -> Processor:
    """The bound of a rehearsal."""
    row = load("gpus")["processor"]
    return Processor(row["clock_ghz"] * 1e9, row["flop_per_clock"], row["bytes_per_clock"])


@functools.cache
def models() -> tuple[GpuModel, ...]:
    """Every GPU in the table, in its order. Raises FactsError when the table cannot be read."""
    return tuple(_model(row) for row in load("gpus")["gpu"])


def find(device_name: str, memory_bytes: int | None = None) -> GpuModel | None:
    """The model behind a device name as torch or NVML reports it, or None.

    ``memory_bytes`` is the device's total memory. It tells products of one name apart (A100 40 and 80 GB,
    the two GH200), and a device whose memory fits no product of its name is not taken for one.

    None means that the bounds of no row are known to apply: an unknown name, one that leaves several models
    possible, a MIG slice or virtual GPU, or a laptop or export variant of a model in the table.
    """
    words = _words(device_name)
    if _is_other_product(words):
        return None
    specificity = {model: _specificity(model, words) for model in models()}
    best = max(1, *specificity.values())
    candidates = [model for model, found in specificity.items() if found == best]
    if memory_bytes is not None:
        candidates = [model for model in candidates if _holds(model, memory_bytes)]
    return candidates[0] if len(candidates) == 1 else None


@functools.cache
def _words(name: str) -> frozenset[str]:
    return frozenset(re.split(r"[\s_-]+", name.upper().strip()))


def _is_other_product(words: frozenset[str]) -> bool:
    excluded = load("gpus")["names"]["other_product"]
    return any(_words(phrase) <= words for phrase in excluded) or any(map(_VGPU_PROFILE.fullmatch, words))


def _specificity(model: GpuModel, words: frozenset[str]) -> int:
    """How many words the longest matching entry has; 0 for no match."""
    return max((len(_words(entry)) for entry in model.match if _words(entry) <= words), default=0)


def _holds(model: GpuModel, memory_bytes: int) -> bool:
    gib = memory_bytes / 2**30
    return any(_LEAST_MEMORY * size <= gib <= _MOST_MEMORY * size for size in model.memory_gb)


def _model(row: Mapping[str, Any]) -> GpuModel:
    major, minor = row["compute_capability"].split(".")
    return GpuModel(
        name=row["name"],
        match=tuple(row["match"]),
        compute_capability=(int(major), int(minor)),
        segment=row["segment"],
        fp32_tflops=float(row["fp32_tflops"]),
        tf32_tflops=_optional(row, "tf32_tflops"),
        fp16_tflops=float(row["fp16_tflops"]),
        bf16_tflops=_optional(row, "bf16_tflops"),
        fp8_tflops=_optional(row, "fp8_tflops"),
        half_rate=row.get("half_rate", False),
        memory_gb=tuple(float(size) for size in row["memory_gb"]),
        bandwidth_gbs=float(row["bandwidth_gbs"]),
        nvlink_gbs=_optional(row, "nvlink_gbs"),
        nvlink_bridge=row.get("nvlink_bridge", False),
        host_link_gbs=_optional(row, "host_link_gbs"),
        also=row.get("also"),
        confidence=row["confidence"],
        source=row["source"],
        date=row["date"],
        tag=row["tag"],
    )


def _reference(row: Mapping[str, Any], model: str) -> Reference:
    return Reference(
        model=model,
        quantity=row["quantity"],
        value=float(row["value"]),
        unit=row["unit"],
        method=row["method"],
        torch=row.get("torch"),
        note=row.get("note"),
        source=row["source"],
        date=row["date"],
        tag=row["tag"],
    )


def _optional(row: Mapping[str, Any], key: str) -> float | None:
    return float(row[key]) if key in row else None
