"""The checks of speed: a healthy device passes, a slow one is named, and one faster than physics is not believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conftest import Rig
from faults import proves
from pytest_bionemo.checking import CheckFailed, NotApplicable, NotRun
from pytest_bionemo.checks import benchmark
from pytest_bionemo.compute import MEASUREMENT, Compute, ComputeDevice
from pytest_bionemo.model import Action, Finding, Gpu
from pytest_bionemo.options import Options
from pytest_bionemo.probes import packages
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.worker import Trouble, Workers, WorkloadFailed
from standin import H100x8

TOPIC = "bionemo/benchmark"

# ---- on the CPU, end to end


def test_a_healthy_rehearsal_passes(compute_rig: Rig) -> None:
    run = compute_rig.rehearse(TOPIC)
    outcomes = {check["name"]: run.outcome(check["id"].removeprefix("bionemo/")) for check in checks_of(run)}
    assert outcomes.pop("no_throttling_under_load[cpu0]") == "not_applicable"
    assert outcomes.pop("baseline_is_comparable") == "not_applicable", "test_compared_runs is about it"
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


WORKS_FIVE_TIMES = """
multiply = torch.mm
def faulty(*arguments, **options):
    for _ in range(5):
        result = multiply(*arguments, **options)
    return result
torch.mm = faulty
"""


@proves("benchmark::multiplies_at_full_speed", "one device at a fifth of the speed of its peers", "kernel")
def test_a_device_at_a_fifth_of_its_peers_speed_is_named(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(WORKS_FIVE_TIMES, device="cpu2")
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


@proves("benchmark::multiplies_at_full_speed", "a clock that is too slow", "kernel", "REBOOT_NODE")
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
    time.sleep(0.3)
    return make(values, *arguments, **options)
torch.tensor = slow
"""


@proves("benchmark::loader_feeds_training", "data come too slowly", "package")
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


@proves("benchmark::trains_at_full_speed", "the loss is no number", "kernel")
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


@proves("benchmark::solves_at_full_speed", "fast and wrong results", "kernel")
@proves("benchmark::transforms_at_full_speed", "fast and wrong results", "kernel")
@proves("benchmark::copies_at_full_speed", "fast and wrong results", "kernel")
@proves("benchmark::memory_at_full_speed", "fast and wrong results", "kernel")
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


@proves("benchmark::multiplies_at_full_speed", "a GPU far below the reference of its model", "worker", "REPLACE_NODE")
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


@proves("benchmark::multiplies_at_full_speed", "faster than physics", "worker", "REBOOT_NODE")
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
    for rate, severity in ((400.0, "warning"), (300.0, None)):
        bench = Bench("gemm:run", {"GPU-a": products(rate)}, gpu=unknown)
        finding = finding_of(benchmark.multiplies_at_full_speed, bench.worker, "bf16")
        assert finding.severity == severity
        assert "uncalibrated" in finding.message


L4 = Gpu(0, "GPU-a", "NVIDIA L4", memory_bytes=23034 << 20, compute_capability=(8, 9))
L4_FACTS = {"name": L4.name, "multiprocessors": 58, "max_sm_clock_hz": 2.04e9, "bandwidth_bound_gbs": 300.0}


def alone(workload: str, answer: Mapping[str, Any], gpu: Gpu = L4, facts: Mapping[str, Any] = L4_FACTS) -> Bench:
    """A machine with one GPU, of a model that nobody has measured."""
    return Bench(workload, {"GPU-a": answer}, facts, gpu)


@pytest.mark.parametrize(
    ("rate", "judgement", "severity"),
    [(70.0, "unjudged", ""), (40.0, "degraded", "warning"), (28.0, "low", None), (0.05, "low", None)],
)
def test_a_lone_gpu_that_nobody_measured_is_held_to_its_bound(
    rate: float, judgement: str, severity: str | None
) -> None:
    bench = alone("gemm:run", products(rate))
    if severity == "":
        benchmark.multiplies_at_full_speed(bench.worker, "bf16")
    else:
        finding = finding_of(benchmark.multiplies_at_full_speed, bench.worker, "bf16")
        assert f"{rate / 121.2:.2f} x its physical bound (bound 121.2)" in finding.message
        assert finding.severity == severity
        assert finding.action is (Action.NONE if severity else Action.REPLACE_NODE)
    assert bench.measured("matmul_bf16")["judgement"] == judgement


@pytest.mark.parametrize(
    ("rate", "severity"),
    [
        (140.0, "warning"),
        pytest.param(
            70.0,
            None,
            marks=proves(
                "benchmark::memory_at_full_speed", "memory at a fraction of its bound", "worker", "REPLACE_NODE"
            ),
        ),
    ],
)
@pytest.mark.parametrize("slow", ["copy", "read"])
def test_the_memory_of_a_lone_gpu_is_held_to_its_bound(slow: str, rate: float, severity: str | None) -> None:
    answer = {"copy": number(240.0), "read": number(250.0), "wrong": 0}
    benchmark.memory_at_full_speed(alone("bandwidth:run", answer).worker)
    bench = alone("bandwidth:run", {**answer, slow: number(rate)})
    finding = finding_of(benchmark.memory_at_full_speed, bench.worker)
    assert finding.severity == severity
    assert "x its physical bound (bound 300)" in finding.message


@pytest.mark.parametrize(
    ("rate", "severity"),
    [
        (9.0, "warning"),
        pytest.param(
            1.7,
            None,
            marks=proves(
                "benchmark::copies_at_full_speed",
                "the link to the host at a fraction of its bound",
                "worker",
                "REPLACE_NODE",
            ),
        ),
    ],
)
def test_the_link_of_a_lone_gpu_is_held_to_its_bound(rate: float, severity: str | None) -> None:
    answer = {"rate": number(12.5), "pinned": True, "wrong": 0}  # a host of the generation before
    benchmark.copies_at_full_speed(alone("copies:run", answer).worker, "h2d")
    bench = alone("copies:run", {**answer, "rate": number(rate)})
    finding = finding_of(benchmark.copies_at_full_speed, bench.worker, "h2d")
    assert finding.severity == severity
    assert "x its physical bound (bound 31.5)" in finding.message


def test_a_refusal_to_multiply_is_left_to_the_check_of_the_format() -> None:
    bench = Bench("gemm:run", {"GPU-a": {"unsupported": "PyTorch 2.4.0 does not multiply FP8 matrices"}})
    with pytest.raises(NotApplicable, match="does not multiply FP8 matrices"):
        benchmark.multiplies_at_full_speed(bench.worker, "fp8")


IN_FP32, IN_TF32 = ({"in_fp32": 9, "in_tf32": 0, "in_neither": 0}, {"in_fp32": 0, "in_tf32": 9, "in_neither": 0})
TF32_ON_DEMAND = {"allowed": IN_TF32, "forbidden": IN_FP32, "override": None}
TF32_ALWAYS = {**TF32_ON_DEMAND, "forbidden": IN_TF32, "override": "NVIDIA_TF32_OVERRIDE=1"}
TF32_NEVER = {**TF32_ON_DEMAND, "allowed": IN_FP32, "override": "NVIDIA_TF32_OVERRIDE=0"}


def with_tf32(bench: Bench, tf32: Mapping[str, Any]) -> Bench:
    bench.workers.answers["tf32:run"] = {"GPU-a": tf32}
    return bench


@pytest.mark.parametrize("tf32", [TF32_ON_DEMAND, TF32_NEVER])
def test_fp32_is_timed_where_it_is_used(tf32: Mapping[str, Any]) -> None:
    bench = with_tf32(Bench("gemm:run", {"GPU-a": products(50.0)}), tf32)
    benchmark.multiplies_at_full_speed(bench.worker, "fp32")
    assert bench.measured("matmul_fp32")["judgement"] == "unjudged"


@pytest.mark.parametrize("check", [benchmark.multiplies_at_full_speed, benchmark.solves_at_full_speed])
def test_products_in_tf32_that_nobody_asked_for_are_left_to_the_check_that_finds_them(check: Any) -> None:
    bench = with_tf32(Bench("gemm:run", {"GPU-a": products(400.0)}), TF32_ALWAYS)
    with pytest.raises(NotRun, match="where FP32 is asked for, because of NVIDIA_TF32_OVERRIDE=1") as caught:
        check(bench.worker, *(["fp32"] if check is benchmark.multiplies_at_full_speed else []))
    assert caught.value.waits_for == "precision::tf32_is_not_used_unasked[gpu0]"
    assert [workload for workload, _ in bench.workers.asked if workload != "tf32:run"] == []


def test_a_tf32_that_is_turned_off_has_no_speed() -> None:
    bench = with_tf32(Bench("gemm:run", {"GPU-a": products(50.0)}), TF32_NEVER)
    with pytest.raises(NotApplicable, match="where TF32 is allowed, because of NVIDIA_TF32_OVERRIDE=0"):
        benchmark.multiplies_at_full_speed(bench.worker, "tf32")
    for tf32 in (TF32_ON_DEMAND, TF32_ALWAYS):
        bench = with_tf32(Bench("gemm:run", {"GPU-a": products(400.0)}), tf32)
        benchmark.multiplies_at_full_speed(bench.worker, "tf32")
        assert bench.measured("matmul_tf32")["judgement"] == "good"


def test_a_gpu_without_tf32_is_not_asked_for_it() -> None:
    volta = Gpu(0, "GPU-a", "Tesla V100-SXM2-32GB", memory_bytes=32 << 30, compute_capability=(7, 0))
    facts = {"name": volta.name, "multiprocessors": 80, "max_sm_clock_hz": 1.53e9, "bandwidth_bound_gbs": 898.0}
    benchmark.multiplies_at_full_speed(alone("gemm:run", products(14.0), volta, facts).worker, "fp32")


def test_a_format_that_the_gpu_has_not_is_not_asked_for() -> None:
    ampere = Gpu(0, "GPU-a", "NVIDIA A100-SXM4-80GB", memory_bytes=80 << 30, compute_capability=(8, 0))
    bench = Bench("gemm:run", {"GPU-a": products(1.0)}, gpu=ampere)
    with pytest.raises(NotApplicable, match="no tensor cores for FP8"):
        benchmark.multiplies_at_full_speed(bench.worker, "fp8")
    assert bench.workers.asked == []


@proves("benchmark::launches_quickly", "launches wait for their kernels", "worker")
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


@pytest.mark.parametrize(
    ("share", "severity"),
    [
        (0.1, "warning"),
        pytest.param(
            0.9,
            None,
            marks=proves(
                "benchmark::no_throttling_under_load", "the hardware holds the clock down", "worker", "REPLACE_NODE"
            ),
        ),
    ],
)
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
    assert finding.severity is None
    benchmark.copies_at_full_speed(bench.worker, "h2d")
    assert bench.measured("host_to_device")["bound"] == 63


def test_a_slow_link_beside_others_blames_no_gpu() -> None:
    """All copy at once, through switches and memory that they share."""
    answer = {"rate": number(24.0), "pinned": True, "wrong": 0}
    bench = Bench("copies:run", dict.fromkeys(["GPU-a", "GPU-b"], answer))
    finding = finding_of(benchmark.copies_at_full_speed, bench.worker, "h2d")
    assert (finding.severity, finding.action) == ("warning", Action.NONE)
    assert any("numactl" in line for line in finding.fix)
    assert bench.measured("host_to_device")["judgement"] == "low"


def trained(tokens: float, batch: int = 4) -> dict[str, Any]:
    return {"batch": batch, "step": number(batch * 1024 / tokens), "tokens": number(tokens),
            "unpadded_tokens": number(0.75 * tokens), "sequences": number(tokens / 1024), "flop_per_token": 4.5e9,
            "peak_memory_bytes": 20 << 30, "precision": "bfloat16", "losses": [3.2, 3.1]}  # fmt: skip


@pytest.fixture
def with_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "version", lambda name: "5.0.0")


def training(*answers: Mapping[str, Any]) -> Bench:
    labels = [f"GPU-{name}" for name in "abcdefgh"[: len(answers)]]
    bench = Bench("esm2_step:run", dict(zip(labels, answers, strict=True)))
    bench.workers.answers["esm2:try_build"] = {label: {"error": None} for label in labels}
    return bench


@pytest.mark.usefixtures("with_transformers")
def test_a_slow_training_blames_no_gpu() -> None:
    """The processor of the host launches every kernel of a step."""
    healthy = training(*[trained(100_000.0)] * 4)
    benchmark.trains_at_full_speed(healthy.worker)
    assert healthy.measured("esm2_650m_mfu")["value"] == pytest.approx(100_000 * 4.5e9 / 1070.5e12, rel=0.01)
    bench = training(trained(40_000.0), *[trained(100_000.0)] * 3)
    finding = finding_of(benchmark.trains_at_full_speed, bench.worker)
    assert "0.40 x the median of the 3 other devices" in finding.message
    assert (finding.severity, finding.action) == ("warning", Action.NONE)


@pytest.mark.usefixtures("with_transformers")
def test_a_smaller_batch_is_reported_and_compared_with_none_but_its_like() -> None:
    bench = training(trained(40_000.0, batch=2), *[trained(100_000.0)] * 3)
    benchmark.trains_at_full_speed(bench.worker)
    batch, step = bench.measured("esm2_650m_batch"), bench.measured("esm2_650m_step")
    assert (batch["value"], batch["reference"]) == (2, 4)
    assert step["bound"] == pytest.approx(2 * 1024 * 4.5e9 / 1070.5e12, rel=0.01)
    assert step["peer_median"] is None


@pytest.mark.parametrize("check", ["transforms", "solves"])
def test_work_that_waits_for_its_launches_blames_no_gpu(check: str) -> None:
    fft = {"line": 2e-5, "square": 1e-4, "error": 1e-7, "error_bound": 1e-5,
           "least_flop": {"line": 1e8, "square": 4e8}}  # fmt: skip
    inverse = {"flop": {"512": 1e8}, "residuals": {"512": 1e-6}, "residual_bounds": {"512": 1e-3}}
    own, others = (
        {
            "transforms": {**fft, "line": number(2e-5 * slower), "square": number(1e-4)},
            "solves": {**inverse, "seconds": {"512": number(1e-3 * slower)}},
        }[check]
        for slower in (3, 1)
    )
    workload = {"transforms": "fourier:run", "solves": "solver:run"}[check]
    bench = Bench(workload, {"GPU-a": own, "GPU-b": others, "GPU-c": others, "GPU-d": others})
    finding = finding_of(getattr(benchmark, f"{check}_at_full_speed"), with_tf32(bench, TF32_ON_DEMAND).worker)
    assert "0.33 x the median of the 3 other devices" in finding.message
    assert (finding.severity, finding.action) == ("warning", Action.NONE)


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
