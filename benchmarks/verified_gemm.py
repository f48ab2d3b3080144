"""What it costs to verify every product: ``python benchmarks/verified_gemm.py``.

The throughput of products whose every element is compared with the right one, over that of the same products alone:
the same operands, shapes and number, in turn in one process, the median of the ratios of all rounds. On a GPU where
there is one, else on the CPU, where products are smaller and the comparison weighs more.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

from pytest_bionemo.workloads import device, exact_gemm
from pytest_bionemo.workloads.exact_gemm import FORMATS, SHAPES, Problem

if TYPE_CHECKING:
    import torch

LIMIT = 0.90
"""Of the throughput of the products alone, on a GPU."""

SIZES = {"cuda": (8192, 16384), "cpu": (1024, 2048)}


def main() -> int:
    """Measure and compare; returns 1 if a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, help="products of each shape in a round (default: 64, 16 on the CPU)")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=["bf16", "fp32"])
    options = parser.parse_args()
    kind = device().type
    repeats = options.repeats or {"cuda": 64}.get(kind, 16)
    size, terms = SIZES[kind]
    print(f"{size} x {size} x {terms} and its parts on {kind}, {repeats} of each, {options.rounds} rounds in turn")
    ratios = {format: measure(format, size, terms, repeats, options.rounds) for format in options.formats}
    for format, ratio in ratios.items():
        verdict = "ok  " if ratio >= LIMIT else "UNDER" if kind == "cuda" else "    "
        print(f"{verdict} {format}: verified / plain throughput {ratio:.3f} (limit {LIMIT} on a GPU)")
    return 0 if kind != "cuda" or all(ratio >= LIMIT for ratio in ratios.values()) else 1


def measure(format: str, size: int, terms: int, repeats: int, rounds: int) -> float:
    """The median of the ratios of verified to plain throughput."""
    import torch

    orders = torch.Generator(device()).manual_seed(1)
    with exact_gemm.precision_of(format):
        problem, _ = exact_gemm.make_problem(FORMATS[format], size, terms, orders, torch.Generator())
        pairs = [
            (timed(lambda: multiply(problem, repeats)), timed(lambda: verify(problem, repeats, orders)))
            for _ in range(rounds + 1)
        ]
    return median(plain / verified for plain, verified in pairs[1:])  # the first round warms up


def multiply(problem: Problem, repeats: int) -> None:
    """The products alone."""
    for _ in range(repeats):
        for shape in SHAPES:
            problem.part(shape).multiply()


def verify(problem: Problem, repeats: int, orders: torch.Generator) -> None:
    """The same products as a run makes them, the shuffle included."""
    tallies = exact_gemm.verify(problem, repeats, 1, orders)
    wrong = {shape: tally for shape, tally in tallies.items() if tally.mismatches}
    if wrong:
        raise ArithmeticError(f"this device computes wrong: {wrong}")


def timed(action: Callable[[], None]) -> float:
    """Seconds, until the device is done."""
    started = time.perf_counter()
    action()
    if device().type == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
