"""A training step on each device: right, against float64 on the CPU, and the same bits every time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import pytest

from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.compute import Compute
from pytest_bionemo.facts import esm2
from pytest_bionemo.model import Action
from pytest_bionemo.probes import packages
from pytest_bionemo.probes.torch_build import TorchBuild
from pytest_bionemo.worker import Workers, WorkloadFailed

_SIZE = "8M"
_ESM2 = f"ESM-2 {_SIZE}"
_ENCODER = "a small encoder"
_NAMED_AT_MOST = 3
_TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"


@check(level="standard")
def small_encoder_agrees(worker: Compute) -> None:
    """A training step of a small encoder gives what the CPU gives in float64.

    Why: a device that gets one layer or gradient wrong trains a wrong model, without an error.

    How it decides: loss, logits and every gradient of one step are compared with the same step in float64 on the CPU;
    none may be farther off than the rounding of FP32 explains.

    Fix: unset what changes the precision of products; otherwise have the GPU replaced.
    """
    found = _run_small_encoder(worker, "fp32")
    _measure(worker, "small_encoder_error", found)
    _expect_agreement(worker, _ENCODER, found)


@check(level="standard")
def autocast_agrees(worker: Compute) -> None:
    """A training step under autocast gives what the CPU gives in float64, but for the rounding to 16 bits.

    Why: most trainings run under autocast, whose kernels are others than those of FP32.

    How it decides: loss, logits and every gradient of one step in BF16, or FP16 where the device has no BF16, are
    compared with float64 on the CPU; none may be farther off than rounding to 16 bits explains.

    Fix: have the GPU replaced.
    """
    format = "bf16" if _has_bf16(worker) else "fp16"
    found = _run_small_encoder(worker, format)
    _measure(worker, f"small_encoder_error_{format}", found)
    _expect_agreement(worker, _ENCODER, found, format)


@check(level="standard")
def adamw_agrees(worker: Compute) -> None:
    """AdamW changes parameters as its formula says, computed in float64.

    Why: an optimizer that updates parameters wrongly spoils a model whose gradients are right.

    How it decides: the change of every parameter after two steps is compared with the formula of AdamW, computed in
    float64 from the same gradients, within what rounding explains.

    Fix: have the GPU replaced.
    """
    found = _run_small_encoder(worker, "fp32")
    if found["not_finite"] or not found["update_errors"]:
        wait_for(f"forward::small_encoder_agrees[{worker.name}]", f"{worker}: AdamW has no gradients to work with")
    worker.measure("adamw_error", max(found["update_errors"].values()), "1", reference=found["update_bound"])
    _expect_right_updates(worker, _ENCODER, found)


def _run_small_encoder(worker: Compute, format: str) -> Mapping[str, Any]:
    # The CPU computes a reference for each, seconds for the longer one: in 16 bits the shorter one shows as much.
    length = 256 if format == "fp32" else 64
    return worker.run(
        "forward:small",
        hidden=worker.size(rehearsal=64, standard=512),
        sequences=4,
        length=worker.size(rehearsal=64, standard=length),
        seed=1,
        format=format,
    )


@check(severity="warning", level="standard")
def has_transformers(torch_build: TorchBuild) -> None:
    """The package transformers is there, so that ESM-2 can be run.

    Why: BioNeMo's recipes for ESM-2 need transformers, and without it ESM-2 is not run here at all.

    How it decides: it looks for the metadata of the installed package.

    Fix: install transformers.
    """
    if not _has_transformers():
        fail(
            "transformers is not installed",
            why="BioNeMo's recipes for ESM-2 need it, and ESM-2 was not run here",
            fix="$ pip install transformers",
        )


@check(level="standard")
def esm2_builds(torch_build: TorchBuild, workers: Workers) -> None:
    """The installed transformers imports and builds ESM-2.

    Why: ESM-2 cannot be trained where it cannot be built, or is built with other layers than it should have.

    How it decides: a worker process builds ESM-2 8M from its configuration, without a download; its number of
    parameters has to be the known one.

    Fix: install a transformers that fits this PyTorch.
    """
    _expect_transformers()
    if not workers.labels:
        wait_for("driver::devices_present", "there is no device")
    try:
        built = workers.run(workers.labels[0], "pytest_bionemo.workloads.esm2:try_build", name=_SIZE)
    except WorkloadFailed as failed:  # of the device, which the checks of the device report
        wait_for(None, f"{_ESM2} could not be built: {failed.text}")
    if problem := _build_problem(built):
        fail(
            f"transformers {packages.version('transformers')} {problem}",
            why="ESM-2 cannot be trained in this environment",
            fix=[
                "$ pip install --force-reinstall transformers",
                f"or install a release of transformers that supports PyTorch {torch_build.version}",
            ],
        )


@check(level="standard")
def esm2_agrees(worker: Compute) -> None:
    """A training step of ESM-2 8M gives what the CPU gives in float64, with a gradient for every parameter.

    Why: a GPU can pass single operations and still fail in the shapes and kernels of the real model.

    How it decides: loss, logits and every gradient of one step of ESM-2 8M, and the change of every parameter, are
    compared with float64 on the CPU within what rounding explains. An untrained model has to begin near the loss of a
    random guess.

    Fix: unset what changes the precision of products; otherwise have the GPU replaced.
    """
    _expect_transformers()
    if problem := _build_problem(worker.run("esm2:try_build", name=_SIZE)):
        wait_for("forward::esm2_builds", f"transformers {problem}")
    found = worker.run(
        "forward:esm2_step",
        name=_SIZE,
        sequences=worker.size(rehearsal=2, standard=4),
        length=worker.size(rehearsal=64, standard=256),
        seed=1,
    )
    _measure(worker, "esm2_8m_error", found)
    guess, margin = esm2.alphabet().random_guess_loss, esm2.training().untrained_margin
    # Of the CPU: a model that is made wrongly can be so sensitive to rounding that the device would be blamed.
    if abs(found["expected_loss"] - guess) > margin:
        fail(
            f"{_ESM2} begins at a loss of {found['expected_loss']:.3f} on the CPU, expected {guess:.3f} (a random "
            f"guess), give or take {margin}",
            why="its weights are not what transformers should have made, and training would start badly",
            fix="$ pip install --force-reinstall transformers",
        )
    _expect_agreement(worker, _ESM2, found)
    _expect_right_updates(worker, _ESM2, found)


@check(level="standard")
@pytest.mark.parametrize("format", ["fp32", "bf16"], ids=str)
def step_repeats(worker: Compute, format: str) -> None:
    """A step of training gives the same bits every time.

    Why: with deterministic algorithms the same step gives the same bits; a device that does not repeat itself
    computes wrongly some of the time.

    How it decides: a training step is repeated and every tensor compared bit by bit with the first result; a bit that
    is flipped on purpose has to be found.

    Fix: have the GPU replaced.
    """
    if format == "bf16" and not _has_bf16(worker):
        not_applicable(f"{worker} has no BF16")
    found = worker.run(
        "forward:repeat",
        format=format,
        hidden=worker.size(rehearsal=64, standard=512),
        sequences=worker.size(rehearsal=4, standard=8),
        length=worker.size(rehearsal=64, standard=256),
        repeats=worker.size(rehearsal=3, standard=8, full=100),
        seed=1,
    )
    if found["differing"]:
        _fail_wrong(
            worker,
            f"the same step of training gave other bits in {len(found['differing'])} of {found['tensors']} tensors: "
            f"{_named(found['differing'])}",
            why="its algorithms are deterministic: whatever this device trains is corrupted",
        )
    if not found["found_flip"]:
        wait_for(None, f"{worker} does not find a bit that was flipped on purpose: its comparison proves nothing")
    worker.measure(f"repeated_elements_{format}", found["compared_elements"], "1")


def _has_bf16(worker: Compute) -> bool:
    return (worker.compute_capability or (8, 0)) >= (8, 0)


def _has_transformers() -> bool:
    return packages.version("transformers") is not None


def _expect_transformers() -> None:
    if not _has_transformers():
        not_applicable("transformers is not installed, which ESM-2 is built with")


def _build_problem(built: Mapping[str, Any]) -> str:
    """What is wrong with the model that transformers builds, as it does ("builds ..."); empty where nothing is."""
    expected = esm2.find(_SIZE).trained_parameters
    if built["error"]:
        return f"cannot build {_ESM2}: {built['error']}"
    if built["trained_parameters"] != expected:
        return f"builds {_ESM2} with {built['trained_parameters']:,} trained parameters, expected {expected:,}"
    return ""


def _measure(worker: Compute, name: str, found: Mapping[str, Any]) -> None:
    worst = float("inf") if found["not_finite"] else max(found["errors"].values())
    worker.measure(name, worst, "1", reference=found["bound"])


def _expect_agreement(worker: Compute, model: str, found: Mapping[str, Any], format: str = "fp32") -> None:
    """One finding at most: what is not finite, or not there, agrees with nothing."""
    model = model if format == "fp32" else f"{model} in {format.upper()}"
    kind = "cpu" if worker.is_rehearsal else "cuda"
    if found["device"] != kind:
        fail(
            f"{worker}: the output of {model} is on {found['device']!r}, expected {kind!r}",
            why="the device does nothing of the work that it is given",
            fix="reinstall PyTorch",
        )
    if found["not_finite"]:
        _fail_wrong(worker, f"not finite in {model}: {_named(found['not_finite'])}")
    if lost := [name for name in found["zero"] if name not in found["zero_on_cpu"]]:
        _fail_wrong(worker, f"zero in {model}, and not on the CPU: {_named(lost)}")
    wrong = {name: error for name, error in found["errors"].items() if error > found["bound"]}
    if wrong:
        worst = max(wrong, key=lambda name: wrong[name])
        direction = "forward" if {"loss", "logits"} & wrong.keys() else "backward"
        whole = "largest element" if format == "fp32" else "norm"
        seen = (
            f"the {direction} pass of {model} is wrong, {len(wrong)} of {len(found['errors'])} tensors are off: "
            f"{worst} by {wrong[worst]:.1e} of its {whole}, expected at most {found['bound']:.1e}"
        )
        if format == "fp32":
            _expect_full_precision(worker, seen)
        _fail_wrong(worker, seen)
    if found["zero"]:
        fail(
            f"no gradient in {model}, on the CPU neither: {_named(found['zero'])}",
            why="these parameters would never be trained",
            fix="install a release of transformers whose ESM-2 uses all of its parameters",
            severity="warning",
        )


def _expect_right_updates(worker: Compute, model: str, found: Mapping[str, Any]) -> None:
    wrong = {name: error for name, error in found["update_errors"].items() if error > found["update_bound"]}
    if wrong:
        worst = max(wrong, key=lambda name: wrong[name])
        _fail_wrong(
            worker,
            f"AdamW changes {len(wrong)} of {len(found['update_errors'])} parameters of {model} wrongly: "
            f"{worst} by {wrong[worst]:.1e} of its largest change, expected at most {found['update_bound']:.1e}",
            why="its formula, in float64 and with the same gradients, says otherwise: whatever this device trains is "
            "corrupted",
        )


def _expect_full_precision(worker: Compute, seen: str) -> None:
    if worker.gpu and os.environ.get(_TF32_OVERRIDE) == "1":
        fail(
            f"{worker}: {seen}",
            why=f"{_TF32_OVERRIDE}=1 has every product of FP32 computed in TF32, whatever PyTorch is told",
            fix=f"$ unset {_TF32_OVERRIDE}",
            links=["https://docs.nvidia.com/cuda/cublas/"],
        )


def _fail_wrong(
    worker: Compute, seen: str, why: str = "the CPU computes it rightly: whatever this device trains is corrupted"
) -> NoReturn:
    replace = "take the device out of use, and have it replaced, if the checks of numerics fail as well"
    fail(
        f"{worker}: {seen}",
        why=why,
        fix=[replace, "or reinstall PyTorch, if they do not"] if worker.gpu else "reinstall PyTorch",
        action=Action.REPLACE_NODE if worker.gpu else Action.FIX_SOFTWARE,
    )


def _named(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
