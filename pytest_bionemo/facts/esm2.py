"""The sizes of ESM-2, its alphabet and how it must learn, from ``esm2.toml``.

Every function raises FactsError when the table cannot be read.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_bionemo.facts import load

__all__ = ["Alphabet", "Configuration", "Training", "alphabet", "common", "configurations", "find", "training"]


@dataclass(frozen=True)
class Configuration:
    """One size of ESM-2."""

    name: str
    """The size as it is spoken of: "8M", "650M"; "tiny" is ours."""
    model: str | None
    """The published model; None for a size of ours."""
    layers: int
    hidden: int
    heads: int
    ffn: int
    """The width of the feed-forward layers."""
    parameters: int
    """All of EsmForMaskedLM; the output projection, tied to the embedding, counts once."""
    source: str
    date: str
    tag: str

    @property
    def trained_parameters(self) -> int:
        """Those that the masked-language loss depends on: all but the contact head, a weight a head and a bias."""
        return self.parameters - self.layers * self.heads - 1


@dataclass(frozen=True)
class Alphabet:
    """The token ids of ESM-2; residues are ``first_residue`` to ``last_residue``, both included."""

    size: int
    cls: int
    pad: int
    eos: int
    mask: int
    first_residue: int
    last_residue: int

    @property
    def random_guess_loss(self) -> float:
        """The cross entropy of a guess that holds every token equally likely: ln(size), in nats."""
        return math.log(self.size)


@dataclass(frozen=True)
class Training:
    """How to train on one fixed batch, and by how much the loss (in nats) must fall at least."""

    learning_rate: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    gradient_clip: float
    """The largest norm of all gradients together."""
    steps: int
    least_fall: float
    """Of the loss, in ``steps`` steps, from the first to the last; single steps may rise."""
    untrained_margin: float
    """By how much the loss of an untrained model may differ from that of a random guess."""


@functools.cache
def configurations() -> tuple[Configuration, ...]:
    """Every size in the table, the smallest first."""
    return tuple(_configuration(row) for row in load("esm2")["configuration"])


def find(name: str) -> Configuration:
    """The size of this name. Raises ValueError, naming those that there are, for another."""
    for configuration in configurations():
        if configuration.name == name:
            return configuration
    known = ", ".join(configuration.name for configuration in configurations())
    raise ValueError(f"{name!r} is not a size of ESM-2. Choose from: {known}.")


def common() -> Mapping[str, Any]:
    """What all sizes share, by the names of transformers' ``EsmConfig``."""
    return {key: value for key, value in load("esm2")["common"].items() if key not in ("source", "date", "tag")}


def alphabet() -> Alphabet:
    """The token ids."""
    shared, row = common(), load("esm2")["alphabet"]
    return Alphabet(
        size=shared["vocab_size"],
        cls=row["cls"],
        pad=shared["pad_token_id"],
        eos=row["eos"],
        mask=shared["mask_token_id"],
        first_residue=row["first_residue"],
        last_residue=row["last_residue"],
    )


def training() -> Training:
    """BioNeMo's own optimiser, and the fall of the loss that it brings."""
    optimizer, row = load("esm2")["optimizer"], load("esm2")["training"]
    first, second = optimizer["betas"]
    return Training(
        learning_rate=optimizer["learning_rate"],
        betas=(first, second),
        eps=optimizer["eps"],
        weight_decay=optimizer["weight_decay"],
        gradient_clip=optimizer["gradient_clip"],
        steps=row["steps"],
        least_fall=row["least_fall"],
        untrained_margin=load("esm2")["untrained"]["margin"],
    )


def _configuration(row: Mapping[str, Any]) -> Configuration:
    return Configuration(
        name=row["name"],
        model=row.get("model"),
        layers=row["layers"],
        hidden=row["hidden"],
        heads=row["heads"],
        ffn=row["ffn"],
        parameters=row["parameters"],
        source=row["source"],
        date=row["date"],
        tag=row["tag"],
    )
