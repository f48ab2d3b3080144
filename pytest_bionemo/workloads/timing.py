"""How long work takes on this device: warmed up by state, sampled until the median is known, never trusted blindly.

A sample is one reading of a clock: CUDA events on a GPU, :func:`time.perf_counter` on the CPU. On a GPU the stream
is blocked before the first event, so that the queue is full and what is timed is the device, not the launches.
Work that is too short for its clock is repeated within a sample. The recipe, with the reasons, is that of
nvbandwidth (a kernel that holds the stream), Triton's do_bench (the cache cleared between samples) and mamf-finder
(random operands, which draw the power that training draws: those the caller brings).
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from pytest_bionemo.workloads import device

Work = Callable[[], object]

LEAST_SAMPLES_GPU = 30
LEAST_SAMPLES_CPU = 7
CONFIDENCE = 0.95
# The width of the confidence interval, to either side of the median, at which more samples tell nothing more.
PRECISE = 0.01
# Warm is a device whose medians of so many samples no longer differ by more than this share.
SETTLED = 0.01
_ROUND = 5

_MOST_SAMPLES = 500
# Seven samples still give an interval: work that takes so many budgets to be sampled as often as it should is not.
_PATIENCE = 5
_SHORTEST_SAMPLE_S = 1e-3
_LONGEST_SAMPLE_S = 0.05  # of work that is repeated
_MOST_REPEATS = 1 << 14

# How many samples wait in the queue behind the kernel that blocks it, and for how long it may block.
_QUEUED = 10
_LONGEST_BLOCK_S = 0.05
# The kernel that blocks counts clocks: no GPU of today ticks faster.
_FASTEST_CLOCK_HZ = 3e9

_LARGEST_CPU_CACHE = 64 << 20


class BrokenClock(ArithmeticError):
    """A clock that went backwards, stood still or gave no number: nothing can be said about speed."""


@dataclass(frozen=True)
class Timing:
    """How long one piece of work takes, all in seconds.

    ``ci95`` holds the median with a probability of 95 % or more, whatever the distribution (see
    :func:`median_interval`); ``mad`` is the median absolute deviation. ``settled`` says whether the device was warm
    before the first sample.
    """

    median: float
    p5: float
    p95: float
    mad: float
    ci95: tuple[float, float]
    samples: int
    settled: bool

    def seconds(self) -> dict[str, Any]:
        """As a number of a workload: ``value``, ``ci95``, ``samples`` and the spread."""
        numbers = asdict(self)
        return {"value": numbers.pop("median"), **numbers, "ci95": list(self.ci95)}

    def rate(self, amount: float) -> dict[str, Any]:
        """The same for an amount of work each: amount per second. The percentiles swap, the spread is relative."""
        low, high = self.ci95
        return {
            "value": amount / self.median,
            "p5": amount / self.p95,
            "p95": amount / self.p5,
            "mad": amount / self.median * (self.mad / self.median),
            "ci95": [amount / high, amount / low],
            "samples": self.samples,
            "settled": self.settled,
        }


class Stopwatch(Protocol):
    """Reads a clock around work."""

    def samples(self, work: Work, repeats: int, count: int, before: Work) -> list[float]:
        """Seconds of ``count`` samples, each of ``repeats`` times the work, with ``before`` before each, untimed."""


class HostClock:
    """The clock of the host. It waits for the device before it starts and, if ``waits``, before it stops."""

    def __init__(self, *, waits: bool = True) -> None:
        self._waits = waits

    def samples(self, work: Work, repeats: int, count: int, before: Work) -> list[float]:
        """See :class:`Stopwatch`."""
        found = []
        for _ in range(count):
            before()
            synchronize()
            start = time.perf_counter()
            for _ in range(repeats):
                work()
            if self._waits:
                synchronize()
            found.append(time.perf_counter() - start)
        return found


class CudaClock:
    """Events in the stream of the GPU, behind a kernel that holds it until they are all queued."""

    def __init__(self) -> None:
        self._to_queue_s = 1e-3

    def samples(self, work: Work, repeats: int, count: int, before: Work) -> list[float]:
        """See :class:`Stopwatch`."""
        found: list[float] = []
        while len(found) < count:
            found += self._batch(work, repeats, min(_QUEUED, count - len(found)), before)
        return found

    def _batch(self, work: Work, repeats: int, count: int, before: Work) -> list[float]:
        import torch

        events = [(_event(), _event()) for _ in range(count)]
        synchronize()
        torch.cuda._sleep(  # type: ignore[no-untyped-call]
            int(min(_LONGEST_BLOCK_S, count * self._to_queue_s) * _FASTEST_CLOCK_HZ)
        )
        queueing = time.monotonic()
        for start, end in events:
            before()
            start.record()
            for _ in range(repeats):
                work()
            end.record()
        self._to_queue_s = (time.monotonic() - queueing) / count
        synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in events]


def measure(
    work: Work,
    *,
    budget_s: float = 1.0,
    flushes_cache: bool = False,
    clock: Stopwatch | None = None,
    least: int | None = None,
) -> Timing:
    """Time the work on this device.

    :param work: one piece of it; on a GPU it queues and need not wait.
    :param budget_s: how long to sample, and at most to warm up. Sampling ends earlier once the interval is narrow
        (which makes it a little narrower than 95 %), and later if it takes longer to take the least number.
    :param flushes_cache: for work that is bound by memory: the cache is overwritten before each sample, so that
        nothing is read from it.
    :param clock: the device's own, unless given.
    :param least: samples to take at least; 30 on a GPU, 7 on the CPU unless given.
    :raises BrokenClock: if a reading is zero, negative or no number.
    """
    on_gpu = device().type == "cuda"
    clock = clock or (CudaClock() if on_gpu else HostClock())
    least = least or (LEAST_SAMPLES_GPU if on_gpu else LEAST_SAMPLES_CPU)
    before = _flush() if flushes_cache else _nothing
    with one_core():
        repeats = _calibrate(clock, work, before)

        def take(count: int) -> list[float]:
            return [sound(seconds) / repeats for seconds in clock.samples(work, repeats, count, before)]

        settled = _warm_up(take, budget_s)
        return _sample(take, budget_s, least, settled)


def median_interval(ordered: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Two of the samples between which the median of the distribution lies, with this probability or more.

    The number of samples below the median follows a binomial distribution with p = 1/2 whatever is sampled, so the
    k-th smallest and k-th largest enclose it with probability 1 - 2 P(X < k); k is the largest that will do (W. R.
    Thompson, "On confidence ranges for the median", 1936). It assumes that samples are independent.

    :param ordered: samples, smallest first.
    :raises ValueError: for fewer samples than any interval needs (6 at 95 %).
    """
    count = len(ordered)
    tail, rank = 0.0, 0
    while rank < count // 2 and tail + math.comb(count, rank) / 2**count <= (1 - confidence) / 2:
        tail += math.comb(count, rank) / 2**count
        rank += 1
    if rank == 0:
        raise ValueError(f"{count} samples are too few for an interval of {confidence:.0%}")
    return ordered[rank - 1], ordered[count - rank]


def synchronize() -> None:
    """Wait until the device has done what was asked of it."""
    import torch

    if device().type == "cuda":
        torch.cuda.synchronize()


def _event() -> Any:
    import torch

    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


@contextmanager
def one_core() -> Iterator[None]:
    """On the CPU, one thread: several that wait for each other would time whatever else the machine does."""
    import torch

    threads = torch.get_num_threads()
    if device().type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _calibrate(clock: Stopwatch, work: Work, before: Work) -> int:
    """How often to repeat the work within a sample, so that its clock can resolve it."""
    clock.samples(work, 1, 1, before)  # compiles, allocates, loads libraries
    repeats = 1
    while True:
        began = time.monotonic()
        seconds = sound(clock.samples(work, repeats, 1, before)[0])
        # By another clock, should this one lie: no sample may take for ever.
        most = int(_LONGEST_SAMPLE_S / max(time.monotonic() - began, 1e-9) * repeats)
        wanted = min(math.ceil(1.1 * repeats * _SHORTEST_SAMPLE_S / seconds), 16 * repeats, most, _MOST_REPEATS)
        if seconds >= _SHORTEST_SAMPLE_S or wanted <= repeats:
            return repeats
        repeats = wanted


def _warm_up(take: Callable[[int], list[float]], longest_s: float) -> bool:
    """Work until three medians in a row agree: clocks rise and power settles, and a count would not know when."""
    end = time.monotonic() + longest_s
    medians: list[float] = []
    while True:
        medians = [*medians, statistics.median(take(_ROUND))][-3:]
        if len(medians) == 3 and max(medians) - min(medians) <= SETTLED * min(medians):
            return True
        if time.monotonic() > end:
            return False


def _sample(take: Callable[[int], list[float]], budget_s: float, least: int, settled: bool) -> Timing:
    began = time.monotonic()
    found: list[float] = []
    while True:
        found += take(_ROUND)
        spent = time.monotonic() - began
        if len(found) >= least and (spent > budget_s or len(found) >= _MOST_SAMPLES or _is_precise(found)):
            break
        if len(found) >= LEAST_SAMPLES_CPU and spent > _PATIENCE * budget_s:
            break
    return summarise(found, settled)


def _is_precise(found: Sequence[float]) -> bool:
    ordered = sorted(found)
    low, high = median_interval(ordered)
    median = statistics.median(ordered)
    return max(high - median, median - low) <= PRECISE * median


def summarise(found: Sequence[float], settled: bool = True) -> Timing:
    """Median, spread and interval of durations in seconds.

    :raises ValueError: for fewer than the interval needs (6).
    """
    ordered = sorted(found)
    median = statistics.median(ordered)
    return Timing(
        median=median,
        p5=_quantile(ordered, 0.05),
        p95=_quantile(ordered, 0.95),
        mad=statistics.median(abs(seconds - median) for seconds in ordered),
        ci95=median_interval(ordered),
        samples=len(ordered),
        settled=settled,
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def sound(seconds: float) -> float:
    """The reading of a clock, if it can be one.

    :raises BrokenClock: if it is zero, negative or no number.
    """
    if not (math.isfinite(seconds) and seconds > 0):
        raise BrokenClock(f"the clock gave {seconds!r} s for work that was done: it cannot time anything")
    return seconds


def _nothing() -> None:
    pass


def _flush() -> Work:
    """What overwrites the last cache of this device, twice over."""
    import torch

    scratch = torch.empty(2 * _cache_bytes(), dtype=torch.uint8, device=device())
    return scratch.zero_


def _cache_bytes() -> int:
    import torch

    if device().type == "cuda":
        # An older build does not tell; no GPU that it knows has more.
        return int(getattr(torch.cuda.get_device_properties(device()), "L2_cache_size", _LARGEST_CPU_CACHE))
    try:
        found = os.sysconf("SC_LEVEL3_CACHE_SIZE")
    except (ValueError, OSError):
        found = 0
    return min(_LARGEST_CPU_CACHE, max(0, found))
