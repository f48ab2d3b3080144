"""The training loop."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from smallprotein.model import ProteinModel
from smallprotein.tokens import MASK, PADDING


@dataclass(frozen=True)
class Progress:
    """Loss before each step, and how many tokens went through in a second."""

    losses: tuple[float, ...]
    tokens_per_second: float


def train(
    ids: torch.Tensor,
    device: str = "cpu",
    *,
    steps: int,
    precision: torch.dtype = torch.float32,
    seed: int = 0,
) -> Progress:
    """Train a new model on these token ids, one batch, over and over."""
    torch.manual_seed(seed)
    model = ProteinModel().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = ids.to(device)
    hidden = (torch.rand(ids.shape, device=device) < 0.25) & (ids != PADDING)
    labels = ids.masked_fill(~hidden, -100)
    losses = []
    started = time.perf_counter()
    for _ in range(steps):
        with torch.autocast(ids.device.type, precision, enabled=precision != torch.float32):
            logits = model(ids.masked_fill(hidden, MASK))
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return Progress(tuple(losses), ids.numel() * steps / (time.perf_counter() - started))
