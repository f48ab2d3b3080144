"""A training step: forward and backward against the CPU in float64, and again and again, bit for bit.

**Against the CPU.** The same weights and the same batch go through the device in float32, without TF32, and
through the CPU in float64. The error of a tensor is its largest difference, as a share of the largest element
that it should have: one wrong element shows as much in a large tensor as in a small one.

The bound is 4 u sqrt(D K), with u = 2^-24. Rounding errors are as often up as down, so those of a sum of K
products grow as sqrt(K) u (N. J. Higham and T. Mary, "A new approach to probabilistic rounding error analysis",
2019), and those of D steps one after the other add up as sqrt(D). A layer has 24 such steps: forward two norms,
the projections of the attention, its rotation, scores, softmax, sums and output, two feed-forward products, the
activation and the two sums with what came in; and as many backward. K is the longest sum, over the feed-forward
width or over all tokens. The 4 is for what this leaves out: the gradients of keys are differences of nearly
equal numbers. Measured on a CPU: at most 0.12 of the bound for the keys of ESM-2 8M, 0.02 for half of its
tensors; with the operands of its layers rounded to TF32 half of them exceed it 9 times.

**In 16 bits.** The same step under autocast: most products of training are made by these kernels. An element may
be off by as much as it is large, so the error is that of a tensor as a whole, the norm of its difference as a share
of its norm. The bound is 4 u sqrt(D), with u = 2^-8 for BF16 and 2^-11 for FP16: sums are kept in float32, and only
the results of the D steps are rounded. Measured on a CPU: at most 0.008 in BF16, bound 0.11, and 0.0015 in FP16,
bound 0.014, at widths from 32 to 512.

**The optimiser.** AdamW then takes two steps with the gradients of the device, whether they are right or not, and
what it does to the parameters is held against its formula in float64 (I. Loshchilov and F. Hutter, "Decoupled Weight
Decay Regularization", 2019). Of one and the same gradient g the bias-corrected means are g and g^2, so each step is
p - lr (w p + g / (|g| + eps)). The learning rate is 1, so that a step is as large as the parameters and its rounding
small, and eps is 1e-3, the size of the gradients: with a far smaller one the step would be their sign alone.
The bound is 2^-14, a thousand roundings: of about twenty a step, those of 1 - 0.98 (the second beta) count fifty
times, and so do those of a parameter that decays alone. Measured on a CPU: at most a hundredth of the bound.

(In float64, too, transformers rounds queries and keys to float32 before their rotation: one of the D steps.)

**Again and again.** With deterministic algorithms a step is a function of its input: each repeat must give the
same bits. They are compared by a 64-bit hash on the device: each element, as an integer, is offset by its place
and mixed (the finaliser of splitmix64, S. Vigna, 2015, which is a bijection), and all are summed modulo 2^64. One
changed element changes the hash with certainty, several hide with a probability of 2^-64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pytest_bionemo.facts import esm2 as facts
from pytest_bionemo.workloads import device, esm2
from pytest_bionemo.workloads.matmul_precision import float32_products

if TYPE_CHECKING:
    import torch

_GRADIENT = "gradient of "
_ROUNDINGS_A_LAYER = 24
_MARGIN = 4
_HEAD_SIZE = 16
_FEED_FORWARD = 4  # times the hidden size, as in ESM-2
_LAYERS = 2  # of the small encoder

# torch's dtype, the rounding of one result, and what the loss is multiplied with: the smallest gradients of FP16
# would be lost otherwise.
_FORMATS = {"fp32": ("float32", 2.0**-24, 1), "bf16": ("bfloat16", 2.0**-8, 1), "fp16": ("float16", 2.0**-11, 2**12)}

_STEPS = 2
_LEARNING_RATE = 1.0
_EPS = 1e-3
_UPDATE_BOUND = 2.0**-14

# For 64-bit integers, which are signed in torch; a product keeps its lowest 64 bits.
_PLACE = 0x9E3779B97F4A7C15 - 2**64
_MIX = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))
_LAST_SHIFT = 31


def small(hidden: int, sequences: int, length: int, seed: int, format: str = "fp32") -> dict[str, Any]:
    """Take one step with a transformer encoder of two layers made of plain torch modules.

    :param hidden: its width, a multiple of 16.
    :param sequences: of the batch.
    :param length: tokens of each.
    :param seed: of the weights and the batch.
    :param format: "fp32", or "bf16" or "fp16" for autocast to it.
    :return: see :func:`compare`.
    """
    longest_sum = max(_FEED_FORWARD * hidden, sequences * length)
    tolerance = bound(_LAYERS, longest_sum) if format == "fp32" else autocast_bound(_LAYERS, format)
    return compare(make_encoder(hidden, _LAYERS, seed), esm2.batch(sequences, length, seed), tolerance, format)


def esm2_step(name: str, sequences: int, length: int, seed: int) -> dict[str, Any]:
    """Take one step with ESM-2, the last sequence half as long as the others: what is padding must not count.

    :param name: a size of ``facts/esm2.toml``.
    :param sequences: of the batch.
    :param length: tokens of each.
    :param seed: of the weights and the batch.
    :return: see :func:`compare`.
    :raises ImportError: without transformers.
    """
    size = facts.find(name)
    model = esm2.build(name, seed=seed)
    tolerance = bound(size.layers, max(size.ffn, sequences * length))
    return compare(model, esm2.pad_last(esm2.batch(sequences, length, seed)), tolerance)


def repeat(format: str, hidden: int, sequences: int, length: int, repeats: int, seed: int) -> dict[str, Any]:
    """Take the same step of training several times, each from the beginning, with deterministic algorithms.

    The step goes through an embedding, scaled dot product attention, layer norms and GELU, forward and backward,
    and AdamW.

    :param format: "fp32", or "bf16" for autocast to it.
    :param hidden: the width of the encoder of one layer, a multiple of 16.
    :param sequences: of the batch.
    :param length: tokens of each.
    :param repeats: how often, two at least.
    :param seed: of the weights and the batch.
    :return: ``tensors`` (gradients and parameters of a step), ``compared_elements`` (of all of them, in all
        repeats after the first), ``differing`` (names of those that were not the same bits in every repeat),
        ``found_flip`` (the self-proof: one random bit of one random gradient is flipped, and its hash has to
        change).
    :raises ValueError: for another format, or fewer than two repeats.
    """
    if format not in ("fp32", "bf16") or repeats < 2:
        raise ValueError(f"format {format!r}, {repeats} repeats: expected fp32 or bf16, and at least 2")
    batch = {key: tensor.to(device()) for key, tensor in esm2.batch(sequences, length, seed).items()}
    model = make_encoder(hidden, 1, seed)
    with _deterministic():
        trained = _train(copy.deepcopy(model), batch, format)
        first = {name: hash_of(tensor) for name, tensor in trained.items()}
        differing: set[str] = set()
        for _ in range(repeats - 1):
            again = _train(copy.deepcopy(model), batch, format)
            differing |= {name for name, tensor in again.items() if hash_of(tensor) != first[name]}
    return {
        "tensors": len(first),
        "compared_elements": (repeats - 1) * sum(tensor.numel() for tensor in trained.values()),
        "differing": sorted(differing),
        "found_flip": finds_flip(trained, seed),
    }


def compare(
    model: torch.nn.Module, batch: Mapping[str, torch.Tensor], tolerance: float, format: str = "fp32"
) -> dict[str, Any]:
    """One step on the device and on the CPU in float64, from the same weights; and then AdamW on the device.

    :param model: on the CPU in float32; called with the batch, it gives ``loss`` and ``logits``.
    :param batch: on the CPU.
    :param tolerance: is handed back as ``bound``.
    :param format: of the device: "fp32", or "bf16" or "fp16" for autocast to it.
    :return: ``device`` (the kind on which the logits came out), ``loss``, ``expected_loss``, ``bound``, and of the
        loss, the logits and the gradient of each parameter that the loss depends on, by name: ``errors`` (of
        those that are finite: :func:`error_of`, under autocast :func:`error_of_norm`), ``not_finite``, ``zero``
        (gradients alone: all zero, or none came) and ``zero_on_cpu``. Of AdamW: ``update_errors`` (of the change
        of each parameter whose gradient is finite, by its name; infinite where the change is not finite) and
        ``update_bound``.
    :raises ArithmeticError: if the CPU's own result is not finite.
    """
    import torch

    expected = _step(copy.deepcopy(model).double(), batch, torch.device("cpu"))
    if wrong := [name for name, tensor in expected.items() if not _is_finite(tensor)]:
        raise ArithmeticError(f"{wrong[0]} is not finite on the CPU: it cannot serve as the reference")
    measure = error_of if format == "fp32" else error_of_norm
    with float32_products("highest"):
        model = model.to(device())
        found = _step(model, batch, device(), format)
    finite = [name for name in found if _is_finite(found[name])]
    return {
        "device": found["logits"].device.type,
        "loss": float(found["loss"]),
        "expected_loss": float(expected["loss"]),
        "bound": tolerance,
        "errors": {name: measure(found[name], expected[name]) for name in finite},
        "not_finite": [name for name in found if name not in finite],
        "zero": _zeros(found),
        "zero_on_cpu": _zeros(expected),
        "update_errors": update_errors(model),
        "update_bound": _UPDATE_BOUND,
    }


def update_errors(model: torch.nn.Module) -> dict[str, float]:
    """Have AdamW take steps with the gradients that are there: how wrong it changes the parameters; see the top."""
    import torch

    recipe = facts.training()
    parameters = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and _is_finite(parameter.grad)
    }
    if not parameters:
        return {}
    before = {name: _in_float64(parameter) for name, parameter in parameters.items()}
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=_LEARNING_RATE,
        betas=recipe.betas,
        eps=_EPS,
        weight_decay=recipe.weight_decay,
        fused=device().type == "cuda",  # as training has it
    )
    for _ in range(_STEPS):
        optimizer.step()
    errors = {}
    for name, parameter in parameters.items():
        gradient, right = _in_float64(_gradient(parameter)), before[name]
        for _ in range(_STEPS):
            right = right - _LEARNING_RATE * (recipe.weight_decay * right + gradient / (gradient.abs() + _EPS))
        change = _in_float64(parameter) - before[name]
        errors[name] = error_of(change, right - before[name]) if _is_finite(change) else math.inf
    return errors


def bound(layers: int, longest_sum: int) -> float:
    """The largest error that rounding to float32 explains; the derivation is at the top."""
    return _MARGIN * _FORMATS["fp32"][1] * math.sqrt(_ROUNDINGS_A_LAYER * layers * longest_sum)


def autocast_bound(layers: int, format: str) -> float:
    """The largest error of a norm that rounding to the format explains; the derivation is at the top."""
    return _MARGIN * _FORMATS[format][1] * math.sqrt(_ROUNDINGS_A_LAYER * layers)


def error_of(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, as a share of the largest element that is expected; the first is on any device."""
    difference = float((found.detach().to("cpu", expected.dtype) - expected).abs().max())
    largest = float(expected.abs().max())
    if largest == 0:
        return 0.0 if difference == 0 else math.inf
    return difference / largest


def error_of_norm(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The norm of the difference, as a share of the norm that is expected; the first is on any device."""
    difference, norm = float((_in_float64(found) - expected).norm()), float(expected.norm())
    if norm == 0:
        return 0.0 if difference == 0 else math.inf
    return difference / norm


def hash_of(tensor: torch.Tensor) -> int:
    """64 bits of the bits and places of all elements, computed where the tensor is; see the top."""
    import torch

    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    bits = tensor.detach().contiguous().view(integers).flatten().to(torch.int64)
    bits += torch.arange(1, bits.numel() + 1, device=bits.device) * _PLACE
    for shift, factor in _MIX:
        bits = (bits ^ _shift_right(bits, shift)) * factor
    return int((bits ^ _shift_right(bits, _LAST_SHIFT)).sum())


def finds_flip(trained: Mapping[str, torch.Tensor], seed: int) -> bool:
    """Flip one random bit of one random gradient: its hash must change, and that of the same bits must not."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def draw(below: int) -> int:
        return int(torch.randint(below, (1,), generator=generator))

    gradients = [name for name in trained if name.startswith(_GRADIENT)]
    original = trained[gradients[draw(len(gradients))]]
    flipped = original.detach().clone()
    kept = hash_of(flipped)
    # Every gradient is in float32, autocast or not.
    flipped.view(torch.int32).view(-1)[draw(flipped.numel())] ^= 1 << draw(31)
    return kept == hash_of(original) and hash_of(flipped) != kept


def make_encoder(hidden: int, layers: int, seed: int) -> torch.nn.Module:
    """Build a transformer encoder that is called as ESM-2 is, from torch's own modules, on the CPU in float32.

    :param hidden: the width, a multiple of 16, the size of a head.
    :param layers: how many.
    :param seed: of the weights.
    :raises ValueError: if the width is no multiple of 16.
    """
    from torch import Tensor, nn
    from torch.nn import functional

    if hidden % _HEAD_SIZE:
        raise ValueError(f"hidden size {hidden} is no multiple of {_HEAD_SIZE}")
    vocabulary = facts.alphabet().size

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention_norm = nn.LayerNorm(hidden)
            # No bias: without positions the softmax cancels that of the keys, whose gradient would be noise alone.
            self.query_key_value = nn.Linear(hidden, 3 * hidden, bias=False)
            self.attention_output = nn.Linear(hidden, hidden)
            self.feed_forward_norm = nn.LayerNorm(hidden)
            self.widen = nn.Linear(hidden, _FEED_FORWARD * hidden)
            self.narrow = nn.Linear(_FEED_FORWARD * hidden, hidden)

        def forward(self, x: Tensor) -> Tensor:
            heads = self.query_key_value(self.attention_norm(x)).unflatten(-1, (3, -1, _HEAD_SIZE))
            query, key, value = heads.permute(2, 0, 3, 1, 4)
            attended = functional.scaled_dot_product_attention(query, key, value)
            x = x + self.attention_output(attended.transpose(1, 2).flatten(2))
            fed: Tensor = self.narrow(functional.gelu(self.widen(self.feed_forward_norm(x))))
            return x + fed

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(vocabulary, hidden)
            self.layers = nn.Sequential(*(Layer() for _ in range(layers)))
            self.norm = nn.LayerNorm(hidden)
            self.output = nn.Linear(hidden, vocabulary)

        def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> SimpleNamespace:
            del attention_mask  # every sequence is as long as the others
            logits = self.output(self.norm(self.layers(self.embedding(input_ids))))
            return SimpleNamespace(
                logits=logits, loss=functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
            )

    with esm2.seeded(seed):
        return Encoder()


def _step(
    model: torch.nn.Module, batch: Mapping[str, torch.Tensor], where: torch.device, format: str = "fp32"
) -> dict[str, torch.Tensor]:
    import torch

    dtype, _, scale = _FORMATS[format]
    with torch.autocast(where.type, getattr(torch, dtype), enabled=format != "fp32"):
        output = model(**{key: tensor.to(where) for key, tensor in batch.items()})
    (output.loss * scale).backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad /= scale  # a power of two: exact
    gradients = {
        _GRADIENT + name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
        if esm2.is_trained(name)
    }
    return {"loss": output.loss.detach(), "logits": output.logits.detach(), **gradients}


def _in_float64(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU."""
    import torch

    return tensor.detach().to("cpu", torch.float64, copy=True)


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _zeros(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    return [name for name, tensor in tensors.items() if name.startswith(_GRADIENT) and not bool(tensor.any())]


def _train(model: torch.nn.Module, batch: Mapping[str, torch.Tensor], format: str) -> dict[str, torch.Tensor]:
    """The gradients of one step, and the parameters after it."""
    import torch

    training = facts.training()
    model = model.to(device())
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=training.learning_rate,
        betas=training.betas,
        eps=training.eps,
        weight_decay=training.weight_decay,
    )
    with torch.autocast(device().type, dtype=torch.bfloat16, enabled=format == "bf16"):
        loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    named = dict(model.named_parameters())
    return {**{_GRADIENT + name: _gradient(parameter) for name, parameter in named.items()}, **named}


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _shift_right(bits: torch.Tensor, by: int) -> torch.Tensor:
    # torch shifts the sign in.
    return (bits >> by) & ((1 << (64 - by)) - 1)


@contextmanager
def _deterministic() -> Iterator[None]:
    import torch

    was, warned_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warned_only)
