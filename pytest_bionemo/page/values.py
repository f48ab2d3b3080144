"""Values of a document that anybody can have written, as a page takes them: of the wrong type they are damage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_PIECE = 2000
_LARGEST = 1e150
"""So that sums and ratios of two numbers are numbers."""


def text(value: object) -> str:
    """A text.

    :raises TypeError: if it is none; the message is short, whatever it is.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no text")
    return value


def texts(values: Iterable[object]) -> list[str]:
    """Several of them.

    :raises TypeError: if one is none.
    """
    return [text(value) for value in values]


def listed(document: Mapping[str, Any], name: str) -> Sequence[Any]:
    """A list of the document; an empty one where an earlier version wrote none.

    :raises TypeError: if something else is there.
    """
    found = document.get(name, ())
    if not isinstance(found, list | tuple):
        raise TypeError(f"{name} is no list")
    return found


def plain(check: object) -> str:
    """The id of a check as people say it: ``driver::loads``."""
    return text(check).removeprefix("bionemo/")


def words(name: object) -> str:
    """A name in capitals as words: ``REBOOT NODE``."""
    return text(name).replace("_", " ")


def finite(value: object) -> float | None:
    """The value as a float; None for what is no finite number, or larger than any quantity is."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        return None
    return float(value) if abs(value) > 1 / _LARGEST else 0.0


def pieces(whole: str) -> list[str]:
    """The parts of a text that is pasted and must be whole: a page cuts what is very long, and these are not."""
    return [whole[start : start + _PIECE] for start in range(0, len(whole), _PIECE)]
