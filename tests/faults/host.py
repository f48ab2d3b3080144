"""The machine around the GPUs: shared memory, limits, memory, processors, folders and the clock."""

from __future__ import annotations

import os
from pathlib import Path

from conftest import Rig
from faults import Change, Fault, Twin, at, done_at
from faults.injections import both, machine, on_host, variable
from standin import T4x1

GIB = 1 << 30
YEAR_S = 366 * 24 * 3600
CAP_IPC_LOCK = 14


@at("file system")
def mounted(path: str, options: str, kind: str = "tmpfs") -> Change:
    return lambda rig: rig.files.mount(path, kind, options)


@at("file system")
def used_for(name: str, options: str) -> Change:
    """A file system of its own for this variable's folder."""

    def inject(rig: Rig) -> None:
        rig.files.mount("/opt/place", "tmpfs", options)
        rig.variables[name] = "/opt/place"

    return inject


@done_at("file")
def no_shared_memory(rig: Rig) -> None:
    rig.files.remove("/dev/shm")


@done_at("file system")
def shared_memory_on_disk(rig: Rig) -> None:
    place = rig.folder / "disk"
    place.mkdir()
    rig.files.bind("/dev/shm", place)


@done_at("file system")
def shared_memory_left_full(rig: Rig) -> None:
    machine(T4x1)(rig)
    rig.files.mount("/dev/shm", "tmpfs", "size=80m")
    rig.files.fill("/dev/shm/torch_1_2", 40 << 20)


@at("limit")
def limit(name: str, soft: int, hard: int | None = None) -> Change:
    return lambda rig: rig.files.limit(name, soft, hard)


@at("limit")
def locked_memory(limit: int, *, is_given: bool = True) -> Change:
    """An adapter, given to this process or not, and a user who may lock this much for it."""

    def inject(rig: Rig) -> None:
        rdma_adapter(rig)
        if not is_given:
            rig.files.remove("/dev/infiniband")
        rig.files.limit("MEMLOCK", limit)
        rig.files.without_capability(CAP_IPC_LOCK)

    return inject


@done_at("file")
def rdma_adapter(rig: Rig) -> None:
    rig.files.link("/sys/class/infiniband/efa_0", "../../devices/efa")
    rig.files.write("/sys/class/infiniband_verbs/uverbs0/ibdev", "efa_0\n")
    rig.files.link("/dev/infiniband/uverbs0", "/dev/null")


@at("file")
def group(**values: str) -> Change:
    """What the control group of a container says, by the names of version 2: ``memory_max="1"`` is in memory.max."""

    def inject(rig: Rig) -> None:
        for name, value in values.items():
            rig.files.write(f"/sys/fs/cgroup/{name.replace('_', '.', 1)}", f"{value}\n")

    return inject


@at("file")
def meminfo(total: int, available: int) -> Change:
    def inject(rig: Rig) -> None:
        lines = {"MemTotal": total, "MemFree": available, "MemAvailable": available, "SwapTotal": 0}
        text = "".join(f"{name}: {size >> 10:>15} kB\n" for name, size in lines.items())
        rig.files.bind("/proc/meminfo", rig.write("../meminfo", text))

    return inject


@at("file")
def memory_pressure(share: str) -> Change:
    text = f"some avg10=80.00 avg60=60.00 avg300=9.00 total=9\nfull avg10=30.00 avg60={share} avg300=1.00 total=5\n"
    return lambda rig: rig.files.write("/proc/pressure/memory", text)


@at("file")
def governor(name: str, driver: str) -> Change:
    def inject(rig: Rig) -> None:
        rig.files.folder("/sys/devices/system/cpu/cpufreq")
        for policy in range(2):
            folder = f"/sys/devices/system/cpu/cpufreq/policy{policy}"
            for file, text in {"scaling_driver": driver, "scaling_governor": name, "affected_cpus": policy}.items():
                rig.files.write(f"{folder}/{file}", f"{text}\n")

    return inject


@at("file")
def numa(distance: int, gpus: str = "53 64 75 86 97 a8 b9 ca", node: int = 1) -> Change:
    """Two nodes at this distance, all processors of this machine on the first, these GPUs on the other."""

    def inject(rig: Rig) -> None:
        rig.files.folder("/sys/devices/system/node")
        for number, (cpus, distances) in enumerate([("0-4095", f"10 {distance}"), ("4096-8191", f"{distance} 10")]):
            rig.files.write(f"/sys/devices/system/node/node{number}/cpulist", f"{cpus}\n")
            rig.files.write(f"/sys/devices/system/node/node{number}/distance", f"{distances}\n")
        for bus in gpus.split():
            rig.files.write(f"/sys/bus/pci/devices/0000:{bus}:00.0/numa_node", f"{node}\n")

    return inject


@done_at("file system")
def hung_cache(rig: Rig) -> None:
    rig.files.hang("/opt/hung")
    rig.variables["HF_HOME"] = "/opt/hung/huggingface"


@done_at("file system")
def nowhere_for_temporary_files(rig: Rig) -> None:
    rig.files.mount("/opt/tmp", "tmpfs", "ro")
    rig.files.mount("/var/tmp", "tmpfs", "ro")
    rig.files.read_only("/tmp", but=Path(os.path.commonpath([rig.folder, rig.environment.folder])))
    rig.variables["TMPDIR"] = "/opt/tmp"


@done_at("file")
def file_for_home(rig: Rig) -> None:
    rig.variables["HOME"] = str(rig.write("../home", "a file"))


@done_at("file")
def broken_link_for_cache(rig: Rig) -> None:
    rig.files.link("/opt/cache", "/nowhere")
    rig.variables["HF_HOME"] = "/opt/cache"


@at("C library")
def unset_clock(state: str, configuration: str = "rtcsync") -> Change:
    """A service is here to set the clock; this is what the kernel says of it."""

    def inject(rig: Rig) -> None:
        rig.files.folder("/run/chrony", 0o750)
        rig.files.write("/etc/chrony/chrony.conf", f"pool ntp.example.org iburst\n{configuration}\n")
        on_host(adjtimex=state)(rig)

    return inject


@at("file")
def other_python(code: str) -> Change:
    """A Python that says another thing of itself from its start, and no PyTorch."""

    def inject(rig: Rig) -> None:
        rig.torch = None
        (rig.site / "sitecustomize.py").write_text(f"import sys\n{code}\n")

    return inject


TWINS: dict[str, Twin] = {
    "host::has_python_for_torch": Twin(
        {
            "too new": Fault(
                other_python("sys.version = '3.99.1' + sys.version[sys.version.index(' '):]"),
                r"this is Python 3\.99\.1; .* up to 3\.\d+$",
                r"Python 3\.\d+, which",
            ),
            "32 bits": Fault(other_python("sys.maxsize = 2**31 - 1"), "a 32-bit Python"),
        },
        # With a PyTorch that is loaded it is no fault.
        healthy=lambda rig: None,
    ),
    "host::shared_memory_works": Twin(
        {
            "absent": Fault(no_shared_memory, "/dev/shm: it is not there", "--ipc=host"),
            "read-only": Fault(mounted("/dev/shm", "ro,size=2g"), "read-only"),
            "full": Fault(mounted("/dev/shm", "size=2g,nr_inodes=1"), r"it is full \(2 GiB\)", "ls -la /dev/shm"),
        }
    ),
    "host::shared_memory_is_enough": Twin(
        {
            "Docker's default": Fault(
                mounted("/dev/shm", "size=64m"),
                "/dev/shm has 64 MiB, which .* gives, expected 1 GiB or more for 8 GPUs",
            ),
            "Docker's default, one GPU": Fault(
                both(machine(T4x1), mounted("/dev/shm", "size=64m")),
                "has 64 MiB, which is what Docker gives, expected more than 64 MiB$",
            ),
            "nearly enough": Fault(mounted("/dev/shm", "size=1010m"), r"has 1010 MiB, expected 1 GiB"),
            "too little for eight": Fault(mounted("/dev/shm", "size=512m"), "512 MiB, expected 1 GiB"),
            "in a pod": Fault(
                both(variable("KUBERNETES_SERVICE_HOST", "10.0.0.1"), mounted("/dev/shm", "size=64m")),
                "64 MiB",
                "emptyDir with medium: Memory",
            ),
            "left by others": Fault(shared_memory_left_full, "40 MiB left of 80 MiB", "ls -la /dev/shm"),
            "on a disk": Fault(shared_memory_on_disk, "is no memory"),
        },
        healthy=mounted("/dev/shm", "size=1g"),
    ),
    "host::locks_memory_for_rdma": Twin(
        {"64 KiB": Fault(locked_memory(64 << 10), r"64 KiB.* 16 GiB for 1 adapter \(efa_0\)", "memlock=-1")},
        healthy=rdma_adapter,
    ),
    "host::opens_enough_files": Twin(
        {
            "soft": Fault(limit("NOFILE", 256, 4096), "256 files, expected 1024", r"^\$ ulimit -n 4096"),
            "hard": Fault(limit("NOFILE", 256, 512), "256 files", "limits.conf"),
        },
        healthy=limit("NOFILE", 1024, 4096),
    ),
    "host::starts_enough_processes": Twin(
        {
            "of a container": Fault(
                group(pids_max="512", pids_current="100"),
                "allows 512 processes and threads, of which 412 are left, expected 512 or more for 8 GPUs",
                "--pids-limit",
            )
        },
        healthy=group(pids_max="max", pids_current="100"),
    ),
    "host::address_space_is_unlimited": Twin(
        {"of a batch system": Fault(limit("AS", 256 * GIB), "256 GiB .ulimit -v", "ulimit -v unlimited")}
    ),
    "host::may_use_enough_memory": Twin(
        {
            "of a container": Fault(
                group(memory_max=str(GIB + (1 << 29)), memory_current=str(1 << 20)),
                r"allows 1\.5 GiB of memory of the machine's .*, expected 32 GiB or more for 8 GPUs",
                "--memory",
            )
        },
        healthy=group(memory_max="max", memory_current=str(1 << 40)),
    ),
    "host::memory_is_available": Twin(
        {
            "taken": Fault(meminfo(64 * GIB, 200 << 20), "200 MiB of 64 GiB .* expected 1 GiB", "ps -eo"),
            "taken in the group": Fault(
                group(memory_max=str(1 << 50), memory_current=str((1 << 50) - (100 << 20))), "100 MiB are left"
            ),
            "swapping": Fault(memory_pressure("25.50"), r"25\.5 % of the last minute .* less than 10 %"),
        },
        healthy=both(meminfo(64 * GIB, 8 * GIB), memory_pressure("0.50")),
    ),
    "host::may_use_enough_cores": Twin(
        {"a quota": Fault(group(cpu_max="100000 100000"), "1 processor core of .* 16 or more", "--cpus-per-task")},
        healthy=group(cpu_max="max 100000"),
    ),
    "host::processors_are_not_held_slow": Twin(
        {
            "powersave": Fault(governor("powersave", "acpi-cpufreq"), "2 processors is powersave .*acpi", "cpupower"),
            "passive mode": Fault(governor("powersave", "intel_cpufreq"), "intel_cpufreq"),
        },
        healthy=governor("powersave", "intel_pstate"),
    ),
    "host::is_near_its_gpus": Twin(
        {
            "another socket": Fault(
                numa(32, gpus="53 64"), r"2 GPUs \(0, 1\) of NUMA node 1: .*distance 32", "--cpunodebind=1"
            ),
            "another socket, of the visible ones": Fault(
                both(numa(32), variable("CUDA_VISIBLE_DEVICES", "1,2")),
                r"2 GPUs \(1, 2\) of NUMA node 1",
                layer="file",
            ),
        },
        healthy=numa(12),
    ),
    "host::folders_answer": Twin(
        {"one hangs": Fault(hung_cache, r"no answer within 2 s, while asking about /opt/hung/.*HF_HOME", "mounts")},
        options=("--bionemo-timeout=2",),
    ),
    "host::temporary_folder_works": Twin(
        {
            "nowhere": Fault(nowhere_for_temporary_files, "/opt/tmp: .*read-only; nor to .*/tmp", "export TMPDIR"),
            "read-only": Fault(used_for("TMPDIR", "ro"), "/opt/place: .*read-only$", severity="warning"),
            "full": Fault(used_for("TMPDIR", "nr_inodes=1"), "it is full", severity="warning"),
            "absent": Fault(variable("TMPDIR", "/not/there"), "does not exist", severity="warning"),
        },
        healthy=variable("TMPDIR", "/var//tmp/"),
    ),
    "host::caches_can_be_written": Twin(
        {
            "HOME is read-only": Fault(
                used_for("HOME", "ro"), "^HOME, .*HF_HOME.*: ~ .*read-only", r"\$ export HOME="
            ),
            "HOME is a file": Fault(file_for_home, "is no folder"),
            "one cache": Fault(used_for("HF_HOME", "ro"), "^HF_HOME cannot be written", r"\$ export HF_HOME="),
            "a link to nowhere": Fault(broken_link_for_cache, "a link that leads nowhere"),
        },
        healthy=used_for("HF_HOME", "size=6g"),
    ),
    "host::disk_has_room": Twin(
        {
            "HOME": Fault(used_for("HOME", "size=100m"), "^HOME, .*: 100 MiB free in ~, expected 5 GiB"),
            "temporary files": Fault(
                used_for("TMPDIR", "size=64m"), "TMPDIR, .*: 64 MiB free in .*, expected 1 GiB", "TMPDIR"
            ),
            "weights beside temporary files": Fault(
                both(used_for("TMPDIR", "size=2g"), variable("HF_HOME", "/opt/place/hf")),
                "HF_HOME.*: 2 GiB free in .*, expected 5 GiB",
                layer="file system",
            ),
            "inodes": Fault(used_for("HF_HOME", "size=6g,nr_inodes=100"), "room for 99 more files"),
        },
        healthy=used_for("TMPDIR", "size=2g"),
    ),
    "host::compiled_code_runs": Twin(
        {
            "temporary files": Fault(
                used_for("TMPDIR", "noexec,size=6g"),
                r"/opt/place runs no code .noexec., where TORCHIND",
            ),
            "HOME": Fault(used_for("HOME", "noexec,size=6g"), "TRITON_CACHE_DIR", r"\$ export TRITON_CACHE_DIR="),
        }
    ),
    "host::clock_is_right": Twin(
        {
            "behind": Fault(on_host(clock=str(-10 * YEAR_S)), "before pytest-bionemo was written", "timedatectl"),
            "ahead": Fault(on_host(clock=str(40 * YEAR_S)), "too far in the future"),
        }
    ),
    "host::clock_is_kept_right": Twin(
        {"not synchronised": Fault(unset_clock("5"), "chrony is here .* not synchronised", "chronyc")},
        healthy=unset_clock("0"),
    ),
}
