"""Timing: what a clock says becomes a median and an interval, and a clock that lies is no clock."""

from __future__ import annotations

import itertools
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from pytest_bionemo.workloads import KIND, timing
from pytest_bionemo.workloads.timing import BrokenClock, CudaClock, HostClock, Timing, measure, median_interval


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KIND, "cpu")


class Script:
    """A clock that reads what it is told: seconds of one piece of work, one after the other."""

    def __init__(self, seconds: Iterator[float]) -> None:
        self.seconds = seconds
        self.taken: list[float] = []
        self.repeats: list[int] = []

    def samples(
        self, work: Callable[[], object], repeats: int, count: int, before: Callable[[], object]
    ) -> list[float]:
        found = []
        for _ in range(count):
            before()
            self.taken.append(next(self.seconds))
            self.repeats.append(repeats)
            found.append(self.taken[-1] * repeats)
        return found


def nothing() -> None:
    pass


def noisy(median: float, spread: float) -> Iterator[float]:
    generator = random.Random(20261122)
    while True:
        yield median * (1 + spread * generator.uniform(-1, 1))


# ---- the interval


@pytest.mark.parametrize(
    ("count", "ranks"), [(6, (1, 6)), (7, (1, 7)), (9, (2, 8)), (20, (6, 15)), (30, (10, 21)), (100, (40, 61))]
)
def test_the_interval_is_that_of_the_tables(count: int, ranks: tuple[int, int]) -> None:
    """As in H. A. David, "Order statistics": the ranks of the smallest symmetric interval of at least 95 %."""
    ordered = [float(rank) for rank in range(1, count + 1)]
    assert median_interval(ordered) == ranks


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_samples_give_no_interval(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} samples are too few for an interval of 95%"):
        median_interval([1.0] * count)


@pytest.mark.parametrize("count", [7, 30, 61])
def test_the_interval_holds_the_median_as_often_as_it_says(count: int) -> None:
    generator = random.Random(count)
    tries = 3000
    hits = 0
    for _ in range(tries):
        low, high = median_interval(sorted(generator.expovariate(1) for _ in range(count)))
        hits += low <= math.log(2) <= high
    # Four standard deviations of the count of hits, should the coverage be exactly 95 %.
    assert hits / tries >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / tries)


# ---- sampling


def test_steady_work_is_known_exactly() -> None:
    found = measure(nothing, clock=Script(itertools.repeat(0.01)))
    assert (found.median, found.ci95, found.mad, found.p5, found.p95) == (0.01, (0.01, 0.01), 0, 0.01, 0.01)
    assert found.settled
    assert found.samples >= timing.LEAST_SAMPLES_CPU


def test_a_gpu_is_sampled_thirty_times_at_least() -> None:
    assert timing.LEAST_SAMPLES_GPU >= 30
    assert measure(nothing, clock=Script(itertools.repeat(0.01)), least=timing.LEAST_SAMPLES_GPU).samples >= 30


def test_what_is_measured_before_the_device_is_warm_does_not_count() -> None:
    """A clock frequency that rises: each of the first hundred samples is one per cent shorter than the one before."""
    rising = itertools.chain((0.01 * 1.01 ** (100 - step) for step in range(100)), itertools.repeat(0.01))
    found = measure(nothing, clock=Script(rising))
    assert found.settled
    assert found.median == 0.01


def test_work_that_never_settles_says_so_and_is_uncertain() -> None:
    rising = [0.01 * 1.01**step for step in range(40)]
    found = measure(nothing, clock=Script(itertools.cycle(rising)), budget_s=0.05)
    low, high = found.ci95
    assert not found.settled
    assert low < found.median < high
    assert found.p5 <= low < high <= found.p95


def test_sampling_goes_on_until_the_interval_is_narrow() -> None:
    found = measure(nothing, clock=Script(noisy(0.01, 0.05)), budget_s=30)
    low, high = found.ci95
    assert found.samples > timing.LEAST_SAMPLES_CPU
    assert max(high - found.median, found.median - low) <= timing.PRECISE * found.median


def test_slow_work_is_sampled_less_often_than_asked_and_often_enough() -> None:
    script = Script(noisy(0.01, 0.5))
    found = measure(lambda: None, clock=Slow(script), budget_s=0.01, least=1000)
    assert timing.LEAST_SAMPLES_CPU <= found.samples < 1000


class Slow:
    def __init__(self, clock: Script) -> None:
        self.clock = clock

    def samples(
        self, work: Callable[[], object], repeats: int, count: int, before: Callable[[], object]
    ) -> list[float]:
        time.sleep(0.01 * count)
        return self.clock.samples(work, repeats, count, before)


def test_short_work_is_repeated_within_a_sample() -> None:
    script = Script(itertools.repeat(1e-6))
    found = measure(nothing, clock=script)
    assert found.median == pytest.approx(1e-6)
    assert script.repeats[-1] * 1e-6 >= 1e-3
    assert script.repeats[0] == 1


def test_a_clock_that_runs_a_thousand_times_too_slow_does_not_make_us_work_a_thousand_times_longer() -> None:
    done: list[int] = []

    def work() -> None:
        done.append(1)
        time.sleep(0.002)

    class TooSlow(HostClock):
        def samples(
            self, work: Callable[[], object], repeats: int, count: int, before: Callable[[], object]
        ) -> list[float]:
            self.repeats = repeats
            return [seconds / 1000 for seconds in super().samples(work, repeats, count, before)]

    clock = TooSlow()
    found = measure(work, clock=clock, budget_s=0.05)
    assert found.median < 1e-3
    assert clock.repeats <= timing._LONGEST_SAMPLE_S / 0.002


@pytest.mark.parametrize("reading", [0.0, -1e-3, math.nan, math.inf])
def test_a_clock_that_cannot_be_right_is_no_clock(reading: float) -> None:
    good = [0.01] * 20
    for at in (1, 5, 19):
        with pytest.raises(BrokenClock, match=f"the clock gave {reading!r} s"):
            measure(nothing, clock=Script(iter([*good[:at], reading, *good])))


def test_the_host_s_clock_going_backwards_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = itertools.count(0, -1)
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(readings)))
    with pytest.raises(BrokenClock, match=r"-1\.0 s"):
        measure(nothing)


def test_what_comes_before_a_sample_is_not_timed() -> None:
    seconds = HostClock().samples(nothing, 1, 3, lambda: time.sleep(0.05))
    assert len(seconds) == 3
    assert max(seconds) < 0.05


def test_the_cache_is_overwritten_before_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_LEVEL3_CACHE_SIZE": 4096}[name])
    filled: list[int] = []
    zero = torch.Tensor.zero_

    def watched(tensor: torch.Tensor) -> torch.Tensor:
        filled.append(tensor.numel())
        return zero(tensor)

    monkeypatch.setattr(torch.Tensor, "zero_", watched)
    script = Script(itertools.repeat(0.01))
    measure(nothing, clock=script, flushes_cache=True)
    assert filled == [2 * 4096] * len(script.taken)


def test_threads_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        measure(lambda: seen.append(torch.get_num_threads()), clock=WorkingScript(), budget_s=0.01)
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            measure(lambda: 1 // 0, budget_s=0.01)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


class WorkingScript(Script):
    def __init__(self) -> None:
        super().__init__(itertools.repeat(0.01))

    def samples(
        self, work: Callable[[], object], repeats: int, count: int, before: Callable[[], object]
    ) -> list[float]:
        work()
        return super().samples(work, repeats, count, before)


# ---- the numbers


def test_a_rate_turns_everything_round() -> None:
    times = Timing(median=2.0, p5=1.0, p95=4.0, mad=0.5, ci95=(1.6, 2.5), samples=9, settled=True)
    rate = times.rate(10)
    assert rate == {"value": 5, "p5": 2.5, "p95": 10, "mad": 1.25, "ci95": [4.0, 6.25], "samples": 9, "settled": True}
    assert times.seconds()["value"] == 2
    assert times.seconds()["ci95"] == [1.6, 2.5]


def test_percentiles_are_samples() -> None:
    script = Script(noisy(0.01, 0.5))
    found = measure(nothing, clock=script, least=100, budget_s=0.05)
    assert {found.p5, found.p95} <= set(script.taken)
    assert found.p5 < found.median < found.p95
    deviations = [abs(seconds - found.median) for seconds in script.taken[-found.samples :]]
    assert found.mad == pytest.approx(statistics.median(deviations))


# ---- on a GPU, played


def test_the_stream_is_held_until_all_events_are_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append("event")

        def elapsed_time(self, end: Event) -> float:
            return 7.0  # milliseconds

    monkeypatch.setenv(KIND, "cuda")
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: log.append("hold" if cycles > 0 else "pass"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("wait"))
    seconds = CudaClock().samples(lambda: log.append("work"), 2, 12, lambda: log.append("flush"))
    sample = ["flush", "event", "work", "work", "event"]
    assert seconds == [0.007] * 12
    assert log == ["wait", "hold", *sample * 10, "wait", "wait", "hold", *sample * 2, "wait"]
