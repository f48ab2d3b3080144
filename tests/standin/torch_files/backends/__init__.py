"""Libraries below torch."""

from . import cudnn

__all__ = ["cudnn"]
