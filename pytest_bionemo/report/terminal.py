"""The verdict as lines of text: the answer first, then what must be fixed, then what could not be said.

Works on the report's key ``bionemo`` alone, so that every line can be tested without a run.
"""

from __future__ import annotations

import math
import shlex
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pytest_bionemo.model import count

Style = Literal["plain", "ready", "blocked", "unknown", "dim"]

MARKUP: Mapping[Style, Mapping[str, bool]] = {
    "plain": {},
    "ready": {"green": True},
    "blocked": {"red": True},
    "unknown": {"yellow": True},
    "dim": {"light": True},
}
_STYLE_OF: Mapping[str, Style] = {
    "READY": "ready",
    "READY_FOR_INSTALL": "ready",
    "BLOCKED": "blocked",
    "INCONCLUSIVE": "unknown",
}
# Of a measurement, worst first.
_JUDGEMENTS: Mapping[str, Style] = {
    "untrusted": "blocked",
    "low": "blocked",
    "degraded": "unknown",
    "unjudged": "plain",
    "uncalibrated": "plain",
    "good": "plain",
}
PREFIXED = ("s", "B", "MAC")
_PREFIXES = {-3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P"}
_RULERS = {"reference": "the reference", "peer_median": "its peers", "baseline": "before", "bound": "the bound"}
_SHIPPED = "pytest_bionemo.checks."
_COMPARABLE = "bionemo/benchmark::baseline_is_comparable"
_SEVERAL, _SMALL = 10, 0.1
# Said beside the verdict: what is done to the node as a whole.
_FOR_THE_NODE = {
    "RESET_GPU": "reset the GPU",
    "REBOOT_NODE": "reboot the node",
    "REPLACE_NODE": "replace the node",
}
_LABEL_WIDTH = 9
_NAMED_AT_MOST = 3


@dataclass(frozen=True)
class Line:
    """One line: its parts with their styles, or a title that spans the terminal."""

    parts: tuple[tuple[str, Style], ...]
    is_title: bool = False

    @property
    def text(self) -> str:
        """The line without styles."""
        return "".join(text for text, _ in self.parts)

    @property
    def style(self) -> Style:
        """The style of its first part."""
        return self.parts[0][1] if self.parts else "plain"


def summary(
    run: Mapping[str, Any],
    path: str,
    width: int,
    verbosity: int,
    write_error: str = "",
    page: str = "",
    page_error: str = "",
) -> Iterator[Line]:
    """The lines to print at the end of a run.

    :param run: the report's key ``bionemo``.
    :param path: where the report was written, as it is shown; "" if it is kept nowhere.
    :param width: columns of the terminal.
    :param verbosity: pytest's: -1 leaves one line for each finding, 1 lists every check that did not run.
    :param page: where the page was written; "" if none was asked for.
    """
    style = "blocked" if write_error else _STYLE_OF[run["verdict"]]
    but = ", but the report is not written" if write_error else ""
    yield Line(((f"BioNeMo readiness: {run['verdict']}{but}", style),), is_title=True)
    yield from _wrapped("", facts(run), width, indent=0)
    if verbosity < 0:
        yield from _briefly(run, width)
    else:
        yield Line(())
        # A report that could not be written explains nothing.
        yield from _in_full(run, "" if write_error else path, width, verbosity)
    if write_error:
        yield from _labelled("REPORT", f"{path} could not be written: {write_error}", width, "blocked")
    elif path:
        yield from _labelled("report", path, width, "plain", wrap=False)
    if page_error:
        yield from _labelled("PAGE", f"{page} could not be written: {page_error}", width, "blocked")
    elif page:
        yield from _labelled("page", page, width, "plain", wrap=False)


def kept(path: str, error: str, width: int) -> Iterator[Line]:
    """Where the run is kept, or why it is not; nothing where that was not asked for."""
    if error:
        yield from _labelled("KEPT", f"in no history: {error}", width, "blocked")
    elif path:
        yield from _labelled("kept", path, width, wrap=False)


def facts(run: Mapping[str, Any]) -> str:
    """The run in one phrase: '1 blocker, 112 checks wait, level standard, 0.6 s'."""
    waiting = sum(1 for gap in run["not_run"] if gap["waits_for"])
    others = len(run["not_run"]) - waiting
    kernels = "no GPU kernel was run" if "no GPU kernel" in run["summary"] else ""
    parts = [
        count(len(run["blockers"]), "blocker") if run["blockers"] else "",
        count(len(run["warnings"]), "warning") if run["warnings"] else "",
        _FOR_THE_NODE.get(run.get("action", ""), ""),
        f"{count(waiting, 'check')} {'waits' if waiting == 1 else 'wait'}" if waiting else "",
        f"{others} not run" if others else "",
        f"level {run['level']}",
        kernels,
        f"{run['duration_s']:.1f} s" if "duration_s" in run else "",  # a run that did not come to its end
    ]
    return ", ".join(part for part in parts if part)


def _briefly(run: Mapping[str, Any], width: int) -> Iterator[Line]:
    for entry in run["blockers"]:
        yield from _labelled("BLOCKED", f"{entry['check']}: {entry['message']}", width, "blocked")
    for entry in run["warnings"]:
        yield from _labelled("WARNING", f"{entry['check']}: {entry['message']}", width, "unknown")


def _in_full(run: Mapping[str, Any], path: str, width: int, verbosity: int) -> Iterator[Line]:
    for entry in run["blockers"]:
        yield from _finding("BLOCKED", entry, "blocked", width)
    for entry in run["warnings"]:
        yield from _finding("WARNING", entry, "unknown", width)
    yield from _how_to_ask(run, path)
    if run["verdict"] == "READY_FOR_INSTALL":
        yield from _fixes("install", run["install_options"], width)
    found = [entry["check"] for entry in (*run["blockers"], *run["warnings"])]
    yield from _gaps(run["not_run"], found, width, verbosity)
    for error in run.get("environment", {}).get("extra_errors", ()):
        yield from _labelled("unknown", f"what a plugin knows of the environment: {error}", width, "unknown")
    yield from _numbers(run.get("measurements", []), width, verbosity)
    if baseline := run.get("baseline"):
        is_told = any(entry["check"] == _COMPARABLE for entry in run["warnings"])
        judged = sum(1 for entry in run.get("measurements", []) if entry["judgement"])
        yield from _baseline(baseline, judged, is_told, width)
    yield from _targets(run.get("targets", []), width, verbosity)


def _finding(label: str, entry: Mapping[str, Any], style: Style, width: int) -> Iterator[Line]:
    yield Line(((label.ljust(_LABEL_WIDTH), style), (entry["check"], "plain")))
    yield from _labelled("  seen", entry["message"], width)
    if entry["why"]:
        yield from _labelled("  why", entry["why"], width)
    yield from _fixes("  fix", entry["fix"], width)
    if entry.get("blames"):
        yield from _labelled("  blames", ", ".join(entry["blames"]), width)
    for link in entry["links"]:
        yield from _labelled("  see", link, width, wrap=False)


def _how_to_ask(run: Mapping[str, Any], path: str) -> Iterator[Line]:
    """The command that explains the finding, or all of those that the report has.

    A check of a plugin that was named on the command line is known to nobody else: only the report tells of it.
    """
    findings = [*run["blockers"], *run["warnings"]]
    if findings:
        check = findings[0]["check"].removeprefix("bionemo/").partition("[")[0]
        others = [topic["name"] for topic in run.get("topics", ()) if not topic["module"].startswith(_SHIPPED)]
        needs_report = len(findings) > 1 or check.partition("::")[0] in others
        asked = f"--report {shlex.quote(path)}" if path and needs_report else shlex.quote(check)
        text = f"{'explain'.ljust(_LABEL_WIDTH)}$ python -m pytest_bionemo explain {asked}"
        yield Line(((text, "dim"),))


def _fixes(label: str, fixes: Sequence[str], width: int) -> Iterator[Line]:
    for position, fix in enumerate(fixes):
        # A command is never wrapped: it is there to be copied.
        yield from _labelled("" if position else label, fix, width, wrap="$ " not in fix)


def _gaps(gaps: Sequence[Mapping[str, Any]], found: Sequence[str], width: int, verbosity: int) -> Iterator[Line]:
    """What was not run, and why. ``found`` are the checks that have a finding: it is said there what is wrong."""
    waited_for = Counter(gap["waits_for"] for gap in gaps if gap["waits_for"])
    for check, number in waited_for.items():
        waiting = [gap["check"] for gap in gaps if gap["waits_for"] == check]
        is_explained = any(one == check or one.startswith(f"{check}[") for one in found)
        because = "" if is_explained else _unexplained(check, gaps)
        text = f"{count(number, 'check')} for {check}: {_by_topic(waiting)}{because}"
        yield from _labelled("waiting", text, width, "unknown")
        yield from _listed(waiting, verbosity)
    for reason, checks in _by_reason(gap for gap in gaps if not gap["waits_for"]).items():
        named = [check for check in checks if check]
        yield from _labelled("not run", f"{_named(named)}: {reason}" if named else reason, width, "unknown")
        if len(named) > _NAMED_AT_MOST:
            yield from _listed(named, verbosity)
    if verbosity == 0 and any(number > 1 for number in waited_for.values()):
        yield Line(((" " * _LABEL_WIDTH, "plain"), ("(-v lists them)", "dim")))


def _unexplained(check: str, gaps: Sequence[Mapping[str, Any]]) -> str:
    """Why checks wait for one that tells nothing itself: ', since no node is here, itself not run (deselected)'."""
    own = next((f", itself not run ({gap['reason']})" for gap in gaps if gap["check"] == check), "")
    reasons = list(dict.fromkeys(gap["reason"] for gap in gaps if gap["waits_for"] == check))
    more = [f"and {len(reasons) - _NAMED_AT_MOST} more"] if len(reasons) > _NAMED_AT_MOST else []
    return f", since {'; '.join([*reasons[:_NAMED_AT_MOST], *more])}{own}"


def _numbers(measurements: Iterable[Mapping[str, Any]], width: int, verbosity: int) -> Iterator[Line]:
    """One line for each number that was judged, over all devices; ``-v`` shows those that are only reported too."""
    by_name: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for entry in measurements:
        if entry["judgement"] or verbosity > 0:
            # A test may call a number as a check does, or by the unit of another test.
            test = entry.get("test", "").partition("[")[0]
            by_name.setdefault((entry["name"], entry["unit"], test), []).append(entry)
    for position, ((name, _, test), entries) in enumerate(by_name.items()):
        worst = min(entries, key=_rank)
        text = f"{name.replace('_', ' ')}: {_range(entries)}{_rulers(worst)}{f' ({test})' if test else ''}"
        yield from _labelled(
            "" if position else "measured", text, width, _JUDGEMENTS.get(worst["judgement"], "plain")
        )


def _baseline(found: Mapping[str, Any], judged: int, is_told: bool, width: int) -> Iterator[Line]:
    """What the numbers were compared with; why they were not, unless a finding tells it already.

    ``judged`` is how many there are: the earlier run need not have measured all of them.
    """
    of = f"{found['name']} of {found['started'][:10]}" if found["started"] else found["name"]
    compared = found["compared"]
    numbers = f"{compared} of {count(judged, 'number')}" if compared != judged else count(judged, "number")
    said = f"{numbers if compared else 'no number'} compared"
    why = f": {found['refused']}" if found["refused"] and not is_told else ""
    yield from _labelled("baseline", f"{of}: {said}{why}", width, "plain" if found["compared"] else "unknown")
    for line in found["skipped"]:
        yield from _labelled("", f"skipped: {line}", width, "unknown")


def number(entry: Mapping[str, Any]) -> str:
    """One measurement with its rulers: '612.3 TFLOP/s (62% of the bound)'."""
    return f"{_range([entry])}{_rulers(entry)}"


def _rank(entry: Mapping[str, Any]) -> int:
    """The place of its judgement, worst first; a number that is not judged comes last."""
    known = list(_JUDGEMENTS)
    return known.index(entry["judgement"]) if entry["judgement"] in known else len(known)


def _range(entries: Sequence[Mapping[str, Any]]) -> str:
    values = sorted(entry["value"] for entry in entries if entry["value"] is not None)
    if not values:
        return "no number"
    lowest, highest = (show_number(value, entries[0]["unit"]) for value in (values[0], values[-1]))
    return lowest if lowest == highest else f"{lowest} to {highest}"


def show_number(value: float, unit: str) -> str:
    """Four significant digits, with a prefix for the unit where one is usual: '1.935 TB/s', '2.1 ms'."""
    if unit in PREFIXED and value:
        thousands = math.floor(math.log10(abs(value)) / 3)
        prefix = _PREFIXES.get(thousands)
        if prefix is not None:
            return f"{value / 1000**thousands:.4g} {prefix}{unit}"
    text = f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
    return text if unit == "1" else f"{text} {unit}"


def _rulers(entry: Mapping[str, Any]) -> str:
    rulers = [(entry[key], name) for key, name in _RULERS.items() if entry["value"] and entry[key]]
    shares = [f"{_share(entry['value'] / ruler)} {name}" for ruler, name in rulers]
    word = "" if entry["judgement"] in (None, "good") else f"{entry['judgement']}: "
    said = word + ", ".join(shares)
    return f" ({said.removesuffix(': ')})" if said else ""


def _share(share: float) -> str:
    """A whole number of percent, two digits of a small one; times where it is several times as much."""
    if share >= _SEVERAL:
        return f"{share:,.0f} x"
    return f"{share:.0%} of" if share >= _SMALL else f"{100 * share:.2g}% of"


def _targets(targets: Sequence[Mapping[str, Any]], width: int, verbosity: int) -> Iterator[Line]:
    """Which workloads can run here and which need no more than packages; ``-v`` says why the others cannot."""
    if verbosity > 0:
        for position, (how, names) in enumerate(_by_prospects(targets).items()):
            yield from _labelled("" if position else "targets", f"{', '.join(names)}: {how}", width)
        return
    runnable = [target["name"] for target in targets if target["runnable"]]
    fitting = [target["name"] for target in targets if not target["runnable"] and _lacks_packages_alone(target)]
    said = [
        f"{len(runnable)} of {len(targets)} can be trained here: {', '.join(runnable)}" if runnable else "",
        f"{len(fitting)} {'needs' if len(fitting) == 1 else 'need'} only packages: {', '.join(fitting)}"
        if fitting
        else "",
    ]
    for position, text in enumerate(filter(None, said)):
        yield from _labelled("" if position else "targets", text, width)


def _lacks_packages_alone(target: Mapping[str, Any]) -> bool:
    return not target["installed"] and target["fits"]


def _by_prospects(targets: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Those of one recipe lack the same packages: said once."""
    found: dict[str, list[str]] = {}
    for target in targets:
        found.setdefault(prospects(target), []).append(target["name"])
    return found


def prospects(target: Mapping[str, Any]) -> str:
    """How a target can be trained here, or every reason why not."""
    if not target["runnable"]:
        return "; ".join(target["reasons"])
    least = "at least " if target["is_lower_bound"] else ""
    parts = [
        f"{target['plan']}, {least}{show_number(target['estimated_memory_bytes'], 'B')} of "
        f"{show_number(target['available_memory_bytes'], 'B')} on each",
        f"micro-batch up to {target['largest_micro_batch']} x {target['length']}"
        if target["largest_micro_batch"]
        else "",
        f"expect {show_number(target['expected_tokens_per_s'], 'tokens/s')}"
        if target["expected_tokens_per_s"]
        else "",
        *(
            f"published {show_number(figure['value'], figure['unit'])} ({figure['how']})"
            for figure in target["published"][:1]
        ),
    ]
    return ", ".join(part for part in parts if part)


def _named(checks: Sequence[str]) -> str:
    if len(checks) <= _NAMED_AT_MOST:
        return ", ".join(checks)
    return f"{count(len(checks), 'check')} ({_by_topic(checks)})"


def _by_reason(gaps: Iterable[Mapping[str, Any]]) -> dict[str, list[str | None]]:
    found: dict[str, list[str | None]] = {}
    for gap in gaps:
        found.setdefault(gap["reason"], []).append(gap["check"])
    return found


def _by_topic(checks: Iterable[str]) -> str:
    topics = Counter(check.partition("::")[0].rpartition("/")[2] for check in checks)
    return ", ".join(f"{topic} {number}" for topic, number in topics.items())


def _listed(checks: Iterable[str], verbosity: int) -> Iterator[Line]:
    if verbosity > 0:
        for check in checks:
            yield Line(((" " * _LABEL_WIDTH + check, "dim"),))


def _labelled(label: str, text: str, width: int, style: Style = "plain", wrap: bool = True) -> Iterator[Line]:
    if wrap:
        yield from _wrapped(label, text, width, _LABEL_WIDTH, style)
    else:
        yield Line(((label.ljust(_LABEL_WIDTH), style), (text, "plain")))


def _wrapped(label: str, text: str, width: int, indent: int, style: Style = "plain") -> Iterator[Line]:
    room = max(20, width - indent)
    for position, line in enumerate(
        piece
        for paragraph in text.splitlines()
        for piece in textwrap.wrap(paragraph, room, break_long_words=False, break_on_hyphens=False) or [""]
    ):
        yield Line((((label if position == 0 else "").ljust(indent), style), (line, "plain")))
