"""Predict how a perturbation changes gene expression."""

from __future__ import annotations

from perturbation.data import Screen
from perturbation.module import ResponseModel

__all__ = ["ResponseModel", "Screen"]
