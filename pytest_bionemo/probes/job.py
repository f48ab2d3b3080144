"""The job that this process is one node of: who started it, how many nodes there are, and where they meet.

``read`` takes it from the variables that launchers document, with the standard library alone. ``hosts`` and
``of_lightning`` run in child processes: the one asks Slurm's own program, which may wait for a controller, the other
imports PyTorch.

Sources: srun(1), "OUTPUT ENVIRONMENT VARIABLES", and what a step of Slurm 22.05 really gets; torchrun(1),
"Environment Variables"; Kubeflow's PyTorchJob, which sets the variables of torch.distributed's ``env://`` and, for
torchrun, those that begin with PET.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from itertools import count, product, takewhile
from math import prod
from typing import Any
from urllib.parse import quote

from pytest_bionemo.probes.child import note

HOSTS = f"{__name__}:hosts"
OF_LIGHTNING = f"{__name__}:of_lightning"

_ENVIRONMENTS = {
    "slurm": "SLURMEnvironment",
    "torchrun": "TorchElasticEnvironment",
    "kubeflow": "KubeflowEnvironment",
}
_FABRICS = {"lightning": "lightning.fabric", "pytorch-lightning": "lightning_fabric"}
# Of srun all three: in a job that has asked for more tasks a node, it ignores --ntasks-per-node=1 alone.
_ONE_TASK = {
    "slurm": "srun --nodes={0} --ntasks={0} --ntasks-per-node=1",
    "torchrun": "torchrun --nproc-per-node=1",
    "kubeflow": "start it once on each node, with RANK and WORLD_SIZE that count nodes:",
}
_BY_HAND = ("RANK", "WORLD_SIZE", "MASTER_ADDR")
# How many processes a node has: as torchrun, DeepSpeed and Open MPI say it.
_LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE")
_ANONYMOUS = "none"
"""What torchrun calls a job that was given no id."""
_TASKS = re.compile(r"([0-9]+)(?:\(x([0-9]+)\))?")
_PART = re.compile(r"(?:[^\[,]|\[[^\]]*\])+")
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_MOST_HOSTS = 100_000
# Of torchrun: so many nodes, or from so many to so many.
_NODES = re.compile(r"([1-9][0-9]{0,9})(?::\1)?")
_LARGEST = 10**10
_PORTS = 65_535
# The last four digits of the job's number, above the ports that services are given: as Lightning does.
_SLURM_PORTS = 15_000


class JobError(ValueError):
    """A launcher's variables make no sense; the message is one line."""


@dataclass(frozen=True)
class Job:
    """One node of a job, from 0 on, and how many were started.

    ``launcher`` is "slurm", "torchrun" or "kubeflow" (the variables of torch.distributed, set by an operator or by
    hand). ``id`` is the same on every node and None where nobody gave one. ``node_list`` is as Slurm writes it,
    "node[1-4]", and ``hosts`` its expansion, in the order of the ranks; none where it cannot be known. ``address``
    and ``port`` are where the first node is met. ``task`` is the one of a job array of ``tasks``, ``node`` the name
    that Slurm or Kubernetes (NODE_NAME, by the downward API) has for this node, by which it can be drained. ``step``
    is that of a job of Slurm, which can have several at once. For a job's batch script, which runs on the first node
    alone, ``nodes`` is 1.
    """

    launcher: str
    id: str | None
    node_rank: int
    nodes: int
    local_rank: int = 0
    local_size: int = 1
    node_list: str | None = None
    hosts: tuple[str, ...] = ()
    address: str | None = None
    port: int | None = None
    task: int | None = None
    tasks: int | None = None
    node: str | None = None
    step: str | None = None

    @property
    def folder(self) -> str | None:
        """The name of a folder for this job's reports, 'job-1234'; None where the job has no id."""
        return f"job-{quote(self.id, safe='', errors='surrogateescape')}" if self.id else None

    @property
    def is_one_of_many(self) -> bool:
        """Whether other nodes, now or later, validate for the same job."""
        return self.nodes > 1 or self.task is not None

    def to_json(self) -> dict[str, Any]:
        """Plain builtins."""
        return {**asdict(self), "hosts": list(self.hosts)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """Read back what :meth:`to_json` gave."""
        return cls(**{**data, "hosts": tuple(data["hosts"])})


def read(variables: Mapping[str, str]) -> Job | None:
    """The job of these variables; None where they are of none.

    torchrun comes first, since Slurm starts it, too.

    :raises JobError: one line, if a variable holds what it cannot, or this is one of several tasks of a node.
    """
    job = _of_torchrun(variables) or _of_slurm(variables) or _by_hand(variables)
    if job is not None:
        _refuse_nonsense(job, variables.get("MASTER_ADDR", ""))
    return job


def _refuse_nonsense(job: Job, told: str) -> None:
    """What each variable alone may say, and all of them together cannot.

    :param told: MASTER_ADDR.
    """
    if job.local_size > 1:
        raise JobError(
            f"{job.local_size} tasks were started on this node. One pytest sees to all GPUs of a node: "
            f"{_ONE_TASK[job.launcher].format(job.nodes)} pytest --bionemo-validate ..."
        )
    if not job.node_rank < job.nodes:
        raise JobError(
            f"{job.launcher}: node {job.node_rank} of a job of {job.nodes}. They are counted from 0: "
            "correct the variables of the job, or unset them."
        )
    # At that of torchrun its own processes have met before: so those nodes are one machine. And the first node may
    # look at itself, as Kubeflow's operator tells it to.
    means_itself = job.address == told and job.launcher != "torchrun" and _is_loopback(told)
    if job.nodes > 1 and (not job.address or (means_itself and job.node_rank)):
        raise JobError(
            f"MASTER_ADDR: {told!r} is not where the first of {job.nodes} nodes is met: each would look "
            "at itself. Write the name of the first node."
        )


def _is_loopback(address: str) -> bool:
    """Whether each machine means itself by this address or name."""
    return address in ("::1", "localhost", "localhost.localdomain") or address.startswith("127.")


def _of_torchrun(variables: Mapping[str, str]) -> Job | None:
    if "TORCHELASTIC_RUN_ID" not in variables:
        return None
    own = variables["TORCHELASTIC_RUN_ID"]
    return Job(
        launcher="torchrun",
        id=own if own not in ("", _ANONYMOUS) else _slurm_id(variables),
        node_rank=_number(variables, "GROUP_RANK"),
        nodes=_number(variables, "GROUP_WORLD_SIZE", least=1),
        local_rank=_number(variables, "LOCAL_RANK", default=0),
        local_size=_number(variables, "LOCAL_WORLD_SIZE", least=1, default=1),
        address=variables.get("MASTER_ADDR") or None,
        port=_port(variables),
        task=_array(variables, "SLURM_ARRAY_TASK_ID"),
        tasks=_array(variables, "SLURM_ARRAY_TASK_COUNT"),
        node=variables.get("SLURMD_NODENAME") or _kubernetes_node(variables),
    )


def _of_slurm(variables: Mapping[str, str]) -> Job | None:
    if not variables.get("SLURM_JOB_ID"):
        return None
    number = _number(variables, "SLURM_JOB_ID")
    node = variables.get("SLURMD_NODENAME") or None
    job = Job(
        launcher="slurm",
        id=_slurm_id(variables),
        node_rank=0,
        nodes=1,
        node_list=node,
        hosts=(node,) if node else (),
        address=variables.get("MASTER_ADDR") or node,
        port=_port(variables) or int(str(number)[-4:]) + _SLURM_PORTS,
        task=_array(variables, "SLURM_ARRAY_TASK_ID"),
        tasks=_array(variables, "SLURM_ARRAY_TASK_COUNT"),
        node=node,
    )
    return _of_step(job, variables) if _is_step(variables) else job


def _is_step(variables: Mapping[str, str]) -> bool:
    """Else this is the batch script, a prolog or a shell: the job's counts are not those of what runs here."""
    if "SLURM_STEP_ID" not in variables:
        return False
    return "SLURM_NODEID" in variables or _number(variables, "SLURM_STEP_NUM_NODES", least=1, default=1) > 1


def _of_step(job: Job, variables: Mapping[str, str]) -> Job:
    nodes = _number(variables, "SLURM_STEP_NUM_NODES", "SLURM_NNODES", least=1)
    node_list = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_NODELIST") or None
    by_name = _expand(node_list or "")
    by_name = by_name if len(by_name) == nodes else ()
    hosts = _by_component(variables, by_name)
    first = hosts[0] if hosts else _first(node_list or "") or None
    rank = _rank_in(hosts, job.node, variables)
    return replace(
        job,
        node_rank=rank,
        nodes=nodes,
        local_rank=_number(variables, "SLURM_LOCALID", default=0),
        # They are listed as the nodes are, by name.
        local_size=_tasks_of(variables, by_name.index(job.node) if job.node in by_name else rank),
        node_list=node_list,
        hosts=hosts if nodes == 1 or hosts != by_name else (),
        address=_address_of(first, hosts, variables) if nodes > 1 else job.address or first,
        step=variables["SLURM_STEP_ID"] or None,
    )


def _by_component(variables: Mapping[str, str], by_name: tuple[str, ...]) -> tuple[str, ...]:
    """The hosts of a step in the order of its ranks: in a heterogeneous job one component follows the other."""
    step = set(by_name)
    hosts = tuple(host for host in _components(variables) if host in step)
    return hosts if sorted(hosts) == sorted(by_name) else by_name


def _components(variables: Mapping[str, str]) -> list[str]:
    """The hosts of a heterogeneous job. One that srun has started knows them by the older name alone."""
    groups = (
        variables.get(f"SLURM_JOB_NODELIST_HET_GROUP_{number}")
        or variables.get(f"SLURM_JOB_NODELIST_PACK_GROUP_{number}")
        or ""
        for number in count()
    )
    return [host for group in takewhile(bool, groups) for host in _expand(group)]


def _rank_in(hosts: tuple[str, ...], node: str | None, variables: Mapping[str, str]) -> int:
    """The rank of this node; where it stands elsewhere in the list, node 0 is not the first one of it, either.

    :raises JobError: one line, if the hosts are in another order than the ranks.
    """
    rank = _number(variables, "SLURM_NODEID")
    if rank < len(hosts) and node in hosts and hosts[rank] != node:
        raise JobError(
            f"SLURM_NODEID: {rank} is {hosts[rank]} in the list of the step, and this is {node}: the parts of one "
            "srun have an order of their own. Start pytest by one without ':', in a heterogeneous job by "
            "srun --het-group=0."
        )
    return rank


def _address_of(first: str | None, hosts: tuple[str, ...], variables: Mapping[str, str]) -> str | None:
    """Where node 0 is: by MASTER_ADDR, unless that is of the job, as its script exports it, or of another node."""
    told = variables.get("MASTER_ADDR") or None
    if told is None or first is None:
        return told or first
    job = _components(variables) or _expand(variables.get("SLURM_JOB_NODELIST", ""))
    begins_elsewhere = bool(job) and job[0] != first
    others = {*job, *hosts} - {first}
    is_another = told in others or told.partition(".")[0] in others
    return first if _is_loopback(told) or begins_elsewhere or is_another else told


def _by_hand(variables: Mapping[str, str]) -> Job | None:
    given = [variables.get(name) for name in _BY_HAND]
    if None in given or not any(given):
        return None
    local_rank = _number(variables, "LOCAL_RANK", default=0)
    return Job(
        launcher="kubeflow",
        id=variables.get("JOB_NAME") or None if "KUBERNETES_SERVICE_HOST" in variables else None,
        node_rank=_number(variables, "PET_NODE_RANK" if variables.get("PET_NODE_RANK", "").isdigit() else "RANK"),
        nodes=_nodes_by_hand(variables),
        local_rank=local_rank,
        local_size=max(_number(variables, *_LOCAL_SIZES, least=1, default=1), local_rank + 1),
        address=variables["MASTER_ADDR"] or None,
        port=_port(variables),
        node=_kubernetes_node(variables),
    )


def _nodes_by_hand(variables: Mapping[str, str]) -> int:
    """How many nodes there are: WORLD_SIZE of a PyTorchJob counts the processes that torchrun would start on them."""
    told = variables.get("PET_NNODES", "")
    if match := _NODES.fullmatch(told):
        return int(match[1])
    ranks = _number(variables, "WORLD_SIZE", least=1)
    processes = variables.get("PET_NPROC_PER_NODE", "")
    if told and _NODES.fullmatch(processes) and processes != "1":
        raise JobError(
            f"PET_NNODES: {told!r} is no number of nodes, and a WORLD_SIZE of {ranks} may count {processes} "
            'processes on each. Give the job a fixed number of nodes, or nprocPerNode: "1".'
        )
    return ranks


def _kubernetes_node(variables: Mapping[str, str]) -> str | None:
    # A pod is called after its job: its node is known by the downward API alone. Jenkins has a NODE_NAME of its own.
    return variables.get("NODE_NAME") or None if "KUBERNETES_SERVICE_HOST" in variables else None


def _slurm_id(variables: Mapping[str, str]) -> str | None:
    # The tasks of an array are jobs of their own, and one validation.
    return variables.get("SLURM_ARRAY_JOB_ID") or variables.get("SLURM_JOB_ID") or None


def _array(variables: Mapping[str, str], name: str) -> int | None:
    return _number(variables, name) if variables.get(name) else None


def _tasks_of(variables: Mapping[str, str], node: int) -> int:
    """How many tasks this node of the step has, from "2(x3),1"."""
    told = [variables[name] for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE") if name in variables]
    text = next(filter(None, told), "" if told else "1")
    counts: list[int] = []
    for part in text.split(","):
        match = _TASKS.fullmatch(part)
        if match is None:
            raise JobError(f"SLURM_STEP_TASKS_PER_NODE: {text!r} is no list such as 1(x4). Start pytest by srun.")
        counts += [int(match[1])] * min(int(match[2] or 1), node + 1)
    return counts[node] if node < len(counts) else counts[-1]


def _port(variables: Mapping[str, str]) -> int | None:
    return _number(variables, "MASTER_PORT", least=1, most=_PORTS) if variables.get("MASTER_PORT") else None


def _number(
    variables: Mapping[str, str], *names: str, least: int = 0, most: int = _LARGEST, default: int | None = None
) -> int:
    """The first of these variables that is there.

    :raises JobError: one line, if it is empty or not in these bounds, or if there is none and no default.
    """
    there = [name for name in names if name in variables]
    name = next((name for name in there if variables[name]), (there or names)[0])
    if not there and default is not None:
        return default
    value = variables.get(name, "")
    if value.isascii() and value.isdigit() and len(value) <= len(str(most)) and least <= int(value) <= most:
        return int(value)
    bounds = f"a number from {least} to {most}" if most == _PORTS else f"a number from {least} on"
    if not there:
        raise JobError(f"{name} is not set, and should be {bounds}. Start pytest by the launcher itself.")
    raise JobError(f"{name}: {value!r} is not {bounds}. Correct the variable, or unset it where this is no such job.")


def _first(nodes: str) -> str:
    """The first host of "a[1-2],b3"."""
    one = re.match(r"(?:[^\[,]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([0-9]+)[^\]]*\]", r"\1", one[0] if one else nodes)


def _expand(nodes: str) -> tuple[str, ...]:
    """The hosts of "a[1-2],b3", in its order; none where it is no such list, or one that nobody can mean."""
    found: list[str] = []
    for part in _PART.findall(nodes):
        texts = re.split(r"\[([^\]]*)\]", part)
        choices = [_numbers(text) if position % 2 else [text] for position, text in enumerate(texts)]
        if len(found) + prod(map(len, choices)) > _MOST_HOSTS or not all(choices):
            return ()
        found += ["".join(one) for one in product(*choices)]
    return tuple(found)


def _numbers(ranges: str) -> list[str]:
    """Those of "1-3,07", as they are written; none where it is no such list."""
    found: list[str] = []
    for one in ranges.split(","):
        match = _RANGE.fullmatch(one)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if match is None or not 0 <= last - first < _MOST_HOSTS - len(found):
            return []
        found += [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
    return found


# ------------------------------------------------------------------------------------------------ in child processes


def with_hosts(job: Job, said: Mapping[str, Any] | None) -> Job:
    """The job with what the child ``hosts`` has found, if it is as many as were started."""
    found = tuple((said or {}).get("hosts", ()))
    return replace(job, hosts=found) if len(found) == job.nodes and not job.hosts else job


def asking_lightning(job: Job, distribution: str) -> dict[str, Any]:
    """The arguments of ``of_lightning`` for this job and this distribution of Lightning."""
    # Lightning, too, takes the first node of the list for node 0, and WORLD_SIZE for what was started.
    variables = {
        "slurm": {"MASTER_ADDR": job.address} if job.address else {},
        "torchrun": {},
        "kubeflow": {"RANK": str(job.node_rank), "WORLD_SIZE": str(job.nodes)},
    }
    return {"module": _FABRICS[distribution], "launcher": job.launcher, "variables": variables[job.launcher]}


def with_lightning(job: Job, said: Mapping[str, Any] | None) -> Job:
    """The job as Lightning's cluster environment sees it; as it is where there is no Lightning."""
    return replace(job, **said["job"]) if said and said.get("job") else job


def hosts(node_list: str) -> dict[str, Any]:
    """In the child: every host of a list of Slurm's; none where nobody here can expand it."""
    note(f"asking Slurm which hosts are {node_list}")
    if shutil.which("scontrol"):
        asked = ["scontrol", "show", "hostnames", node_list]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.split():
            return {"hosts": done.stdout.split()}
    try:
        library = import_module("ClusterShell.NodeSet")
    except ImportError:  # a container often has neither
        return {"hosts": []}
    return {"hosts": list(library.NodeSet(node_list))}


def of_lightning(module: str, launcher: str, variables: Mapping[str, str]) -> dict[str, Any]:
    """In the child: rank, number and meeting point, asked of Lightning's environment for this launcher.

    :param module: "lightning.fabric" or "lightning_fabric".
    :param variables: what this process is told beside its environment.
    :return: ``job``, the fields that it knows; None, with ``refused``, where it refuses the job.
    """
    os.environ.update(variables)
    try:
        environment = getattr(import_module(f"{module}.plugins.environments"), _ENVIRONMENTS[launcher])()
        found = {
            "node_rank": environment.node_rank(),
            "nodes": environment.world_size(),
            "local_rank": environment.local_rank(),
            "address": environment.main_address,
            "port": environment.main_port,
        }
    except (RuntimeError, KeyError, ValueError) as error:
        return {"job": None, "refused": f"{type(error).__name__}: {error}"}
    return {"job": found, "refused": None}
