"""Files, file systems and limits of the node that a run sees, real ones in a mount namespace of its own.

Nothing of the machine that runs the tests is changed: whatever is laid over its files lies in a tmpfs that ends with
the run. This file is also the program that lays them: it is started inside the new namespace.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PR_CAPBSET_DROP = 24  # linux/prctl.h
_MS_NOSUID_NODEV = 2 | 4  # sys/mount.h
UNSHARE = ("unshare", "--mount", "--propagation", "private")


class Files:
    """What lies where on the node, in the order in which it is said.

    Folders that a path needs and that are not there are made. ``/proc/PID`` cannot be written.
    """

    def __init__(self) -> None:
        self._steps: list[list[Any]] = []

    def __bool__(self) -> bool:
        return bool(self._steps)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file with this text."""
        self._steps.append(["write", path, text, mode])

    def folder(self, path: str, mode: int = 0o755) -> None:
        """An empty folder, whatever was there."""
        self._steps.append(["folder", path, mode])

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._steps.append(["link", path, target])

    def remove(self, path: str) -> None:
        """Nothing there."""
        self._steps.append(["remove", path])

    def bind(self, path: str, source: Path) -> None:
        """This file or folder of the machine that runs the tests."""
        self._steps.append(["mount", path, ["--rbind", str(source)], source.is_dir()])

    def mount(self, path: str, kind: str, options: str, source: str = "none") -> None:
        """A file system of this kind, as mount(8) takes it: ``mount("/dev/shm", "tmpfs", "size=64m")``."""
        self._steps.append(["mount", path, ["-t", kind, "-o", options, source], True])

    def shared(self, path: str, kind: str, answer: str | int, source: str = "server") -> None:
        """A shared file system of this kind (``fuse.glusterfs``): FUSE, served by a program of ours.

        ``answer``: "well"; "never", to no question at all; "as a volume", as Databricks' volumes do (volume.py);
        or an error of errno(3), to every question.
        """
        self._steps.append(["shared", path, kind, answer, source])

    def fill(self, path: str, size: int) -> None:
        """A file that takes this much of its file system."""
        self._steps.append(["fill", path, size])

    def hang(self, path: str) -> None:
        """A file system of this machine alone that never answers: in user space, nobody takes its questions."""
        self._steps.append(["hang", path])

    def read_only(self, path: str, but: Path) -> None:
        """Nothing can be written in this folder but in the one of the machine that runs the tests below it."""
        self._steps.append(["read-only", path, str(but)])

    def without_capability(self, number: int) -> None:
        """Root without this capability (capabilities(7))."""
        self._steps.append(["drop", number])

    def limit(self, name: str, soft: int, hard: int | None = None) -> None:
        """A limit of getrlimit(2): ``limit("NOFILE", 256)``; -1 is no limit."""
        self._steps.append(["limit", f"RLIMIT_{name}", soft, soft if hard is None else hard])

    def command(self, command: Sequence[str]) -> list[str]:
        """The command that runs this one on the node."""
        if not self:
            return list(command)
        mapping = () if os.geteuid() == 0 else ("--map-root-user",)
        return [*UNSHARE, *mapping, sys.executable, __file__, json.dumps(self._steps), *command]


@functools.cache
def is_possible() -> bool:
    """Whether this user may make mount namespaces here."""
    mapping = () if os.geteuid() == 0 else ("--map-root-user",)
    tried = [*UNSHARE, *mapping, "mount", "-t", "tmpfs", "none", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(tried, capture_output=True).returncode == 0


@functools.cache
def can_share() -> bool:
    """Whether this user may mount FUSE in a namespace here."""
    mapping = () if os.geteuid() == 0 else ("--map-root-user",)
    step = json.dumps([["shared", "/mnt/shared", "fuse", "well", "server"]])
    tried = [*UNSHARE, *mapping, sys.executable, __file__, step, "stat", "--file-system", "/mnt/shared"]
    return is_possible() and subprocess.run(tried, capture_output=True, timeout=60).returncode == 0


# ------------------------------------------------------------------------------------- inside the namespace


class _Ground:
    """Folders into which can be written: each a tmpfs that holds what was there before."""

    def __init__(self) -> None:
        self._grafted: list[Path] = []
        old, root = Path("/"), Path("/mnt/root")
        _mount("-t", "tmpfs", "none", "/mnt")
        root.mkdir()
        _mount("-t", "tmpfs", "-o", "mode=755", "none", str(root))
        self._fill(old, root)
        os.chroot(root)
        os.chdir("/")
        self._grafted.append(old)

    def prepare(self, folder: Path) -> None:
        """Make this folder one that can be written, with all that it holds."""
        if folder.is_symlink():
            folder = folder.resolve()
        if any(folder == done for done in self._grafted):
            return
        if not folder.exists():
            self.prepare(folder.parent)
            folder.mkdir()
            self._grafted.append(folder)
            return
        if folder.parent in self._grafted and folder.stat().st_dev == folder.parent.stat().st_dev:
            self._grafted.append(folder)  # made here
            return
        before = Path("/") / f".before{len(self._grafted)}"
        before.mkdir()
        _bind(folder, before)
        mode = folder.stat().st_mode & 0o7777
        _mount("-t", "tmpfs", "-o", f"mode={mode:o}", "none", str(folder))
        self._fill(before, folder)
        _release(before)
        before.rmdir()
        self._grafted.append(folder)

    def _fill(self, old: Path, new: Path) -> None:
        for child in sorted(old.iterdir()):
            place = new / child.name
            if child.is_symlink():
                place.symlink_to(child.readlink())
            elif child == Path("/mnt"):
                place.mkdir()  # all of this is built there: bound into itself, no file could be taken away again
            elif child.is_dir():
                place.mkdir(exist_ok=True)  # mount(8) itself leaves a folder in /run
                _bind(child, place)
            else:
                place.touch()
                _bind(child, place)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _bind(source: Path, place: Path) -> None:
    # mount(2) itself: a node takes hundreds of these, and mount(8) is a process for each.
    if ctypes.CDLL(None, use_errno=True).mount(
        os.fsencode(source), os.fsencode(place), None, _MS_BIND | _MS_REC, None
    ):
        raise OSError(ctypes.get_errno(), f"{source} cannot be bound to {place}")


def _release(path: Path) -> bool:
    return bool(ctypes.CDLL(None).umount2(os.fsencode(path), _MNT_DETACH) == 0)


_MS_BIND, _MS_REC, _MNT_DETACH = 4096, 16384, 2


def _clear(path: Path) -> None:
    _release(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _share(path: Path, kind: str, answer: str | int, source: str) -> None:
    """Mount FUSE, and start the program that serves it, or that does not."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    command = ["mount", "-i", "-t", kind, "-o", options, source, str(path)]
    subprocess.run(command, check=True, pass_fds=[device])
    parent = os.getpid()
    if os.fork():
        os.close(device)
        return
    # The server ends with the run, whose output it must not hold open.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    if os.getppid() == parent:
        if answer == "as a volume":
            os.set_inheritable(device, True)
            os.execv(sys.executable, [sys.executable, str(Path(__file__).with_name("volume.py")), str(device)])
        _serve(device, answer)
    os._exit(0)


def _serve(device: int, answer: str | int) -> None:
    """Answer the kernel's questions (include/uapi/linux/fuse.h) of a file system that holds one empty folder."""
    while True:
        if answer == "never":
            time.sleep(3600)
        question = os.read(device, 1 << 17)
        _, code, unique = struct.unpack_from("<IIQ", question)
        reply, error = _answers().get(code, (b"", errno.ENOSYS))
        if answer != "well" and code != _INIT:
            reply, error = b"", int(answer)
        if code not in _FORGETS:
            os.write(device, struct.pack("<IiQ", 16 + len(reply), -error, unique) + reply)


_INIT = 26
_FORGETS = (2, 42)


def _answers() -> dict[int, tuple[bytes, int]]:
    folder = struct.pack("<6Q10I", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
    return {
        _INIT: (struct.pack("<4I2H2I2HI28x", 7, 31, 0, 0, 8, 6, 4096, 1, 1, 0, 0), 0),
        3: (struct.pack("<QII", 1, 0, 0) + folder, 0),  # GETATTR
        17: (struct.pack("<5Q4I24x", 1 << 30, 1 << 29, 1 << 29, 1 << 20, 1 << 19, 4096, 255, 4096, 0), 0),  # STATFS
        27: (struct.pack("<QII", 1, 0, 0), 0),  # OPENDIR
        28: (b"", 0),  # READDIR
        29: (b"", 0),  # RELEASEDIR
        34: (b"", 0),  # ACCESS
    }


def _lay(steps: Sequence[Sequence[Any]]) -> None:
    ground = _Ground() if any(step[0] not in ("limit", "drop") for step in steps) else None
    for kind, *what in steps:
        if kind == "drop":
            ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, what[0])
            continue
        if kind == "limit":
            name, soft, hard = what
            resource.setrlimit(getattr(resource, name), (soft, hard))
            continue
        assert ground
        path = Path(what[0])
        if kind == "mount" and path.exists():  # as in /proc, which cannot be made anew
            _mount(*what[1], str(path))
            continue
        if kind == "read-only":
            _make_read_only(path, Path(what[1]))
            continue
        if kind == "fill":
            _fill_up(path, what[1])
            continue
        ground.prepare(path.parent)
        if kind == "shared":
            path.mkdir(exist_ok=True)
            _share(path, *what[1:])
            continue
        _clear(path)
        if kind == "write":
            path.write_text(what[1])
            path.chmod(what[2])
        elif kind == "folder":
            path.mkdir()
            path.chmod(what[1])
        elif kind == "link":
            path.symlink_to(what[1])
        elif kind == "mount":
            path.mkdir() if what[2] else path.touch()
            _mount(*what[1], str(path))
        elif kind == "hang":
            path.mkdir()
            _mount_without_server(path)


def _make_read_only(path: Path, but: Path) -> None:
    _mount("--rbind", str(path), str(path))
    if but.is_relative_to(path):
        _mount("--bind", str(but), str(but))
    _mount("-o", "remount,ro,bind", str(path))


def _fill_up(path: Path, size: int) -> None:
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def _mount_without_server(path: Path) -> None:
    """The connection lives as long as the program that is started here, which inherits it."""
    connection = os.open("/dev/fuse", os.O_RDWR)
    os.set_inheritable(connection, True)
    options = f"fd={connection},rootmode=40000,user_id=0,group_id=0".encode()
    if ctypes.CDLL(None, use_errno=True).mount(
        b"hang", os.fsencode(path), b"fuse.gocryptfs", _MS_NOSUID_NODEV, options
    ):
        raise OSError(ctypes.get_errno(), f"cannot mount a file system that hangs at {path}")


if __name__ == "__main__":
    folder = Path.cwd()
    _lay(json.loads(sys.argv[1]))
    os.chdir(folder)
    os.execvp(sys.argv[2], sys.argv[2:])
