"""examples/kubernetes: what the API servers would accept, and that the commands do what the page says."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from jsonschema.exceptions import best_match

import schemas
from conftest import Rig, assert_valid
from pytest_bionemo.fleet import command

Json = dict[str, Any]
EXAMPLES = Path(__file__).parents[1] / "examples" / "kubernetes"
NODES = 4
KINDS = {
    ("v1", "Service"): "io.k8s.api.core.v1.Service",
    ("batch/v1", "Job"): "io.k8s.api.batch.v1.Job",
    ("batch/v1", "CronJob"): "io.k8s.api.batch.v1.CronJob",
}


def documents() -> Iterator[tuple[str, Json]]:
    for path in sorted(EXAMPLES.glob("*.yaml")):
        yield from ((path.name, document) for document in yaml.safe_load_all(path.read_text()))


DOCUMENTS = list(documents())
IDS = [f"{name}-{document['kind']}" for name, document in DOCUMENTS]


def manifest(name: str, kind: str) -> Json:
    found = next(document for file, document in DOCUMENTS if file == name and document["kind"] == kind)
    return copy.deepcopy(found)


# ---- the published schemas


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages that hold them."""
    folder = tmp_path_factory.mktemp("schemas")
    try:
        schemas.fetch(folder)
    except schemas.NotFetched as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the schemas cannot be fetched: {error}")
    return folder


@pytest.fixture(scope="session", params=schemas.VERSIONS)
def errors_of(request: pytest.FixtureRequest, published: Path) -> Callable[[Json], list[str]]:
    """What an API server of this version would refuse in a manifest."""
    definitions = schemas.of_kubernetes(published, request.param)
    known = {kind: schemas.schema_of(definitions, name) for kind, name in KINDS.items()}
    known["kubeflow.org/v1", "PyTorchJob"] = schemas.of_pytorchjob(published, definitions)
    meta = schemas.schema_of(definitions, "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
    template = schemas.schema_of(definitions, "io.k8s.api.core.v1.PodTemplateSpec")
    hyperpod = schemas.of_hyperpod(published)

    def errors(document: Json) -> list[str]:
        kind = (document["apiVersion"], document["kind"])
        held = [(document, known[kind])] if kind in known else []
        if kind == ("sagemaker.amazonaws.com/v1", "HyperPodPyTorchJob"):
            assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
            held += [(document["metadata"], meta), (document["spec"], hyperpod)]
            held += [(replica["template"], template) for replica in document["spec"]["replicaSpecs"]]
        assert held, f"no schema for {kind}"
        return [
            f"{error.json_path}: {cause.message}"
            for one, schema in held
            for error in jsonschema.Draft202012Validator(schema).iter_errors(one)
            if (cause := best_match([error]))  # of a choice, what is wrong with the one that nearly fits
        ]

    return errors


@pytest.mark.parametrize("document", [document for _, document in DOCUMENTS], ids=IDS)
def test_the_api_accepts_the_example(document: Json, errors_of: Callable[[Json], list[str]]) -> None:
    assert errors_of(document) == []


def _pod(document: Json) -> Json:
    found: Json = next(pods(document))["spec"]
    return found


SLIPS: dict[str, tuple[str, str, Callable[[Json], object], str]] = {
    "a key of the job that there is not": (
        "indexed-job.yaml", "Job", lambda job: job["spec"].update(backofLimitPerIndex=0), "backofLimitPerIndex",
    ),
    "a number as text": (
        "indexed-job.yaml", "Job", lambda job: job["spec"].update(completions="4"), "completions",
    ),
    "a variable that is a number": (
        "nightly.yaml", "CronJob", lambda job: _pod(job)["containers"][0]["env"][0].update(value=4), "env[0].value",
    ),
    "a schedule that is missing": ("nightly.yaml", "CronJob", lambda job: job["spec"].pop("schedule"), "schedule"),
    "a number of processes that is no text": (
        "pytorchjob.yaml", "PyTorchJob", lambda job: job["spec"].update(nprocPerNode=1), "nprocPerNode",
    ),
    "replicas under another name": (
        "pytorchjob.yaml", "PyTorchJob",
        lambda job: job["spec"].update(replicaSpecs=job["spec"].pop("pytorchReplicaSpecs")), "replicaSpecs",
    ),
    "a container without a name": (
        "pytorchjob.yaml", "PyTorchJob", lambda job: _pod(job)["containers"][0].pop("name"), "'name' is a required",
    ),
    "a policy of another operator": (
        "hyperpod-pytorchjob.yaml", "HyperPodPyTorchJob",
        lambda job: job["spec"]["runPolicy"].update(backoffLimit=0), "backoffLimit",
    ),
    "a replica without a name": (
        "hyperpod-pytorchjob.yaml", "HyperPodPyTorchJob", lambda job: job["spec"]["replicaSpecs"][0].pop("name"),
        "'name' is a required",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("file", "kind", "slip", "said"), SLIPS.values(), ids=SLIPS)
def test_a_slip_would_be_noticed(
    file: str, kind: str, slip: Callable[[Json], object], said: str, errors_of: Callable[[Json], list[str]]
) -> None:
    document = manifest(file, kind)
    slip(document)
    assert said in "\n".join(errors_of(document))


# ---- what no schema says


def pods(document: Json) -> Iterator[Json]:
    """Every template of a pod."""
    spec = document.get("spec", {})
    if "jobTemplate" in spec:
        spec = spec["jobTemplate"]["spec"]
    if "template" in spec:
        yield spec["template"]
    for replica in spec.get("replicaSpecs", []):
        yield replica["template"]
    for replica in spec.get("pytorchReplicaSpecs", {}).values():
        yield replica["template"]


TEMPLATES = [(name, template) for name, document in DOCUMENTS for template in pods(document)]


@pytest.mark.parametrize("template", [template for _, template in TEMPLATES], ids=[name for name, _ in TEMPLATES])
def test_a_pod_has_what_a_validation_needs(template: Json) -> None:
    spec = template["spec"]
    (container,) = spec["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert set(mounts.values()) == set(volumes)
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    limits = container["resources"]["limits"]
    assert {"nvidia.com/gpu", "vpc.amazonaws.com/efa"} <= set(limits)
    # The name by which a node can be drained.
    variables = {entry["name"]: entry for entry in container["env"]}
    assert variables["NODE_NAME"]["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"
    assert variables["REPORTS"]["value"].startswith("/fsx/")
    assert "/fsx" in mounts
    # A variable is expanded from those before it only.
    for position, entry in enumerate(container["env"]):
        before = {earlier["name"] for earlier in container["env"][:position]}
        assert set(re.findall(r"\$\((\w+)\)", entry.get("value", ""))) <= before


@pytest.mark.parametrize("name", ["indexed-job.yaml", "nightly.yaml"])
def test_the_numbers_of_nodes_agree(name: str) -> None:
    document = next(document for file, document in DOCUMENTS if file == name and document["kind"] != "Service")
    spec = document["spec"].get("jobTemplate", document)["spec"]
    variables = {entry["name"]: entry.get("value") for entry in spec["template"]["spec"]["containers"][0]["env"]}
    assert [spec["completions"], spec["parallelism"], int(str(variables["WORLD_SIZE"]))] == [NODES] * 3
    service = manifest("indexed-job.yaml", "Service")
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    # Everything of a night is what the job of a day has.
    day = manifest("indexed-job.yaml", "Job")["spec"]
    assert spec == day


def test_both_operators_start_as_many_nodes() -> None:
    kubeflow = manifest("pytorchjob.yaml", "PyTorchJob")["spec"]["pytorchReplicaSpecs"]
    assert sum(replica["replicas"] for replica in kubeflow.values()) == NODES
    (replica,) = manifest("hyperpod-pytorchjob.yaml", "HyperPodPyTorchJob")["spec"]["replicaSpecs"]
    arguments = replica["template"]["spec"]["containers"][0]["args"][0]
    assert replica["replicas"] == NODES
    assert f"--nnodes={NODES} " in arguments


@pytest.mark.parametrize("file", ["pytorchjob.yaml", "hyperpod-pytorchjob.yaml"])
def test_every_run_of_an_operator_has_a_name_and_a_folder_of_its_own(file: str) -> None:
    """By the command on top of the file: its manifest goes to kubectl."""
    command = re.search(r"^#   (sed .*) \| kubectl create -f -$", (EXAMPLES / file).read_text(), re.MULTILINE)
    assert command
    made = subprocess.run(["bash", "-c", command[1]], cwd=EXAMPLES, capture_output=True, text=True, check=True)
    (document,) = yaml.safe_load_all(made.stdout)
    name = document["metadata"]["name"]
    assert re.fullmatch(r"bionemo-readiness-[0-9]{10}", name)
    for template in pods(document):
        (variable,) = (one for one in template["spec"]["containers"][0]["env"] if one["name"] == "JOB_NAME")
        label = {"fieldRef": {"fieldPath": "metadata.labels['training.kubeflow.org/job-name']"}}
        assert variable in ({"name": "JOB_NAME", "value": name}, {"name": "JOB_NAME", "valueFrom": label})
    # Nothing else but the name is changed.
    assert made.stdout.replace(name, "bionemo-readiness-1") == (EXAMPLES / file).read_text()


# ---- what runs in the pods


def environment_of(template: Json, pod: Mapping[str, str]) -> dict[str, str]:
    """The variables of a container as the kubelet sets them: fields of the pod, and $(NAME) of those before."""
    found: dict[str, str] = {}
    for entry in template["spec"]["containers"][0]["env"]:
        if "valueFrom" in entry:
            found[entry["name"]] = pod[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        else:
            found[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda name: found[name[1]], entry["value"])
    return found


def start(rig: Rig, template: Json, variables: Mapping[str, str], reports: Path) -> tuple[int, str]:
    """Run the container's own command on a machine; its exit status and its output."""
    (container,) = template["spec"]["containers"]
    assert container["command"] == ["bash", "-c"]
    rig.variables |= {**variables, "REPORTS": str(reports), "KUBERNETES_SERVICE_HOST": "10.100.0.1"}
    run = rig.run(
        "-c",
        "import os, sys; os.environ['PATH'] = os.path.dirname(sys.executable) + ':' + os.environ['PATH'];"
        "os.execvp('bash', ['bash', '-c', sys.argv[1]])",
        container["args"][0],
    )
    return run.returncode, run.stdout + run.stderr


def test_the_pods_of_an_indexed_job_report_by_node_into_one_folder(
    healthy_rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (template,) = pods(manifest("indexed-job.yaml", "Job"))
    reports = tmp_path / "fsx" / "bionemo-readiness"
    reports.parent.mkdir()
    for index in (0, 1):
        if index:
            assert healthy_rig.node
            healthy_rig.node = healthy_rig.node.with_health(3, recovery_action=2)
        pod = {
            "spec.nodeName": f"hyperpod-i-000000000000000{index}",
            "metadata.labels['batch.kubernetes.io/job-name']": "bionemo-readiness-x7k2p",
            "metadata.annotations['batch.kubernetes.io/job-completion-index']": str(index),
        }
        variables = environment_of(template, pod)
        assert variables["MASTER_ADDR"] == "bionemo-readiness-x7k2p-0.bionemo-readiness"
        status, said = start(healthy_rig, template, variables, reports)
        assert status == index, said
    folder = reports / "job-bionemo-readiness-x7k2p"
    assert sorted(path.name for path in folder.iterdir()) == [
        "hyperpod-i-0000000000000000.json", "hyperpod-i-0000000000000001.json",
    ]  # fmt: skip
    for index, path in enumerate(sorted(folder.iterdir())):
        report = json.loads(path.read_text())
        assert_valid(report)
        job = report["bionemo"]["environment"]["job"]
        assert (job["launcher"], job["node_rank"], job["nodes"]) == ("kubeflow", index, NODES)
    # Nodes by the names that kubectl knows: one to cordon, and two that did not report.
    assert command.main([str(reports), "--expect", str(NODES), "--print", "failing"]) == 1
    assert capsys.readouterr().out == "hyperpod-i-0000000000000001\n"


def test_a_pod_of_an_operator_reports_by_node(healthy_rig: Rig, tmp_path: Path) -> None:
    template = next(pods(manifest("pytorchjob.yaml", "PyTorchJob")))
    pod = {"spec.nodeName": "hyperpod-i-1", "metadata.labels['training.kubeflow.org/job-name']": "bionemo-readiness"}
    # Set by the operator: training-operator 1.9, WORLD_SIZE = replicas x nprocPerNode.
    operator = {"MASTER_ADDR": "bionemo-readiness-master-0", "MASTER_PORT": "23456", "RANK": "2", "WORLD_SIZE": "4"}
    status, said = start(healthy_rig, template, {**environment_of(template, pod), **operator}, tmp_path / "fsx")
    assert status == 0, said
    (path,) = (tmp_path / "fsx" / "job-bionemo-readiness").iterdir()
    assert path.name == "hyperpod-i-1.json"


def test_a_node_name_outside_of_a_pod_is_somebody_elses(healthy_rig: Rig) -> None:
    variables = {"NODE_NAME": "built-in", "MASTER_ADDR": "a", "MASTER_PORT": "1", "RANK": "0", "WORLD_SIZE": "1"}
    healthy_rig.variables |= variables
    assert healthy_rig.validate().bionemo["environment"]["job"]["node"] is None
