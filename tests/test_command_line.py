"""python -m pytest_bionemo: the list of checks, and a validation that no folder can spoil."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from conftest import REPORT, Rig, Run
from fleets import report
from pytest_bionemo.__main__ import list_checks
from pytest_bionemo.checking import CheckSpec, spec_of
from pytest_bionemo.checks import shipped
from pytest_bionemo.suite import import_checks, topic_of
from standin import H100x8

HOSTILE_FILES = ("torch", "packaging", "json", "pytest", "pynvml", "tomllib", "pluggy", "signal", "ctypes")
HOSTILE = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\nraise SystemExit('hostile')\n"


def command(rig: Rig, *arguments: str) -> Run:
    return rig.run("-m", "pytest_bionemo", *arguments)


def declared() -> list[tuple[str, str, CheckSpec]]:
    """Topic, name and declaration of every shipped check."""
    return [
        (topic_of(module), name, spec)
        for module in shipped()
        for name, function in vars(import_checks(module)).items()
        if (spec := spec_of(function))
    ]


# ---- checks


def test_every_shipped_check_is_listed_once(rig: Rig) -> None:
    run = command(rig, "checks")
    assert (run.returncode, run.stderr) == (0, "")
    assert not list(rig.project.iterdir())
    topics = re.split(r"^bionemo/(\w+): ", run.stdout, flags=re.MULTILINE)
    by_topic = dict(zip(topics[1::2], topics[2::2], strict=True))
    assert list(by_topic) == [topic_of(module) for module in shipped()]
    for topic, name, spec in declared():
        text = by_topic[topic]
        assert text.count(f"\n  {name}  ({spec.severity}, {spec.level})\n") == 1
        assert spec.title in " ".join(text.split())
    assert len(declared()) == len(re.findall(r"^  \w+  \(", run.stdout, re.MULTILINE))


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_fits_the_terminal(rig: Rig, columns: int) -> None:
    rig.variables["COLUMNS"] = str(columns)
    run = command(rig, "checks")
    assert max(map(len, run.stdout.splitlines())) <= columns
    assert list(list_checks(columns)) == run.stdout.removesuffix("\n").split("\n")


def test_what_a_check_needs_is_listed_with_it() -> None:
    entries = re.split(r"^  (\w+)  \(.*\)$", "\n".join(list_checks(200)), flags=re.MULTILINE)
    listed_needs = [re.findall(r"\w+::\w+", text) for text in entries[2::2]]
    needs = dict(
        reversed(list(zip(entries[1::2], listed_needs, strict=True)))
    )  # of one name in several topics the first
    assert needs["runs_linux"] == []
    assert {"driver::loads", "driver::devices_present", "torch::is_cuda_build"} <= set(needs["supports_torch_cuda"])
    assert "driver::libcuda_fits" in needs["supports_torch_cuda"]
    assert "torch::installed" in needs["imports"]
    names = {f"{topic}::{name}" for topic, name, _ in declared()}
    assert {need for listed in listed_needs for need in listed} <= names


def test_every_check_says_how_it_is_fixed_and_the_list_repeats_it(rig: Rig) -> None:
    assert [f"{topic}::{name}" for topic, name, spec in declared() if not spec.fix] == []
    listed = " ".join(command(rig, "checks").stdout.split())
    assert [name for _, name, spec in declared() if f"fix: {spec.fix}" not in listed] == []


def test_the_page_of_the_checks_is_up_to_date(rig: Rig) -> None:
    page = Path(__file__).parents[1] / "docs" / "checks.md"
    assert command(rig, "checks", "--markdown").stdout == page.read_text()


# ---- validate


@pytest.fixture
def hostile(rig: Rig) -> Rig:
    """A project that would break every run that reads its files."""
    for name in HOSTILE_FILES:
        rig.write(f"{name}.py", HOSTILE)
    rig.write("conftest.py", HOSTILE)
    rig.write("sitecustomize.py", HOSTILE)
    rig.write("test_theirs.py", HOSTILE)
    rig.write("pytest.ini", "[pytest]\naddopts = --no-such-option\nbionemo_level = quikc\n")
    rig.write("pyproject.toml", "[tool.pytest.ini_options\n")
    rig.write("bionemo/__init__.py", HOSTILE)
    return rig


def ran(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.ran"))


@pytest.mark.parametrize("safe_path", [False, True])
def test_a_validation_reads_nothing_of_its_folder(hostile: Rig, safe_path: bool) -> None:
    if safe_path:
        hostile.variables["PYTHONSAFEPATH"] = "1"
    before = {path.name for path in hostile.project.iterdir()}
    hostile.node = H100x8
    run = command(hostile, "validate", "--bionemo-level", "quick")
    assert ran(hostile.project) == []
    assert (run.verdict, run.returncode) == ("BLOCKED", 1)
    assert run.blockers == ["torch::installed"]
    assert run.bionemo["level"] == "quick"
    assert run.stderr == ""
    assert {path.name for path in hostile.project.iterdir()} - before == {REPORT}


def test_a_validation_says_the_same_as_pytest(healthy_rig: Rig) -> None:
    isolated = command(healthy_rig, "validate", "--bionemo-level=quick").bionemo
    usual = healthy_rig.validate().bionemo
    changing = {"started", "duration_s", "gpus", "environment"}
    assert {name: value for name, value in isolated.items() if name not in changing} == {
        name: value for name, value in usual.items() if name not in changing
    }


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ((), 0),
        (("--bionemo-require", "ready"), 1),
        (("--bionemo-level", "quikc"), 4),
        (("-k", "no_check_has_this_name"), 1),
    ],
)
def test_the_exit_status_passes_through(healthy_rig: Rig, arguments: tuple[str, ...], status: int) -> None:
    assert command(healthy_rig, "validate", "--bionemo-level=quick", *arguments).returncode == status


def test_a_validation_works_where_plugins_are_not_loaded_by_themselves(rig: Rig) -> None:
    rig.variables["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    run = command(rig, "validate")
    assert (run.verdict, run.returncode) == ("BLOCKED", 1)
    assert run.blockers == ["driver::loads"]


def test_a_single_check_can_be_validated(rig: Rig) -> None:
    run = command(rig, "validate", "bionemo/host::runs_linux")
    assert run.outcome("host::runs_linux") == "passed"
    assert (run.verdict, run.returncode) == ("INCONCLUSIVE", 1)


# ---- the rest


@pytest.mark.parametrize(
    "words",
    [
        "checks", "checks --markdown", "explain driver::loads", "fleet node1.json", "ctrf node1.json",
        "history --help", "html node1.json -o -", "metrics node1.json", "--help", "no_such_command",
    ],
)  # fmt: skip
def test_no_command_runs_a_file_of_the_folder_that_it_is_started_in(rig: Rig, words: str) -> None:
    rig.write("node1.json", json.dumps(report("node1")))
    standard = ("argparse", "html", "inspect", "random", "shutil", "statistics", "textwrap")
    for name in (*HOSTILE_FILES, *standard, "jinja2", "markupsafe", "msgspec", "prometheus_client", "numpy"):
        rig.write(f"{name}.py", HOSTILE)
    command(rig, *words.split())
    assert ran(rig.project) == []


def test_a_command_can_be_started_in_a_folder_that_is_gone(rig: Rig) -> None:
    (gone := rig.project / "gone").mkdir()
    start = "import os, runpy, sys; os.rmdir(os.getcwd()); sys.argv[1:] = ['--help'];"
    run = rig.run("-c", f"{start} runpy.run_module('pytest_bionemo', run_name='__main__')", cwd=gone)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("usage: ")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("validat",), "'validat' is not a command"),
        ((), "no command is given"),
        (("checks", "--all"), "'checks --all' is not a command"),
        (("checks", "--markdown", "x"), "'checks --markdown x' is not a command"),
        (("fleet.json",), "'fleet.json' is not a command"),
        (("ctrf",), "'ctrf' is not a command"),
        (("ctrf", "report.json", "--out", "x"), "'ctrf report.json --out x' is not a command"),
    ],
)
def test_an_unknown_command_is_one_line_and_the_usage(rig: Rig, arguments: tuple[str, ...], named: str) -> None:
    run = command(rig, *arguments)
    first, *others = run.stderr.splitlines()
    assert run.returncode == 4
    assert run.stdout == ""
    assert first == f"error: {named}. Choose from: validate, checks, explain, fleet, ctrf, history, html, metrics."
    assert others[0].startswith("usage: python -m pytest_bionemo validate")
    assert not list(rig.project.iterdir())


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_every_command(rig: Rig, option: str) -> None:
    run = command(rig, option)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("usage: python -m pytest_bionemo validate")
    listed = re.findall(r"^(\w+)  ", run.stdout, re.MULTILINE)
    assert listed == ["validate", "checks", "explain", "fleet", "ctrf", "history", "html", "metrics"]
    assert max(map(len, run.stdout.splitlines())) <= 110
