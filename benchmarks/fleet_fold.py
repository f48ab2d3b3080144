"""What it takes to fold the reports of 1,000 and of 10,000 nodes: ``python benchmarks/fleet_fold.py REPORT``.

REPORT is one of real size (``pytest --bionemo-validate --bionemo-device cpu --bionemo-expect-gpus 8`` writes one of
700 kB); every node gets a copy with its own name, devices and numbers. Memory is that of all processes together, and
the reports are read from the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from _measure import report

SECONDS = {1_000: 5.0, 10_000: 50.0}
RATIO = 11.0
MEMORY_MIB = 300.0
_DEVICE = re.compile(r'"device": "cpu(\d+)"')
_VALUE = re.compile(r'"value": \d+\.\d+')


def main() -> int:
    """Measure and compare; returns 1 if a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--nodes", type=int, nargs=2, default=list(SECONDS))
    parser.add_argument("--folder", type=Path, help="where the copies are made (10,000 take 8 GB)")
    options = parser.parse_args()
    few, many = options.nodes
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for nodes in options.nodes:
            write(options.report.read_text(), Path(folder, str(nodes)), nodes)
        # Before and after: machines that are shared are not as fast at all times.
        measured = [(nodes, *measure(Path(folder, str(nodes)), nodes)) for nodes in (few, many, few)]
    for nodes, seconds, memory in measured:
        print(f"{nodes:,} nodes: {seconds:.1f} s, {memory:.0f} MiB")
    taken = {nodes: statistics.fmean(one[1] for one in measured if one[0] == nodes) for nodes in options.nodes}
    kept = [
        *(
            report(f"seconds, {nodes:,} nodes", seconds, SECONDS.get(nodes, nodes * SECONDS[1_000] / 1_000))
            for nodes, seconds in taken.items()
        ),
        report("time ratio", taken[many] / taken[few], RATIO * many / few / 10),
        report("MiB", max(memory for _, _, memory in measured), MEMORY_MIB),
    ]
    return 0 if all(kept) else 1


def write(text: str, folder: Path, nodes: int) -> None:
    """The reports of so many nodes."""
    host = json.loads(text)["bionemo"]["environment"]["hostname"]
    chosen = random.Random(7)
    folder.mkdir()
    for number in range(nodes):
        path = folder / f"node{number:05d}.json"
        own = text.replace(f'"hostname": "{host}"', f'"hostname": "node{number:05d}"')
        own = _DEVICE.sub(rf'"device": "GPU-{number:05d}-1234-5678-9abc-\1"', own)
        own = _VALUE.sub(lambda match: f"{match[0]}{chosen.randrange(10)}", own)
        path.write_text(own)


def measure(folder: Path, nodes: int) -> tuple[float, float]:
    """Seconds, and the highest sum of the memory of all processes, in MiB; the reports are not in memory yet."""
    forget(folder)
    out = folder.with_suffix(".json")
    words = [sys.executable, "-m", "pytest_bionemo", "fleet", str(folder), "--json", str(out)]
    began, highest = time.monotonic(), 0
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as running:
        while running.poll() is None:
            highest = max(highest, memory_of([running.pid, *children_of(running.pid)]))
            time.sleep(0.2)
    seconds = time.monotonic() - began
    document = json.loads(out.read_text())
    assert len(document["nodes"]) == nodes, document["summary"]
    assert document["spreads"]
    return seconds, highest / 1024


def forget(folder: Path) -> None:
    """Have the files written, and dropped from the page cache: reports come from other machines."""
    os.sync()
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def children_of(pid: int) -> list[int]:
    """The processes that this one has started."""
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def memory_of(processes: Sequence[int]) -> int:
    """KiB, shared pages counted once (PSS)."""
    total = 0
    for pid in processes:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


if __name__ == "__main__":
    sys.exit(main())
