"""Facts about the environment that plugins and conftest files add to the report."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_bionemo.hookspec import Scalar
from pytest_bionemo.report.clean import REDACTED, hider, speaks_of_a_secret

_HOOK = "pytest_bionemo_environment"
_SCALARS = (str, int, float, bool, type(None))
# What the code of others can raise. The last two are no Exception.
_RAISED = (Exception, SystemExit, pytest.skip.Exception, pytest.fail.Exception)


@dataclass
class SiteFacts:
    """The facts by name, and what was raised in the place of facts."""

    facts: dict[str, Scalar] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


def gather(config: pytest.Config) -> SiteFacts:
    """Ask every plugin and conftest file.

    One that raises costs its facts alone: they prove nothing about the machine, and what is missing on this node
    must not cost its verdict. It is said in the report and on the screen. One that returns something else is wrong
    on every machine, and whoever wrote it has to know.

    :raises pytest.UsageError: one line, for what is no mapping of names to scalars, and for a fact that two give
        differently.
    """
    found = SiteFacts()
    given_by: dict[str, str] = {}
    for plugin, answer in _answers(config, found.errors):
        for name, value in _checked(plugin, answer).items():
            if name in found.facts and found.facts[name] != value:
                one, other = _shown(name, found.facts[name]), _shown(name, value)
                raise pytest.UsageError(
                    f"{_HOOK}: {given_by[name]} says that {_shown('', name)} is {one}, and {plugin} that it is "
                    f"{other}: rename one of the two."
                )
            found.facts[name] = value
            given_by[name] = plugin
    found.facts = {name: _without_secret(name, value) for name, value in found.facts.items()}
    return found


def _answers(config: pytest.Config, errors: list[str]) -> Iterator[tuple[str, object]]:
    manager = config.pluginmanager
    implementations = getattr(config.hook, _HOOK).get_hookimpls()
    plugins = [one.plugin for one in implementations]
    for implementation in implementations:
        name = _name_of(implementation.plugin_name, config.rootpath)
        others = [plugin for plugin in plugins if plugin is not implementation.plugin]
        try:
            # One by one: what one raises must not take away what the others know.
            answers = manager.subset_hook_caller(_HOOK, others)(config=config)
        except _RAISED as error:
            errors.append(f"{name}: {type(error).__name__}: {error}")
            continue
        yield from ((name, answer) for answer in answers)


def _name_of(plugin: str, root: Path) -> str:
    """The name of a plugin; the path of a conftest file as people would type it."""
    return str(Path(plugin).relative_to(root)) if Path(plugin).is_relative_to(root) else plugin


def _checked(plugin: str, answer: object) -> Mapping[str, Scalar]:
    if not isinstance(answer, Mapping):
        kind = type(answer).__name__
        raise pytest.UsageError(
            f"{_HOOK} of {plugin} returned a value of type {kind}, not a mapping of names to values."
        )
    for name, value in answer.items():
        if not isinstance(name, str) or not name.strip():
            raise pytest.UsageError(
                f"{_HOOK} of {plugin}: {_shown('', name)} is no name of a fact: use a text such as 'rack'."
            )
        if not isinstance(value, _SCALARS):
            raise pytest.UsageError(
                f"{_HOOK} of {plugin}: {_shown('', name)} is a value of type {type(value).__name__}. "
                "A fact is a str, int, float, bool or None."
            )
    return answer


def _shown(name: str, value: object) -> str:
    """A value in a message: an error must tell no more than the report would."""
    return REDACTED if speaks_of_a_secret(_words(name)) else hider(os.environ)(repr(value))


def _without_secret(name: str, value: Scalar) -> Scalar:
    return REDACTED if value is not None and speaks_of_a_secret(_words(name)) else value


def _words(name: str) -> str:
    """As in the name of a variable: api_Token for apiToken."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|\W+", "_", name)
