"""Versions in the texts of others, who decorate them: "580.95.05-open", "2.9.0a0+145a3a7bda.nv25.10"."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from packaging.version import InvalidVersion, Version

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

__all__ = ["admits", "is_version", "leading", "specifier"]

_OF_NVIDIA = re.compile(r"(^|\.)nv\d", re.ASCII)
_NUMBERS = re.compile(r"\d+(?:\.\d+)*(?![.\d])", re.ASCII)


def leading(text: str) -> Version:
    """The version of the numbers with which the text begins. Raises ValueError, naming the text, without any."""
    numbers = _NUMBERS.match(text.strip())
    if numbers is None:
        raise ValueError(f"{text!r} is not a version such as 550.144.03 or 13.0")
    return Version(numbers[0])


def is_version(text: str) -> bool:
    """Whether the text begins with the numbers of a version."""
    return _NUMBERS.match(text.strip()) is not None


def specifier(text: str) -> SpecifierSet:
    """What the text says of versions. Raises ValueError, naming the text, for one that says nothing of them."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        found = SpecifierSet(text)
    except InvalidSpecifier:
        found = SpecifierSet()
    if not len(found):
        raise ValueError(f"{text!r} is not a specifier such as '>=8.0' or '>=12.4,<13'")
    return found


def admits(specifier: SpecifierSet | str, version: str | None) -> bool:
    """Whether this version is there and within the specifier: a pre-release, or a build's own suffix, as well.

    NVIDIA's containers hold builds of a release that call themselves its first alpha ("2.9.0a0+145a3a7bda.nv25.10"):
    they count as the release, too. What is no version by the standard is within no specifier but an empty one.
    """
    # Not above: what probes import in their children is waited for.
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    if version is None:
        return False
    try:
        specifiers = SpecifierSet(specifier) if isinstance(specifier, str) else specifier
        found = Version(version)
    except InvalidSpecifier:
        return False
    except InvalidVersion:
        return not str(specifier)
    return any(specifiers.contains(one, prereleases=True) for one in _counting_as(found))


def _counting_as(version: Version) -> tuple[Version, ...]:
    if version.is_prerelease and version.local and _OF_NVIDIA.search(version.local):
        return version, Version(version.base_version)
    return (version,)
