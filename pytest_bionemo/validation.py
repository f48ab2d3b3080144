"""A validation run: hangs the suite on the session, records how each check ends, writes the report.

All hooks of a run are methods of :class:`Validation`, all state is on it: a run that does not validate costs
nothing, and repeated runs in one process are independent. This is the only contact with pytest-json-report,
whose known defects are guarded here (the numbers are those of its issues or of our measurements).
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from pytest_bionemo import document, outputs, suite
from pytest_bionemo.baseline import Baseline
from pytest_bionemo.checking import TARGET, CheckFailed, NotApplicable, NotRun, encodable
from pytest_bionemo.compute import MEASUREMENT, circumstances_of, devices_of
from pytest_bionemo.facts import FactsError, load_all
from pytest_bionemo.fixtures import MACHINE
from pytest_bionemo.model import Finding, Outcome
from pytest_bionemo.needs.kept import BASELINE, LOCKS, OPTIONS, REPORTS, WORKERS
from pytest_bionemo.options import Options
from pytest_bionemo.page.output import Page
from pytest_bionemo.page.shell import PageError
from pytest_bionemo.probes import job as jobs
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.report import hyperpod, terminal
from pytest_bionemo.report.clean import clean, hider
from pytest_bionemo.report.place import Place, PlaceError
from pytest_bionemo.site_facts import SiteFacts, gather
from pytest_bionemo.terms import DEFAULT_REPORT
from pytest_bionemo.verdict import Verdict, exit_status, fold

_WORKER_KEY = "bionemo"
_LOCKS_KEY = "bionemo_locks"
_HEADER_WAITS_S = 2.0


class Validation:
    """One run of the checks.

    :raises pytest.UsageError: one line, before anything runs, if the report cannot be written, the facts cannot
        be read or pytest-json-report is not there.
    """

    def __init__(self, config: pytest.Config, options: Options, tokens: Sequence[str]) -> None:
        self.config = config
        self.options = options
        self.tokens = tokens
        self.started = document.now()
        self.collected = suite.Collected()
        self.records = outputs.Records()
        self.site_facts = SiteFacts()
        self.verdict: Verdict | None = None
        self.document: dict[str, Any] | None = None
        self.place: Place | None = None
        self.page: Page | None = None
        self.has_begun = False
        self.has_run = False
        self.write_error = ""
        self.kept = ""
        self.keep_error = ""
        self._session: pytest.Session | None = None
        self._locks: tempfile.TemporaryDirectory[str] | None = None
        self._prepare()
        if self.place and not runs_no_test(config):
            self._begin(self.place)
        # From here on things can hang or break: the first report is written.
        self.machine = self._make_machine()
        config.stash[MACHINE] = self.machine
        config.stash[OPTIONS] = options
        if self.place:
            config.stash[REPORTS] = self.place.path.absolute().parent
        if options.baseline and self.place and self.has_begun:
            config.stash[BASELINE] = self._find_baseline()
        if self.is_worker:
            config.stash[LOCKS] = Path(config.workerinput[_LOCKS_KEY])  # type: ignore[attr-defined]

    @property
    def is_worker(self) -> bool:
        """Whether this is a worker of pytest-xdist: then the controller writes the report."""
        return hasattr(self.config, "workerinput")

    @cached_property
    def _modules(self) -> list[str]:
        # Asked once a run: the second answer of a hook could be another.
        return suite.modules(self.config)

    @property
    def _folder(self) -> Path:
        """The one that the run was started in: what its paths are relative to."""
        return self.config.invocation_params.dir

    @cached_property
    def _hide(self) -> Callable[[str], str]:
        return hider(os.environ)

    def _prepare(self) -> None:
        if sys.flags.optimize:
            raise pytest.UsageError("--bionemo-validate needs assertions: unset PYTHONOPTIMIZE, drop python -O.")
        try:
            load_all()
            if not self.is_worker:
                self.place = self._choose_place()
                self.page = self._choose_page(self.place)
                self._expect_another(self.place)
        except (FactsError, PlaceError, PageError, jobs.JobError) as error:
            raise pytest.UsageError(str(error)) from None
        self._switch_json_report_on()
        # Otherwise one module that does not import would end the run before anything has run.
        self.config.option.continue_on_collection_errors = True
        # --nf asks the file of every item for its age, and a check has none.
        self.config.option.newfirst = False

    def _choose_place(self) -> Place:
        """Inside a job that of its nodes; those that share a folder must not write one file."""
        job = jobs.read(os.environ)
        folder = self._folder
        if job is None:
            return Place(self.options.report, folder)
        is_default = self.options.report == DEFAULT_REPORT
        name = "." if is_default and job.is_one_of_many else self.options.report
        return Place(name, folder, job.folder, job.node, of_many=job.is_one_of_many)

    def _choose_page(self, report: Place) -> Page | None:
        """Where the page goes, if one is asked for: what it is made with has to be there before anything runs."""
        if self.options.html is None:
            return None
        job = jobs.read(os.environ)
        node = (job.folder, job.node) if job else (None, None)
        of_many = job is not None and job.is_one_of_many
        page = Page(Place(self.options.html, self._folder, *node, kind="page", of_many=of_many))
        if page.place.path.resolve() == report.path.resolve():
            raise PlaceError(f"{page.place.path} is the place of the report. Choose another --bionemo-html.")
        return page

    def _expect_another(self, report: Place) -> None:
        """A report that is to be compared with must not be the one that this run replaces before it is read."""
        baseline = self.options.baseline
        if baseline and os.path.abspath(self._folder / baseline) == os.path.abspath(report.path):  # noqa: PTH100 - ".."
            raise PlaceError(f"{baseline} is the place of the report. Copy it, and compare with the copy.")

    def _switch_json_report_on(self) -> None:
        option = self.config.option
        if not self.config.pluginmanager.hasplugin("terminal"):
            raise pytest.UsageError("--bionemo-validate needs pytest's terminal plugin: drop -p no:terminal.")
        if not hasattr(option, "json_report"):
            raise pytest.UsageError(
                "--bionemo-validate needs the plugin pytest-json-report, which is not loaded: "
                "add -p pytest_jsonreport.plugin, or drop -p no:pytest_jsonreport."
            )
        if not option.json_report:
            option.json_report = True
            option.json_report_file = None  # ours is written atomically, and elsewhere
            option.json_report_verbosity = 0  # no line about the file that it does not write
            # 10,000 nodes write a document each, and the marks of checks are in their source.
            option.json_report_omit = [*option.json_report_omit, "keywords"]
        option.json_report_summary = False  # it would drop the tests
        # A new list: the default is one list that every run shares. Log records can hold what no worker of
        # pytest-xdist can send; streams can hold secrets.
        option.json_report_omit = [*option.json_report_omit, "log", "streams"]

    def _make_machine(self) -> Machine:
        if self.is_worker:
            return Machine.from_json(self.config.workerinput[_WORKER_KEY])  # type: ignore[attr-defined]
        machine = Machine(self.options.timeout)
        machine.start()
        return machine

    def _find_baseline(self) -> Baseline:
        from pytest_bionemo.history import baselines  # who compares with nothing does not pay for it

        now = circumstances_of(self.machine, self.options)
        try:
            return baselines.ask(self.options.baseline, self._folder, now, self.options.timeout)
        except baselines.BaselineError as error:
            self._restore()
            raise pytest.UsageError(f"--bionemo-baseline: {error}.") from None

    # ------------------------------------------------------------------------------------------ collecting

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        """Refuse ids that do not exist, and ask others what they know of the environment."""
        if not self.is_worker:
            suite.reject_unknown(self.tokens, self._modules)
            if not runs_no_test(self.config):
                self.site_facts = gather(self.config)
        # What is loaded and collected stays to the end: looking through it for garbage again and again takes a tenth
        # of a quick run.
        gc.freeze()
        try:
            return (yield)
        finally:
            gc.freeze()

    def _begin(self, place: Place) -> None:
        unfinished = document.unfinished(self.options, self.started)
        try:
            begun = clean(document.with_verdict(unfinished, fold(unfinished)))
            place.begin(begun)
            if self.page:
                self.page.begin(begun)
        except PlaceError as error:
            self._restore()
            raise pytest.UsageError(str(error)) from None
        self.has_begun = True

    def _restore(self) -> None:
        """Put back what the report and the page were before: this was no run."""
        for place in (self.place, self.page and self.page.place):
            if place:
                place.restore()

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Hang the suite on the session: alone, or before the tests of the paths that were given."""
        report = yield
        if isinstance(collector, pytest.Session) and report.passed:
            checks = suite.Suite.from_parent(
                collector,
                name=suite.NAME,
                modules=self._modules,
                level=self.options.level,
                collected=self.collected,
            )
            # First, or --lf takes the suite for files without failures and skips it.
            report.result = [checks, *(report.result if self._has_paths else ())]
        return report

    @property
    def _has_paths(self) -> bool:
        return self.config.args_source is pytest.Config.ArgsSource.ARGS

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a check that asks for a GPU, or for a device, once for each."""
        if isinstance(metafunc.definition.getparent(suite.CheckModule), suite.CheckModule):
            suite.parametrize_over_gpus(metafunc, self.machine.gpu_env.gpus)
            suite.parametrize_over_devices(metafunc, lambda: devices_of(self.machine, self.options))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, object, object]:
        """Keep the checks whose ids were given, and in their order those that nodes run together."""
        self._keep_wanted(items)
        ordered = [*items]
        result = yield
        suite.keep_meetings_in_order(items, ordered)
        return result

    def _keep_wanted(self, items: list[pytest.Item]) -> None:
        """Tests outside the suite are not concerned."""
        if not self.tokens:
            return
        ids = [item.nodeid for item in items if isinstance(item, suite.CheckItem)]
        for token in self.tokens:
            if not self.is_worker and not any(suite.matches(token, nodeid) for nodeid in ids):
                self._refuse(token, ids)
        dropped = [item for item in items if isinstance(item, suite.CheckItem) and not self._is_wanted(item)]
        items[:] = [item for item in items if item not in dropped]
        self.config.hook.pytest_deselected(items=dropped)

    def _is_wanted(self, item: pytest.Item) -> bool:
        return any(suite.matches(token, item.nodeid) for token in self.tokens)

    def _refuse(self, token: str, ids: Sequence[str]) -> None:
        function = token.partition("[")[0]
        choices = [nodeid for nodeid in ids if suite.matches(function, nodeid)]
        if choices:
            raise pytest.UsageError(suite.unknown(token, "check of this id", token, choices))
        broken = any(topic["error"] for topic in self.collected.topics)
        if not broken:
            raise pytest.UsageError(f"{token}: this check does not run at level {self.options.level}.")

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Remember what was deselected, by whom ever."""
        self.collected.deselected.update(item.nodeid for item in items if isinstance(item, suite.CheckItem))

    # --------------------------------------------------------------------------------------------- running

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        """From here on there is something to report, whatever exit status the run ends with."""
        self.has_run = True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Record how a check ended, in properties that reach JSON, JUnit XML and pytest-xdist alike."""
        report = yield
        if isinstance(item, suite.CheckItem) and call.excinfo is not None and call.when != "teardown":
            # Cleaned here too: the outputs of other plugins do not go through the report.
            item.evidence += [(name, self._hide(value)) for name, value in _describe(call.excinfo.value)]
            if isinstance(report.longrepr, str):
                report.longrepr = self._hide(report.longrepr)
            finding = _finding(call.excinfo.value)
            if finding and (finding.severity or item.severity) == "warning" and report.failed:
                # A warning is no failure: it stops no -x, and READY stays READY.
                report.outcome = "skipped"
            if report.skipped and not hasattr(report, "wasxfail"):
                report.longrepr = (str(item.path), 0, self._hide(f"Skipped: {call.excinfo.value}"))
        if isinstance(item, suite.CheckItem):
            report.user_properties = item.properties()
            _make_encodable(report)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the records out of the properties before another plugin writes them down."""
        if not self.is_worker:
            self.records.take(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, object] | None:
        """Show a finding of a warning check as W, in an outcome of its own."""
        if report.skipped and _is_finding(report) and not hasattr(report, "wasxfail"):
            return "warned", "W", ("WARNED", {"yellow": True})
        return None

    # ------------------------------------------------------------------------------------------- pytest-xdist

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Hand the probes' answers to a worker: all of them must collect the same checks."""
        node.workerinput[_WORKER_KEY] = self.machine.to_json()
        if self._locks is None:
            self._locks = tempfile.TemporaryDirectory(prefix="pytest-bionemo-")
        node.workerinput[_LOCKS_KEY] = self._locks.name

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Take over what a worker collected; one that crashed has nothing to say."""
        output = getattr(node, "workeroutput", {})
        if _WORKER_KEY in output:
            self.collected.merge(json.loads(output[_WORKER_KEY]))

    # ------------------------------------------------------------------------------------------- reporting

    def pytest_report_header(self) -> list[str]:
        """Level, GPUs and driver; the platform on a line of its own, where one is recognised."""
        rehearsal = ", rehearsal on the CPU" if self.options.device == "cpu" else ""
        # What is around the machine can hang: nobody waits here until it has.
        is_known = self.machine.knows_platform(within=_HEADER_WAITS_S)
        platform = self.machine.platform.describe() if is_known else "not known yet"
        return [
            f"bionemo: level {self.options.level}{rehearsal}, {self.machine.gpu_env.describe()}",
            *([f"bionemo: platform {platform}"] if platform else []),
        ]

    @pytest.hookimpl(optionalhook=True)
    def pytest_json_modifyreport(self, json_report: dict[str, Any]) -> None:
        """Complete the document and fold it: the terminal and the exit status use that verdict."""
        json_report.setdefault("tests", [])  # another plugin may have taken them out
        json_report["environment"] = document.runner(_plugin_versions(self.config))
        json_report["bionemo"] = {
            **document.start(self.options, self.started),
            **self.collected.to_json(),
            **document.recorded(self.records.named(MEASUREMENT), self.records.named(TARGET)),
            **document.describe(self.machine, self.site_facts, self.started),
            **self._compared(),
        }
        cleaned = clean(json_report)
        self.verdict = fold(cleaned)
        cleaned["exitcode"] = exit_status(self.verdict, self.options.require, cleaned["exitcode"])
        json_report.clear()
        json_report.update(document.with_verdict(cleaned, self.verdict))
        outputs.tell_junit(self.config, self.verdict)
        if self.has_begun:
            self._save(json_report)

    def _compared(self) -> dict[str, Any]:
        baseline = self.config.stash.get(BASELINE, None)
        if baseline is None:
            return {}
        judged = [entry for entry in self.records.named(MEASUREMENT) if entry["judgement"]]
        number = sum(1 for entry in judged if entry["baseline"] is not None)
        now = circumstances_of(self.machine, self.options)
        differences = [] if baseline.refused else baseline.circumstances.differences(now)
        return {"baseline": baseline.to_json(number, differences)}

    def _save(self, report: dict[str, Any]) -> None:
        assert self.place
        if report["exitcode"] == pytest.ExitCode.USAGE_ERROR and not self.has_run:
            self._restore()
            return
        self.document = report
        try:
            self.place.write(report)
        except OSError as error:
            self.write_error = str(error)
        if self.page:
            self.page.write(report)
        if self.options.save is not None:
            self._keep(self.place, report["created"], self.options.save or self.options.level)

    def _keep(self, place: Place, created: float, name: str) -> None:
        from pytest_bionemo.history.keeping import KeepError, keep

        try:
            self.kept = keep(place.path, created, name, self.options.timeout)
        except KeepError as error:
            self.keep_error = str(error)

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_summary(self, prefix: list[str]) -> None:
        """Put the verdict on top of pytest-html's page."""
        if self.document is not None:
            prefix.append(outputs.html_summary(self.document["bionemo"], self._shown_path()))

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_html(self, report: pytest.TestReport, data: list[str]) -> None:
        """Show in words how a check ended on pytest-html's page."""
        explained = outputs.explain(report)
        if explained is not None:
            data[:] = [escape(explained)]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Let the verdict have its say in the exit status."""
        self._session = session
        if self.is_worker:
            self.config.workeroutput[_WORKER_KEY] = json.dumps(self.collected.to_json())  # type: ignore[attr-defined]
        try:
            return (yield)
        except pytest.exit.Exception as error:
            # Another plugin ends the session here, with a status of its own.
            if error.returncode is not None:
                error.returncode = self.exit_status(error.returncode)
            raise
        finally:
            session.exitstatus = self.exit_status(int(session.exitstatus))

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Let no process outlive the run, and no file."""
        if WORKERS in config.stash:
            config.stash[WORKERS].close()
        if self._locks is not None:
            self._locks.cleanup()
        if self.options.hyperpod_line and not self.is_worker and (self.has_begun or runs_no_test(config)):
            # After all that pytest prints, and nowhere else: HyperPod's agents read the logs of a node.
            reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
            reporter.ensure_newline()
            reporter.write_line(hyperpod.line(self.document, os.uname().nodename, self._final_status()))

    def _final_status(self) -> int:
        # Asked late: whoever ends the session in its last hook sets it once more.
        return self.exit_status(int(self._session.exitstatus) if self._session else 1)

    def exit_status(self, status: int) -> int:
        """The exit status of the run, from pytest's: 0 is left to a verdict that is on record."""
        if self.document is None or self.verdict is None:
            return 1 if self.has_begun and status == 0 else status
        status = exit_status(self.verdict, self.options.require, status)
        has_failed = self.write_error or self.keep_error or (self.page and self.page.error)
        return 1 if has_failed and status == 0 else status

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Generator[None, object, object]:
        """Print the verdict after pytest's own sections, and each finding there instead of in FAILURES."""
        failed: list[Any] = terminalreporter.stats.get("failed", [])
        findings = [report for report in failed if _is_finding(report) and isinstance(report.longrepr, str)]
        if findings:
            terminalreporter.stats["failed"] = [report for report in failed if report not in findings]
        try:
            result = yield
        finally:
            if findings:
                terminalreporter.stats["failed"] = failed
        if self.document is not None:
            width = terminalreporter._tw.fullwidth
            verbosity = self.config.option.verbose
            run = self.document["bionemo"]
            page = (self.page.place.shown_from(self._folder), self.page.error) if self.page else ()
            for line in terminal.summary(run, self._shown_path(), width, verbosity, self.write_error, *page):
                _write(terminalreporter, line)
            for line in terminal.kept(self.kept, self.keep_error, width):
                _write(terminalreporter, line)
        return result

    def _shown_path(self) -> str:
        assert self.place
        return self.place.shown_from(self._folder)


def runs_no_test(config: pytest.Config) -> bool:
    """Whether pytest is asked to show something and to run nothing."""
    names = ("collectonly", "showfixtures", "show_fixtures_per_test", "markers", "cacheshow")
    return any(getattr(config.option, name, False) for name in names)


def _write(reporter: pytest.TerminalReporter, line: terminal.Line) -> None:
    if line.is_title:
        reporter.section(line.text, sep="=", bold=True, **terminal.MARKUP[line.style])
    else:
        for text, style in line.parts:
            reporter.write(text, **terminal.MARKUP[style])
        reporter.write("\n")


def _finding(error: BaseException) -> Finding | None:
    if isinstance(error, CheckFailed):
        return error.finding
    if isinstance(error, AssertionError):
        return Finding(str(error) or "an assertion without a message failed")
    return None


def _make_encodable(report: pytest.TestReport) -> None:
    """Escape what no worker of pytest-xdist can send: an undecodable file name can be in any text."""
    report.sections = [(title, encodable(text)) for title, text in report.sections]
    if isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = (path, line, encodable(reason))
    elif (said := str(report.longrepr)) != encodable(said):
        report.longrepr = encodable(said)


def _describe(error: BaseException) -> list[tuple[str, str]]:
    """The properties of a check that ended this way."""
    return [(name, encodable(text)) for name, text in _said(error)]


def _said(error: BaseException) -> list[tuple[str, str]]:
    if isinstance(error, NotApplicable):
        return [(suite.OUTCOME, Outcome.NOT_APPLICABLE.value), ("bionemo_message", str(error.msg))]
    if isinstance(error, NotRun):
        waits_for = [("bionemo_waits_for", f"{suite.NAME}/{error.waits_for}")] if error.waits_for else []
        return [(suite.OUTCOME, Outcome.NOT_RUN.value), ("bionemo_message", error.reason), *waits_for]
    if isinstance(error, pytest.skip.Exception):
        return [(suite.OUTCOME, Outcome.NOT_RUN.value), ("bionemo_message", f"it was skipped: {error.msg}")]
    finding = _finding(error)
    if finding is None:
        return [(suite.OUTCOME, Outcome.ERROR.value)]
    return [
        (suite.OUTCOME, Outcome.FAILED.value),
        *((f"bionemo_{name}", text) for name, text in _texts(finding).items() if text),
    ]


def _texts(finding: Finding) -> dict[str, str | None]:
    return {
        "message": finding.message,
        "why": finding.why,
        "fix": "\n".join(finding.fix),
        "action": finding.action.value,
        "links": "\n".join(finding.links),
        "severity": finding.severity,
        "blames": "\n".join(finding.blames),
    }


def _is_finding(report: Any) -> bool:
    return (suite.OUTCOME, Outcome.FAILED.value) in [tuple(pair) for pair in getattr(report, "user_properties", ())]


def _plugin_versions(config: pytest.Config) -> dict[str, str]:
    plugins = {dist.project_name: dist.version for _, dist in config.pluginmanager.list_plugin_distinfo()}
    return {"pytest": metadata.version("pytest"), **plugins}
