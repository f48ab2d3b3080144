"""Which devices CUDA_VISIBLE_DEVICES leaves visible, by CUDA's own rules.

Source: CUDA programming guide, "CUDA Environment Variables": no variable, every device; an empty value, none;
identifiers are indices, UUIDs or unambiguous beginnings of one; everything after the first invalid entry is
hidden. Its own example ends a list of devices with -1, and a comma at the end adds nothing: neither is a fault.
That a repeated entry leaves none visible is torch's rule (``torch/cuda/__init__.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_bionemo.model import Gpu

VARIABLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"

NO_DEVICE_FILES = "NoDevFiles"
"""What Slurm sets in a job that has no GPU."""

_END = "-1"
_INDEX = re.compile(r"-?[0-9]+")


@dataclass(frozen=True)
class Visible:
    """What the variable says.

    ``uuids`` are the devices that stay visible, in order (GPUs, or MIG slices where named); ``value`` is the
    variable, None if it is not set; ``problem`` is the first thing wrong with it. ``exact`` is false where the
    variable counts devices in an order that only CUDA knows: then ``uuids`` is right in number alone.
    """

    value: str | None
    uuids: tuple[str, ...]
    problem: str | None = None
    exact: bool = True


def read(gpus: Sequence[Gpu], environment: Mapping[str, str]) -> Visible:
    """Apply the variable in ``environment`` to the devices that NVML sees."""
    value = environment.get(VARIABLE)
    if value is None:
        return Visible(None, tuple(gpu.uuid or "" for gpu in gpus))
    entries = _entries(value)
    if problem := _hides_all(entries):
        return Visible(value, (), problem)
    if len({_form(entry) for entry in entries}) > 1:
        return Visible(value, (), "it mixes indices, GPU UUIDs and MIG UUIDs")
    seen: list[str] = []
    for entry in entries:
        uuid, problem = _resolve(entry, gpus)
        if uuid in seen:
            return Visible(value, (), f"it names {entry} twice, which hides every GPU")
        if uuid is None:
            return Visible(value, tuple(seen), problem, _is_exact(value, environment))
        seen.append(uuid)
    return Visible(value, tuple(seen), None, _is_exact(value, environment))


def holders(seen: Visible, gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs that are visible, or a slice of which is; every GPU where only CUDA knows which."""
    if not seen.exact:
        return tuple(gpus)
    named = set(seen.uuids)
    return tuple(gpu for gpu in gpus if gpu.uuid in named or any(mig.uuid in named for mig in gpu.mig_devices))


def bare(uuid: str) -> str:
    """A UUID without its kind (GPU-, MIG-), in which form torch prints it."""
    return uuid.removeprefix("GPU-").removeprefix("MIG-").lower()


def _entries(value: str) -> list[str]:
    """The entries up to the end of the list, which -1 or an empty entry may mark after at least one device."""
    entries = [part.strip() for part in value.split(",")]
    while len(entries) > 1 and not entries[-1]:
        entries.pop()
    return entries[: entries.index(_END, 1)] if _END in entries[1:] else entries


def _hides_all(entries: Sequence[str]) -> str | None:
    whole = {
        "": "it is empty, which hides every GPU",
        _END: "-1 hides every GPU",
        NO_DEVICE_FILES: "Slurm gave this job no GPU",
    }
    if entries[0] == "" and len(entries) > 1:
        return "its first entry is empty, which hides every GPU"
    return whole.get(entries[0])


def _resolve(entry: str, gpus: Sequence[Gpu]) -> tuple[str | None, str]:
    if _INDEX.fullmatch(entry):
        index = int(entry)
        if 0 <= index < len(gpus):
            return gpus[index].uuid or str(index), ""
        return None, f"there is no GPU {entry} ({_indices(gpus)})"
    candidates = [gpu.uuid for gpu in gpus if gpu.uuid]
    if entry.startswith("MIG-"):
        candidates = [mig.uuid for gpu in gpus for mig in gpu.mig_devices]
        if "/" in entry:
            return _resolve_legacy_mig(entry, gpus)
    elif not entry:
        return None, "it has an empty entry, which hides those after it"
    elif not entry.startswith("GPU-"):
        return None, f"{entry!r} is neither an index nor a UUID (GPU-..., MIG-...)"
    matches = [uuid for uuid in candidates if uuid.startswith(entry)]
    if len(matches) == 1:
        return matches[0], ""
    if matches:
        return None, f"{entry} is the beginning of {len(matches)} devices' UUIDs"
    return None, f"no device has the UUID {entry}"


def _form(entry: str) -> str:
    return entry[:4] if entry.startswith(("GPU-", "MIG-")) else "index"


def _resolve_legacy_mig(entry: str, gpus: Sequence[Gpu]) -> tuple[str | None, str]:
    """MIG-<GPU UUID>/<GPU instance>/<compute instance>, the form before driver R470."""
    parent, _, instances = entry.removeprefix("MIG-").partition("/")
    for gpu in gpus:
        for mig in gpu.mig_devices:
            if gpu.uuid == parent and f"{mig.gpu_instance}/{mig.compute_instance}" == instances:
                return mig.uuid, ""
    return None, f"no MIG device is {entry}"


def _is_exact(value: str, environment: Mapping[str, str]) -> bool:
    # By default CUDA counts the fastest GPU first, NVML by PCI address.
    by_index = any(part.strip().isdigit() for part in value.split(","))
    return not by_index or environment.get(ORDER) == "PCI_BUS_ID"


def _indices(gpus: Sequence[Gpu]) -> str:
    if not gpus:
        return "there is none at all"
    return "there is only GPU 0" if len(gpus) == 1 else f"they are 0 to {len(gpus) - 1}"
