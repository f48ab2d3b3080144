"""Which earlier run a run is compared with: ``--bionemo-baseline last``, a folder of runs, or a report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pytest_bionemo.baseline import UNSOUND, Baseline, Circumstances, Earlier
from pytest_bionemo.history.store import Store, StoreError, folder, load, machine_of
from pytest_bionemo.probes.child import Child
from pytest_bionemo.reports import Report
from pytest_bionemo.showing import shown
from pytest_bionemo.verdict import DAMAGED, ReportError, is_complete

LAST = "last"
"""Stands for the newest run of this machine in its store."""
_LONGEST_LINE = 1000


class BaselineError(Exception):
    """There is no such run; the message is one line."""


def ask(name: str, start: Path, now: Circumstances, deadline_s: float) -> Baseline:
    """The same as :func:`find` of a child process: a file system that hangs costs the comparison, and not the run.

    :raises BaselineError: likewise.
    """
    told = {"name": name, "start": str(start), "now": asdict(now)}
    target = f"{__name__}:tell"
    answer = Child(target, deadline_s, arguments=told, doing="reading the run to compare with").answer()
    if answer.value is None:
        return Baseline.absent(shown(name), f"it could not be read: {shown(answer.failure)}", now)
    if "error" in answer.value:
        raise BaselineError(answer.value["error"])
    return _unpack(**answer.value)


def tell(name: str, start: str, now: Mapping[str, Any]) -> dict[str, Any]:
    """In the child: what :func:`find` finds, as JSON can hold it, or its ``error``."""
    try:
        found = find(name, Path(start), Circumstances.from_json(now), os.environ)
    except BaselineError as error:
        return {"error": str(error)}
    return {**asdict(found), "numbers": [[*key, asdict(number)] for key, number in found.numbers.items()]}


def _unpack(numbers: list[Any], circumstances: Mapping[str, Any], **said: Any) -> Baseline:
    return Baseline(
        circumstances=Circumstances.from_json(circumstances),
        numbers={(name, unit, device): Earlier.from_json(number) for name, unit, device, number in numbers},
        **{**said, "skipped": tuple(said["skipped"])},
    )


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
        raise BaselineError(shown(error, _LONGEST_LINE).rstrip(".")) from None


def _of(report: Report, name: str, now: Circumstances) -> Baseline:
    if report.document.get("exitcode") is None:
        raise ReportError(f"{report.path}: its run has not finished")
    try:
        return Baseline.of(report.document, name, now)
    except DAMAGED as error:
        raise ReportError(f"{report.path}: the report is damaged ({type(error).__name__}: {error})") from None


def _store_at(path: Path, now: Circumstances) -> Store:
    """The store that this folder is, or that it is a machine's folder of."""
    machine = _machine(now)
    return Store(path.parent if path.name == machine else path)


def _last(store: Store, now: Circumstances) -> Baseline:
    """The newest run of this level that is whole and in which no number speaks against the machine.

    A device that has become slow would otherwise be compared with itself from its second run on, and one run that
    measured nothing would hide all before it. Where there is no such run, the newest that can be compared has to do.
    """
    machine = _machine(now)
    if not machine:
        return Baseline.absent(str(store.path), "no run of a machine without GPUs is kept there", now)
    what = f"no run of level {now.level} of this machine is kept there"
    best = Baseline.absent(str(store.path / machine), what, now)
    skipped: list[str] = []
    for stored in reversed(store.runs(machine)):
        try:
            report = stored.load()
            if report.level != now.level:
                continue
            found = _of(report, stored.path.name, now)
        except ReportError as error:
            skipped.append(shown(error, _LONGEST_LINE))
            continue
        if not found.refused and _is_well(report):
            best = found
            break
        if not best.numbers and (found.numbers or not best.started):
            best = found
    return replace(best, skipped=tuple(skipped))


def _is_well(report: Report) -> bool:
    return is_complete(report.document) and all(number.judgement not in UNSOUND for number in report.measurements)


def _machine(now: Circumstances) -> str:
    """The name of this machine's folder; "" where no GPU says which it is."""
    gpus = [{"uuid": uuid} for uuid in now.devices]
    try:
        return machine_of({"device": now.device, "environment": {"hostname": now.hostname}, "gpus": gpus})
    except StoreError:
        return ""
