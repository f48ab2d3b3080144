"""What installed distributions declare that they need, from their metadata alone: nothing is imported."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata

from packaging.markers import UndefinedComparison
from packaging.requirements import InvalidRequirement
from packaging.requirements import Requirement as Declared
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from pytest_bionemo.facts import versions
from pytest_bionemo.probes.packages import field


@dataclass(frozen=True)
class Requirement:
    """That ``package`` in its ``version`` needs ``name`` within ``specifier``, and what is ``installed`` of that.

    Names are normalised. ``extra`` is the extra of the package that needs it, None where the package itself does.
    ``installed`` is None where it is not installed.
    """

    package: str
    version: str | None
    name: str
    specifier: str
    extra: str | None
    installed: str | None

    @property
    def is_met(self) -> bool:
        """Whether the installed version is within the specifier, by :func:`.versions.admits`."""
        return versions.admits(self.specifier, self.installed)

    @property
    def by(self) -> str:
        """Who has it: "nemo-toolkit[core]"."""
        return f"{self.package}[{self.extra}]" if self.extra else self.package

    def contradicts(self, other: Requirement) -> bool:
        """Whether no version of what both require is within both specifiers."""
        both = SpecifierSet(",".join(filter(None, (self.specifier, other.specifier))))
        return self.name == other.name and not any(
            both.contains(version, prereleases=True) for version in _around(both)
        )


def _around(specifiers: SpecifierSet) -> Iterator[Version]:
    """The versions at which the specifiers end, and one on either side of each: if any version is within, one is."""
    yield Version("0")
    for specifier in specifiers:
        named = specifier.version.removesuffix(".*")
        try:
            end = Version(named)
        except InvalidVersion:  # === takes any text
            continue
        *upper, last = end.release
        yield end
        yield Version(f"{end.epoch}!{'.'.join(map(str, end.release))}.0.0.1")
        yield Version(f"{end.epoch}!{'.'.join(map(str, (*upper, last + 1)))}")
        while upper and not last:
            *upper, last = upper
        if last:
            yield Version(f"{end.epoch}!{'.'.join(map(str, (*upper, last - 1)))}.99999")


def on(names: Collection[str]) -> tuple[Requirement, ...]:
    """What the installed distributions need of these names (normalised), by package and in order.

    Metadata do not tell which extras somebody installed. An extra counts where an installed distribution asks for
    the package with it, as geneformer does for ``nemo_toolkit[lightning]``; others are no one's need.
    """
    installed = _installed()
    return tuple(requirement for requirement in installed.asked_for if requirement.name in names)


def closure(package: str, extras: Collection[str] = ()) -> tuple[Requirement, ...]:
    """What an installed distribution needs, and what that needs in turn, as far as it is installed; in no order.

    It is taken with these ``extras``; of the others those count that somebody asks for on the way here.
    """
    return _installed().closure(canonicalize_name(package), frozenset(map(canonicalize_name, extras)))


@dataclass(frozen=True)
class _Distribution:
    """What the metadata of one distribution say."""

    version: str | None
    requires: tuple[Declared, ...]

    @functools.cached_property
    def _needs(self) -> dict[str, tuple[Declared, ...]]:
        return {}

    def needs(self, extra: str) -> tuple[Declared, ...]:
        """What it needs for this extra and not without it; what it always needs if there is none."""
        if extra not in self._needs:
            self._needs[extra] = tuple(
                one for one in self.requires if _holds(one, extra) and not (extra and _holds(one, ""))
            )
        return self._needs[extra]


class _Installed:
    """The distributions by normalised name, each the first on ``sys.path``: that is the one in use."""

    def __init__(self) -> None:
        self._distributions: dict[str, _Distribution] = {}
        for found in metadata.distributions():
            name = field(found, "Name")
            if name and canonicalize_name(name) not in self._distributions:
                self._distributions[canonicalize_name(name)] = _read(found)
        self._closures: dict[tuple[str, frozenset[str]], tuple[Requirement, ...]] = {}

    @functools.cached_property
    def asked_for(self) -> tuple[Requirement, ...]:
        """What all of them need, with the extras that one asks another for."""
        extras = self._asked_extras()
        found = [
            self._requirement(package, extra, declared)
            for package, distribution in sorted(self._distributions.items())
            for extra in ("", *sorted(extras[package]))
            for declared in distribution.needs(extra)
        ]
        return tuple(dict.fromkeys(found))

    def closure(self, package: str, extras: frozenset[str]) -> tuple[Requirement, ...]:
        if (package, extras) not in self._closures:
            self._closures[package, extras] = tuple(dict.fromkeys(self._walk(package, extras)))
        return self._closures[package, extras]

    def _walk(self, package: str, extras: Collection[str]) -> Iterator[Requirement]:
        done: set[tuple[str, str]] = set()
        pending = [(package, extra) for extra in ("", *extras)]
        while pending:
            name, extra = pending.pop()
            if name not in self._distributions or (name, extra) in done:
                continue
            done.add((name, extra))
            for declared in self._distributions[name].needs(extra):
                yield self._requirement(name, extra, declared)
                needed = canonicalize_name(declared.name)
                pending += [(needed, one) for one in ("", *map(canonicalize_name, declared.extras))]

    def _requirement(self, package: str, extra: str, declared: Declared) -> Requirement:
        name = canonicalize_name(declared.name)
        version = self._distributions[name].version if name in self._distributions else None
        own = self._distributions[package].version
        return Requirement(package, own, name, str(declared.specifier), extra or None, version)

    def _asked_extras(self) -> Mapping[str, set[str]]:
        extras: dict[str, set[str]] = {name: set() for name in self._distributions}
        pending = [(name, "") for name in self._distributions]
        while pending:
            package, extra = pending.pop()
            for declared in self._distributions[package].needs(extra):
                name = canonicalize_name(declared.name)
                new = {canonicalize_name(one) for one in declared.extras} - extras.get(name, set())
                if name in self._distributions and new:
                    extras[name] |= new
                    pending += [(name, one) for one in new]
        return extras


def _installed() -> _Installed:
    """The distributions that are there now: read again where a folder of ``sys.path`` has changed."""
    return _read_all(tuple((folder, _changed(folder)) for folder in sys.path))


@functools.lru_cache(maxsize=1)
def _read_all(folders: tuple[tuple[str, int], ...]) -> _Installed:
    # Hundreds of distributions are usual, and each is asked for many times.
    return _Installed()


def _changed(folder: str) -> int:
    try:
        return os.stat(folder or ".").st_mtime_ns  # noqa: PTH116 - thousands of times a run
    except OSError:
        return 0


def _read(distribution: metadata.Distribution) -> _Distribution:
    declared = []
    for text in distribution.requires or ():
        with suppress(InvalidRequirement):  # older than the standard: pip leaves it out as well
            declared.append(Declared(text))
    return _Distribution(field(distribution, "Version"), tuple(declared))


def _holds(declared: Declared, extra: str) -> bool:
    try:
        return declared.marker is None or declared.marker.evaluate({"extra": extra})
    except (InvalidVersion, UndefinedComparison):
        # Older releases of packaging take the release of the kernel for a version, which it need not be.
        return False
