"""What a run keeps for its checks, in the stash of its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_bionemo.baseline import Baseline
from pytest_bionemo.options import Options
from pytest_bionemo.worker import Workers

OPTIONS = pytest.StashKey[Options]()
WORKERS = pytest.StashKey[Workers]()
REPORTS = pytest.StashKey[Path]()
"""The folder of this run's report."""
BASELINE = pytest.StashKey[Baseline]()
"""The earlier run that this one is compared with, if there is one."""
LOCKS = pytest.StashKey[Path]()
"""Where processes of pytest-xdist agree on who uses a device; only in such a process."""
