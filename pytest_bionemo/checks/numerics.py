"""Silent data corruption: products that are right to the last bit, results that repeat, memory that holds.

A pass says how much was looked at, never that there is no fault: the exposure is in the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import pytest

from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.compute import Compute
from pytest_bionemo.facts import precision
from pytest_bionemo.model import Action, count

_NAMES = {"bf16": "BF16", "fp16": "FP16", "tf32": "TF32", "fp32": "FP32", "fp8": "FP8"}
_SEED = 20261122
_GIB = 2**30
_MIB = 2**20


@check(level="standard")
@pytest.mark.parametrize("format", ["bf16", "fp16", "tf32", "fp32", "fp8"], ids=str)
def products_are_exact(worker: Compute, format: str) -> None:
    """Matrix products are right to the last bit.

    Why: silent data corruption spoils models without any error, and no test that compares a device with itself can
    see it.

    How it decides: operands are integers whose sums are exact in the format, so that the right answer does not depend
    on kernel, GPU or version: one wrong bit is a finding. A bit is flipped on purpose and has to be found, and the
    reference is verified on the CPU.

    Fix: take the GPU out of service and have it replaced: it corrupts training without a sign.
    """
    _require_format(worker, format)
    found = worker.run(
        "exact_gemm:run",
        format=format,
        size=worker.size(rehearsal=256, standard=8192),
        terms=worker.size(rehearsal=512, standard=16384),
        repeats=worker.size(rehearsal=16, standard=4096, full=2**20),
        shuffles=worker.size(rehearsal=2, standard=4, full=16),
        seconds=worker.size(rehearsal=1.0, standard=0.6, full=20.0),
        seed=_SEED,
    )
    if found["missing"]:
        not_applicable(
            f"{worker}: PyTorch {worker.torch.version} has no product in {_NAMES[format]} for it: {found['missing']}"
        )
    worker.measure(
        f"verified_macs_{format}", found["verified_multiply_accumulates"], "MAC", samples=found["products"]
    )
    worker.measure(f"reference_error_probability_{format}", found["reference_error_probability"], "1")
    if found["mismatches"]:
        _fail_corrupt(worker, _describe_mismatches(worker, format, found))
    if found["wrong_reference_rows"]:
        _fail_corrupt(
            worker,
            f"{worker}: {found['wrong_reference_rows']} of {found['size']} rows of a product of integers in FP32 are "
            f"wrong, as arithmetic in 64-bit integers on the CPU shows; the products in {_NAMES[format]} after it "
            "were right",
        )
    _require_proof(worker, found["found_output_flip"] and found["found_input_flip"])


def _require_format(worker: Compute, format: str) -> None:
    if worker.is_rehearsal:
        if format == "tf32":
            not_applicable(f"{worker}: the CPU has no TF32")
    elif format != "fp32":
        capability = worker.compute_capability
        assert capability, "a GPU that computes has one"
        if not any(rule.allows_gpu(capability) for rule in precision.rules(format, precision.PYTORCH)):
            not_applicable(
                f"{worker} has compute capability {'{}.{}'.format(*capability)}; "
                f"{_NAMES[format]} needs {precision.describe(format)}"
            )


def _describe_mismatches(worker: Compute, format: str, found: Mapping[str, Any]) -> str:
    row, column, got, expected = found["first"]
    wrong = {shape: tally["wrong_by_layout"] for shape, tally in found["shapes"].items() if tally["mismatches"]}
    layouts = sorted({layout for by_layout in wrong.values() for layout, products in by_layout.items() if products})
    return (
        f"{worker}: {count(found['mismatches'], 'element')} of {found['wrong_products']} of {found['products']} "
        f"products in {_NAMES[format]} (shapes: {', '.join(wrong)}; layouts: {', '.join(layouts)}) are wrong; the "
        f"first, in row {row} and column {column}, is {got!r} and not {expected!r}"
    )


@check(level="standard")
def products_repeat_bitwise(worker: Compute) -> None:
    """Operations on the same random data give the same bits every time.

    Why: a device that gives other bits for the same work computes wrongly some of the time, and training on it cannot
    be reproduced.

    How it decides: the same operations on the same data are repeated and compared bit by bit with the first result; a
    bit that is flipped on purpose has to be found.

    Fix: take the GPU out of service and have it replaced.
    """
    found = worker.run(
        "repeatability:run",
        size=worker.size(rehearsal=256, standard=4096),
        repeats=worker.size(rehearsal=8, standard=32, full=200),
        dtypes=["bfloat16", "float16", "float32"] if _has_bf16(worker) else ["float16", "float32"],
        seed=_SEED,
    )
    worker.measure("elements_repeated", found["elements_compared"], "1")
    for name, seen in found["operations"].items():
        if seen["differing_elements"]:
            repeat, element, got, first = seen["first"]
            _fail_corrupt(
                worker,
                f"{worker}: {name} gives other bits for the same data in {seen['differing_repeats']} of "
                f"{seen['repeats']} repeats, {count(seen['differing_elements'], 'element')} in all; the first, "
                f"element {element} of {seen['elements']} in repeat {repeat}, is {got} and was {first}",
            )
    _require_proof(worker, found["found_flip"])


def _has_bf16(worker: Compute) -> bool:
    capability = worker.compute_capability
    rules = precision.rules("bf16", precision.PYTORCH)
    return capability is None or any(rule.allows_gpu(capability) for rule in rules)


@check(level="standard")
def memory_holds_patterns(worker: Compute) -> None:
    """Memory gives back what was written to it.

    Why: memory that loses bits which error correction does not see corrupts weights and activations without any
    error.

    How it decides: patterns are written to free memory, read back and compared; a flipped bit has to be found. What
    was tested is in the report: half of the free memory at level standard, nearly all of it at level full.

    Fix: take the GPU out of service and have it replaced.
    """
    found = worker.run(
        "memory_march:run",
        share=worker.size(rehearsal=0.5, standard=0.5, full=1.0),
        reserve_bytes=worker.size(rehearsal=0, standard=_GIB, full=_GIB // 2),
        most_bytes=worker.size(rehearsal=64 * _MIB, standard=None),
        seed=_SEED,
    )
    tested, free = found["bytes_tested"], found["bytes_free"]
    if not tested:
        wait_for(None, f"{worker}: of its memory {free / _GIB:.1f} GiB are free, which leaves none to test")
    worker.measure("memory_bytes_tested", tested, "B", samples=len(found["patterns"]), bound=free)
    if found["mismatches"]:
        _fail_corrupt(
            worker,
            f"{worker}: {count(found['mismatches'], 'word')} of {tested / _GIB:.3g} GiB of memory did not hold what "
            f"was written ({', '.join(found['wrong_patterns'])}); {_describe_word(found['first'])}",
        )
    _require_proof(worker, found["found_flip"])


def _describe_word(first: Mapping[str, Any]) -> str:
    if first["got"] is None:
        return f"from byte {first['offset']} on, what was read wrong was right when it was read again"
    return f"the first, at byte {first['offset']}, is {first['got']} and not {first['expected']}"


def _fail_corrupt(worker: Compute, message: str) -> NoReturn:
    __tracebackhide__ = True
    if worker.gpu is None:
        fail(
            message,
            why="a rehearsal runs on the CPU: its arithmetic or its math library is broken",
            fix=["reinstall PyTorch", "if that does not help, use another machine"],
        )
    fail(
        message,
        why="it corrupts models without any error; that the GPU passes the next time, or after a reset, does not "
        "make it good: such faults come and go",
        fix=[
            f"take this GPU out of service: {worker.label}",
            "have it tested: $ sudo dcgmi diag -r 3",
            "and look for memory errors: $ nvidia-smi -q -d ECC,ROW_REMAPPER",
        ],
        action=Action.REPLACE_NODE,
    )


def _require_proof(worker: Compute, found_flips: bool) -> None:
    """A test that does not find the bit that it has flipped itself cannot pass."""
    if not found_flips:
        wait_for(None, f"{worker}: a bit that was flipped on purpose was not found, so this run proves nothing")
