"""Runs of one machine made by hand: eight GPUs, and numbers over noise that was measured."""

from __future__ import annotations

import copy
import csv
import json
import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from pytest_bionemo.reports import Report
from test_report import ENVIRONMENT, ready

Json = dict[str, Any]
BEGAN = datetime(2026, 11, 2, 6, 30, tzinfo=timezone.utc)
GPUS = tuple(f"GPU-{index:08x}-4f0c-11ef-a1b2-0242ac120002" for index in range(8))

# Recorded by benchmarks/fleet_noise.py on 2026-11-23: what one device measures of one thing, again and again, as
# shares of its median.
_NOISE = Path(__file__).with_name("data") / "fleet_noise.csv"
# What an H100 measures: name, unit, value.
QUANTITIES = (
    ("matmul_bf16", "TFLOP/s", 741.0),
    ("matmul_fp8", "TFLOP/s", 1402.0),
    ("memory_copy", "GB/s", 2731.0),
    ("memory_read", "GB/s", 2902.0),
    ("host_to_device", "GB/s", 53.1),
    ("fft_2d", "s", 0.00042),
    ("spd_inverse_128", "s", 0.0031),
    ("esm2_650m_step", "s", 0.1874),
    ("esm2_650m_tokens", "tokens/s", 21860.0),
)
_PRECISION = 0.004


def noise() -> list[list[float]]:
    """Rounds, each with one share for each of nine quantities."""
    with _NOISE.open(newline="") as file:
        return [[float(value) for value in one] for one in list(csv.reader(file))[1:]]


def run(
    number: int = 0,
    *,
    slow: Mapping[tuple[str, int], float] | None = None,
    uuids: Sequence[str] = GPUS,
    seed: int = 0,
    level: str = "standard",
    device: str = "cuda",
    days: float | None = None,
    **facts: Any,
) -> Json:
    """The report of the run of this number, on so many GPUs; each is drawn anew from the noise.

    :param slow: of a quantity on the GPU of this index, the share of its speed that it has.
    :param facts: of the environment.
    """
    chosen = random.Random(f"{seed} {number}")
    rounds = noise()
    labels = [f"cpu{index}" for index in range(len(uuids))] if device == "cpu" else list(uuids)
    measured = []
    for index, label in enumerate(labels):
        drawn = chosen.choice(rounds)
        for share, (name, unit, value) in zip(drawn, QUANTITIES, strict=True):
            speed = share * (slow or {}).get((name, index), 1.0)
            measured.append(_number(name, unit, value / speed if unit == "s" else value * speed, label))
    made = copy.deepcopy(
        ready(measurements=measured, gpus=[] if device == "cpu" else list(map(_gpu, uuids, range(8))))
    )
    began = BEGAN + timedelta(days=number if days is None else days)
    environment = {**ENVIRONMENT, "hostname": "dgx-07", "driver": "580.65.06", "torch": "2.10.0+cu128", **facts}
    made["bionemo"] |= {"started": began.isoformat(), "level": level, "device": device, "environment": environment}
    made["bionemo"]["checks"] = [{**made["bionemo"]["checks"][0], "device": label} for label in labels]
    return made


def fortnight() -> list[Json]:
    """Eight runs: a driver that made copies faster, and a GPU that became slow with the run of 12 November."""
    slow = {("matmul_bf16", 3): 0.7}
    fast = {("host_to_device", index): 1.2 for index in range(8)}
    return [
        *(run(number) for number in range(5)),
        run(5, driver="580.95.05", slow=fast),
        *(run(number, driver="580.95.05", slow={**fast, **slow}) for number in (10, 11)),
    ]


def report(*arguments: Any, **named: Any) -> Report:
    """The same, read."""
    return Report.of(run(*arguments, **named))


def save(path: Path, made: Json) -> Path:
    """Write it into a file."""
    path.write_text(json.dumps(made))
    return path


def _number(name: str, unit: str, value: float, device: str, **rulers: Any) -> Json:
    ends = [value * (1 - _PRECISION), value * (1 + _PRECISION)]
    empty = dict.fromkeys(("bound", "reference", "peer_median", "baseline"))
    made = {"name": name, "value": value, "unit": unit, "device": device, "samples": 40, "ci95": ends}
    return {**made, **empty, "judgement": "good", **rulers}


def _gpu(uuid: str, index: int) -> Json:
    return {
        "index": index, "uuid": uuid, "name": "NVIDIA H100 80GB HBM3", "pci_address": f"0000:{index:02x}:00.0",
        "memory_bytes": 85520809984, "free_memory_bytes": None, "compute_capability": [9, 0], "mig_enabled": False,
        "mig_devices": [], "errors": None,
    }  # fmt: skip
