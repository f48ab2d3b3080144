"""Rounds of pairs: they name the slow node, whichever it is, and nobody where none is."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection
from typing import Any

import pytest

from pytest_bionemo import slow_paths
from pytest_bionemo.pairing import Diagnosis, Pair, Trial, diagnose, least_rounds, most_rounds, next_round

LIMIT = 0.67


def play(nodes: int, measure: Callable[[Pair], Trial]) -> tuple[int, Diagnosis]:
    """How many rounds it took, and what came out."""
    trials: list[Trial] = []
    for rounds in itertools.count():
        pairs = next_round(nodes, trials, limit=LIMIT)
        assert len({node for pair in pairs for node in pair}) == 2 * len(pairs), "a node has one partner in a round"
        if not pairs:
            return rounds, diagnose(nodes, trials, limit=LIMIT)
        trials += map(measure, pairs)
    raise AssertionError


def slow_with(slow: Collection[int], paths: Collection[Pair] = ()) -> Callable[[Pair], Trial]:
    return lambda pair: Trial(pair, 1.0 if {*slow} & {*pair} or pair in paths else 10.0)


@pytest.mark.parametrize("nodes", range(2, 12))
def test_every_minority_of_slow_nodes_is_named_and_nobody_else(nodes: int) -> None:
    for count in range((nodes + 1) // 2):
        for slow in itertools.combinations(range(nodes), count):
            rounds, found = play(nodes, slow_with(slow))
            assert (found.nodes, found.paths, found.suspects, found.untried) == (slow, (), (), ()), (slow, found)
            assert rounds <= most_rounds(nodes) <= nodes.bit_length() + 2
            assert found.reference == 10
            assert found.is_healthy == (not slow)


@pytest.mark.parametrize("nodes", [4, 6, 8, 100, 512])
def test_two_rounds_find_a_single_slow_node(nodes: int) -> None:
    for slow in range(0, nodes, max(1, nodes // 8)):
        assert play(nodes, slow_with([slow])) == (2, Diagnosis(10.0, (slow,), (), (), ()))
    assert play(nodes, slow_with([])) == (2, Diagnosis(10.0, (), (), (), ()))


def test_a_fifth_of_a_thousand_nodes_is_named_in_four_rounds() -> None:
    slow = tuple(sorted(random.Random(7).sample(range(1000), 200)))
    rounds, found = play(1000, slow_with(slow))
    assert found.nodes == slow
    assert rounds <= 4


def test_half_of_the_nodes_are_not_taken_for_the_usual_ones() -> None:
    for slow in itertools.combinations(range(8), 4):
        # Where each of them meets its like in two rounds, all pairs of these are alike, and nothing is known.
        rounds, found = play(8, slow_with(slow))
        assert found.nodes in (slow, ())
        assert (found.nodes == slow) or rounds == least_rounds(8)


@pytest.mark.parametrize("nodes", [4, 7, 8])
def test_a_slow_path_is_measured_again_and_blames_neither_node(nodes: int) -> None:
    _, found = play(nodes, slow_with([], [(0, 1)]))
    assert (found.nodes, found.paths, found.suspects) == ((), ((0, 1),), ())


def test_a_pair_that_was_slow_once_is_no_slow_path() -> None:
    seen: list[Pair] = []

    def measure(pair: Pair) -> Trial:
        seen.append(pair)
        return Trial(pair, 1.0 if pair == (0, 1) and seen.count(pair) == 1 else 10.0)

    assert play(4, measure)[1].is_healthy
    assert seen.count((0, 1)) == 2


def test_what_is_uncertain_is_held_against_nobody_and_clears_nobody() -> None:
    fast = [Trial((2, 3), 10.0), Trial((0, 2), 10.0)]
    uncertain = [*fast, *(Trial(pair, 6.0, (5.0, 7.0)) for pair in ((0, 1), (1, 3)))]
    found = diagnose(4, uncertain, limit=LIMIT)
    assert (found.nodes, found.suspects, found.untried) == ((), (), (1,))
    assert not found.is_healthy
    assert next_round(4, uncertain, limit=LIMIT) == [(0, 3), (1, 2)]


def test_a_pair_without_data_is_slow_whatever_the_others_do() -> None:
    _, found = play(2, lambda pair: Trial(pair, 0.0, failure="no data"))
    assert (found.suspects, found.reference) == ((0, 1), 0.0)
    _, found = play(5, lambda pair: Trial(pair, 10.0, failure="wrong data" if 4 in pair else None))
    assert found.nodes == (4,)


def test_one_pair_that_is_faster_makes_nobody_slow() -> None:
    rounds, found = play(8, lambda pair: Trial(pair, 100.0 if pair == (0, 1) else 10.0))
    assert found.is_healthy
    assert rounds <= most_rounds(8)


def test_noise_of_a_fifth_changes_no_diagnosis() -> None:
    noise = random.Random(1)

    def measure(slow: int | None) -> Callable[[Pair], Trial]:
        return lambda pair: Trial(pair, noise.uniform(8, 10) * (0.1 if slow in pair else 1))

    for _ in range(200):
        nodes = noise.choice([4, 5, 8, 16, 33])
        slow = noise.choice([None, noise.randrange(nodes)])
        assert play(nodes, measure(slow))[1].nodes == (() if slow is None else (slow,))


def test_one_node_alone_has_nobody_to_meet() -> None:
    assert next_round(1, [], limit=LIMIT) == []
    assert most_rounds(1) == 0


# ---- in words

HOSTS = ["a", "b", "c", "d"]


def path(source: int, target: int, value: float, number: int, failure: str = "", wrong: int = 0) -> dict[str, Any]:
    rate = None if failure else {"value": value, "interval": [value, value], "samples": 7}
    return {"round": number, "nodes": [source, target], "devices": ["gpu0", "gpu0"], "rate": rate, "wrong": wrong,
            "failure": failure or None}  # fmt: skip


def told(*changed: dict[str, Any]) -> list[str]:
    """What is said where these paths are not as fast as the others."""
    keys = [(one["round"], one["nodes"]) for one in changed]
    pairs = [(0, 1, 1), (2, 3, 1), (0, 2, 2), (1, 3, 2)]
    healthy = [path(*ends, 45, number) for one, other, number in pairs for ends in ((one, other), (other, one))]
    paths = [one for one in healthy if (one["round"], one["nodes"]) not in keys]
    return [found.text for found in slow_paths.culprits(HOSTS, [*paths, *changed], limit=LIMIT)]


def test_it_is_said_in_which_direction_a_node_is_slow() -> None:
    assert told() == []
    sends = "b (gpu0) to a (gpu0) 4 GB/s, b (gpu0) to d (gpu0) 4.5 GB/s"
    assert told(path(1, 0, 4, 1), path(1, 3, 4.5, 2)) == [f"b sends slowly: {sends}"]
    receives = "a (gpu0) to b (gpu0) 4 GB/s, d (gpu0) to b (gpu0) 4 GB/s"
    assert told(path(0, 1, 4, 1), path(3, 1, 4, 2)) == [f"b receives slowly: {receives}"]
    both = "b (gpu0) to a (gpu0) 4 GB/s, d (gpu0) to b (gpu0) 4 GB/s"
    assert told(path(1, 0, 4, 1), path(3, 1, 4, 2)) == [f"b sends and receives slowly: {both}"]


def test_wrong_data_and_none_at_all_are_not_called_slow() -> None:
    (text,) = told(path(1, 0, 0, 1, "3 bytes", 3), path(1, 3, 0, 2, "3 bytes", 3))
    assert text.startswith("b sends wrong data: b (gpu0) to a (gpu0) (3 bytes)")
    pairs = ((1, 0, 1), (0, 1, 1), (1, 3, 2), (3, 1, 2))
    (text,) = told(*(path(source, target, 0, number, "nothing") for source, target, number in pairs))
    assert text.startswith("b exchanges no data with the others: ")


def test_a_path_and_suspects_have_words_of_their_own() -> None:
    again = [path(0, 1, 4, 1), path(0, 1, 4, 3), path(1, 0, 45, 3)]
    assert told(*again) == [
        "the path between a and b is slow, and each is fast with others: a (gpu0) to b (gpu0) 4 GB/s, a (gpu0) to b "
        "(gpu0) 4 GB/s"
    ]
    alone = [path(0, 1, 0, 1, "nothing"), path(1, 0, 0, 1, "nothing")]
    (found,) = slow_paths.culprits(["a", "b"], alone, limit=LIMIT)
    assert found.hosts == ("a", "b")
    assert found.text == "a and b were slow with every other that they met: a (gpu0) to b (gpu0) (nothing)"
