"""Names of hosts, and lists of them as Slurm writes them: ``node[1-4,07]``.

A list is only ever expanded up to a limit, and a name that no host can have never enters one: reports come from
anywhere, and what is written here is pasted into commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import product

MOST_HOSTS = 100_000
"""Longer lists are refused: a slip of the pen, or worse, asks for a billion."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_LAST_NUMBER = re.compile(r"(.*?)(\d+)")
_DIGITS_AT_MOST = 18
_OUTSIDE = re.compile(r"(?:\[[^\[\]]*\]|[^,\s])+")
_PART = re.compile(r"([^\[\],]*)(?:\[([^\[\]]*)\])?")
_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?")


class HostsError(ValueError):
    """What was given is no list of hosts; the message is one line that quotes it."""


def is_host(name: object) -> bool:
    """Whether a host can have this name: letters, digits, dots, dashes and underscores, 253 at most."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name)) and ".." not in name


def expand(text: str) -> tuple[str, ...]:
    """The hosts of a list, in its order, each once: ``expand("node[1-2],gpu07")`` is node1, node2 and gpu07.

    :raises HostsError: if it is no such list, or one of more than ``MOST_HOSTS``.
    """
    found: dict[str, None] = {}
    size = 0
    for part in _split(text):
        few = _expand_one(part, text)
        size += len(few)
        # Names that come again are counted again: a list of few can be written so that it takes hours.
        if size > 2 * MOST_HOSTS:
            raise HostsError(f"{_quoted(text)} names more than {MOST_HOSTS:,} hosts")
        for host in few:
            if not is_host(host):
                raise HostsError(f"{_quoted(host)} is no name that a host can have, in {_quoted(text)}")
            found[host] = None
            if len(found) > MOST_HOSTS:
                raise HostsError(f"{_quoted(text)} names more than {MOST_HOSTS:,} hosts")
    if not found:
        raise HostsError(f"{_quoted(text)} names no host. Write node1,node2 or node[1-2].")
    return tuple(found)


def compress(hosts: Iterable[str]) -> str:
    """The shortest list that Slurm reads, sorted: ``compress(["node3", "node1", "node2"])`` is ``node[1-3]``.

    What is a number is the one that ends a name, and keeps its leading zeros. A name that goes on after it stands for
    itself: Slurm refuses ``node[1-2].cluster``.
    """
    numbered: dict[tuple[str, int], set[int]] = {}
    plain: set[str] = set()
    # Those with leading zeros first: node10 then joins node08 and node09.
    for host, match in sorted(((host, _LAST_NUMBER.fullmatch(host)) for host in hosts), key=_is_unpadded):
        if match is None or len(match[2]) > _DIGITS_AT_MOST:
            plain.add(host)
            continue
        head, digits = match.groups()
        padded = (head, len(digits))
        key = padded if _is_padded(digits) or padded in numbered else (head, 0)
        numbered.setdefault(key, set()).add(int(digits))
    lists = [
        (_sort_key(f"{head}{min(numbers):0{width}d}"), _bracketed(head, sorted(numbers), width))
        for (head, width), numbers in numbered.items()
    ]
    return ",".join(text for _, text in sorted([*lists, *((_sort_key(host), host) for host in plain)]))


def in_order(hosts: Iterable[str]) -> list[str]:
    """Sorted as people count: node2 before node10."""
    return sorted(hosts, key=_sort_key)


def _sort_key(host: str) -> tuple[object, ...]:
    # Text and numbers take turns, text first, so that like is compared with like.
    pieces = re.split(r"(\d+)", host)
    return (*(int(piece) if position % 2 else piece for position, piece in enumerate(pieces)), host)


def _is_unpadded(found: tuple[str, re.Match[str] | None]) -> bool:
    return found[1] is None or not _is_padded(found[1][2])


def _is_padded(digits: str) -> bool:
    return digits[0] == "0" and len(digits) > 1


def _bracketed(head: str, numbers: list[int], width: int) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    if len(numbers) == 1:
        return f"{head}{numbers[0]:0{width}d}"
    shown = (f"{first:0{width}d}" if first == last else f"{first:0{width}d}-{last:0{width}d}" for first, last in runs)
    return f"{head}[{','.join(shown)}]"


def _split(text: str) -> Iterator[str]:
    """The parts between commas and white space that stand outside brackets."""
    if text.count("[") != text.count("]"):
        raise HostsError(f"{_quoted(text)} is no list of hosts: a bracket is missing")
    return (match[0] for match in _OUTSIDE.finditer(text))


def _expand_one(part: str, text: str) -> list[str]:
    pieces: list[Iterable[str]] = []
    size = 1
    position = 0
    while position < len(part):
        match = _PART.match(part, position)
        if match is None or match.end() == position:
            raise HostsError(f"{_quoted(part)} is no list of hosts. Write node1,node2 or node[1-2].")
        pieces.append([match[1]])
        if match[2] is not None:
            numbers = list(_numbers(match[2], text))
            size *= len(numbers)
            pieces.append(numbers)
        if size > MOST_HOSTS:
            raise HostsError(f"{_quoted(text)} names more than {MOST_HOSTS:,} hosts")
        position = match.end()
    return ["".join(one) for one in product(*pieces)]


def _numbers(ranges: str, text: str) -> Iterator[str]:
    for one in ranges.split(","):
        match = _RANGE.fullmatch(one.strip())
        if match is None:
            raise HostsError(f"{_quoted(one)} is no range of numbers, in {_quoted(text)}. Write node[1-4,7].")
        first, last = match[1], match[2] or match[1]
        if int(last) < int(first) or int(last) - int(first) >= MOST_HOSTS:
            raise HostsError(f"{_quoted(one)} is no range of numbers that can be listed, in {_quoted(text)}")
        width = len(first) if first[0] == "0" else 0
        yield from (f"{number:0{width}d}" for number in range(int(first), int(last) + 1))


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
