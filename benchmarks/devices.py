"""What the second to fourth device add to the time of a run: ``python benchmarks/devices.py``.

Four pretend devices whose workload sleeps, over one that does. Workloads start on all devices at once, so that
more devices should cost next to nothing; the interpreters' start is left out by a first, empty request.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

from _measure import report

from pytest_bionemo.worker import Device, Workers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

LIMIT = 1.25
SECONDS = 2.0


def main() -> int:
    """Measure and compare; returns 1 if the limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    ratios = [duration(4) / duration(1) for _ in range(rounds)]
    print(f"median of {rounds} rounds, run in turn")
    return 0 if report("time, 4 devices / 1 device", median(ratios), LIMIT) else 1


def duration(devices: int) -> float:
    """Seconds until every device has answered."""
    labels = [f"cpu{number}" for number in range(devices)]
    workers = Workers([Device.cpu(label) for label in labels], timeout=60)
    try:
        workers.run(labels[0], "misbehaving:add", a=0, b=0)
        started = time.perf_counter()
        for label in labels:
            workers.run(label, "misbehaving:sleep", seconds=SECONDS)
        return time.perf_counter() - started
    finally:
        workers.close()


if __name__ == "__main__":
    sys.exit(main())
