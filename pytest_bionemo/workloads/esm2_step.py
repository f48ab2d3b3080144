"""One training step of ESM-2, as often as it takes to know how long it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_bionemo.facts import esm2 as facts
from pytest_bionemo.workloads import data_loading, device, esm2, timing

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

# The first step makes the moments of AdamW: the second is as large as every later one.
_STEPS_TO_PEAK = 2


def run(model: str, sequences: int, length: int, budget_s: float, seed: int, attempt: int = 1) -> dict[str, Any]:
    """Train on one batch of random proteins: forward, backward, clipping, AdamW.

    Under autocast to bfloat16 from compute capability 8.0 on, to float16 with a scaler below, in float32 on the CPU.
    The clock is the host's, which waits for the device: launches count, as they do in training.

    Model FLOP utilisation (MFU) = tokens/s x FLOP per token / peak FLOP/s, with padding among the tokens, which is
    computed too, and :func:`esm2.flops_per_token` (6 N + 12 L H T); the peak is the judge's.

    A batch that the memory of the GPU does not hold is halved until it does: attention that writes its scores out, as
    that of older releases of transformers, takes several times the memory of one that does not.

    :param model: a size of ESM-2.
    :param sequences: of the batch, at most.
    :param length: tokens of a sequence, padding included.
    :param budget_s: for the measurement.
    :param seed: of the proteins and the weights.
    :param attempt: 1, or 2 for a second measurement.
    :return: ``batch`` (sequences of the batch that was trained on), ``step`` (seconds), ``tokens`` (a second),
        ``unpadded_tokens`` (a second), ``sequences`` (a second), ``flop_per_token``, ``peak_memory_bytes`` (of a
        step; None on the CPU), ``precision``, and ``losses`` (of the first and the last step).
    :raises torch.OutOfMemoryError: if not even one sequence fits.
    """
    import torch

    on_gpu = device().type == "cuda"
    with device():  # weights are made where they are used: on the CPU it would take seconds
        network = esm2.build(model, seed=seed).to(device())
    batch = {name: part.to(device()) for name, part in _batch(sequences, length, seed).items()}
    losses: list[torch.Tensor] = []
    precision = training_precision()
    while not (step := _try_step(network, batch, precision, losses)):
        network.zero_grad(set_to_none=True)
        if on_gpu:
            torch.cuda.empty_cache()
        batch = {name: part[: len(part) // 2] for name, part in batch.items()}
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    found = timing.measure(step, budget_s=budget_s, clock=timing.HostClock())
    trained = len(batch["input_ids"])
    return {
        "batch": trained,
        "step": found.seconds(),
        "tokens": found.rate(trained * length),
        "unpadded_tokens": found.rate(int(batch["attention_mask"].sum())),
        "sequences": found.rate(trained),
        "flop_per_token": float(esm2.flops_per_token(model, length)),
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        "precision": precision,
        "losses": [float(losses[0]), float(losses[-1])],
    }


def _try_step(
    network: torch.nn.Module, batch: dict[str, torch.Tensor], precision: str, losses: list[torch.Tensor]
) -> Callable[[], None] | None:
    """A step that the memory has held twice; None where it does not and the batch can be halved."""
    import torch

    step = make_step(network, batch, precision, losses)
    try:
        for _ in range(_STEPS_TO_PEAK):
            step()
    except torch.cuda.OutOfMemoryError:
        if len(batch["input_ids"]) == 1:
            raise
        return None
    return step


def training_precision() -> str:
    """What this device trains in: "bfloat16", "float16" or "float32" (see :func:`run`)."""
    import torch

    if device().type == "cpu":
        return "float32"
    return "bfloat16" if torch.cuda.get_device_capability() >= (8, 0) else "float16"


def _batch(sequences: int, length: int, seed: int) -> dict[str, torch.Tensor]:
    proteins = data_loading.Proteins(length, seed)
    return data_loading.collate([proteins[index] for index in range(sequences)], length, seed)


def make_step(
    network: torch.nn.Module, batch: dict[str, torch.Tensor], precision: str, losses: list[torch.Tensor]
) -> Callable[[], None]:
    """A step that keeps the first loss and the last."""
    import torch

    on_gpu = device().type == "cuda"
    recipe = facts.training()
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=recipe.learning_rate,
        betas=recipe.betas,
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
        fused=on_gpu,
    )
    scaler = torch.amp.GradScaler(device().type, enabled=precision == "float16")
    autocast = torch.autocast(device().type, getattr(torch, precision), enabled=precision != "float32")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = network(**batch).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.gradient_clip)
        scaler.step(optimizer)
        scaler.update()
        losses[:] = [losses[0] if losses else loss.detach(), loss.detach()]

    return step
