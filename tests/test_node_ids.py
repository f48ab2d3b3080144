"""An id of a check is short, the same everywhere, and can be pasted back."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import REPORT, Rig, Run, ids_of
from pytest_bionemo import checks
from pytest_bionemo.suite import declared_checks, import_checks, topic_of

ALL_TOPICS = [topic_of(name) for name in checks.shipped()]
TOPICS = [topic_of(name) for name in checks.shipped() if declared_checks(import_checks(name), "quick")]
FORMER = '{"former": "report"}\n'
SHAPE = re.compile(r"bionemo/\w+::\w+(\[[\w.-]+\])?")
TWO_TESTS = "def test_one():\n    pass\n\n\ndef test_two():\n    pass\n"


def ran(run: Run) -> list[str]:
    """The ids that the report has a result for, in the order of the run."""
    return [test["nodeid"] for test in run.report["tests"]]


def all_ids(rig: Rig) -> list[str]:
    run = rig.validate("--co", "-q")
    return [line for line in run.stdout.splitlines() if line.startswith("bionemo/")]


def usage_error(run: Run) -> str:
    """The one line of a usage error."""
    assert run.returncode == 4, run.stdout
    [line] = [line for line in run.stderr.splitlines() if line.strip()]
    assert line.startswith("ERROR: ")
    return line


# --------------------------------------------------------------------------------------------- the same everywhere


def test_ids_are_short_and_without_repetition(healthy_rig: Rig) -> None:
    run = healthy_rig.validate()
    ids = ids_of(run.bionemo["checks"])
    assert [nodeid for nodeid in ids if not SHAPE.fullmatch(nodeid)] == []
    assert len(set(ids)) == len(ids)
    assert ran(run) == ids
    assert {"bionemo/host::runs_linux", "bionemo/driver::answers[gpu7]"} < set(ids)
    assert "bionemo/packages::is_whole[bionemo-scdl]" in ids


PLACES: list[tuple[str, list[str]]] = [
    ("project", []),
    ("project/deep/down", []),
    ("project", ["--rootdir", "{base}"]),
    ("project/deep", ["--rootdir", "{base}/site"]),
    ("project", ["-c", "{base}/other.ini"]),
    ("/", ["-p", "no:cacheprovider"]),
    ("/", ["-p", "no:cacheprovider", "--rootdir", "{base}"]),
    ("site", []),
]


@pytest.mark.parametrize(("cwd", "args"), PLACES, ids=str)
def test_ids_are_the_same_from_everywhere(healthy_rig: Rig, cwd: str, args: list[str]) -> None:
    healthy_rig.write("pytest.ini", "[pytest]\n")
    healthy_rig.write("deep/down/notes.txt", "")
    (healthy_rig.folder / "other.ini").write_text("[pytest]\n")
    report = healthy_rig.folder / "report.json"
    options = [argument.format(base=healthy_rig.folder) for argument in args]
    run = healthy_rig.validate(*options, "--bionemo-report", str(report), cwd=healthy_rig.folder / cwd)
    run = replace(run, report_path=report)
    expected = all_ids(healthy_rig)
    assert len(expected) > 40
    assert ids_of(run.bionemo["checks"]) == expected
    assert ran(run) == expected


@pytest.mark.parametrize("dist", ["load", "loadfile", "loadgroup"])
def test_ids_are_the_same_in_two_workers(healthy_rig: Rig, dist: str) -> None:
    run = healthy_rig.validate("-n", "2", "--dist", dist)
    expected = all_ids(healthy_rig)
    assert ids_of(run.bionemo["checks"]) == expected
    assert sorted(ran(run)) == sorted(expected)


def test_findings_and_gaps_are_named_by_their_ids(healthy_rig: Rig) -> None:
    healthy_rig.torch = replace(healthy_rig.torch or pytest.fail("no torch"), cuda=None)
    run = healthy_rig.validate()
    known = {*ids_of(run.bionemo["checks"]), "bionemo/torch::is_cuda_build"}
    named = [*run.bionemo["blockers"], *run.bionemo["not_run"], *run.bionemo["not_applicable"]]
    assert [entry["check"] for entry in named if entry["check"] not in known] == []
    assert {gap["waits_for"] for gap in run.bionemo["not_run"]} == {"bionemo/torch::is_cuda_build"}


# ----------------------------------------------------------------------------------------------- pasted back

GPUS = [f"bionemo/driver::answers[gpu{index}]" for index in range(8)]

PASTED: list[tuple[list[str], list[str]]] = [
    (["bionemo/driver::loads"], ["bionemo/driver::loads"]),
    (["bionemo/driver::answers[gpu3]"], ["bionemo/driver::answers[gpu3]"]),
    (["bionemo/driver::answers"], GPUS),
    (["bionemo/packages::is_whole[bionemo-scdl]"], ["bionemo/packages::is_whole[bionemo-scdl]"]),
    (
        ["bionemo/torch::imports", "bionemo/driver::loads", "bionemo/driver::answers[gpu0]"],
        ["bionemo/driver::loads", GPUS[0], "bionemo/torch::imports"],
    ),
    (["bionemo/driver::loads", "bionemo/driver::loads"], ["bionemo/driver::loads"]),
    (["bionemo/driver::answers", "--deselect", "bionemo/driver::answers[gpu3]"], [*GPUS[:3], *GPUS[4:]]),
    (["--deselect", "bionemo/driver::answers[gpu3]", "bionemo/driver::answers"], [*GPUS[:3], *GPUS[4:]]),
    (["bionemo/driver::answers", "-k", "gpu5"], [GPUS[5]]),
    (["--bionemo-validate", "bionemo/driver::loads"], ["bionemo/driver::loads"]),
    (["bionemo/driver::loads", "--bionemo-validate"], ["bionemo/driver::loads"]),
]


@pytest.mark.parametrize(("args", "expected"), PASTED, ids=str)
def test_pasted_id_runs_that_check_alone(healthy_rig: Rig, args: list[str], expected: list[str]) -> None:
    healthy_rig.write("test_theirs.py", TWO_TESTS)
    run = healthy_rig.pytest(*args)
    assert ran(run) == expected
    assert (run.verdict, run.returncode) == ("INCONCLUSIVE", 1)
    assert len(run.bionemo["checks"]) > 40


@pytest.mark.parametrize("topic", TOPICS)
def test_pasted_topic_runs_all_of_its_checks(healthy_rig: Rig, topic: str) -> None:
    run = healthy_rig.pytest("--bionemo-level=quick", f"bionemo/{topic}")
    assert ran(run) == [nodeid for nodeid in all_ids(healthy_rig) if nodeid.startswith(f"bionemo/{topic}::")]
    assert ran(run)


def test_every_listed_id_can_be_pasted(healthy_rig: Rig) -> None:
    ids = all_ids(healthy_rig)
    run = healthy_rig.pytest("--bionemo-level=quick", *ids)
    assert ran(run) == ids
    assert run.verdict == "READY_FOR_INSTALL"


@pytest.mark.parametrize("beside", [[], ["test_theirs.py"]], ids=["alone", "beside a path"])
def test_pasted_id_holds_in_two_workers(healthy_rig: Rig, beside: list[str]) -> None:
    healthy_rig.write("test_theirs.py", TWO_TESTS)
    run = healthy_rig.pytest("-n", "2", "bionemo/driver::answers", *beside)
    theirs = ["test_theirs.py::test_one", "test_theirs.py::test_two"] if beside else []
    assert sorted(ran(run)) == [*GPUS, *theirs]


@pytest.mark.parametrize(
    ("path", "theirs"),
    [
        ("test_theirs.py", ["test_theirs.py::test_one", "test_theirs.py::test_two"]),
        ("test_theirs.py::test_two", ["test_theirs.py::test_two"]),
        (".", ["test_theirs.py::test_one", "test_theirs.py::test_two"]),
    ],
)
@pytest.mark.parametrize("id_first", [True, False])
def test_pasted_id_beside_a_path_of_the_project(
    healthy_rig: Rig, path: str, theirs: list[str], id_first: bool
) -> None:
    healthy_rig.write("test_theirs.py", TWO_TESTS)
    arguments = ["bionemo/driver::loads", path]
    run = healthy_rig.pytest(*(arguments if id_first else reversed(arguments)))
    assert ran(run) == ["bionemo/driver::loads", *theirs]
    assert not [test for test in run.report["tests"] if test["outcome"] != "passed"]


def test_id_as_the_value_of_an_option_is_no_request(healthy_rig: Rig) -> None:
    healthy_rig.write("test_theirs.py", TWO_TESTS)
    run = healthy_rig.pytest("--deselect", "bionemo/driver::loads")
    assert "2 passed" in run.stdout
    assert not run.report_path.exists()


def test_id_from_the_output_of_a_failed_run(healthy_rig: Rig) -> None:
    healthy_rig.variables["CUDA_VISIBLE_DEVICES"] = "99"
    run = healthy_rig.validate()
    [printed] = re.findall(r"^BLOCKED +(\S+)$", run.stdout, flags=re.MULTILINE)
    again = healthy_rig.pytest(printed)
    assert ran(again) == [printed] == ["bionemo/driver::visible_devices_valid"]
    assert again.verdict == "BLOCKED"


# ------------------------------------------------------------------------------------------- a path that exists


def test_existing_path_wins_over_a_topic(healthy_rig: Rig) -> None:
    healthy_rig.write("bionemo/driver/test_theirs.py", TWO_TESTS)
    for argument in ("bionemo/driver", "bionemo/driver/test_theirs.py"):
        run = healthy_rig.pytest(argument)
        assert "2 passed" in run.stdout
        assert not run.report_path.exists()
    other = healthy_rig.pytest("bionemo/torch::imports")
    assert ran(other) == ["bionemo/torch::imports"]


def test_existing_path_counts_from_where_pytest_is_started(healthy_rig: Rig) -> None:
    healthy_rig.write("pytest.ini", "[pytest]\n")
    healthy_rig.write("bionemo/driver/test_theirs.py", TWO_TESTS)
    below = healthy_rig.project / "below"
    below.mkdir()
    run = healthy_rig.pytest("bionemo/driver::loads", cwd=below)
    assert ran(run) == ["bionemo/driver::loads"]


# ------------------------------------------------------------------------------------- ids that do not exist

UNKNOWN = {
    "topic": ("bionemo/drivr", ["Did you mean driver?", ", ".join(ALL_TOPICS)]),
    "topic of a check": ("bionemo/drivr::loads", ["Did you mean driver?", ", ".join(ALL_TOPICS)]),
    "check": ("bionemo/driver::load", ["Did you mean loads?", "devices_present, answers, expected_count"]),
    "parameter": ("bionemo/driver::answers[gpu8]", [f"Did you mean {GPUS[7]}?", ", ".join(GPUS)]),
    "parameter of a check without": ("bionemo/driver::loads[gpu0]", ["bionemo/driver::loads"]),
    "nothing near": ("bionemo/zzz", [", ".join(ALL_TOPICS)]),
}


@pytest.mark.parametrize(("token", "said"), UNKNOWN.values(), ids=UNKNOWN)
@pytest.mark.parametrize("beside", [[], ["test_theirs.py"]], ids=["alone", "beside a path"])
def test_unknown_id_is_one_line_and_writes_nothing(
    healthy_rig: Rig, token: str, said: list[str], beside: list[str]
) -> None:
    healthy_rig.write("test_theirs.py", TWO_TESTS)
    if beside:
        healthy_rig.write(REPORT, FORMER)
    before = written(healthy_rig.project)
    run = healthy_rig.pytest("-p", "no:cacheprovider", *beside, token)
    line = usage_error(run)
    assert line.startswith(f"ERROR: {token}: ")
    assert [part for part in said if part not in line] == []
    assert "no tests ran" in run.stdout
    assert written(healthy_rig.project) == before


@pytest.mark.parametrize("token", ["bionemo/drivr", "bionemo/driver::load"])
def test_unknown_id_is_refused_before_workers_collect(healthy_rig: Rig, token: str) -> None:
    report = healthy_rig.write(REPORT, FORMER)
    assert token in usage_error(healthy_rig.pytest("-n", "2", token))
    assert report.read_text() == FORMER


def written(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("argument", ["bionemo", "bionemo/", "bionemo/driver/", "bionemo/driver::loads::more"])
def test_argument_that_is_no_id_is_a_missing_path(healthy_rig: Rig, argument: str) -> None:
    run = healthy_rig.pytest(argument)
    assert run.returncode == 4
    assert "not found" in run.stderr
    assert not run.report_path.exists()
