"""SageMaker HyperPod, on Slurm and on EKS.

Source: awslabs/awsome-distributed-ai 95b939cdc, 1.architectures/5.sagemaker-hyperpod: the files that its agents and
lifecycle scripts read. Inside a pod on EKS none of them is there: the name of the node tells, where the pod is given
it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pytest_bionemo.probes import files

RESOURCES = Path("opt/ml/config/resource_config.json")
PROVISIONING = Path("opt/ml/config/provisioning_parameters.json")
_MARKER = Path("opt/sagemaker_cluster")
_NODE_PREFIX = "hyperpod-i-"
# What pods call the variable into which the downward API puts the name of their node.
_NODE_NAMES = ("NODE_NAME", "K8S_NODE_NAME", "KUBE_NODE_NAME", "MY_NODE_NAME")
_ORCHESTRATORS: Mapping[str, Literal["slurm", "kubernetes"]] = {"Slurm": "slurm", "Kubernetes": "kubernetes"}


@dataclass(frozen=True)
class HyperPod:
    """``instance_type`` is that of the cluster's description, with its ``ml.``.

    ``problems`` are what is wrong with the files that describe the cluster. ``fsx`` is the DNS name of the FSx for
    Lustre file system that the nodes are to mount, and ``fsx_mount`` its name on the server. None: no file tells.
    """

    orchestrator: Literal["slurm", "kubernetes"] | None = None
    instance_type: str | None = None
    fsx: str | None = None
    problems: tuple[str, ...] = ()
    fsx_mount: str | None = None


def read(variables: Mapping[str, str], root: Path, instance_id: str | None) -> HyperPod | None:
    """None where this is not HyperPod. ``instance_id`` is this machine's, where it is known."""
    problems: list[str] = []
    described = variables.get("SAGEMAKER_RESOURCE_CONFIG_PATH", "").lstrip("/")
    resources = _load(root, Path(described) if described else RESOURCES, problems)
    provisioning = _load(root, PROVISIONING, problems)
    if resources is None and not problems and not _has_marks(variables, root):
        return None
    resources = resources or {}
    orchestrator = _ORCHESTRATORS.get(str(resources.get("ClusterType")))
    if orchestrator is None:
        orchestrator = "kubernetes" if _is_in_pod(variables) else "slurm" if provisioning is not None else None
    fsx, mount = ((provisioning or {}).get(name) for name in ("fsx_dns_name", "fsx_mountname"))
    return HyperPod(
        orchestrator,
        _instance_type(resources, instance_id),
        fsx if isinstance(fsx, str) and fsx else None,
        tuple(problems),
        mount if isinstance(mount, str) and mount else None,
    )


def _load(root: Path, path: Path, problems: list[str]) -> Mapping[str, Any] | None:
    try:
        return files.mapping(root / path)
    except files.Unreadable as error:
        problems.append(f"/{path}: {error}")
        return None


def _has_marks(variables: Mapping[str, str], root: Path) -> bool:
    return files.is_folder(root / _MARKER) or _is_in_pod(variables)


def _is_in_pod(variables: Mapping[str, str]) -> bool:
    return any(variables.get(name, "").startswith(_NODE_PREFIX) for name in _NODE_NAMES)


def _instance_type(resources: Mapping[str, Any], instance_id: str | None) -> str | None:
    """The type of the group that has this machine; that of every group, where they have but one."""
    groups = [one for one in _dicts(resources.get("InstanceGroups")) if isinstance(one.get("InstanceType"), str)]
    for group in groups:
        if instance_id and instance_id in [one.get("InstanceId") for one in _dicts(group.get("Instances"))]:
            return str(group["InstanceType"])
    types = {str(group["InstanceType"]) for group in groups}
    return types.pop() if len(types) == 1 else None


def _dicts(value: object) -> Iterator[Mapping[str, Any]]:
    return (one for one in (value if isinstance(value, list) else ()) if isinstance(one, dict))
