"""``python -m pytest_bionemo metrics``: reports of nodes and the fleet document, as metrics for Prometheus.

What is written is OpenMetrics, of gauges without times only: so node_exporter's textfile collector reads it too.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pytest_bionemo.fleet import sources
from pytest_bionemo.fleet.folding import SCHEMA_VERSION as FLEET_VERSION
from pytest_bionemo.fleet.node import TOOL
from pytest_bionemo.fleet.reading import DEADLINE_S, read_all, seconds
from pytest_bionemo.model import Action
from pytest_bionemo.report import atomic
from pytest_bionemo.reports import expect_known
from pytest_bionemo.series import FAMILIES, Part, Sample, of_fleet, of_report
from pytest_bionemo.showing import shown
from pytest_bionemo.standard_output import drop_the_rest
from pytest_bionemo.verdict import DAMAGED, ReportError

SERIES_AT_MOST = 200_000
"""Unless told otherwise: twenty for each of 10,000 nodes. All numbers of eight GPUs are about 1,000."""

_MOST_SERIES = 10**8
_USAGE_ERROR = 4
_LONGEST_NAME = 400
_ACTION, _STATUS = "bionemo_node_action", "bionemo_node_status"
_DESCRIPTION = "Reports of nodes and the fleet document as metrics for Prometheus, in OpenMetrics."


class UsageError(ValueError):
    """The command cannot be carried out; the message is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE_ERROR, f"error: {message}. See python -m pytest_bionemo metrics --help\n")


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    parser = _Parser(prog="python -m pytest_bionemo metrics", description=_DESCRIPTION)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a report, a fleet document, a folder or a pattern")
    parser.add_argument(
        "-o", dest="out", metavar="FILE", help="write into this file, at once; it ends in .prom for node_exporter"
    )
    parser.add_argument(
        "--series", type=_count, default=SERIES_AT_MOST, metavar="N", help="samples at most (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout", type=seconds, default=DEADLINE_S, metavar="SECONDS", help="for each file (default: %(default)g)"
    )
    chosen = parser.parse_args(arguments)
    return export(chosen.paths, chosen.out, chosen.series, chosen.timeout)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= _MOST_SERIES):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of samples from 1 to {_MOST_SERIES}")
    return int(text)


def export(
    paths: Sequence[str], out: str | None = None, series: int = SERIES_AT_MOST, deadline_s: float = DEADLINE_S
) -> int:
    """Write the metrics of these files into a file, or to the standard output; returns the exit status.

    0: all of them are in it. 1: some could not be read, each of which is named on the standard error; the others
    are in it. 4: nothing was written.

    :param paths: reports, fleet documents, or folders of them.
    :param out: replaced as a whole, so that nobody reads half of it.
    :param series: samples at most; those of the least important families are left out.
    :param deadline_s: how long one file may take.
    """
    try:
        text, unreadable = _collect(paths, series, deadline_s)
        for line in unreadable:
            print(f"unreadable: {line}", file=sys.stderr)
        if out is None:
            _print(text)
        else:
            atomic.save(Path(out), text.encode())
    except (UsageError, sources.SourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except OSError as error:
        where = "the standard output" if out is None else out
        print(f"error: {where}: {error.strerror or error}. Choose another -o.", file=sys.stderr)
        return _USAGE_ERROR
    return 1 if unreadable else 0


def _print(text: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale: so it is written into a file, too
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        drop_the_rest()
        if not isinstance(error, BrokenPipeError):  # whoever read has seen enough
            raise


def _collect(paths: Sequence[str], series: int, deadline_s: float) -> tuple[str, list[str]]:
    """The metrics as text, and a line for each file that cannot be read."""
    newest = _Newest(series)
    unreadable: list[str] = []
    number = 0
    for path, parts in read_all(((path, None) for path in sources.files(paths)), _read, deadline_s):
        if isinstance(parts, str):
            unreadable.append(f"{shown(path, _LONGEST_NAME)}: {shown(parts, _LONGEST_NAME)}")
            continue
        number += 1
        for part in parts:
            newest.add(part)
    said = newest.merged()
    of_the_files = {
        "bionemo_reports": number,
        "bionemo_reports_unreadable": len(unreadable),
        "bionemo_series_left_out": newest.left_out,
    }
    said |= {name: {(): value} for name, value in of_the_files.items()}
    return _as_openmetrics(said), sorted(unreadable)


def _read(content: bytes, path: str) -> list[Part]:
    """What one file says.

    :raises ReportError: one line, if there is nothing.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"is no JSON: empty, truncated or damaged ({error})") from None
    try:
        if isinstance(document, Mapping) and document.get("tool") == TOOL:
            _expect_known_fleet(document)
            return of_fleet(document)
        expect_known(document)
        return [of_report(document, path)]
    except ReportError:
        raise
    except DAMAGED as error:
        raise ReportError(f"is damaged ({type(error).__name__}: {error})") from None


def _expect_known_fleet(document: Mapping[str, Any]) -> None:
    version = document.get("schema_version")
    if version != FLEET_VERSION:
        raise ReportError(f"its schema version is {version!r}, and this pytest-bionemo reads {FLEET_VERSION}")


class _Newest:
    """What was said last of the fleet and of each node, whatever the order of the files.

    A node's own report adds to what the fleet says of the same run, or of an older one. Families for which there is
    no room are left out whole, the last ones first: half of the nodes would look like all of them.
    """

    def __init__(self, series: int) -> None:
        self._series = series
        self._parts: dict[tuple[str | None, bool], Part] = {}
        self._size = 0
        self._dropped: set[str] = set()

    @property
    def left_out(self) -> int:
        """How many samples there was no room for."""
        return sum(part.left_out for part in self._parts.values())

    def add(self, part: Part) -> None:
        key = (part.node, part.is_report)
        former = self._parts.get(key)
        part = self._cut(part)
        # Of two folds the later one, whatever it counts: the former may miss a node whose report was late. Of two of
        # the same second the same one, whichever comes first.
        if former is None or (part.said, part.time, part.samples) > (former.said, former.time, former.samples):
            self._parts[key] = part
            self._size += len(part.samples) - (len(former.samples) if former else 0)
            if self._size > 2 * self._series:  # not at each report: it takes a pass over all that is kept
                self._make_room()

    def _make_room(self) -> None:
        sizes = Counter(sample.family for part in self._parts.values() for sample in part.samples)
        for name in reversed(FAMILIES):
            if self._size <= self._series:
                break
            self._dropped.add(name)
            self._size -= sizes[name]
        self._parts = {key: self._cut(part) for key, part in self._parts.items()}

    def _cut(self, part: Part) -> Part:
        kept = tuple(sample for sample in part.samples if sample.family not in self._dropped)
        return part._replace(samples=kept, left_out=part.left_out + len(part.samples) - len(kept))

    def merged(self) -> dict[str, dict[tuple[str, ...], float]]:
        """The samples by family, each series once."""
        self._make_room()
        said: dict[str, dict[str | None, list[Sample]]] = {}
        # Reports last: what they say of a node takes the place of what the fleet says.
        for part in sorted(self._current(), key=lambda part: (part.is_report, part.node or "")):
            of_this: dict[str, list[Sample]] = {}
            for sample in part.samples:
                of_this.setdefault(sample.family, []).append(sample)
            for name, samples in of_this.items():
                said.setdefault(name, {})[part.node] = samples
        return {
            name: {sample.labels: sample.value for samples in of_nodes.values() for sample in samples}
            for name, of_nodes in said.items()
        }

    def _current(self) -> Iterator[Part]:
        for (node, is_report), part in self._parts.items():
            other = self._parts.get((node, not is_report))
            if other is None:
                yield part
            elif is_report:
                yield from _together(other, part)


def _together(fleet: Part, report: Part) -> Iterator[Part]:
    """What holds of what the two say of one node; the report takes the place of the fleet where both say something.

    Who is blamed stays so until the fleet is folded again: no run of a node alone refutes what the others saw.
    """
    if report.time < fleet.time:  # the fleet knows a later run, or has missed the node since
        yield fleet
        return
    # A clock that is ahead makes no run a later one.
    if report.time > max(fleet.said, fleet.time):
        fleet = _without(_STATUS, fleet)
    elif _strength(fleet) > _strength(report):
        report = _without(_ACTION, report)
    yield fleet
    yield report


def _without(family: str, part: Part) -> Part:
    return part._replace(samples=tuple(sample for sample in part.samples if sample.family != family))


def _strength(part: Part) -> int:
    actions = (Action(sample.labels[1]).strength for sample in part.samples if sample.family == _ACTION)
    return max(actions, default=0)


def _as_openmetrics(found: Mapping[str, Mapping[tuple[str, ...], float]]) -> str:
    """The text, which says the same as a document of the textfile collector."""
    try:
        from prometheus_client.core import GaugeMetricFamily
        from prometheus_client.openmetrics.exposition import generate_latest
        from prometheus_client.registry import Collector, CollectorRegistry
    except ImportError as error:
        raise UsageError(f"{error}. $ pip install 'pytest-bionemo[fleet]'") from None

    class Found(Collector):
        def collect(self) -> Iterator[GaugeMetricFamily]:
            for name, family in FAMILIES.items():
                if name in found:
                    metric = GaugeMetricFamily(name, family.help, labels=family.labels)
                    for labels, value in found[name].items():
                        metric.add_metric(labels, float(value))
                    yield metric

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Found())
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return text.decode()
