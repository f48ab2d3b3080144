"""What four nodes of a Slurm cost over one alone, at level quick: ``python benchmarks/slurm_nodes.py`` (as root).

The nodes are those of the tests: four daemons of a real Slurm on this machine, each node with eight GPUs that the
stand-in driver plays. On a cluster each node has its own processors; here all of them share this machine's. Where
these are too few for four at once, four runs at once without any Slurm or shared folder are what is compared with:
they wait for each other as much, and the rest is what the job adds.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from pathlib import Path

from _measure import measure, python, report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cluster.slurm import Slurm
from standin import H100x8, build

LIMIT = 1.3
NODES = 4
PROCESSORS = 2
"""Of one run: its probes are processes beside it."""


def main() -> int:
    """Measure and compare; returns 1 if the limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    validation = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "--bionemo-validate", "--bionemo-level=quick")
    alone = shlex.join(validation)
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        slurm = Slurm(folder / "cluster", NODES)
        try:
            slurm.start()
            driver = build(folder / "driver").playing(H100x8, folder)
            started = ("srun", "--ntasks-per-node=1", "--kill-on-bad-exit=0")
            costs = measure(
                {
                    "one run": validation,
                    "one node": [*started, "--nodes=1", *validation],
                    "four nodes": [*started, f"--nodes={NODES}", *validation],
                    "four runs": ["sh", "-c", f"for n in 1 2 3 4; do {alone} --bionemo-report $n.json & done; wait"],
                },
                rounds,
                slurm.environ({**driver, "PATH": os.environ["PATH"]}),
            )
        finally:
            slurm.stop()
    one, four, apart = (costs[what].seconds for what in ("one node", "four nodes", "four runs"))
    cores = len(os.sched_getaffinity(0))
    print(f"medians of {rounds} rounds, run in turn: one node {one:.2f} s, four nodes {four:.2f} s")
    if cores >= NODES * PROCESSORS:
        return 0 if report("time, four nodes / one node", four / one, LIMIT) else 1
    print(f"{cores} processors, of which {NODES} nodes would use {NODES * PROCESSORS}")
    print(f"four nodes / one node: {four / one:.2f}; waiting for a processor alone makes {apart / one:.2f}")
    return 0 if report("time, four nodes of Slurm / four runs without it", four / apart, LIMIT) else 1


if __name__ == "__main__":
    sys.exit(main())
