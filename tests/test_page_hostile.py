"""Reports and fleet documents that somebody made to hurt: a page or one line, and nothing is executed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

from browser import Browser
from browser import browser as browser
from fleets import fleet, job, node, report
from pytest_bionemo.page.fleet import fleet_page
from pytest_bionemo.page.node import node_page
from pytest_bionemo.verdict import ReportError
from varied_fleet import document_of

Json = dict[str, Any]
Make = Callable[[Json], str]
Path = tuple[str | int, ...]

_LONG = "A" * 1_000_000
_PAYLOADS = (
    "<script>window.hit=1</script>",
    "</script><script>window.hit=1</script>",
    "</style></pre></table><img src=x onerror=window.hit=1>",
    "\" onmouseover=window.hit=1 autofocus onfocus=window.hit=1 x=\"",
    "' onclick='window.hit=1",
    " onclick=window.hit=1 ",
    "--><svg onload=window.hit=1>",
    "javascript:window.hit=1",
    "https://e.example/\"onclick=\"window.hit=1",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[2J\x1b]0;title\x07\x00\x85",
    "\u202egnp.exe\u2066\u200b\ufeff",
    "\ud800 alone",
    "&lt;b&gt;&#x3c;script&#x3e;window.hit=1",
    _LONG,
    "",
)  # fmt: skip
_VALUES: tuple[object, ...] = (
    None, True, 0, -1, 10**400, float("nan"), float("inf"), -1e308, "", _PAYLOADS[0], [], {}, [[]], {"a": None},
)  # fmt: skip


def leaves(value: Any, at: Path = ()) -> Iterator[Path]:
    """Where everything is that is no list and no mapping."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*at, name))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from leaves(inner, (*at, place))
    else:
        yield at


def put(document: Any, at: Path, value: object) -> Any:
    """What was there."""
    for step in at[:-1]:
        document = document[step]
    before, document[at[-1]] = document[at[-1]], value
    return before


def poisoned(document: Json, is_taken: Callable[[Json], object], skip: int = 0) -> Json:
    """The document with a payload in every text in which it is still taken for one."""
    made = copy.deepcopy(document)
    number = skip
    for at in list(leaves(made)):
        before = put(made, at, _PAYLOADS[number % len(_PAYLOADS)])
        number += 1
        try:
            assert isinstance(before, str)
            is_taken(made)
        except (AssertionError, ReportError):
            put(made, at, before)
    return made


class Tags(HTMLParser):
    """What a page has that could do something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts = self.styles = 0
        self.doing: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.styles += tag == "style"
        known = {"href": ("#", "https://", "http://", "data:,"), "src": ()}
        for name, value in attrs:
            is_known = name not in known or (value or "").startswith(known[name])
            if name.startswith("on") or name in ("style", "srcdoc", "autofocus", "action") or not is_known:
                self.doing.append(f"{tag} {name}={value}")
        if tag in ("iframe", "object", "embed", "img", "base", "form"):
            self.doing.append(tag)
        if tag == "meta" and dict(attrs).get("http-equiv") not in (None, "Content-Security-Policy"):
            self.doing.append(f"meta {attrs}")


def expect_harmless(html: str) -> None:
    """By the page's own text; what stands in it as text is text."""
    tags = Tags(html)
    assert (tags.scripts, tags.styles, tags.doing) == (1, 1, [])
    assert all(one.isprintable() or one == "\n" for one in html.replace("\t", ""))
    assert _LONG[:5000] not in html
    assert len(html.encode()) < 1_500_000


def expect_one_line(error: ReportError) -> None:
    said = str(error)
    assert said.isprintable()
    assert 10 < len(said) < 400


def node_report() -> Json:
    made = report("node1", "blocked", job=job("7", 0, "node1", 1), extra={"rack": "r1"})
    made["bionemo"]["install_options"] = ["$ pip install bionemo-scdl"]
    return made


def fleet_of(skip: int) -> Json:
    """A fleet of which every report is poisoned as far as it is still read."""
    made = []
    for number, kind in enumerate(("ready", "blocked", "gap", "install")):
        one = poisoned(report(f"node{number}", kind, extra={_PAYLOADS[number]: "x"}), node, skip + number)
        one["bionemo"]["environment"]["hostname"] = f"node{number}"
        made.append((f"{_PAYLOADS[number]}/node{number}.json", one))
    return fleet(*made, unreadable=[(_PAYLOADS[3], _PAYLOADS[0])])


def plain_document() -> Json:
    found = json.loads(json.dumps(document_of(13)))
    found["hyperpod"] = found["hyperpod"][:2]
    for one in found["nodes"][2:]:
        one["sections"] = {"host": one["sections"].get("host", "NOT_RUN")}
    return dict(found)


@pytest.mark.parametrize(
    ("document", "make"),
    [
        (lambda: fleet_of(0), fleet_page),
        (lambda: fleet_of(5), fleet_page),
        (lambda: poisoned(plain_document(), fleet_page), fleet_page),
        (lambda: poisoned(node_report(), node_page), node_page),
        (lambda: poisoned(node_report(), node_page, 7), node_page),
    ],
    ids=["fold", "fold again", "fleet document", "node", "node again"],
)
def test_nothing_in_a_hostile_report_is_executed(browser: Browser, document: Callable[[], Json], make: Make) -> None:
    html = make(document())
    expect_harmless(html)
    with browser.look(html, 360) as page:
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        for event in ("click", "mouseover", "focus"):
            page.evaluate(
                "kind => { for (const one of document.body.querySelectorAll('*:not(a)')) "
                "one.dispatchEvent(new Event(kind)); }",
                event,
            )
        assert page.evaluate("typeof window.hit") == "undefined"
        assert "<script>window.hit=1</script>" in page.inner_text("main")
        browser.expect_fit(page)


_ESCAPED = (
    "<script>window.hit=1</script><img src='data:image/png,' onerror='window.hit=1' alt=x>"
    "<style>#main{display:none}</style><p id=styled style='position:fixed'>p</p>"
    "<a id=link href='javascript:window.hit=1'>a</a><base href='https://e.example/'>"
    "<script src='https://e.example/x.js'></script>"
    "<form action='https://e.example/'><button id=send>b</button></form>"
)


@pytest.mark.parametrize(
    ("document", "make"), [(plain_document, fleet_page), (node_report, node_page)], ids=["fleet", "node"]
)
def test_what_an_escape_has_missed_is_stopped_by_the_policy(
    browser: Browser, document: Callable[[], Json], make: Make
) -> None:
    html = make(document())
    with browser.look(html) as page:
        stopped: list[str | None] = []
        page.on("requestfailed", lambda request: stopped.append(request.failure))
        page.set_content(html.replace("<h1>", f"{_ESCAPED}<h1>", 1))
        page.evaluate("for (const one of ['link', 'send']) document.getElementById(one).click()")
        page.wait_for_timeout(100)
        assert page.evaluate("typeof window.hit") == "undefined"
        assert page.evaluate("getComputedStyle(document.getElementById('styled')).position") == "static"
        assert page.locator("#main").is_visible()
        assert page.evaluate("document.baseURI").startswith(("file:", "about:"))
        assert page.locator(".copy").count() > 0  # the page's own script does run
        refused = [one for one in browser.complaints if "Content Security Policy" in one]
        assert len(refused) >= 6
        assert stopped == ["csp"] * len([one for one in browser.complaints if one.startswith("request")])
        browser.complaints.clear()


@pytest.mark.parametrize(
    ("document", "make"), [(plain_document, fleet_page), (node_report, node_page)], ids=["fleet", "node"]
)
def test_whatever_stands_in_a_field_there_is_a_page_or_one_clear_line(
    document: Callable[[], Json], make: Make
) -> None:
    """Missing, of another type, no number, infinite: in one field at a time."""
    chosen = random.Random(8)
    made = document()
    places = list(leaves(made))
    pages = lines = 0
    for at in chosen.sample(places, min(200, len(places))):
        value = chosen.choice(_VALUES)
        before = put(made, at, value)
        try:
            html = make(made)
            pages += 1
        except ReportError as error:
            lines += 1
            expect_one_line(error)
        else:
            assert Tags(html).doing == []
        put(made, at, before)
    assert pages > 20
    assert lines > 5
    assert make(made) == make(document())


@pytest.mark.parametrize(
    ("document", "make"), [(plain_document, fleet_page), (node_report, node_page)], ids=["fleet", "node"]
)
def test_what_is_missing_is_a_page_or_one_clear_line(document: Callable[[], Json], make: Make) -> None:
    whole = document()
    for name in [*whole, *(f"bionemo.{name}" for name in whole.get("bionemo", ()))]:
        made = json.loads(json.dumps(whole))
        outer, _, inner = name.partition(".")
        del (made[outer] if inner else made)[inner or outer]
        try:
            assert make(made).startswith("<!doctype html>")
        except ReportError as error:
            expect_one_line(error)
