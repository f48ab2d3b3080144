"""The verdict as a pure function of documents made by hand."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from pytest_bionemo import fold
from pytest_bionemo.model import Action, VerdictName
from pytest_bionemo.report import hyperpod
from pytest_bionemo.verdict import ReportError, Verdict, exit_status

Json = dict[str, Any]
STAGES = ("setup", "call", "teardown")
LOADS, WARNS = "bionemo/driver::loads", "bionemo/driver::is_new"
READY = (VerdictName.READY, VerdictName.READY_FOR_INSTALL)


def declared(nodeid: str = LOADS, **changes: Any) -> Json:
    """A check as the report lists it."""
    topic, _, name = nodeid.removeprefix("bionemo/").partition("::")
    entry = {"id": nodeid, "topic": topic, "name": name.partition("[")[0], "title": f"{name} holds."}
    return {**entry, "severity": "blocker", "level": "quick", "device": None, **changes}


def said(**properties: str) -> list[Json]:
    """Properties as pytest-json-report writes them."""
    return [{f"bionemo_{name}": value} for name, value in properties.items()]


def ran(
    nodeid: str = LOADS,
    outcome: str = "passed",
    properties: Sequence[Json] = (),
    stages: Json | None = None,
    **named: Any,
) -> Json:
    """A test of the report; its stages passed unless told otherwise, and None takes one away."""
    every = {**{stage: {"outcome": "passed"} for stage in STAGES}, **(stages or {}), **named}
    recorded = list(properties) or (said(outcome="passed") if outcome == "passed" else [])
    entry = {"nodeid": nodeid, "outcome": outcome, "user_properties": recorded}
    return entry | {stage: value for stage, value in every.items() if value is not None}


def found(nodeid: str = LOADS, outcome: str = "failed", **properties: str) -> Json:
    """A test that ended with a finding."""
    finding = {"outcome": "failed", "message": "no driver", "action": "FIX_SOFTWARE", **properties}
    return ran(nodeid, outcome, said(**finding), call={"outcome": outcome})


def skipped(nodeid: str = LOADS, **properties: str) -> Json:
    return ran(nodeid, "skipped", said(**properties), call={"outcome": "skipped", "longrepr": "('x.py', 1, 'S: no')"})


def absent(nodeid: str = LOADS) -> Json:
    return skipped(nodeid, outcome="not_applicable", message="there is one GPU")


def crashed(nodeid: str = LOADS, **stages: Any) -> Json:
    crash = {"outcome": "failed", "crash": {"message": "ValueError: odd\nmore"}, "longrepr": "a traceback"}
    return ran(nodeid, "failed", **({"call": crash} | stages))


def topic(name: str = "driver", *checks: str, error: str | None = None) -> Json:
    return {"name": name, "module": f"m.{name}", "checks": list(checks), "error": error}


def document(
    checks: Sequence[Json] | None = None, tests: Sequence[Json] | None = None, exitcode: Any = 0, **changes: Any
) -> Json:
    """A whole report: one required check that passed, unless told otherwise."""
    checks = [declared()] if checks is None else list(checks)
    topics = [topic(name) for name in dict.fromkeys(check["topic"] for check in checks)]
    run: Json = {"level": "quick", "device": "cuda", "checks": checks, "topics": topics, "deselected": []}
    entries = [ran()] if tests is None else list(tests)
    return {"exitcode": exitcode, "tests": entries, "bionemo": {**run, "packages": [], **changes}}


def fold_one(test: Json | None, **changes: Any) -> Verdict:
    """The verdict of a run with one check that ended so, beside one that passed."""
    other = "bionemo/host::runs_linux"
    return fold(document([declared(**changes), declared(other)], [*([test] if test else []), ran(other)]))


def reason(verdict: Verdict) -> str:
    (gap,) = verdict.not_run
    return str(gap["reason"])


# ---- the table of verdicts


PACKAGE = {"name": "bionemo-core", "version": "2.4.5", "category": "x", "fate": "x"}
ABSENT_PACKAGE = {**PACKAGE, "name": "bionemo-llm", "version": None}


@pytest.mark.parametrize(
    ("tests", "packages", "name"),
    [
        ([ran()], [PACKAGE], VerdictName.READY),
        ([ran()], [ABSENT_PACKAGE, PACKAGE], VerdictName.READY),
        ([ran()], [ABSENT_PACKAGE], VerdictName.READY_FOR_INSTALL),
        ([ran()], [], VerdictName.READY_FOR_INSTALL),
        ([absent()], [PACKAGE], VerdictName.INCONCLUSIVE),
        ([found()], [PACKAGE], VerdictName.BLOCKED),
        ([skipped()], [PACKAGE], VerdictName.INCONCLUSIVE),
        ([], [PACKAGE], VerdictName.INCONCLUSIVE),
    ],
)
def test_the_table_of_verdicts_holds(tests: list[Json], packages: list[Json], name: VerdictName) -> None:
    verdict = fold(document(tests=tests, packages=packages))
    assert verdict.name is name
    assert verdict.is_ready is (name in READY)
    assert verdict.to_json()["verdict"] == name.value


RUNNABLE = {"name": "esm2-8m", "runnable": True, "installed": True}
UNFIT = {**RUNNABLE, "runnable": False}


@pytest.mark.parametrize(
    ("targets", "packages", "name"),
    [
        ([UNFIT, RUNNABLE], [ABSENT_PACKAGE], VerdictName.READY),
        # Its requirements are installed, but not for this machine: nothing here works.
        ([UNFIT], [ABSENT_PACKAGE], VerdictName.READY_FOR_INSTALL),
        ([UNFIT], [PACKAGE], VerdictName.READY),
        ([], [ABSENT_PACKAGE], VerdictName.READY_FOR_INSTALL),
    ],
)
def test_a_recipe_that_can_run_is_as_good_as_a_package(
    targets: list[Json], packages: list[Json], name: VerdictName
) -> None:
    assert fold(document(packages=packages, targets=targets)).name is name


@pytest.mark.parametrize("test", [found(), skipped(), None])
def test_a_recipe_that_can_run_is_no_excuse(test: Json | None) -> None:
    assert not fold(document(tests=[test] if test else [], targets=[RUNNABLE])).is_ready


def test_a_blocker_outweighs_every_gap() -> None:
    checks = [declared(), declared("bionemo/torch::imports")]
    verdict = fold(document(checks, [found()], exitcode=2, device="cpu"))
    assert verdict.name is VerdictName.BLOCKED
    assert [gap["check"] for gap in verdict.not_run] == [None, None, "bionemo/torch::imports"]


# ---- how one check ended


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("what", [None, {"outcome": "failed"}, {"outcome": "skipped"}, {}])
def test_a_pass_needs_every_stage_to_have_passed(stage: str, what: Json | None) -> None:
    verdict = fold_one(ran(stages={stage: what}))
    assert verdict.name is VerdictName.INCONCLUSIVE
    assert reason(verdict) == "the run ended inside it"


@pytest.mark.parametrize("outcome", ["xfailed", "xpassed", "rerun", "subtests passed", "warned", "PASSED", "", None])
def test_an_outcome_of_another_kind_proves_nothing(outcome: Any) -> None:
    verdict = fold_one(ran(outcome=outcome))
    assert verdict.name is VerdictName.INCONCLUSIVE
    assert reason(verdict) == f"its outcome is {outcome!r}, which proves nothing"


def test_an_expected_failure_is_a_gap_although_it_carries_a_finding() -> None:
    verdict = fold_one(found(outcome="xfailed"))
    assert verdict.name is VerdictName.INCONCLUSIVE
    assert not verdict.blockers


@pytest.mark.parametrize("outcome", ["failed", "warned"])
@pytest.mark.parametrize(("severity", "lists"), [("blocker", (1, 0)), ("warning", (0, 1))])
def test_a_finding_goes_where_its_severity_says(outcome: str, severity: str, lists: tuple[int, int]) -> None:
    verdict = fold_one(found(outcome=outcome), severity=severity)
    assert (len(verdict.blockers), len(verdict.warnings)) == lists
    assert not verdict.not_run


def test_a_finding_is_told_whole() -> None:
    test = found(message="seen", why="because", fix="$ one\nor two", action="RESET_GPU", links="https://a\nhttps://b")
    (blocker,) = fold_one(test, device="GPU-1").blockers
    assert blocker == {
        "check": LOADS,
        "title": "loads holds.",
        "device": "GPU-1",
        "message": "seen",
        "why": "because",
        "fix": ["$ one", "or two"],
        "action": "RESET_GPU",
        "links": ["https://a", "https://b"],
    }


def test_a_finding_may_say_no_more_than_that_it_is_one() -> None:
    test = ran(outcome="failed", properties=said(outcome="failed"))
    check = declared()
    del check["device"]
    (blocker,) = fold(document([check], [test])).blockers
    empty: Json = {"message": "", "why": "", "fix": [], "action": "NONE", "links": []}
    assert blocker == {"check": LOADS, "title": "loads holds.", "device": None, **empty}


def test_properties_of_other_plugins_are_left_alone() -> None:
    others = [{"outcome": "not_applicable"}, {"another_outcome": "not_applicable"}, {"message": "of another plugin"}]
    test = skipped() | {"user_properties": others}
    assert fold_one(test).name is VerdictName.INCONCLUSIVE
    assert "another plugin" not in reason(fold_one(test))


def test_a_test_without_properties_proves_nothing() -> None:
    test = ran()
    del test["user_properties"]
    assert fold_one(test).name is VerdictName.INCONCLUSIVE


@pytest.mark.parametrize(
    ("test", "text"),
    [
        (crashed(), "ValueError: odd"),
        (crashed() | {"outcome": "error"}, "ValueError: odd"),
        (crashed(call={"outcome": "failed", "longrepr": "first\nlast line\n"}), "last line"),
        (crashed(call={"outcome": "failed", "longrepr": "Each\nE     no fixture x\n> there is y"}), "no fixture x"),
        (crashed(call={"outcome": "failed"}), "no reason is on record"),
        (crashed(call={"outcome": "failed", "crash": {}}), "no reason is on record"),
        (crashed(call={"outcome": "failed", "crash": {}, "longrepr": "one\ntwo"}), "one"),
        (crashed(call={"outcome": "passed", "longrepr": "fine"}), "no reason is on record"),
        (ran(outcome="failed", stages={"???": {"outcome": "failed", "longrepr": "it crashed"}}), "it crashed"),
        (ran(outcome="error", setup={"outcome": "failed", "longrepr": " \n"}, call=None,
             teardown={"outcome": "failed", "longrepr": "in teardown"}), "in teardown"),
    ],
)  # fmt: skip
def test_a_crash_is_a_gap_that_says_how_it_ended(test: Json, text: str) -> None:
    verdict = fold_one(test)
    assert verdict.name is VerdictName.INCONCLUSIVE
    assert reason(verdict) == f"the check itself failed: {text}"
    assert verdict.sections["driver"] == "ERROR"


def test_a_blocker_stays_one_if_its_teardown_breaks_too() -> None:
    verdict = fold_one(found(outcome="error"))
    assert [entry["message"] for entry in verdict.blockers] == ["no driver"]


def test_a_warning_hides_no_error_of_its_teardown() -> None:
    verdict = fold_one(found(outcome="error"), severity="warning")
    assert verdict.name is VerdictName.INCONCLUSIVE
    assert verdict.not_run[0]["required"] is True


@pytest.mark.parametrize("properties", [said(other="x"), said(outcome="error"), said(outcome="not_run")])
def test_a_pass_without_the_record_of_the_check_is_a_gap(properties: list[Json]) -> None:
    verdict = fold_one(ran(properties=properties))
    assert verdict.name is VerdictName.INCONCLUSIVE
    assert "did not come to its end" in reason(verdict)


def test_a_failure_that_somebody_calls_a_pass_stays_a_blocker() -> None:
    assert fold_one(found(outcome="passed")).name is VerdictName.BLOCKED


def test_a_run_in_which_nothing_applies_proves_nothing() -> None:
    verdict = fold(document(tests=[absent()]))
    assert verdict.name is VerdictName.INCONCLUSIVE
    assert reason(verdict) == "no required check passed, which proves nothing"


@pytest.mark.parametrize("outcome", ["failed", "error", "xfailed"])
def test_a_declaration_of_not_applicable_counts_only_in_a_skip(outcome: str) -> None:
    test = absent() | {"outcome": outcome}
    assert fold_one(test).name is VerdictName.INCONCLUSIVE
    assert not fold_one(test).not_applicable


def test_a_skip_that_nobody_declared_is_a_gap_with_its_reason() -> None:
    assert reason(fold_one(skipped())) == "it was skipped: ('x.py', 1, 'S: no')"


@pytest.mark.parametrize("stage", STAGES)
def test_the_reason_of_a_skip_is_found_in_any_stage(stage: str) -> None:
    stages: Json = dict.fromkeys(STAGES) | {stage: {"outcome": "skipped", "longrepr": "because"}}
    assert reason(fold_one(ran(outcome="skipped", stages=stages))) == "it was skipped: because"


def test_a_skip_without_any_reason_says_so() -> None:
    nothing = {"outcome": "skipped", "longrepr": ""}
    assert reason(fold_one(ran(outcome="skipped", call=nothing))) == "it was skipped: no reason is on record"


def test_what_a_check_waits_for_is_told() -> None:
    waiting = {"outcome": "not_run", "message": "PyTorch is not installed", "waits_for": "bionemo/torch::installed"}
    (gap,) = fold_one(skipped(**waiting)).not_run
    assert gap == {
        "check": LOADS,
        "reason": "PyTorch is not installed",
        "waits_for": "bionemo/torch::installed",
        "required": True,
    }


def test_not_applicable_is_neither_pass_nor_gap() -> None:
    verdict = fold_one(absent())
    assert verdict.is_ready
    assert verdict.not_applicable == ({"check": LOADS, "reason": "there is one GPU"},)
    assert not verdict.not_run


def test_not_applicable_may_give_no_reason() -> None:
    assert fold_one(skipped(outcome="not_applicable")).not_applicable == ({"check": LOADS, "reason": ""},)


@pytest.mark.parametrize(
    ("deselected", "why"), [([LOADS], "deselected"), (["bionemo/driver::other"], "the run ended before it")]
)
def test_a_check_without_a_result_is_a_gap(deselected: list[str], why: str) -> None:
    verdict = fold(document(tests=[], deselected=deselected))
    assert verdict.name is VerdictName.INCONCLUSIVE
    assert reason(verdict) == why


def test_a_report_may_say_nothing_of_deselection_or_tests() -> None:
    report = document()
    del report["bionemo"]["deselected"], report["tests"]
    assert reason(fold(report)) == "the run ended before it"


def test_a_report_may_say_nothing_of_packages() -> None:
    report = document()
    del report["bionemo"]["packages"]
    assert fold(report).name is VerdictName.READY_FOR_INSTALL


@pytest.mark.parametrize("missing", ["gpu0", "gpu1"])
def test_one_parameter_of_several_that_did_not_run_is_a_gap(missing: str) -> None:
    ids = [f"bionemo/driver::answers[{gpu}]" for gpu in ("gpu0", "gpu1")]
    verdict = fold(document([declared(one) for one in ids], [ran(one) for one in ids if missing not in one]))
    assert verdict.name is VerdictName.INCONCLUSIVE
    assert [gap["check"] for gap in verdict.not_run] == [f"bionemo/driver::answers[{missing}]"]


@pytest.mark.parametrize("name", ["outcome", "message", "why", "fix", "action", "links", "severity", "waits_for"])
@pytest.mark.parametrize("test", [ran(), found(), skipped()], ids=["passed", "finding", "skipped"])
def test_evidence_that_is_no_text_is_an_error_of_this_check_alone(test: Json, name: str) -> None:
    spoilt = {**test, "user_properties": [*test["user_properties"], {f"bionemo_{name}": 5}]}
    other = "bionemo/host::runs_linux"
    verdict = fold(document([declared(), declared(other)], [spoilt, found(other)]))
    assert [entry["check"] for entry in verdict.blockers] == [other]
    assert reason(verdict) == f"what it said is damaged: bionemo_{name} is no text"
    assert verdict.sections["driver"] == "ERROR"


# ---- ids


def test_the_group_of_a_distributed_run_is_no_part_of_the_id() -> None:
    assert fold_one(ran(f"{LOADS}@gpu")).is_ready


@pytest.mark.parametrize(
    "ids", [[LOADS, f"{LOADS}@gpu", LOADS], [f"{LOADS}@gpu", LOADS, f"{LOADS}@gpu"], [LOADS, LOADS, LOADS]]
)
def test_of_several_tests_of_one_check_the_last_one_counts(ids: list[str]) -> None:
    first, second, last = (ran(nodeid) for nodeid in ids)
    assert fold(document([declared()], [first, second, last])).is_ready
    assert not fold(document([declared()], [first, second, last | {"outcome": "failed"}])).is_ready


@pytest.mark.parametrize(
    "properties",
    [
        [["bionemo_outcome", "passed"]],
        [[["bionemo_outcome", "passed"]]],
        {"bionemo_outcome": "passed"},
        "bionemo_outcome",
        [None],
        7,
    ],
)
def test_properties_of_another_form_make_the_report_a_damaged_one(properties: Any) -> None:
    with pytest.raises(ReportError, match="damaged"):
        fold_one(ran() | {"user_properties": properties})


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("said", [None, "passed", 7, []])
def test_a_stage_that_is_no_object_makes_the_report_a_damaged_one(stage: str, said: Any) -> None:
    with pytest.raises(ReportError, match="damaged"):
        fold_one({**ran(), stage: said}, severity="warning")


@pytest.mark.parametrize("status", [float("inf"), float("-inf"), [], "x"])
def test_an_exit_status_that_is_no_number_makes_the_report_a_damaged_one(status: Any) -> None:
    with pytest.raises(ReportError, match="damaged"):
        fold(document(exitcode=status))


def test_an_at_sign_in_a_parameter_stays() -> None:
    nodeid = "bionemo/driver::answers[a@b]"
    assert fold(document([declared(nodeid)], [ran(nodeid)])).is_ready
    assert fold(document([declared(nodeid)], [ran(f"{nodeid}@group")])).is_ready


def test_an_id_with_an_at_sign_is_never_taken_for_another() -> None:
    short, long = "bionemo/driver::answers", "bionemo/driver::answers@b"
    verdict = fold(document([declared(short), declared(long)], [ran(long)]))
    assert [gap["check"] for gap in verdict.not_run] == [short]


def test_tests_of_the_user_have_no_say() -> None:
    theirs = [
        found("tests/test_x.py::test_y"),
        crashed("tests/test_x.py::test_z"),
        skipped("tests/test_x.py::test_s"),
    ]
    verdict = fold(document(tests=[ran(), *theirs], exitcode=1))
    assert verdict.name is VerdictName.READY_FOR_INSTALL
    assert verdict.to_json() == fold(document()).to_json()


# ---- the run as a whole


@pytest.mark.parametrize(
    ("exitcode", "why"),
    [
        (0, None),
        (1, None),
        (5, None),
        (None, "the run has not finished"),
        (2, "the run was broken off (pytest's exit status 2)"),
        (3, "the run was broken off (pytest's exit status 3)"),
        (4, "the run was broken off (pytest's exit status 4)"),
        (6, "the run was broken off (pytest's exit status 6)"),
    ],
)
def test_only_a_run_that_came_to_its_end_can_be_ready(exitcode: int | None, why: str | None) -> None:
    verdict = fold(document(exitcode=exitcode))
    assert verdict.is_ready is (why is None)
    assert [gap["reason"] for gap in verdict.not_run] == ([why] if why else [])
    assert all(gap["required"] and gap["check"] is None and gap["waits_for"] is None for gap in verdict.not_run)


def test_a_report_without_an_exit_status_has_not_finished() -> None:
    report = document()
    del report["exitcode"]
    assert reason(fold(report)) == "the run has not finished"


def test_a_run_without_checks_proves_nothing() -> None:
    verdict = fold(document([], []))
    assert verdict.name is VerdictName.INCONCLUSIVE
    assert reason(verdict) == "no check was collected"


def test_a_broken_off_run_without_checks_gives_one_reason() -> None:
    assert reason(fold(document([], [], exitcode=3))) == "the run was broken off (pytest's exit status 3)"


def test_a_rehearsal_is_never_ready() -> None:
    verdict = fold(document(device="cpu"))
    assert verdict.name is VerdictName.INCONCLUSIVE
    assert reason(verdict) == "a rehearsal on the device 'cpu' proves nothing about a GPU"


def test_a_topic_that_cannot_be_collected_is_a_gap() -> None:
    report = document(topics=[topic("driver", "loads"), topic("torch", error="ImportError: gone")])
    verdict = fold(report)
    assert verdict.name is VerdictName.INCONCLUSIVE
    (gap,) = verdict.not_run
    assert (gap["check"], gap["reason"]) == ("bionemo/torch", "the topic could not be collected: ImportError: gone")
    assert gap["required"] is True
    assert verdict.sections == {"driver": "PASSED", "torch": "ERROR"}


def test_a_declared_check_that_was_not_collected_is_a_gap() -> None:
    verdict = fold(document(topics=[topic("driver", "loads", "devices_present"), topic("torch", "loads")]))
    assert verdict.name is VerdictName.INCONCLUSIVE
    assert {gap["check"]: gap["reason"] for gap in verdict.not_run} == {
        "bionemo/driver::devices_present": "it was declared and not collected",
        "bionemo/torch::loads": "it was declared and not collected",
    }
    assert verdict.sections == {"driver": "NOT_RUN", "torch": "NOT_RUN"}


def test_a_declared_check_counts_as_collected_through_its_parameters() -> None:
    nodeid = "bionemo/driver::answers[gpu0]"
    assert fold(document([declared(nodeid)], [ran(nodeid)], topics=[topic("driver", "answers")])).is_ready


def test_gaps_stand_in_one_order_the_run_first() -> None:
    report = document(tests=[], exitcode=2, device="cpu", topics=[topic("driver", "loads", "x", error="E: e")])
    assert [gap["check"] for gap in fold(report).not_run] == [
        None,
        None,
        "bionemo/driver",
        "bionemo/driver::x",
        LOADS,
    ]


# ---- severity


@pytest.mark.parametrize("test", [found(WARNS, "warned"), skipped(WARNS), None, ran(WARNS, "xfailed")])
def test_a_warning_check_never_keeps_from_ready(test: Json | None) -> None:
    checks = [declared(), declared(WARNS, severity="warning")]
    verdict = fold(document(checks, [ran(), *([test] if test else [])]))
    assert verdict.is_ready
    assert all(gap["required"] is False for gap in verdict.not_run)
    assert len(verdict.warnings) + len(verdict.not_run) == 1


@pytest.mark.parametrize("outcome", ["failed", "error"])
def test_a_warning_check_that_crashes_keeps_from_ready(outcome: str) -> None:
    checks = [declared(), declared(WARNS, severity="warning")]
    verdict = fold(document(checks, [ran(), crashed(WARNS) | {"outcome": outcome}]))
    assert verdict.name is VerdictName.INCONCLUSIVE
    assert verdict.not_run[0]["required"] is True


def test_a_severity_that_nobody_knows_counts_as_required() -> None:
    assert fold_one(None, severity="blokcer").name is VerdictName.INCONCLUSIVE
    assert fold_one(found(), severity="blokcer").name is VerdictName.BLOCKED


# ---- what the verdict adds


@pytest.mark.parametrize("actions", list(itertools.permutations(["RESET_GPU", "NONE", "REBOOT_NODE"])))
def test_the_strongest_action_of_all_findings_is_the_action(actions: tuple[str, ...]) -> None:
    ids = [f"bionemo/driver::c{number}" for number in range(3)]
    tests = [found(nodeid, action=action) for nodeid, action in zip(ids, actions, strict=True)]
    checks = [declared(nodeid) for nodeid in ids]
    verdict = fold(document(checks, tests))
    assert verdict.action is Action.REBOOT_NODE
    assert verdict.to_json()["action"] == "REBOOT_NODE"
    warning = "bionemo/driver::w"
    checks.append(declared(warning, severity="warning"))
    assert fold(document(checks, [*tests, found(warning, action="REPLACE_NODE")])).action is Action.REPLACE_NODE


def test_without_a_blocker_there_is_nothing_to_do() -> None:
    assert fold(document()).action is Action.NONE


def test_actions_grow_stronger_in_the_order_of_the_design() -> None:
    order = ["NONE", "FIX_SOFTWARE", "FREE_GPU", "RESET_GPU", "REBOOT_NODE", "REPLACE_NODE"]
    assert sorted(Action, key=lambda action: action.strength) == [Action(name) for name in order]


OK, BAD, GAP, OFF, BROKEN = ran, found, skipped, absent, crashed


@pytest.mark.parametrize(
    ("required", "optional", "section"),
    [
        ([OK], [], "PASSED"),
        ([OK], [OFF], "PASSED"),
        ([OFF], [OK], "PASSED"),
        ([OK], [GAP], "PASSED"),
        ([OK], [BAD], "WARNING"),
        ([], [BAD, GAP], "WARNING"),
        ([BAD], [BROKEN], "BLOCKED"),
        ([BAD, GAP, OK], [BAD], "BLOCKED"),
        ([BROKEN, GAP, OK], [BAD], "ERROR"),
        ([OK], [BROKEN, BAD], "ERROR"),
        ([GAP, OK], [BAD], "NOT_RUN"),
        ([OFF], [GAP], "NOT_RUN"),
        ([], [GAP], "NOT_RUN"),
        ([], [], "NOT_RUN"),
        ([OFF], [OFF], "NOT_APPLICABLE"),
    ],
)
def test_a_section_has_the_state_of_its_checks(
    required: list[Callable[[str], Json]], optional: list[Callable[[str], Json]], section: str
) -> None:
    checks, tests = [], []
    for severity, endings in (("blocker", required), ("warning", optional)):
        for number, ending in enumerate(endings):
            nodeid = f"bionemo/numerics::{severity}_{number}"
            checks.append(declared(nodeid, severity=severity))
            tests.append(ending(nodeid))
    other = declared("bionemo/host::linux")
    report = document([*checks, other], [*tests, ran(other["id"])], topics=[topic("numerics"), topic("host")])
    assert fold(report).sections == {"numerics": section, "host": "PASSED"}


def test_a_topic_of_packages_that_are_not_there_has_a_state_of_its_own() -> None:
    nodeid = "bionemo/packages::is_whole[bionemo-core]"
    assert fold(document([declared(nodeid)], [absent(nodeid)])).sections == {"packages": "NO_PACKAGES"}


def test_a_section_is_there_although_its_topic_is_not_listed() -> None:
    assert fold(document(topics=[])).sections == {"driver": "PASSED"}


def test_sections_stand_in_the_order_of_the_topics() -> None:
    checks = [declared("bionemo/b::x"), declared("bionemo/a::x"), declared("bionemo/c::x")]
    topics = [topic("c"), topic("b"), topic("a")]
    assert list(fold(document(checks, [], topics=topics)).sections) == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("report", "summary"),
    [
        (document(), "READY_FOR_INSTALL at level quick: no GPU kernel was run"),
        (document(level="full"), "READY_FOR_INSTALL at level full: no GPU kernel was run"),
        (document([declared(level="standard")], level="standard"), "READY_FOR_INSTALL at level standard"),
        (
            document([declared(), declared(WARNS, level="standard")], [ran(), absent(WARNS)], level="standard"),
            "READY_FOR_INSTALL at level standard: no GPU kernel was run",
        ),
        (document(packages=[PACKAGE]), "READY at level quick: no GPU kernel was run"),
        (document(tests=[found()]), "BLOCKED at level quick: 1 blocker"),
        (
            document([declared(), declared(WARNS)], [found(), found(WARNS)]),
            "BLOCKED at level quick: 2 blockers",
        ),
        (document(tests=[]), "INCONCLUSIVE at level quick: nothing failed, but 1 gap in the proof"),
        (
            document([declared(), declared(WARNS, severity="warning")], [], device="cpu"),
            "INCONCLUSIVE at level quick: nothing failed, but 2 gaps in the proof",
        ),
    ],
)
def test_the_summary_names_verdict_and_level(report: Json, summary: str) -> None:
    assert fold(report).summary == summary


def test_blocked_recommends_the_first_fix_of_each_blocker() -> None:
    checks = [declared(), declared(WARNS), declared("bionemo/torch::imports")]
    tests = [found(fix="$ one\ntwo"), found(WARNS), found("bionemo/torch::imports", fix="three")]
    recommended = (f"{LOADS}: $ one", "bionemo/torch::imports: three")
    assert fold(document(checks, tests, install_options=["$ pip install x"])).recommendations == recommended


def test_inconclusive_recommends_to_ask_each_reason_once() -> None:
    ids = [f"bionemo/driver::c{number}" for number in range(3)]
    checks = [*(declared(nodeid) for nodeid in ids), declared(WARNS, severity="warning")]
    tests = [skipped(nodeid, message=text) for nodeid, text in zip(ids, ["a", "b", "a"], strict=True)]
    verdict = fold(document(checks, [*tests, skipped(WARNS, message="c")], install_options=["$ pip install x"]))
    assert verdict.recommendations == ("find out why: a", "find out why: b")


def test_ready_for_install_recommends_how_to_install() -> None:
    options = ["$ pip install bionemo-core", "or a recipe"]
    assert fold(document(install_options=options)).recommendations == tuple(options)
    assert fold(document()).recommendations == ()


def test_ready_recommends_nothing() -> None:
    assert fold(document(packages=[PACKAGE], install_options=["$ pip install x"])).recommendations == ()


def test_the_verdict_is_written_under_the_names_of_the_schema() -> None:
    checks = [declared(), declared(WARNS, severity="warning"), declared("bionemo/a::x"), declared("bionemo/b::x")]
    verdict = fold(document(checks, [found(), found(WARNS, "warned"), absent("bionemo/a::x")]))
    written = verdict.to_json()
    assert set(written) == {
        *("verdict", "summary", "action", "sections", "recommendations"),
        *("blockers", "warnings", "not_run", "not_applicable"),
    }
    ids = {"blockers": LOADS, "warnings": WARNS, "not_applicable": "bionemo/a::x", "not_run": "bionemo/b::x"}
    assert {name: [entry["check"] for entry in written[name]] for name in ids} == {name: [ids[name]] for name in ids}
    assert (written["sections"], written["summary"]) == (verdict.sections, verdict.summary)
    with pytest.raises(AttributeError):
        verdict.name = VerdictName.READY  # type: ignore[misc]


# ---- the exit status


@pytest.mark.parametrize(
    ("name", "require", "statuses"),
    [
        # pytest's own:  0  1  2  3  4  5
        ("READY", "install", (0, 1, 2, 3, 4, 5)),
        ("READY", "ready", (0, 1, 2, 3, 4, 5)),
        ("READY_FOR_INSTALL", "install", (0, 1, 2, 3, 4, 5)),
        ("READY_FOR_INSTALL", "ready", (1, 1, 2, 3, 4, 1)),
        ("BLOCKED", "install", (1, 1, 2, 3, 4, 1)),
        ("BLOCKED", "ready", (1, 1, 2, 3, 4, 1)),
        ("INCONCLUSIVE", "install", (1, 1, 2, 3, 4, 1)),
        ("INCONCLUSIVE", "ready", (1, 1, 2, 3, 4, 1)),
    ],
)
def test_the_exit_status_is_zero_only_for_enough(name: str, require: str, statuses: tuple[int, ...]) -> None:
    documents = {
        "READY": document(packages=[PACKAGE]),
        "READY_FOR_INSTALL": document(),
        "BLOCKED": document(tests=[found()]),
        "INCONCLUSIVE": document(tests=[]),
    }
    verdict = fold(documents[name])
    assert verdict.name.value == name
    assert tuple(exit_status(verdict, require, status) for status in range(6)) == statuses


# ---- purity and damage


def test_folding_changes_nothing_and_says_the_same_again() -> None:
    report = document(
        [declared(), declared(WARNS, severity="warning")], [found(), found(WARNS, "warned")], exitcode=1
    )
    before = copy.deepcopy(report)
    verdict = fold(report).to_json()
    assert report == before
    report["bionemo"].update(verdict)
    folded_again = fold(json.loads(json.dumps(report))).to_json()
    assert json.dumps(folded_again) == json.dumps(verdict)


@pytest.mark.parametrize("key", list(fold(document()).to_json()))
def test_what_a_former_fold_said_is_not_believed(key: str) -> None:
    lies = fold(document(packages=[PACKAGE])).to_json()
    report = document(tests=[], **{key: lies[key]})
    assert fold(report).to_json() == fold(document(tests=[])).to_json()


def damaged(**changes: Any) -> Json:
    return document() | changes


def without(key: str) -> Json:
    report = document()
    del report["bionemo"][key]
    return report


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"bionemo": None},
        {"bionemo": []},
        {"bionemo": "READY"},
        without("checks"),
        without("topics"),
        without("level"),
        without("device"),
        document(checks=None) | {"bionemo": {**document()["bionemo"], "checks": {}}},
        document(topics=[{"name": "driver", "checks": 5}]),
        document(topics={"driver": None}),
        document(packages=[{"name": "bionemo-core"}]),
        document(deselected=5),
        damaged(bionemo={**document()["bionemo"], "checks": [{}]}),
        damaged(bionemo={**document()["bionemo"], "checks": ["bionemo/driver::loads"]}),
        damaged(tests=[{}]),
        damaged(tests=["passed"]),
        damaged(tests=None),
        damaged(tests=[{**ran(), "setup": "passed"}]),
        damaged(tests=[{**ran(), "user_properties": ["passed"]}]),
        damaged(tests=[found(action="PRAY")]),
        damaged(exitcode="two"),
        damaged(exitcode=[0]),
    ],
)
def test_a_damaged_document_is_no_report(report: Json) -> None:
    with pytest.raises(ReportError, match="not a report of pytest --bionemo-validate"):
        fold(report)


# ---- READY is a proof, over many documents


ENDINGS: dict[str, Callable[[str], Json] | None] = {
    "passed": ran,
    "not applicable": absent,
    "finding": found,
    "crash": crashed,
    "skipped": skipped,
    "no entry": None,
    "xpassed": lambda nodeid: ran(nodeid, "xpassed"),
    "no setup": lambda nodeid: ran(nodeid, setup=None),
    "no call": lambda nodeid: ran(nodeid, call=None),
    "no teardown": lambda nodeid: ran(nodeid, teardown=None),
    "failed teardown": lambda nodeid: ran(nodeid, teardown={"outcome": "failed"}),
    "not applicable, but failed": lambda nodeid: absent(nodeid) | {"outcome": "failed"},
}


def generated() -> Iterator[tuple[Json, bool]]:
    """Documents of two checks, each with whether it proves what READY promises."""
    first, second = LOADS, "bionemo/torch::imports[gpu0]"
    for one, two, severity, exitcode, device, error in itertools.product(
        ENDINGS, ENDINGS, ("blocker", "warning"), (0, 1, 2, None), ("cuda", "cpu"), (None, "E: e")
    ):
        checks = [declared(first), declared(second, severity=severity)]
        pairs = ((first, ENDINGS[one]), (second, ENDINGS[two]))
        tests = [ending(nodeid) for nodeid, ending in pairs if ending]
        topics = [topic("driver", "loads"), topic("torch", "imports", error=error)]
        proves = {"passed", "not applicable"}
        crashes = {"crash", "not applicable, but failed"}
        is_gapless = one in proves and (two in proves or (severity == "warning" and two not in crashes))
        is_proved = is_gapless and (one == "passed" or (two == "passed" and severity == "blocker"))
        is_whole = exitcode in (0, 1) and device == "cuda" and error is None
        yield document(checks, tests, exitcode, device=device, topics=topics), is_proved and is_whole


def test_ready_means_that_every_required_check_is_proved() -> None:
    documents = list(generated())
    wrong = [report for report, is_proved in documents if fold(report).is_ready is not is_proved]
    assert len(documents) == 4608
    assert any(is_proved for _, is_proved in documents)
    assert wrong == []


# ---- findings about another node


def test_what_another_node_is_blamed_for_blocks_here_and_is_no_action_for_this_node() -> None:
    verdict = fold_one(found(action="REPLACE_NODE", blames="node3\nnode7"))
    assert verdict.name is VerdictName.BLOCKED
    assert verdict.action is Action.NONE
    assert verdict.blockers[0]["blames"] == ["node3", "node7"]
    assert fold_one(found(action="REPLACE_NODE")).action is Action.REPLACE_NODE
    run = {"verdict": "BLOCKED", "level": "standard", "blockers": [dict(verdict.blockers[0])], "not_run": []}
    line = hyperpod.line({"bionemo": run}, "node1", 1)
    assert line.startswith("HEALTH_CHECK_RESULT:node1:Skipped:none:BLOCKED at level standard: ")
