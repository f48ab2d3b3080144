"""Fixtures for everybody's tests, and the one Machine that they share with the checks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_bionemo.model import GpuEnv
    from pytest_bionemo.probes.bionemo import BionemoPackage, Family
    from pytest_bionemo.probes.machine import Machine

MACHINE: pytest.StashKey[Machine] = pytest.StashKey()
_FAMILY: pytest.StashKey[Family] = pytest.StashKey()


def machine_of(config: pytest.Config) -> Machine:
    """The probes of this run, made on first use."""
    # Imported here: a run that asks for nothing of ours pays nothing.
    from pytest_bionemo import options
    from pytest_bionemo.probes.machine import Machine

    if MACHINE not in config.stash:
        config.stash[MACHINE] = Machine(options.read(config).timeout)
    return config.stash[MACHINE]


def family_of(config: pytest.Config) -> Family:
    """The BioNeMo packages of this environment, made on first use, gone with the run."""
    from pytest_bionemo import options
    from pytest_bionemo.probes.bionemo import Family

    if _FAMILY not in config.stash:
        # In a process of pytest-xdist each is imported when it is asked for: another one asks for the others.
        ahead = not hasattr(config, "workerinput")
        variables = {**os.environ, **machine_of(config).variables}
        config.stash[_FAMILY] = Family(options.read(config).timeout, variables, ahead=ahead)
        config.add_cleanup(config.stash[_FAMILY].close)
    return config.stash[_FAMILY]


@pytest.fixture(scope="session")
def gpu_env(request: pytest.FixtureRequest) -> GpuEnv:
    """What the NVIDIA driver says about this machine: driver, CUDA, and every GPU. Frozen data.

    It is asked once, in a child process: no CUDA context is opened here, and nothing is imported. Without a
    driver, ``gpu_env.gpus`` is empty and ``gpu_env.failure`` says why.
    """
    return machine_of(request.config).gpu_env


@pytest.fixture(scope="session")
def bionemo_pkg(request: pytest.FixtureRequest) -> Callable[[str], BionemoPackage]:
    """Look at BioNeMo's packages.

    ``scdl = bionemo_pkg("bionemo-scdl")``, then ``assert scdl.is_installed, scdl``. It has a ``version``,
    requirements that are ``unmet``, and an ``import_error``: the first cause why one of the modules that it is made
    of does not import, None if all do. That is found out in a process of its own, when it is first asked for: nothing
    is imported here. A name that is no BioNeMo package is a LookupError.
    """
    return family_of(request.config).package


@pytest.fixture(scope="session")
def lightning_trainer_args() -> dict[str, Any]:
    """Arguments of every Trainer that ``lightning_trainer`` makes. Override it in a conftest.py.

    They win over the defaults (see there); what a test passes wins over both.
    """
    return {}


@pytest.fixture
def lightning_trainer(lightning_trainer_args: dict[str, Any], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Make quiet Trainers of Lightning.

    ``trainer = lightning_trainer(max_steps=5, precision="bf16-mixed")``: the arguments are the Trainer's own. By
    default: one device (the first GPU, else the CPU), no logger, no checkpoints, no progress bar, no model summary,
    no sanity steps; whatever is written is below ``tmp_path``. For the rest of the test Lightning logs warnings
    alone, and none of its advice and of its own outdated calls of torch is shown.

    It is the Trainer of the package that was imported before, ``lightning`` or ``pytorch_lightning``, and of
    ``lightning`` where that tells nothing. The test is skipped where neither is installed.
    """
    from pytest_bionemo.workloads.lightning_trainer import hide_advice, make_trainer, quiet

    names = _installed_lightning()
    if not names:
        pytest.skip("neither lightning nor pytorch-lightning is installed: pip install pytorch-lightning")
    with ExitStack() as stack:

        def make(**arguments: Any) -> Any:
            lightning = import_module(next((name for name in names if name in sys.modules), names[0]))
            stack.enter_context(quiet(lightning))
            hide_advice(lightning)
            return make_trainer(lightning, tmp_path, **{**lightning_trainer_args, **arguments})

        yield make


def _installed_lightning() -> list[str]:
    from pytest_bionemo.facts import lightning
    from pytest_bionemo.probes import packages

    return [module for name, module in lightning.modules().items() if packages.find(name)]
