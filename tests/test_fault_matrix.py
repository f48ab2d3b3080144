"""The fault matrix: no check without a row, no row without a layer, and a page that says the same."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

from faults import LAYERS, matrix


def test_every_shipped_check_has_a_row() -> None:
    assert [check for check in matrix.checks() if check not in {row.check for row in matrix.rows()}] == []


def test_there_are_enough_healthy_machines_and_faults() -> None:
    assert len(set(matrix.machines())) == len(matrix.machines()) >= 12
    assert len(matrix.rows()) >= 60


def test_no_row_is_there_twice() -> None:
    assert [row for row, times in Counter(matrix.rows()).items() if times > 1] == []


def test_every_row_says_where_the_fault_goes_in_and_what_is_to_be_done() -> None:
    assert [row for row in matrix.rows() if row.layer not in LAYERS or not row.action] == []


def test_the_command_prints_the_page_that_is_in_the_docs() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "faults"], capture_output=True, text=True, check=True, cwd=matrix.TESTS
    )
    assert printed.stdout == matrix.PAGE.read_text()
