"""ESM-2 trained by all ranks of a group, and by one rank alone on the same global batch: both must learn the same.

Everything here is in float32, whose rounding is small enough for a fault to stand out from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_bionemo.facts import esm2 as facts
from pytest_bionemo.workloads import device, esm2
from pytest_bionemo.workloads.meeting import Meeting, meet

if TYPE_CHECKING:
    import torch

    Batch = Mapping[str, torch.Tensor]

STRATEGIES = ("ddp", "fsdp")
# As many sequences as one rank alone puts through the model at a time, at most.
_TOGETHER = 64
# One rounding of float32 to nearest, relative; and how many of them are in a loss at least: those of the logits of a
# token, of their softmax, and of the sums over tokens. 4 were seen among 2 to 4 ranks on a CPU.
_ROUNDING = 2.0**-24
_LEAST_ROUNDINGS = 16.0
# Two sizes of a batch go through other kernels: how far their losses are apart is one sample of what others are.
_FORWARD = 8.0
# A sign that flips moves a parameter by 2 x the learning rate; noise of another order of sums may be twice as large;
# and what has moved changes the next gradient, which in few steps doubles it at most.
_BACKWARD = 2.0 * 2.0 * 2.0


@dataclass(frozen=True)
class Course:
    """What is trained: a size of ESM-2, by ``sequences`` of each rank a step, each of ``length`` tokens.

    They are other ones in every step; ``seed`` is that of the weights and of the proteins.
    """

    model: str
    ranks: int
    sequences: int
    length: int
    steps: int
    seed: int

    def batch(self, step: int) -> Batch:
        """The global batch of a step, from 0: int64 of shape (ranks x sequences, length), on the CPU."""
        return esm2.batch(self.ranks * self.sequences, self.length, self.seed + 1 + step)


@dataclass(frozen=True)
class Alone:
    """What one rank alone learns: the expectation.

    ``losses`` are those of each rank's part of each batch, in nats: float64 of shape (steps, ranks). ``tolerances``
    (nats, one a step; no numbers where a loss is none) are how far a loss may be from it by rounding.
    """

    losses: torch.Tensor
    tolerances: list[float]


def run(
    place: Mapping[str, Any],
    name: str,
    deadline_s: float,
    strategy: str,
    course: Mapping[str, Any],
) -> dict[str, Any]:
    """Train with all ranks of the job, and alone with the same global batches.

    Every rank trains alone, each for itself: so the losses of the others can be held against what this device says,
    and one that computes wrongly is known by its own.

    :param place: of this node in its job; with ``name`` and ``deadline_s`` as :func:`meeting.meet` takes them.
    :param strategy: "ddp" or "fsdp".
    :param course: what is trained, as JSON: a :class:`Course` without ``ranks``.
    :return: ``ranks``, and what :func:`compare` gives. Where some PyTorch does not have the strategy, in its place
        ``unsupported`` (why this one has not; None if it has) and ``lacking`` (who has not, and why).
    :raises Missed: if a rank is missed.
    """
    lack = lack_of(strategy)
    with meet(name, place, deadline_s) as ranks:
        # All together: those that can would wait for one that does not come.
        if any(told := ranks.share("lack", lack)):
            lacking = [f"{rank}: {why}" for rank, why in zip(ranks.ranks, told, strict=True) if why]
            return {"unsupported": lack, "lacking": lacking}
        plan = Course(ranks=ranks.size, **course)
        ranks.step("training alone")
        expected = alone(plan)
        with ranks.group(), exact_float32():
            losses = Pupil(plan, ranks.rank, strategy).train(ranks, range(plan.steps))
            found = compare(ranks, losses, expected)
    return {"ranks": ranks.size, **found}


def compare(ranks: Meeting, own: torch.Tensor, expected: Alone, first: int = 0) -> dict[str, Any]:
    """Hold the losses of all ranks against those of one rank alone.

    :param own: losses of this rank, those of the steps from ``first`` on.
    :return: ``losses`` and ``alone`` (nats, the means of the global batches), ``tolerances`` and ``differences`` (the
        largest of each step; None where a loss is no number), all from step ``first`` on; ``odd`` (the losses that
        rounding does not explain, of the first step in which there are any: ``rank``, ``host``, ``device``, ``step``
        from 1, ``loss``, ``expected``, ``tolerance``; one alone where half of the ranks or more are odd),
        ``odd_ranks`` (how many they are), and ``dissenting`` (the ranks that alone, too, learn otherwise than most:
        ``rank``, ``host``, ``device``).
    """
    import torch

    alone_means = expected.losses[first:].mean(dim=1)
    tolerances = expected.tolerances[first:]
    told = gather(torch.stack([own.cpu(), alone_means, torch.tensor(tolerances, dtype=torch.float64)]), ranks.size)
    seen, wanted = told[:, 0].T, expected.losses[first:]
    # What most say, those left out who have no number.
    _, middle, allowed = told.nanmedian(dim=0).values
    dissent = odd_losses(told[:, 1].T, middle[:, None], allowed.tolist())
    odd = odd_losses(seen, wanted, tolerances)
    earliest = [(step, rank) for step, rank in odd if step == odd[0][0]]
    is_minority = 2 * len(earliest) < ranks.size
    return {
        "losses": _numbers(seen.mean(dim=1)),
        "alone": _numbers(alone_means),
        "tolerances": [_number(tolerance) for tolerance in tolerances],
        "differences": _numbers((seen - wanted).abs().max(dim=1).values),
        "odd": [
            {
                **_named(ranks, rank),
                "step": first + step + 1,
                "loss": _number(float(seen[step, rank])),
                "expected": _number(float(wanted[step, rank])),
                "tolerance": _number(tolerances[step]),
            }
            for step, rank in (earliest if is_minority else earliest[:1])
        ],
        "odd_ranks": len(earliest),
        "dissenting": [_named(ranks, rank) for rank in sorted({rank for _, rank in dissent})],
    }


def _named(ranks: Meeting, rank: int) -> dict[str, Any]:
    found = ranks.ranks[rank]
    return {"rank": rank, "host": found.host, "device": found.device}


def _numbers(values: torch.Tensor) -> list[float | None]:
    return [_number(value) for value in values.tolist()]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def losses_of(network: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """The loss of each sequence, in nats: the mean over its masked residues. Shape (sequences)."""
    from torch.nn import functional

    logits = network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    labels = batch["labels"]
    each = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    return each.sum(dim=1) / (labels >= 0).sum(dim=1)


def part(batch: Batch, start: int, end: int) -> Batch:
    """Some sequences of a batch, on this worker's device."""
    return {name: tensor[start:end].to(device()) for name, tensor in batch.items()}


def network(course: Course, seed: int | None = None) -> torch.nn.Module:
    """The model of a course on this device; what no loss depends on is not trained, since DDP would wait for it."""
    model = esm2.build(course.model, seed=course.seed if seed is None else seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(esm2.is_trained(name))
    return model.to(device())


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    """BioNeMo's own AdamW."""
    import torch

    recipe = facts.training()
    return torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
    )


def spread(model: torch.nn.Module, strategy: str) -> torch.nn.Module:
    """The model over all ranks of the group: replicated by DDP, or sharded by FSDP (``fully_shard``).

    :raises ImportError: where this PyTorch has no ``fully_shard``.
    """
    import torch
    from torch.nn.parallel import DistributedDataParallel

    if strategy == "ddp":
        return DistributedDataParallel(model)
    fully_shard = find_fully_shard()
    mesh = torch.distributed.device_mesh.init_device_mesh(device().type, (torch.distributed.get_world_size(),))
    for layer in model.esm.encoder.layer:  # type: ignore[union-attr]
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def lack_of(strategy: str) -> str | None:
    """Why this PyTorch cannot train by a strategy; None if it can."""
    if strategy == "fsdp":
        try:
            find_fully_shard()
        except ImportError:
            return "this PyTorch has no fully_shard: 2.4 and newer have"
    return None


def find_fully_shard() -> Callable[..., Any]:
    """FSDP as BioNeMo's recipes use it: public since PyTorch 2.6, there since 2.4.

    :raises ImportError: where there is none.
    """
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:
        from torch.distributed._composable.fsdp import fully_shard  # type: ignore[no-redef,attr-defined,unused-ignore]
    found: Callable[..., Any] = fully_shard
    return found


class Pupil:
    """The share of this rank in a training; it is gone before the group is (:meth:`Meeting.group`)."""

    def __init__(self, course: Course, rank: int, strategy: str, seed: int | None = None) -> None:
        self.course = course
        self.rank = rank
        self.network = spread(network(course, seed), strategy)
        self.optimizer = optimizer_of(self.network)

    def train(self, ranks: Meeting, steps: Iterable[int]) -> torch.Tensor:
        """The losses of these steps, counted from 0: float64 of shape (steps)."""
        import torch

        losses = []
        for step in steps:
            ranks.step(f"training step {step + 1}")
            losses.append(self.step(step))
        return torch.stack(losses)

    def step(self, step: int) -> torch.Tensor:
        """One step. Returns the loss of this rank's part of the batch before it, a float64."""
        import torch

        first = self.rank * self.course.sequences
        own = part(self.course.batch(step), first, first + self.course.sequences)
        self.optimizer.zero_grad(set_to_none=True)
        loss = losses_of(self.network, own).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), facts.training().gradient_clip)
        self.optimizer.step()
        return loss.detach().double()


def alone(course: Course) -> Alone:
    """Train on the global batches in one process, without a group.

    Every batch is taken in two ways, as a whole and in parts, and each is what the other rounds to: the distance of
    their losses is the noise of forward, that of their gradients the noise that the sums of many ranks have, too.
    AdamW moves a parameter i whose gradient g_i is off by d_i by at most about 2 lr d_i / |g_i| too far or too short,
    which changes the loss by at most 2 lr d_i to first order: 2 lr times the sum of all d_i for every step so far.
    That is the tolerance, with the factors that are named above.
    """
    import torch

    with exact_float32():
        model = network(course)
        optimizer = optimizer_of(model)
        learning_rate = optimizer.param_groups[0]["lr"]
        losses, tolerances, noise = [], [], 0.0
        for step in range(course.steps):
            batch = course.batch(step)
            other, again = _gradients(model, course, batch, max(1, min(_TOGETHER // 2, len(batch["labels"]) // 2)))
            gradients, parts = _gradients(model, course, batch, _TOGETHER)
            rounding = _LEAST_ROUNDINGS * _ROUNDING * float(parts.max())
            forward = max(rounding, _FORWARD * float((parts - again).abs().max()))
            tolerances.append(forward + _BACKWARD * learning_rate * noise)
            noise += sum(float((one - two).abs().sum()) for one, two in zip(gradients, other, strict=True))
            losses.append(parts.cpu())
            torch.nn.utils.clip_grad_norm_(model.parameters(), facts.training().gradient_clip)
            optimizer.step()
        return Alone(torch.stack(losses), tolerances)


def _gradients(
    model: torch.nn.Module, course: Course, batch: Batch, together: int
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Those of the mean loss, which stay in the model, by so many sequences at a time; and the loss of each rank."""
    import torch

    model.zero_grad(set_to_none=True)
    count = len(batch["labels"])
    losses = []
    for start in range(0, count, together):
        found = losses_of(model, part(batch, start, start + together))
        (found.sum() / count).backward()  # type: ignore[no-untyped-call]
        losses.append(found.detach())
    found_gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    return found_gradients, torch.cat(losses).double().view(course.ranks, course.sequences).mean(dim=1)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Products of float32 in float32, and not in TF32 for speed."""
    import torch

    was = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(was)


def gather(values: torch.Tensor, ranks: int) -> torch.Tensor:
    """These values of every rank of the group, a row each, on the CPU."""
    import torch

    own = values.to(device())
    found = [torch.empty_like(own) for _ in range(ranks)]
    torch.distributed.all_gather(found, own)
    return torch.stack(found).cpu()


def odd_losses(seen: torch.Tensor, expected: torch.Tensor, tolerances: Sequence[float]) -> list[tuple[int, int]]:
    """Step and rank, both from 0, of every loss that rounding does not explain, the first step's first.

    :param seen: shape (steps, ranks), as ``expected``.
    """
    import torch

    allowed = torch.tensor(tolerances, dtype=torch.float64)[:, None]
    found: list[tuple[int, int]] = [
        (step, rank) for step, rank in (~((seen - expected).abs() <= allowed)).nonzero().tolist()
    ]
    return found
