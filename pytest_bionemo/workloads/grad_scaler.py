"""GradScaler at work on a step whose result is known to the last bit: sound, poisoned, and sound again.

The parameters and the gradients are small integers, and the learning rate and the scale are powers of two. So
scaling, unscaling and the step of SGD are exact, and every step must give exactly parameter - rate * gradient; one
with an infinite or NaN gradient must change no parameter at all. The scale doubles after a sound step and halves
after a poisoned one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_bionemo.workloads import device

if TYPE_CHECKING:
    import torch

_RATE = 2.0**-3
_FIRST_SCALE = 2.0**10
_SHAPES = ((16, 8), (8,))
STEPS = ("sound", "inf", "sound", "nan", "sound")


def run(seed: int) -> dict[str, Any]:
    """Take the steps ``STEPS``: a poisoned one has one such element in one of two gradients.

    :return: ``steps``: for each, ``kind``, ``wrong`` (of the ``elements`` parameters, how many are not what they
        must be now), ``not_finite`` (how many are NaN or infinite), ``scale`` and ``expected_scale`` after it.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    parameters = [_integers(shape, generator).requires_grad_() for shape in _SHAPES]
    optimizer = torch.optim.SGD(parameters, lr=_RATE)
    scaler = torch.amp.GradScaler(
        device().type, init_scale=_FIRST_SCALE, growth_factor=2.0, backoff_factor=0.5, growth_interval=1
    )
    expected = [parameter.detach().clone() for parameter in parameters]
    expected_scale = _FIRST_SCALE
    steps = []
    for kind in STEPS:
        gradients = [_integers(shape, generator) for shape in _SHAPES]
        _step(kind, parameters, gradients, optimizer, scaler)
        if kind == "sound":
            expected = [value - _RATE * gradient for value, gradient in zip(expected, gradients, strict=True)]
        expected_scale *= 2.0 if kind == "sound" else 0.5
        steps.append({"kind": kind, "scale": scaler.get_scale(), "expected_scale": expected_scale}
                     | _compare(parameters, expected))  # fmt: skip
    return {"steps": steps}


def _integers(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    import torch

    return torch.randint(-8, 9, shape, generator=generator).to(device(), torch.float32)


def _step(
    kind: str,
    parameters: list[torch.Tensor],
    gradients: list[torch.Tensor],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """One step of training: the loss is linear, so that its gradients are the ones given."""
    import torch

    optimizer.zero_grad()
    terms = [(parameter * gradient).sum() for parameter, gradient in zip(parameters, gradients, strict=True)]
    scaler.scale(torch.stack(terms).sum()).backward()  # type: ignore[no-untyped-call]
    if kind != "sound":
        poisoned = parameters[-1].grad
        assert poisoned is not None, "the loss depends on every parameter"
        poisoned[3] = float(kind)
    scaler.step(optimizer)
    scaler.update()


def _compare(parameters: list[torch.Tensor], expected: list[torch.Tensor]) -> dict[str, int]:
    import torch

    got, right = (torch.cat([part.detach().flatten() for part in parts]) for parts in (parameters, expected))
    return {
        "elements": got.numel(),
        "wrong": int((got != right).sum()),
        "not_finite": int((~torch.isfinite(got)).sum()),
    }
