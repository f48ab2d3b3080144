"""The cuDNN in the build."""

from .._standin import SPEC


def is_available() -> bool:
    """Whether there is one."""
    return SPEC["cuda"] is not None and SPEC["cudnn"] is not None


def version() -> int | None:
    """Its version, such as 91002."""
    return SPEC["cudnn"] if is_available() else None
