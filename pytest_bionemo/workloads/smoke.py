"""The least that a device must do: start, hold a few numbers, multiply them, and be the one that was asked for."""

from __future__ import annotations

from typing import Any

from pytest_bionemo.workloads import device

_SIZE = 64


def run() -> dict[str, Any]:
    """Multiply two small matrices of integers, whose product is exact in any format and order.

    :return: ``wrong`` (of the 4096 elements of the product, how many differ from Python's integers),
        ``devices`` (how many this process sees), ``uuid`` and ``name`` of the device (None on the CPU, and for
        a torch that does not say).
    """
    import torch

    a = [[(3 * row + 5 * column) % 17 - 8 for column in range(_SIZE)] for row in range(_SIZE)]
    b = [[(7 * row + 2 * column) % 13 - 6 for column in range(_SIZE)] for row in range(_SIZE)]
    right = [[sum(x * y for x, y in zip(row, column, strict=True)) for column in zip(*b, strict=True)] for row in a]
    product = torch.tensor(a, dtype=torch.float32, device=device()) @ torch.tensor(
        b, dtype=torch.float32, device=device()
    )
    return {"wrong": int((product.cpu() != torch.tensor(right, dtype=torch.float32)).sum()), **_identity()}


def _identity() -> dict[str, Any]:
    import torch

    if device().type == "cpu":
        return {"devices": 1, "uuid": None, "name": None}
    properties = torch.cuda.get_device_properties(device())
    uuid = getattr(properties, "uuid", None)
    return {
        "devices": torch.cuda.device_count(),
        "uuid": None if uuid is None else str(uuid),
        "name": properties.name,
    }
