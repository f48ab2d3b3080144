"""The page of a fleet in a real browser: at 4, 64 and 1,000 nodes, with and without script, and by its document."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from browser import WIDTHS, Browser, axe
from browser import browser as browser
from fleets import HOUR, blaming, command, fleet, report, save
from pytest_bionemo.fleet.command import main
from pytest_bionemo.page.fleet import fleet_page
from pytest_bionemo.page.todo import blocks_of, finding_of
from pytest_bionemo.verdict import ReportError
from varied_fleet import TOPICS, document_of

Json = dict[str, Any]
MB = 1_000_000
_ROWS = "#all-nodes tbody tr"
_SHOWN = "all => all.filter(row => row.offsetParent !== null).map(row => row.cells[0].textContent.trim())"


_SPREAD = {
    "measurement": "m",
    "unit": "s",
    "model": "x",
    "values": 9,
    "median": 1.0,
    "spread": 0.1,
    "detectable": 0.2,
}


@pytest.fixture(scope="module")
def many() -> Json:
    """A fleet of 64 nodes of which everything is shown."""
    return document_of(64)


def test_a_page_of_64_nodes_fits_everywhere_and_can_be_read_by_everybody(browser: Browser, many: Json) -> None:
    with browser.look(fleet_page(many)) as page:
        assert page.title() == "fleet of 64 nodes: BLOCKED"
        assert page.locator("h1").count() == 1
        assert page.inner_text(".tally").split("\n") == ["5 failing", "5 unknown", "1 missing", "53 passing"]
        # One row for each node, and one for the one that is missing, those that fail first.
        shown = page.eval_on_selector_all(_ROWS, _SHOWN)
        assert len(shown) == 64
        assert shown[:5] == ["gpu0002", "gpu0031", "gpu0041", "gpu0051", "gpu0062"]
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        browser.expect_fit(page)
        axe(page)
        for pixels in WIDTHS:
            with browser.look(fleet_page(many), pixels, dark=True):
                pass


def test_what_to_do_stands_first_by_action_with_its_nodes_and_commands(browser: Browser, many: Json) -> None:
    with browser.look(fleet_page(many)) as page:
        blocks = page.eval_on_selector_all(
            ".block", "all => all.map(one => [one.querySelector('h3').innerText.trim(), one.innerText])"
        )
        said = dict(blocks)
        assert list(said) == [
            "Replace 1 node", "Reboot 1 node", "Reset a GPU of 1 node", "Fix the software of 2 nodes",
            "Find out about 5 nodes", "Look for 1 node without a report", "Mend when there is time: 1 warning",
        ]  # fmt: skip
        assert "gpu0031" in said["Replace 1 node"]
        assert "blamed by gpu[0006-0007,0009]" in said["Reboot 1 node"]
        assert "its run did not end gpu0008" in said["Find out about 5 nodes"]
        assert "rank 50 did not arrive" in said["Find out about 5 nodes"]
        assert "no driver answers" not in said["Find out about 5 nodes"]
        commands = page.eval_on_selector_all("#do-fix-software pre", "all => all.map(one => one.textContent)")
        assert commands == ["gpu[0002,0062]", "sudo modprobe nvidia", "sudo apt-get install nvidia-open-580"]
        lists = page.eval_on_selector_all("#lists pre", "all => all.map(one => one.textContent)")
        assert lists[0] == f"--exclude={many['exclude']}"
        assert lists[2].splitlines() == many["hyperpod"]
        # Everything that can be pasted can be copied by one press.
        assert page.locator(".cmd").count() == page.locator(".cmd > button").count() > 10
        page.click("#do-fix-software .copy >> nth=0")
        page.wait_for_function("document.getElementById('told').textContent !== ''")


def test_the_nodes_are_sorted_by_what_is_worse_and_narrowed_by_words_and_by_status(
    browser: Browser, many: Json
) -> None:
    with browser.look(fleet_page(many)) as page:
        driver = page.locator("#all-nodes thead th", has_text="driver").locator("button")
        driver.click()
        failing = page.eval_on_selector_all("#all-nodes tbody.failing tr", _SHOWN)
        assert failing[:2] == ["gpu0002", "gpu0062"]
        driver.click()
        assert page.eval_on_selector_all("#all-nodes tbody.failing tr", _SHOWN)[-2:] == ["gpu0002", "gpu0062"]
        page.fill(".filter input", "did not run end")
        assert page.eval_on_selector_all(_ROWS, _SHOWN) == ["gpu0008"]
        page.fill(".filter input", "")
        page.uncheck("#show-passing")
        assert len(page.eval_on_selector_all(_ROWS, _SHOWN)) == 11
        page.keyboard.press("Space")  # the box has the focus
        assert len(page.eval_on_selector_all(_ROWS, _SHOWN)) == 64


def test_without_script_and_without_style_nothing_is_lost(browser: Browser, many: Json) -> None:
    html = re.sub(r"<script>.*?</script>", "", fleet_page(many), flags=re.DOTALL)
    with browser.look(html) as page:
        row = page.eval_on_selector(f"{_ROWS}", "row => [...row.cells].map(cell => cell.textContent.trim())")
        assert row[:4] == ["gpu0002", "failing", "BLOCKED", "FIX SOFTWARE"]
        words = dict(zip(TOPICS, row[4:], strict=False))
        assert {words["driver"], words["host"], words["torch"], words["packages"]} == {"blocked", "ok", "gap", "none"}
        assert row[4 + len(TOPICS)] == "driver::loads: no driver answers: NVML Shared Library Not Found"
        page.uncheck("#show-passing")  # style alone
        assert len(page.eval_on_selector_all(_ROWS, _SHOWN)) == 11
        page.click("#lists summary")
        assert page.locator("#lists .lines").inner_text().count("HEALTH_CHECK_RESULT") == 64


def test_stragglers_drift_and_odd_reports_are_told_with_their_numbers(browser: Browser, many: Json) -> None:
    with browser.look(fleet_page(many)) as page:
        slow = page.inner_text("#slow tbody >> nth=0")
        assert re.search(
            r"gpu0018\s+GPU-0017-2\s+memory_read\s+14\.\d%\s+2\.6\d+ TB/s\s+3\.05\d TB/s\s+99\.99%", slow
        )
        drift = page.inner_text("#drift tbody")
        assert "580.95.05 on 61" in drift
        assert "570.133.20 on gpu0022" in drift
        reports = page.inner_text("#reports")
        assert "reports/core.1234.json" in reports
        assert "copies/gpu0010.json reports/gpu0010.json" in " ".join(reports.split())
        assert "job-4650/gpu0011.json" in reports


def test_a_thousand_nodes_are_one_small_page_that_scrolls(browser: Browser) -> None:
    html = fleet_page(document_of(1000))
    assert len(html.encode()) < MB
    with browser.look(html, 1920) as page:
        assert page.locator(_ROWS).count() == 1000
        page.evaluate("document.querySelector('.tall').scrollTop = 1e6")
        # The names of the columns and of the nodes stay where they are.
        head, edge = page.eval_on_selector_all(
            "#all-nodes thead th:first-child, .tall", "all => all.map(one => one.getBoundingClientRect().top)"
        )[::-1]
        assert abs(head - edge) < 4
        page.fill(".filter input", "gpu099")
        assert len(page.eval_on_selector_all(_ROWS, _SHOWN)) == 10


@pytest.mark.parametrize(
    ("made", "verdict", "said"),
    [
        (lambda: fleet(report("node1"), report("node2")), "READY", "at level quick: no GPU kernel was run."),
        (lambda: fleet(report("node1", "install")), "READY FOR INSTALL", "Every check passed on every node"),
        (lambda: fleet(report("node1"), report("node2", age=9 * HOUR), max_age_s=HOUR), "INCONCLUSIVE", "9 h old"),
        (lambda: fleet(), "INCONCLUSIVE", "no report"),
        (lambda: fleet(report("node1"), unreadable=[("x", "is empty")]), "INCONCLUSIVE", "1 report cannot be read"),
        (lambda: fleet(blaming("node1", "node2"), hosts=("node1", "node2")), "BLOCKED", "it has no report"),
    ],
    ids=["ready", "install", "old", "empty", "unreadable", "blamed"],
)  # fmt: skip
def test_every_verdict_has_its_page(browser: Browser, made: Callable[[], Json], verdict: str, said: str) -> None:
    with browser.look(fleet_page(made()), 360) as page:
        assert page.inner_text("h1 .word") == verdict
        main = page.inner_text("main")
        assert said in main
        assert ("Nothing: every node has passed." in main) is verdict.startswith("READY")
        if verdict == "READY":
            axe(page)


# ---- the command


def test_the_command_writes_the_page_that_the_document_makes(tmp_path: Path) -> None:
    save(tmp_path / "r", report("node1"), report("node2", "blocked"))
    status, out, err = command(tmp_path / "r", "--html", tmp_path / "f.html", "--json", tmp_path / "f.json")
    assert (status, err) == (1, "")
    assert "FAILING   node2" in out
    document = json.loads((tmp_path / "f.json").read_text())
    assert (tmp_path / "f.html").read_text() == fleet_page(document) + "\n"
    (finding,) = (one for one in document["findings"] if one["outcome"] == "BLOCKED")
    assert finding["hosts"] == ["node2"]
    assert (finding["check"], finding["fix"]) == ("bionemo/driver::loads", ["no driver", "then: $ no driver"])
    assert document["nodes"][1]["sections"]["driver"] == "BLOCKED"


def test_a_page_that_cannot_be_made_is_one_line_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "r", report("node1"))
    same = str(tmp_path / "x")
    for other in ("--json", "--lists"):
        assert main([str(tmp_path / "r"), "--html", same, other, str(tmp_path / "r" / ".." / "x")]) == 4
        assert "Choose different names" in capsys.readouterr().err
    assert main([str(tmp_path / "r"), "--html", str(tmp_path / "no" / "x.html")]) == 4
    assert "cannot be written" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main([str(tmp_path / "nowhere"), "--html", same]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert 'python -m pip install "pytest-bionemo[html]"' in err


# ---- what is no document of a fleet


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tool": "another"}, "no document of python -m pytest_bionemo fleet"),
        ({"schema_version": 2}, "schema version is 2, and this pytest-bionemo reads 1"),
        ({"schema_version": None}, "schema version is None"),
        ({"verdict": "FINE"}, "damaged"),
        ({"verdict": "READY"}, "contradicts itself: it says READY and shows no proof"),
        ({"nodes": None}, "damaged"),
        ({"nodes": [None]}, "damaged"),
        ({"nodes": [{"host": "node1"}]}, "damaged"),
        ({"findings": {"a": 1}}, "damaged"),
        ({"missing": ["$(reboot)"]}, r"'\$\(reboot\)' is no name of a host"),
        ({"exclude": "node[1-99999999]"}, "damaged"),
        ({"exclude": "$(reboot)"}, "damaged"),
        ({"exclude": "another"}, "exclude list names hosts that it does not know"),
        ({"exclude": "gpu0001"}, "contradicts itself: its exclude list lacks gpu0002"),
        ({"drift": [{}]}, "damaged"),
        ({"hyperpod": 3}, "damaged"),
        ({"spreads": [{**_SPREAD, "values": 10**5000}]}, "damaged"),
    ],
)
def test_what_is_no_document_of_a_fleet_is_one_line_and_no_page(many: Json, change: Json, said: str) -> None:
    with pytest.raises(ReportError, match=said) as caught:
        fleet_page({**many, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "BLOCKED"},
        {"verdict": "INCONCLUSIVE"},
        {"verdict": None},
        {"device": "cpu"},
        {"reasons": ["its run did not end"]},
        {"blamed_by": ["node2"]},
        {"sections": {"driver": "BLOCKED"}},
        {"sections": {"driver": "ERROR"}},
    ],
)
@pytest.mark.parametrize("others", [("ready",), ("blocked",)], ids=["fleet ready", "fleet blocked"])
def test_a_node_that_is_called_passing_has_to_show_it(change: Json, others: tuple[str, ...]) -> None:
    document = fleet(report("node1"), *(report(f"node{number}", kind) for number, kind in enumerate(others, 2)))
    document["nodes"][0] |= change
    with pytest.raises(ReportError, match="it says that node1 is passing, and shows that it is not"):
        fleet_page(document)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unreadable": [{"path": "x", "why": "is empty"}]}, "it says READY and shows no proof"),
        ({"doubts": ["no report"]}, "it says READY and shows no proof"),
        ({"missing": ["node3"], "exclude": "node3"}, "it says READY and shows no proof"),
        ({"nodes": []}, "it says READY and shows no proof"),
        ({"nodes": fleet(report("node1", "install"))["nodes"]}, "it says READY and shows no proof"),
        ({"nodes": fleet(report("node1"))["nodes"] * 2}, "it has a node twice"),
        ({"findings": fleet(report("node1", "blocked"))["findings"]}, "node1 is passing, and shows that it is not"),
        ({"findings": fleet(report("node9", "blocked"))["findings"]}, "its findings are of hosts that it does not"),
    ],
)
def test_a_fleet_that_is_called_ready_has_to_show_it(change: Json, said: str) -> None:
    document = fleet(report("node1"))
    assert "READY" in fleet_page(document)
    with pytest.raises(ReportError, match=said):
        fleet_page({**document, **change})


def test_the_level_of_a_fleet_is_that_of_its_nodes() -> None:
    assert "at level quick: no GPU kernel was run." in fleet_page({**fleet(report("node1")), "levels": {"full": 1}})


def test_what_a_page_of_a_fleet_has_no_room_for_is_counted(many: Json) -> None:
    entry = next(one for one in many["findings"] if one["outcome"] == "BLOCKED")
    lists: dict[str, list[Any]] = {
        "findings": [{**entry, "check": f"bionemo/x::c{number}"} for number in range(510)],
        "unreadable": [{"path": f"p{number}", "why": "is empty"} for number in range(520)],
        "outdated": [{"host": "node1", "path": f"p{number}", "job": None} for number in range(530)],
        "duplicates": [{"host": "node1", "paths": [f"p{number}"]} for number in range(540)],
        "spreads": many["spreads"][:1] * 550,
        "stragglers": many["stragglers"][:1] * 560,
        "drift": many["drift"][:1] * 570,
        "doubts": [f"doubt {number}" for number in range(580)],
    }
    html = fleet_page({**many, **lists})
    said = [int(number) for number in re.findall(r"And (\d+) more: the JSON document has them all\.", html)]
    assert said == [80, 10, 10, 60, 50, 70, 20, 40, 30]
    assert {*re.findall('href="#(finding-[0-9]+)"', html)} == {f"finding-{number}" for number in range(500)}


def test_a_reason_that_no_finding_tells_is_told_beside_those_that_do() -> None:
    document = fleet(report("node1", "gap"), report("node2", "gap"))
    (entry,) = document["findings"]
    document["findings"] = [{**entry, "hosts": ["node1"]}]  # as where a node has more of them than are kept
    document["nodes"][0]["reasons"] = ["bionemo/driver::loads[gpu0]: it was deselected", "and 3 more"]
    document["nodes"][1]["reasons"] = ["bionemo/driver::loads: it was deselected", "and 4 more"]
    (block,) = blocks_of(document, [finding_of(0, document["findings"][0])])
    assert block.reasons == [("bionemo/driver::loads: it was deselected", "node2"), ("and 4 more", "node2")]


def test_a_document_without_what_came_later_still_has_a_page(many: Json) -> None:
    early = {name: value for name, value in many.items() if name not in ("findings", "spreads", "outdated")}
    early["nodes"] = [{name: value for name, value in node.items() if name != "sections"} for node in many["nodes"]]
    html = fleet_page(early)
    assert "gpu0031" in html
    assert "Replace 1 node" in html
