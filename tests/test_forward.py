"""A training step: healthy kernels agree with the CPU in float64 and repeat; wrong ones are found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._decomp.decompositions import native_layer_norm_backward

from kernels import replaced
from pytest_bionemo.workloads import esm2, forward

Override = Callable[[str, Callable[..., Any]], None]


@pytest.fixture
def override() -> Iterator[Override]:
    """Put a kernel in the place of torch's own for the CPU, for as long as the test lasts."""
    with ExitStack() as stack:
        yield lambda operator, kernel: stack.enter_context(replaced(operator, kernel))


def is_the_references(tensor: Tensor) -> bool:
    """The reference stands for another processor, which the fault of the device does not concern."""
    return tensor.dtype is torch.float64


def right_addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    # The overload that writes into a tensor has a kernel of its own, which nothing here replaces.
    out = torch.empty(a.shape[0], b.shape[1], dtype=a.dtype)
    return torch.addmm(bias, a, b, beta=beta, alpha=alpha, out=out)


def right_mm(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a, b, out=torch.empty(a.shape[0], b.shape[1], dtype=a.dtype))


def right_gelu_backward(gradient: Tensor, x: Tensor, *, approximate: str = "none") -> Tensor:
    out = torch.empty_like(x)
    torch.ops.aten.gelu_backward.grad_input(gradient, x, approximate=approximate, grad_input=out)
    return out


def as_tf32(tensor: Tensor) -> Tensor:
    """Rounded to 11 significant bits."""
    return ((tensor.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def small(seed: int = 0, format: str = "fp32") -> dict[str, Any]:
    return forward.small(hidden=32, sequences=2, length=32, seed=seed, format=format)


def beyond(found: dict[str, Any]) -> set[str]:
    return {name for name, error in found["errors"].items() if error > found["bound"]}


# --- against the CPU ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_device_agrees_with_room_to_spare(seed: int) -> None:
    found = small(seed)
    assert max(found["errors"].values()) < found["bound"] / 5
    assert (found["not_finite"], found["zero"], found["zero_on_cpu"]) == ([], [], [])
    assert found["device"] == "cpu"
    assert found["loss"] == pytest.approx(found["expected_loss"], rel=1e-6)


@pytest.mark.parametrize(("name", "layers"), [("tiny", 2), ("8M", 6)])
def test_esm2_agrees_with_room_to_spare(name: str, layers: int) -> None:
    found = forward.esm2_step(name, sequences=2, length=32, seed=1)
    assert max(found["errors"].values()) < found["bound"] / 3
    assert (found["not_finite"], found["zero"], found["zero_on_cpu"]) == ([], [], [])
    parameters = [key for key, _ in esm2.build(name).named_parameters() if "contact_head" not in key]
    assert len(parameters) == 16 * layers + 8
    assert list(found["errors"]) == ["loss", "logits", *(f"gradient of {key}" for key in parameters)]


def test_the_step_depends_on_nothing_but_the_seed() -> None:
    assert small(1) == small(1)
    assert small(1)["loss"] != small(2)["loss"]


def test_the_bound_is_the_formula_as_it_is_written_down() -> None:
    assert forward.bound(6, 1280) == 4 * 2**-24 * math.sqrt(24 * 6 * 1280)


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 3.0], [1.0, 4.0], 0.25),
        ([-1.0, 4.0], [1.0, 4.0], 0.5),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 1e-30], [0.0, 0.0], math.inf),
    ],
)
def test_the_error_is_the_largest_difference_as_a_share_of_the_largest_element(
    found: list[float], expected: list[float], error: float
) -> None:
    assert forward.error_of(torch.tensor(found), torch.tensor(expected, dtype=torch.float64)) == error


def test_products_in_tf32_are_found_in_both_passes(override: Override) -> None:
    def mm(a: Tensor, b: Tensor) -> Tensor:
        return right_mm(a, b) if is_the_references(a) else right_mm(as_tf32(a), as_tf32(b))

    def addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
        return right_addmm(bias, a, b) if is_the_references(a) else right_addmm(bias, as_tf32(a), as_tf32(b))

    override("mm", mm)
    override("addmm", addmm)
    assert {"logits", "gradient of embedding.weight"} <= beyond(small())


def test_one_wrong_element_of_one_product_is_found_at_every_place(override: Override) -> None:
    place = torch.Generator().manual_seed(20261122)

    def addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
        result = right_addmm(bias, a, b, beta=beta, alpha=alpha)
        if not is_the_references(a) and b.shape == (32, 128):  # the layers that widen
            result.view(-1)[int(torch.randint(result.numel(), (1,), generator=place))] += result.std()
        return result

    override("addmm", addmm)
    assert all("logits" in beyond(small(seed)) for seed in range(30))


def test_one_element_that_is_not_a_number_is_found(override: Override) -> None:
    def addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
        result = right_addmm(bias, a, b, beta=beta, alpha=alpha)
        if not is_the_references(a):
            result[3, 7] = math.nan
        return result

    override("addmm", addmm)
    found = small()
    assert {"loss", "logits", "gradient of output.weight"} <= set(found["not_finite"])
    assert not set(found["not_finite"]) & set(found["errors"])


def test_a_gradient_that_is_a_thousandth_too_large_is_found(override: Override) -> None:
    def gelu_backward(gradient: Tensor, x: Tensor, *, approximate: str = "none") -> Tensor:
        result = right_gelu_backward(gradient, x, approximate=approximate)
        return result if is_the_references(x) else result * 1.001

    override("gelu_backward", gelu_backward)
    wrong = beyond(small())
    assert "gradient of layers.1.widen.weight" in wrong
    assert "gradient of layers.1.narrow.weight" not in wrong, "what comes before the fault in the backward pass"
    assert not wrong & {"loss", "logits"}


def test_a_gradient_that_is_lost_is_named(override: Override) -> None:
    def layer_norm_backward(gradient: Tensor, x: Tensor, *rest: Any) -> tuple[Any, ...]:
        to_input, to_weight, to_bias = native_layer_norm_backward(gradient, x, *rest)
        assert to_weight is not None
        return to_input, to_weight if is_the_references(x) else torch.zeros_like(to_weight), to_bias

    override("native_layer_norm_backward", layer_norm_backward)
    found = small()
    assert found["zero"] == [
        *(f"gradient of layers.{layer}.{norm}.weight" for layer in (0, 1)
          for norm in ("attention_norm", "feed_forward_norm")),
        "gradient of norm.weight",
    ]  # fmt: skip
    assert found["zero_on_cpu"] == []


def test_a_parameter_that_the_model_does_not_use_is_told_from_a_lost_gradient() -> None:
    model = forward.make_encoder(16, 1, seed=0)
    model.idle = torch.nn.Parameter(torch.ones(3))
    model.contact_head = torch.nn.Linear(2, 1)
    found = forward.compare(model, esm2.batch(1, 8, seed=0), tolerance=1e-3)
    assert found["zero"] == found["zero_on_cpu"] == ["gradient of idle"]
    assert not [name for name in found["errors"] if "contact_head" in name], "which the loss does not depend on"


def test_a_reference_that_is_not_finite_is_no_reference() -> None:
    model = forward.make_encoder(16, 1, seed=0)
    model.get_parameter("output.bias").data[4] = math.inf
    with pytest.raises(ArithmeticError, match=r"is not finite on the CPU: it cannot serve as the reference"):
        forward.compare(model, esm2.batch(1, 8, seed=0), tolerance=1e-3)


def test_float32_products_are_not_computed_in_tf32_and_the_setting_is_left_as_it_was(override: Override) -> None:
    seen = set()

    def mm(a: Tensor, b: Tensor) -> Tensor:
        if not is_the_references(a):
            seen.add(torch.get_float32_matmul_precision())
        return right_mm(a, b)

    override("mm", mm)
    torch.set_float32_matmul_precision("medium")
    try:
        small()
        assert seen == {"highest"}
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_every_parameter_of_the_small_encoder_has_a_gradient_worth_comparing() -> None:
    """Not rounding alone, as the bias of keys would have."""
    found = small()
    assert len(found["errors"]) == 2 + 1 + 2 * 11 + 4
    assert max(found["errors"].values()) < 1e-5


def test_a_width_that_no_head_divides_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden size 40 is no multiple of 16"):
        forward.make_encoder(40, 1, seed=0)


# --- in 16 bits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["bf16", "fp16"])
@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_device_agrees_in_16_bits_with_room_to_spare(format: str, seed: int) -> None:
    found = small(seed, format)
    worst = max(found["errors"].values())
    assert found["bound"] / 50 < worst < found["bound"] / 5, "so much is rounding: it was computed in 16 bits"
    assert (found["not_finite"], found["zero"], found["zero_on_cpu"]) == ([], [], [])
    assert found["errors"].keys() == small(seed)["errors"].keys()


@pytest.mark.parametrize(("format", "unit"), [("bf16", 2**-8), ("fp16", 2**-11)])
def test_the_bound_of_16_bits_is_the_formula_as_it_is_written_down(format: str, unit: float) -> None:
    assert small(format=format)["bound"] == 4 * unit * math.sqrt(24 * 2)


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0),
        ([3.0, 4.5], [3.0, 4.0], 0.1),
        ([0.0, 0.0], [3.0, 4.0], 1.0),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 1e-30], [0.0, 0.0], math.inf),
    ],
)
def test_the_error_of_a_norm_is_a_share_of_it(found: list[float], expected: list[float], error: float) -> None:
    assert forward.error_of_norm(torch.tensor(found), torch.tensor(expected, dtype=torch.float64)) == error


@pytest.mark.parametrize(("format", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_gradients_of_weights_that_are_wrong_in_16_bits_alone_are_found(
    override: Override, format: str, dtype: torch.dtype
) -> None:
    def mm(a: Tensor, b: Tensor) -> Tensor:
        is_of_a_weight = a.dtype is dtype and a.stride(0) == 1 != a.stride(1)
        return right_mm(a, b) * 1.25 if is_of_a_weight else right_mm(a, b)

    override("mm", mm)
    found = small(format=format)
    linear = ("query_key_value", "attention_output", "widen", "narrow")
    assert beyond(found) == {
        *(f"gradient of layers.{layer}.{name}.weight" for layer in (0, 1) for name in linear),
        "gradient of output.weight",
    }
    assert all(0.2 < found["errors"][name] < 0.3 for name in beyond(found))
    assert beyond(small()) == set(), "in float32 they are right"


# --- the optimiser --------------------------------------------------------------------------------------------


def wrong_updates(found: dict[str, Any]) -> set[str]:
    return {name for name, error in found["update_errors"].items() if error > found["update_bound"]}


@pytest.mark.parametrize("seed", range(3))
def test_a_healthy_adamw_does_what_its_formula_says_with_room_to_spare(seed: int) -> None:
    found = small(seed)
    assert found["update_errors"].keys() == dict(forward.make_encoder(32, 2, seed).named_parameters()).keys()
    assert 0 < max(found["update_errors"].values()) < found["update_bound"] / 50


def test_half_an_update_is_found_in_every_parameter(override: Override) -> None:
    """The kernel is wrong in float64, too: the formula needs none of it."""

    def addcdiv_(self: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
        return self.add_(a / b * (value / 2))

    override("addcdiv_", addcdiv_)
    found = small()
    assert wrong_updates(found) == found["update_errors"].keys()
    assert all(0.3 < error < 0.7 for error in found["update_errors"].values())
    assert beyond(found) == set(), "before it all is right"


def test_a_first_moment_that_forgets_the_step_before_is_found(override: Override) -> None:
    def lerp_(self: Tensor, end: Tensor, weight: float) -> Tensor:
        return self.copy_(end * weight)

    override("lerp_.Scalar", lerp_)
    found = small()
    assert wrong_updates(found) == found["update_errors"].keys()


def test_a_weight_decay_that_is_left_out_is_found(override: Override) -> None:
    """It is a product with a number, in place, before the moments."""

    def mul_(self: Tensor, other: Tensor) -> Tensor:
        factor = 1.0 if float(other) == 0.99 else other
        return torch.mul(self, factor, out=self)

    override("mul_.Tensor", mul_)
    found = small()
    assert "norm.weight" in wrong_updates(found)


def test_an_update_that_is_not_a_number_is_wrong(override: Override) -> None:
    def addcdiv_(self: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
        self.view(-1)[0] = math.nan
        return self

    override("addcdiv_", addcdiv_)
    found = small()
    assert set(found["update_errors"].values()) == {math.inf}
    assert found["not_finite"] == []


def test_without_a_finite_gradient_there_is_no_update_to_judge(override: Override) -> None:
    def gelu_backward(gradient: Tensor, x: Tensor, *, approximate: str = "none") -> Tensor:
        result = right_gelu_backward(gradient, x, approximate=approximate)
        return result if is_the_references(x) else result * math.nan

    override("gelu_backward", gelu_backward)
    found = small()
    assert "gradient of layers.0.widen.weight" in found["not_finite"]
    assert found["update_errors"].keys() == {
        name.removeprefix("gradient of ") for name in found["errors"] if name.startswith("gradient of ")
    }
    model = forward.make_encoder(16, 1, seed=0)
    assert forward.update_errors(model) == {}, "no gradient at all"


# --- the same bits again --------------------------------------------------------------------------------------


def repeat(format: str = "fp32", repeats: int = 3) -> dict[str, Any]:
    return forward.repeat(format, hidden=32, sequences=2, length=16, repeats=repeats, seed=4)


@pytest.mark.parametrize("format", ["fp32", "bf16"])
def test_a_healthy_device_gives_the_same_bits_every_time(format: str) -> None:
    found = repeat(format)
    assert found["differing"] == []
    assert found["found_flip"] is True
    assert found["tensors"] == 2 * (1 + 11 + 4), "the gradient and the new value of each parameter"
    parameters = sum(parameter.numel() for parameter in forward.make_encoder(32, 1, seed=4).parameters())
    assert found["compared_elements"] == 2 * 2 * parameters


@pytest.mark.parametrize("format", ["fp32", "bf16"])
def test_a_kernel_that_is_sometimes_off_by_one_bit_is_found(override: Override, format: str) -> None:
    calls = []

    def gelu_backward(gradient: Tensor, x: Tensor, *, approximate: str = "none") -> Tensor:
        result = right_gelu_backward(gradient, x, approximate=approximate)
        calls.append(x.dtype)
        if len(calls) == 3:
            bits = torch.int32 if x.dtype is torch.float32 else torch.int16
            result.view(bits).view(-1)[int(result.abs().argmax())] ^= 1
        return result

    override("gelu_backward", gelu_backward)
    found = repeat(format)
    assert calls == [torch.float32 if format == "fp32" else torch.bfloat16] * 3
    assert "gradient of layers.0.widen.weight" in found["differing"]
    assert "gradient of layers.0.narrow.weight" not in found["differing"], "what comes before it"


def test_every_repeat_is_computed(override: Override) -> None:
    calls = []

    def gelu_backward(gradient: Tensor, x: Tensor, *, approximate: str = "none") -> Tensor:
        calls.append(torch.are_deterministic_algorithms_enabled())
        return right_gelu_backward(gradient, x, approximate=approximate)

    override("gelu_backward", gelu_backward)
    repeat(repeats=5)
    assert calls == [True] * 5


@pytest.mark.parametrize("was", [(False, False), (True, True), (True, False)])
def test_the_algorithms_are_left_as_they_were(was: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(was[0], warn_only=was[1])
    try:
        repeat(repeats=2)
        assert torch.are_deterministic_algorithms_enabled() is was[0]
        assert torch.is_deterministic_algorithms_warn_only_enabled() is was[1]
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("format", "repeats"), [("fp16", 3), ("fp32", 1)])
def test_what_could_not_differ_is_refused(format: str, repeats: int) -> None:
    with pytest.raises(ValueError, match="expected fp32 or bf16, and at least 2"):
        repeat(format, repeats)


def test_a_comparison_that_sees_nothing_does_not_prove_itself(override: Override) -> None:
    def add_up(x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
        assert x.dtype is torch.int64, "of the hash alone"
        return torch.zeros((), dtype=torch.int64)

    trained = {"gradient of a": torch.randn(8), "gradient of b": torch.randn(3)}
    assert forward.finds_flip(trained, seed=0) is True
    override("sum", add_up)
    assert forward.finds_flip(trained, seed=0) is False


# --- the hash -------------------------------------------------------------------------------------------------


def splitmix64(bits: int) -> int:
    """The published finaliser, in Python's integers."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) % 2**64
    return bits ^ (bits >> 31)


def test_the_hash_is_the_one_that_is_written_down() -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(1))
    bits = values.view(torch.int32).tolist()
    expected = sum(splitmix64((bit + place * 0x9E3779B97F4A7C15) % 2**64) for place, bit in enumerate(bits, 1))
    assert forward.hash_of(values) % 2**64 == expected % 2**64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_one_flipped_bit_is_found_a_hundred_times_of_a_hundred(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(1000, generator=generator).to(dtype)
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    known = forward.hash_of(values)
    for trial in range(100):
        flipped = values.clone()
        place = int(torch.randint(1000, (1,), generator=generator))
        flipped.view(integers)[place] ^= 1 << trial % (8 * values.element_size() - 1)
        assert forward.hash_of(flipped) != known


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1.0, 2.0], [2.0, 1.0]),
        ([1.0, 1.0, 3.0], [1.0, 3.0, 1.0]),
        ([0.0], [-0.0]),
        ([0.0], [0.0, 0.0]),
        ([1.0, 2.0, 3.0], [1.0, 2.0]),
    ],
)
def test_other_places_signs_and_lengths_have_other_hashes(one: list[float], other: list[float]) -> None:
    assert forward.hash_of(torch.tensor(one)) != forward.hash_of(torch.tensor(other))


def test_the_same_bits_have_the_same_hash_however_they_lie_in_memory() -> None:
    matrix = torch.randn(6, 4)
    matrix[1, 2] = math.nan
    assert forward.hash_of(matrix) == forward.hash_of(matrix.clone()) == forward.hash_of(matrix.T.contiguous().T)
