"""The published schemas of Kubernetes, Kubeflow's training operator and the HyperPod operator, as JSON schemas.

Each is read out of the package in which its authors publish it: requirements/schemas.txt.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

Json = dict[str, Any]
REQUIREMENTS = Path(__file__).parents[1] / "requirements" / "schemas.txt"
# Older and newer than what HyperPod's EKS runs.
VERSIONS = ("1.30.0", "1.37.0")


class NotFetched(Exception):
    """The package index cannot be reached."""


def fetch(folder: Path) -> None:
    """Put the packages into a folder.

    :raises NotFetched: if pip cannot.
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "-r",
        str(REQUIREMENTS),
        "-d",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotFetched(done.stderr.strip().splitlines()[-1])


def of_kubernetes(folder: Path, version: str) -> Json:
    """The definitions of all kinds of this version; no key is allowed that the API does not know."""
    name = f"kubernetes_validate/kubernetes-json-schema/v{version}-local-strict/_definitions.json"
    text = _archive(folder, "kubernetes_validate").read(name).decode()
    definitions: Json = json.loads(re.sub(r'"/api/_definitions\.json#', '"#', text))["$defs"]
    return definitions


def schema_of(definitions: Json, kind: str) -> Json:
    """The schema of one kind, such as io.k8s.api.batch.v1.Job."""
    return {"$defs": definitions, "$ref": f"#/$defs/{kind}"}


def of_pytorchjob(folder: Path, definitions: Json) -> Json:
    """PyTorchJob, with pods and metadata as Kubernetes defines them."""
    archive = _archive(folder, "kubeflow_training")
    models = [name for name in archive.namelist() if re.search(r"/models/kubeflow_org_v1_\w+\.py$", name)]
    types_of = {name: schema for path in models for name, schema in [_of_openapi(archive.read(path).decode())]}
    return schema_of({**definitions, **types_of}, "KubeflowOrgV1PyTorchJob")


def _of_openapi(source: str) -> tuple[str, Json]:
    """A model of openapi-generator, read and not imported: the class says its types, keys and what is required."""
    model = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    tables = {
        target.id: ast.literal_eval(node.value)
        for node in model.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    keys, kinds = tables["attribute_map"], tables["openapi_types"]
    needed = re.findall(r"Invalid value for `(\w+)`, must not be `None`", source)
    schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {keys[name]: _type(kind) for name, kind in kinds.items()},
        "required": sorted({keys[name] for name in needed}),
    }
    return model.name, schema


_PLAIN = {"str": "string", "int": "integer", "bool": "boolean", "float": "number"}
_OF_KUBERNETES = {
    "V1PodTemplateSpec": "io.k8s.api.core.v1.PodTemplateSpec",
    "V1ObjectMeta": "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
}


def _type(kind: str) -> Json:
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if match := re.fullmatch(r"dict\(str, (.*)\)", kind):
        return {"type": "object", "additionalProperties": _type(match[1])}
    if match := re.fullmatch(r"list\[(.*)\]", kind):
        return {"type": "array", "items": _type(match[1])}
    if kind.startswith("Kubeflow") or kind in _OF_KUBERNETES:
        return {"$ref": f"#/$defs/{_OF_KUBERNETES.get(kind, kind)}"}
    return {}  # dates, and what only the status and elastic jobs have


def of_hyperpod(folder: Path) -> Json:
    """The spec of a HyperPodPyTorchJob."""
    path = "sagemaker/hyperpod/training/config/hyperpod_pytorch_job_unified_config.py"
    module = types.ModuleType("hyperpod_pytorch_job")
    sys.modules[module.__name__] = module  # pydantic looks annotations up there
    try:
        exec(compile(_archive(folder, "sagemaker_hyperpod").read(path), path, "exec"), module.__dict__)
        # Its fields are called as in the API, their aliases as in Python.
        schema: Json = module._HyperPodPytorchJob.model_json_schema(by_alias=False)
    finally:
        del sys.modules[module.__name__]
    # The client leaves metadata to a class of its own, and lets other keys pass here alone.
    schema["additionalProperties"] = False
    return schema


def _archive(folder: Path, name: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(next(folder.glob(f"{name}-*.whl")))
