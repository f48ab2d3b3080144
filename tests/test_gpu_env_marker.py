"""The marker gpu_env in somebody else's test suite: real drivers that are played, real distributions, real runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from conftest import Rig, Run
from standin import H100_MIG, H100x8, Node, T4x1
from standin.distributions import write_distribution
from test_gpu_env import noting_starts

# The controller notes how each test ended: its outcome in which phase, and the line and text of a skip or failure.
NOTE_OUTCOMES = """
import json, os

def pytest_runtest_logreport(report):
    if os.environ.get("PYTEST_XDIST_WORKER") or (report.when != "call" and report.passed):
        return
    where, text = None, report.longrepr and str(report.longrepr)
    if isinstance(report.longrepr, tuple):
        where, text = report.longrepr[1], report.longrepr[2]
    with open(os.environ["OUTCOMES"], "a") as outcomes:
        outcomes.write(json.dumps([report.nodeid, report.outcome, report.when, where, text]) + "\\n")
"""
STRICT_SUITE = "[pytest]\naddopts = --strict-markers --strict-config -p no:cacheprovider\nfilterwarnings = error\n"
SKIPPED = "Skipped: "


@dataclass(frozen=True)
class Ending:
    """How a test ended."""

    outcome: str
    when: str
    line: int | None
    text: str | None


@dataclass(frozen=True)
class Endings:
    """What a run of a suite left behind."""

    run: Run
    of: Mapping[str, Ending]

    def reason(self, name: str) -> str | None:
        """Why a test did not run; None if it passed."""
        ending = self.of[name]
        if ending.outcome == "passed":
            return None
        assert ending.text
        return ending.text.removeprefix(SKIPPED)

    @property
    def outcomes(self) -> dict[str, str]:
        return {name: ending.outcome for name, ending in self.of.items()}


def run_suite(rig: Rig, *arguments: str, text: str | None = None) -> Endings:
    """Run a suite that is as strict as pytest lets it be."""
    if text is not None:
        rig.write("test_user.py", text)
    rig.write("conftest.py", NOTE_OUTCOMES)
    rig.write("pytest.ini", STRICT_SUITE)
    notes = rig.folder / "outcomes"
    notes.unlink(missing_ok=True)
    rig.variables["OUTCOMES"] = str(notes)
    run = rig.pytest(*arguments)
    assert notes.exists(), run.stdout + run.stderr
    ended = [json.loads(line) for line in notes.read_text().splitlines()]
    names = [nodeid.removeprefix("test_user.py::") for nodeid, *_ in ended]
    assert len(set(names)) == len(names), "each test ends once"
    return Endings(run, {name: Ending(*rest) for name, (_, *rest) in zip(names, ended, strict=True)})


def suite_of(cases: Mapping[str, dict[str, Any]]) -> str:
    """A test for each case, parametrized: the marks are those of the parameters."""
    parameters = [
        f"    pytest.param(1, marks=pytest.mark.gpu_env(**{case!r}), id={name!r})," for name, case in cases.items()
    ]
    return "\n".join(
        ["import pytest", "@pytest.mark.parametrize('one', [", *parameters, "])", "def test_it(one): pass", ""]
    )


# ------------------------------------------------------------------------------------ each argument, met and unmet

NGC = "2.9.0a0+145a3a7bda.nv25.10"
MET: dict[str, dict[str, Any]] = {
    "nothing": {},
    "min_gpus": {"min_gpus": 8},
    "min_memory_gb": {"min_memory_gb": 80},
    "free_memory_gb": {"min_gpus": 7, "free_memory_gb": 80},
    "compute_capability": {"compute_capability": ">=9.0,<10"},
    "dtype": {"dtype": ["bf16", "fp8"]},
    "nvlink": {"min_gpus": 7, "nvlink": True},
    "driver": {"driver": ">=580.95"},
    "cuda": {"cuda": "==13.*"},
    "torch": {"torch": ">=2.9"},
    "mig": {"mig": False},
    "platform": {"platform": ["slurm", "databricks"]},
    "packages": {"packages": ["bionemo-scdl>=0.1", "PyTest>=8", "nope; python_version < '3'"]},
}
EIGHT = "here are 8"
# the arguments, and why they are not met on eight H100 of which one is in use and has its links down
UNMET: dict[str, tuple[dict[str, Any], str]] = {
    "min_gpus": ({"min_gpus": 9}, f"needs 9 GPUs, {EIGHT}"),
    "min_memory_gb": ({"min_memory_gb": 100}, f"needs 1 GPU with 100 GB, {EIGHT} with 85.5 GB"),
    "free_memory_gb": (
        {"min_gpus": 8, "free_memory_gb": 80},
        f"needs 8 GPUs with 80 GB free, {EIGHT}: 7 with 85.5 GB free, 1 with 64 GB free",
    ),
    "compute_capability": (
        {"compute_capability": ">=10"},
        f"needs 1 GPU with compute capability >=10, {EIGHT} with compute capability 9.0",
    ),
    "dtype": (
        {"dtype": "nvfp4"},
        f"needs 1 GPU with nvfp4, {EIGHT} with no nvfp4 (compute capability 9.0)",
    ),
    "nvlink": (
        {"min_gpus": 8, "nvlink": True},
        f"needs 8 GPUs with NVLink, {EIGHT}: 7 with NVLink, 1 with no NVLink",
    ),
    "driver": ({"driver": ">=590"}, "needs driver >=590, here is 580.95.05"),
    "cuda": ({"cuda": "<13"}, "needs CUDA <13, here is 13.0"),
    "torch": ({"torch": ">=2.10"}, f"needs torch >=2.10, here is {NGC}"),
    "mig": ({"mig": True}, f"needs 1 GPU with MIG, {EIGHT} with no MIG"),
    "platform": ({"platform": "hyperpod"}, "needs the platform hyperpod, here is databricks"),
    "packages": (
        {"packages": ["bionemo-scdl>=0.2", "nope"]},
        "needs bionemo-scdl>=0.2, here is 0.1.3; needs nope, nope is not installed",
    ),
}
GIB = 1 << 30


@pytest.fixture
def node_rig(rig: Rig) -> Rig:
    """Eight H100, of which the last is in use and has its links down, on Databricks, with NVIDIA's build of torch."""
    rig.node = H100x8.with_gpu(7, used_bytes=20 * GIB).with_health(7, nvlinks_up=0)
    rig.variables["DATABRICKS_RUNTIME_VERSION"] = "15.4"
    # Their metadata alone: to import either would be an error.
    write_distribution(rig.site, "torch", NGC)
    write_distribution(rig.site, "bionemo_scdl", "0.1.3")
    return rig


def test_each_argument_is_held_against_the_machine_and_the_driver_is_asked_once(node_rig: Rig) -> None:
    starts = noting_starts(node_rig)
    cases = {f"{name}-met": case for name, case in MET.items()} | {
        f"{name}-unmet": case for name, (case, _) in UNMET.items()
    }
    # The fixture, asked for before any of them, is of the same answer.
    text = "def test_before(gpu_env): assert len(gpu_env.gpus_with(min_memory_gb=80)) == 8\n" + suite_of(cases)
    ended = run_suite(node_rig, text=text)
    assert ended.run.returncode == 0, ended.run.stdout
    assert {name: ended.reason(f"test_it[{name}-met]") for name in MET} == dict.fromkeys(MET)
    found = {name: str(ended.reason(f"test_it[{name}-unmet]")) for name in UNMET}
    # Further platforms may be those of the machine that runs these tests.
    found["platform"] = found["platform"].partition(" and ")[0]
    assert found == {name: reason for name, (_, reason) in UNMET.items()}
    # At the test's own line, and not at one of ours.
    assert {ending.line for ending in ended.of.values() if ending.outcome == "skipped"} == {3}
    probes = [line for line in starts.read_text().splitlines() if "pytest_bionemo.probes" in line]
    assert [sum(probe in line for line in probes) for probe in ("nvml:read", "surroundings:read")] == [1, 1]
    assert len(probes) == 2


def test_without_a_gpu_each_is_skipped_and_a_strict_run_fails(rig: Rig) -> None:
    # Those of GPU and driver: this machine may well have the packages.
    cases = {name: case for name, (case, _) in UNMET.items() if name not in ("torch", "platform", "packages")}
    text = suite_of({"nothing": {}, **cases})
    # Without pytest's own plugin for skipping as well: it is not its mark.
    ended = run_suite(rig, "-p", "no:skipping", text=text)
    assert ended.run.returncode == 0
    no_driver = "no NVIDIA driver answers (NVML Shared Library Not Found)"
    assert set(ended.outcomes.values()) == {"skipped"}
    assert len(ended.of) == len(cases) + 1
    for name in ended.of:
        assert str(ended.reason(name)).endswith(no_driver)
    failed = run_suite(rig, "--bionemo-strict", text=text)
    assert failed.run.returncode == 1
    assert {name: ended.reason(name) for name in failed.of} == {name: failed.reason(name) for name in ended.of}
    assert {(ending.outcome, ending.when) for ending in failed.of.values()} == {("failed", "call")}


QUESTIONS = (
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetNvLinkState",
)
SILENT = replace(H100x8.gpus[0], faults=dict.fromkeys(QUESTIONS, 999))
UNKNOWN = "that could not be asked: Unknown Error"


def test_what_a_driver_does_not_tell_is_not_met(rig: Rig) -> None:
    rig.node = Node(gpus=(SILENT,)).with_fault("nvmlSystemGetCudaDriverVersion", 999)
    arguments = {name: UNMET[name][0] for name in ("min_memory_gb", "compute_capability", "dtype", "cuda", "mig")}
    ended = run_suite(rig, text=suite_of({**arguments, "met": {}, "nvlink": {"nvlink": False}}))
    seen = {name[8:-1]: str(ended.reason(name)).partition(", ")[2] for name in ended.of}
    capability = f"here is 1 with a compute capability {UNKNOWN}"
    assert seen == {
        "min_memory_gb": f"here is 1 with memory {UNKNOWN}",
        "compute_capability": capability,
        "dtype": capability,
        "nvlink": f"here is 1 with NVLink {UNKNOWN}",
        "cuda": "it could not be asked: the driver does not tell",
        "mig": f"here is 1 with MIG {UNKNOWN}",
        "met": "",
    }


def test_a_driver_that_hangs_costs_its_deadline_once(rig: Rig) -> None:
    rig.node = H100x8.with_gpu_fault(3, "nvmlDeviceGetHandleByIndex_v2", "hang")
    starts = noting_starts(rig)
    ended = run_suite(rig, "--bionemo-timeout=1.5", text=suite_of({"one": {}, "two": {"min_gpus": 2}}))
    assert ended.run.returncode == 0
    silence = "the NVIDIA driver could not be asked: no answer within 1.5 s, while asking GPU 3"
    assert [ended.reason(name) for name in ended.of] == [f"needs 1 GPU, {silence}", f"needs 2 GPUs, {silence}"]
    assert starts.read_text().count("nvml:read") == 1


# The first to ask, with variables of its own.
HIDING = """
def test_first(monkeypatch, request):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    assert request.getfixturevalue("gpu_env").gpus
"""


@pytest.mark.parametrize(
    ("node", "variables", "case", "reason"),
    [
        (H100x8, {"CUDA_VISIBLE_DEVICES": "2"}, {"min_gpus": 2},
         "needs 2 GPUs, here are 8 (CUDA_VISIBLE_DEVICES=2 leaves 1 of 8), and which is left only CUDA knows: "
         "set CUDA_DEVICE_ORDER=PCI_BUS_ID"),
        (H100_MIG, {}, {"min_gpus": 2, "mig": True},
         "needs 2 GPUs with MIG, here are 2 with MIG, of which CUDA shows a process one"),
    ],
    ids=["hidden", "slices"],
)  # fmt: skip
def test_what_is_not_visible_to_the_run_does_not_count(
    rig: Rig, node: Node, variables: dict[str, str], case: dict[str, Any], reason: str
) -> None:
    rig.node = node
    rig.variables.update(variables)
    ended = run_suite(rig, text=HIDING + suite_of({"more": case, "one": {"min_memory_gb": 40}}))
    assert ended.of["test_first"].outcome == "passed"
    assert [ended.reason(f"test_it[{name}]") for name in ("more", "one")] == [reason, None]


# -------------------------------------------------------------------------------------------- wherever it stands

PLACES = """
import unittest
from pathlib import Path

import pytest

pytestmark = [pytest.mark.gpu_env(compute_capability=">=7.5"), pytest.mark.gpu_env]

@pytest.fixture
def touched():
    Path("touched").touch()

@pytest.mark.gpu_env(dtype="bf16")
@pytest.mark.gpu_env(min_gpus=2)
def test_of_several(touched): pass

@pytest.mark.gpu_env(min_memory_gb=16)
class TestClass:
    def test_met(self): pass

    @pytest.mark.gpu_env(driver="<500")
    def test_unmet(self, touched): pass

    @pytest.mark.parametrize("dtype", ["fp16", pytest.param("fp8", marks=pytest.mark.gpu_env(dtype="fp8"))])
    def test_parameter(self, dtype): pass

@pytest.mark.gpu_env(min_gpus=2)
class TestUnittest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        Path("touched").touch()

    def test_unmet(self): pass

class TestMetUnittest(unittest.TestCase):
    def test_met(self): pass

@pytest.mark.skip(reason="of the user")
@pytest.mark.gpu_env(min_gpus=2)
def test_skipped(): pass

@pytest.mark.xfail(reason="of the user")
@pytest.mark.gpu_env(min_gpus=2)
def test_xfail(): pass

@pytest.mark.xfail(reason="of the user")
@pytest.mark.gpu_env
def test_xfail_that_runs(): raise AssertionError
"""
TWO = "needs 2 GPUs, here is 1"
PLACED = {
    "test_of_several": f"needs 1 GPU with bf16, here is 1 with no bf16 (compute capability 7.5); {TWO}",
    "TestClass::test_met": None,
    "TestClass::test_unmet": "needs driver <500, here is 580.95.05",
    "TestClass::test_parameter[fp16]": None,
    "TestClass::test_parameter[fp8]": "needs 1 GPU with fp8, here is 1 with no fp8 (compute capability 7.5)",
    "TestUnittest::test_unmet": TWO,
    "TestMetUnittest::test_met": None,
    "test_skipped": "of the user",
    "test_xfail": TWO,
}


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=str)
def test_markers_of_module_class_test_and_parameter_have_to_be_met_together(
    rig: Rig, arguments: tuple[str, ...]
) -> None:
    starts = noting_starts(rig)
    rig.node = T4x1
    ended = run_suite(rig, "-rs", *arguments, text=PLACES)
    assert ended.run.returncode == 0, ended.run.stdout
    lines = [line for line in ended.run.stdout.splitlines() if line.startswith("SKIPPED")]
    assert [line for line in lines if not re.match(r"SKIPPED \[1\] test_user.py:\d+: ", line)] == []
    assert len(lines) == 6
    assert not (rig.project / "touched").exists()
    assert {name: ended.reason(name) for name in PLACED} == PLACED
    assert {ended.of[name].when for name, reason in PLACED.items() if reason} == {"setup"}
    # Each process asks the driver at most once.
    processes = 2 if arguments else 1
    assert 1 <= starts.read_text().count("pytest_bionemo.probes.nvml:read") <= processes


@pytest.mark.parametrize("arguments", [("--bionemo-strict",), ("--bionemo-strict", "-n", "2")], ids=str)
def test_in_a_strict_run_they_fail_in_one_line_before_their_fixtures(rig: Rig, arguments: tuple[str, ...]) -> None:
    rig.node = T4x1
    ended = run_suite(rig, "-rf", *arguments, text=PLACES)
    assert ended.run.returncode == 1
    assert not (rig.project / "touched").exists()
    assert {name: ended.reason(name) for name in PLACED} == PLACED
    unmet = {name for name, reason in PLACED.items() if reason} - {"test_skipped"}
    assert {name for name, outcome in ended.outcomes.items() if outcome == "failed"} == unmet
    assert {ended.of[name].when for name in unmet} == {"call"}
    assert f"FAILED test_user.py::test_xfail - NotMet: {TWO}" in ended.run.stdout
    assert "Traceback" not in ended.run.stdout
    assert "pytest_bionemo" not in ended.run.stdout
    assert "5 failed, 3 passed, 1 skipped, 1 xfailed" in ended.run.stdout


def test_strict_can_be_a_setting_and_has_the_last_word_over_mark_expressions(rig: Rig) -> None:
    rig.write("test_other.py", "def test_of_the_user(): pass\n")
    ended = run_suite(rig, "-o", "bionemo_strict=true", "-m", "gpu_env", text=suite_of({"one": {}}))
    assert ended.run.returncode == 1
    assert ended.outcomes == {"test_it[one]": "failed"}
    assert "1 failed, 1 deselected" in ended.run.stdout


ADDED = """
import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        if "gpu" in item.name:
            item.add_marker(pytest.mark.gpu_env(min_gpus=3))
"""
ADDED_LATE = """
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items):
    result = yield
    for item in items:
        if "late" in item.name:
            item.add_marker(pytest.mark.gpu_env)
    return result
"""
COLLECT_TWICE = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_collection(session):
    session.perform_collect()
"""


def test_a_marker_that_a_conftest_adds_counts_and_what_is_deselected_asks_for_nothing(rig: Rig) -> None:
    starts = noting_starts(rig)
    rig.write("inner/conftest.py", ADDED)
    rig.write("inner/test_inner.py", "def test_gpu(): pass\ndef test_plain(): pass\n")
    rig.write("later/conftest.py", ADDED_LATE)
    rig.write("later/test_later.py", "def test_late(): pass\n")
    rig.site.joinpath("collect_twice.py").write_text(COLLECT_TWICE)
    text = "import pytest\n@pytest.mark.gpu_env\ndef test_other(): pass\n"
    ended = run_suite(rig, "-p", "collect_twice", text=text)
    assert ended.outcomes == {
        "inner/test_inner.py::test_gpu": "skipped",
        "inner/test_inner.py::test_plain": "passed",
        "later/test_later.py::test_late": "skipped",
        "test_other": "skipped",
    }
    assert "pytest_bionemo.probes.nvml:read" in starts.read_text()
    starts.unlink()
    assert run_suite(rig, "-k", "plain").outcomes == {"inner/test_inner.py::test_plain": "passed"}
    assert "pytest_bionemo.probes" not in starts.read_text()


# -------------------------------------------------------------------------------------------- what is written wrong


WRONG = {
    "gpu_env(min_gpu=2)": "gpu_env(min_gpu=2): it has no argument min_gpu. Did you mean min_gpus? Choose from: ",
    "gpu_env(min_memory_gb='40')": "gpu_env(min_memory_gb='40'): min_memory_gb takes a number of GB",
}


@pytest.mark.parametrize(
    ("mark", "arguments"),
    [
        ("gpu_env(min_gpu=2)", ()),
        ("gpu_env(min_memory_gb='40')", ("-n", "2")),
        ("gpu_env(min_gpu=2)", ("-k", "right")),
        ("gpu_env(min_gpu=2)", ("--collect-only", "-q")),
    ],
    ids=str,
)
def test_a_marker_that_is_wrong_ends_the_run_on_one_line(rig: Rig, mark: str, arguments: tuple[str, ...]) -> None:
    starts = noting_starts(rig)
    rig.write("pytest.ini", STRICT_SUITE)
    rig.write(
        "test_user.py",
        f"import pytest\n@pytest.mark.{mark}\ndef test_wrong(): pass\n@pytest.mark.gpu_env\ndef test_right(): pass\n",
    )
    run = rig.pytest(*arguments)
    assert run.returncode == 4, run.stdout
    (line,) = run.stderr.strip().splitlines()
    assert line.startswith(f"ERROR: test_user.py::test_wrong: {WRONG[mark]}")
    assert "INTERNALERROR" not in run.stdout
    assert "passed" not in run.stdout
    assert "pytest_bionemo.probes" not in starts.read_text()


# ------------------------------------------------------------------------------------------------- what it costs

SPY = """
import sys

def pytest_unconfigure(config):
    loaded = {"pytest_bionemo.markers", "pytest_bionemo.demands", "pytest_bionemo.model", "packaging.specifiers"}
    print("LOADED", sorted(loaded & set(sys.modules)), config.pluginmanager.has_plugin("bionemo_markers"))
"""


def test_a_suite_without_the_marker_pays_nothing_for_it(rig: Rig) -> None:
    starts = noting_starts(rig)
    rig.site.joinpath("standin_spy.py").write_text(SPY)
    rig.write("test_user.py", "import pytest\n@pytest.mark.skip\ndef test_gpu_env(): pass\n")
    assert "LOADED [] False" in rig.pytest("-p", "standin_spy", "-s").stdout
    assert "pytest_bionemo.probes" not in starts.read_text()
    rig.write("test_user.py", "import pytest\n@pytest.mark.gpu_env\ndef test_gpu_env(): pass\n")
    assert "'pytest_bionemo.markers'" in rig.pytest("-p", "standin_spy", "-s").stdout
    assert "pytest_bionemo.probes.nvml:read" in starts.read_text()


def test_it_is_explained_by_pytest_itself(rig: Rig) -> None:
    text = " ".join(rig.pytest("--markers").stdout.split())
    assert "@pytest.mark.gpu_env(*, min_gpus=1, min_memory_gb=None, " in text
    assert "skip the test where the machine has not all of this" in text


HELPER = """
import unittest

import pytest
from pytest_bionemo.markers import skip_or_fail

@pytest.fixture
def cluster(request):
    skip_or_fail(request.config, "needs a cluster, here is none")

def test_of_a_fixture(cluster): pass

def test_itself(request):
    skip_or_fail(request.config, "needs a cluster, here is none")

@pytest.mark.xfail(reason="of the user")
def test_xfail(cluster): pass

@pytest.mark.xfail(reason="of the user")
def test_xfail_that_runs(): raise AssertionError
"""
EXPECTED = """
class TestUnittest(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _config(self, request):
        self.config = request.config

    @unittest.expectedFailure
    def test_expected(self):
        skip_or_fail(self.config, "needs a cluster, here is none")

    @unittest.expectedFailure
    def test_expected_that_runs(self): raise AssertionError
"""


def test_a_fixture_can_skip_or_fail_in_the_same_way(rig: Rig) -> None:
    ended = run_suite(rig, text=HELPER)
    assert ended.run.returncode == 0
    names = ["test_of_a_fixture", "test_itself", "test_xfail"]
    assert {ended.reason(name) for name in names} == {"needs a cluster, here is none"}
    assert [ended.of[name].line for name in names] == [11, 13, 16]
    failed = run_suite(rig, "--bionemo-strict", text=HELPER + EXPECTED)
    assert failed.run.returncode == 1
    unmet = Ending("failed", "call", None, "needs a cluster, here is none")
    assert [failed.of[name] for name in (*names, "TestUnittest::test_expected")] == [unmet] * 4
    assert "4 failed, 2 xfailed" in failed.run.stdout


def test_it_counts_in_a_validation_that_runs_the_tests_of_a_project_too(healthy_rig: Rig) -> None:
    starts = noting_starts(healthy_rig)
    healthy_rig.write("test_user.py", suite_of({"met": {"nvlink": True, "torch": ">=2"}, "unmet": {"min_gpus": 9}}))
    run = healthy_rig.validate("test_user.py", "bionemo/driver", "--bionemo-strict")
    ended = {test["nodeid"]: test for test in run.report["tests"] if test["nodeid"].startswith("test_user")}
    assert {name: test["outcome"] for name, test in ended.items()} == {
        "test_user.py::test_it[met]": "passed",
        "test_user.py::test_it[unmet]": "failed",
    }
    assert ended["test_user.py::test_it[unmet]"]["call"]["longrepr"] == "needs 9 GPUs, here are 8"
    assert starts.read_text().count("nvml:read") == 1


def test_the_project_file_is_all_that_is_written(rig: Rig, tmp_path: Path) -> None:
    run_suite(rig, text=suite_of({"one": {}}))
    names = {path.name for path in rig.project.iterdir()} - {"__pycache__"}
    assert names == {"conftest.py", "pytest.ini", "test_user.py"}
