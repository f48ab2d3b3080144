"""Keep the run that ends: in a child process, since the file system of a home can hang when all else is done."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pytest_bionemo.history.store import Store, StoreError, folder, load
from pytest_bionemo.probes.child import Child
from pytest_bionemo.verdict import ReportError


class KeepError(Exception):
    """The run is in no history; the message is one line."""


def keep(report: Path, created: float, name: str, deadline_s: float) -> str:
    """Keep the report that was just written, and say in which file.

    :param created: its key of that name: another run may have written there meanwhile.
    :raises KeepError: if it cannot be kept, or not within so many seconds.
    """
    told = {"report": str(report.absolute()), "created": created, "name": name}
    answer = Child(f"{__name__}:tell", deadline_s, arguments=told, doing="keeping the run").answer()
    found = answer.value or {"error": answer.failure}
    if "error" in found:
        raise KeepError(found["error"])
    return str(found["kept"])


def tell(report: str, created: float, name: str) -> dict[str, Any]:
    """In the child: the path of the file that was ``kept``, or the ``error``."""
    try:
        document = load(Path(report)).document
        if document["created"] != created:
            return {"error": f"another run has written to {report} meanwhile"}
        return {"kept": str(Store(folder(os.environ)).save(document, name))}
    except (ReportError, StoreError) as error:
        return {"error": str(error)}
