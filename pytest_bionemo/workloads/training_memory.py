"""How much memory a training step of ESM-2 takes, for a model of it to be held against.

On the CPU every tensor that an operator returns is counted for as long as its storage lives, each storage once: the
size of the process would tell of everything else, too. Workspaces inside an operator are not seen. On a GPU it is the
allocator's own count, which holds them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pytest_bionemo.workloads import device, esm2, esm2_step

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch

# The first step makes the moments of AdamW: the second is as large as every later one.
_STEPS = 2


def run(model: str, sequences: int, length: int, precision: str, seed: int) -> dict[str, Any]:
    """Take two training steps on sequences without padding: forward, backward, clipping, AdamW.

    :param model: a size of ESM-2.
    :param sequences: of the batch.
    :param length: tokens of a sequence.
    :param precision: "float32", or "bfloat16" or "float16" for autocast to it over weights in float32.
    :param seed: of the weights and the batch.
    :return: ``peak_bytes`` of the second step, and ``kept_bytes``: what lives on between steps (weights and moments).
    """
    with device():  # weights are made where they are used: on the CPU it would take seconds
        network = esm2.build(model, seed=seed).to(device())
    batch = {name: part.to(device()) for name, part in esm2.batch(sequences, length, seed).items()}
    steps = esm2_step.make_step(network, batch, precision, losses=[])
    count = _count_on_gpu if device().type == "cuda" else _count_on_cpu

    def finish() -> None:
        network.zero_grad(set_to_none=True)

    peak, kept = count([*network.parameters(), *network.buffers()], steps, finish)
    return {"peak_bytes": peak, "kept_bytes": kept}


def _count_on_gpu(
    tensors: Iterable[torch.Tensor], step: Callable[[], None], finish: Callable[[], None]
) -> tuple[int, int]:
    import torch

    del tensors  # the allocator knows them
    for _ in range(_STEPS):
        torch.cuda.reset_peak_memory_stats()
        step()
    finish()
    return torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()


def _count_on_cpu(
    tensors: Iterable[torch.Tensor], step: Callable[[], None], finish: Callable[[], None]
) -> tuple[int, int]:
    storages = Storages()
    for tensor in tensors:
        storages.add(tensor)
    with watched_by(storages):
        for _ in range(_STEPS):
            storages.peak_bytes = storages.live_bytes
            step()
        finish()
    return storages.peak_bytes, storages.live_bytes


class Storages:
    """The storages of tensors: how many bytes live, and how many lived at most."""

    def __init__(self) -> None:
        self.live_bytes = 0
        self.peak_bytes = 0
        self._sizes: dict[int, int] = {}

    def add(self, tensor: torch.Tensor) -> None:
        """Count the storage of a tensor until it is freed, once however many tensors share it."""
        storage = tensor.untyped_storage()
        # Its Python object lives as long as the storage itself, whether anybody holds it or not.
        key = id(storage)
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.live_bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
            weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.live_bytes -= self._sizes.pop(key)


def watched_by(storages: Storages) -> AbstractContextManager[Any]:
    """A context in which the results of all operators are counted, those of the backward pass as well."""
    import torch
    from torch.utils import _pytree as pytree
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            result = function(*args, **(kwargs or {}))
            for leaf in pytree.tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    storages.add(leaf)
            return result

    watch: AbstractContextManager[Any] = Watch()  # type: ignore[no-untyped-call]
    return watch
