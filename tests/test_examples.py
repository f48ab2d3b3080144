"""The projects in examples/downstream, each run as its own users run it: in its folder, with its own settings."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import Rig

EXAMPLES = Path(__file__).parents[1] / "examples" / "downstream"
# What passes on a machine without a GPU and without BioNeMo, and what cannot be met there.
PROJECTS = {
    "training_library": (5, ["needs 1 GPU with 1 GB free and bf16", "needs 2 GPUs with 40 GB and NVLink"]),
    "lightning_project": (4, ["needs 1 GPU with fp16", "needs 1 GPU with bf16; 1 GPU with fp16"]),
    "data_loader": (4, ["bionemo-noodles is not installed"]),
}


def copied(name: str, rig: Rig) -> None:
    """Put the project where the rig runs."""
    shutil.copytree(EXAMPLES / name, rig.project, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


def test_every_project_is_here() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} == set(PROJECTS)


@pytest.mark.parametrize("name", PROJECTS)
def test_a_project_runs_with_its_own_settings(compute_rig: Rig, name: str) -> None:
    passed, reasons = PROJECTS[name]
    copied(name, compute_rig)
    compute_rig.variables["COLUMNS"] = "200"
    run = compute_rig.pytest("-q", "-rs")
    assert run.returncode == 0, run.stdout
    assert f"{passed} passed, {len(reasons)} skipped" in run.stdout, run.stdout
    assert [reason for reason in reasons if f": {reason}" not in run.stdout] == [], run.stdout


def test_what_is_not_met_fails_in_a_strict_run(compute_rig: Rig) -> None:
    copied("data_loader", compute_rig)
    run = compute_rig.pytest("-q", "--bionemo-strict", "-n", "2")
    assert run.returncode == 1
    assert "1 failed, 4 passed" in run.stdout, run.stdout


def test_the_checks_of_an_installed_package_join_the_run(healthy_rig: Rig, tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="one environment is enough to build the wheel in")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=EXAMPLES / "data_loader", check=True, capture_output=True)
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(healthy_rig.site)
    checks = ["sequences::files_are_there", "sequences::last_sequences_are_whole"]

    run = healthy_rig.validate()
    assert run.verdict == "READY_FOR_INSTALL", run.stdout
    assert [run.outcome(check) for check in checks] == ["not_applicable"] * 2

    healthy_rig.variables["FASTASET"] = str(tmp_path / "sequences")
    run = healthy_rig.validate()
    assert run.blockers == [checks[0]]
    assert run.bionemo["environment"]["extra"] == {"fastaset_folder": str(tmp_path / "sequences")}

    (tmp_path / "sequences").mkdir()
    broken = tmp_path / "sequences" / "one.fasta"
    broken.write_text(">first\nMKT\n>second\n")
    run = healthy_rig.validate()
    assert run.blockers == [checks[1]]
    assert "one.fasta ends behind a header" in run.finding(checks[1])["message"]

    broken.write_text(">first\nMKT\n>second\nGSH\n")
    run = healthy_rig.validate()
    assert [run.outcome(check) for check in checks] == ["passed"] * 2, run.stdout
