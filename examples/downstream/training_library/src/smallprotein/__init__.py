"""A masked language model of protein sequences, and its training loop."""

from __future__ import annotations

from smallprotein.model import ProteinModel
from smallprotein.tokens import decode, encode
from smallprotein.training import Progress, train

__all__ = ["Progress", "ProteinModel", "decode", "encode", "train"]
