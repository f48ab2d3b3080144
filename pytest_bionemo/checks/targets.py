"""Which BioNeMo workloads can be trained on this machine, judged by the probes alone.

Without ``--bionemo-target`` each is only reported: one that cannot run here does not apply here. One that was asked
for must be runnable.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from pytest_bionemo import memory, rules
from pytest_bionemo.checking import TARGET, check, fail, not_applicable, wait_for
from pytest_bionemo.compute import Compute, ComputeDevice, devices_of
from pytest_bionemo.facts import family, gpus, stack, targets, versions
from pytest_bionemo.facts.targets import Published, Recipe, Target
from pytest_bionemo.memory import Plan
from pytest_bionemo.model import Action, count
from pytest_bionemo.options import Options
from pytest_bionemo.probes import packages
from pytest_bionemo.probes import requirements as packages_needed
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.machine import Machine

# What the estimate may be off by: allocators round, and attention kernels have workspaces.
_TOLERANCE = 0.10
_ENOUGH_FOR_650M = 22e9
# Scores, which grow with the square of the length, are little beside everything else.
_FEW_TOKENS = 64
_SEED = 20261122

_MICRO_BATCH = 1
_MOST_GPUS = 1024
_WHY = "a training would not start, or would end at its first step"


@dataclass(frozen=True)
class Reason:
    """Why a target cannot run here. ``found_by`` is the check that says so for the machine as a whole."""

    text: str
    fix: tuple[str, ...] = ()
    action: Action = Action.FIX_SOFTWARE
    found_by: str | None = None


_REHEARSAL = Reason("a rehearsal on the CPU asks no GPU")


@check(about="{name}")
@pytest.mark.parametrize("name", targets.names(), ids=str)
def is_runnable(name: str, machine: Machine, bionemo_options: Options, request: pytest.FixtureRequest) -> None:
    """The BioNeMo workload can be trained on this machine.

    Why: a training that lacks a package, a precision or memory does not start, or ends at its first step.

    How it decides: it compares the recipe of the workload with this machine: packages, Python, driver, CUDA, compute
    capability, published weights, and memory by a documented model of what a step takes. It fails only for what
    --bionemo-target asks for; else the reasons are reported.

    Fix: install what its recipe requires, or build its container; use more GPUs, or ones with more memory.
    """
    target = targets.find(name)
    devices = devices_of(machine, bionemo_options)
    lacking = list(_lacking_packages(target.recipe, machine))
    unfit = list(_unfit(target, machine, devices, bionemo_options, is_installed=not lacking))
    reasons = [*unfit, *lacking]
    entry = {
        "required": name in bionemo_options.targets,
        "runnable": not reasons,
        "installed": not lacking,
        "fits": not unfit,
        "reasons": [reason.text for reason in reasons],
        **_describe(target, machine, devices),
    }
    request.node.user_properties.append((TARGET, json.dumps(entry)))
    if not reasons:
        return
    if name not in bionemo_options.targets:
        not_applicable(f"{target.title} cannot be trained here: {_listed(reasons)}")
    if bionemo_options.device == "cpu":
        wait_for(None, _REHEARSAL.text)
    if all(reason.found_by for reason in reasons):
        wait_for(reasons[0].found_by, reasons[0].text)
    fail(
        f"{target.title} cannot be trained here: {_listed(reasons)}",
        why=_WHY,
        fix=list(dict.fromkeys(line for reason in reasons for line in reason.fix)),
        action=max((reason.action for reason in reasons), key=lambda action: action.strength),
    )


@check(severity="warning", level="standard")
def memory_is_as_estimated(worker: Compute) -> None:
    """A training step of ESM-2 takes the memory from which the largest micro-batches are estimated.

    Why: the estimates of memory, and of the largest micro-batch, would not hold for this PyTorch.

    How it decides: the peak memory of one training step of ESM-2 is measured and compared with the estimate for the
    same step.

    Fix: try micro-batches out before a long training.
    """
    step = _training(worker)
    training = memory.FLOAT32 if step["precision"] == "float32" else memory.AUTOCAST
    shape = targets.find(f"esm2-{step['model'].lower()}").shape
    estimate = memory.tensors(shape, training, step["sequences"], step["length"])
    measured = worker.run("training_memory:run", **step)["peak_bytes"]
    name = f"esm2_{step['model'].lower()}_training_memory"
    worker.measure(name, measured, "B", bound=worker.memory_bytes, reference=estimate)
    if abs(measured - estimate) > _TOLERANCE * measured:
        fail(
            f"{worker}: a training step of ESM-2 {step['model']} takes {_gb(measured)}, not {_gb(estimate)}",
            why="the estimates of memory and of the largest micro-batch do not hold for this PyTorch",
            fix="try micro-batches out before a long training",
            action=Action.NONE,
        )


def _training(worker: Compute) -> dict[str, Any]:
    if packages.version("transformers") is None:
        not_applicable("transformers is not installed, which ESM-2 is built with")
    built = worker.run("esm2:try_build", name="8M")
    if built["error"]:
        wait_for("forward::esm2_builds", f"transformers cannot build ESM-2: {built['error']}")
    length = worker.size(rehearsal=64, standard=1024)
    if built["attention"] == "eager" and length > _FEW_TOKENS:
        not_applicable("this transformers trains ESM-2 with attention that keeps all scores; the recipes keep none")
    fits_650m = (worker.memory_bytes or 0) >= _ENOUGH_FOR_650M
    on_gpu = "bfloat16" if (worker.compute_capability or (8, 0)) >= (8, 0) else "float16"
    return {
        "model": worker.size(rehearsal="8M", standard="650M" if fits_650m else "8M"),
        "sequences": worker.size(rehearsal=2, standard=2 if fits_650m else 8),
        "length": length,
        "precision": worker.size(rehearsal="float32", standard=on_gpu),
        "seed": _SEED,
    }


def _listed(reasons: Sequence[Reason]) -> str:
    return "; ".join(reason.text for reason in reasons)


# ------------------------------------------------------------------------------------------------- what is missing


def _lacking_packages(recipe: Recipe, machine: Machine) -> Iterator[Reason]:
    yield from _lacking_of_recipe(recipe)
    yield from _lacking_below(recipe)
    yield from _broken_by_changes(recipe, machine)


def _lacking_of_recipe(recipe: Recipe) -> Iterator[Reason]:
    installed = {one.name: packages.version(one.name) for one in recipe.requires}
    if installed["torch"] is None:
        yield Reason("PyTorch is not installed", found_by="torch::installed")
    missing = [one for one in recipe.requires if installed[one.name] is None and one.name != "torch"]
    wrong = [one for one in recipe.requires if installed[one.name] and not _is_met(one, installed[one.name])]
    fix = _how_to_install(recipe, [*missing, *wrong])
    if missing:
        names = ", ".join(one.name for one in missing)
        are = "is" if len(missing) == 1 else "are"
        yield Reason(f"{count(len(missing), 'package')} of its recipe {are} missing: {names}", fix)
    for one in wrong:
        yield Reason(f"{one.name} {installed[one.name]} is installed, its recipe needs {one.specifier}", fix)


def _is_met(required: Requirement, installed: str | None) -> bool:
    return versions.admits(required.specifier, installed)


def _lacking_below(recipe: Recipe) -> Iterator[Reason]:
    """What the packages of the recipe need in turn and what is not there.

    Another version than they declare is no reason: pins of others are often stricter than what works.
    """
    stated = {canonicalize_name(one.name) for one in recipe.requires}
    absent = {one.name: one for one in _below(recipe) if one.installed is None and one.name not in stated}
    for needed in absent.values():
        root = next((name for name in _family_of(recipe) if needed in packages_needed.closure(name)), None)
        with_extra = [one for one in recipe.requires if one.extras and canonicalize_name(one.name) == needed.package]
        yield Reason(
            f"{needed.by} {needed.version} requires {needed.name}{needed.specifier}: it is not installed",
            _how_to_install(recipe, with_extra)
            if with_extra
            else (f'$ pip install "{needed.name}{needed.specifier}"',),
            found_by=root and f"packages::requirements_met[{root}]",
        )


def _broken_by_changes(recipe: Recipe, machine: Machine) -> Iterator[Reason]:
    """Changes on record that break what the recipe needs, as it is installed here."""
    needed = {canonicalize_name(one.name) for one in recipe.requires} | {one.name for one in _below(recipe)}
    cuda = machine.torch_build.cuda
    for change in stack.changes():
        is_told = bool(change.torch_cuda and recipe.cuda)  # of its CUDA
        if not is_told and change.names <= needed and change.matters(packages.version, cuda):
            yield Reason(change.what, change.fix)


def _below(recipe: Recipe) -> Iterator[packages_needed.Requirement]:
    for one in recipe.requires:
        yield from packages_needed.closure(one.name, one.extras)


def _family_of(recipe: Recipe) -> Iterator[str]:
    names = {canonicalize_name(one.name) for one in recipe.requires}
    return (known.name for known in family.packages() if known.name in names and packages.find(known.name))


def _how_to_install(recipe: Recipe, lacking: Sequence[Requirement]) -> tuple[str, ...]:
    folder = f"{recipe.folder} of NVIDIA-BioNeMo/bionemo-framework"
    container = f"or build its container, on {recipe.image}: in {folder}: $ docker build ."
    if recipe.install:
        return (*(f"{line} ({folder})" for line in recipe.install), container)
    # Which PyTorch fits is the concern of the checks of torch.
    plain = [one for one in lacking if one.name not in {*recipe.after_torch, "torch"}]
    built = [one for one in lacking if one.name in recipe.after_torch]
    commands = [("$ pip install", plain), ("$ pip install --no-build-isolation", built)]
    return (*(f"{command} {_quoted(ones)}" for command, ones in commands if ones), container)


def _quoted(requirements: Sequence[Requirement]) -> str:
    return " ".join(f'"{one}"' for one in requirements)


# ------------------------------------------------------------------------------------------ what this machine is


def _unfit(
    target: Target, machine: Machine, devices: Sequence[ComputeDevice], options: Options, *, is_installed: bool
) -> Iterator[Reason]:
    if not rules.is_linux(machine.host):
        yield Reason(f"the operating system is {machine.host.system}", found_by="host::runs_linux")
    if not is_installed:  # whoever has built everything where nobody publishes it has shown that it can be
        yield from _unfit_host(target.recipe, machine.host)
    if options.device == "cpu":
        yield _REHEARSAL
        return
    yield from _unfit_driver(machine, devices)
    yield from _unfit_torch(target.recipe, machine)
    yield from _unfit_gpus(target, machine, devices)


def _unfit_host(recipe: Recipe, host: Host) -> Iterator[Reason]:
    if recipe.machines and host.machine not in recipe.machines:
        yield Reason(
            f"the processor is {host.machine}, its packages are made for {', '.join(recipe.machines)}",
            (f"use a machine with a processor of {' or '.join(recipe.machines)}",),
            Action.NONE,
        )
    if host.python not in SpecifierSet(recipe.python, prereleases=True):
        yield Reason(f"this is Python {host.python}, it needs {recipe.python}", (f"use a Python {recipe.python}",))


def _unfit_driver(machine: Machine, devices: Sequence[ComputeDevice]) -> Iterator[Reason]:
    env = machine.gpu_env
    if not env.has_driver:
        yield Reason("the NVIDIA driver does not answer", found_by="driver::loads")
    elif not env.gpus:
        yield Reason("the driver sees no GPU", found_by="driver::devices_present")
    elif not devices:
        yield Reason("no GPU is visible", found_by="driver::visible_devices_valid")


def _unfit_torch(recipe: Recipe, machine: Machine) -> Iterator[Reason]:
    torch = machine.torch_build
    if not torch.is_installed:
        return  # a package that is missing
    if torch.import_error:
        yield Reason("PyTorch does not import", found_by="torch::imports")
    elif torch.cuda is None:
        yield Reason("PyTorch is not built for CUDA", found_by="torch::is_cuda_build")
    elif machine.gpu_env.has_driver and rules.driver_runs(machine.gpu_env, torch, machine.libcuda) is not True:
        yield Reason(f"the driver does not run CUDA {torch.cuda}", found_by="driver::supports_torch_cuda")
    if recipe.cuda and torch.cuda and versions.leading(torch.cuda).major != recipe.cuda:
        yield Reason(
            f"PyTorch {torch.version} is built for CUDA {torch.cuda}, its packages for CUDA {recipe.cuda}",
            (f"install a PyTorch for CUDA {recipe.cuda}",),
        )


def _unfit_gpus(target: Target, machine: Machine, devices: Sequence[ComputeDevice]) -> Iterator[Reason]:
    silent = [device for device in devices if device.gpu and not device.gpu.answers]
    for device in silent:
        yield Reason(f"{device.name} does not answer", found_by=f"driver::answers[{device.name}]")
    if not devices or silent:
        return
    least, format = target.recipe.least_capability(), target.recipe.formats[0]
    weakest = min(devices, key=_capability)
    if not target.recipe.trains_in(format, _capability(weakest), machine.torch_build.cuda):
        yield Reason(
            f"{_named(weakest)} has compute capability {_dotted(_capability(weakest))}, "
            f"{format} needs {_dotted(least)}",
            (f"use GPUs of compute capability {_dotted(least)} or newer",),
            Action.NONE,
        )
    if target.checkpoints and not _checkpoints(target, machine, devices):
        yield Reason(f"none of its checkpoints is for {_named(weakest)}", action=Action.NONE)
    yield from _too_little_memory(target, machine, devices)


def _too_little_memory(target: Target, machine: Machine, devices: Sequence[ComputeDevice]) -> Iterator[Reason]:
    smallest = _smallest(devices, machine.host)
    available = smallest and _memory(smallest, machine.host)
    if smallest is None or not available:
        yield Reason("the memory of a GPU is not known", found_by=f"driver::answers[{devices[0].name}]")
        return
    plan = _plan(target, devices, available)
    needed = _needed(target, plan)
    if needed > available:
        least = "at least " if not target.shape.is_transformer else ""
        enough = _enough_gpus(target, available)
        yield Reason(
            f"training takes {least}{_gb(needed)} on each GPU ({plan}, micro-batch {_MICRO_BATCH}), "
            f"{_named(smallest)} has {_gb(available)}",
            (
                f"use GPUs with {_gb(needed)} of memory",
                *([f"or at least {enough} GPUs with {_gb(available)}"] if enough and smallest.mig is None else []),
            ),
            Action.NONE,
        )


def _enough_gpus(target: Target, available: int) -> int | None:
    """The least power of two of such GPUs on which it fits; None where no number on record does."""
    number = 2
    while number <= _MOST_GPUS:
        if any(_needed(target, plan) <= available for plan in _plans(target, number)):
            return number
        number *= 2
    return None


# ------------------------------------------------------------------------------------------------ in numbers


def _describe(target: Target, machine: Machine, devices: Sequence[ComputeDevice]) -> dict[str, Any]:
    """What the report says of a target, whether it is runnable or not."""
    smallest = _smallest(devices, machine.host) if devices else None
    available = _memory(smallest, machine.host) if smallest else None
    plan = _plan(target, devices, available or 0)
    return {
        "name": target.name,
        "title": target.title,
        "recipe": target.recipe.folder,
        "image": target.recipe.image,
        "formats": _formats(target, machine, devices),
        "checkpoints": _checkpoints(target, machine, devices),
        "plan": str(plan),
        "length": target.length,
        "micro_batch": _MICRO_BATCH,
        "estimated_memory_bytes": _needed(target, plan),
        "is_lower_bound": not target.shape.is_transformer,
        "available_memory_bytes": available,
        "measured": [],
        "largest_micro_batch": memory.largest_micro_batch(
            target.shape, memory.FUSED, target.length, targets.overhead(), plan, available
        )
        if available
        else None,
        "flop_per_token": memory.flop_per_token(target.shape, target.length),
        "expected_tokens_per_s": None,
        "expected_from": None,
        "published": [asdict(figure) for figure in _published(target, devices)],
    }


def _formats(target: Target, machine: Machine, devices: Sequence[ComputeDevice]) -> list[str]:
    """The number formats that all devices train in."""
    return [
        format
        for format in target.recipe.formats
        if devices
        and all(target.recipe.trains_in(format, _capability(device), machine.torch_build.cuda) for device in devices)
    ]


def _checkpoints(target: Target, machine: Machine, devices: Sequence[ComputeDevice]) -> list[str]:
    """The published weights that are for all devices."""
    formats = _formats(target, machine, devices)
    return [
        checkpoint.name
        for checkpoint in target.checkpoints
        if checkpoint.format in formats and all(checkpoint.is_for(_capability(device)) for device in devices)
    ]


def _published(target: Target, devices: Sequence[ComputeDevice]) -> list[Published]:
    """The figures for GPUs of this machine's kind."""
    found = [gpus.find(device.gpu.name, device.gpu.memory_bytes) for device in devices
             if device.gpu and device.gpu.name and not device.mig]  # fmt: skip
    names = {model.name for model in found if model}
    return [figure for figure in target.published if figure.gpu in names]


def _plan(target: Target, devices: Sequence[ComputeDevice], available: int) -> Plan:
    """The simplest plan that fits; the one that needs least where none does."""
    # NCCL does not join MIG slices.
    plans = _plans(target, 1 if any(device.mig for device in devices) else max(1, len(devices)))
    fitting = (plan for plan in plans if _needed(target, plan) <= available)
    return next(fitting, None) or min(plans, key=lambda plan: _needed(target, plan))


def _plans(target: Target, number: int) -> tuple[Plan, ...]:
    return memory.plans(number, target.recipe.sharding, target.recipe.context_parallel)


def _needed(target: Target, plan: Plan) -> int:
    return memory.needed(target.shape, memory.FUSED, _MICRO_BATCH, target.length, targets.overhead(), plan)


def _smallest(devices: Sequence[ComputeDevice], host: Host) -> ComputeDevice | None:
    """The device with the least memory; None where one does not say how much it has."""
    known = [_memory(device, host) for device in devices]
    return None if None in known else devices[known.index(min(size or 0 for size in known))]


def _memory(device: ComputeDevice, host: Host) -> int | None:
    """In bytes. A GPU without memory of its own, as in a GB10, uses the host's."""
    if device.mig:
        return device.mig.memory_bytes
    if device.gpu is None:
        return None
    return device.gpu.memory_bytes or (host.memory_bytes if device.gpu.answers else None)


def _capability(device: ComputeDevice) -> tuple[int, int]:
    return (device.gpu and device.gpu.compute_capability) or (0, 0)


def _named(device: ComputeDevice) -> str:
    return f"{device.name} ({device.mig.name if device.mig else device.gpu and device.gpu.name})"


def _dotted(capability: tuple[int, int]) -> str:
    return "{}.{}".format(*capability)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
