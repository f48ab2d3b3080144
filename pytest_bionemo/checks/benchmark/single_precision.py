"""What this device computes FP32 in: TF32 has a speed of its own."""

from __future__ import annotations

from pytest_bionemo import rulers
from pytest_bionemo.checking import not_applicable, wait_for
from pytest_bionemo.checks.benchmark.shared import established
from pytest_bionemo.compute import Compute
from pytest_bionemo.worker import Numbers


def require_tf32_where_allowed(worker: Compute) -> None:
    """Go on only where TF32 is in use: a check of precision warns where it is not, and then it has no speed."""
    found = _tf32(worker)
    if found and not (found["allowed"]["in_tf32"] or found["allowed"]["in_neither"]):
        not_applicable(f"{worker} multiplies in FP32 where TF32 is allowed{_because_of(found)}")


def require_fp32_where_asked(worker: Compute) -> None:
    """Go on only where FP32 means FP32: another check answers for what is computed in TF32 unasked."""
    found = _tf32(worker)
    if found and found["forbidden"]["in_tf32"]:
        wait_for(
            f"precision::tf32_is_not_used_unasked[{worker.name}]",
            f"{worker} multiplies in TF32 where FP32 is asked for{_because_of(found)}",
        )


def _tf32(worker: Compute) -> Numbers | None:
    """What products of FP32 matrices are computed in; None on a device without TF32."""
    if worker.is_rehearsal or rulers.lacks(worker, "tf32"):
        return None
    return established(worker, f"precision::tf32_is_not_used_unasked[{worker.name}]", "tf32:run", size=1024)


def _because_of(found: Numbers) -> str:
    return f", because of {found['override']}" if found["override"] else ""
