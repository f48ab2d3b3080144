"""Several devices at once: all of this node, or of all nodes of its job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest

from pytest_bionemo.checking import NotRun, not_applicable, wait_for
from pytest_bionemo.compute import devices_of
from pytest_bionemo.desk import Desk, DeskError
from pytest_bionemo.needs.devices import as_device, computing
from pytest_bionemo.needs.established import ESTABLISHED_BY
from pytest_bionemo.options import Options
from pytest_bionemo.probes.child import Answer, Child
from pytest_bionemo.probes.job import Job
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.ranks import MEET, Encounter, Ranks
from pytest_bionemo.workloads.meeting import Place, staying

# The default port of torch.distributed, where none is given.
_PORT = 29500
# How many deadlines of one workload the fastest node waits for the slowest one.
_ARRIVAL = 5
_TELLING_S = 15.0


@pytest.fixture(scope="session")
def job(machine: Machine) -> Job:
    """The job of several nodes of which this machine is one."""
    if machine.job is None or machine.job.nodes == 1:
        not_applicable("this is no job of several nodes")
    found = machine.job_of_lightning
    assert found, "Lightning takes no job away"
    return found


@pytest.fixture(scope="session")
def encounter(undisturbed: None, job: Job, machine: Machine, bionemo_options: Options) -> Iterator[Encounter]:
    """Where this node is among those of its job; the first one keeps the desk at which their ranks meet."""
    found = place_of(job, machine.host.hostname)
    with keeping_desk(found.port, found.job, bionemo_options.timeout) if job.node_rank == 0 else nullcontext():
        yield Encounter(found)


def place_of(job: Job, hostname: str) -> Place:
    """Where this node is among those of its job, and where all of them look for the desk."""
    # torchrun's own store has the port that it gives.
    port = (job.port or _PORT) + (job.launcher == "torchrun")
    # The tasks of an array have one id, the steps of a job one port; a job of torchrun, or by hand, often has no id.
    # With torchrun the nodes of one job can be tasks of an array.
    task = f"_{job.task}" if job.launcher == "slurm" and job.task is not None else ""
    meeting = ":".join(str(part) for part in (f"{job.id or ''}{task}", job.step, port) if part is not None)
    known = job.hosts[job.node_rank] if job.node_rank < len(job.hosts) else None
    # Where this node stands elsewhere in the list, it is not in the order of the ranks.
    hosts = [] if known != job.node and job.node in job.hosts else list(job.hosts)
    name = job.node or known or hostname
    return Place(job.node_rank, job.nodes, job.address or "127.0.0.1", port, hosts, meeting, name)


@pytest.fixture(scope="session")
def arrival(encounter: Encounter, bionemo_options: Options) -> Iterator[Answer]:
    """What became of the meeting of all nodes: each waits here until the slowest one is through what comes before."""
    limit = _ARRIVAL * bionemo_options.timeout
    told = {"place": encounter.place.to_json(), "deadline_s": limit}
    deadline = limit + bionemo_options.timeout
    doing = f"waiting for all {encounter.place.nodes} nodes of the job"
    child = Child("pytest_bionemo.workloads.meeting:arrive", deadline, arguments=told, doing=doing)
    answer = child.answer()
    has_met = answer.value is not None and not answer.value["missed"]
    with staying(encounter.place.to_json()) if has_met and encounter.place.node_rank else nullcontext():
        yield answer
    child.close()


@pytest.fixture(scope="session")
def nodes(arrival: Answer, encounter: Encounter) -> Encounter:
    """All nodes of the job, all of them here."""
    missed = arrival.failure if arrival.value is None else arrival.value["missed"]
    if missed:
        wait_for(ESTABLISHED_BY["nodes"], f"not every node of the job is here: {missed}")
    return encounter


@pytest.fixture
def own_ranks(request: pytest.FixtureRequest, encounter: Encounter, nodes: Encounter) -> Ranks:
    """The devices of this node, ready to meet the others; where they are not, the others are told not to wait."""
    try:
        return _ranks(request, encounter)
    except NotRun as gap:
        if not encounter.is_absent:
            encounter.is_absent = True
            told = {"place": encounter.place.to_json(), "reason": gap.reason}
            target = "pytest_bionemo.workloads.meeting:say_absent"
            Child(target, _TELLING_S, arguments=told, doing="telling the other nodes").answer()
        raise


@pytest.fixture
def ranks(own_ranks: Ranks) -> Ranks:
    """The ranks of all nodes, which have met before."""
    if not own_ranks.meets(MEET):
        wait_for(ESTABLISHED_BY["ranks"], "the ranks of the job do not meet")
    return own_ranks


@pytest.fixture(scope="session")
def local_encounter(undisturbed: None, machine: Machine) -> Iterator[Encounter]:
    """Where the devices of this node meet among themselves."""
    with keeping_desk(0, "") as desk:
        name = machine.job.node if machine.job else None
        yield Encounter(Place(0, 1, "127.0.0.1", desk.port, [name or machine.host.hostname]))


@pytest.fixture
def own_local_ranks(request: pytest.FixtureRequest, machine: Machine, bionemo_options: Options) -> Ranks:
    """The devices of this node, at least two, as ranks among themselves."""
    devices = devices_of(machine, bionemo_options)
    if len(devices) < 2:
        not_applicable("there are no two devices here")
    if any(device.mig for device in devices):
        not_applicable("slices of a GPU (MIG) do not talk to each other")
    return _ranks(request, request.getfixturevalue("local_encounter"))


@pytest.fixture
def local_ranks(own_local_ranks: Ranks) -> Ranks:
    """The same, which have met before."""
    if not own_local_ranks.meets(MEET):
        wait_for(ESTABLISHED_BY["local_ranks"], "the devices of this node do not meet")
    return own_local_ranks


@pytest.fixture
def team(request: pytest.FixtureRequest, machine: Machine) -> Ranks:
    """All ranks that train together: those of the job, or without one of several nodes the devices of this node."""
    several = machine.job is not None and machine.job.nodes > 1
    found: Ranks = request.getfixturevalue("ranks" if several else "local_ranks")
    return found


def _ranks(request: pytest.FixtureRequest, encounter: Encounter) -> Ranks:
    machine: Machine = request.getfixturevalue("machine")
    options: Options = request.getfixturevalue("bionemo_options")
    request.getfixturevalue("torch_build")
    found = [computing(as_device(device, request)) for device in devices_of(machine, options) or [None]]
    return Ranks(found, request.getfixturevalue("workers"), encounter, options.timeout)


@contextmanager
def keeping_desk(port: int, job: str, patience_s: float = 0) -> Iterator[Desk]:
    """Keep the desk of a job; a check that needs one that could not be started does not run."""
    try:
        desk = Desk(port, job, patience_s)
    except DeskError as error:
        wait_for(None, error)
    try:
        yield desk
    finally:
        desk.close()
