"""Where the report lies, and its page, and that neither lies there by mistake.

It is written INCONCLUSIVE before anything is asked of a driver and replaced atomically at the end: a run that is
killed leaves the truth, never yesterday's READY. A run that ends in a usage error was none: what lay there before
is put back. Where a file system renames no file (a volume of Databricks), it is written over, from its beginning to
its end: whoever reads it meanwhile, or after a kill, finds the former report or no JSON.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_bionemo.report import atomic, layout

# What a run writes: the option that names its place, and how its file ends in a folder.
_KINDS = {"report": ("--bionemo-report", ".json"), "page": ("--bionemo-html", ".html")}


class PlaceError(Exception):
    """The report cannot be written; the message is one line."""


class Place:
    """The file of one run's report, or of another output of the run that is named like it.

    :param name: a path as the user gave it; an existing folder gets ``<hostname>.json``.
    :param folder: what a relative path is relative to.
    :param subfolder: of a folder; made by the first of the nodes that write there.
    :param node: instead of the name of this host.
    :param kind: what lies there, in words: ``report``, or ``page``.
    :param of_many: whether other nodes are given the same name. One that does not exist and does not end in the
        suffix of a file is then a folder, which is made: as a file, they would write it over each other.
    :raises PlaceError: if none can lie there.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        subfolder: str | None = None,
        node: str | None = None,
        kind: str = "report",
        *,
        of_many: bool = False,
    ) -> None:
        self._kind = kind
        self._option, suffix = _KINDS[kind]
        try:
            in_folder = Path(subfolder or "", f"{node or socket.gethostname()}{suffix}")
            path = self._choose(name, folder, in_folder, of_many)
            self.path = path.resolve() if path.is_symlink() else path
            is_something_else = self.path.exists() and not self.path.is_file()
        except (OSError, RuntimeError, ValueError) as error:
            # A name too long or that none can have, a closed folder, the home of nobody, a link to itself.
            raise self._unwritable(name, error) from None
        if is_something_else:
            # Replacing /dev/null by a file would break the machine.
            raise PlaceError(f"{self.path} is no regular file. Choose another {self._option}.")
        self._before: bytes | None = None
        self._begun = b""

    def _choose(self, name: str, folder: Path, in_folder: Path, of_many: bool) -> Path:
        if not name:
            raise PlaceError(f"'' is no path for the {self._kind}. Choose another {self._option}.")
        path = folder / Path(name).expanduser()
        is_folder = name.endswith(os.sep)
        is_new = path.parent.is_dir() and not path.exists()
        if path.is_dir() or (of_many and is_new and (is_folder or not path.name.endswith(in_folder.suffix))):
            return path / in_folder
        if is_folder or not path.parent.is_dir():
            missing = path if is_folder else path.parent
            raise PlaceError(f"the folder {missing} does not exist. Make it, or choose another {self._option}.")
        return path

    def _unwritable(self, path: Path | str, error: Exception) -> PlaceError:
        why = getattr(error, "strerror", None) or str(error).rstrip(".")
        return PlaceError(f"cannot write the {self._kind} to {path}: {why}. Choose another {self._option}.")

    def shown_from(self, folder: Path) -> str:
        """The path as somebody in this folder would type it."""
        return str(self.path.relative_to(folder) if self.path.is_relative_to(folder) else self.path)

    def begin(self, content: dict[str, Any] | str) -> None:
        """Replace what is there by what is said of a run that has not finished.

        :raises PlaceError: if it cannot be written.
        """
        begun = _encode(content)
        try:
            # It stays after a usage error, too: another node may be about to write there.
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                self._before = self.path.read_bytes()
            atomic.save(self.path, begun)
        except (OSError, ValueError) as error:
            raise self._unwritable(self.path, error) from None
        self._begun = begun

    def restore(self) -> None:
        """Put back what was there before :meth:`begin`, if that wrote there, unless another run has written since."""
        if not self._begun:
            return
        with suppress(OSError):
            if self.path.read_bytes() != self._begun:
                return
        if self._before is None:
            self.path.unlink(missing_ok=True)
        else:
            atomic.save(self.path, self._before)

    def write(self, content: dict[str, Any] | str) -> None:
        """Replace what lies there, atomically where the file system can."""
        atomic.save(self.path, _encode(content))


def _encode(content: dict[str, Any] | str) -> bytes:
    """A document as JSON, a page as it is."""
    return (content if isinstance(content, str) else layout.dumps(content)).encode()
