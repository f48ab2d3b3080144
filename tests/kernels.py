"""Faulty kernels: what a test puts in the place of one of PyTorch's own, at the level below all of its functions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["replaced"]


@contextmanager
def replaced(operation: str, kernel: Callable[..., Any], key: str = "CPU") -> Iterator[None]:
    """Have PyTorch run this kernel for an operation of ``aten`` ("mm") and a dispatch key, and then its own again.

    The kernel must not call the operation itself: that would come back to it.
    """
    library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns, once in a process, that a kernel is overridden
            library.impl(operation, kernel, key)
        yield
    finally:
        library._destroy()
