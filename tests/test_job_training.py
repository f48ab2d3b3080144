"""The topic training in whole jobs of two nodes, started by Slurm's srun and by torchrun, both real."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster.slurm import Slurm
from conftest import Rig, Run
from ports import free_ports

OPTIONS = ("-p", "no:cacheprovider", "--bionemo-validate", "--bionemo-device=cpu")
PYTEST = "import sys, pytest; sys.path.remove(''); sys.exit(pytest.main())"


def runs(folder: Path, done: subprocess.CompletedProcess[str]) -> list[Run]:
    return [Run(done.returncode, done.stdout, done.stderr, path) for path in sorted(folder.rglob("*.json"))]


def test_by_srun_a_training_over_two_nodes_survives_the_loss_of_a_rank(compute_rig: Rig, slurm: Slurm) -> None:
    reports = compute_rig.project / "reports"
    reports.mkdir()
    checks = ("bionemo/training::learns_as_one_rank[ddp]", "bionemo/training::resumes_after_a_killed_rank")
    done = slurm.run(
        "srun", "--nodes=2", "--ntasks-per-node=1", compute_rig.environment.python, "-c", PYTEST, *OPTIONS,
        f"--bionemo-report={reports}", *checks,
        env=compute_rig.environ(), cwd=compute_rig.project, timeout=300, check=False,
    )  # fmt: skip
    nodes = runs(reports, done)
    assert [run.report_path.name for run in nodes] == ["node1.json", "node2.json"], done.stdout + done.stderr
    for run in nodes:
        assert {check: run.outcome(check.removeprefix("bionemo/")) for check in checks} == dict.fromkeys(
            checks, "passed"
        ), done.stdout
    assert {path.suffix for path in reports.rglob("*") if path.is_file()} == {".json"}, "only reports are left"


def test_by_torchrun_a_training_over_two_nodes_is_timed(compute_rig: Rig) -> None:
    checks = ("learns_as_one_rank[fsdp]", "keeps_pace", "scales")
    (port,) = free_ports(1)

    def start(node: int) -> Run:
        path = compute_rig.project / f"{node}.json"
        launch = ("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--node-rank={node}",
                  "--master-addr=127.0.0.1", f"--master-port={port}", "-m", "pytest")  # fmt: skip
        ids = [f"bionemo/training::{check}" for check in checks]
        done = compute_rig.environment.run(
            [*launch, *OPTIONS, f"--bionemo-report={path}", *ids],
            compute_rig.project,
            env=compute_rig.environ(),
            timeout=300,
        )
        return Run(done.returncode, done.stdout, done.stderr, path)

    with ThreadPoolExecutor(2) as threads:
        nodes = list(threads.map(start, range(2)))
    for run in nodes:
        assert {check: run.outcome(f"training::{check}") for check in checks} == dict.fromkeys(checks, "passed"), (
            run.stdout + run.stderr
        )
        assert "training_tiny_tokens" in [one["name"] for one in run.bionemo["measurements"]]
