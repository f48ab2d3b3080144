"""What this process may use: limits, memory and processors."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_bionemo import fixes
from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.checks.host.shared import gpus_to_use, in_words, of_gpus
from pytest_bionemo.facts import host as facts
from pytest_bionemo.model import Gpu, count
from pytest_bionemo.probes import processors, visible
from pytest_bionemo.probes.machine import Machine

# Enough for all; "unlimited" can be a thousand million, and some programs close each of them when they start.
_OPEN_FILES = 65536


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
            f"this process may lock {in_words(limits.locked_memory)} of memory, expected unlimited or at least "
            f"{in_words(needed)} for {adapters}",
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
    limits, needed = machine.limits, facts.threshold("tasks_per_gpu") * gpus_to_use(machine)
    why = "ranks, their threads and data loaders count: 'Resource temporarily unavailable' in the middle of a start"
    if limits.tasks and limits.tasks.left < needed:
        fail(
            f"the control group allows {limits.tasks.limit} processes and threads, of which {limits.tasks.left} are "
            f"left, expected {needed} or more for {of_gpus(machine)}",
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
            f"for {of_gpus(machine)}",
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
            f"the address space of this process is limited to {in_words(limit)} (ulimit -v), expected unlimited",
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
    needed = facts.threshold("memory_per_gpu") * gpus_to_use(machine)
    if (limit := _low_memory_limit(machine, needed)) is not None:
        total = machine.limits.memory_total
        there = f" of the machine's {in_words(total)}" if total else ""
        fail(
            f"the control group allows {in_words(limit)} of memory{there}, "
            f"expected {in_words(needed)} or more for {of_gpus(machine)}",
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
        total = f" of {in_words(limits.memory_total)}" if limits.memory_total else ""
        fail(
            f"{in_words(limits.memory_available)}{total} of memory are available, expected {in_words(needed)} "
            "or more",
            why="starting PyTorch alone takes this much: something will swap or be killed",
            fix=who,
        )
    # A limit that is too low for anything is another check's.
    is_low = _low_memory_limit(machine, facts.threshold("memory_per_gpu") * gpus_to_use(machine)) is not None
    if limits.memory and limits.memory.left < needed and not is_low:
        fail(
            f"of the {in_words(limits.memory.limit)} of memory that the control group allows, "
            f"{in_words(limits.memory.left)} are left, expected {in_words(needed)} or more",
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
            f"expected {needed} or more for {of_gpus(machine)}",
            why="one core feeds a GPU, another one loads its data: with fewer the GPUs wait",
            fix=_ask_for_more("cores", "--cpus", "--cpus-per-task"),
        )


def _needed_cores(machine: Machine) -> int:
    return facts.threshold("cores_per_gpu") * gpus_to_use(machine)


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


def _is_used(gpu: Gpu, uuids: Sequence[str]) -> bool:
    names = {gpu.uuid, *(mig.uuid for mig in gpu.mig_devices)}
    return any(visible.bare(uuid) in {visible.bare(name) for name in names if name} for uuid in uuids)
