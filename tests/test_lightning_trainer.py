"""The fixture lightning_trainer in somebody else's test suite."""

from __future__ import annotations

import pytest

from conftest import Rig
from standin.distributions import write_distribution

MODEL = """
import logging
import os
import warnings

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, index):
        loss = self.layer(batch).pow(2).mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.log("validation_loss", self.layer(batch).pow(2).mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(trainer):
    data = DataLoader(torch.randn(8, 4))
    trainer.fit(Model(), data, data)
    return trainer
"""

SUITE = """
def test_it_trains(lightning_trainer):
    assert fit(lightning_trainer(max_steps=5)).global_step == 5


def test_it_says_nothing(lightning_trainer, capfd, caplog, recwarn):
    fit(lightning_trainer(max_steps=3))
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []
    assert [str(warning.message) for warning in recwarn] == []


def test_lightning_speaks_again_without_it(tmp_path, caplog):
    logging.getLogger("pytorch_lightning").propagate = True
    here = pl.plugins.environments.LightningEnvironment()
    pl.Trainer(logger=False, enable_checkpointing=False, default_root_dir=tmp_path, plugins=[here])
    assert any("GPU available" in message for message in caplog.messages)


def test_it_writes_nothing(lightning_trainer, tmp_path):
    fit(lightning_trainer(max_steps=3))
    assert list(tmp_path.iterdir()) == []


def test_what_it_is_told_to_write_is_below_tmp_path(lightning_trainer, tmp_path):
    trainer = fit(lightning_trainer(max_steps=3, enable_checkpointing=True))
    assert trainer.checkpoint_callback.best_model_path.startswith(str(tmp_path))
    assert os.path.exists(trainer.checkpoint_callback.best_model_path)


def test_the_arguments_are_those_of_the_trainer(lightning_trainer):
    trainer = fit(lightning_trainer(max_steps=3, precision="bf16-mixed", accelerator="cpu", gradient_clip_val=0.5))
    assert trainer.precision == "bf16-mixed"
    assert trainer.gradient_clip_val == 0.5


def test_it_is_a_trainer_of_one_device(lightning_trainer):
    trainer = lightning_trainer()
    assert isinstance(trainer, pl.Trainer)
    assert (trainer.num_devices, trainer.world_size) == (1, 1)


def test_two_trainers_in_one_test(lightning_trainer):
    assert fit(lightning_trainer(max_steps=2)).global_step + fit(lightning_trainer(max_steps=3)).global_step == 5
"""

# What a task of a Slurm job of two tasks sees. Left alone, Lightning refuses to run there.
SLURM = {
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


@pytest.mark.parametrize("variables", [{}, SLURM], ids=["alone", "inside a Slurm job"])
def test_a_suite_trains_quietly_and_leaves_nothing(compute_rig: Rig, variables: dict[str, str]) -> None:
    compute_rig.variables |= variables
    compute_rig.write("test_user.py", MODEL + SUITE)
    run = compute_rig.pytest("-q", "-W", "error", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=100")
    assert run.returncode == 0, run.stdout
    assert "8 passed" in run.stdout
    left = sorted(path.name for path in compute_rig.project.iterdir() if path.name != "__pycache__")
    assert left == ["test_user.py"]


def test_a_conftest_sets_what_its_trainers_share(compute_rig: Rig) -> None:
    compute_rig.write(
        "conftest.py",
        "import pytest\n"
        "@pytest.fixture\n"
        "def lightning_trainer_args(lightning_trainer_args):\n"
        "    return {**lightning_trainer_args, 'max_steps': 4, 'accelerator': 'cpu', 'accumulate_grad_batches': 2}\n",
    )
    compute_rig.write(
        "test_user.py",
        "def test_shared(lightning_trainer):\n"
        "    trainer = lightning_trainer()\n"
        "    assert (trainer.max_steps, trainer.accumulate_grad_batches) == (4, 2)\n"
        "    assert trainer.logger is None\n"
        "def test_own(lightning_trainer):\n"
        "    trainer = lightning_trainer(max_steps=9)\n"
        "    assert (trainer.max_steps, trainer.accumulate_grad_batches) == (9, 2)\n",
    )
    run = compute_rig.pytest("-q")
    assert "2 passed" in run.stdout, run.stdout


def test_without_lightning_the_test_is_skipped_and_says_why(rig: Rig) -> None:
    rig.write(
        "test_user.py",
        "def test_of_the_user(lightning_trainer): raise AssertionError\ndef test_without_it(): pass\n",
    )
    run = rig.pytest("-rs")
    assert run.returncode == 0, run.stdout
    assert "1 passed, 1 skipped" in run.stdout
    said = " ".join(run.stdout.split())
    assert "neither lightning nor pytorch-lightning is installed: pip install pytorch-lightning" in said
    assert "1 failed, 1 passed" in rig.pytest("--bionemo-strict").stdout


def test_a_lightning_that_does_not_import_is_no_reason_to_skip(rig: Rig) -> None:
    write_distribution(rig.site, "lightning", "2.6.6", {"lightning/__init__.py": "import a_missing_part"})
    rig.write("test_user.py", "def test_of_the_user(lightning_trainer): lightning_trainer()")
    run = rig.pytest()
    assert run.returncode == 1
    assert "No module named 'a_missing_part'" in run.stdout


def test_the_trainer_is_of_the_package_that_the_test_uses(compute_rig: Rig) -> None:
    """Both are installed more often than not; the Trainer of one refuses a module of the other."""
    write_distribution(
        compute_rig.site,
        "lightning",
        "2.6.6",
        {"lightning/__init__.py": "", "lightning/pytorch/__init__.py": "raise ImportError('the other one')"},
    )
    compute_rig.write(
        "test_user.py",
        MODEL + "def test_of_the_user(lightning_trainer): fit(lightning_trainer(max_steps=1))\n",
    )
    compute_rig.write("test_other.py", "def test_of_none(lightning_trainer): lightning_trainer()\n")
    assert "1 passed" in compute_rig.pytest("-q", "test_user.py").stdout
    assert "ImportError: the other one" in compute_rig.pytest("-q", "test_other.py").stdout


def test_its_manual_is_one_command_away(rig: Rig) -> None:
    text = " ".join(rig.pytest("--fixtures").stdout.split())
    assert "lightning_trainer -- " in text
    assert "Make quiet Trainers of Lightning." in text
    assert "lightning_trainer_args [session scope] -- " in text
