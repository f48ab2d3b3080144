"""bionemo-moco does what it is for: a flow that follows the exact velocity arrives at its target."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_STEPS = 10


def run(folder: str) -> dict[str, Any]:
    """Follow a flow from noise to random targets in ten Euler steps.

    The velocity is the same at all times, so that the steps make no error but that of rounding. In float32, with
    states within 4 and velocities within 8, that of ten sums, products and steps of time is below 10 * 2^-24 * 8.

    :param folder: is not used.
    :return: the largest ``error`` of any element, its ``bound``, and how far the noise was from the target on
        ``start`` (a flow that does not move would be there still).
    """
    import torch

    interpolants = import_module("bionemo.moco.interpolants")
    times = import_module("bionemo.moco.distributions.time")
    priors = import_module("bionemo.moco.distributions.prior")
    schedules = import_module("bionemo.moco.schedules.inference_time_schedules")
    generator = torch.Generator().manual_seed(1)
    flow = interpolants.ContinuousFlowMatcher(
        times.UniformTimeDistribution(rng_generator=generator),
        priors.GaussianPrior(rng_generator=generator),
        prediction_type="velocity",
    )
    target = torch.randn((8, 4, 3), generator=generator).clamp(-4, 4)
    noise = flow.sample_prior(target.shape).clamp(-4, 4)
    velocity = flow.calculate_target(target, noise)
    state = noise
    for step in schedules.LinearInferenceSchedule(nsteps=_STEPS).discretize():
        state = flow.step(velocity, state, step.expand(len(target)))
    return {
        "error": float((state - target).abs().max()),
        "bound": _STEPS * 2.0**-24 * 8,
        "start": float((noise - target).abs().max()),
    }
