"""The workloads of Lightning: what they find on a healthy CPU and with a fault; and that they leave nothing."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_bionemo.facts import esm2
from pytest_bionemo.workloads import lightning_fit, lightning_strategy, lightning_trainer
from pytest_bionemo.workloads.lightning_fit import PLAIN

MODULE = "pytorch_lightning"
# The third of four tasks of a job on two nodes, as Slurm and torchrun tell it. Nothing listens at that address.
JOB = {
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_NNODES": "2",
    "RANK": "2",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "192.0.2.1",
    "MASTER_PORT": "29500",
    "PL_TRAINER_MAX_EPOCHS": "0",
}


def fit(model: str = PLAIN, precision: str = "32-true") -> dict[str, Any]:
    return lightning_fit.run(MODULE, model, precision, sequences=8, length=64)


def start_ddp() -> dict[str, Any]:
    return lightning_strategy.start(MODULE, "ddp")


def fall(found: dict[str, Any]) -> float:
    return float(found["losses"][0] - found["losses"][-1])


@pytest.mark.parametrize("model", ["tiny", PLAIN])
@pytest.mark.parametrize(("precision", "dtype"), [("32-true", "float32"), ("bf16-mixed", "bfloat16")])
def test_a_model_learns_its_batch(model: str, precision: str, dtype: str) -> None:
    found = fit(model, precision)
    assert fall(found) > esm2.training().least_fall
    assert len(found["losses"]) == found["steps"] == esm2.training().steps
    assert found["devices"] == ["cpu"]
    assert found["dtypes"] == [dtype]
    assert found["parameter_dtypes"] == ["float32"]
    assert found["scale"] is None


def test_the_first_loss_is_that_of_a_guess() -> None:
    for model in ("tiny", PLAIN):
        assert fit(model)["losses"][0] == pytest.approx(
            esm2.alphabet().random_guess_loss, abs=esm2.training().untrained_margin
        )


def test_the_same_training_gives_the_same_losses() -> None:
    assert fit()["losses"] == fit()["losses"]


def test_on_a_cpu_lightning_makes_bf16_of_fp16() -> None:
    """Why a rehearsal has no 16-mixed."""
    found = fit(precision="16-mixed")
    assert found["dtypes"] == ["bfloat16"]
    assert found["scale"] is None


def test_an_optimizer_without_effect_shows_in_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: torch.optim.AdamW, closure: Callable[[], float] | None = None) -> float | None:
        return closure() if closure else None

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    assert fall(fit()) == 0


def test_a_trainer_takes_the_device_and_would_choose_it() -> None:
    assert lightning_trainer.start(MODULE) == {
        "accelerator": "CPUAccelerator",
        "device": "cpu",
        "devices": 1,
        "processes": 1,
        "chosen": "cpu",
    }


@pytest.mark.parametrize(
    ("strategy", "name"), [("ddp", "DDPStrategy"), ("fsdp2", "ModelParallelStrategy")], ids=["ddp", "fsdp2"]
)
def test_a_strategy_trains_as_without_it(strategy: str, name: str) -> None:
    found = lightning_strategy.start(MODULE, strategy)
    assert found["strategy"] == name
    assert found["losses"] == pytest.approx(found["alone"], abs=1e-5)
    assert found["losses"][0] - found["losses"][-1] > 0.1
    assert (found["backend"], found["processes"], found["devices"]) == ("gloo", 1, ["cpu"])


def test_two_groups_one_after_the_other() -> None:
    assert start_ddp()["losses"] == start_ddp()["losses"]


def test_fsdp_is_refused_on_a_cpu() -> None:
    """Why a rehearsal has no fsdp."""
    with pytest.raises(ValueError, match="requires a GPU accelerator"):
        lightning_strategy.start(MODULE, "fsdp")


def test_an_older_lightning_has_no_fsdp2(monkeypatch: pytest.MonkeyPatch) -> None:
    import pytorch_lightning.strategies

    monkeypatch.delattr(pytorch_lightning.strategies, "ModelParallelStrategy")
    assert lightning_strategy.start(MODULE, "fsdp2") == {"strategy": None}


@pytest.mark.parametrize("workload", [fit, start_ddp])
def test_the_job_around_it_has_no_say(
    monkeypatch: pytest.MonkeyPatch, workload: Callable[[], dict[str, Any]]
) -> None:
    alone = workload()
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert workload() == alone
    assert dict(os.environ) == before


@pytest.mark.parametrize("workload", [fit, start_ddp])
def test_nothing_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workload: Callable[[], dict[str, Any]]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # unset, Lightning counts the threads anew
    workload()  # imports what it needs

    def state() -> tuple[object, ...]:
        return (
            dict(os.environ),
            torch.get_rng_state().tolist(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_grad_enabled(),
            torch.get_float32_matmul_precision(),
            list(warnings.filters),
            [logging.getLogger(name).level for name in (MODULE, "lightning_fabric")],
        )

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        before = state()
        workload()
        assert state() == before
        assert not torch.distributed.is_initialized()
    finally:
        torch.set_num_threads(threads)
    assert list(tmp_path.iterdir()) == []


def test_what_fails_leaves_nothing_behind_either(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = dict(os.environ)
    with pytest.raises(ValueError):
        lightning_fit.run(MODULE, PLAIN, "17-mixed", sequences=2, length=8)
    assert dict(os.environ) == before
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_said(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    fit()
    start_ddp()
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []


def test_an_import_tells_the_version() -> None:
    assert lightning_trainer.imports(MODULE) == {"version": version("pytorch-lightning"), "error": None}


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import a_module_that_is_not_there", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        (
            "try:\n    import a_module_that_is_not_there\nexcept ImportError as error:\n"
            "    raise RuntimeError('cannot load the trainer') from error",
            "ModuleNotFoundError: No module named 'a_module_that_is_not_there'",
        ),
        (
            "try:\n    {}['key']\nexcept KeyError:\n    raise RuntimeError('no key') from None",
            "RuntimeError: no key",
        ),
        ("raise SystemExit('not on this platform')", "SystemExit: not on this platform"),
    ],
    ids=["missing module", "wrapped", "suppressed", "exit"],
)
def test_an_import_that_fails_tells_the_first_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, error: str
) -> None:
    (tmp_path / "a_broken_lightning.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert lightning_trainer.imports("a_broken_lightning") == {"version": None, "error": error}
