"""The page of a fleet, from the document that ``python -m pytest_bionemo fleet --json`` writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_bionemo.fleet import hosts
from pytest_bionemo.fleet.folding import SCHEMA_VERSION
from pytest_bionemo.fleet.node import LEVELS, TOOL
from pytest_bionemo.model import count
from pytest_bionemo.page.matrix import rows_of, topics_of
from pytest_bionemo.page.shell import render
from pytest_bionemo.page.soundness import expect_sound
from pytest_bionemo.page.todo import blocks_of, finding_of
from pytest_bionemo.page.values import finite, listed, pieces, text, texts
from pytest_bionemo.verdict import DAMAGED, ReportError

_VALUES_AT_MOST = 12
_STATUSES = ("failing", "unknown", "missing", "passing")

_SENTENCES: Mapping[str, str] = {
    "READY": "Every node that is expected has passed everything that BioNeMo needs",
    "READY_FOR_INSTALL": "Every node is ready, and BioNeMo itself remains to be installed on some or all of them",
    "BLOCKED": "Keep jobs off the nodes that fail until they are mended: the exclude list is below.",
    "INCONCLUSIVE": "Nothing failed, but something that has to be proven was not. Never take it for ready.",
}


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
        return render("fleet.html.j2", styles=("fleet.css",), scripts=("fleet.js",), **_values(document))
    except ReportError:
        raise
    except DAMAGED as error:
        said = " ".join(f"{type(error).__name__}: {error}"[:200].split())
        raise ReportError(f"the document of the fleet is damaged ({said})") from error


def _values(document: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the template prints."""
    expect_sound(document)
    nodes, missing = document["nodes"], document["missing"]
    findings = [finding_of(number, entry) for number, entry in enumerate(listed(document, "findings"))]
    levels = Counter(node["level"] for node in nodes if node["verdict"])
    topics, more_topics = topics_of(nodes)
    tally = Counter(node["status"] for node in nodes)
    counts = [(word, len(missing) if word == "missing" else tally[word]) for word in _STATUSES]
    blocks = [*blocks_of(document, findings)]
    kinds = {
        name: len({str(node[name]) for node in nodes if node["verdict"]}) > 1 for name in ("level", "device", "job")
    }
    varying = [name for name, varies in kinds.items() if varies]
    rows = [*rows_of(nodes, missing, topics, varying)]
    slow, drift = listed(document, "stragglers"), listed(document, "drift")
    odd = sum(len(listed(document, name)) for name in ("unreadable", "duplicates", "outdated"))
    return {
        "title": f"fleet of {count(len(rows), 'node')}: {document['verdict']}",
        "said": "of a fleet",
        "name": count(len(rows), "node"),
        "verdict": document["verdict"],
        "sentence": _sentence(document["verdict"], levels),
        "made": f"{TOOL}, {_moment(text(document['created']))}",
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
        "doubts": texts(document["doubts"]),
        "alike": [*_alike(nodes, levels, varying)],
        "blocks": blocks,
        "findings": findings,
        "topics": topics,
        "more_topics": more_topics,
        "varying": varying,
        "groups": [
            (status, group) for status in _STATUSES if (group := [row for row in rows if row.status == status])
        ],
        "slow": [*map(_straggler, slow)],
        "spreads": [*map(_spread, listed(document, "spreads"))],
        "drift": [*map(_drift, drift)],
        "unreadable": [texts((one["path"], one["why"])) for one in document["unreadable"]],
        "duplicates": [(text(one["host"]), texts(one["paths"])) for one in listed(document, "duplicates")],
        "outdated": [texts((one["host"], one["path"], one["job"] or "")) for one in listed(document, "outdated")],
        "exclude": pieces(document["exclude"]),
        "passing": pieces(hosts.compress(node["host"] for node in nodes if node["status"] == "passing")),
        "hyperpod": texts(document["hyperpod"]),
    }


def _alike(nodes: Sequence[Mapping[str, Any]], levels: Mapping[str, int], varying: Sequence[str]) -> Iterator[str]:
    """What is said once, because it holds for all."""
    reported = [node for node in nodes if node["verdict"]]
    if not reported:
        return
    yield "level " + ", ".join(
        str(level) if len(levels) == 1 else f"{level} on {number}" for level, number in sorted(levels.items())
    )
    if "job" not in varying and reported[0]["job"] is not None:
        yield f"job {reported[0]['job']}"
    if "device" not in varying and reported[0]["device"] != "cuda":
        yield "a rehearsal, without any GPU"
    first, last = (text(choose(node["started"] for node in reported)) for choose in (min, max))
    yield f"begun {_moment(first)}" + (f" to {_moment(last, first)}" if _moment(first) != _moment(last) else "")


def _sentence(verdict: str, levels: Mapping[str, int]) -> str:
    """What the verdict means. One that is good names its level: that of the node that looked least."""
    said = _SENTENCES[verdict]
    if said.endswith("."):
        return said
    lowest = min(levels, key=LEVELS.index)
    return f"{said}, at level {lowest}" + (": no GPU kernel was run." if lowest == LEVELS[0] else ".")


def _moment(said: str, before: str = "") -> str:
    """A moment of the document to the minute, without the day of the one before it."""
    day, clock = said[:10], said[11:16]
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
    effect, confidence = finite(entry["effect"]), finite(entry["confidence"])
    return {
        "host": text(entry["host"]),
        "device": text(entry["device"] or ""),
        "measurement": text(entry["measurement"]),
        "effect": effect,
        "slower": "no number" if effect is None else f"{effect:.1%}",
        "bar": 0 if effect is None else round(100 * min(1.0, max(0.0, effect)), 2),
        "value": entry["value"],
        "median": entry["median"],
        "unit": text(entry["unit"] or ""),
        "confidence": "no number" if confidence is None else f"{min(confidence, 0.9999):.2%}",
    }


def _spread(entry: Mapping[str, Any]) -> dict[str, Any]:
    spread, detectable = finite(entry["spread"]), finite(entry["detectable"])
    return {
        **{name: text(entry[name]) for name in ("measurement", "unit", "model")},
        "values": entry["values"],
        "median": entry["median"],
        "spread": "no number" if spread is None else f"{spread:.2%}",
        "detectable": "no number" if detectable is None else f"{detectable:.1%}",
    }


def _drift(entry: Mapping[str, Any]) -> dict[str, Any]:
    by_value: dict[str, list[str]] = {}
    for host, value in entry["others"].items():
        by_value.setdefault(text(value), []).append(host)
    in_order = sorted(by_value.items(), key=lambda item: (-len(item[1]), item[0]))
    rest = in_order[_VALUES_AT_MOST:]
    return {
        "fact": text(entry["fact"]),
        "majority": text(entry["majority"]),
        "nodes": int(entry["nodes"]),
        "others": [(value, hosts.compress(named), len(named)) for value, named in in_order[:_VALUES_AT_MOST]],
        "more": len(rest),
        "more_nodes": sum(len(named) for _, named in rest),
    }
