"""What a number of this device is compared with: its physical bounds, and what healthy devices of its kind reach.

A whole GPU of a model in ``facts/gpus.toml`` has the bounds of its row. For others, and for MIG slices, they follow
from the multiprocessors and clocks that torch and NVML report; what such a device should reach follows from what
others of its architecture reached, and is *uncalibrated*. In a rehearsal the bounds are those of any processor, and
far away. On a GPU a share of the bound is a ruler, too: for most models it is the only one.
"""

from __future__ import annotations

from typing import NamedTuple

from pytest_bionemo import judging
from pytest_bionemo.compute import Compute
from pytest_bionemo.facts import gpus
from pytest_bionemo.facts.gpus import Architecture
from pytest_bionemo.judging import Limits
from pytest_bionemo.worker import Numbers


class Reference(NamedTuple):
    """What a healthy device reaches (None: nobody knows), and whether somebody measured it on this model."""

    value: float | None
    is_calibrated: bool


def properties(worker: Compute) -> Numbers:
    """Name and size of the device, by torch and NVML."""
    return worker.run("properties:run")


def lacks(worker: Compute, format: str) -> bool:
    """Whether the architecture is known to have no units for matrices in this format."""
    kind = _architecture(worker)
    return kind is not None and format not in kind.flop_per_clock


def matmul_bound(worker: Compute, format: str) -> float | None:
    """The most TFLOP/s: those of the model, or at the highest clock of this very GPU if that is more."""
    facts = properties(worker)
    if worker.is_rehearsal:
        return gpus.processor().tflops(format, facts["multiprocessors"])
    model, kind, derived = worker.model, _architecture(worker), None
    if kind and facts["max_sm_clock_hz"]:
        derived = kind.tflops(format, facts["multiprocessors"], facts["max_sm_clock_hz"])
    if derived and model and model.half_rate and format != "fp32":
        derived /= 2  # of the tensor cores alone
    return _highest(derived, model.tflops(format) if model else None)


def matmul_limits(worker: Compute, format: str) -> Limits | None:
    """The shares of the bound that a healthy device reaches; half where the board may be half rate."""
    if worker.is_rehearsal:
        return None
    return judging.PRODUCTS if worker.model or format == "fp32" else judging.PRODUCTS.of(1 / 2)


def matmul_reference(worker: Compute, format: str) -> Reference:
    """TFLOP/s of a healthy device: the lowest on record, since sources differ."""
    if on_record := _lowest_on_record(worker, f"matmul_{format}"):
        return Reference(on_record, True)
    peak = (worker.model.tflops(format) if worker.model else None) or matmul_bound(worker, format)
    return Reference(_share(worker, format, peak), False)


def memory_bound(worker: Compute) -> float | None:
    """The most GB/s of the device's memory; for a slice, of the memory of its GPU."""
    facts = properties(worker)
    if worker.is_rehearsal:
        return gpus.processor().bandwidth_gbs(facts["multiprocessors"])
    return _highest(facts["bandwidth_bound_gbs"], worker.model.bandwidth_gbs if worker.model else None)


def memory_limits(worker: Compute) -> Limits | None:
    """The shares of the bound that a healthy device reaches; a slice has as much of it as of the memory itself."""
    if worker.is_rehearsal:
        return None
    if worker.mig is None:
        return judging.MEMORY
    own, whole = worker.mig.memory_bytes, worker.gpu.memory_bytes if worker.gpu else None
    return judging.MEMORY.of(own / whole) if own and whole else None


def memory_reference(worker: Compute) -> Reference:
    """GB/s of a healthy device; None for a slice, since nobody says which part of the memory is its own."""
    if on_record := _lowest_on_record(worker, "memory_bandwidth"):
        return Reference(on_record, True)
    return Reference(None if worker.mig else _share(worker, "memory", memory_bound(worker)), False)


def link_bound(worker: Compute) -> float | None:
    """The most GB/s between host and device, one way; None where the link is not known."""
    if worker.is_rehearsal:
        return memory_bound(worker)
    kind = _architecture(worker)
    if worker.model is None or kind is None:
        return None  # an unknown GPU beside a Grace would be taken for one on PCIe
    return worker.model.host_link_gbs or kind.pcie_gbs


def link_limits(worker: Compute) -> Limits | None:
    """The shares of the bound that a healthy device reaches."""
    return None if worker.is_rehearsal else judging.LINK


def link_reference(worker: Compute, quantity: str) -> Reference:
    """GB/s of a healthy device; ``quantity`` is ``host_to_device`` or ``device_to_host``."""
    return Reference(_lowest_on_record(worker, quantity), True)


def collective_bound(worker: Compute, operation: str, ranks: int, nodes: int) -> float | None:
    """The most GB/s of bus bandwidth, as nccl-tests counts it; None where nodes take part, whose network is no fact.

    Over NVLink the sum can be formed in the switch: then it is sent once, not twice, and the formula counts double.
    """
    if worker.is_rehearsal:
        return memory_bound(worker)
    if nodes > 1:
        return None
    link = link_between(worker)
    is_in_switch = operation == "all_reduce" and worker.model is not None and bool(worker.model.nvlink_gbs)
    return link * (2 * (ranks - 1) / ranks if is_in_switch else 1) if link else None


def collective_limits(worker: Compute, nodes: int) -> Limits | None:
    """The shares of the bound that a healthy node reaches; None where that is not known."""
    has_bridge = worker.model is None or worker.model.nvlink_bridge
    if worker.is_rehearsal or nodes > 1 or has_bridge:
        return None
    return judging.NVLINK if worker.model and worker.model.nvlink_gbs else judging.LINK


def link_between(worker: Compute) -> float | None:
    """The most GB/s that this device sends to another one of its node: by NVLink where the model has it."""
    if worker.is_rehearsal:
        return memory_bound(worker)
    if worker.model and worker.model.nvlink_gbs:
        return worker.model.nvlink_gbs / 2  # the table counts both directions
    return link_bound(worker)


def shortest(tflops: float | None, operations: float) -> float | None:
    """The shortest time in which so many operations can be done."""
    return operations / (tflops * 1e12) if tflops else None


def _architecture(worker: Compute) -> Architecture | None:
    return gpus.architecture(worker.compute_capability) if worker.compute_capability else None


def _lowest_on_record(worker: Compute, quantity: str) -> float | None:
    found = gpus.references(worker.model.name, quantity) if worker.model else ()
    return found[0].value if found else None


def _share(worker: Compute, of: str, bound: float | None) -> float | None:
    kind = _architecture(worker)
    share = kind.efficiency.get(of) if kind else None
    return bound * share if bound and share else None


def _highest(*bounds: float | None) -> float | None:
    return max((bound for bound in bounds if bound), default=None)
