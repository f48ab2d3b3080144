"""Hooks that pytest-bionemo offers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest


def pytest_bionemo_checks(config: pytest.Config) -> Sequence[str]:  # type: ignore[empty-body]
    """Return the dotted names of modules with checks of your own.

    The last part of a name is the topic. The modules are imported with rewritten assertions, run after the
    shipped checks and count in the verdict by the same rules. A plugin or a conftest file can implement it::

        def pytest_bionemo_checks(config):
            return ["our_cluster.checks.storage"]

    with, in ``our_cluster/checks/storage.py``::

        from pathlib import Path

        from pytest_bionemo import check, fail


        @check(severity="blocker")
        def scratch_is_mounted():
            \"\"\"The scratch file system is mounted.\"\"\"
            if not Path("/scratch").is_mount():
                fail("/scratch is not mounted", why="every job writes there", fix="$ sudo mount /scratch")
    """
