"""A report as an object: what it says of documents made by hand, of files, and in a notebook's cell."""

from __future__ import annotations

import builtins
import dataclasses
import json
import math
import pickle
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pytest_bionemo import Action, NotReady, Report, ReportError
from pytest_bionemo.model import Outcome
from pytest_bionemo.reports import ReportedFinding
from test_verdict import LOADS, PACKAGE, absent, crashed, declared, document, found, ran, skipped

Json = dict[str, Any]
SHM, WAITS, ODD, APART = "bionemo/host::shm", "bionemo/torch::imports", "bionemo/torch::odd", "bionemo/links::nvlink"
EVIL = "<script>alert('x')</script> & \"quoted\""
GPU = {
    "index": 0, "uuid": "GPU-1", "name": "Tesla T4", "pci_address": None, "memory_bytes": 16, "free_memory_bytes": 15,
    "compute_capability": [7, 5], "mig_enabled": None, "mig_devices": [], "errors": None,
}  # fmt: skip
NUMBER = {
    "name": "memory_read", "value": 2.5e11, "unit": "B", "device": "GPU-1", "samples": 3, "ci95": [1.0, 2.0],
    "bound": 3e11, "reference": None, "peer_median": None, "baseline": None, "judgement": "good",
}  # fmt: skip
ENVIRONMENT = {"hostname": "node-7", "driver": "580.95.05", "torch": "2.13.0", "python": "3.12.3"}


def complete(**changes: Any) -> Json:
    return {
        "schema_version": 1, "duration_s": 4.1, "environment": ENVIRONMENT, "gpus": [GPU], "measurements": [NUMBER],
        "targets": [], "install_options": [], **changes,
    }  # fmt: skip


def blocked(text: str = "no driver") -> Json:
    """One check of each outcome."""
    checks = [
        declared(device="GPU-1"),
        declared(SHM, severity="warning"),
        declared(WAITS),
        declared(ODD),
        declared(APART),
        declared("bionemo/host::fine", level="standard"),
    ]
    tests = [
        found(message=text, why=text, fix=f"{text}\nthen: $ {text}", links=f"https://l/{text}\njavascript:{text}"),
        found(SHM, "warned", message="64 MiB", action="NONE"),
        skipped(WAITS, outcome="not_run", message="no driver answers", waits_for=LOADS),
        crashed(ODD),
        absent(APART),
        ran("bionemo/host::fine", setup={"outcome": "passed", "duration": 0.25}),
    ]
    return document(checks, tests, 1, **complete(environment={**ENVIRONMENT, "hostname": text}))


def ready(**changes: Any) -> Json:
    return document([declared()], [ran()], **complete(packages=[PACKAGE], **changes))


def for_install(**changes: Any) -> Json:
    return document([declared()], [ran()], **complete(install_options=["$ pip install bionemo-scdl"], **changes))


def unfinished() -> Json:
    """As it lies there from the start of a run until its end."""
    return document([], [], None, schema_version=1)


# ---- what it holds


def test_a_report_holds_what_the_document_says() -> None:
    report = Report.of(blocked())
    assert report.verdict == "BLOCKED"
    assert not report.is_ready
    assert report.summary == "BLOCKED at level quick: 1 blocker"
    assert report.findings == (
        ReportedFinding(
            check=LOADS,
            severity="blocker",
            message="no driver",
            why="no driver",
            fix=("no driver", "then: $ no driver"),
            action=Action.FIX_SOFTWARE,
            links=("https://l/no driver", "javascript:no driver"),
            device="GPU-1",
            title="loads holds.",
        ),
        ReportedFinding(SHM, "warning", "64 MiB", "", (), Action.NONE, (), None, "shm holds."),
    )
    assert [(gap.check, gap.waits_for, gap.required) for gap in report.not_run] == [
        (WAITS, LOADS, True),
        (ODD, None, True),
    ]
    assert [check.outcome.value for check in report.checks] == [
        "failed", "failed", "not_run", "error", "not_applicable", "passed",
    ]  # fmt: skip
    assert report.checks[3].message == "the check itself failed: ValueError: odd"
    assert (report.checks[-1].duration_s, report.checks[-1].level) == (0.25, "standard")
    assert (report.measurements[0].name, report.measurements[0].ci95) == ("memory_read", (1.0, 2.0))
    assert report.gpus[0].compute_capability == (7, 5)
    assert report.environment["driver"] == "580.95.05"
    assert (report.level, report.device, report.path) == ("quick", "cuda", None)


def test_a_report_is_frozen_and_travels() -> None:
    report = Report.of(blocked())
    for thing, name in ((report, "verdict"), (report.findings[0], "message"), (report.checks[0], "outcome")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, name, "READY")
    assert str(pickle.loads(pickle.dumps(report))) == str(report)


@pytest.mark.parametrize(
    ("made", "verdict", "is_ready"),
    [
        (ready, "READY", True),
        (for_install, "READY_FOR_INSTALL", True),
        (blocked, "BLOCKED", False),
        (unfinished, "INCONCLUSIVE", False),
    ],
)
def test_the_verdict_is_formed_from_the_records_and_not_read(made: Any, verdict: str, is_ready: bool) -> None:
    text = made()
    text["bionemo"] |= {"verdict": "READY", "blockers": [], "not_run": []}
    report = Report.of(text)
    assert (report.verdict, report.is_ready) == (verdict, is_ready)
    assert f"BioNeMo readiness: {verdict} " in str(report)
    assert f">{verdict}</span>" in report._repr_html_()


# ---- from a file


def test_a_report_is_read_back_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "r.json").write_text(json.dumps(blocked()))
    for path in (tmp_path / "r.json", str(tmp_path / "r.json"), "~/r.json"):
        report = Report.load(path)
        assert (report.verdict, report.path) == ("BLOCKED", tmp_path / "r.json")
    assert report.document == blocked()
    assert str(report).endswith(f"report   {tmp_path / 'r.json'}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (json.dumps(ready()).encode()[:-40], "is no JSON"),
        (b"\xff\xfe{", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[1]", "not a report of pytest --bionemo-validate"),
        (b'"text"', "not a report of pytest --bionemo-validate"),
        (b'{"tests": []}', "not a report of pytest --bionemo-validate"),
        (b'{"bionemo": null}', "not a report of pytest --bionemo-validate"),
        (json.dumps(ready(schema_version=2)).encode(), "its schema version is 2, and this pytest-bionemo reads 1: "),
        (json.dumps(ready(schema_version="1")).encode(), "its schema version is '1'"),
        (b'{"bionemo": {"schema_version": 1}}', "its key 'bionemo' is missing or damaged"),
        (json.dumps(ready(topics=None)).encode(), "it is damaged"),
        (json.dumps(ready(measurements=[{"name": "x"}])).encode(), "the report is damaged (TypeError: "),
        (json.dumps(ready(targets=[{"name": "cannot be shown"}])).encode(), "the report is damaged (KeyError: "),
        (json.dumps({**ready(), "exitcode": math.inf}).encode(), "is damaged (OverflowError: "),
        (json.dumps(ready(duration_s=10**400)).encode(), "is damaged (OverflowError: "),
    ],
    ids=range(18),
)  # fmt: skip
def test_a_file_that_is_no_report_is_one_line_that_names_it(text: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ReportError) as caught:
        Report.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_no_report(tmp_path: Path) -> None:
    for path, why in (
        (tmp_path, "Is a directory"),
        ("a\0b", "embedded null"),
        ("~nobody-of-this-name/r", "ould not"),
    ):
        with pytest.raises(ReportError, match=f"cannot be read: .*{why}"):
            Report.load(path)


# ---- as a condition


def test_a_program_goes_on_with_the_verdicts_it_accepts() -> None:
    Report.of(ready()).raise_if_not_ready()
    Report.of(for_install()).raise_if_not_ready(accept=("READY", "READY_FOR_INSTALL"))
    Report.of(unfinished()).raise_if_not_ready(accept="INCONCLUSIVE")
    for word in ("ready", "OK"):
        with pytest.raises(ValueError, match=rf"accept: '{word}' is not a verdict. Choose from: READY, READY_FOR_"):
            Report.of(ready()).raise_if_not_ready(accept=[word])


def test_what_stands_in_the_way_is_said_with_its_fix() -> None:
    def said(text: Json) -> list[str]:
        with pytest.raises(NotReady) as caught:
            Report.of(text).raise_if_not_ready()
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        assert caught.value.report.verdict == Report.of(text).verdict
        return str(caught.value).splitlines()

    assert said(blocked()) == [
        "BLOCKED at level quick: 1 blocker",
        f"{LOADS}: no driver",
        "  fix: no driver",
        "  fix: then: $ no driver",
    ]
    assert said(for_install()) == [
        "READY_FOR_INSTALL at level quick: no GPU kernel was run",
        "  install: $ pip install bionemo-scdl",
    ]
    assert said(unfinished())[1:] == ["the run has not finished"]
    many = [f"bionemo/a::c{number}" for number in range(5)]
    lines = said(document([declared(one) for one in many], [found(one) for one in many], 1, **complete()))
    assert [line.partition(":")[0] for line in lines[1:4]] == ["bionemo/a"] * 3
    assert lines[-1] == "and 2 more: print the report"


# ---- as a table


def test_a_table_has_a_row_for_each_check() -> None:
    pandas = pytest.importorskip("pandas", reason="Report.to_pandas() is for those who have pandas")
    table = Report.of(blocked()).to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert list(table.columns) == [
        "check", "topic", "title", "severity", "level", "device", "outcome", "message", "duration_s",
    ]  # fmt: skip
    assert table.set_index("check").loc[SHM, ["severity", "outcome", "message"]].tolist() == [
        "warning", "failed", "64 MiB",
    ]  # fmt: skip
    assert table["outcome"].value_counts()["failed"] == 2
    assert {type(outcome) for outcome in table["outcome"]} == {str}
    none = Report.of(unfinished()).to_pandas()
    assert (len(none), list(none.columns)) == (0, list(table.columns))


def test_without_pandas_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_pandas(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name="pandas")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with pytest.raises(ImportError, match=r"needs pandas \(No module named 'pandas'\): \$ pip install pandas"):
        Report.of(ready()).to_pandas()


# ---- as text and in a cell


def test_the_text_is_that_of_the_terminal() -> None:
    report = Report.of(blocked())
    lines = str(report).splitlines()
    assert repr(report) == str(report)
    assert re.fullmatch("=+ BioNeMo readiness: BLOCKED =+", lines[0])
    assert len(lines[0]) == 80
    assert lines[1] == "1 blocker, 1 warning, 1 check waits, 1 not run, level quick, 4.1 s"
    assert f"BLOCKED  {LOADS}" in lines
    assert not [line for line in lines if line.startswith("report ")]
    assert str(Report.of(unfinished())).splitlines()[1:] == [
        "1 not run, level quick",
        "",
        "not run  the run has not finished",
    ]


class Page(HTMLParser):
    """The elements and attributes of a piece of HTML, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.names.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("text", ["no driver", EVIL])
def test_a_cell_shows_every_text_and_runs_none(text: str) -> None:
    page = Page(Report.of(blocked(text))._repr_html_())
    assert page.text.count(text) == 7  # host, message, why, two fixes, two links
    assert page.names <= {"div", "span", "b", "code", "a", "details", "summary", "table", "tr", "td"}
    assert {name for name, _ in page.attributes} <= {"style", "href", "target", "rel"}
    assert [value for name, value in page.attributes if name == "href"] == [f"https://l/{text}"]
    assert not re.search(r"url\(|expression|@import", " ".join(value or "" for _, value in page.attributes))


def test_a_cell_takes_the_colours_of_the_notebook() -> None:
    for made in (ready, for_install, blocked, unfinished):
        html = Report.of(made())._repr_html_()
        # White stands on the badge alone, and no text is black: the page's own colour shows on its own ground.
        assert len(re.findall(r"color:#fff", html)) == 1
        assert not re.search(r"color:(#000|black)|background:(#fff|white)", html)
        assert len(html) < 8000


def test_a_cell_shows_what_the_verdict_rests_on(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(blocked()))
    shown = Page(Report.load(tmp_path / "r.json")._repr_html_()).text
    for part in ("1 x Tesla T4", "driver 580.95.05", SHM, "64 MiB", WAITS, f"waiting for {LOADS}", "ValueError: odd",
                 "1 number measured", "memory read", "250 GB", "good", str(tmp_path / "r.json")):  # fmt: skip
        assert part in shown
    assert "pip install bionemo-scdl" in Page(Report.of(for_install())._repr_html_()).text
    assert "the run has not finished" in Page(Report.of(unfinished())._repr_html_()).text


def test_checks_that_wait_for_one_are_listed_once_and_folded() -> None:
    many = [f"bionemo/torch::c{number}" for number in range(30)]
    tests = [found(), *(skipped(one, outcome="not_run", message="no driver", waits_for=LOADS) for one in many)]
    html = Report.of(document([declared(), *map(declared, many)], tests, 1, **complete()))._repr_html_()
    assert html.count("<details") == 2  # and the numbers
    assert f"30 checks: waiting for {LOADS}" in html
    assert all(html.count(f"{one},") + html.count(f"{one}<") == 1 for one in many)


def test_the_words_of_an_outcome_are_those_of_the_document() -> None:
    assert {check.outcome for check in Report.of(blocked()).checks} == set(Outcome)
