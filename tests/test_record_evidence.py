"""Recording evidence: what is kept, what must not be, and that nothing is made up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import record_evidence  # noqa: E402

UUID = "GPU-6a0e0535-dc47-5c23-adf3-de526b116b15"


def run(**changes: Any) -> dict[str, Any]:
    return {
        "device": "cuda",
        "started": "2026-11-22T10:00:00+00:00",
        "verdict": "READY",
        "summary": "READY at level full",
        "duration_s": 12.0,
        "sections": {"numerics": "PASSED"},
        "gpus": [{"name": "NVIDIA H200", "uuid": UUID}],
        "measurements": [{"name": "matmul_bf16", "device": UUID}],
        "environment": {"hostname": "node-17", "driver": "580.95.05", "variables": {"HOME": "/home/someone"}},
        **changes,
    }


def runs(**changes: Any) -> dict[str, dict[str, Any]]:
    return {level: run(**changes) for level in ("quick", "standard", "full")}


def test_the_file_is_named_by_gpu_and_date() -> None:
    evidence = record_evidence.make_evidence(runs())
    assert record_evidence.name_of(evidence) == "nvidia-h200-2026-11-22.json"


def test_every_level_and_every_number_is_kept() -> None:
    evidence = record_evidence.make_evidence(runs())
    assert list(evidence["levels"]) == ["quick", "standard", "full"]
    assert evidence["report"]["measurements"] == [{"name": "matmul_bf16", "device": "GPU-0"}]
    assert evidence["environment"]["driver"] == "580.95.05"


def test_nothing_names_the_machine() -> None:
    text = json.dumps(record_evidence.make_evidence(runs()))
    assert not any(name in text for name in ("node-17", "someone", UUID, UUID[4:]))


@pytest.mark.parametrize("changes", [{"device": "cpu"}, {"gpus": []}, {"measurements": []}], ids=str)
def test_without_a_number_of_a_gpu_there_is_no_evidence(changes: dict[str, Any]) -> None:
    with pytest.raises(record_evidence.NothingToRecord, match="no number came from a GPU"):
        record_evidence.make_evidence(runs(**changes))


def test_a_machine_without_a_gpu_records_nothing(tmp_path: Path) -> None:
    script = FOLDER / "record_evidence.py"
    done = subprocess.run(
        [sys.executable, str(script), "--folder", str(tmp_path / "evidence")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "nothing is recorded: BLOCKED at level full" in done.stderr
    assert not (tmp_path / "evidence").exists()
