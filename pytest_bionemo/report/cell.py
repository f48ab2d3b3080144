"""The verdict as a notebook shows it: a piece of HTML for the output of a cell.

Works on the report's key ``bionemo`` alone. It brings no script and no style sheet, which would reach the rest of the
notebook, and takes the notebook's own colours, so that it reads in light and dark ones: its own are those that stand
out from both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from pytest_bionemo.model import count
from pytest_bionemo.report import terminal

_RED, _AMBER, _GREEN = "#cf3a30", "#a86c00", "#238641"
_COLOUR_OF = {"READY": _GREEN, "READY_FOR_INSTALL": _GREEN, "BLOCKED": _RED, "INCONCLUSIVE": _AMBER}
_NAMED_AT_MOST = 3
_FAINT = "rgba(127,127,127,.16)"
_WHOLE = "font:13px/1.45 system-ui,sans-serif;max-width:64em;overflow-wrap:anywhere;text-align:left"
_CODE = f"font:12px/1.5 ui-monospace,monospace;background:{_FAINT};color:inherit;border-radius:3px;padding:0 4px"
_COMMAND = f"{_CODE};display:inline-block;white-space:pre-wrap;user-select:all"
_CELL = "padding:1px 14px 1px 0;text-align:left;background:none;border:none;vertical-align:top"


class Html(str):
    """Text that is HTML already: all other is escaped when it goes in."""

    __slots__ = ()


def render(run: Mapping[str, Any], path: str) -> Html:
    """The verdict, its findings with their fixes, what was not run, and the numbers.

    :param run: the report's key ``bionemo``.
    :param path: where the report lies; "" if it is kept nowhere.
    """
    return _tag(
        "div",
        _WHOLE,
        _headline(run),
        _machine(run),
        *(_finding("BLOCKED", entry, _RED) for entry in run["blockers"]),
        *(_finding("WARNING", entry, _AMBER) for entry in run["warnings"]),
        *(_install(run["install_options"]) if run["verdict"] == "READY_FOR_INSTALL" else ()),
        *_gaps(run["not_run"]),
        *_numbers(run.get("measurements", [])),
        _tag("div", "margin-top:8px", "report ", _tag("code", _CODE, path)) if path else Html(),
    )


def _tag(name: str, style: str, *content: str, **attributes: str) -> Html:
    said = {**({"style": style} if style else {}), **attributes}
    opening = "".join(f' {key}="{escape(value)}"' for key, value in said.items())
    inside = "".join(part if isinstance(part, Html) else escape(part) for part in content)
    return Html(f"<{name}{opening}>{inside}</{name}>")


def _headline(run: Mapping[str, Any]) -> Html:
    badge = (
        f"background:{_COLOUR_OF[run['verdict']]};color:#fff;font-weight:600;border-radius:4px;"
        "padding:2px 9px;margin-right:9px;display:inline-block"
    )
    return _tag("div", "margin:4px 0", _tag("span", badge, run["verdict"]), terminal.facts(run))


def _machine(run: Mapping[str, Any]) -> Html:
    environment = run.get("environment", {})
    names = [str(gpu["name"] or "unreadable") for gpu in run.get("gpus", [])]
    kinds = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    versions = [f"{name} {environment[name]}" for name in ("driver", "torch", "python") if environment.get(name)]
    said = [environment.get("hostname") or "", *kinds, *versions]
    return _tag("div", "opacity:.75", ", ".join(filter(None, said)))


def _finding(label: str, entry: Mapping[str, Any], colour: str) -> Html:
    return _block(
        colour,
        _tag("b", f"color:{colour}", label),
        " ",
        _tag("code", _CODE, entry["check"]),
        _tag("div", "margin-top:2px", entry["message"]),
        _tag("div", "opacity:.75", entry["why"]) if entry["why"] else Html(),
        *([_tag("div", "", f"at fault: {', '.join(entry['blames'])}")] if entry.get("blames") else []),
        *([_tag("div", "margin-top:4px", _tag("b", "", "Fix"))] if entry["fix"] else []),
        *_lines(entry["fix"]),
        *(_tag("div", "", _link(link)) for link in entry["links"]),
    )


def _block(colour: str, *content: str) -> Html:
    return _tag("div", f"border-left:3px solid {colour};padding:1px 0 1px 10px;margin:9px 0", *content)


def _lines(lines: Iterable[str]) -> Iterator[Html]:
    """What to do, a line each; a command stands out, without its ``$``, and one click selects it."""
    for line in lines:
        text, dollar, command = line.partition("$ ")
        yield _tag("div", "margin-top:3px", text, _tag("code", _COMMAND, command) if dollar else Html())


def _link(link: str) -> Html:
    if not link.startswith(("https://", "http://")):
        return _tag("span", "", link)
    return _tag("a", "", link, href=link, target="_blank", rel="noopener noreferrer")


def _install(options: Sequence[str]) -> Iterator[Html]:
    yield _block(_GREEN, _tag("b", "", "Install"), *_lines(options))


def _gaps(gaps: Sequence[Mapping[str, Any]]) -> Iterator[Html]:
    reasons: dict[str, list[str]] = {}
    for gap in gaps:
        reason = f"waiting for {gap['waits_for']}" if gap["waits_for"] else gap["reason"]
        reasons.setdefault(reason, []).extend([gap["check"]] if gap["check"] else [])
    entries = [_gap(reason, checks) for reason, checks in reasons.items()]
    if entries:
        yield _block(_AMBER, _tag("b", "", "Not run"), *entries)


def _gap(reason: str, checks: Sequence[str]) -> Html:
    if len(checks) <= _NAMED_AT_MOST:
        names = [part for check in checks for part in (_tag("code", _CODE, check), " ")]
        return _tag("div", "margin-top:2px", *names, reason)
    listed = _tag("div", "opacity:.75;margin-left:14px", ", ".join(checks))
    summary = _tag("summary", "cursor:pointer;display:list-item", f"{count(len(checks), 'check')}: {reason}")
    return _tag("details", "margin-top:2px", summary, listed)


def _numbers(measurements: Sequence[Mapping[str, Any]]) -> Iterator[Html]:
    if not measurements:
        return
    rows = [
        _tag("tr", "background:none", *(_tag("td", _CELL, text) for text in _row(entry))) for entry in measurements
    ]
    summary = _tag("summary", "cursor:pointer;display:list-item", count(len(rows), "number"), " measured")
    yield _tag("details", "margin:9px 0", summary, _tag("table", "border-collapse:collapse;margin:4px 0", *rows))


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    value = entry["value"]
    shown = "no number" if value is None else terminal.show_number(value, entry["unit"])
    return entry["name"].replace("_", " "), shown, entry["judgement"] or "", entry["device"] or ""
