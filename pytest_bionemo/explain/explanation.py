"""The explanation of one check, as data: what the docstring says, and what its source and the facts add."""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from types import ModuleType
from typing import Any

import pytest

from pytest_bionemo import judging
from pytest_bionemo.checking import CheckSpec, spec_of
from pytest_bionemo.checks import shipped
from pytest_bionemo.explain.evidence import Fact, facts_of
from pytest_bionemo.explain.source import Found, Limit, read
from pytest_bionemo.explain.syntax import about
from pytest_bionemo.judging import Limits
from pytest_bionemo.suite import NAME, import_checks, topic_of

_PARAM = type(pytest.param(None))
_BASELINE = "Of what it was in the run that --bionemo-baseline names, where the two intervals lie apart."
_DEVICES = {"GPU": ("gpu", "any_gpu"), "device": ("device", "worker")}


@dataclass(frozen=True)
class Check:
    """A check that is declared somewhere: its id without "bionemo/" ("driver::loads"), and what it is made of."""

    id: str
    function: Any = field(compare=False, repr=False)
    spec: CheckSpec
    topic_title: str

    @property
    def topic(self) -> str:
        """The module's last name."""
        return self.id.partition("::")[0]

    @property
    def name(self) -> str:
        """The function's."""
        return self.id.partition("::")[2]


@dataclass(frozen=True)
class Ruler:
    """What a number is compared with, as a sentence."""

    name: str
    limits: str
    about: str


@dataclass(frozen=True)
class Explanation:
    """All that is known of a check without running it.

    ``why``, ``how`` and ``fix`` are None where its docstring does not say. ``waits_for`` are the checks that have to
    pass first, ``through_them`` what those wait for in turn. ``runs_for`` says for what it runs once each: values of
    its parameters, and "GPU" or "device". ``command`` runs this check alone.
    """

    id: str
    title: str
    topic: str
    topic_title: str
    severity: str
    level: str
    runs_for: Mapping[str, list[str]]
    more: str | None
    why: str | None
    how: str | None
    rulers: list[Ruler]
    waits_for: list[str]
    through_them: list[str]
    not_applicable: list[str]
    fix: str | None
    facts: list[Fact]
    links: list[str]
    command: str

    def to_json(self) -> dict[str, Any]:
        """Plain builtins."""
        return asdict(self)


def shipped_checks() -> list[Check]:
    """Every check that comes with pytest-bionemo, in the order of a run."""
    return [check for name in shipped() for check in checks_in(import_checks(name))]


def checks_in(module: ModuleType) -> list[Check]:
    """The checks that a module declares, in its order."""
    topic, title = topic_of(module.__name__), (module.__doc__ or "").strip().partition("\n")[0]
    found = ((name, function, spec_of(function)) for name, function in vars(module).items())
    return [Check(f"{topic}::{name}", function, spec, title) for name, function, spec in found if spec]


def explain(check: Check, all_checks: Collection[Check], instance: str = "") -> Explanation:
    """Explain a check.

    :param check: the one to explain.
    :param all_checks: every check that there is: only these can be waited for.
    :param instance: of a check with parameters the part of its id in brackets ("gpu0-fp16"): facts about other
        parameters are left out.

    >>> checks = shipped_checks()
    >>> explain(checks[0], checks).command
    'pytest bionemo/host::runs_linux'
    """
    spec, found = check.spec, read(check.function, check.spec.needs)
    runs_for = _parameters(check.function)
    named = [value for values in runs_for.values() for value in values if _is_in(value, instance)]
    waits_for, through_them = _waits(check, found, all_checks)
    return Explanation(
        id=f"{NAME}/{check.id}",
        title=spec.title,
        topic=check.topic,
        topic_title=check.topic_title,
        severity=spec.severity,
        level=spec.level,
        runs_for={**{kind: [] for kind, names in _DEVICES.items() if found.fixtures & set(names)}, **runs_for},
        more=spec.more,
        why=spec.why,
        how=spec.how,
        rulers=list(_rulers(found)),
        waits_for=waits_for,
        through_them=through_them,
        not_applicable=list(found.reasons),
        fix=spec.fix,
        facts=facts_of(found, named),
        links=list(found.links),
        command=_command(check, instance),
    )


def _command(check: Check, instance: str) -> str:
    """Quoted: a shell takes brackets for a pattern, and parameters of others may hold anything."""
    token = f"{NAME}/{check.id}[{instance}]" if instance else f"{NAME}/{check.id}"
    return f"pytest {shlex.quote(token)}" + (" --bionemo-level full" if check.spec.level == "full" else "")


def _parameters(function: Any) -> dict[str, list[str]]:
    """For which values of its parameters a check runs, by the name of the parameter."""
    marks = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"]
    told = [dict(zip(("argnames", "argvalues"), mark.args, strict=False)) | mark.kwargs for mark in marks]
    return {
        one["argnames"]: list(_ids_of(one["argnames"], one["argvalues"], one.get("ids")))
        for one in told
        if isinstance(one["argnames"], str) and "," not in one["argnames"]
    }


def _ids_of(name: str, values: Iterable[Any], ids: Any) -> Iterator[str]:
    """What stands for each value in the ids of tests: pytest's own words for it depend on the version."""
    named = list(ids) if isinstance(ids, Iterable) else []
    for place, value in enumerate(values):
        said: Any = value.id if isinstance(value, _PARAM) else None
        plain = value.values[0] if isinstance(value, _PARAM) else value
        if said is None:
            said = named[place] if place < len(named) else ids(plain) if callable(ids) else plain
        if not isinstance(said, str | int | float):  # an object is known by its place
            said = getattr(said, "__name__", f"{name}{place}")
        yield str(said).encode("unicode_escape").decode()


def _is_in(value: str, instance: str) -> bool:
    """Whether an instance ("gpu0-fp16") is the one of this value: values may have hyphens themselves."""
    return f"-{instance}-".endswith(f"-{value}-") or f"-{instance}-".startswith(f"-{value}-")


def _waits(check: Check, found: Found, all_checks: Collection[Check]) -> tuple[list[str], list[str]]:
    """The checks that have to pass first, and those that these wait for, each in the order of a run."""
    names = [one.id for one in all_checks if one.id != check.id]
    computed = {f"{topic}::{word}" for topic in found.topics for word in found.words}
    own = [name for name in names if found.checks.get(name) or name in computed]
    return own, [name for name in names if name in found.checks and name not in own]


def _rulers(found: Found) -> Iterator[Ruler]:
    if "bound" in found.rulers:
        yield Ruler("beyond physics", f"{judging.BEYOND_PHYSICS:.0%}", about(judging, "BEYOND_PHYSICS"))
    if "baseline" in found.rulers:
        yield Ruler("baseline", _shares(judging.NODE), _BASELINE)
    usual = {
        "reference": ["CALIBRATED"],
        "uncalibrated": ["UNCALIBRATED"],
        "peer_limits": ["NODE", "FEW"],
        "rehearsed_before": ["REHEARSED_BEFORE"],
    }
    names = dict.fromkeys(name for ruler, names in usual.items() if ruler in found.rulers for name in names)
    limits = {name: Limit(name, getattr(judging, name), about(judging, name)) for name in names}
    for limit in sorted({**found.limits, **limits}.values(), key=_is_rehearsed):
        yield Ruler(limit.name.strip("_").replace("_", " ").lower(), _shares(limit.value), limit.about)


def _is_rehearsed(limit: Limit) -> bool:
    return "rehears" in limit.name.lower() or "pretend" in limit.about.lower()


def _shares(value: float | Limits) -> str:
    if isinstance(value, Limits):
        if math.isclose(value.degraded, value.low):
            return f"below {value.low:.0%} low"
        return f"below {value.degraded:.0%} degraded, below {value.low:.0%} low"
    return f"{value:g}"
