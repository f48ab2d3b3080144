"""What looking at the node adds: ``python benchmarks/node_health.py``.

The topics health, host and platform on a node of eight GPUs that the tests' stand-in driver plays, less an empty run
of pytest. No torch is in their way: the environment's own is hidden.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from _measure import measure, python, report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from standin import H100x8, build
from standin.torch_package import StandinTorch, write_torch

LIMIT_S = 0.5
_TOPICS = ("bionemo/health", "bionemo/host", "bionemo/platform")


def main() -> int:
    """Measure and compare; returns 1 if the limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        site.mkdir()
        write_torch(site, StandinTorch())
        playing = build(Path(folder)).playing(H100x8, Path(folder))
        costs = measure(
            {
                "empty pytest": python("-m", "pytest", "-q", "-p", "no:bionemo"),
                "the node": python("-m", "pytest", "-q", "--bionemo-validate", "--bionemo-level=quick", *_TOPICS),
            },
            rounds,
            {**os.environ, **playing, "PYTHONPATH": str(site)},
        )
    print(f"medians of {rounds} rounds, run in turn")
    added = costs["the node"].seconds - costs["empty pytest"].seconds
    return 0 if report("seconds, health + host + platform - empty pytest", added, LIMIT_S) else 1


if __name__ == "__main__":
    sys.exit(main())
