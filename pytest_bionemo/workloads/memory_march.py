"""Patterns written to memory and read back.

Each pattern is written over all of the tested memory before any of it is read: a word that lands at the wrong
address is found by a pattern that depends on the address, a cell that is stuck or coupled to its neighbours by one
pattern or its inverse. All arithmetic is on 64-bit integers and wraps, so every word is known exactly.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_bionemo.workloads import device

if TYPE_CHECKING:
    import torch

_WORD = 8  # bytes
_BLOCK = 2**30  # bytes that are allocated at a time
CHUNK = 2**22  # words that are written and compared at a time: small enough for the L2 cache of a large GPU
_STRIDE = 0x9E3779B97F4A7C15  # odd, so that no two addresses give the same word: 2^64 / golden ratio
_CONSTANTS = {"zeros": 0, "ones": 2**64 - 1, "checkerboard": 0x5555555555555555, "its inverse": 0xAAAAAAAAAAAAAAAA}


def run(share: float, reserve_bytes: int, seed: int, most_bytes: int | None = None) -> dict[str, Any]:
    """Write every pattern over a share of the free memory, and read it back.

    :param share: of the memory that is free, from 0 to 1.
    :param reserve_bytes: what stays free of it in any case.
    :param seed: of the place of the self-proof.
    :param most_bytes: no more than this; None for no limit.
    :return: ``bytes_tested`` (less than ``bytes_asked`` where another process took the memory meanwhile, 0 where
        there is none), ``bytes_asked``, ``bytes_free``, ``patterns`` (names), ``mismatches`` (words, summed over the
        patterns), ``wrong_patterns`` (names), ``first`` (None, or ``pattern``, ``offset`` in bytes from the start of
        the tested memory, ``expected`` and ``got`` in hexadecimal; both are None, and the offset is that of the
        chunk, if all of the chunk was right when it was read again), ``found_flip`` (the self-proof: a known bit is
        flipped in memory and must be found).
    :raises ValueError: if the share is not between 0 and 1.
    """
    import torch

    if not 0 < share <= 1:
        raise ValueError(f"a share of {share} of the free memory: expected more than 0, and 1 at most")
    patterns = _patterns()  # they take memory too: what is free is asked after that
    scratch = Scratch.like(patterns[0].base)
    free = _free_bytes()
    asked = max(0, min(int(share * free), free - reserve_bytes, free if most_bytes is None else most_bytes))
    chunks = [chunk for block in _allocate(asked) for chunk in torch.split(block, CHUNK)]
    words = sum(map(len, chunks))
    report = {"bytes_free": free, "bytes_asked": asked, "bytes_tested": _WORD * words}
    if not chunks:
        return {**report, "patterns": [], "mismatches": 0, "wrong_patterns": [], "first": None, "found_flip": False}
    readings = {}
    for pattern in patterns:
        write(chunks, pattern)
        readings[pattern.name] = read(chunks, pattern, scratch)
    place = int(torch.randint(words, (1,), generator=torch.Generator().manual_seed(seed)))
    return {
        **report,
        "patterns": list(readings),
        "mismatches": sum(reading.mismatches for reading in readings.values()),
        "wrong_patterns": [name for name, reading in readings.items() if reading.mismatches],
        "first": next((reading.first for reading in readings.values() if reading.first), None),
        "found_flip": finds_flip(chunks, patterns[-1], scratch, place),
    }


@dataclass(frozen=True)
class Pattern:
    """What stands in each word: word i of chunk k holds ``base[i] + k * step``, modulo 2^64."""

    name: str
    base: torch.Tensor
    step: int

    def shift(self, chunk: int) -> int:
        """What is added to the base in this chunk, as a signed integer."""
        return _signed(chunk * self.step)


@dataclass(frozen=True)
class Scratch:
    """Memory in which one chunk is compared."""

    words: torch.Tensor
    differ: torch.Tensor

    @classmethod
    def like(cls, base: torch.Tensor) -> Scratch:
        """For chunks of this length."""
        import torch

        return cls(torch.empty_like(base), torch.empty_like(base, dtype=torch.bool))


@dataclass(frozen=True)
class Reading:
    """How many words differ from the pattern, and the first of them, as ``run`` returns it."""

    mismatches: int
    first: dict[str, Any] | None = None


def write(chunks: Sequence[torch.Tensor], pattern: Pattern) -> None:
    """Write the pattern into all chunks."""
    import torch

    for index, chunk in enumerate(chunks):
        torch.add(pattern.base[: len(chunk)], pattern.shift(index), out=chunk)


def read(chunks: Sequence[torch.Tensor], pattern: Pattern, scratch: Scratch) -> Reading:
    """Compare all chunks with the pattern; the device is waited for once."""
    import torch

    counts = torch.stack([_differing(chunk, index, pattern, scratch).sum() for index, chunk in enumerate(chunks)])
    wrong = counts.nonzero().flatten().tolist()
    if not wrong:
        return Reading(0)
    differ = _differing(chunks[wrong[0]], wrong[0], pattern, scratch)
    return Reading(int(counts.sum()), _describe_first(chunks[wrong[0]], wrong[0], pattern, differ))


def _differing(chunk: torch.Tensor, index: int, pattern: Pattern, scratch: Scratch) -> torch.Tensor:
    import torch

    words = torch.sub(chunk, pattern.shift(index), out=scratch.words[: len(chunk)])
    return torch.ne(words, pattern.base[: len(chunk)], out=scratch.differ[: len(chunk)])


def _describe_first(chunk: torch.Tensor, index: int, pattern: Pattern, differ: torch.Tensor) -> dict[str, Any]:
    is_wrong_again = bool(differ.any())
    place = int(differ.byte().argmax())
    return {
        "pattern": pattern.name,
        "offset": _WORD * (CHUNK * index + place),
        "expected": _hexadecimal(int(pattern.base[place]) + pattern.shift(index)) if is_wrong_again else None,
        "got": _hexadecimal(int(chunk[place])) if is_wrong_again else None,
    }


def finds_flip(chunks: Sequence[torch.Tensor], pattern: Pattern, scratch: Scratch, place: int) -> bool:
    """Flip a bit of one word of the pattern that stands in memory: exactly that word must be found."""
    chunks[place // CHUNK][place % CHUNK] ^= 1 << (place % 63)
    reading = read(chunks, pattern, scratch)
    return reading.mismatches == 1 and reading.first is not None and reading.first["offset"] == _WORD * place


def _patterns() -> list[Pattern]:
    import torch

    address = torch.arange(CHUNK, device=device()).mul_(_signed(_STRIDE))
    return [
        Pattern("address", address, CHUNK * _STRIDE),
        Pattern("inverse address", ~address, -CHUNK * _STRIDE),
        *(Pattern(name, torch.full_like(address, _signed(word)), 0) for name, word in _CONSTANTS.items()),
    ]


def _allocate(size: int) -> list[torch.Tensor]:
    """Blocks of so many bytes in all, or of as many as there are; only the last may end within a chunk."""
    import torch

    blocks = []
    block = _BLOCK
    while size >= _WORD and block >= _WORD * CHUNK:
        try:
            blocks.append(torch.empty(min(size, block) // _WORD, dtype=torch.int64, device=device()))
        except torch.cuda.OutOfMemoryError:
            block //= 2  # another process was faster
        else:
            size -= _WORD * len(blocks[-1])
    return blocks


def _free_bytes() -> int:
    import torch

    if device().type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return int(free)
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _signed(word: int) -> int:
    """The 64-bit integer with the same bits."""
    return (word + 2**63) % 2**64 - 2**63


def _hexadecimal(word: int) -> str:
    return f"0x{word % 2**64:016x}"
