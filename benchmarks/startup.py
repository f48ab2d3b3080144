"""What the plugin costs where it is installed and not asked for: ``python benchmarks/startup.py``.

Compares ``pytest --co`` in an empty folder with the plugin and without it.
"""

from __future__ import annotations

import argparse
import sys

from _measure import measure, python, report

TIME_LIMIT = 1.05
MEMORY_LIMIT_MIB = 3.0


def main() -> int:
    """Measure and compare; returns 1 if a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    costs = measure(
        {
            "without": python("-m", "pytest", "--co", "-q", "-p", "no:bionemo"),
            "with": python("-m", "pytest", "--co", "-q"),
        },
        rounds,
    )
    print(f"medians of {rounds} rounds, run in turn")
    kept = [
        report("time, with / without", costs["with"].seconds / costs["without"].seconds, TIME_LIMIT),
        report(
            "memory, with - without", costs["with"].memory_mib - costs["without"].memory_mib, MEMORY_LIMIT_MIB, " MiB"
        ),
    ]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
