"""The time series of a report and of a fleet document: names, labels and values, and how many there can be at most.

Pure: a JSON document in, samples out. Every family is a gauge without a time of its own, which reads the same in
OpenMetrics and in the older text format of the textfile collector.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import datetime, timezone
from itertools import islice
from typing import Any, NamedTuple

from pytest_bionemo.fleet import hosts
from pytest_bionemo.fleet.node import host_of
from pytest_bionemo.judging import Word
from pytest_bionemo.model import Action, VerdictName
from pytest_bionemo.verdict import ReportError, Verdict, fold

CHECKS_AT_MOST = 64
"""Failed checks of a node that are named; a node that is that broken has one cause."""

MEASUREMENTS_AT_MOST = 1024
"""Numbers of a node that are kept: 8 GPUs with more than 100 each."""

FACTS_AT_MOST = 128
STRAGGLERS_AT_MOST = 1024

_LONGEST_LABEL = 120
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_READY = (VerdictName.READY.value, VerdictName.READY_FOR_INSTALL.value)
_RULERS = ("bound", "reference", "peer_median", "baseline")
_STATUSES = ("passing", "failing", "unknown")


class Family(NamedTuple):
    """What the samples of one name are, and the names of their labels."""

    help: str
    labels: tuple[str, ...] = ()


class Sample(NamedTuple):
    """One value: ``labels`` in the order of its family."""

    family: str
    labels: tuple[str, ...]
    value: float


FAMILIES = {
    # The most important first: where there is room for so many samples, the last ones are left out.
    "bionemo_reports": Family("Reports and fleet documents that these metrics are made of."),
    "bionemo_reports_unreadable": Family("Files that were given and are no report that can be read."),
    "bionemo_series_left_out": Family("Samples that there was no room for."),
    "bionemo_fleet_ready": Family("Whether the fleet is READY or READY_FOR_INSTALL."),
    "bionemo_fleet_verdict": Family("1 for the verdict of the fleet.", ("verdict",)),
    "bionemo_fleet_created_timestamp_seconds": Family("When the reports were folded."),
    "bionemo_fleet_nodes": Family("Nodes of the fleet by verdict.", ("verdict",)),
    "bionemo_fleet_nodes_by_status": Family(
        "Nodes that may be used, may not, or of which it is unknown.", ("status",)
    ),
    "bionemo_fleet_missing_nodes": Family("Nodes that were expected and have not reported."),
    "bionemo_fleet_unreadable_reports": Family("Reports that could not be folded."),
    "bionemo_fleet_duplicates": Family("Hosts of which there was more than one report."),
    "bionemo_fleet_stragglers": Family("Devices that are slower than their peers on other nodes."),
    "bionemo_fleet_drift_nodes": Family("Nodes that differ from the majority in this fact.", ("fact",)),
    "bionemo_node_ready": Family("Whether the node is READY or READY_FOR_INSTALL.", ("host",)),
    "bionemo_node_verdict": Family("1 for the verdict of the node.", ("host", "verdict")),
    "bionemo_node_action": Family("1 for what has to be done about the node.", ("host", "action")),
    "bionemo_node_status": Family("1 for what the fleet says of the node: use it, or do not.", ("host", "status")),
    "bionemo_node_missing": Family("Whether the node was expected and has not reported.", ("host",)),
    "bionemo_node_blamed_by": Family("Nodes whose findings blame this node.", ("host",)),
    "bionemo_node_started_timestamp_seconds": Family("When the validation of the node was started.", ("host",)),
    "bionemo_node_duration_seconds": Family("How long the validation of the node took.", ("host",)),
    "bionemo_node_level": Family("1 for the level and device of the validation.", ("host", "level", "device")),
    "bionemo_node_findings": Family("Failed checks of the node, one for each device.", ("host", "severity")),
    "bionemo_node_gaps": Family("Required checks of the node that were not run.", ("host",)),
    "bionemo_node_gpus": Family("GPUs of the node.", ("host",)),
    "bionemo_node_software": Family(
        "1 for the versions on the node.", ("host", "driver", "torch", "cuda", "nccl", "instance_type")
    ),
    "bionemo_node_failed_check": Family(
        "Devices on which this check has failed; 1 if it is about the node.", ("host", "check", "severity", "action")
    ),
    "bionemo_node_measurements": Family("Measurements of the node by judgement.", ("host", "judgement")),
    "bionemo_straggler_effect": Family(
        "The share of its speed that a straggler lacks, as the fleet says; overall: of all together.",
        ("host", "device", "measurement"),
    ),
    "bionemo_measurement": Family("What was measured, in its own unit.", ("host", "device", "measurement", "unit")),
    "bionemo_measurement_ruler": Family(
        "What a measurement is judged by, in its unit.", ("host", "device", "measurement", "ruler")
    ),
}


class Part(NamedTuple):
    """What one document says of one node, or of the fleet as a whole: then ``node`` is None.

    ``time`` is when the run of the node was started, or when the fleet was folded, in seconds since 1970; ``said`` is
    the latter in both cases, as the same run can be folded again, with more reports.
    """

    node: str | None
    time: float
    is_report: bool
    samples: tuple[Sample, ...]
    left_out: int = 0
    said: float = 0.0


def of_report(report: Mapping[str, Any], path: str) -> Part:
    """The samples of a node's report. Its verdict is formed again.

    :param path: its file, which names the host of a run that did not end.
    :raises ReportError: and what a damaged document raises (``reports.DAMAGED``).
    """
    verdict = fold(report)
    run = report["bionemo"]
    environment = run.get("environment", {})
    node = host_of(environment, path)
    started = _time(run["started"])
    found = list(_of_run(node, run, environment, verdict))
    measured, left_out = _at_most(MEASUREMENTS_AT_MOST, _ours(run))
    found += _of_measurements(node, run, measured)
    failed, more = _at_most(CHECKS_AT_MOST, _failed(verdict).items())
    found += [Sample("bionemo_node_failed_check", (node, *labels), times) for labels, times in failed]
    started_at = Sample("bionemo_node_started_timestamp_seconds", (node,), started)
    return Part(node, started, True, (started_at, *found), left_out + more)


def of_fleet(fleet: Mapping[str, Any]) -> list[Part]:
    """The samples of a fleet document: of the whole, then of each node.

    :raises ReportError: and what a damaged document raises (``reports.DAMAGED``).
    """
    created = _time(fleet["created"])
    found = [Sample("bionemo_fleet_created_timestamp_seconds", (), created), *_of_the_whole(fleet)]
    drift, left_out = _at_most(FACTS_AT_MOST, fleet["drift"])
    found += [Sample("bionemo_fleet_drift_nodes", (_text(one["fact"]),), len(one["others"])) for one in drift]
    slow, more = _at_most(STRAGGLERS_AT_MOST, fleet["stragglers"])
    for one in slow:
        labels = (_host(one["host"]), _text(one["device"]), _text(one["measurement"]))
        found.append(Sample("bionemo_straggler_effect", labels, _number(one["effect"])))
    missing = set(map(_host, fleet["missing"]))
    members = [_of_member(node, created, missing) for node in fleet["nodes"]]
    # A missing node that others blame is among the members already.
    unheard = [
        Part(host, created, False, (Sample("bionemo_node_missing", (host,), 1),))
        for host in missing - {part.node for part in members}
    ]
    parts = [Part(None, created, False, tuple(found), left_out + more), *members, *unheard]
    return [part._replace(said=created) for part in parts]


def _of_the_whole(fleet: Mapping[str, Any]) -> Iterator[Sample]:
    verdict = VerdictName(fleet["verdict"]).value
    yield Sample("bionemo_fleet_ready", (), verdict in _READY)
    yield Sample("bionemo_fleet_verdict", (verdict,), 1)
    for name in (one.value for one in VerdictName):
        yield Sample("bionemo_fleet_nodes", (name,), _number(fleet["counts"].get(name, 0)))
    statuses = Counter(node["status"] for node in fleet["nodes"])
    for status in _STATUSES:
        yield Sample("bionemo_fleet_nodes_by_status", (status,), statuses[status])
    for name, key in (
        ("missing_nodes", "missing"),
        ("unreadable_reports", "unreadable"),
        ("duplicates", "duplicates"),
    ):
        yield Sample(f"bionemo_fleet_{name}", (), len(fleet[key]))
    yield Sample("bionemo_fleet_stragglers", (), len(fleet["stragglers"]))


def _of_member(node: Mapping[str, Any], created: float, missing: Set[str]) -> Part:
    """What the fleet document says of one node. One that others blame may have no report, and no verdict."""
    host = _host(node["host"])
    found = [
        Sample("bionemo_node_status", (host, _text(node["status"])), 1),
        Sample("bionemo_node_action", (host, Action(node["action"]).value), 1),
        Sample("bionemo_node_blamed_by", (host,), len(node["blamed_by"])),
        Sample("bionemo_node_missing", (host,), host in missing),
    ]
    if node["verdict"] is None:
        return Part(host, created, False, (Sample("bionemo_node_ready", (host,), 0), *found))
    verdict, started = VerdictName(node["verdict"]).value, _time(node["started"])
    found += [
        Sample("bionemo_node_ready", (host,), verdict in _READY),
        Sample("bionemo_node_verdict", (host, verdict), 1),
        Sample("bionemo_node_level", (host, _text(node["level"]), _text(node["device"])), 1),
        Sample("bionemo_node_started_timestamp_seconds", (host,), started),
    ]
    return Part(host, started, False, tuple(found))


def _of_run(node: str, run: Mapping[str, Any], environment: Mapping[str, Any], verdict: Verdict) -> Iterator[Sample]:
    yield Sample("bionemo_node_ready", (node,), verdict.is_ready)
    yield Sample("bionemo_node_verdict", (node, verdict.name.value), 1)
    yield Sample("bionemo_node_action", (node, verdict.action.value), 1)
    yield Sample("bionemo_node_level", (node, _text(run["level"]), _text(run["device"])), 1)
    yield Sample("bionemo_node_findings", (node, "blocker"), len(verdict.blockers))
    yield Sample("bionemo_node_findings", (node, "warning"), len(verdict.warnings))
    yield Sample("bionemo_node_missing", (node,), 0)
    yield Sample("bionemo_node_gaps", (node,), sum(bool(gap["required"]) for gap in verdict.not_run))
    if "duration_s" in run:
        yield Sample("bionemo_node_duration_seconds", (node,), _number(run["duration_s"]))
    if "gpus" in run:
        yield Sample("bionemo_node_gpus", (node,), len(run["gpus"]))
    if environment:
        names = ("driver", "torch", "torch_cuda", "nccl", "instance_type")
        yield Sample("bionemo_node_software", (node, *(_text(environment.get(name)) for name in names)), 1)


def _failed(verdict: Verdict) -> Counter[tuple[str, str, str]]:
    """The failed checks, with severity and action, and on how many devices they failed."""
    return Counter(
        (_text(finding["check"]).partition("[")[0].removeprefix("bionemo/"), severity, _text(finding["action"]))
        for severity, findings in (("blocker", verdict.blockers), ("warning", verdict.warnings))
        for finding in findings
    )


def _ours(run: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The numbers of our own checks: those of somebody's tests are named by ids without end."""
    return (entry for entry in run.get("measurements", []) if "test" not in entry and _is_number(entry["value"]))


def _of_measurements(node: str, run: Mapping[str, Any], measured: Sequence[Mapping[str, Any]]) -> Iterator[Sample]:
    words = Counter(entry["judgement"] for entry in measured)
    for word in Word:
        yield Sample("bionemo_node_measurements", (node, word.value), words[word.value])
    names = _device_names(run.get("gpus", []))
    for entry in measured:
        labels = (node, names.get(entry["device"]) or _text(entry["device"]), _text(entry["name"]))
        yield Sample("bionemo_measurement", (*labels, _text(entry["unit"])), entry["value"])
        for ruler in _RULERS:
            if _is_number(entry[ruler]):
                yield Sample("bionemo_measurement_ruler", (*labels, ruler), entry[ruler])


def _device_names(gpus: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """gpu0 for its UUID, gpu0-mig1 for that of its second slice: a new GPU goes on as the same series."""
    names = {str(gpu["uuid"]): f"gpu{gpu['index']}" for gpu in gpus if gpu["uuid"]}
    for gpu in gpus:
        for position, piece in enumerate(gpu.get("mig_devices") or ()):
            names[str(piece["uuid"])] = f"gpu{gpu['index']}-mig{position}"
    return names


# --------------------------------------------------------------------------------------------- values and labels


def _text(value: Any) -> str:
    """A label: one line, not too long. None is the empty one, which is no label."""
    text = _NO_TEXT.sub("?", "" if value is None else str(value))
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 3]}..."


def _host(name: Any) -> str:
    if not hosts.is_host(name):
        raise ReportError(f"{_text(name)!r} is no name that a host can have")
    return str(name)


def _number(value: Any) -> float:
    if not _is_number(value):
        raise ValueError(f"{_text(value)!r} is no number")
    return float(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _time(text: str) -> float:
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()


def _at_most(number: int, entries: Any) -> tuple[list[Any], int]:
    """The first ones, and how many there are beside them."""
    rest = iter(entries)
    return list(islice(rest, number)), sum(1 for _ in rest)
