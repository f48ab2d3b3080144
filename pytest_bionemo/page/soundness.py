"""Whether the document of a fleet can be believed: anybody can have written it, and what it says is acted on.

Its names and lists are pasted into commands, and jobs are sent to what it calls passing. It cannot be folded again,
as a report can; but what it says of each node has to bear out what it says of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pytest_bionemo.fleet import hosts
from pytest_bionemo.model import VerdictName
from pytest_bionemo.page.values import listed
from pytest_bionemo.verdict import ReportError

_GOOD = (VerdictName.READY.value, VerdictName.READY_FOR_INSTALL.value)
_STATUSES = ("passing", "failing", "unknown")
# Of a topic, or of a check: a node of which they hold is not passing.
_BAD_SECTIONS = ("BLOCKED", "ERROR")
_BAD_FINDINGS = ("BLOCKED", "NOT_RUN")


def expect_sound(document: Mapping[str, Any]) -> None:
    """Refuse a document that names what is no host, or that says something good and shows that it is not so.

    :raises ReportError: one line. Damage also raises what ``reports.DAMAGED`` lists.
    """
    for name in _named(document):
        if not hosts.is_host(name):
            raise _damaged(f"{str(name)[:80]!a} is no name of a host")
    nodes, missing = document["nodes"], document["missing"]
    names = [node["host"] for node in nodes]
    if len(set(names)) < len(names):
        raise _damaged("it has a node twice")
    for node in nodes:
        if node["status"] not in _STATUSES:
            raise _damaged(f"{str(node['status'])[:80]!a} is no status")
    _expect_whole_exclude_list(document["exclude"], {*missing, *names}, _to_be_kept_away(nodes, missing))
    _expect_shown(document, nodes)


def _expect_whole_exclude_list(exclude: str, known: set[str], least: set[str]) -> None:
    excluded = {*hosts.expand(exclude)} if exclude else set()
    if not excluded <= known:
        raise _damaged("its exclude list names hosts that it does not know")
    if not least <= excluded:
        raise _contradiction(f"its exclude list lacks {min(least - excluded)}")


def _to_be_kept_away(nodes: Iterable[Mapping[str, Any]], missing: Iterable[str]) -> set[str]:
    return {*missing, *(node["host"] for node in nodes if node["status"] == "failing")}


def _expect_shown(document: Mapping[str, Any], nodes: Iterable[Mapping[str, Any]]) -> None:
    """Each node that is called passing has to show it, and so has the fleet whose verdict is good."""
    bad = {
        host for entry in listed(document, "findings") if entry["outcome"] in _BAD_FINDINGS for host in entry["hosts"]
    }
    if not bad <= {node["host"] for node in nodes}:
        raise _damaged("its findings are of hosts that it does not know")
    passing = [node for node in nodes if node["status"] == "passing"]
    for node in passing:
        if node["host"] in bad or not _is_shown(node):
            raise _contradiction(f"it says that {node['host']} is passing, and shows that it is not")
    verdict = VerdictName(document["verdict"]).value
    is_open = document["missing"] or document["doubts"] or document["unreadable"] or len(passing) < len([*nodes])
    is_lower = verdict == _GOOD[0] and any(node["verdict"] != verdict for node in passing)
    if verdict in _GOOD and (is_open or is_lower or not passing):
        raise _contradiction(f"it says {verdict} and shows no proof")


def _is_shown(node: Mapping[str, Any]) -> bool:
    sections = node.get("sections", {})  # earlier versions wrote none
    return (
        node["verdict"] in _GOOD
        and node["device"] == "cuda"
        and not node["reasons"]
        and not node["blamed_by"]
        and not any(word in _BAD_SECTIONS for word in sections.values())
    )


def _named(document: Mapping[str, Any]) -> Iterator[object]:
    yield from document["missing"]
    for node in document["nodes"]:
        yield node["host"]
        yield from node["blamed_by"]
    for entry in listed(document, "findings"):
        yield from (*entry["hosts"], entry["example"])
    for entry in listed(document, "drift"):
        yield from entry["others"]


def _damaged(what: str) -> ReportError:
    return ReportError(f"the document of the fleet is damaged: {what}")


def _contradiction(what: str) -> ReportError:
    return ReportError(f"the document of the fleet contradicts itself: {what}")
