"""Reports that are truncated, foreign, huge or hostile: named one by one, and never a reason for READY."""

from __future__ import annotations

import ctypes
import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fleets import Json, begun, document_of, fleet, job, report, save, status, why_not
from pytest_bionemo.fleet import decoding, node, sources
from pytest_bionemo.fleet.node import Node, read, shown
from pytest_bionemo.verdict import ReportError, fold
from test_report import NUMBER

READY = json.dumps(report("node1"), indent=1).encode()
HOSTILE = "\x1b[2J<script>alert(1)</script>\u202egnp.\n../../etc/passwd"

RATE = {**NUMBER, "unit": "GB/s"}

PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n\t ", "is empty"),
        (b"\x00\x01\xff", "is no JSON"),
        (READY[: len(READY) // 2], "truncated"),
        (READY + READY, "is no JSON"),
        (nested(100_000), "is no JSON"),
        (b'"READY"', "not a report"),
        (b"[]", "not a report"),
        (b"{}", "not a report"),
        (b'{"bionemo": null}', "not a report"),
        (b'{"bionemo": {"schema_version": 1, "verdict": "READY"}}', "not a report"),
        (b'{"bionemo": {"schema_version": 99}}', "its schema version is 99"),
        (b'{"bionemo": {"schema_version": 0}}', "its schema version is 0"),
        (b'{"bionemo": {"schema_version": true}}', "damaged"),
        (b'{"bionemo": {"schema_version": "1"}}', "damaged"),
    ],
)
def test_what_is_no_report_is_named_with_the_reason(content: bytes, said: str) -> None:
    found = why_not(content)
    assert said in found
    assert "\n" not in found
    assert len(found) < 300


def damaged(**changes: Any) -> bytes:
    made = report("node1")
    made["bionemo"] |= changes
    return json.dumps(made).encode()


@pytest.mark.parametrize(
    "content",
    [
        damaged(started="yesterday"),
        damaged(started=None),
        damaged(started="9999-12-31T23:59:59-23:59"),
        damaged(level="deep"),
        damaged(level=["quick"]),
        damaged(device="tpu"),
        damaged(measurements=[{"name": "x"}]),
        damaged(measurements=[None]),
        damaged(gpus=[{"uuid": "GPU-1"}]),
        damaged(gpus={"a": 1}),
        damaged(packages=["bionemo-core"]),
        damaged(environment=["node1"]),
        damaged(environment={"hostname": ["node1"]}),
        damaged(environment={"hostname": "node1", "job": "7"}),
        damaged(environment={"hostname": "node1", "job": job("7", nodes="n1", size=10**30)}),
        damaged(environment={"hostname": "node1", "job": job("7", rank=-1)}),
        damaged(environment={"hostname": "node1", "job": job("7", task="3")}),
        damaged(checks=[None]),
        damaged(topics=None),
    ],
)
def test_a_report_that_is_damaged_anywhere_is_none(content: bytes) -> None:
    assert "damaged" in (found := why_not(content)) or "no name" in found


@pytest.mark.parametrize(
    "host", [HOSTILE, "../node1", "a/b", "node1 node2", "x" * 300, "-rf", "$(reboot)", "node[1-9]"]
)
def test_a_host_of_an_impossible_name_is_none(host: str) -> None:
    content = json.dumps(report(host)).encode()
    found = why_not(content)
    assert "is no name that a host can have" in found
    assert found.isprintable()


def test_no_name_of_a_check_steers_what_reads_the_line_of_hyperpod() -> None:
    hostile = report("node1", "blocked")
    text = json.dumps(hostile).replace("bionemo/driver::loads", "bionemo/driver::\\u001b]0;x\\u0007\\u202eloads")
    (line,) = fleet(json.loads(text))["hyperpod"]
    assert line.isprintable()
    assert line.startswith("HEALTH_CHECK_RESULT:node1:Failed:")


def test_nothing_of_a_report_steers_a_terminal_or_a_path() -> None:
    hostile = report("node1", "blocked", driver=HOSTILE, extra={HOSTILE: HOSTILE}, job=job(HOSTILE, 0, "node1", 1))
    hostile["tests"][0]["user_properties"][1]["bionemo_message"] = HOSTILE
    hostile["bionemo"]["measurements"] *= 9
    found = fleet((f"{HOSTILE}/node1.json", hostile), report("node2"), unreadable=[(HOSTILE, HOSTILE)])

    def texts(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for pair in value.items() for one in pair for text in texts(one)]
        if isinstance(value, list):
            return [text for one in value for text in texts(one)]
        return [value] if isinstance(value, str) else []

    assert any("alert" in text for text in texts(found))
    assert all(text.isprintable() for text in texts(found))
    assert "\\u202e" in shown(HOSTILE)


# ---- ten thousand mutations


def mutate(content: bytes, chosen: random.Random) -> bytes:
    """Bytes that are flipped, cut out, doubled or exchanged."""
    text = bytearray(content)
    for _ in range(chosen.randrange(1, 4)):
        start = chosen.randrange(len(text))
        stop = min(len(text), start + chosen.choice([1, 1, 2, 8, 200]))
        kind = chosen.randrange(5)
        if kind == 0:
            text[start] ^= 1 << chosen.randrange(8)
        elif kind == 1:
            del text[start:stop]
        elif kind == 2:
            text[start:start] = text[start:stop]
        elif kind == 3:
            text[start:stop] = chosen.choice([b"null", b"0", b"-1e999", b'"READY"', b"[]", b"{}", b"true", b"\xff"])
        else:
            del text[start:]
        text = text or bytearray(b"{")
    return bytes(text)


def replace_a_value(document: bytes, chosen: random.Random) -> Any:
    """The document but for one value, anywhere in the tree."""
    odd: list[Any] = [None, True, 0, -1, 1e308, "", "READY", "passed", [], {}, [[]], {"a": 1}, "\ud800", "9" * 400]
    tree = here = pickle.loads(document)
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            return tree
        key = chosen.choice(keys)
        if isinstance(here[key], dict | list) and here[key] and chosen.random() < 0.8:
            here = here[key]
        elif isinstance(here, list | dict) and chosen.random() < 0.2:
            del here[key]
            return tree
        else:
            here[key] = chosen.choice(odd)
            return tree


BASES = {
    "ready": report("node1", job=job("7", 0, "node1", 1)),
    "blocked": report("node1", "blocked"),
    "gap": report("node1", "gap"),
    "rehearsal": report("node1", "rehearsal"),
    "begun": begun("node1"),
}
TEXTS = {kind: json.dumps(base, indent=1).encode() for kind, base in BASES.items()}
TREES = {kind: pickle.dumps(base) for kind, base in BASES.items()}


def mutants(number: int, chosen: random.Random) -> Iterator[tuple[str, bytes]]:
    """So many reports of each kind in turn, half of them damaged as bytes, half as documents."""
    for count in range(number):
        kind = list(BASES)[count % len(BASES)]
        if count % 2:
            yield kind, mutate(TEXTS[kind], chosen)
        else:
            yield kind, json.dumps(replace_a_value(TREES[kind], chosen)).encode()


def test_ten_thousand_mutated_reports_crash_nothing_and_make_nothing_ready() -> None:
    kept: dict[str, list[tuple[bytes, Node]]] = {kind: [] for kind in BASES}
    for kind, content in mutants(10_000, random.Random(20261122)):
        with suppress(ReportError):
            kept[kind].append((content, read(content, "r/node1.json")))
    assert all(len(found) > 200 for found in kept.values())
    ready = [(content, found) for content, found in kept["ready"] if fleet(found)["verdict"].startswith("READY")]
    assert len(ready) > 100
    assert all(fold(json.loads(content)).is_ready for content, _ in ready)
    for kind in set(BASES) - {"ready"}:
        # No mutation makes a node better than it was; as many hosts as reports, so that each of them counts.
        nodes = [replace(found, host=f"n{number}", job=None) for number, (_, found) in enumerate(kept[kind])]
        found = fleet(*nodes)
        assert "passing" not in status(found).values()
        assert len(status(found)) == len(nodes)


def test_mutated_reports_are_read_alike_with_and_without_msgspec(monkeypatch: pytest.MonkeyPatch) -> None:
    for content in TEXTS.values():
        decoding.decode(content)
    kept = 0
    for _, content in mutants(4_000, random.Random(20261123)):
        quickly = node_or_reason(content)
        with monkeypatch.context() as patch:
            patch.setattr(node, "decoding", None)
            assert node_or_reason(content) == quickly
        kept += isinstance(quickly, Node)
    assert 1_000 < kept < 3_000


@pytest.mark.parametrize(
    "measurements",
    [{}, "", 7, [{**RATE, "value": True, "ci95": 3}], [{**RATE, "ci95": [1]}], [{"name": "x"}], [None]],
)
def test_damaged_measurements_make_a_report_unreadable(measurements: Any) -> None:
    damaged = report("node1")
    damaged["bionemo"]["measurements"] = measurements
    assert "damaged" in why_not(json.dumps(damaged).encode())


def test_what_somebody_else_has_measured_is_not_compared() -> None:
    for test in ("tests/test_mine.py::test_speed", None):
        mine = report("node1")
        mine["bionemo"]["measurements"] = [{**RATE, "test": test}]
        assert not read(json.dumps(mine).encode(), "r/node1.json").numbers.value
    del mine["bionemo"]["measurements"][0]["test"]
    assert len(read(json.dumps(mine).encode(), "r/node1.json").numbers.value) == 1


def node_or_reason(content: bytes) -> Node | str:
    try:
        return read(content, "r/node1.json")
    except ReportError as error:
        return str(error)


# ---- files


def test_every_bad_file_is_named_and_the_others_fold(tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    save(folder, report("node1"), report("node2"))
    (folder / "empty.json").touch()
    (folder / "cut.json").write_bytes(READY[:999])
    (folder / "foreign.json").write_text('{"tests": []}')
    (folder / "gone.json").symlink_to(tmp_path / "nowhere")
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    with (folder / "huge.json").open("wb") as file:
        file.truncate(sources.LARGEST_REPORT + 1)
    (folder / ".node3.json.host.77.part").write_bytes(READY[:99])
    (folder / ".hidden.json").write_bytes(READY[:99])
    (folder / "notes.txt").write_text("READY")
    found = document_of(folder)
    bad = {Path(entry["path"]).stem: entry["why"] for entry in found["unreadable"]}
    said = {
        "empty": "is empty", "cut": "truncated", "foreign": "not a report", "gone": "No such file",
        "pipe": "no regular file", "huge": "larger than any report",
    }  # fmt: skip
    assert set(bad) == set(said)
    for name, reason in said.items():
        assert reason in bad[name]
    assert status(found) == {"node1": "passing", "node2": "passing"}
    assert found["verdict"] == "INCONCLUSIVE"


def test_a_reader_that_hangs_and_one_that_is_killed_cost_one_report_each(tmp_path: Path) -> None:
    base = report("node0")
    base["padding"] = ["x" * 100] * 2000
    text = json.dumps(base)
    for number in range(400):
        (tmp_path / f"node{number}.json").write_text(text.replace("node0", f"node{number}"))
    words = [sys.executable, "-m", "pytest_bionemo", "fleet", str(tmp_path), "--timeout", "2", "--print", "json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as fold_them:
        children = Path(f"/proc/{fold_them.pid}/task/{fold_them.pid}/children")
        deadline = time.monotonic() + 30
        while len(readers := children.read_text().split()) < 1:
            assert time.monotonic() < deadline
        os.kill(int(readers[0]), signal.SIGSTOP)
        while len(others := [one for one in children.read_text().split() if one != readers[0]]) < 1:
            assert time.monotonic() < deadline
        os.kill(int(others[0]), signal.SIGKILL)
        out, _ = fold_them.communicate(timeout=60)
    found = json.loads(out)
    assert sorted(entry["why"] for entry in found["unreadable"]) == [
        "it could not be read within 2 seconds",
        "the process that read it died (exit status -9)",
    ]
    assert len(found["nodes"]) == 398
    assert fold_them.returncode == 1


@pytest.mark.parametrize("command", ["fleet", "metrics"])
def test_a_reader_that_cannot_be_ended_does_not_hold_up_the_end(command: str, tmp_path: Path) -> None:
    base = report("node0")
    base["padding"] = ["x" * 100] * 2000
    for number in range(200):
        (tmp_path / f"node{number}.json").write_text(json.dumps(base).replace("node0", f"node{number}"))
    words = [sys.executable, "-m", "pytest_bionemo", command, str(tmp_path), "--timeout", "2"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as fold_them:
        children = Path(f"/proc/{fold_them.pid}/task/{fold_them.pid}/children")
        deadline = time.monotonic() + 30
        while not (readers := children.read_text().split()):
            assert time.monotonic() < deadline
        held = int(readers[0])
        try:
            # As one that waits for a dead file system, it is there, killed or not, until its tracer lets it go.
            trace = ctypes.CDLL(None, use_errno=True).ptrace
            if trace(PTRACE_SEIZE, held, None, None):
                pytest.skip(f"no process may be traced here: {os.strerror(ctypes.get_errno())}")
            trace(PTRACE_INTERRUPT, held, None, None)
            assert fold_them.wait(30) == 1
        finally:
            fold_them.kill()
            with suppress(ProcessLookupError):
                os.kill(held, signal.SIGKILL)
            with suppress(ChildProcessError):
                while not os.WIFSIGNALED(os.waitpid(held, WALL)[1]):
                    pass


def test_documents_in_a_stream_are_told_apart_where_one_is_cut_off() -> None:
    pretty, line = READY, json.dumps(report("node2")).encode()
    stream = b"\n".join([pretty, line, pretty[:500], line, b"\n", b"rubbish"])
    with subprocess.Popen(["printf", "%s", stream], stdout=subprocess.PIPE) as child:
        assert child.stdout
        documents = list(sources.split(child.stdout))
    assert [len(one.strip()) for one in documents][:2] == [len(pretty), len(line)]
    assert len(documents) == 4
    assert documents[3].endswith(b"rubbish")


# ---- what it takes


@pytest.mark.parametrize("size", [1, 2, 700, -2])
def test_a_report_that_is_cut_off_within_a_line_takes_no_other_with_it(size: int) -> None:
    pretty = json.dumps(report("node2"), indent=1).encode() + b"\n"
    documents = list(sources.split(io.BytesIO(pretty[:size] + pretty + pretty)))
    assert documents == [pretty[:size], pretty, pretty]


def test_memory_does_not_grow_with_the_size_of_the_reports(tmp_path: Path) -> None:
    made = report("node0", "blocked")
    made["tests"][0]["call"]["longrepr"] = "x" * 2_000_000
    text = json.dumps(made)
    for number in range(60):
        (tmp_path / f"node{number}.json").write_text(text.replace("node0", f"node{number}"))
    script = (
        "import sys; from pathlib import Path; from pytest_bionemo.fleet.command import main; main(sys.argv[1:]);"
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), "--print", "exclude"],
        capture_output=True,
        text=True,
        check=True,
    )
    exclude, peak = done.stdout.splitlines()
    assert exclude == "node[0-59]"
    # 120 MB of reports; in KiB, of this program alone: what getrusage tells begins with the size of its parent.
    assert int(peak) < 60 * 1024


def test_a_report_of_the_fleet_in_the_folder_is_no_report(tmp_path: Path) -> None:
    save(tmp_path, report("node1"))
    document: Json = fleet(report("node1"))
    (tmp_path / "fleet.json").write_text(json.dumps(document))
    found = document_of(tmp_path)
    assert (found["verdict"], found["unreadable"]) == ("READY", [])
