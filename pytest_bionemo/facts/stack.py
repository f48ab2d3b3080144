"""What BioNeMo's recipes are built on, from ``stack.toml``, and what breaks it, from ``changes.toml``.

Every function raises FactsError when a table cannot be read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pytest_bionemo.facts import load
from pytest_bionemo.facts.versions import admits

__all__ = ["Change", "Distribution", "Window", "changes", "distributions", "windows"]

Versions = Callable[[str], "str | None"]
"""The installed version of a distribution by its name, None if it is not installed."""


@dataclass(frozen=True)
class Distribution:
    """A distribution, the ``module`` whose import loads its compiled parts, and the check that imports it.

    ``judged_by`` is None where that is the stack's own. ``install`` is what pip is told, with its extra.
    """

    name: str
    module: str
    judged_by: str | None
    install: str


@dataclass(frozen=True)
class Window:
    """The versions of a distribution that what is built on it takes, and why.

    It counts only beside ``beside``, if one is named, and on GPUs of ``compute_capability`` (major, minor) and newer.
    """

    of: str
    specifier: str
    beside: str | None
    compute_capability: tuple[int, int] | None
    why: str
    link: str


@dataclass(frozen=True)
class Change:
    """A change in one package that breaks another: when it matters, what the import then says, and what to do."""

    id: str
    when: tuple[str, ...]
    unless: str | None
    torch_cuda: str
    shown_by: tuple[str, ...]
    error: str
    what: str
    fix: tuple[str, ...]
    link: str

    @property
    def names(self) -> frozenset[str]:
        """The distributions that have to be there for it to matter, by normalised name."""
        return frozenset(canonicalize_name(Requirement(text).name) for text in self.when)

    def matters(self, installed: Versions, cuda: str | None) -> bool:
        """Whether what it breaks is installed. ``cuda`` is the version that PyTorch is built for ("13.0")."""
        if self.unless and installed(self.unless):
            return False
        if self.torch_cuda and (cuda is None or not admits(self.torch_cuda, cuda)):
            return False
        wanted = [Requirement(text) for text in self.when]
        return all(admits(one.specifier, installed(one.name)) for one in wanted)


@functools.cache
def distributions() -> tuple[Distribution, ...]:
    """Every distribution of the stack."""
    rows = load("stack")["distribution"]
    return tuple(
        Distribution(row["name"], row["module"], row.get("judged_by"), row.get("install", row["name"]))
        for row in rows
    )


@functools.cache
def windows() -> tuple[Window, ...]:
    """Every window."""
    return tuple(
        Window(
            of=row["of"],
            specifier=row["specifier"],
            beside=row.get("with"),
            compute_capability=_capability(row.get("compute_capability")),
            why=row["why"],
            link=row["link"],
        )
        for row in load("stack")["window"]
    )


@functools.cache
def changes() -> tuple[Change, ...]:
    """Every change."""
    return tuple(
        Change(
            id=row["id"],
            when=tuple(row["when"]),
            unless=row.get("unless"),
            torch_cuda=row.get("torch_cuda", ""),
            shown_by=tuple(row["shown_by"]),
            error=row.get("error", ""),
            what=row["what"],
            fix=tuple(row["fix"]),
            link=row["link"],
        )
        for row in load("changes")["change"]
    )


def _capability(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    major, _, minor = text.partition(".")
    return int(major), int(minor)
