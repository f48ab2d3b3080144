"""Random access to the sequences of FASTA files."""

from __future__ import annotations

from fastaset.index import FastaSet

__all__ = ["FastaSet"]
