"""How fast pairs of nodes exchange data, round by round, until it is known which node or path is slow.

In a round each node has one partner, and all pairs are measured at once: each device with the one of the same number
on the other node, so that every adapter of both carries traffic, in one direction and then in the other. A pair has
a connection of its own, so that one that breaks leaves the others alone. What comes next is decided by all ranks
alike, from what all have shared (:mod:`pytest_bionemo.pairing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_bionemo.pairing import Pair, most_rounds, next_round
from pytest_bionemo.slow_paths import trials
from pytest_bionemo.workloads import link, timing
from pytest_bionemo.workloads.meeting import Meeting, Rank, meet

# A pair that exchanges no data for so long is broken; NCCL takes seconds to connect two.
_PATIENCE_S = 15.0

Seen = Mapping[str, Any]


def attend(place: Mapping[str, Any], name: str, deadline_s: float) -> dict[str, int]:
    """Meet all ranks, without any network between them but the one to the desk: ``ranks``, how many there are.

    :raises Missed: if a rank is missed.
    """
    with meet(name, place, deadline_s) as ranks:
        return {"ranks": ranks.size}


def run(place: Mapping[str, Any], name: str, deadline_s: float, limit: float, budget_s: float) -> dict[str, Any]:
    """Measure pairs of nodes with all ranks of the job.

    1 GB = 1e9 bytes. A sample is one message and its receipt.

    :param place: of this node (:class:`pytest_bionemo.workloads.meeting.Place`).
    :param name: of the meeting.
    :param deadline_s: for all of it.
    :param limit: the share of what the nodes reach that a healthy pair reaches.
    :param budget_s: for the samples of one direction.
    :return: ``hosts``, by node, and ``paths``, all that was measured (:mod:`pytest_bionemo.slow_paths`); the same in
        all ranks.
    :raises Missed: if a rank is missed.
    """
    import torch.distributed  # noqa: F401 - it takes seconds, which are no part of the first round

    with meet(name, place, deadline_s) as ranks, timing.one_core():
        addresses = ranks.addresses()
        hosts = _hosts(ranks.ranks)
        # Should a pair of every round be broken, it is still all of the ranks that come to the end in time.
        pair_s = min(_PATIENCE_S, ranks.left_s / (most_rounds(len(hosts)) + 1))
        paths: list[dict[str, Any]] = []
        rounds = 0
        while pairs := next_round(len(hosts), trials(paths), limit=limit):
            rounds += 1
            ranks.step(f"round {rounds} of pairs of nodes")
            paths += _round(ranks, rounds, pairs, addresses, budget_s, pair_s)
    return {"hosts": hosts, "paths": paths}


def _hosts(ranks: Sequence[Rank]) -> list[str]:
    names = {rank.node: rank.host for rank in ranks}
    return [names[node] for node in sorted(names)]


def _round(
    ranks: Meeting, number: int, pairs: Sequence[Pair], addresses: Sequence[str], budget_s: float, pair_s: float
) -> list[dict[str, Any]]:
    """All paths of the round, the same in all ranks."""
    me = ranks.ranks[ranks.rank]
    partner = _partner(me, pairs, ranks.ranks)
    is_first = partner is not None and me.node < partner.node
    own = link.Store(pair_s) if is_first else None
    ports = ranks.share(f"stores of round {number}", own.port if own else None)
    mine: dict[str, Any] | None = None
    if partner:
        where = (addresses[partner.rank], ports[partner.rank])
        mine = link.measure(own, where, budget_s=budget_s, patience_s=pair_s)
    # Both say what they saw; of the direction that a rank has timed, it knows the rate.
    told = ranks.share(f"round {number}", mine)
    return [
        _path(number, rank, other, told[rank.rank], told[other.rank])
        for rank in ranks.ranks
        if told[rank.rank] and (other := _partner(rank, pairs, ranks.ranks))
    ]


def _partner(rank: Rank, pairs: Sequence[Pair], ranks: Sequence[Rank]) -> Rank | None:
    """The device of the same number on the node that this rank's is paired with; None where there is none."""
    for first, second in pairs:
        if rank.node in (first, second):
            other = second if rank.node == first else first
            return next((one for one in ranks if (one.node, one.local) == (other, rank.local)), None)
    return None


def _path(number: int, source: Rank, target: Rank, sent: Seen, received: Seen) -> dict[str, Any]:
    failure = sent["failure"] or received["failure"]
    if received["wrong"]:
        failure = f"{received['wrong']} bytes of a message arrived wrong"
    return {
        "round": number,
        "nodes": [source.node, target.node],
        "devices": [source.device, target.device],
        "rate": None if failure else sent["rate"],
        "wrong": received["wrong"],
        "failure": failure,
    }
