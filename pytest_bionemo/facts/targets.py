"""BioNeMo workloads and what each needs, from ``targets.toml``.

Every function raises FactsError when the table cannot be read.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pytest_bionemo.facts import esm2, load, precision

__all__ = [
    "Checkpoint",
    "Overhead",
    "Published",
    "Recipe",
    "Shape",
    "Target",
    "find",
    "names",
    "needed_by",
    "overhead",
    "targets",
]

Sharding = Literal["DDP", "FSDP", "Megatron"]


@dataclass(frozen=True)
class Shape:
    """Of a transformer, as far as the memory that its training takes depends on it.

    ``heads`` are those of the queries, ``key_heads`` those of keys and values. ``gated``: its feed-forward layer
    multiplies two projections. ``tied``: its output projection is the embedding. Where it is no transformer, the
    widths say the least that its layers keep.
    """

    parameters: int
    layers: int
    hidden: int
    ffn: int
    heads: int
    key_heads: int
    vocabulary: int
    gated: bool = False
    dropout: bool = False
    tied: bool = True
    is_transformer: bool = True


@dataclass(frozen=True)
class Overhead:
    """What a GPU holds besides tensors: bytes, and a share of the tensors' own."""

    context_bytes: int
    fragmentation: float


@dataclass(frozen=True)
class Recipe:
    """How BioNeMo trains a model, and what must be there for it.

    ``install`` says how to install ``requires``, empty where pip does; ``after_torch`` are those that are compiled
    against the PyTorch that is there. ``python`` is a specifier, "" for any; ``machines`` is empty for any; ``cuda``
    is the major version that PyTorch must be built for, None for any.
    """

    name: str
    folder: str
    image: str
    requires: tuple[Requirement, ...]
    after_torch: frozenset[str]
    install: tuple[str, ...]
    python: str
    machines: tuple[str, ...]
    cuda: int | None
    formats: tuple[str, ...]
    rules: str
    sharding: tuple[Sharding, ...]
    context_parallel: bool

    def trains_in(self, format: str, capability: tuple[int, int], cuda: str | None) -> bool:
        """Whether a GPU of this compute capability has the format; ``cuda`` is None where it is not known."""
        return any(
            rule.allows_gpu(capability) and (cuda is None or rule.allows_cuda(cuda)) for rule in self._rules(format)
        )

    def least_capability(self) -> tuple[int, int]:
        """The lowest compute capability that has the format which a GPU must have."""
        return min(rule.minimum for rule in self._rules(self.formats[0]))

    def _rules(self, format: str) -> tuple[precision.Rule, ...]:
        owners = (self.rules, precision.TRANSFORMER_ENGINE, precision.PYTORCH)
        return next((rules for owner in owners if (rules := precision.rules(format, owner))), ())


@dataclass(frozen=True)
class Checkpoint:
    """Published weights and the format that they need; ``minimum`` and ``below`` narrow the GPUs that have it."""

    name: str
    format: str
    minimum: tuple[int, int] | None
    below: tuple[int, int] | None
    note: str

    def is_for(self, capability: tuple[int, int]) -> bool:
        """Whether a GPU of this compute capability is one of those."""
        return (self.minimum is None or self.minimum <= capability) and (
            self.below is None or capability < self.below
        )


@dataclass(frozen=True)
class Published:
    """What somebody reports for each of ``gpus`` GPUs of this model of ``gpus.toml``."""

    value: float
    unit: str
    gpu: str
    gpus: int
    how: str
    source: str


@dataclass(frozen=True)
class Target:
    """A BioNeMo workload: ``name`` as it is asked for, ``title`` as it is spoken of.

    ``length`` is the tokens of a sequence for which its memory is estimated.
    """

    name: str
    title: str
    recipe: Recipe
    shape: Shape
    length: int
    checkpoints: tuple[Checkpoint, ...]
    published: tuple[Published, ...]


@functools.cache
def targets() -> tuple[Target, ...]:
    """Every target of the table, in its order."""
    recipes = {row["name"]: _recipe(row) for row in load("targets")["recipe"]}
    return tuple(_target(row, recipes) for row in load("targets")["target"])


def names() -> tuple[str, ...]:
    """The names of all targets."""
    return tuple(target.name for target in targets())


def find(name: str) -> Target:
    """The target of this name. Raises LookupError for one that the table does not have."""
    try:
        return next(target for target in targets() if target.name == name)
    except StopIteration:
        raise LookupError(f"{name} is not in the table of targets") from None


def needed_by(wanted: Iterable[str]) -> frozenset[str]:
    """The distributions, by normalised name, that these targets need, and the targets themselves."""
    found = [find(name) for name in wanted]
    required = (canonicalize_name(one.name) for target in found for one in target.recipe.requires)
    return frozenset([*required, *(target.name for target in found)])


def overhead() -> Overhead:
    """What a GPU holds besides tensors."""
    row = load("targets")["overhead"]
    return Overhead(row["context_bytes"], row["fragmentation"])


def _recipe(row: Mapping[str, Any]) -> Recipe:
    return Recipe(
        name=row["name"],
        folder=row["folder"],
        image=row["image"],
        requires=tuple(Requirement(text) for text in row["requires"]),
        after_torch=frozenset(row.get("after_torch", ())),
        install=tuple(row.get("install", ())),
        python=row.get("python", ""),
        machines=tuple(row.get("machines", ())),
        cuda=row.get("cuda"),
        formats=tuple(row["formats"]),
        rules=row["rules"],
        sharding=tuple(row["sharding"]),
        context_parallel=row["context_parallel"],
    )


def _target(row: Mapping[str, Any], recipes: Mapping[str, Recipe]) -> Target:
    return Target(
        name=row["name"],
        title=row["title"],
        recipe=recipes[row["recipe"]],
        shape=_shape_of_esm2(row["esm2"]) if "esm2" in row else _shape(row),
        length=row["length"],
        checkpoints=tuple(_checkpoint(found) for found in load("targets")["checkpoint"] if _is_of(found, row)),
        published=tuple(_published(found) for found in load("targets")["published"] if _is_of(found, row)),
    )


def _is_of(row: Mapping[str, Any], target: Mapping[str, Any]) -> bool:
    return bool(row["target"] == target["name"])


def _shape_of_esm2(size: str) -> Shape:
    found = esm2.find(size)
    return Shape(
        parameters=found.parameters,
        layers=found.layers,
        hidden=found.hidden,
        ffn=found.ffn,
        heads=found.heads,
        key_heads=found.heads,
        vocabulary=esm2.alphabet().size,
    )


def _shape(row: Mapping[str, Any]) -> Shape:
    return Shape(
        parameters=row["parameters"],
        layers=row["layers"],
        hidden=row["hidden"],
        ffn=row["ffn"],
        heads=row["heads"],
        key_heads=row.get("key_heads", row["heads"]),
        vocabulary=row["vocabulary"],
        gated=row.get("gated", False),
        dropout=row.get("dropout", False),
        tied=row.get("tied", True),
        is_transformer=row.get("transformer", True),
    )


def _checkpoint(row: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(
        name=row["name"],
        format=row["format"],
        minimum=_capability(row.get("minimum")),
        below=_capability(row.get("below")),
        note=row.get("note", ""),
    )


def _published(row: Mapping[str, Any]) -> Published:
    return Published(float(row["value"]), row["unit"], row["gpu"], row["gpus"], row["how"], row["source"])


def _capability(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    major, minor = text.split(".")
    return int(major), int(minor)
