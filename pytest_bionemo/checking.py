"""What a check is made of: ``@check``, and the four ways in which one ends.

A check returns (passed), calls :func:`fail` (a finding), calls :func:`not_applicable`, or asks for something
that another check has to establish first and that is not there (:func:`wait_for`). Anything else that it
raises, an ``AssertionError`` apart, is an error of the check itself and makes the verdict INCONCLUSIVE.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pytest

from pytest_bionemo.model import Action, Finding
from pytest_bionemo.terms import LEVELS, SEVERITIES, Level, Severity

if TYPE_CHECKING:
    # What pytest.skip raises; its public name is an attribute that type checkers cannot see.
    from _pytest.outcomes import Skipped
else:
    Skipped = pytest.skip.Exception

Function = TypeVar("Function", bound=Callable[..., Any])

_ATTRIBUTE = "__bionemo_check__"
_DEFERRED = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)

TARGET = "bionemo_target"
"""The property in which a check records, as JSON, what it found out about a target."""


@dataclass(frozen=True)
class CheckSpec:
    """What ``@check`` was told, and what the docstring says.

    ``title`` is its first line; ``fix``, ``why`` and ``how`` are its paragraphs "Fix: ...", "Why: ..." and
    "How it decides: ...", ``more`` is what else it says. Each is None where the docstring has none.
    """

    title: str
    severity: Severity
    level: Level
    needs: tuple[str, ...]
    about: str | None = None
    fix: str | None = None
    why: str | None = None
    how: str | None = None
    more: str | None = None


class CheckFailed(Exception):
    """Carries the finding out of a check."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


class NotApplicable(Skipped):
    """The check has no meaning on this machine, as a probe saw."""


class NotRun(Skipped):
    """The check could not run; ``waits_for`` names the check that has to pass first, if one does."""

    def __init__(self, reason: str, waits_for: str | None = None) -> None:
        super().__init__(f"waits for bionemo/{waits_for}: {reason}" if waits_for else reason)
        self.reason = reason
        self.waits_for = waits_for


def check(
    *, severity: Severity = "blocker", level: Level = "quick", needs: Iterable[str] = (), about: str | None = None
) -> Callable[[Function], Function]:
    """Declare a check.

    :param severity: ``blocker`` (required: without its pass there is no READY) or ``warning``.
    :param level: the lowest level at which it runs: ``quick`` (no GPU kernel), ``standard`` or ``full``.
    :param needs: names of fixtures that it needs without using their value. What comes in as an argument is
        needed too and is not repeated here.
    :param about: the package, or the target, that it is about; ``"{name}"`` is the value of its parameter ``name``,
        ``"bionemo-*"`` every package whose name begins like this.
        With ``--bionemo-target``, one about something that no such target needs is a warning.
    :raises ValueError: for an unknown severity or level, or a function without a docstring, whose first line
        is the title of the check, or one that yields or awaits. A paragraph of it that begins with "Fix: " says what
        to do about its findings, one with "Why: " why it matters, one with "How it decides: " how a pass is told from
        a finding: ``python -m pytest_bionemo explain`` prints them.
    """
    _expect("severity", severity, SEVERITIES)
    _expect("level", level, LEVELS)

    def declare(function: Function) -> Function:
        title = (function.__doc__ or "").strip().partition("\n")[0]
        if not title:
            raise ValueError(f"check {function.__qualname__} has no docstring: its first line is the title")
        # A decorator that keeps the name and docstring of what it wraps may drop what calling that gives.
        if any(is_deferred(inspect.unwrap(function)) for is_deferred in _DEFERRED):
            raise ValueError(f"check {function.__qualname__} yields or awaits: calling it would run nothing")
        spec = CheckSpec(title, severity, level, tuple(needs), about, **_told_by(inspect.getdoc(function) or ""))
        setattr(function, _ATTRIBUTE, spec)
        # pytest's own opt-in: collected whatever the project's python_functions say.
        function.__test__ = True  # type: ignore[attr-defined]
        return pytest.mark.usefixtures(*needs)(function) if needs else function

    return declare


_PARTS = {"Fix: ": "fix", "Why: ": "why", "How it decides: ": "how"}


def _told_by(docstring: str) -> dict[str, str]:
    """The parts of a docstring after its title, by the field of the specification that holds them."""
    told: dict[str, list[str]] = {}
    for paragraph in docstring.partition("\n")[2].strip().split("\n\n"):
        label = next((label for label in _PARTS if paragraph.startswith(label)), "")
        text = " ".join(paragraph.removeprefix(label).split())
        if text:
            told.setdefault(_PARTS.get(label, "more"), []).append(text)
    return {field: "\n".join(texts) if field == "more" else texts[0] for field, texts in told.items()}


def spec_of(function: object) -> CheckSpec | None:
    """What ``@check`` declared on this function; None if it is no check."""
    spec = getattr(function, _ATTRIBUTE, None)
    return spec if isinstance(spec, CheckSpec) else None  # some objects have every attribute


def fail(
    message: object,
    *,
    why: object = "",
    fix: str | Iterable[str] = (),
    action: Action = Action.FIX_SOFTWARE,
    links: str | Iterable[str] = (),
    severity: Severity | None = None,
    blames: str | Iterable[str] = (),
) -> NoReturn:
    """End the check with a finding.

    :param message: what was seen and what was expected, with the values; of an exception its text.
    :param why: what would go wrong.
    :param fix: what to do, one way a line; a line that starts with ``$ `` is a command to type.
    :param action: what has to be done, as a scheduler or an administrator reads it.
    :param links: where this is documented.
    :param severity: ``"warning"`` where a blocker found something that is worse than it should be and works.
    :param blames: the hosts that are at fault, where others of the job are and this machine is not.
    :raises TypeError: for a fix, links or blames that are no texts.
    :raises ValueError: for a message without text, an unknown action or severity.
    """
    __tracebackhide__ = True
    seen = _text("message", message)
    if severity is not None:
        _expect("severity", severity, SEVERITIES)
    reason = str(why or "")
    lists = _texts("fix", fix), Action(action), _texts("links", links)
    raise CheckFailed(Finding(seen, reason, *lists, severity, _texts("blames", blames)))


def not_applicable(reason: object) -> NoReturn:
    """End the check: it has no meaning here, which is neither a pass nor a gap."""
    __tracebackhide__ = True
    raise NotApplicable(_text("reason", reason))


def wait_for(waits_for: str | None, reason: object) -> NoReturn:
    """Say, from a fixture, that the check cannot run before the check ``waits_for`` (``topic::name``) passes."""
    __tracebackhide__ = True
    if not isinstance(waits_for, str | None):
        raise TypeError(f"waits_for: {waits_for!r} is no name of a check such as 'disks::are_there'")
    raise NotRun(_text("reason", reason), waits_for)


def encodable(text: str) -> str:
    """The text with what UTF-8 has no place for escaped: the bytes of a file name that cannot be decoded."""
    return text.encode("utf-8", "backslashreplace").decode()


def _expect(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{value!r} is not a {what}. Choose from: {', '.join(known)}.")


def _text(what: str, value: object) -> str:
    __tracebackhide__ = True
    text = "" if value is None else str(value)
    if not text.strip():
        raise ValueError(f"the {what} is empty: say what was seen")
    return text


def _texts(what: str, value: object) -> tuple[str, ...]:
    __tracebackhide__ = True
    texts = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{what}: {value!r} is neither a text nor a list of texts")
    return tuple(texts)
