"""What checks say across the fleet, in its document: each once, with the nodes, and the words of most of them."""

from __future__ import annotations

from typing import Any

from fleets import Json, blaming, fleet, node, report
from pytest_bionemo.fleet.findings import MOST
from pytest_bionemo.fleet.reading import Sharer
from test_verdict import LOADS, declared, found, ran, skipped

SHM, WAITS = "bionemo/host::shared_memory", "bionemo/torch::imports"


def with_tests(host: str, *tests: tuple[Json, Json]) -> Json:
    """The report of a host with these checks and how they ended, beside one that passed."""
    made = report(host)
    made["bionemo"]["checks"] = [declared("bionemo/host::fine"), *(check for check, _ in tests)]
    made["bionemo"]["topics"] = [
        {"name": name, "module": "m", "checks": [], "error": None} for name in ("host", "driver", "torch")
    ]
    made["tests"] = [ran("bionemo/host::fine"), *(test for _, test in tests)]
    return made


def failing(check: str = LOADS, **said: Any) -> tuple[Json, Json]:
    return declared(check), found(check, **said)


def test_a_check_that_fails_on_many_nodes_is_one_entry_with_the_words_of_most() -> None:
    message = {"node1": "no driver", "node2": "driver 470 is too old", "node3": "driver 470 is too old"}
    made = [with_tests(host, failing(message=said, fix=f"$ mend {said}")) for host, said in message.items()]
    (entry,) = fleet(*made, report("node4"))["findings"]
    assert entry == {
        "check": LOADS, "title": "loads holds.", "outcome": "BLOCKED", "action": "FIX_SOFTWARE", "blames": False,
        "hosts": ["node1", "node2", "node3"], "message": "driver 470 is too old",
        "fix": ["$ mend driver 470 is too old"], "example": "node2", "messages": 2,
    }  # fmt: skip


def test_the_worst_and_most_frequent_come_first_and_what_waits_stands_under_its_cause() -> None:
    small = (declared(SHM, severity="warning"), found(SHM, "warned", message="64 MiB", action="NONE"))
    waiting = (declared(WAITS), skipped(WAITS, outcome="not_run", message="no driver", waits_for=LOADS))
    gap = (declared("bionemo/torch::odd"), skipped("bionemo/torch::odd", outcome="not_run", message="deselected"))
    document = fleet(
        with_tests("node1", small, failing(), waiting),
        with_tests("node2", small, gap),
        with_tests("node3", failing(), failing("bionemo/driver::rare", action="REBOOT_NODE")),
    )
    assert [(one["check"], one["outcome"], one["hosts"]) for one in document["findings"]] == [
        (LOADS, "BLOCKED", ["node1", "node3"]),
        ("bionemo/driver::rare", "BLOCKED", ["node3"]),
        ("bionemo/torch::odd", "NOT_RUN", ["node2"]),
        (SHM, "WARNING", ["node1", "node2"]),
    ]
    sections = {one["host"]: one["sections"] for one in document["nodes"]}
    assert sections == {
        "node1": {"host": "WARNING", "driver": "BLOCKED", "torch": "NOT_RUN"},
        "node2": {"host": "WARNING", "driver": "NOT_RUN", "torch": "NOT_RUN"},
        "node3": {"host": "PASSED", "driver": "BLOCKED", "torch": "NOT_RUN"},
    }


def test_the_devices_of_a_check_are_one_and_what_blames_another_node_says_so() -> None:
    two = [failing(f"{LOADS}[gpu{index}]", message=f"GPU {index}") for index in (0, 1)]
    document = fleet(with_tests("node1", *two), blaming("node2", "node3"), report("node3"))
    told = {(one["check"], one["blames"]): (one["hosts"], one["message"]) for one in document["findings"]}
    assert told == {
        (LOADS, False): (["node1"], "GPU 0"),
        (LOADS, True): (["node2"], "rank 3 did not arrive"),
    }


def test_no_report_can_make_the_document_large_and_no_command_is_cut_in_two() -> None:
    many = [failing(f"bionemo/driver::check{number}", message="x" * 10_000) for number in range(2 * MOST)]
    long = failing("bionemo/driver::long", fix=f"short\n$ rm {'y' * 5_000}\n" + "more\n" * 50)
    document = fleet(with_tests("node1", long, *many))
    assert len(document["findings"]) == MOST
    assert max(len(one["message"]) for one in document["findings"]) <= 300
    fix = next(one["fix"] for one in document["findings"] if one["check"].endswith("long"))
    assert fix[:3] == ["short", "the report of the node has the rest", "more"]
    assert len(fix) == 12


def test_what_most_nodes_say_alike_is_kept_once() -> None:
    sharer = Sharer()
    first, second = (sharer.node(node(with_tests(host, failing()))) for host in ("node1", "node2"))
    assert first.sections is second.sections
    assert first.found is second.found
    entries = fleet(first, second)["nodes"]
    assert entries[0]["sections"] is entries[1]["sections"]
