"""A training step of ESM-2, and the loader that feeds it."""

from __future__ import annotations

import math
import os
from typing import Any

from pytest_bionemo import rulers
from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.checks.benchmark.shared import SEED, Quantity, budget, established, judge, replacement
from pytest_bionemo.compute import Compute
from pytest_bionemo.judging import Word
from pytest_bionemo.model import count
from pytest_bionemo.probes import packages


@check(level="standard", needs=("undisturbed",))
def trains_at_full_speed(worker: Compute) -> None:
    """A training step of ESM-2 is as fast as on the other devices, and its loss is a number.

    Why: this is the number that a training feels: everything before is a part of it.

    How it decides: steps of ESM-2, of the size that fits, are timed: the loss has to stay finite, and tokens a second
    are judged by the bound of its arithmetic and by the other devices. A slow one warns: the host has its part in it.

    Fix: look for throttling, other processes and low clocks.
    """
    training = _training(worker)
    model = training["model"]
    found = worker.run("esm2_step:run", **training)
    if not all(map(math.isfinite, found["losses"])):
        fail(
            f"{worker}: the loss of ESM-2 {model} goes from {found['losses'][0]:.3f} to {found['losses'][1]:.3f}",
            why="training would diverge, or this device computes wrongly",
            fix=["compare with the checks of the topics numerics and precision"],
            action=replacement(worker),
        )
    title, name = f"training ESM-2 {model}", f"esm2_{model.lower()}"
    if found["peak_memory_bytes"]:
        worker.measure(f"{name}_peak_memory", found["peak_memory_bytes"], "B", bound=worker.memory_bytes)
    peak = rulers.matmul_bound(worker, {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}[found["precision"]])
    tokens = peak * 1e12 / found["flop_per_token"] if peak else None
    step = found["batch"] * training["length"] / tokens if tokens else None
    worker.measure(f"{name}_batch", found["batch"], "1", reference=training["sequences"])
    numbers = [
        Quantity(f"{name}_tokens", title, "tokens/s", ("tokens",), bound=tokens, depends_on_host=True),
        Quantity(f"{name}_unpadded_tokens", title, "tokens/s", ("unpadded_tokens",), bound=tokens,
                 depends_on_host=True),
        Quantity(f"{name}_step", f"a step of {title}", "s", ("step",), False, step, depends_on_host=True),
    ]  # fmt: skip
    if tokens:
        # tokens/s x FLOP per token / peak FLOP/s
        share = f"the model FLOP utilisation of {title}"
        numbers.append(
            Quantity(f"{name}_mfu", share, "1", ("tokens",), bound=1.0, depends_on_host=True, scale=1 / tokens)
        )
    judge(worker, numbers, "esm2_step:run", **training)


@check(severity="warning", level="standard", needs=("undisturbed",))
def loader_feeds_training(worker: Compute) -> None:
    """The data loader prepares proteins faster than the training step eats them.

    Why: a device that waits for data is as slow as the loader.

    How it decides: sequences a second of a data loader with the cores that this device has are compared with what the
    training step of this run eats; the intervals have to be apart to be a finding.

    Fix: use faster storage, or more workers of the data loader.
    """
    training = _training(worker)
    by = f"benchmark::trains_at_full_speed[{worker.name}]"
    eaten = established(worker, by, "esm2_step:run", **training)["sequences"]
    devices = 1 + len(worker.peers("properties:run"))
    processes = max(1, min(8, len(os.sched_getaffinity(0)) // devices))
    found = worker.run(
        "data_loading:run",
        sequences=training["sequences"],
        length=training["length"],
        processes=processes,
        budget_s=budget(worker),
        seed=SEED,
    )["rate"]
    is_enough = found["ci95"][1] >= eaten["ci95"][0]
    worker.measure(
        "loader_sequences",
        found["value"],
        "sequences/s",
        samples=found["samples"],
        ci95=found["ci95"],
        reference=eaten["value"],
        judgement=(Word.GOOD if is_enough else Word.LOW).value,
    )
    if not is_enough:
        fail(
            f"{worker}: a data loader of {count(processes, 'process', 'processes')} gives {found['value']:.4g} "
            f"sequences/s; a training of ESM-2 {training['model']} eats {eaten['value']:.4g}",
            why="the device would wait for data",
            fix=["give the job more processor cores for each GPU", "or prepare the data beforehand"],
        )


def _training(worker: Compute) -> dict[str, Any]:
    if packages.version("transformers") is None:
        not_applicable("transformers is not installed, which ESM-2 is built with")
    if error := worker.run("esm2:try_build", name="8M")["error"]:
        wait_for("forward::esm2_builds", f"transformers cannot build ESM-2: {error}")
    fits_650m = (worker.memory_bytes or 0) >= 22e9
    return {
        "model": worker.size(rehearsal="tiny", standard="650M" if fits_650m else "8M"),
        "sequences": worker.size(rehearsal=8, standard=4 if fits_650m else 16),
        "length": worker.size(rehearsal=128, standard=1024),
        "budget_s": budget(worker),
        "seed": SEED,
    }
