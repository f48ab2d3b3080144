"""The checks of speed: a healthy device passes, a slow one is named, and one faster than physics is not believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conftest import Rig
from pytest_bionemo.checking import CheckFailed, NotApplicable, NotRun
from pytest_bionemo.checks import benchmark
from pytest_bionemo.compute import MEASUREMENT, Compute, ComputeDevice
from pytest_bionemo.model import Action, Finding, Gpu
from pytest_bionemo.options import Options
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.worker import Trouble, Workers, WorkloadFailed
from standin import H100x8

TOPIC = "bionemo/benchmark"

# ---- on the CPU, end to end


def test_a_healthy_rehearsal_passes(compute_rig: Rig) -> None:
    run = compute_rig.rehearse(TOPIC)
    outcomes = {check["name"]: run.outcome(check["id"].removeprefix("bionemo/")) for check in checks_of(run)}
    assert outcomes.pop("no_throttling_under_load[cpu0]") == "not_applicable"
    assert set(outcomes.values()) == {"passed"}, outcomes
    assert run.verdict == "INCONCLUSIVE"
    measured = {entry["name"]: entry for entry in run.bionemo["measurements"]}
    assert {f"matmul_{format}" for format in ("fp32", "tf32", "fp16", "bf16", "fp8")} <= set(measured)
    assert {"memory_copy", "memory_read", "host_to_device", "device_to_host", "kernel_launch", "fft_1d", "fft_2d",
            "spd_inverse_128", "esm2_tiny_tokens", "esm2_tiny_mfu", "loader_sequences"} <= set(measured)  # fmt: skip
    for name in ("matmul_fp32", "memory_copy", "esm2_tiny_tokens"):
        low, high = measured[name]["ci95"]
        assert low <= measured[name]["value"] <= high <= measured[name]["bound"]
        assert (measured[name]["samples"] >= 7, measured[name]["judgement"]) == (True, "unjudged")


def checks_of(run: Any) -> list[Mapping[str, Any]]:
    return [
        {"id": check["id"], "name": check["id"].partition("::")[2]}
        for check in run.bionemo["checks"]
        if check["id"].startswith(f"{TOPIC}::")
    ]


WORKS_THREE_TIMES = """
multiply = torch.mm
def faulty(*arguments, **options):
    for _ in range(3):
        result = multiply(*arguments, **options)
    return result
torch.mm = faulty
"""


def test_a_device_at_a_third_of_its_peers_speed_is_named(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(WORKS_THREE_TIMES, device="cpu2")
    ids = [f"{TOPIC}::multiplies_at_full_speed[cpu{index}-bf16]" for index in range(4)]
    run = compute_rig.rehearse("--bionemo-expect-gpus=4", *ids)
    outcomes = [run.outcome(check.removeprefix("bionemo/")) for check in ids]
    assert outcomes == ["passed", "passed", "failed", "passed"]
    finding = run.finding("benchmark::multiplies_at_full_speed[cpu2-bf16]")
    assert finding["message"].startswith("cpu2: BF16 matrix products: ")
    assert "x the median of the 3 other devices" in finding["message"]
    measured = {entry["device"]: entry for entry in run.bionemo["measurements"] if entry["name"] == "matmul_bf16"}
    assert measured["cpu2"]["judgement"] == "low"
    assert measured["cpu2"]["value"] < 0.5 * measured["cpu2"]["peer_median"]


TOO_SLOW_A_CLOCK = """
import time
read = time.perf_counter
time.perf_counter = lambda: read() / 10_000
"""

TIMED = ("multiplies_at_full_speed[cpu0-fp32]", "memory_at_full_speed[cpu0]", "copies_at_full_speed[cpu0-h2d]",
         "transforms_at_full_speed[cpu0]", "solves_at_full_speed[cpu0]", "trains_at_full_speed[cpu0]")  # fmt: skip


def test_a_device_faster_than_physics_is_not_believed(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(TOO_SLOW_A_CLOCK)
    run = compute_rig.rehearse(*(f"{TOPIC}::{check}" for check in (*TIMED, "launches_quickly[cpu0]")))
    assert {check: run.outcome(f"benchmark::{check}") for check in TIMED} == dict.fromkeys(TIMED, "failed")
    assert run.outcome("benchmark::launches_quickly[cpu0]") == "warned"
    finding = run.finding("benchmark::multiplies_at_full_speed[cpu0-fp32]")
    assert finding["message"].startswith("cpu0: FP32 matrix products measured ")
    assert "in the workload gemm: faster than physics, whose bound is " in finding["message"]
    measured = next(entry for entry in run.bionemo["measurements"] if entry["name"] == "matmul_fp32")
    assert measured["judgement"] == "untrusted"
    assert measured["value"] > 1.03 * measured["bound"]


BACKWARDS = """
import itertools, time
readings = itertools.count(0, -1)
time.perf_counter = lambda: float(next(readings))
"""


def test_a_clock_that_runs_backwards_proves_nothing(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(BACKWARDS)
    run = compute_rig.rehearse(f"{TOPIC}::memory_at_full_speed[cpu0]")
    gap = run.gap("benchmark::memory_at_full_speed[cpu0]")
    assert "BrokenClock: the clock gave -1.0 s" in gap["reason"]
    assert run.verdict == "INCONCLUSIVE"


SLOW_DISK = """
import time
make = torch.tensor
def slow(values, *arguments, **options):
    time.sleep(0.02)
    return make(values, *arguments, **options)
torch.tensor = slow
"""


def test_a_loader_that_starves_the_training_is_a_warning(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(SLOW_DISK)
    run = compute_rig.rehearse(f"{TOPIC}::loader_feeds_training[cpu0]", f"{TOPIC}::trains_at_full_speed[cpu0]")
    assert run.outcome("benchmark::trains_at_full_speed[cpu0]") == "passed"
    assert run.outcome("benchmark::loader_feeds_training[cpu0]") == "warned"
    finding = run.finding("benchmark::loader_feeds_training[cpu0]")
    assert finding["message"].startswith("cpu0: a data loader of ")
    assert "sequences/s; a training of ESM-2 tiny eats " in finding["message"]


BROKEN_ACTIVATION = """
library = torch.library.Library("aten", "IMPL")
library.impl("erf", lambda values: torch.full_like(values, float("nan")), "CPU")
"""


def test_a_loss_that_is_no_number_blocks(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(BROKEN_ACTIVATION)
    run = compute_rig.rehearse(f"{TOPIC}::trains_at_full_speed[cpu0]")
    assert run.outcome("benchmark::trains_at_full_speed[cpu0]") == "failed"
    finding = run.finding("benchmark::trains_at_full_speed[cpu0]")
    assert finding["message"] == "cpu0: the loss of ESM-2 tiny goes from nan to nan"


WRONG_RESULTS = """
copy = torch.Tensor.copy_
def wrong_copy(target, source, *arguments, **options):
    copy(target, source, *arguments, **options)
    if target.numel() > 1_000_000:
        target[12345] += 1
    return target
torch.Tensor.copy_ = wrong_copy

transform = torch.fft.ifft
def wrong_transform(numbers):
    result = transform(numbers)
    result[17] += 0.1
    return result
torch.fft.ifft = wrong_transform

invert = torch.cholesky_inverse
def wrong_inverse(factor):
    result = invert(factor)
    result[3, 5] += 0.1
    return result
torch.cholesky_inverse = wrong_inverse
"""


def test_fast_and_wrong_is_a_fault(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(WRONG_RESULTS)
    said = {
        "memory_at_full_speed[cpu0]": "cpu0: a copy within its memory changed 1 number",
        "copies_at_full_speed[cpu0-d2h]": "cpu0: copying to the host changed 1 number",
        "transforms_at_full_speed[cpu0]": "cpu0: a Fourier transform and its inverse change numbers by ",
        "solves_at_full_speed[cpu0]": "cpu0: the inverse of a matrix of 64 rows misses by 1.",
    }
    run = compute_rig.rehearse(*(f"{TOPIC}::{check}" for check in said))
    for check, message in said.items():
        assert run.outcome(f"benchmark::{check}") == "failed"
        assert run.finding(f"benchmark::{check}")["message"].startswith(message)


@pytest.mark.parametrize(
    ("reasons", "outcome", "text"),
    [
        (0x4, "passed", ""),
        (0x4 | 0x40, "failed", "held down by: software power cap, hardware thermal slowdown"),
        (0x20, "warned", "held down by: software thermal slowdown"),
    ],
)
def test_a_gpu_whose_clock_is_held_down_under_load(compute_rig: Rig, reasons: int, outcome: str, text: str) -> None:
    """The driver is played, the load is real."""
    compute_rig.node = H100x8.with_gpu(3, clock_reasons=reasons, sm_clock=1095)
    compute_rig.spoil_workers(f"import os\nos.environ['CUDA_VISIBLE_DEVICES'] = {H100x8.gpus[3].uuid!r}")
    check = "benchmark::no_throttling_under_load[cpu0]"
    run = compute_rig.rehearse(f"bionemo/{check}")
    assert run.outcome(check) == outcome
    measured = {entry["name"]: entry["value"] for entry in run.bionemo["measurements"]}
    assert measured["sm_clock_under_load"] == 1.095e9
    if text:
        assert text in run.finding(check)["message"]
        assert "100% of " in run.finding(check)["message"]


def test_under_xdist_nothing_is_timed(compute_rig: Rig) -> None:
    run = compute_rig.rehearse("-n", "2", f"{TOPIC}::memory_at_full_speed[cpu0]")
    assert "pytest-xdist" in run.gap("benchmark::memory_at_full_speed[cpu0]")["reason"]


# ---- on GPUs: what their workers would answer is given, all else is real

H100 = "NVIDIA H100 80GB HBM3"
FACTS = {"name": H100, "multiprocessors": 132, "max_sm_clock_hz": 1.98e9, "bandwidth_bound_gbs": 3352.0}
QUIET = {"samples": 0, "reasons": 0, "reason_names": [], "hardware_share": None, "hot_share": None,
         "sm_clock_hz": None, "temperature_c": None, "power_w": None, "silent": None, "denied": False}  # fmt: skip


def number(value: float, spread: float = 0.005) -> dict[str, Any]:
    low, high = value * (1 - spread), value * (1 + spread)
    return {"value": value, "ci95": [low, high], "p5": low, "p95": high, "mad": 0.0, "samples": 30, "settled": True}


def products(rate: float, spread: float = 0.005, **telemetry: Any) -> dict[str, Any]:
    return {"unsupported": None, "rate": number(rate, spread), "best": [8192] * 3, "shapes": {}, "skipped": [],
            "telemetry": {**QUIET, **telemetry}}  # fmt: skip


class Answers:
    """Workers that answer what they are told: workload, then label, then one answer for each attempt."""

    def __init__(self, answers: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Mapping[str, Any]]) -> None:
        self.answers = {**answers, "properties:run": facts}
        self.labels = tuple(facts)
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def run(self, label: str, workload: str, /, **parameters: Any) -> Mapping[str, Any]:
        name = workload.removeprefix("pytest_bionemo.workloads.")
        self.asked.append((name, parameters))
        answer = self.answers[name][label]
        if isinstance(answer, list):
            answer = answer[parameters.get("attempt", 1) - 1]
        if isinstance(answer, WorkloadFailed):
            raise answer
        return cast(Mapping[str, Any], answer)


class Bench:
    """A GPU for a check; the first label is its own."""

    def __init__(
        self,
        workload: str,
        answers: Mapping[str, Any],
        facts: Mapping[str, Any] | None = None,
        gpu: Gpu | None = None,
    ) -> None:
        self.workers = Answers({workload: answers}, dict.fromkeys(answers, facts or FACTS))
        self.properties: list[tuple[str, object]] = []
        own = next(iter(answers))
        self.gpu = gpu or Gpu(0, own, H100, memory_bytes=80 << 30, compute_capability=(9, 0))
        self.worker = Compute(
            ComputeDevice("gpu0", own, self.gpu),
            cast(Workers, self.workers),
            cast(Machine, SimpleNamespace()),
            Options(True, "standard", "cuda", "install", "report", 60.0, None),
            self.properties,
        )

    def measured(self, name: str) -> dict[str, Any]:
        found = [json.loads(str(value)) for key, value in self.properties if key == MEASUREMENT]
        return next(entry for entry in found if entry["name"] == name)


def finding_of(check: Any, *arguments: object) -> Finding:
    with pytest.raises(CheckFailed) as caught:
        check(*arguments)
    return caught.value.finding


def test_a_healthy_gpu_is_good() -> None:
    bench = Bench("gemm:run", {"GPU-a": products(780.0)})
    benchmark.multiplies_at_full_speed(bench.worker, "bf16")
    measured = bench.measured("matmul_bf16")
    assert (measured["judgement"], measured["reference"]) == ("good", 730)
    assert measured["bound"] == pytest.approx(1070, rel=0.01)
    assert measured["ci95"] == [pytest.approx(776.1), pytest.approx(783.9)]


def test_a_gpu_far_below_its_reference_is_replaced() -> None:
    bench = Bench("gemm:run", {"GPU-a": products(400.0)})
    finding = finding_of(benchmark.multiplies_at_full_speed, bench.worker, "bf16")
    assert finding.message.startswith(f"gpu0 ({H100}): BF16 matrix products: 400 TFLOP/s (95 % interval 398 to 402)")
    assert "0.55 x the reference (reference 730, bound 1071)" in finding.message
    assert (finding.action, finding.severity) == (Action.REPLACE_NODE, None)
    assert bench.measured("matmul_bf16")["judgement"] == "low"


def test_a_gpu_somewhat_below_its_reference_is_a_warning() -> None:
    bench = Bench("gemm:run", {"GPU-a": products(640.0)})
    finding = finding_of(benchmark.multiplies_at_full_speed, bench.worker, "bf16")
    assert (finding.action, finding.severity) == (Action.NONE, "warning")


def test_what_holds_the_clock_down_is_said_with_the_low_number() -> None:
    names = ["hardware power brake"]
    load = products(300.0, samples=20, reason_names=names, sm_clock_hz=0.6e9, temperature_c=55)
    bench = Bench("gemm:run", {"GPU-a": load})
    finding = finding_of(benchmark.multiplies_at_full_speed, bench.worker, "bf16")
    assert finding.message.endswith("; under load SM clock 600 MHz, 55 C, held down by: hardware power brake")


def test_a_gpu_faster_than_physics_is_a_blocker_of_its_own() -> None:
    bench = Bench("gemm:run", {"GPU-a": products(1200.0), "GPU-b": products(1200.0)})
    finding = finding_of(benchmark.multiplies_at_full_speed, bench.worker, "bf16")
    assert finding.message.startswith(
        f"gpu0 ({H100}): BF16 matrix products measured 1200 TFLOP/s in the workload gemm"
    )
    assert "whose bound is 1071 TFLOP/s" in finding.message
    assert finding.severity is None
    assert bench.measured("matmul_bf16")["judgement"] == "untrusted"


def test_a_number_on_the_border_is_measured_once_more_and_the_second_counts() -> None:
    border = products(584.0, spread=0.02)
    for second, expected in ((products(700.0), "good"), (products(500.0), "low")):
        bench = Bench("gemm:run", {"GPU-a": [border, second]})
        try:
            benchmark.multiplies_at_full_speed(bench.worker, "bf16")
        except CheckFailed:
            assert expected == "low"
        assert bench.measured("matmul_bf16")["judgement"] == expected
        assert bench.measured("matmul_bf16")["value"] == second["rate"]["value"]
        attempts = [parameters.get("attempt", 1) for name, parameters in bench.workers.asked if name == "gemm:run"]
        assert max(attempts) == 2


def test_a_second_measurement_on_the_border_is_the_last() -> None:
    border = products(584.0, spread=0.02)
    bench = Bench("gemm:run", {"GPU-a": [border, border]})
    finding_of(benchmark.multiplies_at_full_speed, bench.worker, "bf16")
    assert bench.measured("matmul_bf16")["judgement"] == "degraded"


def test_peers_are_devices_of_the_same_kind() -> None:
    others = {f"GPU-{name}": products(1000.0) for name in "bcd"}
    bench = Bench("gemm:run", {"GPU-a": products(780.0), **others})
    finding_of(benchmark.multiplies_at_full_speed, bench.worker, "bf16")
    assert bench.measured("matmul_bf16")["peer_median"] == 1000
    # The same numbers of slices with more multiprocessors say nothing.
    bench = Bench("gemm:run", {"GPU-a": products(780.0), **others})
    larger = {**FACTS, "multiprocessors": 144}
    bench.workers.answers["properties:run"] = {"GPU-a": FACTS, **dict.fromkeys(others, larger)}
    benchmark.multiplies_at_full_speed(bench.worker, "bf16")
    assert bench.measured("matmul_bf16")["peer_median"] is None


def test_an_unknown_gpu_is_judged_uncalibrated() -> None:
    unknown = Gpu(0, "GPU-a", "NVIDIA H900", memory_bytes=80 << 30, compute_capability=(9, 0))
    bench = Bench("gemm:run", {"GPU-a": products(800.0)}, gpu=unknown)
    benchmark.multiplies_at_full_speed(bench.worker, "bf16")
    assert bench.measured("matmul_bf16")["judgement"] == "uncalibrated"
    bench = Bench("gemm:run", {"GPU-a": products(300.0)}, gpu=unknown)
    finding = finding_of(benchmark.multiplies_at_full_speed, bench.worker, "bf16")
    assert finding.severity == "warning"
    assert "uncalibrated" in finding.message


def test_a_format_that_the_gpu_has_not_is_not_asked_for() -> None:
    ampere = Gpu(0, "GPU-a", "NVIDIA A100-SXM4-80GB", memory_bytes=80 << 30, compute_capability=(8, 0))
    bench = Bench("gemm:run", {"GPU-a": products(1.0)}, gpu=ampere)
    with pytest.raises(NotApplicable, match="no tensor cores for FP8"):
        benchmark.multiplies_at_full_speed(bench.worker, "fp8")
    assert bench.workers.asked == []


def test_launches_that_wait_for_their_kernels_are_a_warning() -> None:
    answer = {"launch": number(4e-6), "round_trip": number(9e-6), "waiting": 0.03}
    bench = Bench("launch:run", {"GPU-a": answer})
    benchmark.launches_quickly(bench.worker)
    bench = Bench("launch:run", {"GPU-a": {**answer, "waiting": 0.97}})
    finding = finding_of(benchmark.launches_quickly, bench.worker)
    assert "takes 97% of the time that they run" in finding.message
    assert any("CUDA_LAUNCH_BLOCKING" in line for line in finding.fix)


@pytest.mark.parametrize(("denied", "kind"), [(True, NotApplicable), (False, NotRun)])
def test_a_gpu_of_which_nvml_says_nothing_is_no_pass(denied: bool, kind: type[BaseException]) -> None:
    bench = Bench("gemm:run", {"GPU-a": products(780.0, silent="Not Supported", denied=denied)})
    with pytest.raises(kind, match="Not Supported"):
        benchmark.no_throttling_under_load(bench.worker)


@pytest.mark.parametrize(("share", "severity"), [(0.1, "warning"), (0.9, None)])
def test_a_hardware_slowdown_that_stays_blocks(share: float, severity: str | None) -> None:
    names = ["hardware slowdown"]
    load = products(780.0, samples=20, hardware_share=share, hot_share=0.0, reason_names=names)
    bench = Bench("gemm:run", {"GPU-a": load})
    finding = finding_of(benchmark.no_throttling_under_load, bench.worker)
    assert finding.severity == severity
    assert f"in {share:.0%} of 20 samples" in finding.message


def test_what_another_check_has_to_answer_for_is_waited_for() -> None:
    broken = WorkloadFailed("gemm", "GPU-a", Trouble.HANG, "no answer within 60 s")
    bench = Bench("gemm:run", {"GPU-a": broken})
    with pytest.raises(NotRun) as caught:
        benchmark.no_throttling_under_load(bench.worker)
    assert caught.value.waits_for == "benchmark::multiplies_at_full_speed[gpu0-bf16]"


def test_a_slow_link_to_the_host_is_found() -> None:
    answer = {"rate": number(24.0), "pinned": True, "wrong": 0}
    bench = Bench("copies:run", {"GPU-a": answer})
    finding = finding_of(benchmark.copies_at_full_speed, bench.worker, "h2d")
    assert "copying from the host: 24 GB/s" in finding.message
    bench = Bench("copies:run", {"GPU-a": {**answer, "rate": number(55.0)}})
    benchmark.copies_at_full_speed(bench.worker, "h2d")
    assert bench.measured("host_to_device")["bound"] == 63


def test_the_memory_of_a_gpu_is_judged_by_its_copy() -> None:
    answer = {"copy": number(2900.0), "read": number(3100.0), "wrong": 0}
    bench = Bench("bandwidth:run", {"GPU-a": answer})
    benchmark.memory_at_full_speed(bench.worker)
    assert bench.measured("memory_copy")["judgement"] == "good"
    bench = Bench("bandwidth:run", {"GPU-a": {**answer, "copy": number(1500.0)}})
    assert "copying memory" in finding_of(benchmark.memory_at_full_speed, bench.worker).message


def test_the_size_of_the_work_follows_the_memory() -> None:
    answer = {"copy": number(2900.0), "read": number(3100.0), "wrong": 0}
    sizes = []
    for gib in (80, 16):
        bench = Bench("bandwidth:run", {"GPU-a": answer})
        bench = Bench("bandwidth:run", {"GPU-a": answer}, gpu=replace(bench.gpu, memory_bytes=gib << 30))
        benchmark.memory_at_full_speed(bench.worker)
        sizes += [parameters["size_bytes"] for name, parameters in bench.workers.asked if name == "bandwidth:run"][:1]
    assert sizes == [4 << 30, 512 << 20]
