"""Readiness checks for NVIDIA BioNeMo, as pytest tests.

``pytest --bionemo-validate`` says whether a machine is ready to train and run BioNeMo workloads, and if not, what
must be fixed; :func:`validate` says so in a notebook. This module offers the names that a check of your own needs,
too. Each is imported on first use, so that ``import pytest_bionemo`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_bionemo.checking import check as check
    from pytest_bionemo.checking import fail as fail
    from pytest_bionemo.checking import not_applicable as not_applicable
    from pytest_bionemo.checking import wait_for as wait_for
    from pytest_bionemo.model import Action as Action
    from pytest_bionemo.model import Gpu as Gpu
    from pytest_bionemo.model import GpuEnv as GpuEnv
    from pytest_bionemo.notebooks import validate as validate
    from pytest_bionemo.reports import NotReady as NotReady
    from pytest_bionemo.reports import Report as Report
    from pytest_bionemo.verdict import ReportError as ReportError
    from pytest_bionemo.verdict import fold as fold
    from pytest_bionemo.worker import Trouble as Trouble
    from pytest_bionemo.worker import WorkloadFailed as WorkloadFailed

_HOME_OF = {
    "Action": "pytest_bionemo.model",
    "Gpu": "pytest_bionemo.model",
    "GpuEnv": "pytest_bionemo.model",
    "NotReady": "pytest_bionemo.reports",
    "Report": "pytest_bionemo.reports",
    "ReportError": "pytest_bionemo.verdict",
    "Trouble": "pytest_bionemo.worker",
    "WorkloadFailed": "pytest_bionemo.worker",
    "check": "pytest_bionemo.checking",
    "fail": "pytest_bionemo.checking",
    "fold": "pytest_bionemo.verdict",
    "not_applicable": "pytest_bionemo.checking",
    "validate": "pytest_bionemo.notebooks",
    "wait_for": "pytest_bionemo.checking",
}

__all__ = [
    "Action",
    "Gpu",
    "GpuEnv",
    "NotReady",
    "Report",
    "ReportError",
    "Trouble",
    "WorkloadFailed",
    "check",
    "fail",
    "fold",
    "not_applicable",
    "validate",
    "wait_for",
]


def __getattr__(name: str) -> object:
    try:
        home = _HOME_OF[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
