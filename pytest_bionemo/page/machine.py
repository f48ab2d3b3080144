"""What a report says of the machine, its packages and what can run on it, as a page shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_bionemo.model import Gpu, describe_gpus
from pytest_bionemo.page.shell import number
from pytest_bionemo.page.values import finite

# Of the environment, in the order in which a page says it; what is not here follows.
_NAMES = {
    "hostname": "host", "platform": "platform", "instance_type": "instance type", "scheduler": "scheduler",
    "container": "container", "distribution": "distribution", "kernel": "kernel", "machine": "processor",
    "glibc": "glibc", "driver": "NVIDIA driver", "nvml": "NVML", "cuda_driver": "CUDA of the driver",
    "driver_error": "driver says", "hidden_gpus": "GPUs of others", "cuda_toolkit": "CUDA toolkit",
    "torch": "PyTorch", "torch_cuda": "CUDA of PyTorch", "torch_error": "PyTorch says", "arch_list": "built for",
    "cudnn": "cuDNN", "nccl": "NCCL", "lightning": "Lightning", "python": "Python",
    "vbios": "VBIOS of the GPUs", "adapter_firmware": "firmware of adapters",
    "adapter_links": "links of adapters", "efa_installer": "EFA installer",
    "libfabric": "libfabric", "aws_ofi_nccl": "aws-ofi-nccl", "databricks_runtime": "Databricks Runtime",
    "job": "job",
}  # fmt: skip
_DEVICE = re.compile(r"(?P<kind>gpu|cpu)(?P<number>[0-9]{1,4})(?P<rest>-.*)?", re.DOTALL)
_ELSEWHERE = ("variables", "extra", "extra_errors", "platforms", "system")


@dataclass(frozen=True)
class Workload:
    """A target: whether it can be trained here, and what it takes. ``state`` is a word with a colour."""

    name: str
    title: str
    state: str
    said: str
    is_required: bool
    memory: str
    needed: float | None
    share: float | None
    plan: str
    formats: str
    expect: str
    published: Sequence[tuple[str, str]]
    reasons: Sequence[str]
    recipe: str


def labels(gpus: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The short names of GPUs and slices (gpu0, gpu0-mig1), as in the ids of checks, by their UUIDs."""
    found: dict[str, str] = {}
    for gpu in gpus:
        name = f"gpu{gpu['index']}"
        found[str(gpu.get("uuid") or name)] = name
        for place, slice_ in enumerate(gpu.get("mig_devices") or ()):
            found[str(slice_["uuid"])] = f"{name}-mig{place}"
    return found


def phrases(run: Mapping[str, Any]) -> Iterator[str]:
    """GPUs, driver and PyTorch in a few words each."""
    environment = run.get("environment", {})
    gpus = tuple(Gpu(index=gpu["index"], name=gpu.get("name")) for gpu in run.get("gpus", []))
    if gpus or environment:
        yield describe_gpus(gpus)
    for key, name in (("driver", "driver"), ("torch", "PyTorch")):
        if environment.get(key):
            yield f"{name} {environment[key]}"


def gpus(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the table of GPUs."""
    return [
        {
            "label": f"gpu{entry['index']}",
            "name": entry.get("name") or "unreadable",
            "memory": _bytes(entry.get("memory_bytes")),
            "free": _bytes(entry.get("free_memory_bytes")),
            "capability": ".".join(map(str, entry.get("compute_capability") or ())),
            "uuid": entry.get("uuid") or "",
            "pci": entry.get("pci_address") or "",
            "slices": [str(slice_["name"]) for slice_ in entry.get("mig_devices") or ()],
            "errors": [f"{call}: {text}" for call, text in (entry.get("errors") or {}).items()],
        }
        for entry in entries
    ]


def environment(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of the environment, by name."""
    known = [(key, name) for key, name in _NAMES.items() if key in facts]
    others = [(key, key.replace("_", " ")) for key in facts if key not in _NAMES and key not in _ELSEWHERE]
    return [(name, text) for key, name in [*known, *others] if (text := _text(facts[key]))]


def targets(entries: Iterable[Mapping[str, Any]]) -> list[Workload]:
    """The rows of the table of workloads: those that can run here first."""
    order = {"PASSED": 0, "warning": 1, "none": 2, "FAILED": 3}
    return sorted(map(_target, entries), key=lambda target: order[target.state])


def package(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a package."""
    return {
        "name": entry["name"],
        "version": entry.get("version") or "",
        "latest": entry.get("latest") or "",
        "where": entry.get("where") or "",
        "said": entry.get("obstacle") or entry.get("fate") or "",
    }


def runs(parameters: Iterable[str]) -> Iterator[str]:
    """Parameters of checks with runs of devices as one.

    ``["gpu0-bf16", "gpu1-bf16", "gpu2-bf16", "fp16"]`` becomes ``gpu0 to gpu2 bf16`` and ``fp16``.
    """
    found: dict[tuple[str, str], list[int]] = {}
    for parameter in filter(None, parameters):
        match = _DEVICE.fullmatch(parameter)
        key = (match["kind"], match["rest"] or "") if match else ("", parameter)
        found.setdefault(key, []).extend([int(match["number"])] if match else [])
    for (kind, rest), places in found.items():
        yield f"{_joined(kind, places)} {rest.removeprefix('-')}".strip()


def _joined(kind: str, places: Sequence[int]) -> str:
    is_run = len(places) > 2 and list(places) == list(range(places[0], places[0] + len(places)))
    return f"{kind}{places[0]} to {kind}{places[-1]}" if is_run else ", ".join(f"{kind}{place}" for place in places)


def _target(entry: Mapping[str, Any]) -> Workload:
    state, said = _prospects(entry)
    needed, available = finite(entry.get("estimated_memory_bytes")), finite(entry.get("available_memory_bytes"))
    least = "at least " if entry.get("is_lower_bound") else ""
    of = f" of {number(available, 'B')}" if available else ""
    expected = finite(entry.get("expected_tokens_per_s"))
    return Workload(
        name=entry["name"],
        title=entry.get("title") or entry["name"],
        state=state,
        said=said,
        is_required=bool(entry.get("required")),
        memory=f"{least}{number(needed, 'B')}{of}" if needed else "",
        needed=needed,
        share=min(max(needed / available, 0.0), 1.0) if needed and available and available > 0 else None,
        plan=entry.get("plan") or "",
        formats=", ".join(map(str, entry.get("formats") or ())),
        expect=number(expected, "tokens/s") if expected else "",
        published=[
            (f"{number(figure['value'], figure['unit'])} on {figure['gpu']}", figure["how"])
            for figure in entry.get("published") or ()
        ],
        reasons=[] if entry["runnable"] else list(entry.get("reasons") or ()),
        recipe=entry.get("recipe") or "",
    )


def _prospects(entry: Mapping[str, Any]) -> tuple[str, str]:
    if entry["runnable"]:
        return "PASSED", "yes"
    if entry.get("fits") and not entry.get("installed"):
        return "warning", "after install"
    # What nobody asked for blocks nothing.
    return ("FAILED", "no") if entry.get("required") else ("none", "no")


def _bytes(value: object) -> str:
    size = finite(value)
    return "" if size is None else number(size, "B")


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {text}" for key, one in value.items() if (text := _text(one)))
    if isinstance(value, list):
        return ", ".join(filter(None, map(_text, value)))
    return "" if value is None or value == 0 else str(value)
