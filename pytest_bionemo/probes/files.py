"""Small files that anybody may have damaged: read up to a limit, never waited for."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LIMIT = 1 << 20


class Unreadable(Exception):
    """The file is there, and what was expected of it is not; the message is a phrase."""


def text(path: Path, limit: int = _LIMIT, errors: str = "replace") -> str:
    """The first ``limit`` bytes as text; empty where there is no such file or it cannot be read."""
    return (_read(path, limit) or b"").decode(errors=errors)


def content(path: Path, limit: int = _LIMIT) -> bytes:
    """The first ``limit`` bytes; none where there is no such file or it cannot be read."""
    return _read(path, limit) or b""


def exists(path: Path) -> bool:
    """Whether it is there, as far as this user can see: a folder above may be closed to them."""
    try:
        return path.exists()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Whether a folder is there, as far as this user can see."""
    try:
        return path.is_dir()
    except OSError:
        return False


def line(path: Path) -> str:
    """The first line, stripped; empty where there is none."""
    return text(path, 4096).strip().partition("\n")[0].strip()


def mapping(path: Path) -> Mapping[str, Any] | None:
    """The JSON object in this file; None where there is no such file, or this user may not read it.

    :raises Unreadable: where it is no JSON object.
    """
    data = _read(path, _LIMIT + 1)
    if data is None:
        return None
    if not data.strip():
        raise Unreadable("it is empty")
    if len(data) > _LIMIT:
        raise Unreadable(f"it is larger than {_LIMIT >> 20} MiB")
    try:
        found = json.loads(data)
    except RecursionError:
        raise Unreadable("it is no JSON: too deep") from None
    except ValueError as error:
        raise Unreadable(f"it is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise Unreadable(f"it holds no JSON object, but {type(found).__name__}")
    return found


def names(folder: Path) -> tuple[str, ...]:
    """What lies in this folder, sorted; nothing where there is no such folder or it cannot be read."""
    try:
        return tuple(sorted(entry.name for entry in folder.iterdir()))
    except OSError:
        return ()


def _read(path: Path, limit: int) -> bytes | None:
    try:
        # Without waiting: whoever writes to a pipe of that name may never come.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(limit)
    except OSError:
        return None
    finally:
        os.close(descriptor)
