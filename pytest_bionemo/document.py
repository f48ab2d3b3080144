"""The key ``bionemo`` of the report, but for what the verdict decides."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pytest_bionemo import install_options
from pytest_bionemo.beginning import now as now
from pytest_bionemo.beginning import start as start
from pytest_bionemo.beginning import unfinished as unfinished
from pytest_bionemo.beginning import with_verdict as with_verdict
from pytest_bionemo.facts import family
from pytest_bionemo.probes import packages

if TYPE_CHECKING:
    from pytest_bionemo.probes.fabric import Library
    from pytest_bionemo.probes.host import Host
    from pytest_bionemo.probes.job import Job
    from pytest_bionemo.probes.machine import Machine
    from pytest_bionemo.site_facts import SiteFacts

_UTILISATION = re.compile(r"esm2_(?P<size>\w+)_mfu")

# What a report says of its job; where the nodes meet is of no use after it.
_JOB = ("launcher", "id", "task", "tasks", "node", "node_rank", "nodes", "node_list", "hosts")
# The only variables whose values enter the report.
_VARIABLES = (
    "CUDA_DEVICE_ORDER",
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "NVIDIA_DRIVER_CAPABILITIES",
    "NVIDIA_VISIBLE_DEVICES",
)


def recorded(measurements: Sequence[dict[str, Any]], targets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the checks and the tests recorded, in the order of the run: numbers and targets."""
    # What somebody's own tests call by a name of ours is not what our checks have measured.
    ours = [entry for entry in measurements if "test" not in entry]
    return {
        "measurements": list(measurements),
        "targets": [_with_numbers(target, ours) for target in targets],
    }


def _with_numbers(target: dict[str, Any], measurements: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What this run measured of the target's own model, and what follows from all that it measured."""
    own = target["name"].replace("-", "_") + "_"
    keys = ("name", "value", "unit", "device")
    measured = [{key: entry[key] for key in keys} for entry in measurements if entry["name"].startswith(own)]
    return _with_expectation({**target, "measured": measured}, measurements)


def _with_expectation(target: dict[str, Any], measurements: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many tokens a second each GPU should train on, from what this run measured.

    Tokens/s = model FLOP utilisation x peak FLOP/s / FLOP per token, with the utilisation that the training step of
    ESM-2 reached here (topic ``benchmark``). It is that of transformers' layers, which are slower than the recipes'
    own, and of that size: small models use less of a GPU. The slowest GPU sets the pace.
    """
    found = [expectation for entry in measurements if (expectation := _delivered(entry, measurements))]
    if not found or not target["formats"] or not target["flop_per_token"]:
        return target
    flop_per_s, said = min(found)
    return {**target, "expected_tokens_per_s": flop_per_s / target["flop_per_token"], "expected_from": said}


def _delivered(utilisation: Mapping[str, Any], measurements: Sequence[Mapping[str, Any]]) -> tuple[float, str] | None:
    """The FLOP/s of a training step on one device, and what that rests on; None if this is no such utilisation."""
    match = _UTILISATION.fullmatch(utilisation["name"])
    peaks = [
        entry["bound"]
        for entry in measurements
        if (entry["name"], entry["device"]) == ("matmul_bf16", utilisation["device"]) and entry["bound"]
    ]
    if match is None or not utilisation["value"] or not peaks:
        return None
    said = f"a utilisation of {utilisation['value']:.0%} in training ESM-2 {match['size'].upper()} here"
    return utilisation["value"] * peaks[0] * 1e12, said


def describe(machine: Machine, site_facts: SiteFacts, started: datetime) -> dict[str, Any]:
    """What the probes saw, for a run that has come to its end."""
    family_packages = [_package(package, machine.host) for package in family.packages()]
    has_any = any(package["version"] for package in family_packages)
    return {
        "environment": {
            **environment(machine),
            "extra": site_facts.facts,
            "extra_errors": site_facts.errors,
        },
        "gpus": [gpu.to_json() for gpu in machine.gpu_env.gpus],
        "packages": family_packages,
        "install_options": [] if has_any else install_options.lines(machine),
        # Last: the probes above may have had to be waited for.
        "duration_s": round((now() - started).total_seconds(), 3),
    }


def environment(machine: Machine) -> dict[str, Any]:
    """Driver, CUDA, torch, host and the variables that steer them."""
    env, torch, host, platform = machine.gpu_env, machine.torch_build, machine.host, machine.platform
    variables = {**os.environ, **machine.variables}
    return {
        "hostname": host.hostname,
        "system": host.system,
        "distribution": host.distribution,
        "kernel": host.kernel,
        "machine": host.machine,
        "glibc": host.glibc,
        "container": host.container,
        "platforms": list(platform.names),
        "platform": platform.describe() or None,
        "scheduler": platform.scheduler,
        "instance_type": platform.instance_type,
        "job": _job(machine.job),
        "databricks_runtime": platform.databricks.runtime if platform.databricks else None,
        "python": host.python,
        "driver": env.driver,
        "nvml": env.nvml,
        "cuda_driver": env.cuda_driver,
        "hidden_gpus": env.hidden_gpus,
        "driver_error": env.failure.text if env.failure else None,
        "torch": torch.version,
        "torch_error": torch.import_error,
        "torch_cuda": torch.cuda,
        "cudnn": torch.cudnn,
        "nccl": torch.nccl,
        "arch_list": list(torch.arch_list),
        "cuda_toolkit": machine.toolkit.cuda if machine.toolkit else None,
        **_firmware(machine),
        "lightning": packages.version("pytorch-lightning") or packages.version("lightning"),
        "variables": {name: variables[name] for name in _VARIABLES if name in variables},
    }


def _firmware(machine: Machine) -> dict[str, str | None]:
    """What GPUs and network adapters run, and EFA's software. What nobody told is left out: that is no difference."""
    found: dict[str, str | None] = {"vbios": " and ".join(machine.vbios)} if machine.vbios else {}
    fabric = machine.fabric
    if fabric is None:
        return found
    if fabric.firmware:
        found["adapter_firmware"] = " and ".join(fabric.firmware)
    if fabric.links:
        found["adapter_links"] = " and ".join(fabric.links)
    if fabric.efa:
        found["efa_installer"] = fabric.installer
        found["libfabric"] = _library(fabric.libfabric)
        found["aws_ofi_nccl"] = _library(fabric.plugin)
    return found


def _library(library: Library | None) -> str | None:
    """None: there is none; one that does not say which is there all the same."""
    return (library.version or "unknown") if library else None


def _job(job: Job | None) -> dict[str, Any] | None:
    if job is None:
        return None
    return {name: value for name, value in job.to_json().items() if name in _JOB}


def runner(config_plugins: Mapping[str, str]) -> dict[str, Any]:
    """pytest-json-report's own key ``environment``, which it leaves empty with pytest-metadata 3."""
    return {"Python": sys.version.split()[0], "Packages": dict(config_plugins)}


def _package(package: family.FamilyPackage, host: Host) -> dict[str, Any]:
    return {
        "name": package.name,
        "version": _version(package.name),
        "category": package.category,
        "status": package.status,
        "latest": package.latest,
        "where": package.where,
        "obstacle": package.obstacle(host.python, host.machine),
        "fate": package.fate,
    }


def _version(name: str) -> str | None:
    found = packages.find(name)
    return (found.version or "unknown") if found else None
