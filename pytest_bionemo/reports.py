"""The report of a validation as an object: of a run that has just ended, or read back from a file."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bionemo import verdict as verdicts
from pytest_bionemo.model import Action, Gpu, Measurement, Outcome, VerdictName
from pytest_bionemo.report import cell, terminal
from pytest_bionemo.verdict import DAMAGED, SCHEMA_VERSION, ReportError

if TYPE_CHECKING:
    import pandas

_WIDTH = 80
_NAMED_AT_MOST = 3
_STAGES = ("setup", "call", "teardown")


class NotReady(Exception):
    """The verdict is none of those that are accepted. ``report`` is the report that says so."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.report = report

    def __str__(self) -> str:
        return "\n".join(_obstacles(self.report))


@dataclass(frozen=True)
class ReportedFinding:
    """A failed check, as the report tells it.

    ``check`` is its id (``bionemo/driver::loads``), ``severity`` "blocker" or "warning", ``device`` the UUID of the
    GPU or slice that it concerns, None for the machine. A line of ``fix`` that starts with ``$ `` is a command.
    ``blames`` are the hosts that are at fault where this machine is not.
    """

    check: str
    severity: str
    message: str
    why: str
    fix: tuple[str, ...]
    action: Action
    links: tuple[str, ...]
    device: str | None
    title: str
    blames: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gap:
    """What was not run, and why. ``check`` is None for the run as a whole.

    ``waits_for`` is the check that has to pass before; ``required`` says whether READY needs this one.
    """

    check: str | None
    reason: str
    waits_for: str | None
    required: bool


@dataclass(frozen=True)
class ReportedCheck:
    """How one check ended. ``message`` is what was found, or why it was not run; ``duration_s`` is in seconds."""

    check: str
    topic: str
    title: str
    severity: str
    level: str
    device: str | None
    outcome: Outcome
    message: str
    duration_s: float | None


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """What a validation found. A notebook shows it as its verdict and findings, and so does ``print``.

    ``verdict`` is READY, READY_FOR_INSTALL, BLOCKED or INCONCLUSIVE, formed from the records of the checks and not
    read from the file. ``document`` is the whole JSON document, ``path`` the file that it is from, None where it was
    kept in none. ``targets`` are the entries of the schema; ``install_options`` say what to install where all but
    BioNeMo is there.

    ::

        report = pytest_bionemo.validate(level="quick")
        print(report.verdict, [finding.message for finding in report.findings])
    """

    verdict: str
    summary: str
    action: Action
    level: str
    device: str
    findings: tuple[ReportedFinding, ...]
    not_run: tuple[Gap, ...]
    checks: tuple[ReportedCheck, ...]
    measurements: tuple[Measurement, ...]
    gpus: tuple[Gpu, ...]
    environment: Mapping[str, Any]
    targets: tuple[Mapping[str, Any], ...]
    install_options: tuple[str, ...]
    document: Mapping[str, Any]
    path: Path | None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """Read a report that was saved.

        :raises ReportError: one line that names the file, if it cannot be read, is no report, is damaged, or is of a
            later version of pytest-bionemo.
        """
        try:
            place = Path(path).expanduser()
        except RuntimeError as error:  # the home of nobody
            raise ReportError(f"{path}: cannot be read: {error}") from None
        try:
            return cls.of(read(place), place)
        except ReportError as error:
            raise ReportError(f"{place}: {error}") from None

    @classmethod
    def of(cls, document: Mapping[str, Any], path: Path | None = None) -> Report:
        """The report of a JSON document.

        :raises ReportError: if it is none.
        """
        expect_known(document)
        try:
            report = cls._of(document, path)
            # What cannot be shown is damaged, too: better said here than in a cell.
            str(report)
            report._repr_html_()
        except ReportError:
            raise
        except DAMAGED as error:
            raise ReportError(f"the report is damaged ({type(error).__name__}: {error})") from error
        return report

    @classmethod
    def _of(cls, document: Mapping[str, Any], path: Path | None) -> Report:
        verdict = verdicts.fold(document)
        run = document["bionemo"]
        return cls(
            verdict=verdict.name.value,
            summary=verdict.summary,
            action=verdict.action,
            level=run["level"],
            device=run["device"],
            findings=tuple(
                _finding(entry, severity)
                for severity, entries in (("blocker", verdict.blockers), ("warning", verdict.warnings))
                for entry in entries
            ),
            not_run=tuple(Gap(**gap) for gap in verdict.not_run),
            checks=tuple(_checks(document)),
            measurements=tuple(_measurement(entry) for entry in run.get("measurements", [])),
            gpus=tuple(Gpu.from_json(entry) for entry in run.get("gpus", [])),
            environment=dict(run.get("environment", {})),
            targets=tuple(dict(entry) for entry in run.get("targets", [])),
            install_options=tuple(run.get("install_options", [])),
            document=document,
            path=path,
        )

    @property
    def is_ready(self) -> bool:
        """READY or READY_FOR_INSTALL. Ask for ``verdict == "READY"`` where BioNeMo has to be installed."""
        return self.verdict in (VerdictName.READY, VerdictName.READY_FOR_INSTALL)

    def raise_if_not_ready(self, accept: Collection[str] = ("READY",)) -> None:
        """Stop a program on a machine that is not ready.

        :param accept: the verdicts with which it goes on. ``("READY", "READY_FOR_INSTALL")`` lets pass a machine
            on which all but BioNeMo itself is there.
        :raises NotReady: with the verdict, what stands in the way first, and the fixes.
        :raises ValueError: if ``accept`` holds what is no verdict.
        """
        accepted = [accept] if isinstance(accept, str) else list(accept)
        known = [name.value for name in VerdictName]
        for name in accepted:
            if name not in known:
                raise ValueError(f"accept: {name!r} is not a verdict. Choose from: {', '.join(known)}.")
        if self.verdict not in accepted:
            raise NotReady(self)

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each check, in the order of the run; the columns are the fields of :class:`ReportedCheck`.

        :raises ImportError: if pandas does not import.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(f"Report.to_pandas() needs pandas ({error}): $ pip install pandas") from error
        rows = [{**asdict(check), "outcome": check.outcome.value} for check in self.checks]
        return pandas.DataFrame(rows, columns=[field.name for field in fields(ReportedCheck)])

    def __str__(self) -> str:
        lines = terminal.summary(self._run(), str(self.path or ""), _WIDTH, verbosity=0)
        return "\n".join(f" {line.text} ".center(_WIDTH, "=") if line.is_title else line.text for line in lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """What a notebook shows: no script, no style for anything but itself."""
        return cell.render(self._run(), str(self.path or ""))

    def _run(self) -> Mapping[str, Any]:
        """The document's own key with the verdict that was formed here."""
        return {"install_options": [], **self.document["bionemo"], **verdicts.fold(self.document).to_json()}


def read(path: Path) -> Any:
    """The JSON document in a file.

    :raises ReportError: if it cannot be read or is none.
    """
    try:
        text = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: no file can have this name
        raise ReportError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not text.strip():
        raise ReportError("is empty: its run was ended while it wrote it")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"is no JSON ({error})") from None


def expect_known(document: Any) -> None:
    """Refuse what is no report, or one of a later version, of which nobody here knows what it means.

    :raises ReportError: one line.
    """
    try:
        version = document["bionemo"]["schema_version"]
    except (KeyError, TypeError):
        raise ReportError("not a report of pytest --bionemo-validate") from None
    if type(version) is not int:
        raise ReportError(f"the report is damaged: its schema version is {version!r}")
    if version > SCHEMA_VERSION:
        raise ReportError(
            f"its schema version is {version}, and this pytest-bionemo reads {SCHEMA_VERSION}: update pytest-bionemo"
        )


def _finding(entry: Mapping[str, Any], severity: str) -> ReportedFinding:
    return ReportedFinding(
        check=entry["check"],
        severity=severity,
        message=entry["message"],
        why=entry["why"],
        fix=tuple(entry["fix"]),
        action=Action(entry["action"]),
        links=tuple(entry["links"]),
        blames=tuple(entry.get("blames", ())),
        device=entry["device"],
        title=entry["title"],
    )


def _measurement(entry: Mapping[str, Any]) -> Measurement:
    interval = entry.get("ci95")
    known = {field.name: entry[field.name] for field in fields(Measurement) if field.name in entry}
    return Measurement(**{**known, "ci95": tuple(interval) if interval else None})


def _checks(document: Mapping[str, Any]) -> Iterator[ReportedCheck]:
    durations = {test["nodeid"]: _duration(test) for test in document["tests"]}
    for result in verdicts.results(document):
        check, said = result.check, result.finding or {}
        yield ReportedCheck(
            check=check.id,
            topic=check.topic,
            title=check.title,
            severity=said.get("severity", check.severity),
            level=check.level,
            device=check.device,
            outcome=result.outcome,
            message=said.get("message", result.reason),
            duration_s=durations.get(check.id),
        )


def _duration(test: Mapping[str, Any]) -> float:
    return float(sum(test.get(stage, {}).get("duration", 0.0) for stage in _STAGES))


def _obstacles(report: Report) -> Iterator[str]:
    """The verdict, and what stands in the way first, each with its fix."""
    yield report.summary
    blockers = [finding for finding in report.findings if finding.severity == "blocker"]
    for finding in blockers[:_NAMED_AT_MOST]:
        yield f"{finding.check}: {finding.message}"
        yield from (f"  fix: {line}" for line in finding.fix)
    gaps = [] if blockers else [gap for gap in report.not_run if gap.required]
    for gap in gaps[:_NAMED_AT_MOST]:
        yield f"{gap.check}: {gap.reason}" if gap.check else gap.reason
    left = max(len(blockers), len(gaps)) - _NAMED_AT_MOST
    if left > 0:
        yield f"and {left} more: print the report"
    if report.verdict == VerdictName.READY_FOR_INSTALL:
        yield from (f"  install: {option}" for option in report.install_options)
