"""The job that this process is one node of: who started it, how many nodes there are, and where they meet.

``read`` takes it from the variables that launchers document, with the standard library alone. ``hosts`` and
``of_lightning`` run in child processes: the one asks Slurm's own program, which may wait for a controller, the other
imports PyTorch.

Sources: srun(1), "OUTPUT ENVIRONMENT VARIABLES", and what a step of Slurm 22.05 really gets; torchrun(1),
"Environment Variables"; Kubeflow's PyTorchJob, which sets the variables of torch.distributed's ``env://``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import import_module
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
_ONE_TASK = {"slurm": "srun --ntasks-per-node=1", "torchrun": "torchrun --nproc-per-node=1"}
_BY_HAND = ("RANK", "WORLD_SIZE", "MASTER_ADDR")
_ANONYMOUS = "none"
"""What torchrun calls a job that was given no id."""
_TASKS = re.compile(r"([0-9]+)(?:\(x([0-9]+)\))?")
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
    if job is None:
        return None
    if not job.node_rank < job.nodes:
        raise JobError(
            f"{job.launcher}: node {job.node_rank} of a job of {job.nodes}. They are counted from 0: "
            "correct the variables of the job, or unset them."
        )
    if job.local_size > 1:
        raise JobError(
            f"{job.local_size} tasks were started on this node. One pytest sees to all GPUs of a node: "
            f"{_ONE_TASK[job.launcher]} pytest --bionemo-validate ..."
        )
    return job


def _of_torchrun(variables: Mapping[str, str]) -> Job | None:
    if "TORCHELASTIC_RUN_ID" not in variables:
        return None
    own = variables["TORCHELASTIC_RUN_ID"]
    return Job(
        launcher="torchrun",
        id=own if own not in ("", _ANONYMOUS) else _slurm_id(variables),
        node_rank=_number(variables, "GROUP_RANK", default=0),
        nodes=_number(variables, "GROUP_WORLD_SIZE", least=1, default=1),
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
    # Without a step this is the batch script, a prolog or a shell: the job's counts are not those of what runs here.
    is_step = "SLURM_STEP_ID" in variables and "SLURM_NODEID" in variables
    node = variables.get("SLURMD_NODENAME") or None
    nodes = (variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_NODELIST")) if is_step else node
    rank = _number(variables, "SLURM_NODEID", default=0) if is_step else 0
    return Job(
        launcher="slurm",
        id=_slurm_id(variables),
        node_rank=rank,
        nodes=_number(variables, "SLURM_STEP_NUM_NODES", "SLURM_NNODES", least=1, default=1) if is_step else 1,
        local_rank=_number(variables, "SLURM_LOCALID", default=0) if is_step else 0,
        local_size=_tasks_of(variables, rank) if is_step else 1,
        node_list=nodes,
        hosts=(nodes,) if nodes and not _is_compact(nodes) else (),
        address=variables.get("MASTER_ADDR") or (_first(nodes) if nodes else None),
        port=_port(variables) or int(str(number)[-4:]) + _SLURM_PORTS,
        task=_array(variables, "SLURM_ARRAY_TASK_ID"),
        tasks=_array(variables, "SLURM_ARRAY_TASK_COUNT"),
        node=node,
        step=(variables["SLURM_STEP_ID"] or None) if is_step else None,
    )


def _by_hand(variables: Mapping[str, str]) -> Job | None:
    if not all(variables.get(name) for name in _BY_HAND):
        return None
    return Job(
        launcher="kubeflow",
        id=variables.get("JOB_NAME") or None if "KUBERNETES_SERVICE_HOST" in variables else None,
        node_rank=_number(variables, "RANK"),
        nodes=_number(variables, "WORLD_SIZE", least=1),
        address=variables["MASTER_ADDR"],
        port=_port(variables),
        node=_kubernetes_node(variables),
    )


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
    text = variables.get("SLURM_STEP_TASKS_PER_NODE") or variables.get("SLURM_TASKS_PER_NODE") or "1"
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

    :raises JobError: one line, if it is not in these bounds, or is none and there is no default.
    """
    name = next((name for name in names if variables.get(name)), names[0])
    value = variables.get(name, "")
    if not value and default is not None:
        return default
    if value.isascii() and value.isdigit() and len(value) <= len(str(most)) and least <= int(value) <= most:
        return int(value)
    bounds = f"a number from {least} to {most}" if most == _PORTS else f"a number from {least} on"
    raise JobError(f"{name}: {value!r} is not {bounds}. Correct the variable, or unset it where this is no such job.")


def _is_compact(nodes: str) -> bool:
    return "[" in nodes or "," in nodes


def _first(nodes: str) -> str:
    """The first host of "a[1-2],b3"."""
    one = re.match(r"(?:[^\[,]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([0-9]+)[^\]]*\]", r"\1", one[0] if one else nodes)


# ------------------------------------------------------------------------------------------------ in child processes


def with_hosts(job: Job, said: Mapping[str, Any] | None) -> Job:
    """The job with what the child ``hosts`` has found, if it is as many as were started."""
    found = tuple((said or {}).get("hosts", ()))
    return replace(job, hosts=found) if len(found) == job.nodes else job


def asking_lightning(job: Job, distribution: str) -> dict[str, Any]:
    """The arguments of ``of_lightning`` for this job and this distribution of Lightning."""
    return {"module": _FABRICS[distribution], "launcher": job.launcher, "node_list": job.node_list}


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


def of_lightning(module: str, launcher: str, node_list: str | None) -> dict[str, Any]:
    """In the child: rank, number and meeting point, asked of Lightning's environment for this launcher.

    :param module: "lightning.fabric" or "lightning_fabric".
    :return: ``job``, the fields that it knows; None, with ``refused``, where it refuses the job.
    """
    if launcher == "slurm" and node_list:
        # Of a step of fewer nodes than the job Lightning would take the first node of the job.
        os.environ["SLURM_NODELIST"] = node_list
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
