"""Topic sequences: the training data is there and can be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastaset import FastaSet
from pytest_bionemo import check, fail, not_applicable


@pytest.fixture
def folder() -> Path:
    """Where this machine keeps its sequences."""
    if "FASTASET" not in os.environ:
        not_applicable("FASTASET is not set: this machine keeps no sequences")
    return Path(os.environ["FASTASET"])


@check(severity="blocker")
def files_are_there(folder: Path) -> None:
    """The folder of the sequences holds FASTA files."""
    if not list(folder.glob("*.fasta")):
        fail(
            f"{folder} holds no file *.fasta",
            why="training would stop at its first batch",
            fix="set FASTASET to the folder with the sequences",
        )


@check(severity="blocker")
def last_sequences_are_whole(folder: Path) -> None:
    """The last sequence of every file is there: no download broke off behind a header."""
    for path in folder.glob("*.fasta"):
        assert FastaSet(path)[-1], f"{path.name} ends behind a header"
