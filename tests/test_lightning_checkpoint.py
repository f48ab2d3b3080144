"""Checkpoints of Lightning: a healthy round trip, and every way in which one can be wrong without an error."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytest_bionemo.workloads import lightning_checkpoint
from pytest_bionemo.workloads.lightning_checkpoint import differing_bytes
from pytest_bionemo.workloads.lightning_fit import PLAIN, build

Save = Callable[..., None]


def round_trip(model: str = PLAIN) -> dict[str, Any]:
    return lightning_checkpoint.run("pytorch_lightning", model, sequences=4, length=32, steps=3)


@pytest.mark.parametrize("model", ["tiny", PLAIN])
def test_a_healthy_checkpoint_comes_back_to_the_last_bit(model: str) -> None:
    found = round_trip(model)
    assert found["differing"] == []
    assert found["differing_bytes"] == 0
    assert found["steps"] == 4
    assert found["repeats"] is True
    assert found["resumed_differing"] == []


def test_parameters_and_both_moments_are_compared() -> None:
    found = round_trip()
    sizes = [4 * parameter.numel() for parameter in build(PLAIN).parameters()]
    # AdamW keeps two tensors of its size for each parameter, and its count of steps.
    assert found["tensors"] == 4 * len(sizes)
    assert found["bytes"] == 3 * sum(sizes) + 4 * len(sizes)


def flip_a_bit_of(name: Callable[[dict[str, Any]], torch.Tensor], seed: int) -> Save:
    """torch.save, with one random bit of the tensor flipped in what it writes."""
    save: Save = torch.save

    def faulty(checkpoint: dict[str, Any], file: io.BytesIO, *args: Any, **kwargs: Any) -> None:
        save(checkpoint, file, *args, **kwargs)
        stored = name(checkpoint).numpy().tobytes()
        begin = file.getvalue().index(stored)
        place = random.Random(seed).randrange(8 * len(stored))
        file.getbuffer()[begin + place // 8] ^= 1 << place % 8

    return faulty


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("name", "found_in"),
    [
        (lambda checkpoint: checkpoint["state_dict"]["model.layers.0.weight"], "model.layers.0.weight"),
        (lambda checkpoint: checkpoint["optimizer_states"][0]["state"][2]["exp_avg_sq"], "optimizer.2.exp_avg_sq"),
    ],
    ids=["weight", "moment"],
)
def test_one_byte_changed_on_the_way_is_found(
    monkeypatch: pytest.MonkeyPatch, name: Callable[[dict[str, Any]], torch.Tensor], found_in: str, seed: int
) -> None:
    """PyTorch itself loads such a file without a word."""
    monkeypatch.setattr(torch, "save", flip_a_bit_of(name, seed))
    found = round_trip()
    assert found["differing"] == [found_in]
    assert found["differing_bytes"] == 1


def test_one_bit_is_found_a_hundred_times_of_a_hundred() -> None:
    state = dict(build("tiny").state_dict())
    chance = random.Random(1)
    for _ in range(100):
        name = chance.choice(sorted(state))
        flipped = state[name].clone()
        integers = flipped.view(-1).view(torch.uint8)
        integers[chance.randrange(integers.numel())] ^= 1 << chance.randrange(8)
        assert differing_bytes(state, {**state, name: flipped}) == {name: 1}


def test_what_is_equal_as_a_number_can_differ_in_its_bits() -> None:
    one = {"zero": torch.tensor(0.0), "number": torch.tensor([1.0, float("nan")])}
    assert differing_bytes(one, {"zero": torch.tensor(-0.0), "number": one["number"].clone()}) == {"zero": 1}


def test_a_tensor_that_is_missing_or_of_another_kind_differs_in_every_byte() -> None:
    one = {"a": torch.zeros(3), "b": torch.zeros(2, 2)}
    assert differing_bytes(one, {"b": torch.zeros(4)}) == {"a": 12, "b": 16}
    assert differing_bytes({"b": torch.zeros(2)}, {"b": torch.zeros(2, dtype=torch.float64)}) == {"b": 16}


def test_an_optimizer_that_is_not_restored_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda self, state: None)
    found = round_trip()
    assert found["differing"]
    assert all(name.startswith("optimizer.") for name in found["differing"])


def test_an_optimizer_that_goes_on_differently_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tensors are right; the learning rate is not."""
    load = torch.optim.AdamW.load_state_dict

    def faulty(self: torch.optim.AdamW, state: dict[str, Any]) -> None:
        load(self, state)
        self.param_groups[0]["lr"] *= 2

    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", faulty)
    found = round_trip()
    assert found["differing"] == []
    assert found["repeats"] is True
    assert "model.layers.0.weight" in found["resumed_differing"]


def test_a_training_that_does_not_repeat_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    step = torch.optim.AdamW.step
    noise = torch.Generator().manual_seed(1)

    def noisy(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        loss = step(self, *args, **kwargs)
        with torch.no_grad():
            self.param_groups[0]["params"][0].add_(1e-3 * torch.rand(1, generator=noise).item())
        return loss

    monkeypatch.setattr(torch.optim.AdamW, "step", noisy)
    found = round_trip()
    assert found["repeats"] is False
    assert found["differing"] == []


@pytest.mark.parametrize("enabled", [False, True])
def test_whether_algorithms_are_deterministic_is_left_as_it_was(enabled: bool) -> None:
    torch.use_deterministic_algorithms(enabled)
    try:
        round_trip()
        assert torch.are_deterministic_algorithms_enabled() is enabled
        assert torch.is_deterministic_algorithms_warn_only_enabled() is False
    finally:
        torch.use_deterministic_algorithms(False)
