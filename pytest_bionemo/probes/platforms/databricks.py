"""Databricks: classic compute, serverless, and serverless with GPUs.

Source: mlflow-skinny 3.17.2, mlflow/utils/databricks_utils.py, and databricks-sdk 0.162.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_bionemo.probes import files

_VERSION = re.compile(r"\d+\.\d+|\d+")


@dataclass(frozen=True)
class Databricks:
    """``runtime`` is that of classic compute ("15.4"), ``environment`` that of serverless ("4")."""

    kind: Literal["classic", "serverless", "serverless GPU"]
    runtime: str | None = None
    environment: str | None = None


def read(variables: Mapping[str, str], root: Path) -> Databricks | None:
    """None where this is not Databricks."""
    # Container Services clusters may have the file alone.
    runtime = variables.get("DATABRICKS_RUNTIME_VERSION", "") or files.line(root / "databricks/DBR_VERSION")
    environment = variables.get("DATABRICKS_ENV_VERSION", "")
    if "DATABRICKS_ACCELERATOR" in variables:
        return Databricks("serverless GPU", environment=environment or None)
    if environment or runtime.startswith("client.") or variables.get("IS_SERVERLESS", "").upper() == "TRUE":
        return Databricks("serverless", environment=environment or runtime.removeprefix("client.") or None)
    if not runtime:
        return None
    version = _VERSION.match(runtime)
    return Databricks("classic", runtime=version[0] if version else None)
