"""Shared memory (/dev/shm), through which the workers of data loaders and the ranks of a node talk."""

from __future__ import annotations

from pytest_bionemo import fixes
from pytest_bionemo.checking import check, fail
from pytest_bionemo.checks.host.shared import gpus_to_use, in_words
from pytest_bionemo.facts import host as facts
from pytest_bionemo.probes import storage as storages
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.storage import Folder, Storage

_CLEAN_SHARED_MEMORY = ["see what ended processes have left there, and remove it:", "$ ls -la /dev/shm"]


@check(needs=["linux"])
def shared_memory_works(storage: Storage) -> None:
    """Shared memory can be written.

    Why: data loaders with workers, and GPUs that work together, fail as soon as they start.

    How it decides: /dev/shm has to be there, this user has to be allowed to write in it, and room and inodes have to
    be left.

    Fix: mount /dev/shm, writable, and empty it; for a container: docker run --ipc=host, or --shm-size.
    """
    folder = _shared_memory(storage)
    problem, fix = folder.problem, _shared_memory_of_the_machine()
    if not folder.exists:
        problem = "it is not there"
    elif problem is None and (folder.free == 0 or folder.inodes == 0):
        problem, fix = f"it is full ({in_words(folder.size or 0)})", _CLEAN_SHARED_MEMORY
    if problem:
        fail(
            f"processes cannot share memory in {storages.SHARED_MEMORY}: {problem}",
            why="data loaders with workers, and GPUs that work together, fail as soon as they start",
            fix=fix,
        )


@check(severity="warning", needs=["linux"])
def shared_memory_is_enough(storage: Storage, machine: Machine) -> None:
    """Shared memory has room for data loaders and for GPUs that work together.

    Why: when it is full, data loaders end with a bus error and NCCL does not start; containers are given very little
    of it unless they ask.

    How it decides: it compares the size of /dev/shm, and what is left of it, with what one GPU or several need, and
    sees that it really is memory.

    Fix: give the container more: docker run --ipc=host, or --shm-size; in Kubernetes an emptyDir of medium Memory.
    """
    folder = _shared_memory(storage)
    if folder.in_memory is False:
        fail(
            f"{storages.SHARED_MEMORY} is no memory: it lies on the file system of a disk",
            why="every batch that a data loader hands over goes through the disk",
            fix=_larger_shared_memory(machine.host),
        )
    gpus = gpus_to_use(machine)
    several = facts.threshold("shared_memory_for_several_gpus")
    too_little = several - 1 if gpus > 1 else facts.threshold("shared_memory_of_a_container")
    expected = f"{in_words(several)} or more for {gpus} GPUs" if gpus > 1 else f"more than {in_words(too_little)}"
    default = facts.threshold("shared_memory_of_a_container")
    if folder.size is not None and folder.size <= too_little:
        fail(
            f"{storages.SHARED_MEMORY} has {in_words(folder.size)}"
            f"{', which is what Docker gives' if folder.size == default else ''}, expected {expected}",
            why="data loaders with workers end with a bus error, and NCCL cannot start, when it is full",
            fix=_larger_shared_memory(machine.host),
            links=["https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html"],
        )
    if folder.free is not None and folder.free <= too_little:
        fail(
            f"{storages.SHARED_MEMORY} has {in_words(folder.free)} left of {in_words(folder.size or 0)}, "
            f"expected {expected}",
            why="data loaders with workers end with a bus error, and NCCL cannot start, when it is full",
            fix=_CLEAN_SHARED_MEMORY,
        )


def _shared_memory(storage: Storage) -> Folder:
    folder = storage.of(storages.SHARED_MEMORY)
    assert folder, "every folder answered"
    return folder


def _shared_memory_of_the_machine() -> list[str]:
    return [
        "start the container with the shared memory of the machine: docker run --ipc=host ...",
        "or, outside of one, mount it:",
        "$ sudo mount -t tmpfs -o mode=1777 tmpfs /dev/shm",
    ]


def _larger_shared_memory(host: Host) -> list[str]:
    if host.container == "kubernetes":
        return ["mount an emptyDir with medium: Memory at /dev/shm in the pod"]
    if host.container:
        return fixes.alternatives("docker run --ipc=host ...", "docker run --shm-size=16g ...")
    return ["$ sudo mount -o remount,size=50% /dev/shm"]
