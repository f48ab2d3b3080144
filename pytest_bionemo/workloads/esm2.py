"""ESM-2 from its configuration: no download, no tokenizer, the same weights and the same batch everywhere.

transformers is imported when a model is built; everything else here works without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_bionemo.facts import esm2

if TYPE_CHECKING:
    import torch

# What torch's cross entropy leaves out.
_IGNORED = -100
# The contact head predicts contacts, and older releases of transformers give every model position embeddings,
# which one with rotary positions never looks at.
_OUTSIDE_THE_LOSS = ("contact_head.", "position_embeddings.")


def build(name: str = "8M", *, seed: int = 0, attention: str | None = None) -> torch.nn.Module:
    """Build ``EsmForMaskedLM`` of transformers with random weights, in training mode, on the CPU in float32.

    The weights are made on the CPU, whatever device the model is moved to: every device of a machine gets
    bitwise the same. The state of torch's random number generators is left as it was.

    :param name: a size of ``facts/esm2.toml``: "tiny", "8M", ... "15B".
    :param seed: of the weights.
    :param attention: transformers' name of the attention: "eager" or "sdpa"; None for its default.
    :raises ValueError: for a size that there is not.
    :raises ImportError: if transformers is not installed; a broken one raises what it likes.
    """
    size = esm2.find(name)
    from transformers import EsmConfig, EsmForMaskedLM

    settings: dict[str, Any] = {
        **esm2.common(),
        "num_hidden_layers": size.layers,
        "hidden_size": size.hidden,
        "num_attention_heads": size.heads,
        "intermediate_size": size.ffn,
    }
    if attention is not None:
        settings["attn_implementation"] = attention
    with seeded(seed):
        model: torch.nn.Module = EsmForMaskedLM(EsmConfig(**settings))
    return model.train()


def try_build(name: str) -> dict[str, Any]:
    """Build a model and say whether it is the one that it should be.

    :param name: a size of ``facts/esm2.toml``.
    :return: ``error`` (the first cause for which transformers cannot be imported or cannot build it; None if it
        can), ``trained_parameters`` (those that the loss depends on) and ``attention`` (transformers' name of the one
        that it takes by itself: "eager" keeps all scores, "sdpa" none), both None with an error.
    :raises ValueError: for a size that there is not.
    """
    esm2.find(name)
    try:
        model = build(name)
    except MemoryError:  # the machine's trouble, which the worker reports
        raise
    except Exception as error:  # whatever the package that breaks transformers raises
        return {"error": _first_cause(error), "trained_parameters": None, "attention": None}
    trained = sum(parameter.numel() for key, parameter in model.named_parameters() if is_trained(key))
    attention = getattr(getattr(model, "config", None), "_attn_implementation", None)
    return {"error": None, "trained_parameters": trained, "attention": attention}


def is_trained(parameter: str) -> bool:
    """Whether the masked-language loss depends on the parameter of this name."""
    return not any(part in parameter for part in _OUTSIDE_THE_LOSS)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Have torch draw its random numbers on the CPU from this seed, and then go on as if nothing had been drawn."""
    import torch

    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which seeds every GPU as well.
        torch.default_generator.manual_seed(seed)
        yield


def batch(sequences: int, length: int, seed: int, *, mask_share: float = 0.15) -> dict[str, torch.Tensor]:
    """Random proteins of equal length, some residues of each masked: what the model is called with.

    :param sequences: how many.
    :param length: tokens of each, with the two that mark its beginning and end.
    :param seed: of the residues and of the places that are masked.
    :param mask_share: of the residues; the same number in each sequence, one at least.
    :return: ``input_ids``, ``attention_mask`` and ``labels`` (-100 where no residue is masked), int64 of shape
        (sequences, length), on the CPU.
    :raises ValueError: for fewer than one sequence, a length without a residue, or a share outside 0 to 1.
    """
    import torch

    if sequences < 1 or length < 3:
        raise ValueError(f"{sequences} sequences of length {length}: at least 1 of length 3 is needed")
    if not 0 < mask_share < 1:
        raise ValueError(f"a share of {mask_share} cannot be masked: it is more than 0 and less than 1")
    tokens = esm2.alphabet()
    generator = torch.Generator().manual_seed(seed)
    residues = length - 2
    input_ids = torch.randint(tokens.first_residue, tokens.last_residue + 1, (sequences, length), generator=generator)
    input_ids[:, 0], input_ids[:, -1] = tokens.cls, tokens.eos
    order = torch.rand(sequences, residues, generator=generator).argsort(dim=1)
    masked = 1 + order[:, : max(1, round(mask_share * residues))]
    labels = torch.full_like(input_ids, _IGNORED).scatter(1, masked, input_ids.gather(1, masked))
    return {
        "input_ids": input_ids.scatter(1, masked, tokens.mask),
        "attention_mask": torch.ones_like(input_ids),
        "labels": labels,
    }


def pad_last(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch with its last sequence cut to half of its length, and padding in the place of the rest."""
    tokens = esm2.alphabet()
    padded = {name: tensor.clone() for name, tensor in batch.items()}
    end = padded["input_ids"].shape[1] // 2
    for name, last, rest in (
        ("input_ids", tokens.eos, tokens.pad),
        ("attention_mask", 1, 0),
        ("labels", _IGNORED, _IGNORED),
    ):
        padded[name][-1, end - 1] = last
        padded[name][-1, end:] = rest
    return padded


def parameters(name: str) -> int:
    """How many parameters a size has, the tied output projection counted once and the contact head included.

    :raises ValueError: for a size that there is not.
    """
    return esm2.find(name).parameters


def flops_per_token(name: str, length: int) -> int:
    """Model FLOPs of one training step, forward and backward, for each token: 6 N + 12 L H T.

    N: parameters that a token is multiplied with, L: layers, H: hidden size (heads times head size), T: tokens of
    a sequence, every one attending to all. A multiply-accumulate is two FLOPs; forward takes 2 N and
    4 L H T (scores and weighted values), backward twice that. What is recomputed does not count. Source: A.
    Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022, appendix B.

    N leaves out the embedding, which is looked up (its use as the output projection adds 0.14 % for 8M and less
    for larger sizes, and is left out with it), and the contact head, which training does not run.

    :raises ValueError: for a size that there is not.
    """
    size = esm2.find(name)
    multiplied = size.trained_parameters - esm2.alphabet().size * size.hidden
    return 6 * multiplied + 12 * size.layers * size.hidden * length


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
