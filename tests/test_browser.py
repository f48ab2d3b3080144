"""What the browser of the tests takes offence at: a page that does what no page of ours may do."""

from __future__ import annotations

import pytest

from browser import Browser, axe
from browser import browser as browser

GOOD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>t</title></head>'
    "<body><main><h1>t</h1>{}</main></body></html>"
)


def test_a_page_that_does_nothing_wrong_is_accepted(browser: Browser) -> None:
    with browser.look(GOOD.format("<p id=p>seen</p>")) as page:
        assert page.inner_text("#p") == "seen"
        browser.expect_fit(page)
        axe(page)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<script>console.error('no good')</script>", "console: no good"),
        ("<script>undefined_name()</script>", "page error"),
        ("<img src='http://127.0.0.1:9/x.png' alt=x>", "request: http://127.0.0.1:9/x.png"),
        ("<p style='width:2000px'>wide</p>", "2008 px on a screen of 1280"),
    ],
    ids=["console", "script", "request", "overflow"],
)  # fmt: skip
def test_a_page_that_misbehaves_is_caught(browser: Browser, body: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said), browser.look(GOOD.format(body)):
        pass


def test_what_goes_wrong_after_a_click_is_caught_and_the_next_page_starts_clean(browser: Browser) -> None:
    button = "<button id=b onclick='undefined_name()'>b</button>"
    with pytest.raises(AssertionError, match="page error"), browser.look(GOOD.format(button)) as page:
        page.click("#b")
    with browser.look(GOOD.format("")):
        pass


def test_a_violation_is_told_with_its_element_and_the_colours_in_which_it_is_one(browser: Browser) -> None:
    pale = "<style>@media (prefers-color-scheme: dark) { p { color: #eee } }</style><p id=p>pale</p>"
    with (
        browser.look(GOOD.format(pale)) as page,
        pytest.raises(AssertionError, match=r"dark: color-contrast: .*id=.*p") as caught,
    ):
        axe(page)
    assert "light:" not in str(caught.value)
