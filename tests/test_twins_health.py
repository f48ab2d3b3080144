"""The pairs of the topic health: see test_twins.py."""

from __future__ import annotations

from faults.proof import Pairs


class TestPairs(Pairs):
    tables = ("health",)
