"""Which entry of a build's architecture list serves a GPU: NVIDIA's rule for binaries and PTX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["binary", "match"]

# The minor version is one digit so far, so the last digit of "sm_120" is the 0 of 12.0.
_ENTRY = re.compile(r"(?P<kind>sm|compute)_(?P<major>\d+)(?P<minor>\d)(?P<suffix>[af]?)")

# From least to most specific, for choosing between sm_90 and sm_90a on a device that both serve.
_SUFFIXES = ("", "f", "a")


class _Entry(NamedTuple):
    text: str
    is_binary: bool
    capability: tuple[int, int]
    suffix: str

    def serves(self, device: tuple[int, int]) -> bool:
        if self.suffix == "a":
            return device == self.capability
        if self.suffix == "" and not self.is_binary:
            return device >= self.capability
        return device[0] == self.capability[0] and device[1] >= self.capability[1]

    def rank(self) -> tuple[bool, tuple[int, int], int]:
        return self.is_binary, self.capability, _SUFFIXES.index(self.suffix)


def match(arch_list: Sequence[str], capability: tuple[int, int]) -> str | None:
    """The entry of ``torch.cuda.get_arch_list()`` that a device of this compute capability runs, or None.

    A binary ``sm_XY`` serves devices of the same major version and an equal or higher minor one, so (8, 9)
    runs sm_86. PTX ``compute_XY`` serves every newer device, by compilation at load time, which needs a
    driver at least as new as the toolkit. The suffix ``a`` (architecture specific) asks for exactly that
    capability, ``f`` (family) for the same major version. A binary is preferred to PTX, then the highest
    that fits. Entries of another form (ROCm, say) are ignored. Source: the CUDA compatibility rules for
    binaries and PTX.
    """
    fitting = [entry for entry in map(_parse, arch_list) if entry and entry.serves(capability)]
    return max(fitting, key=_Entry.rank).text if fitting else None


def binary(capability: str) -> str:
    """The name of the binary for a compute capability written with a dot: "8.6" gives "sm_86".

    Raises ValueError for any other form.
    """
    if not re.fullmatch(r"\d+\.\d", capability):
        raise ValueError(f"{capability!r} is not a compute capability such as 8.6")
    return "sm_" + capability.replace(".", "")


def _parse(text: str) -> _Entry | None:
    found = _ENTRY.fullmatch(text)
    if found is None:
        return None
    capability = int(found["major"]), int(found["minor"])
    return _Entry(text, found["kind"] == "sm", capability, found["suffix"])
