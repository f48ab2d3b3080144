"""A Trainer of Lightning that uses one device, says little and writes below one folder alone.

The checks and the fixture ``lightning_trainer`` make theirs here. Both distributions of Lightning will do, from 2.0
on: what is passed as ``lightning`` is the imported module ``lightning.pytorch`` or ``pytorch_lightning``.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_bionemo.workloads import device

# Their values would change which rank this is, what a Trainer is made of, or where processes meet.
_LAUNCHERS = ("SLURM_", "TORCHELASTIC_", "OMPI_", "PMI", "JSM_", "LSB_", "PL_")
_RANKS = frozenset({"RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
                    "STANDALONE_PORT"})  # fmt: skip


def make_trainer(lightning: ModuleType, folder: Path, **arguments: Any) -> Any:
    """Make a Trainer with one device, without a logger, checkpoints, progress bar or model summary.

    One device, because more start the running program once again for each, and that program may be pytest. For one
    device the job's scheduler has no say: inside a Slurm allocation Lightning would insist on as many devices as
    the job has tasks.

    :param lightning: the imported ``lightning.pytorch`` or ``pytorch_lightning``.
    :param folder: the default folder of all that it writes.
    :param arguments: of the Trainer; they win over the defaults above.
    """
    settings: dict[str, Any] = {
        "accelerator": "auto",
        "devices": 1,
        "default_root_dir": folder,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        **arguments,
    }
    if settings["devices"] == 1 and "plugins" not in settings:
        environments = import_module(f"{lightning.__name__}.plugins.environments")
        settings["plugins"] = [environments.LightningEnvironment()]
    return lightning.Trainer(**settings)


@contextmanager
def quiet(lightning: ModuleType) -> Iterator[None]:
    """Keep Lightning's notes, tips and advertisements off the log; what it logs as a warning stays."""
    loggers = [logging.getLogger(name) for name in (lightning.__name__, _fabric(lightning))]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def hide_advice(lightning: ModuleType) -> None:
    """Show no advice of Lightning's that may not apply, such as on loading data, nor what torch tells Lightning.

    These are filters like any other: ``warnings.catch_warnings``, in which pytest runs a test, takes them back.
    """
    possible = import_module(f"{_fabric(lightning)}.utilities.warnings").PossibleUserWarning
    warnings.filterwarnings("ignore", category=possible)
    # torch says so of calls that are outdated, here of those in Lightning's own modules.
    warnings.filterwarnings("ignore", category=FutureWarning, module=re.escape(f"{lightning.__name__}."))


def _fabric(lightning: ModuleType) -> str:
    return {"lightning.pytorch": "lightning.fabric"}.get(lightning.__name__, "lightning_fabric")


@dataclass(frozen=True)
class Setting:
    """Where a workload trains: Lightning, and a folder of its own that vanishes."""

    lightning: ModuleType
    folder: Path

    def trainer(self, **arguments: Any) -> Any:
        """A Trainer on this worker's device."""
        kind = {"cuda": "gpu"}.get(device().type, device().type)
        return make_trainer(self.lightning, self.folder, **{"accelerator": kind, **arguments})


@contextmanager
def training(module: str) -> Iterator[Setting]:
    """Lightning, in a process that looks like no job's: and nothing of it is left behind.

    No launcher's variables are seen, and processes would meet at a port of this host that the system chooses. Put
    back at the end: the variables, the state of the random number generators, the number of threads, the warnings;
    and the process group is destroyed.

    :param module: "lightning.pytorch" or "pytorch_lightning".
    """
    import torch

    with ExitStack() as stack:
        stack.enter_context(_without_launcher())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        lightning = import_module(module)
        stack.enter_context(quiet(lightning))
        stack.enter_context(torch.random.fork_rng(devices=[0] if device().type == "cuda" else []))
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.callback(_end_process_group)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lightning-"))
        yield Setting(lightning, Path(folder))


@contextmanager
def _without_launcher() -> Iterator[None]:
    before = dict(os.environ)
    for name in before:
        if name in _RANKS or name.startswith(_LAUNCHERS):
            del os.environ[name]
    # Any free port: one that is looked for first can be taken by the worker of another device meanwhile.
    os.environ["MASTER_PORT"] = "0"
    # Else gloo listens where the host's name points to, and that may be nowhere.
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _end_process_group() -> None:
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def imports(module: str) -> dict[str, Any]:
    """Import Lightning.

    :return: ``version``, and ``error``: None, or the first cause in the chain of exceptions.
    """
    with _without_launcher(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return {"version": str(import_module(module).__version__), "error": None}
        except (Exception, SystemExit) as error:
            cause = _first_cause(error)
            return {"version": None, "error": f"{type(cause).__name__}: {cause}"}


def _first_cause(error: BaseException) -> BaseException:
    while earlier := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = earlier
    return error


def start(module: str) -> dict[str, Any]:
    """Make a Trainer for this device, and one that may choose.

    :return: ``accelerator`` (class), ``device``, ``devices`` (how many) and ``processes`` of the first; ``chosen``:
        the device of the second.
    """
    with training(module) as setting:
        trainer = setting.trainer()
        return {
            "accelerator": type(trainer.accelerator).__name__,
            "device": str(trainer.strategy.root_device),
            "devices": trainer.num_devices,
            "processes": trainer.world_size,
            "chosen": str(setting.trainer(accelerator="auto").strategy.root_device),
        }
