"""The page of one node's report: the answer, what to do, and everything that it rests on.

A pure function of the JSON document. Its verdict is not read but folded, as everywhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pytest_bionemo.model import Outcome, VerdictName, count
from pytest_bionemo.page import machine, numbers
from pytest_bionemo.page.drawing import LANES_AT_MOST, strip
from pytest_bionemo.page.shell import render
from pytest_bionemo.page.values import finite
from pytest_bionemo.reports import expect_known
from pytest_bionemo.verdict import DAMAGED, ReportError, Result, Verdict, fold, results

# What a page calls the end of a check, and the order of these words: worst first.
_WORDS = {
    Outcome.FAILED: "FAILED",
    Outcome.ERROR: "ERROR",
    Outcome.NOT_RUN: "NOT_RUN",
    Outcome.PASSED: "PASSED",
    Outcome.NOT_APPLICABLE: "NOT_APPLICABLE",
}
_ORDER = ("FAILED", "ERROR", "WARNING", "NOT_RUN", "PASSED", "NOT_APPLICABLE")
_ACTIONS = {
    "FIX_SOFTWARE": "fix the software",
    "FREE_GPU": "free the GPU",
    "RESET_GPU": "reset the GPU",
    "REBOOT_NODE": "reboot the node",
    "REPLACE_NODE": "replace the node",
}
_FOR_THE_NODE = {
    "RESET_GPU": "A GPU has to be reset.",
    "REBOOT_NODE": "The node has to be rebooted.",
    "REPLACE_NODE": "The node has to be replaced.",
}
_DIGITS = re.compile(r"\d+")
_STAGES = ("setup", "call", "teardown")


def node_page(document: Mapping[str, Any]) -> str:
    """The page of a report, as HTML in one piece.

    :param document: the JSON document that a validation run wrote.
    :raises ReportError: one line, if it is no report, damaged, or of a later version of pytest-bionemo.
    :raises PageError: if Jinja2 does not import.

    ::

        Path("node7.html").write_text(node_page(json.loads(Path("node7.json").read_bytes())), encoding="utf-8")
    """
    expect_known(document)
    try:
        return _page(document, fold(document))
    except ReportError:
        raise
    except DAMAGED as error:
        raise ReportError(f"the report is damaged ({type(error).__name__}: {error})") from error


@dataclass
class Gap:
    """What was not run for one reason. ``checks`` is empty where that is the run as a whole."""

    reason: str
    waits_for: str | None
    is_required: bool = False
    checks: list[str] = field(default_factory=list)


@dataclass
class End:
    """How a check ended, and on what: the parameters in its ids, or the ids themselves."""

    word: str
    why: str
    on: list[str] = field(default_factory=list)

    @property
    def places(self) -> list[str]:
        """On what, runs of devices as one: 'gpu0 to gpu7 bf16'."""
        return list(machine.runs(self.on))


@dataclass
class Check:
    """One check with all that it was run on."""

    name: str
    title: str
    seconds: float = 0.0
    _ends: dict[tuple[str, str], End] = field(default_factory=dict)

    def add(self, word: str, why: str, on: str) -> None:
        """One more end of it."""
        _end(self._ends, word, why).on.append(on)

    @cached_property
    def ends(self) -> list[End]:
        """How it ended, worst first: asked for once all of them were added."""
        return sorted(self._ends.values(), key=lambda end: _ORDER.index(end.word))

    @property
    def word(self) -> str:
        """The worst of its ends."""
        return self.ends[0].word


@dataclass(frozen=True)
class Topic:
    """One topic with its checks. ``error`` says why it could not be collected."""

    name: str
    state: str
    error: str | None
    checks: Sequence[Check]

    @property
    def is_open(self) -> bool:
        """Whether there is something in it to look at."""
        return self.state in ("BLOCKED", "ERROR", "WARNING")

    @property
    def counted(self) -> str:
        """'24 passed, 2 not run'."""
        if not self.checks:
            return "" if self.error else "none of its checks is of this level"
        return _counted(end.word for check in self.checks for end in check.ends for _ in end.on)


def _page(document: Mapping[str, Any], verdict: Verdict) -> str:
    run = document["bionemo"]
    ended = results(document)
    labels = machine.labels(run.get("gpus", []))
    found = numbers.quantities(run.get("measurements", []), labels)
    singles, matrix = numbers.split(found)
    topics = list(_topics(run, verdict, ended, _seconds(document)))
    environment = run.get("environment", {})
    targets = machine.targets(run.get("targets", []))
    host = environment.get("hostname") or "this machine"
    gaps = _gaps(verdict.not_run)
    is_open = verdict.name is VerdictName.INCONCLUSIVE
    values: dict[str, Any] = {
        "title": f"{host}: {verdict.name.value.replace('_', ' ')}",
        "name": host,
        "said": "of one node",
        "verdict": verdict.name.value,
        "sentence": _sentence(verdict, run),
        "made": _made(run),
        "facts": list(_facts(verdict, run, ended)),
        "blockers": verdict.blockers,
        "warnings": verdict.warnings,
        "actions": _ACTIONS,
        "labels": labels,
        "advice": _advice(document, run, verdict),
        "gaps": [gap for gap in gaps if is_open and gap.is_required],
        "others_not_run": [gap for gap in gaps if not (is_open and gap.is_required)],
        "install": list(run.get("install_options", [])),
        "gpus": machine.gpus(run.get("gpus", [])),
        "environment": [*machine.environment(environment), *(environment.get("extra") or {}).items()],
        "variables": [*(environment.get("variables") or {}).items()],
        "extra_errors": environment.get("extra_errors") or [],
        "topics": topics,
        "checks": len(ended),
        "judged": [one for one in sorted(singles, key=_urgency) if one.judgement and one.has_ruler],
        "others": [one for one in singles if not one.judgement and one.has_ruler],
        "strip": strip,
        "lanes": LANES_AT_MOST,
        "matrix": matrix,
        "rows": [(one, each) for one in found for each in one.numbers],
        "targets": targets,
        "expects": any(target.expect or target.published for target in targets),
        "packages": [machine.package(entry) for entry in run.get("packages", [])],
        "aside": _aside(verdict.not_applicable),
    }
    return render("node.html.j2", styles=("node.css",), sections=list(_sections(values)), **values)


def _urgency(quantity: numbers.Quantity) -> int:
    """What is too slow comes first, everything else stays in the order of the report."""
    return min(numbers.rank(quantity.judgement), numbers.rank("unjudged"))


def _sections(values: Mapping[str, Any]) -> Iterator[tuple[str, str, int | None]]:
    """What the page has, for its table of contents."""
    yield "do", "What to do now", len(values["blockers"]) + len(values["warnings"]) + len(values["gaps"]) or None
    if values["others_not_run"]:
        yield "gaps", "Not run", sum(max(len(gap.checks), 1) for gap in values["others_not_run"])
    yield "machine", "Machine", None
    yield "checks", "Checks", values["checks"]
    if values["rows"]:
        yield "numbers", "Measurements", len(values["rows"])
    if values["targets"]:
        yield "targets", "Workloads", len(values["targets"])
    if values["packages"]:
        yield "packages", "Packages", len(values["packages"])
    if values["install"] and values["verdict"] != VerdictName.READY_FOR_INSTALL.value:
        yield "install", "Ways to install", None
    if values["aside"]:
        yield "aside", "Not applicable", sum(len(end.on) for end in values["aside"])


# ------------------------------------------------------------------------------------------------ the answer


def _sentence(verdict: Verdict, run: Mapping[str, Any]) -> str:
    """What the verdict means."""
    if verdict.name is VerdictName.BLOCKED:
        one = len(verdict.blockers) == 1
        act = f" {_FOR_THE_NODE[verdict.action.value]}" if verdict.action.value in _FOR_THE_NODE else ""
        return (
            f"{count(len(verdict.blockers), 'blocker')} {'stands' if one else 'stand'} in the way: "
            f"fix {'it' if one else 'them'}, then run again.{act}"
        )
    if verdict.name is VerdictName.INCONCLUSIVE:
        required = sum(bool(gap["required"]) for gap in verdict.not_run)
        return f"Nothing failed, but readiness is not proven: {count(required, 'gap')} in the proof."
    kernels = "" if "no GPU kernel" not in verdict.summary else " No GPU kernel was run at this level."
    if verdict.name is VerdictName.READY_FOR_INSTALL:
        return f"Every required check passed. BioNeMo itself is not installed yet: choose a way below.{kernels}"
    return f"Every required check that applies here ran and passed.{kernels}"


def _advice(document: Mapping[str, Any], run: Mapping[str, Any], verdict: Verdict) -> str:
    """What to do where nothing failed."""
    if verdict.name is VerdictName.READY:
        shallow = "no GPU kernel" in verdict.summary
        return (
            "Nothing stands in the way. Run it at level standard to prove that the GPUs compute."
            if shallow
            else "Nothing. This node can take its work."
        )
    if document.get("exitcode") is None:
        return "The run has not come to its end. If it no longer runs, find out what ended it, and run it again."
    if run["device"] != "cuda":
        return "This was a rehearsal. Run it again on a machine with a GPU, without --bionemo-device."
    return "Find out why these were not run, then run again. Nothing failed."


def _facts(verdict: Verdict, run: Mapping[str, Any], ended: Sequence[Result]) -> Iterator[str]:
    yield f"level {run['level']}" + (f", {run['duration_s']:,.1f} s" if "duration_s" in run else "")
    if run["device"] != "cuda":
        yield f"rehearsal on the device {run['device']}"
    yield from machine.phrases(run)
    yield _counted(map(_word, ended))


def _made(run: Mapping[str, Any]) -> str:
    tool = run.get("tool", {})
    started = str(run.get("started", "")).replace("T", " ").replace("+00:00", " UTC")
    parts = [f"{tool.get('name', 'pytest-bionemo')} {tool.get('version', '')}".strip()]
    return ", ".join([*parts, *([f"run of {started}"] if started else []), "made from the report alone"])


# ------------------------------------------------------------------------------------------ what was not run


def _gaps(entries: Iterable[Mapping[str, Any]]) -> list[Gap]:
    """By reason, those that READY needs first; what waits for a check is one gap."""
    found: dict[tuple[str | None, str], Gap] = {}
    for entry in entries:
        waits_for = entry["waits_for"]
        gap = found.setdefault((waits_for, "" if waits_for else entry["reason"]), Gap(entry["reason"], waits_for))
        gap.is_required |= bool(entry["required"])
        gap.checks += [entry["check"]] if entry["check"] else []
    return sorted(found.values(), key=lambda gap: (not gap.is_required, gap.waits_for is not None))


def _aside(entries: Iterable[Mapping[str, Any]]) -> list[End]:
    found: dict[tuple[str, str], End] = {}
    for entry in entries:
        _end(found, _WORDS[Outcome.NOT_APPLICABLE], entry["reason"]).on.append(entry["check"])
    return list(found.values())


def _end(found: dict[tuple[str, str], End], word: str, why: str) -> End:
    """The end of this kind. Reasons that differ in their numbers alone (of the GPU) are one, but for findings."""
    alike = why if word in ("FAILED", "ERROR", "WARNING") else _DIGITS.sub("0", why)
    return found.setdefault((word, alike), End(word, why))


def _counted(words: Iterable[str]) -> str:
    """'1 failed, 24 passed'."""
    sums = Counter(words)
    known = (word for word in _ORDER if sums[word])
    return ", ".join(f"{sums[word]:,} {word.lower().replace('_', ' ')}" for word in known)


# ------------------------------------------------------------------------------------------------ each check


def _topics(
    run: Mapping[str, Any], verdict: Verdict, ended: Iterable[Result], seconds: Mapping[str, float]
) -> Iterator[Topic]:
    checks: dict[str, dict[str, Check]] = {}
    for result in ended:
        entry = result.check
        known = checks.setdefault(entry.topic, {})
        check = known.setdefault(entry.name, Check(entry.name, entry.title))
        why = (result.finding or {}).get("message", "") or result.reason
        check.add(_word(result), why, str(entry.id).partition("[")[2].removesuffix("]"))
        check.seconds += seconds.get(entry.id, 0.0)
    errors = {topic["name"]: topic["error"] for topic in run["topics"]}
    for name, state in verdict.sections.items():
        yield Topic(name, state, errors.get(name), list(checks.get(name, {}).values()))


def _word(result: Result) -> str:
    is_warning = result.outcome is Outcome.FAILED and not result.is_required
    return "WARNING" if is_warning else _WORDS[result.outcome]


def _seconds(document: Mapping[str, Any]) -> dict[str, float]:
    return {
        test["nodeid"]: sum(finite(test.get(stage, {}).get("duration")) or 0.0 for stage in _STAGES)
        for test in document.get("tests", [])
    }
