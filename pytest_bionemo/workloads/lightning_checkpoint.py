"""A checkpoint of Lightning: what is loaded is what was saved, to the last bit, and training goes on from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_bionemo.workloads.lightning_fit import build, make_loader, make_pupil
from pytest_bionemo.workloads.lightning_trainer import Setting, training

if TYPE_CHECKING:
    import torch

State = dict[str, "torch.Tensor"]

_OTHER_SEED = 1


def run(module: str, model: str, sequences: int, length: int, steps: int) -> dict[str, Any]:
    """Train and save; load into a model of other weights and train one step more; do the same without a break.

    All in float32 and with deterministic algorithms.

    :param module: "lightning.pytorch" or "pytorch_lightning".
    :param model: as of ``lightning_fit``.
    :param steps: before the checkpoint.
    :return: ``tensors`` and ``bytes`` that were saved (parameters, buffers, state of the optimiser), ``differing``
        (names of those that were loaded with other bits) and ``differing_bytes``; ``steps``: as the resumed Trainer
        counts them at its end; ``repeats``: whether the training without a break came bitwise to what was saved;
        ``resumed_differing``: names of what the two trainings ended with differently.
    """
    with training(module) as setting, _deterministic():
        path = setting.folder / "last.ckpt"
        first = _Training(setting, build(model, attention="eager"), steps)
        first.fit(make_loader(sequences, length, steps + 1))
        saved = first.state()
        first.trainer.save_checkpoint(path)

        resumed = _Training(setting, build(model, seed=_OTHER_SEED, attention="eager"), steps + 1, look_at=steps)
        resumed.fit(make_loader(sequences, length, steps + 1), checkpoint=str(path))

        unbroken = _Training(setting, build(model, attention="eager"), steps + 1, look_at=steps)
        unbroken.fit(make_loader(sequences, length, steps + 1))

        changed = differing_bytes(saved, resumed.seen)
        return {
            "tensors": len(saved),
            "bytes": sum(tensor.nbytes for tensor in saved.values()),
            "differing": sorted(changed),
            "differing_bytes": sum(changed.values()),
            "steps": resumed.trainer.global_step,
            "repeats": not differing_bytes(saved, unbroken.seen),
            "resumed_differing": sorted(differing_bytes(unbroken.state(), resumed.state())),
        }


class _Training:
    """One Trainer and its model. ``seen``: the state in which they began the step after ``look_at`` steps."""

    def __init__(self, setting: Setting, model: torch.nn.Module, steps: int, look_at: int | None = None) -> None:
        self.seen: State = {}
        self._look_at = look_at
        self._pupil = make_pupil(setting.lightning, model)
        self.trainer = setting.trainer(max_steps=steps, callbacks=[self._observer(setting)])

    def _observer(self, setting: Setting) -> Any:
        look = self._look

        class Observer(setting.lightning.Callback):  # type: ignore[name-defined,misc]
            def on_train_batch_start(self, *_: object) -> None:
                look()

        return Observer()

    def _look(self) -> None:
        if self.trainer.global_step == self._look_at:
            self.seen = self.state()

    def fit(self, loader: Any, checkpoint: str | None = None) -> None:
        self.trainer.fit(self._pupil, loader, ckpt_path=checkpoint)

    def state(self) -> State:
        """Copies of every parameter and buffer, and of all that the optimiser keeps for them."""
        import torch

        tensors = dict(self._pupil.state_dict())
        for index, kept in self.trainer.optimizers[0].state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in kept.items()}
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def differing_bytes(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """How many bytes differ, by the names of the tensors that are not the same to the last bit.

    One that only one side has, or that has another shape or dtype, differs in every byte.
    """
    counts = {name: _count(one.get(name), other.get(name)) for name in {**one, **other}}
    return {name: number for name, number in counts.items() if number}


def _count(one: torch.Tensor | None, other: torch.Tensor | None) -> int:
    if one is None or other is None or (one.shape, one.dtype) != (other.shape, other.dtype):
        return max(tensor.nbytes for tensor in (one, other) if tensor is not None)
    return int((_bytes(one) != _bytes(other)).sum())


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8)


@contextmanager
def _deterministic() -> Iterator[None]:
    import torch

    was, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    # An operation that has no such algorithm only warns: then the training may not repeat, and that is looked at.
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warned)
