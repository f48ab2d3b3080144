"""Fleets to fold: reports of nodes made by hand, as bytes and as files."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pytest_bionemo.fleet.folding import Asked, Unreadable, fold
from pytest_bionemo.fleet.node import Node, read
from pytest_bionemo.verdict import ReportError
from test_report import ENVIRONMENT, NUMBER, blocked, complete, for_install, ready
from test_verdict import declared, document, found, skipped

Json = dict[str, Any]
NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc).timestamp()
MINUTE, HOUR = 60.0, 3600.0


def report(
    host: str = "node1", kind: str = "ready", *, age: float = HOUR, job: Json | None = None, **facts: Any
) -> Json:
    """The report of a host that began so many seconds ago."""
    makers = {"ready": ready, "install": for_install, "blocked": blocked, "gap": _with_gap, "rehearsal": _rehearsal}
    made = copy.deepcopy(makers[kind]())
    began = datetime.fromtimestamp(NOW - age, timezone.utc).isoformat(timespec="seconds")
    made["bionemo"] |= {"started": began, "environment": {**ENVIRONMENT, "hostname": host, "job": job, **facts}}
    return made


def _with_gap() -> Json:
    return document([declared()], [skipped(outcome="not_run", message="it was deselected")], **complete())


def _rehearsal() -> Json:
    return ready(device="cpu")


def begun(host: str = "node1", age: float = HOUR) -> Json:
    """The report of a run that did not end: it names no host."""
    made = report(host, age=age)
    made |= {"exitcode": None, "tests": []}
    made["bionemo"] |= {"checks": [], "topics": []}
    del made["bionemo"]["environment"]
    return made


def job(name: str, rank: int = 0, nodes: str | None = "node[1-4]", size: int = 4, **changes: Any) -> Json:
    """The job of a report as the schema has it."""
    entry = {"launcher": "slurm", "id": name, "task": None, "tasks": None, "node": None, "node_rank": rank}
    return {**entry, "nodes": size, "node_list": nodes, "hosts": [], **changes}


def blaming(host: str, *others: str, action: str = "REBOOT_NODE", **facts: Any) -> Json:
    """The report of a host whose only blocker blames others."""
    made = report(host, **facts)
    missed = found(message="rank 3 did not arrive", blames="\n".join(others), action=action)
    return made | {"tests": [missed], "exitcode": 1}


def node(document: Json, path: str = "") -> Node:
    """As the fleet reads it."""
    host = document["bionemo"].get("environment", {}).get("hostname", "node1")
    return read(json.dumps(document).encode(), path or f"reports/{host}.json")


def fleet(
    *reports: Json | Node | tuple[str, Json],
    unreadable: Iterable[tuple[str, str]] = (),
    now: float = NOW,
    **asked: Any,
) -> Json:
    """The document of a fleet of these reports; a pair is a path and its report."""
    nodes: list[Node] = []
    for one in reports:
        if isinstance(one, tuple):
            nodes.append(node(one[1], one[0]))
        else:
            nodes.append(one if isinstance(one, Node) else node(one))
    return fold(nodes, [Unreadable(*pair) for pair in unreadable], Asked(**asked), now)


def status(document: Json) -> dict[str, str]:
    """Of each host in the document."""
    return {entry["host"]: entry["status"] for entry in document["nodes"]}


def reasons(document: Json, host: str) -> list[str]:
    """What is said of a host."""
    (entry,) = (entry for entry in document["nodes"] if entry["host"] == host)
    return list(entry["reasons"])


def save(folder: Path, *reports: Json) -> list[Path]:
    """The files of these reports."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{one['bionemo']['environment']['hostname']}.json" for one in reports]
    for path, one in zip(paths, reports, strict=True):
        path.write_text(json.dumps(one))
    return paths


def why_not(content: bytes, path: str = "reports/node1.json") -> str:
    """Why this is no report."""
    try:
        read(content, path)
    except ReportError as error:
        return str(error)
    raise AssertionError("it was read")


def command(*arguments: str | Path, stdin: bytes = b"", cwd: Path | None = None) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command, on a screen of 80 columns."""
    words = [sys.executable, "-m", "pytest_bionemo", "fleet", *map(str, arguments)]
    done = subprocess.run(
        words, input=stdin, capture_output=True, check=False, cwd=cwd, timeout=120, env={"COLUMNS": "80"}
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def document_of(*arguments: str | Path) -> Json:
    """What the command says of these paths."""
    document: Json = json.loads(command(*arguments, "--print", "json")[1])
    return document


def numbers(values: Sequence[tuple[str, float, str, str]]) -> list[Json]:
    """Measurements: name, value, unit and device."""
    return [
        {**NUMBER, "name": name, "value": value, "unit": unit, "device": device, "ci95": None}
        for name, value, unit, device in values
    ]
