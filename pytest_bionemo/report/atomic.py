"""Files that are replaced at once: whoever reads one meanwhile reads the old one or the new one."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO

# What a file system says that can only make, write over and remove files, as do those that show a store of objects.
# Volumes of Databricks say ENOSYS: https://github.com/earth-mover/icechunk/issues/2341
UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def replace(path: Path, content: bytes) -> None:
    """Put the content in the place of the file, or of the file that a link leads to.

    :raises OSError: if it cannot be written; its ``errno`` is one of UNSUPPORTED where files cannot be renamed. What
        is no regular file is left alone: renamed over, /dev/null would be a file from then on.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "it is no regular file", str(path))
    # The nodes of a cluster share folders, and their containers share numbers of processes. The name is none that
    # anybody reads: it begins with a dot and ends in .part.
    scratch = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")
    try:
        write(scratch, content)
        scratch.replace(path)
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


def save(path: Path, content: bytes) -> None:
    """Replace the file, or write over it where files cannot be renamed.

    :raises OSError: if it cannot be written, or is no regular file.
    """
    try:
        replace(path, content)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        write(path, content)


def write(path: Path, content: bytes) -> None:
    """Write over the file, and have it stored."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        _sync(file)


def _sync(file: IO[bytes]) -> None:
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in UNSUPPORTED:  # closing it is then what stores it, and what fails where it is not
            raise
