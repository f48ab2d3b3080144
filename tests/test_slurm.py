"""On a real Slurm of four nodes: what is started by srun and sbatch, and the scripts of examples/slurm."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cluster.slurm import Slurm, obstacle
from conftest import Rig, assert_valid
from standin import H100x8, Node

EXAMPLES = Path(__file__).parents[1] / "examples" / "slurm"
DOCS = Path(__file__).parents[1] / "docs"
LOST = H100x8.with_gpu_fault(3, "nvmlDeviceGetHandleByIndex_v2", 15)
"""A node of which the fourth GPU is lost."""


_START = """
import sys, time
from pathlib import Path
from cluster.slurm import Slurm
Slurm(Path(sys.argv[1]), nodes=1).start()
print("started", flush=True)
time.sleep(600)
"""


def test_nothing_outlives_the_tests_however_they_end(slurm: Slurm, tmp_path: Path) -> None:
    del slurm  # where there can be none, this is skipped
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-c", _START, folder]
        starter = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True)
        assert starter.stdout
        assert starter.stdout.readline() == "started\n"
        assert len(_processes_of(folder)) >= 3, "munged, slurmctld, slurmd"
        starter.kill()
        starter.communicate()
        end = time.monotonic() + 30
        while _processes_of(folder) and time.monotonic() < end:
            time.sleep(0.1)
        assert _processes_of(folder) == []


def _processes_of(folder: str) -> list[str]:
    """Processes that have the folder's configuration in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended meanwhile
            found += [path.parent.name] if f"SLURM_CONF={folder}/".encode() in path.read_bytes() else []
    return found


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.slurm._PATH", "/nowhere")
    assert (obstacle() or "").startswith("Slurm's programs are not all installed: munged, slurmctld, slurmd, srun, ")


def _install(path: Path, script: str) -> None:
    path.write_text(script)
    path.chmod(0o755)


class Fleet:
    """The nodes of a Slurm, each with a driver of its own, and a rig's environment on all of them."""

    def __init__(self, slurm: Slurm, rig: Rig) -> None:
        self.slurm = slurm
        self.rig = rig
        self.reports = rig.project / "bionemo-reports"
        self.reports.mkdir()
        # The same variables everywhere: what differs is the disk.
        self.variables = {
            **rig.environ(),
            "STANDIN_NODE": str(slurm.disk / "driver"),
            "PYTHON": str(rig.environment.python),
            "PATH": f"{self._commands()}:/usr/sbin:/usr/bin:/sbin:/bin",
            "SLURM_CONF": slurm.environ()["SLURM_CONF"],
        }
        for node in slurm.nodes:
            self.give(node, H100x8)

    def _commands(self) -> Path:
        """What pip would have installed beside the environment's Python."""
        folder = self.rig.folder / "bin"
        folder.mkdir()
        python = self.rig.environment.python
        _install(folder / "python", f'#!/bin/sh\nexec {python} "$@"\n')  # a link would leave the environment
        _install(folder / "pytest", f"#!{python}\nimport sys, pytest\nsys.exit(pytest.main())\n")
        return folder

    def give(self, node: str, driver: Node) -> None:
        """Another driver on this node's disk."""
        driver.write(self.slurm.disk_of(node) / "driver")

    def run(self, *command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program in the project's folder, which all nodes share."""
        return self.slurm.run(*command, env=self.variables, cwd=self.rig.project, check=check)

    def validate(self, *arguments: str | Path, job: tuple[str, ...] = ("--nodes=4",)) -> str:
        """Submit validate.sbatch at level quick, and wait for its end; the number of the job."""
        submitted = (*job, EXAMPLES / "validate.sbatch", "--bionemo-level=quick", *arguments)
        number = self.slurm.sbatch(*submitted, env=self.variables, cwd=self.rig.project)
        self.slurm.finish(number)
        return number

    def folded(self, job: str) -> Mapping[str, Any]:
        """The document of the fleet that the scripts have written."""
        path = self.reports / f"job-{job}.fleet.json"
        assert path.exists(), self.said()
        document: dict[str, Any] = json.loads(path.read_text())
        return document

    def said(self) -> str:
        """What the jobs have printed."""
        return "\n".join(path.read_text() for path in self.rig.project.glob("bionemo-*.*"))


@pytest.fixture
def fleet(slurm: Slurm, healthy_rig: Rig) -> Fleet:
    """Four healthy nodes of eight H100s."""
    return Fleet(slurm, healthy_rig)


def test_a_bad_node_is_named_drained_and_avoided(fleet: Fleet) -> None:
    """The whole way: sbatch, four reports, one verdict, the list of the bad ones, and a next job without them."""
    slurm = fleet.slurm
    fleet.give("node3", LOST)
    job = fleet.validate()

    document = fleet.folded(job)
    assert document["verdict"] == "BLOCKED"
    assert {node["host"]: node["status"] for node in document["nodes"]} == {
        "node1": "passing", "node2": "passing", "node3": "failing", "node4": "passing"
    }  # fmt: skip
    assert document["exclude"] == "node3"
    lists = fleet.reports / f"job-{job}.lists"
    assert (lists / "exclude.txt").read_text().split() == ["node3"]
    for node in slurm.nodes:
        report = json.loads((fleet.reports / f"job-{job}" / f"{node}.json").read_text())
        assert_valid(report)
        assert report["bionemo"]["environment"]["job"]["hosts"] == list(slurm.nodes)
        assert report["bionemo"]["environment"]["job"]["node"] == node

    # At once: as an option of the next job.
    exclude = f"--exclude={document['exclude']}"
    said = fleet.run("srun", "--nodes=3", "--ntasks-per-node=1", exclude, "hostname").stdout
    assert sorted(said.split()) == ["node1", "node2", "node4"]

    # For all jobs: drained, with the reason.
    lines = fleet.rig.folder / "lines"
    told = ("-m", "pytest_bionemo", "fleet", f"{fleet.reports}/job-{job}", "--print", "hyperpod")
    lines.write_text(fleet.run(fleet.rig.environment.python, *told, check=False).stdout)
    script = ("bash", "-c", f"{EXAMPLES}/drain_failed.sh $1 < {lines}", "-")
    assert "'nodename=node3'" in fleet.run(*script).stdout
    assert slurm.states()["node3"] == "idle", "it only shows, unless it is told"
    fleet.run(*script, "--apply")
    assert slurm.states() == {"node1": "idle", "node2": "idle", "node3": "drained", "node4": "idle"}
    assert "bionemo: reboot: BLOCKED at level quick: bionemo/driver::answers[gpu3]" in slurm.reason("node3")
    said = fleet.run("srun", "--nodes=3", "--ntasks-per-node=1", "hostname").stdout
    assert sorted(said.split()) == ["node1", "node2", "node4"]

    # Repaired.
    fleet.give("node3", H100x8)
    fleet.run("scontrol", "update", "nodename=node3", "state=resume")
    assert fleet.folded(fleet.validate(job=("--nodelist=node[2-3]", "--nodes=2")))["verdict"] == "READY_FOR_INSTALL"


def test_an_array_takes_every_node_of_a_list_once_and_a_silent_one_is_named(fleet: Fleet) -> None:
    slurm = fleet.slurm
    # An environment that node4 has not got.
    for node in ("node1", "node2", "node3"):
        _install(slurm.disk_of(node) / "python", f'#!/bin/sh\nexec {fleet.rig.environment.python} "$@"\n')
    fleet.variables |= {"PYTHON": str(slurm.disk / "python"), "CHUNK": "3", "AT_ONCE": "1"}
    job = fleet.run(EXAMPLES / "validate_fleet.sh", "node[1-4]", "--bionemo-level=quick").stdout.strip()
    slurm.wait(lambda: not fleet.run("squeue", "--noheader").stdout.strip(), "the array and its fold end", 120)

    document = fleet.folded(job)
    assert document["missing"] == ["node4"], fleet.said()
    assert {node["host"]: node["status"] for node in document["nodes"]} == dict.fromkeys(
        ("node1", "node2", "node3"), "passing"
    )
    assert (document["verdict"], document["exclude"]) == ("INCONCLUSIVE", "node4")
    report = json.loads((fleet.reports / f"job-{job}" / "node2.json").read_text())
    array = report["bionemo"]["environment"]["job"]
    assert (array["task"], array["tasks"], array["node_list"]) == (0, 2, "node[1-3]")


def test_a_node_that_hangs_is_named_before_the_time_is_over(fleet: Fleet) -> None:
    slurm = fleet.slurm
    for node in slurm.nodes:
        does = "sleep 1000" if node == "node4" else f'exec {fleet.rig.environment.python} "$@"'
        _install(slurm.disk_of(node) / "python", f"#!/bin/sh\n{does}\n")
    fleet.variables |= {"PYTHON": str(slurm.disk / "python")}
    submitted = ("--nodes=4", EXAMPLES / "validate.sbatch", "--bionemo-level=quick")
    job = slurm.sbatch(*submitted, env=fleet.variables, cwd=fleet.rig.project)
    reports = [fleet.reports / f"job-{job}" / f"{node}.json" for node in slurm.nodes[:3]]
    ended = "READY_FOR_INSTALL"
    slurm.wait(lambda: all(path.exists() and _verdict(path) == ended for path in reports), "three are ready", 180)
    # The shortest time that Slurm knows; it looks every 30 s whose time is nearly over.
    fleet.run("scontrol", "update", f"jobid={job}", "timelimit=1")
    slurm.finish(job)
    document = fleet.folded(job)
    assert (document["missing"], document["exclude"]) == (["node4"], "node4")
    assert {node["host"]: node["status"] for node in document["nodes"]} == dict.fromkeys(slurm.nodes[:3], "passing")
    assert (fleet.reports / f"job-{job}.lists" / "missing_nodes.txt").read_text() == "node4\n"


def test_jobs_at_the_same_time_share_a_folder_and_do_not_mix(fleet: Fleet) -> None:
    validate = "srun -w {} --ntasks-per-node=1 pytest --bionemo-validate --bionemo-level=quick --bionemo-report={}"
    jobs = " & ".join(validate.format(nodes, fleet.reports.name) for nodes in ("node1,node2", "node3"))
    fleet.run("bash", "-c", f"{jobs}; wait")
    folders = sorted(path.name for path in fleet.reports.iterdir())
    assert len(folders) == 2
    written = [sorted(path.name for path in (fleet.reports / folder).iterdir()) for folder in folders]
    assert sorted(written) == [["node1.json", "node2.json"], ["node3.json"]]


def test_more_than_one_task_of_a_node_is_a_usage_error(fleet: Fleet) -> None:
    command = ("srun", "--nodes=1", "--ntasks-per-node=2", "pytest", "--bionemo-validate", "--bionemo-report=.")
    done = fleet.run(*command, check=False)
    assert "2 tasks were started on this node" in done.stderr
    assert "srun --nodes=1 --ntasks=1 --ntasks-per-node=1 pytest --bionemo-validate" in done.stderr
    assert "Exited with exit code 4" in done.stderr
    assert list(fleet.rig.project.rglob("*.json")) == []


def test_the_first_step_of_a_job_that_trains_is_one_task_a_node(fleet: Fleet) -> None:
    """The lines of the page, in a job of several tasks a node."""
    (block,) = (block for block in _blocks("slurm.md") if "--open-mode=append" in block)
    validates, trains, _ = block.partition("srun --auto-resume")
    script = fleet.rig.project / "train.sbatch"
    script.write_text(f"#!/bin/bash\n{validates.replace('/fsx/reports', str(fleet.reports))}echo it trains\n")
    assert trains
    said = fleet.rig.project / "bionemo-training.log"
    submitted = ("--nodes=2", "--ntasks-per-node=4", f"--output={said}", script)
    job = fleet.slurm.sbatch(*submitted, env=fleet.variables, cwd=fleet.rig.project)
    fleet.slurm.finish(job)
    assert said.read_text().endswith("it trains\n"), said.read_text()
    assert "Warning" not in said.read_text()
    written = sorted(path.name for path in (fleet.reports / f"job-{job}").iterdir())
    assert written == ["node1.json", "node2.json"]


def test_the_first_commands_of_the_page_need_no_folder(fleet: Fleet) -> None:
    fleet.variables |= {"PYTEST_ADDOPTS": "--bionemo-level=quick"}
    done = fleet.run("bash", "-c", _blocks("fleet.md")[0], check=False)
    assert "4 nodes, 4 passing" in done.stdout, done.stdout + done.stderr
    (folder,) = (fleet.rig.project / "reports").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [f"{node}.json" for node in fleet.slurm.nodes]


# What takes the place of Slurm's commands: it writes down what it is asked.
_ASKED = """#!/bin/sh
echo "$(basename "$0") $*" >>asked
"""


@pytest.mark.parametrize("options", ["", "-e"])
@pytest.mark.parametrize(("page", "command"), [("fleet.md", "srun"), ("slurm.md", "sbatch")])
def test_without_a_list_of_nodes_to_avoid_nothing_starts(rig: Rig, page: str, command: str, options: str) -> None:
    (block,) = (block for block in _blocks(page) if f"{command} --exclude=" in block)
    (programs := rig.folder / "bin").mkdir()
    _install(programs / command, _ASKED)
    asked = rig.project / "asked"

    def start() -> int:
        run = ["bash", *options.split(), "-c", block]
        variables = {**rig.environ(), "PATH": f"{programs}:/usr/bin:/bin"}
        return subprocess.run(run, cwd=rig.project, env=variables, capture_output=True, check=False).returncode

    assert start() != 0, "there is not even a Python"
    _install(programs / "python", f'#!/bin/sh\nexec {rig.environment.python} "$@"\n')
    assert start() != 0, "there is no report, and no list"
    assert not asked.exists()

    rig.node = LOST
    for name in ("reports", "bionemo-reports"):
        (rig.project / name).mkdir()
    rig.validate("--bionemo-report=reports", "bionemo/driver")
    rig.run("-m", "pytest_bionemo", "fleet", "reports", "--lists", "bionemo-reports/job-1234.lists")
    assert start() == 0
    assert f"{command} --exclude={socket.gethostname()} " in asked.read_text()


def _blocks(page: str) -> list[str]:
    """The commands that a page shows."""
    found = re.findall(r"^( *)```bash\n(.*?)^\1```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for _, block in found]


def test_a_run_that_is_cancelled_is_no_proof(fleet: Fleet) -> None:
    slurm = fleet.slurm
    fleet.give("node2", H100x8.with_faults(nvmlInit_v2="hang"))
    submitted = ("--nodelist=node[1-2]", "--nodes=2", EXAMPLES / "validate.sbatch", "--bionemo-level=quick")
    job = slurm.sbatch(*submitted, env=fleet.variables, cwd=fleet.rig.project)
    begun = fleet.reports / f"job-{job}" / "node2.json"
    done = begun.with_name("node1.json")
    slurm.wait(lambda: done.exists() and _verdict(done) == "READY_FOR_INSTALL", "node1 is ready", 60)
    fleet.run("scancel", job)
    slurm.finish(job)
    assert _verdict(begun) == "INCONCLUSIVE"
    told = ("-m", "pytest_bionemo", "fleet", f"{fleet.reports}/job-{job}", "--expect=node[1-2]", "--print=json")
    folded = fleet.run(fleet.rig.environment.python, *told, check=False)
    statuses = {node["host"]: node["status"] for node in json.loads(folded.stdout)["nodes"]}
    assert (folded.returncode, statuses) == (1, {"node1": "passing", "node2": "unknown"})


# What a program that srun starts reads of its job, and what Lightning makes of the same variables.
_BOTH = """
import json, os
from pytest_bionemo.probes import job
found = job.read(os.environ)
told = job.of_lightning(**job.asking_lightning(found, "pytorch-lightning"))
print(json.dumps([found.to_json(), told, job.hosts(found.node_list)["hosts"]]))
"""


def test_lightning_and_scontrol_say_the_same_of_a_step_that_is_part_of_a_job(slurm: Slurm) -> None:
    script = slurm.folder / "both.py"
    script.write_text(_BOTH)
    step = f"srun --nodelist=node3,node4 --nodes=2 --ntasks-per-node=1 {sys.executable} {script}"
    out = slurm.run("salloc", "--nodes=4", "bash", "-c", step, env={"PATH": os.environ["PATH"]}).stdout
    said = sorted((json.loads(line) for line in out.splitlines()), key=lambda one: one[0]["node_rank"])
    for rank, (found, told, hosts) in enumerate(said):
        assert told["refused"] is None
        assert told["job"] == {name: found[name] for name in told["job"]}
        assert (found["node_rank"], found["nodes"], found["node"]) == (rank, 2, f"node{rank + 3}")
        assert (found["node_list"], found["address"], hosts) == ("node[3-4]", "node3", ["node3", "node4"])
    assert len(said) == 2


_MEETS = """
import json, os, pathlib, time
from contextlib import nullcontext
from pytest_bionemo.needs.meetings import keeping_desk, place_of
from pytest_bionemo.probes import job
from pytest_bionemo.workloads.meeting import meet
step, desks = os.environ["SLURM_STEP_ID"], pathlib.Path(os.environ["DESKS"])
found = job.read(os.environ)
place = place_of(found, "")
with nullcontext() if found.node_rank else keeping_desk(place.port, place.job, 30):
    if not found.node_rank:
        (desks / step).touch()
    ends_at = time.monotonic() + 30
    while len(list(desks.iterdir())) < 2:
        assert time.monotonic() < ends_at, "the other step has no desk"
        time.sleep(0.05)
    if (step == "0") != (found.node_rank == 0):
        time.sleep(2)  # one rank of each step comes first: at one desk they would take each other for the others
    with meet("steps", place.to_json(), 30) as ranks:
        print(json.dumps(ranks.share("step", step)), flush=True)
"""


def test_two_steps_of_one_job_on_one_first_node_meet_apart(slurm: Slurm, tmp_path: Path) -> None:
    script = slurm.folder / "meets.py"
    script.write_text(_MEETS)
    step = f"srun --overlap --nodes=2 --ntasks-per-node=1 {sys.executable} {script}"
    told = {"MASTER_ADDR": "127.0.0.1", "DESKS": str(tmp_path), "PYTEST_BIONEMO_DEVICE_NAME": "cpu0"}
    command = ("salloc", "--nodes=2", "bash", "-c", f"{step} & {step} & wait")
    out = slurm.run(*command, env={"PATH": os.environ["PATH"], **told}).stdout
    assert sorted(map(json.loads, out.split("\n")[:-1])) == [["0", "0"], ["0", "0"], ["1", "1"], ["1", "1"]]


def test_torchrun_starts_a_node_of_its_job_each(torch_rig: Rig) -> None:
    torch_rig.node = H100x8
    (torch_rig.project / "reports").mkdir()
    validation = ("pytest", "--bionemo-validate", "--bionemo-level=quick", "bionemo/host::runs_linux")
    told = ("--rdzv-id=nightly", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--nnodes=1")
    launch = ("-m", "torch.distributed.run", *told)
    done = torch_rig.run(*launch, "--nproc-per-node=1", "-m", *validation, "--bionemo-report=reports")
    (path,) = torch_rig.project.glob("reports/job-nightly/*.json")
    job = json.loads(path.read_text())["bionemo"]["environment"]["job"]
    assert (job["launcher"], job["id"], job["node_rank"], job["nodes"]) == ("torchrun", "nightly", 0, 1), done.stderr
    done = torch_rig.run(*launch, "--nproc-per-node=2", "-m", *validation, "--bionemo-report=reports")
    assert "2 tasks were started on this node" in done.stderr
    assert "torchrun --nproc-per-node=1 pytest" in done.stderr


def _verdict(path: Path) -> str:
    return str(json.loads(path.read_text())["bionemo"]["verdict"])


# ------------------------------------------------------------------------------------- what slurmd starts on a node


@pytest.fixture
def on_nodes(fleet: Fleet) -> Callable[[str], str]:
    """Scripts of examples/slurm as slurmd finds them: with the environment on the node's own disk."""

    def installed(name: str) -> str:
        path = fleet.slurm.folder / f"site-{name}"
        settings = {**fleet.variables, "STATE": str(fleet.slurm.disk / "state")}
        exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in settings.items())
        path.write_text(f"#!/bin/bash\n{exports}exec {EXAMPLES / name}\n")
        path.chmod(0o755)
        return str(path)

    return installed


def test_a_prolog_drains_the_bad_node_and_the_job_goes_on(fleet: Fleet, on_nodes: Callable[[str], str]) -> None:
    slurm = fleet.slurm
    fleet.give("node1", LOST)
    with slurm.configured(Prolog=on_nodes("prolog.sh"), PrologFlags="Alloc"):
        out = fleet.rig.project / "where"
        job = slurm.sbatch("--nodes=1", f"--output={out}", "--wrap=hostname", env=fleet.variables)
        slurm.wait(lambda: "drain" in slurm.states()["node1"], "the bad node is drained", 180)
        assert slurm.reason("node1").startswith("Prolog")
        assert (slurm.disk_of("node1") / "state" / "report.json").exists()
        # Slurm holds a job that it has put back after a prolog that failed, and waits two minutes.
        slurm.wait(lambda: "PENDING" in _state(slurm, job), "the job is back in the queue", 180)
        fleet.run("scontrol", "release", job)
        fleet.run("scontrol", "update", f"jobid={job}", "starttime=now")
        slurm.finish(job)
        assert out.read_text().strip() in ("node2", "node3", "node4")


def test_a_health_check_program_drains_what_fails_and_nothing_else(
    fleet: Fleet, on_nodes: Callable[[str], str]
) -> None:
    slurm = fleet.slurm
    fleet.give("node2", LOST)
    program = on_nodes("health_check.sh")
    with slurm.configured(HealthCheckProgram=program, HealthCheckInterval="15", HealthCheckNodeState="IDLE"):
        slurm.wait(lambda: slurm.states()["node2"] == "drained", "the bad node is drained", 180)
        assert slurm.reason("node2") == "bionemo: reboot: BLOCKED at level quick: bionemo/driver::answers[gpu3]"
        assert (slurm.states()["node1"], slurm.states()["node3"]) == ("idle", "idle")


def test_a_hanging_driver_takes_its_node_away_and_a_missing_environment_does_not(rig: Rig) -> None:
    rig.variables = {"PATH": "/usr/bin:/bin", "STATE": str(rig.folder / "state")}

    def check(driver: Node, python: Path) -> tuple[int, str, str]:
        rig.node = driver
        command = [str(EXAMPLES / "check_node.sh"), "--bionemo-timeout=1"]
        settings = {**rig.environ(), "PYTHON": str(python)}
        done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    hanging, python = H100x8.with_faults(nvmlInit_v2="hang"), rig.environment.python
    assert check(hanging, python) == (1, "bionemo: reboot: BLOCKED at level quick: bionemo/driver::loads\n", "")
    assert check(hanging, Path("/nowhere/python")) == (0, "", "")
    assert check(H100x8, python) == (0, "", "")


def _state(slurm: Slurm, job: str) -> str:
    return slurm.run("squeue", "--noheader", f"--jobs={job}", "--format=%T", check=False).stdout


# ------------------------------------------------------------------------------------- draining, by lines of a fleet


def drain(lines: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", **variables}
    script = str(EXAMPLES / "drain_failed.sh")
    return subprocess.run(
        [script, *options], input=lines, capture_output=True, text=True, env=environment, check=False
    )


def lines_of(**remedies: str) -> str:
    return "".join(f"HEALTH_CHECK_RESULT:{host}:Failed:{remedy}:BLOCKED: x\n" for host, remedy in remedies.items())


def test_hyperpod_is_told_in_its_own_words_and_only_where_there_is_a_remedy() -> None:
    done = drain(lines_of(a="reboot") + "HEALTH_CHECK_RESULT:b:Passed:none:\n", "--hyperpod")
    assert done.stdout == "'scontrol' 'update' 'nodename=a' 'state=fail' 'reason=Action:Reboot'\n"
    assert "'state=fail' 'reason=Action:Replace'" in drain(lines_of(a="replace"), "--hyperpod").stdout
    assert "'state=drain' 'reason=bionemo: none: BLOCKED: x'" in drain(lines_of(a="none"), "--hyperpod").stdout
    assert "'state=drain' 'reason=bionemo: replace: BLOCKED: x'" in drain(lines_of(a="replace")).stdout


def test_a_healthy_fleet_has_nothing_to_drain() -> None:
    done = drain("HEALTH_CHECK_RESULT:a:Passed:none:\nHEALTH_CHECK_RESULT:b:Skipped:none:no report\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_cluster_is_not_drained_for_what_is_wrong_everywhere() -> None:
    everywhere = lines_of(a="none", b="none", c="none")
    done = drain(everywhere)
    assert (done.returncode, done.stdout) == (1, "")
    assert "3 of 3 nodes failed, more than 10 %" in done.stderr
    assert drain(everywhere, AT_MOST="100").stdout.count("state=drain") == 3


def test_a_node_that_slurm_does_not_know_leaves_no_other_in_use(tmp_path: Path) -> None:
    (program := tmp_path / "scontrol").write_text(
        f'#!/bin/sh\ncase "$*" in *nodename=n1*) exit 1; esac\necho "$*" >>{tmp_path}/done\n'
    )
    program.chmod(0o755)
    lines = lines_of(**{f"n{number}": "none" for number in range(4)})
    done = drain(lines, "--apply", AT_MOST="100", PATH=f"{tmp_path}:/usr/bin:/bin")
    assert done.returncode == 1
    assert sorted(line.split()[1] for line in (tmp_path / "done").read_text().splitlines()) == [
        f"nodename=n{number}" for number in (0, 2, 3)
    ]


def test_no_line_of_a_fleet_and_an_option_that_is_none_are_one_line() -> None:
    assert (drain("error: no report\n").returncode, drain("", "--force").returncode) == (1, 4)
    assert drain("").stderr.startswith("error: no line HEALTH_CHECK_RESULT")
    assert drain("", "--force").stderr == "error: '--force' is no option. Choose from: --apply, --hyperpod.\n"


def test_the_page_tells_of_every_script() -> None:
    page = (DOCS / "slurm.md").read_text()
    assert [path.name for path in EXAMPLES.iterdir() if f"`{path.name}`" not in page] == []
