"""Plain torch code that runs on one device and returns plain numbers. It knows nothing of pytest.

Each module's functions run inside a worker, which sees its device alone: :func:`device` is that device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def device() -> torch.device:
    """The one device of this worker: its GPU, or the CPU in a rehearsal."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
