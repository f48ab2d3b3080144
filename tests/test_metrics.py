"""Metrics of reports and of the fleet: as two parsers and promtool read them, and how many there can be."""

from __future__ import annotations

import copy
import itertools
import json
import os
import random
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

import fleets
from conftest import Rig, healthy_and_sick
from fleets import HOUR, MINUTE, NOW, blaming, job, report, save
from programs import program
from pytest_bionemo import metrics, series
from pytest_bionemo.fleet import command
from standin import Libraries
from standin.environment import Environment

Json = dict[str, Any]
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="session")
def two_reports(
    plain_environment: Environment, libraries: Libraries, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Json]:
    """What a healthy node of eight GPUs reports, and the same with a sick GPU, by the stand-in driver."""
    healthy, sick = healthy_and_sick(plain_environment, libraries, tmp_path_factory.mktemp("nodes"), 3)
    return {"healthy": healthy, "sick": sick}


@pytest.fixture
def healthy(two_reports: Mapping[str, Json]) -> Json:
    return copy.deepcopy(two_reports["healthy"])


@pytest.fixture
def sick(two_reports: Mapping[str, Json]) -> Json:
    return copy.deepcopy(two_reports["sick"])


def write(report: Json, folder: Path, host: str, started: str | None = None) -> Path:
    """The report of this host as a file; its name is that of the host."""
    report = copy.deepcopy(report)
    report["bionemo"]["environment"]["hostname"] = host
    if started:
        report["bionemo"]["started"] = started
    path = folder / f"{host}.json"
    path.write_text(json.dumps(report))
    return path


def measured(name: str, device: str | None, value: float | None, **more: object) -> Json:
    """An entry of the report's measurements."""
    blank = dict.fromkeys(("samples", "ci95", "bound", "reference", "peer_median", "baseline", "judgement"))
    return {"name": name, "value": value, "unit": "TFLOP/s", "device": device, **blank, **more}


def read_as_openmetrics(text: str) -> Series:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    return _series(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def read_as_text(text: str) -> Series:
    from prometheus_client.parser import text_string_to_metric_families

    return _series(text_string_to_metric_families(text))


def _series(families: Iterable[Any]) -> Series:
    found: Series = {}
    for family in families:
        assert family.type == "gauge"
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, frozenset((name, value) for name, value in sample.labels.items() if value))
            assert key not in found, f"{key} is there twice"
            assert sample.timestamp is None
            found[key] = sample.value
    return found


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"bionemo_{name}", frozenset(labels.items())


def made(
    capsys: pytest.CaptureFixture[str], *paths: Path, status: int = 0, room: int = metrics.SERIES_AT_MOST
) -> Series:
    """The metrics of these files; both readers of them agree."""
    assert metrics.export([str(path) for path in paths], series=room) == status
    text = capsys.readouterr().out
    found = read_as_openmetrics(text)
    assert found == read_as_text(text)
    return found


def labels_of(found: Series, name: str, **wanted: str) -> list[dict[str, str]]:
    """The labels of the series of this name that have those."""
    return [dict(labels) for family, labels in found if family == f"bionemo_{name}" and labels >= set(wanted.items())]


# ---- a node


def test_a_healthy_node_is_ready_and_nothing_of_it_has_failed(
    healthy: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = made(capsys, write(healthy, tmp_path, "node1"))
    assert found[key("node_ready", host="node1")] == 1
    assert found[key("node_verdict", host="node1", verdict="READY_FOR_INSTALL")] == 1
    assert found[key("node_action", host="node1", action="NONE")] == 1
    assert found[key("node_gpus", host="node1")] == 8
    assert found[key("node_gaps", host="node1")] == 0
    assert labels_of(found, "node_failed_check", severity="blocker") == []
    assert [labels["driver"] for labels in labels_of(found, "node_software")] == [
        healthy["bionemo"]["environment"]["driver"]
    ]
    assert (found[key("reports")], found[key("reports_unreadable")], found[key("series_left_out")]) == (1, 0, 0)


def test_a_sick_gpu_is_a_blocker_with_its_action(
    sick: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = made(capsys, write(sick, tmp_path, "node2"))
    assert found[key("node_ready", host="node2")] == 0
    assert found[key("node_action", host="node2", action="REBOOT_NODE")] == 1
    failed = {"check": "health::needs_no_recovery", "severity": "blocker", "action": "REBOOT_NODE"}
    assert found[key("node_failed_check", host="node2", **failed)] == 1
    assert found[key("node_findings", host="node2", severity="blocker")] == 1


def test_a_verdict_is_formed_and_not_read(sick: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sick["bionemo"].update(verdict="READY", action="NONE", blockers=[])
    found = made(capsys, write(sick, tmp_path, "node2"))
    assert found[key("node_verdict", host="node2", verdict="BLOCKED")] == 1
    assert found[key("node_ready", host="node2")] == 0


def test_a_number_has_its_unit_its_rulers_and_the_index_of_its_gpu(
    healthy: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (gpu["uuid"] for gpu in healthy["bionemo"]["gpus"][:2])
    healthy["bionemo"]["measurements"] = [
        measured("matmul_bf16", first, 700.5, bound=989.4, reference=720.0, judgement="good"),
        measured("matmul_bf16", second, 420.25, bound=989.4, judgement="low"),
        measured("esm2_loss", "cpu0", None),
        measured("theirs", second, 3.0, test="tests/test_theirs.py::test_theirs"),
    ]
    found = made(capsys, write(healthy, tmp_path, "node1"))
    number = {"host": "node1", "measurement": "matmul_bf16"}
    assert found[key("measurement", **number, device="gpu0", unit="TFLOP/s")] == 700.5
    assert found[key("measurement", **number, device="gpu1", unit="TFLOP/s")] == 420.25
    assert found[key("measurement_ruler", **number, device="gpu0", ruler="bound")] == 989.4
    assert found[key("measurement_ruler", **number, device="gpu0", ruler="reference")] == 720.0
    assert len(labels_of(found, "measurement")) == 2
    assert found[key("node_measurements", host="node1", judgement="low")] == 1
    assert found[key("node_measurements", host="node1", judgement="untrusted")] == 0


def test_a_run_that_was_killed_is_not_ready_and_named_by_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pytest_bionemo.document import now, unfinished, with_verdict
    from pytest_bionemo.options import Options
    from pytest_bionemo.verdict import fold

    report = unfinished(Options(True, "quick", "cuda", "install", "report.json", 60.0, None), now())
    tmp_path.joinpath("node7.json").write_text(json.dumps(with_verdict(report, fold(report))))
    found = made(capsys, tmp_path)
    assert found[key("node_verdict", host="node7", verdict="INCONCLUSIVE")] == 1
    assert found[key("node_ready", host="node7")] == 0


def test_of_two_reports_of_a_node_the_newest_counts_whatever_the_order(
    healthy: Json, sick: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    old = write(sick, tmp_path / "a", "node1", started="2026-11-21T08:00:00+00:00")
    new = write(healthy, tmp_path / "b", "node1", started="2026-11-22T08:00:00+00:00")
    found = made(capsys, old, new)
    assert found == made(capsys, new, old)
    assert found[key("node_ready", host="node1")] == 1
    assert found[key("reports")] == 2
    assert len(labels_of(found, "node_verdict")) == 1


# ---- the fleet


def folded(folder: Path, *arguments: str) -> Path:
    """The fleet document of the reports in a folder, beside it."""
    path = folder.with_suffix(".fleet.json")
    command.main([str(folder), "--json", str(path), *arguments])
    return path


def test_the_fleet_names_its_nodes_and_what_is_missing(
    healthy: Json, sick: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / "reports").mkdir()
    for host in ("node1", "node2", "node4"):
        write(healthy, folder, host)
    write(sick, folder, "node3")
    drifted = copy.deepcopy(healthy)
    drifted["bionemo"]["environment"]["driver"] = "535.1"
    write(drifted, folder, "node4")
    (folder / "node5.json").write_text("{")
    fleet = folded(folder, "--expect", "node[1-6]")
    capsys.readouterr()
    found = made(capsys, fleet)
    assert found[key("fleet_ready")] == 0
    assert found[key("fleet_verdict", verdict="BLOCKED")] == 1
    assert found[key("fleet_nodes", verdict="READY_FOR_INSTALL")] == 3
    assert found[key("fleet_nodes", verdict="BLOCKED")] == 1
    assert found[key("fleet_unreadable_reports")] == 1
    assert found[key("fleet_missing_nodes")] == 2
    assert found[key("fleet_drift_nodes", fact="driver")] == 1
    assert found[key("node_action", host="node3", action="REBOOT_NODE")] == 1
    assert found[key("node_status", host="node3", status="failing")] == 1
    assert found[key("node_status", host="node1", status="passing")] == 1
    missing = {labels["host"]: found[key("node_missing", **labels)] for labels in labels_of(found, "node_missing")}
    assert missing == {"node1": 0, "node2": 0, "node3": 0, "node4": 0, "node5": 1, "node6": 1}

    # With the reports beside it: each series once, and the numbers of each node too.
    both = made(capsys, fleet, folder, status=1)
    assert found.items() <= {**both, key("reports"): 1, key("reports_unreadable"): 0}.items()
    assert both[key("node_gpus", host="node2")] == 8
    # A node that has reported since, and one that was mended since.
    write(healthy, folder, "node6", started="2999-01-01T00:00:00+00:00")
    write(healthy, folder, "node3", started="2999-01-01T00:00:00+00:00")
    later = made(capsys, fleet, folder, status=1)
    assert later[key("node_missing", host="node6")] == 0
    assert [labels["verdict"] for labels in labels_of(later, "node_verdict", host="node3")] == ["READY_FOR_INSTALL"]
    # What was known before the fleet was folded changes nothing of what it says.
    write(healthy, folder, "node3", started="2020-01-01T00:00:00+00:00")
    earlier = made(capsys, fleet, folder, status=1)
    assert [labels["verdict"] for labels in labels_of(earlier, "node_verdict", host="node3")] == ["BLOCKED"]
    assert key("node_gpus", host="node3") not in earlier


def test_of_two_folds_of_one_run_the_later_counts(
    healthy: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / "reports").mkdir()
    write(healthy, folder, "node1")
    document = json.loads(folded(folder).read_text())
    document["nodes"][0] |= {"status": "failing", "blamed_by": ["node2"], "action": "REBOOT_NODE"}
    document["created"] = "2999-01-01T00:00:00+00:00"
    (later := tmp_path / "later.json").write_text(json.dumps(document))
    capsys.readouterr()
    for paths in itertools.permutations([folded(folder), later]):
        capsys.readouterr()
        found = made(capsys, *paths)
        assert labels_of(found, "node_status") == [{"host": "node1", "status": "failing"}]


def as_file(document: Json, path: Path) -> Path:
    """The document of a fleet in this file."""
    path.write_text(json.dumps(document))
    return path


def blamers() -> list[Json]:
    """The reports of three nodes that miss the fourth one of their job."""
    return [blaming(f"node{number}", "node4", job=job("9", number - 1)) for number in (1, 2, 3)]


def of_node(found: Series, host: str, name: str, label: str) -> list[str]:
    """What a family says of a host in one label."""
    return [labels[label] for labels in labels_of(found, f"node_{name}", host=host)]


def test_a_node_that_is_blamed_and_has_not_reported_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = made(capsys, as_file(fleets.fleet(*blamers()), tmp_path / "fleet.json"))
    assert found[key("node_missing", host="node4")] == found[key("fleet_missing_nodes")] == 1
    assert found[key("node_missing", host="node1")] == 0
    assert found[key("node_ready", host="node4")] == 0
    assert found[key("node_blamed_by", host="node4")] == 3
    assert found[key("node_action", host="node4", action="REBOOT_NODE")] == 1


@pytest.mark.parametrize(
    ("age", "action", "status"),
    [
        pytest.param(HOUR, "REBOOT_NODE", ["failing"], id="of the same run"),
        pytest.param(MINUTE, "REBOOT_NODE", ["failing"], id="of a run that began before the fold"),
        pytest.param(-MINUTE, "NONE", [], id="of a run after the fold"),
    ],
)
def test_what_others_blame_a_node_for_holds_beside_its_own_report_until_it_is_validated_again(
    age: float, action: str, status: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = fleets.fleet(*blamers(), report("node4", job=job("9", 3)))
    paths = save(tmp_path, *blamers(), report("node4", age=age, job=job("9", 3)))
    found = made(capsys, as_file(document, tmp_path / "fleet.json"), *paths)
    assert of_node(found, "node4", "action", "action") == [action]
    assert of_node(found, "node4", "status", "status") == status
    assert of_node(found, "node4", "verdict", "verdict") == ["READY"]
    # No run of the node alone refutes what the others saw.
    assert found[key("node_blamed_by", host="node4")] == 3
    assert found[key("node_gpus", host="node4")] == 1
    assert found[key("node_findings", host="node1", severity="blocker")] == 1


@pytest.mark.parametrize(("said", "holds"), [("REPLACE_NODE", "REPLACE_NODE"), ("FREE_GPU", "REBOOT_NODE")])
def test_of_two_actions_for_a_node_the_stronger_holds(
    said: str, holds: str, sick: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(sick, tmp_path, "node1")
    document = fleets.fleet(json.loads(path.read_text()))
    document["nodes"][0]["action"] = said
    found = made(capsys, as_file(document, tmp_path / "fleet.json"), path)
    assert of_node(found, "node1", "action", "action") == [holds]


def test_a_clock_that_is_ahead_does_not_outdate_what_the_fleet_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ahead = report("node1", age=-2 * HOUR)
    found = made(capsys, as_file(fleets.fleet(ahead), tmp_path / "fleet.json"), *save(tmp_path, ahead))
    assert of_node(found, "node1", "status", "status") == ["unknown"]
    assert found[key("node_gpus", host="node1")] == 1


def test_a_report_that_came_after_the_first_fold_is_there_after_the_second(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [report(f"node{number}", age=2 * HOUR, job=job("9", number - 1)) for number in (1, 2, 3, 4)]
    paths = [
        as_file(fleets.fleet(*nodes[:3]), tmp_path / "first.json"),
        as_file(fleets.fleet(*nodes, now=NOW + MINUTE), tmp_path / "second.json"),
        *save(tmp_path / "reports", nodes[3]),
    ]
    assert made(capsys, paths[0])[key("node_missing", host="node4")] == 1
    for order in itertools.permutations(paths):
        found = made(capsys, *order)
        assert found[key("node_missing", host="node4")] == found[key("fleet_missing_nodes")] == 0
        assert of_node(found, "node4", "verdict", "verdict") == ["READY"]
        assert of_node(found, "node4", "status", "status") == ["passing"]
        assert found[key("node_gpus", host="node4")] == 1


def test_a_healthy_fleet_is_ready(healthy: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder := tmp_path / "reports").mkdir()
    for host in ("node1", "node2"):
        write(healthy, folder, host)
    fleet = folded(folder, "--expect", "node[1-2]")
    capsys.readouterr()
    found = made(capsys, fleet)
    assert found[key("fleet_ready")] == 1
    assert found[key("fleet_nodes_by_status", status="passing")] == 2
    assert sum(found[key("node_missing", host=host)] for host in ("node1", "node2")) == 0


def test_a_straggler_is_named_with_the_speed_that_it_lacks(
    healthy: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / "reports").mkdir()
    gpus = healthy["bionemo"]["gpus"]
    for node in range(8):
        for gpu in gpus:
            gpu["uuid"] = f"{gpu['uuid'][:-2]}{node:02}"
        speeds = [700.0 + number + node / 8 for number in range(8)]
        if node == 5:
            speeds[2] = 350.0
        healthy["bionemo"]["measurements"] = [
            measured("matmul_bf16", gpu["uuid"], speed) for gpu, speed in zip(gpus, speeds, strict=True)
        ]
        write(healthy, folder, f"node{node}")
    slow = f"{gpus[2]['uuid'][:-2]}05"
    fleet = folded(folder)
    capsys.readouterr()
    found = made(capsys, fleet)
    assert labels_of(found, "straggler_effect") == [{"host": "node5", "device": slow, "measurement": "matmul_bf16"}]
    effect = found[key("straggler_effect", host="node5", device=slow, measurement="matmul_bf16")]
    assert effect == pytest.approx(0.5, abs=0.01)
    assert found[key("fleet_stragglers")] == 1


# ---- how many there can be


def test_a_fleet_of_ten_thousand_nodes_has_ten_series_a_node(
    healthy: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / "reports").mkdir()
    write(healthy, folder, "node0")
    path = folded(folder)
    document = json.loads(path.read_text())
    (one,) = document["nodes"]
    document["nodes"] = [{**one, "host": f"node{number}"} for number in range(10_000)]
    path.write_text(json.dumps(document))
    capsys.readouterr()
    assert metrics.export([str(path)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert "bionemo_series_left_out 0.0" in lines
    assert 5 * 10_000 < len(lines) <= 10 * 10_000 + 100


def flood(report: Json, numbers: int) -> Json:
    """So many measurements, each by a name of its own."""
    uuid = report["bionemo"]["gpus"][0]["uuid"]
    report["bionemo"]["measurements"] = [measured(f"number_{i}", uuid, float(i), bound=1e9) for i in range(numbers)]
    return report


def test_a_report_without_end_gives_a_bounded_number_of_series(
    healthy: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = made(capsys, write(flood(healthy, 5000), tmp_path, "node1"))
    assert len(labels_of(found, "measurement")) == series.MEASUREMENTS_AT_MOST
    assert found[key("series_left_out")] == 5000 - series.MEASUREMENTS_AT_MOST


def test_where_there_is_no_room_the_least_important_families_go_whole(
    healthy: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flood(healthy, 100)
    for number in range(40):
        write(healthy, tmp_path, f"node{number}")
    everything = made(capsys, tmp_path)
    assert everything[key("series_left_out")] == 0
    found = made(capsys, tmp_path, room=1000)
    counted = {family: sum(name == family for name, _ in found) for family in series.FAMILIES}
    assert len(found) <= 1000 + 3
    assert found[key("series_left_out")] == len(everything) - len(found)
    # Whole or not at all, the verdicts to the last.
    assert (counted["bionemo_node_verdict"], counted["bionemo_node_action"]) == (40, 40)
    assert counted["bionemo_measurement"] == counted["bionemo_measurement_ruler"] == 0
    assert found.items() <= {**everything, key("series_left_out"): found[key("series_left_out")]}.items()


# ---- bad input

DAMAGE: dict[str, Callable[[Json], object]] = {
    "a host that is markup": lambda report: report["bionemo"]["environment"].update(hostname="<b>\x1b[31m"),
    "a host that is a path": lambda report: report["bionemo"]["environment"].update(hostname="../../etc/passwd"),
    "another version": lambda report: report["bionemo"].update(schema_version=99),
    "no start": lambda report: report["bionemo"].pop("started"),
    "no checks": lambda report: report["bionemo"].pop("checks"),
    "measurements that are none": lambda report: report["bionemo"].update(measurements=[1]),
    "GPUs that are none": lambda report: report["bionemo"].update(gpus=3),
    "another program's": lambda report: report.pop("bionemo"),
}


def test_what_cannot_be_read_is_named_one_by_one_and_the_others_are_there(
    healthy: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(healthy, tmp_path, "node1")
    for number, damage in enumerate(DAMAGE.values()):
        damaged = copy.deepcopy(healthy)
        damage(damaged)
        (tmp_path / f"bad{number}.json").write_text(json.dumps(damaged))
    for name, text in (("empty", ""), ("cut", json.dumps(healthy)[:5000]), ("list", "[]"), ("deep", "[" * 100_000)):
        (tmp_path / f"{name}.json").write_text(text)
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "huge.json").touch()
    os.truncate(tmp_path / "huge.json", 2**40)
    out = tmp_path / "bionemo.prom"
    assert metrics.export([str(tmp_path)], str(out)) == 1
    lines = capsys.readouterr().err.splitlines()
    names = sorted(path.stem for path in tmp_path.glob("*.json") if path.stem != "node1")
    assert sorted(line.removeprefix(f"unreadable: {tmp_path}/").partition(".json: ")[0] for line in lines) == names
    assert all(line.isprintable() for line in lines)
    found = read_as_openmetrics(out.read_text())
    assert found[key("reports_unreadable")] == len(names)
    assert [labels["host"] for labels in labels_of(found, "node_verdict")] == ["node1"]


def test_the_name_of_a_file_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "\x1b]0;owned\x07\x1b[31m\u202e.json").write_text("x")
    assert metrics.export([str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"unreadable: {tmp_path}/\\x1b]0;owned\\x07\\x1b[31m\\u202e.json: is no JSON")
    assert line.isprintable()


JUNK: list[Any] = [
    None,
    True,
    -1,
    1e308,
    float("nan"),
    "",
    "x" * 5000,
    "\ud800",
    '\n"\\',
    [],
    {},
    [[]],
    10**400,
    "2026-13-45",
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterable[tuple[Any, ...]]:
    """The path to everything in a document."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for name in keys:
        yield (*path, name)
        yield from places(value[name], (*path, name))


def test_a_damaged_fleet_document_is_read_or_named_and_never_makes_a_fleet_ready(
    healthy: Json, sick: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / "reports").mkdir()
    write(healthy, folder, "node1")
    write(sick, folder, "node2")
    path = folded(folder, "--expect", "node[1-3]")
    document = json.loads(path.read_text())
    chance = random.Random(7)
    statuses = Counter[int]()
    capsys.readouterr()
    for place in chance.choices(sorted(places(document), key=str), k=100):
        damaged = copy.deepcopy(document)
        parent = damaged
        for name in place[:-1]:
            parent = parent[name]
        parent[place[-1]] = chance.choice(JUNK)
        path.write_text(json.dumps(damaged))
        status = metrics.export([str(path)])
        out, error = capsys.readouterr()
        assert error.count("\n") == status, place
        assert read_as_openmetrics(out).get(key("fleet_ready"), 0) == 0, place
        statuses[status] += 1
    assert min(statuses[0], statuses[1]) > 10


def test_hostile_text_stays_one_label_on_one_line(
    healthy: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = 'a"b\\c\n{x="y"} 1\n\x1b]0;title\x07\ud800\u2028' + "z" * 10_000
    healthy["bionemo"]["environment"].update(driver=hostile, torch=hostile)
    healthy["bionemo"]["measurements"] = [measured("x", hostile, 1.0, unit=hostile)]
    found = made(capsys, write(healthy, tmp_path, "node1"))
    (labels,) = labels_of(found, "node_software")
    assert labels["driver"].startswith('a"b\\c?{x="y"} 1?]0;title?zzz')
    assert len(labels["driver"]) == 120
    assert labels_of(found, "measurement")[0]["unit"] == labels["driver"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: PATH"),
        (["no/such"], "no/such: No such file or directory"),
        (["r.json", "--series", "0"], "'0' is not a number of samples from 1 to 100000000"),
        (["r.json", "--series", "many"], "'many' is not a number of samples"),
        (["r.json", "-o", "no/such/x.prom"], "no/such/x.prom: No such file or directory. Choose another -o."),
        (["r.json", "-o", "folder"], "folder: it is no regular file. Choose another -o."),
        (["r.json", "-o", "/dev/null"], "/dev/null: it is no regular file. Choose another -o."),
        (["r.json", "--timeout", "0"], "'0' is no number of seconds above 0"),
        (["r.json", "--colour"], "unrecognized arguments: --colour"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_usage_error_is_one_line(
    arguments: list[str], said: str, healthy: Json, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "r.json").write_text(json.dumps(healthy))
    try:
        status = metrics.main(arguments)
    except SystemExit as exit:
        status = int(exit.code or 0)
    out, error = capsys.readouterr()
    assert (status, out) == (4, "")
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "r.json"]


def test_without_the_library_the_command_says_what_to_install(rig: Rig, healthy: Json) -> None:
    write(healthy, rig.project, "node1")
    run = rig.run("-m", "pytest_bionemo", "metrics", "node1.json")
    assert (run.returncode, run.stdout) == (4, "")
    assert run.stderr == "error: No module named 'prometheus_client'. $ pip install 'pytest-bionemo[fleet]'\n"


# ---- the file


def test_a_file_is_replaced_at_once_and_the_collector_can_read_it(healthy: Json, tmp_path: Path) -> None:
    report, out = write(healthy, tmp_path, "node1"), tmp_path / "bionemo.prom"
    out.write_text("yesterday's\n")
    before = os.umask(0o022)
    try:
        with out.open() as reader:
            assert metrics.export([str(report)], str(out)) == 0
            assert reader.read() == "yesterday's\n"
    finally:
        os.umask(before)
    assert out.read_text().endswith("# EOF\n")
    # node_exporter is another user.
    assert stat.S_IMODE(out.stat().st_mode) == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bionemo.prom", "node1.json"]


def test_a_standard_output_that_is_full_is_named_and_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    save(tmp_path, *(report(f"node{number}") for number in range(200)))
    command = f"{sys.executable} -m pytest_bionemo metrics {tmp_path}"
    full = subprocess.run(["bash", "-c", f"{command} > /dev/full"], capture_output=True, text=True, check=False)
    said = "error: the standard output: No space left on device. Choose another -o.\n"
    assert (full.returncode, full.stderr) == (4, said)
    command = f"set -o pipefail; {command} | read -n 5"
    enough = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (enough.returncode, enough.stderr) == (0, "")


def test_promtool_has_nothing_to_say_about_the_names(healthy: Json, tmp_path: Path) -> None:
    promtool = program("promtool")
    flood(healthy, 3)
    metrics.export([str(write(healthy, tmp_path, "node1"))], str(tmp_path / "x.prom"))
    done = subprocess.run(
        [promtool, "check", "metrics"], input=(tmp_path / "x.prom").read_bytes(), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
