"""Patterns in memory: a stuck bit, a word at a wrong address and a bad read are found, with their place."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kernels import replaced
from pytest_bionemo.workloads import memory_march

PATTERNS = ["address", "inverse address", "zeros", "ones", "checkerboard", "its inverse"]
CHUNK = 1024
WORDS = 3 * CHUNK + 100  # the last chunk is shorter

Write = Callable[[int, torch.Tensor], None]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of two chunks, in little time."""
    monkeypatch.setattr(memory_march, "CHUNK", CHUNK)
    monkeypatch.setattr(memory_march, "_BLOCK", 2 * 8 * CHUNK)


def march(most_bytes: int | None = 8 * WORDS, share: float = 0.5, reserve_bytes: int = 0) -> dict[str, Any]:
    return memory_march.run(share=share, reserve_bytes=reserve_bytes, seed=3, most_bytes=most_bytes)


def march_with(after_write: Write) -> dict[str, Any]:
    """March through memory that changes after each write of a chunk, which is told as which it was written."""
    chunks: dict[int, int] = {}

    def add(a: torch.Tensor, b: torch.Tensor, *, alpha: int = 1, out: torch.Tensor) -> torch.Tensor:
        torch.sub(a, -b, out=out)
        if out.dtype is torch.int64 and out.dim() == 1:
            after_write(chunks.setdefault(out.data_ptr(), len(chunks)), out)
        return out

    with replaced("add.out", add):
        return march()


@pytest.mark.parametrize("words", [1, CHUNK - 1, CHUNK, 2 * CHUNK, WORDS])
def test_healthy_memory_holds_every_pattern(words: int) -> None:
    found = march(8 * words)
    assert found["bytes_tested"] == found["bytes_asked"] == 8 * words
    assert found["patterns"] == PATTERNS
    assert (found["mismatches"], found["wrong_patterns"], found["first"]) == (0, [], None)
    assert found["found_flip"] is True


def test_no_two_words_of_the_address_pattern_are_alike() -> None:
    words: list[int] = []

    def remember(chunk: int, memory: torch.Tensor) -> None:
        if len(words) < WORDS:
            words.extend(memory.tolist())

    assert march_with(remember)["mismatches"] == 0
    assert len(set(words)) == WORDS


@pytest.mark.parametrize("place", [0, 77, CHUNK, 3 * CHUNK + 99])
@pytest.mark.parametrize("level", ["low", "high"])
def test_a_stuck_bit_is_found_at_its_place(place: int, level: str) -> None:
    mask = 1 << 41

    def stick(chunk: int, memory: torch.Tensor) -> None:
        if chunk == place // CHUNK:
            word = memory[place % CHUNK]
            memory[place % CHUNK] = word & ~mask if level == "low" else word | mask

    found = march_with(stick)
    # Of each pattern and its inverse, one has the bit the other way.
    assert found["mismatches"] == len(found["wrong_patterns"]) == len(PATTERNS) // 2
    assert found["first"]["offset"] == 8 * place
    assert found["first"]["pattern"] == found["wrong_patterns"][0]
    got, expected = (int(found["first"][name], 16) for name in ("got", "expected"))
    assert got ^ expected == mask
    assert (got < expected) == (level == "low")


def test_two_addresses_of_one_word_are_found() -> None:
    """What is written to the third chunk shows up in the first as well."""
    written: dict[int, torch.Tensor] = {}

    def alias(chunk: int, memory: torch.Tensor) -> None:
        written[chunk] = memory
        if chunk == 2:
            written[0][5] = memory[5]

    found = march_with(alias)
    assert found["wrong_patterns"] == ["address", "inverse address"]
    assert found["mismatches"] == 2
    assert found["first"]["offset"] == 8 * 5


def test_a_write_that_is_lost_is_found() -> None:
    before: dict[int, torch.Tensor] = {}

    def lose(chunk: int, memory: torch.Tensor) -> None:
        memory[1:3] = before.get(chunk, memory[1:3])
        before[chunk] = memory[1:3].clone()

    found = march_with(lose)
    assert found["wrong_patterns"] == PATTERNS[1:]
    assert found["mismatches"] == 4 * 2 * len(PATTERNS[1:])


def test_a_word_that_is_wrong_only_once_is_told_as_such() -> None:
    reads = itertools.count(1)

    def sub(a: torch.Tensor, b: torch.Tensor, *, alpha: int = 1, out: torch.Tensor) -> torch.Tensor:
        torch.add(a, -b, out=out)
        if next(reads) == 2:
            out[17] ^= 1
        return out

    with replaced("sub.out", sub):
        found = march()
    assert found["mismatches"] == 1
    assert found["first"] == {"pattern": "address", "offset": 8 * CHUNK, "expected": None, "got": None}


def test_a_blind_comparison_does_not_prove_itself() -> None:
    def ne(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        return out.zero_()

    with replaced("ne.Tensor_out", ne):
        found = march()
    assert found["mismatches"] == 0
    assert found["found_flip"] is False


@pytest.mark.parametrize("place", [0, 63, CHUNK, WORDS - 1])
def test_the_flipped_bit_is_found_wherever_it_is(place: int) -> None:
    chunks = list(torch.split(torch.zeros(WORDS, dtype=torch.int64), CHUNK))
    zeros = memory_march.Pattern("zeros", torch.zeros(CHUNK, dtype=torch.int64), 0)
    assert memory_march.finds_flip(chunks, zeros, memory_march.Scratch.like(zeros.base), place) is True


def test_memory_that_another_process_takes_meanwhile_is_not_tested_and_not_claimed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    empty, taken = torch.empty, []

    def allocate(*args: Any, **kwargs: Any) -> torch.Tensor:
        if kwargs.get("dtype") is torch.int64:
            taken.append(args[0])
            if sum(taken) > 3 * CHUNK:
                taken.pop()
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return empty(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", allocate)
    found = march(8 * 10 * CHUNK)
    assert found["bytes_asked"] == 8 * 10 * CHUNK
    assert found["bytes_tested"] == 8 * 3 * CHUNK, "a block of two chunks, and of the next one only half"
    assert (found["mismatches"], found["found_flip"]) == (0, True)


def test_no_free_memory_is_nothing_tested() -> None:
    found = march(most_bytes=None, reserve_bytes=2**60)
    assert (found["bytes_asked"], found["bytes_tested"], found["found_flip"]) == (0, 0, False)


def test_the_share_and_the_reserve_are_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_march, "_free_bytes", lambda: 100_000)
    assert march(None, share=0.5)["bytes_asked"] == 50_000
    assert march(None, share=1.0, reserve_bytes=20_000)["bytes_tested"] == 80_000
    assert march(40_000, share=0.5)["bytes_tested"] == 40_000


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"a share of {share} of the free memory"):
        march(share=share)
