"""Matrix products whose right answer is known to the last bit.

The operands are integers, times a power of two for each row of A and each column of B. They are so small that
every partial sum is exact in the accumulator, so the right result depends on no kernel, GPU or library:
C[i, j] = 2^(e[i] + f[j]) * (an integer), rounded once to the format of the result.

Every partial sum, in whatever order, is a sum of some of the products, so it lies between the sum of the negative
ones and that of the positive ones. Neither is larger than (|a| |b| + |c|) / 2, with the norms of the row and the
column (Cauchy and Schwarz): that is held against the accumulator for every problem, 2^24 where it is FP32. For FP8
it is 2^13: the tensor cores of Hopper keep 14 bits there (DeepSeek-V3 technical report, 2024, section 3.5.2, and
its authors in deepseek-ai/DeepGEMM issue 50).

The integers of the product are first computed on the device, in FP32 without TF32: the fastest route that is exact
on a healthy device, also where FP64 runs at a 64th of its rate. That they are right is not believed but verified,
on the CPU by Freivalds' method in 64-bit integers: A (B r) = C r for random r below 2^25. A wrong row passes one
trial with a probability of at most 2^-25 (R. Freivalds, "Probabilistic machines can use less running time", 1977).
It also names the wrong rows: the CPU computes those again, and they are reported.

Operands are stored by rows or by columns: each of the four layouts has kernels of its own. Training needs three of
them: a linear layer multiplies in one, the gradient of its input in another, that of its weight in a third.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING, Any

from pytest_bionemo.workloads import device, low_precision

if TYPE_CHECKING:
    import torch

_TRIAL_BITS = 25  # a wrong element (32 bits) times r stays below 2^64: no two r hide it, whatever wraps on both sides
_TRIALS = 2
_CHUNK = 2**18  # elements that the CPU widens to 64 bits at a time: they fit its caches
_DRAWS = 2**16
_BATCH = 8  # products whose results are kept until the device has said whether they are right

LARGEST_TERMS = 2**14

# Parts of the problem: what its rows and columns are divided by. Other shapes are computed by other kernels; the
# last has few results of many terms, for which the terms are split among multiprocessors.
SHAPES = {"square": (1, 1), "tall": (1, 8), "wide": (8, 1), "deep": (8, 8)}

# Of A (rows x terms) and of B (terms x columns): N for stored by rows, T for stored by columns. NT is what a linear
# layer multiplies in, NN the gradient of its input, TN that of its weight.
LAYOUTS = ("NT", "NN", "TN", "TT")

_ORDERS = 2  # that take turns after each shuffle, each in a layout of its own
_TRIAL_SIDE = 32  # of the product that shows whether there is a kernel


@dataclass(frozen=True)
class Format:
    """A number format, and how its range is used.

    ``dtype`` and ``result`` are torch's dtypes of the operands and the result, ``widest`` the largest integer among
    the operands, ``exponents`` the lowest and highest of a scale, ``exact_sum`` the largest exact partial sum, and
    ``multiple`` what rows, columns and terms have to be multiples of.
    """

    dtype: str
    result: str
    widest: int
    exponents: tuple[int, int] = (-8, 8)
    exact_sum: float = 2.0**24
    multiple: int = 1


# Of the 11 bits of FP16 and TF32 and the 24 of FP32, ten are used: with wider integers a few products would fill the
# accumulator. The others are left to the random data of ``repeatability``. The scales of FP16 keep every result
# finite and normal.
FORMATS = {
    "bf16": Format("bfloat16", "bfloat16", 2**8 - 1),
    "fp16": Format("float16", "float16", 2**10 - 1, (-7, -5)),
    "tf32": Format("float32", "float32", 2**10 - 1),
    "fp32": Format("float32", "float32", 2**10 - 1),
    "fp8": Format("float8_e4m3fn", "bfloat16", 2**4 - 1, (-4, 4), 2.0**13, 16),
}


@dataclass(frozen=True)
class Problem:
    """Operands and the product that is known to be right, all on the device.

    ``a`` is rows x terms, ``b`` columns x terms (the shape of a linear layer's weight), ``expected`` is rows x
    columns; ``layout``, one of ``LAYOUTS``, is how the operands are stored.
    """

    a: torch.Tensor
    b: torch.Tensor
    expected: torch.Tensor
    layout: str = LAYOUTS[0]

    @property
    def layouts(self) -> tuple[str, ...]:
        """Those that its format has: FP8 has one."""
        return LAYOUTS if self.a.element_size() > 1 else LAYOUTS[:1]

    @property
    def multiply_accumulates(self) -> int:
        """Of one product."""
        return self.expected.numel() * self.a.shape[1]

    def multiply(self) -> torch.Tensor:
        """The product, as the device computes it."""
        if self.a.element_size() > 1:
            return self.a @ self.b.t()
        return _multiply_fp8(self.a, self.b, self.expected.dtype)

    def part(self, shape: str) -> Problem:
        """The first rows and columns, as many as the shape has."""
        rows, columns = (
            max(1, length // divisor) for length, divisor in zip(self.expected.shape, SHAPES[shape], strict=True)
        )
        return Problem(self.a[:rows], self.b[:columns], self.expected[:rows, :columns], self.layout)


@dataclass
class Tally:
    """What was seen of the products of one shape.

    ``first`` is [row, column, got, expected], ``wrong_by_layout`` how many products were wrong, for each layout in
    which one was made.
    """

    products: int = 0
    wrong_products: int = 0
    mismatches: int = 0
    multiply_accumulates: int = 0
    first: list[float] | None = None
    wrong_by_layout: dict[str, int] = field(default_factory=dict)

    def add(self, problem: Problem, result: torch.Tensor, is_suspect: bool) -> None:
        """Count one result, a suspect where a bit differs from what is expected."""
        self.products += 1
        self.multiply_accumulates += problem.multiply_accumulates
        self.wrong_by_layout.setdefault(problem.layout, 0)
        if is_suspect:
            # Element by element: minus zero has other bits than zero, and is no mistake.
            wrong = result != problem.expected
            mismatches = int(wrong.sum())
            self.mismatches += mismatches
            self.wrong_products += bool(mismatches)
            self.wrong_by_layout[problem.layout] += bool(mismatches)
            if mismatches and self.first is None:
                self.first = _describe_first(wrong, result, problem.expected)


def run(
    format: str, size: int, terms: int, repeats: int, shuffles: int, seed: int, seconds: float | None = None
) -> dict[str, Any]:
    """Multiply again and again, every element of every result compared with the right one.

    :param format: a key of ``FORMATS``.
    :param size: rows and columns of the largest product.
    :param terms: of each sum. Both are halved until the problem fits the free memory of the GPU.
    :param repeats: products of each shape after each shuffle, at most.
    :param shuffles: how often the rows and columns get another order: what is computed by one multiprocessor is
        computed by another then. Two orders take turns, so that a result that is left over from the product before
        is wrong. Each has another of the four layouts: two shuffles go through all of them.
    :param seed: of the operands and orders.
    :param seconds: for all products together, None for no limit; each order is multiplied once in each shape anyway.
    :return: ``missing`` (alone: why this build of torch has no product of the format for the device), or
        ``missing`` (None), ``mismatches`` (elements), ``wrong_products``, ``first`` ([row, column, got, expected] of
        the first, or None), ``products``, ``verified_multiply_accumulates``, ``shapes`` (the same for each shape,
        and ``wrong_by_layout``: the wrong products of each layout), ``size``, ``terms``,
        ``reference_error_probability``, ``wrong_reference_rows`` (how many of the ``size`` rows the device got wrong
        in the FP32 product from which the right result is made), ``found_output_flip`` and ``found_input_flip`` (the
        self-proof: a known bit is flipped in a result and in an operand).
    :raises ValueError: if the format does not allow the size or the terms.
    :raises ArithmeticError: if no right result could be made.
    """
    import torch

    if missing := _missing(format):
        return {"missing": missing}
    size, terms = _fit_memory(FORMATS[format], size, terms)
    orders = torch.Generator(device()).manual_seed(seed)
    verifier = torch.Generator().manual_seed(seed + 1)
    with precision_of(format):
        problem, wrong_reference_rows = make_problem(FORMATS[format], size, terms, orders, verifier)
        tallies = verify(problem, repeats, shuffles, orders, math.inf if seconds is None else seconds)
        return {
            "missing": None,
            **_summarize(tallies),
            "size": size,
            "terms": terms,
            "reference_error_probability": 2.0 ** (-_TRIAL_BITS * _TRIALS),
            "wrong_reference_rows": wrong_reference_rows,
            "found_output_flip": finds_output_flip(problem, verifier),
            "found_input_flip": finds_input_flip(problem, verifier),
        }


def _missing(format: str) -> str | None:
    """Why there is no product of this format for the device; None where one of ones is computed, right or wrong.

    That there is a function says little: it may refuse the device, or cuBLAS may have no kernel.
    """
    import torch

    name, result = FORMATS[format].dtype, getattr(torch, FORMATS[format].result)
    if name != "float8_e4m3fn":
        return None
    absent = [needed for needed in (name, "_scaled_mm") if not hasattr(torch, needed)]
    if absent:
        return f"there is no torch.{absent[0]}"
    ones = torch.ones((_TRIAL_SIDE, _TRIAL_SIDE), device=device()).to(getattr(torch, name))
    try:
        _multiply_fp8(ones, ones, result)
    except (RuntimeError, ValueError) as error:
        if not low_precision.is_refusal(error):
            raise
        return " ".join(str(error).split())[:300]
    return None


def _multiply_fp8(a: torch.Tensor, b: torch.Tensor, result: torch.dtype) -> torch.Tensor:
    """The product of a and the transpose of b."""
    import torch

    one = torch.ones((), device=a.device)
    return torch._scaled_mm(a, b.t(), one, one, out_dtype=result, use_fast_accum=False)


def verify(
    problem: Problem, repeats: int, shuffles: int, generator: torch.Generator, seconds: float = math.inf
) -> dict[str, Tally]:
    """Multiply in all shapes, in new orders after each shuffle, and compare; the parameters are those of ``run``."""
    tallies = {shape: Tally() for shape in SHAPES}
    layouts = cycle(problem.layouts)
    for _ in range(shuffles):
        orders = [shuffle(problem, generator, layout) for layout in islice(layouts, _ORDERS)]
        end = time.perf_counter() + seconds / shuffles
        done = 0
        while done < repeats and (done < _ORDERS or time.perf_counter() < end):
            turns = range(done, done + min(max(1, done), _BATCH, repeats - done))  # few, until the pace is known
            for shape, tally in tallies.items():
                _multiply([orders[turn % _ORDERS].part(shape) for turn in turns], tally)
            done = turns.stop
    return tallies


def _multiply(problems: Sequence[Problem], tally: Tally) -> None:
    """Multiply all, and wait for the device once: only where bits differ are elements counted."""
    import torch

    results = [problem.multiply() for problem in problems]
    suspects = torch.stack(
        [_differ(result, problem.expected) for result, problem in zip(results, problems, strict=True)]
    )
    for problem, result, is_suspect in zip(problems, results, suspects.tolist(), strict=True):
        tally.add(problem, result, is_suspect)


def _differ(result: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Whether any bit differs, on the device. In words of 64 bits it costs the least memory traffic."""
    import torch

    steps = (expected.shape[1], expected.stride(0))
    is_even = all(step * expected.element_size() % 8 == 0 for step in steps)
    word = torch.int64 if is_even else _bits(expected)
    return (result.view(word) != expected.view(word)).any()


def _summarize(tallies: dict[str, Tally]) -> dict[str, Any]:
    seen = tallies.values()
    return {
        "mismatches": sum(tally.mismatches for tally in seen),
        "first": next((tally.first for tally in seen if tally.first), None),
        "products": sum(tally.products for tally in seen),
        "wrong_products": sum(tally.wrong_products for tally in seen),
        "verified_multiply_accumulates": sum(tally.multiply_accumulates for tally in seen),
        "shapes": {shape: vars(tally) for shape, tally in tallies.items()},
    }


def _describe_first(wrong: torch.Tensor, result: torch.Tensor, expected: torch.Tensor) -> list[float]:
    row, column = divmod(int(wrong.flatten().byte().argmax()), wrong.shape[1])
    return [row, column, float(result[row, column]), float(expected[row, column])]


# ------------------------------------------------------------------------------------------- the problem


def make_problem(
    format: Format, size: int, terms: int, generator: torch.Generator, verifier: torch.Generator
) -> tuple[Problem, int]:
    """Random operands of the format and their verified product; and how many rows of it the device got wrong.

    :param generator: of the operands, on the device.
    :param verifier: of the trials, on the CPU; it must not repeat the numbers of the other.
    :raises ValueError: if the format does not allow the size or the terms.
    :raises ArithmeticError: if a sum could exceed what the accumulator holds exactly, or if no product stands the
        verification.
    """
    import torch

    _require_allowed(format, size, terms)
    a, b = (draw(format, (size, terms), generator) for _ in range(2))
    product, wrong = exact_product(a, b, verifier)
    c = product.to(device(), torch.float32)
    _require_exact_sums(format, a, b, c)
    rows, columns = (_draw_scales(format, size, generator)[:, None] for _ in range(2))
    dtype: torch.dtype = getattr(torch, format.dtype)
    # Small integers and powers of two: all of it is exact in FP32, and only the product is rounded, once.
    expected = (c * rows * columns.t()).to(getattr(torch, format.result))
    return Problem((a * rows).to(dtype), (b * columns).to(dtype), expected), wrong


def draw(format: Format, shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Random integers (int16) on the device, for sums of as many terms as the shape has columns."""
    import torch

    table = torch.tensor(values(format, shape[1]), dtype=torch.int16, device=device())
    drawn = torch.randint(len(table), (math.prod(shape),), generator=generator, device=device(), dtype=torch.int32)
    return table.index_select(0, drawn).view(shape)


def values(format: Format, terms: int) -> list[int]:
    """What the operands are drawn from, ``_DRAWS`` integers: most are small, and a few have all bits of the format.

    The mean square is half of what would let (|a| |b|) / 2 reach the largest exact sum: the norms of rows vary.
    """
    mean_square = format.exact_sum / terms
    wide = _both_signs(range(format.widest // 2 + 1, format.widest + 1))
    wide_share = min(1 / 4, mean_square / 8 / _mean_square(wide))
    # The mean square of all integers up to n is about n^2 / 3.
    narrow = _both_signs(range(1, min(format.widest, max(1, math.isqrt(int(2 * mean_square)))) + 1))
    narrow_share = min(1 - wide_share, mean_square * 7 / 8 / _mean_square(narrow))
    chosen = chain(
        islice(cycle(_spread(wide, int(_DRAWS * wide_share))), int(_DRAWS * wide_share)),
        islice(cycle(narrow), int(_DRAWS * narrow_share)),
    )
    return (list(chosen) + [0] * _DRAWS)[:_DRAWS]


def _both_signs(positive: range) -> list[int]:
    return [sign * value for value in positive for sign in (1, -1)]


def _mean_square(integers: Sequence[int]) -> float:
    return sum(value**2 for value in integers) / len(integers)


def _spread(integers: Sequence[int], number: int) -> list[int]:
    """So many of the integers, evenly spread; all of them if they are fewer."""
    number = max(1, min(number, len(integers)))
    return [integers[index * len(integers) // number] for index in range(number)]


def _draw_scales(format: Format, number: int, generator: torch.Generator) -> torch.Tensor:
    import torch

    lowest, highest = format.exponents
    # From a table: a GPU's power function need not be exact.
    powers = torch.tensor([2.0**exponent for exponent in range(lowest, highest + 1)], device=device())
    return powers[torch.randint(len(powers), (number,), generator=generator, device=device())]


def exact_product(a: torch.Tensor, b: torch.Tensor, verifier: torch.Generator) -> tuple[torch.Tensor, int]:
    """The product of a and the transpose of b, integers (int16), verified; and how many rows the device got wrong.

    :return: integers (int32) on the CPU; the rows that the device got wrong are computed there.
    :raises ArithmeticError: if those are wrong too.
    """
    import torch

    with precision_of("fp32"):
        product = (a.float() @ b.float().t()).to(torch.int32).cpu()
    a, b = a.cpu(), b.cpu()
    wrong = wrong_rows(a, b, product, verifier)
    if len(wrong):
        product[wrong] = (a[wrong].double() @ b.double().t()).to(torch.int32)
        if len(wrong_rows(a, b, product, verifier)):
            raise ArithmeticError("neither the device nor the CPU computes a product that stands the verification")
    return product, len(wrong)


def wrong_rows(a: torch.Tensor, b: torch.Tensor, product: torch.Tensor, verifier: torch.Generator) -> torch.Tensor:
    """The rows of the product that are wrong, by Freivalds' method; all are integers on the CPU, b is transposed."""
    import torch

    trials = torch.randint(2**_TRIAL_BITS, (_TRIALS, b.shape[0]), generator=verifier)
    return (_times(a, _times_transposed(b, trials)) != _times(product, trials)).any(dim=0).nonzero().flatten()


def _times(matrix: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """The products of the matrix with each of the vectors, in 64-bit integers: vectors x rows."""
    import torch

    parts = [torch.stack([rows.mv(vector) for vector in vectors]) for _, rows in _widened(matrix)]
    return torch.cat(parts, dim=1)


def _times_transposed(matrix: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """The same with the transpose of the matrix: vectors x columns."""
    import torch

    total = torch.zeros(len(vectors), matrix.shape[1], dtype=torch.int64)
    for place, rows in _widened(matrix):
        total += torch.stack([rows.t().mv(vector) for vector in vectors[:, place]])
    return total


def _widened(matrix: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """The rows in 64-bit integers, some at a time and always in the same memory, with their place."""
    import torch

    buffer = torch.empty((max(1, _CHUNK // matrix.shape[1]), matrix.shape[1]), dtype=torch.int64)
    for start in range(0, len(matrix), len(buffer)):
        place = slice(start, min(start + len(buffer), len(matrix)))
        yield place, buffer[: place.stop - start].copy_(matrix[place])


def _require_allowed(format: Format, size: int, terms: int) -> None:
    if size < 1 or not 1 <= terms <= LARGEST_TERMS:
        raise ValueError(f"{size} rows with {terms} terms: expected 1 or more, with 1 to {LARGEST_TERMS}")
    # A part of the problem has an eighth of its rows or columns.
    for what, value, multiple in (("rows", size, 8 * format.multiple), ("terms", terms, format.multiple)):
        if format.multiple > 1 and value % multiple:
            raise ValueError(f"{value} {what}: {format.dtype} needs a multiple of {multiple}")


def _require_exact_sums(format: Format, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> None:
    import torch

    norms = [float(torch.linalg.vector_norm(matrix.float(), dim=1).max()) for matrix in (a, b)]
    largest = (math.prod(norms) + float(c.abs().max())) / 2
    if not largest <= format.exact_sum:
        raise ArithmeticError(f"partial sums up to {largest:.0f}: only {format.exact_sum:.0f} is exact")


def _fit_memory(format: Format, size: int, terms: int) -> tuple[int, int]:
    import torch

    if device().type != "cuda":
        return size, terms
    free, _ = torch.cuda.mem_get_info()
    element = torch.empty(0, dtype=getattr(torch, format.result)).element_size()
    # The problem, two orders of it and an operand that is being transposed, and the results of a batch.
    while element * (7 * size * terms + (3 + _BATCH) * size**2) > 0.8 * free and size > 1024:
        size, terms = size // 2, terms // 2
    return size, terms


def shuffle(problem: Problem, generator: torch.Generator, layout: str = LAYOUTS[0]) -> Problem:
    """The same problem with its rows and columns in another order, and its operands in this layout."""
    import torch

    rows, columns = (
        torch.randperm(length, generator=generator, device=problem.a.device) for length in problem.expected.shape
    )
    # b is the transpose of B: what has the rows of one together has the columns of the other together.
    a = _stored(_take(problem.a, rows), by_columns=layout[0] == "T")
    b = _stored(_take(problem.b, columns), by_columns=layout[1] == "N")
    return Problem(a, b, problem.expected[rows][:, columns], layout)


def _stored(matrix: torch.Tensor, by_columns: bool) -> torch.Tensor:
    return matrix.t().contiguous().t() if by_columns else matrix


def _take(matrix: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    # As integers: not every operation knows the FP8 formats.
    return matrix.view(_bits(matrix))[rows].view(matrix.dtype)


# ---------------------------------------------------------------------------------------- the self-proof


def finds_output_flip(problem: Problem, generator: torch.Generator) -> bool:
    """Flip one random bit of one random element of a result: exactly that element must be found."""
    import torch

    result = problem.multiply()
    place = int(torch.randint(result.numel(), (1,), generator=generator))
    # Not the sign: minus zero equals zero.
    _flip_bit(result, place, int(torch.randint(8 * result.element_size() - 1, (1,), generator=generator)))
    tally = Tally()
    tally.add(problem, result, bool(_differ(result, problem.expected)))
    return tally.mismatches == 1 and tally.first is not None and tally.first[:2] == [*divmod(place, result.shape[1])]


def finds_input_flip(problem: Problem, generator: torch.Generator) -> bool:
    """Flip the sign bit of the largest operand of a random row: mistakes must show in that row alone."""
    import torch

    row = int(torch.randint(len(problem.a), (1,), generator=generator))
    column = int(problem.a[row].float().abs().argmax())
    flipped = Problem(problem.a.clone(), problem.b, problem.expected)
    _flip_bit(flipped.a, row * problem.a.shape[1] + column, 8 * problem.a.element_size() - 1)
    result = flipped.multiply()
    wrong = (result != problem.expected).any(dim=1)
    return bool(_differ(result, problem.expected)) and int(wrong.sum()) == 1 and bool(wrong[row])


def _flip_bit(tensor: torch.Tensor, place: int, bit: int) -> None:
    is_sign = bit == 8 * tensor.element_size() - 1
    tensor.view(_bits(tensor)).view(-1)[place] ^= -(1 << bit) if is_sign else 1 << bit


def _bits(tensor: torch.Tensor) -> torch.dtype:
    """The signed integers of the same width."""
    import torch

    return {1: torch.int8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]


@contextmanager
def precision_of(format: str) -> Iterator[None]:
    """Have torch multiply in this format while it lasts, and never add in a format in which sums are not exact."""
    import torch

    matmul = torch.backends.cuda.matmul
    precision = torch.get_float32_matmul_precision()
    names = [f"allow_{dtype}_reduced_precision_reduction" for dtype in ("fp16", "bf16")] + ["allow_fp16_accumulation"]
    shortcuts = {name: getattr(matmul, name) for name in names if hasattr(matmul, name)}
    try:
        for name in shortcuts:
            setattr(matmul, name, False)
        torch.set_float32_matmul_precision("high" if format == "tf32" else "highest")
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for name, value in shortcuts.items():
            setattr(matmul, name, value)
