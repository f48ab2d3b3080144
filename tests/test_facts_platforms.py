"""The tables of instance types and platforms: sourced, dated, and in agreement with the table of GPUs."""

from __future__ import annotations

import time
from datetime import date

import pytest

from pytest_bionemo.facts import gpus, instances, load, platforms
from test_facts import TAGS, rows


@pytest.mark.parametrize("name", ["instances", "platforms"])
def test_every_row_has_source_date_and_tag(name: str) -> None:
    assert rows(name)
    for kind, row in rows(name):
        assert row["source"].strip(), (kind, row)
        assert row["tag"] in TAGS, (kind, row)
        assert date.fromisoformat(row["date"]) >= date(2026, 11, 22), (kind, row)


def test_no_type_stands_in_two_rows() -> None:
    listed = [name.lower() for row in load("instances")["instance"] for name in row["types"]]
    assert len(listed) > 70
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize("name", instances.names())
def test_an_instance_is_physically_possible(name: str) -> None:
    instance = instances.find(name)
    assert instance
    assert instance.gpus in (1, 2, 4, 8, 16)
    assert instance.nvlinks in (None, 0, 12, 18)
    assert instance.efa is None or 0 <= instance.efa <= 32
    # NVLink is of GPUs that have it: the name begins that of a model in the table of GPUs.
    models = [model for model in gpus.models() if model.name.startswith(instance.gpu.partition(" ")[0])]
    assert models, instance.gpu
    if instance.nvlinks:
        assert any(model.nvlink_gbs for model in models)


def test_types_are_found_as_sagemaker_and_azure_write_them() -> None:
    found = instances.find("ml.p5.48xlarge")
    assert found
    assert (found.name, found.gpus, found.efa, found.nvlinks) == ("p5.48xlarge", 8, 32, 18)
    assert instances.find("STANDARD_NC40ADS_H100_V5") == instances.find("Standard_NC40ads_H100_v5")
    assert instances.find("") is None


def test_what_is_recalled_or_disputed_is_not_judged_by() -> None:
    disputed, recalled = instances.find("p5.4xlarge"), instances.find("g4dn.12xlarge")
    assert disputed
    assert disputed.efa is None
    assert recalled
    assert not recalled.is_sure


def test_runtimes_end_on_their_day() -> None:
    assert platforms.runtime_end("13.3") == date(2026, 8, 22)
    assert platforms.runtime_end("18.1") == platforms.runtime_end("18") == date(2029, 6, 10)
    assert platforms.runtime_end("19") is None
    assert platforms.runtime_end("180") is None
    assert platforms.runtime_end("15.1") is None
    assert platforms.runtime_end("12.2") == platforms.runtime_end("9") == date(2026, 8, 22)
    assert platforms.runtime_end("custom") is None
    assert platforms.supported_runtimes(date(2026, 11, 22)) == ("14.3", "15.4", "16.4", "17.3", "18", "19")


@pytest.mark.parametrize(
    "setting",
    [
        "FI_PROVIDER=",
        "FI_PROVIDER=efa",
        "FI_PROVIDER=efa;ofi_rxd",
        "FI_PROVIDER=efa,tcp",
        "NCCL_BUFFSIZE=8388608",
        "NCCL_NET=Libfabric",
        "NCCL_NET=AWS Libfabric",
        "NCCL_PROTO=LL",
    ],
)
def test_settings_of_aws_own_samples_are_no_fault(setting: str) -> None:
    assert not any(rule.pattern.fullmatch(setting) for rule in platforms.variables())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.sbatch", "#SBATCH --nodes=2\n# AUTO_RESUME=x srun\n"),
        ("a.sbatch", "#SBATCH --output=%x.out # in $HOME\n"),
        ("a.sbatch", "AUTO_RESUME=--auto-resume=1\nsrun ${AUTO_RESUME} x\n"),
        ("a.yaml", "kind: Job\nspec: {nvidia.com/gpu: 1}\nmountPath: /dev/shm\n"),
        ("a.sbatch", "#SBATCH --job-name=a$b\n#SBATCH --comment='costs $5'\n"),
        ("a.yaml", "kind: Service\nnvidia.com/gpu\n"),
        ("a.py", "#SBATCH --nodes=$N\n"),
        ("a.sh", "docker run bionemo-framework:2.5 python /workspace/bionemo2/sub-packages/bionemo-esm2/x.py\n"),
    ],
)
def test_scripts_without_the_fault_are_not_accused(name: str, text: str) -> None:
    assert [fault.name for fault in platforms.templates() if fault.is_in(name, text)] == []


@pytest.mark.parametrize("line", ["--nodes=$N", "--nodes $N", "-N $N", "--gres=gpu:${GPUS}", "--ntasks=${NTASKS}"])
def test_a_variable_in_a_number_of_a_directive_is_a_fault(line: str) -> None:
    found = [fault.name for fault in platforms.templates() if fault.is_in("a.sbatch", f"#SBATCH {line}\n")]
    assert found == ["a variable in a directive"]


@pytest.mark.parametrize("text", ["\n" * 65_536, " " * 65_536, "AUTO_RESUME" * 6_000, "#SBATCH " * 8_000])
def test_scripts_of_no_sense_take_no_time(text: str) -> None:
    began = time.process_time()
    for fault in platforms.templates():
        fault.is_in("a.sh", text)
    assert time.process_time() - began < 2
