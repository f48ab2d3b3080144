"""Lightning's strategies for many devices, in a group of the one process that a worker is."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pytest_bionemo.workloads.lightning_fit import PLAIN, build, make_loader, make_pupil
from pytest_bionemo.workloads.lightning_trainer import Setting, training

_STEPS = 3
_SHARDING = "ModelParallelStrategy"


def start(module: str, strategy: str) -> dict[str, Any]:
    """Train a small model with a strategy, and the same without.

    :param module: "lightning.pytorch" or "pytorch_lightning".
    :param strategy: "ddp", "fsdp" or "fsdp2" (``torch.distributed.fsdp.fully_shard``, Lightning 2.3 and newer).
    :return: ``losses`` and ``alone`` (nats for each step, with and without it), ``devices`` (on which linear layers
        ran), ``backend`` (of the process group), ``processes``, and ``strategy`` (class). Only ``strategy``, and
        that None, where Lightning does not have it.
    """
    import torch

    with training(module) as setting:
        made = _make(setting, strategy)
        if made is None:
            return {"strategy": None}
        alone, _ = _train(setting)
        pupil, trainer = _train(setting, strategy=made)
        return {
            "losses": pupil.losses,
            "alone": alone.losses,
            "devices": sorted(pupil.devices),
            "backend": torch.distributed.get_backend() if torch.distributed.is_initialized() else None,
            "processes": trainer.world_size,
            "strategy": type(trainer.strategy).__name__,
        }


def _train(setting: Setting, **arguments: Any) -> tuple[Any, Any]:
    pupil = make_pupil(setting.lightning, build(PLAIN))
    trainer = setting.trainer(max_steps=_STEPS, **arguments)
    if type(trainer.strategy).__name__ == _SHARDING:
        pupil.configure_model = lambda: _shard(pupil)
    trainer.fit(pupil, make_loader(sequences=4, length=32, batches=_STEPS))
    return pupil, trainer


def _make(setting: Setting, strategy: str) -> Any:
    if strategy != "fsdp2":
        return strategy
    strategies = import_module(f"{setting.lightning.__name__}.strategies")
    return getattr(strategies, _SHARDING)() if hasattr(strategies, _SHARDING) else None


def _shard(pupil: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    fully_shard(pupil.model, mesh=pupil.device_mesh["data_parallel"])
