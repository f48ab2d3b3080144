"""The model trains, on whatever this machine has."""

import pytest

from perturbation import ResponseModel, Screen


def fitted(trainer):
    trainer.fit(ResponseModel(), Screen())
    return float(trainer.callback_metrics["loss"])


def test_the_response_is_learned(lightning_trainer, measure):
    loss = fitted(lightning_trainer())
    measure("response_loss", loss, "1")
    assert loss < 0.1


def test_the_arguments_of_the_project_hold(lightning_trainer):
    trainer = lightning_trainer()
    assert (trainer.max_epochs, trainer.gradient_clip_val) == (8, 1.0)


def test_what_a_test_passes_wins(lightning_trainer):
    assert lightning_trainer(max_steps=3, max_epochs=-1).max_epochs == -1


def test_a_checkpoint_comes_back(lightning_trainer, tmp_path):
    trainer = lightning_trainer(max_epochs=1)
    fitted(trainer)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = lightning_trainer(max_epochs=2)
    again.fit(ResponseModel(), Screen(), ckpt_path=tmp_path / "model.ckpt")
    assert again.current_epoch == 2


@pytest.mark.gpu_env(dtype="fp16")
@pytest.mark.parametrize(
    "precision",
    ["16-mixed", pytest.param("bf16-mixed", marks=pytest.mark.gpu_env(dtype="bf16"))],
)
def test_the_response_is_learned_in_half_precision(lightning_trainer, precision):
    """A parameter can need more than the others do."""
    assert fitted(lightning_trainer(precision=precision)) < 0.1
