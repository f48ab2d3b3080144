"""What the checks of a GPU's health have in common: its name and model, and what its silence means."""

from __future__ import annotations

from typing import NoReturn

from pytest_bionemo.checking import not_applicable, wait_for
from pytest_bionemo.facts import gpus as models
from pytest_bionemo.facts.gpus import GpuModel
from pytest_bionemo.model import Gpu
from pytest_bionemo.probes.health import GpuHealth
from pytest_bionemo.probes.machine import Machine

DEBUG_GUIDE = "https://docs.nvidia.com/deploy/gpu-debug-guidelines/"
MEMORY_GUIDE = "https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt/"
XID_GUIDE = "https://docs.nvidia.com/deploy/xid-errors/"
FABRIC_GUIDE = "https://docs.nvidia.com/datacenter/tesla/fabric-manager-user-guide/"


# Compute capabilities whose memory contains its errors and takes bad pages out of use while programs run (NVIDIA GPU
# Memory Error Management, supported GPUs), and those that remap rows at all; before them, pages are retired.
CONTAIN_ERRORS = ((8, 0), (9, 0), (10, 0), (10, 3))
_REMAP_ROWS = (*CONTAIN_ERRORS, (8, 6), (8, 9))
_RETIRE_PAGES = ((7, 0), (7, 5))


def name_of(gpu: Gpu) -> str:
    """As findings call it: "GPU 3 (NVIDIA H100 80GB HBM3)"."""
    return f"GPU {gpu.index} ({gpu.name})"


_FIRST_END = "end every program on it (on the host, if this is a container), then"
RESET_ALL = (
    "reset all GPUs of the node together: end every program on them (on the host, if this is a container), then: "
    "$ sudo nvidia-smi --gpu-reset"
)


def ways_to_reset(gpu: Gpu, first: str = "") -> list[str]:
    """The lines of a fix that resets one GPU; ``first`` is what to try before."""
    return [
        f"{first}reset the GPU: {_FIRST_END}: $ sudo nvidia-smi --gpu-reset -i {gpu.index}",
        "if it comes back, replace the node",
    ]


def model_of(gpu: Gpu) -> GpuModel | None:
    """What is on record of its model; None if nothing is."""
    # One that has lost memory is judged as what its name says: it is no unknown GPU of which nothing is expected.
    return models.find(gpu.name or "", gpu.memory_bytes) or models.find(gpu.name or "")


def is_for_data_centres(gpu: Gpu) -> bool:
    """Whether its model is on record as one for data centres."""
    model = model_of(gpu)
    return model is not None and model.segment == "datacenter"


def require_data_centre(gpu: Gpu) -> None:
    """End the check as not applicable for any other GPU."""
    if not is_for_data_centres(gpu):
        not_applicable(f"{gpu.name} is not on record as a GPU for data centres")


def is_on_a_board(model: GpuModel) -> bool:
    """Whether it is a module that is mounted on a board with its links, and no card in a slot."""
    return model.nvlink_gbs is not None and not model.nvlink_bridge


def peers_of(gpu: Gpu, machine: Machine) -> list[GpuHealth]:
    """The other GPUs of this name."""
    others = [one for one in machine.gpu_env.gpus if one.name == gpu.name and one.index != gpu.index]
    return [found for one in others if (found := machine.health.of(one.index))]


def is_unclear(health: GpuHealth, *fields: str) -> bool:
    """Whether NVML should have told one of these, and did not."""
    return any(field in health.silent and not health.silent[field].is_unsupported for field in fields)


def end_for_silence(gpu: Gpu, health: GpuHealth, *fields: str) -> NoReturn:
    """End a check for which NVML gives no answer: not run where it should have, else not applicable."""
    silences = [health.silent[field] for field in fields if field in health.silent]
    for silence in silences:
        if not silence.is_unsupported:
            wait_for(None, f"GPU {health.index}: {silence.call}: {silence.text}")
    for field in fields:
        if _must_tell(gpu, health, field):
            require_answer(gpu, health, field)
    if not silences:
        wait_for(None, f"GPU {health.index} was not asked for its {fields[0]}")
    not_applicable(f"GPU {health.index} {silences[0].text} ({silences[0].call})")


# NVML_ERROR_INVALID_ARGUMENT, where it stands for that, _NOT_SUPPORTED and _NOT_FOUND: by the GPU's own word, not by
# that of an old driver or binding.
_SAYS_IT_HAS_NONE = (2, 3, 6)


def require_answer(gpu: Gpu, health: GpuHealth, field: str) -> None:
    """Not run where the GPU says that it does not have what all of its model have."""
    silence = health.silent.get(field)
    if silence and silence.code in _SAYS_IT_HAS_NONE and not health.mig_mode:
        wait_for(None, f"GPU {gpu.index} {silence.text} ({silence.call}), and every {gpu.name} does")


def _must_tell(gpu: Gpu, health: GpuHealth, field: str) -> bool:
    """Whether every GPU of this model, which is on record, answers the question."""
    model = model_of(gpu)
    if model is None or model.segment != "datacenter":
        return False
    corrects_errors = health.ecc_enabled is not False
    return {
        "ecc_enabled": True,
        "ecc": corrects_errors,
        "remapped_rows": corrects_errors and model.compute_capability in _REMAP_ROWS,
        "retired_pages": corrects_errors and model.compute_capability in _RETIRE_PAGES,
        "clock_reasons": True,
        "temperature": True,
        "compute_mode": True,
    }.get(field, False)


def gib(size: float) -> str:
    """Bytes as text: "79.1 GiB"."""
    return f"{size / 2**30:.1f} GiB"
