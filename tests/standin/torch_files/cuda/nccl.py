"""The NCCL in the build."""

from .._standin import SPEC


def version() -> tuple[int, ...]:
    """Its version; a build without NCCL has no such symbol."""
    if SPEC["cuda"] is None or SPEC["nccl"] is None:
        raise AttributeError("module 'torch._C' has no attribute '_nccl_version'")
    return tuple(SPEC["nccl"])
