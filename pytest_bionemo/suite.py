"""The checks as a tree below the session: Suite, one CheckModule for each topic, one CheckItem for each check.

The modules have a virtual path, ``rootdir/bionemo/<topic>``. So node ids are short and the same everywhere,
the project's ``python_files``, ``python_functions`` and conftest hooks have no say, and the terminal shows a
line for each topic.
"""

from __future__ import annotations

import fnmatch
import functools
import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from _pytest._io.saferepr import saferepr  # of an object whose own repr may raise
from packaging.utils import canonicalize_name

from pytest_bionemo import checks, needs
from pytest_bionemo.checking import TARGET, CheckFailed, CheckSpec, encodable, spec_of
from pytest_bionemo.compute import MEASUREMENT, ComputeDevice
from pytest_bionemo.facts import targets
from pytest_bionemo.model import Gpu, Outcome
from pytest_bionemo.needs.kept import OPTIONS
from pytest_bionemo.terms import LEVELS, Level, Severity
from pytest_bionemo.verdict import PREFIX

NAME = "bionemo"
OUTCOME = "bionemo_outcome"  # the property in which a check records how it ended
_TOKEN = re.compile(rf"^{NAME}/(?P<topic>[\w-]+)(?:::(?P<name>\w+)(?P<parameters>\[.*\])?)?$")
_RECORDS = (MEASUREMENT, TARGET)  # what fixtures of ours write into the properties of a check
# Fixtures that stand for one GPU each, and one device at work: a check that asks for one runs once for every one.
_PER_GPU = ("gpu", "any_gpu")
_PER_DEVICE = ("device",)
# What a module can raise at import that breaks this module only. The last two are no Exception.
BROKEN_IMPORT = (Exception, SystemExit, pytest.skip.Exception, pytest.fail.Exception)


@dataclass
class Collected:
    """What the suite holds, recorded where it is made: no filter of another plugin comes before it.

    ``topics`` are the modules with the checks that they declare, or the error of their import; ``checks`` are
    the collected checks, one for each parameter; ``deselected`` are ids.
    """

    topics: list[dict[str, Any]] = field(default_factory=list)
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    deselected: set[str] = field(default_factory=set)

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add what a worker of pytest-xdist collected: every worker collects the same."""
        known = {topic["name"] for topic in self.topics}
        self.topics += [topic for topic in other["topics"] if topic["name"] not in known]
        self.checks.update((check["id"], check) for check in other["checks"])
        self.deselected.update(other["deselected"])

    def to_json(self) -> dict[str, Any]:
        """Plain builtins, as they stand in the report."""
        return {
            "topics": self.topics,
            "checks": list(self.checks.values()),
            "deselected": sorted(self.deselected),
        }


class Suite(pytest.Collector):
    """All checks. The fixtures that they need are registered on this node: no conftest shadows them."""

    def __init__(self, *, modules: Sequence[str], level: Level, collected: Collected, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.obj: ModuleType = checks
        self.modules = modules
        self.level = level
        self.collected = collected
        # The project may turn warnings into errors; those of a driver library are not its concern.
        self.add_marker(pytest.mark.filterwarnings("default"))

    def collect(self) -> Iterable[pytest.Collector]:
        """One module for each topic, recorded before another plugin can leave it out."""
        self._register_needs()
        for name in self.modules:
            topic = topic_of(name)
            record = {"name": topic, "module": name, "checks": [], "error": "the run did not get to it"}
            self.collected.topics.append(record)
            yield CheckModule.from_parent(self, path=self.config.rootpath / NAME / topic, record=record, suite=self)

    def _register_needs(self) -> None:
        if pytest.version_tuple < (8, 1):
            # There it finds fixtures by the text of ids alone, in which the suite is the folder "bionemo".
            for module in needs.MODULES:
                self.session._fixturemanager.parsefactories(module, NAME)
            return
        # pytest looks for fixtures in a node's obj, and shows the docstring of it.
        for module in needs.MODULES:
            self.obj = module
            self.session._fixturemanager.parsefactories(self)
        self.obj = checks


class CheckModule(pytest.Module):
    """One topic."""

    def __init__(self, *, record: dict[str, Any], suite: Suite, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.record = record
        self.module_name: str = record["module"]
        self.topic: str = record["name"]
        self.suite = suite

    def _getobj(self) -> ModuleType:
        return import_checks(self.module_name)

    def istestfunction(self, obj: object, name: str) -> bool:
        """Whether this is a check of the run's level."""
        return is_in_level(spec_of(obj), self.suite.level)

    def istestclass(self, obj: object, name: str) -> bool:
        """Checks are functions."""
        return False

    def collect(self) -> Iterable[pytest.Item]:
        """The checks of this topic, each recorded before anything can deselect it."""
        try:
            self.record["checks"] = declared_checks(import_checks(self.module_name), self.suite.level)
            items = [self._checked(item) for item in super().collect() if isinstance(item, pytest.Function)]
        except BROKEN_IMPORT as error:
            self.record["error"] = encodable(f"{type(error).__name__}: {error}")
            raise self.CollectError(f"{self.module_name}: {self.record['error']}") from None
        self.record["error"] = None
        return items

    def _checked(self, function: pytest.Function) -> CheckItem:
        item = CheckItem.from_function(function)
        spec = item.spec
        item.add_marker(pytest.mark.bionemo(topic=self.topic, severity=item.severity, level=spec.level))
        self.suite.collected.checks[item.nodeid] = {
            "id": item.nodeid,
            "topic": self.topic,
            "name": item.originalname,
            "title": spec.title,
            "severity": item.severity,
            "level": spec.level,
            "device": item.device,
        }
        return item


class CheckItem(pytest.Function):
    """One check, for one parameter."""

    evidence: list[tuple[str, str]]
    """What the validation has seen of it: only this counts in the verdict, and no property of the same name."""

    @classmethod
    def from_function(cls, function: pytest.Function) -> CheckItem:
        """The check for what pytest made of the function."""
        item: CheckItem = cls.from_parent(
            function.parent,
            name=function.name,
            callspec=getattr(function, "callspec", None),
            callobj=function.obj,
            fixtureinfo=function._fixtureinfo,
            originalname=function.originalname,
        )
        item.evidence = []
        item.obj = item.with_evidence(function.obj)
        return item

    def with_evidence(self, function: Callable[..., object]) -> Callable[..., None]:
        """The check, which leaves a record that it was really run and came to its end.

        What pytest says of a test can be changed by other plugins, and some do: this is what the verdict believes.
        """

        @functools.wraps(function)
        def run(**arguments: object) -> None:
            __tracebackhide__ = True
            result = function(**arguments)
            if result is not None:
                # Of a generator or a coroutine, which a decorator can bring in, nothing has run yet.
                raise TypeError(f"a check returns nothing, and this one returned {saferepr(result)}")
            self.evidence.append((OUTCOME, Outcome.PASSED.value))

        return run

    def properties(self) -> list[tuple[str, object]]:
        """The evidence, after what the check has recorded of itself, as every output and worker can take it."""
        own = [(encodable(str(name)), _plain(value)) for name, value in self.user_properties]
        return [*(pair for pair in own if pair[0] in _RECORDS or not pair[0].startswith(PREFIX)), *self.evidence]

    @property
    def spec(self) -> CheckSpec:
        """What ``@check`` declared."""
        spec = spec_of(self.function)
        assert spec, "only checks become items of the suite"
        return spec

    @property
    def severity(self) -> Severity:
        """What was declared; a warning where it is about something that nobody asked for with --bionemo-target."""
        if self.spec.about is None:
            return self.spec.severity
        about = canonicalize_name(self.spec.about.format(**self._parameters))
        wanted = self.config.stash[OPTIONS].targets
        is_needed = fnmatch.filter(targets.needed_by(wanted), about) if wanted else about not in targets.names()
        return self.spec.severity if is_needed else "warning"

    @property
    def _parameters(self) -> Mapping[str, Any]:
        return self.callspec.params if hasattr(self, "callspec") else {}

    @property
    def device(self) -> str | None:
        """The UUID of the GPU or slice that it is about, None if it is about none."""
        parameters = self._parameters
        found = next((parameters[name] for name in (*_PER_GPU, *_PER_DEVICE) if name in parameters), None)
        return found.label if isinstance(found, (Gpu, ComputeDevice)) else None

    def reportinfo(self) -> tuple[Path, int, str]:
        """The virtual path: with the real one, every line of ``-v`` would end in a path of site-packages."""
        return self.path, 0, self.getmodpath()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A finding is its own text; anything else is pytest's traceback."""
        if isinstance(excinfo.value, CheckFailed):
            return excinfo.value.finding.describe()
        return super().repr_failure(excinfo)


def _plain(value: object) -> str | int | float | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)  # those of a library are subclasses
    return encodable(value if isinstance(value, str) else saferepr(value))


def topic_of(module_name: str) -> str:
    """The last part of the dotted name."""
    return module_name.rpartition(".")[2]


def import_checks(module_name: str) -> ModuleType:
    """Import a check module with rewritten assertions; its warnings are never errors."""
    pytest.register_assert_rewrite(module_name)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        return import_module(module_name)


def is_in_level(spec: CheckSpec | None, level: Level) -> bool:
    """Whether a check runs at this level."""
    return spec is not None and LEVELS.index(spec.level) <= LEVELS.index(level)


def declared_checks(module: ModuleType, level: Level) -> list[str]:
    """The names of the checks that the module declares for this level.

    :raises ValueError: see :func:`checks_of`.
    """
    return [name for name, spec in checks_of(module).items() if is_in_level(spec, level)]


def checks_of(module: ModuleType) -> dict[str, CheckSpec]:
    """All checks that the module declares, by name.

    :raises ValueError: if there is none, or one is in a class: such a module would promise checks that never run.
    """
    for name, value in vars(module).items():
        parts = [part for base in value.__mro__ for part in vars(base).values()] if inspect.isclass(value) else []
        if any(spec_of(part) for part in parts):
            raise ValueError(f"the class {name} holds a @check, which never runs: make it a function of the module")
    found = {name: spec for name, value in vars(module).items() if (spec := spec_of(value))}
    if not found:
        hint = ": it is a package, offer its modules" if hasattr(module, "__path__") else ""
        raise ValueError(f"it holds no @check{hint}")
    return found


def modules(config: pytest.Config) -> list[str]:
    """The shipped check modules, then those of plugins and conftest files.

    :raises pytest.UsageError: if two modules give the same topic, or what was offered is no list of names.
    """
    offered = [name for answer in config.hook.pytest_bionemo_checks(config=config) for name in _names_in(answer)]
    found = [*checks.shipped(), *dict.fromkeys(offered)]
    for name in found:
        twins = [other for other in found if topic_of(other) == topic_of(name)]
        if len(twins) > 1:
            raise pytest.UsageError(f"two check modules give the topic {topic_of(name)!r}: {' and '.join(twins)}.")
    return found


def _names_in(answer: object) -> list[str]:
    # Read once: it may be a generator.
    names = list(answer) if isinstance(answer, Iterable) else []
    texts = [name for name in names if isinstance(name, str)]
    if not isinstance(answer, Iterable) or isinstance(answer, str | bytes | Mapping) or texts != names:
        raise pytest.UsageError(f"pytest_bionemo_checks returned {answer!r}, not a list of dotted module names.")
    return texts


def parametrize_over_gpus(metafunc: pytest.Metafunc, gpus: Sequence[Gpu]) -> None:
    """Run a check that asks for ``gpu`` once for each GPU."""
    _parametrize(metafunc, _PER_GPU, [pytest.param(gpu, id=f"gpu{gpu.index}") for gpu in gpus])


def parametrize_over_devices(metafunc: pytest.Metafunc, devices: Callable[[], Iterable[ComputeDevice]]) -> None:
    """Run a check that asks for ``device``, or for what rests on it, once for each device."""
    if set(_PER_DEVICE) & set(metafunc.fixturenames):
        _parametrize(metafunc, _PER_DEVICE, [pytest.param(device, id=device.name) for device in devices()])


def _parametrize(metafunc: pytest.Metafunc, names: Sequence[str], parameters: Sequence[Any]) -> None:
    """Without any parameter it stays one check that is not run: an empty list would be an error in some projects.

    A wider scope would have pytest sort the run by GPU instead of by topic.
    """
    for name in names:
        if name in metafunc.fixturenames:
            choices = parameters or [pytest.param(None, id="no-gpu")]
            metafunc.parametrize(name, choices, indirect=True, scope="function")


# ------------------------------------------------------------------------------------------ pasted node ids


def is_token(argument: str, folder: Path) -> bool:
    """Whether a command line argument is the id of a topic or check, and not a path that exists."""
    return bool(_TOKEN.match(argument)) and not (folder / argument.partition("::")[0]).exists()


def matches(token: str, nodeid: str) -> bool:
    """Whether the id is the one that the token names, or lies below it."""
    return nodeid == token or nodeid.startswith((f"{token}::", f"{token}["))


def reject_unknown(tokens: Iterable[str], module_names: Sequence[str]) -> None:
    """Refuse tokens whose topic or check does not exist.

    :raises pytest.UsageError: one line that names the token and what there is.
    """
    by_topic = {topic_of(name): name for name in module_names}
    for token in tokens:
        match = _TOKEN.match(token)
        assert match, "only tokens come here"
        if match["topic"] not in by_topic:
            raise pytest.UsageError(unknown(token, "topic of this name", match["topic"], by_topic))
        if match["name"]:
            _reject_unknown_check(token, match["name"], by_topic[match["topic"]])


def _reject_unknown_check(token: str, name: str, module_name: str) -> None:
    try:
        declared = list(checks_of(import_checks(module_name)))
    except BROKEN_IMPORT:
        return  # the run will say that the topic cannot be collected
    if name not in declared:
        raise pytest.UsageError(unknown(token, "check of this name", name, declared))


def unknown(token: str, what: str, name: str, known: Iterable[str]) -> str:
    """The line for a token that names nothing: the token, what comes near, and what there is."""
    choices = list(known)
    near = get_close_matches(name, choices, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{token}: no {what}, and no such path.{hint} Choose from: {', '.join(choices)}."


_MEETINGS = {"encounter", "team"}
"""What a check asks for that meets those of other nodes, or of other devices."""


def keep_meetings_in_order(items: list[pytest.Item], ordered: Sequence[pytest.Item]) -> None:
    """Put checks in which nodes meet back into this order, one after the other, at the place of the last of them.

    Each node has a pytest of its own, and a plugin that shuffles does it otherwise on each: one would wait in one
    meeting while another waits in the next, and both would be taken for nodes that hang.
    """
    kept = set(items)
    meetings = [item for item in ordered if item in kept and _meets_others(item)]
    if meetings:
        together = set(meetings)
        end = max(index for index, item in enumerate(items) if item in together) + 1
        before = [item for item in items[:end] if item not in together]
        items[:end] = [*before, *meetings]


def _meets_others(item: pytest.Item) -> bool:
    return isinstance(item, CheckItem) and not _MEETINGS.isdisjoint(item.fixturenames)
