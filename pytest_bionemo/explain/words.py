"""An explanation in words: for a terminal of some width, and in Markdown."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pytest_bionemo.explain.evidence import TAGS, Fact, source_codes
from pytest_bionemo.explain.explanation import Check, Explanation

_SOURCES_AT_MOST = 2
_NARROWEST = 40
_LONGEST_EXAMPLE = 120
# "NV: RESET_GPU", "FW 1fb789bae": what the letters stand for is in the heading of the table.
_HAS_CODE = re.compile(r"[A-Z]{2,3}\b[: ]")
_COMMAND = "$ "
_ADDRESS = re.compile(r"https?://[^\s<>]+")
# What means something to Markdown: within a word an underscore does not.
_MEANS_SOMETHING = re.compile(r"[\\`*<>\[\]#|&~]|(?<!\w)_|_(?!\w)")


@dataclass(frozen=True)
class Section:
    """A heading and its paragraphs.

    Of ``verbatim`` each line stands alone: "$ " and a command, an address, or what a report says of those.
    """

    heading: str
    paragraphs: Sequence[str]
    verbatim: Sequence[str] = ()


def sections(told: Explanation) -> Iterator[Section]:
    """What there is to say, in the order in which somebody asks; nothing is said twice."""
    yield Section("what it checks", _lines(told.more))
    yield Section("why it matters", _lines(told.why))
    yield Section("how it decides", [*_lines(told.how), *_limits(told)])
    yield Section("runs once for each", [_all_of(name, values) for name, values in told.runs_for.items()])
    yield Section("waits for", _waits(told))
    yield Section("does not apply where", told.not_applicable)
    yield Section("how to fix", _lines(told.fix))
    yield Section("sources", list(_sources(told.facts)), told.links)
    yield Section("run it alone", (), [f"{_COMMAND}{told.command}"])


def text(
    told: Explanation, width: int, seen: Sequence[Section] = (), strong: Callable[[str], str] = str
) -> Iterator[str]:
    """The lines for a terminal.

    :param width: columns; commands and addresses may be longer, since they are there to be copied as they are.
    :param seen: what a report says of this check, which comes first.
    :param strong: sets off headings.
    """
    yield strong(told.id)
    yield from textwrap.wrap(told.title, max(_NARROWEST, width))
    yield f"({told.severity}, from level {told.level} on)"
    for section in (*seen, *sections(told)):
        if section.paragraphs or section.verbatim:
            yield ""
            yield strong(section.heading)
        for paragraph in section.paragraphs:
            yield from _wrapped(paragraph, width, "    " if len(section.paragraphs) > 1 else "  ")
        for line in section.verbatim:
            is_copied = _COMMAND in line or _ADDRESS.fullmatch(line)
            yield from [f"  {line}"] if is_copied else _wrapped(line, width, "  ")


def markdown(told: Explanation, seen: Sequence[Section] = ()) -> Iterator[str]:
    """The lines of a page."""
    yield f"## {_escaped(told.id)}"
    yield ""
    yield f"{_escaped(told.title)} Severity {told.severity}, from level {told.level} on."
    for section in (*seen, *sections(told)):
        if section.paragraphs or section.verbatim:
            yield from ("", f"**{section.heading.capitalize()}**", "")
        mark = "- " if len(section.paragraphs) > 1 else ""
        yield from (f"{mark}{_escaped(paragraph)}" for paragraph in section.paragraphs)
        if section.verbatim and section.paragraphs:
            yield ""
        if all(line.startswith(_COMMAND) for line in section.verbatim):
            yield from (f"    {line.removeprefix(_COMMAND)}" for line in section.verbatim)
        else:
            yield from (f"- {_item(line)}" for line in section.verbatim)


def listing(checks: Sequence[Check], width: int) -> Iterator[str]:
    """Each check with its title."""
    longest = max(len(check.id) for check in checks)
    is_wide = longest + _NARROWEST <= width
    indent = " " * (longest + 4 if is_wide else 6)
    for check in checks:
        first = f"  {check.id.ljust(longest)}  " if is_wide else indent
        if not is_wide:
            yield f"  {check.id}"
        yield from textwrap.wrap(check.spec.title, width, initial_indent=first, subsequent_indent=indent)


def _wrapped(paragraph: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        paragraph,
        max(_NARROWEST, width),
        initial_indent="  ",
        subsequent_indent=indent,
        break_on_hyphens=False,
    )


def _item(line: str) -> str:
    """One of several that are not all commands: below a list a block of code would be a part of its last item."""
    if line.startswith(_COMMAND):
        fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
        return f"{fence} {line.removeprefix(_COMMAND)} {fence}"
    return f"<{line}>" if _ADDRESS.fullmatch(line) else _escaped(line)


def _escaped(text: str) -> str:
    """<name> is no tag, and test_* no emphasis."""
    return _MEANS_SOMETHING.sub(r"\\\g<0>", text)


def _lines(text: str | None) -> list[str]:
    return [f"{line[0].upper()}{line[1:]}" for line in (text or "").split("\n") if line]


def _limits(told: Explanation) -> Iterator[str]:
    for ruler in told.rulers:
        about = ruler.about or ruler.name
        name = f"{ruler.name} " if ruler.limits[0].isdigit() and ruler.about else ""
        yield f"{name}{ruler.limits}: {_within(about)}"
    for fact in told.facts:
        if fact.value:
            about = fact.about.partition(". ")[0].rstrip(".")
            yield f"{fact.name or fact.where}: {fact.value}" + (f", {_within(about)}" if about else "")


def _within(text: str) -> str:
    """A sentence as it goes on within another one: 'NUMA' and 'A model' keep their first letter."""
    return f"{text[0].lower()}{text[1:]}" if text[1:2].islower() else text


def _all_of(name: str, values: Sequence[str]) -> str:
    return f"{name}: {', '.join(values)}" if values else name


def _waits(told: Explanation) -> list[str]:
    direct = [", ".join(told.waits_for)] if told.waits_for else []
    return [*direct, *([f"and through them: {', '.join(told.through_them)}"] if told.through_them else [])]


def _sources(facts: Iterable[Fact]) -> Iterator[str]:
    by_place: dict[str, list[Fact]] = {}
    for fact in facts:
        by_place.setdefault(fact.where, []).append(fact)
    spelled: set[str] = set()
    for where, found in by_place.items():
        # A table of many sources is named as a whole: each of its rows has its own, which JSON lists.
        is_table = len(found) > _SOURCES_AT_MOST
        named = [_summed_up(found)] if is_table else [_cited(fact) for fact in found]
        yield f"{where}: {'; '.join(named)}"
        if any(_HAS_CODE.match(fact.source) for fact in found) and (codes := source_codes(where)) not in spelled:
            spelled.add(codes)
            yield codes


def _cited(fact: Fact) -> str:
    return f"{fact.source} ({TAGS.get(fact.tag, fact.tag)}, {fact.date})"


def _summed_up(found: Sequence[Fact]) -> str:
    """'45 rows (40 vendor documentation, 5 an issue thread), checked 2026-11-22, such as ...'."""
    tags = Counter[str]()
    for fact in found:
        tags[TAGS.get(fact.tag, fact.tag)] += fact.rows
    dates = sorted({fact.date for fact in found})
    checked = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    known = ", ".join(f"{number} {tag}" for tag, number in tags.most_common())
    example = textwrap.shorten(found[0].source, _LONGEST_EXAMPLE, placeholder=" ...")
    return f"{sum(tags.values())} rows ({known}), checked {checked}, such as {example}"
