"""Which report of each host counts, and which hosts should have one and have not.

The newest expectation of a host counts: where the newest job that names it (by the list of its nodes) has no report
of it, an older one does not stand in. Newer means that the job began later, by the middle of the clocks of its nodes.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from pytest_bionemo.fleet.hosts import HostsError, expand, in_order
from pytest_bionemo.fleet.node import JobPart, Node
from pytest_bionemo.model import count

_NAMED = 8


@dataclass(frozen=True)
class Job:
    """All reports of one job. ``began`` is in seconds since 1970."""

    id: str
    began: float
    hosts: tuple[str, ...]
    reports: tuple[Node, ...]


@dataclass(frozen=True)
class Counted:
    """The reports that count, by host.

    ``missing`` are hosts without one; ``nameless`` says of nodes of which not even the name is known that they are
    missing. ``duplicates`` are hosts with several reports in one job, or outside of any. ``outdated`` are reports
    in whose place another one counts, or none.
    """

    nodes: Mapping[str, Node]
    missing: tuple[str, ...]
    nameless: tuple[str, ...]
    duplicates: Mapping[str, tuple[Node, ...]]
    outdated: tuple[Node, ...]
    doubtful: tuple[str, ...]


def choose(reports: Iterable[Node], expected: Collection[str] = ()) -> Counted:
    """Choose among the reports of the fleet, whatever their order.

    :param reports: all that were read.
    :param expected: hosts that must have a report, beside those that the reports' jobs name.
    """
    in_rank = sorted(reports, key=lambda node: (node.started, node.path))
    jobs, doubts = _jobs(in_rank)
    if tasks := _tasks(jobs.values()):
        in_rank = [_with_task(node, tasks) for node in in_rank]
        jobs, doubts = _jobs(in_rank)
    expectations = _expectations(jobs.values(), expected)
    by_host: dict[str, list[Node]] = {}
    for node in in_rank:
        by_host.setdefault(node.host, []).append(node)
    nodes, duplicates, outdated = {}, {}, []
    for host, candidates in by_host.items():
        since = expectations.get(host, float("-inf"))
        candidates.sort(key=lambda node: (_began(node, jobs), node.started, node.path))
        newest = candidates[-1]
        if _began(newest, jobs) >= since:
            nodes[host] = newest
        outdated += [node for node in candidates if nodes.get(host) is not node]
        twins = tuple(node for node in candidates if _id(node) == _id(newest))
        if len(twins) > 1 and host in nodes and _is_ambiguous(twins):
            duplicates[host] = twins
    return Counted(
        nodes=nodes,
        missing=tuple(in_order(host for host in expectations if host not in nodes)),
        nameless=tuple(_nameless(jobs, nodes)),
        duplicates=duplicates,
        outdated=tuple(outdated),
        doubtful=tuple(doubts),
    )


def _id(node: Node) -> str | None:
    return node.job.name if node.job else None


def _began(node: Node, jobs: Mapping[str, Job]) -> float:
    """When the job of a report began; its own start, outside of a job."""
    return jobs[node.job.name].began if node.job else node.started


def _tasks(jobs: Iterable[Job]) -> dict[tuple[str, str], JobPart]:
    """Of an array and a host, the part that was started there."""
    parts = ((job, part) for job in jobs if (part := job.reports[0].job) and part.task is not None)
    return {(part.id, host): part for job, part in parts for host in job.hosts}


def _with_task(node: Node, tasks: Mapping[tuple[str, str], JobPart]) -> Node:
    """A run that did not end knows its array by its folder alone; those beside it know which task was on its host."""
    if node.job is None or node.job.task is not None:
        return node
    part = tasks.get((node.job.id, node.host))
    return replace(node, job=replace(node.job, task=part.task, tasks=part.tasks)) if part else node


def _is_ambiguous(twins: Sequence[Node]) -> bool:
    """Whether several reports of a host are no history: those of one job, of one moment, or of two machines."""
    of_one_moment = len({node.started for node in twins}) == 1
    return twins[0].job is not None or of_one_moment or _are_machines(twins)


def _are_machines(twins: Sequence[Node]) -> bool:
    """Whether one shares no GPU with the newest: containers are often called alike; all GPUs are seldom replaced."""
    newest = set(twins[-1].uuids)
    return any(newest and twin.uuids and newest.isdisjoint(twin.uuids) for twin in twins)


def _jobs(reports: Iterable[Node]) -> tuple[dict[str, Job], list[str]]:
    grouped: dict[str, list[Node]] = {}
    for node in reports:
        if node.job:
            grouped.setdefault(node.job.name, []).append(node)
    doubts: list[str] = []
    expanded: dict[str, tuple[str, ...]] = {}

    def hosts_of(text: str, job: str) -> tuple[str, ...]:
        if text not in expanded:
            try:
                expanded[text] = expand(text)
            except HostsError as error:
                expanded[text] = ()
                doubts.append(f"job {job}: which nodes it has is not known: {error}")
        return expanded[text]

    jobs = {}
    for name, nodes in grouped.items():
        lists = {node.job.node_list for node in nodes if node.job and node.job.node_list}
        named = dict.fromkeys(host for text in sorted(lists) for host in hosts_of(text, name))
        jobs[name] = Job(name, statistics.median(node.started for node in nodes), tuple(named), tuple(nodes))
    return jobs, doubts


def _expectations(jobs: Iterable[Job], expected: Collection[str]) -> dict[str, float]:
    """Of each host that must have a report, since when it must be."""
    since = dict.fromkeys(expected, float("-inf"))
    for job in jobs:
        for host in job.hosts:
            since[host] = max(since.get(host, job.began), job.began)
    return since


def _nameless(jobs: Mapping[str, Job], nodes: Mapping[str, Node]) -> Iterator[str]:
    """Jobs that lack reports of nodes, or of tasks of an array, that nothing names."""
    seen: dict[str, set[int]] = {}
    due: dict[str, int] = {}
    for job in sorted(jobs.values(), key=lambda job: job.id):
        parts = [node.job for node in job.reports if node.job]
        for part in parts:
            if part.task is not None and part.tasks:
                seen.setdefault(part.id, set()).add(part.task)
                due[part.id] = max(due.get(part.id, 0), part.tasks)
        # A later job of the same nodes stands for this one.
        if job.hosts or not any(_id(nodes[node.host]) == job.id for node in job.reports if node.host in nodes):
            continue
        size, ranks = max(part.nodes for part in parts), {part.node_rank for part in parts}
        if len(ranks) < size:
            missing = (rank for rank in range(size) if rank not in ranks)
            named = ", ".join(str(rank) for rank in islice(missing, _NAMED))
            yield f"job {job.id}: {len(ranks)} of {count(size, 'node')} have reported, not rank {named}"
    for name, tasks in due.items():
        if len(seen[name]) < tasks:
            yield f"job array {name}: {len(seen[name])} of {count(tasks, 'task')} have reported"
