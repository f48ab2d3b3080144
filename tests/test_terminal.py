"""What a person reads: the summary line by line, and whole runs as a terminal shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from conftest import Rig, Run
from pytest_bionemo.facts import targets
from pytest_bionemo.report import terminal
from pytest_bionemo.report.terminal import MARKUP, Line
from standin import A10Gx1, H100x8, T4x1
from standin.torch_package import StandinTorch

Json = dict[str, Any]
LONG = (
    "one sentence that is much too long for any line of a terminal of eighty or of a hundred and twenty columns " * 2
)


def finding(check: str = "bionemo/driver::loads", **changes: Any) -> Json:
    entry = {"check": check, "title": "It loads.", "device": None, "message": "no driver", "why": "nothing can run"}
    return {**entry, "fix": ["install it"], "action": "FIX_SOFTWARE", "links": [], **changes}


def gap(check: str | None, reason: str = "deselected", waits_for: str | None = None) -> Json:
    return {"check": check, "reason": reason, "waits_for": waits_for, "required": True}


def run_of(verdict: str = "BLOCKED", **changes: Any) -> Json:
    run: Json = {"verdict": verdict, "summary": f"{verdict} at level quick", "level": "quick", "duration_s": 4.12}
    return {**run, "blockers": [], "warnings": [], "not_run": [], "install_options": [], **changes}


def lines_of(run: Mapping[str, Any], width: int = 80, verbosity: int = 0) -> list[str]:
    return [line.text.rstrip() for line in terminal.summary(run, "r.json", width, verbosity)]


def waiting(*checks: str, waits_for: str = "bionemo/driver::loads") -> list[Json]:
    return [gap(check, "the driver does not answer", waits_for) for check in checks]


FULL = run_of(
    blockers=[
        finding(
            fix=["$ sudo apt install " + "x" * 120, LONG], message=LONG, why=LONG, links=["https://x/" + "y" * 150]
        )
    ],
    warnings=[finding("bionemo/host::shared_memory", message=LONG)],
    not_run=[*waiting("bionemo/torch::imports", "bionemo/torch::covers[gpu0]"), gap("bionemo/a::b", LONG), gap(None)],
)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("verbosity", [-1, 0, 1])
def test_no_line_is_longer_than_the_terminal_but_what_must_be_copied(width: int, verbosity: int) -> None:
    long = [line for line in lines_of(FULL, width, verbosity)[1:] if len(line) > width]
    expected = ["$ sudo apt", "https://x/"] if verbosity >= 0 else []
    assert len(long) == len(expected)
    assert all(start in line for start, line in zip(expected, long, strict=True))


def test_a_wider_terminal_needs_fewer_lines() -> None:
    assert len(lines_of(FULL, 120)) < len(lines_of(FULL, 80))


def test_a_path_without_a_space_is_never_broken() -> None:
    path = "/very/long/" + "folder/" * 20 + "libcuda.so.1"
    run = run_of(blockers=[finding(message=f"found {path} first")])
    assert any(path in line for line in lines_of(run))


def test_a_command_stays_on_one_line_wherever_it_stands() -> None:
    commands = ["$ " + "one word " * 20 + "end", "or: $ " + "one word " * 20 + "end"]
    lines = lines_of(run_of(blockers=[finding(fix=commands)]))
    assert [f"  fix    {commands[0]}", f"         {commands[1]}"] == [line for line in lines if "one word" in line]


def test_the_order_is_verdict_blockers_warnings_waiting_report() -> None:
    assert [line.split()[0] for line in lines_of(FULL) if line and not line.startswith(" ")] == [
        "BioNeMo", "1", "BLOCKED", "WARNING", "explain", "waiting", "not", "not", "report",
    ]  # fmt: skip


def test_a_blocked_run_reads_like_this() -> None:
    run = run_of(
        blockers=[finding(fix=["$ a", "or b"], links=["https://l"])],
        not_run=waiting("bionemo/torch::imports", "bionemo/torch::covers[gpu0]", "bionemo/driver::answers"),
    )
    assert lines_of(run) == [
        "BioNeMo readiness: BLOCKED",
        "1 blocker, 3 checks wait, level quick, 4.1 s",
        "",
        "BLOCKED  bionemo/driver::loads",
        "  seen   no driver",
        "  why    nothing can run",
        "  fix    $ a",
        "         or b",
        "  see    https://l",
        "explain  $ python -m pytest_bionemo explain driver::loads",
        "waiting  3 checks for bionemo/driver::loads: torch 2, driver 1",
        "         (-v lists them)",
        "report   r.json",
    ]


def test_the_summary_says_how_to_ask_about_a_finding_or_about_all_of_them() -> None:
    def asked(path: str = "r.json", **parts: Any) -> list[str]:
        lines = [line for line in terminal.summary(run_of(**parts), path, 80, 0) if line.text.startswith("explain")]
        assert all(line.style == "dim" for line in lines)
        return [line.text.removeprefix("explain  $ python -m pytest_bionemo explain ") for line in lines]

    one, two = finding("bionemo/driver::answers[gpu0]"), finding("bionemo/host::x")
    assert asked(warnings=[one]) == ["driver::answers"]
    assert asked(blockers=[one], warnings=[two]) == ["--report r.json"]
    assert asked("my report.json", blockers=[one, two]) == ["--report 'my report.json'"]
    assert asked("", blockers=[one, two]) == ["driver::answers"]  # no report is kept
    assert asked(not_run=[gap(None)]) == []
    # A plugin that was loaded with -p offered it: nobody knows of it afterwards but the report.
    topics = [{"name": "driver", "module": "pytest_bionemo.checks.driver"}, {"name": "disk", "module": "acme.disk"}]
    assert asked(blockers=[one], topics=topics) == ["driver::answers"]
    assert asked(blockers=[finding("bionemo/disk::is_there")], topics=topics) == ["--report r.json"]
    assert asked("", blockers=[finding("bionemo/disk::is_there")], topics=topics) == ["disk::is_there"]
    unwritten = terminal.summary(run_of(blockers=[one, two]), "r.json", 80, 0, write_error="no space left")
    assert any(line.text.endswith("explain driver::answers") for line in unwritten)


def test_quiet_leaves_one_line_for_each_finding() -> None:
    run = run_of(blockers=[finding()], warnings=[finding("bionemo/host::x", message="small")], not_run=[gap(None)])
    assert lines_of(run, verbosity=-1) == [
        "BioNeMo readiness: BLOCKED",
        "1 blocker, 1 warning, 1 not run, level quick, 4.1 s",
        "BLOCKED  bionemo/driver::loads: no driver",
        "WARNING  bionemo/host::x: small",
        "report   r.json",
    ]


def test_verbose_lists_every_check_that_waits() -> None:
    checks = ["bionemo/torch::imports", "bionemo/torch::covers[gpu0]"]
    lines = lines_of(run_of(blockers=[finding()], not_run=waiting(*checks)), verbosity=1)[8:]
    assert [line.strip() for line in lines if line.startswith("         ")] == checks
    assert "(-v lists them)" not in "".join(lines)


def test_a_why_that_is_not_known_is_left_out() -> None:
    assert not [line for line in lines_of(run_of(blockers=[finding(why="")])) if "why" in line]


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"blockers": [finding()] * 2}, "2 blockers, level quick, 4.1 s"),
        ({"warnings": [finding()]}, "1 warning, level quick, 4.1 s"),
        ({"warnings": [finding()] * 2}, "2 warnings, level quick, 4.1 s"),
        ({"not_run": waiting("bionemo/a::b")}, "1 check waits, level quick, 4.1 s"),
        ({"not_run": waiting("bionemo/a::b", "bionemo/a::c")}, "2 checks wait, level quick, 4.1 s"),
        ({"not_run": [gap("bionemo/a::b"), gap(None, "x")]}, "2 not run, level quick, 4.1 s"),
        ({"duration_s": 0.04, "level": "full"}, "level full, 0.0 s"),
    ],
)
def test_the_facts_are_counted_in_good_english(changes: Json, facts: str) -> None:
    assert lines_of(run_of(**changes))[1] == facts


def test_ready_says_when_no_kernel_was_run() -> None:
    ready = run_of("READY", summary="READY at level quick: no GPU kernel was run")
    assert lines_of(ready)[1] == "level quick, no GPU kernel was run, 4.1 s"
    assert "kernel" not in "".join(lines_of(run_of("READY", summary="READY at level standard")))


def test_ready_for_install_says_how_to_install() -> None:
    options = ["$ pip install bionemo-core", "or a recipe"]
    lines = lines_of(run_of("READY_FOR_INSTALL", install_options=options))
    assert "install  $ pip install bionemo-core" in lines
    assert "         or a recipe" in lines
    assert not [line for line in lines_of(run_of("READY", install_options=options)) if "install" in line]


def test_gaps_of_one_reason_stand_together() -> None:
    few, many = [f"bionemo/few::c{n}" for n in range(3)], [f"bionemo/many::c{n}" for n in range(4)]
    run = run_of("INCONCLUSIVE", not_run=[*map(gap, few), *(gap(check, "the run ended before it") for check in many)])
    text = lines_of(run, 200)
    assert f"not run  {', '.join(few)}: deselected" in text
    assert "not run  4 checks (many 4): the run ended before it" in text
    assert "         bionemo/many::c3" in lines_of(run, 200, 1)
    assert "         bionemo/few::c0" not in lines_of(run, 200, 1)
    assert "not run  the run has not finished" in lines_of(run_of(not_run=[gap(None, "the run has not finished")]))


def test_each_check_that_is_waited_for_has_its_line() -> None:
    names = ["bionemo/driver::loads", "bionemo/torch::covers[gpu0]"]
    gaps = [*waiting("bionemo/a::b", waits_for=names[0]), *waiting("bionemo/a::c", waits_for="bionemo/torch::covers")]
    run = run_of(blockers=[finding(name) for name in names], not_run=gaps)
    assert lines_of(run)[-3:-1] == [
        "waiting  1 check for bionemo/driver::loads: a 1",
        "waiting  1 check for bionemo/torch::covers: a 1",
    ]
    assert "(-v lists them)" not in "".join(lines_of(run))


def test_why_checks_wait_for_one_that_has_no_finding_is_said() -> None:
    away = waiting("bionemo/collectives::a", waits_for="bionemo/collectives::every_node_arrives")
    away = [{**away[0], "reason": "not every node is here"}]
    deselected = gap("bionemo/collectives::every_node_arrives")
    assert lines_of(run_of(not_run=away), 160)[3:4] == [
        "waiting  1 check for bionemo/collectives::every_node_arrives: collectives 1, since not every node is here"
    ]
    assert lines_of(run_of(not_run=[*away, deselected]))[3:6] == [
        "waiting  1 check for bionemo/collectives::every_node_arrives: collectives 1,",
        "         since not every node is here, itself not run (deselected)",
        "not run  bionemo/collectives::every_node_arrives: deselected",
    ]
    many = [{**away[0], "reason": f"GPU {index} is away"} for index in range(8)]
    (line,) = [line for line in lines_of(run_of(not_run=many), 400) if line.startswith("waiting")]
    assert line.endswith(", since GPU 0 is away; GPU 1 is away; GPU 2 is away; and 5 more")


def test_a_report_that_is_not_written_is_said_in_the_title() -> None:
    lines = list(terminal.summary(run_of("READY"), "r.json", 80, 0, write_error="no space left"))
    assert lines[0].text == "BioNeMo readiness: READY, but the report is not written"
    assert lines[0].style == "blocked"
    assert lines[-1].text == "REPORT   r.json could not be written: no space left"


def test_the_path_of_the_report_is_never_wrapped() -> None:
    path = "a folder with spaces " * 10 + "r.json"
    assert [*terminal.summary(run_of(), path, 80, 0)][-1].text == f"report   {path}"


@pytest.mark.parametrize(
    ("verdict", "markup"),
    [
        ("READY", {"green": True}),
        ("READY_FOR_INSTALL", {"green": True}),
        ("BLOCKED", {"red": True}),
        ("INCONCLUSIVE", {"yellow": True}),
    ],
)
def test_the_colour_of_the_title_is_that_of_the_verdict(verdict: str, markup: Mapping[str, bool]) -> None:
    title, *others = terminal.summary(run_of(verdict), "r.json", 80, 0)
    assert (title.is_title, title.text, MARKUP[title.style]) == (True, f"BioNeMo readiness: {verdict}", markup)
    assert not any(line.is_title for line in others)


def test_labels_carry_the_colour_and_the_text_is_plain() -> None:
    by_label = {line.text.split()[0]: line for line in terminal.summary(FULL, "r.json", 80, 0) if line.text.strip()}
    styles = {label: by_label[label].parts[0][1] for label in ("BLOCKED", "WARNING", "waiting", "report")}
    assert styles == {"BLOCKED": "blocked", "WARNING": "unknown", "waiting": "unknown", "report": "plain"}
    assert {by_label[label].parts[1][1] for label in styles} == {"plain"}
    assert Line(()).style == "plain"


@pytest.mark.parametrize("verbosity", [-1, 0, 1])
def test_every_style_can_be_shown(verbosity: int) -> None:
    parts = [part for line in terminal.summary(FULL, "r.json", 80, verbosity) for part in line.parts]
    assert {style for _, style in parts} <= set(MARKUP)
    assert ("BLOCKED  ", "blocked") in parts
    assert ("WARNING  ", "unknown") in parts


def test_a_message_of_several_paragraphs_keeps_them() -> None:
    lines = lines_of(run_of(blockers=[finding(message="one\n\ntwo")]))
    assert lines[4:7] == ["  seen   one", "", "         two"]


# ---- targets


def target(name: str, *reasons: str, **changes: Any) -> Json:
    """A target of the report, runnable unless there are reasons; packages alone are missing unless told otherwise."""
    entry: Json = {"name": name, "runnable": not reasons, "installed": not reasons, "fits": True}
    entry |= {"reasons": list(reasons), "plan": "DDP over 8 GPUs", "length": 1024, "published": []}
    entry |= {"estimated_memory_bytes": 14_800_000_000, "is_lower_bound": False, "largest_micro_batch": 48}
    entry |= {"available_memory_bytes": 85_500_000_000, "expected_tokens_per_s": None}
    return {**entry, **changes}


def shown(*entries: Json, verbosity: int = 0, width: int = 80) -> list[str]:
    lines = lines_of(run_of("READY", targets=list(entries)), width, verbosity)
    return lines[3:-1]


def test_targets_take_two_lines_that_say_what_works_and_what_is_near() -> None:
    near, far = target("evo2-7b", "13 packages missing"), target("evo2-40b", "too large", fits=False)
    assert shown(target("esm2-8m"), target("esm2-35m"), near, far) == [
        "targets  2 of 4 can be trained here: esm2-8m, esm2-35m",
        "         1 needs only packages: evo2-7b",
    ]


def test_where_no_target_is_near_there_is_no_line() -> None:
    assert shown(target("esm2-8m", "no driver", fits=False), target("esm2-35m", "no driver", fits=False)) == []


def test_verbose_says_of_each_target_why_or_how() -> None:
    published = [{"value": 95871.0, "unit": "tokens/s", "how": "BF16"}, {"value": 1.0, "unit": "s", "how": "other"}]
    runnable = target("esm2-650m", expected_tokens_per_s=71234.5, published=published)
    evo2 = target("evo2-1b", is_lower_bound=True, largest_micro_batch=None)
    same = [target(name, "one", "two") for name in ("evo2-7b", "evo2-40b")]
    assert shown(runnable, evo2, *same, verbosity=1, width=200) == [
        "targets  esm2-650m: DDP over 8 GPUs, 14.8 GB of 85.5 GB on each, micro-batch up to 48 x 1024, "
        "expect 71,234 tokens/s, published 95,871 tokens/s (BF16)",
        "         evo2-1b: DDP over 8 GPUs, at least 14.8 GB of 85.5 GB on each",
        "         evo2-7b, evo2-40b: one; two",
    ]


def test_all_targets_fit_into_a_few_lines_of_eighty_columns() -> None:
    lines = shown(*map(target, targets.names()))
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 5


# ---- numbers


def number(name: str = "matmul_bf16", value: float | None = 742.13, unit: str = "TFLOP/s", **changes: Any) -> Json:
    entry: Json = {"name": name, "value": value, "unit": unit, "device": "GPU-a", "samples": 30, "ci95": None}
    rulers = dict.fromkeys(("bound", "reference", "peer_median", "baseline"))
    return {**entry, **rulers, "judgement": "good", **changes}


def measured(*numbers: Json, width: int = 120, verbosity: int = 0) -> list[Line]:
    lines = list(terminal.summary(run_of("READY", measurements=list(numbers)), "r.json", width, verbosity))
    texts = [line.text for line in lines]
    first = next((place for place, text in enumerate(texts) if text.startswith("measured")), len(lines) - 1)
    return lines[first:-1]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        (
            [number(bound=989.4, reference=794.5)],
            "measured matmul bf16: 742.1 TFLOP/s (93% of the reference, 75% of the bound)",
        ),
        (
            [number(peer_median=740.0, baseline=800.0)],
            "measured matmul bf16: 742.1 TFLOP/s (100% of its peers, 93% of before)",
        ),
        ([number(judgement="unjudged")], "measured matmul bf16: 742.1 TFLOP/s (unjudged)"),
        (
            [number(judgement="low", reference=1484.26)],
            "measured matmul bf16: 742.1 TFLOP/s (low: 50% of the reference)",
        ),
        ([number(), number(value=751.0)], "measured matmul bf16: 742.1 TFLOP/s to 751 TFLOP/s"),
        ([number(value=None, judgement="untrusted")], "measured matmul bf16: no number (untrusted)"),
        ([number("kernel_launch", 5.21e-6, "s")], "measured kernel launch: 5.21 µs"),
        ([number("share", 0.5, "1")], "measured share: 0.5"),
        ([number("tokens", 18070.4, "tokens/s")], "measured tokens: 18,070 tokens/s"),
        ([number("fft", 4e-4, "s", bound=4e-6)], "measured fft: 400 µs (100 x the bound)"),
        ([number(value=8.0, bound=1000.0)], "measured matmul bf16: 8 TFLOP/s (0.8% of the bound)"),
        ([number("tokens", 0, "token/s")], "measured tokens: 0 token/s"),
    ],
    ids=str,
)
def test_a_number_is_shown_with_its_rulers(numbers: list[Json], text: str) -> None:
    assert [line.text for line in measured(*numbers)] == [text]


def test_of_several_devices_the_worst_is_held_against_its_rulers() -> None:
    good, bad = number(reference=750.0), number(value=250.0, reference=750.0, judgement="low")
    (line,) = measured(good, bad)
    assert line.text == "measured matmul bf16: 250 TFLOP/s to 742.1 TFLOP/s (low: 33% of the reference)"
    assert line.style == "blocked"


def test_numbers_that_are_not_judged_are_listed_when_asked_for() -> None:
    exposure = number("verified_macs_bf16", 1.65e15, "MAC", judgement=None)
    assert measured(exposure) == []
    assert [line.text for line in measured(exposure, verbosity=1)] == ["measured verified macs bf16: 1.65 PMAC"]


# ---- whole runs

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
TITLE = re.compile(r"^=+ BioNeMo readiness: (\w+) =+$", re.MULTILINE)


def rows(run: Run) -> list[str]:
    return COLOUR.sub("", run.stdout).splitlines()


def test_a_run_without_a_driver_reads_like_this(rig: Rig) -> None:
    run = rig.validate()
    text = rows(run)
    assert "bionemo: level quick, no NVIDIA driver answers (NVML Shared Library Not Found)" in text
    topics = [row for row in text if row.startswith("bionemo/")]
    assert [row.split()[0] for row in topics] == [
        "bionemo/host",
        "bionemo/platform",
        "bionemo/driver",
        "bionemo/health",
        "bionemo/torch",
        "bionemo/lightning",
        "bionemo/stack",
        "bionemo/packages",
        "bionemo/targets",
    ]
    title = next(number for number, row in enumerate(text) if TITLE.match(row))
    assert text[title + 3] == "BLOCKED  bionemo/driver::loads"
    assert "report   bionemo_validation_report.json" in text
    assert max(len(row) for row in text[title:] if "https://" not in row) <= 80
    assert run.stderr == ""


@pytest.mark.parametrize(("columns", "most"), [("80", 80), ("120", 120)])
@pytest.mark.parametrize("arguments", [(), ("-q",), ("-v",)], ids=str)
def test_a_run_fits_its_terminal(rig: Rig, columns: str, most: int, arguments: tuple[str, ...]) -> None:
    rig.node, rig.torch = A10Gx1, StandinTorch()
    rig.variables["COLUMNS"] = columns
    run = rig.validate(*arguments)
    assert run.verdict == "BLOCKED"
    shown = rows(run)
    title = next(number for number, row in enumerate(shown) if TITLE.match(row))
    exempt = ("https://", "$ ", "bionemo/")
    long = [row for row in shown[title:] if len(row) > most and not any(word in row for word in exempt)]
    assert long == []


@pytest.mark.parametrize(
    ("set_up", "header"),
    [
        ({"node": T4x1}, "bionemo: level quick, 1 GPU (Tesla T4), driver 580.95.05"),
        ({"node": H100x8}, "bionemo: level quick, 8 GPUs (NVIDIA H100 80GB HBM3), driver 580.95.05"),
    ],
)
def test_the_header_names_level_gpus_and_driver(rig: Rig, set_up: Json, header: str) -> None:
    rig.node = set_up["node"]
    run = rig.validate()
    assert header in rows(run)
    assert rows(run).count(header) == 1


def test_without_a_header_there_is_none(rig: Rig) -> None:
    run = rig.validate("--no-header")
    assert not [row for row in rows(run) if row.startswith("bionemo:")]
    assert TITLE.search("\n".join(rows(run)))


@pytest.mark.parametrize(
    ("arguments", "variables", "coloured"),
    [
        ((), {}, False),
        (("--color=yes",), {}, True),
        ((), {"FORCE_COLOR": "1"}, True),
        ((), {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        (("--color=no",), {"FORCE_COLOR": "1"}, False),
    ],
)
def test_colour_is_there_when_asked_for(
    rig: Rig, arguments: Sequence[str], variables: Mapping[str, str], coloured: bool
) -> None:
    rig.variables |= variables
    run = rig.validate(*arguments)
    assert ("\x1b[" in run.stdout) is coloured
    red_title = re.search(r"\x1b\[31m[^\n]*BioNeMo readiness: BLOCKED", run.stdout)
    assert bool(red_title) is coloured
    assert "BioNeMo readiness: BLOCKED" in run.stdout


def test_a_finding_is_told_once_and_not_among_the_failures(rig: Rig) -> None:
    run = rig.validate()
    assert run.verdict == "BLOCKED"
    assert "FAILURES" not in run.stdout
    assert run.stdout.count("libnvidia-ml.so.1 is not found") == 1
    assert "1 failed" in run.stdout


PLAIN_CHECK = '''
from pytest_bionemo import check

@check()
def adds_up():
    """One and one is two."""
    one = 1
    assert one + one == 3

@check()
def crashes():
    """It crashes."""
    raise ValueError("odd value")
'''


NO_SUMMARY = pytest.param(
    ("--no-summary",),
    marks=pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest 8 silences every summary, ours too"),
)


@pytest.mark.parametrize("arguments", [(), ("-rA",), ("--tb=short",), ("-n", "2"), NO_SUMMARY], ids=" ".join)
def test_what_is_no_finding_of_ours_is_shown_in_full(rig: Rig, arguments: tuple[str, ...]) -> None:
    rig.site.joinpath("our_math.py").write_text(PLAIN_CHECK)
    rig.write("conftest.py", "def pytest_bionemo_checks(config): return ['our_math']")
    rig.write("test_user.py", "def test_of_the_user():\n    assert 'apples' == 'pears'")
    run = rig.validate("test_user.py", *arguments)
    shown = "\n".join(rows(run))
    if arguments != ("--no-summary",):
        failures = shown[shown.index("= FAILURES =") :]
        assert "assert (1 + 1) == 3" in failures
        assert "odd value" in failures
        assert "assert 'apples' == 'pears'" in failures
        assert not re.search(r"^_+ loads _+$", shown, re.MULTILINE)
    assert TITLE.search(shown)
    assert "BLOCKED  bionemo/our_math::adds_up" in shown
    assert "the check itself failed: ValueError: odd value" in " ".join(shown.split())


@pytest.mark.parametrize("arguments", [("-rA",), ("--tb=short",), ("--tb=no",), ("-qq",), ("-vv",), ("-x",)], ids=str)
def test_the_verdict_is_there_under_every_style(rig: Rig, arguments: tuple[str, ...]) -> None:
    run = rig.validate(*arguments)
    shown = "\n".join(rows(run))
    assert TITLE.findall(shown) == ["BLOCKED"]
    assert "report   bionemo_validation_report.json" in shown
    assert "Traceback" not in shown + run.stderr
    assert "INTERNALERROR" not in shown + run.stderr


def test_quiet_runs_tell_each_finding_on_one_line(rig: Rig) -> None:
    shown = rows(rig.validate("-q"))
    assert [row for row in shown if row.startswith("BLOCKED")] == [
        "BLOCKED  bionemo/driver::loads: no NVIDIA driver: libnvidia-ml.so.1 is not",
    ]
    assert not [row for row in shown if row.startswith("  fix")]


def test_verbose_runs_list_what_waits(rig: Rig) -> None:
    shown = rows(rig.validate("-v"))
    assert "         bionemo/torch::imports" in shown
    assert not [row for row in shown if "(-v lists them)" in row]


def test_a_terminal_for_ascii_gets_only_ascii(rig: Rig) -> None:
    rig.node, rig.torch = A10Gx1, StandinTorch()
    rig.variables |= {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    run = rig.validate("-v")
    assert run.verdict == "BLOCKED"
    assert run.stdout.isascii()
    assert run.stderr == ""


def test_a_warning_is_told_and_is_no_failure(healthy_rig: Rig) -> None:
    healthy_rig.node = H100x8.with_driver("580.40", 13000)
    healthy_rig.torch = StandinTorch(cuda="13.0")
    run = healthy_rig.validate()
    shown = rows(run)
    assert run.warnings
    assert "WARNING  bionemo/driver::has_all_features_for_torch" in shown
    assert TITLE.findall("\n".join(shown)) == ["READY_FOR_INSTALL"]
    assert "1 warned" in run.stdout
    assert " failed" not in run.stdout
    assert re.search(r"^install  .*\$ pip install bionemo-core", run.stdout, re.MULTILINE | re.DOTALL)
    assert "no GPU kernel was run" in run.stdout
