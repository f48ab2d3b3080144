"""``python -m pytest_bionemo fleet``: files in, one verdict out."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from fleets import HOUR, blaming, command, document_of, fleet, job, numbers, report, save
from pytest_bionemo.fleet import table
from pytest_bionemo.fleet.command import main


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """Four nodes of a job, one of them blocked, and a fifth that has not reported."""
    made = [report(f"node{number}", job=job("7", number - 1, "node[1-5]", 5)) for number in (1, 2, 4)]
    made.append(report("node3", "blocked", job=job("7", 2, "node[1-5]", 5)))
    save(tmp_path / "reports", *made)
    return tmp_path / "reports"


def test_a_fleet_is_told_on_the_screen_in_files_and_by_the_exit_status(reports: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    status, out, err = command(reports, "--json", tmp_path / "fleet.json", "--lists", lists)
    assert (status, err) == (1, "")
    assert out.startswith("============================ BioNeMo fleet: BLOCKED ===========")
    assert max(map(len, out.splitlines())) <= 80
    assert "FAILING   node3: BLOCKED, FIX_SOFTWARE\n          bionemo/driver::loads: no driver\n" in out
    assert "MISSING   node5\n" in out
    assert "exclude   node[3,5]\n" in out
    told = {path.name: path.read_text().split() for path in lists.iterdir()}
    assert told == {
        "passing_nodes.txt": ["node1", "node2", "node4"],
        "failing_nodes.txt": ["node3"],
        "unknown_nodes.txt": [],
        "missing_nodes.txt": ["node5"],
        "exclude.txt": ["node[3,5]"],
    }
    document = json.loads((tmp_path / "fleet.json").read_text())
    keys = {"schema_version", "tool", "created", "verdict", "summary", "counts", "nodes", "missing", "unreadable",
            "duplicates", "drift", "stragglers", "exclude", "hyperpod"}  # fmt: skip
    assert keys <= set(document)
    assert document["counts"] == {"READY": 3, "READY_FOR_INSTALL": 0, "BLOCKED": 1, "INCONCLUSIVE": 0}
    assert set(document["nodes"][0]) == {
        "host", "verdict", "action", "status", "level", "device", "started", "job", "sections", "reasons",
        "blamed_by", "path",
    }  # fmt: skip
    assert (
        document["hyperpod"][2]
        == "HEALTH_CHECK_RESULT:node3:Failed:none:BLOCKED at level quick: bionemo/driver::loads"
    )


def test_a_folder_a_pattern_a_list_of_files_and_a_stream_say_the_same(reports: Path) -> None:
    files = sorted(reports.glob("*.json"))
    random.Random(3).shuffle(files)
    stream = b"\n".join(path.read_bytes() for path in files)
    forms: list[list[str | Path]] = [
        [reports],
        [f"{reports}/*.json"],
        [f"{reports.parent}/**/*.json"],
        [*files],
        ["-"],
    ]
    found = set()
    for form in forms:
        status, out, _ = command(*form, "--print", "json", stdin=stream if form == ["-"] else b"")
        document = json.loads(out)
        for node in document["nodes"]:
            node.pop("path")
        document.pop("created")
        found.add((status, json.dumps(document)))
    assert len(found) == 1
    # Named twice, folded once.
    status, out, _ = command(reports, *files, "--print", "json")
    assert json.loads(out)["duplicates"] == []


def test_a_script_gets_what_it_asks_for_and_nothing_else(reports: Path) -> None:
    wanted = {"exclude": "node[3,5]\n", "passing": "node1\nnode2\nnode4\n", "unknown": ""}
    for what, text in wanted.items():
        assert command(reports, "--print", what) == (1, text, "")


def test_expectations_ages_jobs_and_what_is_required_are_options(tmp_path: Path) -> None:
    save(tmp_path / "r", report("node1", "install"))
    (tmp_path / "hosts").write_text("node1\nnode[2-3]\n")
    assert command(tmp_path / "r")[0] == 0
    assert command(tmp_path / "r", "--require", "ready")[0] == 1
    assert command(tmp_path / "r", "--level", "full")[0] == 1
    assert command(tmp_path / "r", "--max-age", "1s")[0] == 1
    assert command(tmp_path / "r", "--max-age", "99999999d", "--expect", "1", "--expect", "node1")[0] == 0
    assert command(tmp_path / "r", "--job", "7")[0] == 1
    status, out, _ = command(tmp_path / "r", "--expect", f"@{tmp_path}/hosts", "--print", "missing")
    assert (status, out.split()) == (1, ["node2", "node3"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: PATH"),
        (["nowhere"], "nowhere: No such file or directory"),
        (["*.nothing"], "*.nothing: No such file or directory"),
        ([""], "'' is no path"),
        (["."  , "--expect", "node[3-1]"], "'3-1' is no range"),
        ([".", "--expect", "0"], "--expect 0: a fleet has 1 to 999999999 nodes"),
        ([".", "--expect", "12345678901"], "--expect 12345678901: a fleet has 1 to 999999999 nodes"),
        ([".", "--expect", "4", "--expect", "5"], "--expect 4 and --expect 5 contradict each other"),
        ([".", "--expect", "@nowhere"], "--expect @nowhere: No such file"),
        ([".", "--max-age", "soon"], "--max-age 'soon' is no time"),
        ([".", "--max-age", "-1h"], "--max-age"),
        ([".", "--level", "deep"], "invalid choice: 'deep'"),
        ([".", "--print", "all"], "invalid choice: 'all'"),
        ([".", "--json", ""], "--json '' is empty: is a variable not set?"),
        ([".", "--job", ""], "--job '' is empty"),
        (["no\x1b[2Jthing\n"], "no\\x1b[2Jthing: No such file"),
        ([".", "--timeout", "0"], "'0' is no number of seconds above 0"),
        ([".", "--jsn", "x"], "unrecognized arguments: --jsn x"),
        ([".", "--json", "no/such/folder/x.json"], "no/such/folder/x.json cannot be written"),
        ([".", "--json", "/dev/null"], "/dev/null cannot be written: it is no regular file"),
        ([".", "--lists", "/dev/null/x"], "--lists /dev/null/x"),
    ],
)  # fmt: skip
def test_a_usage_error_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    status = main(arguments)
    out, err = capsys.readouterr()
    assert (status, out) == (4, "")
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1
    assert Path("/dev/null").is_char_device()


def test_a_folder_that_is_there_by_a_link_is_read(tmp_path: Path) -> None:
    save(tmp_path / "reports", report("node1"))
    save(tmp_path / "other", report("node2", "blocked"))
    (tmp_path / "reports" / "disk").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(tmp_path / "reports")
    document = document_of(tmp_path / "reports")
    assert {one["host"]: one["status"] for one in document["nodes"]} == {"node1": "passing", "node2": "failing"}


def test_an_output_that_is_full_is_said_in_one_line(tmp_path: Path) -> None:
    save(tmp_path, report("node1"))
    words = [sys.executable, "-m", "pytest_bionemo", "fleet", str(tmp_path)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        4,
        "error: standard output cannot be written: No space left on device\n",
    )


def test_an_empty_folder_is_inconclusive_and_no_usage_error(tmp_path: Path) -> None:
    status, out, _ = command(tmp_path, "--expect", "node[1-3]")
    assert status == 1
    assert "INCONCLUSIVE" in out
    assert "MISSING   node[1-3]" in out


def test_files_of_the_folder_that_it_is_started_in_are_not_run(tmp_path: Path) -> None:
    for name in ("json", "argparse", "statistics", "msgspec", "multiprocessing"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hostile')\n")
    save(tmp_path / "r", report("node1"))
    status, out, err = command("r", cwd=tmp_path)
    assert (status, err) == (0, "")
    assert "READY" in out


def test_the_table_says_once_what_is_said_of_many_nodes() -> None:
    document = fleet(
        *(report(f"node{number:02d}", "blocked") for number in range(1, 40)),
        report("node40", driver="570.1"),
        blaming("node41", "node40"),
        *(report(f"old{number}", age=9 * HOUR) for number in range(3)),
        unreadable=[(f"r/{number}.json", "is empty") for number in range(30)],
        max_age_s=8 * HOUR,
    )
    lines = list(table.lines(document, 100))
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    assert "FAILING   node[01-39]: BLOCKED, FIX_SOFTWARE" in text
    assert "FAILING   node40: READY, REBOOT_NODE\n          blamed by node41" in text
    assert "UNKNOWN   old[0-2]: READY\n          it is 9 h old, and 8 h is asked for" in text
    assert "and 20 more: --json FILE has them all" in text
    assert "drift     driver: 580.95.05 on 43, 570.1 on node40" in text
    assert len(lines) < 40


def test_a_fact_that_is_another_on_each_node_takes_few_lines() -> None:
    nodes = [report(f"node{number}", extra={"rack": f"r{number % 3 or number}"}) for number in range(60)]
    said = " ".join("\n".join(table.lines(fleet(*nodes), 80)).split())
    assert said.count(" on node") == 10
    assert "extra.rack: r1 on 20, r2 on node" in said
    assert said.endswith("; 11 other values on 11")


def test_a_screen_that_cannot_show_a_letter_costs_that_letter_alone(tmp_path: Path) -> None:
    (made,) = save(tmp_path, report("node1", "blocked"))
    made.write_text(made.read_text().replace("no driver", "\\u2265 no driver"))
    words = [sys.executable, "-m", "pytest_bionemo", "fleet", str(tmp_path)]
    variables = {"COLUMNS": "80", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=variables)
    assert (done.returncode, done.stderr) == (1, "")
    assert "\\u2265 no driver" in done.stdout


def test_a_straggler_is_told_with_its_numbers() -> None:
    reports = [report(f"node{number}") for number in range(20)]
    for number, one in enumerate(reports):
        value = 350.0 if number == 3 else 700.0
        one["bionemo"]["measurements"] = numbers([("matmul_bf16", value, "TFLOP/s", "GPU-1")])
    text = " ".join(" ".join(table.lines(fleet(*reports), 200)).split())
    assert "slow node3 GPU-1: matmul_bf16 50.0% slower than the fleet (350 TFLOP/s, median 700 TFLOP/s)" in text
