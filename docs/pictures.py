"""The pictures of these pages, made by the program itself: ``python docs/pictures.py`` (a checkout, with Chromium).

READY and BLOCKED (PyTorch is missing) are runs on eight H100 that a stand-in for the driver plays, INCONCLUSIVE is a
rehearsal on this machine's CPU, and the fleet of 64 nodes is generated. Each is drawn in light and in dark.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from conftest import Rig  # noqa: E402 - it is of the tests, as are those below
from pytest_bionemo.page.fleet import fleet_page  # noqa: E402
from pytest_bionemo.page.node import node_page  # noqa: E402
from standin import build  # noqa: E402
from standin.environment import Environment  # noqa: E402
from test_fail_closed import make_ready  # noqa: E402
from varied_fleet import document_of  # noqa: E402

SIZE = {"width": 1200, "height": 680}
NODES = 64


def main() -> int:
    """Draw all of them into docs/pictures."""
    target = HERE / "pictures"
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, html in pages(Path(folder)):
            file = Path(folder, f"{name}.html")
            file.write_text(html, encoding="utf-8")
            for scheme in ("light", "dark"):
                page = browser.new_page(viewport=SIZE, color_scheme=scheme)
                page.goto(file.as_uri())
                page.screenshot(path=target / f"{name}-{scheme}.png")
                page.close()
        browser.close()
    return 0


def pages(folder: Path) -> Iterator[tuple[str, str]]:
    """The name of each picture, and the page that it shows."""
    plain = Environment.create(folder / "plain", ["pytest-bionemo"])
    libraries = build(folder)
    for name in ("ready", "blocked"):
        (folder / name).mkdir()
        rig = make_ready(Rig(plain, libraries, folder / name))
        if name == "blocked":
            rig.torch = None
        yield name, page_of(rig.validate().report)
    (folder / "inconclusive").mkdir()
    whole = ["pytest-bionemo", "torch", "numpy", "transformers", "pytorch-lightning"]
    rehearsal = Rig(Environment.create(folder / "whole", whole), libraries, folder / "inconclusive")
    yield "inconclusive", page_of(rehearsal.rehearse("--bionemo-expect-gpus=4", timeout=600).report)
    yield "fleet", fleet_page(document_of(NODES))


def page_of(report: dict[str, Any]) -> str:
    """The page, without what is this machine's own."""
    for name in ("kernel", "container"):
        report["bionemo"]["environment"].pop(name, None)
    return node_page(report)


if __name__ == "__main__":
    sys.exit(main())
