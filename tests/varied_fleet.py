"""A fleet in which everything happens that a page has to show, of any size."""

from __future__ import annotations

import random
from datetime import datetime, timezone
from typing import Any

from fleets import HOUR, NOW, Json, begun, fleet, job, node, numbers
from test_report import complete
from test_verdict import PACKAGE, declared, document, found, ran, skipped

TOPICS = (
    "host", "platform", "driver", "health", "torch", "numerics", "precision", "forward", "lightning", "benchmark",
    "interconnect", "collectives", "training", "stack", "packages", "targets",
)  # fmt: skip
_NAMES = ("holds", "is_whole", "is_known")
_GPU = {
    "name": "NVIDIA H100 80GB HBM3", "pci_address": None, "memory_bytes": 85899345920, "free_memory_bytes": None,
    "compute_capability": [9, 0], "mig_enabled": False, "mig_devices": [], "errors": None,
}  # fmt: skip
_LOADS, _ROWS, _HANGS, _MISSED, _SHM = (
    "bionemo/driver::loads", "bionemo/health::no_row_is_left", "bionemo/health::answers",
    "bionemo/collectives::every_node_arrives", "bionemo/host::shared_memory",
)  # fmt: skip
_NO_DRIVER = {
    "message": "no driver answers: NVML Shared Library Not Found", "why": "no CUDA call works without it",
    "fix": "load it:\n$ sudo modprobe nvidia\nor install it:\n$ sudo apt-get install nvidia-open-580",
}  # fmt: skip
_NO_ROWS = {
    "message": "GPU 3: 1 row could not be remapped", "action": "REPLACE_NODE", "why": "this memory is worn out",
    "fix": "replace the node, and do not reset the GPU before: its counters are the evidence",
}  # fmt: skip
_HUNG = {
    "message": "GPU 5 did not answer within 30 s", "action": "RESET_GPU", "why": "whatever runs on it hangs",
    "fix": "end what runs on it, then:\n$ sudo nvidia-smi --gpu-reset -i 5",
}  # fmt: skip
_SMALL = {
    "message": "/dev/shm is 64 MiB; 1 GiB is needed", "action": "NONE", "fix": "$ docker run --ipc=host ...",
}  # fmt: skip


def host(number: int) -> str:
    """The name of a node, counted from 0."""
    return f"gpu{number + 1:04d}"


def document_of(size: int) -> Json:
    """The fleet's document of so many nodes, four at least; the last one is missing."""
    chosen = random.Random(size)
    reports = [_report(number, size, chosen) for number in range(size - 1)]
    hosts = ",".join(host(number) for number in range(size))
    for one in reports:
        one["bionemo"]["environment"]["job"] |= {"node_list": hosts, "nodes": size}
    read = [node(one, f"reports/{one['bionemo']['environment']['hostname']}.json") for one in reports]
    if size > 11:
        read[7] = node(begun(host(7)), f"reports/job-4711/{host(7)}.json")
        read += [
            node(_started(reports[9], 2 * HOUR), f"copies/{host(9)}.json"),
            node(_started(reports[10], 30 * HOUR, "4650"), f"job-4650/{host(10)}.json"),
        ]
    unreadable = [("reports/core.1234.json", "is no JSON: it is truncated or damaged")] if size > 11 else []
    return fleet(*read, unreadable=unreadable)


def _started(report: Json, age: float, name: str | None = None) -> Json:
    began = datetime.fromtimestamp(NOW - age, timezone.utc).isoformat(timespec="seconds")
    environment = report["bionemo"]["environment"]
    changed = {**environment, "job": {**environment["job"], "id": name or environment["job"]["id"]}}
    return {**report, "bionemo": {**report["bionemo"], "started": began, "environment": changed}}


def _report(number: int, size: int, chosen: random.Random) -> Json:
    absent = {"stack", "packages"}
    checks = [declared(f"bionemo/{topic}::{name}", level="standard") for topic in TOPICS for name in _NAMES]
    tests = [
        skipped(check["id"], outcome="not_applicable", message="nothing of it is here")
        if check["topic"] in absent
        else ran(check["id"])
        for check in checks
    ]
    for check, test in _special(number, size):
        checks.append(check)
        tests.append(test)
    uuids = [f"GPU-{number:04d}-{index}" for index in range(8)]
    gpus = [{**_GPU, "index": index, "uuid": uuid} for index, uuid in enumerate(uuids)]
    slow = 0.86 if number % 300 == 17 else 1.0
    values = [
        (name, usual * chosen.gauss(1, 0.004) * (slow if uuid.endswith("-2") else 1), unit, uuid)
        for name, usual, unit in (("matmul_bf16", 710.0, "TFLOP/s"), ("memory_read", 3.05, "TB/s"))
        for uuid in uuids
    ]
    environment = {
        "hostname": host(number), "driver": "570.133.20" if number % 97 == 21 else "580.95.05", "torch": "2.13.0",
        "nccl": "2.28.1" if number % 50 == 3 else "2.29.2", "python": "3.12.3", "kernel": "6.8.0-1041-aws",
        "instance_type": "p5.48xlarge", "extra": {}, "job": job("4711", number),
    }  # fmt: skip
    made = document(
        checks,
        tests,
        int(any(test["outcome"] == "failed" for test in tests)),
        **complete(
            packages=[PACKAGE], gpus=gpus, measurements=numbers(values), environment=environment, level="standard"
        ),
    )
    return _started(made, HOUR + chosen.random() * 60)


def _special(number: int, size: int) -> list[tuple[Json, Json]]:
    """What is not well on this node."""
    made: list[tuple[Json, Json]] = []

    def add(nodeid: str, test: Json, **changes: Any) -> None:
        made.append((declared(nodeid, **changes), test))

    if number % 60 == 1:
        add(_LOADS, found(_LOADS, **_NO_DRIVER))
        for topic in ("torch", "precision", "training"):
            waiting = f"bionemo/{topic}::waits"
            add(waiting, skipped(waiting, outcome="not_run", message="no driver answers", waits_for=_LOADS))
    if number % 333 == 30:
        add(_ROWS, found(_ROWS, **_NO_ROWS))
    if number % 500 == 40:
        add(_HANGS, found(_HANGS, **_HUNG))
    if number % 8 == 2:
        add(_SHM, found(_SHM, "warned", **_SMALL), severity="warning")
    if number % 120 == 12:
        deselected = "bionemo/forward::is_deterministic[gpu0]"
        add(deselected, skipped(deselected, outcome="not_run", message="deselected"))
    if size > 60 and number in (5, 6, 8):
        missed = {"message": "rank 50 did not arrive within 60 s", "action": "REBOOT_NODE", "blames": host(50)}
        add(_MISSED, found(_MISSED, **missed))
    return made
