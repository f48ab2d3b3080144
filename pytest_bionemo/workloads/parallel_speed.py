"""How fast all ranks of a job train ESM-2 together, beside what each of them does alone at the same time.

A step alone is the same work without the exchange of gradients, on all ranks at once: under the load, power and heat
of the training. What a step of all takes longer is the network, or a rank that the others wait for.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_bionemo.workloads import data_loading, device, esm2, esm2_step, parallel_esm2, timing
from pytest_bionemo.workloads.meeting import Meeting, meet

if TYPE_CHECKING:
    import torch

# The fewest samples between which the median lies with a probability of 95 %.
_LEAST = 6
_MOST = 50
_WARM_UP = 2
# What a training by DDP keeps: weights, gradients, their buckets and two moments, 20 bytes a parameter, and as much
# again for activations and workspaces of a small batch.
_BYTES_EACH = 40


def run(
    place: Mapping[str, Any],
    name: str,
    deadline_s: float,
    models: Sequence[str],
    sequences: int,
    length: int,
    budget_s: float,
    seed: int,
) -> dict[str, Any]:
    """Time steps of DDP, in the precision that this device trains in.

    :param place: of this node in its job; with ``name`` and ``deadline_s`` as :func:`meeting.meet` takes them.
    :param models: sizes of ESM-2, the largest first: the first one that all devices hold is trained.
    :param sequences: of each rank, a step.
    :param length: tokens of a sequence, padding included.
    :param budget_s: for each of the two measurements.
    :return: ``model``, ``precision``, ``ranks``, ``rank`` (this one), ``tokens`` (a step, of all);
        ``together``, ``alone`` and ``exchange`` (seconds of a step of all, of this rank's step alone, and of an
        all-reduce of as many bytes as there are gradients: ``value``, ``p5``, ``p95``, ``ci95``, ``samples``);
        ``alone_by_rank`` (the medians of all), ``kinds`` (the names of their devices) and ``losses`` (of the first
        and the last step of this rank).
    :raises Missed: if a rank is missed.
    """
    with meet(name, place, deadline_s) as ranks:
        told = ranks.share("device", _device())
        model = _choose(models, [memory for _, memory in told])
        precision = esm2_step.training_precision()
        with ranks.group(), timing.one_core():
            batch = _batch(sequences, length, seed + ranks.rank)
            measured = _measure(ranks, _network(model, seed), batch, precision, budget_s)
    return {
        "model": model,
        "precision": precision,
        "ranks": ranks.size,
        "rank": ranks.rank,
        "tokens": ranks.size * sequences * length,
        "kinds": [kind for kind, _ in told],
        **measured,
    }


def _measure(
    ranks: Meeting, model: torch.nn.Module, batch: dict[str, torch.Tensor], precision: str, budget_s: float
) -> dict[str, Any]:
    import torch

    network = parallel_esm2.spread(model, "ddp")
    losses: list[torch.Tensor] = []
    step = esm2_step.make_step(network, batch, precision, losses)
    together = _time(ranks, "training with all", step, budget_s)
    gradients = torch.zeros(_trained(network), device=device())
    exchange = _time(ranks, "exchanging gradients", lambda: torch.distributed.all_reduce(gradients), budget_s)
    with network.no_sync():  # type: ignore[operator]
        alone = _time(ranks, "training alone", step, budget_s)
    medians = parallel_esm2.gather(torch.tensor([alone["value"]], dtype=torch.float64), ranks.size)
    return {
        "together": together,
        "alone": alone,
        "exchange": exchange,
        "alone_by_rank": medians.flatten().tolist(),
        "losses": [float(losses[0]), float(losses[-1])],
    }


def _time(ranks: Meeting, what: str, step: Callable[[], object], budget_s: float) -> dict[str, Any]:
    """The seconds of a step. All ranks take as many: one that stopped earlier would leave the others waiting."""
    import torch

    ranks.step(f"warming up: {what}")
    clock = timing.HostClock()
    first = statistics.median(clock.samples(step, 1, _WARM_UP, _nothing))
    slowest = float(parallel_esm2.gather(torch.tensor([first]), ranks.size).max())
    count = max(_LEAST, min(_MOST, int(budget_s / slowest)))
    ranks.step(what)
    samples = sorted(timing.sound(seconds) for seconds in clock.samples(step, 1, count, _nothing))
    return {
        "value": statistics.median(samples),
        "p5": samples[len(samples) // 20],
        "p95": samples[-1 - len(samples) // 20],
        "ci95": list(timing.median_interval(samples)),
        "samples": len(samples),
    }


def _choose(models: Sequence[str], memories: Sequence[int | None]) -> str:
    """The first one that fits into the smallest memory; where nobody knows it, or none does, the last."""
    known = [memory for memory in memories if memory]
    least = min(known) if len(known) == len(memories) else 0
    return next((model for model in models if _BYTES_EACH * esm2.parameters(model) <= least), models[-1])


def _device() -> tuple[str, int | None]:
    """Its name, and its memory in bytes."""
    import torch

    if device().type != "cuda":
        return "CPU", None
    found = torch.cuda.get_device_properties(device())
    return str(found.name), int(found.total_memory)


def _network(model: str, seed: int) -> torch.nn.Module:
    with device():  # weights are made where they are used: on the CPU it would take seconds
        network = esm2.build(model, seed=seed)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(esm2.is_trained(name))
    return network.to(device())


def _batch(sequences: int, length: int, seed: int) -> dict[str, torch.Tensor]:
    proteins = data_loading.Proteins(length, seed)
    batch = data_loading.collate([proteins[index] for index in range(sequences)], length, seed)
    return {name: part.to(device()) for name, part in batch.items()}


def _trained(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _nothing() -> None:
    pass
