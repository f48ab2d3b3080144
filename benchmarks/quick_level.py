"""What ``pytest --bionemo-validate --bionemo-level quick`` costs: ``python benchmarks/quick_level.py``.

On a node of eight GPUs that the tests' stand-in driver plays, with the torch of this environment, over the sum
of one ``import torch`` in a fresh process and an empty run of pytest.
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

LIMIT = 1.5


def main() -> int:
    """Measure and compare; returns 1 if the limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, **build(Path(folder)).playing(H100x8, Path(folder))}
        costs = measure(
            {
                "import torch": python("-c", "import torch"),
                "empty pytest": python("-m", "pytest", "-q", "-p", "no:bionemo"),
                "quick": python("-m", "pytest", "-q", "--bionemo-validate", "--bionemo-level=quick"),
            },
            rounds,
            environment,
        )
    base = costs["import torch"].seconds + costs["empty pytest"].seconds
    print(f"medians of {rounds} rounds, run in turn")
    return 0 if report("time, quick / (import torch + empty pytest)", costs["quick"].seconds / base, LIMIT) else 1


if __name__ == "__main__":
    sys.exit(main())
