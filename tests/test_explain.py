"""python -m pytest_bionemo explain: derived from the code, true to it, and of use to whoever reads it."""

from __future__ import annotations

import json
import re
import signal
import sys
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from conftest import REPORT, Rig, Run
from pytest_bionemo import judging
from pytest_bionemo.explain import project, words
from pytest_bionemo.explain.command import matching
from pytest_bionemo.explain.explanation import Check, Explanation, checks_in, explain, shipped_checks
from pytest_bionemo.facts import load
from pytest_bionemo.judging import Limits
from pytest_bionemo.needs.established import ESTABLISHED_BY
from standin import H100x8

SHIPPED = shipped_checks()
EXPLAINED = {check.id: explain(check, SHIPPED) for check in SHIPPED}
HOSTILE = "<script>hit()</script> \x1b[2J\u202eevil \x00"


def command(rig: Rig, *arguments: str, columns: int = 80) -> Run:
    rig.variables["COLUMNS"] = str(columns)
    return rig.run("-m", "pytest_bionemo", "explain", *arguments)


def only(run: Run) -> dict[str, Any]:
    """The one explanation that a run with --json gives."""
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    (told,) = json.loads(run.stdout)
    assert isinstance(told, dict)
    return told


def shown(told: Explanation, width: int = 200) -> str:
    return "\n".join(words.text(told, width))


# ---- what every shipped check says


def test_every_shipped_check_says_why_it_matters_and_how_it_decides() -> None:
    for check in SHIPPED:
        for text in (check.spec.why, check.spec.how, check.spec.fix):
            assert text, check.id
            assert text.endswith("."), (check.id, text)
            assert "\u2014" not in text
        assert check.spec.why not in (check.spec.title, check.spec.fix)
        assert len(str(check.spec.how).split()) > 5, check.id
        assert check.spec.more is None, (check.id, check.spec.more)  # all of it is said in one of the parts
    ways = [check.spec.how for check in SHIPPED]
    assert len(set(ways)) >= len(ways) - 2  # two look for two plugins in the same way, and two read TF32 alike


@pytest.mark.parametrize("width", [80, 120])
def test_every_explanation_fits_the_terminal_and_names_every_part(width: int) -> None:
    for told in EXPLAINED.values():
        lines = list(words.text(told, width))
        copied = ("  $ ", "  https://")
        assert max(len(line) for line in lines if not line.startswith(copied)) <= width, told.id
        assert lines[0] == told.id
        assert f"({told.severity}, from level {told.level} on)" in lines[:5]
        headings = [line for line in lines[1:] if line and not line.startswith(" ")]
        assert {"why it matters", "how it decides", "how to fix", "run it alone"} <= set(headings), told.id
        assert lines[-1] == f"  $ pytest {told.id}"
        assert all(line.isprintable() for line in lines)


# ---- true to the code


def test_the_limits_are_those_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    told = shown(EXPLAINED["benchmark::multiplies_at_full_speed"])
    assert "  below 40% degraded, below 25% low: of the physical bound of matrix products." in told
    assert "  below 92% degraded, below 80% low: of a reference that somebody measured on this model." in told
    assert "  beyond physics 103%: above this share of the physical bound the measurement is broken" in told
    monkeypatch.setattr(judging, "PRODUCTS", Limits(0.31, 0.11))
    monkeypatch.setattr(judging, "BEYOND_PHYSICS", 1.21)
    check = next(check for check in SHIPPED if check.name == "multiplies_at_full_speed")
    told = shown(explain(check, SHIPPED))
    assert "below 31% degraded, below 11% low: " in told
    assert "beyond physics 121%" in told
    assert "40%" not in told.partition("runs once")[0].replace("below 80% degraded, below 40% low", "")


def test_every_limit_by_which_numbers_are_judged_is_told_by_a_check_that_uses_it() -> None:
    told = {(ruler.name, ruler.limits): ruler for explained in EXPLAINED.values() for ruler in explained.rulers}
    limits = {name: value for name, value in vars(judging).items() if isinstance(value, Limits)}
    assert len(limits) > 8
    for name, value in limits.items():
        shares = [f"below {value.degraded:.0%} degraded"] if value.degraded != value.low else []
        ruler = told[name.replace("_", " ").lower(), ", ".join([*shares, f"below {value.low:.0%} low"])]
        assert ruler.about, name


def test_a_ruler_that_a_check_does_not_use_is_not_told() -> None:
    rulers = {name: {ruler.name for ruler in told.rulers} for name, told in EXPLAINED.items()}
    assert "calibrated" not in rulers["benchmark::transforms_at_full_speed"]  # nobody has measured any
    assert {"beyond physics", "node", "few"} <= rulers["benchmark::transforms_at_full_speed"]
    assert "uncalibrated" not in rulers["benchmark::copies_at_full_speed"]
    assert {"calibrated", "link"} <= rulers["benchmark::copies_at_full_speed"]
    assert rulers["training::keeps_pace"] == {"node", "few", "baseline", "rehearsal"}
    assert {"baseline", "rehearsed before"} <= rulers["benchmark::copies_at_full_speed"]
    assert "baseline" not in rulers["training::scales"]
    assert rulers["host::runs_linux"] == set()
    assert rulers["health::has_full_power"] == {"as good as all"}


def test_every_threshold_of_the_tables_is_told_with_its_value_source_and_date() -> None:
    told = {fact.name: fact for explained in EXPLAINED.values() for fact in explained.facts if fact.value}
    rows = [*load("host")["threshold"], *load("health")["limit"]]
    assert len(rows) > 10
    for row in rows:
        fact = told[row["name"].replace("_", " ")]
        assert (fact.source, fact.date, fact.tag, fact.rows) == (row["source"], row["date"], row["tag"], 1)
        number = float(fact.value.split()[0])
        powers = {"TiB": 2**40, "GiB": 2**30, "MiB": 2**20}
        assert number * powers.get(fact.value.split()[-1], 1) == pytest.approx(row["value"], rel=0.05), fact
    text = " ".join(shown(EXPLAINED["host::locks_memory_for_rdma"]).split())
    assert "locked memory: 16 GiB, the lowest limit at which RDMA and EFA can register the buffers of NCCL" in text
    assert "remote node: 20 distance, NUMA distance from" in shown(EXPLAINED["host::is_near_its_gpus"])
    assert "(ulimit -l of 16 GiB or more) (source code, 2026-11-22)" in text


def test_a_table_is_summed_up_and_what_only_words_a_fix_is_no_source() -> None:
    facts = EXPLAINED["health::has_no_xid"].facts
    rows = {
        where: sum(fact.rows for fact in facts if fact.where == where) for where in {fact.where for fact in facts}
    }
    assert rows["xids.toml, xid"] == len(load("xids")["xid"])
    text = " ".join(shown(EXPLAINED["health::has_no_xid"]).split())
    assert f"xids.toml, xid: {rows['xids.toml, xid']} rows (" in text
    assert text.count("NV is NVIDIA, Xid Errors") == 1  # what the codes of its sources stand for
    assert "wheels.toml" not in shown(EXPLAINED["torch::installed"])
    assert [fact.value for fact in EXPLAINED["driver::meets_bionemo_minimum"].facts] == ["minimum driver 560"]


def test_what_it_waits_for_comes_from_its_fixtures_and_its_code() -> None:
    # A fixture, what that needs in turn, an alternative of the code, and one that is put together at run time.
    told = EXPLAINED["benchmark::multiplies_at_full_speed"]
    assert told.waits_for == ["precision::tf32_is_not_used_unasked", "torch::computes"][::-1]
    assert {"driver::loads", "torch::imports", "host::runs_linux"} <= set(told.through_them)
    assert {"collectives::ranks_meet", "interconnect::devices_meet"} <= set(EXPLAINED["training::scales"].waits_for)
    assert {"torch::imports", "torch::installed"} <= set(EXPLAINED["packages::imports_deeply"].through_them)
    assert "health::rows_are_remapped" in EXPLAINED["health::has_no_xid"].waits_for
    assert EXPLAINED["host::runs_linux"].waits_for == EXPLAINED["host::runs_linux"].through_them == []
    for name, told in EXPLAINED.items():
        named = [*told.waits_for, *told.through_them]
        assert name not in named
        assert len(named) == len(set(named))
        assert set(named) <= EXPLAINED.keys()
    waited_for = {check for told in EXPLAINED.values() for check in (*told.waits_for, *told.through_them)}
    assert set(ESTABLISHED_BY.values()) <= waited_for


def test_reports_wait_for_nothing_that_is_not_told(rig: Rig) -> None:
    without_driver = rig.validate("--bionemo-level=standard")
    gaps = without_driver.bionemo["not_run"]  # read before the next run writes over it
    rig.node = H100x8
    without_torch = rig.validate("--bionemo-level=standard")
    gaps += without_torch.bionemo["not_run"]
    waits = {
        (
            gap["check"].removeprefix("bionemo/").partition("[")[0],
            gap["waits_for"].removeprefix("bionemo/").partition("[")[0],
        )
        for gap in gaps
        if gap["waits_for"]
    }
    assert len(waits) > 120
    untold = [
        (check, other)
        for check, other in waits
        if other not in (*EXPLAINED[check].waits_for, *EXPLAINED[check].through_them)
    ]
    assert untold == []
    # Of the reasons those that are not put together at run time alone.
    reasons = {entry["check"]: entry["reason"] for entry in without_torch.bionemo["not_applicable"]}
    told = EXPLAINED["platform::fsx_is_mounted"].not_applicable
    assert reasons["bionemo/platform::fsx_is_mounted"] in told
    assert reasons["bionemo/packages::is_whole[bionemo-core]"] == "bionemo-core is not installed"
    assert "<name> is not installed" in EXPLAINED["packages::is_whole"].not_applicable
    # Where there is no job of several nodes, the devices of one node train together.
    assert "there are no two devices here" in EXPLAINED["training::scales"].not_applicable
    assert "this is no job of several nodes" not in EXPLAINED["training::scales"].not_applicable
    assert "this is no job of several nodes" in EXPLAINED["collectives::ranks_meet"].not_applicable

    # And from a finding to its explanation.
    assert "explain  $ python -m pytest_bionemo explain driver::loads" in without_driver.stdout
    assert only(command(rig, "driver::loads", "--json"))["id"] == "bionemo/driver::loads"


def test_the_parameters_of_one_instance_choose_what_is_told() -> None:
    check = next(check for check in SHIPPED if check.id == "precision::supports")
    told = explain(check, SHIPPED, "gpu0-fp8_block")
    assert told.command == "pytest 'bionemo/precision::supports[gpu0-fp8_block]'"
    hostile = explain(check, SHIPPED, '$(touch x)"').command
    assert hostile == """pytest 'bionemo/precision::supports[$(touch x)"]'"""
    assert told.runs_for == {"device": [], "format": ["fp16", "bf16", "fp8", "fp8_block", "mxfp8", "nvfp4"]}
    rules = load("precision")["rule"]
    rows = [row for row in rules if row["format"] == "fp8_block"]
    assert 0 < sum(fact.rows for fact in told.facts) == len(rows) < len(rules)
    assert sum(fact.rows for fact in EXPLAINED["precision::supports"].facts) == len(rules)


# ---- what is meant


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("driver::loads", ["driver::loads"]),
        ("bionemo/driver::loads", ["driver::loads"]),
        ("loads", ["driver::loads"]),
        ("LOADS", ["driver::loads"]),
        ("bionemo/precision::supports[gpu0-fp16]", ["precision::supports"]),
        ("precision::autocast[gpu0-fp16]", ["precision::autocast_uses_its_precisions"]),
        ("imports", ["torch::imports", "lightning::imports", "stack::imports"]),
        ("interconnect", [name for name in EXPLAINED if name.startswith("interconnect::")]),
        ("interconnect::", [name for name in EXPLAINED if name.startswith("interconnect::")]),
        ("xid", ["health::has_no_xid"]),
        ("no_such", []),
        ("", []),
        ("bionemo/", []),
        ("[gpu0]", []),
    ],
)
def test_a_check_is_found_by_its_id_or_a_part_of_it(asked: str, expected: list[str]) -> None:
    assert [check.id for check in matching(asked, SHIPPED)] == expected


# ---- the command


def test_explaining_imports_no_torch_starts_no_driver_and_reads_no_module_of_the_folder(rig: Rig) -> None:
    for name in ("torch", "pynvml", "json", "argparse", "textwrap", "difflib", "ast", "conftest"):
        rig.write(f"{name}.py", f"raise SystemExit('{name} of the folder was imported')\n")
    code = (
        "import sys; sys.argv[1:] = ['explain', 'driver::loads'];"
        "from pytest_bionemo.__main__ import main; status = main(sys.argv[1:]);"
        "print(sorted({'torch', 'pynvml', 'msgspec', 'rich', 'lightning'} & set(sys.modules)), status)"
    )
    run = rig.run("-c", code)
    assert run.stdout.endswith("\n[] 0\n"), run.stderr
    assert {path.name for path in rig.project.iterdir()} == {
        f"{name}.py" for name in ("torch", "pynvml", "json", "argparse", "textwrap", "difflib", "ast", "conftest")
    }


def test_several_matches_are_listed_and_as_json_all_of_them_explained(rig: Rig) -> None:
    run = command(rig, "tf32")
    assert (run.returncode, run.stderr) == (0, "")
    first, *rows, last = run.stdout.splitlines()
    assert first == "2 checks match 'tf32':"
    assert [row.split()[0] for row in rows if "::" in row] == [
        "precision::tf32_is_used_when_allowed",
        "precision::tf32_is_not_used_unasked",
    ]
    assert max(map(len, rows)) <= 80
    assert last == "To explain one: $ python -m pytest_bionemo explain precision::tf32_is_used_when_allowed"
    told = json.loads(command(rig, "tf32", "--json").stdout)
    assert [one["id"].partition("::")[2] for one in told] == ["tf32_is_used_when_allowed", "tf32_is_not_used_unasked"]
    assert told[0] == json.loads(json.dumps(EXPLAINED["precision::tf32_is_used_when_allowed"].to_json()))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["drivers::load"], "'drivers::load' is no check, no topic and no part of one. Did you mean driver::loads"),
        (["\x1b[31mred"], r"'\\x1b[31mred' is no check"),
        ([""], "'' is no check"),
        ([], "name a check, or a report with --report FILE"),
        (["loads", "--report", REPORT], "name a check, or a report with --report FILE"),
        (["loads", "--html"], "unrecognized arguments: --html. See python -m pytest_bionemo explain --help."),
        (["loads", "--json", "--markdown"], "not allowed with argument --json"),
        (["--report", "absent.json"], "absent.json: cannot be read: No such file or directory"),
        (["--report", "."], ".: cannot be read: Is a directory"),
    ],
)
def test_what_cannot_be_explained_is_one_line(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pytest_bionemo.explain.command import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pytest_bionemo.explain.command.project_checks", list)  # pytest cannot run within itself
    assert main(arguments) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err


def test_markdown_shows_every_text_as_it_is() -> None:
    pages = {name: "\n".join(words.markdown(told)) for name, told in EXPLAINED.items()}
    page = pages["packages::is_whole"]
    assert page.startswith("## bionemo/packages::is_whole\n\nThe installed package is complete. Severity blocker,")
    for snippet in ("_emphasis_", "<b>", "&lt;", "~~~"):
        assert words._escaped(snippet) not in (snippet, "")
    assert "**Why it matters**" in page
    assert r"\<name\> is not installed" in page
    assert "    pytest bionemo/packages::is_whole" in page
    for page in pages.values():
        plain = re.sub(r"^    .*$|^- <https://[^>\s]*>$", "", page, flags=re.MULTILINE)
        assert not re.search(r"(?<!\\)[<>]", plain)


# ---- checks of others


PROJECT = {
    "conftest.py": "def pytest_bionemo_checks(config):\n    return ['acme.scratch', 'acme.broken']\n",
    "acme/__init__.py": "",
    "acme/broken.py": "raise RuntimeError('no licence')\n",
    "acme/scratch.py": """
        '''Scratch disks.'''
        import pytest
        from pytest_bionemo import check, fail, not_applicable, wait_for

        # The least that a checkpoint takes.
        _ROOM = 0.25

        @pytest.fixture
        def mounted(gpu_env):
            wait_for("scratch::is_mounted", "it is not mounted")

        @check(severity="warning")
        def is_mounted():
            "It is mounted."

        @check(level="full")
        def has_room(mounted, driver):
            '''It has room.

            On each node.

            Fix: delete
            old checkpoints.
            '''
            if mounted is None:
                not_applicable("this node has no scratch disk")
            if 0.1 < _ROOM:
                fail("full", links="https://acme.example/scratch")
    """,
}


def test_checks_of_a_project_are_explained_whether_they_say_why_or_not(rig: Rig) -> None:
    for name, text in PROJECT.items():
        rig.write(name, dedent(text))
    noise = PROJECT["conftest.py"] + "print('a conftest may print')\n"
    rig.write("conftest.py", noise)
    run = command(rig, "scratch::has_room", "--json")
    (told,) = json.loads(run.stdout)
    assert run.returncode == 0
    assert run.stderr == "acme.broken cannot be imported: RuntimeError: no licence\n"
    assert (told["why"], told["how"], told["fix"], told["more"]) == (
        None, None, "delete old checkpoints.", "On each node.",
    )  # fmt: skip
    assert told["waits_for"] == ["driver::loads", "scratch::is_mounted"]
    assert told["through_them"] == ["host::runs_linux"]
    assert told["not_applicable"] == ["this node has no scratch disk"]
    assert told["links"] == ["https://acme.example/scratch"]
    assert told["rulers"] == [{"name": "room", "limits": "0.25", "about": "The least that a checkpoint takes."}]
    assert told["command"] == "pytest bionemo/scratch::has_room --bionemo-level full"
    text = command(rig, "is_mounted").stdout
    assert text == (
        "bionemo/scratch::is_mounted\nIt is mounted.\n(warning, from level quick on)\n\n"
        "run it alone\n  $ pytest bionemo/scratch::is_mounted\n"
    )
    # A shipped one needs no project, and one that pytest cannot read keeps nothing back.
    assert command(rig, "host::runs_linux").stderr == ""
    rig.write("pytest.ini", "[pytest]\naddopts = --no-such-option\n")
    run = command(rig, "runs_lin")
    assert run.stdout.startswith("bionemo/host::runs_linux\n")
    assert "no-such-option" in run.stderr
    assert run.stderr.endswith("pytest does not read this project: its own checks are not known\n")


def test_a_project_that_hangs_keeps_no_shipped_check_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    hangs = "import time\ntime.sleep(600)\n"
    tmp_path.joinpath("conftest.py").write_text(
        "print('no end of line', end='')\ndef pytest_bionemo_checks(config):\n    return ['noisy']\n"
    )
    tmp_path.joinpath("hanging.py").write_text(hangs)
    tmp_path.joinpath("noisy.py").write_text(
        "print('loud')\nfrom pytest_bionemo import check\n@check()\ndef speaks():\n    'It speaks.'\n"
    )
    monkeypatch.setattr("sys.path", [*sys.path])
    assert [check.id for check in project.project_checks()] == ["noisy::speaks"]
    out, err = capfd.readouterr()
    assert (out, err) == ("", "loud\n")
    monkeypatch.setattr(project, "_DEADLINE_S", 1)
    assert project._checks_of("hanging") == []
    assert capfd.readouterr().err == "hanging cannot be imported: TimeoutError: not within 1 s\n"
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    tmp_path.joinpath("conftest.py").write_text(hangs)
    assert project.project_checks() == []
    assert "did not read this project within 1 s" in capfd.readouterr().err


ODD = """
    '''Odd.'''
    import types
    from unittest.mock import call

    import pytest
    from pytest_bionemo import check, not_applicable
    from pytest_bionemo.facts import load

    class Lazy(types.ModuleType):
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            raise RuntimeError("asked for " + name)

    class Thing:
        pass

    lazy = Lazy("lazy")
    table = "host"

    @check()
    @pytest.mark.parametrize("x", [pytest.param(1, id="one"), pytest.param(2), Thing(), "\\x1b[31m", len, 0.5])
    @pytest.mark.parametrize(argnames="y", argvalues=[1, 2], ids=["a", "b"])
    @pytest.mark.parametrize(["p", "q"], [(1, 2)])
    def is_odd(request, x, y, p, q):
        '''It is odd.'''
        request.getfixturevalue(argname="driver")
        if load(table)["threshold"] or call(1):
            not_applicable(reason="there is nothing here")
        return lazy.anything
"""


def test_a_check_of_others_is_read_whatever_it_is_written_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.joinpath("odd.py").write_text(dedent(ODD))
    monkeypatch.syspath_prepend(tmp_path)
    (check,) = checks_in(import_module("odd"))
    told = explain(check, [*SHIPPED, check])
    assert told.runs_for == {"y": ["a", "b"], "x": ["one", "2", "x2", "\\x1b[31m", "len", "0.5"]}
    assert told.not_applicable == ["there is nothing here"]
    assert told.waits_for == ["driver::loads"]


# ---- a report


def test_every_finding_of_a_report_is_explained_once_for_each_check(rig: Rig, tmp_path: Path) -> None:
    run = rig.validate("bionemo/driver::loads", "bionemo/host::runs_linux")
    assert run.blockers == ["driver::loads"]
    text = command(rig, "--report", REPORT).stdout
    for said in ("\n(blocker, from level quick on)\n", "what the report says", "no NVIDIA driver", "how it decides"):
        assert text.count(said) == 1, said
    told = only(command(rig, "--report", REPORT, "--json"))
    assert [one["check"] for one in told["findings"]] == ["bionemo/driver::loads"]
    assert told["why"] == EXPLAINED["driver::loads"].why

    hostile = json.loads((rig.project / REPORT).read_text())
    test = next(test for test in hostile["tests"] if test["nodeid"].endswith("loads"))
    text = json.dumps(hostile).replace(json.dumps(test["nodeid"])[1:-1], "bionemo/acme::gone[gpu0]")
    for field in ("bionemo_message", "bionemo_fix"):
        (seen,) = [entry[field] for entry in test["user_properties"] if field in entry]
        text = text.replace(json.dumps(seen)[1:-1], json.dumps(f"{HOSTILE}\n$ echo `id`\nor <b>\nhttps://x.y")[1:-1])
    (rig.project / "hostile.json").write_text(text.replace("acme::gone", "acme::<i>gone</i>"))
    run = command(rig, "--report", "hostile.json")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("bionemo/acme::<i>gone</i>\nThe NVIDIA driver answers.\n(blocker")
    assert r"\x1b[2J\u202eevil" in run.stdout
    assert all(line.isprintable() for line in run.stdout.splitlines())
    markdown = command(rig, "--report", "hostile.json", "--markdown").stdout
    assert r"\<script\>" in markdown
    assert not re.search(r"(?<!\\)<(?!https:)", re.sub(r"^    .*$", "", markdown, flags=re.MULTILINE))
    assert "- `` echo `id` ``\n- or \\<b\\>\n- <https://x.y>\n" in markdown

    (rig.project / "future.json").write_text(json.dumps({"bionemo": {"schema_version": 99}}))
    run = command(rig, "--report", "future.json")
    assert (run.returncode, run.stdout) == (4, "")
    assert "error: future.json: its schema version is 99" in run.stderr
    assert run.stderr.count("\n") == 1


def test_a_report_without_findings_says_so(rig: Rig) -> None:
    rig.validate("bionemo/host::runs_linux")
    run = command(rig, "--report", REPORT)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("INCONCLUSIVE at level quick")
    assert run.stdout.endswith("there is no finding to explain\n")
    assert json.loads(command(rig, "--report", REPORT, "--json").stdout) == []


def test_a_check_whose_source_is_not_there_is_explained_by_its_docstring(monkeypatch: pytest.MonkeyPatch) -> None:
    import inspect

    from pytest_bionemo.explain import syntax

    def gone(module: object) -> str:
        raise OSError("could not get source code")

    syntax.syntax_of.cache_clear()
    monkeypatch.setattr(inspect, "getsource", gone)
    try:
        check: Check = next(check for check in SHIPPED if check.id == "driver::loads")
        told = explain(check, SHIPPED)
    finally:
        syntax.syntax_of.cache_clear()
    assert (told.why, told.fix) == (check.spec.why, check.spec.fix)
    assert told.waits_for == ["host::runs_linux"]  # what @check itself was told
    assert told.facts == []


# ---- the page for newcomers


def test_the_page_for_newcomers_shows_what_the_program_prints() -> None:
    page = Path(__file__).parents[1].joinpath("docs", "first-minute.md").read_text()
    assert f"```\n{shown(EXPLAINED['torch::installed'], 80)}\n```\n" in page
    assert "explain  $ python -m pytest_bionemo explain torch::installed\n" in page
