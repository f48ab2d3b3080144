"""pytest's door: options, ini twins, marker, hooks. Nothing else happens unless it was asked for."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_bionemo import options
from pytest_bionemo.fixtures import ENVIRONMENT, MACHINE, machine_of
from pytest_bionemo.fixtures import bionemo_pkg as bionemo_pkg
from pytest_bionemo.fixtures import freest_gpu as freest_gpu
from pytest_bionemo.fixtures import gpu_env as gpu_env
from pytest_bionemo.fixtures import lightning_trainer as lightning_trainer
from pytest_bionemo.fixtures import lightning_trainer_args as lightning_trainer_args
from pytest_bionemo.fixtures import measure as measure
from pytest_bionemo.fixtures import memory_ceiling as memory_ceiling
from pytest_bionemo.fixtures import run_in_worker as run_in_worker

GPU_ENV = (
    "gpu_env(*, min_gpus=1, min_memory_gb=None, free_memory_gb=None, compute_capability=None, dtype=None, "
    "nvlink=None, driver=None, cuda=None, torch=None, mig=None, platform=None, packages=None): "
    "skip the test where the machine has not all of this; with --bionemo-strict it fails instead."
)
TOKENS: pytest.StashKey[Sequence[str]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    options.add(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Offer our hooks."""
    from pytest_bionemo import hookspec

    pluginmanager.add_hookspecs(hookspec)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Take the ids of checks out of the arguments, before pytest looks for files of that name."""
    given: list[str] = early_config.known_args_namespace.file_or_dir
    if not any(argument.startswith("bionemo/") for argument in given):
        return
    from pytest_bionemo import suite

    folder = Path(early_config.invocation_params.dir)
    tokens = [argument for argument in given if suite.is_token(argument, folder)]
    if tokens:
        early_config.stash[TOKENS] = tokens
        early_config.known_args_namespace.file_or_dir = [name for name in given if name not in tokens]
        _drop_from_the_end(args, tokens)
        args.append("--bionemo-validate")


def _drop_from_the_end(args: list[str], tokens: list[str]) -> None:
    # The same text can stand in front as the value of an option: --deselect bionemo/driver::loads
    for token in tokens:
        position = len(args) - 1 - args[::-1].index(token)
        del args[position]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Validate the options, and register the validation if it is asked for."""
    config.addinivalue_line(
        "markers",
        "bionemo(topic, severity, level): carried by every check of pytest --bionemo-validate, to select by.",
    )
    config.addinivalue_line("markers", GPU_ENV)
    settings = options.read(config)
    if settings.strict:
        from pytest_bionemo.unmet import Strict

        config.pluginmanager.register(Strict(), "bionemo_strict")
    if settings.validate and not config.option.help:
        from pytest_bionemo import hangup
        from pytest_bionemo.hiding import Hiding
        from pytest_bionemo.progress import Progress
        from pytest_bionemo.validation import Validation

        if config.pluginmanager.is_blocked("bionemo_validation"):
            raise pytest.UsageError("-p no:bionemo_validation contradicts --bionemo-validate: drop one of the two.")
        validation = Validation(config, settings, config.stash.get(TOKENS, []))
        config.pluginmanager.register(validation, "bionemo_validation")
        if validation.is_worker:  # one of pytest-xdist has no terminal
            hangup.leave_to_the_controller()
        else:
            config.pluginmanager.register(Progress(config, settings.progress), "bionemo_progress")
        config.pluginmanager.register(Hiding(), "bionemo_hiding")  # the last one is around all others


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Let no run that broke off before its session exit 0."""
    result = yield
    validation = config.pluginmanager.get_plugin("bionemo_validation")
    return validation.exit_status(int(result)) if validation and isinstance(result, int) else result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, object, object]:
    """Validate what tests demand with the marker gpu_env, also of those that others drop or add."""
    collected = [*items]
    result = yield
    config.stash[ENVIRONMENT] = dict(os.environ)
    marked = [item for item in dict.fromkeys((*collected, *items)) if item.get_closest_marker("gpu_env")]
    if marked:
        from pytest_bionemo import markers

        markers.enforce(config, items, marked, lambda: machine_of(config))
    return result


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """End the run with the line that a process of pytest-xdist has left: it cannot end one itself."""
    # A process that crashed has left nothing.
    if line := getattr(node, "workeroutput", {}).get("bionemo_refused"):
        raise pytest.UsageError(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let no probe outlive the run."""
    if MACHINE in config.stash:
        config.stash[MACHINE].close()
