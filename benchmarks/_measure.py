"""Run commands in turn and compare them: a ratio within one run, never an absolute time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Cost:
    """What one command cost: seconds of wall clock and of processor time, mebibytes of memory at its peak."""

    seconds: float
    processor_seconds: float
    memory_mib: float


def run_once(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Cost:
    """Run a command to its end; its exit status is not judged."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, _, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = 0  # it is reaped: Popen must not wait for it again
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def measure(
    commands: Mapping[str, Sequence[str]], rounds: int, environment: Mapping[str, str] | None = None
) -> dict[str, Cost]:
    """The median cost of each command, run in turn so that a busy machine slows all of them alike."""
    with tempfile.TemporaryDirectory() as folder:
        costs: dict[str, list[Cost]] = {name: [] for name in commands}
        for number in range(rounds + 1):
            for name, command in commands.items():
                cost = run_once(command, Path(folder), environment or os.environ)
                if number:  # the first round warms the disk cache
                    costs[name].append(cost)
    return {
        name: Cost(
            median(cost.seconds for cost in seen),
            median(cost.processor_seconds for cost in seen),
            median(cost.memory_mib for cost in seen),
        )
        for name, seen in costs.items()
    }


def report(what: str, value: float, limit: float, unit: str = "") -> bool:
    """Print one figure beside its limit; returns whether it keeps it."""
    keeps = value <= limit
    print(f"{'ok  ' if keeps else 'OVER'} {what}: {value:.3f}{unit} (limit {limit:g}{unit})")
    return keeps


def python(*arguments: str) -> list[str]:
    """A command of this interpreter."""
    return [sys.executable, *arguments]
