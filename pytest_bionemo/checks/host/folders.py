"""The folders that a training writes to."""

from __future__ import annotations

from pytest_bionemo import rules
from pytest_bionemo.checking import check, fail, wait_for
from pytest_bionemo.checks.host.shared import in_words
from pytest_bionemo.facts import host as facts
from pytest_bionemo.probes import storage as storages
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.storage import Folder, Storage

_COMPILED = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR")
_TEMPORARY = ("TMPDIR", storages.SPARE)
# What holds weights, checkpoints and data sets.
_LARGE = {"HOME", "BIONEMO_CACHE_DIR", "HF_HOME", "TORCH_HOME"}


@check(needs=["linux"])
def folders_answer(machine: Machine) -> None:
    """The folders that training writes to answer.

    Why: a file system that hangs stops everything that touches it, and no signal ends that.

    How it decides: a child process with a deadline asks for each folder that training writes to; one that gives no
    answer is named.

    Fix: mount the file system again, or name folders on another one.
    """
    if machine.storage.failure and (place := rules.unwell_folder(machine)):
        wait_for("platform::shared_file_systems_answer", f"{place} does not answer")
    if machine.storage.failure and not machine.storage.hangs:
        wait_for(None, f"the folders could not be looked at: {machine.storage.failure}")
    if machine.storage.failure:
        fail(
            f"a folder that training uses does not answer: {machine.storage.failure}",
            why="a file system that hangs stops everything that touches it, and cannot be killed",
            fix=[
                "see which file system it is, and mount it again:",
                "$ cat /proc/mounts",
                "or name folders on another one (HOME, HF_HOME, TMPDIR)",
            ],
        )


@check(needs=["linux"])
def temporary_folder_works(storage: Storage) -> None:
    """Temporary files can be written.

    Why: compilers, Triton and data loaders cannot start without temporary files.

    How it decides: the folder of TMPDIR, or the one that Python would choose, has to exist, to be writable and to
    have room. Where another one works instead, it only warns.

    Fix: name a folder that this user can write in TMPDIR, or make room.
    """
    told = storage.of("TMPDIR")
    candidates = [folder for folder in storage.folders if {"TMPDIR", storages.SPARE} & set(folder.names)]
    broken = {folder.path: problem for folder in candidates if (problem := _unusable(folder))}
    if told and told.path in broken:
        usable = [folder.path for folder in candidates if folder.path not in broken]
        fail(
            f"temporary files cannot be written to {told.path}: {broken[told.path]}"
            + ("" if usable else "; nor to " + ", ".join(path for path in broken if path != told.path)),
            why="compilers and Triton fail there; Python takes another folder without a word" if usable
            else "PyTorch, Triton and data loaders cannot start without temporary files",
            fix=["name a folder that can be written:", "$ export TMPDIR=/path/to/a/folder"],
            severity="warning" if usable else None,
        )  # fmt: skip


def _unusable(folder: Folder) -> str | None:
    if not folder.exists and folder.problem is None:
        return "it does not exist"
    if folder.problem is None and (folder.free == 0 or folder.inodes == 0):
        return "it is full"
    return folder.problem


@check(severity="warning", needs=["linux"])
def caches_can_be_written(storage: Storage) -> None:
    """HOME and the caches of BioNeMo, PyTorch, Hugging Face and Triton can be written.

    Why: weights cannot be downloaded, and kernels are compiled again by every process, or not at all.

    How it decides: for HOME and each variable that names a cache it takes the nearest folder that exists, and asks
    whether this user may write there; nothing is written.

    Fix: name folders that this user can write in the variables that the finding names.
    """
    broken = [folder for folder in storage.folders if folder.problem and _is_cache(folder, storage)]
    if broken:
        # What is below one folder has one cause.
        groups = {folder.nearest: folder.problem for folder in broken}
        names = [name for folder in broken for name in folder.names if name not in _TEMPORARY]
        fail(
            f"{', '.join(names)} cannot be written: "
            + "; ".join(f"{nearest} ({problem})" for nearest, problem in groups.items()),
            why="weights cannot be downloaded, and kernels are compiled again by every process, or not at all",
            fix=["name folders that this user can write:", *_exports(names)],
        )


@check(severity="warning", needs=["linux"])
def disk_has_room(storage: Storage) -> None:
    """The caches and the folder for temporary files have room.

    Why: downloads, compiled kernels and checkpoints end with 'No space left on device'.

    How it decides: it compares the free room and the free inodes of each file system on which a cache or temporary
    files lie with the least that they need; several folders of one file system count once.

    Fix: make room, or move the caches to a larger disk with the variables that the finding names.
    """
    places: dict[int | str, list[Folder]] = {}
    for folder in storage.folders:
        is_for_others = storages.SHARED_MEMORY in folder.names or folder.names == (storages.SPARE,)
        if not folder.problem and not is_for_others and not _is_in_broken_temporary_folder(folder, storage):
            # Paths of one file system share its room.
            places.setdefault(folder.device or folder.nearest, []).append(folder)
    lacking: dict[str, list[str]] = {}
    for folders in places.values():
        if lack := _lack(folders):
            lacking.setdefault(lack, []).extend(name for folder in folders for name in folder.names)
    if lacking:
        names = [name for names in lacking.values() for name in names if name != storages.SPARE]
        fail(
            "; ".join(f"{', '.join(names)}: {lack}" for lack, names in lacking.items()),
            why="downloads, compiled kernels and checkpoints end with 'No space left on device'",
            fix=[
                "make room:",
                "$ df -h",
                "$ df -i",
                "or name folders on a larger file system:",
                *_exports(names),
            ],
        )


def _lack(folders: list[Folder]) -> str | None:
    """What one place has too little of; None for enough, and for what is not counted."""
    place, users = folders[0], {name for folder in folders for name in folder.names}
    is_temporary = "TMPDIR" in users and not users & _LARGE
    needed = facts.threshold("disk_for_temporary_files" if is_temporary else "disk_for_caches")
    if place.free is not None and place.free < needed:
        return f"{in_words(place.free)} free in {place.nearest}, expected {in_words(needed)} or more"
    if place.inodes is not None and place.inodes < (files := facts.threshold("inodes")):
        return f"room for {place.inodes} more files (inodes) in {place.nearest}, expected {files} or more"
    return None


@check(severity="warning", needs=["linux"])
def compiled_code_runs(storage: Storage) -> None:
    """What Triton, Inductor and PyTorch's extensions compile can be loaded from where they keep it.

    Why: a kernel that was compiled into such a folder does not load: 'failed to map segment from shared object'.

    How it decides: it reads from the mount options of each folder of compiled code whether its file system is mounted
    noexec.

    Fix: move the cache that the finding names to a file system that is not mounted noexec.
    """
    closed = [folder for folder in storage.folders if not folder.runs_code and set(folder.names) & set(_COMPILED)]
    if closed:
        names = [name for folder in closed for name in folder.names if name in _COMPILED]
        fail(
            f"the file system of {', '.join(sorted({folder.nearest for folder in closed}))} runs no code (noexec), "
            f"where {', '.join(names)} {'is' if len(names) == 1 else 'are'}",
            why="a compiled kernel does not load: 'failed to map segment from shared object'",
            fix=["name folders of a file system that runs code:", *_exports(names)],
            links=["https://github.com/pytorch/pytorch/issues/123054"],
        )


def _exports(names: list[str]) -> list[str]:
    """Commands that name other folders; the caches go with HOME."""
    return [f"$ export {name}=/path/to/a/folder" for name in (["HOME"] if "HOME" in names else names)]


def _is_in_broken_temporary_folder(folder: Folder, storage: Storage) -> bool:
    told = storage.of("TMPDIR")
    if told is None or "HOME" in folder.names or not _unusable(told):
        return False
    return f"{folder.path}/".startswith(f"{told.path.rstrip('/')}/")


def _is_cache(folder: Folder, storage: Storage) -> bool:
    """Whether it is one whose fault no other check states."""
    if _is_in_broken_temporary_folder(folder, storage):
        return False
    if folder.names == ("BIONEMO_CACHE_DIR",) and rules.has_package_with_cache():
        return False
    return not set(folder.names) <= {storages.SHARED_MEMORY, *_TEMPORARY}
