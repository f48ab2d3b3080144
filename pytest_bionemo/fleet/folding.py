"""The fleet verdict: the nodes that count, who is to blame, and the document that says it all.

READY is a proof here, too: every host that should have a report has one that can be read, is young enough, ended,
and whose verdict, folded again, is READY.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from typing import Any, Literal

from pytest_bionemo.fleet import counting, drift, findings, hosts, stragglers
from pytest_bionemo.fleet.node import LEVELS, TOOL, Node, shown
from pytest_bionemo.model import Action, VerdictName, count
from pytest_bionemo.report import hyperpod

SCHEMA_VERSION = 1
AHEAD_S = 300.0
"""How far a node's clock may be ahead: Kerberos and munge refuse to work with more."""

Status = Literal["passing", "failing", "unknown"]
_APART_S = 12 * 3600.0
"""Nodes of one job begin within it; not so, and a job of that name has run before."""
_WORDS: Mapping[Status, str] = {"passing": "Passed", "failing": "Failed", "unknown": "Skipped"}


@dataclass(frozen=True)
class Unreadable:
    """A source that is no report that can be folded, and why."""

    path: str
    why: str


@dataclass(frozen=True)
class Asked:
    """What is asked of the fleet.

    ``hosts`` must have a report, ``nodes`` is how many there must be, ``level`` the lowest that will do,
    ``max_age_s`` how old a report may be, ``job`` the only job whose reports count; ``require`` is "install" or
    "ready".
    """

    hosts: tuple[str, ...] = ()
    nodes: int | None = None
    level: str = LEVELS[0]
    max_age_s: float | None = None
    job: str | None = None
    require: str = "install"


@dataclass(frozen=True)
class Judged:
    """A node with its place in the fleet. ``node`` is None for a host that others blame and that has no report."""

    host: str
    node: Node | None
    status: Status
    reasons: tuple[str, ...]
    blamed_by: tuple[str, ...]
    actions: tuple[str, ...]

    @property
    def action(self) -> Action:
        """The strongest, of its own findings and of those that blame it."""
        own = [self.node.action] if self.node else []
        return max(map(Action, (*own, *self.actions)), key=lambda action: action.strength, default=Action.NONE)

    @property
    def did_not_end(self) -> bool:
        """Whether its run was begun and never ended."""
        return self.node is not None and self.node.status is None


def fold(reports: Iterable[Node], unreadable: Iterable[Unreadable], asked: Asked, now: float) -> dict[str, Any]:
    """The document of the fleet; the same in whatever order the reports come.

    :param now: seconds since 1970, by which ages are told.
    """
    wanted = [
        node for node in reports if asked.job is None or (node.job and asked.job in (node.job.id, node.job.name))
    ]
    counted = counting.choose(wanted, asked.hosts)
    blamers = _convicted(counted, asked, now)
    judged = [
        _judge(host, counted, blamers.get(host, ()), asked, now)
        for host in hosts.in_order({*counted.nodes, *blamers})
    ]
    unread = sorted(unreadable, key=lambda one: one.path)
    doubts = list(_doubts(counted, unread, asked))
    name = _name(judged, counted, doubts)
    keep_away = [one.host for one in judged if one.status == "failing" or one.did_not_end]
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": TOOL,
        "created": datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="seconds"),
        "verdict": name.value,
        "summary": _summary(name, judged, counted, doubts),
        "action": max((one.action for one in judged), key=lambda action: action.strength, default=Action.NONE).value,
        "counts": {
            verdict.value: sum(1 for one in judged if one.node and one.node.verdict is verdict)
            for verdict in VerdictName
        },
        "statuses": {word: sum(1 for one in judged if one.status == word) for word in _WORDS},
        "levels": dict(sorted(Counter(node.level for node in counted.nodes.values()).items())),
        "doubts": doubts,
        "findings": findings.gather({one.host: one.node.found for one in judged if one.node}),
        "nodes": [_entry(one) for one in judged],
        "missing": list(counted.missing),
        "unreadable": [{"path": shown(one.path, 400), "why": shown(one.why, 400)} for one in unread],
        "duplicates": [
            {"host": host, "paths": sorted(shown(node.path, 400) for node in twins)}
            for host, twins in sorted(counted.duplicates.items())
        ],
        "outdated": [
            {"host": node.host, "path": shown(node.path, 400), "job": _job(node)}
            for node in sorted(counted.outdated, key=lambda node: (node.host, node.path))
        ],
        "drift": drift.find({host: dict(node.facts) for host, node in counted.nodes.items()}),
        **stragglers.find({host: node.numbers for host, node in counted.nodes.items()}),
        "exclude": hosts.compress({*keep_away, *counted.missing}),
        "hyperpod": [*map(_line, judged), *(_missing_line(host) for host in counted.missing if host not in blamers)],
    }  # fmt: skip


def is_enough(document: Mapping[str, Any], require: str) -> bool:
    """Whether the fleet's verdict is one of those that are asked for."""
    accepted = ("READY",) if require == "ready" else ("READY", "READY_FOR_INSTALL")
    return document["verdict"] in accepted


# --------------------------------------------------------------------------------------------- who is to blame


def _convicted(counted: counting.Counted, asked: Asked, now: float) -> dict[str, tuple[str, ...]]:
    """Who is blamed, and by whom. What a node says that more others blame than it is not believed.

    A node whose network is broken misses all others, and they miss it: it is named, they are not.
    """
    blames = {
        (host, other)
        for host, node in counted.nodes.items()
        for other, _ in node.blames
        if not _is_too_old(node, asked, now) and _stands(host, other, counted)
    }
    convicted: dict[str, tuple[str, ...]] = {}
    while blames:
        tally = Counter(other for _, other in blames)
        most = max(tally.values())
        for other in [other for other, votes in tally.items() if votes == most]:
            convicted[other] = tuple(hosts.in_order(host for host, blamed in blames if blamed == other))
        blames = {(host, other) for host, other in blames if host not in convicted and other not in convicted}
    return convicted


def _stands(host: str, other: str, counted: counting.Counted) -> bool:
    """Whether what a host says of another one still holds: until that one has met nodes again, in a later job."""
    if other not in counted.nodes:
        # Only hosts that are known, from a report or a list of nodes: a report can name anything.
        return other in counted.missing
    own, others = counted.nodes[host].job, counted.nodes[other].job
    has_met = others is not None and others.nodes > 1 and (own is None or own.name != others.name)
    return not (has_met and counted.began[other] > counted.began[host])


# ------------------------------------------------------------------------------------------------- each node


def _judge(host: str, counted: counting.Counted, blamed_by: tuple[str, ...], asked: Asked, now: float) -> Judged:
    node = counted.nodes.get(host)
    blame = [f"blamed by {hosts.compress(blamed_by)}"] if blamed_by else []
    actions = tuple(sorted(act for other in blamed_by for name, act in counted.nodes[other].blames if name == host))
    if node is None:
        return Judged(host, None, "failing", (*blame, "it has no report"), blamed_by, actions)
    doubts = list(_doubts_about(node, counted, asked, now))
    reasons = (*blame, *doubts, *node.reasons)
    if blamed_by or (node.verdict is VerdictName.BLOCKED and not _blames_others_only(node, host)):
        return Judged(host, node, "failing", reasons, blamed_by, actions)
    is_passing = node.is_ready and not doubts
    return Judged(host, node, "passing" if is_passing else "unknown", reasons, blamed_by, actions)


def _blames_others_only(node: Node, host: str) -> bool:
    return node.blames_others_only and host not in dict(node.blames)


def _doubts_about(node: Node, counted: counting.Counted, asked: Asked, now: float) -> Iterator[str]:
    """Why a verdict that is READY is no proof here."""
    twins = counted.duplicates.get(node.host, ())
    if node.status is None:
        yield "its run did not end"
    elif node.is_ready and node.status != 0:
        yield f"its run ended with exit status {node.status}"
    if LEVELS.index(node.level) < LEVELS.index(asked.level):
        yield f"its level is {node.level}, and {asked.level} is asked for"
    age = now - node.started
    if age < -AHEAD_S:
        yield f"it began {_duration(-age)} from now: its clock is ahead, or this one behind"
    elif asked.max_age_s is not None and _is_too_old(node, asked, now):
        yield f"it is {_duration(age)} old, and {_duration(asked.max_age_s)} is asked for"
    if len({twin.uuids for twin in twins if twin.uuids}) > 1:
        yield f"{count(len(twins), 'machine')} call themselves {node.host}: their GPUs are not the same"
    elif len({twin.job.node_rank for twin in twins if twin.job and twin.job.node_rank is not None}) > 1:
        yield f"{count(len(twins), 'node')} of the job call themselves {node.host}"
    if node.host in counted.contradicted:
        yield counted.contradicted[node.host]


def _is_too_old(node: Node, asked: Asked, now: float) -> bool:
    return asked.max_age_s is not None and now - node.started > asked.max_age_s


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _entry(one: Judged) -> dict[str, Any]:
    node = one.node
    return {
        "host": one.host,
        "verdict": node.verdict.value if node else None,
        "action": one.action.value,
        "status": one.status,
        "level": node.level if node else None,
        "device": node.device if node else None,
        "started": _moment(node.started) if node else None,
        "job": _job(node) if node else None,
        "sections": _sections(node.sections) if node else {},
        "reasons": list(one.reasons),
        "blamed_by": list(one.blamed_by),
        "path": shown(node.path, 400) if node else None,
    }


@cache
def _sections(pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """One object for all nodes that are alike: 10,000 of them have 160,000 sections."""
    return dict(pairs)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def _job(node: Node) -> str | None:
    return node.job.name if node.job else None


def _line(one: Judged) -> str:
    """The line that HyperPod reads."""
    node = one.node
    remedy = hyperpod.remedy_of((*one.actions, *(node.own_actions if node else ())))
    said = [
        node.said if node else "",
        f"blamed by {hosts.compress(one.blamed_by)}" if one.blamed_by else "",
        "its run did not end" if one.did_not_end else "",
    ]
    return hyperpod.compose(one.host, _WORDS[one.status], remedy, ", ".join(filter(None, said)))


def _missing_line(host: str) -> str:
    return hyperpod.compose(host, "Skipped", "none", "it has no report")


# ------------------------------------------------------------------------------------------------ the fleet


def _doubts(counted: counting.Counted, unread: Sequence[Unreadable], asked: Asked) -> Iterator[str]:
    """What stands between the fleet and READY, beside its nodes."""
    if not counted.nodes:
        yield f"no report of job {asked.job}" if asked.job else "no report"
    if counted.missing:
        verb = "has" if len(counted.missing) == 1 else "have"
        yield f"{count(len(counted.missing), 'node')} {verb} not reported: {hosts.compress(counted.missing)}"
    if asked.nodes is not None and len(counted.nodes) < asked.nodes:
        yield f"{len(counted.nodes)} of {count(asked.nodes, 'node')} have reported"
    yield from counted.nameless
    yield from counted.doubtful
    yield from _jobs_of_one_name(counted)
    if unread:
        yield f"{count(len(unread), 'report')} cannot be read"


def _jobs_of_one_name(counted: counting.Counted) -> Iterator[str]:
    """A job whose name was used before: a node that has not reported this time has a report of the last one."""
    began: dict[str, list[float]] = {}
    for node in counted.nodes.values():
        if node.job:
            began.setdefault(node.job.name, []).append(node.started)
    for name, starts in sorted(began.items()):
        if (apart := max(starts) - min(starts)) > _APART_S:
            how = f"began {_duration(apart)} apart: there were two jobs of that name, or a clock is wrong"
            yield f"the reports of job {name} {how}"


def _name(judged: Sequence[Judged], counted: counting.Counted, doubts: Sequence[str]) -> VerdictName:
    if any(one.status == "failing" for one in judged):
        return VerdictName.BLOCKED
    if doubts or any(one.status != "passing" for one in judged):
        return VerdictName.INCONCLUSIVE
    verdicts = {one.node.verdict for one in judged if one.node}
    return VerdictName.READY if verdicts == {VerdictName.READY} else VerdictName.READY_FOR_INSTALL


def _summary(name: VerdictName, judged: Sequence[Judged], counted: counting.Counted, doubts: Sequence[str]) -> str:
    """The verdict as one sentence, with the lowest level of all reports."""
    levels = {node.level for node in counted.nodes.values()}
    at_level = f"{name.value} at level {min(levels, key=LEVELS.index)}" if levels else name.value
    tally = Counter(one.status for one in judged)
    parts = [f"{tally[word]} {word}" for word in _WORDS if tally[word]]
    return f"{at_level}: {count(len(judged), 'node')}" + "".join(f", {part}" for part in [*parts, *doubts])
