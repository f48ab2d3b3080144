"""The topic forward: a rehearsal of it passes on healthy kernels, and each fault is one finding that names it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, cast

import pytest
from packaging.version import Version

from conftest import Rig, Run
from faults import proves
from pytest_bionemo.checking import CheckFailed, NotApplicable, NotRun
from pytest_bionemo.checks import forward
from pytest_bionemo.compute import Compute
from pytest_bionemo.facts import esm2
from pytest_bionemo.model import Action, Gpu
from pytest_bionemo.worker import Trouble, WorkloadFailed

SMALL = "forward::small_encoder_agrees[cpu0]"
AUTOCAST = "forward::autocast_agrees[cpu0]"
ADAMW = "forward::adamw_agrees[cpu0]"
ESM2 = "forward::esm2_agrees[cpu0]"
BUILDS = "forward::esm2_builds"
HAS = "forward::has_transformers"
REPEATS = ("forward::step_repeats[cpu0-fp32]", "forward::step_repeats[cpu0-bf16]")

# Kernels of the worker, in the place of torch's own. The float64 of the reference is left right: it stands for
# another processor than the device. The overloads that write into a tensor have kernels of their own.
KERNELS = """
import warnings
warnings.simplefilter("ignore")
library = torch.library.Library("aten", "IMPL")
torch.the_library_of_this_fault = library

def right_addmm(bias, a, b, *, beta=1, alpha=1):
    return torch.addmm(bias, a, b, beta=beta, alpha=alpha, out=torch.empty(a.shape[0], b.shape[1], dtype=a.dtype))

def right_gelu_backward(gradient, x, *, approximate="none"):
    out = torch.empty_like(x)
    return torch.ops.aten.gelu_backward.grad_input(gradient, x, approximate=approximate, grad_input=out)

def right_layer_norm_backward(*given):
    from torch._decomp.decompositions import native_layer_norm_backward
    return native_layer_norm_backward(*given)
"""
ONE_NAN = """
def addmm(*given, **options):
    result = right_addmm(*given, **options)
    if result.dtype is torch.float32:
        result[1, 2] = float("nan")
    return result

library.impl("addmm", addmm, "CPU")
"""
A_THOUSANDTH_TOO_LARGE = """
def gelu_backward(gradient, x, **options):
    result = right_gelu_backward(gradient, x, **options)
    return result * 1.001 if x.dtype is torch.float32 else result

library.impl("gelu_backward", gelu_backward, "CPU")
"""
# Their first operand is stored by columns.
WRONG_GRADIENTS_OF_WEIGHTS_IN_16_BITS = """
def mm(a, b):
    result = torch.mm(a, b, out=torch.empty(a.shape[0], b.shape[1], dtype=a.dtype))
    return result * 1.25 if a.element_size() == 2 and a.stride(0) == 1 != a.stride(1) else result

library.impl("mm", mm, "CPU")
"""
HALF_AN_UPDATE = """
library.impl("addcdiv_", lambda self, a, b, *, value=1: self.add_(a / b * (value / 2)), "CPU")
"""
# Of ESM-2 alone, which is 320 wide.
ONE_GRADIENT_LOST = """
def layer_norm_backward(gradient, x, *rest):
    to_input, to_weight, to_bias = right_layer_norm_backward(gradient, x, *rest)
    is_ours = x.dtype is torch.float32 and x.shape[-1] == 320
    return to_input, torch.zeros_like(to_weight) if is_ours else to_weight, to_bias

library.impl("native_layer_norm_backward", layer_norm_backward, "CPU")
"""
NOW_AND_THEN_ONE_BIT = """
import itertools
calls = itertools.count(1)

def gelu_backward(gradient, x, **options):
    result = right_gelu_backward(gradient, x, **options)
    if next(calls) % 2 == 0:
        bits = torch.int32 if x.dtype is torch.float32 else torch.int16
        result.view(bits).view(-1)[int(result.abs().argmax())] ^= 1
    return result

library.impl("gelu_backward", gelu_backward, "CPU")
"""
BLIND_SUMS_OF_INTEGERS = """
def add_up(x, dim=None, keepdim=False, *, dtype=None):
    if x.dtype is torch.int64 and dim is None and x.numel() > 100:
        return torch.zeros((), dtype=torch.int64)
    return x.double().sum(dim=dim, keepdim=keepdim).to(x.dtype)

library.impl("sum", lambda x, *, dtype=None: add_up(x), "CPU")
"""
A_MASK_THAT_IS_IGNORED = """
right_attention = torch.nn.functional.scaled_dot_product_attention

def attention(query, key, value, attn_mask=None, **options):
    return right_attention(query, key, value, None if query.dtype is torch.float32 else attn_mask, **options)

torch.nn.functional.scaled_dot_product_attention = attention
"""
HUGE_WEIGHTS = """
normal_ = torch.Tensor.normal_
torch.Tensor.normal_ = lambda tensor, mean=0, std=1, **rest: normal_(tensor, mean, 10 * std, **rest)
"""


def messages(run: Run) -> dict[str, str]:
    """What the findings of the run say, by check."""
    found = [*run.bionemo["blockers"], *run.bionemo["warnings"]]
    return {entry["check"].removeprefix("bionemo/"): entry["message"] for entry in found}


def test_a_healthy_rehearsal_passes(compute_rig: Rig) -> None:
    run = compute_rig.rehearse("bionemo/forward")
    checks = (SMALL, AUTOCAST, ADAMW, HAS, BUILDS, ESM2, *REPEATS)
    assert {check: run.outcome(check) for check in checks} == dict.fromkeys(checks, "passed")
    assert run.verdict == "INCONCLUSIVE"
    measured = {entry["name"]: entry for entry in run.bionemo["measurements"]}
    for name in ("small_encoder_error", "esm2_8m_error"):
        assert 0 < measured[name]["value"] < measured[name]["reference"] < 2e-4
        assert measured[name]["device"] == "cpu0"
    assert 1e-3 < measured["small_encoder_error_bf16"]["value"] < measured["small_encoder_error_bf16"]["reference"]
    assert 0 < measured["adamw_error"]["value"] < 1e-6 < measured["adamw_error"]["reference"]
    assert all(measured[f"repeated_elements_{format}"]["value"] > 1e5 for format in ("fp32", "bf16"))


@proves("forward::small_encoder_agrees", "one NaN in a product", "kernel")
def test_one_element_that_is_not_a_number_is_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(KERNELS + ONE_NAN)
    run = compute_rig.rehearse("bionemo/forward")
    assert run.verdict == "BLOCKED"
    found = messages(run)
    assert found.keys() == {SMALL, ESM2}
    assert run.gap(ADAMW)["waits_for"] == f"bionemo/{SMALL}"
    assert found[SMALL].startswith("cpu0: not finite in a small encoder: loss, logits, gradient of embedding.weight")
    assert found[ESM2].startswith("cpu0: not finite in ESM-2 8M: loss, logits, gradient of esm.embeddings")


@proves("forward::small_encoder_agrees", "a gradient is a thousandth too large", "kernel")
def test_a_gradient_that_is_a_thousandth_too_large_is_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(KERNELS + A_THOUSANDTH_TOO_LARGE)
    run = compute_rig.rehearse(f"bionemo/{SMALL}")
    assert run.outcome(SMALL) == "failed"
    said = run.finding(SMALL)
    assert said["message"].startswith("cpu0: the backward pass of a small encoder is wrong, ")
    assert "gradient of layers." in said["message"]
    assert said["message"].endswith("of its largest element, expected at most 2.6e-05")
    assert said["device"] == "cpu0"


@proves("forward::autocast_agrees", "gradients of weights are wrong in 16 bits", "kernel")
def test_gradients_that_are_wrong_in_16_bits_alone_are_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(KERNELS + WRONG_GRADIENTS_OF_WEIGHTS_IN_16_BITS)
    run = compute_rig.rehearse(*(f"bionemo/{check}" for check in (SMALL, AUTOCAST, ADAMW)))
    assert [run.outcome(check) for check in (SMALL, AUTOCAST, ADAMW)] == ["passed", "failed", "passed"]
    said = run.finding(AUTOCAST)
    assert said["message"].startswith("cpu0: the backward pass of a small encoder in BF16 is wrong, 9 of 29 tensors ")
    assert ".weight by 2.5e-01 of its norm, expected at most 1.1e-01" in said["message"]
    assert said["device"] == "cpu0"


@proves("forward::esm2_agrees", "attention ignores its mask", "kernel")
@pytest.mark.skipif(Version(version("transformers")) < Version("5"), reason="it computes attention by itself")
def test_attention_that_looks_at_padding_is_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(A_MASK_THAT_IS_IGNORED)
    run = compute_rig.rehearse(f"bionemo/{ESM2}")
    assert run.blockers == [ESM2]
    assert " tensors are off" in run.finding(ESM2)["message"]


@proves("forward::adamw_agrees", "AdamW takes half of its step", "kernel")
def test_an_adamw_that_takes_half_of_its_steps_is_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(KERNELS + HALF_AN_UPDATE)
    run = compute_rig.rehearse(*(f"bionemo/{check}" for check in (SMALL, ADAMW, ESM2)))
    found = messages(run)
    assert found.keys() == {ADAMW, ESM2}
    assert found[ADAMW].startswith("cpu0: AdamW changes 27 of 27 parameters of a small encoder wrongly: ")
    assert found[ADAMW].endswith(" of its largest change, expected at most 6.1e-05")
    assert " parameters of ESM-2 8M wrongly: " in found[ESM2]
    assert run.finding(ADAMW)["device"] == "cpu0"


def test_gradients_that_are_lost_are_named(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(KERNELS + ONE_GRADIENT_LOST)
    run = compute_rig.rehearse(f"bionemo/{SMALL}", f"bionemo/{ESM2}")
    assert run.outcome(SMALL) == "passed"
    assert run.outcome(ESM2) == "failed"
    # A norm in each attention and one after it in each of the six layers, one at the end, and one in the head.
    assert run.finding(ESM2)["message"] == (
        "cpu0: zero in ESM-2 8M, and not on the CPU: "
        "gradient of esm.encoder.layer.0.attention.LayerNorm.weight, "
        "gradient of esm.encoder.layer.0.LayerNorm.weight, "
        "gradient of esm.encoder.layer.1.attention.LayerNorm.weight and 11 more"
    )


@proves("forward::step_repeats", "a kernel is off by one bit now and then", "kernel")
def test_a_kernel_that_is_sometimes_off_by_one_bit_is_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(KERNELS + NOW_AND_THEN_ONE_BIT)
    run = compute_rig.rehearse(*(f"bionemo/{check}" for check in REPEATS))
    for check in REPEATS:
        assert run.outcome(check) == "failed"
        message = run.finding(check)["message"]
        assert message.startswith("cpu0: the same step of training gave other bits in ")
        assert " of 32 tensors: " in message


def test_a_comparison_that_sees_no_flipped_bit_is_no_pass(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(KERNELS + BLIND_SUMS_OF_INTEGERS)
    run = compute_rig.rehearse(f"bionemo/{REPEATS[0]}")
    assert run.outcome(REPEATS[0]) == "not_run"
    assert run.gap(REPEATS[0])["reason"] == (
        "cpu0 does not find a bit that was flipped on purpose: its comparison proves nothing"
    )


def test_a_model_that_does_not_begin_at_a_random_guess_is_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(HUGE_WEIGHTS)
    run = compute_rig.rehearse(f"bionemo/{ESM2}")
    assert run.outcome(ESM2) == "failed"
    message = run.finding(ESM2)["message"]
    assert message.startswith("ESM-2 8M begins at a loss of ")
    assert message.endswith(" on the CPU, expected 3.497 (a random guess), give or take 0.5")


@proves("forward::esm2_builds", "transformers does not import", "distribution")
def test_a_broken_transformers_is_one_finding_with_its_cause(compute_rig: Rig) -> None:
    package = compute_rig.site / "transformers"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('cannot import name X from huggingface_hub')")
    run = compute_rig.rehearse("bionemo/forward", "--bionemo-expect-gpus=2")
    found = messages(run)
    assert found.keys() == {BUILDS}
    assert " cannot build ESM-2 8M: ImportError: cannot import name X from huggingface_hub" in found[BUILDS]
    for device in ("cpu0", "cpu1"):
        gap = run.gap(f"forward::esm2_agrees[{device}]")
        assert gap["waits_for"] == f"bionemo/{BUILDS}"
        assert run.outcome(f"forward::small_encoder_agrees[{device}]") == "passed"


def test_a_transformers_that_builds_another_model_is_found(compute_rig: Rig) -> None:
    package = compute_rig.site / "transformers"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import torch\n"
        "def EsmConfig(**settings): return settings\n"
        "def EsmForMaskedLM(config): return torch.nn.Linear(config['hidden_size'], config['vocab_size'])\n"
    )
    run = compute_rig.rehearse(f"bionemo/{BUILDS}", f"bionemo/{ESM2}")
    assert "builds ESM-2 8M with 10,593 trained parameters, expected 7,512,353" in messages(run)[BUILDS]
    assert run.gap(ESM2)["waits_for"] == f"bionemo/{BUILDS}"


@proves("forward::has_transformers", "transformers is not installed", "distribution")
def test_without_transformers_is_a_warning_and_the_rest_goes_on(torch_rig: Rig) -> None:
    run = torch_rig.rehearse("bionemo/forward")
    assert run.outcome(HAS) == "warned"
    assert run.finding(HAS)["message"] == "transformers is not installed"
    assert run.finding(HAS)["fix"] == ["$ pip install transformers"]
    assert [run.outcome(check) for check in (BUILDS, ESM2)] == ["not_applicable"] * 2
    assert [run.outcome(check) for check in (SMALL, AUTOCAST, ADAMW, *REPEATS)] == ["passed"] * 5


# --- what no rehearsal can show -------------------------------------------------------------------------------


class Worker:
    """A GPU whose workloads answer what the test says."""

    def __init__(self, answer: Mapping[str, Any], compute_capability: tuple[int, int] = (9, 0)) -> None:
        self.answer = answer
        self.compute_capability = compute_capability
        self.is_rehearsal = False
        self.gpu = Gpu(index=3, uuid="GPU-3", name="NVIDIA H200")
        self.name = "gpu3"
        self.asked: Mapping[str, Any] = {}
        self.measured: dict[str, float] = {}

    def __str__(self) -> str:
        return "gpu3 (NVIDIA H200)"

    def size(self, *, rehearsal: Any, standard: Any, full: Any = None) -> Any:
        return standard

    def run(self, workload: str, /, **parameters: Any) -> Mapping[str, Any]:
        if workload == "esm2:try_build":
            return {"error": None, "trained_parameters": esm2.find("8M").trained_parameters}
        self.asked = parameters
        return self.answer

    def measure(self, name: str, value: float, unit: str, **rulers: Any) -> None:
        self.measured[name] = value


def answer(**changes: Any) -> dict[str, Any]:
    right = {
        "device": "cuda",
        "loss": 3.5,
        "expected_loss": 3.5,
        "bound": 1e-4,
        "errors": {"loss": 1e-7, "logits": 1e-6, "gradient of a": 1e-6, "gradient of b": 2e-6},
        "not_finite": [],
        "zero": [],
        "zero_on_cpu": [],
        "update_errors": {"a": 1e-7, "b": 2e-7},
        "update_bound": 2.0**-14,
    }
    return right | changes


def step(worker: Worker) -> None:
    forward.esm2_agrees(cast("Compute", worker))


def test_a_healthy_gpu_passes_and_its_worst_error_is_measured() -> None:
    worker = Worker(answer())
    step(worker)
    assert worker.measured == {"esm2_8m_error": 2e-6}


def test_an_output_that_did_not_come_from_the_gpu_is_found() -> None:
    with pytest.raises(
        CheckFailed, match=r"gpu3 \(NVIDIA H200\): the output of ESM-2 8M is on 'cpu', expected 'cuda'"
    ):
        step(Worker(answer(device="cpu")))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"not_finite": ["loss"], "zero": ["gradient of a"]}, "not finite in ESM-2 8M: loss"),
        ({"zero": ["gradient of a"]}, "zero in ESM-2 8M, and not on the CPU: gradient of a"),
        (
            {"errors": {"loss": 0.0, "logits": 3e-4, "gradient of a": 2e-4}},
            "the forward pass of ESM-2 8M is wrong, 2 of 3 tensors are off: logits by 3.0e-04 of its largest "
            "element, expected at most 1.0e-04",
        ),
        (
            {"errors": {"loss": 0.0, "logits": 0.0, "gradient of a": 1.01e-4}},
            "the backward pass of ESM-2 8M is wrong, 1 of 3 tensors are off: gradient of a by 1.0e-04",
        ),
        (
            {"update_errors": {"a": 1e-7, "b": math.inf}},
            "AdamW changes 1 of 2 parameters of ESM-2 8M wrongly: b by inf of its largest change, expected at most "
            "6.1e-05",
        ),
    ],
)
def test_a_wrong_gpu_is_to_be_replaced(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckFailed) as caught:
        step(Worker(answer(**changes)))
    assert caught.value.finding.message.startswith(f"gpu3 (NVIDIA H200): {said}")
    assert caught.value.finding.action is Action.REPLACE_NODE


@pytest.mark.parametrize(("override", "action"), [("1", Action.FIX_SOFTWARE), ("0", Action.REPLACE_NODE)])
def test_a_gpu_that_is_told_to_use_tf32_is_not_to_be_replaced(
    monkeypatch: pytest.MonkeyPatch, override: str, action: Action
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override)
    with pytest.raises(CheckFailed, match="the forward pass of ESM-2 8M is wrong") as caught:
        step(Worker(answer(errors={"loss": 0.0, "logits": 9e-4})))
    assert caught.value.finding.action is action
    assert ("$ unset NVIDIA_TF32_OVERRIDE" in caught.value.finding.fix) is (override == "1")


def test_a_parameter_without_a_gradient_on_the_cpu_either_is_no_fault_of_the_gpu() -> None:
    with pytest.raises(CheckFailed) as caught:
        step(Worker(answer(zero=["gradient of idle"], zero_on_cpu=["gradient of idle"])))
    assert caught.value.finding.message == "no gradient in ESM-2 8M, on the CPU neither: gradient of idle"
    assert caught.value.finding.severity == "warning"
    assert caught.value.finding.action is Action.FIX_SOFTWARE


@pytest.mark.parametrize(("compute_capability", "applies"), [((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_bf16_is_asked_of_a_gpu_that_has_it(compute_capability: tuple[int, int], applies: bool) -> None:
    found = {"differing": [], "tensors": 32, "compared_elements": 10, "found_flip": True}
    worker = Worker(found, compute_capability)
    if applies:
        forward.step_repeats(cast("Compute", worker), "bf16")
        assert worker.measured == {"repeated_elements_bf16": 10}
    else:
        with pytest.raises(NotApplicable, match=r"gpu3 \(NVIDIA H200\) has no BF16"):
            forward.step_repeats(cast("Compute", worker), "bf16")
    forward.step_repeats(cast("Compute", worker), "fp32")
    assert worker.measured["repeated_elements_fp32"] == 10


@pytest.mark.parametrize(
    ("compute_capability", "format"), [((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((12, 0), "bf16")]
)
def test_autocast_is_to_bf16_where_the_gpu_has_it(compute_capability: tuple[int, int], format: str) -> None:
    worker = Worker(answer(), compute_capability)
    forward.autocast_agrees(cast("Compute", worker))
    assert worker.asked["format"] == format
    assert worker.measured == {f"small_encoder_error_{format}": 2e-6}


def test_tf32_is_not_to_blame_for_what_goes_wrong_in_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    worker = Worker(answer(errors={"loss": 0.0, "logits": 0.0, "gradient of a": 0.25}, bound=0.1))
    with pytest.raises(CheckFailed, match="backward pass of a small encoder in BF16 is wrong") as caught:
        forward.autocast_agrees(cast("Compute", worker))
    assert caught.value.finding.action is Action.REPLACE_NODE


@proves("forward::adamw_agrees", "AdamW is wrong on a GPU", "worker", "REPLACE_NODE")
def test_an_adamw_that_is_wrong_is_found_and_the_gpu_to_be_replaced() -> None:
    worker = Worker(answer(update_errors={"a": 0.5, "b": 1e-7}))
    with pytest.raises(
        CheckFailed, match="AdamW changes 1 of 2 parameters of a small encoder wrongly: a by"
    ) as caught:
        forward.adamw_agrees(cast("Compute", worker))
    assert caught.value.finding.action is Action.REPLACE_NODE
    assert worker.measured == {"adamw_error": 0.5}


@pytest.mark.parametrize("changes", [{"not_finite": ["gradient of a"]}, {"update_errors": {}}])
def test_adamw_waits_for_gradients(changes: dict[str, Any]) -> None:
    with pytest.raises(NotRun, match=r"waits for bionemo/forward::small_encoder_agrees\[gpu3\]"):
        forward.adamw_agrees(cast("Compute", Worker(answer(**changes))))


@proves("forward::step_repeats", "a GPU gives another result the next time", "worker", "REPLACE_NODE")
def test_a_gpu_that_changes_its_mind_is_to_be_replaced_whatever_its_self_proof_says() -> None:
    found = {"differing": ["gradient of a"], "tensors": 32, "compared_elements": 10, "found_flip": False}
    with pytest.raises(CheckFailed, match="gave other bits in 1 of 32 tensors: gradient of a") as caught:
        forward.step_repeats(cast("Compute", Worker(found)), "fp32")
    assert caught.value.finding.action is Action.REPLACE_NODE


def test_without_a_device_nothing_is_built() -> None:
    class NoWorkers:
        labels = ()

    with pytest.raises(NotRun, match="waits for bionemo/driver::devices_present"):
        forward.esm2_builds(cast("Any", None), cast("Any", NoWorkers()))


def test_a_worker_that_is_killed_while_it_builds_is_no_broken_transformers() -> None:
    class KilledWorkers:
        labels = ("GPU-0",)

        def run(self, *given: Any, **parameters: Any) -> None:
            raise WorkloadFailed("esm2:try_build", "GPU-0", Trouble.DEATH, "killed by SIGKILL")

    with pytest.raises(NotRun, match="ESM-2 8M could not be built: killed by SIGKILL"):
        forward.esm2_builds(cast("Any", None), cast("Any", KilledWorkers()))
