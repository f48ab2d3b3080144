"""What the outputs of other plugins show of a run: JUnit XML, pytest-reportlog, pytest-html.

A check records its numbers, and what it found out about a target, as JSON in the properties of its item: so they
reach the controller of pytest-xdist. Here they are taken into the report of the run. What stays in the properties,
where all those outputs find it, is text for people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

import pytest

from pytest_bionemo.checking import TARGET
from pytest_bionemo.compute import MEASUREMENT
from pytest_bionemo.model import Finding, Measurement
from pytest_bionemo.report import terminal
from pytest_bionemo.suite import OUTCOME
from pytest_bionemo.verdict import Verdict


class Records:
    """The numbers and targets that were recorded, in the order of the run."""

    def __init__(self) -> None:
        self._of: dict[str, list[tuple[str, dict[str, Any]]]] = {}

    def take(self, report: pytest.TestReport) -> None:
        """Take them out of the properties of a test, and leave there what can be read."""
        found: list[tuple[str, dict[str, Any]]] = []
        said: list[tuple[str, object]] = []
        for name, value in report.user_properties:
            record = _record(name, value)
            if record is None:
                said.append((name, value))
                continue
            found.append((name, record))
            # A number that somebody's test has measured stands there as text already.
            said += [] if "test" in record else [_as_text(name, record)]
        report.user_properties = said
        if found:
            # Each stage has those of the stages before it too; a test that is repeated starts anew.
            self._of[report.nodeid] = found

    def named(self, name: str) -> list[dict[str, Any]]:
        """All of one kind."""
        return [record for found in self._of.values() for kind, record in found if kind == name]


def _record(name: str, value: object) -> dict[str, Any] | None:
    """The record in a property; None if it holds none, as anybody may use these names."""
    if name not in (MEASUREMENT, TARGET):
        return None
    try:
        record: dict[str, Any] = json.loads(str(value))
        if name == MEASUREMENT:
            record = Measurement(**record).to_json()
        _as_text(name, record)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return record


def _as_text(name: str, record: Mapping[str, Any]) -> tuple[str, str]:
    if name == MEASUREMENT:
        return record["name"], f"{terminal.number(record)}, device {record['device']}"
    can = "can be trained here" if record["runnable"] else "cannot be trained here"
    return record["name"], f"{can}: {terminal.prospects(record)}"


def tell_junit(config: pytest.Config, verdict: Verdict) -> None:
    """Put the verdict above the tests of a JUnit XML file, which knows failures alone: a gap in the proof is none."""
    from _pytest.junitxml import xml_key  # what the fixture record_testsuite_property goes through

    xml = config.stash.get(xml_key, None)
    if xml is not None:
        xml.add_global_property("bionemo_verdict", verdict.name.value)
        xml.add_global_property("bionemo_summary", verdict.summary)


def html_summary(run: Mapping[str, Any], path: str) -> str:
    """The verdict, for the top of pytest-html's page."""
    gaps = "".join(f"<li>not run: {escape(gap['reason'])}</li>" for gap in run["not_run"] if gap["check"] is None)
    return (
        f"<h3>BioNeMo readiness: {escape(run['verdict'])}</h3>"
        f"<p>{escape(run['summary'])}. Report: {escape(path)}</p>{f'<ul>{gaps}</ul>' if gaps else ''}"
    )


def explain(report: pytest.TestReport) -> str | None:
    """How a check ended, in words; None where pytest's own account is the better one."""
    # What could not be collected has none: pytest-html asks for that too.
    said = dict(getattr(report, "user_properties", ()))
    is_text = isinstance(report.longrepr, str | tuple)
    if OUTCOME not in said or "bionemo_message" not in said or not is_text:
        return None
    waits_for = f"waits for {said['bionemo_waits_for']}: " if "bionemo_waits_for" in said else ""
    return Finding(
        message=f"{waits_for}{said['bionemo_message']}",
        why=str(said.get("bionemo_why", "")),
        fix=_lines(said, "bionemo_fix"),
        links=_lines(said, "bionemo_links"),
    ).describe()


def _lines(said: Mapping[str, object], name: str) -> tuple[str, ...]:
    return tuple(str(said.get(name, "")).splitlines())
