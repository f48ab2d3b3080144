"""Slow devices among healthy ones: 512 generated nodes over noise that was measured."""

from __future__ import annotations

import csv
import math
import random
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fleets import fleet, node, numbers, report
from pytest_bionemo.fleet.node import Numbers
from pytest_bionemo.fleet.spread import estimate, tail
from pytest_bionemo.fleet.stragglers import FEWEST, LEAST_EFFECT, OVERALL, find

# Recorded by benchmarks/fleet_noise.py on 2026-11-23, on two shared cores of an x86-64 virtual machine.
NOISE = Path(__file__).with_name("data") / "fleet_noise.csv"
NODES = 512


def measured() -> tuple[list[str], list[list[float]]]:
    """The quantities, and each round of them as shares of their medians."""
    with NOISE.open(newline="") as file:
        names, *rounds = csv.reader(file)
    return names, [[float(value) for value in one] for one in rounds]


def generate(seed: int, slow: Mapping[int, float], only: str | None = None) -> dict[str, Numbers]:
    """A fleet of nodes with two devices each, drawn from the noise; those in ``slow`` are by so much slower.

    :param slow: of a node, the share of its speed that its second device lacks.
    :param only: the quantity in which it lacks it; None: all of them.
    """
    names, rounds = measured()
    chosen = random.Random(seed)
    quantities = tuple((name, "s" if number % 2 else "GB/s", "GPU") for number, name in enumerate(names))
    nodes = {}
    for number in range(NODES):
        columns: list[tuple[int, int, float]] = []
        for device in (0, 1):
            drawn = chosen.choice(rounds)
            lacks = slow.get(number, 0.0) if device else 0.0
            for position, name in enumerate(names):
                seconds = drawn[position] / (1 - (lacks if only in (None, name) else 0.0))
                columns.append((position, device, seconds if position % 2 else 1 / seconds))
        nodes[f"node{number:03d}"] = Numbers(
            quantities,
            (f"GPU-{number}-0", f"GPU-{number}-1"),
            array("H", [column[0] for column in columns]),
            array("H", [column[1] for column in columns]),
            array("d", [column[2] for column in columns]),
            array("f", [0.0] * len(columns)),
        )
    return nodes


def named(found: dict[str, Any]) -> set[tuple[str, str]]:
    return {(entry["host"], entry["device"]) for entry in found["stragglers"]}


def truly(slow: Mapping[int, float]) -> set[tuple[str, str]]:
    return {(f"node{number:03d}", f"GPU-{number}-1") for number in slow}


def test_slow_devices_are_found_and_healthy_nodes_are_left_alone() -> None:
    slow_nodes = found_nodes = healthy = false_alarms = 0
    for seed in range(8):
        chosen = random.Random(1000 + seed)
        slow = {number: 0.2 if chosen.random() < 0.5 else 0.05 for number in chosen.sample(range(NODES), 26)}
        found = find(generate(seed, slow))
        slow_nodes += len(slow)
        found_nodes += len(named(found) & truly(slow))
        healthy += NODES - len(slow)
        false_alarms += len({host for host, _ in named(found) - truly(slow)})
        effects = {
            (entry["host"], entry["device"]): entry["effect"]
            for entry in found["stragglers"]
            if entry["measurement"] == OVERALL
        }
        for number, lacks in slow.items():
            assert effects.get((f"node{number:03d}", f"GPU-{number}-1"), lacks) == pytest.approx(lacks, abs=0.03)
    assert found_nodes >= 0.99 * slow_nodes, (found_nodes, slow_nodes)
    assert false_alarms <= 0.001 * healthy, (false_alarms, healthy)


def test_a_device_that_is_slow_in_one_thing_is_named_with_that() -> None:
    slow = {7: 0.2, 300: 0.2}
    found = find(generate(3, slow, only="memory_read"))
    entries = [entry for entry in found["stragglers"] if (entry["host"], entry["device"]) in truly(slow)]
    assert [entry["measurement"] for entry in entries] == ["memory_read"] * 2
    for entry in entries:
        assert entry["effect"] == pytest.approx(0.2, abs=0.05)
        assert entry["confidence"] >= 0.999
        worse = max(entry["value"], entry["median"]) if entry["unit"] == "s" else min(entry["value"], entry["median"])
        assert worse == entry["value"]


def test_what_the_fleet_could_show_is_said_with_each_quantity() -> None:
    spreads = find(generate(5, {}))["spreads"]
    assert {entry["measurement"] for entry in spreads} == set(measured()[0])
    for entry in spreads:
        assert entry["values"] == 2 * NODES
        assert 0 < entry["spread"] < entry["detectable"] < 1
        assert entry["detectable"] >= LEAST_EFFECT


def test_a_healthy_fleet_of_one_speed_has_no_stragglers_and_neither_has_a_tiny_one() -> None:
    entries = [("matmul_bf16", 700.0, "TFLOP/s", "GPU-1"), ("fft_1d", 1e-3, "s", "GPU-1")]
    reports = [report(f"node{number}") for number in range(20)]
    for one in reports:
        one["bionemo"]["measurements"] = numbers(entries)
    assert fleet(*reports)["stragglers"] == []
    reports[0]["bionemo"]["measurements"][0]["value"] = 350.0
    assert fleet(*reports[: FEWEST - 1])["stragglers"] == []
    (slow,) = fleet(*reports)["stragglers"]
    assert (slow["host"], slow["device"], slow["effect"]) == ("node0", "GPU-1", 0.5)
    assert (slow["value"], slow["median"], slow["unit"]) == (pytest.approx(350), pytest.approx(700), "TFLOP/s")


def test_devices_of_different_models_are_not_compared_and_counts_are_no_speeds() -> None:
    reports = [report(f"node{number}") for number in range(40)]
    for number, one in enumerate(reports):
        speed = 300.0 if number < 15 else 700.0
        one["bionemo"]["gpus"][0] |= {"name": "NVIDIA A100" if number < 15 else "NVIDIA H100"}
        one["bionemo"]["measurements"] = numbers(
            [("matmul_bf16", speed, "TFLOP/s", "GPU-1"), ("batch", 1.0 if number else 64.0, "1", "GPU-1")]
        )
    found = fleet(*reports)
    assert found["stragglers"] == []
    assert {entry["model"] for entry in found["spreads"]} == {"NVIDIA A100", "NVIDIA H100"}


def test_what_nodes_measure_together_is_no_number_of_any_of_them() -> None:
    reports = [report(f"node{number}") for number in range(60)]
    for number, one in enumerate(reports):
        # Ten nodes are a job of their own, with a fifth of the ranks.
        shared = numbers([("training_8m_tokens", 1e6 if number < 50 else 2e5, "tokens/s", "GPU-1")])
        own = numbers([("matmul_bf16", 700.0 if number else 350.0, "TFLOP/s", "GPU-1")])
        one["bionemo"]["measurements"] = [{**shared[0], "nodes": 50 if number < 50 else 10}, *own]
    found = fleet(*reports)
    assert {(entry["host"], entry["measurement"]) for entry in found["stragglers"]} == {("node0", "matmul_bf16")}
    assert {entry["measurement"] for entry in found["spreads"]} == {"matmul_bf16"}


def test_a_value_that_is_uncertain_has_to_be_further_out() -> None:
    chosen = random.Random(4)
    reports = [report(f"node{number}") for number in range(60)]
    for number, one in enumerate(reports):
        value = 700.0 * math.exp(chosen.gauss(0, 0.005)) * (0.9 if number < 2 else 1.0)
        width = 0.3 if number == 1 else 0.001
        one["bionemo"]["measurements"] = numbers([("matmul_bf16", value, "TFLOP/s", "GPU-1")])
        one["bionemo"]["measurements"][0]["ci95"] = [value * (1 - width), value * (1 + width)]
    assert [entry["host"] for entry in fleet(*reports)["stragglers"]] == ["node0"]


@pytest.mark.parametrize(
    ("value", "unit"), [(1.7e308, "TFLOP/s"), (5e-324, "s"), (1e-320, "TFLOP/s"), (1.7e308, "s")]
)
def test_a_number_at_the_end_of_all_numbers_stops_no_fleet(value: float, unit: str) -> None:
    usual = [(f"node{number}", 0.5 + number / 1000) for number in range(20)]
    nodes = [node(_with_number(host, one, unit)) for host, one in [*usual, ("node99", value)]]
    named = [entry["host"] for entry in fleet(*nodes)["stragglers"]]
    assert named == (["node99"] if (value > 1) == (unit == "s") else [])


def _with_number(host: str, value: float, unit: str) -> dict[str, Any]:
    made = report(host)
    made["bionemo"]["measurements"] = numbers([("speed", value, unit, "")])
    return made


def test_numbers_that_are_none_are_not_compared() -> None:
    odd = report("node1")
    odd["bionemo"]["measurements"] = [
        *numbers([("x", value, "s", "GPU-1") for value in (0.0, -1.0, 5e-324, 1e308)]),
        {**numbers([("x", 1.0, "s", "GPU-1")])[0], "value": None},
        {**numbers([("x", 1.0, "s", "GPU-1")])[0], "test": "test_ours.py::test_speed"},
        {**numbers([("x", 1.0, "s", "GPU-1")])[0], "ci95": [-1e308, 1e308]},
    ]
    assert len(node(odd).numbers.value) == 3
    reports = [report(f"node{number}") for number in range(20)]
    for one in reports:
        one["bionemo"]["measurements"] = numbers([("x", 1.0, "s", "GPU-1")])
    slow = fleet(odd, *reports)["stragglers"]
    assert all(0 < entry["effect"] <= 1 and math.isfinite(entry["median"]) for entry in slow)


# ---- the statistics


def test_the_tail_of_students_distribution_is_that_of_the_tables() -> None:
    # Quantiles of 0.999 and 0.9995, Abramowitz and Stegun, table 26.10.
    for freedom, distance, chance in [(2, 22.327, 0.001), (4, 7.173, 0.001), (10, 4.144, 0.001), (60, 3.46, 0.0005)]:
        assert tail(distance, freedom) == pytest.approx(chance, rel=0.01)
    assert tail(3.0902, 10_000) == pytest.approx(0.001, rel=0.001)
    assert tail(-1, 5) == 0.5


@pytest.mark.parametrize("slow_share", [0.0, 0.05, 0.2])
def test_slow_devices_do_not_hide_themselves_by_widening_the_spread(slow_share: float) -> None:
    chosen = random.Random(11)
    logs = [chosen.gauss(0, 0.01) + (0.22 if chosen.random() < slow_share else 0) for _ in range(2000)]
    spread = estimate(logs)
    assert 0.008 < spread.deviation < 0.02
    assert spread.confidence((0.22 - spread.middle) / spread.deviation, numbers=100) > 0.999
    assert spread.confidence(2.0, numbers=100) == 0
