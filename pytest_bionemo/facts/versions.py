"""Versions in the texts of others, who decorate them: "580.95.05-open", "2.36-9+deb12"."""

from __future__ import annotations

import re

from packaging.version import Version

__all__ = ["is_version", "leading"]

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
