"""Databricks: its runtime, and where its data lies."""

from __future__ import annotations

import os
from datetime import date

from pytest_bionemo.checking import check, fail, not_applicable
from pytest_bionemo.facts import platforms
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.platforms import Databricks

_DATABRICKS_FILES = "https://docs.databricks.com/en/files/files-recommendations.html"
# Where libraries put weights and checkpoints, and where they must not be on Databricks.
_CACHES = ("BIONEMO_CACHE_DIR", "HF_HOME", "HF_HUB_CACHE", "NEMO_HOME", "TORCH_HOME", "TMPDIR")
_UNSUITED = {"/Workspace": "workspace files, which are for notebooks and code", "/dbfs": "DBFS, which is deprecated"}


@check(severity="warning")
def databricks_runtime_is_supported(databricks: Databricks) -> None:
    """Databricks still supports the runtime.

    Why: a runtime without support gets no fixes, and its PyTorch and CUDA are older than what BioNeMo needs.

    How it decides: it compares today's date with the last day of support of this runtime.

    Fix: choose a runtime that is still supported.
    """
    if databricks.runtime is None:
        not_applicable(f"Databricks {databricks.kind} names no runtime that ends")
    ends, today = platforms.runtime_end(databricks.runtime), date.today()
    if ends and ends < today:
        newest = platforms.supported_runtimes(today)[-3:]
        fail(
            f"Databricks Runtime {databricks.runtime} is without support since {ends.isoformat()} at the latest",
            why="it gets no fixes, and its PyTorch and CUDA are older than what BioNeMo needs",
            fix=f"choose a newer runtime, for machine learning with GPUs: {' ML, '.join(newest)} ML",
        )


@check(severity="warning")
def databricks_storage_suits_training(databricks: Databricks, machine: Machine) -> None:
    """Weights and checkpoints do not go to workspace files or DBFS.

    Why: files as large as checkpoints are slow in workspace files and on DBFS, or refused.

    How it decides: it looks at the variables that name caches and temporary folders: none may lead below /Workspace
    or /dbfs.

    Fix: keep checkpoints and caches on a local disk or a volume.
    """
    # The paths themselves are not shown: those of workspace files hold the user's name.
    found = [
        (name, root)
        for name in _CACHES
        for root in _UNSUITED
        if os.path.normpath(machine.environment.get(name, "")).split("/")[:2] == root.split("/")
    ]
    if found:
        fail(
            "; ".join(f"{name} is below {root}: {_UNSUITED[root]}" for name, root in found),
            why="files of gigabytes are slow there or refused, and those of checkpoints are that large",
            fix=[
                f"set {found[0][0]} to a volume (/Volumes/CATALOG/SCHEMA/VOLUME), or to the local disk (/local_disk0)"
            ],
            links=[_DATABRICKS_FILES],
        )
