"""The model, as a LightningModule."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor, nn


class ResponseModel(pl.LightningModule):
    """An embedding of the perturbation and a small decoder of expression."""

    def __init__(self, perturbations: int = 8, genes: int = 16, width: int = 32) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Embedding(perturbations, width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, genes)
        )

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Mean squared error of the expression."""
        perturbation, expression = batch
        loss = nn.functional.mse_loss(self.network(perturbation), expression)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-2)
