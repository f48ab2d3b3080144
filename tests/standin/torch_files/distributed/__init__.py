"""torch.distributed, as far as it can be asked what it has."""

from .._standin import SPEC


def is_available() -> bool:
    """Whether the build has it."""
    return True


def is_nccl_available() -> bool:
    """Whether the build has NCCL."""
    return SPEC["cuda"] is not None and SPEC["nccl"] is not None
