"""The machine around Python."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from pytest_bionemo import fixes, rules
from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.facts import host as facts
from pytest_bionemo.facts import wheels
from pytest_bionemo.model import Gpu, count
from pytest_bionemo.probes import processors, visible
from pytest_bionemo.probes import storage as storages
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.storage import Folder, Storage

_COMPILED = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR")
_CLEAN_SHARED_MEMORY = ["see what ended processes have left there, and remove it:", "$ ls -la /dev/shm"]
_TEMPORARY = ("TMPDIR", storages.SPARE)
# What holds weights, checkpoints and data sets.
_LARGE = {"HOME", "BIONEMO_CACHE_DIR", "HF_HOME", "TORCH_HOME"}
# Enough for all; "unlimited" can be a thousand million, and some programs close each of them when they start.
_OPEN_FILES = 65536


@check()
def runs_linux(host: Host) -> None:
    """The operating system is Linux.

    Why: no CUDA build of PyTorch and no BioNeMo package is published for another system.

    How it decides: it compares what the kernel calls itself with Linux; WSL 2 is Linux.

    Fix: run on Linux; on Windows, inside WSL 2.
    """
    if not rules.is_linux(host):
        fail(
            f"the operating system is {host.system}; PyTorch for CUDA and BioNeMo run on Linux",
            why="no CUDA build of PyTorch and no BioNeMo package is published for it",
            fix=["run this on Linux", "or, on Windows, inside WSL 2"],
        )


@check(needs=["linux"])
def has_supported_processor(host: Host) -> None:
    """The processor architecture is one that PyTorch is built for.

    Why: pip finds no PyTorch for CUDA to install on any other processor.

    How it decides: it looks the architecture of the processor up among those that PyTorch's wheels for CUDA are built
    for.

    Fix: use a machine with a processor that PyTorch for CUDA is built for.
    """
    if not rules.has_torch_processor(host):
        supported = wheels.supported_machines()
        fail(
            f"the processor is {host.machine}; PyTorch for CUDA is built for {' and '.join(supported)}",
            why="pip finds no PyTorch to install",
            fix=f"use a machine with one of: {', '.join(supported)}",
        )


@check(needs=["linux"])
def has_glibc_for_torch(host: Host, machine: Machine) -> None:
    """The C library can load PyTorch's wheels.

    Why: with an older C library pip finds no PyTorch, and one that was installed elsewhere does not load.

    How it decides: it compares the version of glibc with the oldest that the wheels of PyTorch run on. A PyTorch that
    has been imported is the stronger proof: then no version is compared.

    Fix: use a newer Linux, or a container image with one.
    """
    # A PyTorch that is loaded is the stronger proof.
    if machine.torch_build.version is None and not rules.has_torch_glibc(host):
        seen = f"glibc is {host.glibc}" if host.glibc else "the C library is not glibc"
        fail(
            f"{seen}; PyTorch's wheels need glibc {wheels.minimum_glibc()} or newer",
            why="pip finds no PyTorch to install, or the one installed elsewhere does not load",
            fix="use a newer Linux, or a container image with one (Ubuntu 20.04, Debian 10, RHEL 8 and newer)",
        )


@check(needs=["linux"])
def has_python_for_torch(host: Host, machine: Machine) -> None:
    """PyTorch has wheels for this Python.

    Why: for any other Python pip finds no PyTorch to install.

    How it decides: it looks for a 64-bit Python of a version that wheels are published for. A PyTorch that has been
    imported is the stronger proof.

    Fix: use a 64-bit Python of a version that PyTorch has wheels for.
    """
    if machine.torch_build.version is None and (problem := rules.python_problem(host)):
        newest = facts.newest_python()
        fail(
            f"this is {problem}; PyTorch has wheels for 64-bit Pythons up to {newest}",
            why="pip finds no PyTorch to install",
            fix=f"make a virtual environment with Python {facts.recommended_python()}, which BioNeMo's recipes use",
        )


# ------------------------------------------------------------------------------------------------ shared memory


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
        problem, fix = f"it is full ({_size(folder.size or 0)})", _CLEAN_SHARED_MEMORY
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
    gpus = _gpus(machine)
    several = facts.threshold("shared_memory_for_several_gpus")
    too_little = several - 1 if gpus > 1 else facts.threshold("shared_memory_of_a_container")
    expected = f"{_size(several)} or more for {gpus} GPUs" if gpus > 1 else f"more than {_size(too_little)}"
    default = facts.threshold("shared_memory_of_a_container")
    if folder.size is not None and folder.size <= too_little:
        fail(
            f"{storages.SHARED_MEMORY} has {_size(folder.size)}"
            f"{', which is what Docker gives' if folder.size == default else ''}, expected {expected}",
            why="data loaders with workers end with a bus error, and NCCL cannot start, when it is full",
            fix=_larger_shared_memory(machine.host),
            links=["https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html"],
        )
    if folder.free is not None and folder.free <= too_little:
        fail(
            f"{storages.SHARED_MEMORY} has {_size(folder.free)} left of {_size(folder.size or 0)}, "
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


# --------------------------------------------------------------------------------- limits, memory and processors


@check(severity="warning", needs=["linux"])
def locks_memory_for_rdma(machine: Machine) -> None:
    """The network adapters may lock the memory that they read and write.

    Why: NCCL cannot register its buffers with the adapters, and training on several nodes does not start.

    How it decides: it compares the limit of locked memory of this process with the least that RDMA needs. A process
    that may lock as much as it likes passes.

    Fix: lift the limit of locked memory: ulimit -l unlimited, or docker run --ulimit memlock=-1.
    """
    limits = machine.limits
    if not limits.rdma_devices:
        not_applicable("no RDMA device (InfiniBand, RoCE, EFA) is here, or none that this process was given")
    if limits.locks_at_will or limits.locked_memory is None:
        return
    if limits.locked_memory < (needed := facts.threshold("locked_memory")):
        adapters = f"{count(len(limits.rdma_devices), 'adapter')} ({', '.join(limits.rdma_devices[:4])})"
        fail(
            f"this process may lock {_size(limits.locked_memory)} of memory, expected unlimited or at least "
            f"{_size(needed)} for {adapters}",
            why="NCCL cannot register its buffers with the adapters: training on several nodes does not start",
            fix=fixes.alternatives(
                "start the container with docker run --ulimit memlock=-1 ...",
                "under Slurm: LimitMEMLOCK=infinity for slurmd, PropagateResourceLimitsExcept=MEMLOCK in slurm.conf",
                "on the host: memlock unlimited in /etc/security/limits.conf, then log in again",
            ),
        )


@check(severity="warning", needs=["linux"])
def opens_enough_files(machine: Machine) -> None:
    """A process may open as many files as data loaders need.

    Why: PyTorch holds a descriptor for each tensor that a data loader hands over, and ends with 'Too many open
    files'.

    How it decides: it compares the soft limit of open files of this process with what Linux gives everybody: less was
    set by somebody.

    Fix: raise the limit: ulimit -n, or LimitNOFILE of the service.
    """
    limits, needed = machine.limits, facts.threshold("open_files")
    if limits.open_files is not None and limits.open_files < needed:
        hard = limits.open_files_hard
        own = hard is None or hard >= needed
        raise_it = "raise nofile in /etc/security/limits.conf, or docker run --ulimit nofile=65536 ..."
        fail(
            f"this process may open {limits.open_files} files, expected {needed} or more",
            why="PyTorch holds a descriptor for each tensor that a loader hands over: 'Too many open files'",
            fix=f"$ ulimit -n {min(hard or _OPEN_FILES, _OPEN_FILES)}" if own else raise_it,
        )


@check(severity="warning", needs=["linux"])
def starts_enough_processes(machine: Machine) -> None:
    """The user and the control group may start the processes of training.

    Why: ranks, their threads and data loaders count: a start breaks off in the middle with 'Resource temporarily
    unavailable'.

    How it decides: it compares what is left in the control group, and the limit of this user, with the tasks of one
    rank for each GPU.

    Fix: raise the limit: ulimit -u, docker run --pids-limit, or TasksMax of the service.
    """
    limits, needed = machine.limits, facts.threshold("tasks_per_gpu") * _gpus(machine)
    why = "ranks, their threads and data loaders count: 'Resource temporarily unavailable' in the middle of a start"
    if limits.tasks and limits.tasks.left < needed:
        fail(
            f"the control group allows {limits.tasks.limit} processes and threads, of which {limits.tasks.left} are "
            f"left, expected {needed} or more for {_of_gpus(machine)}",
            why=why,
            fix=fixes.alternatives(
                "docker run --pids-limit -1 ...",
                "in Kubernetes: a higher podPidsLimit of the kubelet",
                "under systemd: a higher TasksMax of the unit",
            ),
        )
    if limits.processes is not None and limits.processes < needed:
        fail(
            f"this user may start {limits.processes} processes and threads (ulimit -u), expected {needed} or more "
            f"for {_of_gpus(machine)}",
            why=why,
            fix=["raise nproc in /etc/security/limits.conf, then log in again"],
        )


@check(severity="warning", needs=["linux"])
def address_space_is_unlimited(machine: Machine) -> None:
    """No limit is set on the addresses of this process.

    Why: CUDA reserves addresses for the memory of all GPUs and of the machine, and ends with 'out of memory' although
    there is plenty.

    How it decides: any limit of the address space (ulimit -v) is one too many.

    Fix: lift the limit: ulimit -v unlimited.
    """
    if (limit := machine.limits.address_space) is not None:
        fail(
            f"the address space of this process is limited to {_size(limit)} (ulimit -v), expected unlimited",
            why="CUDA reserves addresses for the memory of all GPUs and of the machine: it ends with 'out of memory'",
            fix=fixes.alternatives("$ ulimit -v unlimited", "ask for the memory of the job by another limit"),
        )


@check(severity="warning", needs=["linux"])
def may_use_enough_memory(machine: Machine) -> None:
    """No control group holds this job to less memory than its GPUs need.

    Why: when the control group is full, the kernel kills a rank or a data loader without a word in the log of the
    training.

    How it decides: it compares the limit of the control group (v1 or v2) with what each visible GPU needs. Where the
    machine itself has no more, nobody can lift the limit, and it says nothing.

    Fix: ask the scheduler, or the container, for more memory.
    """
    needed = facts.threshold("memory_per_gpu") * _gpus(machine)
    if (limit := _low_memory_limit(machine, needed)) is not None:
        total = machine.limits.memory_total
        there = f" of the machine's {_size(total)}" if total else ""
        fail(
            f"the control group allows {_size(limit)} of memory{there}, "
            f"expected {_size(needed)} or more for {_of_gpus(machine)}",
            why="the kernel kills a rank or a data loader when the group is full",
            fix=_ask_for_more("memory", "--memory", "--mem"),
        )


def _low_memory_limit(machine: Machine, needed: int) -> int | None:
    """A limit of control groups below that; None where the machine has no more itself, which nobody can lift."""
    group, total = machine.limits.memory, machine.limits.memory_total
    is_low = group is not None and group.limit < needed and (total is None or group.limit < total)
    return group.limit if group and is_low else None


@check(severity="warning", needs=["linux"])
def memory_is_available(machine: Machine) -> None:
    """Memory is available now, and nothing waits for it.

    Why: what is started now swaps, or is killed.

    How it decides: it compares the memory that the kernel calls available, and what is left in the control group,
    with what starting PyTorch takes; and it reads for how much of the last minute every process waited for memory.

    Fix: stop what holds the memory, or use a machine with more.
    """
    limits, needed = machine.limits, facts.threshold("available_memory")
    if limits.memory_available is None:
        not_applicable("the kernel does not say how much memory is available (/proc/meminfo)")
    who = ["see who holds it:", "$ ps -eo pid,rss,comm --sort=-rss | head"]
    if limits.memory_available < needed:
        total = f" of {_size(limits.memory_total)}" if limits.memory_total else ""
        fail(
            f"{_size(limits.memory_available)}{total} of memory are available, expected {_size(needed)} or more",
            why="starting PyTorch alone takes this much: something will swap or be killed",
            fix=who,
        )
    # A limit that is too low for anything is another check's.
    is_low = _low_memory_limit(machine, facts.threshold("memory_per_gpu") * _gpus(machine)) is not None
    if limits.memory and limits.memory.left < needed and not is_low:
        fail(
            f"of the {_size(limits.memory.limit)} of memory that the control group allows, "
            f"{_size(limits.memory.left)} are left, expected {_size(needed)} or more",
            why="the kernel kills a process of the group when it is full",
            fix=who,
        )
    if limits.memory_stall is not None and limits.memory_stall >= (most := facts.threshold("memory_stall")):
        fail(
            f"for {limits.memory_stall:g} % of the last minute every process waited for memory, expected less than "
            f"{most} %",
            why="the machine swaps: training waits with it, and data loaders time out",
            fix=who,
        )


@check(severity="warning", needs=["linux"])
def may_use_enough_cores(machine: Machine) -> None:
    """No limit holds this job to fewer processor cores than its GPUs need.

    Why: one core feeds a GPU and another one loads its data: with fewer the GPUs wait.

    How it decides: it compares the processor cores that this process may use (affinity and control group) with the
    cores of each visible GPU, or with all that the machine has, whichever is less.

    Fix: ask the scheduler, or the container, for more processor cores.
    """
    limits, needed = machine.limits, _needed_cores(machine)
    if _lacks_cores(machine):
        fail(
            f"this job may use {count(limits.cores, 'processor core')} of the machine's {limits.online_cores}, "
            f"expected {needed} or more for {_of_gpus(machine)}",
            why="one core feeds a GPU, another one loads its data: with fewer the GPUs wait",
            fix=_ask_for_more("cores", "--cpus", "--cpus-per-task"),
        )


def _needed_cores(machine: Machine) -> int:
    return facts.threshold("cores_per_gpu") * _gpus(machine)


def _lacks_cores(machine: Machine) -> bool:
    return machine.limits.cores < min(_needed_cores(machine), machine.limits.online_cores)


def _ask_for_more(what: str, docker: str, slurm: str) -> list[str]:
    return fixes.alternatives(
        f"start the container with a higher {docker}, or without it",
        f"ask the scheduler for more: a higher {slurm} in Slurm, a higher limit of {what} in the pod",
    )


@check(severity="warning", needs=["linux"])
def processors_are_not_held_slow(machine: Machine) -> None:
    """No governor holds the processors at their lowest frequency.

    Why: launching kernels and loading data are as slow as the processor, and the GPUs wait for both.

    How it decides: it reads the governor of each processor: powersave is the lowest frequency, except under the
    drivers that mean something else by it.

    Fix: set the governor performance.
    """
    scaling = machine.scaling
    if not scaling:
        not_applicable("nothing here sets the frequency of the processors (a virtual machine, or no driver)")
    slow = [one for one in scaling if one.governor == "powersave" and one.driver not in facts.own_powersave()]
    if slow:
        processors = sum(one.processors for one in slow)
        fail(
            f"the governor of {count(processors, 'processor')} is powersave under the driver {slow[0].driver}, which "
            "is always the lowest frequency; expected performance, schedutil or ondemand",
            why="launching kernels and loading data are as slow as the processor: the GPUs wait",
            fix=["$ sudo cpupower frequency-set -g performance"],
        )


@check(severity="warning", needs=["linux"])
def is_near_its_gpus(gpus: tuple[Gpu, ...], machine: Machine) -> None:
    """Of each GPU's socket this process may use a processor.

    Why: every copy to a GPU of the other socket crosses the link between the sockets.

    How it decides: for each visible GPU it takes the NUMA distance from the GPU's node to the nearest processor that
    this process may use, and compares it with the distance at which a node counts as another socket.

    Fix: bind the process to the processors of its GPUs' socket, or to none.
    """
    if _lacks_cores(machine):
        wait_for("host::may_use_enough_cores", "this job may use too few processor cores to be near every GPU")
    seen = visible.read(gpus, machine.variables)
    used = [gpu for gpu in gpus if seen.problem or _is_used(gpu, seen.uuids)]
    places = [(gpu, place) for gpu in used if (place := processors.placement(gpu.pci_address))]
    if not places:
        not_applicable("the machine does not say which NUMA node its GPUs are on")
    remote = facts.threshold("remote_node")
    far = [(gpu, place) for gpu, place in places if place.distance and place.distance >= remote]
    if far:
        nodes = ", ".join(str(node) for node in sorted({place.node for _, place in far}))
        fail(
            f"{count(len(far), 'GPU')} ({', '.join(str(gpu.index) for gpu, _ in far)}) of NUMA node {nodes}: every "
            f"processor that this process may use is on another socket (distance {far[0][1].distance}, "
            f"expected below {remote})",
            why="every copy to these GPUs crosses the link between the sockets",
            fix=[
                "bind each rank to the processors of its GPU:",
                f"$ numactl --cpunodebind={far[0][1].node} ...",
                "or, under Slurm, ask for --gpu-bind=closest, or for cores of both sockets",
            ],
        )


# ------------------------------------------------------------------------------------------------------ folders


@check(needs=["linux"])
def folders_answer(machine: Machine) -> None:
    """The folders that training writes to answer.

    Why: a file system that hangs stops everything that touches it, and no signal ends that.

    How it decides: a child process with a deadline asks for each folder that training writes to; one that gives no
    answer is named.

    Fix: mount the file system again, or name folders on another one.
    """
    if machine.storage.failure and (place := rules.unwell_folder(machine)):
        wait_for("platform::shared_file_systems_answer", f"{place} does not answer")
    if machine.storage.failure and not machine.storage.hangs:
        wait_for(None, f"the folders could not be looked at: {machine.storage.failure}")
    if machine.storage.failure:
        fail(
            f"a folder that training uses does not answer: {machine.storage.failure}",
            why="a file system that hangs stops everything that touches it, and cannot be killed",
            fix=[
                "see which file system it is, and mount it again:",
                "$ cat /proc/mounts",
                "or name folders on another one (HOME, HF_HOME, TMPDIR)",
            ],
        )


@check(needs=["linux"])
def temporary_folder_works(storage: Storage) -> None:
    """Temporary files can be written.

    Why: compilers, Triton and data loaders cannot start without temporary files.

    How it decides: the folder of TMPDIR, or the one that Python would choose, has to exist, to be writable and to
    have room. Where another one works instead, it only warns.

    Fix: name a folder that this user can write in TMPDIR, or make room.
    """
    told = storage.of("TMPDIR")
    candidates = [folder for folder in storage.folders if {"TMPDIR", storages.SPARE} & set(folder.names)]
    broken = {folder.path: problem for folder in candidates if (problem := _unusable(folder))}
    if told and told.path in broken:
        usable = [folder.path for folder in candidates if folder.path not in broken]
        fail(
            f"temporary files cannot be written to {told.path}: {broken[told.path]}"
            + ("" if usable else "; nor to " + ", ".join(path for path in broken if path != told.path)),
            why="compilers and Triton fail there; Python takes another folder without a word" if usable
            else "PyTorch, Triton and data loaders cannot start without temporary files",
            fix=["name a folder that can be written:", "$ export TMPDIR=/path/to/a/folder"],
            severity="warning" if usable else None,
        )  # fmt: skip


def _unusable(folder: Folder) -> str | None:
    if not folder.exists and folder.problem is None:
        return "it does not exist"
    if folder.problem is None and (folder.free == 0 or folder.inodes == 0):
        return "it is full"
    return folder.problem


@check(severity="warning", needs=["linux"])
def caches_can_be_written(storage: Storage) -> None:
    """HOME and the caches of BioNeMo, PyTorch, Hugging Face and Triton can be written.

    Why: weights cannot be downloaded, and kernels are compiled again by every process, or not at all.

    How it decides: for HOME and each variable that names a cache it takes the nearest folder that exists, and asks
    whether this user may write there; nothing is written.

    Fix: name folders that this user can write in the variables that the finding names.
    """
    broken = [folder for folder in storage.folders if folder.problem and _is_cache(folder, storage)]
    if broken:
        # What is below one folder has one cause.
        groups = {folder.nearest: folder.problem for folder in broken}
        names = [name for folder in broken for name in folder.names if name not in _TEMPORARY]
        fail(
            f"{', '.join(names)} cannot be written: "
            + "; ".join(f"{nearest} ({problem})" for nearest, problem in groups.items()),
            why="weights cannot be downloaded, and kernels are compiled again by every process, or not at all",
            fix=["name folders that this user can write:", *_exports(names)],
        )


@check(severity="warning", needs=["linux"])
def disk_has_room(storage: Storage) -> None:
    """The caches and the folder for temporary files have room.

    Why: downloads, compiled kernels and checkpoints end with 'No space left on device'.

    How it decides: it compares the free room and the free inodes of each file system on which a cache or temporary
    files lie with the least that they need; several folders of one file system count once.

    Fix: make room, or move the caches to a larger disk with the variables that the finding names.
    """
    places: dict[int | str, list[Folder]] = {}
    for folder in storage.folders:
        is_for_others = storages.SHARED_MEMORY in folder.names or folder.names == (storages.SPARE,)
        if not folder.problem and not is_for_others and not _is_in_broken_temporary_folder(folder, storage):
            # Paths of one file system share its room.
            places.setdefault(folder.device or folder.nearest, []).append(folder)
    lacking: dict[str, list[str]] = {}
    for folders in places.values():
        if lack := _lack(folders):
            lacking.setdefault(lack, []).extend(name for folder in folders for name in folder.names)
    if lacking:
        names = [name for names in lacking.values() for name in names if name != storages.SPARE]
        fail(
            "; ".join(f"{', '.join(names)}: {lack}" for lack, names in lacking.items()),
            why="downloads, compiled kernels and checkpoints end with 'No space left on device'",
            fix=[
                "make room:",
                "$ df -h",
                "$ df -i",
                "or name folders on a larger file system:",
                *_exports(names),
            ],
        )


def _lack(folders: list[Folder]) -> str | None:
    """What one place has too little of; None for enough, and for what is not counted."""
    place, users = folders[0], {name for folder in folders for name in folder.names}
    is_temporary = "TMPDIR" in users and not users & _LARGE
    needed = facts.threshold("disk_for_temporary_files" if is_temporary else "disk_for_caches")
    if place.free is not None and place.free < needed:
        return f"{_size(place.free)} free in {place.nearest}, expected {_size(needed)} or more"
    if place.inodes is not None and place.inodes < (files := facts.threshold("inodes")):
        return f"room for {place.inodes} more files (inodes) in {place.nearest}, expected {files} or more"
    return None


@check(severity="warning", needs=["linux"])
def compiled_code_runs(storage: Storage) -> None:
    """What Triton, Inductor and PyTorch's extensions compile can be loaded from where they keep it.

    Why: a kernel that was compiled into such a folder does not load: 'failed to map segment from shared object'.

    How it decides: it reads from the mount options of each folder of compiled code whether its file system is mounted
    noexec.

    Fix: move the cache that the finding names to a file system that is not mounted noexec.
    """
    closed = [folder for folder in storage.folders if not folder.runs_code and set(folder.names) & set(_COMPILED)]
    if closed:
        names = [name for folder in closed for name in folder.names if name in _COMPILED]
        fail(
            f"the file system of {', '.join(sorted({folder.nearest for folder in closed}))} runs no code (noexec), "
            f"where {', '.join(names)} {'is' if len(names) == 1 else 'are'}",
            why="a compiled kernel does not load: 'failed to map segment from shared object'",
            fix=["name folders of a file system that runs code:", *_exports(names)],
            links=["https://github.com/pytorch/pytorch/issues/123054"],
        )


def _exports(names: list[str]) -> list[str]:
    """Commands that name other folders; the caches go with HOME."""
    return [f"$ export {name}=/path/to/a/folder" for name in (["HOME"] if "HOME" in names else names)]


def _is_in_broken_temporary_folder(folder: Folder, storage: Storage) -> bool:
    told = storage.of("TMPDIR")
    if told is None or "HOME" in folder.names or not _unusable(told):
        return False
    return f"{folder.path}/".startswith(f"{told.path.rstrip('/')}/")


def _is_cache(folder: Folder, storage: Storage) -> bool:
    """Whether it is one whose fault no other check states."""
    if _is_in_broken_temporary_folder(folder, storage):
        return False
    if folder.names == ("BIONEMO_CACHE_DIR",) and rules.has_package_with_cache():
        return False
    return not set(folder.names) <= {storages.SHARED_MEMORY, *_TEMPORARY}


# -------------------------------------------------------------------------------------------------------- clock


@check(severity="warning", needs=["linux"])
def clock_is_right(machine: Machine) -> None:
    """The clock shows a time that can be.

    Why: certificates are refused, so that nothing can be downloaded, and the nodes of a job do not agree on the time.

    How it decides: a time before this program was written, before the newest file of this Python, or many years ahead
    cannot be right; no network is asked.

    Fix: set the clock.
    """
    clock, known = machine.clock, facts.clock()
    problem = None
    if clock.now < known.earliest:
        problem = "before pytest-bionemo was written"
    elif clock.now > known.latest:
        problem = "too far in the future"
    elif clock.newest and clock.now < clock.newest - known.tolerance:
        problem = f"before the newest file of this Python was made ({_day(clock.newest)})"
    if problem:
        fail(
            f"the clock says {_day(clock.now)}: {problem}",
            why="certificates are refused, so that nothing can be downloaded, and the nodes of a job do not agree",
            fix=["set the clock:", "$ sudo timedatectl set-ntp true"],
        )


@check(severity="warning", needs=["linux"])
def clock_is_kept_right(machine: Machine) -> None:
    """What is here to set the clock has set it.

    Why: clocks that drift apart make Slurm refuse credentials (munge), and servers refuse certificates.

    How it decides: where a time service is installed, the kernel has to say that the clock is synchronised.

    Fix: start or repair the time service (chrony, systemd-timesyncd).
    """
    clock = machine.clock
    if clock.service is None or clock.synchronised is None:
        not_applicable("no service is seen that sets the clock here: in a container or virtual machine its host may")
    if not clock.synchronised and not clock.tells_kernel:
        not_applicable(f"{clock.service} does not tell the kernel whether the clock is right (rtcsync)")
    if not clock.synchronised:
        fail(
            f"{clock.service} is here to set the clock, but the kernel says that it is not synchronised",
            why="the nodes of a job drift apart: Slurm's credentials (munge) and certificates are refused",
            fix=[
                "see whether it reaches its servers:",
                "$ chronyc tracking" if clock.service == "chrony" else "$ timedatectl timesync-status",
            ],
        )


# -------------------------------------------------------------------------------------------------------- words


def _is_used(gpu: Gpu, uuids: Sequence[str]) -> bool:
    names = {gpu.uuid, *(mig.uuid for mig in gpu.mig_devices)}
    return any(visible.bare(uuid) in {visible.bare(name) for name in names if name} for uuid in uuids)


def _gpus(machine: Machine) -> int:
    """How many GPUs this job is to use, at least one: a machine whose driver is missing is judged all the same."""
    gpus = machine.gpu_env.gpus
    seen = visible.read(gpus, machine.variables)
    return max(1, len(gpus) if seen.problem else len(seen.uuids))


def _of_gpus(machine: Machine) -> str:
    return count(_gpus(machine), "GPU")


def _size(size: int) -> str:
    """In the largest unit in which it is not below 1: '64 MiB', '1.5 GiB'."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << power:
            return f"{size / (1 << power):.1f}".removesuffix(".0") + f" {unit}"
    return count(size, "byte")


def _day(seconds: float) -> str:
    try:
        return f"{datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc):%Y-%m-%d}"
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f} s after 1970"
