"""The words that options, markers and reports share. Importing it costs nothing: every run of pytest does."""

from __future__ import annotations

from typing import Literal, get_args

Severity = Literal["blocker", "warning"]
Level = Literal["quick", "standard", "full"]
Device = Literal["cuda", "cpu"]
Progress = Literal["auto", "on", "off"]

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
LEVELS: tuple[Level, ...] = get_args(Level)
DEVICES: tuple[Device, ...] = get_args(Device)
PROGRESS: tuple[Progress, ...] = get_args(Progress)

DEFAULT_REPORT = "bionemo_validation_report.json"

RUN_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""What a run can be called in the history of its machine: it is part of the name of a file."""
