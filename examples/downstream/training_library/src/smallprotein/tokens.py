"""Sequences of amino acids as token ids."""

from __future__ import annotations

import torch

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
PADDING, MASK = 0, len(AMINO_ACIDS) + 1
VOCABULARY = len(AMINO_ACIDS) + 2


def encode(sequences: list[str]) -> torch.Tensor:
    """Token ids, shape (sequences, longest sequence); shorter ones are padded with 0.

    :raises ValueError: for a letter that is no amino acid.
    """
    ids = torch.full((len(sequences), max(map(len, sequences), default=0)), PADDING)
    for row, sequence in enumerate(sequences):
        unknown = sorted(set(sequence) - set(AMINO_ACIDS))
        if unknown:
            raise ValueError(f"sequence {row}: {', '.join(unknown)} is no amino acid")
        ids[row, : len(sequence)] = torch.tensor([AMINO_ACIDS.index(letter) + 1 for letter in sequence])
    return ids


def decode(ids: torch.Tensor) -> list[str]:
    """The sequences again; a masked position reads as ``?``."""
    letters = f" {AMINO_ACIDS}?"
    return ["".join(letters[token] for token in row if token != PADDING) for row in ids.tolist()]
