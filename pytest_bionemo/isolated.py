"""The command of a validation that is isolated from the folder that it is started in.

Standard library's ``os`` and ``sys`` alone: until the run has its own interpreter, the current folder may be on
``sys.path``, where a file could stand in for any other module.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

_NO_FOLDER = ("-c", os.devnull, "--rootdir=.", "--noconftest", "-p", "no:cacheprovider")


def pytest_arguments(options: Sequence[str]) -> list[str]:
    """The arguments of pytest for the shipped checks: no conftest, no ini file, no module of the current folder."""
    plugins = []
    if os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        plugins = ["-p", "pytest_jsonreport.plugin", "-p", "pytest_bionemo.plugin"]
    return [*_NO_FOLDER, *plugins, "--bionemo-validate", *options]
