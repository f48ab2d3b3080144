"""Texts of reports, which anybody can have written, as they can be shown."""

from __future__ import annotations

LONGEST = 120


def shown(value: object, longest: int = LONGEST) -> str:
    """A text as it can be shown anywhere: nothing in it steers a terminal or turns the direction of writing."""
    text = str(value)
    if len(text) <= longest and text.isprintable():
        return text
    text = " ".join(text[: 4 * longest].split())
    plain = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    return plain if len(plain) <= longest else f"{plain[: longest - 3]}..."
