"""The page of a fleet, from the document that ``python -m pytest_bionemo fleet --json`` writes."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pytest_bionemo.fleet import hosts
from pytest_bionemo.fleet.folding import SCHEMA_VERSION
from pytest_bionemo.fleet.node import TOOL
from pytest_bionemo.model import Action, VerdictName, count
from pytest_bionemo.page.shell import render
from pytest_bionemo.reports import DAMAGED
from pytest_bionemo.verdict import ReportError

ROWS_AT_MOST = 500
"""Of a list that grows with what is wrong; the document has them all. Nodes and missing hosts are never left out."""

_TOPICS_AT_MOST = 48
_VALUES_AT_MOST = 12
_LONGEST_WHY = 110
_PIECE = 2000
_STATUSES = ("failing", "unknown", "missing", "passing")
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
_SENTENCES: Mapping[str, str] = {
    "READY": "Every node that is expected has proven that it can train and run BioNeMo workloads.",
    "READY_FOR_INSTALL": "Every node is ready; BioNeMo itself remains to be installed on some or all of them.",
    "BLOCKED": "Keep jobs off the nodes that fail until they are mended: the exclude list is below.",
    "INCONCLUSIVE": "Nothing failed, but something that has to be proven was not. Never take it for ready.",
}


class Finding(NamedTuple):
    """A check that did not pass, with what most of its nodes say."""

    id: str
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


def fleet_page(document: Mapping[str, Any]) -> str:
    """The page of a fleet, a pure function of its document.

    :param document: as ``fleet --json`` writes it; it can have been through anybody's hands.
    :return: HTML, one file that needs nothing else.
    :raises ReportError: one line, if it is no such document, damaged, of another schema version, or says READY and
        shows that it is not.
    :raises PageError: if Jinja2 is not installed.

    ::

        Path("fleet.html").write_text(fleet_page(json.loads(Path("fleet.json").read_text())), encoding="utf-8")
    """
    if document.get("tool") != TOOL:
        raise ReportError("it is no document of python -m pytest_bionemo fleet --json")
    if document.get("schema_version") != SCHEMA_VERSION:
        version = repr(document.get("schema_version"))[:40]
        raise ReportError(f"its schema version is {version}, and this pytest-bionemo reads {SCHEMA_VERSION}")
    try:
        values = _values(document)
    except ReportError:
        raise
    except DAMAGED as error:
        said = " ".join(f"{type(error).__name__}: {error}"[:200].split())
        raise ReportError(f"the document of the fleet is damaged ({said})") from error
    return render("fleet.html.j2", styles=("fleet.css",), scripts=("fleet.js",), **values)


def _values(document: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the template prints."""
    _expect_sound(document)
    nodes, missing = document["nodes"], document["missing"]
    findings = [_finding(number, entry) for number, entry in enumerate(_listed(document, "findings"))]
    topics, more_topics = _topics(nodes)
    tally = Counter(node["status"] for node in nodes)
    counts = [(word, len(missing) if word == "missing" else tally[word]) for word in _STATUSES]
    blocks = [*_blocks(document, findings)]
    kinds = {
        name: len({str(node[name]) for node in nodes if node["verdict"]}) > 1 for name in ("level", "device", "job")
    }
    varying = [name for name, varies in kinds.items() if varies]
    rows = [*_rows(nodes, missing, topics, varying)]
    slow, drift = _listed(document, "stragglers"), _listed(document, "drift")
    odd = sum(len(_listed(document, name)) for name in ("unreadable", "duplicates", "outdated"))
    return {
        "title": f"fleet of {count(len(rows), 'node')}: {document['verdict']}",
        "said": "readiness of a fleet",
        "name": count(len(rows), "node"),
        "verdict": document["verdict"],
        "sentence": _SENTENCES[document["verdict"]],
        "made": f"{TOOL}, {_moment(_text(document['created']))}",
        "sections": [
            ("do", "What to do now", len(blocks) or None),
            ("checks", "Checks", len(findings)),
            ("nodes", "Nodes", len(rows)),
            ("slow", "Slow devices", len(slow)),
            ("drift", "Drift", len(drift)),
            ("reports", "Reports", odd),
            ("lists", "Lists", None),
        ],
        "counts": counts,
        "strip": [*_strip(counts)],
        "doubts": _texts(document["doubts"]),
        "alike": [*_alike(nodes, document["levels"], varying)],
        "blocks": blocks,
        "findings": findings,
        "topics": topics,
        "more_topics": more_topics,
        "varying": varying,
        "groups": [
            (status, group) for status in _STATUSES if (group := [row for row in rows if row.status == status])
        ],
        "slow": [_straggler(one) for one in slow[:ROWS_AT_MOST]],
        "more_slow": max(0, len(slow) - ROWS_AT_MOST),
        "spreads": [_spread(one) for one in _listed(document, "spreads")[:ROWS_AT_MOST]],
        "drift": [_drift(one) for one in drift[:ROWS_AT_MOST]],
        "unreadable": [_texts((one["path"], one["why"])) for one in document["unreadable"][:ROWS_AT_MOST]],
        "duplicates": [
            (_text(one["host"]), _texts(one["paths"])) for one in _listed(document, "duplicates")[:ROWS_AT_MOST]
        ],
        "outdated": [
            _texts((one["host"], one["path"], one["job"] or ""))
            for one in _listed(document, "outdated")[:ROWS_AT_MOST]
        ],
        "left_out": max(0, odd - 3 * ROWS_AT_MOST),
        "exclude": _pieces(document["exclude"]),
        "passing": _pieces(hosts.compress(node["host"] for node in nodes if node["status"] == "passing")),
        "hyperpod": _texts(document["hyperpod"]),
    }


# --------------------------------------------------------------------------------------- what can be believed


def _expect_sound(document: Mapping[str, Any]) -> None:
    """Names go into lists that are pasted into commands, and READY has to be shown."""
    verdict = VerdictName(document["verdict"])
    nodes, missing = document["nodes"], document["missing"]
    for name in _named(document):
        if not hosts.is_host(name):
            raise ReportError(f"the document of the fleet is damaged: {str(name)[:80]!a} is no name of a host")
    known = {*missing, *(node["host"] for node in nodes)}
    if document["exclude"] and not known.issuperset(hosts.expand(document["exclude"])):
        raise ReportError("the document of the fleet is damaged: its exclude list names hosts that it does not know")
    if unknown := {node["status"] for node in nodes} - {"passing", "failing", "unknown"}:
        raise ReportError(f"the document of the fleet is damaged: {str(unknown.pop())[:80]!a} is no status")
    is_proof = nodes and not missing and not document["doubts"] and {node["status"] for node in nodes} == {"passing"}
    if verdict in (VerdictName.READY, VerdictName.READY_FOR_INSTALL) and not is_proof:
        raise ReportError(f"the document of the fleet contradicts itself: it says {verdict.value} and shows no proof")


def _named(document: Mapping[str, Any]) -> Iterator[object]:
    yield from document["missing"]
    for node in document["nodes"]:
        yield node["host"]
        yield from node["blamed_by"]
    for entry in _listed(document, "findings"):
        yield from (*entry["hosts"], entry["example"])
    for entry in _listed(document, "drift"):
        yield from entry["others"]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no text")
    return value


def _texts(values: Iterable[object]) -> list[str]:
    return [_text(value) for value in values]


def _listed(document: Mapping[str, Any], name: str) -> Sequence[Any]:
    found = document.get(name, ())
    if not isinstance(found, list | tuple):
        raise TypeError(f"{name} is no list")
    return found


# ------------------------------------------------------------------------------------------------ what to do


def _finding(number: int, entry: Mapping[str, Any]) -> Finding:
    return Finding(
        id=f"finding-{number}",
        check=_plain(entry["check"]),
        title=_text(entry["title"]),
        outcome=_text(entry["outcome"]),
        action=_text(entry["action"]),
        blames=bool(entry["blames"]),
        message=_text(entry["message"]),
        fix=_texts(entry["fix"]),
        example=entry["example"],
        others=int(entry["messages"]) - 1,
        nodes=len(entry["hosts"]),
        hosts=list(entry["hosts"]),
    )


def _plain(check: object) -> str:
    return _text(check).removeprefix("bionemo/")


def _blocks(document: Mapping[str, Any], findings: Sequence[Finding]) -> Iterator[Block]:
    nodes = document["nodes"]
    failing = [node for node in nodes if node["status"] == "failing"]
    for action in sorted({str(node["action"]) for node in failing}, key=_strength, reverse=True):
        doing, advice = _ADVICE.get(action, (action, ""))
        those = [node for node in failing if node["action"] == action]
        own = {node["host"] for node in those}
        yield _block(
            f"do-{action.lower().replace('_', '-')}" if action in _ADVICE else "do-other",
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
            _pieces(hosts.compress(missing)),
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
    alike: dict[str, tuple[str, list[str]]] = {}
    for node in nodes:
        for reason in _texts(node["reasons"]):
            # The same with another number in it is the same reason.
            if not reason.startswith("bionemo/") and not reason.startswith("and "):
                alike.setdefault(_NUMBER.sub("#", reason), (reason, []))[1].append(node["host"])
    reasons = [(reason, hosts.compress(named)) for reason, named in list(alike.values())[:ROWS_AT_MOST]]
    return Block(
        name, word, title, advice, _pieces(hosts.compress(node["host"] for node in nodes)), findings, reasons
    )


def _only(findings: Iterable[Finding], own: set[str]) -> Iterator[Finding]:
    """The findings of these nodes, as if there were no others."""
    for one in findings:
        if those := [host for host in one.hosts if host in own]:
            yield one._replace(hosts=those, nodes=len(those))


def _strength(action: str) -> int:
    return Action(action).strength if action in _ADVICE else -1


# ------------------------------------------------------------------------------------------------- the table


def _topics(nodes: Sequence[Mapping[str, Any]]) -> tuple[list[str], int]:
    """The topics of the columns, in the order of the reports, and how many there is no room for."""
    tally = Counter(str(topic) for node in nodes for topic in node.get("sections", ()))
    kept = {topic for topic, _ in tally.most_common(_TOPICS_AT_MOST)}
    return [topic for topic in tally if topic in kept], len(tally) - len(kept)


def _rows(
    nodes: Iterable[Mapping[str, Any]], missing: Iterable[str], topics: Sequence[str], varying: Sequence[str]
) -> Iterator[Row]:
    for node in nodes:
        sections = node.get("sections", {})
        cells = [_cell(sections.get(topic, "NOTHING")) for topic in topics]
        why, more = _why(node["reasons"])
        action = "" if node["action"] == "NONE" else _words(node["action"])
        own = ["" if node[name] is None else str(node[name]) for name in varying]
        verdict = _words(node["verdict"]) if node["verdict"] else "no report"
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
    first = _plain(reasons[0])
    return first if len(first) <= _LONGEST_WHY else f"{first[: _LONGEST_WHY - 1]}…", len(reasons) - 1


def _words(name: object) -> str:
    return _text(name).replace("_", " ")


def _alike(nodes: Sequence[Mapping[str, Any]], levels: Mapping[str, object], varying: Sequence[str]) -> Iterator[str]:
    """What is said once, because it holds for all."""
    reported = [node for node in nodes if node["verdict"]]
    if not reported:
        return
    yield "level " + ", ".join(
        str(level) if len(levels) == 1 else f"{level} on {number}" for level, number in levels.items()
    )
    if "job" not in varying and reported[0]["job"] is not None:
        yield f"job {reported[0]['job']}"
    if "device" not in varying and reported[0]["device"] != "cuda":
        yield "a rehearsal, without any GPU"
    first, last = (_text(choose(node["started"] for node in reported)) for choose in (min, max))
    yield f"begun {_moment(first)}" + (f" to {_moment(last, first)}" if _moment(first) != _moment(last) else "")


def _moment(text: str, before: str = "") -> str:
    """A moment of the document to the minute, without the day of the one before it."""
    day, clock = text[:10], text[11:16]
    return f"{clock} UTC" if day == before[:10] else f"{day} {clock} UTC"


def _strip(counts: Sequence[tuple[str, int]]) -> Iterator[tuple[str, float, float]]:
    """Status, left edge and width in percent of a bar; what is there at all can be seen."""
    there = [(word, number) for word, number in counts if number]
    least = 0.8
    room = 100 - least * len(there)
    total, left = sum(number for _, number in there), 0.0
    for word, number in there:
        width = least + room * number / total
        yield word, round(left, 3), round(width, 3)
        left += width


# ------------------------------------------------------------------------------------------- numbers and facts


def _straggler(entry: Mapping[str, Any]) -> dict[str, Any]:
    effect, confidence = _finite(entry["effect"]), _finite(entry["confidence"])
    return {
        "host": _text(entry["host"]),
        "device": _text(entry["device"] or ""),
        "measurement": _text(entry["measurement"]),
        "effect": effect,
        "slower": "no number" if effect is None else f"{effect:.1%}",
        "bar": 0 if effect is None else round(100 * min(1.0, max(0.0, effect)), 2),
        "value": entry["value"],
        "median": entry["median"],
        "unit": _text(entry["unit"] or ""),
        "confidence": "no number" if confidence is None else f"{min(confidence, 0.9999):.2%}",
    }


def _spread(entry: Mapping[str, Any]) -> dict[str, Any]:
    spread, detectable = _finite(entry["spread"]), _finite(entry["detectable"])
    return {
        **{name: _text(entry[name]) for name in ("measurement", "unit", "model")},
        "values": entry["values"],
        "median": entry["median"],
        "spread": "no number" if spread is None else f"{spread:.2%}",
        "detectable": "no number" if detectable is None else f"{detectable:.1%}",
    }


def _finite(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]


def _drift(entry: Mapping[str, Any]) -> dict[str, Any]:
    by_value: dict[str, list[str]] = {}
    for host, value in entry["others"].items():
        by_value.setdefault(_text(value), []).append(host)
    in_order = sorted(by_value.items(), key=lambda item: (-len(item[1]), item[0]))
    rest = in_order[_VALUES_AT_MOST:]
    return {
        "fact": _text(entry["fact"]),
        "majority": _text(entry["majority"]),
        "nodes": int(entry["nodes"]),
        "others": [(value, hosts.compress(named), len(named)) for value, named in in_order[:_VALUES_AT_MOST]],
        "more": len(rest),
        "more_nodes": sum(len(named) for _, named in rest),
    }


def _pieces(text: str) -> list[str]:
    """A list that is pasted must be whole: a text of the page is cut where it is very long, its pieces are not."""
    return [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
