"""examples/monitoring, in a real Prometheus that reads the metrics through a real node_exporter and over HTTP."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from ports import free_ports
from programs import program, running
from pytest_bionemo import metrics
from pytest_bionemo.fleet import command
from pytest_bionemo.series import FAMILIES
from test_metrics import measured, two_reports, write

__all__ = ["two_reports"]

Json = dict[str, Any]
EXAMPLES = Path(__file__).parents[1] / "examples" / "monitoring"
DASHBOARD = json.loads((EXAMPLES / "dashboard.json").read_text())
RULES = yaml.safe_load((EXAMPLES / "alerts.yml").read_text())
DEADLINE_S = 60.0
# How Prometheus must have read it over HTTP: as OpenMetrics, which it asks for.
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
CHANGES = {"scrape_interval: 1m": "scrape_interval: 1s", "evaluation_interval: 1m": "evaluation_interval: 1s"}


# ---- the rules


def rules(kind: str) -> list[Json]:
    """Those that alert, or those that record."""
    return [rule for group in RULES["groups"] for rule in group["rules"] if kind in rule]


@pytest.mark.parametrize(
    "arguments", [("check", "rules", "--lint=all", "alerts.yml"), ("check", "config", "prometheus.yml")]
)
def test_promtool_accepts_the_example(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [program("promtool"), *arguments], cwd=EXAMPLES, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_raised_by_its_fault_and_by_nothing_else() -> None:
    done = subprocess.run(
        [program("promtool"), "test", "rules", "alerts.test.yml"],
        cwd=EXAMPLES, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_alert_is_without_a_test_and_none_asks_for_a_series_that_is_not_written() -> None:
    tests = yaml.safe_load((EXAMPLES / "alerts.test.yml").read_text())["tests"]
    raised = {one["alertname"] for test in tests for one in test.get("alert_rule_test", ()) if one["exp_alerts"]}
    assert {rule["alert"] for rule in rules("alert")} == raised
    for rule in [*rules("alert"), *rules("record")]:
        asked = set(re.findall(r"bionemo_\w+", rule["expr"]))
        assert asked
        assert asked <= set(FAMILIES), rule["expr"]
    recorded = set(re.findall(r"bionemo:\w+", json.dumps([RULES, DASHBOARD])))
    assert recorded == {rule["record"] for rule in rules("record")}


def test_promtool_would_notice_an_alert_that_is_never_raised(tmp_path: Path) -> None:
    for name in ("alerts.yml", "alerts.test.yml"):
        shutil.copy(EXAMPLES / name, tmp_path)
    text = (tmp_path / "alerts.yml").read_text()
    spoilt = text.replace("bionemo:node_outdated) == 1", "bionemo:node_outdated) == 2")
    assert spoilt != text
    (tmp_path / "alerts.yml").write_text(spoilt)
    done = subprocess.run(
        [program("promtool"), "test", "rules", "alerts.test.yml"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "BionemoNodeMissing" in done.stdout + done.stderr


# ---- the panels


def panel(title: str) -> str:
    """What the panel of this title asks."""
    (found,) = (panel for panel in DASHBOARD["panels"] if panel["title"] == title)
    expression: str = found["targets"][0]["expr"]
    return expression


def expect(folder: Path, series: Mapping[str, int], answers: Mapping[str, Mapping[str, int]]) -> None:
    """Have promtool ask what these panels ask, over these series: each has its answer, a value for each label."""
    questions = [
        {
            "expr": panel(title),
            "eval_time": "5m",
            "exp_samples": [{"labels": labels, "value": value} for labels, value in wanted.items()],
        }
        for title, wanted in answers.items()
    ]
    inputs = [{"series": one, "values": f"{value}x10"} for one, value in series.items()]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": questions}
    content = {"rule_files": [str(EXAMPLES / "alerts.yml")], "evaluation_interval": "1m", "tests": [test]}
    (folder / "panels.test.yml").write_text(yaml.safe_dump(content))
    done = subprocess.run(
        [program("promtool"), "test", "rules", "panels.test.yml"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def told(place: str, host: str, started: int, verdict: str, action: str, status: str = "") -> dict[str, int]:
    """What the collector of a place says of a host; the status only if it is that of the fleet."""
    where = f'instance="{place}", host="{host}"'
    of_the_fleet = {f'bionemo_node_status{{{where}, status="{status}"}}': 1} if status else {}
    return {
        f"bionemo_node_started_timestamp_seconds{{{where}}}": started,
        f"bionemo_node_ready{{{where}}}": int(verdict == "READY"),
        f'bionemo_node_verdict{{{where}, verdict="{verdict}"}}': 1,
        f'bionemo_node_action{{{where}, action="{action}"}}': 1,
        f"bionemo_node_missing{{{where}}}": 0,
        **of_the_fleet,
    }


def test_a_report_that_cannot_be_read_is_counted_whoever_found_it(tmp_path: Path) -> None:
    series = {"bionemo_reports_unreadable": 0, "bionemo_fleet_unreadable_reports": 7}
    expect(tmp_path, series, {"Reports that cannot be read": {"{}": 7}})


def test_a_node_that_the_fleet_calls_failing_is_not_counted_as_ready(tmp_path: Path) -> None:
    series = {
        **told("fold", "node1", 100, "READY", "NONE", "passing"),
        **told("node1", "node1", 100, "READY", "NONE"),
        **told("fold", "blamed", 100, "READY", "REBOOT_NODE", "failing"),
        **told("blamed", "blamed", 100, "READY", "NONE"),
        **told("fold", "doubtful", 100, "READY", "NONE", "unknown"),
        # It has a report, which the fold does not have.
        **told("missed", "missed", 100, "READY", "NONE"),
        'bionemo_node_missing{instance="fold", host="missed"}': 1,
        'bionemo_fleet_created_timestamp_seconds{instance="fold"}': 200,
        # The fleet does not know of it.
        **told("node2", "node2", 100, "READY", "NONE"),
    }
    expect(
        tmp_path,
        series,
        {
            "Nodes that are ready": {"{}": 2},
            "Nodes that need hands": {"{}": 1},
            "Nodes that are missing": {"{}": 1},
            "Nodes by verdict": {'{verdict="READY"}': 5},
        },
    )
    expect(tmp_path, told("fold", "node1", 100, "BLOCKED", "NONE", "failing"), {"Nodes that are ready": {"{}": 0}})


def test_of_a_node_in_two_places_that_differ_the_newer_counts(tmp_path: Path) -> None:
    series = {
        **told("fold", "mended", 100, "BLOCKED", "REPLACE_NODE", "failing"),
        **told("mended", "mended", 300, "READY", "NONE"),
        **told("fold", "broken", 100, "READY", "NONE", "passing"),
        **told("broken", "broken", 300, "BLOCKED", "RESET_GPU"),
        'bionemo_node_missing{instance="fold", host="late"}': 1,
        'bionemo_fleet_created_timestamp_seconds{instance="fold"}': 200,
        **told("late", "late", 300, "READY", "NONE"),
        'bionemo_node_failed_check{instance="mended", host="mended", check="a", severity="warning"}': 1,
        'bionemo_node_failed_check{instance="fold", host="mended", check="b", severity="blocker"}': 1,
    }
    expect(
        tmp_path,
        series,
        {
            "Nodes that are ready": {"{}": 2},
            "Nodes that need hands": {"{}": 1},
            "Nodes that are missing": {"{}": 0},
            "Nodes by verdict": {'{verdict="READY"}': 2, '{verdict="BLOCKED"}': 1},
            "Nodes by action": {'{action="RESET_GPU"}': 1},
            "Nodes that are not ready": {'{host="broken", verdict="BLOCKED"}': 1},
            "What has to be done": {'{host="broken", action="RESET_GPU"}': 1},
            "Checks that fail on most nodes": {'{check="a", severity="warning"}': 1},
        },
    )


# ---- in a real Prometheus


class Files(SimpleHTTPRequestHandler):
    """Serves a folder, its metrics as OpenMetrics."""

    extensions_map = {".prom": OPENMETRICS}

    def log_message(self, *args: object) -> None:
        pass


class Prometheus:
    """One that runs; ``ask`` puts a question in PromQL."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/api/v1"

    def get(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def ask(self, expression: str) -> list[Json]:
        found: list[Json] = self.get("query", query=expression)["result"]
        return found

    def wait_for(self, expression: str) -> list[Json]:
        """The answer, as soon as there is one."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            try:
                if found := self.ask(expression):
                    return found
            except OSError:  # it does not listen yet
                pass
            time.sleep(0.2)
        pytest.fail(f"Prometheus has no answer to {expression}")


@pytest.fixture(scope="module")
def site(two_reports: Mapping[str, Json], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Four nodes, of which one is sick and one is missing: their reports, the fleet, the collector and Prometheus.

    It gets all of it twice, as it does where each node has a collector and the fleet has one.
    """
    prometheus, exporter = program("prometheus"), program("prometheus-node-exporter")
    folder = tmp_path_factory.mktemp("site")
    for name in ("reports", "textfiles", "data"):
        (folder / name).mkdir()
    healthy = copy.deepcopy(two_reports["healthy"])
    healthy["bionemo"]["measurements"] = [
        measured("matmul_bf16", gpu["uuid"], 700.0, bound=989.4, reference=720.0, peer_median=700.0, judgement="good")
        for gpu in healthy["bionemo"]["gpus"]
    ]
    for host in ("node1", "node2"):
        write(healthy, folder / "reports", host)
    other = copy.deepcopy(healthy)
    other["bionemo"]["environment"]["driver"] = "535.183.01"
    write(other, folder / "reports", "node2")
    write(two_reports["sick"], folder / "reports", "node3")
    command.main([str(folder / "reports"), "--expect", "node[1-4]", "--json", str(folder / "fleet.json")])
    both = [str(folder / "fleet.json"), str(folder / "reports")]
    assert metrics.export(both, str(folder / "textfiles" / "bionemo.prom")) == 0

    serving = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder / "textfiles")))
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    ports = dict(zip(("exporter", "prometheus"), free_ports(2), strict=True))
    shutil.copy(EXAMPLES / "alerts.yml", folder)
    config = (EXAMPLES / "prometheus.yml").read_text()
    for old, new in {**CHANGES, "localhost:9100": f"127.0.0.1:{ports['exporter']}"}.items():
        assert old in config
        config = config.replace(old, new)
    config += f"""
  - job_name: over_http
    metrics_path: /bionemo.prom
    static_configs:
      - targets: ["127.0.0.1:{serving.server_port}"]
"""
    (folder / "prometheus.yml").write_text(config)
    collector = [
        exporter, "--collector.disable-defaults", "--collector.textfile",
        f"--collector.textfile.directory={folder / 'textfiles'}",
        f"--web.listen-address=127.0.0.1:{ports['exporter']}",
    ]  # fmt: skip
    server = [
        prometheus, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{ports['prometheus']}", "--log.level=warn",
    ]  # fmt: skip
    with running(collector, folder / "exporter.log"), running(server, folder / "prometheus.log"):
        yield Prometheus(ports["prometheus"])
    serving.shutdown()
    serving.server_close()


def series_of(site: Prometheus, job: str) -> dict[frozenset[tuple[str, str]], str]:
    site.wait_for(f'bionemo_reports{{job="{job}"}}')
    found = site.ask(f'{{__name__=~"bionemo_.*", job="{job}"}}')
    return {
        frozenset((name, label) for name, label in one["metric"].items() if name not in ("job", "instance")): one[
            "value"
        ][1]
        for one in found
    }


def test_prometheus_reads_the_same_through_the_collector_and_over_http(site: Prometheus) -> None:
    by_collector, by_http = series_of(site, "node"), series_of(site, "over_http")
    assert by_collector == by_http
    assert len(by_collector) > 100
    assert frozenset({("__name__", "bionemo_node_verdict"), ("host", "node3"), ("verdict", "BLOCKED")}) in by_http
    assert site.ask("node_textfile_scrape_error")[0]["value"][1] == "0"
    targets = site.get("targets")["activeTargets"]
    assert [target["health"] for target in targets] == ["up", "up"]


def test_the_alerts_of_the_sick_and_of_the_missing_node_fire_and_no_other_node_is_named(site: Prometheus) -> None:
    expected = {
        ("BionemoNodeNeedsHands", "node3"),
        ("BionemoNodeBlocked", "node3"),
        ("BionemoNodeMissing", "node4"),
    }
    # for: half an hour, or an hour: promtool tells what becomes of these.
    waiting = {"BionemoFleetNotReady", "BionemoFleetDrift"}
    for name, _ in expected:
        site.wait_for(f'ALERTS{{alertname="{name}", alertstate="firing"}}')
    for name in waiting:
        site.wait_for(f'ALERTS{{alertname="{name}", alertstate="pending"}}')
    alerts = site.get("alerts")["alerts"]
    assert len(alerts) == len(expected) + len(waiting), "once, though all of it arrives twice"
    firing = {(one["labels"]["alertname"], one["labels"].get("host")) for one in alerts if one["state"] == "firing"}
    assert firing == expected
    assert {one["labels"]["alertname"] for one in alerts if one["state"] == "pending"} == waiting


def questions() -> list[tuple[str, str]]:
    """What the panels ask, with a choice for each variable of the dashboard."""
    chosen = {"$host": ".*", "$measurement": "matmul_bf16", "$ruler": "reference"}
    found = []
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in chosen.items():
                expression = expression.replace(name, value)
            found.append((panel["title"], expression))
    return found


def test_every_panel_of_the_dashboard_has_something_to_show(site: Prometheus) -> None:
    series_of(site, "node")
    site.wait_for("ALERTS")
    # The fleet of this test is too small to have a straggler.
    empty = [title for title, asked in questions() if not site.ask(asked)]
    assert empty == ["Stragglers"]
    for variable in DASHBOARD["templating"]["list"]:
        if match := re.fullmatch(r"label_values\((\w+), (\w+)\)", str(variable.get("definition"))):
            assert site.get(f"label/{match[2]}/values", **{"match[]": match[1]}), variable["name"]


def test_the_dashboard_is_whole() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    asked = set(re.findall(r"bionemo_\w+", json.dumps(panels)))
    assert asked <= set(FAMILIES)
    variables = {f"${variable['name']}" for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels)))
    assert {f"${name}" for name in used} == variables


def test_the_page_lists_every_metric_and_every_alert() -> None:
    page = (EXAMPLES.parents[1] / "docs" / "metrics.md").read_text()
    rows = [line.split(" | ")[:2] for line in page.splitlines() if line.startswith("| `bionemo_")]
    assert rows == [[f"| `{name}`", ", ".join(family.labels) or "-"] for name, family in FAMILIES.items()]
    alerts = re.findall(r"^\| (Bionemo\w+) \|", page, flags=re.MULTILINE)
    assert alerts == [rule["alert"] for rule in rules("alert")]
