"""Keeps secrets out of what other plugins write of the checks: JUnit XML, report logs, pages, the terminal.

The report of the run is cleaned as a whole; those outputs do not go through it. What belongs to the tests of the
project is theirs, and stays as it is.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator
from typing import Any

import pytest
from _pytest._code.code import TerminalRepr  # of which every part of a traceback is one

from pytest_bionemo import suite
from pytest_bionemo.report.clean import hider


class Hiding:
    """The hooks around all others that see a report of a check first."""

    def __init__(self) -> None:
        self._hide = hider(os.environ)
        self._checks: set[str] = set()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Hide them in every stage of a check."""
        report = yield
        if isinstance(item, suite.CheckItem):
            self._checks.add(item.nodeid)
            report.user_properties = [(name, self._text(value)) for name, value in report.user_properties]
            self._clean(report)
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Hide them in what the import of a topic has printed and raised."""
        report = yield
        if isinstance(collector, suite.CheckModule):
            self._clean(report)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, nodeid: str) -> None:
        """Hide them in a warning of a check, or of the import of modules, which pytest calls that of no test."""
        said = str(warning_message.message)
        if (not nodeid or nodeid in self._checks) and self._hide(said) != said:
            warning_message.message = self._hide(said)

    def _clean(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        report.longrepr = self._parts(report.longrepr)
        report.sections = [(name, self._hide(text)) for name, text in report.sections]

    def _text(self, value: object) -> object:
        """The value itself where there is nothing to hide in its text."""
        said = str(value)
        hidden = self._hide(said)
        return value if hidden == said else hidden

    def _parts(self, value: Any) -> Any:
        """A traceback whose texts are hidden, in its place: it is still printed in colour, and as --tb says."""
        if isinstance(value, str):
            return self._hide(value)
        if isinstance(value, list | tuple):
            return type(value)(map(self._parts, value))
        if isinstance(value, TerminalRepr):
            for name, part in vars(value).items():
                setattr(value, name, self._parts(part))
        return value
