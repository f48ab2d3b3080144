"""Files, file systems and limits of the node that a run sees, real ones in a mount namespace of its own.

Nothing of the machine that runs the tests is changed: whatever is laid over its files lies in a tmpfs that ends with
the run. This file is also the program that lays them: it is started inside the new namespace.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
        _mount("--rbind", str(folder), str(before))
        mode = folder.stat().st_mode & 0o7777
        _mount("-t", "tmpfs", "-o", f"mode={mode:o}", "none", str(folder))
        self._fill(before, folder)
        subprocess.run(["umount", "-l", str(before)], check=True)
        before.rmdir()
        self._grafted.append(folder)

    def _fill(self, old: Path, new: Path) -> None:
        for child in sorted(old.iterdir()):
            place = new / child.name
            if child.is_symlink():
                place.symlink_to(child.readlink())
            elif child.is_dir():
                place.mkdir(exist_ok=True)  # mount(8) makes /run/mount by itself
                # With a copy of what is made here, nothing of the ground could be removed.
                if child != Path("/mnt"):
                    _mount("--rbind", str(child), str(place))
            else:
                place.touch()
                _mount("--bind", str(child), str(place))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _clear(path: Path) -> None:
    subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _lay(steps: Sequence[Sequence[Any]]) -> None:
    ground = _Ground() if any(step[0] != "limit" for step in steps) else None
    for kind, *what in steps:
        if kind == "limit":
            name, soft, hard = what
            resource.setrlimit(getattr(resource, name), (soft, hard))
            continue
        assert ground
        path = Path(what[0])
        ground.prepare(path.parent)
        if kind == "mount" and path.exists():
            _mount(*what[1], str(path))
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


if __name__ == "__main__":
    folder = Path.cwd()
    _lay(json.loads(sys.argv[1]))
    os.chdir(folder)
    os.execvp(sys.argv[2], sys.argv[2:])
