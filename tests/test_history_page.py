"""The page of a machine's history in a real browser, and its drawing alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from browser import Browser, axe
from browser import browser as browser
from histories import fortnight, run
from pytest_bionemo.history.plotting import PlotError, draw_runs
from pytest_bionemo.history.store import Store, Stored
from pytest_bionemo.reports import Report

HOSTILE = '</title></svg><script>window.hit=1</script><img src=x onerror="window.hit=1">\u202e\x1b[31m'
Runs = list[tuple[Stored, Report]]


def runs(folder: Path, *documents: Any) -> tuple[str, Runs]:
    store = Store(folder)
    for document in documents:
        machine = store.save(document, "nightly").parent.name
    return machine, store.readable(machine)[0]


def test_the_page_shows_what_became_worse_first(browser: Browser, tmp_path: Path) -> None:
    machine, found = runs(tmp_path, *fortnight())
    page = draw_runs(machine, found, "x.html", (), None)
    assert len(page) < 300_000
    with browser.look(page) as opened:
        browser.expect_fit(opened)
        axe(opened)
        assert opened.locator("h1").inner_text().split() == ["worse", machine]
        assert (
            opened.locator(".lead").inner_text()
            == "1 of 72 numbers of the newest run is worse than before, over 8 runs."
        )
        titles = opened.locator("figcaption b").all_inner_texts()
        assert (len(titles), titles[0]) == (9, "matmul bf16")
        first = opened.locator("figure").first
        assert "in the newest; gpu3 worse in 0007 nightly" in str(
            first.locator("svg.course").get_attribute("aria-label")
        )
        assert first.locator(".course .bad").count() == 1
        assert first.locator(".l").count() == 8 * 7
        row = opened.locator("#all-numbers tbody tr").first.inner_text().split()
        assert row[:3] == ["matmul", "bf16", "gpu3"]
        assert row[-2] == "worse"
        assert "driver: 580.65.06 before, 580.95.05 now" in opened.locator("#runs").inner_text()


def test_nothing_that_a_report_says_is_executed(browser: Browser, tmp_path: Path) -> None:
    documents: Sequence[Any] = [run(number, uuids=("GPU-x",), driver=HOSTILE * (number + 1)) for number in range(2)]
    for document in documents:
        document["bionemo"]["measurements"][0] |= {"name": HOSTILE, "unit": "GB/s"}
        document["bionemo"]["measurements"][1] |= {"unit": f"{HOSTILE}/s", "value": 1.7e308}
        document["bionemo"]["measurements"][2] |= {"ci95": [-1.0, 1e308]}
        document["bionemo"]["measurements"][3] |= {"value": 5e-324, "ci95": [5e-324, 1e300]}
        document["bionemo"]["started"] = f"2026-11-02{HOSTILE}"
    machine, found = runs(tmp_path, *documents)
    with browser.look(draw_runs(machine, found, ".html", (), None), 360) as opened:
        assert opened.evaluate("window.hit") is None
        assert "script" in opened.locator("main").inner_text()
    drawn = ElementTree.fromstring(draw_runs(machine, found, "x.svg", (), None))
    assert [element.tag for element in drawn.iter() if "script" in element.tag] == []


def test_the_picture_in_the_docs_is_what_the_command_draws(tmp_path: Path) -> None:
    machine, found = runs(tmp_path, *fortnight())
    drawn = draw_runs(machine, found, ".svg", ("matmul_bf16", "host_to_device"), None)
    assert (Path(__file__).parents[1] / "docs" / "history.svg").read_text() == drawn


def test_the_names_of_devices_do_not_lie_on_each_other(tmp_path: Path) -> None:
    for slow, name in (
        ({("matmul_bf16", 3): 0.5}, "gpu3"),
        ({("matmul_bf16", gpu): 0.5 for gpu in range(8)}, "8 devices"),
    ):
        machine, found = runs(tmp_path / name, run(0), run(1, slow=slow))
        drawn = ElementTree.fromstring(draw_runs(machine, found, "x.svg", ("matmul_bf16",), None))
        texts = [str(element.text) for element in drawn.iter() if element.tag.endswith("text")]
        assert [text for text in texts if "gpu" in text or "devices" in text] == [name]


def test_what_devices_measure_together_begins_anew_where_they_are_others(tmp_path: Path) -> None:
    documents: Sequence[Any] = [
        run(number, uuids=("GPU-x",), variables={"CUDA_VISIBLE_DEVICES": visible})
        for number, visible in enumerate("0011")
    ]
    for document in documents:
        document["bionemo"]["measurements"][2]["name"] = "send_to_gpu1"
    machine, found = runs(tmp_path, *documents)
    for name, number in (("send_to_gpu1", 2), ("memory_read", 4)):
        assert draw_runs(machine, found, "x.svg", (name,), None).count("<circle") == number


def test_a_drawing_alone_holds_the_numbers_that_were_asked_for(tmp_path: Path) -> None:
    machine, found = runs(tmp_path, *fortnight(), run(20, level="full"))
    drawn = draw_runs(machine, found, "x.SVG", ("memory_copy",), "standard")
    texts = [element.text for element in ElementTree.fromstring(drawn).iter() if element.tag.endswith("text")]
    assert texts[0] == "memory copy"
    assert sum(text == "memory copy" for text in texts) == 1
    one = draw_runs(machine, found, "x.svg", (), None)
    assert one.count('class="title"') == 9, "the newest level alone: one run of it"
    with pytest.raises(PlotError, match=r"no run of .* is of level quick"):
        draw_runs(machine, found, "x.svg", (), "quick")
    nothing = run(uuids=("GPU-y",))
    nothing["bionemo"]["measurements"] = []
    with pytest.raises(PlotError, match="have measured nothing that could be compared"):
        draw_runs("m", runs(tmp_path, nothing)[1], ".html", (), None)
