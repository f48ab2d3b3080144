"""GradScaler: sound as PyTorch has it, and found where it takes a poisoned step or a wrong one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from kernels import replaced
from pytest_bionemo.workloads import grad_scaler

CHECK_AND_UNSCALE = "_amp_foreach_non_finite_check_and_unscale_"
PARAMETERS = 16 * 8 + 8


def run() -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = grad_scaler.run(seed=9)["steps"]
    return steps


def blind(gradients: Sequence[torch.Tensor], found_inf: torch.Tensor, inverse_scale: torch.Tensor) -> None:
    """It never finds an infinity."""
    for gradient in gradients:
        gradient.mul_(inverse_scale)


def lazy(gradients: Sequence[torch.Tensor], found_inf: torch.Tensor, inverse_scale: torch.Tensor) -> None:
    """It finds infinities, and leaves the gradients scaled."""
    found_inf.fill_(float(any(not gradient.isfinite().all() for gradient in gradients)))


def timid(gradients: Sequence[torch.Tensor], found_inf: torch.Tensor, inverse_scale: torch.Tensor) -> None:
    """It finds an infinity in everything."""
    blind(gradients, found_inf, inverse_scale)
    found_inf.fill_(1.0)


def test_poisoned_steps_are_skipped_and_the_next_ones_taken() -> None:
    steps = run()
    assert [step["kind"] for step in steps] == ["sound", "inf", "sound", "nan", "sound"]
    assert [step["scale"] for step in steps] == [2048, 1024, 2048, 1024, 2048]
    for step in steps:
        assert step["scale"] == step["expected_scale"]
        assert (step["elements"], step["wrong"], step["not_finite"]) == (PARAMETERS, 0, 0)


def test_a_scaler_that_does_not_skip_is_found() -> None:
    with replaced(CHECK_AND_UNSCALE, blind):
        first, poisoned, *_ = run()
    assert first["wrong"] == 0
    assert poisoned["not_finite"] == 1
    assert poisoned["wrong"] > PARAMETERS / 2, "the sound gradients beside it were taken, too"


def test_a_scaler_that_does_not_unscale_is_found() -> None:
    with replaced(CHECK_AND_UNSCALE, lazy):
        first = run()[0]
    assert first["wrong"] > PARAMETERS / 2
    assert first["not_finite"] == 0


def test_a_scaler_that_skips_every_step_is_found() -> None:
    with replaced(CHECK_AND_UNSCALE, timid):
        first = run()[0]
    assert first["wrong"] > PARAMETERS / 2
    assert (first["scale"], first["expected_scale"]) == (512, 2048)


@pytest.mark.parametrize(("factor", "faulty"), [(1.0, 0), (2.0, 1), (0.5, 0)])
def test_a_scale_that_goes_another_way_is_found(factor: float, faulty: int) -> None:
    def kernel(scale: torch.Tensor, tracker: torch.Tensor, *_: object) -> torch.Tensor:
        return scale.mul_(factor)

    with replaced("_amp_update_scale_", kernel):
        steps = run()
    wrong = [step["scale"] != step["expected_scale"] for step in steps]
    assert wrong.index(True) == faulty
    assert all(step["wrong"] == 0 for step in steps), "powers of two: the steps themselves stay exact"
