"""One line below the cursor of a terminal, which is gone without a trace when it is cleared.

The cursor, and all that stands before it, stay where they are: whoever else writes there need not know. What
stands after it is erased by the terminal itself, however it was resized and whatever was typed meanwhile.
"""

from __future__ import annotations

import os
import select
import unicodedata
from contextlib import suppress

_ESCAPE = "\x1b"
_ERASE_BELOW = f"{_ESCAPE}[J"
# Down and up again (IND, RI): on the last row that scrolls, so that there is a row below. Then the place is kept.
_MAKE_ROOM = f"{_ESCAPE}D{_ESCAPE}M{_ESCAPE}7"
_BACK = f"{_ESCAPE}8"
_DIM, _PLAIN = f"{_ESCAPE}[2m", f"{_ESCAPE}[0m"
_FALLBACK = 80
_CUT = "..."


class Screen:
    """A terminal, by a descriptor of its own: pytest's capture exchanges those of the process.

    ``has_colour`` says whether the line may be dim. A write that fails ends it: from then on nothing is shown.
    """

    def __init__(self, descriptor: int, encoding: str, has_colour: bool) -> None:
        self._file: int | None = os.dup(descriptor)
        self._encoding = encoding
        self._has_colour = has_colour
        self._shown = ""

    def show(self, text: str) -> None:
        """Write the line, or write another one in its place. It must fit: see :meth:`width`."""
        if text == self._shown or self._file is None or not _is_ours(self._file) or not takes(self._file):
            return
        line = f"{_DIM}{text}{_PLAIN}" if self._has_colour else text
        self._shown = text  # before it is: an interrupt may come in between
        self._write(f"{_ERASE_BELOW}{_MAKE_ROOM}\r\n{line}{_BACK}")

    def clear(self) -> None:
        """Erase it, if it is there."""
        if self._shown:
            # Also where that takes until ^Q: what pytest writes next would, and stand on top of the line.
            self._write(_ERASE_BELOW)
            self._shown = ""

    def close(self) -> None:
        """Erase it, and let go of the terminal."""
        self.clear()
        self._give_up()

    def width(self) -> int:
        """The columns that a line may take: one less than there are, as the last one makes some terminals wrap."""
        columns = 0
        if self._file is not None:
            with suppress(OSError):
                columns = os.get_terminal_size(self._file).columns
        return (columns or _FALLBACK) - 1

    def _write(self, text: str) -> None:
        if self._file is not None:
            try:
                os.write(self._file, text.encode(self._encoding, "replace"))
            except OSError:
                self._give_up()

    def _give_up(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
            self._file = None


def _is_ours(terminal: int) -> bool:
    """Whether this run is in the foreground there: one in the background would write into what is typed."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:  # not the terminal that controls this process: nobody can say
        return True


def takes(descriptor: int) -> bool:
    """Whether anything is taken there: a terminal that is stopped (^S) or a full pipe may hold up no deadline."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


def plain(text: str) -> str:
    """The text without what would move the cursor, change the colour or turn the direction of writing."""
    return "".join(letter if unicodedata.category(letter)[0] not in "CZ" or letter == " " else "?" for letter in text)


def columns(text: str) -> int:
    """How many columns of a terminal the text takes.

    >>> columns("a蛋b")
    4
    """
    return sum(map(_columns_of, text))


def cut(text: str, width: int) -> str:
    """The text in so many columns, without its middle where it is longer.

    >>> cut("bionemo/benchmark::multiplies_at_full_speed[gpu0-bf16]", 30)
    'bionemo/benchm...eed[gpu0-bf16]'
    """
    if columns(text) <= width:
        return text
    room = width - len(_CUT)
    if room <= 0:
        return _CUT[: max(0, width)]
    end = _begin(text[::-1], room // 2)[::-1]
    while end and not _columns_of(end[0]):  # the letter that it stood on is cut
        end = end[1:]
    return f"{_begin(text, room - columns(end))}{_CUT}{end}"


def _begin(text: str, width: int) -> str:
    taken = 0
    for position, letter in enumerate(text):
        taken += _columns_of(letter)
        if taken > width:
            return text[:position]
    return text


def _columns_of(letter: str) -> int:
    if unicodedata.category(letter) in ("Mn", "Me"):  # it stands on the letter before it
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
