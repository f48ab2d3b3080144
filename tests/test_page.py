"""The page of a node: what it says of reports of stand-in machines, and how it behaves in a real browser."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

import pytest

from browser import WIDTHS, Browser, axe
from browser import browser as browser
from conftest import healthy_and_sick
from pytest_bionemo.page.node import node_page
from pytest_bionemo.verdict import ReportError
from standin import Libraries
from standin.environment import Environment
from test_page_numbers import measured
from test_report import blocked as one_of_each
from test_report import complete, for_install, ready, unfinished
from test_verdict import crashed, declared, document, found, ran, skipped, topic

Json = dict[str, Any]
LETTERS = str.maketrans("0123456789", "abcdefghij")
RULED = ("matmul_bf16", "matmul_fp32", "memory_copy", "memory_read", "host_to_device")


class Parsed(HTMLParser):
    """The parts of a page that have to be right."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def attributes(self, name: str, *tags: str) -> Iterator[str]:
        for tag, attributes in self.tags:
            if name in attributes and (not tags or tag in tags):
                yield attributes[name] or ""


def numbers_of(report: Mapping[str, Any], slow: int | None = None) -> list[Json]:
    """Numbers of eight GPUs beside every kind of ruler; one GPU can be slow."""
    noise = random.Random(7)
    devices = [gpu["uuid"] for gpu in report["bionemo"]["gpus"]]
    found = []
    for place, device in enumerate(devices):
        for name in RULED:
            value = 700 * noise.gauss(1, 0.004) * (0.7 if place == slow else 1)
            rulers = {"bound": 989.4, "reference": 720.0, "peer_median": 700.0, "baseline": 701.0}
            word = "low" if place == slow else "good"
            found.append(measured(name, device, value, ci95=[value - 4, value + 4], judgement=word, **rulers))
        for other in range(len(devices)):
            if other != place:
                rate = 180.0 if slow in (place, other) else 372.0
                word = "low" if slow in (place, other) else "good"
                found.append(measured(f"send_to_gpu{other}", device, rate, unit="GB/s", bound=450.0, judgement=word))
        found.append(measured("verified_macs_bf16", device, 1.4e12, unit="MAC"))
    return found


@pytest.fixture(scope="module")
def reports(
    plain_environment: Environment, libraries: Libraries, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Json]:
    """Reports of a stand-in node of eight GPUs: healthy, and with a GPU that is sick and slow."""
    healthy, sick = healthy_and_sick(plain_environment, libraries, tmp_path_factory.mktemp("nodes"), 5)
    healthy["bionemo"]["measurements"] = numbers_of(healthy)
    sick["bionemo"]["measurements"] = numbers_of(sick, slow=5)
    open_ended = copy.deepcopy(healthy)
    # As it is after --deselect, or a run that was broken off.
    open_ended["tests"] = [test for test in open_ended["tests"] if "driver::loads" not in test["nodeid"]]
    ready_ = copy.deepcopy(healthy)
    ready_["bionemo"]["packages"][0]["version"] = "2.4.5"
    return {"install": healthy, "blocked": sick, "inconclusive": open_ended, "ready": ready_}


# ---- in a browser


@pytest.mark.parametrize("name", ["install", "blocked", "inconclusive", "ready"])
def test_a_page_fits_every_screen_asks_for_nothing_and_is_accessible(
    reports: Mapping[str, Json], browser: Browser, name: str
) -> None:
    verdict = {"install": "READY FOR INSTALL"}.get(name, name.upper())
    with browser.look(node_page(reports[name]), dark=name == "blocked") as page:
        assert page.locator("h1 .word").inner_text() == verdict
        assert page.title().endswith(f": {verdict}")
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        browser.expect_fit(page, WIDTHS)
        if name == "blocked":  # it has all that a page can have
            axe(page)


def test_commands_are_copied_tables_sorted_and_narrowed_and_links_open_what_is_folded(
    reports: Mapping[str, Json], browser: Browser
) -> None:
    with browser.look(node_page(reports["install"])) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        commands = page.locator("#do .cmd")
        assert commands.count() > 2
        commands.first.get_by_role("button", name="Copy").click()
        assert page.locator("#told").text_content() == "Copied"
        typed = commands.first.locator("pre").inner_text()
        assert page.evaluate("navigator.clipboard.readText()") == typed
        assert typed in [command.removeprefix("$ ") for command in reports["install"]["bionemo"]["install_options"]]

        page.get_by_text("Every number in a table").click()
        page.get_by_label("Narrow").fill("matmul gpu3")
        rows = page.locator("#all-numbers tbody tr:visible")
        assert [rows.nth(place).locator("td").first.inner_text() for place in range(rows.count())] == ["gpu3"] * 2
        assert page.locator(".filter .n").inner_text() == f"2 of {len(reports['install']['bionemo']['measurements'])}"
        page.get_by_label("Narrow").fill("matmul bf16")
        for turn, order in (("ascending", 1), ("descending", -1)):
            page.get_by_role("button", name="Value").press("Enter")
            cells = page.locator("#all-numbers tbody tr:visible td:nth-child(3)")
            values = [float(cells.nth(place).get_attribute("data-v") or "") for place in range(cells.count())]
            assert values == sorted(values)[::order]
            assert len(values) == 8
            assert page.locator("th[aria-sort]").get_attribute("aria-sort") == turn

        page.evaluate("location.hash = 'all-numbers'")
        assert page.locator("details:has(> .wide > #all-numbers)").get_attribute("open") is not None
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.locator(".toc").is_hidden()
        assert page.locator(".copy").first.is_hidden()
        closed = page.locator("details:not([open])").count()
        for event, left in (("beforeprint", 0), ("afterprint", closed)):
            page.evaluate("kind => dispatchEvent(new Event(kind))", event)
            assert page.locator("details:not([open])").count() == left
        assert closed > 5


def test_a_page_is_read_with_a_keyboard_alone(reports: Mapping[str, Json], browser: Browser) -> None:
    with browser.look(node_page(reports["blocked"]), width=360) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == "#main"
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            what = page.evaluate(
                "[document.activeElement.tagName, getComputedStyle(document.activeElement).outlineStyle].join(' ')"
            )
            reached.add(what)
        assert {"A solid", "SUMMARY solid", "DIV solid"} <= reached  # a link, what is folded, a table that scrolls
        assert not {one for one in reached if one.endswith("none") and not one.startswith("BODY")}


# ---- what it is made of


@pytest.mark.parametrize("name", ["install", "blocked", "inconclusive", "ready"])
def test_a_page_is_one_file_whose_policy_lets_nothing_else_run(reports: Mapping[str, Json], name: str) -> None:
    html = node_page(reports[name])
    page = Parsed(html)
    (policy,) = (tag["content"] for kind, tag in page.tags if tag.get("http-equiv") == "Content-Security-Policy")
    for kind in ("style", "script"):
        (inside,) = re.findall(f"<{kind}>(.*?)</{kind}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in str(policy)
    assert "default-src 'none';" in str(policy)
    assert "unsafe" not in str(policy)
    assert list(page.attributes("src")) == list(page.attributes("style")) == []
    assert list(page.attributes("href", "link")) == ["data:,"]
    assert all(one.startswith("#") for one in page.attributes("href", "use"))
    assert all(one.startswith(("#", "https://")) for one in page.attributes("href", "a"))
    assert "@import" not in html
    assert "url(" not in html


@pytest.mark.parametrize("name", ["install", "blocked", "inconclusive", "ready"])
def test_a_page_has_one_heading_names_once_and_tables_that_can_be_read_aloud(
    reports: Mapping[str, Json], name: str
) -> None:
    page = Parsed(node_page(reports[name]))
    tags = Counter(tag for tag, _ in page.tags)
    assert (tags["h1"], tags["main"], tags["header"] >= 1, tags["footer"], tags["nav"]) == (1, 1, True, 1, 1)
    assert ("html", {"lang": "en"}) in page.tags
    ids = list(page.attributes("id"))
    assert len(ids) == len(set(ids))
    assert {one[1:] for one in page.attributes("href", "a") if one.startswith("#")} <= set(ids)
    assert set(page.attributes("aria-labelledby")) <= set(ids)
    assert tags["caption"] == tags["table"]
    assert all(tag.get("scope") for kind, tag in page.tags if kind == "th")


def test_a_page_says_all_of_a_finding_and_of_a_gap() -> None:
    page = Parsed(node_page(one_of_each("no driver & <none>")))
    for said in (
        "BLOCKED no driver & <none>",
        "1 blocker stands in the way: fix it, then run again.",
        "driver::loads",
        "loads holds. gpu0",
        "Seen no driver & <none> Why no driver & <none> Fix no driver & <none> then: no driver & <none>",
        "Action fix the software",
        "WARNING host::shm",
        "waits for driver::loads : no driver answers torch::imports",
        "the check itself failed: ValueError: odd",
        "1 failed, 1 error, 1 warning, 1 not run, 1 passed, 1 not applicable",
        "there is one GPU",
        "0.2",
    ):
        assert said in page.text, said
    links = [one for one in page.attributes("href", "a") if not one.startswith("#")]
    assert links == ["https://l/no driver & <none>"]
    assert "javascript:no driver" in page.text  # shown, and leads nowhere


def test_a_page_names_whom_a_finding_blames_and_what_has_to_be_done_to_the_node() -> None:
    missed = found(message="rank 3 did not arrive", blames="node3\nnode4", action="REBOOT_NODE")
    assert "At fault node3, node4" in Parsed(node_page(document(None, [missed], 1, **complete()))).text
    for action, said in (("REBOOT_NODE", "The node has to be rebooted."), ("RESET_GPU", "A GPU has to be reset.")):
        text = Parsed(node_page(document(None, [found(action=action)], 1, **complete()))).text
        assert f"then run again. {said}" in text


def test_the_verdict_of_a_page_is_formed_from_the_records_and_not_read() -> None:
    for made, word, said in (
        (ready, "READY", "Every required check that applies here ran and passed."),
        (for_install, "READY FOR INSTALL", "BioNeMo itself is not installed yet: choose a way below."),
        (one_of_each, "BLOCKED", "1 blocker stands in the way"),
        (unfinished, "INCONCLUSIVE", "The run has not come to its end."),
        (lambda: ready(device="cpu"), "INCONCLUSIVE", "This was a rehearsal."),
    ):
        text: Json = made()
        text["bionemo"] |= {"verdict": "READY", "summary": "READY", "blockers": [], "not_run": []}
        html = node_page(text)
        assert re.findall('<span class="word">(.*?)</span>', html) == [word]
        page = Parsed(html)
        assert said in page.text
        (hero,) = [tag["class"] for kind, tag in page.tags if (tag.get("class") or "").startswith("hero")]
        assert hero == {"READY": "hero good", "BLOCKED": "hero bad"}.get(word.split()[0], "hero open")


def test_every_number_is_on_the_page_beside_its_rulers_and_a_slow_gpu_is_named(reports: Mapping[str, Json]) -> None:
    html = node_page(reports["blocked"])
    page = Parsed(html)
    figures = html.split('<figure class="q">')[1:]
    assert len(figures) == len(RULED)
    for figure in figures:
        kinds = Counter(re.findall(r'href="#k-(\w+)" x="[\d.]+%"', figure))
        assert kinds == {"value": 7, "bad": 1, "bound": 1, "reference": 1, "peer_median": 1, "baseline": 1}
        text = Parsed(figure).text
        assert "low gpu5" in text
        assert "the bound 989.4 TFLOP/s" in text
        assert "before 701 TFLOP/s" in text
    cells = re.findall(r'<td class="h(\d+)">([\d.]+)( <span class="w">low</span>)?</td>', html)
    assert Counter((value, bool(low)) for _, value, low in cells) == {("372", False): 42, ("180", True): 14}
    assert {step for step, value, _ in cells if value == "372"} == {"10"}
    assert {step for step, value, _ in cells if value == "180"} == {"5"}
    assert page.text.count("verified macs bf16") == 8
    assert html.index("health::needs_no_recovery[gpu5]") < html.index('id="machine"')


def test_a_check_says_once_what_it_found_on_every_gpu(reports: Mapping[str, Json]) -> None:
    text = Parsed(node_page(reports["blocked"])).text
    title = "The GPU is cooler than the temperatures at which it slows down or shuts down."
    assert f"is_cool {title} gpu0 to gpu7" in text
    assert "PASSED gpu0, gpu1, gpu2, gpu3, gpu4, gpu6, gpu7" in text
    assert text.count("does not support it (nvmlDeviceGetRetiredPagesPendingStatus)") == 2  # there, and aside


def test_a_topic_that_could_not_be_collected_says_why() -> None:
    ours = topic("ours", "x", error="ImportError: no module 'x'")
    broken = document(None, None, 0, topics=[ours], schema_version=1)
    text = Parsed(node_page(broken)).text
    assert "It could not be collected: ImportError: no module 'x'" in text
    checks = [declared("bionemo/a::b"), declared("bionemo/a::c")]
    tests = [skipped("bionemo/a::b", outcome="not_run", message="later"), crashed("bionemo/a::c")]
    assert "ours ERROR" in text
    assert "a ERROR 1 error, 1 not run" in Parsed(node_page(document(checks, tests, 1, schema_version=1))).text


def test_a_large_report_is_a_page_of_less_than_a_megabyte(reports: Mapping[str, Json]) -> None:
    large = copy.deepcopy(reports["blocked"])
    run = large["bionemo"]
    run["checks"] += [declared(f"bionemo/big::check{n}[gpu{n % 8}-bf16]", title="t " * 40) for n in range(400)]
    large["tests"] += [ran(f"bionemo/big::check{n}[gpu{n % 8}-bf16]") for n in range(400)]
    run["measurements"] += [
        {**entry, "name": f"{entry['name']}_{n}"} for n in range(10) for entry in run["measurements"][:60]
    ]
    assert len(run["checks"]) > 650
    assert len(run["measurements"]) > 650
    html = node_page(large)
    assert len(html.encode()) < 1_000_000
    assert html.count("check399") == 1


def test_a_pair_without_a_number_is_told_from_a_device_itself() -> None:
    report = ready()
    report["bionemo"]["measurements"] = [
        measured("send_to_gpu1", "gpu0", unit="GB/s"),
        measured("send_to_gpu0", "gpu2", unit="GB/s"),
    ]
    (heat,) = re.findall('<table class="heat".*?</table>', node_page(report), re.DOTALL)
    cells = re.findall('<td class="(?:self|h[0-9]+)">(.*?)</td>', heat)
    assert cells == ["", "700", "-", "-", "", "-", "700", "-", ""]


def test_every_number_in_the_table_has_its_unit_and_is_sorted_as_a_number() -> None:
    report = ready()
    report["bionemo"]["measurements"] = [measured("memory", None, 2.5e11, unit="B", ci95=[2e11, 3e11], bound=3.2e11)]
    (table,) = re.findall('id="all-numbers".*?</table>', node_page(report), re.DOTALL)
    assert re.findall(r'data-v="(.*?)">(.*?)<', table) == [("250000000000.0", "250 GB"), ("320000000000.0", "320 GB")]
    assert "<td>200 to 300 GB</td>" in table


def test_no_memory_of_a_report_is_a_bar_that_a_browser_refuses() -> None:
    report = ready()
    sizes = [(-5e9, 2e9), (5e9, -2e9), (5e9, 2e9), (1e9, 2e9)]
    report["bionemo"]["targets"] = [
        {"name": "t", "runnable": True, "estimated_memory_bytes": needed, "available_memory_bytes": there}
        for needed, there in sizes
    ]
    assert re.findall('class="bar-in" width="(.*?)"', node_page(report)) == ["0.0%", "100.0%", "50.0%"]


def test_lists_of_any_length_are_cut_and_their_rest_is_counted() -> None:
    report, many = ready(), range(550)
    run = report["bionemo"]
    ends: dict[str, tuple[Callable[[str], Json], str]] = {
        "blocker": (found, "blocker"),
        "warning": (lambda check: found(check, "warned"), "warning"),
        "gap": (
            lambda check: skipped(check, outcome="not_run", message=check.translate(LETTERS)),
            "blocker",
        ),
        "fine": (ran, "blocker"),
    }
    for kind, (make, severity) in ends.items():
        run["checks"] += [declared(f"bionemo/{kind}::c{number}", severity=severity) for number in many]
        report["tests"] += [make(f"bionemo/{kind}::c{number}") for number in many]
    run["gpus"] = [{"index": number, "uuid": f"GPU-{number}"} for number in many]
    run["environment"] = {"extra": {f"fact{number}": "x" for number in many}}
    run["targets"] = [{"name": f"t{number}", "runnable": False} for number in many]
    run["packages"] = [{"name": f"p{number}", "version": None} for number in many]
    run["measurements"] = [measured("wide", f"d{number}", 1.0, bound=2.0) for number in range(5100)]
    run["measurements"] += [measured(f"send_to_x{number}", f"y{number}", unit="GB/s") for number in range(4000)]
    said = Counter(re.findall(r"And (\d+) more: the JSON document has them all", node_page(report)))
    # Blockers, warnings and gaps, the checks of four topics, GPUs, facts, targets and packages, the lanes of a
    # drawing, and the rows of the table: the matrix of 8,000 devices is none.
    assert said == {"50": 3 + 4 + 4, "5036": 1, "4100": 1}


# ---- what is no report


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 2}, "its schema version is 2, and this pytest-bionemo reads 1: update pytest-bionemo"),
        ({"schema_version": "1"}, "the report is damaged: its schema version is '1'"),
        ({"checks": None}, "its key 'bionemo' is missing or damaged"),
        ({"gpus": 5}, "the report is damaged (TypeError"),
        ({"measurements": [{"value": 1}]}, "the report is damaged (KeyError: 'name')"),
        ({"targets": [{}]}, "the report is damaged (KeyError"),
        ({"environment": []}, "the report is damaged (AttributeError"),
        ({"environment": {"extra": ["rack"]}}, "the report is damaged (AttributeError: 'list' object"),
        ({"targets": [{"name": "x", "runnable": False, "reasons": [5]}]}, "the report is damaged (TypeError: 'int"),
        ({"duration_s": "long"}, "the report is damaged (ValueError"),
    ],
)
def test_what_is_damaged_or_of_the_future_is_one_line_and_no_page(change: Json, said: str) -> None:
    broken = ready()
    broken["bionemo"] |= change
    with pytest.raises(ReportError, match=re.escape(said)) as raised:
        node_page(broken)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("document", [[], {}, {"bionemo": []}, {"tool": "pytest-bionemo fleet"}, None, 5])
def test_what_is_no_report_is_no_page(document: Any) -> None:
    with pytest.raises(ReportError, match="not a report of pytest --bionemo-validate"):
        node_page(document)


def test_a_page_does_without_everything_that_a_verdict_does_not_need() -> None:
    bare = json.loads(json.dumps(ready()))
    kept = ("schema_version", "level", "device", "checks", "topics", "deselected", "packages")
    bare["bionemo"] = {key: bare["bionemo"][key] for key in kept}
    text = Parsed(node_page(bare)).text
    assert "READY this machine" in text
    assert "No GPU was seen." in text
