"""Facts that most nodes share and some do not: versions of drivers, libraries and packages, kinds of GPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pytest_bionemo.fleet.hosts import in_order


def find(facts: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """Each fact on which the nodes differ: what most of them have, and which have something else.

    Of values that are equally frequent the first in the order of the alphabet is the majority. A fact that a node
    does not tell is no drift: a run that was broken off tells none.

    :param facts: of each host, name of a fact to its value.
    """
    names = sorted({name for known in facts.values() for name in known})
    return [entry for name in names if (entry := _differences(name, facts))]


def _differences(name: str, facts: Mapping[str, Mapping[str, str]]) -> dict[str, Any] | None:
    values = {host: known[name] for host, known in facts.items() if name in known}
    tally = Counter(values.values())
    if len(tally) < 2:
        return None
    majority = min(tally, key=lambda value: (-tally[value], value))
    others = in_order(host for host, value in values.items() if value != majority)
    return {
        "fact": name,
        "majority": majority,
        "nodes": tally[majority],
        "others": {host: values[host] for host in others},
    }
