"""Slurm: the job of this process, and whether the node can start its containers.

Sources: sbatch(1) and srun(1), "OUTPUT ENVIRONMENT VARIABLES"; plugstack.conf and the folder of configurations that
slurmd keeps where there is no slurm.conf (configless); NVIDIA/pyxis and NVIDIA/enroot, their wikis on setup.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_bionemo.probes import files
from pytest_bionemo.probes.child import note

_CONFIGURATIONS = (
    "var/spool/slurmd/conf-cache",
    "opt/slurm/etc",
    "etc/slurm",
    "etc/slurm-llnl",
    "usr/local/etc/slurm",
)
_PYXIS = re.compile(r"^[ \t]*(?:required|optional)[ \t]+(\S*spank_pyxis\.so)\b", re.MULTILINE)
_INCLUDED = re.compile(r"^[ \t]*include[ \t]+(\S+)", re.MULTILINE)
_ENROOT_SETTING = re.compile(r"^[ \t]*(ENROOT_\w+)[ \t]+(\S.*)$", re.MULTILINE)
_ENROOT_PATHS = ("ENROOT_RUNTIME_PATH", "ENROOT_CACHE_PATH", "ENROOT_DATA_PATH")


@dataclass(frozen=True)
class Slurm:
    """A node of Slurm; the rest is None outside a job, or where the variable holds no number.

    ``gpus`` is how many GPUs of this node the job was given.
    """

    job: str | None = None
    nodes: int | None = None
    node_list: str | None = None
    tasks: int | None = None
    rank: int | None = None
    local_rank: int | None = None
    gpus: int | None = None


@dataclass(frozen=True)
class Place:
    """A folder of enroot: its setting, the nearest folder that exists, and what is free there."""

    setting: str
    folder: Path
    free_bytes: int | None
    is_writable: bool
    is_shared: bool = False


@dataclass(frozen=True)
class Containers:
    """How this node starts containers.

    ``plugin`` is pyxis as Slurm's configuration names it, ``plugin_exists`` whether that file is there. ``enroot`` is
    the program, None where there is none.
    """

    configuration: Path
    plugin: str
    plugin_exists: bool
    enroot: str | None
    places: tuple[Place, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Containers:
        """Read back what a child process said."""
        places = tuple(Place(**{**one, "folder": Path(one["folder"])}) for one in data["places"])
        return cls(**{**data, "configuration": Path(data["configuration"]), "places": places})


def read(variables: Mapping[str, str], root: Path) -> Slurm | None:
    """None where this is not Slurm."""
    job = variables.get("SLURM_JOB_ID") or variables.get("SLURM_JOBID")
    if not job and not any(files.exists(folder / "slurm.conf") for folder in _configurations(root)):
        return None  # the client's packages bring a plugstack.conf of their own
    return Slurm(
        job or None,
        _number(variables, "SLURM_JOB_NUM_NODES", "SLURM_NNODES"),
        variables.get("SLURM_JOB_NODELIST") or variables.get("SLURM_NODELIST") or None,
        _number(variables, "SLURM_NTASKS"),
        _number(variables, "SLURM_PROCID"),
        _number(variables, "SLURM_LOCALID"),
        _number(variables, "SLURM_GPUS_ON_NODE"),
    )


def batch_script(variables: Mapping[str, str], root: Path) -> Path | None:
    """The script of this job, as slurmd keeps it for the job's user; None outside one."""
    job = variables.get("SLURM_JOB_ID", "")
    return root / f"var/spool/slurmd/job{int(job):05d}/slurm_script" if job.isdecimal() else None


def containers(variables: Mapping[str, str], shared: Sequence[str] = (), root: Path = Path("/")) -> Containers | None:
    """How this node starts containers; None where Slurm's configuration has no pyxis.

    ``shared`` are the places of shared file systems: they are not touched, since they may hang.
    """
    for path, text in _plugstacks(root):
        match = _PYXIS.search(text)
        if match:
            return Containers(
                configuration=Path("/") / path.relative_to(root),
                plugin=match[1],
                plugin_exists=_plugin_exists(root, match[1]),
                enroot=_enroot(root, variables),
                places=_places(root, variables, shared),
            )
    return None


def _configurations(root: Path) -> list[Path]:
    """Folders with the configuration of a node."""
    return [root / folder for folder in _CONFIGURATIONS if _is_configuration(root / folder)]


def _is_configuration(folder: Path) -> bool:
    note(f"looking at {folder}")  # clusters have it on shared file systems, too
    return any(name.endswith(".conf") for name in files.names(folder))


def _plugstacks(root: Path) -> Iterator[tuple[Path, str]]:
    for folder in _configurations(root):
        path = folder / "plugstack.conf"
        text = files.text(path)
        yield path, text
        for included in _INCLUDED.findall(text):
            relative = included.lstrip("/") if included.startswith("/") else str(folder.relative_to(root) / included)
            yield from ((found, files.text(found)) for found in _glob(root, relative))


def _glob(root: Path, pattern: str) -> list[Path]:
    try:
        return sorted(root.glob(pattern))
    except (OSError, ValueError, NotImplementedError):  # no pattern at all
        return []


def _plugin_exists(root: Path, plugin: str) -> bool:
    if plugin.startswith("/"):
        note(f"looking at {plugin}")
        return files.exists(root / plugin.lstrip("/"))
    # A bare name is looked for in Slurm's own folders, which its configuration sets: not known here.
    return True


def _enroot(root: Path, variables: Mapping[str, str]) -> str | None:
    note("looking at the folders of PATH for enroot")
    if root == Path("/"):
        return shutil.which("enroot", path=f"{variables.get('PATH', '')}:/usr/local/bin:/usr/bin:/bin")
    found = next((folder for folder in ("usr/local/bin", "usr/bin") if files.exists(root / folder / "enroot")), None)
    return f"/{found}/enroot" if found else None


def _places(root: Path, variables: Mapping[str, str], shared: Sequence[str]) -> tuple[Place, ...]:
    settings = dict(_ENROOT_SETTING.findall(files.text(root / "etc/enroot/enroot.conf")))
    settings.update({name: variables[name] for name in _ENROOT_PATHS if variables.get(name)})
    return tuple(
        _place(root, name, folder, shared)
        for name in _ENROOT_PATHS
        if (folder := _expand(settings.get(name, ""), variables))
    )


def _expand(value: str, variables: Mapping[str, str]) -> str | None:
    """The folder as the shell would see it; None where that takes more than variables and the numbers of the user."""
    text = value.strip().strip("\"'").replace("$(id -u)", str(os.getuid())).replace("$(id -g)", str(os.getgid()))
    text = re.sub(r"\$\{?(\w+)\}?", lambda match: variables.get(match[1], match[0]), text)
    return text if text.startswith("/") and "$" not in text and "`" not in text else None


def _place(root: Path, setting: str, folder: str, shared: Sequence[str]) -> Place:
    if any(Path(folder).is_relative_to(place) for place in shared):
        return Place(setting, Path(folder), None, is_writable=True, is_shared=True)
    note(f"looking at {folder}")
    path = root / folder.lstrip("/")
    while not files.exists(path) and path != root:
        path = path.parent
    try:
        seen = os.statvfs(path)
        free: int | None = seen.f_bavail * seen.f_frsize
    except OSError:
        free = None
    return Place(setting, Path("/") / path.relative_to(root), free, os.access(path, os.W_OK | os.X_OK))


def _number(variables: Mapping[str, str], *names: str) -> int | None:
    value = next((variables[name] for name in names if variables.get(name)), "")
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 10 else None
