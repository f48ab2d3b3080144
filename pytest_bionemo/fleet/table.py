"""The fleet's document as lines of text: the verdict, then what stands in the way, by node."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_bionemo.fleet.hosts import compress
from pytest_bionemo.report.terminal import show_number

_LABEL = 10
_ALIKE_AT_MOST = 20
_LISTED_AT_MOST = 10


def lines(document: Mapping[str, Any], width: int) -> Iterator[str]:
    """The lines for a terminal of so many columns. Nodes of which the same is said share one entry.

    :param document: the fleet's; texts in it that came from reports hold nothing that steers a terminal.
    """
    yield f" BioNeMo fleet: {document['verdict']} ".center(width, "=")
    yield from _wrapped(document["summary"], width)
    yield ""
    for status in ("failing", "unknown"):
        nodes = [node for node in document["nodes"] if node["status"] == status]
        yield from _alike(status.upper(), nodes, width)
    for label, texts in _sections(document).items():
        for text in texts[:_LISTED_AT_MOST]:
            yield from _labelled(label, text, width)
        if len(texts) > _LISTED_AT_MOST:
            yield from _labelled("", f"and {len(texts) - _LISTED_AT_MOST} more: --json FILE has them all", width)


def _sections(document: Mapping[str, Any]) -> dict[str, list[str]]:
    return {
        "MISSING": [compress(document["missing"])] if document["missing"] else [],
        "UNREAD": [f"{entry['path']}: {entry['why']}" for entry in document["unreadable"]],
        "twice": [f"{entry['host']}: {', '.join(entry['paths'])}" for entry in document["duplicates"]],
        "drift": [_drift(entry) for entry in document["drift"]],
        "slow": [_slow(entry) for entry in document["stragglers"]],
        "exclude": [document["exclude"]] if document["exclude"] else [],
    }


def _alike(label: str, nodes: Sequence[Mapping[str, Any]], width: int) -> Iterator[str]:
    groups: dict[tuple[Any, ...], list[str]] = {}
    for node in nodes:
        groups.setdefault((node["verdict"], node["action"], *node["reasons"]), []).append(node["host"])
    for (verdict, action, *reasons), named in list(groups.items())[:_ALIKE_AT_MOST]:
        todo = f", {action}" if action != "NONE" else ""
        yield from _labelled(label, f"{compress(named)}: {verdict or 'no report'}{todo}", width)
        for reason in reasons:
            yield from _labelled("", reason, width)
    if len(groups) > _ALIKE_AT_MOST:
        yield from _labelled("", f"and {len(groups) - _ALIKE_AT_MOST} more kinds: --json FILE has them all", width)


def _drift(entry: Mapping[str, Any]) -> str:
    by_value: dict[str, list[str]] = {}
    for host, value in entry["others"].items():
        by_value.setdefault(value, []).append(host)
    # What most have first: a fact that is another one on each node would fill the screen.
    in_order = sorted(by_value.items(), key=lambda item: (-len(item[1]), item[0]))
    others = [f"{value} on {compress(named)}" for value, named in in_order[:_LISTED_AT_MOST]]
    if rest := in_order[_LISTED_AT_MOST:]:
        others.append(f"{len(rest)} other values on {sum(len(named) for _, named in rest)}")
    return f"{entry['fact']}: {entry['majority']} on {entry['nodes']}, {'; '.join(others)}"


def _slow(entry: Mapping[str, Any]) -> str:
    device = f" {entry['device']}" if entry["device"] else ""
    against = (
        f" ({show_number(entry['value'], entry['unit'])}, median {show_number(entry['median'], entry['unit'])})"
        if entry["unit"]
        else ""
    )
    confidence = min(entry["confidence"], 0.9999)
    return (
        f"{entry['host']}{device}: {entry['measurement']} {entry['effect']:.1%} slower than the fleet{against}, "
        f"confidence {confidence:.2%}"
    )


def _labelled(label: str, text: str, width: int) -> Iterator[str]:
    for position, piece in enumerate(_wrapped(text, max(20, width - _LABEL)) or [""]):
        yield f"{'' if position else label:<{_LABEL}}{piece}"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
