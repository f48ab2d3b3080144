"""How a number of the benchmark is judged, put into the report, and worded where it is low.

One on the border between two words is measured once more, and the second measurement counts; none is repeated until
it passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pytest_bionemo import judging, rulers
from pytest_bionemo.checking import CheckFailed, fail, wait_for
from pytest_bionemo.compute import Compute
from pytest_bionemo.judging import Judgement, Limits, Word
from pytest_bionemo.model import Action, count
from pytest_bionemo.worker import Numbers

SEED = 20261122


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


def judge(worker: Compute, quantities: Sequence[Quantity], workload: str, /, **parameters: Any) -> Numbers:
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
        f"{judgement.because}{_describe_rulers(worker, quantity, judgement)}{describe_telemetry(telemetry)}",
        why="the slowest device sets the pace of a training on all of them",
        fix=[
            *looks,
            "if nothing explains it, take the device out of service" if blames_device else "or accept what it is",
        ],
        action=replacement(worker) if blames_device else Action.NONE,
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


def describe_telemetry(found: Numbers | None) -> str:
    """What NVML said under load, as the end of a sentence; empty where it said nothing."""
    if not found or not found["samples"]:
        return ""
    clock = f"SM clock {found['sm_clock_hz'] / 1e6:.0f} MHz" if found["sm_clock_hz"] else ""
    heat = f"{found['temperature_c']} C" if found["temperature_c"] else ""
    held = f"held down by: {', '.join(found['reason_names'])}" if found["reason_names"] else ""
    return f"; under load {', '.join(filter(None, (clock, heat, held)))}"


def replacement(worker: Compute) -> Action:
    """What to do about a device that computes wrongly or slowly."""
    # No GPU took part in a rehearsal.
    return Action.REPLACE_NODE if worker.gpu else Action.FIX_SOFTWARE


def require_same(worker: Compute, found: Numbers, title: str) -> None:
    """What was copied arrived as it was, or the check ends with a finding."""
    __tracebackhide__ = True
    if found["wrong"]:
        fail(
            f"{worker}: {title} changed {count(found['wrong'], 'number')}",
            why="what a training reads is not what was written",
            fix=["reset the GPU or reboot the node", "if it stays, replace the node"],
            action=replacement(worker),
        )


def established(worker: Compute, by: str, workload: str, /, **parameters: Any) -> Numbers:
    """The numbers of a workload that another check has to answer for."""
    __tracebackhide__ = True
    try:
        found = worker.run(workload, **parameters)
    except CheckFailed as error:
        wait_for(by, str(error))
    return found


def budget(worker: Compute) -> float:
    """Seconds in which one number is measured."""
    return worker.size(rehearsal=0.4, standard=1.0)
