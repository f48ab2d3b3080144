"""What pairs of nodes measured, put into words: who is slow, with whom, and in which direction.

A path is one direction between two devices of two nodes, as JSON: ``round`` (from 1), ``nodes`` (from, to: numbers),
``devices`` (from, to: names), ``rate`` (GB/s: its ``value``, its confidence ``interval``, ``samples``), which is None
where ``failure`` says that no data came through, or that some bytes of it were ``wrong`` (how many).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_bionemo.pairing import Diagnosis, Pair, Trial, diagnose

Path = Mapping[str, Any]

_SHOWN = 4


@dataclass(frozen=True)
class Culprit:
    """A node that is slow or broken, or a path between two, or nodes of which it is not known which: the ``hosts``.

    ``text`` says what was seen of it.
    """

    hosts: tuple[str, ...]
    text: str
    is_node: bool = False


def trials(paths: Iterable[Path]) -> list[Trial]:
    """The pairs of nodes behind these paths, each judged by its slowest, in the order of the rounds."""
    found: dict[tuple[int, Pair], list[Path]] = {}
    for path in paths:
        found.setdefault((path["round"], _pair(path)), []).append(path)
    return [_trial(pair, of_pair) for (_, pair), of_pair in found.items()]


def culprits(hosts: Sequence[str], paths: Sequence[Path], *, limit: float) -> list[Culprit]:
    """Who is at fault; nobody where every node is as fast as the others.

    :param hosts: the names of the nodes, by number.
    :param limit: the share of what the nodes reach that a healthy pair reaches, as 0.67.

    >>> def path(source, target, value, number=1):
    ...     rate = {"value": value, "interval": [value, value]}
    ...     known = {"devices": ["gpu0", "gpu0"], "wrong": 0, "failure": None}
    ...     return {"round": number, "nodes": [source, target], "rate": rate, **known}
    >>> measured = [path(0, 1, 4), path(1, 0, 45), path(2, 3, 45), path(0, 2, 4, 2), path(1, 3, 45, 2)]
    >>> [found.text for found in culprits(["a", "b", "c", "d"], measured, limit=0.67)]
    ['a sends slowly: a (gpu0) to b (gpu0) 4 GB/s, a (gpu0) to c (gpu0) 4 GB/s']
    """
    found = diagnose(len(hosts), trials(paths), limit=limit)
    slow = [path for path in paths if _is_slow(path, limit * found.reference)]
    return [
        *(_node(node, hosts, slow) for node in found.nodes),
        *(_path(pair, hosts, slow) for pair in found.paths),
        *_suspects(found, hosts, slow),
    ]


def usual(hosts: Sequence[str], paths: Sequence[Path], *, limit: float) -> float:
    """What the nodes of this job reach with their best partner, in GB/s: the median."""
    return diagnose(len(hosts), trials(paths), limit=limit).reference


def _node(node: int, hosts: Sequence[str], slow: Sequence[Path]) -> Culprit:
    own = [path for path in slow if node in path["nodes"]]
    if wrong := [path for path in own if path["wrong"]]:
        how = f"{_direction(node, wrong)} wrong data"
    elif all(path["failure"] for path in own):
        how = "exchanges no data with the others"
    else:
        how = f"{_direction(node, own)} slowly"
    return Culprit((hosts[node],), f"{hosts[node]} {how}: {_list(own, hosts)}", is_node=True)


def _direction(node: int, paths: Sequence[Path]) -> str:
    ways = {"sends" if path["nodes"][0] == node else "receives" for path in paths}
    return " and ".join(sorted(ways, reverse=True))


def _path(pair: Pair, hosts: Sequence[str], slow: Sequence[Path]) -> Culprit:
    first, second = (hosts[node] for node in pair)
    between = [path for path in slow if _pair(path) == pair]
    how = "carries no data" if all(path["failure"] for path in between) else "is slow"
    text = f"the path between {first} and {second} {how}, and each is fast with others: {_list(between, hosts)}"
    return Culprit((first, second), text)


def _suspects(found: Diagnosis, hosts: Sequence[str], slow: Sequence[Path]) -> list[Culprit]:
    if not found.suspects:
        return []
    names = tuple(hosts[node] for node in found.suspects)
    own = [path for path in slow if set(path["nodes"]) & set(found.suspects)]
    said = "was slow with every other that it met" if len(names) == 1 else "were slow with every other that they met"
    return [Culprit(names, f"{' and '.join(names)} {said}: {_list(own, hosts)}")]


def _list(paths: Sequence[Path], hosts: Sequence[str]) -> str:
    """Some of them; of a pair that exchanged no data, either direction says so."""
    known = {(path["round"], *path["nodes"], *path["devices"]) for path in paths if path["failure"]}
    told = [
        path
        for path in paths
        if not path["failure"]
        or path["nodes"][0] < path["nodes"][1]
        or (path["round"], *path["nodes"][::-1], *path["devices"][::-1]) not in known
    ]
    shown = [_describe(path, hosts) for path in told[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else "")


def _describe(path: Path, hosts: Sequence[str]) -> str:
    source, target = (f"{hosts[node]} ({name})" for node, name in zip(path["nodes"], path["devices"], strict=True))
    came = f"({path['failure']})" if path["failure"] else f"{path['rate']['value']:.3g} GB/s"
    return f"{source} to {target} {came}"


def _trial(pair: Pair, paths: Sequence[Path]) -> Trial:
    failure = next((path["failure"] for path in paths if path["failure"]), None)
    if failure:
        return Trial(pair, 0.0, failure=failure)
    slowest = min((path["rate"] for path in paths), key=lambda rate: float(rate["value"]))
    low, high = slowest["interval"]
    return Trial(pair, slowest["value"], (low, high))


def _is_slow(path: Path, least: float) -> bool:
    return path["failure"] is not None or path["rate"]["value"] < least


def _pair(path: Path) -> Pair:
    first, second = sorted(path["nodes"])
    return first, second
