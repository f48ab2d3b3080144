"""On whose word: the rows of facts that a check looks up, each with its source, its date and how far to trust it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_bionemo import facts
from pytest_bionemo.explain.source import Found
from pytest_bionemo.facts import load

TAGS = {
    "doc": "vendor documentation",
    "src": "source code",
    "pypi": "PyPI metadata",
    "iss": "an issue thread",
    "ran": "observed",
    "mem": "recalled, not read again",
    "secondary": "reported by others",
    "own": "our own choice",
}
"""How a value is known, by the tag of its row: the words of the tables' own headings, in short."""

_UNITS = (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10))
# Fields by which a function of facts is asked for a row; the second is a quantity that is measured.
_NAME, _QUANTITY = "name", "quantity"


@dataclass(frozen=True)
class Fact:
    """What one source says.

    ``where`` is the table and its section ("host.toml, threshold"), ``rows`` how many rows of it; ``name``, ``value``
    ("64 MiB") and ``about`` are those of a single row. ``date`` is the day on which it was last checked.
    """

    where: str
    rows: int
    name: str
    value: str
    about: str
    source: str
    date: str
    tag: str


def facts_of(found: Found, parameters: Collection[str] = ()) -> list[Fact]:
    """The facts that a check looks up, those with the same source in one.

    :param parameters: values of the parameters of one instance ("fp16"): rows that name others are left out.
    """
    return [fact for table, section in found.sections for fact in _of_section(table, section, found, parameters)]


def _of_section(table: str, section: str, found: Found, parameters: Collection[str]) -> Iterator[Fact]:
    content = load(table)[section]
    rows = _rows(content)
    asked = _chosen(rows, _NAME, found.asked) or _chosen(rows, _QUANTITY, found.words)
    chosen = _naming(asked or rows, parameters)
    if asked or isinstance(content, Mapping):
        yield from (_single(table, section, row) for row in chosen)
    else:
        yield from _together(table, section, chosen)


def _rows(content: Any) -> list[Mapping[str, Any]]:
    rows = [content] if isinstance(content, Mapping) else content
    return [row for row in rows if isinstance(row, Mapping) and "source" in row]


def _chosen(rows: Sequence[Mapping[str, Any]], field: str, texts: Collection[str]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row.get(field) in texts and "value" in row]


def _naming(rows: Sequence[Mapping[str, Any]], parameters: Collection[str]) -> Sequence[Mapping[str, Any]]:
    """Rows that are about one of the parameters; all of them where none is."""
    naming = [row for row in rows if not set(parameters).isdisjoint(_words(row))]
    return naming or rows


def _words(row: Mapping[str, Any]) -> set[str]:
    return {str(value) for value in row.values() if isinstance(value, str | int | float)}


def _single(table: str, section: str, row: Mapping[str, Any]) -> Fact:
    about = str(row.get("about") or row.get("note") or "" if _NAME in row else _about(table, section))
    value = _value(row["value"], str(row.get("unit", ""))) if "value" in row else _listed(row)
    name = str(row.get(_NAME) or row.get(_QUANTITY) or "").replace("_", " ")
    return Fact(
        f"{table}.toml, {section}", 1, name, value, about, _spelled(table, row), str(row["date"]), str(row["tag"])
    )


def _together(table: str, section: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Fact]:
    by_source: dict[tuple[str, str, str], int] = {}
    for row in rows:
        key = _spelled(table, row), str(row["date"]), str(row["tag"])
        by_source[key] = by_source.get(key, 0) + 1
    about = _about(table, section)
    for (source, date, tag), number in sorted(by_source.items(), key=lambda one: -one[1]):
        yield Fact(f"{table}.toml, {section}", number, "", "", about, source, date, tag)


def _spelled(table: str, row: Mapping[str, Any]) -> str:
    """The source of a row; codes that its table spells out are spelled out."""
    codes = load(table).get("sources", {})
    said = str(row["source"])
    parts = said.split(", ")
    known = [codes[part]["title"] for part in parts if part in codes]
    return "; ".join(known) if len(known) == len(parts) else said


_NOT_SAID = ("source", "date", "tag", "also", "about", "note", "name", "title", "confidence")


def _listed(row: Mapping[str, Any]) -> str:
    """The values of a section that is one row: 'minimum driver 560'."""
    return ", ".join(
        f"{key.replace('_', ' ')} {value}"
        for key, value in row.items()
        if key not in _NOT_SAID and isinstance(value, str | int | float)
    )


def source_codes(where: str) -> str:
    """What the codes in the sources of a table stand for, as its heading says it; empty where it has none."""
    lines = _lines(where.partition(".")[0])
    start = next((place for place, line in enumerate(lines) if line.startswith("# Source codes: ")), len(lines))
    paragraph = itertools.takewhile(lambda line: line.startswith("# "), lines[start:])
    return " ".join(line.removeprefix("# ") for line in paragraph).removeprefix("Source codes: ")


def _value(value: object, unit: str) -> str:
    if unit == "bytes" and isinstance(value, int):
        name, power = next(((name, power) for name, power in _UNITS if value >= 1 << power), ("bytes", 0))
        return f"{value / (1 << power):.1f}".removesuffix(".0") + f" {name}"
    return f"{value} {unit}" if unit not in ("", "1") else str(value)


@functools.cache
def _about(table: str, section: str) -> str:
    """What a section is: the comment right above it, or nothing."""
    lines = _lines(table)
    starts = (f"[[{section}]]", f"[{section}]", f"{section} = ")
    place = next((place for place, line in enumerate(lines) if line.startswith(starts)), 0)
    said: list[str] = []
    while place and lines[place - 1].startswith("# "):
        place -= 1
        said.insert(0, lines[place].removeprefix("# "))
    return " ".join(said)


@functools.cache
def _lines(table: str) -> list[str]:
    return (Path(facts.__file__).parent / f"{table}.toml").read_text(encoding="utf-8").splitlines()
