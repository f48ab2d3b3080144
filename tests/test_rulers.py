"""The rulers of a device: by its model, and for one that no table knows by its multiprocessors and clocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_bionemo import rulers
from pytest_bionemo.compute import Compute, ComputeDevice
from pytest_bionemo.facts import gpus
from pytest_bionemo.judging import LINK, MEMORY, PRODUCTS, Word, judge
from pytest_bionemo.model import Gpu, MigDevice
from pytest_bionemo.options import Options
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.worker import Workers

GIB = 1 << 30
UNSAID = {"max_sm_clock_hz": None, "bandwidth_bound_gbs": None}


def worker(
    name: str | None,
    gib: float = 80,
    capability: tuple[int, int] = (9, 0),
    mig: MigDevice | None = None,
    **properties: object,
) -> Compute:
    """A device whose worker says this of itself; without a name, the CPU of a rehearsal."""
    gpu = Gpu(0, "GPU-a", name, memory_bytes=int(gib * GIB), compute_capability=capability) if name else None
    facts: Mapping[str, Any] = {"name": name, "multiprocessors": 132, **UNSAID, **properties}
    workers = SimpleNamespace(run=lambda label, workload, **parameters: facts, labels=("GPU-a",))
    options = Options(True, "standard", "cuda" if name else "cpu", "install", "report", 60.0, None)
    device = ComputeDevice("gpu0", "GPU-a", gpu, mig)
    return Compute(device, cast(Workers, workers), cast(Machine, None), options, [])


H100 = "NVIDIA H100 80GB HBM3"
SLICE = MigDevice("MIG-x", f"{H100} MIG 3g.40gb", 40 * GIB)


def test_a_known_gpu_has_the_bounds_of_its_row() -> None:
    known = worker(H100)
    assert rulers.matmul_bound(known, "bf16") == 989.4
    assert rulers.matmul_bound(known, "fp8") == 1979
    assert rulers.memory_bound(known) == 3350
    assert rulers.link_bound(known) == 63


def test_a_clock_above_the_one_of_the_table_lifts_the_bound() -> None:
    """The H100's 989 TFLOP/s are at 1830 MHz; NVML lets it reach 1980."""
    bound = rulers.matmul_bound(worker(H100, max_sm_clock_hz=1.98e9), "bf16")
    assert bound == pytest.approx(1070, rel=0.01)
    assert rulers.matmul_bound(worker(H100, max_sm_clock_hz=1.0e9), "bf16") == 989.4


def test_of_boards_at_half_the_rate_the_tensor_cores_alone_are_halved() -> None:
    a10g = worker("NVIDIA A10G", 22.5, (8, 6), multiprocessors=80, max_sm_clock_hz=1.71e9)
    assert rulers.matmul_bound(a10g, "bf16") == pytest.approx(70, rel=0.001)
    assert rulers.matmul_bound(a10g, "fp32") == pytest.approx(80 * 1.71e9 * 256 / 1e12)


def test_a_geforce_may_run_at_the_highest_clock_of_its_own() -> None:
    """The table's 165.2 TFLOP/s are at 2520 MHz; boards are sold that reach 3105."""
    geforce = worker("NVIDIA GeForce RTX 4090", 24, (8, 9), multiprocessors=128, max_sm_clock_hz=3.105e9)
    for format, row in (("fp32", 82.6), ("tf32", 82.6), ("bf16", 165.2), ("fp8", 330.3)):
        assert rulers.matmul_bound(geforce, format) == pytest.approx(row * 3105 / 2520, rel=0.01)
    at_the_clock_of_the_table = worker("NVIDIA GeForce RTX 4090", 24, (8, 9), max_sm_clock_hz=2.52e9)
    assert rulers.matmul_bound(at_the_clock_of_the_table, "bf16") == pytest.approx(170, rel=0.01)


def test_every_gpu_has_limits_and_a_rehearsal_none() -> None:
    assert rulers.matmul_limits(worker(H100), "bf16") == PRODUCTS
    assert rulers.memory_limits(worker(H100)) == MEMORY
    assert rulers.link_limits(worker(H100)) == LINK
    cpu = worker(None, multiprocessors=2)
    assert rulers.matmul_limits(cpu, "bf16") is rulers.memory_limits(cpu) is rulers.link_limits(cpu) is None


def test_an_unknown_board_may_be_one_at_half_the_rate() -> None:
    unknown = worker("NVIDIA GeForce RTX 3090", 24, (8, 6))
    assert unknown.model is None
    assert rulers.matmul_limits(unknown, "bf16") == PRODUCTS.of(1 / 2)
    assert rulers.matmul_limits(unknown, "fp32") == PRODUCTS


def test_a_slice_has_as_much_bandwidth_as_memory() -> None:
    assert rulers.memory_limits(worker(H100, mig=SLICE)) == MEMORY.of(1 / 2)
    smallest = MigDevice("MIG-x", f"{H100} MIG 1g.10gb", 10 * GIB)
    assert rulers.memory_limits(worker(H100, mig=smallest)) == MEMORY.of(1 / 8)
    assert rulers.memory_limits(worker(H100, mig=replace(smallest, memory_bytes=0))) is None


def test_no_bound_calls_slow_what_was_measured_on_a_healthy_gpu() -> None:
    """Some run at a tenth more than the clock of their row, which lifts the bound."""
    references = [
        (model, reference)
        for model in gpus.models()
        for quantity in ("memory_bandwidth", "host_to_device", *(f"matmul_{format}" for format in gpus.FORMATS))
        for reference in gpus.references(model.name, quantity)
    ]
    assert len(references) > 30
    for model, reference in references:
        kind, _, format = reference.quantity.partition("_")
        architecture = gpus.architecture(model.compute_capability)
        bound, limits = {
            "matmul": (1.1 * (model.tflops(format) or 0) if kind == "matmul" else 0, PRODUCTS),
            "memory": (model.bandwidth_gbs, MEMORY),
            "host": (architecture.pcie_gbs if architecture else 0, LINK),
        }[kind]
        found = judge(reference.value, bound=bound, bound_limits=limits)
        assert found.word is Word.UNJUDGED, (reference, found)


def test_a_reference_is_the_lowest_on_record() -> None:
    assert rulers.matmul_reference(worker(H100), "bf16") == (730, True)
    assert rulers.memory_reference(worker(H100)) == (2540, True)
    assert rulers.link_reference(worker(H100), "host_to_device") == (48, True)


def test_what_nobody_measured_follows_from_the_architecture() -> None:
    value, is_calibrated = rulers.matmul_reference(worker("NVIDIA H100 PCIe"), "bf16")
    assert value == pytest.approx(756 * 0.80)
    assert not is_calibrated
    assert rulers.matmul_reference(worker(H100), "fp32") == (None, False)


def test_a_gpu_that_no_table_knows_is_bound_by_its_multiprocessors() -> None:
    unknown = worker("NVIDIA H900 XYZ", max_sm_clock_hz=1.83e9, bandwidth_bound_gbs=5000.0)
    assert unknown.model is None
    assert rulers.matmul_bound(unknown, "bf16") == pytest.approx(989.4, rel=0.001)
    value, is_calibrated = rulers.matmul_reference(unknown, "bf16")
    assert value == pytest.approx(989.4 * 0.80, rel=0.001)
    assert not is_calibrated
    assert rulers.memory_bound(unknown) == 5000
    assert rulers.memory_reference(unknown).value == pytest.approx(5000 * 0.61)
    assert rulers.link_bound(unknown) is None


def test_without_clocks_an_unknown_gpu_has_no_ruler() -> None:
    unknown = worker("NVIDIA H900 XYZ")
    assert rulers.matmul_bound(unknown, "bf16") is None
    assert rulers.matmul_reference(unknown, "bf16") == (None, False)
    assert rulers.memory_bound(unknown) is None


def test_an_architecture_that_no_table_knows_has_no_ruler() -> None:
    unknown = worker("NVIDIA GB10", capability=(12, 1), max_sm_clock_hz=2e9)
    assert rulers.matmul_bound(unknown, "bf16") is None
    assert rulers.matmul_reference(unknown, "bf16") == (None, False)
    assert not rulers.lacks(unknown, "fp8"), "nobody knows"


def test_a_slice_is_bound_by_its_own_multiprocessors() -> None:
    part = worker(H100, mig=SLICE, multiprocessors=60, max_sm_clock_hz=1.98e9, bandwidth_bound_gbs=3352.0)
    assert rulers.matmul_bound(part, "bf16") == pytest.approx(60 * 1.98e9 * 4096 / 1e12)
    value, is_calibrated = rulers.matmul_reference(part, "bf16")
    assert value == pytest.approx(60 * 1.98e9 * 4096 / 1e12 * 0.80)
    assert not is_calibrated
    assert rulers.memory_bound(part) == 3352
    assert rulers.memory_reference(part) == (None, False)


def test_a_grace_reaches_its_gpu_faster_than_pcie() -> None:
    grace = worker("NVIDIA GH200 480GB", 95.6)
    assert grace.model
    assert rulers.link_bound(grace) == grace.model.host_link_gbs == 450


@pytest.mark.parametrize(
    ("capability", "missing"),
    [((7, 0), {"tf32", "bf16", "fp8"}), ((8, 0), {"fp8"}), ((8, 9), set()), ((9, 0), set())],
)
def test_formats_that_an_architecture_lacks(capability: tuple[int, int], missing: set[str]) -> None:
    known = worker("NVIDIA some GPU", capability=capability)
    assert {format for format in gpus.FORMATS if rulers.lacks(known, format)} == missing


def test_a_rehearsal_has_the_bounds_of_any_processor() -> None:
    cpu = worker(None, multiprocessors=2)
    assert cpu.is_rehearsal
    assert rulers.matmul_bound(cpu, "fp32") == pytest.approx(2 * 6.2e9 * 64 / 1e12)
    assert rulers.memory_bound(cpu) == rulers.link_bound(cpu) == pytest.approx(2 * 6.2e9 * 192 / 1e9)
    assert rulers.matmul_reference(cpu, "fp32") == (None, False)
    assert not rulers.lacks(cpu, "fp8")


def test_the_shortest_time_is_that_of_the_bound() -> None:
    assert rulers.shortest(2.0, 1e12) == 0.5
    assert rulers.shortest(None, 1e12) is None
