"""bionemo-core does what it is for: precisions by name, and sequences padded to one length."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PRECISIONS = ("fp16", "bf16", "fp32", "16-mixed", "bf16-mixed")


def run(folder: str) -> dict[str, Any]:
    """Ask for the type of each precision, and pad two sequences.

    :param folder: is not used.
    :return: ``dtypes`` by precision, whether one that there is not is ``refused``, the ``padded`` sequences and their
        ``mask``.
    """
    import torch

    get_autocast_dtype = import_module("bionemo.core.utils.dtypes").get_autocast_dtype
    pad_token_ids = import_module("bionemo.core.utils.batching_utils").pad_token_ids
    try:
        get_autocast_dtype("no-such-precision")
        refused = False
    except ValueError:
        refused = True
    padded, mask = pad_token_ids([torch.tensor([1, 2, 3]), torch.tensor([4])], padding_value=0)
    return {
        "dtypes": {name: str(get_autocast_dtype(name)).removeprefix("torch.") for name in _PRECISIONS},
        "refused": refused,
        "padded": padded.tolist(),
        "mask": mask.tolist(),
    }
