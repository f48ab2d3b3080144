"""Devices by their names, and tensors that hold nothing but bytes of one."""

import re


class device:
    """What torch makes of "cuda:1"."""

    def __init__(self, name: object) -> None:
        match = re.fullmatch(r"(cpu|cuda|meta|mps)(?::(\d+))?", str(name))
        if match is None:
            raise RuntimeError(f"Invalid device string: {name!r}")
        self.type = match[1]
        self.index = int(match[2]) if match[2] else None

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"


class Tensor:
    """Bytes on a device, which its allocator counts for as long as the tensor lives."""

    def __init__(self, size: int, on: str = "cuda:0") -> None:
        from . import cuda

        self.size, self.device = size, device(on)
        self._allocator = cuda.allocators[self.device.index or 0]
        cuda.init()
        self._allocator.add(size)

    def __del__(self) -> None:
        self._allocator.add(-self.size)
