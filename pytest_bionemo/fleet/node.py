"""What the fleet keeps of one report: its verdict, formed again, and the facts and numbers to compare.

A report comes from a file that anybody can have written. Its verdict is folded from the records of its checks and
not read; what is no text where text belongs, or no name where a host is named, makes it unreadable.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from pytest_bionemo import records
from pytest_bionemo.fleet import findings, hosts
from pytest_bionemo.model import Gpu, VerdictName, describe_gpus
from pytest_bionemo.report import hyperpod
from pytest_bionemo.reports import expect_known
from pytest_bionemo.showing import shown as shown
from pytest_bionemo.terms import DEFAULT_REPORT
from pytest_bionemo.verdict import DAMAGED, SCHEMA_VERSION, ReportError, Verdict, fold_run, run_of

JOB_FOLDER = "job-"
"""Begins the name of the folder in which the reports of one job lie."""
REASONS_AT_MOST = 5
_LONGEST_REASON = 300
_LONGEST_FIX = 400
_FIXES_AT_MOST = 12
_FACTS_AT_MOST = 64
_NUMBERS_AT_MOST = 8192
_LONGEST_UNIT = 24
_END_OF_TIME = 32503680000.0  # the year 3000: what is later cannot always be written as a date
_NUMBER = (int, float)
_LARGEST_COUNT = 10_000_000


try:
    # Four times as fast, where the extra "fleet" is installed; what the node is made of is the same.
    from pytest_bionemo.fleet import decoding
except ImportError:
    decoding = None  # type: ignore[assignment]

TOOL = "pytest-bionemo fleet"
LEVELS = ("quick", "standard", "full")

# Of the report's environment, what has to be the same on all nodes of a job.
_FACTS = (
    "driver", "cuda_driver", "torch", "torch_cuda", "cudnn", "nccl", "lightning", "python", "cuda_toolkit", "kernel",
    "distribution", "glibc", "container", "instance_type", "databricks_runtime", "vbios", "adapter_firmware",
    "adapter_links", "efa_installer", "libfabric", "aws_ofi_nccl",
)  # fmt: skip


class _Report(NamedTuple):
    """What is read of a report. Of ``run``, its key ``bionemo``, the checks and measurements are not to be read."""

    run: Mapping[str, Any]
    exitcode: Any
    checks: Sequence[records.Check]
    tests: Sequence[records.Record]
    numbers: Sequence[records.Number]


class FleetDocument(ReportError):
    """What the fleet itself wrote, into the folder of the reports: no report, and no reason for a doubt."""


@dataclass(frozen=True)
class JobPart:
    """The job that a report belongs to.

    ``id`` is the job's, of an array the array's; ``tasks`` is how many that has. ``node_list`` are the nodes that it
    was started on, as Slurm writes them or with commas; None where the report does not know them. A run that did not
    end does not know its ``node_rank``.
    """

    id: str
    node_rank: int | None = None
    nodes: int = 1
    node_list: str | None = None
    task: int | None = None
    tasks: int | None = None

    @property
    def name(self) -> str:
        """As Slurm calls it: 77, or 77_3 for a task of an array, which is a job of its own."""
        return self.id if self.task is None else f"{self.id}_{self.task}"


@dataclass(frozen=True)
class Numbers:
    """The measurements of a node that can be compared, as columns: 10,000 nodes have millions.

    Which quantity, of which device, its value, and half of the width of its confidence interval. ``quantities``
    (name, unit, model of the device) and ``devices`` are what the numbers in the first two columns stand for.
    """

    quantities: tuple[tuple[str, str, str], ...] = ()
    devices: tuple[str, ...] = ()
    quantity: array[int] = field(default_factory=lambda: array("H"))
    device: array[int] = field(default_factory=lambda: array("H"))
    value: array[float] = field(default_factory=lambda: array("d"))
    half_width: array[float] = field(default_factory=lambda: array("f"))


@dataclass(frozen=True)
class Node:
    """One report of one host.

    ``started`` is in seconds since 1970. ``reasons`` say why it is not ready, REASONS_AT_MOST of them and how many
    more. ``blames`` are the hosts that its blockers blame, each with the action for it; ``blames_others_only`` says
    that all of its blockers do.
    ``status`` is the exit status of its run, None where it did not end. ``own_actions`` are those of
    the blockers that blame no other, ``said`` the verdict with their checks.
    ``facts`` are pairs of a name and a value, sorted. ``sections`` are pairs of a topic and how it ended; ``found``
    is what those checks say that did not pass.
    """

    host: str
    path: str
    verdict: VerdictName
    action: str
    level: str
    device: str
    started: float
    status: int | None
    job: JobPart | None
    reasons: tuple[str, ...]
    blames: tuple[tuple[str, str], ...]
    blames_others_only: bool
    own_actions: tuple[str, ...]
    said: str
    facts: tuple[tuple[str, str], ...]
    uuids: tuple[str, ...]
    numbers: Numbers
    sections: tuple[tuple[str, str], ...] = ()
    found: tuple[findings.Found, ...] = ()

    @property
    def is_ready(self) -> bool:
        """READY or READY_FOR_INSTALL, by its records."""
        return self.verdict in (VerdictName.READY, VerdictName.READY_FOR_INSTALL)


def read(content: bytes, path: str) -> Node:
    """The node of a report.

    :param content: the bytes of the JSON document.
    :param path: where it is from. A run that did not end names its host by the name of its file alone.
    :raises ReportError: one line, if it is no report, damaged, of another schema version, or names no host.
    """
    if not content.strip():
        raise ReportError("is empty: its run was ended while it wrote it")
    try:
        return _node(_decode(content), path)
    except ReportError:
        raise
    except DAMAGED as error:
        raise ReportError(f"the report is damaged ({type(error).__name__}: {error})") from error


def _decode(content: bytes) -> _Report:
    if decoding is not None:
        # Otherwise in the words of the standard library, which also takes what this one is too strict for.
        with suppress(ValueError, RecursionError):
            found = decoding.decode(content)
            run: Any = found.bionemo
            if found.tool != TOOL and run.get("schema_version") == SCHEMA_VERSION:
                return _Report(run, found.exitcode, run["checks"], found.tests, run.get("measurements", []))
    return _parse(content)


def _parse(content: bytes) -> _Report:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"is no JSON: it is truncated or damaged ({error})") from None
    if isinstance(document, dict) and document.get("tool") == TOOL:
        raise FleetDocument("is a document of the fleet itself")
    expect_known(document)
    version = document["bionemo"]["schema_version"]
    if version != SCHEMA_VERSION:
        raise ReportError(f"its schema version is {version}, and this pytest-bionemo reads {SCHEMA_VERSION}")
    run = run_of(document)
    return _Report(run, document.get("exitcode"), records.checks(run), records.tests(document), records.numbers(run))


def _node(report: _Report, path: str) -> Node:
    run = report.run
    verdict = fold_run(run, report.exitcode, report.checks, report.tests)
    environment = run.get("environment", {})
    blaming = [entry for entry in verdict.blockers if entry.get("blames")]
    known = {
        "level": run["level"], "verdict": verdict.name.value, "blockers": verdict.blockers, "not_run": verdict.not_run
    }  # fmt: skip
    return Node(
        host=host_of(environment, path),
        path=path,
        verdict=verdict.name,
        action=verdict.action.value,
        level=_one_of(run["level"], LEVELS, "level"),
        device=_one_of(run["device"], ("cuda", "cpu"), "device"),
        started=_time(run["started"]),
        status=report.exitcode,
        job=_job(environment.get("job"), path),
        reasons=tuple(_reasons(verdict)),
        blames=tuple(sorted({(host, entry["action"]) for entry in blaming for host in entry["blames"]})),
        blames_others_only=bool(verdict.blockers) and len(blaming) == len(verdict.blockers),
        own_actions=tuple(sorted(set(hyperpod.own_actions(known)))),
        said=shown(hyperpod.reason(known), _LONGEST_REASON),
        facts=tuple(sorted(dict(_facts(run, environment)).items())),
        uuids=tuple(sorted({str(gpu["uuid"]) for gpu in run.get("gpus", []) if gpu.get("uuid")})),
        numbers=_numbers(run, report.numbers),
        sections=tuple((_text(topic), word) for topic, word in list(verdict.sections.items())[:_FACTS_AT_MOST]),
        found=tuple(map(_found, findings.of(verdict))),
    )


def host_of(environment: Mapping[str, Any], path: str) -> str:
    """The host of a report: as its scheduler calls it, else as it calls itself, else by the name of its file.

    :raises ReportError: if that is no name that a host can have.
    """
    name = (environment.get("job") or {}).get("node") or environment.get("hostname") or Path(path).stem
    if name == Path(DEFAULT_REPORT).stem:
        raise ReportError("does not say of which host it is: its run did not end, and its file is called as all are")
    if not hosts.is_host(name):
        raise ReportError(f"{shown(name)!r} is no name that a host can have")
    return str(name)


def _one_of(value: Any, choices: tuple[str, ...], what: str) -> str:
    if value not in choices:
        raise ReportError(f"the report is damaged: {shown(value)!r} is no {what}")
    return str(value)


def _time(text: str) -> float:
    when = datetime.fromisoformat(text)
    seconds = (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()
    if not 0 <= seconds < _END_OF_TIME:
        raise ReportError(f"the report is damaged: it began {shown(text)}")
    return seconds


def _job(job: Mapping[str, Any] | None, path: str) -> JobPart | None:
    """The job by what the report says; a run that did not end lies in the folder of its job and says nothing."""
    folder = Path(path).parent.name
    if job is None and folder.startswith(JOB_FOLDER):
        return JobPart(_text(unquote(folder.removeprefix(JOB_FOLDER))))
    if not job or job.get("id") is None:
        return None
    listed = job.get("hosts") or ()
    node_list = job.get("node_list") or ",".join(host for host in listed if hosts.is_host(host)) or None
    return JobPart(
        id=_text(job["id"]),
        node_rank=_whole(job.get("node_rank"), 0),
        nodes=_whole(job.get("nodes"), 1),
        node_list=None if node_list is None else str(node_list),
        task=None if job.get("task") is None else _whole(job["task"], 0),
        tasks=None if job.get("tasks") is None else _whole(job["tasks"], 1),
    )


def _whole(value: Any, default: int) -> int:
    """A count; a larger one than any cluster has is none."""
    if value is None:
        return default
    if type(value) is not int or not 0 <= value <= _LARGEST_COUNT:
        raise ReportError(f"the report is damaged: its job has a count of {shown(value)!r}")
    return value


def _reasons(verdict: Verdict) -> Iterator[str]:
    """Why the node is not ready: its blockers, else the gaps in its proof, those with one reason once."""
    if verdict.is_ready:
        return
    found = [f"{entry['check']}: {entry['message']}" for entry in verdict.blockers]
    if not found:
        gaps = [gap for gap in verdict.not_run if gap["required"]]
        # What others wait for stands for them.
        found = [
            f"{gap['check']}: {gap['reason']}" if gap["check"] else gap["reason"]
            for gap in gaps
            if not gap["waits_for"]
        ] or [gap["reason"] for gap in gaps]
    distinct = list(dict.fromkeys(found))
    yield from (shown(text, _LONGEST_REASON) for text in distinct[:REASONS_AT_MOST])
    if len(distinct) > REASONS_AT_MOST:
        yield f"and {len(distinct) - REASONS_AT_MOST} more"


def _found(one: findings.Found) -> findings.Found:
    return one._replace(
        check=_text(one.check),
        action=_text(one.action),
        title=_text(one.title),
        message=shown(one.message, _LONGEST_REASON),
        fix=tuple(map(_fix, one.fix[:_FIXES_AT_MOST])),
    )


def _fix(line: str) -> str:
    # Half of a command is worse than none.
    return shown(line, _LONGEST_FIX) if len(line) <= _LONGEST_FIX else "the report of the node has the rest"


def _facts(run: Mapping[str, Any], environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in _FACTS:
        if name in environment:
            yield name, _text(environment[name])
    for package in run.get("packages", [])[:_FACTS_AT_MOST]:
        yield _text(package["name"]), _text(package["version"])
    for name, value in list(environment.get("extra", {}).items())[:_FACTS_AT_MOST]:
        yield f"extra.{_text(name)}", _text(value)
    if "gpus" in run:
        yield "gpus", _text(describe_gpus(tuple(Gpu.from_json(gpu) for gpu in run["gpus"])))


def _numbers(run: Mapping[str, Any], measured: Sequence[records.Number]) -> Numbers:
    """Rates and durations of our own checks; the numbers of somebody's tests may mean anything.

    What several nodes measure together is no number of one of them: it goes with their number, and with the worst.
    """
    models = dict(_models(run.get("gpus", [])))
    unknown = "CPU" if run["device"] == "cpu" else ""
    quantities: dict[tuple[str, str, str], int] = {}
    devices: dict[str, int] = {}
    found = Numbers()
    text = cache(_text)  # the same few names, hundreds of times
    compared = cache(is_compared)
    for one in measured[:_NUMBERS_AT_MOST]:
        value, unit = one.value, one.unit
        if (
            not compared(unit)
            or one.test is not records.ABSENT
            or one.nodes is not records.ABSENT
            or not isinstance(value, _NUMBER)
            or not 0 < value < math.inf
        ):
            continue
        device = text(one.device) if one.device else ""
        key = (text(one.name), unit, models.get(device, unknown))
        lower, upper = one.ci95 or (value, value)
        found.quantity.append(quantities.setdefault(key, len(quantities)))
        found.device.append(devices.setdefault(device, len(devices)))
        found.value.append(value)
        found.half_width.append(abs(upper - lower) / 2)
    return Numbers(tuple(quantities), tuple(devices), found.quantity, found.device, found.value, found.half_width)


def is_compared(unit: object) -> bool:
    """Whether the unit says which end of a number is the better one: a rate, or a duration in seconds."""
    return isinstance(unit, str) and (unit == "s" or unit.endswith("/s")) and len(unit) <= _LONGEST_UNIT


def _models(gpus: list[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """The model of each GPU and slice by its UUID."""
    for gpu in gpus:
        yield _text(gpu["uuid"]), _text(gpu["name"])
        yield from ((_text(slice_["uuid"]), _text(slice_["name"])) for slice_ in gpu.get("mig_devices", []))


def _text(value: Any) -> str:
    return "none" if value is None else shown(value)
