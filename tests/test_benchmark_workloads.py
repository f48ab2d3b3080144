"""The workloads that are timed: the right amounts and units, right results, and slower where the device is slower."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from kernels import replaced
from pytest_bionemo.facts import esm2 as facts
from pytest_bionemo.workloads import (
    KIND,
    bandwidth,
    copies,
    data_loading,
    esm2,
    esm2_step,
    fourier,
    gemm,
    launch,
    properties,
    solver,
)

MIB = 1 << 20


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KIND, "cpu")


@pytest.fixture
def millisecond_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample takes one millisecond, so that a rate says how much work was counted."""
    readings = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(readings) / 1000)


def assert_number(number: Mapping[str, Any], least: int = 7) -> None:
    low, high = number["ci95"]
    assert 0 < low <= number["value"] <= high < math.inf
    assert number["p5"] <= number["value"] <= number["p95"]
    assert number["samples"] >= least
    assert isinstance(number["settled"], bool)


# ---- matrix products


@pytest.mark.parametrize("format", gemm.DTYPES)
def test_products_are_timed_in_every_format(format: str) -> None:
    found = gemm.run(format, budget_s=0.02, seed=1)
    assert found["unsupported"] is None
    assert_number(found["rate"])
    assert " x ".join(map(str, found["best"])) in found["shapes"]
    assert all(rate > 0 for rate in found["shapes"].values())
    assert found["telemetry"]["samples"] == 0


@pytest.mark.usefixtures("millisecond_clock")
def test_a_product_counts_two_operations_for_each_multiplication() -> None:
    found = gemm.run("fp32", budget_s=0.01, seed=1)
    operations = 2 * math.prod(found["best"])
    assert found["rate"]["value"] == pytest.approx(operations / 1e-3 / 1e12)


def test_a_device_that_works_three_times_as_long_is_a_third_as_fast() -> None:
    def three_times(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            torch.addmm(out, a, b, beta=0, out=out)
        return out

    healthy = gemm.run("fp32", budget_s=0.2, seed=1)["rate"]
    with replaced("mm.out", three_times):
        slow = gemm.run("fp32", budget_s=0.2, seed=1)["rate"]
    assert slow["p95"] < 0.6 * healthy["value"]


def test_the_numbers_are_random_and_their_product_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    products: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
    multiply = torch.mm

    def watched(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        products[tuple(a.shape + b.shape)] = (a, b, multiply(a, b, out=out))
        return out

    monkeypatch.setattr(torch, "mm", watched)
    shapes = gemm.run("fp32", budget_s=0.01, seed=1)["shapes"]
    assert len(products) == len(shapes)
    for a, b, result in products.values():
        assert 0.9 < float(a.std()) < 1.1
        assert 0.9 < float(b.std()) < 1.1
        assert torch.allclose(result, (a.double() @ b.double()).float(), atol=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9, or ROCm MI300+",
        "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic( ltHandle )`",
    ],
)
def test_a_refusal_to_multiply_fp8_is_said(text: str) -> None:
    def refuses(*arguments: object, **options: object) -> torch.Tensor:
        raise RuntimeError(text)

    with replaced("_scaled_mm", refuses):
        found = gemm.run("fp8", budget_s=0.01, seed=1)
    assert set(found) == {"unsupported"}
    assert found["unsupported"].endswith(f"does not multiply FP8 matrices on this device: {text}")


def test_an_fp8_kernel_that_goes_wrong_is_no_refusal() -> None:
    def breaks(*arguments: object, **options: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasLtMatmul`")

    with replaced("_scaled_mm", breaks), pytest.raises(RuntimeError, match="EXECUTION_FAILED"):
        gemm.run("fp8", budget_s=0.01, seed=1)


def test_a_torch_without_fp8_products_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "_scaled_mm")
    assert "has no product of FP8 matrices" in gemm.run("fp8", budget_s=0.01, seed=1)["unsupported"]


def test_the_load_is_held_for_the_telemetry() -> None:
    started = time.monotonic()
    gemm.run("bf16", budget_s=0.01, seed=1, hold_s=1.0)
    assert time.monotonic() - started >= 1.0


# Multiprocessors: T4, L4, A10, H100 PCIe of one kind, A10G, A100, H100 PCIe, H100 and H200, L40S, B200, RTX PRO 6000.
@pytest.mark.parametrize("multiprocessors", [14, 40, 58, 72, 80, 108, 114, 132, 142, 148, 188, 97])
def test_whole_waves_leave_no_multiprocessor_waiting(multiprocessors: int) -> None:
    shapes = gemm._whole_waves(multiprocessors)
    assert shapes
    for m, n, k in shapes:
        assert m % 128 == n % 256 == k % 64 == 0
        assert (m // 128) * (n // 256) % multiprocessors == 0


def test_products_leave_torch_as_it_was() -> None:
    before = (torch.get_float32_matmul_precision(), torch.get_num_threads())
    for format in ("tf32", "fp32"):
        gemm.run(format, budget_s=0.01, seed=1)
    assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == before


# ---- launches


def test_launches_are_timed() -> None:
    found = launch.run(budget_s=0.02)
    assert_number(found["launch"])
    assert_number(found["round_trip"])
    assert found["waiting"] is None


def test_launches_that_wait_are_told_from_those_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Played: a stream in which each kernel runs for 20 ms."""
    ends = [0.0]

    def enqueue(cycles: int) -> None:
        ends[0] = max(ends[0], time.monotonic()) + 0.02

    def wait() -> None:
        time.sleep(max(0.0, ends[0] - time.monotonic()))

    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    monkeypatch.setattr(torch.cuda, "_sleep", enqueue)
    assert launch._waiting() < 0.3

    def enqueue_and_wait(cycles: int) -> None:
        enqueue(cycles)
        wait()

    monkeypatch.setattr(torch.cuda, "_sleep", enqueue_and_wait)
    assert launch._waiting() > 0.7


# ---- memory


@pytest.mark.usefixtures("millisecond_clock")
def test_a_copy_counts_what_is_read_and_what_is_written() -> None:
    found = bandwidth.run(size_bytes=MIB, budget_s=0.01)
    assert found["copy"]["value"] == pytest.approx(2 * MIB / 1e-3 / 1e9)
    assert found["read"]["value"] == pytest.approx(MIB / 1e-3 / 1e9)


def test_memory_is_timed() -> None:
    found = bandwidth.run(size_bytes=MIB, budget_s=0.02)
    assert_number(found["copy"])
    assert_number(found["read"])
    assert found["wrong"] == 0


@pytest.mark.parametrize("direction", copies.DIRECTIONS)
def test_copies_are_timed(direction: str) -> None:
    found = copies.run(direction, size_bytes=MIB, budget_s=0.02)
    assert_number(found["rate"])
    assert (found["wrong"], found["pinned"]) == (0, False)


@pytest.mark.usefixtures("millisecond_clock")
def test_a_byte_that_crosses_the_link_counts_once() -> None:
    found = copies.run("h2d", size_bytes=MIB, budget_s=0.01)
    assert found["rate"]["value"] == pytest.approx(MIB / 1e-3 / 1e9)


def wrong_in_one_place(copy: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def faulty(target: torch.Tensor, source: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        copy(target, source, *arguments, **options)
        target[1234] += 1
        return target

    return faulty


def test_one_number_that_a_copy_changes_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "copy_", wrong_in_one_place(torch.Tensor.copy_))
    assert bandwidth.run(size_bytes=MIB, budget_s=0.01)["wrong"] == 1
    assert copies.run("h2d", size_bytes=MIB, budget_s=0.01)["wrong"] == 1


# ---- transforms and solvers


def test_transforms_are_timed_and_right() -> None:
    found = fourier.run(length=4096, side=64, budget_s=0.02, seed=1)
    assert_number(found["line"])
    assert_number(found["square"])
    assert 0 < found["error"] < found["error_bound"]


def test_one_wrong_number_in_a_transform_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = torch.fft.ifft

    def faulty(numbers: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = transform(numbers)
        result[17] += 0.01
        return result

    monkeypatch.setattr(torch.fft, "ifft", faulty)
    found = fourier.run(length=4096, side=64, budget_s=0.01, seed=1)
    assert found["error"] > found["error_bound"]


@pytest.mark.parametrize("points", [1 << 10, 1 << 16, 1 << 22])
def test_the_least_operations_are_fewer_than_those_of_the_usual_algorithm(points: int) -> None:
    assert points * math.log2(points) < fourier.least_operations(points) < 4 * points * math.log2(points)


def test_inverses_are_timed_and_right() -> None:
    found = solver.run(sizes=[16, 100], budget_s=0.02, seed=1)
    assert set(found["seconds"]) == set(found["flop"]) == {"16", "100"}
    for size in ("16", "100"):
        assert_number(found["seconds"][size])
        assert 0 < found["residuals"][size] < found["residual_bounds"][size]
    assert found["flop"]["100"] == 1e6


def test_one_wrong_number_in_an_inverse_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    invert = torch.cholesky_inverse

    def faulty(factor: torch.Tensor) -> torch.Tensor:
        result = invert(factor)
        result[3, 5] += 0.01
        return result

    monkeypatch.setattr(torch, "cholesky_inverse", faulty)
    found = solver.run(sizes=[64], budget_s=0.01, seed=1)
    assert found["residuals"]["64"] > found["residual_bounds"]["64"]


# ---- training


def test_a_training_step_is_timed() -> None:
    found = esm2_step.run("tiny", sequences=4, length=32, budget_s=0.05, seed=1)
    for name in ("step", "tokens", "unpadded_tokens", "sequences"):
        assert_number(found[name])
    assert found["tokens"]["value"] == pytest.approx(4 * 32 / found["step"]["value"])
    assert found["sequences"]["value"] == pytest.approx(4 / found["step"]["value"])
    assert 0.5 <= found["unpadded_tokens"]["value"] / found["tokens"]["value"] <= 1
    assert found["flop_per_token"] == esm2.flops_per_token("tiny", 32)
    assert (found["peak_memory_bytes"], found["precision"], found["batch"]) == (None, "float32", 4)


def memory_for(sequences: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The error function of a device whose memory holds a batch of so many sequences."""

    def erf(values: torch.Tensor) -> torch.Tensor:
        if values.shape[0] > sequences:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return values.tanh()

    return erf


@pytest.mark.usefixtures("millisecond_clock")
def test_a_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    with replaced("erf", memory_for(3)):
        found = esm2_step.run("tiny", sequences=8, length=32, budget_s=0.05, seed=1)
    assert found["batch"] == 2
    assert found["sequences"]["value"] == pytest.approx(2 / found["step"]["value"])
    assert found["tokens"]["value"] == pytest.approx(2 * 32 / found["step"]["value"])
    assert found["losses"][0] == pytest.approx(facts.alphabet().random_guess_loss, abs=0.5)


def test_a_device_that_holds_not_even_one_sequence_is_out_of_memory() -> None:
    with replaced("erf", memory_for(0)), pytest.raises(torch.cuda.OutOfMemoryError):
        esm2_step.run("tiny", sequences=4, length=32, budget_s=0.05, seed=1)


def test_the_steps_train() -> None:
    found = esm2_step.run("tiny", sequences=4, length=32, budget_s=0.3, seed=1)
    first, last = found["losses"]
    assert first == pytest.approx(facts.alphabet().random_guess_loss, abs=0.5)
    assert last < first


def test_a_loss_that_is_no_number_is_told() -> None:
    def broken(values: torch.Tensor) -> torch.Tensor:
        return torch.full_like(values, math.nan)

    with replaced("erf", broken):
        found = esm2_step.run("tiny", sequences=2, length=16, budget_s=0.01, seed=1)
    assert math.isnan(found["losses"][1])


# ---- the data loader


def test_proteins_are_the_same_in_every_process() -> None:
    proteins, again = data_loading.Proteins(64, seed=5), data_loading.Proteins(64, seed=5)
    assert all(torch.equal(proteins[index], again[index]) for index in range(20))
    assert not torch.equal(proteins[0][:30], proteins[1][:30])
    assert not torch.equal(proteins[0][:30], data_loading.Proteins(64, seed=6)[0][:30])


def test_proteins_are_proteins() -> None:
    tokens = facts.alphabet()
    proteins = [data_loading.Proteins(64, seed=5)[index] for index in range(200)]
    assert {len(protein) for protein in proteins} <= set(range(32, 65))
    assert len({len(protein) for protein in proteins}) > 20
    for protein in proteins:
        assert (int(protein[0]), int(protein[-1])) == (tokens.cls, tokens.eos)
    residues = torch.cat([protein[1:-1] for protein in proteins])
    assert set(residues.tolist()) == set(range(tokens.first_residue, tokens.last_residue + 1))


def test_a_batch_is_padded_and_masked() -> None:
    tokens = facts.alphabet()
    proteins = [data_loading.Proteins(64, seed=5)[index] for index in range(32)]
    batch = data_loading.collate(proteins, 64, seed=5)
    masked = batch["labels"] != -100
    for row, protein in enumerate(proteins):
        size = len(protein)
        assert batch["attention_mask"][row].tolist() == [1] * size + [0] * (64 - size)
        assert (batch["input_ids"][row, size:] == tokens.pad).all()
        restored = torch.where(masked, batch["labels"], batch["input_ids"])[row, :size]
        assert torch.equal(restored, protein)
    assert (batch["input_ids"][masked] == tokens.mask).all()
    assert 0.1 < float(masked.sum()) / sum(len(protein) - 2 for protein in proteins) < 0.2


def test_a_loader_is_timed_and_leaves_no_process() -> None:
    found = data_loading.run(sequences=4, length=32, processes=1, budget_s=0.05, seed=1)
    assert_number(found["rate"])
    assert 0.5 < found["unpadded_share"] <= 1
    assert multiprocessing.active_children() == []


def test_a_loader_that_reads_slowly_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    make = torch.tensor

    def slow(values: object) -> torch.Tensor:
        time.sleep(0.02)
        return make(values)

    healthy = data_loading.run(sequences=4, length=32, processes=1, budget_s=0.05, seed=1)["rate"]
    monkeypatch.setattr(torch, "tensor", slow)
    # One process cannot make more than 50 a second.
    found = data_loading.run(sequences=4, length=32, processes=1, budget_s=0.05, seed=1)["rate"]
    assert found["value"] < 60 < healthy["value"]


# ---- what the device is


def test_the_processor_is_described() -> None:
    found = properties.run()
    assert found["name"] == "CPU"
    assert found["multiprocessors"] >= 1
    assert found["max_sm_clock_hz"] is None
