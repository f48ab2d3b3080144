"""Where runs are kept: a folder for each machine, in it one numbered file for each run.

::

    ~/.local/state/pytest-bionemo/gpus-4f0c1d2e3a5b/0001_standard.json
                                                    0002_before-update.json

A file is a report as it was written by its run. A number is given once, and no file is ever written over: who takes
a number makes ``.0003.part`` first, which only one can, and renames it when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_bionemo.baseline import Circumstances
from pytest_bionemo.fleet import sources
from pytest_bionemo.report import atomic
from pytest_bionemo.reports import Report
from pytest_bionemo.terms import RUN_NAME
from pytest_bionemo.verdict import DAMAGED, ReportError

VARIABLE = "PYTEST_BIONEMO_STORE"
_FILE = re.compile(rf"(?P<number>\d{{4,}})_(?P<name>{RUN_NAME})\.json", re.ASCII)
_TAKEN = re.compile(r"\.?(?P<number>\d{4,})[_.].*", re.ASCII | re.DOTALL)
_NO_LETTER = re.compile(r"[^A-Za-z0-9._-]")
# As the XDG Base Directory Specification wants the folders that a program makes. A history that several users share
# lies in a folder that somebody made for them.
_OURS_ALONE = 0o700


class StoreError(Exception):
    """It cannot be done; the message is one line."""


@dataclass(frozen=True)
class Stored:
    """One file of the store. ``number`` orders the runs of its machine."""

    path: Path
    machine: str
    number: int
    name: str

    def load(self) -> Report:
        """The run.

        :raises ReportError: one line that names the file, also where it is of another machine than the folder.
        """
        report = load(self.path)
        try:
            machine = machine_of(report.document["bionemo"])
        except StoreError as error:
            raise ReportError(f"{self.path}: {error}") from None
        if machine != self.machine:
            raise ReportError(f"{self.path}: it is of another machine, {machine}")
        return report


def folder(environ: Mapping[str, str]) -> Path:
    """Where runs are kept: ``$PYTEST_BIONEMO_STORE``, else below ``$XDG_STATE_HOME``, else below ``~/.local/state``.

    :raises StoreError: if there is no home.
    """
    try:
        if named := environ.get(VARIABLE):
            return Path(named).expanduser().absolute()
        # A relative path is invalid by the specification, and ignored.
        state = environ.get("XDG_STATE_HOME", "")
        base = Path(state) if Path(state).is_absolute() else Path("~/.local/state").expanduser()
    except RuntimeError as error:  # the home of nobody
        raise StoreError(f"{error} Set {VARIABLE} to a folder.") from None
    return base / "pytest-bionemo"


def machine_of(run: Mapping[str, Any]) -> str:
    """The name of a machine's folder: by the UUIDs of its GPUs, and by the host's name in a rehearsal.

    :param run: the key ``bionemo`` of its report.
    :raises StoreError: if the report does not say.
    """
    if run["device"] == "cpu":
        host = run.get("environment", {}).get("hostname")
        if not host:
            raise StoreError("the report names no host, whose history could be kept")
        return f"{_NO_LETTER.sub('-', str(host))[:64]}-cpu"
    return machine_with([gpu["uuid"] for gpu in run.get("gpus", []) if gpu["uuid"]])


def machine_with(uuids: list[str]) -> str:
    """The name of the folder of a machine with these GPUs, in whatever order they are counted."""
    if not uuids:
        raise StoreError("the report names no GPU, whose history could be kept")
    return f"gpus-{hashlib.sha256(' '.join(sorted(uuids)).encode()).hexdigest()[:12]}"


def check_name(name: str) -> str:
    """The name, if it can be part of a file's.

    :raises StoreError: one line.
    """
    if not re.fullmatch(RUN_NAME, name):
        raise StoreError(
            f"{name!r} is not a name for a run, such as before-update: up to 64 letters, digits, '.', '_' and '-'."
        )
    return name


def load(path: Path) -> Report:
    """A report in a file, whatever kind of file it is.

    :raises ReportError: one line that names it, if it cannot be read, is none, is damaged, or of a later version.
    """
    try:
        report = Report.of(_json(sources.load(str(path))), path)
        Circumstances.of(report.document["bionemo"])  # what these cannot be read from can be compared with nothing
    except ReportError as error:
        raise ReportError(f"{path}: {' '.join(str(error).split())}") from None
    except DAMAGED as error:
        raise ReportError(f"{path}: the report is damaged ({type(error).__name__}: {error})") from None
    return report


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"is no JSON: empty, truncated or damaged ({error})") from None


class Store:
    """The runs that are kept in a folder, which need not be there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def machines(self) -> list[str]:
        """The names of the folders that hold runs, sorted."""
        try:
            names = sorted(entry.name for entry in self.path.iterdir() if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unusable(self.path, error) from None
        # A name with other characters is not ours, and could steer the terminal that it is shown on.
        return [name for name in names if not _NO_LETTER.search(name) and self.runs(name)]

    def runs(self, machine: str) -> list[Stored]:
        """The runs of a machine, oldest first. They are not opened."""
        found = []
        for name in _names(self.path / machine):
            if match := _FILE.fullmatch(name):
                found.append(Stored(self.path / machine / name, machine, int(match["number"]), match["name"]))
        return sorted(found, key=lambda stored: stored.number)

    def readable(self, machine: str) -> tuple[list[tuple[Stored, Report]], list[str]]:
        """The runs of a machine with their reports, oldest first; and a line for each file that is damaged."""
        found, damaged = [], []
        for stored in self.runs(machine):
            try:
                found.append((stored, stored.load()))
            except ReportError as error:
                damaged.append(str(error))
        return found, damaged

    def save(self, document: Mapping[str, Any], name: str) -> Path:
        """Keep a run, under the next number of its machine.

        :raises StoreError: one line, if it is unfinished, names no machine, or cannot be written.
        """
        check_name(name)
        if document.get("exitcode") is None:
            raise StoreError("the run has not finished: there is nothing to keep")
        try:
            place = self.path / machine_of(document["bionemo"])
        except DAMAGED as error:
            raise StoreError(f"the report is damaged ({type(error).__name__}: {error})") from None
        content = json.dumps(document, indent=1, allow_nan=False).encode() + b"\n"
        try:
            self.path.mkdir(mode=_OURS_ALONE, parents=True, exist_ok=True)
            place.mkdir(exist_ok=True)
            return _write_next(place, name, content)
        except OSError as error:
            raise _unusable(place, error) from None


def _write_next(place: Path, name: str, content: bytes) -> Path:
    part, number = _take_number(place)
    try:
        atomic.write(part, content)
        return part.rename(place / f"{number:04d}_{name}.json")
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _take_number(place: Path) -> tuple[Path, int]:
    """The next number, and the file that only one run can make: it is that run's, until it is renamed."""
    number = max((_number(entry) for entry in _names(place)), default=0)
    while True:
        number += 1
        part = place / f".{number:04d}.part"
        try:
            part.touch(exist_ok=False)
        except FileExistsError:
            continue  # another run takes this number, or has died while it did
        if not any(_number(entry) == number for entry in _names(place) if entry != part.name):
            return part, number
        part.unlink()  # another run has finished with it since we looked


def _number(name: str) -> int:
    match = _TAKEN.fullmatch(name)
    return int(match["number"]) if match else 0


def _names(place: Path) -> Iterator[str]:
    try:
        yield from sorted(entry.name for entry in place.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise _unusable(place, error) from None


def _unusable(place: Path, error: OSError) -> StoreError:
    return StoreError(f"{place}: {error.strerror or error}. Set {VARIABLE} to another folder.")
