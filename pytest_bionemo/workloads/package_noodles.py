"""bionemo-noodles does what it is for: a FASTA file is indexed, and slices of it are read."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

SEQUENCES = {"chr1": "ACGTACGTACGTTT", "chr2": "TTTTGGGG"}
SLICES = {"chr1": (8, 12), "chr2": (-4, None)}
_WIDTH = 10


def run(folder: str) -> dict[str, Any]:
    """Write two sequences in lines of ten letters, index the file on disk, and read through the index.

    :param folder: where both files go.
    :return: the ``sequences`` and the ``slices`` by name, the ``index`` as its lines, and a sequence of four letters
        as its ``complement``, ``reverse``, ``transcript`` and ``back``-transcript.
    """
    noodles = import_module("bionemo.noodles")
    faidx = import_module("bionemo.noodles.nvfaidx").NvFaidx
    fasta = Path(folder, "sequences.fa")
    lines = {
        name: "\n".join(text[start : start + _WIDTH] for start in range(0, len(text), _WIDTH))
        for name, text in SEQUENCES.items()
    }
    fasta.write_text("".join(f">{name} a description\n{text}\n" for name, text in lines.items()))
    index = faidx.create_faidx(str(fasta))
    opened = faidx(str(fasta), index, ignore_existing_fai=False)
    return {
        "sequences": {name: opened[name].sequence() for name in SEQUENCES},
        "slices": {name: opened[name][start:stop] for name, (start, stop) in SLICES.items()},
        "index": Path(index).read_text().split("\n")[: len(SEQUENCES)],
        "complement": noodles.complement_sequence("AACG"),
        "reverse": noodles.reverse_sequence("AACG"),
        "transcript": noodles.transcribe_sequence("ACGT"),
        "back": noodles.back_transcribe_sequence("ACGU"),
    }
