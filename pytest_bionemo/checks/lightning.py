"""Lightning: installed, importable, and training on this device: in each precision, with each strategy, resumable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from pytest_bionemo.checking import CheckFailed, check, fail, not_applicable, wait_for
from pytest_bionemo.compute import Compute
from pytest_bionemo.facts import esm2, lightning
from pytest_bionemo.facts import precision as formats
from pytest_bionemo.probes import packages, requirements
from pytest_bionemo.probes.requirements import Requirement
from pytest_bionemo.worker import Numbers, Trouble, WorkloadFailed
from pytest_bionemo.workloads.lightning_fit import PLAIN

_DTYPES = {"32-true": "float32", "16-mixed": "float16", "bf16-mixed": "bfloat16"}
_STEPS_SAVED = 3
_BACKENDS = {"cuda": "nccl", "cpu": "gloo"}
# In nats: far above the rounding of float32 in three steps, far below what one step changes (0.2).
_SAME_LOSS = 1e-3


# ------------------------------------------------------------------------------------- what is installed


def _installed() -> str | None:
    """The distribution of Lightning that the checks train with, None if there is none."""
    return next((name for name in lightning.modules() if packages.find(name)), None)


@check(severity="warning", level="standard", needs=("torch_build",))
def installed() -> None:
    """Lightning is installed.

    Why: trainings that are written for Lightning do not start; BioNeMo's recipes do without it, so that this is a
    warning.

    How it decides: it looks for one of the two distributions, lightning or pytorch-lightning.

    Fix: install pytorch-lightning.
    """
    if _installed() is None:
        fail(
            "neither lightning nor pytorch-lightning is installed",
            why="trainings that are written for Lightning do not start; BioNeMo's recipes do without it",
            fix="$ pip install pytorch-lightning",
        )


@check(severity="warning")
def requirements_met() -> None:
    """The installed Lightning is within what the installed packages require.

    Why: a package may fail where it uses a Lightning that it was not made for.

    How it decides: it compares the installed version with what every installed package requires, extras included.

    Fix: install the version of Lightning that the package names.
    """
    if _installed() is None:
        not_applicable("Lightning is not installed")
    found = requirements.on(lightning.modules())
    if not found:
        not_applicable("no installed package requires Lightning")
    if unmet := [requirement for requirement in found if not requirement.is_met]:
        reasons = [lightning.reason(requirement.package, requirement.name) for requirement in unmet]
        fail(
            "; ".join(_describe(requirement) for requirement in unmet),
            why="; ".join(reason.why for reason in reasons if reason)
            or "the package may fail where it uses Lightning: it was not made for this version",
            fix=[
                *[f'$ pip install "{requirement.name}{requirement.specifier}"' for requirement in unmet],
                f"or another release of {', '.join(dict.fromkeys(requirement.package for requirement in unmet))}",
            ],
            links=[reason.link for reason in reasons if reason],
        )


def _describe(requirement: Requirement) -> str:
    extra = f"[{requirement.extra}]" if requirement.extra else ""
    seen = f"{requirement.installed} is installed" if requirement.installed else "it is not installed"
    required = f"{requirement.name}{requirement.specifier}"
    return f"{requirement.package}{extra} {requirement.version} requires {required}: {seen}"


@check(level="standard")
@pytest.mark.parametrize("name", list(lightning.modules()), ids=str)
def imports(worker: Compute, name: str) -> None:
    """Lightning imports.

    Why: no training that uses Lightning starts where it does not import.

    How it decides: the device's worker process imports each distribution of Lightning that is installed.

    Fix: install Lightning again, in a version that fits this PyTorch.
    """
    if packages.find(name) is None:
        not_applicable(f"{name} is not installed")
    module = lightning.modules()[name]
    error = worker.run("lightning_trainer:imports", module=module)["error"]
    if error:
        fail(
            f"import {module} ({name} {packages.version(name)}) fails: {error}",
            why="no training that uses it starts",
            fix=["install what the error names, or Lightning again:", f"$ pip install --force-reinstall {name}"],
        )


def _module(worker: Compute) -> str:
    """The module of Lightning to train with: one that imports on this device."""
    name = _installed()
    if name is None:
        not_applicable("Lightning is not installed")
    module = lightning.modules()[name]
    try:
        usable = worker.run("lightning_trainer:imports", module=module)["error"] is None
    except (CheckFailed, WorkloadFailed):
        usable = False
    if not usable:
        wait_for(f"lightning::imports[{worker.name}-{name}]", f"{name} does not import")
    return module


def _run(worker: Compute, workload: str, **parameters: Any) -> Numbers:
    """The numbers of a workload. An exception in it is a finding: it is the Lightning here that raised it."""
    __tracebackhide__ = True
    try:
        return worker.run(workload, **parameters)
    except WorkloadFailed as error:
        if error.trouble is not Trouble.ERROR:
            raise
        fail(
            f"{worker}: Lightning ends in {error.text} (workload {workload})",
            why="a training would end in the same way",
            fix=_reinstall(),
        )


def _reinstall() -> list[str]:
    return ["install a Lightning that fits this PyTorch:", f"$ pip install --upgrade {_installed()}"]


# --------------------------------------------------------------------------------------------- training


@check(level="standard")
def trainer_starts(worker: Compute) -> None:
    """Lightning's Trainer takes this device.

    Why: a training would run somewhere else than it was told to, on the CPU at worst.

    How it decides: a Trainer that is told to take this device, and one that is left to choose, both have to end up on
    it, with one device in one process.

    Fix: install Lightning again, and unset what chooses another device for it.
    """
    found = _run(worker, "lightning_trainer:start", module=_module(worker))
    expected = _place(worker)
    places = {"told to take it": found["device"], "left to choose": found["chosen"]}
    if wrong := [f"{told}, the Trainer takes {place}" for told, place in places.items() if place != expected]:
        fail(
            f"{worker}: {'; '.join(wrong)}; expected {expected} ({found['accelerator']})",
            why="a training would run somewhere else than it was told to, on the CPU at worst",
            fix=_reinstall(),
        )
    if (found["devices"], found["processes"]) != (1, 1):
        fail(
            f"{worker}: asked for 1 device in 1 process, the Trainer has {found['devices']} in {found['processes']}",
            why="it would wait for processes that nobody starts",
            fix=_reinstall(),
        )


def _place(worker: Compute) -> str:
    """The device as torch calls it in a worker, which has but one."""
    return "cuda:0" if worker.gpu else "cpu"


@check(level="standard")
@pytest.mark.parametrize("precision", list(_DTYPES), ids=str)
def fits(worker: Compute, precision: str) -> None:
    """A model trained with Lightning learns.

    Why: this is what a training is: if a small model does not learn one batch, a large one learns nothing either.

    How it decides: ESM-2, or a small model where that cannot be built, is trained on one batch: the loss has to be
    finite and to fall by the amount that is on record, on the right device, in the precision that was asked for.

    Fix: install Lightning and PyTorch again; on one GPU of several alone, have it replaced.
    """
    _require_precision(worker, precision)
    model = _model(worker)
    found = _run(
        worker,
        "lightning_fit:run",
        module=_module(worker),
        model=model,
        precision=precision,
        sequences=8,
        length=worker.size(rehearsal=64, standard=128),
    )
    trained = f"{worker}: {_called(model)} in {precision}"
    _judge_losses(trained, found["losses"])
    fall = found["losses"][0] - found["losses"][-1]
    name = f"lightning_loss_fall_{model}_{precision}".replace("-", "_").lower()
    worker.measure(name, fall, "nat", reference=esm2.training().least_fall)
    _judge_fall(trained, found["losses"])
    _judge_place(worker, trained, found["devices"])
    if found["dtypes"] != [_DTYPES[precision]] or found["parameter_dtypes"] != ["float32"]:
        fail(
            f"{trained}: linear layers compute in {_listed(found['dtypes'])} with parameters in "
            f"{_listed(found['parameter_dtypes'])}, expected {_DTYPES[precision]} with float32",
            why="the training has another speed, another memory need and another accuracy than it was given",
            fix=_reinstall(),
        )
    if (found["scale"] is not None) != (precision == "16-mixed"):
        fail(
            f"{trained}: gradients are {'not ' if found['scale'] is None else ''}scaled",
            why="in FP16 small gradients vanish without a GradScaler; nothing else needs one",
            fix=_reinstall(),
        )


def _require_precision(worker: Compute, precision: str) -> None:
    if precision == "16-mixed" and worker.is_rehearsal:
        not_applicable("on a CPU, Lightning trains in bf16-mixed when it is asked for 16-mixed")
    capability, cuda = worker.compute_capability, worker.torch.cuda
    if precision != "bf16-mixed" or capability is None or cuda is None:
        return
    if not formats.supports("bf16", formats.PYTORCH, capability, cuda):
        seen = "{}.{}".format(*capability)
        not_applicable(f"{worker} has compute capability {seen}; BF16 needs more ({formats.describe('bf16')})")


def _model(worker: Compute) -> str:
    """ESM-2, or the model that needs nothing but torch: why it is that one, ``forward`` says."""
    if packages.version("transformers") is None or worker.run("esm2:try_build", name="8M")["error"]:
        return PLAIN
    return worker.size(rehearsal="tiny", standard="8M")


def _called(model: str) -> str:
    return "a small model (ESM-2 cannot be built)" if model == PLAIN else f"ESM-2 {model}"


def _judge_losses(trained: str, losses: Sequence[float]) -> None:
    __tracebackhide__ = True
    if len(losses) != esm2.training().steps:
        fail(
            f"{trained}: {len(losses)} steps of {esm2.training().steps} were trained",
            why="a training ends before it should",
            fix=_reinstall(),
        )
    if step := next((step for step, loss in enumerate(losses, 1) if not math.isfinite(loss)), None):
        fail(
            f"{trained}: the loss of step {step} is {losses[step - 1]}",
            why="from there on nothing is learnt: every later result is lost",
            fix=_compare(),
        )


def _judge_fall(trained: str, losses: Sequence[float]) -> None:
    __tracebackhide__ = True
    known, fall = esm2.training(), losses[0] - losses[-1]
    if fall <= known.least_fall:
        fail(
            f"{trained}: the loss goes from {losses[0]:.3f} to {losses[-1]:.3f} in {known.steps} steps on one batch, "
            f"a fall of {fall:.3f}: more than {known.least_fall:g} is expected",
            why="the steps do not train the model",
            fix=_compare(),
        )


def _compare() -> list[str]:
    return [
        "look at the findings of numerics, precision and forward first",
        "compare with the CPU:",
        "$ pytest --bionemo-validate --bionemo-device cpu",
    ]


def _judge_place(worker: Compute, trained: str, devices: Sequence[str]) -> None:
    __tracebackhide__ = True
    if devices != [_place(worker)]:
        fail(
            f"{trained}: it ran on {_listed(devices)}, not on {_place(worker)}",
            why="a training would run somewhere else than it was told to, on the CPU at worst",
            fix=_reinstall(),
        )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names) or "nothing"


@check(level="standard")
def checkpoint_round_trip(worker: Compute) -> None:
    """What is loaded from a checkpoint is what was saved, and training goes on from there.

    Why: a resumed training would go on from another model, and PyTorch does not verify what it loads.

    How it decides: a checkpoint is saved, loaded and compared bit by bit; the next step has to be that of a training
    without a break, wherever the same training repeats at all.

    Fix: look at the disk that holds the temporary folder.
    """
    found = _run(
        worker,
        "lightning_checkpoint:run",
        module=_module(worker),
        model=_model(worker),
        sequences=4,
        length=32,
        steps=_STEPS_SAVED,
    )
    if found["differing"]:
        fail(
            f"{worker}: {found['differing_bytes']} of the {found['bytes']} bytes of a checkpoint were loaded "
            f"differently than they were saved, in {len(found['differing'])} of {found['tensors']} tensors, such as "
            f"{found['differing'][0]}",
            why="a resumed training goes on from another model; PyTorch does not verify what it loads",
            fix=["have the memory of the host and the disk of its temporary folder tested", *_reinstall()],
        )
    if found["steps"] != _STEPS_SAVED + 1:
        fail(
            f"{worker}: resumed after {_STEPS_SAVED} steps for one more, the Trainer counts {found['steps']}",
            why="a resumed training would end too early or too late",
            fix=_reinstall(),
        )
    # Where the same training does not come to the same twice, a resumed one cannot either.
    if found["repeats"] and found["resumed_differing"]:
        fail(
            f"{worker}: one step after resuming, {len(found['resumed_differing'])} of {found['tensors']} tensors "
            f"differ from a training without a break, such as {found['resumed_differing'][0]}",
            why="a training that is interrupted does not come to the same model",
            fix=_reinstall(),
        )


@check(level="standard")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "fsdp2"], ids=str)
def strategy_starts(worker: Compute, strategy: str) -> None:
    """Lightning trains with its strategy for many devices, here in a group of one.

    Why: on several devices gradients would not be exchanged, or slowly, or the training would not start.

    How it decides: a Trainer with the strategy trains in a group of one: on the right device, over the right backend,
    with the losses that it has without the strategy.

    Fix: install a PyTorch with torch.distributed, and look at what NCCL or gloo says.
    """
    if strategy == "fsdp" and worker.is_rehearsal:
        not_applicable("Lightning has FSDP for GPUs alone; fsdp2 is rehearsed")
    module = _module(worker)
    found = _run(worker, "lightning_strategy:start", module=module, strategy=strategy)
    if found["strategy"] is None:
        not_applicable(f"{module} has no strategy for it: Lightning 2.3 and newer have")
    trained = f"{worker}: {found['strategy']} ({strategy})"
    _judge_place(worker, trained, found["devices"])
    expected = _BACKENDS["cuda" if worker.gpu else "cpu"]
    if (found["backend"], found["processes"]) != (expected, 1):
        fail(
            f"{trained}: {found['processes']} processes over {found['backend']}, expected 1 over {expected}",
            why="on several devices, gradients would not be exchanged, or slowly",
            fix=_reinstall(),
        )
    differing = [
        (own, alone)
        for own, alone in zip(found["losses"], found["alone"], strict=True)
        if not abs(own - alone) <= _SAME_LOSS
    ]
    if differing:
        fail(
            f"{trained}: a loss is {differing[0][0]:.4f}; without the strategy it is {differing[0][1]:.4f}",
            why="the strategy changes what is learnt, although it has nobody to share with",
            fix=_reinstall(),
        )
