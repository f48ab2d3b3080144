"""What is to be done about the nodes of a fleet: by action, with the findings that call for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pytest_bionemo.fleet import hosts
from pytest_bionemo.model import Action, count
from pytest_bionemo.page.values import pieces, plain, text, texts

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
# What to do with nodes of an action, strongest first, in the words of docs/fleet-operations.md.
_ADVICE: Mapping[str, tuple[str, str]] = {
    "REPLACE_NODE": (
        "Replace",
        "Hardware that no restart mends. Do not reset it: its counters are the evidence. Then validate at full.",
    ),
    "REBOOT_NODE": (
        "Reboot",
        "Then validate at standard. A second time within a week: replace.",
    ),
    "RESET_GPU": (
        "Reset a GPU of",
        "End what runs on it, then reset it; where that is refused, reboot. Then validate at standard.",
    ),
    "FREE_GPU": (
        "Free the GPUs of",
        "Somebody holds their memory or time: nvidia-smi names the processes. Then validate at quick.",
    ),
    "FIX_SOFTWARE": (
        "Fix the software of",
        "A driver, a package, a limit, a mount or a setting. Where many nodes have it, mend the image.",
    ),
    "NONE": ("Look at", "No check says what mends them."),
}


class Finding(NamedTuple):
    """A check that did not pass, with what most of its nodes say."""

    number: int
    check: str
    title: str
    outcome: str
    action: str
    blames: bool
    message: str
    fix: list[str]
    example: str
    others: int
    nodes: int
    hosts: list[str]

    @property
    def which(self) -> list[str]:
        """Its nodes as Slurm writes them, in parts between which a line may end."""
        return hosts.compress(self.hosts).split(",")


class Block(NamedTuple):
    """Nodes of which the same has to be done; ``reasons`` are those that are no finding, with their nodes."""

    id: str
    word: str
    title: str
    advice: str
    hosts: list[str]
    findings: list[Finding]
    reasons: list[tuple[str, str]]


def finding_of(number: int, entry: Mapping[str, Any]) -> Finding:
    """An entry of the document's ``findings``; the number makes its place on the page.

    :raises TypeError: if it is damaged, as well as LookupError and ValueError.
    """
    return Finding(
        number=number,
        check=plain(entry["check"]),
        title=text(entry["title"]),
        outcome=text(entry["outcome"]),
        action=text(entry["action"]),
        blames=bool(entry["blames"]),
        message=text(entry["message"]),
        fix=texts(entry["fix"]),
        example=entry["example"],
        others=int(entry["messages"]) - 1,
        nodes=len(entry["hosts"]),
        hosts=list(entry["hosts"]),
    )


def blocks_of(document: Mapping[str, Any], findings: Sequence[Finding]) -> Iterator[Block]:
    """What to do, the strongest action first, then what is unknown, missing, and what only warns."""
    nodes = document["nodes"]
    failing = [node for node in nodes if node["status"] == "failing"]
    for action in _ADVICE:
        those = [node for node in failing if _known(node["action"]) == action]
        if those:
            doing, advice = _ADVICE[action]
            own = {node["host"] for node in those}
            yield _block(
                f"do-{action.lower().replace('_', '-')}",
                "BLOCKED",
                f"{doing} {count(len(those), 'node')}",
                advice,
                those,
                [one for one in _only(findings, own) if one.outcome == "BLOCKED" and not one.blames],
            )
    unknown = [node for node in nodes if node["status"] == "unknown"]
    if unknown:
        own = {node["host"] for node in unknown}
        yield _block(
            "do-unknown",
            "INCONCLUSIVE",
            f"Find out about {count(len(unknown), 'node')}",
            "Nothing is proven of them, for or against: validate again what did not run.",
            unknown,
            [one for one in _only(findings, own) if one.outcome == "NOT_RUN" or one.blames],
        )
    if missing := document["missing"]:
        yield Block(
            "do-missing",
            "MISSING",
            f"Look for {count(len(missing), 'node')} without a report",
            "Down or drained when the job started, a container that did not start, a folder that is not shared, or a "
            "node that hangs.",
            pieces(hosts.compress(missing)),
            [],
            [],
        )
    if warnings := [one for one in findings if one.outcome == "WARNING"]:
        where = {host for one in warnings for host in one.hosts}
        yield Block(
            "do-warnings",
            "WARNING",
            f"Mend when there is time: {count(len(warnings), 'warning')}",
            f"On {count(len(where), 'node')}. No node fails for it.",
            [],
            warnings,
            [],
        )


def _block(
    name: str, word: str, title: str, advice: str, nodes: Sequence[Mapping[str, Any]], findings: list[Finding]
) -> Block:
    told: dict[str, set[str]] = {}
    for one in findings:
        for host in one.hosts:
            told.setdefault(host, set()).add(one.check)
    others = (
        (reason, node["host"])
        for node in nodes
        for reason in texts(node["reasons"])
        if not _is_told(reason, told.get(node["host"], set()))
    )
    alike: dict[str, tuple[dict[str, None], list[str]]] = {}
    for reason, host in others:
        # The same with another number in it is the same reason.
        said, where = alike.setdefault(_NUMBER.sub("#", reason), ({}, []))
        said[reason] = None
        where.append(host)
    reasons = [
        (next(iter(said)) + (" (or another number)" if len(said) > 1 else ""), hosts.compress(where))
        for said, where in alike.values()
    ]
    return Block(name, word, title, advice, pieces(hosts.compress(node["host"] for node in nodes)), findings, reasons)


def _is_told(reason: str, checks: set[str]) -> bool:
    """Whether findings of the node say it already: 'bionemo/driver::loads[gpu0]: ...', or 'and 3 more' of them."""
    return bool(checks) if reason.startswith("and ") else plain(reason).partition("[")[0].partition(": ")[0] in checks


def _only(findings: Iterable[Finding], own: set[str]) -> Iterator[Finding]:
    """The findings of these nodes, as if there were no others."""
    for one in findings:
        if those := [host for host in one.hosts if host in own]:
            yield one._replace(hosts=those, nodes=len(those))


def _known(action: object) -> str:
    return action if isinstance(action, str) and action in _ADVICE else Action.NONE.value
