"""File systems, runtimes, network software and job templates of platforms, from ``platforms.toml``.

Every function raises FactsError when the table cannot be read.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from pytest_bionemo.facts import load, versions

__all__ = [
    "Template",
    "Variable",
    "largest_image_bytes",
    "local_programs",
    "oldest_libfabric",
    "oldest_plugin",
    "runtime_end",
    "shared_file_systems",
    "supported_runtimes",
    "templates",
    "variables",
]


@dataclass(frozen=True)
class Variable:
    """A setting that goes against NCCL over EFA; ``pattern`` is of ``NAME=VALUE``."""

    pattern: re.Pattern[str]
    why: str
    fix: str


@dataclass(frozen=True)
class Template:
    """A fault of published job scripts, and how one with it is known."""

    name: str
    suffixes: tuple[str, ...]
    has: tuple[re.Pattern[str], ...]
    lacks: tuple[re.Pattern[str], ...]
    message: str
    why: str
    fix: str

    def is_in(self, name: str, text: str) -> bool:
        """Whether the script of this name has the fault. Comments are no part of it, Slurm's directives are."""
        if not name.endswith(self.suffixes):
            return False
        script = _COMMENT.sub("", text)
        return all(part.search(script) for part in self.has) and not any(part.search(script) for part in self.lacks)


_COMMENT = re.compile(r"^[ \t]*#(?!SBATCH).*$", re.MULTILINE)


@functools.cache
def shared_file_systems() -> Mapping[str, str]:
    """The type of each file system that nodes share, as /proc/self/mountinfo has it, and its name."""
    return {row["kind"]: row["name"] for row in load("platforms")["file_system"]}


def local_programs() -> frozenset[str]:
    """Programs that serve file systems (FUSE) of this machine alone."""
    return frozenset(load("platforms")["fuse"]["local"])


def runtime_end(version: str) -> date | None:
    """The last day on which this Databricks runtime ("15.4") is supported; None where it is not on record.

    One that is older than all of them has ended no later than the oldest.
    """
    rows = load("platforms")["runtime"]
    for row in rows:
        if version == row["version"] or version.startswith(f"{row['version']}."):
            return date.fromisoformat(row["ends"]) if row["ends"] else None
    oldest = min(rows, key=lambda row: versions.leading(row["version"]))
    is_older = bool(re.match(r"\d", version)) and versions.leading(version) < versions.leading(oldest["version"])
    return date.fromisoformat(oldest["ends"]) if is_older else None


def supported_runtimes(today: date) -> tuple[str, ...]:
    """The Databricks runtimes on record that are supported on this day, oldest first."""
    rows = load("platforms")["runtime"]
    return tuple(row["version"] for row in rows if not row["ends"] or date.fromisoformat(row["ends"]) >= today)


def oldest_libfabric() -> str:
    """The oldest libfabric with which NCCL needs no setting."""
    return str(load("platforms")["efa"]["libfabric"])


def oldest_plugin() -> str:
    """The oldest aws-ofi-nccl with which NCCL needs no setting."""
    return str(load("platforms")["efa"]["plugin"])


def largest_image_bytes() -> int:
    """What the largest of BioNeMo's container images takes."""
    return int(load("platforms")["container"]["largest_image_gb"] * 1e9)


@functools.cache
def variables() -> tuple[Variable, ...]:
    """Settings that go against NCCL over EFA."""
    return tuple(
        Variable(re.compile(row["pattern"]), row["why"], row["fix"]) for row in load("platforms")["variable"]
    )


@functools.cache
def templates() -> tuple[Template, ...]:
    """Faults of published job scripts."""
    return tuple(
        Template(
            row["name"],
            tuple(row["suffixes"]),
            _patterns(row["has"]),
            _patterns(row["lacks"]),
            row["message"],
            row["why"],
            row["fix"],
        )
        for row in load("platforms")["template"]
    )


def _patterns(texts: Sequence[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(text, re.MULTILINE) for text in texts)
