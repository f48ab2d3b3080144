"""READY is a proof. Every known way around it is tried here, over a report that says READY from before."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest

from conftest import REPORT, Rig, Run, assert_valid
from pytest_bionemo.verdict import fold
from standin import H100x8, Libraries
from standin.distributions import write_distribution
from standin.environment import Environment
from standin.torch_package import StandinTorch

FORMER_START = "2001-01-01T00:00:00+00:00"
HEADING = "= BioNeMo readiness:"

OFFER_OURS = """
import os
import signal

import pytest


def pytest_bionemo_checks(config):
    return ["ours"]
"""

IMPORTS = """
import logging
import os
import signal

import pytest

from pytest_bionemo import check, fail
"""

FINE = """
@check()
def is_fine():
    "It is fine."
"""

BROKEN = """
@check()
def is_broken():
    "It is broken."
    raise RuntimeError("boom")
"""

FLAKY = """
attempts = []


@check()
def is_flaky():
    "It passes the second time."
    attempts.append(1)
    if len(attempts) == 1:
        {first}
"""

# What pytest-rerunfailures does, for the check of ours.
RERUNS = """
from _pytest.runner import runtestprotocol


def pytest_runtest_protocol(item, nextitem):
    if "ours" not in item.nodeid:
        return None
    for report in runtestprotocol(item, nextitem=item, log=False):
        if report.failed:
            report.outcome = "rerun"
        item.ihook.pytest_runtest_logreport(report=report)
    item._initrequest()
    runtestprotocol(item, nextitem=nextitem)
    return True


def pytest_report_teststatus(report):
    if report.outcome == "rerun":
        return "rerun", "R", "RERUN"
"""


def make_ready(rig: Rig) -> Rig:
    """The machine as its owner wants it: a healthy node with a BioNeMo package."""
    rig.node = H100x8
    rig.torch = StandinTorch()
    write_distribution(rig.site, "bionemo-core", "2.4.1", {"bionemo/core/__init__.py": ""})
    return rig


@pytest.fixture(scope="module")
def former_report(
    plain_environment: Environment, libraries: Libraries, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The report of an earlier run that ended READY."""
    run = make_ready(Rig(plain_environment, libraries, tmp_path_factory.mktemp("former"))).validate()
    assert (run.verdict, run.returncode) == ("READY", 0)
    report = run.report
    report["bionemo"]["started"] = FORMER_START
    assert_valid(report)
    return json.dumps(report)


@pytest.fixture
def ready_rig(rig: Rig, former_report: str) -> Rig:
    """A machine that is READY, in a folder where the report of an earlier run says so."""
    rig.write(REPORT, former_report)
    return make_ready(rig)


def offer(rig: Rig, checks: str, conftest: str = "") -> None:
    """A check module of a third party, offered by the project's conftest file."""
    (rig.site / "ours.py").write_text(IMPORTS + dedent(checks))
    rig.write("conftest.py", OFFER_OURS + dedent(conftest))


def add_plugin(rig: Rig, text: str) -> tuple[str, str]:
    """A plugin beside ours, and the arguments that load it."""
    (rig.site / "beside.py").write_text(f"import os\nimport signal\n\nimport pytest\n\n{dedent(text)}")
    return "-p", "beside"


def as_json(value: object) -> str:
    return json.dumps(value, indent=1)


def assert_folds_again(run: Run) -> None:
    """Hold the verdict in a saved report against the one that its evidence gives."""
    folded = fold(run.report).to_json()
    assert as_json({key: run.bionemo[key] for key in folded}) == as_json(folded)


def assert_fails_closed(run: Run, verdict: str = "INCONCLUSIVE", *, status: int = 1) -> None:
    """Hold a run with a hole in its proof against all that must be true of it."""
    assert run.verdict == verdict not in ("READY", "READY_FOR_INSTALL")
    assert run.returncode == status != 0
    assert f"{HEADING} READY" not in run.stdout
    assert_report_is_of_this_run(run)
    assert_folds_again(run)
    assert run.bionemo["blockers"] if verdict == "BLOCKED" else required_gaps(run)


def assert_report_is_of_this_run(run: Run) -> None:
    assert run.bionemo["started"] != FORMER_START


def assert_is_untouched(run: Run, former_report: str) -> None:
    assert run.report_path.read_text() == former_report


def required_gaps(run: Run) -> list[str | None]:
    return [gap["check"] for gap in run.bionemo["not_run"] if gap["required"]]


def reasons(run: Run) -> str:
    """Everything that the report says about what was not run, or failed."""
    entries = [*run.bionemo["not_run"], *run.bionemo["blockers"]]
    return "\n".join(f"{entry['check']}: {entry.get('reason') or entry['message']}" for entry in entries)


def usage_errors(run: Run) -> list[str]:
    return [line for line in run.stderr.splitlines() if line.strip()]


# ---------------------------------------------------------------------------------- what it takes to be READY


def test_whole_proof_is_ready_and_exits_zero(ready_rig: Rig) -> None:
    run = ready_rig.validate()
    assert (run.verdict, run.returncode) == ("READY", 0)
    assert f"{HEADING} READY " in run.stdout
    assert_report_is_of_this_run(run)
    assert_folds_again(run)


@pytest.mark.parametrize(("require", "status"), [("install", 0), ("ready", 1)])
def test_ready_for_install_exits_as_it_is_required(healthy_rig: Rig, require: str, status: int) -> None:
    run = healthy_rig.validate("--bionemo-require", require)
    assert (run.verdict, run.returncode) == ("READY_FOR_INSTALL", status)
    assert_folds_again(run)


def test_check_of_a_third_party_counts_as_ours_do(ready_rig: Rig) -> None:
    offer(ready_rig, FINE)
    run = ready_rig.validate()
    assert (run.verdict, run.outcome("ours::is_fine")) == ("READY", "passed")


def test_rehearsal_on_the_cpu_proves_nothing(ready_rig: Rig) -> None:
    assert_fails_closed(ready_rig.validate("--bionemo-device", "cpu"))


# ------------------------------------------------------------------------------------- checks that are left out

WITHOUT_CHECKS = [
    (["-k", "gpu0"], "driver::answers[gpu7]", "deselected"),
    (["-k", "gpu0 or not gpu", "-n", "2"], "driver::answers[gpu7]", "deselected"),
    (["-k", "not loads"], "driver::loads", "deselected"),
    (["-m", "not bionemo"], "host::runs_linux", "deselected"),
    (["--deselect", "bionemo/driver::answers[gpu3]"], "driver::answers[gpu3]", "deselected"),
    (["--deselect", "bionemo/torch"], "torch::imports", "deselected"),
    (["--deselect", "bionemo/torch::imports", "-n", "2"], "torch::imports", "deselected"),
    (["bionemo/driver"], "torch::imports", "deselected"),
    (["--setup-plan"], "driver::loads", "ended inside it"),
    (["--setup-only"], "driver::loads", "ended inside it"),
]


@pytest.mark.parametrize(("args", "missing", "reason"), WITHOUT_CHECKS, ids=lambda value: str(value)[:40])
def test_selection_that_leaves_a_required_check_out(
    ready_rig: Rig, args: list[str], missing: str, reason: str
) -> None:
    run = ready_rig.validate(*args)
    assert_fails_closed(run)
    assert reason in run.gap(missing)["reason"]


@pytest.mark.skipif(pytest.version_tuple < (8, 3), reason="-m with arguments of marks is of pytest 8.3")
def test_selection_of_one_topic_by_its_mark(ready_rig: Rig) -> None:
    run = ready_rig.validate("-m", "bionemo(topic='driver')")
    assert_fails_closed(run)
    assert run.outcome("driver::loads") == "passed"
    assert "deselected" in run.gap("torch::imports")["reason"]


@pytest.mark.parametrize("gpus", [2, 8])
def test_one_gpu_of_several_is_not_the_machine(ready_rig: Rig, gpus: int) -> None:
    ready_rig.node = replace(H100x8, gpus=H100x8.gpus[:gpus])
    run = ready_rig.validate("-k", "gpu0 or not gpu")
    assert_fails_closed(run)
    assert run.outcome("driver::answers[gpu0]") == "passed"
    assert run.outcome(f"driver::answers[gpu{gpus - 1}]") == "not_run"


LEFT_OUT_BY_OTHERS = {
    "a conftest that drops an item": """
        def pytest_collection_modifyitems(items):
            items[:] = [item for item in items if item.nodeid != "bionemo/driver::loads"]
        """,
    "a plugin that skips a topic's collection": """
        @pytest.hookimpl(tryfirst=True)
        def pytest_make_collect_report(collector):
            if collector.nodeid == "bionemo/driver":
                return pytest.CollectReport(collector.nodeid, "passed", None, [])
        """,
    "a plugin that takes a function for no test": """
        @pytest.hookimpl(tryfirst=True)
        def pytest_pycollect_makeitem(name):
            if name == "loads":
                return []
        """,
}


@pytest.mark.parametrize("hook", LEFT_OUT_BY_OTHERS.values(), ids=LEFT_OUT_BY_OTHERS)
def test_check_that_another_plugin_drops_silently(ready_rig: Rig, hook: str) -> None:
    run = ready_rig.validate(*add_plugin(ready_rig, hook))
    assert_fails_closed(run)
    assert {"bionemo/driver::loads", "bionemo/driver"} & set(required_gaps(run))


def test_failed_checks_alone_are_no_proof(ready_rig: Rig) -> None:
    ready_rig.node = H100x8.with_gpu_fault(3, "nvmlDeviceGetHandleByIndex_v2", 15)
    assert_fails_closed(ready_rig.validate(), "BLOCKED")
    ready_rig.node = H100x8
    run = ready_rig.validate("--lf")
    assert_fails_closed(run)
    assert run.outcome("driver::answers[gpu3]") == "passed"
    assert run.outcome("host::runs_linux") == "not_run"


@pytest.mark.parametrize("option", ["-x", "--maxfail=1"])
def test_stop_at_the_first_failure(ready_rig: Rig, option: str) -> None:
    ready_rig.node = H100x8.with_gpu_fault(3, "nvmlDeviceGetHandleByIndex_v2", 15)
    run = ready_rig.validate(option)
    assert_fails_closed(run, "BLOCKED")
    assert run.blockers == ["driver::answers[gpu3]"]
    assert run.gap("driver::answers[gpu4]")["reason"] == "the run ended before it"


# ---------------------------------------------------------------------------- checks that do not end as they should

BODIES = {
    "raises": ("raise RuntimeError('boom')", "INCONCLUSIVE", 1, "the check itself failed: RuntimeError: boom"),
    "asserts": ("assert 1 + 1 == 3, 'no sum'", "BLOCKED", 1, "no sum"),
    "finds": ("fail('a finding')", "BLOCKED", 1, "a finding"),
    "is failed by pytest": ("pytest.fail('not so')", "INCONCLUSIVE", 1, "the check itself failed"),
    "is skipped": ("pytest.skip('later')", "INCONCLUSIVE", 1, "later"),
    "lacks a package": ("pytest.importorskip('no_such_package')", "INCONCLUSIVE", 1, "no_such_package"),
    "expects to fail": ("pytest.xfail('known')", "INCONCLUSIVE", 1, "xfailed"),
    "leaves": ("raise SystemExit(0)", "INCONCLUSIVE", 1, "SystemExit"),
    "is interrupted": ("raise KeyboardInterrupt", "INCONCLUSIVE", 2, "ended inside it"),
    "gets a signal": ("os.kill(os.getpid(), signal.SIGINT)", "INCONCLUSIVE", 2, "ended inside it"),
    "exits with success": ("pytest.exit('enough', returncode=0)", "INCONCLUSIVE", 1, "ended inside it"),
    "exits with failure": ("pytest.exit('enough', returncode=1)", "INCONCLUSIVE", 1, "ended inside it"),
    "exits as a usage error": ("pytest.exit('enough', returncode=4)", "INCONCLUSIVE", 4, "exit status 4"),
    "exits as if empty": ("pytest.exit('enough', returncode=5)", "INCONCLUSIVE", 1, "ended inside it"),
}


@pytest.mark.parametrize(("body", "verdict", "status", "reason"), BODIES.values(), ids=BODIES)
def test_last_required_check_that_does_not_pass(
    ready_rig: Rig, body: str, verdict: str, status: int, reason: str
) -> None:
    offer(ready_rig, f"@check()\ndef is_broken():\n    'It is broken.'\n    {body}\n")
    run = ready_rig.validate()
    assert_fails_closed(run, verdict, status=status)
    assert reason in reasons(run)


DECORATED = {
    "skip": ("@pytest.mark.skip(reason='not today')", "pass", "not today"),
    "skipif": ("@pytest.mark.skipif(True, reason='not here')", "pass", "not here"),
    "xfail that fails": ("@pytest.mark.xfail", "assert False", "xfailed"),
    "strict xfail that fails": ("@pytest.mark.xfail(strict=True)", "assert False", "xfailed"),
    "xfail that finds": ("@pytest.mark.xfail", "fail('a finding')", "xfailed"),
    "xfail that passes": ("@pytest.mark.xfail(strict=False)", "pass", "xpassed"),
    "strict xfail that passes": ("@pytest.mark.xfail(strict=True)", "pass", "XPASS(strict)"),
    "xfail that is not run": ("@pytest.mark.xfail(run=False)", "pass", "xfailed"),
    "no parameter": ("@pytest.mark.parametrize('number', [])", "pass", "skipped"),
    "an unknown fixture": ("@pytest.mark.usefixtures('no_such_fixture')", "pass", "no_such_fixture"),
}


@pytest.mark.parametrize(("mark", "body", "reason"), DECORATED.values(), ids=DECORATED)
def test_required_check_under_a_mark_of_pytest(ready_rig: Rig, mark: str, body: str, reason: str) -> None:
    number = "number" if "number" in mark else ""
    offer(ready_rig, f"@check()\n{mark}\ndef is_marked({number}):\n    'It is marked.'\n    {body}\n")
    run = ready_rig.validate()
    assert_fails_closed(run)
    assert reason in reasons(run)


def test_mark_that_a_conftest_adds_to_a_check(ready_rig: Rig) -> None:
    ready_rig.write(
        "conftest.py",
        dedent("""
            import pytest


            def pytest_collection_modifyitems(items):
                for item in items:
                    item.add_marker(pytest.mark.xfail)
            """),
    )
    assert_fails_closed(ready_rig.validate())


@pytest.mark.parametrize("args", [[], ["-n", "2"]], ids=["alone", "two workers"])
def test_one_skipped_parameter_of_several(ready_rig: Rig, args: list[str]) -> None:
    offer(
        ready_rig,
        """
        @check()
        @pytest.mark.parametrize("disk", ["a", pytest.param("b", marks=pytest.mark.skip(reason="slow")), "c"])
        def is_mounted(disk):
            "The disk is mounted."
        """,
    )
    run = ready_rig.validate(*args)
    assert_fails_closed(run)
    assert required_gaps(run) == ["bionemo/ours::is_mounted[b]"]


def test_warning_check_that_crashes_leaves_a_doubt(ready_rig: Rig) -> None:
    offer(ready_rig, "@check(severity='warning')\ndef is_nice():\n    'It is nice.'\n    raise OSError('disk')\n")
    run = ready_rig.validate()
    assert_fails_closed(run)
    assert "disk" in run.gap("ours::is_nice")["reason"]


TEARDOWNS = {
    "raises": ("raise RuntimeError('in teardown')", 1, "in teardown"),
    "is interrupted": ("raise KeyboardInterrupt", 2, "ended inside it"),
    "exits with success": ("pytest.exit('enough', returncode=0)", 1, "ended inside it"),
}


@pytest.mark.parametrize(("end", "status", "reason"), TEARDOWNS.values(), ids=TEARDOWNS)
@pytest.mark.parametrize("scope", ["function", "session"])
def test_teardown_of_the_last_required_check(ready_rig: Rig, scope: str, end: str, status: int, reason: str) -> None:
    offer(
        ready_rig,
        f"""
        @pytest.fixture(scope="{scope}")
        def disk():
            yield
            {end}


        @check()
        def is_mounted(disk):
            "The disk is mounted."
        """,
    )
    run = ready_rig.validate()
    assert_fails_closed(run, status=status)
    assert reason in run.gap("ours::is_mounted")["reason"]


# -------------------------------------------------------------------------- outcomes that other plugins invent

INVENTED = [
    ("call", "passed", "rerun", "pass"),
    ("setup", "passed", "rerun", "pass"),
    ("call", "passed", "", "raise RuntimeError('boom')"),
    ("call", "failed", "passed", "raise RuntimeError('boom')"),
    ("call", "failed", "passed", "fail('a finding')"),
    ("call", "failed", "", "raise RuntimeError('boom')"),
]


@pytest.mark.parametrize(("stage", "outcome", "invented", "body"), INVENTED)
def test_outcome_that_a_conftest_invents(ready_rig: Rig, stage: str, outcome: str, invented: str, body: str) -> None:
    offer(
        ready_rig,
        f"@check()\ndef is_ours():\n    'It is ours.'\n    {body}\n",
        f"""
        @pytest.hookimpl(tryfirst=True)
        def pytest_report_teststatus(report):
            if "ours" in report.nodeid and (report.when, report.outcome) == ("{stage}", "{outcome}"):
                return "{invented}", "?", "INVENTED"
        """,
    )
    run = ready_rig.validate()
    # A finding stays one, whatever the outcome is called.
    assert_fails_closed(run, "BLOCKED" if (body, invented) == ("fail('a finding')", "passed") else "INCONCLUSIVE")
    assert run.verdict == "BLOCKED" or required_gaps(run) == ["bionemo/ours::is_ours"]


CALLS_A_FAILURE_A_PASS = """
@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        report.outcome, report.longrepr = "passed", None
    return report
"""
SWALLOWS_EXCEPTIONS = """
@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except Exception:
        return None
"""
RUNS_NOTHING = """
@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    return True
"""


@pytest.mark.parametrize("body", ["fail('a finding')", "raise RuntimeError('boom')", "assert 1 == 2"])
@pytest.mark.parametrize("plugin", [CALLS_A_FAILURE_A_PASS, SWALLOWS_EXCEPTIONS, RUNS_NOTHING])
def test_plugin_that_makes_passes_of_failures(ready_rig: Rig, plugin: str, body: str) -> None:
    (ready_rig.site / "quarantine.py").write_text("import pytest\n" + plugin)
    offer(ready_rig, f"@check()\ndef is_ours():\n    'It is ours.'\n    {body}\n")
    run = ready_rig.validate("-p", "quarantine")
    assert_fails_closed(run, run.verdict)
    assert run.verdict in ("BLOCKED", "INCONCLUSIVE")


@pytest.mark.parametrize("level", ["1", "2"])
def test_interpreter_that_strips_assertions_is_refused(ready_rig: Rig, level: str) -> None:
    ready_rig.variables["PYTHONOPTIMIZE"] = level
    run = ready_rig.validate()
    assert run.returncode == 4
    assert run.stderr.strip() == "ERROR: --bionemo-validate needs assertions: unset PYTHONOPTIMIZE, drop python -O."


@pytest.mark.parametrize("first", ["fail('a finding')", "raise RuntimeError('boom')"])
def test_check_that_passes_only_when_it_is_repeated(ready_rig: Rig, first: str) -> None:
    offer(ready_rig, FLAKY.format(first=first), RERUNS)
    run = ready_rig.validate()
    assert "1 rerun in" in run.stdout
    assert_fails_closed(run)
    assert required_gaps(run) == ["bionemo/ours::is_flaky"]


# --------------------------------------------------------------------------------------------- runs that die


def test_crash_in_a_check_leaves_no_former_report(ready_rig: Rig) -> None:
    # No one can change the exit status that os._exit gives; the report and the terminal say nothing of READY.
    offer(ready_rig, "@check()\ndef crashes():\n    'It crashes.'\n    os._exit(0)\n")
    run = ready_rig.validate()
    assert_report_is_of_this_run(run)
    assert_folds_again(run)
    assert (run.verdict, reasons(run)) == ("INCONCLUSIVE", "None: the run has not finished")
    assert HEADING not in run.stdout


KILLS = """
@check()
def kills():
    "It kills."
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_run_that_is_killed_in_a_check(ready_rig: Rig) -> None:
    offer(ready_rig, KILLS)
    run = ready_rig.validate()
    assert_fails_closed(run, status=-signal.SIGKILL)
    assert reasons(run) == "None: the run has not finished"


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_run_that_is_killed_leaves_no_child(ready_rig: Rig, by: signal.Signals) -> None:
    ready_rig.torch = StandinTorch(import_hangs=True)
    offer(ready_rig, FINE, f"def pytest_runtestloop():\n    os.kill(os.getpid(), {int(by)})\n")
    run = ready_rig.validate()
    assert_fails_closed(run, status=-by)
    assert reasons(run) == "None: the run has not finished"
    assert_no_process_is_left(ready_rig)


def test_run_that_is_killed_while_the_driver_hangs(ready_rig: Rig) -> None:
    assert ready_rig.node
    ready_rig.node = ready_rig.node.with_fault("nvmlInitWithFlags", "hang")
    with pytest.raises(subprocess.TimeoutExpired):
        ready_rig.validate(timeout=3)
    report = json.loads((ready_rig.project / REPORT).read_text())
    assert report["bionemo"]["verdict"] == "INCONCLUSIVE"
    assert_no_process_is_left(ready_rig)


@pytest.mark.parametrize("hook", ["pytest_configure", "pytest_sessionstart", "pytest_report_header"])
@pytest.mark.parametrize("end", ["pytest.exit('enough', 0)", "raise RuntimeError('boom')"])
def test_run_that_ends_before_it_has_begun(ready_rig: Rig, hook: str, end: str) -> None:
    ready_rig.write("conftest.py", f"import pytest\n\n\ndef {hook}():\n    {end}\n")
    run = ready_rig.validate()
    assert run.verdict == "INCONCLUSIVE"
    assert run.returncode != 0


def test_killed_controller_takes_its_workers_along(ready_rig: Rig) -> None:
    ready_rig.write(
        "conftest.py",
        dedent("""
            import os
            import signal


            def pytest_testnodeready(node):
                os.kill(os.getpid(), signal.SIGKILL)
            """),
    )
    run = ready_rig.validate("-n", "2")
    assert_fails_closed(run, status=-signal.SIGKILL)
    assert_no_process_is_left(ready_rig)


def assert_no_process_is_left(rig: Rig) -> None:
    deadline = time.monotonic() + 20
    while left := processes_of(rig):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.02)


def processes_of(rig: Rig) -> list[str]:
    """The commands of the processes that run on this machine alone, as their environment says."""
    mark = f"PYTHONPATH={rig.site}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in process.joinpath("environ").read_bytes().split(b"\0"):
                found.append(process.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return found


def test_processes_of_a_machine_are_found_while_they_run(rig: Rig) -> None:
    # Else the tests above would pass without looking.
    command = [sys.executable, "-c", "input()"]
    child = subprocess.Popen(command, env={"PYTHONPATH": str(rig.site)}, stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 10  # its environment shows a moment after it is started
        while not (found := processes_of(rig)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [process.split()[-1] for process in found] == ["input()"]
    finally:
        child.communicate(b"\n")
    assert processes_of(rig) == []


# ------------------------------------------------------------------------------------------------ pytest-xdist


def test_worker_that_is_killed_in_a_check(ready_rig: Rig) -> None:
    offer(ready_rig, KILLS + FINE)
    run = ready_rig.validate("-n", "2")
    assert_fails_closed(run)
    assert "crashed" in run.gap("ours::kills")["reason"]
    assert run.outcome("driver::loads") == "passed"


def test_all_workers_killed_after_their_collection(ready_rig: Rig) -> None:
    ready_rig.write(
        "conftest.py",
        dedent("""
            import os
            import signal


            def pytest_collection_finish():
                if "PYTEST_XDIST_WORKER" in os.environ:
                    os.kill(os.getpid(), signal.SIGKILL)
            """),
    )
    run = ready_rig.validate("-n", "2", "--max-worker-restart=0")
    assert_fails_closed(run, status=run.returncode)
    assert not run.bionemo["checks"]


def test_check_that_fails_on_one_worker_of_each(ready_rig: Rig) -> None:
    offer(
        ready_rig,
        """
        @check()
        def is_everywhere():
            "It is on every worker."
            if os.environ["PYTEST_XDIST_WORKER"] == "gw0":
                fail("not on gw0")
        """,
    )
    # The report has one entry for both, with the details of the worker that came last: the finding may be lost, the
    # failure is not.
    run = ready_rig.validate("--dist", "each", "--tx", "2*popen")
    assert_fails_closed(run, "BLOCKED" if run.blockers else "INCONCLUSIVE")


def test_report_that_cannot_be_written_at_the_end(ready_rig: Rig) -> None:
    ready_rig.write(
        "conftest.py",
        dedent(f"""
            import os


            def pytest_runtestloop():
                os.remove("{REPORT}")
                os.mkdir("{REPORT}")
            """),
    )
    run = ready_rig.validate()
    assert run.returncode == 1
    assert "READY, but the report is not written" in run.stdout
    assert [path.name for path in ready_rig.project.iterdir() if path.suffix == ".part"] == []


def test_log_record_that_no_worker_can_send(ready_rig: Rig) -> None:
    offer(
        ready_rig,
        """
        @check()
        def logs():
            "It logs."
            logging.getLogger("ours").warning("seen", extra={"x": object()})
        """,
    )
    run = ready_rig.validate("-n", "2")
    assert (run.verdict, run.returncode) == ("READY", 0)
    assert len(run.report["tests"]) == len(run.bionemo["checks"])
    assert_folds_again(run)


# --------------------------------------------------------------------------------- what other plugins can break


def test_internal_error_after_every_check_passed(ready_rig: Rig) -> None:
    args = add_plugin(
        ready_rig,
        """
        def pytest_runtest_logreport(report):
            if "is_whole[bionemo-noodles]" in report.nodeid and report.when == "teardown":
                raise RuntimeError("not ours")
        """,
    )
    run = ready_rig.validate(*args)
    assert_fails_closed(run, status=3)
    assert "exit status 3" in reasons(run)


BROKEN_SESSIONS = {
    "exits with success": "pytest.exit('done', returncode=0)",
    "sets the exit status": "session.exitstatus = 0",
    "raises": "raise RuntimeError('not ours')",
}


@pytest.mark.parametrize("end", BROKEN_SESSIONS.values(), ids=BROKEN_SESSIONS)
@pytest.mark.parametrize("order", ["", "tryfirst=True", "trylast=True"])
def test_end_of_session_that_is_not_ours(ready_rig: Rig, end: str, order: str) -> None:
    ready_rig.node = H100x8.with_gpu_fault(3, "nvmlDeviceGetHandleByIndex_v2", 15)
    hook = f"@pytest.hookimpl({order})\ndef pytest_sessionfinish(session):\n    {end}\n"
    ready_rig.write("conftest.py", f"import pytest\n\n\n{hook}")
    run = ready_rig.validate()
    assert run.verdict in ("BLOCKED", "INCONCLUSIVE")
    assert_fails_closed(run, run.verdict)


SPOILED = {
    "drops the tests": "json_report.pop('tests', None)",
    "empties every test": "[test.clear() for test in json_report['tests']]",
    "claims another verdict": "json_report['bionemo'] = {'verdict': 'READY'}",
}


@pytest.mark.parametrize("change", SPOILED.values(), ids=SPOILED)
@pytest.mark.parametrize("order", ["", "tryfirst=True"])
def test_report_that_another_plugin_changes(ready_rig: Rig, change: str, order: str) -> None:
    offer(
        ready_rig,
        BROKEN,
        f"@pytest.hookimpl({order})\ndef pytest_json_modifyreport(json_report):\n    {change}\n",
    )
    run = ready_rig.validate()
    assert run.returncode == 1
    assert run.verdict == "INCONCLUSIVE"
    assert_report_is_of_this_run(run)
    assert_folds_again(run)


JSON_OPTIONS: list[list[str]] = [
    ["--json-report-summary"],
    ["--json-report-omit", "collectors", "keywords", "traceback"],
    ["--json-report-file", "mine.json"],
    ["--json-report", "--json-report-file", "mine.json", "--json-report-summary"],
    ["--json-report", "--json-report-file", "mine.json", "--json-report-omit", "collectors"],
    ["--json-report", "--json-report-file", REPORT],
    ["--json-report", "--json-report-file", "none"],
]


@pytest.mark.parametrize("args", JSON_OPTIONS, ids=" ".join)
def test_options_of_the_json_report_change_no_verdict(ready_rig: Rig, args: list[str]) -> None:
    (ready_rig.site / "theirs.py").write_text("import no_such_package\n")
    offer(ready_rig, BROKEN, "def pytest_bionemo_checks(config):\n    return ['ours', 'theirs']\n")
    run = ready_rig.validate(*args)
    assert_fails_closed(run)
    assert required_gaps(run) == ["bionemo/theirs", "bionemo/ours::is_broken"]
    if "--json-report" in args and "mine.json" in args:
        mine = replace(run, report_path=ready_rig.project / "mine.json")
        assert mine.verdict == "INCONCLUSIVE"
        assert_folds_again(mine)


SWITCHED_OFF = {
    "no pytest-json-report": (["-p", "no:pytest_jsonreport"], {}, "-p pytest_jsonreport.plugin"),
    "no autoload": (
        ["-p", "pytest_bionemo.plugin"],
        {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        "-p pytest_jsonreport.plugin",
    ),
    "no validation": (["-p", "no:bionemo_validation"], {}, "no:bionemo_validation"),
}


@pytest.mark.parametrize(("args", "variables", "named"), SWITCHED_OFF.values(), ids=SWITCHED_OFF)
def test_what_validation_needs_is_switched_off(
    ready_rig: Rig, former_report: str, args: list[str], variables: dict[str, str], named: str
) -> None:
    ready_rig.variables |= variables
    run = ready_rig.validate(*args)
    assert run.returncode == 4
    assert [line for line in usage_errors(run) if line.startswith("ERROR: ") and named in line] == usage_errors(run)
    assert_is_untouched(run, former_report)


# --------------------------------------------------------------------------------- modules that cannot be used

BROKEN_MODULES = {
    "is not there": (None, "No module named 'ours'"),
    "needs what is not there": ("import no_such_package\n", "no_such_package"),
    "skips without it": ("pytest.importorskip('no_such_package')\n", "no_such_package"),
    "skips itself": ("pytest.skip('not here', allow_module_level=True)\n", "not here"),
    "fails": ("pytest.fail('not so')\n", "not so"),
    "leaves": ("raise SystemExit(0)\n", "SystemExit"),
    "exits with success": ("pytest.exit('enough', returncode=0)\n", "enough"),
    "is no Python": ("def :\n", "SyntaxError"),
    "has a check that yields": ("@check()\ndef x():\n    'X.'\n    yield\n", "yields or awaits"),
    "has a check that awaits": ("@check()\nasync def x():\n    'X.'\n", "yields or awaits"),
    "has a check in a class": ("class Ours:\n    @check()\n    def x(self):\n        'X.'\n", "the class Ours holds"),
    "declares no severity that there is": ("@check(severity='fatal')\ndef x():\n    'X.'\n", "'fatal'"),
}


@pytest.mark.parametrize(("module", "reason"), BROKEN_MODULES.values(), ids=BROKEN_MODULES)
@pytest.mark.parametrize("args", [[], ["bionemo/ours::is_fine"]], ids=["all", "pasted id"])
def test_module_of_a_third_party_that_does_not_import(
    ready_rig: Rig, module: str | None, reason: str, args: list[str]
) -> None:
    if module is None:
        ready_rig.write("conftest.py", OFFER_OURS)
    else:
        offer(ready_rig, module + FINE)
    run = ready_rig.validate(*args)
    assert_fails_closed(run)
    assert reason in run.gap("ours")["reason"]
    assert run.outcome("driver::loads") == ("not_run" if args else "passed")


def test_module_that_does_not_import_in_two_workers(ready_rig: Rig) -> None:
    offer(ready_rig, "import no_such_package\n")
    run = ready_rig.validate("-n", "2")
    assert_fails_closed(run)
    assert "no_such_package" in run.gap("ours")["reason"]


OFFERED_WRONGLY = {
    "two of one name": ("['ours', 'their.ours']", "their.ours"),
    "a shipped topic": ("['our.driver']", "our.driver"),
    "a text": ("'ours'", "not a list"),
    "a number": ("[1]", "not a list"),
    "no list": ("5", "not a list"),
    "a mapping": ("{'ours': 1}", "not a list"),
}


@pytest.mark.parametrize(("offered", "named"), OFFERED_WRONGLY.values(), ids=OFFERED_WRONGLY)
def test_offer_of_modules_that_is_a_usage_error(ready_rig: Rig, former_report: str, offered: str, named: str) -> None:
    ready_rig.write("conftest.py", f"def pytest_bionemo_checks(config):\n    return {offered}\n")
    run = ready_rig.validate()
    assert run.returncode == 4
    assert [line for line in usage_errors(run) if named in line] == usage_errors(run)
    assert HEADING not in run.stdout
    assert_is_untouched(run, former_report)


def test_same_module_offered_by_two_is_one(ready_rig: Rig) -> None:
    offer(ready_rig, FINE)
    run = ready_rig.validate(*add_plugin(ready_rig, OFFER_OURS))
    assert (run.verdict, run.outcome("ours::is_fine")) == ("READY", "passed")


# A decorator like many, that keeps the name and the docstring of what it wraps.
DECORATORS = """
from functools import wraps

from pytest_bionemo import check, fail


def drops(function):
    @wraps(function)
    def wrapper(*args):
        function(*args)
    return wrapper


def defers(function):
    @wraps(function)
    async def wrapper(*args):
        function(*args)
    return wrapper


def repeats(function):
    @wraps(function)
    def wrapper(*args):
        yield function(*args)
    return wrapper
"""
HOLLOW = {
    "empty": ("", "it holds no @check"),
    "unreadable": (r"raise OSError('u\udcff')", r"OSError: u\udcff"),
    "folder": (None, "it is a package, offer its modules"),
    "dropped": ("@check()\n@drops\ndef bad():\n    'Bad.'\n    fail('x')\n    yield\n", "yields or awaits"),
    "unawaited": ("@check()\n@drops\nasync def bad():\n    'Bad.'\n    fail('x')\n", "yields or awaits"),
    # Since 8.4 pytest itself breaks the collection off here; before, the check returns a generator.
    "repeated": ("@repeats\n@check()\ndef bad():\n    'Bad.'\n    fail('x')\n", ""),
    "streams": ("@check()\nasync def bad():\n    'Bad.'\n    fail('x')\n    yield\n", "yields or awaits"),
}
RETURNS = {
    "false": ("@check()\ndef {}():\n    'Bad.'\n    return False\n", "this one returned False"),
    "coroutine": ("@defers\n@check()\ndef {}():\n    'Bad.'\n    fail('x')\n", "returned <coroutine"),
}
# The same generator each time it is asked.
OFFERS_LAZILY = """
NAMES = (name for name in {names})


def pytest_bionemo_checks(config):
    return NAMES
"""


@pytest.mark.parametrize("args", [[], ["-n", "2"]], ids=["alone", "two workers"])
def test_checks_that_would_never_run_are_gaps(ready_rig: Rig, args: list[str]) -> None:
    for name, (text, _) in HOLLOW.items():
        path = ready_rig.site / (f"{name}.py" if text is not None else f"{name}/__init__.py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(DECORATORS + (text or ""))
    returning = [text.format(name) for name, (text, _) in RETURNS.items()]
    (ready_rig.site / "returns.py").write_text("\n\n".join([DECORATORS, *returning]))
    (ready_rig.site / "our-disks.py").write_text(DECORATORS + FINE)
    (ready_rig.site / "deep.py").write_text(DECORATORS + FINE.replace("()", "(level='full')", 1))
    ready_rig.write("conftest.py", OFFERS_LAZILY.format(names=[*HOLLOW, "returns", "our-disks", "deep"]))
    run = ready_rig.validate(*args)
    assert_fails_closed(run)
    gaps = [gap for gap in run.bionemo["not_run"] if gap["required"]]
    for name, (_, reason) in HOLLOW.items():
        assert run.bionemo["sections"][name] == "ERROR"
        assert reason in next(gap["reason"] for gap in gaps if gap["check"].startswith(f"bionemo/{name}"))
    for name, (_, reason) in RETURNS.items():
        assert reason in run.gap(f"returns::{name}")["reason"]
    assert run.outcome("our-disks::is_fine") == "passed"
    # The topic deep, every check of which is of a higher level, is no gap.
    assert {gap["check"].partition("::")[0] for gap in gaps} == {f"bionemo/{name}" for name in [*HOLLOW, "returns"]}


def test_topic_whose_name_has_a_dash_can_be_pasted(ready_rig: Rig) -> None:
    (ready_rig.site / "our-disks.py").write_text(IMPORTS + FINE)
    ready_rig.write("conftest.py", "def pytest_bionemo_checks(config):\n    return ['our-disks']\n")
    assert ready_rig.pytest("bionemo/our-disks", "--bionemo-level=quick").outcome("our-disks::is_fine") == "passed"


MISUSE = r"""
class Silent:
    def __repr__(self):
        raise RuntimeError("no repr")


@check()
def raises():
    "Of an exception the text counts."
    try:
        open("/no/such/file")
    except OSError as error:
        fail(error, why=error, links="https://x.example/a")


@check()
def explains():
    "A number is an explanation too."
    fail("slow", why=5, fix=iter(["one", "two"]))


@check()
def repairs():
    "A number is no way to repair."
    fail("slow", fix=[1])


@check()
def links():
    "A number is no link."
    fail("slow", links=7)


@check()
def says_nothing():
    "Nothing is said."
    fail(None)


@check()
def waits():
    "It waits for nothing that has a name."
    wait_for(5, "slow")


@check()
def has_tape():
    "An exception is a reason."
    not_applicable(LookupError("no tape"))


@check()
def names_a_file():
    "The name of a file is no UTF-8."
    logging.warning("out \udcfe")
    fail("x\udcff", why="\udcff", fix="$ rm x\udcff", links=["x://\udcff"])


@check()
def asserts_a_file():
    "The name of a file is no UTF-8."
    assert not "y\udcff", "y\udcff"


@check()
def crashes_on_a_file():
    "The name of a file is no UTF-8."
    raise RuntimeError("z\udcff")


@check()
def skips_a_file():
    "The name of a file is no UTF-8."
    pytest.skip("s\udcff")


@check()
def lowers_itself(record_property):
    "It calls itself a warning."
    record_property("bionemo_severity", "warning")
    fail("a blocker")


@check()
def spoils_itself(record_property):
    "It damages what is on record of it."
    record_property("bionemo_fix", 5)
    record_property("bionemo_links", "x")
    fail("a blocker")


@check()
def records(record_property, request):
    "It records what no worker can send."
    for number, value in enumerate([Silent(), Path("/x"), [1], "p\udcff", 3, 2.5, None]):
        record_property(f"p{number}", value)
    record_property("bionemo_outcome", "failed")
"""
SAID = {
    "raises": "[Errno 2] No such file or directory: '/no/such/file'",
    "explains": "slow",
    "names_a_file": r"x\udcff",
    "asserts_a_file": r"y\udcff",
    "lowers_itself": "a blocker",
    "spoils_itself": "a blocker",
}
NOT_SAID = {
    "repairs": "TypeError: fix: [1] is neither a text nor a list of texts",
    "links": "TypeError: links: 7 is neither a text nor a list of texts",
    "says_nothing": "ValueError: the message is empty: say what was seen",
    "waits": "TypeError: waits_for: 5 is no name of a check such as 'disks::are_there'",
    "crashes_on_a_file": r"RuntimeError: z\udcff",
    "skips_a_file": r"it was skipped: s\udcff",
}


@pytest.mark.parametrize("args", [[], ["-n", "2"]], ids=["alone", "two workers"])
def test_misuse_in_one_check_costs_no_other_its_finding(ready_rig: Rig, args: list[str]) -> None:
    offer(ready_rig, f"from pathlib import Path\n\nfrom pytest_bionemo import not_applicable, wait_for\n\n{MISUSE}")
    run = ready_rig.validate(*args)
    assert_fails_closed(run, "BLOCKED")
    assert sorted(run.blockers) == sorted(f"ours::{name}" for name in SAID)
    for name, message in SAID.items():
        assert run.finding(f"ours::{name}")["message"].splitlines()[0] == message
    assert run.finding("ours::raises")["why"] == SAID["raises"]
    assert run.finding("ours::raises")["links"] == ["https://x.example/a"]
    assert (run.finding("ours::explains")["why"], run.finding("ours::explains")["fix"]) == ("5", ["one", "two"])
    assert run.finding("ours::spoils_itself")["fix"] == run.finding("ours::spoils_itself")["links"] == []
    for name, reason in NOT_SAID.items():
        assert run.gap(f"ours::{name}")["reason"].removeprefix("the check itself failed: ") == reason
    assert run.outcome("ours::has_tape") == "not_applicable"
    assert run.outcome("ours::records") == "passed"
    test = next(test for test in run.report["tests"] if test["nodeid"] == "bionemo/ours::records")
    recorded = {name: value for entry in test["user_properties"] for name, value in entry.items()}
    assert "no repr" in recorded.pop("p0")
    path = {"p1": "PosixPath('/x')", "p2": "[1]", "p3": r"p\udcff", "p4": 3, "p5": 2.5, "p6": None}
    assert recorded == {**path, "bionemo_outcome": "passed"}


def test_hook_of_a_third_party_that_raises(ready_rig: Rig) -> None:
    ready_rig.write("conftest.py", "def pytest_bionemo_checks(config):\n    raise RuntimeError('not ours')\n")
    assert_fails_closed(ready_rig.validate(), status=3)


# ------------------------------------------------------------------------------------------ runs that are none

NO_RUNS: list[list[str]] = [
    ["--collect-only"],
    ["--collect-only", "-q"],
    ["--collect-only", "-n", "2"],
    ["--fixtures"],
    ["--fixtures-per-test"],
    ["--markers"],
    ["--help"],
    ["--version"],
]


@pytest.mark.parametrize("args", NO_RUNS, ids=" ".join)
def test_command_that_runs_no_check_says_nothing(ready_rig: Rig, former_report: str, args: list[str]) -> None:
    run = ready_rig.validate(*args)
    assert HEADING not in run.stdout + run.stderr
    assert_is_untouched(run, former_report)


def test_collection_alone_writes_no_report(healthy_rig: Rig) -> None:
    run = healthy_rig.validate("--collect-only", "-q")
    assert "bionemo/driver::loads" in run.stdout
    assert sorted(path.name for path in healthy_rig.project.iterdir() if "bionemo" in path.name) == []


def test_a_stale_report_does_not_survive_a_plugin_that_breaks_the_start(healthy_rig: Rig) -> None:
    healthy_rig.validate()
    healthy_rig.write("conftest.py", "def pytest_sessionstart():\n    raise RuntimeError('broken')\n")
    run = healthy_rig.validate()
    assert run.returncode == 3
    assert run.verdict == "INCONCLUSIVE"


def test_without_a_terminal_the_run_is_refused(healthy_rig: Rig) -> None:
    run = healthy_rig.validate("-p", "no:terminal")
    assert run.returncode == 4
    assert "drop -p no:terminal" in run.stderr
