"""What installed distributions declare that they need, from their metadata alone: nothing is imported."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import InvalidRequirement
from packaging.requirements import Requirement as Declared
from packaging.utils import canonicalize_name

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
        """Whether the installed version is within the specifier, a pre-release as much as a release."""
        specifier = Declared(f"{self.name}{self.specifier}").specifier
        return self.installed is not None and specifier.contains(self.installed, prereleases=True)


def on(names: Collection[str]) -> tuple[Requirement, ...]:
    """What the installed distributions need of these names (normalised), by package and in order.

    Metadata do not tell which extras somebody installed. An extra counts where an installed distribution asks for
    the package with it, as geneformer does for ``nemo_toolkit[lightning]``; others are no one's need.
    """
    installed = _installed()
    extras = _asked_extras(installed)
    found = [
        Requirement(package, field(distribution, "Version"), name, str(declared.specifier), extra or None, version)
        for package, distribution in sorted(installed.items())
        for extra in ("", *sorted(extras[package]))
        for declared in _needs(distribution, extra)
        if (name := canonicalize_name(declared.name)) in names
        for version in [field(installed[name], "Version") if name in installed else None]
    ]
    return tuple(dict.fromkeys(found))


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
    return declared.marker is None or declared.marker.evaluate({"extra": extra})
