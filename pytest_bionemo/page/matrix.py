"""The nodes of a fleet as rows: how each topic ended on each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pytest_bionemo.page.values import plain, words

_TOPICS_AT_MOST = 48
_LONGEST_WHY = 110


class Row(NamedTuple):
    """A node in the table; ``cells`` are how its topics ended."""

    host: str
    status: str
    verdict: str
    action: str
    varying: list[str]
    cells: list[tuple[str, str]]
    why: str
    more: int


def topics_of(nodes: Sequence[Mapping[str, Any]]) -> tuple[list[str], int]:
    """The topics of the columns, in the order of the reports, and how many there is no room for."""
    tally = Counter(str(topic) for node in nodes for topic in node.get("sections", ()))
    kept = {topic for topic, _ in tally.most_common(_TOPICS_AT_MOST)}
    return [topic for topic in tally if topic in kept], len(tally) - len(kept)


def rows_of(
    nodes: Iterable[Mapping[str, Any]], missing: Iterable[str], topics: Sequence[str], varying: Sequence[str]
) -> Iterator[Row]:
    """A row for each node, and for each that is missing.

    :param nodes: entries of the document; ``missing`` are hosts without one.
    :param topics: the columns; ``varying`` are fields that are not the same on all nodes.
    """
    for node in nodes:
        sections = node.get("sections", {})
        cells = [_cell(sections.get(topic, "NOTHING")) for topic in topics]
        why, more = _why(node["reasons"])
        action = "" if node["action"] == "NONE" else words(node["action"])
        own = ["" if node[name] is None else str(node[name]) for name in varying]
        verdict = words(node["verdict"]) if node["verdict"] else "no report"
        yield Row(node["host"], node["status"], verdict, action, own, cells, why, more)
    known = {node["host"] for node in nodes}
    for host in missing:
        if host not in known:  # one that others blame is among the nodes
            empty = [_cell("NOTHING")] * len(topics)
            yield Row(host, "missing", "no report", "", [""] * len(varying), empty, "it has no report", 0)


# Class, and word: the style sheet shows the word as a sign, and whoever has no style sheet reads it.
_CELLS: Mapping[str, tuple[str, str]] = {
    "PASSED": ("p", "ok"),
    "BLOCKED": ("f", "blocked"),
    "ERROR": ("e", "error"),
    "NOT_RUN": ("g", "gap"),
    "WARNING": ("w", "warning"),
    "NO_PACKAGES": ("o", "none"),
    "NOT_APPLICABLE": ("o", "n/a"),
    "NOTHING": ("o", "-"),
}


def _cell(word: object) -> tuple[str, str]:
    return _CELLS.get(str(word)) or ("e", str(word)[:40])


def _why(reasons: Sequence[object]) -> tuple[str, int]:
    if not reasons:
        return "", 0
    first = plain(reasons[0])
    return first if len(first) <= _LONGEST_WHY else f"{first[: _LONGEST_WHY - 1]}…", len(reasons) - 1
