"""Folders that training writes to: whether they can be written, how much room is left, whether code may run there.

Nothing is written. ``read`` runs in a child process: asking a network file system that hangs never comes back.
"""

from __future__ import annotations

import ctypes
import errno
import getpass
import os
import re
import stat
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_bionemo.probes.child import Answer, note

TARGET = f"{__name__}:read"
SHARED_MEMORY = "/dev/shm"  # noqa: S108
_ASKING = "asking about"
_ASKED = re.compile(rf"{_ASKING} (/.*) \([^()]*\)$")
_IN_MEMORY = (0x01021994, 0x858458F6)  # linux/magic.h: TMPFS_MAGIC, RAMFS_MAGIC
SPARE = "temporary files"
"""The name of the folders that Python takes for temporary files where the one that it is told does not work."""
_SPARES = ("/tmp", "/var/tmp")  # noqa: S108
_STATFS_BYTES = 512  # struct statfs has 120 on 64 bits; its first word is the type


@dataclass(frozen=True)
class Folder:
    """One folder, by the ``names`` of those who use it ("HF_HOME"), or of what it is ("HOME").

    ``nearest`` is the folder itself or, where it is not there yet, the nearest above it that is. ``problem`` is why
    it could not be written. ``size``, ``free`` (in bytes) and ``inodes`` (files that can still be made) are None
    where the file system does not count them. ``runs_code`` is False where nothing can be run or loaded from it.
    ``device`` is the number of its file system.
    """

    path: str
    names: tuple[str, ...]
    nearest: str = ""
    problem: str | None = None
    size: int | None = None
    free: int | None = None
    inodes: int | None = None
    runs_code: bool = True
    in_memory: bool | None = None
    exists: bool = True
    device: int | None = None


@dataclass(frozen=True)
class Storage:
    """Every folder that answered, and ``failure``, why the others did not."""

    folders: tuple[Folder, ...] = ()
    failure: str | None = None

    @property
    def hangs(self) -> bool:
        """Whether it was a folder that kept the answer: not a child that died, or that was slow to start."""
        return self.failure is not None and self.failure.startswith("no answer within") and _ASKING in self.failure

    @property
    def silent_folder(self) -> str | None:
        """The one that kept the answer, where its path is known."""
        found = _ASKED.search(self.failure or "") if self.hangs else None
        return found[1] if found else None

    def of(self, name: str) -> Folder | None:
        """The folder of this user of it; None if it did not answer."""
        return next((folder for folder in self.folders if name in folder.names), None)

    def to_json(self) -> dict[str, Any]:
        """Plain builtins."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Storage:
        """Read back what ``to_json`` wrote."""
        return cls(tuple(_folder(one) for one in data["folders"]), data["failure"])


def from_answer(answer: Answer) -> Storage:
    """What the child said, as far as it came."""
    failure = None if answer.value is not None else answer.failure or "no answer"
    return Storage(tuple(_folder(one) for one in answer.before), failure)


def _folder(data: Mapping[str, Any]) -> Folder:
    return Folder(**{**data, "names": tuple(data["names"])})


def read() -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Look at each folder, in this process."""
    note(f"{_ASKING} the home folder")  # a directory service may know it
    wanted = folders(os.environ, _home(), _user())
    for path, names in wanted.items():
        note(f"{_ASKING} {path} ({', '.join(names)})")
        yield asdict(look(path, names))
    return {}


def _home() -> str:
    home = os.path.expanduser("~")  # noqa: PTH111
    return home if home != "~" else "/"


def folders(variables: Mapping[str, str], home: str, user: str = "") -> dict[str, tuple[str, ...]]:
    """Which folders are used, and by whom, as those who use them look them up."""
    cache = _told(variables, "XDG_CACHE_HOME") or f"{home}/.cache"
    temporary = temporary_folder(variables)
    found = {SHARED_MEMORY: ["/dev/shm"]}  # noqa: S108
    for path, name in ((home, "HOME"), (temporary, "TMPDIR"), *((spare, SPARE) for spare in _SPARES)):
        found.setdefault(_plain(path), []).append(name)
    triton_home = _told(variables, "TRITON_HOME") or home
    for name, default in {
        "BIONEMO_CACHE_DIR": f"{cache}/bionemo",
        "HF_HOME": f"{cache}/huggingface",
        "TORCH_HOME": f"{cache}/torch",
        "TORCH_EXTENSIONS_DIR": f"{cache}/torch_extensions",
        "TRITON_CACHE_DIR": f"{triton_home}/.triton/cache",
        "TORCHINDUCTOR_CACHE_DIR": f"{temporary}/torchinductor_{user}",
    }.items():
        path = os.path.expanduser(_told(variables, name) or default)  # noqa: PTH111
        found.setdefault(_plain(path), []).append(name)
    return {path: tuple(names) for path, names in found.items()}


def _plain(path: str) -> str:
    """Without what means nothing in a path: repeated slashes, one at the end."""
    return str(Path(path))


def _told(variables: Mapping[str, str], name: str) -> str:
    return variables.get(name, "").strip()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return str(os.getuid())


def temporary_folder(variables: Mapping[str, str]) -> str:
    """The folder that the environment names for temporary files, else that of the system: used or not."""
    named = next((text for name in ("TMPDIR", "TEMP", "TMP") if (text := variables.get(name))), None)
    return named or _SPARES[0]


def look(path: str, names: tuple[str, ...]) -> Folder:
    """Ask the file system about one folder."""
    place = Path(path)
    nearest = place if place.is_absolute() else Path.cwd() / place
    problem = None
    exists, device = True, None
    try:
        while (device := _device(nearest)) is None:
            exists, nearest = False, nearest.parent
        problem = _problem(nearest)
        device = nearest.stat().st_dev
        seen = os.statvfs(nearest)
    except (OSError, ValueError) as error:
        return Folder(path, names, str(nearest), problem or _why(error), exists=exists, device=device)
    if seen.f_flag & os.ST_RDONLY:
        problem = "its file system is read-only"
    counts_blocks = seen.f_blocks > 0
    return Folder(
        path,
        names,
        str(nearest),
        problem,
        size=seen.f_blocks * seen.f_frsize if counts_blocks else None,
        free=seen.f_bavail * seen.f_frsize if counts_blocks else None,
        inodes=seen.f_favail if seen.f_files > 0 else None,
        runs_code=not seen.f_flag & os.ST_NOEXEC,
        in_memory=_is_in_memory(nearest),
        exists=exists,
        device=device,
    )


def _device(path: Path) -> int | None:
    """That of its file system; None where nothing is there. Any other error is one of the folder itself."""
    try:
        return path.lstat().st_dev
    except (FileNotFoundError, NotADirectoryError):
        return None


def _problem(nearest: Path) -> str | None:
    try:
        found = nearest.stat()
    except FileNotFoundError:
        return f"{nearest} is a link that leads nowhere"
    if not stat.S_ISDIR(found.st_mode):
        return f"{nearest} is no folder"
    effective = os.access in os.supports_effective_ids
    if os.access(nearest, os.W_OK | os.X_OK, effective_ids=effective):
        return None
    return _why(PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _is_in_memory(path: Path) -> bool | None:
    """Whether its file system is a tmpfs, by statfs(2); None where that cannot be asked."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    try:
        if ctypes.CDLL(None).statfs(os.fsencode(path), buffer):
            return None
    except (OSError, AttributeError):
        return None
    return ctypes.c_long.from_buffer(buffer).value in _IN_MEMORY
