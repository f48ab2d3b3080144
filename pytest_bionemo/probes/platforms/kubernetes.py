"""Kubernetes: inside a pod, or on one of its nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_bionemo.probes import files

_ACCOUNT = Path("var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Kubernetes:
    """``is_pod`` is false on the node itself."""

    is_pod: bool


def read(variables: Mapping[str, str], root: Path, *, is_node: bool) -> Kubernetes | None:
    """None where this is not Kubernetes. ``is_node`` says what another file told of this machine."""
    # A folder, not the token in it: that is a secret.
    if "KUBERNETES_SERVICE_HOST" in variables or files.is_folder(root / _ACCOUNT):
        return Kubernetes(is_pod=True)
    return Kubernetes(is_pod=False) if is_node else None
