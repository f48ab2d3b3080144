"""The pairs of the topics host and platform: see test_twins.py."""

from __future__ import annotations

from faults.proof import Pairs


class TestPairs(Pairs):
    tables = ("host", "platform")
