"""The model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smallprotein.tokens import PADDING, VOCABULARY


class ProteinModel(nn.Module):
    """An encoder that predicts the token at every position, of sequences up to ``longest``."""

    def __init__(self, width: int = 32, layers: int = 2, heads: int = 4, longest: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width, padding_idx=PADDING)
        self.positions = nn.Embedding(longest, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits, shape (sequences, positions, vocabulary)."""
        placed = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        hidden = self.encoder(placed, src_key_padding_mask=ids == PADDING)
        return torch.as_tensor(self.head(hidden))
