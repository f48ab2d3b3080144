"""How fast matrices are multiplied, in each number format: the best of several shapes.

No shape is the fastest everywhere. Tried are cubes, the shapes at which a search of thousands found the highest
figures on record (``facts/gpus.toml``), and shapes whose tiles of 128 x 256 fill all multiprocessors a whole number
of times, so that none waits for the last tiles. A quick look at each picks the best, which is then measured afresh:
the highest of many noisy numbers would be too high.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_bionemo.workloads import device, telemetry, timing
from pytest_bionemo.workloads.low_precision import is_refusal

if TYPE_CHECKING:
    import torch

Shape = tuple[int, int, int]

DTYPES = {"fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp8": "float8_e4m3fn"}

# (m, n, k) of the highest figures on record, and of the fixed size that other tools use.
_ON_RECORD = ((8192, 8192, 8192), (4096, 4096, 4096), (2048, 2048, 13312), (1024, 10240, 5120), (1024, 15360, 4096),
              (2048, 5120, 6144), (1024, 14336, 14336))  # fmt: skip
_TILE = (128, 256)
_DEPTHS = (4096, 8192)
# Of a product in a unit without tensor cores: as long as one of the others is in tensor cores.
_PLAIN = 0.5
_LOOK = 5
_SMALL = (256, 256, 256)
_CPU_SHAPES = (_SMALL, (128, 256, 512))


def run(format: str, budget_s: float, seed: int, hold_s: float = 0.0, attempt: int = 1) -> dict[str, Any]:
    """Multiply matrices of normally distributed numbers.

    Zeros or constants would be faster than anything that training multiplies: fewer bits toggle, less power is
    drawn, the clock stays higher. Operations are 2 m n k of an (m, k) by (k, n) product.

    :param format: a key of ``DTYPES``; "tf32" multiplies float32 and lets the tensor cores round.
    :param budget_s: for the look at all shapes, and again for the measurement of the best.
    :param seed: of the numbers.
    :param hold_s: how long to go on after that, for the sake of the telemetry.
    :param attempt: 1, or 2 for a second measurement.
    :return: ``unsupported`` (why this PyTorch cannot, alone; else None), ``rate`` (TFLOP/s of the best shape),
        ``best`` ([m, n, k]), ``shapes`` (TFLOP/s of each at a quick look, by "m x n x k"), ``skipped`` (shapes that
        the budget left no time for), ``telemetry`` (under this load: see :class:`telemetry.Watch`).
    """
    import torch

    if reason := _unsupported(format):
        return {"unsupported": reason}
    generator = torch.Generator(device()).manual_seed(seed + attempt)
    looked: dict[Shape, float] = {}
    shapes = _shapes(format)
    with _precision_of(format), telemetry.watching() as watch:
        _look(format, shapes[0], generator)  # wakes the device, and loads the library
        end = time.monotonic() + budget_s
        for shape in shapes:
            if not looked or time.monotonic() < end:
                looked[shape] = _look(format, shape, generator)
        best = max(looked, key=lambda shape: looked[shape])
        product = _product(format, best, generator)
        rate = timing.measure(product, budget_s=budget_s).rate(_operations(best) / 1e12)
        _hold(product, hold_s)
    return {
        "unsupported": None,
        "rate": rate,
        "best": list(best),
        "shapes": {" x ".join(map(str, shape)): value for shape, value in looked.items()},
        "skipped": [" x ".join(map(str, shape)) for shape in shapes if shape not in looked],
        "telemetry": watch.report(),
    }


def _unsupported(format: str) -> str | None:
    import torch

    if format != "fp8":
        return None
    if not (hasattr(torch, "_scaled_mm") and hasattr(torch, DTYPES["fp8"])):
        return f"PyTorch {torch.__version__} has no product of FP8 matrices"
    try:
        _product(format, _SMALL, torch.Generator(device()))()
        timing.synchronize()
    except (RuntimeError, ValueError) as error:
        if not is_refusal(error):
            raise
        said = " ".join(str(error).split())[:300]
        return f"PyTorch {torch.__version__} does not multiply FP8 matrices on this device: {said}"
    return None


def _shapes(format: str) -> list[Shape]:
    if device().type == "cpu":
        return list(_CPU_SHAPES)
    import torch

    multiprocessors = torch.cuda.get_device_properties(device()).multi_processor_count
    found = [*_ON_RECORD, *_whole_waves(multiprocessors)]
    return [tuple(int(side * _PLAIN) for side in shape) for shape in found] if format == "fp32" else found  # type: ignore[misc]


def _whole_waves(multiprocessors: int) -> list[Shape]:
    """Shapes of which every multiprocessor computes the same number of tiles."""
    rows = max(factor for factor in range(1, math.isqrt(multiprocessors) + 1) if multiprocessors % factor == 0)
    columns = multiprocessors // rows
    return [(waves * _TILE[0] * columns, _TILE[1] * rows, depth) for waves in (1, 2, 4) for depth in _DEPTHS]


def _look(format: str, shape: Shape, generator: torch.Generator) -> float:
    """TFLOP/s at a quick look: the best of a few, since the first ones may find the clock low."""
    clock = timing.CudaClock() if device().type == "cuda" else timing.HostClock()
    with timing.one_core():
        seconds = clock.samples(_product(format, shape, generator), 1, _LOOK, lambda: None)
    return _operations(shape) / min(timing.sound(one) for one in seconds) / 1e12


def _hold(product: Callable[[], torch.Tensor], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(_LOOK):
            product()
        timing.synchronize()


def _operations(shape: Shape) -> int:
    return 2 * math.prod(shape)


def _product(format: str, shape: Shape, generator: torch.Generator) -> Callable[[], torch.Tensor]:
    """A product of this shape that is computed anew with each call."""
    import torch

    m, n, k = shape
    dtype: torch.dtype = getattr(torch, DTYPES[format])
    a, b = (torch.randn(sides, device=device(), generator=generator) for sides in ((m, k), (n, k)))
    if format == "fp8":
        one = torch.ones((), device=device())
        x, y = a.to(dtype), b.to(dtype).t()
        fast = _accumulates_fast()
        return lambda: torch._scaled_mm(x, y, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=fast)
    x, y = a.to(dtype), b.to(dtype).t().contiguous()
    result = torch.empty(m, n, dtype=dtype, device=device())
    return lambda: torch.mm(x, y, out=result)


def _accumulates_fast() -> bool:
    """As the forward pass of FP8 training does on Hopper (pytorch/ao issue 2377), where it is faster by 10 to 20 %.

    Not on Ada, where accumulation in FP16 would make a GeForce twice as fast as its bound, which is for FP32.
    """
    import torch

    return device().type == "cuda" and torch.cuda.get_device_capability() >= (9, 0)


@contextmanager
def _precision_of(format: str) -> Iterator[None]:
    import torch

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if format == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
