"""Plain torch code that runs on one device and returns plain numbers. It knows nothing of pytest.

Each module's functions run inside a worker, which sees its device alone: :func:`device` is that device.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

KIND = "PYTEST_BIONEMO_DEVICE"
"""The variable in which a worker is told what its device is: "cuda", or "cpu" in a rehearsal."""
NAME = "PYTEST_BIONEMO_DEVICE_NAME"
LOCAL_RANK = "PYTEST_BIONEMO_LOCAL_RANK"
LOCAL_SIZE = "PYTEST_BIONEMO_LOCAL_SIZE"
DEADLINE = "PYTEST_BIONEMO_DEADLINE"
"""In which it is told what its device is called, which of how many of this node it is, and when it will be killed:
the seconds of CLOCK_MONOTONIC, which all processes of a machine share."""


def device() -> torch.device:
    """The one device of this worker; outside one, the first GPU or else the CPU.

    A worker of a GPU that CUDA does not show fails at its first use: it never falls back to the CPU.
    """
    import torch

    return torch.device(os.environ.get(KIND) or ("cuda" if torch.cuda.is_available() else "cpu"))
