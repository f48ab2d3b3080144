"""A number beside its rulers: each word where it belongs, and at its border."""

from __future__ import annotations

import math

import pytest

from pytest_bionemo.judging import (
    CALIBRATED,
    FEW,
    LINK,
    MEMORY,
    NODE,
    PRODUCTS,
    REHEARSAL,
    UNCALIBRATED,
    Judgement,
    Limits,
    Word,
    judge,
)


def word(value: float, **rulers: object) -> Word:
    return judge(value, **rulers).word  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(103.1, Word.UNTRUSTED), (102.9, Word.GOOD), (92.1, Word.GOOD), (91.9, Word.DEGRADED), (80.1, Word.DEGRADED),
     (79.9, Word.LOW), (1e-9, Word.LOW)],
)  # fmt: skip
def test_a_number_between_its_bound_and_its_reference(value: float, expected: Word) -> None:
    assert word(value, bound=100.0, reference=100.0) is expected


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_no_measurement_is_trusted_that_is_no_positive_number(value: float) -> None:
    found = judge(value, reference=1.0, peers=[1.0, 1.0, 1.0])
    assert found.word is Word.UNTRUSTED
    assert repr(value) in found.because


def test_faster_than_physics_outweighs_every_other_ruler() -> None:
    found = judge(200.0, bound=100.0, reference=250.0, peers=[200.0, 200.0, 200.0])
    assert found == Judgement(Word.UNTRUSTED, "2 x the physical bound", peer_median=200.0)


def test_a_bound_alone_calls_nothing_good() -> None:
    assert word(50.0, bound=100.0) is Word.UNJUDGED
    assert word(50.0) is Word.UNJUDGED
    found = judge(99.0, bound=100.0, bound_limits=PRODUCTS)
    assert (found.word, found.because) == (Word.UNJUDGED, "0.99 x its physical bound")


@pytest.mark.parametrize(
    ("value", "limits", "expected"),
    [
        (60.0, PRODUCTS, Word.UNJUDGED),
        (39.9, PRODUCTS, Word.DEGRADED),
        (24.9, PRODUCTS, Word.LOW),
        (0.04, PRODUCTS, Word.LOW),
        (49.9, MEMORY, Word.DEGRADED),
        (24.9, MEMORY, Word.LOW),
        (29.9, LINK, Word.DEGRADED),
        (9.9, LINK, Word.LOW),
        (12.6, PRODUCTS.of(1 / 2), Word.DEGRADED),
        (12.4, PRODUCTS.of(1 / 2), Word.LOW),
    ],
)
def test_a_device_that_nobody_measured_is_held_to_its_bound(value: float, limits: Limits, expected: Word) -> None:
    assert word(value, bound=100.0, bound_limits=limits) is expected


def test_the_bound_finds_fault_beside_every_other_ruler() -> None:
    # All devices of a node may be slow together, and a device may always have been.
    found = judge(20.0, bound=100.0, bound_limits=PRODUCTS, peers=[20.0] * 3, baseline=20.0)
    assert (found.word, found.because) == (Word.LOW, "0.20 x its physical bound")
    assert word(60.0, bound=100.0, bound_limits=PRODUCTS, reference=61.0) is Word.GOOD
    assert word(60.0, bound=100.0, bound_limits=PRODUCTS, peers=[60.0]) is Word.GOOD


def test_of_two_rulers_that_find_the_same_fault_the_one_that_knows_most_is_named() -> None:
    found = judge(10.0, bound=100.0, bound_limits=PRODUCTS, reference=80.0)
    assert (found.word, found.because) == (Word.LOW, "0.12 x the reference")


def test_the_bound_of_a_duration_has_limits_too() -> None:
    assert word(3.9, higher_is_better=False, bound=1.0, bound_limits=MEMORY) is Word.DEGRADED
    assert word(4.1, higher_is_better=False, bound=1.0, bound_limits=MEMORY) is Word.LOW


@pytest.mark.parametrize(
    ("peers", "value", "expected"),
    [
        ([100.0, 100.0, 104.0], 90.1, Word.GOOD),
        ([100.0, 100.0, 104.0], 89.9, Word.DEGRADED),
        ([100.0, 100.0, 104.0], 79.9, Word.LOW),
        # The median: one peer that is slow itself, or one that is broken, moves nothing.
        ([100.0, 100.0, 1.0], 89.9, Word.DEGRADED),
        ([100.0, 100.0, 1e9], 90.1, Word.GOOD),
        # Of few, the best: two of three devices may be slow.
        ([100.0, 50.0], 80.1, Word.GOOD),
        ([100.0, 50.0], 79.9, Word.DEGRADED),
        ([100.0], 66.9, Word.LOW),
    ],
)
def test_a_number_among_its_peers(peers: list[float], value: float, expected: Word) -> None:
    assert word(value, peers=peers) is expected


def test_a_device_at_a_third_of_its_peers_is_low_in_a_rehearsal_too() -> None:
    for limits in (None, NODE, FEW, REHEARSAL):
        assert word(33.3, peers=[100.0] * 3, peer_limits=limits) is Word.LOW
    assert word(60.0, peers=[100.0] * 3, peer_limits=REHEARSAL) is Word.GOOD


@pytest.mark.parametrize("limits", [CALIBRATED, UNCALIBRATED, PRODUCTS, MEMORY, LINK, NODE, FEW, REHEARSAL])
def test_limits_are_in_order(limits: Limits) -> None:
    assert 0 < limits.low <= limits.degraded < 1


def test_the_worst_word_counts() -> None:
    assert word(85.0, reference=100.0, peers=[120.0] * 3) is Word.LOW
    assert word(85.0, reference=120.0, peers=[86.0] * 3) is Word.LOW
    found = judge(85.0, reference=100.0, peers=[86.0] * 3, baseline=90.0)
    assert (found.word, found.because) == (Word.DEGRADED, "0.85 x the reference")


def test_its_own_past_is_a_ruler() -> None:
    assert word(95.0, baseline=100.0) is Word.GOOD
    found = judge(70.0, baseline=100.0)
    assert (found.word, found.because) == (Word.LOW, "0.70 x its own earlier value")


def test_what_is_decided_on_is_the_better_end_of_the_interval() -> None:
    assert word(75.0, ci95=(74.0, 76.0), reference=100.0) is Word.LOW
    assert word(75.0, ci95=(60.0, 81.0), reference=100.0) is Word.DEGRADED
    assert word(75.0, ci95=(60.0, 93.0), reference=100.0) is Word.GOOD


@pytest.mark.parametrize(
    ("ci95", "expected"), [((79.0, 81.0), True), ((81.0, 83.0), False), ((91.0, 93.0), True), ((70.0, 79.0), False)]
)
def test_a_number_on_a_border_is_worth_a_second_measurement(ci95: tuple[float, float], expected: bool) -> None:
    assert judge(sum(ci95) / 2, ci95=ci95, reference=100.0).borderline is expected


@pytest.mark.parametrize(("value", "expected"), [(79.9, Word.DEGRADED), (40.1, Word.DEGRADED), (39.9, Word.LOW)])
def test_an_uncalibrated_reference_blocks_only_what_is_far_below_it(value: float, expected: Word) -> None:
    found = judge(value, reference=100.0, is_calibrated=False)
    assert found.word is expected
    assert "uncalibrated" in found.because


def test_an_uncalibrated_reference_calls_nothing_good() -> None:
    assert word(85.0, reference=100.0, is_calibrated=False) is Word.UNCALIBRATED
    assert word(85.0, reference=100.0, is_calibrated=False, bound=110.0, bound_limits=PRODUCTS) is Word.UNCALIBRATED
    # Peers are real, whatever is known of the model.
    assert word(10.0, reference=100.0, is_calibrated=False, peers=[100.0] * 3) is Word.LOW
    assert word(99.0, reference=100.0, is_calibrated=False, peers=[100.0] * 3) is Word.GOOD


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.96, Word.UNTRUSTED), (1.05, Word.GOOD), (1.09, Word.DEGRADED), (1.24, Word.DEGRADED), (1.26, Word.LOW)],
)
def test_of_a_duration_less_is_better(seconds: float, expected: Word) -> None:
    found = judge(seconds, ci95=(seconds, seconds), higher_is_better=False, bound=1.0, reference=1.0)
    assert found.word is expected


def test_the_better_end_of_a_duration_is_the_lower_one() -> None:
    found = judge(2.0, ci95=(1.0, 3.0), higher_is_better=False, peers=[1.0, 1.0, 1.0])
    assert (found.word, found.borderline, found.peer_median) == (Word.GOOD, True, 1.0)
    assert judge(2.0, ci95=(1.9, 3.0), higher_is_better=False, peers=[1.0, 1.0, 1.0]).word is Word.LOW


def test_words_are_sorted_from_worst_to_best() -> None:
    assert list(Word)[:3] == [Word.UNTRUSTED, Word.LOW, Word.DEGRADED]
    assert list(Word)[-1] is Word.GOOD
