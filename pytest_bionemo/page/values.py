"""Values of a document that anybody can have written, as a page takes them: of the wrong type they are damage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_PIECE = 2000


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
    """A number that can be drawn, else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]


def pieces(whole: str) -> list[str]:
    """The parts of a text that is pasted and must be whole: a page cuts what is very long, and these are not."""
    return [whole[start : start + _PIECE] for start in range(0, len(whole), _PIECE)]
