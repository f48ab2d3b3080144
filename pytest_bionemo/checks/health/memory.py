"""A GPU's memory: errors, repairs, and who else takes of it."""

from __future__ import annotations

from pytest_bionemo.checking import check, fail, not_applicable
from pytest_bionemo.checks.health.roots import leave_to_root, works_around_bad_rows
from pytest_bionemo.checks.health.shared import (
    DEBUG_GUIDE,
    MEMORY_GUIDE,
    end_for_silence,
    gib,
    is_for_data_centres,
    is_unclear,
    name_of,
    require_data_centre,
    ways_to_reset,
)
from pytest_bionemo.facts import gpus as models
from pytest_bionemo.facts import health as facts
from pytest_bionemo.model import Action, Gpu, count
from pytest_bionemo.probes.health import GpuHealth, Memory
from pytest_bionemo.probes.machine import Machine

# Idle GPUs lie far below. What takes more than this is in the way of a model that was planned for the whole GPU.
_MEMORY_SHARE = {"datacenter": 0.02, "other": 0.15}
_MEMORY_FLOOR = {"datacenter": 1 << 30, "other": 2 << 30}


@check()
def has_no_memory_errors(gpu: Gpu, gpu_health: GpuHealth, machine: Machine) -> None:
    """The GPU's memory has had no error that could not be corrected.

    Why: programs that such an error hits are ended, and memory that has failed once is more likely to fail again.

    How it decides: it reads the counters of uncorrectable errors (ECC): one since the driver was loaded blocks, as
    does NVIDIA's own threshold for the caches; those of the GPU's earlier life warn.

    Fix: reset the GPU or reboot the node; replace a GPU that has errors again.
    """
    errors = gpu_health.ecc
    leave_to_root("has_no_memory_errors", gpu, gpu_health, machine)
    if gpu_health.sram_threshold_exceeded:
        fail(
            f"{name_of(gpu)}: its caches have had more uncorrectable errors than NVIDIA allows a GPU (SRAM threshold "
            "exceeded)",
            why="they come back: results and jobs are lost",
            fix=["take the node out of service", "have the GPU replaced: NVIDIA's field diagnostic fails it"],
            action=Action.REPLACE_NODE,
            links=[MEMORY_GUIDE],
        )
    if errors is None:
        end_for_silence(gpu, gpu_health, "ecc", "sram_threshold_exceeded")
    if errors.volatile:
        fail(
            f"{name_of(gpu)}: {count(errors.volatile, 'memory error')} could not be corrected since the driver was "
            "loaded, expected none (ECC)",
            why="the programs that they hit were ended; the memory is not repaired before the GPU is reset",
            fix=ways_to_reset(gpu),
            action=Action.RESET_GPU,
            links=[MEMORY_GUIDE],
        )
    if errors.aggregate:
        fail(
            f"{name_of(gpu)}: {count(errors.aggregate, 'memory error')} in its life could not be corrected, none "
            "since the driver was loaded (ECC)",
            why="memory that has failed once is more likely to fail again; what was repaired works",
            fix="nothing now: have it replaced if more follow",
            action=Action.NONE,
            severity="warning",
            links=[MEMORY_GUIDE],
        )
    if is_unclear(gpu_health, "sram_threshold_exceeded"):
        end_for_silence(gpu, gpu_health, "sram_threshold_exceeded")


@check(severity="warning")
def corrects_memory_errors(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """Error correction (ECC) is on, on a GPU for data centres.

    Why: a bit that flips in the memory changes results, and nobody is told.

    How it decides: it reads the current ECC mode of GPUs for data centres, which has to be on.

    Fix: turn it on, which takes a reboot: nvidia-smi -e 1.
    """
    require_data_centre(gpu)
    if gpu_health.ecc_enabled is None:
        end_for_silence(gpu, gpu_health, "ecc_enabled")
    if not gpu_health.ecc_enabled:
        fail(
            f"{name_of(gpu)}: error correction (ECC) is off",
            why="a bit that flips in its memory changes results, and nobody is told",
            fix=[f"$ sudo nvidia-smi -i {gpu.index} -e 1", "then reboot the node", *ways_to_reset(gpu, "or ")[:1]],
            action=Action.RESET_GPU,
        )


@check()
def rows_are_remapped(gpu: Gpu, gpu_health: GpuHealth, machine: Machine) -> None:
    """Every bad row of the GPU's memory has been replaced by a spare one.

    Why: until a bad row is replaced, a program that meets it is ended; where no spare row is left, the error comes
    back for ever.

    How it decides: it reads NVML's remapped rows: a failed remapping blocks; a pending one blocks too, unless the GPU
    has taken the page out of use meanwhile, which warns.

    Fix: reset the GPU to take the new rows into use; replace it where remapping failed.
    """
    rows = gpu_health.remapped_rows
    if rows is None:
        end_for_silence(gpu, gpu_health, "remapped_rows")
    leave_to_root("rows_are_remapped", gpu, gpu_health, machine, warns=rows.pending)
    replaced = f"{count(rows.correctable + rows.uncorrectable, 'row')} remapped so far"
    if rows.failed:
        fail(
            f"{name_of(gpu)}: a bad row of its memory could not be remapped ({replaced})",
            why="there is no spare row left where it is needed: the memory error comes back",
            fix=["take the node out of service", "have the GPU replaced"],
            action=Action.REPLACE_NODE,
            links=[MEMORY_GUIDE],
        )
    if rows.pending:
        is_out_of_use = works_around_bad_rows(gpu, gpu_health)
        if is_out_of_use:
            why = (
                "until the GPU is reset, the page with that row is left out: no program meets it, and memory is less"
            )
        else:
            why = "until the GPU is reset, programs are still given the bad row, and one that meets it is ended"
        fail(
            f"{name_of(gpu)}: a bad row of its memory waits to be remapped ({replaced})",
            why=why,
            fix=ways_to_reset(gpu, "when it is next idle, " if is_out_of_use else ""),
            action=Action.RESET_GPU,
            severity="warning" if is_out_of_use else None,
            links=[MEMORY_GUIDE],
        )


@check()
def pages_are_retired(gpu: Gpu, gpu_health: GpuHealth, machine: Machine) -> None:
    """Every bad page of the GPU's memory is out of use, and they are few (before Ampere).

    Why: until a bad page is retired programs still get it, and where too many are, there is no room for the next one.

    How it decides: it compares the number of retired pages with the limit, and asks whether one waits for a reboot.

    Fix: reboot the node to take the pages out of use; replace a GPU with too many.
    """
    pages = gpu_health.retired_pages
    if pages is None:
        end_for_silence(gpu, gpu_health, "retired_pages")
    leave_to_root("pages_are_retired", gpu, gpu_health, machine)
    retired = pages.single_bit + pages.double_bit
    most = round(facts.limit("retired_pages"))
    if retired > most:
        fail(
            f"{name_of(gpu)}: {retired} pages of its memory are retired, at most {most} may be",
            why="there is no room for another one: the next error comes back for ever",
            fix=["take the node out of service", "have the GPU replaced"],
            action=Action.REPLACE_NODE,
            links=[DEBUG_GUIDE],
        )
    if pages.pending:
        fail(
            f"{name_of(gpu)}: a bad page of its memory waits to be retired ({retired} are)",
            why="until the driver is loaded anew, programs still get the bad page",
            fix=["reboot the node", *ways_to_reset(gpu, "or ")],
            action=Action.REBOOT_NODE,
            links=[DEBUG_GUIDE],
        )
    if pages.double_bit:
        fail(
            f"{name_of(gpu)}: {count(pages.double_bit, 'page')} of its memory retired for an error that could not be "
            "corrected",
            why="memory that has failed once is more likely to fail again; what is retired does no harm",
            fix="nothing now: have it replaced if more follow",
            action=Action.NONE,
            severity="warning",
            links=[DEBUG_GUIDE],
        )


@check(severity="warning")
def has_all_its_memory(gpu: Gpu) -> None:
    """The GPU has as much memory as its model has.

    Why: what was planned for the model does not fit, and no bound of the model is a ruler for this GPU.

    How it decides: it compares the memory that NVML reports with the sizes that the model is sold with.

    Fix: reset the GPU; if its memory stays smaller, replace the node.
    """
    model = models.find(gpu.name or "")
    if model is None:
        not_applicable(f"the name {gpu.name} alone tells no model on record, and no memory")
    if gpu.memory_bytes is None:
        not_applicable(f"GPU {gpu.index} has no memory of its own to tell of")
    if lacks_memory(gpu):
        sold = " or ".join(f"{size:g} GB" for size in model.memory_gb)
        fail(
            f"{name_of(gpu)}: it has {gib(gpu.memory_bytes)} of memory, and its model is sold with {sold}",
            why="what was planned for the model does not fit, and no bound of the model is a ruler for it",
            fix=ways_to_reset(gpu),
            action=Action.REPLACE_NODE,
        )


def lacks_memory(gpu: Gpu) -> bool:
    """Whether it has less than any product of its name; there are cards that were given more."""
    model = models.find(gpu.name or "")
    if model is None or gpu.memory_bytes is None or models.find(gpu.name or "", gpu.memory_bytes):
        return False
    return gpu.memory_bytes < max(model.memory_gb) * 2**30


@check(severity="warning")
def memory_is_free(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """Nobody else holds much of the GPU's memory.

    Why: a training that was planned for the whole GPU runs out of memory, and what is timed beside others is not
    right.

    How it decides: it compares the memory in use, without what this run holds itself, with what an idle driver or a
    desktop takes; the processes that hold it are named where they can be seen.

    Fix: stop the processes that the finding names, or choose other GPUs.
    """
    if gpu_health.mig_mode:
        not_applicable(f"GPU {gpu.index} is in MIG mode: each slice has memory of its own")
    memory = gpu_health.memory
    if memory is None:
        end_for_silence(gpu, gpu_health, "memory")
    others = memory.used - gpu_health.own_bytes
    if others > _harmless(gpu, memory):
        fail(
            f"{name_of(gpu)}: {gib(others)} of its {gib(memory.total)} are taken{_by_whom(gpu_health)}",
            why="a training that was planned for the whole GPU runs out of memory, and what is timed is not right",
            fix=_ways_to_free(gpu, gpu_health),
            action=Action.FREE_GPU,
        )


def _harmless(gpu: Gpu, memory: Memory) -> float:
    # A desktop is no fault: it draws its windows on the GPU.
    kind = "datacenter" if is_for_data_centres(gpu) else "other"
    return max(_MEMORY_FLOOR[kind], _MEMORY_SHARE[kind] * memory.total)


def _by_whom(health: GpuHealth) -> str:
    if health.processes is None:
        return "; by whom could not be asked"
    if not health.processes:
        return ", by no process that is visible here"
    held = [f"{process.pid}" + (f" ({gib(process.memory_bytes)})" if process.memory_bytes else "")
            + (", the notebook or program that started this run" if process.started_this_run else "")
            for process in health.processes[:4]]  # fmt: skip
    more = f" and {len(health.processes) - 4} more" if len(health.processes) > 4 else ""
    return f", by process {', '.join(held)}{more}"


def _ways_to_free(gpu: Gpu, health: GpuHealth) -> list[str]:
    if health.processes:
        own = [process for process in health.processes if process.started_this_run]
        others = [f"see what they are: $ nvidia-smi -i {gpu.index}", "end them, or wait for them"]
        return [
            *(["free what this notebook or program holds, or restart its kernel before the training"] if own else []),
            *(others if len(own) < len(health.processes) else []),
        ]
    if health.processes is None:
        return [f"look for programs: $ nvidia-smi -i {health.index}", "$ sudo fuser -v /dev/nvidia*"]
    return [
        "look for programs in other containers and of other users: $ sudo fuser -v /dev/nvidia*",
        "if there is none, the memory was left behind: reboot the node",
        *ways_to_reset(gpu, "or ")[:1],
    ]
