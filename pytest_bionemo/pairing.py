"""Which nodes to pair next, and which node or path is slow: from how fast pairs of nodes exchanged data.

Pure. Nodes are numbers, and a round is a list of pairs, each node in one at most, so that all are measured at once.
Two nodes that are fast together clear each other. A node that is fast with nobody, and slow with two that are
cleared, is slow; a path that is slow between two cleared nodes, and again in a later round, is slow for its own part.

>>> measured = [Trial((0, 1), 1.0), Trial((2, 3), 10.0), Trial((0, 2), 1.0), Trial((1, 3), 10.0)]
>>> diagnose(4, measured, limit=0.67).nodes
(0,)
>>> next_round(4, measured, limit=0.67)
[]
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(frozen=True)
class Trial:
    """One pair, measured once: ``nodes`` smaller number first, ``rate`` of its slowest direction in any unit.

    ``interval`` holds the rate, lower end first; the rate alone unless given. ``failure`` says why no data came
    through, or not as they were sent; the pair then counts as slow, whatever the others do.
    """

    nodes: Pair
    rate: float
    interval: tuple[float, float] | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """What the trials so far say.

    ``reference`` is what the nodes of this job reach, the median of the best of each; 0 where no data came through.
    ``nodes`` are slow, ``paths`` between nodes that are not slow are; each of ``suspects`` was slow with somebody and
    fast with nobody, and it is not known who is to blame. ``untried`` have met nobody, or nobody who could tell.
    """

    reference: float
    nodes: tuple[int, ...]
    paths: tuple[Pair, ...]
    suspects: tuple[int, ...]
    untried: tuple[int, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether every node was fast with another, and no path is slow."""
        return not (self.nodes or self.paths or self.suspects or self.untried)


def least_rounds(nodes: int) -> int:
    """How many rounds are measured at least: so many that some pair is fast wherever most nodes are.

    A majority of an even number of nodes cannot be spread over the pairs of a round with one in each; of an odd
    number it can, as one sits the round out. After three, each node has met every other of its group of four: of a
    majority, some have met. Two rounds are what it takes to tell which node of a pair is slow.
    """
    return 2 + nodes % 2


def most_rounds(nodes: int) -> int:
    """How many rounds are measured at most: log2 of the nodes, and two to confirm."""
    return math.ceil(math.log2(nodes)) + 2 if nodes > 1 else 0


def diagnose(nodes: int, trials: Sequence[Trial], *, limit: float) -> Diagnosis:
    """Who is slow.

    A pair is slow if even the better end of its interval is below ``limit`` times the reference, and fast if its rate
    is not; what lies between clears nobody and is held against nobody. Of a pair that was measured again the last
    trial counts, and the first one blames no path.

    :param nodes: how many there are.
    :param limit: the share of the reference that a healthy pair reaches, as 0.67.
    """
    judged = _Judged(nodes, trials, limit * _usual(nodes, trials))
    slow_nodes = {node for node in judged.uncleared if len(judged.witnesses(node)) > 1}
    return Diagnosis(
        _usual(nodes, trials),
        nodes=tuple(sorted(slow_nodes)),
        paths=tuple(sorted(pair for pair in judged.slow_paths() if judged.tries[pair] > 1)),
        suspects=tuple(node for node in judged.uncleared if node not in slow_nodes and judged.slow_partners(node)),
        untried=tuple(node for node in judged.uncleared if not judged.slow_partners(node)),
    )


def next_round(nodes: int, trials: Sequence[Trial], *, limit: float) -> list[Pair]:
    """The pairs to measure next, in ascending order; empty once it is known who is slow, or nothing more will tell.

    Suspects meet cleared nodes that they have not met, and a slow path between cleared nodes is measured again. All
    others meet somebody new, neighbours first: they load the network as the first round did, and more paths are seen.
    What is slow is asked of the best pair here: before everybody has met somebody fast, what is usual is not known.

    :param nodes: how many there are; the same limit as for :func:`diagnose`.
    """
    judged = _Judged(nodes, trials, limit * max(_best(nodes, trials)))
    rounds = _rounds(trials)
    again = [pair for pair in judged.slow_paths() if judged.tries[pair] == 1]
    undecided = [node for node in judged.uncleared if len(judged.witnesses(node)) < 2]
    is_known = rounds >= least_rounds(nodes) and not undecided and not again
    if is_known or rounds >= most_rounds(nodes):
        return []
    matching = _Matching(nodes, judged.tries)
    for pair in again:
        matching.add(*pair, again=True)
    for number, node in enumerate(undecided):
        matching.match(node, _rotated(judged.cleared, number))
    for node in undecided:
        matching.match(node, undecided)
    for mask in _masks(nodes, rounds):
        for node in range(nodes):
            matching.match(node, [node ^ mask])
    for node in range(nodes):
        matching.match(node, range(nodes))
    return sorted(matching.pairs)


class _Judged:
    """Every trial, with its word."""

    def __init__(self, nodes: int, trials: Sequence[Trial], least: float) -> None:
        self.tries = Counter(trial.nodes for trial in trials)
        last = {trial.nodes: trial for trial in trials}
        self._slow = {pair for pair, trial in last.items() if _is_slow(trial, least)}
        fast = {pair for pair, trial in last.items() if not trial.failure and trial.rate >= least}
        self.cleared = sorted({node for pair in fast for node in pair})
        self.uncleared = [node for node in range(nodes) if node not in set(self.cleared)]
        self._partners: dict[int, list[int]] = {node: [] for node in range(nodes)}
        for first, second in sorted(self._slow):
            self._partners[first].append(second)
            self._partners[second].append(first)

    def slow_partners(self, node: int) -> list[int]:
        return self._partners[node]

    def witnesses(self, node: int) -> list[int]:
        """Cleared nodes that were slow with this one."""
        cleared = set(self.cleared)
        return [partner for partner in self._partners[node] if partner in cleared]

    def slow_paths(self) -> Iterator[Pair]:
        """Slow pairs of two nodes that are cleared."""
        cleared = set(self.cleared)
        return (pair for pair in sorted(self._slow) if cleared.issuperset(pair))


class _Matching:
    """The pairs of a round while it is made: nobody in two, and nobody with a node met before."""

    def __init__(self, nodes: int, met: Collection[Pair]) -> None:
        self.pairs: list[Pair] = []
        self._free = set(range(nodes))
        self._met = met

    def match(self, node: int, partners: Iterable[int]) -> None:
        """Give the node the first of these that is free."""
        if node in self._free:
            for partner in partners:
                if self.add(node, partner):
                    return

    def add(self, one: int, other: int, again: bool = False) -> bool:
        pair = (min(one, other), max(one, other))
        if one == other or not self._free.issuperset(pair) or (pair in self._met and not again):
            return False
        self.pairs.append(pair)
        self._free.difference_update(pair)
        return True


def _best(nodes: int, trials: Sequence[Trial]) -> list[float]:
    """The rate of each node with its best partner; 0 where it had none."""
    best = [0.0] * nodes
    for trial in trials:
        for node in trial.nodes:
            best[node] = max(best[node], 0.0 if trial.failure else trial.rate)
    return best


def _usual(nodes: int, trials: Sequence[Trial]) -> float:
    """What half of the nodes or more reach: a slow minority cannot lower it, nor a pair that is faster raise it."""
    return statistics.median_high(_best(nodes, trials))


def _is_slow(trial: Trial, least: float) -> bool:
    better = trial.interval[1] if trial.interval else trial.rate
    return trial.failure is not None or better < least


def _rounds(trials: Iterable[Trial]) -> int:
    """How many rounds these are: a node is in one pair of each."""
    return max(Counter(node for trial in trials for node in trial.nodes).values(), default=0)


def _rotated(nodes: Sequence[int], by: int) -> Iterator[int]:
    return (nodes[(by + step) % len(nodes)] for step in range(len(nodes)))


def _masks(nodes: int, rounds: int) -> Iterator[int]:
    """By which bits the numbers of partners differ, those of this round first; each reaches further than the last."""
    # Of single bits alone, nobody whose number has an even number of them would ever meet another such.
    masks = [1, 2, 3, *(1 << bit for bit in range(2, (nodes - 1).bit_length()))]
    return _rotated(masks, rounds)
