"""The standard output of a command whose reader is gone, or whose disk is full."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def drop_the_rest() -> None:
    """After a write that failed: what is left to be written must not fail again at the end of the interpreter."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
