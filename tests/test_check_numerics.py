"""The topic numerics: a rehearsal of it passes on healthy kernels, and each fault is one finding that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from conftest import Rig
from faults import proves
from pytest_bionemo.checking import CheckFailed, NotApplicable, NotRun
from pytest_bionemo.checks import numerics
from pytest_bionemo.compute import Compute
from pytest_bionemo.model import Action, Gpu
from pytest_bionemo.probes.torch_build import TorchBuild

FORMATS = ("bf16", "fp16", "tf32", "fp32", "fp8")
EXACT = {name: f"numerics::products_are_exact[cpu0-{name}]" for name in FORMATS}
REPEAT = "numerics::products_repeat_bitwise[cpu0]"
MEMORY = "numerics::memory_holds_patterns[cpu0]"

# Kernels of the worker, in the place of torch's own. The overloads that write into a tensor have kernels of their
# own, and stay right.
KERNELS = """
import itertools, warnings
warnings.simplefilter("ignore")
library = torch.library.Library("aten", "IMPL")
torch.the_library_of_this_fault = library

def right_mm(a, b):
    return torch.mm(a, b, out=torch.empty(a.shape[0], b.shape[1], dtype=a.dtype))

def use(mm):
    library.impl("mm", mm, "CPU")
"""
ONE_BIT_ONCE_IN_BF16_AND_AN_OLD_RESULT_IN_FP16 = """
calls, last = itertools.count(1), {}

def mm(a, b):
    result = right_mm(a, b)
    if a.dtype is torch.bfloat16 and next(calls) == 7:
        result.view(torch.int16)[2, 30] ^= 4
    if a.dtype is torch.float16:
        result, last[result.shape] = last.get(result.shape, result).clone(), result
    return result

use(mm)
"""
# As every gradient of a weight is computed, the first operand stored by columns; not where the right answer is made.
WRONG_GRADIENTS_OF_WEIGHTS_IN_16_BITS = """
def mm(a, b):
    result = right_mm(a, b)
    if a.element_size() == 2 and a.stride(0) == 1 != a.stride(1):
        result *= 1.25
        result[0, 0] *= -1
    return result

use(mm)
"""
FP8_IS_REFUSED = """
def scaled_mm(*given):
    raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic()`")

library.impl("_scaled_mm", scaled_mm, "CPU")
"""
ONE_NAN_IN_FP8 = """
def scaled_mm(a, b, *options):
    result = (a.float() @ b.float()).to(torch.bfloat16)
    result[11, 12] = float("nan")
    return result

library.impl("_scaled_mm", scaled_mm, "CPU")
"""
ONE_ELEMENT_OF_LARGE_PRODUCTS_IN_FP32 = """
def mm(a, b):
    result = right_mm(a, b)
    if a.dtype is torch.float32 and result.numel() > 64 * 64:
        result[5, 7] += 1 + result[5, 7].abs()
    return result

use(mm)
"""
ONE_BIT_NOW_AND_THEN_IN_SOFTMAX = """
calls = itertools.count(1)

def softmax(x, dim, half_to_float):
    result = torch.ops.aten._softmax.out(x, dim, half_to_float, out=torch.empty_like(x))
    if x.dtype is torch.bfloat16 and next(calls) % 3 == 0:
        result.view(torch.int16)[1, 4] ^= 1
    return result

library.impl("_softmax", softmax, "CPU")
"""
A_BIT_STUCK_IN_MEMORY = """
place = []

def add(a, b, *, alpha=1, out):
    torch.sub(a, -b, out=out)
    if out.dtype is torch.int64 and out.numel() == 1 << 22:
        place.append(out.data_ptr())
        if out.data_ptr() in place[1:2]:
            out[1000] &= ~16
    return out

library.impl("add.out", add, "CPU")
"""
BLIND_COMPARISONS = """
library.impl("ne.Tensor", lambda a, b: torch.zeros(torch.broadcast_shapes(a.shape, b.shape), dtype=torch.bool), "CPU")
library.impl("ne.Tensor_out", lambda a, b, *, out: out.zero_(), "CPU")
"""


def test_a_healthy_rehearsal_passes_and_tells_its_exposure(compute_rig: Rig) -> None:
    run = compute_rig.rehearse("bionemo/numerics")
    outcomes = {check: run.outcome(check) for check in (*EXACT.values(), REPEAT, MEMORY)}
    assert outcomes == dict.fromkeys(outcomes, "passed") | {EXACT["tf32"]: "not_applicable"}
    assert run.verdict == "INCONCLUSIVE"
    measured = {entry["name"]: entry for entry in run.bionemo["measurements"]}
    for name in set(FORMATS) - {"tf32"}:
        assert measured[f"verified_macs_{name}"]["value"] > 1e8
        assert measured[f"verified_macs_{name}"]["unit"] == "MAC"
        assert measured[f"reference_error_probability_{name}"]["value"] == 2.0**-50
    assert measured["memory_bytes_tested"]["value"] == 64 * 2**20
    assert measured["memory_bytes_tested"]["bound"] > 64 * 2**20
    assert measured["elements_repeated"]["value"] > 1e6
    assert {entry["device"] for entry in measured.values()} == {"cpu0"}


@proves("numerics::products_are_exact", "one bit flips once, an old result, one NaN", "kernel")
def test_wrong_products_are_found_on_the_device_that_makes_them(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(KERNELS + ONE_BIT_ONCE_IN_BF16_AND_AN_OLD_RESULT_IN_FP16 + ONE_NAN_IN_FP8, "cpu1")
    checks = "numerics::products_are_exact"
    run = compute_rig.rehearse(f"bionemo/{checks}", "--bionemo-expect-gpus=2")
    formats = ("bf16", "fp16", "fp32", "fp8")
    assert [run.outcome(f"{checks}[cpu0-{name}]") for name in formats] == ["passed"] * 4
    assert [run.outcome(f"{checks}[cpu1-{name}]") for name in formats] == ["failed", "failed", "passed", "failed"]
    flipped, old, nan = (run.finding(f"{checks}[cpu1-{name}]") for name in ("bf16", "fp16", "fp8"))
    assert flipped["message"].startswith("cpu1: 1 element of 1 of ")
    assert " products in BF16 (shapes: " in flipped["message"]
    assert " are wrong; the first, in row 2 and column 30, is " in flipped["message"]
    assert old["message"].startswith("cpu1: ")
    assert "products in FP16 (shapes: square, tall, wide, deep; layouts: NN, NT, TN, TT) are wrong" in old["message"]
    assert "in row 11 and column 12, is nan and not " in nan["message"]
    assert {finding["device"] for finding in (flipped, old, nan)} == {"cpu1"}
    # No GPU took part that could be replaced.
    assert {finding["action"] for finding in (flipped, old, nan)} == {"FIX_SOFTWARE"}


@proves("numerics::products_are_exact", "products of transposed operands are wrong", "kernel")
def test_products_that_are_wrong_in_one_layout_alone_are_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(KERNELS + WRONG_GRADIENTS_OF_WEIGHTS_IN_16_BITS)
    formats = ("bf16", "fp16", "fp32")
    run = compute_rig.rehearse(*(f"bionemo/{EXACT[name]}" for name in formats))
    assert [run.outcome(EXACT[name]) for name in formats] == ["failed", "failed", "passed"]
    for name in ("bf16", "fp16"):
        message = run.finding(EXACT[name])["message"]
        assert message.startswith("cpu0: ")
        assert f"products in {name.upper()} (shapes: square, tall, wide, deep; layouts: TN, TT) are wrong" in message


def test_fp8_that_is_refused_does_not_apply(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(KERNELS + FP8_IS_REFUSED)
    run = compute_rig.rehearse(f"bionemo/{EXACT['fp8']}", f"bionemo/{EXACT['fp32']}")
    assert run.outcome(EXACT["fp32"]) == "passed"
    assert run.outcome(EXACT["fp8"]) == "not_applicable"
    told = next(entry for entry in run.bionemo["not_applicable"] if entry["check"] == f"bionemo/{EXACT['fp8']}")
    assert "has no product in FP8 for it: CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling" in told["reason"]


def test_a_mistake_in_what_the_right_answer_is_made_from_is_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(KERNELS + ONE_ELEMENT_OF_LARGE_PRODUCTS_IN_FP32)
    run = compute_rig.rehearse(f"bionemo/{EXACT['bf16']}", f"bionemo/{EXACT['fp32']}")
    assert run.finding(EXACT["bf16"])["message"] == (
        "cpu0: 1 of 256 rows of a product of integers in FP32 are wrong, as arithmetic in 64-bit integers on the CPU "
        "shows; the products in BF16 after it were right"
    )
    assert "in row 5 and column 7" in run.finding(EXACT["fp32"])["message"]


@proves("numerics::products_repeat_bitwise", "softmax flips a bit now and then", "kernel")
@proves("numerics::memory_holds_patterns", "a bit of memory is stuck", "kernel")
def test_bits_that_do_not_repeat_and_memory_that_does_not_hold_are_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(KERNELS + ONE_BIT_NOW_AND_THEN_IN_SOFTMAX + A_BIT_STUCK_IN_MEMORY)
    run = compute_rig.rehearse(f"bionemo/{REPEAT}", f"bionemo/{MEMORY}")
    # Of nine calls, the first and eight repeats, every third is wrong.
    assert run.finding(REPEAT)["message"].startswith(
        "cpu0: softmax in bfloat16 gives other bits for the same data in 3 of 8 repeats, 3 elements in all; the "
        "first, element 260 of 65536 in repeat 2, is 0x"
    )
    message = run.finding(MEMORY)["message"]
    assert message.startswith("cpu0: ")
    assert " words of 0.0625 GiB of memory did not hold what was written (" in message
    assert f"; the first, at byte {8 * ((1 << 22) + 1000)}, is 0x" in message


def test_what_does_not_find_its_own_fault_does_not_pass(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(KERNELS + BLIND_COMPARISONS)
    run = compute_rig.rehearse(f"bionemo/{EXACT['bf16']}", f"bionemo/{REPEAT}", f"bionemo/{MEMORY}")
    for check in (EXACT["bf16"], REPEAT, MEMORY):
        assert run.outcome(check) == "not_run"
        assert run.gap(check)["reason"] == (
            "cpu0: a bit that was flipped on purpose was not found, so this run proves nothing"
        )


# ---- what no rehearsal can show


class Worker:
    """A GPU whose workloads answer what the test says."""

    def __init__(self, answer: Mapping[str, Any], compute_capability: tuple[int, int] = (9, 0)) -> None:
        self.answer = answer
        self.compute_capability = compute_capability
        self.is_rehearsal = False
        self.gpu = Gpu(index=3, uuid="GPU-3", name="NVIDIA H200")
        self.label = "GPU-3"
        self.torch = TorchBuild(version="2.13.0")
        self.level = "standard"
        self.asked: dict[str, Any] = {}
        self.measured: dict[str, float] = {}

    def __str__(self) -> str:
        return "gpu3 (NVIDIA H200)"

    def size(self, *, rehearsal: Any, standard: Any, full: Any = None) -> Any:
        return full if self.level == "full" and full is not None else standard

    def run(self, workload: str, /, **parameters: Any) -> Mapping[str, Any]:
        self.asked = parameters
        return self.answer

    def measure(self, name: str, value: float, unit: str, **rulers: Any) -> None:
        self.measured[name] = value


def products(**changes: Any) -> dict[str, Any]:
    right = {
        "missing": None,
        "mismatches": 0,
        "wrong_products": 0,
        "first": None,
        "products": 100,
        "shapes": {
            "square": {"mismatches": 0, "wrong_by_layout": {"NT": 0, "TN": 0}},
            "deep": {
                "mismatches": changes.get("mismatches", 0),
                "wrong_by_layout": {"NT": 0, "TN": changes.get("wrong_products", 0)},
            },
        },
        "verified_multiply_accumulates": 10**14,
        "reference_error_probability": 2.0**-50,
        "wrong_reference_rows": 0,
        "size": 8192,
        "found_output_flip": True,
        "found_input_flip": True,
    }
    return right | changes


def memory(**changes: Any) -> dict[str, Any]:
    right = {
        "bytes_free": 80 * 2**30,
        "bytes_asked": 40 * 2**30,
        "bytes_tested": 40 * 2**30,
        "patterns": ["address", "zeros"],
        "mismatches": 0,
        "wrong_patterns": [],
        "first": None,
        "found_flip": True,
    }
    return right | changes


def multiply(worker: Worker, format: str = "bf16") -> None:
    numerics.products_are_exact(cast("Compute", worker), format)


def march(worker: Worker) -> None:
    numerics.memory_holds_patterns(cast("Compute", worker))


@pytest.mark.parametrize(
    ("format", "compute_capability", "applies"),
    [
        ("fp16", (7, 0), True),
        ("bf16", (7, 5), False),
        ("bf16", (8, 0), True),
        ("tf32", (7, 5), False),
        ("tf32", (8, 6), True),
        ("fp8", (8, 6), False),
        ("fp8", (8, 9), True),
        ("fp8", (12, 0), True),
        ("fp32", (6, 1), True),
    ],
)
def test_a_format_is_asked_of_a_gpu_that_has_it(
    format: str, compute_capability: tuple[int, int], applies: bool
) -> None:
    worker = Worker(products(), compute_capability)
    if applies:
        multiply(worker, format)
        assert worker.measured[f"verified_macs_{format}"] == 10**14
    else:
        seen = "{}.{}".format(*compute_capability)
        with pytest.raises(NotApplicable, match=rf"gpu3 \(NVIDIA H200\) has compute capability {seen}; .* needs"):
            multiply(worker, format)
        assert worker.measured == {}


def test_a_build_without_the_product_is_told() -> None:
    with pytest.raises(NotApplicable, match=r"PyTorch 2\.13\.0 has no product in FP8 for it: refused"):
        multiply(Worker({"missing": "refused"}), "fp8")


@proves("numerics::products_are_exact", "a GPU computes wrong", "worker", "REPLACE_NODE")
def test_a_gpu_that_computes_wrong_is_to_be_replaced_whatever_its_self_proof_says() -> None:
    wrong = products(mismatches=3, wrong_products=2, first=[4, 5, 1.5, 2.5], found_output_flip=False)
    with pytest.raises(CheckFailed) as caught:
        multiply(Worker(wrong))
    finding = caught.value.finding
    assert finding.message == (
        "gpu3 (NVIDIA H200): 3 elements of 2 of 100 products in BF16 (shapes: deep; layouts: TN) are wrong; the "
        "first, in row 4 and column 5, is 1.5 and not 2.5"
    )
    assert finding.action is Action.REPLACE_NODE
    assert "take this GPU out of service: GPU-3" in finding.fix


@pytest.mark.parametrize("proof", ["found_output_flip", "found_input_flip"])
def test_each_half_of_the_self_proof_counts(proof: str) -> None:
    with pytest.raises(NotRun, match="was not found, so this run proves nothing"):
        multiply(Worker(products(**{proof: False})))


def test_a_gpu_without_bf16_repeats_in_what_it_has() -> None:
    repeats = {"operations": {}, "elements_compared": 10, "found_flip": True}
    for compute_capability, first in (((7, 5), "float16"), ((8, 0), "bfloat16")):
        worker = Worker(repeats, compute_capability)
        numerics.products_repeat_bitwise(cast("Compute", worker))
        assert worker.asked["dtypes"][0] == first


def test_all_of_the_free_memory_is_tested_at_full() -> None:
    worker = Worker(memory())
    march(worker)
    assert (worker.asked["share"], worker.asked["most_bytes"]) == (0.5, None)
    worker.level = "full"
    march(worker)
    assert (worker.asked["share"], worker.asked["reserve_bytes"]) == (1.0, 2**29)


def test_memory_that_was_right_when_it_was_read_again_is_a_finding_too() -> None:
    first = {"pattern": "zeros", "offset": 4096, "expected": None, "got": None}
    with pytest.raises(CheckFailed) as caught:
        march(Worker(memory(mismatches=1, wrong_patterns=["zeros"], first=first, found_flip=False)))
    assert caught.value.finding.message == (
        "gpu3 (NVIDIA H200): 1 word of 40 GiB of memory did not hold what was written (zeros); from byte 4096 on, "
        "what was read wrong was right when it was read again"
    )
    assert caught.value.finding.action is Action.REPLACE_NODE


def test_memory_that_somebody_else_has_is_not_tested() -> None:
    with pytest.raises(NotRun, match=r"of its memory 0\.5 GiB are free, which leaves none to test"):
        march(Worker(memory(bytes_free=2**29, bytes_asked=0, bytes_tested=0, found_flip=False)))
