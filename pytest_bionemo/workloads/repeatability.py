"""The same operation on the same random data, again and again: every bit of the result has to repeat.

Random numbers toggle all bits of the data, which integers do not, so they draw more power; that the results repeat
shows no mistake that is always the same. All of these operations are deterministic on one device for one shape:
cuBLAS is, on one stream with the workspace that CUBLAS_WORKSPACE_CONFIG fixes (cuBLAS documentation, "Results
reproducibility"), and none of the forward kernels adds with atomics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_bionemo.workloads import device

if TYPE_CHECKING:
    import torch

Operation = Callable[[], "torch.Tensor"]

_HEAD = 64  # features of one attention head
_BATCH = 4  # results that are kept until the device has said whether they repeat
_BITS = {2: "int16", 4: "int32"}


@dataclass
class Repeats:
    """What was seen of one operation; ``first`` is [repeat, element, bits, bits of the first result]."""

    elements: int
    repeats: int = 0
    differing_repeats: int = 0
    differing_elements: int = 0
    first: list[Any] | None = None


def run(size: int, repeats: int, dtypes: Sequence[str], seed: int) -> dict[str, Any]:
    """Repeat a product, a softmax, a layer norm and an attention in each of the data types.

    :param size: rows, columns and terms of the product; tokens and features of the others.
    :param repeats: of each operation, each compared with its first result.
    :param dtypes: names of torch's data types, of 16 or 32 bits.
    :param seed: of the data.
    :return: ``operations`` (by name, as "product in bfloat16": ``elements`` of a result, ``repeats``,
        ``differing_repeats``, ``differing_elements``, and ``first`` as [repeat, element, bits, bits of the first
        result] or None), ``differing_elements`` in all, ``elements_compared`` in all, and ``found_flip`` (the
        self-proof: a known bit is flipped in a repeat of each operation and must be found).
    :raises ValueError: if the size is no multiple of 64.
    """
    import torch

    if size < _HEAD or size % _HEAD:
        raise ValueError(f"size {size}: expected a multiple of {_HEAD}")
    generator = torch.Generator(device()).manual_seed(seed)
    places = torch.Generator().manual_seed(seed)
    operations, finds_flips = {}, []
    with torch.no_grad():
        for name, operation in _operations(size, dtypes, generator):
            first = operation()
            operations[name] = compare(first, operation, repeats)
            finds_flips.append(finds_flip(first, operation, places))
    return {
        "operations": {name: vars(seen) for name, seen in operations.items()},
        "differing_elements": sum(seen.differing_elements for seen in operations.values()),
        "elements_compared": sum(seen.elements * seen.repeats for seen in operations.values()),
        "found_flip": all(finds_flips),
    }


def _operations(size: int, dtypes: Sequence[str], generator: torch.Generator) -> Iterator[tuple[str, Operation]]:
    """Named operations on random data; one set of data is alive at a time."""
    import torch
    from torch.nn import functional

    for dtype in dtypes:
        data = torch.randn((2, size, size), generator=generator, device=device()).to(getattr(torch, dtype))
        a, b = data
        queries, keys = data.view(2, 1, size, size // _HEAD, _HEAD).transpose(2, 3)
        yield f"product in {dtype}", partial(torch.matmul, a, b.t())
        yield f"softmax in {dtype}", partial(torch.softmax, a, dim=-1)
        yield f"layer norm in {dtype}", partial(functional.layer_norm, a, (size,))
        yield f"attention in {dtype}", partial(functional.scaled_dot_product_attention, queries, keys, keys)


def compare(first: torch.Tensor, operation: Operation, repeats: int) -> Repeats:
    """Repeat the operation and hold each result against the first, bit by bit."""
    import torch

    seen = Repeats(first.numel())
    while seen.repeats < repeats:
        results = [operation() for _ in range(min(_BATCH, repeats - seen.repeats))]
        counts = torch.stack([_differing(result, first).sum() for result in results])
        for result, count in zip(results, counts.tolist(), strict=True):
            _add(seen, result, first, count)
    return seen


def _add(seen: Repeats, result: torch.Tensor, first: torch.Tensor, differing: int) -> None:
    seen.repeats += 1
    if differing:
        seen.differing_repeats += 1
        seen.differing_elements += differing
        if seen.first is None:
            place = int(_differing(result, first).byte().argmax())
            seen.first = [seen.repeats, place, _hexadecimal(result, place), _hexadecimal(first, place)]


def finds_flip(first: torch.Tensor, operation: Operation, generator: torch.Generator) -> bool:
    """Flip one random bit of a repeat: exactly that element must be found."""
    import torch

    result = operation().contiguous()
    place = int(torch.randint(result.numel(), (1,), generator=generator))
    _bits(result)[place] ^= 1 << int(torch.randint(8 * result.element_size() - 1, (1,), generator=generator))
    seen = Repeats(first.numel())
    _add(seen, result, first, int(_differing(result, first).sum()))
    return seen.differing_elements == 1 and seen.first is not None and seen.first[1] == place


def _differing(result: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    return _bits(result) != _bits(first)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Its elements in a row, as integers of the same width: the same memory if the tensor is contiguous."""
    import torch

    return tensor.contiguous().view(-1).view(getattr(torch, _BITS[tensor.element_size()]))


def _hexadecimal(tensor: torch.Tensor, place: int) -> str:
    width = tensor.element_size()
    return f"0x{int(_bits(tensor)[place]) % 2 ** (8 * width):0{2 * width}x}"
