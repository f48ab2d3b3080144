"""The index: where each sequence begins, so that none is read before it is asked for."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path


class FastaSet:
    """The sequences of one FASTA file, by position; ``names`` are the first words of their headers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self._starts: list[int] = []
        with path.open("rb") as file:
            for line in iter(file.readline, b""):
                if line.startswith(b">"):
                    self.names.append(line[1:].partition(b" ")[0].strip().decode())
                    self._starts.append(file.tell())
                elif line.strip() and not self.names:
                    raise ValueError(f"{path}: the first line is no header: it does not start with '>'")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, position: int) -> str:
        with self.path.open("rb") as file:
            file.seek(self._starts[position])
            lines = takewhile(lambda line: not line.startswith(b">"), iter(file.readline, b""))
            return b"".join(line.strip() for line in lines).decode()
