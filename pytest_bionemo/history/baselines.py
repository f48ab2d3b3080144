"""Which earlier run a run is compared with: ``--bionemo-baseline last``, a folder of runs, or a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pytest_bionemo.baseline import Baseline, Circumstances
from pytest_bionemo.history.store import Store, StoreError, folder, load, machine_of
from pytest_bionemo.reports import DAMAGED, Report
from pytest_bionemo.verdict import ReportError

LAST = "last"
"""Stands for the newest run of this machine in its store."""


class BaselineError(Exception):
    """There is no such run; the message is one line."""


def find(name: str, start: Path, now: Circumstances, environ: Mapping[str, str]) -> Baseline:
    """The run of this name as a baseline of the current one.

    A run that cannot be compared, or that is not kept yet, is no error: the baseline says why (``refused``).

    :param name: ``last``, a folder of runs (a store, or what it holds of one machine), or the file of a report.
    :param start: the folder that a relative path is relative to.
    :raises BaselineError: one line, for what is not there, no report, damaged, or of a later version.
    """
    try:
        if name == LAST:
            return _last(Store(folder(environ)), now)
        path = start / Path(name).expanduser()
        if path.is_dir():
            return _last(_store_at(path, now), now)
        return _of(load(path), path.name, now)
    except (ReportError, StoreError, RuntimeError, ValueError) as error:
        # ValueError: no file can have this name. RuntimeError: the home of nobody.
        raise BaselineError(str(error).rstrip(".")) from None


def _of(report: Report, name: str, now: Circumstances, skipped: tuple[str, ...] = ()) -> Baseline:
    if report.document.get("exitcode") is None:
        raise ReportError(f"{report.path}: its run has not finished")
    try:
        return Baseline.of(report.document, name, now, skipped)
    except DAMAGED as error:
        raise ReportError(f"{report.path}: the report is damaged ({type(error).__name__}: {error})") from None


def _store_at(path: Path, now: Circumstances) -> Store:
    """The store that this folder is, or that it is a machine's folder of."""
    machine = _machine(now)
    return Store(path.parent if path.name == machine else path)


def _last(store: Store, now: Circumstances) -> Baseline:
    machine = _machine(now)
    found, damaged = store.last(machine, now.level) if machine else (None, [])
    skipped = tuple(damaged)
    if found is None:
        what = f"no run of level {now.level} of this machine" if machine else "no run of a machine without GPUs"
        return Baseline.absent(str(store.path / machine), f"{what} is kept there", now, skipped)
    stored, report = found
    return _of(report, stored.path.name, now, skipped)


def _machine(now: Circumstances) -> str:
    """The name of this machine's folder; "" where no GPU says which it is."""
    gpus = [{"uuid": uuid} for uuid in now.devices]
    try:
        return machine_of({"device": now.device, "environment": {"hostname": now.hostname}, "gpus": gpus})
    except StoreError:
        return ""
