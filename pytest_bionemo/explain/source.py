"""What the source of a check tells of it: read as text, never run.

From the function of the check on, every function of ours that it names is read as well, and every fixture that it
asks for. What is found there are the checks that it may wait for, the reasons for which it does not apply, the limits
that it compares numbers with, the tables of facts that it looks up, and links. Where there is no source (a package
that was installed without), nothing is found, which is no error.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, is_dataclass
from types import FunctionType, ModuleType
from typing import Any

import pytest

from pytest_bionemo import checking, judging, needs
from pytest_bionemo.compute import Compute
from pytest_bionemo.explain.syntax import about, own_names, syntax_of, walk, written
from pytest_bionemo.facts import load
from pytest_bionemo.judging import Limits
from pytest_bionemo.needs.established import ESTABLISHED_BY

_OURS = "pytest_bionemo"
# What decides. Probes and workloads give facts and numbers; "fixes" words what to do.
_READ = ("checks", "facts", "needs", "fixtures", "rules", "rulers", "exchanging", "blaming", "memory")


@dataclass(frozen=True)
class Limit:
    """A number that others are compared with: its name in the code, what it is, and what is said about it.

    ``value`` is a number, or the shares of a ruler below which a device is degraded, and low.
    """

    name: str
    value: float | Limits
    about: str


@dataclass
class Found:
    """What the source tells.

    ``checks`` are texts that look like ids of checks ("driver::loads"): true where the check itself waits for it,
    false where that is through another one; ``topics`` are those of which the rest is computed ("health").
    ``sections`` are those of tables of facts ("host", "threshold"); ``asked`` are the texts that functions of facts
    were asked for, ``words`` all texts. ``rulers`` are what numbers are judged by, of "bound", "reference",
    "uncalibrated", "peers", "peer_limits" (the usual ones), "baseline" and "rehearsed_before" (the usual one).
    """

    checks: dict[str, bool] = field(default_factory=dict)
    topics: set[str] = field(default_factory=set)
    reasons: dict[str, None] = field(default_factory=dict)
    links: dict[str, None] = field(default_factory=dict)
    limits: dict[str, Limit] = field(default_factory=dict)
    rulers: set[str] = field(default_factory=set)
    sections: dict[tuple[str, str], None] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    fixtures: set[str] = field(default_factory=set)


def read(function: Callable[..., object], needed: tuple[str, ...] = ()) -> Found:
    """Read a check and all that it calls.

    :param function: the function of the check.
    :param needed: fixtures that it needs without taking their value.
    """
    plain = inspect.unwrap(function)
    reader = _Reader(sys.modules[plain.__module__], plain.__name__)
    for name in needed:
        reader.meet_fixture(name, is_own=True)
    reader.read_all()
    return reader.found


class _Reader:
    def __init__(self, module: ModuleType, name: str) -> None:
        self.found = Found()
        self._home = module
        self._todo: list[tuple[ModuleType, ast.FunctionDef, bool]] = []
        self._seen: set[tuple[str, str, bool]] = set()
        # What the fields of a record are given, which judge() then takes from it.
        self._given: set[str] = set()
        self._judged: list[ast.Call] = []
        self._add(module, name, is_own=True)

    def read_all(self) -> None:
        while self._todo:
            module, node, is_own = self._todo.pop(0)
            _Function(self, module, node, is_own).read()
        for call in self._judged:
            self._read_judgement(call)

    def _add(self, module: ModuleType, name: str, *, is_own: bool) -> None:
        node = syntax_of(module).functions.get(name)
        if node and (module.__name__, name, is_own) not in self._seen:
            self._seen.add((module.__name__, name, is_own))
            self._todo.append((module, node, is_own))

    def meet_fixture(self, name: str, *, is_own: bool) -> None:
        """A fixture that stands beside the check, or one of those that checks may ask for.

        What another check establishes is that check's own: of the fixture that gives it, only what is waited for.
        """
        self.found.fixtures.add(name)
        module = self._home if name in syntax_of(self._home).functions else _module_of(name)
        is_gate = name in ESTABLISHED_BY and module in needs.MODULES
        if is_gate:
            self.meet_check(ESTABLISHED_BY[name], is_own=is_own)
        self._add(module, name, is_own=is_own and not is_gate)

    def meet_chosen(self, name: str, *, is_own: bool) -> None:
        """A fixture that is taken where it applies, and another one where not: only what it waits for counts."""
        reader = _Reader(_module_of(name), name)
        reader.read_all()
        for check in reader.found.checks:
            self.meet_check(check, is_own=False)
        if name in ESTABLISHED_BY:
            self.meet_check(ESTABLISHED_BY[name], is_own=is_own)

    def meet_check(self, check: str, *, is_own: bool) -> None:
        """A check that may have to pass first."""
        self.found.checks[check] = is_own or self.found.checks.get(check, False)

    def meet(self, thing: object, name: str, module: ModuleType, *, is_own: bool) -> None:
        """Something that a function names."""
        if not is_own and not callable(thing):
            return
        if isinstance(thing, Limits):
            # Where it is bound to its name: "judging.PRODUCTS" is found in judging.
            home = judging if vars(judging).get(name) is thing else module
            self.found.limits[name] = Limit(name, thing, about(home, name))
        elif isinstance(thing, str) and thing.startswith("https://"):
            self.found.links[thing] = None
        elif (plain := _function_in(thing)) and self._is_read(plain):
            self._add(sys.modules[plain.__module__], plain.__name__, is_own=is_own)

    def _is_read(self, function: FunctionType) -> bool:
        package, _, rest = function.__module__.partition(".")
        if package != _OURS:
            return package == self._home.__name__.partition(".")[0]
        return rest.partition(".")[0] in _READ and rest != "facts"

    def meet_call(self, function: object, node: ast.Call) -> None:
        """A call, of whatever it is."""
        if function is judging.judge:
            self._judged.append(node)
        elif isinstance(function, type) and is_dataclass(function):
            places = list(inspect.signature(function).parameters)
            self._given.update(places[: len(node.args)], (one.arg for one in node.keywords if one.arg))

    def _read_earlier(self, call: ast.Call) -> None:
        """judge(**device.earlier_rulers("memory_copy", "GB/s")): in a rehearsal with limits of their own, or not."""
        function = getattr(Compute, call.func.attr, None) if isinstance(call.func, ast.Attribute) else None
        if function is Compute.earlier_rulers:
            self.found.rulers.add("baseline")
            if len(call.args) < len(inspect.signature(function).parameters) - 1:
                self.found.rulers.add("rehearsed_before")

    def _read_judgement(self, call: ast.Call) -> None:
        given = {one.arg for one in call.keywords if one.arg and not _is_left_out(one.arg, one.value, self._given)}
        self.found.rulers |= given & {"bound", "reference", "peers"}
        if "is_calibrated" in given and "reference" in given:
            self.found.rulers.add("uncalibrated")
        limits = next((one.value for one in call.keywords if one.arg == "peer_limits"), ast.Constant(None))
        for keyword in call.keywords:
            if keyword.arg is None and isinstance(keyword.value, ast.Call):
                self._read_earlier(keyword.value)
        if "peers" in given and any(isinstance(one, ast.Constant) and one.value is None for one in ast.walk(limits)):
            self.found.rulers.add("peer_limits")  # the usual ones


def _module_of(fixture: str) -> ModuleType:
    """Where a fixture is that checks may ask for; any module where there is none of this name."""
    return next((one for one in needs.MODULES if fixture in vars(one)), needs)


def _function_in(thing: object) -> FunctionType | None:
    """The function below its decorators. It is looked for and not asked for: some objects have every attribute."""
    is_wrapper = inspect.getattr_static(thing, "__wrapped__", None) is not None
    plain = inspect.unwrap(thing) if is_wrapper and callable(thing) else thing
    return plain if isinstance(plain, FunctionType) else None


def _is_left_out(name: str, value: ast.expr, given: set[str]) -> bool:
    """Whether judge() is handed a field of a record that nobody fills: reference=quantity.reference."""
    return isinstance(value, ast.Attribute) and value.attr == name and name not in given


class _Function:
    """One function, of whose body the names, texts and calls are met."""

    def __init__(self, reader: _Reader, module: ModuleType, node: ast.FunctionDef, is_own: bool) -> None:
        self._reader, self._found, self._node = reader, reader.found, node
        self._module, self._is_own = module, is_own
        self._own_names = own_names(node)

    def read(self) -> None:
        if self._is_fixture_or_check():
            arguments = self._node.args
            for argument in (*arguments.args, *arguments.kwonlyargs):
                self._reader.meet_fixture(argument.arg, is_own=self._is_own)
        for node in self._parts():
            self._read_node(node)

    def _is_fixture_or_check(self) -> bool:
        decorators = [one.func if isinstance(one, ast.Call) else one for one in self._node.decorator_list]
        return any(self._resolve(one) in (pytest.fixture, checking.check) for one in decorators)

    def _parts(self) -> Iterator[ast.AST]:
        body = self._node.body[1:] if ast.get_docstring(self._node) else self._node.body
        return (part for statement in body for part in walk(statement))

    def _read_node(self, node: ast.AST) -> None:
        if isinstance(node, ast.Attribute) and node.attr == "model" and self._is_device(node.value):
            self._found.sections["gpus", "gpu"] = None  # where it is looked up
        if isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            self._reader.meet(self._resolve(node), name, self._module, is_own=self._is_own)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            self._read_text(node.value)
        elif isinstance(node, ast.JoinedStr):
            self._read_topic(node)
        elif isinstance(node, ast.Subscript):
            self._read_subscript(node)
        elif isinstance(node, ast.Call):
            self._read_call(node)
        elif isinstance(node, ast.Compare | ast.IfExp):
            self._read_comparison(node)

    def _is_device(self, node: ast.expr) -> bool:
        annotated = {one.arg: one.annotation for one in self._node.args.args}
        annotation = annotated.get(node.id) if isinstance(node, ast.Name) else None
        return annotation is not None and self._resolve(annotation) is Compute and self._is_own

    def _resolve(self, node: ast.expr) -> object:
        if isinstance(node, ast.Name):
            return None if node.id in self._own_names else vars(self._module).get(node.id)
        if isinstance(node, ast.Attribute) and isinstance(base := self._resolve(node.value), ModuleType):
            # A module of somebody else may import others when it is asked for a name.
            is_ours = base.__name__.partition(".")[0] == _OURS
            return getattr(base, node.attr, None) if is_ours else vars(base).get(node.attr)
        return None

    def _read_text(self, text: str) -> None:
        self._found.words.add(text)
        head = text.partition("[")[0]
        topic, _, name = head.partition("::")
        if topic.isidentifier() and name.isidentifier():
            self._reader.meet_check(head, is_own=self._is_own)
        if text.startswith("https://") and self._is_own:
            self._found.links[text] = None

    def _read_topic(self, node: ast.JoinedStr) -> None:
        """f"health::{root}": the name of the check is among the texts of this function or another one."""
        first = node.values[0] if node.values else None
        if isinstance(first, ast.Constant) and str(first.value).endswith("::"):
            self._found.topics.add(str(first.value).removesuffix("::"))

    def _read_subscript(self, node: ast.Subscript) -> None:
        if self._resolve(node.value) is ESTABLISHED_BY:
            for name in self._texts_of(node.slice):
                if name in ESTABLISHED_BY:
                    self._reader.meet_check(ESTABLISHED_BY[name], is_own=self._is_own)
        elif self._is_own and isinstance(node.value, ast.Call) and self._resolve(node.value.func) is load:
            self._read_section(node)

    def _read_section(self, node: ast.Subscript) -> None:
        """load("host")["threshold"]; where the section is an argument, that of whoever calls this function."""
        call: Any = node.value
        table = getattr(call.args[0], "value", None) if call.args else None
        if not isinstance(table, str):  # the name is in a variable
            return
        wanted = {node.slice.value} if isinstance(node.slice, ast.Constant) else self._found.asked
        for section in load(table).keys() & wanted:
            self._found.sections[table, str(section)] = None

    def _texts_of(self, node: ast.expr) -> list[str]:
        """The text, or where it is in a variable, every text of the function."""
        within = [node] if isinstance(node, ast.Constant) else self._parts()
        return [part.value for part in within if isinstance(part, ast.Constant) and isinstance(part.value, str)]

    def _read_call(self, node: ast.Call) -> None:
        function = self._resolve(node.func)
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        texts = [part.value for argument in arguments for part in ast.walk(argument)
                 if isinstance(part, ast.Constant) and isinstance(part.value, str)]  # fmt: skip
        if function is checking.not_applicable and arguments:
            if reason := written(arguments[0]):
                self._found.reasons[reason] = None
        elif isinstance(node.func, ast.Attribute) and node.func.attr == "getfixturevalue" and arguments:
            self._read_request(arguments[0], texts)
        elif str(getattr(function, "__module__", "")).startswith(f"{_OURS}.facts."):
            self._found.asked.update(texts)
        else:
            self._reader.meet_call(function, node)

    def _read_request(self, asked: ast.expr, names: Sequence[str]) -> None:
        chosen = asked.body.value if isinstance(asked, ast.IfExp) and isinstance(asked.body, ast.Constant) else None
        for name in names:
            meet = self._reader.meet_chosen if name == chosen else self._reader.meet_fixture
            meet(name, is_own=self._is_own)

    def _read_comparison(self, node: ast.Compare | ast.IfExp) -> None:
        is_order = isinstance(node, ast.IfExp) or isinstance(node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE)
        if not is_order or not self._is_own:
            return
        for part in ast.walk(node):
            value = self._resolve(part) if isinstance(part, ast.Name) else None
            if isinstance(part, ast.Name) and isinstance(value, float) and (said := about(self._module, part.id)):
                self._found.limits[part.id] = Limit(part.id, value, said)
