"""Pages in a real browser: Debian's Chromium without a window, driven by Playwright, judged by axe-core.

Import ``browser`` into the test file. Playwright keeps an event loop running for as long as its browser is open, so
it is open for one file of tests: another one in the same process may want a loop of its own.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, sync_playwright

from programs import program

WIDTHS = (360, 1280, 1920)
"""A phone, a laptop and a desk, in pixels."""
_HEIGHT = 900
_DEADLINE_MS = 30_000
_AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# What is wider than the screen and does not scroll inside of itself, outermost first.
_OVERFLOWING = """() => {
    const wide = document.documentElement.clientWidth;
    const own = document.documentElement.scrollWidth;
    if (own <= wide && document.body.scrollWidth <= wide) return [];
    const names = [...document.body.querySelectorAll("*")]
        .filter(one => one.getBoundingClientRect().right > wide + 0.5)
        .map(one => `${one.tagName.toLowerCase()}.${one.getAttribute("class")}`);
    return [`${own} px on a screen of ${wide}`, ...names.slice(0, 5)];
}"""


class Browser:
    """One browser; each page in it is watched for what a page of ours never does."""

    def __init__(self, context: BrowserContext, folder: Path) -> None:
        self._context = context
        self._folder = folder
        self._number = itertools.count(1)
        self.complaints: list[str] = []
        context.on("console", lambda message: self._hear(message.type, message.text))
        context.on("weberror", lambda failure: self._complain(f"page error: {failure.error}"))
        context.on("request", lambda request: self._ask(request.url))

    @contextmanager
    def look(self, html: str, width: int = 1280, *, dark: bool = False) -> Iterator[Page]:
        """Open a page from a file, as users do.

        :raises AssertionError: after the page is there, and once more at the end, if there was an error in its
            console, an error of its script, a request for anything but itself, or if it is wider than the screen.
        """
        path = self._folder / f"page{next(self._number)}.html"
        path.write_bytes(html.encode())  # what is no Unicode fails here, as it would when it is written for users
        self.complaints.clear()
        self._own = path.as_uri()
        page = self._context.new_page()
        try:
            page.set_viewport_size({"width": width, "height": _HEIGHT})
            page.emulate_media(color_scheme="dark" if dark else "light")
            page.goto(self._own)
            self.expect_no_complaint(page)
            yield page
            self.expect_no_complaint(page)
        finally:
            page.close()
            path.unlink()

    def expect_no_complaint(self, page: Page) -> None:
        """Fail if the page did anything so far that no page may do, or does not fit on the screen."""
        wide: list[str] = page.evaluate(_OVERFLOWING)
        complaints = [*self.complaints, *(f"too wide: {one}" for one in wide)]
        assert not complaints, "\n".join(complaints)

    def expect_fit(self, page: Page, widths: Sequence[int] = WIDTHS) -> None:
        """Fail if the page does not fit on screens of these widths, in pixels."""
        for width in widths:
            page.set_viewport_size({"width": width, "height": _HEIGHT})
            self.expect_no_complaint(page)

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self._complain(f"console: {text}")

    def _ask(self, url: str) -> None:
        if url.split("#")[0] != self._own:
            self._complain(f"request: {url[:200]}")

    def _complain(self, what: str) -> None:
        self.complaints.append(what)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for the tests of one file; each starts from a page of its own."""
    executable = program("chromium", "chromium")
    # Its sandbox wants a user that is not root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=arguments, timeout=_DEADLINE_MS)
        context = chromium.new_context(reduced_motion="reduce")
        context.set_default_timeout(_DEADLINE_MS)
        yield Browser(context, tmp_path_factory.mktemp("pages"))
        chromium.close()


def axe(page: Page) -> None:
    """Hold a page against the rules of axe-core, in light and in dark.

    :raises AssertionError: one line for each violation, with the first elements that it is about.
    """
    found = []
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        result = Axe().run(page, options={"runOnly": _AXE_TAGS, "resultTypes": ["violations"]})
        for violation in result.response["violations"]:
            nodes = [f"{node['html'][:120]} ({node['failureSummary'][:300]})" for node in violation["nodes"][:3]]
            found.append(f"{scheme}: {violation['id']}: {violation['help']}: {nodes}")
    assert not found, "\n".join(found)
