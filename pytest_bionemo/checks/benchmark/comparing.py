"""The earlier run that this one is compared with."""

from __future__ import annotations

from pytest_bionemo.baseline import Baseline, Circumstances
from pytest_bionemo.checking import check, fail, not_applicable
from pytest_bionemo.model import Action


@check(severity="warning", level="standard", needs=("undisturbed",))
def baseline_is_comparable(baseline: Baseline | None, circumstances: Circumstances) -> None:
    """The run that this one is compared with was made in the same circumstances.

    Why: a change of speed can come from what is different, and not from the device; and where nothing can be
    compared, a device that has become slower goes unnoticed.

    How it decides: the run that --bionemo-baseline names has to be one of this machine, at the same level; driver,
    PyTorch, CUDA, cuDNN and NCCL, the devices and the number of nodes have to be the same.

    Fix: save a run of the machine as it is now, and compare with that.
    """
    if baseline is None:
        not_applicable("no earlier run was asked for: --bionemo-baseline")
    save = "save a run of the machine as it is now: $ pytest --bionemo-validate --bionemo-save"
    if baseline.refused:
        fail(
            f"no number is compared with {baseline.describe()}: {baseline.refused}",
            why="that a device has become slower goes unnoticed",
            fix=[save, "or name another run: --bionemo-baseline"],
            action=Action.NONE,
        )
    if differences := list(baseline.circumstances.differences(circumstances)):
        fail(
            f"compared with {baseline.describe()}, which was made in other circumstances: {'; '.join(differences)}",
            why="a change of speed can come from what differs, and not from the device",
            fix=["measure again with what was there before, if the speed has changed", f"or {save}"],
            action=Action.NONE,
        )
