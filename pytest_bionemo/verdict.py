"""The verdict: a pure function of the report of a run.

Fail closed: READY is a proof. A check counts as passed only if it left a record that it came to its end, and its
setup, call and teardown are all there and all passed; whatever else a report may say of it (skipped, deselected,
expected to fail, a missing stage, no entry at all) is a gap. The same function folds a saved report again.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from pytest_bionemo import records
from pytest_bionemo.model import Action, Outcome, VerdictName, count
from pytest_bionemo.records import Check, Record, Stage

SCHEMA_VERSION = 1
"""Of the documents that are folded here, and written."""

# pytest's exit codes after which a report can be complete: passed, failed, nothing collected.
_COMPLETE_RUNS = (0, 1, 5)
_PASSED, _FAILED, _NOT_APPLICABLE = Outcome.PASSED.value, Outcome.FAILED.value, Outcome.NOT_APPLICABLE.value
PREFIX = "bionemo_"
"""Of the properties in which a check's end is on record."""
_TEXTS = tuple(
    PREFIX + name
    for name in ("outcome", "message", "why", "fix", "action", "links", "severity", "waits_for", "blames")
)
_ALL_TEXT = {str}


# What a document that is damaged makes whoever reads it raise: 1e999 is an infinity to JSON.
DAMAGED = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError)


class ReportError(ValueError):
    """The document is no report of a validation run."""


class Result(NamedTuple):
    """How one check ended, as the report shows it."""

    check: Check
    outcome: Outcome
    reason: str = ""
    waits_for: str | None = None
    finding: Mapping[str, Any] | None = None

    @property
    def is_required(self) -> bool:
        """Whether READY needs it: a severity that nobody knows counts as the higher one."""
        return bool((self.finding or {}).get("severity", self.check.severity) != "warning")


@dataclass(frozen=True)
class Verdict:
    """The answer, and everything that it rests on."""

    name: VerdictName
    summary: str
    action: Action
    sections: Mapping[str, str]
    blockers: tuple[Mapping[str, Any], ...]
    warnings: tuple[Mapping[str, Any], ...]
    not_run: tuple[Mapping[str, Any], ...]
    not_applicable: tuple[Mapping[str, Any], ...]
    recommendations: tuple[str, ...]

    @property
    def is_ready(self) -> bool:
        """READY or READY_FOR_INSTALL."""
        return self.name in (VerdictName.READY, VerdictName.READY_FOR_INSTALL)

    def to_json(self) -> dict[str, Any]:
        """The part of the report's key ``bionemo`` that the verdict decides."""
        return {
            "verdict": self.name.value,
            "summary": self.summary,
            "action": self.action.value,
            "sections": dict(self.sections),
            "blockers": [dict(entry) for entry in self.blockers],
            "warnings": [dict(entry) for entry in self.warnings],
            "not_run": [dict(entry) for entry in self.not_run],
            "not_applicable": [dict(entry) for entry in self.not_applicable],
            "recommendations": list(self.recommendations),
        }


def fold(report: Mapping[str, Any]) -> Verdict:
    """Form the verdict from a report.

    :param report: the JSON document of a run: pytest-json-report's, with the key ``bionemo``.
    :raises ReportError: if it is no such document.
    """
    run = run_of(report)
    try:
        return fold_run(run, report.get("exitcode"), records.checks(run), records.tests(report))
    except DAMAGED as error:
        said = f"{type(error).__name__}: {error}"
        raise ReportError(f"not a report of pytest --bionemo-validate: it is damaged ({said})") from error


def run_of(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The key ``bionemo`` of a report.

    :raises ReportError: if there is none, or it holds no checks.
    """
    run = report.get("bionemo")
    if not isinstance(run, Mapping) or not isinstance(run.get("checks"), list):
        raise ReportError("not a report of pytest --bionemo-validate: its key 'bionemo' is missing or damaged")
    return run


def fold_run(run: Mapping[str, Any], exitcode: Any, checks: Sequence[Check], tests: Sequence[Record]) -> Verdict:
    """Form the verdict from what was read of a report; what is damaged raises whatever it does.

    :param run: its key ``bionemo``, of which ``checks`` is not read.
    """
    results = _results(checks, tests, set(run.get("deselected", [])))
    findings = [result for result in results if result.finding]
    blockers = [_describe(result) for result in findings if result.is_required]
    warnings = [_describe(result) for result in findings if not result.is_required]
    collected = {(check.topic, check.name) for check in checks}
    gaps = [
        *_gaps_of_the_run(run["device"], exitcode, bool(checks)),
        *_missing_checks(run, collected),
        *_not_run(results),
    ]
    if (
        results
        and not any(gap["required"] for gap in gaps)
        and not blockers
        and not _has_required(results, Outcome.PASSED)
    ):
        gaps.append(_gap(None, "no required check passed, which proves nothing"))
    name = _name(run, blockers, gaps)
    return Verdict(
        name=name,
        summary=_summarise(name, run, results, blockers, gaps),
        # What is to be done about another machine is not to be done about this one.
        action=_strongest(entry for entry in [*blockers, *warnings] if not entry.get("blames")),
        sections=_sections(run, results, collected),
        blockers=tuple(blockers),
        warnings=tuple(warnings),
        not_run=tuple(gaps),
        not_applicable=tuple(
            {"check": result.check.id, "reason": result.reason}
            for result in results
            if result.outcome is Outcome.NOT_APPLICABLE
        ),
        recommendations=tuple(_recommend(name, run, blockers, gaps)),
    )


def is_complete(report: Mapping[str, Any]) -> bool:
    """Whether the run came to its end, however it ended: it was not killed, interrupted or broken off."""
    return report.get("exitcode") in _COMPLETE_RUNS


def results(report: Mapping[str, Any]) -> tuple[Result, ...]:
    """How each check ended, in the order of the run, of a report that :func:`fold` takes."""
    run = report["bionemo"]
    return tuple(_results(records.checks(run), records.tests(report), set(run.get("deselected", []))))


def exit_status(verdict: Verdict, require: str, pytest_status: int) -> int:
    """The exit status of the run: pytest's own where that already says no, else the verdict's."""
    is_enough = verdict.is_ready if require == "install" else verdict.name is VerdictName.READY
    return 1 if pytest_status in (0, 5) and not is_enough else pytest_status


# ----------------------------------------------------------------------------------------------- each check


def _results(checks: Iterable[Check], tests: Sequence[Record], deselected: Container[str]) -> list[Result]:
    """How each check ended. Reports of a fleet have millions of them: what nearly all say is looked for first."""
    by_id = {test.nodeid: test for test in tests}
    ids = {check.id for check in checks}
    if not by_id.keys() <= ids:
        by_id = {_plain_id(test.nodeid, ids): test for test in tests}
    return [_result(check, by_id.get(check.id), deselected) for check in checks]


def _plain_id(nodeid: str, known: Container[str]) -> str:
    if nodeid in known:
        return nodeid
    # pytest-xdist's --dist loadgroup appends "@group".
    plain = nodeid.rpartition("@")[0]
    return plain if plain in known else nodeid


def _result(check: Check, test: Record | None, deselected: Container[str]) -> Result:
    if test is None:
        reason = "deselected" if check.id in deselected else "the run ended before it"
        return Result(check, Outcome.NOT_RUN, reason)
    outcome, said = test.outcome, _properties(test.user_properties)
    how = said.get("bionemo_outcome")
    if not _ALL_TEXT.issuperset(map(type, said.values())) and (damaged := _not_text(said)):
        return Result(check, Outcome.ERROR, f"what it said is damaged: {', '.join(damaged)} is no text")
    if how == _FAILED and _shows_finding(said.get("bionemo_severity", check.severity), outcome):
        return Result(check, Outcome.FAILED, finding=_finding(said))
    if outcome in ("failed", "error"):
        return Result(check, Outcome.ERROR, f"the check itself failed: {_crash(test)}")
    if outcome == "skipped" and how == _NOT_APPLICABLE:
        return Result(check, Outcome.NOT_APPLICABLE, said.get("bionemo_message", ""))
    if outcome == "skipped":
        return Result(
            check, Outcome.NOT_RUN, said.get("bionemo_message") or _skip(test), said.get("bionemo_waits_for")
        )
    if outcome != "passed":
        return Result(check, Outcome.NOT_RUN, f"its outcome is {outcome!r}, which proves nothing")
    if not test.setup.outcome == test.call.outcome == test.teardown.outcome == "passed":
        return Result(check, Outcome.NOT_RUN, "the run ended inside it")
    if how != _PASSED:
        return Result(check, Outcome.NOT_RUN, "pytest says that it passed, but it did not come to its end")
    return Result(check, Outcome.PASSED)


def _shows_finding(severity: object, outcome: object) -> bool:
    # A blocker stays one if the check's teardown breaks too, which a warning must not hide. A plugin that calls a
    # failure a pass (some keep lists of known failures) does not make it one.
    return outcome in ("failed", "warned", "passed") or (outcome == "error" and severity != "warning")


def _properties(entries: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What the check and others have put on record; the last word counts."""
    said: dict[str, Any] = {}
    for entry in entries:
        said.update(entry.items())
    return said


def _finding(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name[len(PREFIX) :]: value for name, value in said.items() if name.startswith(PREFIX)}


def _not_text(said: Mapping[str, Any]) -> list[str]:
    return [name for name, value in said.items() if not isinstance(value, str) and name in _TEXTS]


def _crash(test: Record) -> str:
    stages = [stage for stage in _stages(test) if stage.outcome == "failed"]
    texts = [(stage.crash or {}).get("message") or stage.longrepr or "" for stage in stages]
    lines = next((text.strip().splitlines() for text in texts if text.strip()), ["no reason is on record"])
    if stages and stages[0].crash is not None:
        return lines[0]
    # What pytest prints of an error, such as an unknown fixture: its lines begin with E.
    return next((line[1:].strip() for line in lines if line.startswith("E ")), lines[-1])


def _skip(test: Record) -> str:
    texts = (stage.longrepr for stage in _stages(test))
    return "it was skipped: " + next((text for text in texts if text), "no reason is on record")


def _stages(test: Record) -> tuple[Stage, ...]:
    return test.setup, test.call, test.teardown, test.died


# ------------------------------------------------------------------------------------------------- the gaps


def _gaps_of_the_run(device: str, exitcode: Any, has_checks: bool) -> list[dict[str, Any]]:
    gaps = []
    if exitcode is None:
        gaps.append(_gap(None, "the run has not finished"))
    elif exitcode not in _COMPLETE_RUNS:
        gaps.append(_gap(None, f"the run was broken off (pytest's exit status {int(exitcode)})"))
    elif not has_checks:
        gaps.append(_gap(None, "no check was collected"))
    if device != "cuda":
        gaps.append(_gap(None, f"a rehearsal on the device {device!r} proves nothing about a GPU"))
    return gaps


def _missing_checks(run: Mapping[str, Any], collected: Container[tuple[str, str]]) -> list[dict[str, Any]]:
    gaps = []
    for topic in run["topics"]:
        prefix = f"bionemo/{topic['name']}"
        if topic["error"]:
            gaps.append(_gap(prefix, f"the topic could not be collected: {topic['error']}"))
        gaps.extend(
            _gap(f"{prefix}::{name}", "it was declared and not collected") for name in _uncollected(topic, collected)
        )
    return gaps


def _uncollected(topic: Mapping[str, Any], collected: Container[tuple[str, str]]) -> list[str]:
    return [name for name in topic["checks"] if (topic["name"], name) not in collected]


def _not_run(results: Iterable[Result]) -> list[dict[str, Any]]:
    return [
        _gap(result.check.id, result.reason, result.waits_for, result.is_required or _is_error(result))
        for result in results
        if result.outcome in (Outcome.NOT_RUN, Outcome.ERROR)
    ]


def _is_error(result: Result) -> bool:
    # A check that crashes leaves a doubt, whatever its severity.
    return result.outcome is Outcome.ERROR


def _gap(check: str | None, reason: str, waits_for: str | None = None, required: bool = True) -> dict[str, Any]:
    return {"check": check, "reason": reason, "waits_for": waits_for, "required": required}


# ----------------------------------------------------------------------------------------------- the answer


def _name(run: Mapping[str, Any], blockers: list[dict[str, Any]], gaps: list[dict[str, Any]]) -> VerdictName:
    if blockers:
        return VerdictName.BLOCKED
    if any(gap["required"] for gap in gaps):
        return VerdictName.INCONCLUSIVE
    return VerdictName.READY if _has_bionemo(run) else VerdictName.READY_FOR_INSTALL


def _has_bionemo(run: Mapping[str, Any]) -> bool:
    """Whether a package of the family is installed, or a recipe's requirements are, on a machine that can run it.

    That what is installed works is what the checks are for.
    """
    return any(package["version"] for package in run.get("packages", [])) or any(
        target["runnable"] for target in run.get("targets", [])
    )


def _describe(result: Result) -> dict[str, Any]:
    said = result.finding or {}
    return {
        "check": result.check.id,
        "title": result.check.title,
        "device": result.check.device,
        "message": said.get("message", ""),
        "why": said.get("why", ""),
        "fix": _lines(said.get("fix")),
        "action": said.get("action", Action.NONE.value),
        "links": _lines(said.get("links")),
        **({"blames": _lines(said["blames"])} if said.get("blames") else {}),
    }


def _lines(text: str | None) -> list[str]:
    return text.split("\n") if text else []


def _strongest(findings: Iterable[Mapping[str, Any]]) -> Action:
    return max(
        (Action(entry["action"]) for entry in findings),
        key=lambda action: action.strength,
        default=Action.NONE,
    )


def _sections(run: Mapping[str, Any], results: list[Result], collected: Container[tuple[str, str]]) -> dict[str, str]:
    broken = {topic["name"] for topic in run["topics"] if topic["error"]}
    incomplete = {topic["name"] for topic in run["topics"] if _uncollected(topic, collected)}
    by_topic: dict[str, list[Result]] = {topic["name"]: [] for topic in run["topics"]}
    for topic, own in groupby(results, key=lambda result: result.check.topic):
        by_topic.setdefault(topic, []).extend(own)
    return {
        topic: "ERROR" if topic in broken else _section(topic, own, topic not in incomplete)
        for topic, own in by_topic.items()
    }


def _section(topic: str, results: list[Result], is_complete: bool) -> str:
    outcomes = {result.outcome for result in results}
    if Outcome.FAILED in outcomes and _has_required(results, Outcome.FAILED):
        return "BLOCKED"
    if Outcome.ERROR in outcomes:
        return "ERROR"
    if not is_complete or (Outcome.NOT_RUN in outcomes and _has_required(results, Outcome.NOT_RUN)):
        return "NOT_RUN"
    if Outcome.FAILED in outcomes:
        return "WARNING"
    if Outcome.PASSED in outcomes:
        return "PASSED"
    if Outcome.NOT_RUN in outcomes or not results:
        return "NOT_RUN"
    return "NO_PACKAGES" if topic == "packages" else "NOT_APPLICABLE"


def _has_required(results: Iterable[Result], outcome: Outcome) -> bool:
    return any(result.outcome is outcome and result.is_required for result in results)


def _summarise(
    name: VerdictName,
    run: Mapping[str, Any],
    results: list[Result],
    blockers: list[dict[str, Any]],
    gaps: list[dict[str, Any]],
) -> str:
    at_level = f"{name.value} at level {run['level']}"
    if name is VerdictName.BLOCKED:
        return f"{at_level}: {count(len(blockers), 'blocker')}"
    if name is VerdictName.INCONCLUSIVE:
        required = sum(gap["required"] for gap in gaps)
        return f"{at_level}: nothing failed, but {count(required, 'gap')} in the proof"
    kernels = any(r.outcome is Outcome.PASSED and r.check.level != "quick" for r in results)
    return at_level if kernels else f"{at_level}: no GPU kernel was run"


def _recommend(
    name: VerdictName, run: Mapping[str, Any], blockers: list[dict[str, Any]], gaps: list[dict[str, Any]]
) -> list[str]:
    if name is VerdictName.BLOCKED:
        return [f"{entry['check']}: {entry['fix'][0]}" for entry in blockers if entry["fix"]]
    if name is VerdictName.INCONCLUSIVE:
        return list(dict.fromkeys(f"find out why: {gap['reason']}" for gap in gaps if gap["required"]))
    return list(run.get("install_options", [])) if name is VerdictName.READY_FOR_INSTALL else []
