"""The files, file systems and limits that a test gives the node it runs on."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from conftest import Rig
from standin.files import can_share

LOOK = """
import json, os, resource, sys
from pathlib import Path
print(json.dumps({
    "made": Path("/opt/deep/er/file").read_text(),
    "linked": os.readlink("/sys/class/infiniband/efa_0"),
    "gone": Path("/etc/hostname").exists(),
    "kept": Path("/etc/passwd").exists(),
    "shm": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize,
    "null": Path("/dev/null").is_char_device(),
    "bound": Path("/data/file").read_text(),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "folder": os.getcwd(),
}))
"""


def test_a_run_sees_the_files_limits_and_file_systems_of_its_node(rig: Rig) -> None:
    (rig.folder / "source").mkdir()
    (rig.folder / "source" / "file").write_text("bound")
    rig.files.write("/opt/deep/er/file", "text")
    rig.files.link("/sys/class/infiniband/efa_0", "../../devices/efa")
    rig.files.remove("/etc/hostname")
    rig.files.mount("/dev/shm", "tmpfs", "size=64m")
    rig.files.bind("/data", rig.folder / "source")
    rig.files.limit("NOFILE", 256, 512)
    run = rig.run("-c", LOOK)
    assert json.loads(run.stdout) == {
        "made": "text",
        "linked": "../../devices/efa",
        "gone": False,
        "kept": True,
        "shm": 64 << 20,
        "null": True,
        "bound": "bound",
        "files": [256, 512],
        "folder": str(rig.project),
    }
    assert not run.stderr


def test_the_machine_that_runs_the_tests_is_not_changed(rig: Rig) -> None:
    rig.files.write("/opt/deep/er/file", "text")
    rig.files.folder("/etc")
    rig.run("-c", "from pathlib import Path; Path('/etc/new').touch()")
    assert not Path("/opt/deep").exists()
    assert Path("/etc/passwd").exists()
    assert not Path("/etc/new").exists()


SHARED = """
import os
for place in ("/well", "/stale"):
    try:
        print(place, os.statvfs(place).f_bsize, os.listdir(place))
    except OSError as error:
        print(place, error.strerror)
"""


@pytest.mark.skipif(not can_share(), reason="this user cannot mount FUSE")
def test_a_shared_file_system_answers_as_it_is_told(rig: Rig) -> None:
    rig.files.shared("/well", "fuse.glusterfs", "well")
    rig.files.shared("/stale", "fuse.glusterfs", errno.ESTALE)
    assert rig.run("-c", SHARED).stdout.splitlines() == ["/well 4096 []", "/stale Stale file handle"]


@pytest.mark.skipif(not can_share(), reason="this user cannot mount FUSE")
def test_a_shared_file_system_that_never_answers_ends_with_its_run(rig: Rig) -> None:
    rig.files.shared("/never", "fuse.glusterfs", "never")
    run = rig.run("-c", "import subprocess as s; s.run(['stat', '-f', '/never'], timeout=1)")
    assert "TimeoutExpired" in run.stderr


def test_a_node_can_be_full_read_only_and_hung(rig: Rig) -> None:
    rig.files.mount("/data", "tmpfs", "size=1m")
    rig.files.fill("/data/file", 600 << 10)
    rig.files.read_only("/tmp", but=rig.folder)
    rig.files.hang("/hung")
    rig.files.without_capability(14)
    look = """
import json, os, re, subprocess, sys
from pathlib import Path
hung = subprocess.Popen([sys.executable, "-c", "import os; os.statvfs('/hung')"])
try:
    answered = hung.wait(1)
except subprocess.TimeoutExpired:
    answered = None
hung.kill()
print(json.dumps({
    "left": os.statvfs("/data").f_bavail * os.statvfs("/data").f_frsize,
    "tmp": bool(os.statvfs("/tmp").f_flag & os.ST_RDONLY),
    "own": bool(os.statvfs(".").f_flag & os.ST_RDONLY),
    "answered": answered,
    "locks": int(re.search(r"CapEff:\\s*(\\w+)", Path("/proc/self/status").read_text())[1], 16) >> 14 & 1,
}))
"""
    run = rig.run("-c", look)
    expected = {"left": (1 << 20) - (600 << 10), "tmp": True, "own": False, "answered": None, "locks": 0}
    assert json.loads(run.stdout) == expected, run.stderr


VOLUME = """
import errno, json, os
from pathlib import Path
folder = Path("/Volumes/main/default/reports")
one, other = folder / "one", folder / "other"

def refused(what, *arguments):
    try:
        what(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]

def append():
    with one.open("ab") as file:
        file.write(b"more")

def write_at_the_end():
    with one.open("r+b") as file:
        file.seek(3)
        file.write(b"more")

def sync():
    with other.open("wb") as file:
        file.write(b"short")
        file.flush()
        os.fsync(file.fileno())

one.write_bytes(b"long" * 5000)
one.write_bytes(text := b"other" * 5000)
print(json.dumps({
    "refused": [refused(one.rename, other), refused(one.chmod, 0o600), refused(append),
                refused(write_at_the_end), refused(sync), refused(os.mkdir, folder / "below")],
    "kept": one.read_bytes() == text and one.stat().st_size == len(text),
    "listed": sorted(os.listdir(folder)),
    "removed": refused(other.unlink) or os.listdir(folder),
}))
"""


@pytest.mark.skipif(not can_share(), reason="this user cannot mount FUSE")
def test_a_volume_writes_whole_files_and_refuses_the_rest(rig: Rig) -> None:
    rig.files.shared("/Volumes/main/default/reports", "fuse", "as a volume")
    run = rig.run("-c", VOLUME, timeout=30)
    assert not run.stderr
    assert json.loads(run.stdout) == {
        "refused": ["ENOSYS", "EPERM", "ESPIPE", "ESPIPE", "ENOTSUP", "ENOSYS"],
        "kept": True,
        "listed": ["one", "other"],
        "removed": ["one"],
    }
