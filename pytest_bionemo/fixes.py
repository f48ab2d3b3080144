"""Lines of fixes that several checks give."""

from __future__ import annotations

from pytest_bionemo.facts import drivers, wheels
from pytest_bionemo.facts.wheels import Wheel
from pytest_bionemo.model import GpuEnv
from pytest_bionemo.probes.host import Host


def alternatives(*lines: str) -> list[str]:
    """Ways of which one is enough: each after the first says "or"."""
    first, *others = lines
    return [first, *(f"or {line}" for line in others)]


def update_driver(host: Host, version: str) -> str:
    """Update the driver, where it is installed."""
    where = " on Windows, never inside WSL 2," if host.is_wsl else ""
    return f"update the driver{where} to {version} or newer"


def install_torch(env: GpuEnv, host: Host, installed: str | None = None, *, is_broken: bool = False) -> list[str]:
    """How to get a PyTorch that fits this driver, these GPUs, this Python and this processor.

    ``installed`` is the version of the one to replace. Without a driver, any PyTorch will do.
    """
    return fitting_torch(env, host, installed, is_broken=is_broken) or [_how_one_would_fit(env, host)]


def fitting_torch(env: GpuEnv, host: Host, installed: str | None = None, *, is_broken: bool = False) -> list[str]:
    """The same, but nothing where no PyTorch fits before something else changes."""
    if not env.has_driver:
        return [f"$ pip install {'--force-reinstall ' if is_broken else ''}torch"]
    wheel = _best(env, host, env.driver)
    return [wheels.install(wheel, installed, is_broken=is_broken)] if wheel else []


def _how_one_would_fit(env: GpuEnv, host: Host) -> str:
    if wheel := _best(env, host, None):
        return f"{update_driver(host, _needed(wheel))}: no PyTorch on record fits driver {env.driver} here"
    capabilities = ", ".join("{}.{}".format(*capability) for capability in env.capabilities)
    return (
        f"use another Python or other GPUs: no PyTorch on record fits compute capability {capabilities}, "
        f"Python {host.python} and {host.machine} together"
    )


def _best(env: GpuEnv, host: Host, driver: str | None) -> Wheel | None:
    return wheels.best_for(driver, env.capabilities, host.python, host.machine)


def _needed(wheel: Wheel) -> str:
    return drivers.toolkit_driver(wheel.cuda) or drivers.family_minimum(wheel.cuda) or drivers.bionemo_minimum()
