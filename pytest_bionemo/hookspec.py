"""Hooks that pytest-bionemo offers to plugins and conftest files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

Scalar = str | int | float | bool | None
"""The value of a fact about the environment."""


def pytest_bionemo_checks(config: pytest.Config) -> Sequence[str]:  # type: ignore[empty-body]
    """Return the dotted names of modules with checks of your own.

    The last part of a name is the topic, which no other module may have. The modules are imported with rewritten
    assertions, run after the shipped checks and count in the verdict by the same rules: one that cannot be imported
    makes it INCONCLUSIVE. A plugin or a conftest file can implement it::

        def pytest_bionemo_checks(config):
            return ["our_cluster.storage"]

    with, in ``our_cluster/storage.py``::

        import shutil
        from pathlib import Path

        import pytest

        from pytest_bionemo import check, fail, not_applicable, wait_for


        @pytest.fixture
        def scratch():
            if not Path("/scratch").is_mount():
                wait_for("storage::scratch_is_mounted", "/scratch is not mounted")
            return Path("/scratch")


        @check(severity="blocker")
        def scratch_is_mounted():
            \"\"\"The scratch file system is mounted.\"\"\"
            if not Path("/scratch").is_mount():
                fail("/scratch is not mounted", why="every job writes there", fix="$ sudo mount /scratch")


        @check(severity="warning")
        def scratch_has_room(scratch):
            \"\"\"The scratch file system has room for a checkpoint.\"\"\"
            assert shutil.disk_usage(scratch).free > 100e9


        @check(severity="warning")
        def archive_is_readable():
            \"\"\"The archive can be read.\"\"\"
            if not Path("/archive").exists():
                not_applicable("this node has no archive")
            assert next(Path("/archive").iterdir(), None)
    """


def pytest_bionemo_environment(config: pytest.Config) -> Mapping[str, Scalar]:  # type: ignore[empty-body]
    """Return facts about the environment for the report: names with texts, numbers, truth values or None.

    They stand in the report below ``bionemo.environment.extra``, where they cannot replace what the probes saw, and
    have no say in the verdict. It is called once a run, before the checks are collected, and not in the workers of
    pytest-xdist. A plugin or a conftest file can implement it::

        from pathlib import Path


        def pytest_bionemo_environment(config):
            rack = Path("/etc/our-cluster/rack")
            return {"rack": rack.read_text().strip() if rack.exists() else None, "cluster": "east", "nodes": 64}

    What is not a mapping of names to such values, and a name to which two plugins give different values, is a usage
    error. An implementation that raises costs its facts alone: the run goes on, and the report and the screen say
    what was raised. The value of a name that speaks of a secret (``api_token``) becomes ``[redacted]``, and so does
    every token that is recognised by its form or stands in a variable of such a name.
    """
