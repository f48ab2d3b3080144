"""What installed distributions declare that they need, from their metadata alone: nothing is imported."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

from packaging.markers import UndefinedComparison
from packaging.requirements import InvalidRequirement
from packaging.requirements import Requirement as Declared
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

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
        """Whether the installed version is within the specifier, a pre-release as much as a release.

        A version that is none by the standard is within no specifier but an empty one.
        """
        if self.installed is None or not self.specifier:
            return self.installed is not None
        try:
            return SpecifierSet(self.specifier).contains(Version(self.installed), prereleases=True)
        except InvalidVersion:
            return False

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
    extras = _asked_extras(installed)
    found = [
        _requirement(package, extra, declared, installed)
        for package, distribution in sorted(installed.items())
        for extra in ("", *sorted(extras[package]))
        for declared in _needs(distribution, extra)
        if canonicalize_name(declared.name) in names
    ]
    return tuple(dict.fromkeys(found))


def closure(package: str) -> tuple[Requirement, ...]:
    """What an installed distribution needs, and what that needs in turn, as far as it is installed; in no order.

    Of each distribution the extras count that somebody asks it for on the way here.
    """
    installed = _installed()
    found: dict[Requirement, None] = {}
    done: set[tuple[str, str]] = set()
    pending = [(canonicalize_name(package), "")]
    while pending:
        name, extra = pending.pop()
        if name not in installed or (name, extra) in done:
            continue
        done.add((name, extra))
        for declared in _needs(installed[name], extra):
            needed = canonicalize_name(declared.name)
            found[_requirement(name, extra, declared, installed)] = None
            pending += [(needed, one) for one in ("", *map(canonicalize_name, declared.extras))]
    return tuple(found)


def _requirement(
    package: str, extra: str, declared: Declared, installed: Mapping[str, metadata.Distribution]
) -> Requirement:
    name = canonicalize_name(declared.name)
    version = field(installed[name], "Version") if name in installed else None
    own = field(installed[package], "Version")
    return Requirement(package, own, name, str(declared.specifier), extra or None, version)


def _installed() -> Mapping[str, metadata.Distribution]:
    """The distributions by normalised name, each the first on ``sys.path``: that is the one in use."""
    found: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions():
        if name := field(distribution, "Name"):
            found.setdefault(canonicalize_name(name), distribution)
    return found


def _asked_extras(installed: Mapping[str, metadata.Distribution]) -> Mapping[str, set[str]]:
    extras: dict[str, set[str]] = {name: set() for name in installed}
    pending = [(name, "") for name in installed]
    while pending:
        package, extra = pending.pop()
        for declared in _needs(installed[package], extra):
            name = canonicalize_name(declared.name)
            new = {canonicalize_name(one) for one in declared.extras} - extras.get(name, set())
            if name in installed and new:
                extras[name] |= new
                pending += [(name, one) for one in new]
    return extras


def _needs(distribution: metadata.Distribution, extra: str) -> Iterator[Declared]:
    """What it needs for this extra and not without it; what it always needs if there is none."""
    for text in distribution.requires or ():
        try:
            declared = Declared(text)
        except InvalidRequirement:  # older than the standard: pip leaves it out as well
            continue
        is_always_needed = _holds(declared, "")
        if is_always_needed if not extra else not is_always_needed and _holds(declared, extra):
            yield declared


def _holds(declared: Declared, extra: str) -> bool:
    try:
        return declared.marker is None or declared.marker.evaluate({"extra": extra})
    except (InvalidVersion, UndefinedComparison):
        # Older releases of packaging take the release of the kernel for a version, which it need not be.
        return False
