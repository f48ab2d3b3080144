"""Reports read by child processes, each with a deadline: a file system that hangs costs its own reports alone.

One report at a time is in a child, so that whatever it dies of is named, and what is kept of a report is small: the
memory that is needed does not grow with the size of the reports.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

from pytest_bionemo.fleet import sources
from pytest_bionemo.fleet.node import FleetDocument, Node, Numbers
from pytest_bionemo.model import count
from pytest_bionemo.verdict import ReportError

MOST_PROCESSES = 8
"""Two for each processor, one of which waits for the file system; more than these would only load it."""
DEADLINE_S = 60.0
"""Unless told otherwise: for one report."""

_LARGE = 16 * 2**20

_Thing = TypeVar("_Thing")
_Read = Callable[[bytes, str], _Thing]


class Sharer:
    """Keeps one copy of what most reports say alike."""

    def __init__(self) -> None:
        self._known: dict[object, object] = {}

    def one(self, thing: _Thing) -> _Thing:
        """The first thing that was equal to this one."""
        return self._known.setdefault(thing, thing)  # type: ignore[return-value]

    def node(self, node: Node) -> Node:
        """The same node, of shared parts."""
        return replace(
            node,
            job=self.one(node.job),
            reasons=self.one(tuple(map(self.one, node.reasons))),
            said=self.one(node.said),
            facts=self.one(tuple(map(self.one, node.facts))),
            numbers=self._numbers(node.numbers),
            sections=self.one(node.sections),
            found=self.one(tuple(map(self.one, node.found))),
        )

    def _numbers(self, numbers: Numbers) -> Numbers:
        return replace(numbers, quantities=self.one(tuple(map(self.one, numbers.quantities))))


class _Reader(Generic[_Thing]):
    """One child and the report that it has in hand."""

    def __init__(
        self, context: multiprocessing.context.ForkContext, read: _Read[_Thing], others: Iterable[_Reader[_Thing]]
    ) -> None:
        self.connection, far = context.Pipe()
        inherited = [self.connection, *(other.connection for other in others)]
        self.process: BaseProcess = context.Process(target=_serve, args=(far, read, inherited), daemon=True)
        self.process.start()
        far.close()
        self.path = ""
        self.since = 0.0
        self.is_lost = False

    def give(self, path: str, content: bytes | None) -> None:
        self.path, self.since = path, time.monotonic()
        # A child that has died says so when it is asked for its answer.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send((path, content))

    def answer(self) -> _Thing | str | None:
        try:
            found: _Thing | str | None = self.connection.recv()
        except (EOFError, OSError):
            self.kill()
            self.process.join()
            return f"the process that read it died (exit status {self.process.exitcode})"
        return found

    def kill(self) -> None:
        self.is_lost = True
        self.process.kill()
        self.connection.close()

    def leave(self) -> None:
        """End it if that can be done: what waits for a dead file system cannot be killed, and is left alone."""
        self.kill()
        # Otherwise the end of this program would wait for it.
        multiprocessing.process._children.discard(self.process)  # type: ignore[attr-defined]


def read_all(
    reports: Iterable[tuple[str, bytes | None]], read: _Read[_Thing], deadline_s: float = DEADLINE_S
) -> Iterator[tuple[str, _Thing | str]]:
    """The path of each report, with what is made of it or the reason why there is nothing; in no particular order.

    :param reports: paths, with the content of those that are in no file.
    :param read: makes it of content and path, in the child; what it gives is sent here. It raises ReportError for
        what is no report, FleetDocument for what is to be passed over.
    :param deadline_s: how long one report may take.
    """
    context = multiprocessing.get_context("fork")
    waiting = iter(reports)
    most = min(MOST_PROCESSES, 2 * len(os.sched_getaffinity(0)))
    busy: list[_Reader[_Thing]] = []
    idle: list[_Reader[_Thing]] = []
    try:
        while True:
            while (len(busy) < most) and (following := next(waiting, None)):
                reader = idle.pop() if idle else _Reader(context, read, (*busy, *idle))
                reader.give(*following)
                busy.append(reader)
            if not busy:
                return
            for reader, answer in _answers(busy, deadline_s):
                busy.remove(reader)
                if not reader.is_lost:
                    idle.append(reader)
                if answer is not None:
                    yield reader.path, answer
    finally:
        for reader in (*busy, *idle):
            reader.kill()


def seconds(text: str) -> float:
    """A deadline as it is typed.

    :raises argparse.ArgumentTypeError: if it is none.
    """
    if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", text, re.ASCII) or float(text) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return float(text)


def _answers(busy: list[_Reader[_Thing]], deadline_s: float) -> list[tuple[_Reader[_Thing], _Thing | str | None]]:
    """Those readers that have an answer, or will never have one."""
    first = min(reader.since for reader in busy) + deadline_s
    ready = wait([reader.connection for reader in busy], max(0.0, first - time.monotonic()))
    found: list[tuple[_Reader[_Thing], _Thing | str | None]] = []
    for reader in list(busy):
        if reader.connection in ready:
            found.append((reader, reader.answer()))
        elif time.monotonic() - reader.since >= deadline_s:
            reader.leave()
            found.append((reader, f"it could not be read within {count(round(deadline_s), 'second')}"))
    return found


def _serve(connection: Connection, read: _Read[_Thing], inherited: Iterable[Connection]) -> None:
    """In the child: read what comes until there is no more."""
    # Ends of the others' pipes: they would never see theirs closed.
    for other in inherited:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this one
    # A document is a tree and goes when it is dropped: looking for cycles in it would take a sixth of the time.
    gc.disable()
    # glibc gives the memory of each document back, and takes a tenth of the time to get it again for the next one,
    # unless so large a piece has been freed before. Nothing is written there: it takes no memory.
    with suppress(MemoryError):
        bytes(_LARGE)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            connection.send(_made(read, *connection.recv()))


def _made(read: _Read[_Thing], path: str, content: bytes | None) -> _Thing | str | None:
    try:
        return read(sources.load(path) if content is None else content, path)
    except FleetDocument:
        return None
    except ReportError as error:
        return str(error)
    except MemoryError:
        return "it takes more memory than there is"
