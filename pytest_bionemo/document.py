"""The key ``bionemo`` of the report, but for what the verdict decides."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pytest_bionemo.compute import MEASUREMENT
from pytest_bionemo.facts import family
from pytest_bionemo.probes import packages

if TYPE_CHECKING:
    from pytest_bionemo.options import Options
    from pytest_bionemo.probes.machine import Machine
    from pytest_bionemo.verdict import Verdict

SCHEMA_VERSION = 1

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


def start(options: Options, started: datetime) -> dict[str, Any]:
    """What is known before anything has run."""
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "pytest-bionemo", "version": packages.version("pytest-bionemo") or "unknown"},
        "started": started.isoformat(timespec="seconds"),
        "level": options.level,
        "device": options.device,
        "require": options.require,
        "checks": [],
        "topics": [],
        "deselected": [],
    }


def unfinished(options: Options, started: datetime) -> dict[str, Any]:
    """The whole document of a run that has not finished, without its verdict."""
    return {
        "created": time.time(),
        "duration": 0.0,
        "exitcode": None,
        "root": "",
        "environment": {},
        "summary": {},
        "tests": [],
        "bionemo": start(options, started),
    }


def with_verdict(report: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    """The document with its verdict, which comes first: people read it from the top."""
    run = {"schema_version": SCHEMA_VERSION, **verdict.to_json(), **report["bionemo"], **verdict.to_json()}
    return {"bionemo": run} | dict(report) | {"bionemo": run}


def take_measurements(tests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The numbers that the checks recorded, taken out of the tests and put into the order of the run."""
    found = []
    for test in tests:
        properties = test.get("user_properties", [])
        found += [json.loads(entry[MEASUREMENT]) for entry in properties if MEASUREMENT in entry]
        test["user_properties"] = [entry for entry in properties if MEASUREMENT not in entry]
    return found


def now() -> datetime:
    """The current time, in UTC."""
    return datetime.now(timezone.utc)


def describe(machine: Machine, started: datetime) -> dict[str, Any]:
    """What the probes saw, for a run that has come to its end."""
    family_packages = [_package(package) for package in family.packages()]
    has_any = any(package["version"] for package in family_packages)
    return {
        "environment": environment(machine),
        "gpus": [gpu.to_json() for gpu in machine.gpu_env.gpus],
        "packages": family_packages,
        "install_options": [] if has_any else install_options(machine),
        # Last: the probes above may have had to be waited for.
        "duration_s": round((now() - started).total_seconds(), 3),
    }


def environment(machine: Machine) -> dict[str, Any]:
    """Driver, CUDA, torch, host and the variables that steer them."""
    env, torch, host = machine.gpu_env, machine.torch_build, machine.host
    variables = {**os.environ, **machine.variables}
    return {
        "hostname": host.hostname,
        "system": host.system,
        "distribution": host.distribution,
        "kernel": host.kernel,
        "machine": host.machine,
        "glibc": host.glibc,
        "container": host.container,
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
        "lightning": packages.version("pytorch-lightning") or packages.version("lightning"),
        "variables": {name: variables[name] for name in _VARIABLES if name in variables},
    }


def runner(config_plugins: Mapping[str, str]) -> dict[str, Any]:
    """pytest-json-report's own key ``environment``, which it leaves empty with pytest-metadata 3."""
    return {"Python": sys.version.split()[0], "Packages": dict(config_plugins)}


def install_options(machine: Machine) -> list[str]:
    """How to get BioNeMo on this machine, where none of it is installed."""
    names = " ".join(package.name for package in family.installable(machine.host.python, machine.host.machine))
    return [
        f"$ pip install {names}",
        "or a recipe: clone NVIDIA-BioNeMo/bionemo-framework, build a Dockerfile of bionemo-recipes/recipes/NAME",
    ]


def _package(package: family.FamilyPackage) -> dict[str, Any]:
    return {
        "name": package.name,
        "version": _version(package.name),
        "category": package.category,
        "fate": package.fate,
    }


def _version(name: str) -> str | None:
    found = packages.find(name)
    return (found.version or "unknown") if found else None
