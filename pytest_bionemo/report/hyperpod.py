"""The one line that SageMaker HyperPod's health checks read, from the report.

Source: awslabs/awsome-distributed-ai 95b939cdc, 1.architectures/5.sagemaker-hyperpod/health_check:
``HEALTH_CHECK_RESULT:<hostname>:<Passed|Failed|Skipped>:<none|reboot|replace>:<reason>``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_STATUS = {"READY": "Passed", "READY_FOR_INSTALL": "Passed", "BLOCKED": "Failed", "INCONCLUSIVE": "Skipped"}
# A GPU is reset with the node: there is no word for the GPU alone.
_REMEDIATION = {"RESET_GPU": "reboot", "REBOOT_NODE": "reboot", "REPLACE_NODE": "replace"}
_NAMED_AT_MOST = 5


def line(report: Mapping[str, Any] | None, hostname: str, status: int = 0) -> str:
    """The line for this report; for a run without one, that nothing could be told.

    ``status`` is the exit status of the run: only one of 0 has passed, whatever the verdict.

    The reason names checks and no message of theirs: a message can quote the driver, and whoever collects the output
    of jobs must find no Xid in it that is none of today's.
    """
    if report is None:
        return compose(hostname, "Skipped", "none", "the run ended without a report")
    run = report["bionemo"]
    if run["verdict"] in _PASSED and status:
        return compose(hostname, "Skipped", "none", f"{reason(run)}, and the run ends with exit status {status}")
    # A node that fails for another one's sake is not known to be well, and is no reason to take it away.
    is_own = not run["blockers"] or own_actions(run)
    remedy = remedy_of(own_actions(run))
    return compose(hostname, _STATUS[run["verdict"]] if is_own else "Skipped", remedy, reason(run))


def compose(hostname: str, status: str, remedy: str, why: str) -> str:
    """The line of these parts; ``status`` is Passed, Failed or Skipped, ``remedy`` none, reboot or replace."""
    return f"HEALTH_CHECK_RESULT:{hostname or 'unknown'}:{status}:{remedy}:{' '.join(why.split())}"


def remedy_of(actions: Iterable[str]) -> str:
    """What HyperPod is asked to do for these actions: none, reboot or replace."""
    found = {_REMEDIATION.get(action) for action in actions}
    return next((word for word in ("replace", "reboot") if word in found), "none")


def own_actions(run: Mapping[str, Any]) -> list[str]:
    """Of the blockers that blame no other node; a warning is no reason to take a node away that fails otherwise."""
    return [entry["action"] for entry in run["blockers"] if not entry.get("blames")]


def reason(run: Mapping[str, Any]) -> str:
    """The verdict with the checks that it rests on, of a report's key ``bionemo``."""
    found = run["blockers"] or [gap for gap in run["not_run"] if gap["required"]]
    names = list(dict.fromkeys(entry["check"] for entry in found if entry["check"]))
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    listed = f": {', '.join(names[:_NAMED_AT_MOST])}{more}" if names and run["verdict"] not in _PASSED else ""
    return f"{run['verdict']} at level {run['level']}{listed}"


_PASSED = ("READY", "READY_FOR_INSTALL")
