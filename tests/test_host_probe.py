"""What the probes of the host make of files that are odd, damaged, huge or not there."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pytest_bionemo.probes import cgroups, clock, limits, processors, storage
from pytest_bionemo.probes.cgroups import Limit
from pytest_bionemo.probes.child import Answer
from pytest_bionemo.probes.host import usable_cores
from pytest_bionemo.probes.processors import Placement, Scaling
from pytest_bionemo.probes.storage import Folder, Storage

GARBAGE = ["", "\n", "max\n", "-1\n", "12 x\n", "0x10\n", "1e9\n", "٤٢\n", "\x00\xff", "9" * 400, "x" * (1 << 20)]
NOBODY = 65534


def lay(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8", "surrogateescape")
    return root


# ---- control groups


def test_a_machine_without_sys_and_proc_has_no_limits(tmp_path: Path) -> None:
    assert cgroups.memory(tmp_path) is None
    assert cgroups.tasks(tmp_path) is None
    assert cgroups.cores(tmp_path, tmp_path / "cgroup") is None
    seen = limits.read(tmp_path)
    assert (seen.memory_total, seen.memory_available, seen.memory_stall) == (None, None, None)
    assert (seen.rdma_devices, seen.locks_at_will) == ((), False)
    assert processors.scaling(tmp_path) == ()
    assert processors.placement("00000000:53:00.0", tmp_path) is None


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": "1000", "memory.current": "400"},
        {"memory/memory.limit_in_bytes": "1000", "memory/memory.usage_in_bytes": "400"},
        {"unified/memory.max": "1000", "unified/memory.current": "400"},
    ],
    ids=["version 2", "version 1", "version 2 beside version 1"],
)
def test_the_limit_of_memory_is_read_in_both_versions(files: Mapping[str, str], tmp_path: Path) -> None:
    lay(tmp_path, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert cgroups.memory(tmp_path) == Limit(1000, 600)


def test_the_tightest_limit_of_all_groups_above_counts(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "proc/self/cgroup": "0::/slice/job/step\n",
            "sys/fs/cgroup/slice/memory.max": "5000",
            "sys/fs/cgroup/slice/memory.current": "4900",
            "sys/fs/cgroup/slice/job/memory.max": "2000",
            "sys/fs/cgroup/slice/job/memory.current": "100",
            "sys/fs/cgroup/slice/job/step/memory.max": "max",
            "sys/fs/cgroup/other/memory.max": "1",
        },
    )
    assert cgroups.memory(tmp_path) == Limit(limit=2000, left=100)


def test_a_group_of_version_1_is_found_by_its_controller(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "proc/self/cgroup": "9:name=systemd:/x\n4:memory:/job\n3:cpu,cpuacct:/job\n2:pids:/other\n0::/\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "1000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "150000",
            "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/pids/job/pids.max": "1",
        },
    )
    assert cgroups.memory(tmp_path) == Limit(1000, 1000)
    assert cgroups.cores(tmp_path / "sys/fs/cgroup", tmp_path / "proc/self/cgroup") == 1.5
    assert cgroups.tasks(tmp_path) is None


@pytest.mark.parametrize("path", ["/docker/4f5e", "/../../kubepods/pod1"])
def test_a_path_of_the_host_leads_to_the_root_of_the_container(path: str, tmp_path: Path) -> None:
    lay(
        tmp_path,
        {"proc/self/cgroup": f"0::{path}\n", "sys/fs/cgroup/pids.max": "9", "sys/fs/cgroup/pids.current": "2"},
    )
    lay(tmp_path, {"kubepods/pod1/pids.max": "1"})
    assert cgroups.tasks(tmp_path) == Limit(9, 7)


def test_files_that_the_kernel_can_drop_count_as_left(tmp_path: Path) -> None:
    files = {"memory.max": "1000", "memory.current": "900", "memory.stat": "anon 1\ninactive_file 300\nfile 5\n"}
    files["memory.stat"] += "active_file 50\nslab_reclaimable 10\nslab_unreclaimable 7\nactive_file x\n"
    assert cgroups.memory(lay(tmp_path, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})) == Limit(
        1000, 460
    )


def test_more_used_than_allowed_leaves_nothing(tmp_path: Path) -> None:
    lay(tmp_path, {"sys/fs/cgroup/pids.max": "10", "sys/fs/cgroup/pids.current": "12"})
    assert cgroups.tasks(tmp_path) == Limit(10, 0)


@pytest.mark.parametrize("text", GARBAGE)
def test_a_limit_that_is_no_number_is_none(text: str, tmp_path: Path) -> None:
    names = ("memory.max", "pids.max", "cpu.max", "memory/memory.limit_in_bytes", "cpu/cpu.cfs_quota_us")
    lay(tmp_path, {f"sys/fs/cgroup/{name}": text for name in names})
    lay(tmp_path, {"proc/self/cgroup": text})
    assert cgroups.memory(tmp_path) is None
    assert cgroups.tasks(tmp_path) is None
    assert cgroups.cores(tmp_path / "sys/fs/cgroup", tmp_path / "proc/self/cgroup") is None


@pytest.mark.parametrize("text", ["0 100000", "100000 0", "-1 100000", "max 100000", "100000", "1 2 3"])
def test_a_quota_that_makes_no_sense_is_none(text: str, tmp_path: Path) -> None:
    assert cgroups.cores(lay(tmp_path, {"cpu.max": text}), tmp_path / "none") is None
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))


def test_folders_where_files_should_be_are_no_limits(tmp_path: Path) -> None:
    for name in ("memory.max", "pids.max", "cpu.max"):
        (tmp_path / "sys/fs/cgroup" / name).mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").mkdir(parents=True)
    (tmp_path / "proc/meminfo").mkdir()
    assert limits.read(tmp_path).memory is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_a_group_that_may_not_be_read_is_no_limit(tmp_path: Path) -> None:
    lay(tmp_path, {"sys/fs/cgroup/pids.max": "1"})
    (tmp_path / "sys/fs/cgroup/pids.max").chmod(0)
    assert cgroups.tasks(tmp_path) is None


def test_a_path_of_thousands_of_groups_is_followed_to_its_end(tmp_path: Path) -> None:
    lay(tmp_path, {"proc/self/cgroup": f"0::/{'a/' * 20000}\n", "sys/fs/cgroup/pids.max": "9"})
    assert cgroups.tasks(tmp_path) == Limit(9, 9)


@pytest.fixture
def real_group() -> Iterator[Path]:
    """A control group for tasks of this machine's own."""
    for parent in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        group = parent / f"pytest-bionemo-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / "pids.max").exists():
                yield group
                return
        finally:
            group.rmdir()
    pytest.skip("this user may make no control group here")


def test_a_real_group_limits_the_process_that_is_in_it(real_group: Path) -> None:
    (real_group / "pids.max").write_text("40")
    script = (
        "import os, sys; from pathlib import Path; Path(sys.argv[1]).write_text(str(os.getpid())); "
        "from pytest_bionemo.probes import cgroups; limit = cgroups.tasks(); print(limit.limit, limit.left)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(real_group / "cgroup.procs")], capture_output=True, text=True, check=True
    )
    limit, left = map(int, done.stdout.split())
    assert limit == 40
    assert 30 <= left < 40


# ---- limits and memory


MEMINFO = "MemTotal:       24684092 kB\nMemFree: 1 kB\nMemAvailable:    2048 kB\nHugePages_Total:       0\n"


def test_memory_is_read_in_bytes(tmp_path: Path) -> None:
    seen = limits.read(lay(tmp_path, {"proc/meminfo": MEMINFO}))
    assert (seen.memory_total, seen.memory_available) == (24684092 << 10, 2048 << 10)


@pytest.mark.parametrize("text", [*GARBAGE, "MemAvailable: -5 kB\n", "MemAvailable: 5\n", "MemAvailable:\n"])
def test_memory_that_makes_no_sense_is_not_known(text: str, tmp_path: Path) -> None:
    seen = limits.read(lay(tmp_path, {"proc/meminfo": text, "proc/pressure/memory": text}))
    assert (seen.memory_total, seen.memory_available, seen.memory_stall) == (None, None, None)


def test_the_stall_is_that_of_all_processes_in_the_last_minute(tmp_path: Path) -> None:
    text = "some avg10=9.00 avg60=8.00 avg300=7.00 total=1\nfull avg10=3.00 avg60=12.34 avg300=1.00 total=2\n"
    assert limits.read(lay(tmp_path, {"proc/pressure/memory": text})).memory_stall == 12.34


@pytest.mark.parametrize(
    ("capabilities", "namespace", "expected"),
    [
        ("000001ffffffffff", "0 0 4294967295", True),
        ("000001ffffffffff", "0 1000 1", False),  # root of a user namespace alone
        ("00000000a80425fb", "0 0 4294967295", False),  # what Docker leaves
        ("none", "0 0 4294967295", False),
        ("", "", False),
    ],
)
def test_only_the_capability_of_the_machine_lifts_the_limit_of_locked_memory(
    capabilities: str, namespace: str, expected: bool, tmp_path: Path
) -> None:
    files = {"proc/self/status": f"Name:\tx\nCapEff:\t{capabilities}\n", "proc/self/uid_map": f"   {namespace}\n"}
    assert limits.read(lay(tmp_path, files)).locks_at_will is expected


def test_limits_are_those_of_this_process() -> None:
    seen, (soft, hard) = limits.read(), resource.getrlimit(resource.RLIMIT_NOFILE)
    assert (seen.open_files, seen.open_files_hard) == tuple(
        None if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard)
    )
    assert (seen.processes is None) or os.getuid()
    assert 1 <= seen.cores <= seen.online_cores
    assert seen.memory_total
    assert seen.memory_available
    assert seen.memory_available <= seen.memory_total


# ---- processors


def test_processors_are_counted_by_driver_and_governor(tmp_path: Path) -> None:
    base = "sys/devices/system/cpu/cpufreq"
    for policy, (governor, cpus) in enumerate([("powersave", "0 1"), ("performance", "2"), ("powersave", "3-7")]):
        lay(
            tmp_path,
            {
                f"{base}/policy{policy}/scaling_driver": "acpi-cpufreq\n",
                f"{base}/policy{policy}/scaling_governor": f"{governor}\n",
                f"{base}/policy{policy}/affected_cpus": f"{cpus}\n",
            },
        )
    lay(tmp_path, {f"{base}/policy9/scaling_driver": "x", f"{base}/boost": "1"})
    assert processors.scaling(tmp_path) == (
        Scaling("acpi-cpufreq", "performance", 1),
        Scaling("acpi-cpufreq", "powersave", 7),
    )


def nodes(root: Path, numa_node: str = "1", cpus: tuple[str, ...] = ("0-3", "4-7"), distance: str = "21 10") -> Path:
    lay(root, {"sys/bus/pci/devices/0000:53:00.0/numa_node": f"{numa_node}\n"})
    for number, cpulist in enumerate(cpus):
        lay(root, {f"sys/devices/system/node/node{number}/cpulist": f"{cpulist}\n"})
        lay(root, {f"sys/devices/system/node/node{number}/distance": f"{distance}\n"})
    return root


@pytest.mark.parametrize(
    ("allowed", "distance"), [([0, 1], 21), ([4], 10), ([3, 4], 10), ([0, 1, 2, 3, 4, 5, 6, 7], 10), ([99], None)]
)
def test_the_nearest_usable_processor_counts(allowed: list[int], distance: int | None, tmp_path: Path) -> None:
    assert processors.placement("00000000:53:00.0", nodes(tmp_path), allowed) == Placement(1, distance)


@pytest.mark.parametrize("numa_node", ["-1", "7", "", "one", "1 2"])
def test_a_gpu_of_no_known_node_has_no_place(numa_node: str, tmp_path: Path) -> None:
    assert processors.placement("00000000:53:00.0", nodes(tmp_path, numa_node), [0]) is None


@pytest.mark.parametrize("address", [None, "", "53:00.0", "../../..", "00000000:54:00.0", "00000001:53:00.0"])
def test_a_gpu_that_is_not_on_this_bus_has_no_place(address: str | None, tmp_path: Path) -> None:
    assert processors.placement(address, nodes(tmp_path), [0]) is None


def test_a_node_of_memory_alone_is_no_place(tmp_path: Path) -> None:
    assert processors.placement("00000000:53:00.0", nodes(tmp_path, cpus=("0-3", "")), [0]) is None


@pytest.mark.parametrize("distance", ["", "x y", "10"])
def test_distances_that_are_not_told_are_not_guessed(distance: str, tmp_path: Path) -> None:
    place = processors.placement("00000000:53:00.0", nodes(tmp_path, distance=distance, cpus=("4-7", "0-3")), [0])
    assert place == Placement(1, None)


@pytest.mark.parametrize("cpus", ["0-99999999999", "3-1", "a-b", "0-999999", "-", "1,,2", "\x00"])
def test_damaged_lists_of_processors_are_survived(cpus: str, tmp_path: Path) -> None:
    processors.placement("00000000:53:00.0", nodes(tmp_path, cpus=("0-3", cpus)), [0])


# ---- storage


def test_folders_are_looked_up_as_their_users_do() -> None:
    variables = {
        "XDG_CACHE_HOME": "/cache",
        "TRITON_HOME": "/triton",
        "HF_HOME": " /hf ",
        "TORCH_HOME": "",
        "TEMP": "/t",
    }
    found = {name: path for path, names in storage.folders(variables, "/home/me").items() for name in names}
    assert found["HOME"] == "/home/me"
    assert found["TMPDIR"] == "/t"
    assert found["HF_HOME"] == "/hf"
    assert found["TORCH_HOME"] == "/cache/torch"
    assert found["TRITON_CACHE_DIR"] == "/triton/.triton/cache"
    assert found["TORCHINDUCTOR_CACHE_DIR"].startswith("/t/torchinductor_")
    assert found["BIONEMO_CACHE_DIR"] == "/cache/bionemo"


def test_one_folder_with_several_users_is_asked_once() -> None:
    found = storage.folders({"HF_HOME": "/one", "TORCH_HOME": "/one"}, "/tmp")
    assert found["/one"] == ("HF_HOME", "TORCH_HOME")
    assert found["/tmp"][:2] == ("HOME", "TMPDIR")


def test_looking_at_a_folder_makes_nothing(tmp_path: Path) -> None:
    folder = storage.look(str(tmp_path / "a" / "b"), ("HF_HOME",))
    assert folder.nearest == str(tmp_path)
    assert folder.problem is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "/deeper", "/deeper/still"])
def test_a_file_in_the_way_is_a_problem(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert storage.look(f"{tmp_path}/file{below}", ()).problem == f"{tmp_path}/file is no folder"


def test_a_link_that_leads_nowhere_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert storage.look(f"{tmp_path}/link/x", ()).problem == f"{tmp_path}/link is a link that leads nowhere"


def test_a_link_to_itself_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    assert "link" in (storage.look(f"{tmp_path}/link", ()).problem or "")


@pytest.mark.parametrize("path", ["a\x00b", "x" * 5000, "/" + "y/" * 3000])
def test_a_path_that_cannot_be_is_survived(path: str) -> None:
    storage.look(path, ("HF_HOME",))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_folder_of_another_user_cannot_be_written() -> None:
    folder = Path("/tmp") / f"pytest-bionemo-{os.getpid()}"
    folder.mkdir(0o755)
    try:
        pid = os.fork()  # no new interpreter: that of the tests may lie where nobody else can read it
        if pid == 0:
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os._exit(0 if storage.look(str(folder / "x"), ()).problem == "Permission denied" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        folder.rmdir()


def test_what_answered_before_a_hang_is_kept() -> None:
    said = json.loads(json.dumps([vars(Folder("/a", ("HOME",), "/a"))]))
    seen = storage.from_answer(Answer(None, "no answer within 2 s", tuple(said)))
    assert seen.failure == "no answer within 2 s"
    assert seen.of("HOME") == Folder("/a", ("HOME",), "/a")
    assert seen.of("TMPDIR") is None
    assert Storage.from_json(json.loads(json.dumps(seen.to_json()))) == seen


def test_every_folder_of_this_machine_answers() -> None:
    seen = [Folder(**{**one, "names": tuple(one["names"])}) for one in storage.read()]
    assert [folder for folder in seen if not folder.nearest] == []
    shared = next(folder for folder in seen if folder.path == "/dev/shm")
    assert shared.in_memory
    assert next(folder for folder in seen if "HOME" in folder.names).in_memory is not None


# ---- the clock


def test_the_clock_is_read_and_no_file_is_newer() -> None:
    seen = clock.read()
    assert seen.newest
    assert seen.newest <= seen.now + 1
    assert seen.synchronised in (True, False, None)


@pytest.mark.parametrize(
    ("file", "service"),
    [
        ("run/chrony/chronyd.pid", "chrony"),
        ("run/chrony/.keep", "chrony"),
        ("run/systemd/timesync/synchronized", "systemd-timesyncd"),
        ("x", None),
    ],
)
def test_a_service_that_sets_the_clock_is_known_by_what_it_leaves(
    file: str, service: str | None, tmp_path: Path
) -> None:
    assert clock.read(lay(tmp_path, {file: ""})).service == service


@pytest.mark.parametrize(
    ("files", "tells"),
    [
        ({}, False),
        ({"etc/chrony/chrony.conf": "pool x\n#rtcsync\n"}, False),
        ({"etc/chrony/chrony.conf": "pool x\n  rtcsync\n"}, True),
        ({"etc/chrony.conf": "rtcsync"}, True),
        ({"etc/chrony/conf.d/own.conf": "RTCSYNC\n"}, True),
    ],
)
def test_chrony_tells_the_kernel_only_where_it_is_told_to(
    files: Mapping[str, str], tells: bool, tmp_path: Path
) -> None:
    lay(tmp_path, {"run/chrony/chronyd.pid": "1", **files})
    assert clock.read(tmp_path).tells_kernel is tells


def test_adapters_that_this_process_was_not_given_lock_no_memory(tmp_path: Path) -> None:
    lay(tmp_path, {f"sys/class/infiniband_verbs/uverbs{n}/ibdev": f"mlx5_{n}\n" for n in range(3)})
    lay(tmp_path, {"sys/class/infiniband_verbs/abi_version": "6\n", "dev/infiniband/uverbs1": ""})
    assert limits.read(tmp_path).rdma_devices == ("mlx5_1",)


@pytest.mark.parametrize("error", [errno.ENOTCONN, errno.ESTALE, errno.EIO, errno.EACCES])
def test_a_folder_that_answers_with_an_error_is_not_judged_by_the_one_above(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lstat = Path.lstat

    def fail(path: Path) -> os.stat_result:
        if path.name == "mount":
            raise OSError(error, os.strerror(error))
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", fail)
    found = storage.look(f"{tmp_path}/mount/cache", ("HF_HOME",))
    assert (found.nearest, found.problem) == (f"{tmp_path}/mount", os.strerror(error))


def test_a_path_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    found = storage.folders({"TMPDIR": "//tmp//", "HF_HOME": "/tmp/./hf/"}, "/home/me/")
    assert [path for path, names in found.items() if {"TMPDIR", "HF_HOME", "HOME"} & set(names)] == [
        "/home/me", "//tmp" if "//tmp" in found else "/tmp", "/tmp/hf",
    ]  # fmt: skip
    assert storage.look(f"{tmp_path}//", ("TMPDIR",)).exists
    assert not storage.look(f"{tmp_path}/none", ("TMPDIR",)).exists
