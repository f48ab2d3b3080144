"""Where the ranks of a job meet: who is there, what they tell each other, and who is missed.

A rank that never arrives, dies or hangs leaves the others in a collective that does not end. Each rank therefore
keeps a connection to a desk (:mod:`pytest_bionemo.desk`) in a thread of its own, and is told by it who is missed.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from pytest_bionemo.workloads import DEADLINE, LOCAL_RANK, LOCAL_SIZE, NAME, device, interfaces

GREETING = "pytest-bionemo desk"
PORTS = 16
"""What a desk says first, and on how many ports it may be: on the first one that is free, from the job's on."""
_BEAT_S = 0.5
# From the verdict to the deadline of the worker: what it takes to write the answer down.
_MARGIN_S = 5.0
_LEAST_S = 1.0
_PATIENCE_S = 2.0
# The desk is silent for so long: its node is lost. It is no longer than the desk's own patience with a rank.
_SILENCE_S = 10.0
_LEAST_SILENCE_S = 3.0
_RETRY_S = 0.1
_LONGEST_ERROR = 2000
_LOOPBACKS = ("127.0.0.1", "::1")

last_resort: Callable[[BaseException], NoReturn] | None = None
"""What ends this process with an error as its answer when its main thread is stuck in a library; a worker sets it."""


@dataclass(frozen=True)
class Place:
    """Where a node is in its job; the same for each of its devices.

    ``address`` and ``port`` are where node 0's desk is looked for, from that port on. ``hosts`` are the names of the
    nodes in their order, empty where nobody knows them; ``name`` is what the scheduler calls this one. Ranks of
    another ``job`` are turned away.
    """

    node_rank: int
    nodes: int
    address: str
    port: int
    hosts: list[str]
    job: str = ""
    name: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain builtins: what a workload takes."""
        return asdict(self)

    @property
    def host(self) -> str:
        """The name of this node, as the scheduler knows it."""
        known = self.hosts[self.node_rank] if self.node_rank < len(self.hosts) else ""
        return self.name or known or socket.gethostname()

    @property
    def first_host(self) -> str:
        """The name of the node that keeps the desk."""
        own = self.address if self.node_rank else self.host
        return self.hosts[0] if self.hosts else own


@dataclass(frozen=True)
class Rank:
    """One rank of a meeting: ``local`` is its number on its node, ``device`` the name of its device there."""

    rank: int
    node: int
    local: int
    host: str
    device: str

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, {self.device})"


class Missed(Exception):
    """A rank did not arrive, died or hangs, so that the others cannot go on.

    Its text is one line. ``hosts`` and ``ranks`` are to blame, none where nobody knows; ``step`` is what that rank
    did last, None if it never arrived.
    """

    def __init__(self, text: str, ranks: list[int], hosts: list[str], step: str | None) -> None:
        super().__init__(text)
        self.ranks = ranks
        self.hosts = hosts
        self.step = step


@contextmanager
def meet(name: str, place: Mapping[str, Any], deadline_s: float) -> Iterator[Meeting]:
    """Meet all other ranks of the job, and stay with them.

    Which device of its node this process is stands in its variables, which a worker is given. It ends with the
    meeting of all, or with an exception everywhere: within ``deadline_s``, or before this worker's own deadline.

    :param name: of this meeting, the same in all ranks; each name is used once in a job.
    :param place: of this node, as JSON (:meth:`Place.to_json`).
    :raises Missed: if another rank does not arrive, dies, hangs or breaks off. A process that is stuck in a library
        ends with it as its answer.

    >>> def run(place):
    ...     with meet("sums", place, 60) as ranks, ranks.group():
    ...         ranks.step("all-reduce")
    ...         torch.distributed.all_reduce(ones := torch.ones(1))
    ...     return {"sum": ones.item(), "ranks": ranks.size}
    """
    meeting = Meeting(name, Place(**place), _within(deadline_s))
    try:
        meeting._arrive()
        yield meeting
        meeting._leave()
    except BaseException as error:
        missed = meeting._explain(error)
        if missed is None:
            raise
        raise missed from error
    finally:
        meeting._close()


def arrive(place: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
    """Wait, in a process of its own, until every node is there; one that comes late is not taken for one that hangs.

    :return: ``missed`` (None, or the line that says who is) and ``blames`` (hosts).
    """
    try:
        with meet("the nodes", place, deadline_s):
            return {"missed": None, "blames": []}
    except Missed as missed:
        return {"missed": str(missed), "blames": missed.hosts}


def say_absent(place: Mapping[str, Any], reason: str, deadline_s: float = 10) -> dict[str, bool]:
    """Tell the others that this node does not take part, so that they do not wait: ``{"told": True}`` if it could."""
    here = Place(**place)
    with suppress(OSError, Missed), _connect(here, time.monotonic() + deadline_s) as connection:
        return {"told": _tell(connection, deadline_s, absent=reason, node=here.node_rank, host=here.host)}
    return {"told": False}


@contextmanager
def staying(place: Mapping[str, Any]) -> Iterator[None]:
    """Let the desk, which is there, know that this node is not through: it goes on for a while after its own node."""
    connection = None
    with suppress(OSError, Missed):
        connection = _connect(Place(**place), time.monotonic() + _PATIENCE_S)
        _tell(connection, _PATIENCE_S, stays=True)
    try:
        yield
    finally:
        if connection:
            connection.close()


def _tell(connection: socket.socket, patience_s: float, **message: Any) -> bool:
    """Whether the desk has noted it."""
    connection.settimeout(patience_s)
    connection.sendall(json.dumps(message).encode() + b"\n")
    return b"noted" in connection.recv(1 << 10)


class Meeting:
    """One rank, that of this process, among the others."""

    rank: int
    ranks: tuple[Rank, ...]

    def __init__(self, name: str, place: Place, deadline_s: float) -> None:
        self._name = name
        self._place = place
        self._ends_at = time.monotonic() + deadline_s
        self._silence_s = min(_SILENCE_S, max(_LEAST_SILENCE_S, deadline_s / 4))
        self._connection: socket.socket | None = None
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._is_closed = threading.Event()
        self._thread = threading.get_ident()
        self._attendant: threading.Thread | None = None
        self._missed: Missed | None = None
        self._has_met = False
        self._shared: dict[str, list[Any]] = {}

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return len(self.ranks)

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return max(_LEAST_S, self._ends_at - time.monotonic())

    def step(self, name: str) -> None:
        """Say what this rank does next: whoever stays behind is found by it.

        :raises Missed: if one is missed by now.
        """
        self._check()
        self._send(step=name)

    def share(self, name: str, value: Any) -> list[Any]:
        """The values of all ranks, in their order, of what each gives under this name.

        :param value: anything that JSON can hold, some kilobytes at most.
        :raises Missed: if another one does not give its value.
        """
        self._check()
        self._send(share=name, value=value)
        self._wait_for(lambda: name in self._shared)
        return self._shared.pop(name)

    def addresses(self) -> list[str]:
        """Where each rank is reached by the others, in their order; gloo keeps to that network from now on.

        :raises Missed: as :meth:`share` does.
        """
        assert self._connection
        ends = (self._connection.getsockname(), self._connection.getpeername())
        told = self.share("address", [interfaces.bare(end) for end in ends])
        # Many a machine has its own name on its loopback: the others know by which address they came to its desk.
        outside = [desk for rank, (_, desk) in zip(self.ranks, told, strict=True) if rank.node]
        first = next((desk for desk in outside if not interfaces.is_loopback(desk)), None)
        found = [
            first if first and rank.node == 0 and interfaces.is_loopback(own) else own
            for rank, (own, _) in zip(self.ranks, told, strict=True)
        ]
        interfaces.steer_gloo(found)
        return found

    @contextmanager
    def group(self) -> Iterator[None]:
        """The process group of ``torch.distributed`` of all ranks: NCCL on GPUs, gloo on the CPU.

        It is destroyed at the end. Not after an error: then it may wait for ranks that are gone, and the process
        should end; a worker's does. What holds it, as DistributedDataParallel does, must be gone by then, so a
        function that has returned is the place for it: whoever lets go of gloo's group last waits for its threads,
        and of DDP's reducer with the lock of Python, which those may want (pytorch/pytorch#56297).

        :raises Missed: if another rank does not join it, and as :func:`meet` does.
        """
        import torch.distributed as dist

        self.step("joining the process group")
        self.addresses()
        kind = device().type
        dist.init_process_group(
            "nccl" if kind == "cuda" else "gloo",
            store=self._store(),
            rank=self.rank,
            world_size=self.size,
            timeout=self._timeout(),
        )
        yield
        self.step("leaving the process group")
        self.share("left the group", None)  # the first one to go closes connections that others may still read
        dist.destroy_process_group()
        self.share("closed the group", None)  # its store goes with rank 0

    def _store(self) -> Any:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        timeout = self._timeout()
        # On its own node, so that a name that only other nodes can resolve is of no concern.
        mine = TCPStore("localhost", 0, None, True, timeout, wait_for_workers=False) if self.rank == 0 else None
        port = self.share("store", mine.port if mine else None)[0]
        return mine or TCPStore(self._store_address(), port, None, False, timeout, wait_for_workers=False)

    def _timeout(self) -> timedelta:
        # Of the library, after the verdict of the desk: whatever breaks off by itself looks like the cause.
        return timedelta(seconds=self.left_s + 2 * _MARGIN_S)

    def _store_address(self) -> str:
        return "localhost" if self._place.nodes == 1 or self._place.node_rank == 0 else self._place.address

    # ---------------------------------------------------------------------------------------- coming and going

    def _arrive(self) -> None:
        self._connection = _connect(self._place, self._ends_at)
        self._connection.settimeout(self._silence_s)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        local = _local_rank()
        self._send(
            join=self._name,
            node=self._place.node_rank,
            nodes=self._place.nodes,
            hosts=self._place.hosts,
            local=local,
            locals=int(os.environ.get(LOCAL_SIZE, "1")),
            host=self._place.host,
            device=os.environ.get(NAME) or f"device {local}",
            deadline_s=self._ends_at - time.monotonic(),
        )
        self._attendant = threading.Thread(target=self._attend, name="pytest-bionemo desk", daemon=True)
        self._attendant.start()
        self._wait_for(lambda: self._has_met)

    def _leave(self) -> None:
        self._send(left=True)

    def _explain(self, error: BaseException) -> Missed | None:
        """What the others know about this rank's error; None where it is the cause itself."""
        if isinstance(error, Missed) or self._connection is None:
            return None
        with suppress(Missed):
            # What breaks because a neighbour is gone is a RuntimeError of torch, or one of a connection.
            is_cause = not isinstance(error, (RuntimeError, OSError))
            self._send(broke=f"{type(error).__name__}: {error}"[:_LONGEST_ERROR], is_cause=is_cause)
            with suppress(TimeoutError):
                self._wait_for(lambda: False, self._silence_s + 2 * _PATIENCE_S)
        missed = self._missed
        is_own = missed is None or (self._has_met and self.rank in missed.ranks)
        return None if is_own else missed

    def _close(self) -> None:
        """Let the desk close first: what it says while this rank leaves would cut off this rank's last words.

        The kernel answers what comes to a closed connection by a reset, and drops what it has not sent yet. The desk
        would take a rank that left for one that died, and tell those that are still on their way.
        """
        self._is_closed.set()
        if self._connection is None:
            return
        ends_at = time.monotonic() + _PATIENCE_S
        with suppress(OSError):
            with self._sending:
                self._connection.shutdown(socket.SHUT_WR)
            if self._attendant is not None:
                self._attendant.join(_PATIENCE_S)
            while (left := ends_at - time.monotonic()) > 0:
                self._connection.settimeout(left)
                if not self._connection.recv(1 << 16):
                    break
        self._connection.close()

    # ------------------------------------------------------------------------------------------ talking

    def _check(self) -> None:
        if self._missed:
            raise self._missed

    def _wait_for(self, holds: Callable[[], bool], seconds: float | None = None) -> None:
        # The desk judges at the deadline; only if it does not, does this end the wait.
        limit = self.left_s + self._silence_s if seconds is None else seconds
        with self._changed:
            came = self._changed.wait_for(lambda: self._missed is not None or holds(), limit)
        self._check()
        if not came and seconds is not None:
            raise TimeoutError
        if not came:
            raise self._desk_lost("says nothing")

    def _send(self, **message: Any) -> None:
        assert self._connection
        try:
            with self._sending:
                self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            self._check()
            raise self._desk_lost(f"is gone ({error})") from error

    def _attend(self) -> None:
        """In a thread: show that this rank lives, and take in what the desk says."""
        assert self._connection
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        received, heard, shown = b"", time.monotonic(), 0.0
        while not self._is_closed.is_set():
            now = time.monotonic()
            try:
                if now - shown >= _BEAT_S:
                    shown = now
                    self._send(at=_place_of(self._thread))
                if poll.poll(_BEAT_S * 1000):
                    chunk = self._connection.recv(1 << 16)
                    if not chunk:
                        raise self._desk_lost("is gone")
                    heard = time.monotonic()
                    *lines, received = (received + chunk).split(b"\n")
                    for line in lines:
                        self._take_in(json.loads(line))
                elif now - heard > self._silence_s:
                    raise self._desk_lost(f"gave no sign of life for {now - heard:.0f} s")
            except Missed as missed:
                self._give_up(missed)
            except OSError as error:
                self._give_up(self._desk_lost(f"is gone ({error})"))

    def _take_in(self, message: dict[str, Any]) -> None:
        if "missed" in message:
            raise Missed(**message["missed"])
        if "refused" in message:
            raise Missed(
                f"the desk of {self._place.first_host} refused this rank: {message['refused']}", [], [], None
            )
        with self._changed:
            if "met" in message:
                self.ranks = tuple(Rank(**place) for place in message["met"])
                here = (self._place.node_rank, _local_rank())
                self.rank = next(one.rank for one in self.ranks if (one.node, one.local) == here)
                self._has_met = True
            elif "shared" in message:
                self._shared[message["shared"]] = message["values"]
            self._changed.notify_all()

    def _give_up(self, missed: Missed) -> None:
        """Tell the main thread, and answer in its place if it does not hear."""
        if self._is_closed.is_set():
            return
        with self._changed:
            self._missed = self._missed or missed
            self._changed.notify_all()
        if not self._is_closed.wait(_PATIENCE_S) and last_resort:
            last_resort(self._missed)
        self._is_closed.wait()

    def _desk_lost(self, how: str) -> Missed:
        first = self._place.first_host
        return Missed(f"the desk of {first}, at which the ranks meet, {how}", [], [first], None)


def _local_rank() -> int:
    return int(os.environ.get(LOCAL_RANK, "0"))


def _place_of(thread: int) -> str:
    """Where in the program a thread is: "all_reduce (distributed_c10d.py:3156)"."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return ""
    return f"{frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"


def _within(deadline_s: float) -> float:
    """The deadline, moved forward where this worker is killed before."""
    killed_at = os.environ.get(DEADLINE)
    left = float(killed_at) - time.monotonic() - _MARGIN_S if killed_at else deadline_s
    return max(_LEAST_S, min(deadline_s, left))


def _connect(place: Place, ends_at: float) -> socket.socket:
    """A connection to the desk of this job, on the first port where it greets; it may come up later than this rank.

    :raises Missed: if there is none until ``ends_at``.
    """
    started, last = time.monotonic(), "there is none"
    while True:
        try:
            addresses = _resolve(place, ends_at)
        except OSError as error:
            addresses, last = [], f"{place.address}: {error}"
        for port in range(place.port, place.port + PORTS):
            for address in addresses:
                # One that is switched off says nothing on any of them: with each a second would pass.
                left = ends_at - time.monotonic()
                if left < 0:
                    break
                try:
                    connection = socket.create_connection((address, port), timeout=max(0.1, min(_LEAST_S, left)))
                except OSError as error:
                    last = f"{place.address}:{port}: {error}"
                    continue
                if _is_greeted(connection, place.job):
                    return connection
                connection.close()
                last = f"{place.address}:{port}: something else listens there"
        if time.monotonic() > ends_at:
            raise _desk_not_found(place, time.monotonic() - started, last)
        time.sleep(_RETRY_S)


def _desk_not_found(place: Place, waited_s: float, last: str) -> Missed:
    how = f"desk was not found within {waited_s:.0f} s ({last})"
    if place.node_rank and not place.hosts and place.address in ("localhost", *_LOOPBACKS):
        # It has looked at itself: of the first node it knows nothing.
        told = f"MASTER_ADDR is {place.address}, by which each node means itself"
        return Missed(f"the {how}: {told}. Write the name of the first one", [], [], None)
    return Missed(f"{place.first_host} did not arrive: its {how}", [], [place.first_host], None)


def _resolve(place: Place, ends_at: float) -> list[str]:
    """The addresses of the first node, in no more time than is left: a resolver that is gone holds its callers long.

    :raises OSError: if there are none.
    """
    found: list[str] = []
    errors: list[OSError] = []

    def ask() -> None:
        try:
            known = socket.getaddrinfo(place.address, place.port, type=socket.SOCK_STREAM)
            found.extend(dict.fromkeys(str(one[4][0]) for one in known))
        except OSError as error:
            errors.append(error)
        except UnicodeError as error:  # no name at all
            errors.append(OSError(str(error)))

    asking = threading.Thread(target=ask, name="pytest-bionemo resolver", daemon=True)
    asking.start()
    asking.join(max(0.1, ends_at - time.monotonic()))
    if place.node_rank == 0:  # its desk runs here, also where its name or address leads others only
        return list(dict.fromkeys([*found, *_LOOPBACKS]))
    if not found:
        raise errors[0] if errors else OSError("the resolver does not answer")
    return found


def _is_greeted(connection: socket.socket, job: str) -> bool:
    try:
        line = b""
        while not line.endswith(b"\n") and len(line) < 1 << 10:
            chunk = connection.recv(1)
            if not chunk:
                return False
            line += chunk
        said = json.loads(line)
        return bool(said.get("desk") == GREETING and said.get("job") == job)
    except (OSError, ValueError, AttributeError):
        return False
