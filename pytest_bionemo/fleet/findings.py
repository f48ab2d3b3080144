"""What checks say across the fleet: which did not pass, on which nodes, and what mends it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from pytest_bionemo.model import Action
from pytest_bionemo.verdict import Verdict

# Worst first.
OUTCOMES = ("BLOCKED", "NOT_RUN", "WARNING")
MOST = 64
"""Of one node; all are in its own report."""

_Thing = TypeVar("_Thing")


class Found(NamedTuple):
    """What one check left behind on a node: a finding, or a gap in the proof that waits for no other check.

    ``check`` is without its devices, of which the first one speaks. ``outcome`` is one of OUTCOMES, ``fix`` the lines
    of the finding, and ``blames`` says that it is for another node to be mended.
    """

    check: str
    title: str
    outcome: str
    action: str
    blames: bool
    message: str
    fix: tuple[str, ...]


def of(verdict: Verdict) -> Iterator[Found]:
    """What there is to say of a node, worst first, one check and outcome once, MOST at most."""
    distinct: dict[tuple[str, str], Found] = {}
    for one in _all(verdict):
        distinct.setdefault((one.check, one.outcome), one)
        if len(distinct) == MOST:
            break
    yield from distinct.values()


def _all(verdict: Verdict) -> Iterator[Found]:
    for entry in verdict.blockers:
        yield _finding("BLOCKED", entry)
    for gap in verdict.not_run:
        if gap["required"] and gap["check"] and not gap["waits_for"]:
            yield Found(_function(gap["check"]), "", "NOT_RUN", Action.NONE.value, False, gap["reason"], ())
    for entry in verdict.warnings:
        yield _finding("WARNING", entry)


def _finding(outcome: str, entry: Mapping[str, Any]) -> Found:
    return Found(
        check=_function(entry["check"]),
        title=entry["title"],
        outcome=outcome,
        action=entry["action"],
        blames=bool(entry.get("blames")),
        message=entry["message"],
        fix=tuple(entry["fix"]),
    )


def _function(check: str) -> str:
    return check.partition("[")[0]


def gather(found: Mapping[str, Iterable[Found]]) -> list[dict[str, Any]]:
    """The document's ``findings``: each check that did not pass somewhere, worst and most frequent first.

    :param found: of each host, in the order in which they are to be named.
    :return: entries of ``check, title, outcome, action, blames``, of the ``hosts`` of which that holds, and of what
        most of them say: ``message`` and ``fix``, as on the host ``example``. ``messages`` is how many different
        messages there are.
    """
    groups: dict[tuple[str, str, str, bool], dict[str, Found]] = {}
    for host, those in found.items():
        for one in those:
            groups.setdefault((one.outcome, one.check, one.action, one.blames), {})[host] = one
    entries = [_entry(on) for on in groups.values()]
    return sorted(entries, key=lambda one: (OUTCOMES.index(one["outcome"]), -len(one["hosts"]), one["check"]))


def _entry(on: Mapping[str, Found]) -> dict[str, Any]:
    said = _most_common((one.message, one.fix) for one in on.values())
    example = next(host for host, one in on.items() if (one.message, one.fix) == said)
    one = on[example]
    return {
        "check": one.check,
        "title": one.title,
        "outcome": one.outcome,
        "action": one.action,
        "blames": one.blames,
        "hosts": list(on),
        "message": one.message,
        "fix": list(one.fix),
        "example": example,
        "messages": len({other.message for other in on.values()}),
    }


def _most_common(things: Iterable[_Thing]) -> _Thing:
    return Counter(things).most_common(1)[0][0]
