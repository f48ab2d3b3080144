"""Settings that keep a GPU from work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.checks.health.memory import lacks_memory
from pytest_bionemo.checks.health.shared import (
    DEBUG_GUIDE,
    end_for_silence,
    gib,
    is_for_data_centres,
    name_of,
    require_data_centre,
    ways_to_reset,
)
from pytest_bionemo.model import Action, Gpu
from pytest_bionemo.probes.health import CORRUPTED_INFOROM, GpuHealth
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.machine import Machine

# nvmlComputeMode_t
_PROHIBITED = 2


@check()
def allows_compute(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """The GPU's compute mode lets programs use it.

    Why: in mode PROHIBITED every CUDA program fails to start, in mode EXCLUSIVE every one but the first.

    How it decides: it reads the compute mode: PROHIBITED blocks, EXCLUSIVE warns.

    Fix: set the compute mode back: nvidia-smi -c 0.
    """
    mode = gpu_health.compute_mode
    if mode is None:
        end_for_silence(gpu, gpu_health, "compute_mode")
    fix = f"$ sudo nvidia-smi -i {gpu.index} -c DEFAULT"
    if mode == _PROHIBITED:
        fail(
            f"{name_of(gpu)}: its compute mode is PROHIBITED", why="every CUDA program on it fails to start", fix=fix
        )
    if gpu_health.takes_one_process:
        fail(
            f"{name_of(gpu)}: its compute mode is EXCLUSIVE: one process at a time can use it",
            why="a second one fails to start: a data loader that uses CUDA, an evaluation beside the training",
            fix=fix,
            severity="warning",
        )


@check(severity="warning")
def mig_mode_is_settled(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """The GPU's MIG mode is the one that was asked for.

    Why: what this run finds out does not hold from the next reset on: there will be other devices with other memory.

    How it decides: it compares the MIG mode that is in force with the one that is pending; they have to be the same.

    Fix: stop what uses the GPU and reset it.
    """
    current, pending = gpu_health.mig_mode, gpu_health.mig_mode_pending
    if current is None or pending is None:
        end_for_silence(gpu, gpu_health, "mig_mode", "mig_mode_pending")
    if current != pending:
        words = {True: "on", False: "off"}
        fail(
            f"{name_of(gpu)}: MIG mode is {words[current]}, and will be {words[pending]} after the next reset",
            why="what this run finds out does not hold from then on: other devices, other memory",
            fix=[*ways_to_reset(gpu), f"or take it back: $ sudo nvidia-smi -i {gpu.index} -mig {int(current)}"],
            action=Action.RESET_GPU,
        )


@check(severity="warning")
def stays_initialised(gpu: Gpu, gpu_health: GpuHealth, host: Host) -> None:
    """The driver keeps the GPU initialised while no program uses it (persistence mode).

    Why: each program that comes first waits seconds for the driver to set the GPU up, and settings are lost in
    between.

    How it decides: it reads the persistence mode of GPUs for data centres, which has to be on.

    Fix: start nvidia-persistenced.
    """
    require_data_centre(gpu)
    if gpu_health.persistence is None:
        end_for_silence(gpu, gpu_health, "persistence")
    if not gpu_health.persistence:
        where = ", on the host" if host.container else ""
        fail(
            f"{name_of(gpu)}: persistence mode is off",
            why="each program that comes first waits seconds for the driver to set the GPU up, and settings are lost",
            fix=[f"start the persistence daemon{where}: $ sudo systemctl enable --now nvidia-persistenced",
                 f"or: $ sudo nvidia-smi -i {gpu.index} -pm 1"],
        )  # fmt: skip


@check(severity="warning")
def inforom_is_valid(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """The GPU's InfoROM, in which it keeps its memory's repairs, is not damaged.

    Why: it holds which rows of the memory are bad: repairs may be lost at the next reset.

    How it decides: it asks the GPU to verify the checksum of its InfoROM.

    Fix: have NVIDIA's support look at it, which can rewrite the InfoROM, or replace the node.
    """
    if gpu_health.inforom is None:
        end_for_silence(gpu, gpu_health, "inforom")
    if gpu_health.inforom == CORRUPTED_INFOROM:
        fail(
            f"{name_of(gpu)}: its InfoROM is damaged",
            why="it keeps which rows of memory are bad: repairs may be lost at the next reset",
            fix=["have the GPU looked at: NVIDIA's support can rewrite the InfoROM", "or replace the node"],
            action=Action.REPLACE_NODE,
            links=[DEBUG_GUIDE],
        )


@check(severity="warning", needs=["answering_gpus"])
def gpus_are_alike(gpus: tuple[Gpu, ...], machine: Machine) -> None:
    """All GPUs of the machine are of one model, firmware, memory size and power limit.

    Why: work that is shared out evenly is as slow as the weakest GPU, and results may differ.

    How it decides: it compares model, memory size, firmware (VBIOS) and power limit of all GPUs for data centres in
    the machine; those that differ from the most are named.

    Fix: bring the GPU that differs in line with the others.
    """
    if len(gpus) == 1:
        not_applicable("there is one GPU")
    if not all(is_for_data_centres(gpu) for gpu in gpus):
        not_applicable("a workstation may have different GPUs")
    healths = {gpu.index: found for gpu in gpus if (found := machine.health.of(gpu.index))}
    if len(healths) < len(gpus):
        wait_for(f"health::can_be_read[gpu{machine.unread_gpu}]", "not every GPU could be asked")
    questions: dict[str, Callable[[Gpu], Any]] = {
        "model": lambda gpu: gpu.name,
        # What a GPU lacks of its model's is told by has_all_its_memory.
        "memory": lambda gpu: None if lacks_memory(gpu) else gpu.memory_bytes and gib(gpu.memory_bytes),
        "firmware (VBIOS)": lambda gpu: healths[gpu.index].vbios,
        "power limit": lambda gpu: (limit := healths[gpu.index].power_limit) and f"{limit:g} W",
    }
    differences = [seen for what, question in questions.items() if (seen := _difference(what, gpus, question))]
    if differences:
        fail(
            f"the GPUs are not alike: {'; '.join(differences)}",
            why="work that is shared out evenly is as slow as the weakest GPU, and results may differ",
            fix=["set the power limits alike, and bring the firmware to one version", "or replace the node"],
            action=Action.REPLACE_NODE if differences[0].startswith("model") else Action.FIX_SOFTWARE,
        )


def _difference(what: str, gpus: Sequence[Gpu], question: Callable[[Gpu], Any]) -> str:
    """'firmware (VBIOS) 96.00.74 of GPU 3, 96.00.99 of the others'; nothing where all are the same or silent."""
    answers = {gpu.index: question(gpu) for gpu in gpus}
    known = [answer for answer in answers.values() if answer is not None]
    kinds = sorted(set(known), key=lambda kind: (-known.count(kind), str(kind)))
    if len(kinds) < 2:
        return ""
    odd = [f"{kind} of GPU {', '.join(str(index) for index, answer in answers.items() if answer == kind)}"
           for kind in kinds[1:]]  # fmt: skip
    return f"{what} {', '.join(odd)}, {kinds[0]} of the others"
