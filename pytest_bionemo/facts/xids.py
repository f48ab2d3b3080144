"""Xids: what each error report of the NVIDIA driver means and asks for, from ``xids.toml``."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Literal

from pytest_bionemo.facts import load

__all__ = ["CLASSES", "Class", "Meaning", "find", "meanings", "told"]

Class = Literal["none", "application", "watch", "drain", "reset", "reboot", "replace", "told"]
CLASSES: tuple[Class, ...] = ("none", "application", "watch", "drain", "reset", "reboot", "replace")
"""What has to be done, weakest first."""

_CHANGED_TO = re.compile(r"changed from [^()]*\([^()]*\) to [^()]*\((?P<action>[^()]*)\)")


@dataclass(frozen=True)
class Meaning:
    """What an Xid says. ``kind`` is ``told`` where only the text of its line does."""

    text: str
    kind: Class
    source: str


@functools.cache
def meanings() -> dict[int, Meaning]:
    """Every Xid of the table. Raises FactsError when the table cannot be read."""
    rows = load("xids")["xid"]
    return {code: Meaning(row["meaning"], row["class"], row["source"]) for row in rows for code in row["codes"]}


def find(code: int) -> Meaning:
    """What this Xid says; one that nobody has written down is watched."""
    return meanings().get(code, Meaning("an error that is not on record", "watch", ""))


def told(text: str) -> Class | None:
    """What the driver wants done from now on, by the line of an Xid 154; None where it cannot be told."""
    found = _CHANGED_TO.search(text)
    if found is None:
        return None
    rows = load("xids")["told"]
    kind: Class | None = next((row["class"] for row in rows if row["text"] == found["action"]), None)
    return kind
