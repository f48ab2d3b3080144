"""What a report says of each check and its test, as far as the verdict is formed from it.

Here from the dicts of a report; the fleet has it made from the text, without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

ABSENT: Final = object()
"""In the place of what has no key."""

DIED = "???"
"""What pytest-xdist calls the stage of a test whose process died."""


class Check(Protocol):
    """One check that was collected. What is read from a file may be of any type, here and below."""

    @property
    def id(self) -> Any: ...
    @property
    def topic(self) -> Any: ...
    @property
    def name(self) -> Any: ...
    @property
    def title(self) -> Any: ...
    @property
    def severity(self) -> Any: ...
    @property
    def level(self) -> Any: ...
    @property
    def device(self) -> Any: ...


class Stage(Protocol):
    """How the setup, call or teardown of a test ended; None where the report does not say."""

    @property
    def outcome(self) -> Any: ...
    @property
    def longrepr(self) -> Any: ...
    @property
    def crash(self) -> Any: ...


class Record(Protocol):
    """One test; ``died`` is the stage DIED."""

    @property
    def nodeid(self) -> Any: ...
    @property
    def outcome(self) -> Any: ...
    @property
    def setup(self) -> Stage: ...
    @property
    def call(self) -> Stage: ...
    @property
    def teardown(self) -> Stage: ...
    @property
    def died(self) -> Stage: ...
    @property
    def user_properties(self) -> Any: ...


class Number(Protocol):
    """One measurement; ``test`` is ABSENT for those of our own checks, ``nodes`` for those of one node alone."""

    @property
    def name(self) -> Any: ...
    @property
    def value(self) -> Any: ...
    @property
    def unit(self) -> Any: ...
    @property
    def device(self) -> Any: ...
    @property
    def ci95(self) -> Any: ...
    @property
    def test(self) -> Any: ...
    @property
    def nodes(self) -> Any: ...


class _Check(NamedTuple):
    id: Any
    topic: Any
    name: Any
    title: Any
    severity: Any
    level: Any
    device: Any


class _Number(NamedTuple):
    name: Any
    value: Any
    unit: Any
    device: Any
    ci95: Any
    test: Any
    nodes: Any


class _Stage(NamedTuple):
    outcome: Any = None
    longrepr: Any = None
    crash: Any = None


_NO_STAGE = _Stage()


class _Record(NamedTuple):
    nodeid: Any
    outcome: Any
    setup: Stage
    call: Stage
    teardown: Stage
    died: Stage
    user_properties: Any


def checks(run: Mapping[str, Any]) -> list[Check]:
    """The checks that a run collected, in its order.

    :param run: the report's key ``bionemo``.
    :raises AttributeError, LookupError, TypeError: if it is damaged.
    """
    return [
        _Check(one["id"], one["topic"], one["name"], one["title"], one["severity"], one["level"], one.get("device"))
        for one in run["checks"]
    ]


def numbers(run: Mapping[str, Any]) -> list[Number]:
    """The measurements of a run.

    :raises AttributeError, LookupError, TypeError: if it is damaged.
    """
    measured = run.get("measurements", [])
    if not isinstance(measured, list):
        raise TypeError("its measurements are no list")
    return [_number(one) for one in measured]


def _number(one: Mapping[str, Any]) -> _Number:
    own = (one["name"], one["value"], one["unit"], one["device"], one["ci95"])
    return _Number(*own, test=one.get("test", ABSENT), nodes=one.get("nodes", ABSENT))


def tests(report: Mapping[str, Any]) -> list[Record]:
    """The tests of a report, in its order.

    :raises AttributeError, LookupError, TypeError: if it is damaged.
    """
    return [
        _Record(
            nodeid=test["nodeid"],
            outcome=test.get("outcome"),
            setup=_stage(test, "setup"),
            call=_stage(test, "call"),
            teardown=_stage(test, "teardown"),
            died=_stage(test, DIED),
            user_properties=test.get("user_properties", ()),
        )
        for test in report.get("tests", ())
    ]


def _stage(test: Mapping[str, Any], name: str) -> Stage:
    if name not in test:
        return _NO_STAGE
    said = test[name]
    return _Stage(said.get("outcome"), said.get("longrepr"), said.get("crash"))
