"""The text of a report: what there is much of has one line for each, so that it is small, and can be searched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_IN_LINES = frozenset({"tests", "collectors", "checks", "measurements", "not_run", "not_applicable"})


def dumps(document: Mapping[str, Any]) -> str:
    """The JSON of a report, indented by one space, with a line for each test, check, measurement and gap.

    What JSON has no type for is written as text, and so are names that are none.

    :raises ValueError: if it holds a number that JSON has none for, such as an infinity.
    """
    return f"{_object(document, '', levels=2)}\n"


def _object(entries: Mapping[str, Any], indent: str, levels: int) -> str:
    lines = (
        f"{indent} {_line(str(name))}: {_value(name, value, indent + ' ', levels)}" for name, value in entries.items()
    )
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def _value(name: str, value: Any, indent: str, levels: int) -> str:
    if name in _IN_LINES and isinstance(value, list) and value:
        return "[\n" + ",\n".join(f"{indent} {_line(entry)}" for entry in value) + f"\n{indent}]"
    if levels > 1 and isinstance(value, dict) and value:
        return _object(value, indent, levels - 1)
    # A line break in a text is escaped: what is replaced is between values.
    return json.dumps(value, indent=1, default=str, allow_nan=False).replace("\n", f"\n{indent}")


def _line(value: Any) -> str:
    return json.dumps(value, default=str, allow_nan=False)
