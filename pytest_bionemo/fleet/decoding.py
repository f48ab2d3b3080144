"""Of a report's JSON what the fleet reads, made by msgspec: most of a report is passed over.

What does not look as it should raises ValueError, and is for the standard library to read and to name.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from msgspec import Struct, field
from msgspec.json import Decoder

from pytest_bionemo.records import ABSENT, DIED

# Of texts of which there are few, one copy is made.
_Level = Literal["quick", "standard", "full"]
_Severity = Literal["blocker", "warning"]
_Outcome = Literal["passed", "failed", "skipped", "error", "warned", "xfailed", "xpassed"]


class _Stage(Struct, frozen=True, gc=False):
    outcome: _Outcome | None = None
    longrepr: Any = None
    crash: Any = None


class _Said(TypedDict, total=False):
    bionemo_outcome: Any
    bionemo_severity: Any
    bionemo_message: Any
    bionemo_why: Any
    bionemo_fix: Any
    bionemo_action: Any
    bionemo_links: Any
    bionemo_blames: Any
    bionemo_waits_for: Any


class _Record(Struct, frozen=True, gc=False):
    nodeid: Any
    outcome: _Outcome | None = None
    setup: _Stage = _Stage()
    call: _Stage = _Stage()
    teardown: _Stage = _Stage()
    died: _Stage = field(default=_Stage(), name=DIED)
    user_properties: list[_Said] = []


class _Number(Struct, frozen=True, gc=False):
    name: Any
    value: Any
    unit: Any
    device: Any
    ci95: Any
    test: Any = ABSENT
    nodes: Any = ABSENT


class _Check(Struct, frozen=True, gc=False):
    id: Any
    topic: Any
    name: Any
    title: Any
    severity: _Severity
    level: _Level
    device: Any = None


class _Checked(TypedDict):
    checks: list[_Check]


class _Run(_Checked, total=False):
    schema_version: int
    started: Any
    level: Any
    device: Any
    environment: Any
    gpus: Any
    packages: Any
    measurements: list[_Number]
    targets: Any
    install_options: Any
    topics: Any
    deselected: Any


class Document(Struct, frozen=True):
    """A report, or what is taken for one."""

    bionemo: _Run
    tests: list[_Record] = []
    exitcode: Any = None
    tool: Any = None


_DECODER = Decoder(Document)


def decode(content: bytes) -> Document:
    """The document in these bytes.

    :raises ValueError: if it is no JSON, or no report by the types of its parts.
    """
    # What is passed over is looked at as JSON, and not as text.
    if not content.isascii():
        content.decode()
    return _DECODER.decode(content)
