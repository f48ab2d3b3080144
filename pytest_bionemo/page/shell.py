"""What every page is built with: the templates, what is escaped, and what a browser may do with the page.

A page is one file that asks for nothing: its style and its script are inside, and its policy names both by their
hashes, so that nothing else runs even if an escape failed. Whatever a template prints is escaped, and what cannot be
seen (control characters, marks that turn the direction of writing) is shown as an escape, unless it is
:class:`markupsafe.Markup`, which only drawings of our own are.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bionemo.model import count
from pytest_bionemo.report.terminal import show_number

if TYPE_CHECKING:
    from jinja2 import Environment

LONGEST = 4000
"""Characters of one text on a page; what is longer is cut, and its length said."""
_TEMPLATES = Path(__file__).parent / "templates"
_INSTALL = 'a page needs Jinja2: $ python -m pip install "pytest-bionemo[html]"'


class PageError(Exception):
    """No page can be made; the message is one line."""


def expect_jinja() -> None:
    """Import what pages are made with.

    :raises PageError: with the command that installs it.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise PageError(f"{_INSTALL} ({shown(str(error), 200)})") from None


def render(template: str, *, styles: tuple[str, ...] = (), scripts: tuple[str, ...] = (), **values: object) -> str:
    """The page of a template that extends ``base.html.j2``.

    :param template: its file below ``templates``; ``styles`` and ``scripts`` are files there which it needs besides
        ``base.css`` and ``base.js``.
    :param values: what it prints. ``base.html.j2`` says which it needs itself.
    :raises PageError: if Jinja2 does not import.
    :raises TypeError: if a value is not what the template takes it for.

    ::

        page = render("node.html.j2", styles=("node.css",), title="vm: READY", ...)
    """
    expect_jinja()
    from jinja2 import UndefinedError
    from markupsafe import Markup

    style = "".join(_own("base.css", *styles))
    script = "".join(_own("base.js", *scripts))
    own = {"style": Markup(style), "script": Markup(script), "policy": _policy(style, script)}  # noqa: S704
    try:
        return _environment().get_template(template).render(**own, **values)
    except UndefinedError as error:
        raise TypeError(str(error)) from None


def shown(text: str, longest: int = LONGEST) -> str:
    r"""A text as everybody sees it: nothing in it is hidden, steers a terminal or turns the direction of writing.

    Lines and tabs stay; a mark that turns the direction becomes the six characters ``\u202e``.
    """
    length = len(text)
    if length > longest:
        text = text[:longest]
    if not text.isprintable():
        text = "".join(one if one.isprintable() or one in "\n\t" else _escape(one) for one in text)
    return text if length <= longest else f"{text}… ({length:,} characters)"


def number(value: object, unit: str = "1") -> str:
    """A number with its unit as the terminal shows it, whatever the report has in its place."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "no number" if value is None else shown(str(value), 40)
    try:
        return show_number(value, unit) if math.isfinite(value) else "no number"
    except OverflowError:
        return "no number"


def steps(lines: Iterable[str]) -> list[tuple[bool, str]]:
    """What to do, as (is it for a shell?, text): commands that follow each other are copied as one.

    ``steps(["load it:", "$ modprobe nvidia"])`` is ``[(False, "load it:"), (True, "modprobe nvidia")]``.
    """
    found: list[tuple[bool, str]] = []
    for line in lines:
        before, dollar, typed = line.partition("$ ")
        if before.strip():
            found.append((False, before))
        if not dollar:
            continue
        if found and found[-1][0] and len(found[-1][1]) + len(typed) < LONGEST:
            typed = f"{found.pop()[1]}\n{typed}"
        # Half of a command is worse than none: what is cut is not to be copied.
        found.append((len(typed) <= LONGEST, typed))
    return found


def _escape(character: str) -> str:
    # A space of another width is one.
    return " " if character.isspace() and ord(character) > 31 else character.encode("unicode_escape").decode()


def _finalize(value: Any) -> Any:
    """What every ``{{ }}`` goes through before it is escaped."""
    return value if hasattr(value, "__html__") else shown(str(value))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(shown=shown, number=number, count=count, steps=steps)
    return environment


@cache
def _own(*names: str) -> tuple[str, ...]:
    return tuple((_TEMPLATES / name).read_text(encoding="utf-8") for name in names)


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
