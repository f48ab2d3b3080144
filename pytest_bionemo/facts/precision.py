"""Which number formats a GPU and a build support, and by whose rule, from ``precision.toml``.

PyTorch, Transformer Engine and BioNeMo's recipes do not ask for the same: MXFP8 on compute capability 12.0 is in
PyTorch and refused by Transformer Engine. So a rule always has an owner.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_bionemo.facts import load
from pytest_bionemo.facts.versions import leading

__all__ = ["PYTORCH", "TRANSFORMER_ENGINE", "Rule", "describe", "formats", "is_in_gpu", "rules", "supports"]

PYTORCH = "PyTorch"
TRANSFORMER_ENGINE = "Transformer Engine"


@dataclass(frozen=True)
class Rule:
    """What one format asks of the GPU and of the CUDA that PyTorch was built for, by one owner."""

    format: str
    by: str
    minimum: tuple[int, int]
    """The lowest compute capability."""
    below: tuple[int, int] | None
    """The compute capability from which on it does not hold any more; None: it holds for all newer ones."""
    cuda: str | None
    """The oldest CUDA; None: any."""
    source: str
    date: str
    tag: str

    def allows_gpu(self, capability: tuple[int, int]) -> bool:
        """Whether a GPU of this compute capability will do."""
        return self.minimum <= capability and (self.below is None or capability < self.below)

    def allows_cuda(self, cuda: str) -> bool:
        """Whether this CUDA will do. Raises ValueError for one that is no version."""
        return self.cuda is None or leading(cuda) >= leading(self.cuda)

    def __str__(self) -> str:
        newest = f"to below {_text(self.below)}" if self.below else "or newer"
        oldest_cuda = f" with CUDA {self.cuda} or newer" if self.cuda else ""
        return f"{_text(self.minimum)} {newest}{oldest_cuda}"


@functools.cache
def _all() -> tuple[Rule, ...]:
    return tuple(_rule(row) for row in load("precision")["rule"])


def formats() -> tuple[str, ...]:
    """Every format that has a rule."""
    return tuple(dict.fromkeys(rule.format for rule in _all()))


def rules(format: str, by: str | None = None) -> tuple[Rule, ...]:
    """The rules of a format, or those of one owner: alternatives, of which one must hold.

    Empty where the owner has none. Raises ValueError, naming those that there are, for another format.
    """
    if format not in formats():
        raise ValueError(f"no rule for the format {format!r}. Choose from: {', '.join(formats())}.")
    return tuple(rule for rule in _all() if rule.format == format and by in (None, rule.by))


def supports(format: str, by: str, capability: tuple[int, int], cuda: str) -> bool:
    """Whether this owner's rules allow the format on this GPU with this CUDA; false where there is no rule."""
    return any(rule.allows_gpu(capability) and rule.allows_cuda(cuda) for rule in rules(format, by))


def is_in_gpu(format: str, capability: tuple[int, int], by: str = PYTORCH) -> bool:
    """Whether this owner's rules allow the format on this GPU, with a CUDA that is new enough."""
    return any(rule.allows_gpu(capability) for rule in rules(format, by))


def describe(format: str) -> str:
    """What every owner asks for: "PyTorch: compute capability 8.9 or newer; BioNeMo ESM-2: 9.0 or newer"."""
    owners = dict.fromkeys(rule.by for rule in rules(format))
    asked = [f"{owner}: {', or '.join(str(rule) for rule in rules(format, owner))}" for owner in owners]
    first, *others = asked
    return "; ".join([first.replace(": ", ": compute capability ", 1), *others])


def _rule(row: Mapping[str, Any]) -> Rule:
    below = _capability(row["below"]) if "below" in row else None
    return Rule(**{"cuda": None, **row, "minimum": _capability(row["minimum"]), "below": below})


def _capability(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


def _text(capability: tuple[int, int]) -> str:
    return "{}.{}".format(*capability)
