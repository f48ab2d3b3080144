"""The pages of the docs: their files are written, their commands are run, and what they show is what appears."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Rig

DOCS = Path(__file__).parents[1] / "docs"
# Made by programs, and held against them in test_command_line.py and test_fault_matrix.py.
MADE = {"checks.md", "fault-matrix.md"}
PAGES = sorted(path.name for path in DOCS.glob("*.md") if path.name not in MADE)
# What differs from run to run, and how pytest cuts and numbers.
_CHANGING = re.compile(r"[\d.]+ ?s\b|\[ *\d+%\]|:\d+:")


def blocks(page: str, language: str) -> Iterator[str]:
    """The fenced blocks of this language."""
    parts = re.split(r"^```(.*)\n", (DOCS / page).read_text(), flags=re.MULTILINE)
    yield from (text for fence, text in zip(parts[1::4], parts[2::4], strict=True) if fence == language)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_is_what_appears(compute_rig: Rig, page: str) -> None:
    for block in blocks(page, "python"):
        name, _, text = block.partition("\n")
        compute_rig.write(name.removeprefix("# "), text)
    for block in blocks(page, "console"):
        command, *lines = block.splitlines()
        program, *arguments = shlex.split(command.removeprefix("$ "))
        run = compute_rig.pytest(*arguments) if program == "pytest" else compute_rig.run(*arguments)
        shown = [_steady(line) for line in [*run.stdout.splitlines(), *run.stderr.splitlines()]]
        assert [line for line in lines if _steady(line) not in shown] == [], run.stdout + run.stderr


@pytest.mark.parametrize("page", PAGES)
def test_no_test_of_a_page_fails(compute_rig: Rig, page: str) -> None:
    names = []
    for block in blocks(page, "python"):
        name, _, text = block.partition("\n")
        compute_rig.write(name.removeprefix("# "), text)
        names += [name.removeprefix("# ")] if name.startswith("# test_") else []
    if not names:
        pytest.skip("the page has no test of a suite")
    run = compute_rig.pytest("-q", "-p", "no:cacheprovider", *names)
    assert run.returncode == 0, run.stdout
    assert re.search(r"[4-9] passed", run.stdout), run.stdout


def _steady(line: str) -> str:
    return _CHANGING.sub("", line).rstrip()
