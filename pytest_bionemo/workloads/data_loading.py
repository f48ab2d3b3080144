"""How fast a data loader feeds proteins: what a training step eats must come from the processors of the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_bionemo.facts import esm2
from pytest_bionemo.workloads import device, timing

if TYPE_CHECKING:
    import torch

    Sample = torch.Tensor

# A data set that never ends within a measurement.
_ENDLESS = 1 << 40
_SHORTEST = 0.5
_MASKED = 0.15
_IGNORED = -100  # what torch's cross entropy leaves out


class Proteins:
    """Random proteins of random lengths as a data set of torch: item i is the same in every process.

    An item is made as a real one is: a text of residues, looked up letter by letter.

    :param longest: tokens of the longest, with the two that mark its beginning and end; the shortest has half.
    :param seed: of all of them.
    """

    def __init__(self, longest: int, seed: int) -> None:
        self._longest = longest
        self._seed = seed

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> torch.Tensor:
        import torch

        tokens = esm2.alphabet()
        generator = torch.Generator().manual_seed(self._seed + index)
        length = int(torch.randint(int(_SHORTEST * self._longest), self._longest + 1, (1,), generator=generator))
        kinds = tokens.last_residue - tokens.first_residue + 1
        text = bytes(torch.randint(kinds, (length - 2,), generator=generator).tolist())
        residues = [tokens.first_residue + letter for letter in text]
        return torch.tensor([tokens.cls, *residues, tokens.eos])


def collate(proteins: Sequence[torch.Tensor], length: int, seed: int) -> dict[str, torch.Tensor]:
    """A batch for masked language modelling, padded to ``length``.

    :return: ``input_ids``, ``attention_mask`` and ``labels`` (-100 where no residue is masked), int64 of shape
        (proteins, length).
    """
    import torch

    tokens = esm2.alphabet()
    generator = torch.Generator().manual_seed(seed + int(proteins[0][1]))
    whole = torch.full((len(proteins), length), tokens.pad)
    for row, protein in zip(whole, proteins, strict=True):
        row[: len(protein)] = protein
    is_residue = (whole >= tokens.first_residue) & (whole <= tokens.last_residue)
    is_masked = is_residue & (torch.rand(whole.shape, generator=generator) < _MASKED)
    return {
        "input_ids": whole.masked_fill(is_masked, tokens.mask),
        "attention_mask": (whole != tokens.pad).long(),
        "labels": whole.masked_fill(~is_masked, _IGNORED),
    }


class Collate:
    """``collate`` with its parameters, for processes that take no closure."""

    def __init__(self, length: int, seed: int) -> None:
        self._length = length
        self._seed = seed

    def __call__(self, proteins: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch."""
        return collate(proteins, self._length, self._seed)


def run(sequences: int, length: int, processes: int, budget_s: float, seed: int, attempt: int = 1) -> dict[str, Any]:
    """Load batches of proteins and do nothing with them.

    The processes are forked, as those of a training are; they touch no GPU. On a GPU their batches are pinned.

    :param sequences: of a batch.
    :param length: tokens of a padded sequence.
    :param processes: of the loader.
    :param budget_s: for the measurement.
    :param seed: of the proteins.
    :param attempt: 1, or 2 for a second measurement.
    :return: ``rate`` (sequences a second) and ``unpadded_share`` (of the tokens of a batch).
    """
    batches = _batches(sequences, length, processes, seed)
    first = next(batches)

    def load() -> None:
        # As many as are prepared at a time: single ones come in bursts.
        for _ in range(2 * processes):
            next(batches)

    found = timing.measure(
        load, budget_s=budget_s, clock=timing.HostClock(waits=False), least=timing.LEAST_SAMPLES_CPU
    )
    return {
        "rate": found.rate(2 * processes * sequences),
        "unpadded_share": float(first["attention_mask"].float().mean()),
    }


def _batches(sequences: int, length: int, processes: int, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    import torch
    from torch.utils.data import DataLoader

    loader: DataLoader[Any] = DataLoader(
        Proteins(length, seed),  # type: ignore[arg-type]  # a data set is what has items and a length
        batch_size=sequences,
        num_workers=processes,
        collate_fn=Collate(length, seed),
        pin_memory=device().type == "cuda",
        multiprocessing_context="fork",
        generator=torch.Generator().manual_seed(seed),
    )
    return iter(loader)
