"""What people see of a run in JUnit XML, in a report log, on a page of pytest-html, and with two workers."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from conftest import Rig, Run
from pytest_bionemo.checking import TARGET
from pytest_bionemo.compute import MEASUREMENT
from pytest_bionemo.outputs import Records
from standin import H100x8, Libraries
from standin.environment import Environment
from standin.torch_package import StandinTorch

WRITE_ALL = ("--junitxml=junit.xml", "--report-log=log.jsonl", "--html=page.html", "--self-contained-html")
CHECKS = """
    import os

    from pytest_bionemo import check, fail, not_applicable, wait_for


    @check()
    def is_slow():
        "It is fast enough."
        fail('read <1 & "slow"', why="training waits", fix=["$ tune", "or wait"], links=["https://x.example/a"])


    @check(severity="warning")
    def is_old():
        "It is new enough."
        fail("from <1999>", why="no spare parts", fix="$ buy --token=" + os.environ["SHOP_TOKEN"])


    @check()
    def adds_up():
        "It adds up."
        disks = 2
        assert disks == 3


    @check()
    def breaks():
        "It does not break."
        raise RuntimeError("boom")


    @check()
    def waits():
        "It waits."
        wait_for("ours::is_slow", "it is slow")


    @check()
    def has_tape():
        "It has a tape."
        not_applicable("no tape")


    @check()
    def reads(device, record_property):
        "It reads."
        record_property("cable", "blue")
        device.measure("disk_read", 3.5, "GB/s", bound=7, judgement="good")
    """
# Each says the secret where pytest, and not the check, passes it on.
LEAKS = """
    import logging, os, warnings

    import pytest
    from pytest_bionemo import check

    TOKEN = os.environ["SHOP_TOKEN"]


    @pytest.fixture
    def account():
        yield
        raise RuntimeError("cannot log out with " + TOKEN)


    @check()
    def compares():
        "It compares."
        assert TOKEN == "x"


    @check()
    def logs_in(record_property):
        "It logs in."
        record_property("url", "https://u:" + TOKEN + "@host")
        print("with " + TOKEN)
        logging.getLogger().warning("with " + TOKEN)
        warnings.warn("with " + TOKEN)
        try:
            raise KeyError(TOKEN)
        except KeyError as error:
            raise RuntimeError("cannot log in with " + TOKEN) from error


    @check()
    def logs_out(account):
        "It logs out."
    """
BROKEN = """
    import os

    print("with " + os.environ["SHOP_TOKEN"])
    raise RuntimeError("cannot import with " + os.environ["SHOP_TOKEN"])
    """
TESTS = """
    import os


    def test_passes(record_property):
        record_property("answer", 42)
        record_property("why", "a < b")
        record_property("bionemo_measurement", "{}")
        record_property("bionemo_fix", "")


    def test_fails(record_property):
        record_property("answer", 43)
        record_property("own", os.environ["THEIR_TOKEN"])
        assert [1] == [2]
    """
THEIRS = {
    "passes": {"answer": "42", "why": "a < b", "bionemo_measurement": "{}", "bionemo_fix": ""},
    "fails": {"answer": "43", "own": "what-a-project-shows-of-itself"},
}
SECRET = "s3cr3t-of-the-shop"
FINDING = """\
read <1 & "slow"
why: training waits
fix: $ tune
     or wait
see: https://x.example/a"""


class _Page(HTMLParser):
    """The data that a page of pytest-html embeds, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: dict[str, dict[str, Any]] = {}
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        blob = dict(attrs).get("data-jsonblob")
        if blob:
            tests = json.loads(blob)["tests"]
            self.rows = {name: row for name, rows in tests.items() for row in rows if row["result"] != "Passed"}

    def handle_data(self, data: str) -> None:
        self.text += data

    def log(self, name: str) -> str:
        return unescape(self.rows[name]["log"]).strip()


@dataclass(frozen=True)
class Written:
    """What one run wrote."""

    run: Run
    junit: ET.Element
    log: list[dict[str, Any]]
    page: _Page

    @classmethod
    def of(cls, rig: Rig, run: Run) -> Written:
        return cls(
            run,
            ET.parse(rig.project / "junit.xml").getroot(),
            [json.loads(line) for line in (rig.project / "log.jsonl").read_text().splitlines()],
            _Page((rig.project / "page.html").read_text()),
        )

    def case(self, name: str) -> ET.Element:
        return next(case for case in self.junit.iter("testcase") if case.get("name") == name)

    def properties(self, name: str) -> dict[str, str]:
        return {str(entry.get("name")): str(entry.get("value")) for entry in self.case(name).iter("property")}

    def of_the_suite(self) -> dict[str, str | None]:
        found = self.junit.find("testsuite/properties")
        return {} if found is None else {str(entry.get("name")): entry.get("value") for entry in found}

    def logged(self, nodeid: str) -> Mapping[str, Any]:
        """The last report of a test in the report log that is not of its teardown."""
        found = [line for line in self.log if line.get("nodeid") == nodeid and line.get("when") in ("setup", "call")]
        return found[-1]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    packages = ["pytest-bionemo", "pytest-xdist", "pytest-html", "pytest-reportlog"]
    return Environment.create(tmp_path_factory.mktemp("outputs"), packages)


def make_rig(environment: Environment, libraries: Libraries, folder: Path, **others: str) -> Rig:
    rig = Rig(environment, libraries, folder)
    rig.node, rig.torch = H100x8, StandinTorch()
    rig.variables |= {"SHOP_TOKEN": SECRET, "THEIR_TOKEN": THEIRS["fails"]["own"]}
    modules = {"ours": CHECKS, "hollow": "", **others}
    for name, text in modules.items():
        rig.site.joinpath(f"{name}.py").write_text(dedent(text))
    rig.write("conftest.py", f"def pytest_bionemo_checks(config):\n    return {[*modules]}\n")
    rig.write("test_theirs.py", dedent(TESTS))
    # The older form of the XML: the fixture record_property warns in the newer one.
    rig.write("pytest.ini", "[pytest]\nfilterwarnings = error\njunit_family = xunit1\n")
    return rig


@pytest.fixture(scope="module", params=["alone", "two workers"])
def written(
    request: pytest.FixtureRequest,
    environment: Environment,
    libraries: Libraries,
    tmp_path_factory: pytest.TempPathFactory,
) -> Written:
    """A validation with tests of the project, written in every form, with and without pytest-xdist."""
    rig = make_rig(environment, libraries, tmp_path_factory.mktemp("rig"), leaks=LEAKS)
    args = () if request.param == "alone" else ("-n", "2")
    return Written.of(rig, rig.validate(*args, *WRITE_ALL, "test_theirs.py"))


def test_the_verdict_is_the_same_in_every_form(written: Written) -> None:
    run = written.run
    assert (run.verdict, run.returncode) == ("BLOCKED", 1)
    assert sorted(run.blockers) == ["leaks::compares", "ours::adds_up", "ours::is_slow"]
    assert run.warnings == ["ours::is_old"]
    assert run.gap("ours::breaks")["reason"] == "the check itself failed: RuntimeError: boom"
    assert "it holds no @check" in run.gap("hollow")["reason"]
    assert "test_theirs.py::test_fails - assert [1] == [2]" in run.stdout
    assert written.of_the_suite() == {"bionemo_verdict": "BLOCKED", "bionemo_summary": run.bionemo["summary"]}
    assert f"BioNeMo readiness: BLOCKED{run.bionemo['summary']}." in "".join(written.page.text.split("\n"))


def test_findings_are_properties_in_junit_that_can_be_read(written: Written) -> None:
    assert written.properties("is_slow") == {
        "bionemo_outcome": "failed",
        "bionemo_message": 'read <1 & "slow"',
        "bionemo_why": "training waits",
        "bionemo_fix": "$ tune\nor wait",
        "bionemo_action": "FIX_SOFTWARE",
        "bionemo_links": "https://x.example/a",
    }
    assert written.case("is_slow").get("classname") == "bionemo.ours"
    assert written.case("is_slow").findtext("failure") == FINDING
    skipped = written.case("is_old").find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "from <1999>"
    assert written.properties("is_old")["bionemo_fix"] == "$ buy --token=[redacted]"
    assert written.properties("waits") == {
        "bionemo_outcome": "not_run",
        "bionemo_message": "it is slow",
        "bionemo_waits_for": "bionemo/ours::is_slow",
    }
    assert written.properties("has_tape") == {"bionemo_outcome": "not_applicable", "bionemo_message": "no tape"}
    assert written.properties("breaks") == {"bionemo_outcome": "error"}
    assert "assert disks == 3" in str(written.case("adds_up").findtext("failure"))


def test_no_secret_of_a_check_is_in_any_form(written: Written) -> None:
    folder = written.run.report_path.parent
    names = ("junit.xml", "log.jsonl", "page.html", written.run.report_path.name)
    assert [name for name in names if SECRET in (folder / name).read_text()] == []
    assert SECRET not in written.run.stdout + written.run.stderr
    # What hides them takes no more than them: tracebacks, captured output and properties are still there.
    assert "AssertionError: assert '[redacted]' == 'x'" in str(written.case("compares").findtext("failure"))
    failure = str(written.case("logs_in").findtext("failure"))
    for said in ("KeyError: '[redacted]'", "RuntimeError: cannot log in with [redacted]", "direct cause"):
        assert said in failure
        assert said in written.page.log("bionemo/leaks::logs_in")
    assert written.properties("logs_in")["url"] == "https://u:[redacted]@host"
    sections = written.logged("bionemo/leaks::logs_in")["sections"]
    assert [text.rstrip().endswith("with [redacted]") for _, text in sections] == [True] * 2, sections
    assert "cannot log out with [redacted]" in str(written.case("logs_out").findtext("error"))
    assert written.run.gap("leaks::logs_out")["reason"].endswith("cannot log out with [redacted]")
    assert "UserWarning: with [redacted]" in written.run.stdout


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["alone", "two workers"])
def test_no_secret_of_an_import_is_in_any_form(
    environment: Environment, libraries: Libraries, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    rig = make_rig(environment, libraries, tmp_path, broken=BROKEN)
    run = rig.validate(*arguments, *WRITE_ALL[:2])
    assert run.gap("broken")["reason"].endswith("RuntimeError: cannot import with [redacted]")
    assert "broken: RuntimeError: cannot import with [redacted]" in run.stdout
    written = [(rig.project / name).read_text() for name in ("junit.xml", "log.jsonl", run.report_path.name)]
    assert [text.count(SECRET) for text in (run.stdout, run.stderr, *written)] == [0] * 5


def test_numbers_and_targets_are_text_and_no_json(written: Written) -> None:
    uuid = H100x8.gpus[3].uuid
    said = {"cable": "blue", "disk_read": f"3.5 GB/s (50% of the bound), device {uuid}", "bionemo_outcome": "passed"}
    assert written.properties("reads[gpu3]") == said
    assert written.properties("is_runnable[esm2-8m]")["esm2-8m"].startswith("cannot be trained here: ")
    ours = [case for case in written.junit.iter("testcase") if str(case.get("classname")).startswith("bionemo.")]
    values = [str(entry.get("value")) for case in ours for entry in case.iter("property")]
    assert [value for value in values if not value or value.startswith(("{", "["))] == []
    measured = [entry for entry in written.run.bionemo["measurements"] if entry["name"] == "disk_read"]
    assert sorted(entry["device"] for entry in measured) == sorted(str(gpu.uuid) for gpu in H100x8.gpus)
    assert {(entry["value"], entry["bound"]) for entry in measured} == {(3.5, 7)}
    assert "esm2-8m" in [entry["name"] for entry in written.run.bionemo["targets"]]


def test_properties_of_the_tests_of_a_project_arrive_unchanged(written: Written) -> None:
    for name, properties in THEIRS.items():
        assert written.properties(f"test_{name}") == properties
        logged = written.logged(f"test_theirs.py::test_{name}")["user_properties"]
        assert {key: str(value) for key, value in logged} == properties


def test_every_line_of_the_report_log_parses_and_findings_are_in_it(written: Written) -> None:
    types = {line["$report_type"] for line in written.log}
    assert {"SessionStart", "TestReport", "SessionFinish"} <= types
    slow = written.logged("bionemo/ours::is_slow")
    assert (slow["outcome"], slow["longrepr"]) == ("failed", FINDING)
    assert ["bionemo_fix", "$ tune\nor wait"] in slow["user_properties"]
    assert ["bionemo_message", "from <1999>"] in written.logged("bionemo/ours::is_old")["user_properties"]
    ids = {line["nodeid"] for line in written.log if line["$report_type"] == "TestReport"}
    assert ids == {test["nodeid"] for test in written.run.report["tests"]}


def test_the_page_shows_findings_and_no_traceback_of_them(written: Written) -> None:
    page = written.page
    assert page.log("bionemo/ours::is_slow") == FINDING
    assert page.log("bionemo/ours::is_old") == "from <1999>\nwhy: no spare parts\nfix: $ buy --token=[redacted]"
    assert page.log("bionemo/ours::waits") == "waits for bionemo/ours::is_slow: it is slow"
    assert page.log("bionemo/ours::has_tape") == "no tape"
    assert "assert disks == 3" in page.log("bionemo/ours::adds_up")
    assert "RuntimeError: boom" in page.log("bionemo/ours::breaks")
    assert "it holds no @check" in page.log("bionemo/hollow")
    assert "assert [1] == [2]" in page.log("test_theirs.py::test_fails")
    for name, row in page.rows.items():
        if name.startswith("bionemo/ours::") and name not in ("bionemo/ours::adds_up", "bionemo/ours::breaks"):
            assert not {"Traceback", "CheckFailed", "site-packages"} & set(row["log"].split())
            assert not row["log"].startswith("(")  # the tuple that pytest keeps of a skip


def test_a_gap_of_the_run_is_said_where_no_test_has_failed(
    environment: Environment, libraries: Libraries, tmp_path: Path
) -> None:
    rig = make_rig(environment, libraries, tmp_path)
    rig.write("conftest.py", "")
    rig.write("pytest.ini", "[pytest]\naddopts = --deselect bionemo/driver::loads\n")
    found = Written.of(rig, rig.validate(*WRITE_ALL))
    assert (found.run.verdict, found.run.returncode) == ("INCONCLUSIVE", 1)
    suite = found.junit.find("testsuite")
    assert suite is not None
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")
    assert found.of_the_suite()["bionemo_verdict"] == "INCONCLUSIVE"
    assert "BioNeMo readiness: INCONCLUSIVE" in found.page.text


def test_outputs_of_a_project_that_does_not_validate_are_pytests_own(
    environment: Environment, libraries: Libraries, tmp_path: Path
) -> None:
    rig = make_rig(environment, libraries, tmp_path)
    found = Written.of(rig, rig.pytest(*WRITE_ALL, "test_theirs.py"))
    assert found.run.returncode == 1
    assert found.of_the_suite() == {}
    assert "BioNeMo" not in found.page.text
    assert {name: found.properties(f"test_{name}") for name in THEIRS} == THEIRS


# ---- records, without a run

MEASURED = '{"name": "disk_read", "value": null, "unit": "B/s", "device": "cpu0"}'
STRANGE = [
    (MEASUREMENT, "no JSON"),
    (MEASUREMENT, "[1]"),
    (MEASUREMENT, '{"name": "x"}'),
    (MEASUREMENT, 7),
    (TARGET, '{"name": "esm2-8m"}'),
    (TARGET, None),
    ("other", MEASURED),
]


def report_with(*properties: tuple[str, object]) -> pytest.TestReport:
    return pytest.TestReport("x::y", ("x", 0, "y"), {}, "passed", None, "call", user_properties=properties)


@pytest.mark.parametrize("strange", STRANGE, ids=str)
def test_a_property_that_is_no_record_stays_as_it_is(strange: tuple[str, object]) -> None:
    report = report_with(strange, (MEASUREMENT, MEASURED))
    records = Records()
    records.take(report)
    assert report.user_properties == [strange, ("disk_read", "no number, device cpu0")]
    assert [entry["device"] for entry in records.named(MEASUREMENT)] == ["cpu0"]
    assert records.named(TARGET) == []


def test_a_test_that_is_repeated_leaves_the_numbers_of_its_last_attempt() -> None:
    records = Records()
    for value in ("1.0", "2.0"):
        records.take(report_with((MEASUREMENT, MEASURED.replace("null", value))))
    assert [entry["value"] for entry in records.named(MEASUREMENT)] == [2.0]
