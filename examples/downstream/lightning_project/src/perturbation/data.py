"""A screen: cells with a perturbation each, and the expression that was measured."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class Screen(pl.LightningDataModule):
    """A screen that is made up: expression is a fixed linear response to the perturbation, and noise."""

    def __init__(self, cells: int = 256, genes: int = 16, perturbations: int = 8, batch_size: int = 32) -> None:
        super().__init__()
        self.cells, self.genes, self.perturbations, self.batch_size = cells, genes, perturbations, batch_size

    def setup(self, stage: str) -> None:
        """The same cells every time."""
        generator = torch.Generator().manual_seed(0)
        response = torch.randn(self.perturbations, self.genes, generator=generator)
        given = torch.randint(self.perturbations, (self.cells,), generator=generator)
        noise = 0.1 * torch.randn(self.cells, self.genes, generator=generator)
        self.data = TensorDataset(given, response[given] + noise)

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        """Batches of (perturbation, expression)."""
        return DataLoader(self.data, self.batch_size)
