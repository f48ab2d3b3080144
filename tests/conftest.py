"""Whole machines to run the plugin on: a real virtual environment, a stand-in driver, a stand-in torch."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from cluster.slurm import slurm as slurm
from cluster.slurm import slurm_cluster as slurm_cluster
from faults import severity_of
from pytest_bionemo.checking import CheckFailed, spec_of
from pytest_bionemo.model import Finding
from standin import Libraries, Node, build
from standin.environment import Environment
from standin.files import Files
from standin.files import is_possible as can_lay_files
from standin.torch_package import StandinTorch, write_torch
from standin.workers import write_spoiler

# A shell that starts this in the background makes it ignore SIGINT, and with it everything that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# So does nohup with SIGHUP.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Some test files import checks before the suite does, which would be too late for their assertions to be rewritten.
pytest.register_assert_rewrite("pytest_bionemo.checks", "faults.proof")

SCHEMA = json.loads(Path(__file__).parents[1].joinpath("pytest_bionemo/report/schema.json").read_text())
REPORT = "bionemo_validation_report.json"


_ON_A_MACHINE = {"rig", "healthy_rig", "torch_rig", "compute_rig"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """An option of this project's own tests."""
    parser.addoption(
        "--variants", type=int, metavar="N", help="of each test that runs pytest with many parameters, run N of them"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark further faults, and leave out what ``--variants`` says: N parameters, evenly spaced, of a test that costs
    a second for each of them."""
    proven: set[str] = set()
    for item in items:
        checks = {mark.args[0].check for mark in item.iter_markers("fault")}
        if checks and checks <= proven and item.get_closest_marker("further_fault") is None:
            item.add_marker("further_fault")
        proven |= checks
    most = config.getoption("--variants")
    if most is None:
        return
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        # A twin is no variant: it is the one proof of its check.
        if _ON_A_MACHINE.intersection(getattr(item, "fixturenames", ())) and "::TestPairs::" not in item.nodeid:
            groups.setdefault(item.nodeid.partition("[")[0], []).append(item)
    dropped = {item for group in groups.values() for item in _between(group, most)}
    if dropped:
        config.hook.pytest_deselected(items=[item for item in items if item in dropped])
        items[:] = [item for item in items if item not in dropped]


def _between(group: Sequence[pytest.Item], most: int) -> list[pytest.Item]:
    """All but ``most`` of the group, of which the first and the last one are."""
    if len(group) <= most:
        return []
    kept = {index * (len(group) - 1) // max(1, most - 1) for index in range(most)}
    return [item for index, item in enumerate(group) if index not in kept]


def assert_valid(report: Mapping[str, Any]) -> None:
    """Hold a report against the shipped schema."""
    import jsonschema  # here: pytest --bionemo-validate loads this file in a checkout, wherever it is installed

    jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(report)


@dataclass(frozen=True)
class Run:
    """What one run of pytest left behind."""

    returncode: int
    stdout: str
    stderr: str
    report_path: Path

    @cached_property
    def report(self) -> dict[str, Any]:
        """The JSON report, which is valid by the schema."""
        report: dict[str, Any] = json.loads(self.report_path.read_text())
        assert_valid(report)
        return report

    @property
    def bionemo(self) -> dict[str, Any]:
        run: dict[str, Any] = self.report["bionemo"]
        return run

    @property
    def verdict(self) -> str:
        return str(self.bionemo["verdict"])

    @property
    def blockers(self) -> list[str]:
        """The ids of the blockers, without the leading bionemo/."""
        return [entry["check"].removeprefix("bionemo/") for entry in self.bionemo["blockers"]]

    @property
    def warnings(self) -> list[str]:
        return [entry["check"].removeprefix("bionemo/") for entry in self.bionemo["warnings"]]

    def finding(self, check: str) -> dict[str, Any]:
        """The finding of this check (topic::name)."""
        findings = [*self.bionemo["blockers"], *self.bionemo["warnings"]]
        return next(entry for entry in findings if entry["check"] == f"bionemo/{check}")

    def gap(self, check: str) -> dict[str, Any]:
        """Why this check was not run."""
        return next(entry for entry in self.bionemo["not_run"] if entry["check"] == f"bionemo/{check}")

    def outcome(self, check: str) -> str:
        """passed, failed, warned, not_run, not_applicable, or absent if the check was never collected."""
        nodeid = f"bionemo/{check}"
        if nodeid not in [entry["id"] for entry in self.bionemo["checks"]]:
            return "absent"
        lists = {"failed": "blockers", "warned": "warnings"}
        for outcome in ("failed", "warned", "not_run", "not_applicable"):
            if nodeid in [entry["check"] for entry in self.bionemo[lists.get(outcome, outcome)]]:
                return outcome
        test = next(test for test in self.report["tests"] if test["nodeid"] == nodeid)
        return str(test["outcome"])


RUNS: list[Run] = []
"""Those of the current test."""


@pytest.fixture(autouse=True)
def _proof_of_the_matrix(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hold what a test proves of the fault matrix against what it has seen: see ``faults.proves``."""
    rows = [mark.args[0] for mark in request.node.iter_markers("fault")]
    found: list[tuple[str, str | None, str]] = []
    RUNS.clear()
    if not rows:
        yield
        return
    create = CheckFailed.__init__

    def record(self: CheckFailed, finding: Finding) -> None:
        create(self, finding)
        found.append((_failing_check(), finding.severity, finding.action.value))

    monkeypatch.setattr(CheckFailed, "__init__", record)
    yield
    for run in RUNS:
        for severity, findings in (("blocker", run.bionemo["blockers"]), ("warning", run.bionemo["warnings"])):
            found += [(_without_parameter(one["check"]), severity, one["action"]) for one in findings]
    for row in rows:
        seen = {(check, severity or severity_of(check), action) for check, severity, action in found}
        assert (row.check, row.severity, row.action) in seen, f"the matrix says {row}, the test has seen {seen}"


def _failing_check() -> str:
    """The check of which a frame is on the stack."""
    frame = sys._getframe()
    while frame.f_back:
        frame = frame.f_back
        module = str(frame.f_globals.get("__name__"))
        name = frame.f_code.co_name
        if module.startswith("pytest_bionemo.checks.") and spec_of(frame.f_globals.get(name)):
            return f"{module.split('.')[2]}::{name}"
    return ""


def _without_parameter(check: str) -> str:
    return check.removeprefix("bionemo/").partition("[")[0]


class Rig:
    """A machine for one test.

    ``node`` plays the driver (None: there is no driver library), ``torch`` the PyTorch (None: not installed),
    ``files`` are the node's own files, file systems and limits.
    """

    def __init__(self, environment: Environment, libraries: Libraries, folder: Path) -> None:
        self.environment = environment
        self.libraries = libraries
        self.folder = folder
        self.project = folder / "project"
        self.project.mkdir()
        self.site = folder / "site"
        self.site.mkdir()
        self.node: Node | None = None
        self.torch: StandinTorch | None = None
        self.variables: dict[str, str] = {}
        self.files = Files()
        self._numbers = itertools.count()

    def write(self, name: str, text: str) -> Path:
        """Put a file into the project."""
        path = self.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def environ(self) -> dict[str, str]:
        """The variables of the next run."""
        variables = {"PYTHONPATH": str(self.site), "COLUMNS": "80", **self.variables}
        if self.node is not None:
            folder = self.folder / f"driver{next(self._numbers)}"
            folder.mkdir()
            playing = self.libraries.playing(self.node, folder)
            mine = [variables.get("LD_LIBRARY_PATH", ""), playing["LD_LIBRARY_PATH"]]
            variables |= playing | {"LD_LIBRARY_PATH": ":".join(filter(None, mine))}
        if self.torch is not None and not (self.site / "torch").exists():
            write_torch(self.site, self.torch)
        return variables

    def run(self, *args: str, cwd: Path | None = None, timeout: float = 120) -> Run:
        """Run the environment's Python with these arguments, in the project's folder."""
        if self.files and not can_lay_files():
            pytest.skip("a node's own files need a mount namespace, which this user cannot make")
        folder = cwd or self.project
        done: subprocess.CompletedProcess[str] = self.environment.run(
            args, folder, env=self.environ(), timeout=timeout, files=self.files
        )
        RUNS.append(Run(done.returncode, done.stdout, done.stderr, folder / REPORT))
        return RUNS[-1]

    def pytest(self, *args: str, cwd: Path | None = None, timeout: float = 120) -> Run:
        """Run pytest."""
        # The command, not python -m pytest: that would put the folder on sys.path.
        return self.run("-c", "import sys, pytest; sys.path.remove(''); sys.exit(pytest.main())", *args,
                        cwd=cwd, timeout=timeout)  # fmt: skip

    def validate(self, *args: str, cwd: Path | None = None, timeout: float = 120) -> Run:
        """Run pytest --bionemo-validate, at level quick unless told otherwise: no stand-in can run a kernel."""
        is_told = any(argument.startswith("--bionemo-level") for argument in args)
        level = () if is_told else ("--bionemo-level=quick",)
        return self.pytest("--bionemo-validate", *level, *args, cwd=cwd, timeout=timeout)

    def rehearse(self, *args: str, cwd: Path | None = None, timeout: float = 300) -> Run:
        """Run the workloads on the CPU: all of them, or the checks of these ids."""
        options = ("-p", "no:cacheprovider", "--bionemo-validate", "--bionemo-device=cpu")
        return self.pytest(*options, *args, cwd=cwd, timeout=timeout)

    def spoil_workers(self, code: str, device: str | None = None) -> None:
        """Run code in each worker, or in that of one device, as soon as it has imported torch."""
        write_spoiler(self.site, code, device)


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Libraries:
    return build(tmp_path_factory.mktemp("libraries"))


@pytest.fixture(scope="session")
def plain_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The plugin with its hard dependencies and pytest-xdist; no torch."""
    return Environment.create(tmp_path_factory.mktemp("plain"), ["pytest-bionemo", "pytest-xdist"])


@pytest.fixture(scope="session")
def torch_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The same with the real torch of the environment that runs the tests."""
    return Environment.create(tmp_path_factory.mktemp("torch"), ["pytest-bionemo", "pytest-xdist", "torch"])


@pytest.fixture(scope="session")
def compute_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The plugin with everything that the workloads use."""
    packages = ["pytest-bionemo", "pytest-xdist", "torch", "numpy", "transformers", "pytorch-lightning"]
    return Environment.create(tmp_path_factory.mktemp("compute"), packages)


@pytest.fixture
def rig(plain_environment: Environment, libraries: Libraries, tmp_path: Path) -> Rig:
    """A machine without a driver and without torch."""
    return Rig(plain_environment, libraries, tmp_path)


@pytest.fixture
def torch_rig(torch_environment: Environment, libraries: Libraries, tmp_path: Path) -> Rig:
    """A machine without a driver, with the real torch of the environment that runs the tests."""
    return Rig(torch_environment, libraries, tmp_path)


@pytest.fixture
def compute_rig(compute_environment: Environment, libraries: Libraries, tmp_path: Path) -> Rig:
    """A machine without a driver, on which the workloads can be rehearsed."""
    return Rig(compute_environment, libraries, tmp_path)


@pytest.fixture
def healthy_rig(rig: Rig) -> Rig:
    """A healthy node of eight H100s with a torch for CUDA that sees them, and no BioNeMo package."""
    from standin import H100x8

    rig.node = H100x8
    rig.torch = StandinTorch()
    return rig


def healthy_and_sick(
    environment: Environment, libraries: Libraries, folder: Path, gpu: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a healthy node of eight H100s reports, and the same when the driver of this GPU asks for a reboot."""
    from standin import H100x8

    rig = Rig(environment, libraries, folder)
    rig.torch = StandinTorch()
    rig.node = H100x8
    healthy = rig.validate().report
    rig.node = H100x8.with_health(gpu, recovery_action=2)
    return healthy, rig.validate().report


def python_version() -> str:
    """The running Python, as in 3.11."""
    return ".".join(map(str, sys.version_info[:2]))


def ids_of(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    """The ids of the report's entries."""
    return [str(check["id"]) for check in checks]
