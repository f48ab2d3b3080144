"""The topic training: all ranks learn what one learns, and each fault is found, by name, on the node that has it.

The ranks are real processes that meet over gloo, and one of them is really killed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from faults import proves
from pytest_bionemo.checking import CheckFailed, NotApplicable, NotRun
from pytest_bionemo.checks import training
from pytest_bionemo.compute import MEASUREMENT
from pytest_bionemo.model import Finding
from pytest_bionemo.ranks import Ranks
from training_faults import SLOWNESS_S, Ended, Job

LEARNS_BY_DDP = partial(training.learns_as_one_rank, strategy="ddp")
LEARNS_BY_FSDP = partial(training.learns_as_one_rank, strategy="fsdp")
HEALTHY = {"node1": None, "node2": None}


@pytest.fixture(scope="module")
def job() -> Job:
    """Two devices on node1, one on node2: ranks 0, 1 and 2."""
    return Job([2, 1])


def finding(ended: Ended) -> Finding:
    assert isinstance(ended, CheckFailed), ended
    return ended.finding


def numbers(properties: list[Any]) -> dict[str, dict[str, Any]]:
    found = [json.loads(value) for name, value in properties if name == MEASUREMENT]
    return {f"{one['name']} {one['device']}": one for one in found}


def resuming_in(folder: Path) -> Callable[[Ranks], None]:
    return partial(training.resumes_after_a_killed_rank, report_folder=folder)


# ------------------------------------------------------------------------------------------- what is learnt


@pytest.mark.parametrize(("check", "name"), [(LEARNS_BY_DDP, "ddp"), (LEARNS_BY_FSDP, "fsdp")], ids=["ddp", "fsdp"])
def test_all_ranks_learn_what_one_learns(job: Job, check: Any, name: str) -> None:
    ended, measured = job.run(check)
    assert ended == HEALTHY
    found = {**numbers(measured["node1"]), **numbers(measured["node2"])}
    assert sorted(found) == [f"training_{name}_loss_difference cpu{index}" for index in (0, 1)]
    for one in found.values():
        # The tolerance is derived and not chosen: rounding stays far below it, and it far below a nat.
        assert one["value"] <= one["bound"] / 2 < 1e-4


@proves("training::learns_as_one_rank", "one device computes wrongly by a hundred-thousandth", "kernel")
def test_a_device_that_computes_wrongly_is_named_on_every_node(job: Job) -> None:
    ended, _ = job.run(LEARNS_BY_DDP, "computes wrong", "node2 cpu0")
    elsewhere, there = finding(ended["node1"]), finding(ended["node2"])
    assert elsewhere.message == there.message
    assert there.message == (
        "3 ranks by DDP: alone, with the same batches, rank 2 (node2, cpu0) learns otherwise than the other ranks"
    )
    assert elsewhere.blames == ("node2",)
    assert elsewhere.fix[0] == "look at numerics and health in the report of node2"
    assert there.blames == (), "it is this node's own"


def test_a_loss_that_is_no_number_is_found(job: Job) -> None:
    ended, _ = job.run(LEARNS_BY_FSDP, "computes no number", "node1 cpu1")
    assert "rank 1 (node1, cpu1) learns otherwise" in finding(ended["node2"]).message
    assert finding(ended["node2"]).blames == ("node1",)


@proves("training::learns_as_one_rank", "the gradients of one rank are lost on their way", "package")
def test_gradients_that_are_lost_are_found_in_the_next_step(job: Job) -> None:
    """Every rank then has the same wrong weights: nobody can say whose gradients they were."""
    ended, _ = job.run(LEARNS_BY_DDP, "loses gradients", "node2 cpu0")
    for one in ended.values():
        assert finding(one).message.startswith("3 ranks by DDP: the loss of step 2 is 3.")
        assert finding(one).message.endswith(", and so on 2 more")
        assert finding(one).blames == ()


def test_where_one_node_cannot_take_part_no_other_waits_for_it(job: Job) -> None:
    said: dict[str, list[str]] = {}

    def confer(team: Ranks) -> None:
        lack = "transformers is not installed" if team.place.host == "node2" else None
        said[team.place.host] = team.lacking(lack)

    assert job.run(confer)[0] == HEALTHY
    assert said == {"node1": ["node2: transformers is not installed"], "node2": []}
    ended, _ = job.run(LEARNS_BY_FSDP, "no fully_shard", "node2 cpu0")
    assert isinstance(ended["node1"], NotRun)
    lack = "rank 2 (node2, cpu0): this PyTorch has no fully_shard: 2.4 and newer have"
    assert ended["node1"].reason == f"not every rank can train by FSDP: {lack}"
    assert isinstance(ended["node2"], NotApplicable)


# ------------------------------------------------------------------------------------------------- how fast


def test_a_healthy_job_keeps_pace_and_scales(job: Job) -> None:
    ended, measured = job.run(lambda team: [training.keeps_pace(team), training.scales(team)])
    assert ended == HEALTHY
    found = numbers(measured["node1"])
    assert sorted(found) == [
        "training_step_alone cpu0",
        "training_step_alone cpu1",
        "training_tiny_scaling_efficiency cpu0",
        "training_tiny_step_spread cpu0",
        "training_tiny_tokens cpu0",
    ]
    efficiency, tokens = found["training_tiny_scaling_efficiency cpu0"], found["training_tiny_tokens cpu0"]
    assert efficiency["value"] == pytest.approx(tokens["value"] / tokens["reference"])
    assert 0 < efficiency["reference"] < 1
    assert efficiency["judgement"] == "good"


@proves("training::keeps_pace", "one device is slow", "kernel", "NONE")
def test_a_slow_device_is_found_on_its_own_node_alone(job: Job) -> None:
    ended, measured = job.run(training.keeps_pace, "computes slowly", "node1 cpu1")
    said = re.match(
        r"cpu1: a step of ESM-2 tiny without the exchange takes ([\d.]+) s, ", finding(ended["node1"]).message
    )
    assert said
    assert float(said[1]) >= SLOWNESS_S
    assert ended["node2"] is None
    assert numbers(measured["node1"])["training_step_alone cpu0"]["judgement"] == "good"


@proves("training::scales", "the exchange of gradients is slow", "package", "NONE")
def test_a_slow_exchange_is_found(job: Job) -> None:
    ended, measured = job.run(training.scales, "exchanges slowly", "node2 cpu0")
    for one in ended.values():
        assert finding(one).message.startswith("3 ranks train ")
        assert "% of the " in finding(one).message
    assert numbers(measured["node2"])["training_tiny_scaling_efficiency cpu0"]["value"] < 0.15


# --------------------------------------------------------------------------------------- what is left behind


@pytest.mark.parametrize("check", [LEARNS_BY_DDP, training.keeps_pace], ids=["learns", "keeps_pace"])
def test_nothing_outlives_the_process_group(job: Job, check: Any) -> None:
    """Else now and then a healthy rank never answers: it waits for gloo's thread, which waits for Python's lock."""
    ended, _ = job.run(check, "no survivor", "node2 cpu0")
    assert ended == HEALTHY


# ------------------------------------------------------------------------------------------- what is survived


def test_a_training_goes_on_after_one_of_its_ranks_was_killed(job: Job, tmp_path: Path) -> None:
    ended, measured = job.run(resuming_in(tmp_path))
    assert ended == HEALTHY
    assert sorted(numbers(measured["node2"])) == ["training_checkpoint_load cpu0", "training_checkpoint_save cpu0"]
    assert list(tmp_path.iterdir()) == [], "nothing is left of the checkpoint"


@proves("training::resumes_after_a_killed_rank", "one bit of the checkpoint changes", "file")
def test_a_checkpoint_with_one_bit_changed_is_found(job: Job, tmp_path: Path) -> None:
    ended, _ = job.run(resuming_in(tmp_path), "damaged checkpoint", "node2 cpu0")
    found = [finding(one) for one in ended.values()]
    assert {one.message for one in found} == {
        f"what rank 0 (node1, cpu0) loaded from the checkpoint in {tmp_path} is not what was saved: its bits differ"
    }
    assert [one.blames for one in found] == [(), ("node1",)]
    assert list(tmp_path.iterdir()) == []


@proves("training::resumes_after_a_killed_rank", "a file cannot be written to its end", "limit")
def test_a_checkpoint_that_cannot_be_written_is_found(job: Job, tmp_path: Path) -> None:
    ended, _ = job.run(resuming_in(tmp_path), "no room", "node2 cpu0")
    found = [finding(one) for one in ended.values()]
    assert {one.message for one in found} == {
        f"rank 2 (node2, cpu0) failed in {tmp_path} when saving the checkpoint: OSError: [Errno 27] File too large"
    }
    assert [one.blames for one in found] == [("node2",), ()]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_the_nodes_do_not_share_is_said(job: Job, tmp_path: Path) -> None:
    ended, _ = job.run(resuming_in(tmp_path), "own disk", "node2 cpu0")
    for one in ended.values():
        assert isinstance(one, NotRun)
        assert one.reason.startswith(
            f"{tmp_path} is not shared: node2 does not see what the first node writes there."
        )
