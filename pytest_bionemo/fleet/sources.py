"""Where reports come from: files, folders, patterns, and the standard input, one at a time.

What cannot be read is named and holds up nothing: a pipe that nobody writes to is not opened, and a file of
gigabytes is not loaded.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from pytest_bionemo.showing import shown
from pytest_bionemo.verdict import ReportError

LARGEST_REPORT = 32 * 2**20
"""Bytes. One of eight GPUs at level full has about 1 MB."""

STANDARD_INPUT = "-"
_TOO_LARGE = f"is larger than any report: more than {LARGEST_REPORT >> 20} MiB"
_PIECE = 1 << 16
_BRACE = b"{\n"
_LONGEST_NAME = 400


class SourceError(Exception):
    """There is nothing of this name; the message is one line."""


def files(names: Iterable[str]) -> list[str]:
    """The files that these names stand for, each once, sorted: a folder stands for every ``*.json`` below it.

    Files and folders whose names begin with a dot are left out, as shells do: such is a report that is being written.

    :raises SourceError: for a name that stands for nothing.
    """
    found: dict[str, str] = {}
    for name in names:
        for path in _below(name):
            found.setdefault(os.path.realpath(path), path)
    return sorted(found.values())


def _below(name: str) -> Iterator[str]:
    if not name:
        raise SourceError("'' is no path. Give reports, folders of reports, patterns, or - for the standard input.")
    try:
        mode = Path(name).stat().st_mode
    except (OSError, ValueError) as error:
        matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 (a pattern may be absolute)
        if not matches:
            why = getattr(error, "strerror", None) or error
            raise SourceError(
                f"{shown(name, _LONGEST_NAME)}: {why}. Give reports, folders of reports, or patterns."
            ) from None
        for match in matches:
            yield from _below(match)
        return
    if stat.S_ISDIR(mode):
        yield from _json_files(name)
    else:
        yield name


def _json_files(folder: str) -> Iterator[str]:
    def stop(error: OSError) -> None:
        # A folder that is closed may hold the report of a node that failed.
        raise SourceError(f"{shown(error.filename, _LONGEST_NAME)}: {error.strerror}")

    seen: set[str] = set()
    # A folder on another disk is often there by a link.
    for parent, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if (place := os.path.realpath(parent)) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(place)
        yield from (f"{parent}/{name}" for name in names if name.endswith(".json") and name[0] != ".")


def load(path: str) -> bytes:
    """The content of a file.

    :raises ReportError: if it cannot be read, is no regular file, or is larger than any report.
    """
    try:
        # Opening a pipe would wait for somebody to write to it.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise ReportError("is no regular file")
            if about.st_size > LARGEST_REPORT:
                raise ReportError(_TOO_LARGE)
            return file.read(about.st_size)
    except OSError as error:
        raise ReportError(f"cannot be read: {error.strerror}") from None


def split(stream: IO[bytes]) -> Iterator[bytes]:
    """The documents in a stream of many, each of which begins with a brace at the beginning of a line.

    So do reports as they are written (``cat DIR/*.json``) and JSON lines. A document that is truncated ends where the
    next one begins; of one that is larger than any report, no more than that is kept.
    """
    document, is_begin = bytearray(), True
    while line := stream.readline(_PIECE):
        if is_begin and line.startswith(b"{") and document.strip():
            yield bytes(document)
            document.clear()
        elif is_begin and line.startswith(b' "') and document.endswith(_BRACE) and document.strip() != b"{":
            # As reports are written, only what is directly in a document has one space before it: one that was cut
            # off within a line has this one's brace behind it.
            yield bytes(document[: -len(_BRACE)])
            document[:] = _BRACE
        if len(document) <= LARGEST_REPORT:
            document += line
        is_begin = line.endswith(b"\n")
    if document.strip():
        yield bytes(document)


def describe(number: int) -> str:
    """What the document of this number is called that came by the standard input."""
    return f"standard input, document {number}"
