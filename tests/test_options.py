"""Options and their ini twins: what they take, and how a wrong value ends."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest

from conftest import REPORT, Rig, Run, assert_valid
from pytest_bionemo import options
from pytest_bionemo.facts import targets
from standin import H100x8, Libraries, T4x1
from standin.environment import Environment

pytest_plugins = ["pytester"]

NEWEST = int(metadata.version("pytest").partition(".")[0]) >= 9
FORMER = '{"bionemo": {"verdict": "READY"}}'

# option: values that it refuses, and what its error offers instead
WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "level": (("quikc", "Quick", "1", ""), "Choose from: quick, standard, full."),
    "device": (("gpu", "cuda:0"), "Choose from: cuda, cpu."),
    "require": (("READY", "all"), "Choose from: install, ready."),
    "progress": (("yes", "On", ""), "Choose from: auto, on, off."),
    "timeout": (
        ("0", "-1", "nan", "inf", "soon", "1e999", "1e300", "10s"),
        "a number of seconds above 0 and up to 86400, such as 60.",
    ),
    "expect-gpus": (
        ("0", "-1", "x", "1.5", "\N{ARABIC-INDIC DIGIT THREE}"),
        "a number of GPUs from 1 on, such as 8.",
    ),
    "target": (("esm2-650", "ESM2-650M", "8M", ""), f"Choose from: {', '.join(targets.names())}."),
}
CASES = [(name, value, offer) for name, (values, offer) in WRONG.items() for value in values]


def key_of(option: str) -> str:
    return "bionemo_" + option.replace("-", "_")


def refused(rig: Rig, *arguments: str, former: bool = True) -> str:
    """The one line with which a run is refused before anything is written."""
    if former:
        (rig.project / REPORT).write_text(FORMER)
    before = sorted(path.name for path in rig.project.iterdir())
    run = rig.pytest("-p", "no:cacheprovider", *arguments)
    assert run.returncode == 4, run.stdout
    assert sorted(path.name for path in rig.project.iterdir()) == before
    if former:
        assert (rig.project / REPORT).read_text() == FORMER
    assert "Traceback" not in run.stderr + run.stdout
    lines = run.stderr.strip().splitlines()
    assert len(lines) == 1, run.stderr
    assert lines[0].startswith("ERROR: ")
    return lines[0].removeprefix("ERROR: ")


# One run for the first value of each option, the rest through the parser alone: a run costs the most.
@pytest.mark.parametrize(("name", "value", "offer"), [next(c for c in CASES if c[0] == name) for name in WRONG])
def test_a_wrong_value_ends_the_run_on_one_line(rig: Rig, name: str, value: str, offer: str) -> None:
    line = refused(rig, "--bionemo-validate", f"--bionemo-{name}", value)
    assert line.startswith(f"--bionemo-{name}: {value!r} is not ")
    assert line.endswith(offer)


@pytest.mark.parametrize(("name", "value", "offer"), CASES)
def test_every_wrong_value_is_named_with_the_choices(
    pytester: pytest.Pytester, name: str, value: str, offer: str
) -> None:
    with pytest.raises(pytest.UsageError) as caught:
        pytester.parseconfigure(f"--bionemo-{name}={value}")
    text = str(caught.value)
    assert text.startswith(f"--bionemo-{name}: {value!r} is not ")
    assert text.endswith(offer)
    assert "\n" not in text


@pytest.mark.parametrize(("name", "value", "offer"), [case for case in CASES if case[1].isascii() and case[1]])
def test_every_wrong_value_of_an_ini_twin_is_named_too(
    pytester: pytest.Pytester, name: str, value: str, offer: str
) -> None:
    pytester.makeini(f"[pytest]\n{key_of(name)} = {value}\n")
    with pytest.raises(pytest.UsageError) as caught:
        pytester.parseconfigure()
    text = str(caught.value)
    assert text.startswith(f"ini option {key_of(name)}: {value!r} is not ")
    assert text.endswith(offer)


# table, setting, what the line must hold
INI, NATIVE = "[tool.pytest.ini_options]", "[tool.pytest]"
WRONG_SETTINGS: list[tuple[str, str, list[str]]] = [
    (INI, 'bionemo_validate = "perhaps"', ["bionemo_validate", "perhaps", "Choose from: true, false."]),
    (INI, 'bionemo_level = "quikc"', ["bionemo_level", "'quikc'", "quick, standard, full"]),
    (INI, 'bionemo_target = "esm2"', ["bionemo_target", "'esm2'", "Did you mean esm2-"]),
    (NATIVE, 'bionemo_target = "esm2-8m"', ["bionemo_target", "a list of names of targets"]),
    (INI, "bionemo_timeout = -1", ["bionemo_timeout", "'-1'", "seconds above 0"]),
    (NATIVE, 'bionemo_validate = "yes"', ["bionemo_validate", "'yes'", "Choose from: true, false."]),
    (NATIVE, "bionemo_level = 3", ["bionemo_level", "int: 3", "quick (no GPU kernel), standard or full"]),
    (NATIVE, 'bionemo_level = ["quick"]', ["bionemo_level", "['quick']", "standard or full"]),
    (NATIVE, "bionemo_timeout = 60", ["bionemo_timeout", "int: 60", "Deadline"]),
    (NATIVE, 'bionemo_level = "quikc"', ["bionemo_level", "'quikc'", "quick, standard, full"]),
]


@pytest.mark.parametrize(
    ("table", "setting", "words"), [wrong for wrong in WRONG_SETTINGS if NEWEST or wrong[0] != NATIVE]
)
def test_an_ini_value_of_the_wrong_type_ends_the_run_on_one_line(
    rig: Rig, table: str, setting: str, words: Sequence[str]
) -> None:
    rig.write("pyproject.toml", f"{table}\n{setting}\n")
    line = refused(rig)
    assert [word for word in words if word not in line] == []


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("esm2-650", "Did you mean esm2-650m or "),
        ("ESM2-15B", "Did you mean esm2-15b or "),
        ("ESM-2 15B", "Did you mean esm2-15b or "),
        ("evo2", "Did you mean evo2-"),
        ("alphafold", "'alphafold' is not a target. Choose from"),
    ],
)
def test_an_unknown_target_is_named_with_those_that_come_near(
    pytester: pytest.Pytester, given: str, hint: str
) -> None:
    with pytest.raises(pytest.UsageError) as caught:
        pytester.parseconfigure("--bionemo-target", "esm2-8m", "--bionemo-target", given)
    assert hint in str(caught.value)


@pytest.mark.parametrize("setting", ["esm2-8m evo2-7b", "\n  esm2-8m\n  evo2-7b"])
def test_the_targets_of_the_command_line_replace_those_of_the_ini_file(
    pytester: pytest.Pytester, setting: str
) -> None:
    pytester.makeini(f"[pytest]\nbionemo_target = {setting}\n")
    assert options.read(pytester.parseconfigure()).targets == ("esm2-8m", "evo2-7b")
    given = ["--bionemo-target=esm2-3b", "--bionemo-target=esm2-3b", "--bionemo-target=esm2-8m"]
    assert options.read(pytester.parseconfigure(*given)).targets == ("esm2-3b", "esm2-8m")


def test_no_target_is_wanted_unless_one_is_named(pytester: pytest.Pytester) -> None:
    assert options.read(pytester.parseconfigure()).targets == ()


@pytest.mark.parametrize("name", ["no/r.json", "no/", "/proc/x", "~nobody-of-this-name/r.json", "", "x" * 300])
def test_a_report_that_cannot_be_written_ends_the_run_before_it_starts(rig: Rig, name: str) -> None:
    line = refused(rig, "--bionemo-validate", f"--bionemo-report={name}")
    assert line.endswith("hoose another --bionemo-report.")
    assert name.partition("/")[0] in line


def test_without_a_validation_nobody_asks_where_the_report_goes(rig: Rig) -> None:
    assert rig.pytest("--co", "-q", "--bionemo-report=no/r.json").returncode == 5


DAMAGES = {
    "no TOML": "[[gpu]\n",
    "empty": "",
    "no UTF-8": None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_facts_that_cannot_be_read_end_the_run_on_one_line(damage: str, libraries: Libraries, tmp_path: Path) -> None:
    environment = Environment.create(tmp_path, ["pytest-bionemo"])
    package = environment.site / "pytest_bionemo"
    source = package.resolve()
    package.unlink()
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    text = DAMAGES[damage]
    (package / "facts" / "gpus.toml").write_bytes(b"\xff" if text is None else text.encode())
    rig = Rig(environment, libraries, tmp_path)
    line = refused(rig, "--bionemo-validate")
    assert str(package / "facts" / "gpus.toml") in line
    assert line.endswith("reinstall pytest-bionemo")
    # Who does not validate is not bothered.
    assert rig.pytest("--co", "-q").returncode == 5


# ---- what they do


def test_every_option_is_prefixed_and_has_a_twin_and_a_text(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfigure()
    group = config._parser.getgroup("bionemo")
    names = [name for option in group.options for name in option.names()]
    # Beside those that a value can be wrong for: the switches, the report and its page, what the run is compared with
    # and whether it is kept.
    assert len(names) == len(WRONG) + 4 + len(options._SWITCHES)
    twins = config._parser._inidict
    for option in group.options:
        (name,) = option.names()
        assert name.startswith("--bionemo-")
        assert len(option.attrs()["help"]) > 20
        assert re.fullmatch(rf"Ini twin of {name}(\.|: .*)", twins[option.dest][0])
    assert {option.dest for option in group.options} == {key for key in twins if key.startswith("bionemo_")}


def test_help_lists_every_option_with_its_default(rig: Rig) -> None:
    # A wrong value in the ini file must not hide the manual.
    run = rig.pytest("--help")
    text = " ".join(run.stdout.split())
    assert run.returncode == 0
    assert not (rig.project / REPORT).exists()
    assert "NVIDIA BioNeMo readiness:" in text
    for option in (*options._SWITCHES, *WRONG, "report"):
        assert f"--bionemo-{option}" in text
        assert f"Ini twin of --bionemo-{option}." in text
    for default in ("standard", "cuda", "install", "120", REPORT):
        assert f"Default: {default}." in text


def test_help_wins_over_a_validation(rig: Rig) -> None:
    run = rig.validate("--help")
    assert run.returncode == 0
    assert not (rig.project / REPORT).exists()


def test_the_twins_of_an_ini_file_are_enough(rig: Rig) -> None:
    rig.node = T4x1
    (rig.project / "out").mkdir()
    rig.write(
        "pytest.ini",
        "[pytest]\nbionemo_validate = true\nbionemo_level = quick\nbionemo_require = ready\n"
        "bionemo_report = out/r.json\nbionemo_timeout = 33\nbionemo_expect_gpus = 2\n",
    )
    run = rig.pytest()
    told = Run(run.returncode, run.stdout, run.stderr, rig.project / "out" / "r.json")
    assert (told.bionemo["level"], told.bionemo["require"]) == ("quick", "ready")
    assert "expected 2" in told.finding("driver::expected_count")["message"]


@pytest.mark.skipif(not NEWEST, reason="pytest >= 9 has this table")
def test_the_twins_work_in_the_native_table_too(rig: Rig) -> None:
    rig.write("pyproject.toml", '[tool.pytest]\nbionemo_validate = true\nbionemo_level = "full"\n')
    assert rig.pytest().bionemo["level"] == "full"


def test_the_command_line_wins_over_the_ini_file(rig: Rig) -> None:
    rig.node = T4x1
    rig.write("pytest.ini", "[pytest]\nbionemo_level = quikc\nbionemo_expect_gpus = 2\nbionemo_device = cpu\n")
    run = rig.validate("--bionemo-level=full", "--bionemo-expect-gpus=1", "--bionemo-device=cuda")
    assert (run.bionemo["level"], run.bionemo["device"]) == ("full", "cuda")
    assert run.outcome("driver::expected_count") == "passed"


def test_the_last_of_several_values_wins(rig: Rig) -> None:
    assert rig.validate("--bionemo-level=full", "--bionemo-level=quick").bionemo["level"] == "quick"


@pytest.mark.parametrize(
    ("expected", "outcome"), [("8", "passed"), ("7", "failed"), ("9", "failed"), (None, "not_applicable")]
)
def test_the_number_of_gpus_is_held_against_what_was_stated(rig: Rig, expected: str | None, outcome: str) -> None:
    rig.node = H100x8
    run = rig.validate(*(["--bionemo-expect-gpus", expected] if expected else []))
    assert run.outcome("driver::expected_count") == outcome


@pytest.mark.parametrize(("require", "status"), [("install", 0), ("ready", 1)])
def test_ready_can_be_required(healthy_rig: Rig, require: str, status: int) -> None:
    run = healthy_rig.validate("--bionemo-require", require)
    assert run.verdict == "READY_FOR_INSTALL"
    assert (run.returncode, run.report["exitcode"]) == (status, status)


def test_the_report_goes_where_it_was_sent(rig: Rig) -> None:
    (rig.project / "out").mkdir()
    run = rig.validate("--bionemo-report", "out")
    path = rig.project / "out" / f"{socket.gethostname()}.json"
    assert_valid(Run(0, "", "", path).report)
    assert f"report   out/{path.name}" in run.stdout
    assert not (rig.project / REPORT).exists()


@pytest.mark.parametrize("level", ["quick", "standard", "full"])
def test_the_level_is_named_with_the_verdict(rig: Rig, level: str) -> None:
    run = rig.validate("--bionemo-level", level)
    assert run.bionemo["summary"].startswith(f"BLOCKED at level {level}: ")
    assert f"level {level}" in run.stdout


@pytest.mark.parametrize("has_node", [False, True])
def test_a_rehearsal_asks_no_gpu_and_proves_nothing(rig: Rig, has_node: bool) -> None:
    rig.node = H100x8 if has_node else None
    run = rig.validate("--bionemo-device", "cpu")
    assert [blocker for blocker in run.blockers if blocker.startswith("driver")] == []
    assert run.gap("driver::loads")["reason"] == "a rehearsal on the CPU asks no GPU"
    assert re.search(r"^bionemo: level quick, rehearsal on the CPU, ", run.stdout, re.MULTILINE)


def test_the_best_of_a_rehearsal_is_inconclusive(torch_rig: Rig) -> None:
    run = torch_rig.validate("--bionemo-device", "cpu")
    assert (run.verdict, run.returncode) == ("INCONCLUSIVE", 1)
    assert run.outcome("torch::imports") == "passed"
    reasons = [gap["reason"] for gap in run.bionemo["not_run"] if gap["check"] is None]
    assert reasons == ["a rehearsal on the device 'cpu' proves nothing about a GPU"]


def test_the_timeout_is_that_of_each_probe(rig: Rig) -> None:
    rig.node = H100x8.with_fault("nvmlInit_v2", "hang")
    run = rig.validate("--bionemo-timeout", "1.5")
    assert "no answer within 1.5 s" in run.finding("driver::loads")["message"]
