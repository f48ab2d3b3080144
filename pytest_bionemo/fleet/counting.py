"""Which report of each host counts, and which hosts should have one and have not.

The newest expectation of a host counts: where the newest job that names it (by the list of its nodes) has no report
of it, an older one does not stand in. Newer means that the job began later, by the middle of the clocks of its nodes.
Clocks can be wrong: where the numbers of the jobs say otherwise, which report is the newer one is a doubt.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from pytest_bionemo.fleet.hosts import MOST_HOSTS, HostsError, expand, in_order
from pytest_bionemo.fleet.node import JobPart, Node
from pytest_bionemo.model import count

_NAMED = 8
_DIGITS = 18


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

    ``began`` is when the jobs of these began. ``contradicted`` says why another report of a host may be newer.
    ``missing`` are hosts without one; ``nameless`` says of nodes of which not even the name is known that they are
    missing. ``duplicates`` are hosts with several reports in one job, or outside of any. ``outdated`` are reports
    in whose place another one counts, or none.
    """

    nodes: Mapping[str, Node]
    began: Mapping[str, float]
    contradicted: Mapping[str, str]
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
    nodes, duplicates, outdated, contradicted = {}, {}, [], {}
    last_jobs = _last_jobs(jobs.values())
    for host, candidates in by_host.items():
        since = expectations.get(host, float("-inf"))
        if len(candidates) > 1:
            candidates.sort(key=lambda node: _rank(node, jobs))
        newest = candidates[-1]
        if _began(newest, jobs) >= since:
            nodes[host] = newest
        outdated += [node for node in candidates if nodes.get(host) is not node]
        twins = tuple(node for node in candidates if _id(node) == _id(newest))
        if len(twins) > 1 and host in nodes and _is_ambiguous(twins):
            duplicates[host] = twins
        if host in nodes and newest.is_ready and (rival := _rival(candidates, last_jobs.get(host))):
            contradicted[host] = rival
    return Counted(
        nodes=nodes,
        began={host: _began(node, jobs) for host, node in nodes.items()},
        contradicted=contradicted,
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


def _rank(node: Node, jobs: Mapping[str, Job]) -> tuple[object, ...]:
    """The last one of a host counts. Of those of one job, or of one moment, the one that is ready comes first.

    What is left to tell them apart is what they say, and not the path: by the standard input they come in any order.
    """
    said = (node.verdict.value, node.action, node.said, node.reasons, node.facts, node.numbers.value.tobytes())
    return (_began(node, jobs), not node.is_ready, node.started, said, node.path)


def _last_jobs(jobs: Iterable[Job]) -> dict[str, Job]:
    """Of each host, the job of the highest number that names it or has its report: Slurm counts them."""
    last: dict[str, Job] = {}
    for job in sorted((job for job in jobs if _number(job.id) is not None), key=lambda job: _number(job.id) or 0):
        last |= dict.fromkeys((*job.hosts, *(node.host for node in job.reports)), job)
    return last


def _number(name: str | None) -> int | None:
    head = (name or "").partition("_")[0]  # the task of an array is 77_3
    return int(head) if head.isascii() and head.isdigit() and len(head) <= _DIGITS else None


def _rival(candidates: Sequence[Node], last: Job | None) -> str | None:
    """Why the report that counts, which is the last of these, may be older than one that is not ready."""
    newest = candidates[-1]
    number = _number(_id(newest))
    if last is not None and number is not None and number < (_number(last.id) or 0):
        own = [node for node in candidates if _id(node) == last.id]
        if not own:
            return f"job {last.id} has a higher number and no report of it; by the clocks it began before"
        if any(not node.is_ready for node in own):
            return f"job {last.id}, which has a higher number, says otherwise; by the clocks it is older"
    for node in candidates:
        is_counted_apart = number is not None and _number(_id(node)) is not None
        if not node.is_ready and node.started > newest.started and not is_counted_apart:
            other = f"job {_id(node)}" if node.job else "another run"
            return f"{other} says otherwise, and began later by the clock of this node"
    return None


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


class _Lists:
    """The lists of nodes that jobs give, each expanded once, and of no more hosts than a fleet can have."""

    def __init__(self) -> None:
        self.doubts: list[str] = []
        self._expanded: dict[str, tuple[str, ...]] = {}
        self._named: set[str] = set()

    def hosts_of(self, text: str, job: str) -> tuple[str, ...]:
        """Of this list, by which this job was started; a doubt where it cannot be taken."""
        if text not in self._expanded:
            try:
                found = expand(text)
            except HostsError as error:
                found = self._leave_out(job, str(error))
            if len(self._named.union(found)) > MOST_HOSTS:
                found = self._leave_out(job, f"the lists of all jobs name more than {MOST_HOSTS:,} hosts")
            self._named.update(found)
            self._expanded[text] = found
        return self._expanded[text]

    def _leave_out(self, job: str, why: str) -> tuple[str, ...]:
        self.doubts.append(f"job {job}: which nodes it has is not known: {why}")
        return ()


def _jobs(reports: Iterable[Node]) -> tuple[dict[str, Job], list[str]]:
    grouped: dict[str, list[Node]] = {}
    for node in reports:
        if node.job:
            grouped.setdefault(node.job.name, []).append(node)
    lists = _Lists()
    jobs = {}
    for name, nodes in sorted(grouped.items()):
        given = {node.job.node_list for node in nodes if node.job and node.job.node_list}
        named = dict.fromkeys(host for text in sorted(given) for host in lists.hosts_of(text, name))
        jobs[name] = Job(name, statistics.median(node.started for node in nodes), tuple(named), tuple(nodes))
    return jobs, lists.doubts


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
    # A later job of the same nodes stands for one of which no report counts.
    counted = {node.job.name for node in nodes.values() if node.job}
    arrays = {node.job.id for node in nodes.values() if node.job}
    for job in sorted(jobs.values(), key=lambda job: job.id):
        parts = [node.job for node in job.reports if node.job]
        for part in parts:
            if part.task is not None and part.tasks and part.id in arrays:
                seen.setdefault(part.id, set()).add(part.task)
                due[part.id] = max(due.get(part.id, 0), part.tasks)
        if job.id in counted and not job.hosts:
            yield from _lacking(job)
    for name, tasks in due.items():
        if len(seen[name]) < tasks:
            yield f"job array {name}: {len(seen[name])} of {count(tasks, 'task')} have reported"


def _lacking(job: Job) -> Iterator[str]:
    size = max(node.job.nodes for node in job.reports if node.job)
    numbers = {(node.host, node.job.node_rank) for node in job.reports if node.job}
    ranks = {rank for _, rank in numbers if rank is not None}
    # A run that did not end knows no rank of its own; another report of that host may.
    numbered = {host for host, rank in numbers if rank is not None}
    unnumbered = {host for host, _ in numbers} - numbered
    here = len(ranks) + len(unnumbered)
    if here < size:
        missing = (rank for rank in range(size) if rank not in ranks)
        named = "" if unnumbered else f", not rank {', '.join(str(rank) for rank in islice(missing, _NAMED))}"
        yield f"job {job.id}: {here} of {count(size, 'node')} have reported{named}"
