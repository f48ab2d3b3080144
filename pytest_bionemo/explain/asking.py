"""A plugin for pytest that names the modules with checks of a project, and ends the run before it begins."""

from __future__ import annotations

import json
import sys

import pytest

MARK = "bionemo check modules: "
"""What the line begins with: conftest files may print others."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int:
    """Print the names, and where modules are looked for: pytest has read its configuration, and nothing else."""
    # Imported here: pytest rewrites the assertions of checks, which is too late for what is imported before it.
    from pytest_bionemo import suite
    from pytest_bionemo.checks import shipped

    offered = suite.modules(config) if hasattr(config.hook, "pytest_bionemo_checks") else []
    told = {"modules": [name for name in offered if name not in shipped()], "path": sys.path}
    print(f"\n{MARK}{json.dumps(told)}")
    return 0
