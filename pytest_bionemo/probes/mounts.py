"""The file systems that this machine shares with others, and whether each answers.

A dead server makes whoever asks wait for ever, in a state that no signal ends: ``ask`` runs in a child process, each
file system in a thread of its own, so that one that hangs hides none of the others.
"""

from __future__ import annotations

import errno
import os
import queue
import re
import threading
from collections.abc import Collection, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from pytest_bionemo.probes import files
from pytest_bionemo.probes.child import Answer, note

TARGET = f"{__name__}:ask"

_MOUNTINFO = Path("proc/self/mountinfo")
_LIMIT = 16 << 20
# As many can hang before one that answers is not asked: few enough for a container that limits its threads.
_THREADS = 128
_ASKING = "asking the shared file systems"
_LINKS = 40  # as many as the kernel follows
_ROOTS_OF_CONTAINERS = ("overlay", "fuse.fuse-overlayfs", "fuse.squashfuse", "squashfs")
# Not for this user, or not to be seen from here: the file system has answered, or needs not to.
# By name: other systems than Linux, on which this is imported too, have not all of them.
_NO_FAULT = tuple(
    number
    for number, name in errno.errorcode.items()
    if name in ("EACCES", "EPERM", "ENOENT", "ENOTDIR", "ENOKEY", "EKEYEXPIRED", "EKEYREVOKED", "EKEYREJECTED")
)
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One mount: where, of which type, from where."""

    path: str
    kind: str
    source: str

    @property
    def program(self) -> str | None:
        """The program that serves it, as far as it says ("sshfs", "mountpoint-s3"); None where the kernel does."""
        kind, _, program = self.kind.partition(".")
        return (program or self.source) if kind == "fuse" else None


def read(root: Path = Path("/")) -> tuple[Mount, ...] | None:
    """Every mount of this process, in the order of the table; None where there is no table, or nothing in it."""
    # A name need not be UTF-8, and the file system is asked by it.
    lines = files.text(root / _MOUNTINFO, _LIMIT, errors="surrogateescape").split("\n")
    return tuple(mount for line in lines if (mount := _parse(line))) or None


def has_own_root(mounts: Iterable[Mount]) -> bool:
    """Whether the root is one that containers have, also those that leave no other mark (enroot)."""
    kinds = [mount.kind for mount in mounts if mount.path == "/"]
    return bool(kinds) and kinds[-1] in _ROOTS_OF_CONTAINERS


def shared(mounts: Iterable[Mount], kinds: Collection[str], local: Collection[str] = ()) -> tuple[Mount, ...]:
    """Those of these types, each place once: the last one mounted there is the one that is seen.

    Whatever a program serves (FUSE) is one, too, but for the programs in ``local``.
    """
    at_place = {mount.path: mount for mount in mounts}
    return tuple(
        mount
        for mount in at_place.values()
        if mount.kind in kinds or (mount.program is not None and mount.program not in local)
    )


def touched(path: str, mounts: Collection[Mount]) -> tuple[Mount, ...]:
    """Those that whoever opens this path comes to. Links are followed up to the first of them; none is touched."""
    places = {mount.path: mount for mount in mounts}
    if not places:
        return ()
    rest, done, links = [*reversed(PurePath(path).parts)], "/", 0
    while rest:
        part = rest.pop()
        done = os.path.normpath(os.path.join(done, part))  # noqa: PTH118
        if done in places and done != "/":
            whole = PurePath(done, *reversed(rest))
            return tuple(mount for place, mount in places.items() if place != "/" and whole.is_relative_to(place))
        with suppress(OSError, ValueError):
            target = os.readlink(done)  # noqa: PTH115
            links += 1
            if links > _LINKS:
                break
            done = os.path.dirname(done)  # noqa: PTH120
            rest += reversed(PurePath(target).parts)
    return ()


def _parse(line: str) -> Mount | None:
    """proc_pid_mountinfo(5): fields, optional fields, a hyphen, then type and source."""
    before, separator, after = line.partition(" - ")
    left, right = before.split(" "), after.split(" ")
    if not separator or len(left) < 6 or len(right) < 2 or not left[4].startswith("/"):
        return None
    return Mount(_unescape(left[4]), right[0], _unescape(right[1]))


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def ask(paths: list[str]) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """In the child: ask each for its size and its first entry, and say so as soon as it has answered.

    A path about which nothing is said has not answered.
    """
    note(_ASKING)
    questions: queue.SimpleQueue[str] = queue.SimpleQueue()
    answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    for path in paths:
        questions.put(path)

    def work() -> None:
        with suppress(queue.Empty):
            while True:
                answers.put(_ask(questions.get_nowait()))

    for _ in paths[:_THREADS]:
        threading.Thread(target=work, daemon=True).start()
    for _ in paths:
        yield answers.get()
    return {"asked": len(paths)}


def _ask(path: str) -> dict[str, Any]:
    try:
        os.statvfs(path)
        with os.scandir(path) as entries:
            next(entries, None)
    except OSError as error:
        if error.errno not in _NO_FAULT:
            return {"path": path, "errno": error.errno, "error": error.strerror or str(error)}
    return {"path": path, "errno": None, "error": None}


def silent(mounts: Iterable[Mount], answer: Answer) -> tuple[Mount, ...]:
    """Those that were asked and kept silent; none where the child ended of something else."""
    if not (answer.failure or "").startswith("no answer within") or _ASKING not in (answer.failure or ""):
        return ()
    answered = {said["path"] for said in answer.before}
    return tuple(mount for mount in mounts if mount.path not in answered)


def broken(mounts: Iterable[Mount], answer: Answer) -> tuple[Mount, ...]:
    """Those that answered with an error."""
    paths = {said["path"] for said in answer.before if said["errno"] is not None}
    return tuple(mount for mount in mounts if mount.path in paths)
