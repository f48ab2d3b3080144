"""What the checks of the host have in common: how many GPUs a job is to use, and sizes as words."""

from __future__ import annotations

from pytest_bionemo.model import count
from pytest_bionemo.probes import visible
from pytest_bionemo.probes.machine import Machine


def gpus_to_use(machine: Machine) -> int:
    """How many GPUs this job is to use, at least one: a machine whose driver is missing is judged all the same."""
    gpus = machine.gpu_env.gpus
    seen = visible.read(gpus, machine.variables)
    return max(1, len(gpus) if seen.problem else len(seen.uuids))


def of_gpus(machine: Machine) -> str:
    """The same as words: '8 GPUs'."""
    return count(gpus_to_use(machine), "GPU")


def in_words(size: int) -> str:
    """In the largest unit in which it is not below 1: '64 MiB', '1.5 GiB'."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << power:
            return f"{size / (1 << power):.1f}".removesuffix(".0") + f" {unit}"
    return count(size, "byte")
