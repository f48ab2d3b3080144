"""How much memory training takes: a model of it, from the shape of a transformer and the way in which it is trained.

**Weights.** AdamW keeps two moments of each weight. With mixed precision the weights are in float32 and the products
use copies in bfloat16: for each parameter 4 bytes of weight, 2 of copy, 4 of gradient and 8 of moments.

**Activations** are what the forward pass keeps for the backward pass. The terms are those of V. Korthikanti et al.,
"Reducing Activation Recomputation in Large Transformer Models", 2022, section 4.1, with two changes: flash attention
keeps no scores (no term with the square of the length) but one float32 for each head and token, and there is a mask
of one byte only where there is dropout. With hidden size h, feed-forward width f and keys' width k (h, less with
grouped queries), these are kept for each token and layer:

- what comes into the two norms: 2 h, and two float32 of each norm;
- what comes into the projections to queries, keys and values: h (3 h where autocast makes a copy for each);
- queries h, keys and values 2 k, the attention's output h;
- what comes into the feed-forward layer: h;
- what its activation function keeps, and its output: 2 f, 3 f for a gated one, 4 f for GELU written out as
  x * 0.5 * (1 + erf(x / sqrt(2))), as transformers does for ESM-2.

Above the layers there is a head: 7 h, and three float32 for each entry of the vocabulary: the logits, their
logarithms, and the gradient that comes back to them.

**The peak** of a step is the larger of two: when the backward pass begins (all activations and copies, no gradients
yet), and when it ends (all gradients, no activations); in between both change in proportion. In either there is also
what the backward pass of one feed-forward layer makes: h, and 2 f, or 5 f where GELU is written out; the head is gone
when the first of them is made.

**Sharding.** DDP keeps the gradients a second time, in the buckets that it sends. FSDP divides weights, gradients and
moments by the number of GPUs; what is outside the layers, and two layers at a time, are whole on each GPU. Context
parallelism divides the tokens. Megatron, whose buffers hold all gradients at all times, is taken to divide everything
by the number of GPUs. Nothing is computed again in the backward pass to save memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_bionemo.facts.targets import Overhead, Shape, Sharding

_FLOAT32 = 4
# Of one norm and token: mean and reciprocal standard deviation.
_NORM_STATISTICS = 2 * _FLOAT32
_HEAD_WIDTHS = 7
_WHOLE_LAYERS = 2


@dataclass(frozen=True)
class Training:
    """A way to train: bytes for each parameter, bytes for each element of an activation, and what is kept.

    ``copies`` of the weights are what products use; 0 where they use the weights themselves. ``residual`` is an
    element of what runs along the layers, ``activation`` one of everything else. ``projection_inputs`` counts tensors
    of width h; ``kept`` those of width f where the feed-forward layer is not gated, ``transient`` those of width f in
    its backward pass (see the module).
    """

    weights: int
    copies: int
    gradients: int
    moments: int
    residual: int
    activation: int
    projection_inputs: int
    kept: int
    transient: int

    @property
    def multiplied(self) -> int:
        """Bytes for each parameter of what products use."""
        return self.copies or self.weights


FLOAT32 = Training(4, 0, 4, 8, residual=4, activation=4, projection_inputs=1, kept=4, transient=5)
"""transformers' ESM-2, all in float32."""

AUTOCAST = Training(4, 2, 4, 8, residual=4, activation=2, projection_inputs=3, kept=4, transient=5)
"""transformers' ESM-2 under autocast to bfloat16, norms and residual in float32."""

FUSED = Training(4, 2, 4, 8, residual=2, activation=2, projection_inputs=1, kept=2, transient=2)
"""Transformer Engine's layers in bfloat16 over weights in float32, as BioNeMo's recipes train with master weights."""


@dataclass(frozen=True)
class Plan:
    """How many GPUs train together, and how the work is divided among them."""

    gpus: int = 1
    sharding: Sharding | None = None
    context_parallel: int = 1

    def __str__(self) -> str:
        if self.gpus == 1:
            return "1 GPU"
        context = f", context parallel {self.context_parallel}" if self.context_parallel > 1 else ""
        return f"{self.sharding} over {self.gpus} GPUs{context}"


SINGLE = Plan()


def plans(gpus: int, shardings: Sequence[Sharding], has_context_parallelism: bool) -> tuple[Plan, ...]:
    """The ways to train on so many GPUs, the simplest first."""
    if gpus == 1:
        return (SINGLE,)
    contexts = [size for size in (2, 4, 8) if gpus % size == 0] if has_context_parallelism else []
    return (*(Plan(gpus, sharding) for sharding in shardings), *(Plan(gpus, "FSDP", size) for size in contexts))


def tensors(shape: Shape, training: Training, sequences: int, length: int, plan: Plan = SINGLE) -> int:
    """Bytes of the tensors on each GPU at the peak of a training step.

    :param shape: of the model. Where it is no transformer, its layers count as those of a transformer of their
        widths: the convolutions of StripedHyena come on top, so it is the least that it can be.
    :param training: how it is trained.
    :param sequences: the micro-batch, on each GPU.
    :param length: tokens of a sequence.
    :param plan: how the work is divided.
    """
    tokens = sequences * length / plan.context_parallel
    if not shape.is_transformer:
        each = training.weights + training.copies + training.gradients + training.moments
        activations = tokens * (shape.layers * layer_bytes(shape, training) + _head_bytes(shape, training))
        return round((shape.parameters * each + activations) / plan.gpus)
    parameters = shape.parameters / (plan.gpus if plan.sharding == "FSDP" else 1)
    kept = parameters * (training.weights + training.moments) + _unsharded(shape, training, plan)
    if plan.sharding == "DDP":
        kept += parameters * training.gradients
    gradients = parameters * training.gradients
    copies = shape.parameters * training.copies if plan.sharding != "FSDP" else 0
    layers = tokens * shape.layers * layer_bytes(shape, training)
    transient = tokens * (training.residual * shape.hidden + training.activation * training.transient * shape.ffn)
    begins = copies + layers + max(transient, tokens * _head_bytes(shape, training))
    ends = gradients + transient
    return round(kept + max(begins, ends))


def layer_bytes(shape: Shape, training: Training) -> int:
    """Bytes that one layer keeps of each token for the backward pass."""
    hidden, keys = shape.hidden, shape.hidden * shape.key_heads // shape.heads
    functions = training.kept + shape.gated
    elements = training.projection_inputs * hidden + hidden + 2 * keys + hidden + hidden + functions * shape.ffn
    statistics = 2 * _NORM_STATISTICS + _FLOAT32 * shape.heads
    masks = 2 * hidden if shape.dropout else 0
    return training.residual * 2 * hidden + training.activation * elements + statistics + masks


def _head_bytes(shape: Shape, training: Training) -> int:
    widths = training.residual + (_HEAD_WIDTHS - 1) * training.activation
    return widths * shape.hidden + 3 * _FLOAT32 * shape.vocabulary


def _unsharded(shape: Shape, training: Training, plan: Plan) -> float:
    if plan.sharding != "FSDP":
        return 0
    outside = min(shape.parameters, shape.vocabulary * shape.hidden * (1 if shape.tied else 2))
    layers = (shape.parameters - outside) * _WHOLE_LAYERS / shape.layers
    return (outside + layers) * (training.multiplied + training.gradients)


def needed(
    shape: Shape, training: Training, sequences: int, length: int, overhead: Overhead, plan: Plan = SINGLE
) -> int:
    """Bytes that each GPU must have: the tensors, what the allocator cannot use, and what is outside of it."""
    used = tensors(shape, training, sequences, length, plan)
    return round(used * (1 + overhead.fragmentation) + overhead.context_bytes)


def largest_micro_batch(
    shape: Shape, training: Training, length: int, overhead: Overhead, plan: Plan, memory_bytes: int
) -> int | None:
    """The most sequences that fit on each GPU; 0 where not even one does, None where nobody can say."""
    if not shape.is_transformer:
        return None

    def fits(sequences: int) -> bool:
        return needed(shape, training, sequences, length, overhead, plan) <= memory_bytes

    if not fits(1):
        return 0
    fitting, failing = 1, 2
    while fits(failing):
        fitting, failing = failing, 2 * failing
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        fitting, failing = (middle, failing) if fits(middle) else (fitting, middle)
    return fitting


def flop_per_token(shape: Shape, length: int) -> int | None:
    """Model FLOPs of one training step for each token, 6 N + 12 L H T; None where it is no transformer.

    N leaves out an embedding that is only looked up. Source: A. Chowdhery et al., "PaLM", 2022, appendix B.
    """
    if not shape.is_transformer:
        return None
    multiplied = shape.parameters - (0 if shape.tied else shape.vocabulary * shape.hidden)
    return 6 * multiplied + 12 * shape.layers * shape.hidden * length
