"""How fast the devices work, each number beside its rulers: physics, what others measured, the other devices here.

Every number is measured on all devices at once, as training loads them, which share power and cooling. One on the
border between two words is measured once more, and the second measurement counts; none is repeated until it passes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest

from pytest_bionemo import judging, rulers
from pytest_bionemo.baseline import Baseline, Circumstances
from pytest_bionemo.checking import CheckFailed, check, fail, not_applicable, wait_for
from pytest_bionemo.compute import Compute
from pytest_bionemo.facts import gpus
from pytest_bionemo.judging import Judgement, Limits, Word
from pytest_bionemo.model import Action, count
from pytest_bionemo.probes import packages
from pytest_bionemo.worker import Numbers

_MIB, _GIB = 1 << 20, 1 << 30
_SEED = 20261122

# No call of a Python function is shorter, on any processor: some hundred clocks.
_SHORTEST_CALL_S = 20e-9
# Launches that take so much of the time of the kernels wait for them.
_WAITING = 0.5
# A hardware slowdown seen in so many samples is how the GPU works, and not how it began.
_MOSTLY = 0.5

_WRONG = "what this device computes is wrong"
_WRONG_FIX = ("reset the GPU or reboot the node, and run the check again", "if it stays, replace the node")
_ASYNCHRONOUS = "https://docs.nvidia.com/cuda/cuda-c-programming-guide/#asynchronous-concurrent-execution"


@dataclass(frozen=True)
class Quantity:
    """What is measured: its name in the report, as it is spoken of, its unit and its rulers.

    ``path`` leads to the measured number among the numbers of the workload, which is multiplied by ``scale``. A
    duration is not ``higher_is_better``. ``bound_limits`` are shares of the bound that every healthy device reaches.
    Where the number ``depends_on_host`` (its processor launches, its links are shared), a low one blames no device.
    """

    name: str
    title: str
    unit: str
    path: tuple[str, ...]
    higher_is_better: bool = True
    bound: float | None = None
    reference: float | None = None
    is_calibrated: bool = True
    bound_limits: Limits | None = None
    depends_on_host: bool = False
    scale: float = 1.0

    def find(self, numbers: Numbers) -> Numbers:
        """The measured number: its value, confidence interval, percentiles and samples."""
        for key in self.path:
            numbers = numbers[key]
        scaled = {key: numbers[key] * self.scale for key in ("value", "p5", "p95")}
        return {**numbers, **scaled, "ci95": [end * self.scale for end in numbers["ci95"]]}


# ------------------------------------------------------------------------------------------- the checks


@check(severity="warning", level="standard", needs=("undisturbed",))
def launches_quickly(worker: Compute) -> None:
    """Kernels start quickly, and starting one does not wait for it to end.

    Why: small kernels are launched by the thousand in each step: where a launch is slow, the GPU idles between them.

    How it decides: the time of a launch is compared with that of the other devices here; and launching long kernels
    must not take most of the time that they run.

    Fix: unset CUDA_LAUNCH_BLOCKING, and stop what uses the processor.
    """
    durations = [
        Quantity("kernel_launch", "launching a kernel", "s", ("launch",), False, _SHORTEST_CALL_S),
        Quantity("kernel_round_trip", "a kernel and back", "s", ("round_trip",), False,
                 _SHORTEST_CALL_S),
    ]  # fmt: skip
    found = _judge(worker, durations, "launch:run", budget_s=worker.size(rehearsal=0.2, standard=0.3))
    if found["waiting"] is not None and found["waiting"] > _WAITING:
        fail(
            f"{worker}: launching long kernels takes {found['waiting']:.0%} of the time that they run: each launch "
            "waits for its kernel",
            why="the GPU idles between kernels, and training is slower",
            fix="unset CUDA_LAUNCH_BLOCKING, and end debuggers and profilers",
            links=[_ASYNCHRONOUS],
        )


@check(level="standard", needs=("undisturbed",))
@pytest.mark.parametrize("format", gpus.FORMATS, ids=str)
def multiplies_at_full_speed(worker: Compute, format: str) -> None:
    """Matrices are multiplied as fast as this device can.

    Why: nearly all of a training is matrix products, and the slowest device sets the pace of all of them.

    How it decides: the best of several shapes is measured, and the better end of its confidence interval judged by
    the rulers below; what is on the border is measured once more, and the second measurement counts.

    Fix: look for throttling, other processes and low clocks; otherwise have the GPU replaced.
    """
    _require_format(worker, format)
    reference, is_calibrated = rulers.matmul_reference(worker, format)
    rate = Quantity(
        f"matmul_{format}",
        f"{format.upper()} matrix products",
        "TFLOP/s",
        ("rate",),
        bound=rulers.matmul_bound(worker, format),
        reference=reference,
        is_calibrated=is_calibrated,
        bound_limits=rulers.matmul_limits(worker, format),
    )
    found = _judge(worker, [rate], "gemm:run", **_gemm(worker, format))
    if found["unsupported"]:
        not_applicable(found["unsupported"])


@check(level="standard", needs=("undisturbed",))
def no_throttling_under_load(worker: Compute) -> None:
    """No hardware slowdown holds the clock down while the device multiplies matrices.

    Why: a hardware slowdown halves the clock or worse, and every step waits for this device.

    How it decides: NVML is asked for the reasons of the clock while matrices are multiplied: a hardware slowdown in
    half of the samples or more blocks, in fewer it warns, as does a clock that the driver lowers for heat.

    Fix: look at cooling and power of the node.
    """
    format = _load_format(worker)
    found = _established(
        worker, f"benchmark::multiplies_at_full_speed[{worker.name}-{format}]", "gemm:run", **_gemm(worker, format)
    )["telemetry"]
    if not found["samples"]:
        if worker.is_rehearsal:
            not_applicable("NVML says nothing about a processor")
        if found["denied"]:
            not_applicable(f"NVML does not say here why a clock is held down: {found['silent']}")
        wait_for(None, f"NVML said nothing of {worker} under load: {found['silent'] or 'no sample'}")
    _measure_telemetry(worker, found)
    if found["hardware_share"] or found["hot_share"]:
        _report_throttling(worker, found)


@check(level="standard", needs=("undisturbed",))
def memory_at_full_speed(worker: Compute) -> None:
    """The device's memory is read and written as fast as it can be.

    Why: most layers besides matrix products are as fast as the memory is.

    How it decides: the rates of copying and of reading large arrays are judged by the rulers below, and what was
    copied has to be what was there.

    Fix: look for other processes; otherwise have the GPU replaced.
    """
    bound = rulers.memory_bound(worker)
    reference, is_calibrated = rulers.memory_reference(worker)
    limits = rulers.memory_limits(worker)
    rates = [
        Quantity("memory_copy", "copying memory (read and written)", "GB/s", ("copy",), True, bound,
                 reference, is_calibrated, limits),
        Quantity("memory_read", "reading memory", "GB/s", ("read",), True, bound, bound_limits=limits),
    ]  # fmt: skip
    large = (worker.memory_bytes or 0) >= 40e9
    size = worker.size(rehearsal=32 * _MIB, standard=4 * _GIB if large else 512 * _MIB)
    parameters = {"size_bytes": size, "budget_s": _budget(worker)}
    _require_same(worker, worker.run("bandwidth:run", **parameters), "a copy within its memory")
    _judge(worker, rates, "bandwidth:run", **parameters)


@check(level="standard", needs=("undisturbed",))
@pytest.mark.parametrize("direction", ["h2d", "d2h"], ids=str)
def copies_at_full_speed(worker: Compute, direction: str) -> None:
    """Data go between host and device as fast as their link carries them.

    Why: batches and checkpoints go over this link, and offloading lives on it.

    How it decides: the rate of copies between pinned memory of the host and the device is judged by the rulers below,
    and what arrives has to be what was sent. Where several devices copy at once, a low rate warns: they share what is
    behind the link.

    Fix: reseat the GPU, look at its PCIe link, and at the NUMA node of the process.
    """
    name, title = {
        "h2d": ("host_to_device", "copying from the host"),
        "d2h": ("device_to_host", "copying to the host"),
    }[direction]
    size = worker.size(rehearsal=16 * _MIB, standard=256 * _MIB)
    parameters = {"direction": direction, "size_bytes": size, "budget_s": _budget(worker)}
    rate = Quantity(
        name,
        title,
        "GB/s",
        ("rate",),
        bound=rulers.link_bound(worker),
        reference=rulers.link_reference(worker, name).value,
        bound_limits=rulers.link_limits(worker),
        # All copy at once, and the reference is of one alone.
        depends_on_host=bool(worker.peers("properties:run")),
    )
    _require_same(worker, worker.run("copies:run", **parameters), title)
    _judge(worker, [rate], "copies:run", **parameters)


@check(level="standard", needs=("undisturbed",))
def transforms_at_full_speed(worker: Compute) -> None:
    """Fourier transforms are right, and as fast as on the other devices.

    Why: long convolutions (Evo2 and its kind) are Fourier transforms, and other kernels than products serve them.

    How it decides: a transform and its inverse have to give the input back within what rounding explains; their time
    is judged by the rulers below, where a slow one warns.

    Fix: look for throttling, other processes and low clocks; otherwise have the GPU replaced.
    """
    parameters = {
        "length": worker.size(rehearsal=1 << 16, standard=1 << 20),
        "side": worker.size(rehearsal=256, standard=2048),
        "budget_s": worker.size(rehearsal=0.2, standard=0.3),
        "seed": _SEED,
    }
    peak = rulers.matmul_bound(worker, "fp32")
    first = worker.run("fourier:run", **parameters)
    if not first["error"] <= first["error_bound"]:
        fail(
            f"{worker}: a Fourier transform and its inverse change numbers by {first['error']:.2e} of their norm; "
            f"rounding explains at most {first['error_bound']:.2e}",
            why=_WRONG,
            fix=_WRONG_FIX,
            action=_replace(worker),
        )
    durations = [
        Quantity(f"fft_{name}", title, "s", (part,), False,
                 rulers.shortest(peak, first["least_flop"][part]), depends_on_host=True)
        for part, name, title in (("line", "1d", "a Fourier transform"), ("square", "2d", "one in two dimensions"))
    ]  # fmt: skip
    _judge(worker, durations, "fourier:run", **parameters)


@check(level="standard", needs=("undisturbed",))
def solves_at_full_speed(worker: Compute) -> None:
    """Linear systems are solved right, and as fast as on the other devices.

    Why: solvers run on other kernels than products, and on the host's processor as well.

    How it decides: the inverse of each matrix has to be right within what rounding explains; its time is judged by
    the rulers below, where a slow one warns.

    Fix: look for throttling, other processes and low clocks; otherwise have the GPU replaced.
    """
    _require_fp32_where_asked(worker)
    parameters = {
        "sizes": worker.size(rehearsal=[64, 128], standard=[512, 1024, 2048]),
        "budget_s": worker.size(rehearsal=0.2, standard=0.3),
        "seed": _SEED,
    }
    peak = rulers.matmul_bound(worker, "fp32")
    first = worker.run("solver:run", **parameters)
    for size, residual in first["residuals"].items():
        if not residual <= first["residual_bounds"][size]:
            fail(
                f"{worker}: the inverse of a matrix of {size} rows misses by {residual:.2e}; rounding explains at "
                f"most {first['residual_bounds'][size]:.2e}",
                why=_WRONG,
                fix=_WRONG_FIX,
                action=_replace(worker),
            )
    durations = [
        Quantity(f"spd_inverse_{size}", f"inverting a matrix of {size} rows", "s",
                 ("seconds", size), False, rulers.shortest(peak, first["flop"][size]), depends_on_host=True)
        for size in first["flop"]
    ]  # fmt: skip
    _judge(worker, durations, "solver:run", **parameters)


@check(level="standard", needs=("undisturbed",))
def trains_at_full_speed(worker: Compute) -> None:
    """A training step of ESM-2 is as fast as on the other devices, and its loss is a number.

    Why: this is the number that a training feels: everything before is a part of it.

    How it decides: steps of ESM-2, of the size that fits, are timed: the loss has to stay finite, and tokens a second
    are judged by the bound of its arithmetic and by the other devices. A slow one warns: the host has its part in it.

    Fix: look for throttling, other processes and low clocks.
    """
    training = _training(worker)
    model = training["model"]
    found = worker.run("esm2_step:run", **training)
    if not all(map(math.isfinite, found["losses"])):
        fail(
            f"{worker}: the loss of ESM-2 {model} goes from {found['losses'][0]:.3f} to {found['losses'][1]:.3f}",
            why="training would diverge, or this device computes wrongly",
            fix=["compare with the checks of the topics numerics and precision"],
            action=_replace(worker),
        )
    title, name = f"training ESM-2 {model}", f"esm2_{model.lower()}"
    if found["peak_memory_bytes"]:
        worker.measure(f"{name}_peak_memory", found["peak_memory_bytes"], "B", bound=worker.memory_bytes)
    peak = rulers.matmul_bound(worker, {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}[found["precision"]])
    tokens = peak * 1e12 / found["flop_per_token"] if peak else None
    step = found["batch"] * training["length"] / tokens if tokens else None
    worker.measure(f"{name}_batch", found["batch"], "1", reference=training["sequences"])
    numbers = [
        Quantity(f"{name}_tokens", title, "tokens/s", ("tokens",), bound=tokens, depends_on_host=True),
        Quantity(f"{name}_unpadded_tokens", title, "tokens/s", ("unpadded_tokens",), bound=tokens,
                 depends_on_host=True),
        Quantity(f"{name}_step", f"a step of {title}", "s", ("step",), False, step, depends_on_host=True),
    ]  # fmt: skip
    if tokens:
        # tokens/s x FLOP per token / peak FLOP/s
        share = f"the model FLOP utilisation of {title}"
        numbers.append(
            Quantity(f"{name}_mfu", share, "1", ("tokens",), bound=1.0, depends_on_host=True, scale=1 / tokens)
        )
    _judge(worker, numbers, "esm2_step:run", **training)


@check(severity="warning", level="standard", needs=("undisturbed",))
def loader_feeds_training(worker: Compute) -> None:
    """The data loader prepares proteins faster than the training step eats them.

    Why: a device that waits for data is as slow as the loader.

    How it decides: sequences a second of a data loader with the cores that this device has are compared with what the
    training step of this run eats; the intervals have to be apart to be a finding.

    Fix: use faster storage, or more workers of the data loader.
    """
    training = _training(worker)
    by = f"benchmark::trains_at_full_speed[{worker.name}]"
    eaten = _established(worker, by, "esm2_step:run", **training)["sequences"]
    devices = 1 + len(worker.peers("properties:run"))
    processes = max(1, min(8, len(os.sched_getaffinity(0)) // devices))
    found = worker.run(
        "data_loading:run",
        sequences=training["sequences"],
        length=training["length"],
        processes=processes,
        budget_s=_budget(worker),
        seed=_SEED,
    )["rate"]
    is_enough = found["ci95"][1] >= eaten["ci95"][0]
    worker.measure(
        "loader_sequences",
        found["value"],
        "sequences/s",
        samples=found["samples"],
        ci95=found["ci95"],
        reference=eaten["value"],
        judgement=(Word.GOOD if is_enough else Word.LOW).value,
    )
    if not is_enough:
        fail(
            f"{worker}: a data loader of {count(processes, 'process', 'processes')} gives {found['value']:.4g} "
            f"sequences/s; a training of ESM-2 {training['model']} eats {eaten['value']:.4g}",
            why="the device would wait for data",
            fix=["give the job more processor cores for each GPU", "or prepare the data beforehand"],
        )


@check(severity="warning", level="standard", needs=("undisturbed",))
def baseline_is_comparable(baseline: Baseline | None, circumstances: Circumstances) -> None:
    """The run that this one is compared with was made in the same circumstances.

    Why: a change of speed can come from what is different, and not from the device; and where nothing can be
    compared, a device that has become slower goes unnoticed.

    How it decides: the run that --bionemo-baseline names has to be one of this machine, at the same level; driver,
    PyTorch, CUDA, cuDNN and NCCL, the devices and the number of nodes have to be the same.

    Fix: save a run of the machine as it is now, and compare with that.
    """
    if baseline is None:
        not_applicable("no earlier run was asked for: --bionemo-baseline")
    save = "save a run of the machine as it is now: $ pytest --bionemo-validate --bionemo-save"
    if baseline.refused:
        fail(
            f"no number is compared with {baseline.describe()}: {baseline.refused}",
            why="that a device has become slower goes unnoticed",
            fix=[save, "or name another run: --bionemo-baseline"],
            action=Action.NONE,
        )
    if differences := list(baseline.circumstances.differences(circumstances)):
        fail(
            f"compared with {baseline.describe()}, which was made in other circumstances: {'; '.join(differences)}",
            why="a change of speed can come from what differs, and not from the device",
            fix=["measure again with what was there before, if the speed has changed", f"or {save}"],
            action=Action.NONE,
        )


# ------------------------------------------------------------------------------------------- judging


def _judge(worker: Compute, quantities: Sequence[Quantity], workload: str, /, **parameters: Any) -> Numbers:
    """Measure, at most twice, put the numbers into the report, and end the check with the worst of them.

    :return: the numbers of the workload that were judged.
    """
    __tracebackhide__ = True
    found = worker.run(workload, **parameters)
    if found.get("unsupported"):
        return found
    judged = [(quantity, _weigh(worker, quantity, found, workload, parameters)) for quantity in quantities]
    if any(judgement.borderline for _, judgement in judged):
        parameters = {**parameters, "attempt": 2}
        found = worker.run(workload, **parameters)
        judged = [(quantity, _weigh(worker, quantity, found, workload, parameters)) for quantity in quantities]
    for quantity, judgement in judged:
        _measure(worker, quantity, quantity.find(found), judgement)
    quantity, judgement = min(judged, key=lambda one: list(Word).index(one[1].word))
    number = quantity.find(found)
    if judgement.word is Word.UNTRUSTED:
        _report_untrusted(worker, quantity, number["value"], workload)
    if judgement.word in (Word.LOW, Word.DEGRADED):
        _report_slow(worker, quantity, number, judgement, found.get("telemetry"))
    return found


def _weigh(worker: Compute, quantity: Quantity, found: Numbers, workload: str, parameters: Numbers) -> Judgement:
    number = quantity.find(found)
    return judging.judge(
        number["value"],
        ci95=_interval(worker, number),
        higher_is_better=quantity.higher_is_better,
        bound=quantity.bound,
        reference=quantity.reference,
        is_calibrated=quantity.is_calibrated,
        bound_limits=quantity.bound_limits,
        peers=[
            quantity.find(numbers)["value"]
            for numbers in _peers(worker, workload, parameters)
            if numbers.get("batch") == found.get("batch")
        ],
        peer_limits=judging.REHEARSAL if worker.is_rehearsal else None,
        **worker.earlier_rulers(quantity.name, quantity.unit),
    )


def _interval(worker: Compute, number: Numbers) -> Sequence[float]:
    """What to decide on. Of a rehearsal it is nearly all samples: its devices take the cores from each other."""
    return (number["p5"], number["p95"]) if worker.is_rehearsal else number["ci95"]


def _peers(worker: Compute, workload: str, parameters: Numbers) -> Iterable[Numbers]:
    """The numbers of the other devices of this kind: slices of different size are no peers."""
    own = rulers.properties(worker)
    kinds = worker.peers("properties:run")
    for label, numbers in worker.peers(workload, **parameters).items():
        kind = kinds.get(label)
        if kind and all(kind[fact] == own[fact] for fact in ("name", "multiprocessors")):
            yield numbers


def _measure(worker: Compute, quantity: Quantity, number: Numbers, judgement: Judgement) -> None:
    worker.measure(
        quantity.name,
        number["value"],
        quantity.unit,
        samples=number["samples"],
        ci95=number["ci95"],
        bound=quantity.bound,
        reference=quantity.reference,
        peer_median=judgement.peer_median,
        judgement=judgement.word.value,
    )


def _report_untrusted(worker: Compute, quantity: Quantity, value: float, workload: str) -> NoReturn:
    __tracebackhide__ = True
    fail(
        f"{worker}: {quantity.title} measured {value:.4g} {quantity.unit} in the workload "
        f"{workload.partition(':')[0]}: faster than physics, whose bound is {quantity.bound:.4g} {quantity.unit}. "
        "The measurement is broken",
        why="a clock that runs wrong, or work that is not done: no number of this device can be trusted",
        fix=[
            "look at the clock of the machine: $ cat /sys/devices/system/clocksource/clocksource0/*_clocksource",
            "and run the check again after a reboot",
        ],
        action=Action.REBOOT_NODE,
    )


def _report_slow(
    worker: Compute, quantity: Quantity, number: Numbers, judgement: Judgement, telemetry: Numbers | None
) -> NoReturn:
    __tracebackhide__ = True
    low, high = number["ci95"]
    blames_device = judgement.word is Word.LOW and not quantity.depends_on_host
    looks = ["end what else runs on this machine"]
    if worker.gpu:
        looks = [
            "end what else runs on it, and look at its clocks: $ nvidia-smi -q -d CLOCK,PERFORMANCE,TEMPERATURE",
            "lift what limits them: $ sudo nvidia-smi --reset-gpu-clocks",
        ]
    if quantity.depends_on_host:
        looks.append("keep each process on the cores and memory that are next to its device: $ numactl --hardware")
    fail(
        f"{worker}: {quantity.title}: {number['value']:.4g} {quantity.unit} (95 % interval {low:.4g} to {high:.4g}), "
        f"{judgement.because}{_describe_rulers(worker, quantity, judgement)}{_describe_telemetry(telemetry)}",
        why="the slowest device sets the pace of a training on all of them",
        fix=[
            *looks,
            "if nothing explains it, take the device out of service" if blames_device else "or accept what it is",
        ],
        action=_replace(worker) if blames_device else Action.NONE,
        severity=None if blames_device else "warning",
    )


def _describe_rulers(worker: Compute, quantity: Quantity, judgement: Judgement) -> str:
    before = worker.earlier(quantity.name, quantity.unit)
    rulers = {
        "earlier value": before.value if before else None,
        "reference": quantity.reference,
        "median of the other devices": judgement.peer_median,
        "bound": quantity.bound,
    }
    said = [f"{name} {value:.4g}" for name, value in rulers.items() if value]
    return f" ({', '.join(said)})" if said else ""


def _describe_telemetry(found: Numbers | None) -> str:
    if not found or not found["samples"]:
        return ""
    clock = f"SM clock {found['sm_clock_hz'] / 1e6:.0f} MHz" if found["sm_clock_hz"] else ""
    heat = f"{found['temperature_c']} C" if found["temperature_c"] else ""
    held = f"held down by: {', '.join(found['reason_names'])}" if found["reason_names"] else ""
    return f"; under load {', '.join(filter(None, (clock, heat, held)))}"


def _replace(worker: Compute) -> Action:
    # No GPU took part in a rehearsal.
    return Action.REPLACE_NODE if worker.gpu else Action.FIX_SOFTWARE


def _require_same(worker: Compute, found: Numbers, title: str) -> None:
    __tracebackhide__ = True
    if found["wrong"]:
        fail(
            f"{worker}: {title} changed {count(found['wrong'], 'number')}",
            why="what a training reads is not what was written",
            fix=["reset the GPU or reboot the node", "if it stays, replace the node"],
            action=_replace(worker),
        )


def _established(worker: Compute, by: str, workload: str, /, **parameters: Any) -> Numbers:
    """The numbers of a workload that another check has to answer for."""
    __tracebackhide__ = True
    try:
        found = worker.run(workload, **parameters)
    except CheckFailed as error:
        wait_for(by, str(error))
    return found


# ------------------------------------------------------------------------------------------- parameters and reports


def _budget(worker: Compute) -> float:
    return worker.size(rehearsal=0.4, standard=1.0)


def _require_format(worker: Compute, format: str) -> None:
    if rulers.lacks(worker, format):
        not_applicable(f"{worker} has no tensor cores for {format.upper()}")
    if format == "fp32":
        _require_fp32_where_asked(worker)
    if format == "tf32":
        _require_tf32_where_allowed(worker)


def _require_tf32_where_allowed(worker: Compute) -> None:
    """Go on only where TF32 is in use: a check of precision warns where it is not, and then it has no speed."""
    found = _tf32(worker)
    if found and not (found["allowed"]["in_tf32"] or found["allowed"]["in_neither"]):
        not_applicable(f"{worker} multiplies in FP32 where TF32 is allowed{_because_of(found)}")


def _require_fp32_where_asked(worker: Compute) -> None:
    """Go on only where FP32 means FP32: another check answers for what is computed in TF32 unasked."""
    found = _tf32(worker)
    if found and found["forbidden"]["in_tf32"]:
        wait_for(
            f"precision::tf32_is_not_used_unasked[{worker.name}]",
            f"{worker} multiplies in TF32 where FP32 is asked for{_because_of(found)}",
        )


def _tf32(worker: Compute) -> Numbers | None:
    """What products of FP32 matrices are computed in; None on a device without TF32."""
    if worker.is_rehearsal or rulers.lacks(worker, "tf32"):
        return None
    return _established(worker, f"precision::tf32_is_not_used_unasked[{worker.name}]", "tf32:run", size=1024)


def _because_of(found: Numbers) -> str:
    return f", because of {found['override']}" if found["override"] else ""


def _load_format(worker: Compute) -> str:
    """The format whose products are the load under which the telemetry is read."""
    return "fp16" if rulers.lacks(worker, "bf16") else "bf16"


def _gemm(worker: Compute, format: str) -> dict[str, Any]:
    hold_s = worker.size(rehearsal=0.2, standard=1.0, full=30.0) if format == _load_format(worker) else 0.0
    return {"format": format, "budget_s": _budget(worker), "seed": _SEED, "hold_s": hold_s}


def _training(worker: Compute) -> dict[str, Any]:
    if packages.version("transformers") is None:
        not_applicable("transformers is not installed, which ESM-2 is built with")
    if error := worker.run("esm2:try_build", name="8M")["error"]:
        wait_for("forward::esm2_builds", f"transformers cannot build ESM-2: {error}")
    fits_650m = (worker.memory_bytes or 0) >= 22e9
    return {
        "model": worker.size(rehearsal="tiny", standard="650M" if fits_650m else "8M"),
        "sequences": worker.size(rehearsal=8, standard=4 if fits_650m else 16),
        "length": worker.size(rehearsal=128, standard=1024),
        "budget_s": _budget(worker),
        "seed": _SEED,
    }


def _measure_telemetry(worker: Compute, found: Numbers) -> None:
    for name, unit, key in (
        ("sm_clock_under_load", "Hz", "sm_clock_hz"),
        ("temperature_under_load", "C", "temperature_c"),
        ("power_under_load", "W", "power_w"),
    ):
        if found[key] is not None:
            worker.measure(name, found[key], unit, samples=found["samples"])


def _report_throttling(worker: Compute, found: Numbers) -> NoReturn:
    __tracebackhide__ = True
    share = max(found["hardware_share"], found["hot_share"])
    is_blocker = found["hardware_share"] >= _MOSTLY
    fail(
        f"{worker}: the clock was held down in {share:.0%} of {found['samples']} samples taken while it multiplied "
        f"matrices{_describe_telemetry(found)}",
        why="a hardware slowdown halves the clock or worse, and every step waits for this device",
        fix=[
            "if all GPUs of the node say so, look at its power supply and cooling",
            "if this one alone, take it out of service: its cooling or power stage is at fault",
        ],
        action=_replace(worker) if is_blocker else Action.NONE,
        severity=None if is_blocker else "warning",
        links=["https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html"],
    )
