"""Training with Lightning: whether a masked language model learns one fixed batch, and in which arithmetic."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_bionemo.facts import esm2 as facts
from pytest_bionemo.workloads import esm2
from pytest_bionemo.workloads.lightning_trainer import training

if TYPE_CHECKING:
    import torch

PLAIN = "plain"
"""The model that needs nothing but torch."""

_SEED = 20261122


def run(module: str, model: str, precision: str, sequences: int, length: int) -> dict[str, Any]:
    """Train on one fixed batch, with the optimiser and for the steps of ``facts/esm2.toml``.

    :param module: "lightning.pytorch" or "pytorch_lightning".
    :param model: a size of ESM-2, or ``PLAIN``.
    :param precision: the Trainer's: "32-true", "16-mixed" or "bf16-mixed".
    :param sequences: of the batch, each of ``length`` tokens.
    :return: ``losses`` (nats, one for each step), ``steps`` as the Trainer counts them, ``devices`` and ``dtypes``
        (those in which linear layers gave their results), ``parameter_dtypes``, and ``scale``: the last factor of
        the GradScaler, None where there is none.
    """
    known = facts.training()
    with training(module) as setting:
        pupil = make_pupil(setting.lightning, build(model))
        trainer = setting.trainer(precision=precision, max_steps=known.steps, gradient_clip_val=known.gradient_clip)
        trainer.fit(pupil, make_loader(sequences, length, known.steps))
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        return {
            "losses": pupil.losses,
            "steps": trainer.global_step,
            "devices": sorted(pupil.devices),
            "dtypes": sorted(pupil.dtypes),
            "parameter_dtypes": sorted({name_of(parameter.dtype) for parameter in pupil.parameters()}),
            "scale": scaler.get_scale() if scaler else None,
        }


def name_of(dtype: torch.dtype) -> str:
    """As torch spells it: "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def build(model: str, *, seed: int = _SEED, attention: str | None = None) -> torch.nn.Module:
    """The model, on the CPU; called with a batch of :func:`esm2.batch` it answers with ``loss``.

    :param attention: of ESM-2, as in :func:`esm2.build`.
    """
    return _build_plain(seed) if model == PLAIN else esm2.build(model, seed=seed, attention=attention)


def make_loader(sequences: int, length: int, batches: int) -> Any:
    """The same batch, again and again."""
    from torch.utils.data import DataLoader

    repeated: Any = [esm2.batch(sequences, length, _SEED)] * batches
    return DataLoader(repeated, batch_size=None)


def make_pupil(lightning: ModuleType, model: torch.nn.Module) -> Any:
    """The model as a LightningModule that notes its losses, devices and dtypes."""
    import torch

    known = facts.training()

    class Pupil(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.losses: list[float] = []
            self.devices: set[str] = set()
            self.dtypes: set[str] = set()
            for layer in model.modules():
                if isinstance(layer, torch.nn.Linear):
                    layer.register_forward_hook(self.note)

        def note(self, layer: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
            self.devices.add(str(output.device))
            self.dtypes.add(name_of(output.dtype))

        def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
            loss: torch.Tensor = self.model(**batch).loss
            self.losses.append(float(loss.detach()))
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(
                self.parameters(),
                lr=known.learning_rate,
                betas=known.betas,
                eps=known.eps,
                weight_decay=known.weight_decay,
            )

    return Pupil()


class Answer(NamedTuple):
    """What the plain model gives."""

    loss: torch.Tensor


def _build_plain(seed: int) -> torch.nn.Module:
    """A masked language model of two linear layers, which sees where a token is and what it is."""
    import torch

    alphabet = facts.alphabet()
    width, longest = 256, facts.common()["max_position_embeddings"]

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = torch.nn.Embedding(alphabet.size, width)
            self.places = torch.nn.Embedding(longest, width)
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(width, width), torch.nn.GELU(), torch.nn.Linear(width, alphabet.size)
            )

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> Answer:
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            logits = self.layers(self.tokens(input_ids) + self.places(places)).float()
            return Answer(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()))

    with esm2.seeded(seed):
        return Plain()
