"""The source of a module as a tree: its functions, its constants and what is said of them, its texts as written."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

_FEWEST_WORDS = 3


def about(module: ModuleType, name: str) -> str:
    """What a module says of one of its constants: the text after it, or the comment above it."""
    return syntax_of(module).about(name)


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Every part of the code but what only words a fix: the facts that it takes do not decide anything."""
    yield node
    for child in ast.iter_child_nodes(node):
        is_fix = isinstance(child, ast.keyword) and child.arg == "fix"
        if not is_fix and not (isinstance(child, ast.Assign) and _assigned(child) == "fix"):
            yield from walk(child)


@functools.cache
def own_names(node: ast.FunctionDef) -> set[str]:
    """Names that mean something else inside the function than in its module."""
    arguments = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
    stored = {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    return arguments | stored


def written(node: ast.expr) -> str:
    """A text as it is written, with what is filled in named: '<name> is not installed'.

    Empty where too little of it is written for anybody to understand it.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return ""
    words = [word for part in node.values if isinstance(part, ast.Constant) for word in str(part.value).split()]
    if len(words) < _FEWEST_WORDS:
        return ""
    return "".join(str(part.value) if isinstance(part, ast.Constant) else _name_of(part) for part in node.values)


def _name_of(node: ast.expr) -> str:
    value = node.value if isinstance(node, ast.FormattedValue) else node
    if isinstance(value, ast.BoolOp):
        value = value.values[0]
    if isinstance(value, ast.Name):
        return f"<{value.id.strip('_').replace('_', ' ')}>"
    if isinstance(value, ast.Attribute):
        return f"<{value.attr.strip('_').replace('_', ' ')}>"
    return "..."


@dataclass(frozen=True)
class Syntax:
    """The functions of a module, where its constants stand, and its lines."""

    functions: Mapping[str, ast.FunctionDef]
    constants: Mapping[str, int]
    texts_after: Mapping[str, str]
    lines: tuple[str, ...]

    def about(self, name: str) -> str:
        """What is said of a constant: the text after it, or the comment right above it. Empty where nothing is."""
        if name in self.texts_after:
            return self.texts_after[name]
        said: list[str] = []
        line = self.constants.get(name, 1) - 2
        while line >= 0 and self.lines[line].startswith("# ") and not self.lines[line].startswith("# --"):
            said.insert(0, self.lines[line].removeprefix("# ").strip())
            line -= 1
        return " ".join(said)


@functools.cache
def syntax_of(module: ModuleType) -> Syntax:
    """The module's source, parsed once; empty where there is none."""
    try:
        text = inspect.getsource(module)
        body = ast.parse(text).body
    except (OSError, TypeError, SyntaxError):
        return Syntax({}, {}, {}, ())
    names = {place: _assigned(node) for place, node in enumerate(body)}
    return Syntax(
        {node.name: node for node in body if isinstance(node, ast.FunctionDef)},
        {name: body[place].lineno for place, name in names.items() if name},
        {
            name: " ".join(said.split())
            for place, name in names.items()
            if name and (said := _text_at(body, place + 1))
        },
        tuple(text.splitlines()),
    )


def _assigned(node: ast.stmt) -> str | None:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) else None


def _text_at(body: list[ast.stmt], place: int) -> str:
    node: Any = body[place] if place < len(body) else None
    is_text = (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )
    return str(node.value.value) if is_text else ""
