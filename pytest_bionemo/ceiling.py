"""A ceiling on the memory that a block of a test takes on its device."""

from __future__ import annotations

import math
import re
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from numbers import Real
from types import ModuleType, TracebackType
from typing import Any, NoReturn

from pytest_bionemo.model import count

_UNITS = {
    "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_SIZE = re.compile(rf"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>{'|'.join(_UNITS)})")

_open: list[_Block] = []
"""The blocks that this process is in: one inside another starts torch's count of the peak again."""


@dataclass(frozen=True)
class MemoryCeiling:
    """What the fixture ``memory_ceiling`` gives: called, it is a context manager. A worker can be given it, too.

    ``strict`` has it fail where there is nothing to measure on, ``rehearse`` has it measure on the CPU unless told
    otherwise.
    """

    strict: bool = False
    rehearse: bool = False

    def __call__(self, ceiling: int | float | str, *, device: Any = None) -> _Block:
        """The block in which at most ``ceiling`` bytes (or "2 GiB", "500 MB") may be allocated on the device.

        :param device: as torch names it; None: the current CUDA device, the CPU in a rehearsal.
        :raises ValueError: one line, for a ceiling that is no size.
        """
        on = "cpu" if device is None and self.rehearse else device
        is_index = isinstance(on, int) and not isinstance(on, bool)
        return _Block(bytes_of(ceiling), f"cuda:{on}" if is_index else on, self.strict)


def bytes_of(size: object) -> int:
    """The bytes of a size: a number of them, or text such as "2 GiB" or "500 MB"."""
    match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if match:
        number = float(match["number"]) * _UNITS[match["unit"]]
    else:
        number = float(size) if isinstance(size, Real) and not isinstance(size, bool) else 0.0
    if not 1 <= number < math.inf:
        raise ValueError(
            f"memory_ceiling: {size!r} is no size: give a number of bytes, or text such as '2 GiB' or '500 MB'."
        )
    return int(number)


def text_of(number: int) -> str:
    """'1.5 GiB (1610612736 bytes)': two sizes that look alike can differ."""
    unit = next((unit for unit in ("TiB", "GiB", "MiB", "KiB") if number >= _UNITS[unit]), "B")
    return f"{number} bytes" if unit == "B" else f"{number / _UNITS[unit]:.4g} {unit} ({number} bytes)"


class _Block:
    """One use. ``peak_bytes`` is what was allocated at most; None until the block has ended."""

    def __init__(self, ceiling_bytes: int, device: Any, strict: bool) -> None:
        self.ceiling_bytes = ceiling_bytes
        self.peak_bytes: int | None = None
        self._device = device
        self._strict = strict
        self._seen = 0
        self._storages: Any = None
        self._stack = ExitStack()

    def __enter__(self) -> _Block:
        __tracebackhide__ = True
        torch = sys.modules.get("torch")
        if torch is None:
            raise RuntimeError(
                "memory_ceiling: torch is not imported, so that it allocates nothing: import it before."
            )
        device = self._checked(torch)
        if device is not None and device.type == "cpu":
            self._watch_cpu()
        elif torch.cuda.is_available():
            self._start_again(torch)
        else:
            self._give_up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        self._stack.close()
        try:
            name, peak = self._measured()
        except Exception:
            if kind is None:
                raise
            return  # what went wrong in the block comes first: after it CUDA may answer nothing any more
        self.peak_bytes = peak
        if kind is not None:
            return
        if peak == 0:
            raise AssertionError(f"nothing was allocated on {name} in the block: its ceiling proves nothing")
        if peak > self.ceiling_bytes:
            raise AssertionError(
                f"{text_of(peak)} were allocated at most on {name}, the ceiling is {text_of(self.ceiling_bytes)}"
            )

    def _measured(self) -> tuple[str, int]:
        """The device as people know it, and what was allocated on it at most."""
        if self._storages is not None:
            return "cpu", self._storages.peak_bytes
        torch = sys.modules["torch"]
        return _name(torch, self._device), max(self._seen, _peak(torch, self._device))

    def _checked(self, torch: ModuleType) -> Any:
        """The device that was asked for, None for the current CUDA device."""
        if self._device is None:
            return None
        try:
            found = torch.device(self._device)
        except (RuntimeError, TypeError, ValueError):
            found = None
        if found is None or found.type not in ("cpu", "cuda"):
            raise ValueError(
                f"memory_ceiling: device={self._device!r} is neither 'cpu' nor a CUDA device such as 'cuda:0'."
            )
        return found

    def _watch_cpu(self) -> None:
        from pytest_bionemo.workloads.training_memory import Storages, watched_by

        self._storages = Storages()
        self._stack.enter_context(watched_by(self._storages))

    def _start_again(self, torch: ModuleType) -> None:
        number = torch.cuda.device_count()
        if self._device is not None and (torch.device(self._device).index or 0) >= number:
            here = count(number, "GPU")
            raise ValueError(f"memory_ceiling: device={self._device!r}: torch sees {here}, counted from cuda:0.")
        # Where CUDA is not in use yet, the count begins with it: it is not started here.
        if torch.cuda.is_initialized():
            for block in _open:
                block._seen = max(block._seen, _peak(torch, block._device))
            torch.cuda.reset_peak_memory_stats(self._device)
        _open.append(self)
        self._stack.callback(_open.remove, self)

    def _give_up(self) -> NoReturn:
        __tracebackhide__ = True
        from pytest_bionemo import unmet

        unmet.end(
            self._strict, "memory_ceiling needs a GPU that torch can use: here is none (device='cpu' rehearses)"
        )


def _peak(torch: ModuleType, device: Any) -> int:
    return int(torch.cuda.max_memory_allocated(device)) if torch.cuda.is_initialized() else 0


def _name(torch: ModuleType, device: Any) -> str:
    if not torch.cuda.is_initialized():
        return str(device or "cuda")
    index = None if device is None else torch.device(device).index
    index = torch.cuda.current_device() if index is None else index
    return f"cuda:{index} ({torch.cuda.get_device_name(index)})"
