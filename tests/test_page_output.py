"""Where a page comes from: ``--bionemo-html``, and ``python -m pytest_bionemo html`` of a saved document."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from conftest import Rig
from fleets import fleet
from fleets import report as report_of
from pytest_bionemo.__main__ import main
from pytest_bionemo.page.output import Page
from pytest_bionemo.report.place import Place, PlaceError
from standin import H100x8, Libraries
from standin.environment import Environment
from standin.torch_package import StandinTorch
from test_report import blocked, ready

Json = dict[str, Any]
INSTALL = 'a page needs Jinja2: $ python -m pip install "pytest-bionemo[html]"'
FORMER = "the page of yesterday: READY"


@pytest.fixture(scope="module")
def page_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The plugin with the extra that makes pages, and pytest-xdist."""
    return Environment.create(tmp_path_factory.mktemp("pages"), ["pytest-bionemo[html]", "pytest-xdist"])


@pytest.fixture
def page_rig(page_environment: Environment, libraries: Libraries, tmp_path: Path) -> Rig:
    """A healthy node of eight GPUs on which pages can be made."""
    rig = Rig(page_environment, libraries, tmp_path)
    rig.node = H100x8
    rig.torch = StandinTorch()
    return rig


def verdict_of(page: str) -> str:
    """What is on top of a page."""
    (word,) = re.findall(r'<h1><span class="word">([A-Z ]+)</span>', page)
    return str(word)


def during_each_check(rig: Rig, code: str) -> None:
    """Have a plugin, ``during``, do this before each check."""
    (rig.site / "during.py").write_text(f"def pytest_runtest_setup(item):\n    {code}\n")


# ---- of a run


def test_a_run_writes_the_page_of_its_report_and_says_where(page_rig: Rig) -> None:
    run = page_rig.validate("--bionemo-html=out.html")
    assert run.returncode == 0
    page = (page_rig.project / "out.html").read_text()
    assert verdict_of(page) == "READY FOR INSTALL" == run.verdict.replace("_", " ")
    assert f"{len(run.bionemo['checks']):,}" in page
    last = [line for line in run.stdout.splitlines() if line.startswith(("report", "page"))]
    assert last == ["report   bionemo_validation_report.json", "page     out.html"]
    assert not [path.name for path in page_rig.project.iterdir() if path.name.endswith(".part")]


def test_a_folder_gets_a_page_named_like_its_report_and_the_ini_file_can_ask_for_it(page_rig: Rig) -> None:
    (page_rig.project / "pages").mkdir()
    page_rig.write("pytest.ini", "[pytest]\nbionemo_html = pages\nbionemo_report = pages\n")
    run = page_rig.pytest("--bionemo-validate", "--bionemo-level=quick", "-n2", "-q")
    (page, report) = sorted(path.name for path in (page_rig.project / "pages").iterdir())
    assert run.returncode == 0
    assert page == f"{os.uname().nodename}.html"
    assert report == f"{os.uname().nodename}.json"
    assert f"page     pages/{page}" in run.stdout
    made = json.loads((page_rig.project / "pages" / report).read_text())["bionemo"]
    assert verdict_of((page_rig.project / "pages" / page).read_text()) == made["verdict"].replace("_", " ")


@pytest.mark.parametrize(
    "ending",
    ["import os; os._exit(9)", "raise KeyboardInterrupt", "import pytest; pytest.exit('enough', 3)"],
    ids=["killed", "interrupted", "ended"],
)
def test_a_run_that_is_broken_off_leaves_a_page_that_says_so(page_rig: Rig, ending: str) -> None:
    page = page_rig.write("out.html", FORMER)
    during_each_check(page_rig, ending)
    run = page_rig.validate("--bionemo-html=out.html", "-p", "during")
    assert run.returncode not in (0, 4)
    assert verdict_of(page.read_text()) == run.verdict == "INCONCLUSIVE"
    assert ("The run has not come to its end." in page.read_text()) is (run.returncode == 9)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--bionemo-html=nowhere/out.html", "does not exist. Make it, or choose another --bionemo-html."),
        ("--bionemo-html=nowhere/", "does not exist. Make it, or choose another --bionemo-html."),
        ("--bionemo-html=/dev/null", "/dev/null is no regular file. Choose another --bionemo-html."),
        ("--bionemo-html=", "'' is no path for the page. Choose another --bionemo-html."),
        (
            "--bionemo-html=../project/bionemo_validation_report.json",
            "is the place of the report. Choose another --bionemo-html.",
        ),
        # Known as late as it is written.
        ("--bionemo-html=/proc/out.html", "out.html: No such file or directory. Choose another --bionemo-html."),
    ],
)
def test_a_page_that_cannot_be_written_is_one_line_before_anything_runs(
    page_rig: Rig, option: str, said: str
) -> None:
    run = page_rig.validate(option)
    assert run.returncode == 4
    (line,) = run.stderr.strip().splitlines()
    assert line.startswith("ERROR: ")
    assert line.endswith(said)
    assert not run.report_path.exists()


def test_without_jinja_one_line_says_what_to_install_and_nothing_is_touched(healthy_rig: Rig) -> None:
    page = healthy_rig.write("out.html", FORMER)
    run = healthy_rig.validate("--bionemo-html=out.html")
    assert run.returncode == 4
    assert run.stderr.strip() == f"ERROR: {INSTALL} (No module named 'jinja2')"
    assert page.read_text() == FORMER
    assert not run.report_path.exists()
    assert healthy_rig.validate().returncode == 0  # who asks for no page needs no Jinja2
    made = healthy_rig.run("-m", "pytest_bionemo", "html", "bionemo_validation_report.json")
    assert (made.returncode, made.stdout) == (4, "")
    assert made.stderr.strip() == f"error: {INSTALL} (No module named 'jinja2')"


@pytest.mark.parametrize("mistake", ["bionemo/driver::no_such_check", "--bionemo-baseline=none.json"])
def test_a_usage_error_puts_the_former_page_back(page_rig: Rig, mistake: str) -> None:
    page = page_rig.write("out.html", FORMER)
    run = page_rig.validate("--bionemo-html=out.html", mistake)
    assert run.returncode == 4
    assert page.read_text() == FORMER
    assert not run.report_path.exists()


def test_a_page_is_refused_where_nothing_is_validated(page_rig: Rig) -> None:
    page = page_rig.write("out.html", FORMER)
    run = page_rig.pytest("--bionemo-html=out.html")
    assert run.returncode == 4
    assert run.stderr.strip() == (
        "ERROR: --bionemo-html needs --bionemo-validate: it is about the run of the checks."
    )
    assert page.read_text() == FORMER


def test_a_page_that_fails_at_the_end_takes_nothing_from_the_report(page_rig: Rig) -> None:
    (page_rig.project / "pages").mkdir()
    during_each_check(page_rig, "import shutil; shutil.rmtree('pages', ignore_errors=True)")
    run = page_rig.validate("--bionemo-html=pages/out.html", "-p", "during")
    assert run.verdict == "READY_FOR_INSTALL"
    assert run.returncode == 1
    assert "PAGE     pages/out.html could not be written: FileNotFoundError" in " ".join(run.stdout.split("\n"))


def test_whatever_a_page_stumbles_over_is_kept_as_one_line(tmp_path: Path) -> None:
    page = Page(Place("out.html", tmp_path, kind="page"))
    page.write({"bionemo": {"schema_version": 1, "checks": [{}]}})
    assert page.error.startswith("ReportError: not a report of pytest --bionemo-validate: it is damaged (KeyError")
    page.write(ready())
    assert verdict_of((tmp_path / "out.html").read_text()) == "READY"
    with pytest.raises(PlaceError, match=r"'' is no path for the page\. Choose another --bionemo-html\."):
        Place("", tmp_path, kind="page")


# ---- of a saved document


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def write(name: str, document: object) -> Path:
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def test_a_page_lies_beside_its_report_or_where_it_is_wanted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("runs/node7.json", blocked())
    for arguments, place in (
        (["runs/node7.json"], "runs/node7.html"),
        (["runs"], "runs/node7.html"),
        (["runs", "-o", "page.htm"], "page.htm"),
        (["runs/node7.json", "-o", "."], "node7.html"),
    ):
        assert main(["html", *arguments]) == 0
        assert capsys.readouterr().out == f"page     {place}\n"
        assert verdict_of(Path(place).read_text()) == "BLOCKED"
        Path(place).unlink()
    assert main(["html", "runs", "-o", "-"]) == 0
    assert verdict_of(capsys.readouterr().out) == "BLOCKED"
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["node7.json"]


def test_a_report_on_the_standard_input_becomes_a_page_on_the_standard_output(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(ready()).encode())))
    assert main(["html", "-"]) == 0
    assert verdict_of(capsys.readouterr().out) == "READY"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"bionemo"')))
    assert main(["html", "-"]) == 4
    assert capsys.readouterr().err.startswith("error: standard input: is no JSON: it is truncated or damaged (")


def test_the_document_of_a_fleet_becomes_its_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("fleet.json", fleet(report_of("node1"), report_of("node2", "blocked")))
    assert main(["html", "fleet.json"]) == 0
    assert capsys.readouterr().out == "page     fleet.html\n"
    page = Path("fleet.html").read_text()
    assert "node1" in page
    assert verdict_of(page) == "BLOCKED"


@pytest.mark.parametrize(
    ("files", "arguments", "said"),
    [
        ({}, ["none.json"], "none.json: No such file or directory. Give reports, folders of reports, or patterns."),
        ({}, ["."], ". holds no report. Name the file of a report."),
        ({}, [""], "'' is no path."),
        ({"a.json": ready(), "b.json": ready()}, ["."],
         ". holds 2 reports. Name one of them, or fold them: $ python -m pytest_bionemo fleet . --html FILE"),
        ({"a.json": ready()}, ["a.json", "-o", "a.json"], "a.json is the report itself. Choose another -o."),
        ({"a.json": ready()}, ["a.json", "-o", "no/x.html"], "no/x.html: No such file or directory. Choose another"),
        ({"a.json": ready()}, ["a.json", "-o", "/dev/null"], "/dev/null: it is no regular file. Choose another -o."),
        ({"a.json": ready()}, ["a.json", "-o", "~nobody-of-this-name/x"], "~nobody-of-this-name/x: Could not"),
        ({"a.json": ready()}, ["a.json", "-o", "x" * 300], "File name too long. Choose another -o."),
        ({"a" * 255: ready()}, ["a" * 255], "a page beside the report: File name too long. Choose another -o."),
        ({"a.json": []}, ["a.json"], "a.json: not a report of pytest --bionemo-validate"),
        ({"a.json": {"tool": "pytest-bionemo fleet", "schema_version": 99}}, ["a.json"], "a.json: "),
        ({"a.json": {"bionemo": {"schema_version": 7}}}, ["a.json"], "update pytest-bionemo"),
        ({"a.json": {"bionemo": {"schema_version": "x" * 10**6}}}, ["a.json"], "xxx… (1,000,"),
        ({"a\x1b[2J.json": []}, ["a\x1b[2J.json"], "a\\x1b[2J.json: not a report"),
        ({"a.json": {**ready(), "tests": 5}}, ["a.json"], "a.json: not a report of pytest --bionemo-validate: it is"),
        ({}, ["/dev/zero"], "/dev/zero: is no regular file"),
    ],
)  # fmt: skip
def test_what_cannot_become_a_page_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], files: Mapping[str, Json], arguments: list[str], said: str
) -> None:
    for name, document in files.items():
        write(name, document)
    assert main(["html", *arguments]) == 4
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert printed.out == ""
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)


def test_a_page_that_cannot_be_printed_is_one_line_and_a_reader_that_has_enough_is_none(folder: Path) -> None:
    write("a.json", ready())
    command = f"{sys.executable} -m pytest_bionemo html a.json -o -"
    full = subprocess.run(["bash", "-c", f"{command} > /dev/full"], capture_output=True, text=True, check=False)
    said = "error: the standard output: No space left on device. Choose another -o.\n"
    assert (full.returncode, full.stderr) == (4, said)
    command = f"set -o pipefail; {command} | read -n 5"
    enough = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (enough.returncode, enough.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a", "--timeout", "soon"], ["a", "--out", "x"]])
def test_what_was_typed_wrong_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["html", *arguments])
    assert raised.value.code == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("See python -m pytest_bionemo html --help")


def test_no_module_of_the_folder_is_imported(page_rig: Rig) -> None:
    for name in ("jinja2", "markupsafe", "json", "multiprocessing"):
        page_rig.write(f"{name}.py", "raise SystemExit('imported')")
    write(str(page_rig.project / "a.json"), ready())
    run = page_rig.run("-P" if sys.version_info >= (3, 11) else "-s", "-m", "pytest_bionemo", "html", "a.json")
    assert run.stdout == "page     a.html\n"
