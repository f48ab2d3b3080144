"""Fixtures for everybody's tests, and the one Machine that they share with the checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_bionemo.model import GpuEnv
    from pytest_bionemo.probes.machine import Machine

MACHINE: pytest.StashKey[Machine] = pytest.StashKey()


def machine_of(config: pytest.Config) -> Machine:
    """The probes of this run, made on first use."""
    # Imported here: a run that asks for nothing of ours pays nothing.
    from pytest_bionemo import options
    from pytest_bionemo.probes.machine import Machine

    if MACHINE not in config.stash:
        config.stash[MACHINE] = Machine(options.read(config).timeout)
    return config.stash[MACHINE]


@pytest.fixture(scope="session")
def gpu_env(request: pytest.FixtureRequest) -> GpuEnv:
    """What the NVIDIA driver says about this machine: driver, CUDA, and every GPU. Frozen data.

    It is asked once, in a child process: no CUDA context is opened here, and nothing is imported. Without a
    driver, ``gpu_env.gpus`` is empty and ``gpu_env.failure`` says why.
    """
    return machine_of(request.config).gpu_env
