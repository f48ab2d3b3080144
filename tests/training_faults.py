"""A job whose nodes are threads of a test and whose ranks are real processes, forked with torch already imported.

Each node runs a check as its pytest would. In one of the ranks a fault is put: into a kernel, into what is exchanged,
or into the files on the disk.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pytest_bionemo.checking import CheckFailed, NotApplicable, NotRun
from pytest_bionemo.compute import Compute, ComputeDevice
from pytest_bionemo.desk import Desk
from pytest_bionemo.ranks import Encounter, Ranks
from pytest_bionemo.worker import Numbers, Trouble, WorkloadFailed, _answer
from pytest_bionemo.workloads import KIND, LOCAL_RANK, LOCAL_SIZE, NAME
from pytest_bionemo.workloads.meeting import Place

DEADLINE = 60.0
SLOWNESS_S = 1.5
# Of an exchange that is late: all of its steps end before the deadline.
_LATEST_S = 4.0
_IMPORTED = ["torch.distributed", "transformers.models.esm.modeling_esm", "pytest_bionemo.workloads.parallel_esm2"]
Ended = CheckFailed | NotRun | NotApplicable | None


class Job:
    """Nodes node1, node2, ...; ``devices`` says how many pretend devices each of them has."""

    def __init__(self, devices: Sequence[int]) -> None:
        self.hosts = [f"node{number}" for number in range(1, len(devices) + 1)]
        self._devices = devices
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_IMPORTED)

    def run(
        self, check: Callable[[Ranks], object], fault: str = "", on: str = ""
    ) -> tuple[dict[str, Ended], dict[str, list[Any]]]:
        """How the check ended on each node, and what it measured there; with the fault in ``on``, "host device"."""
        desk = Desk(0, "job 7")
        nodes = range(len(self.hosts))
        places = [Place(node, len(nodes), "127.0.0.1", desk.port, self.hosts, "job 7") for node in nodes]
        measured: dict[str, list[Any]] = {host: [] for host in self.hosts}

        def of_node(place: Place, count: int) -> Ended:
            spoilt = {f"cpu{index}": fault for index in range(count) if f"{place.host} cpu{index}" == on}
            workers: Any = Forked(self._context, count, spoilt)
            options: Any = SimpleNamespace(level="standard", device="cpu")
            properties = measured[place.host]
            machine: Any = None
            found = [
                Compute(ComputeDevice(label, label), workers, machine, options, properties)
                for label in workers.labels
            ]
            try:
                check(Ranks(found, workers, Encounter(place), DEADLINE))
            except (CheckFailed, NotRun, NotApplicable) as ended:
                return ended
            return None

        with ThreadPoolExecutor(len(self.hosts)) as threads:
            ended = list(threads.map(of_node, places, self._devices))
        desk.close()
        return dict(zip(self.hosts, ended, strict=True)), measured


class Forked:
    """The workers of one node, as ``Workers``: a fresh process for each workload."""

    def __init__(self, context: Any, count: int, faults: Mapping[str, str]) -> None:
        self.labels = tuple(f"cpu{index}" for index in range(count))
        self._context = context
        self._faults = faults
        self._answers: dict[str, dict[str, Numbers | WorkloadFailed]] = {}

    def run(self, device: str, workload: str, /, **parameters: Any) -> Numbers:
        """Start it on every device when it is first asked for."""
        request = repr((workload, parameters))
        if request not in self._answers:
            self._answers[request] = self._run(workload, parameters)
        answer = self._answers[request][device]
        if isinstance(answer, WorkloadFailed):
            raise answer
        return answer

    def _run(self, workload: str, parameters: Mapping[str, Any]) -> dict[str, Numbers | WorkloadFailed]:
        started = []
        for local, label in enumerate(self.labels):
            ours, theirs = self._context.Pipe(duplex=False)
            variables = {KIND: "cpu", NAME: label, LOCAL_RANK: str(local), LOCAL_SIZE: str(len(self.labels))}
            arguments = (theirs, variables, workload, parameters, self._faults.get(label, ""))
            process = self._context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            started.append((label, process, ours))
        return {label: _collect(label, workload, process, ours) for label, process, ours in started}


def _collect(label: str, workload: str, process: Any, answers: Any) -> Numbers | WorkloadFailed:
    try:
        answer = answers.recv() if answers.poll(DEADLINE) else None
    except EOFError:
        answer = None
    process.join(5)
    if process.is_alive():
        process.kill()
        return WorkloadFailed(workload, label, Trouble.HANG, f"it did not end within {DEADLINE:g} s")
    if answer is None:
        text = "killed by SIGKILL" if process.exitcode == -9 else f"ended with {process.exitcode}"
        return WorkloadFailed(workload, label, Trouble.DEATH, text)
    if "numbers" in answer:
        numbers: Numbers = answer["numbers"]
        return numbers
    return WorkloadFailed(workload, label, Trouble(answer["trouble"]), answer["text"], answer["blames"])


def _serve(answers: Any, variables: Mapping[str, str], workload: str, parameters: dict[str, Any], fault: str) -> None:
    import torch

    os.environ.update(variables)
    torch.set_num_threads(1)
    with FAULTS[fault](parameters) if fault else nullcontext():
        answers.send(_answer(workload, parameters))
    answers.close()
    os._exit(0)  # after a missed rank its group would wait


# --------------------------------------------------------------------------------------------------- faults


def softmax(factor: float = 1.0, seconds: float = 0.0) -> AbstractContextManager[None]:
    """The logarithm of the softmax of the losses, off by a factor, or slow."""
    import torch

    from kernels import replaced

    def log_softmax(x: torch.Tensor, dim: int, half_to_float: bool) -> torch.Tensor:
        time.sleep(seconds)
        shifted = x - x.amax(dim, keepdim=True)
        return (shifted - shifted.exp().sum(dim, keepdim=True).log()) * factor

    return replaced("_log_softmax", log_softmax)


@contextmanager
def exchange(factor: float = 1.0, lateness: float = 0.0) -> Iterator[None]:
    """The gradients that this rank gives to the others come with a factor, or late.

    ``lateness`` is counted in steps of its own, the longest so far: on a busy machine they take ten times as long.
    """
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    create = DistributedDataParallel.__init__
    forward: Any = DistributedDataParallel.forward
    began = longest = 0.0

    def begin(self: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal began
        began = time.monotonic()
        return forward(self, *arguments, **named)

    def spoil(state, bucket):  # type: ignore[no-untyped-def]  # DDP takes an annotation only if it is no text
        nonlocal longest
        longest = max(longest, time.monotonic() - began)
        time.sleep(min(_LATEST_S, lateness * longest))
        work = dist.all_reduce(bucket.buffer().mul_(factor / dist.get_world_size()), async_op=True)
        assert work is not None
        return work.get_future().then(lambda future: future.value()[0])

    def faulty(self: Any, *arguments: Any, **named: Any) -> None:
        create(self, *arguments, **named)
        self.register_comm_hook(None, spoil)

    DistributedDataParallel.__init__, DistributedDataParallel.forward = faulty, begin  # type: ignore[method-assign]
    try:
        yield
    finally:
        DistributedDataParallel.__init__, DistributedDataParallel.forward = create, forward  # type: ignore[method-assign]


@contextmanager
def damaged_checkpoint(parameters: Mapping[str, Any]) -> Iterator[None]:
    """One bit of the largest tensor in the checkpoint's first file is another one when it is read."""
    files = Path(parameters["folder"]).glob(".bionemo-checkpoint-*/*.distcp") if "folder" in parameters else ()
    for file in sorted(files)[:1]:
        content = bytearray(file.read_bytes())
        # Each tensor is an archive of its own: between two headers, the more bytes the larger it is.
        starts = [*(match.start() for match in re.finditer(rb"PK\x03\x04", content)), len(content)]
        size, start = max((end - start, start) for start, end in itertools.pairwise(starts))
        content[start + size // 2] ^= 1
        file.write_bytes(content)
    yield


@contextmanager
def own_disk(parameters: Mapping[str, Any]) -> Iterator[None]:
    """A file system of its own where the other nodes share one, mounted in a namespace of this process."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    folder = parameters.get("folder", "")
    if folder:
        new_mounts, private = 0x00020000, 0x00040000 | 0x4000  # CLONE_NEWNS; MS_PRIVATE | MS_REC
        assert libc.unshare(new_mounts) == 0
        assert libc.mount(b"none", b"/", None, private, None) == 0
        assert libc.mount(b"none", folder.encode(), b"tmpfs", 0, None) == 0
    yield


@contextmanager
def no_room(parameters: Mapping[str, Any]) -> Iterator[None]:
    """A real limit of this process: no file may be larger than a kilobyte."""
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    yield


@contextmanager
def no_survivor(_: Mapping[str, Any]) -> Iterator[None]:
    """No fault: the group is destroyed only if nothing of DistributedDataParallel is left."""
    import gc

    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    destroy = dist.destroy_process_group

    def watched(group: Any = None) -> None:
        alive = [one for one in gc.get_objects() if isinstance(one, DistributedDataParallel)]
        assert not alive, f"{len(alive)} of DistributedDataParallel outlive their group"
        destroy(group)

    dist.destroy_process_group = watched
    try:
        yield
    finally:
        dist.destroy_process_group = destroy


@contextmanager
def no_fully_shard(_: Mapping[str, Any]) -> Iterator[None]:
    """A PyTorch that has no such module."""
    import sys

    names = ("torch.distributed.fsdp", "torch.distributed._composable.fsdp")
    kept = {name: sys.modules.get(name) for name in names}
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]
    try:
        yield
    finally:
        sys.modules.update({name: module for name, module in kept.items() if module})


FAULTS: dict[str, Callable[[dict[str, Any]], AbstractContextManager[None]]] = {
    "computes wrong": lambda _: softmax(factor=1.00001),
    "computes no number": lambda _: softmax(factor=float("nan")),
    "computes slowly": lambda _: softmax(seconds=SLOWNESS_S),
    "loses gradients": lambda _: exchange(factor=0.0),
    "exchanges slowly": lambda _: exchange(lateness=20.0),
    "damaged checkpoint": damaged_checkpoint,
    "no room": no_room,
    "own disk": own_disk,
    "no survivor": no_survivor,
    "no fully_shard": no_fully_shard,
}
