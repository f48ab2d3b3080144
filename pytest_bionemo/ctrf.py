"""A report as a document of the Common Test Report Format (https://ctrf.io), which dashboards read."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pytest_bionemo.reports import expect_known, read
from pytest_bionemo.verdict import DAMAGED, ReportError, Verdict, fold

_SPEC_VERSION = "0.1.0"
_USAGE_ERROR = 4
_STATUSES = ("passed", "failed", "skipped", "pending", "other")
_STATUS_OF_A_TEST = {"passed": "passed", "failed": "failed", "error": "failed", "skipped": "skipped"}
_DETAILS = ("why", "fix", "action", "links")


def export(report: str, out: str | None) -> int:
    """Write the CTRF document of a report's file into another file, or to the standard output; the exit status."""
    try:
        text = json.dumps(convert(read(Path(report))), indent=2, allow_nan=False)
        if out is None:
            print(text)
        else:
            Path(out).write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        said = f"{error.filename}: {error.strerror}"
    except (RecursionError, ValueError) as error:
        said = f"{report}: {error}"
    else:
        return 0
    print(f"error: {' '.join(said.split())}", file=sys.stderr)
    return _USAGE_ERROR


def convert(report: Any) -> dict[str, Any]:
    """The CTRF document of a report.

    A check is ``passed`` only if it counts as that in the verdict. One that was not run is ``pending``, one that does
    not apply here ``skipped``, a finding that does not block ``other``; so is a test that was expected to fail.
    ``environment.healthy`` is the verdict: true for READY and READY_FOR_INSTALL alone.

    :raises ReportError: if it is no report of a validation run, or one of a later version of pytest-bionemo.
    """
    expect_known(report)
    try:
        return _convert(report, report["bionemo"], fold(report))
    except ReportError:
        raise
    except DAMAGED as error:
        said = f"{type(error).__name__}: {error}"
        raise ReportError(f"not a report of pytest --bionemo-validate: it is damaged ({said})") from error


def _convert(report: Mapping[str, Any], run: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    seen = {test["nodeid"]: test for test in report["tests"]}
    checks = {check["id"] for check in run["checks"]}
    tests = [*_checks(run, verdict, seen), *(_test(name, test) for name, test in seen.items() if name not in checks)]
    statuses = Counter(test["status"] for test in tests)
    start = round(datetime.fromisoformat(run["started"]).timestamp() * 1000)
    duration = round(run.get("duration_s", 0) * 1000)
    tool = {key: run["tool"][key] for key in ("name", "version")}
    return {
        "reportFormat": "CTRF",
        "specVersion": _SPEC_VERSION,
        "generatedBy": " ".join(tool.values()),
        "results": {
            "tool": tool,
            "summary": {
                **{"tests": len(tests), **{name: statuses[name] for name in _STATUSES}},
                **{"start": start, "stop": start + duration, "duration": duration},
            },
            "tests": tests,
            "environment": {
                "reportName": f"BioNeMo readiness: {verdict.summary}",
                "healthy": verdict.is_ready,
                "extra": {
                    **run.get("environment", {}),
                    "verdict": verdict.name.value,
                    "action": verdict.action.value,
                },
            },
        },
    }


def _checks(run: Mapping[str, Any], verdict: Verdict, seen: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every check, and every gap that is no check's: a topic that cannot be imported, a run that has not ended."""
    known = {check["id"]: check for check in run["checks"]}
    broken = {name for name in known if seen.get(name, {}).get("outcome") in ("failed", "error")}
    said = {entry["check"]: {"status": "skipped", "message": entry["reason"]} for entry in verdict.not_applicable}
    for gap in verdict.not_run:
        entry = {"status": "failed" if gap["check"] in broken else "pending", "message": gap["reason"]}
        if gap["check"] in known:
            said[gap["check"]] = entry
        else:
            yield {"name": gap["check"] or "bionemo", "duration": 0, **entry}
    for status, findings in (("failed", verdict.blockers), ("other", verdict.warnings)):
        said.update((entry["check"], {"status": status, "message": entry["message"]}) for entry in findings)
    details = {entry["check"]: entry for entry in (*verdict.blockers, *verdict.warnings)}
    for name, check in known.items():
        yield {
            **_test(name, seen.get(name, {})),
            **said.get(name, {}),
            "suite": ["bionemo", check["topic"]],
            "tags": [check["severity"], check["level"]],
            **({"device": check["device"]} if check["device"] else {}),
            "extra": {"title": check["title"], **{key: details[name][key] for key in _DETAILS if name in details}},
        }


def _test(name: str, test: Mapping[str, Any]) -> dict[str, Any]:
    outcome = test.get("outcome", "not run")
    stages = [test[stage] for stage in ("setup", "call", "teardown") if stage in test]
    traces = [stage["longrepr"] for stage in stages if stage["outcome"] == "failed" and "longrepr" in stage]
    return {
        "name": name,
        "status": _STATUS_OF_A_TEST.get(outcome, "other"),
        "rawStatus": outcome,
        "duration": round(1000 * sum(stage.get("duration", 0) for stage in stages)),
        **({"trace": traces[0]} if traces else {}),
    }
