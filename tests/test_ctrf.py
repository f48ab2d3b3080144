"""Reports as documents of the Common Test Report Format, held against what its specification asks for."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable
from math import inf
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from conftest import Rig
from pytest_bionemo.ctrf import convert, export
from pytest_bionemo.document import unfinished, with_verdict
from pytest_bionemo.options import Options
from pytest_bionemo.verdict import ReportError, fold

Json = dict[str, Any]

TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
STATUS = ["passed", "failed", "skipped", "pending", "other"]


def _closed(required: list[str], **properties: object) -> Json:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


# What the specification (ctrf.io) says of the parts that are used here: it allows no other keys beside its own.
SPECIFIED = _closed(
    ["reportFormat", "specVersion", "results"],
    reportFormat={"const": "CTRF"},
    specVersion={"type": "string", "pattern": r"^[0-9]+\.[0-9]+\.[0-9]+$"},
    generatedBy=TEXT,
    results=_closed(
        ["tool", "summary", "tests"],
        tool=_closed(["name"], name={"type": "string", "minLength": 1}, version=TEXT),
        summary=_closed(
            ["tests", *STATUS, "start", "stop"],
            **dict.fromkeys(["tests", *STATUS, "start", "stop", "duration"], WHOLE),
        ),
        tests={
            "type": "array",
            "items": _closed(
                ["name", "status", "duration"],
                name={"type": "string", "minLength": 1},
                status={"enum": STATUS},
                duration=WHOLE,
                rawStatus=TEXT,
                message=TEXT,
                trace=TEXT,
                suite={"type": "array", "minItems": 1, "items": TEXT},
                tags={"type": "array", "items": TEXT},
                device=TEXT,
                extra={"type": "object"},
            ),
        },
        environment=_closed([], reportName=TEXT, healthy={"type": "boolean"}, extra={"type": "object"}),
    ),
)

CHECKS = """
    from pytest_bionemo import check, fail, not_applicable, wait_for


    @check()
    def passes(gpu_env):
        "It passes."


    @check(severity="warning")
    def is_old():
        "It is new enough."
        fail("from 1999", why="no spare parts", fix="$ buy")


    @check()
    def breaks():
        "It does not break."
        raise RuntimeError("boom")


    @check()
    def has_tape():
        "It has a tape."
        not_applicable("no tape")
    """
TESTS = """
    import pytest


    def test_passes():
        pass


    def test_fails():
        assert [1] == [2]


    @pytest.mark.skip(reason="not now")
    def test_is_skipped():
        pass


    @pytest.mark.xfail(reason="known")
    def test_is_known():
        raise ValueError
    """
EXPECTED = {
    "bionemo/driver::loads": ("failed", "no NVIDIA driver"),
    "bionemo/driver::devices_present": ("pending", "the NVIDIA driver does not answer"),
    "bionemo/ours::passes": ("passed", None),
    "bionemo/ours::is_old": ("other", "from 1999"),
    "bionemo/ours::breaks": ("failed", "the check itself failed: RuntimeError: boom"),
    "bionemo/ours::has_tape": ("skipped", "no tape"),
    "bionemo/theirs": ("pending", "no_such_package"),
    "test_all.py::test_passes": ("passed", None),
    "test_all.py::test_fails": ("failed", None),
    "test_all.py::test_is_skipped": ("skipped", None),
    "test_all.py::test_is_known": ("other", None),
}


def assert_specified(document: Json) -> dict[str, Json]:
    """Hold a document against the specification; its tests by name."""
    import jsonschema

    jsonschema.Draft7Validator(SPECIFIED).validate(document)
    results = document["results"]
    counted = Counter(test["status"] for test in results["tests"])
    assert {status: results["summary"][status] for status in STATUS} == {status: counted[status] for status in STATUS}
    assert results["summary"]["tests"] == len(results["tests"])
    assert results["summary"]["stop"] == results["summary"]["start"] + results["summary"]["duration"]
    by_name = {test["name"]: test for test in results["tests"]}
    assert len(by_name) == len(results["tests"])
    return by_name


def test_a_run_becomes_a_document_that_the_specification_allows(rig: Rig) -> None:
    rig.site.joinpath("ours.py").write_text(dedent(CHECKS))
    rig.site.joinpath("theirs.py").write_text("import no_such_package\n")
    rig.write("conftest.py", "def pytest_bionemo_checks(config):\n    return ['ours', 'theirs']\n")
    rig.write("test_all.py", dedent(TESTS))
    run = rig.validate("test_all.py")
    before = sorted(rig.project.iterdir())
    shown = rig.run("-m", "pytest_bionemo", "ctrf", run.report_path.name)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert sorted(rig.project.iterdir()) == before
    document = json.loads(shown.stdout)
    tests = assert_specified(document)
    for name, (status, message) in EXPECTED.items():
        assert (tests[name]["status"], message is None) == (status, "message" not in tests[name]), name
        assert message is None or message in tests[name]["message"]
    assert tests["bionemo/ours::is_old"]["tags"] == ["warning", "quick"]
    assert tests["bionemo/ours::is_old"]["suite"] == ["bionemo", "ours"]
    assert tests["bionemo/ours::is_old"]["extra"] == {
        "title": "It is new enough.",
        "why": "no spare parts",
        "fix": ["$ buy"],
        "action": "FIX_SOFTWARE",
        "links": [],
    }
    assert "[1] == [2]" in tests["test_all.py::test_fails"]["trace"]
    assert tests["test_all.py::test_is_known"]["rawStatus"] == "xfailed"
    environment = document["results"]["environment"]
    assert (environment["healthy"], environment["extra"]["verdict"]) == (False, "BLOCKED")

    written = rig.run("-m", "pytest_bionemo", "ctrf", run.report_path.name, "-o", "ctrf.json")
    assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
    assert json.loads((rig.project / "ctrf.json").read_text()) == document


def test_a_healthy_node_is_healthy_and_names_its_devices(healthy_rig: Rig) -> None:
    report = healthy_rig.validate().report
    tests = assert_specified(convert(report))
    assert convert(report)["results"]["environment"]["healthy"] is True
    assert {test["status"] for test in tests.values()} <= {"passed", "skipped"}
    devices = [gpu["uuid"] for gpu in report["bionemo"]["gpus"]]
    assert {test["device"] for test in tests.values() if "device" in test} == set(devices)
    # A pass that is no proof is none here either, and a check that is not in the report is not left out.
    forged = copy.deepcopy(report)
    forged["tests"] = [test for test in forged["tests"] if test["nodeid"] != "bionemo/driver::loads"]
    first = next(test for test in forged["tests"] if test["nodeid"] == "bionemo/host::runs_linux")
    del first["call"]
    document = convert(forged)
    tests = assert_specified(document)
    assert document["results"]["environment"]["healthy"] is False
    for name in ("bionemo/driver::loads", "bionemo/host::runs_linux"):
        assert tests[name]["status"] == "pending"


OPTIONS = Options(True, "quick", "cuda", "install", "report.json", 60.0, None)


@pytest.fixture
def killed() -> Json:
    """The report of a run that was killed."""
    from pytest_bionemo.document import now

    report = unfinished(OPTIONS, now())
    return with_verdict(report, fold(report))


def test_a_run_that_was_killed_is_a_pending_test_and_not_healthy(killed: Json) -> None:
    document = convert(killed)
    tests = assert_specified(document)
    assert [test["status"] for test in tests.values()] == ["pending"]
    assert document["results"]["environment"]["healthy"] is False


DAMAGE: dict[str, Callable[[Json], object]] = {
    "no object": lambda report: [report],
    "another plugin's report": lambda report: report.pop("bionemo") and report,
    "checks that are none": lambda report: report["bionemo"].update(checks=[1]) or report,
    "no tests": lambda report: report.update(tests=None) or report,
    "no start": lambda report: report["bionemo"].pop("started") and report,
    "a start that is no time": lambda report: report["bionemo"].update(started="now") or report,
    "no tool": lambda report: report["bionemo"].pop("tool") and report,
    "an exit status without end": lambda report: report.update(exitcode=inf) or report,
    "a duration without end": lambda report: report["bionemo"].update(duration_s=inf) or report,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_report_is_one_line(
    damage: Callable[[Json], object], killed: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = damage(killed)
    with pytest.raises(ReportError, match="not a report of pytest --bionemo-validate"):
        convert(damaged)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(damaged))
    assert export(str(path), str(tmp_path / "out.json")) == 4
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {path}: not a report of pytest --bionemo-validate")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_a_report_of_a_later_version_is_one_line_and_healthy_to_nobody(
    killed: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed["bionemo"]["schema_version"] = 99
    path = tmp_path / "report.json"
    path.write_text(json.dumps(killed))
    assert export(str(path), None) == 4
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {path}: its schema version is 99, and this pytest-bionemo reads 1: update")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"[" * 200_000, "is no JSON"),
        (None, "No such file"),
        (b"", "is empty"),
        (b"{", "Expecting"),
        (b"\xff{}", "codec can't decode"),
    ],
    ids=["deep", "no file", "empty", "half", "no text"],
)
def test_a_file_that_cannot_be_read_is_one_line(
    content: bytes | None, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_bytes(content)
    assert export(str(path), None) == 4
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}: ")
    assert named in said
    assert said.count("\n") == 1


def test_a_place_that_cannot_be_written_is_one_line(
    killed: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(killed))
    assert export(str(path), str(tmp_path / "no" / "out.json")) == 4
    assert capsys.readouterr().err == f"error: {tmp_path}/no/out.json: No such file or directory\n"
