"""Record what this machine's GPUs do: ``python benchmarks/record_evidence.py``.

Runs ``pytest --bionemo-validate`` at every level and writes ``docs/evidence/<gpu>-<date>.json``: driver, CUDA, torch,
each level's verdict and duration, and the whole key ``bionemo`` of the report of level full, without what
names the machine (host name, variables, UUIDs, paths). Anybody can run it to contribute a GPU.

Exit status 1, and no file, where no kernel ran on a GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_bionemo.terms import LEVELS

FOLDER = Path(__file__).parents[1] / "docs" / "evidence"
_UUID = re.compile(r"(GPU|MIG)-[0-9a-fA-F-]{36}")
_KEPT = ("driver", "nvml", "cuda_driver", "torch", "torch_cuda", "cudnn", "nccl", "arch_list", "lightning", "python",
         "machine", "kernel", "distribution", "glibc", "container", "cuda_toolkit")  # fmt: skip


class NothingToRecord(Exception):
    """No kernel ran on a GPU of this machine."""


def main() -> int:
    """Run every level and write the evidence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the file goes (default: docs/evidence)")
    folder: Path = parser.parse_args().folder
    try:
        evidence = make_evidence({level: validate(level) for level in LEVELS})
    except NothingToRecord as error:
        print(f"nothing is recorded: {error}", file=sys.stderr)
        return 1
    path = folder / name_of(evidence)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(evidence, indent=1) + "\n")
    print(path)
    return 0


def validate(level: str) -> dict[str, Any]:
    """The key ``bionemo`` of the report of one run at this level."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = [f"--bionemo-level={level}", f"--bionemo-report={report}"]
        subprocess.run([sys.executable, "-m", "pytest_bionemo", "validate", *options], check=False)
        run: dict[str, Any] = json.loads(report.read_text())["bionemo"]
        return run


def make_evidence(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What is kept of one run for each level.

    :raises NothingToRecord: if the run at level full put no number of a GPU into its report.
    """
    full = runs["full"]
    if full["device"] != "cuda" or not full["gpus"] or not full.get("measurements"):
        raise NothingToRecord(f"{full['summary']} (no number came from a GPU)")
    return {
        "gpu": full["gpus"][0]["name"],
        "gpus": len(full["gpus"]),
        "date": full["started"][:10],
        "environment": {name: full["environment"].get(name) for name in _KEPT},
        "levels": {
            level: {name: run[name] for name in ("verdict", "summary", "duration_s", "sections")}
            for level, run in runs.items()
        },
        "report": without_names({name: value for name, value in full.items() if name != "environment"}),
    }


def without_names(report: Mapping[str, Any]) -> dict[str, Any]:
    """The same with "GPU-0", "GPU-1" ... in the place of UUIDs, in the order in which they come."""
    text = json.dumps(report)
    uuids = list(dict.fromkeys(match[0] for match in _UUID.finditer(text)))
    for number, uuid in enumerate(uuids):
        text = text.replace(uuid, f"{uuid[:3]}-{number}")
    anonymous: dict[str, Any] = json.loads(text)
    return anonymous


def name_of(evidence: Mapping[str, Any]) -> str:
    """The file's name, such as nvidia-h200-2026-11-22.json."""
    gpu = re.sub(r"[^a-z0-9]+", "-", evidence["gpu"].lower()).strip("-")
    return f"{gpu}-{evidence['date']}.json"


if __name__ == "__main__":
    sys.exit(main())
