"""The desk at which the ranks of a job report: a small process that node 0's pytest starts.

It is none of the ranks, so that none takes it along when it is killed. Each rank keeps a connection to it, over which
it says where it is and that it lives. The kernel closes the connection of a process that dies, one that is stopped
falls silent, and the desk tells all the others who is missed (:mod:`pytest_bionemo.roll_call`). It imports no torch.

One line of JSON is one message, both ways. The desk greets first: so that nothing is ever written to a port on which
something else listens, such as torchrun's own store.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_bionemo.roll_call import RollCall, Seat
from pytest_bionemo.workloads.meeting import GREETING, PORTS

_START = (
    "import sys; port, job, patience, *sys.path[:] = sys.argv[1:]; "
    "from pytest_bionemo.desk import serve; serve(int(port), job, float(patience))"
)
_TICK_S = 0.1
_LONGEST_MESSAGE = 4 << 20
# Whoever still writes its last words to the desk when node 0 is done has so long.
_LINGER_S = 5.0
_STARTING_S = 20.0


class DeskError(Exception):
    """No desk could be started: in one line, why."""


class Desk:
    """The desk of this job, for the node that keeps it.

    :param port: where others look for it; 0 for any, on a machine that meets nobody else.
    :param job: the id of the job: another job's ranks are turned away.
    :param patience_s: how long it waits, when it is closed, for nodes that are not through (:func:`meeting.staying`):
        a node that comes late would find nobody, and blame this one.
    :raises DeskError: if it could not be started.

    ``port`` is where it listens. It ends with this process, or by :meth:`close`.
    """

    def __init__(self, port: int, job: str, patience_s: float = 0) -> None:
        self._patience_s = max(_LINGER_S, patience_s)
        path = [str(Path(entry).absolute()) for entry in sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(port), job, str(self._patience_s), *path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.port = self._read_port(port)

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def close(self) -> None:
        """Let it go, once nobody talks to it any more."""
        with suppress(BrokenPipeError):
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(self._patience_s + 1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]

    def _read_port(self, wanted: int) -> int:
        assert self._process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            said = self._process.stdout.readline().decode().strip() if selector.select(_STARTING_S) else ""
        if not said.isdigit():
            self._process.kill()
            rest = self._process.communicate()[0].decode(errors="replace").strip().splitlines()
            last = rest[-1] if rest else said or f"no answer within {_STARTING_S:g} s"
            raise DeskError(f"the desk at which the ranks meet could not be started on port {wanted}: {last}")
        return int(said)


# ------------------------------------------------------------------------------------------- in the child


class _Guest:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = b""
        self.to_send = b""
        self.seat: Seat | None = None
        self.meeting: str = ""
        self.stays = False

    def lines(self) -> list[bytes] | None:
        """The messages that are complete; None if it is gone.

        :raises ValueError: for one that never ends.
        """
        try:
            chunk = self.connection.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not chunk:
            return None
        *complete, self.received = (self.received + chunk).split(b"\n")
        if len(self.received) > _LONGEST_MESSAGE:
            raise ValueError(f"a message of more than {_LONGEST_MESSAGE} bytes")
        return complete


class _Server:
    """All meetings of a job, one after the other or at once."""

    def __init__(self, listening: socket.socket, job: str, patience_s: float) -> None:
        self._job = job
        self._patience_s = patience_s
        self._listening = listening
        self._selector = selectors.DefaultSelector()
        self._selector.register(listening, selectors.EVENT_READ, self._accept)
        self._guests: dict[int, _Guest] = {}
        self._meetings: dict[str, RollCall] = {}
        self._verdicts: dict[str, dict[str, Any]] = {}
        self._absent: dict[int, str] = {}
        self._names: dict[int, str] = {}
        self._stopped_at: float | None = None

    def run(self, parent: int) -> None:
        """Serve until ``parent``, a descriptor, is closed at its other end and nobody is left."""
        self._selector.register(parent, selectors.EVENT_READ, self._stop)
        last = time.monotonic()
        while self._is_wanted(time.monotonic()):
            for key, events in self._selector.select(_TICK_S):
                key.data(key.fileobj, events)
            now = time.monotonic()
            if now - last > 1.0:
                for meeting in self._meetings.values():
                    meeting.wake(now)
            last = now
            self._judge(now)

    def _is_wanted(self, now: float) -> bool:
        if self._stopped_at is None:
            return True
        over = now - self._stopped_at
        if any(guest.stays for guest in self._guests.values()):
            return over < self._patience_s
        return bool(self._guests) and over < _LINGER_S

    def _stop(self, parent: Any, _: int) -> None:
        self._selector.unregister(parent)
        self._stopped_at = time.monotonic()

    def _accept(self, _: Any, __: int) -> None:
        with suppress(OSError):
            connection, _address = self._listening.accept()
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            guest = _Guest(connection)
            self._guests[connection.fileno()] = guest
            self._selector.register(connection, selectors.EVENT_READ, self._serve)
            self._tell(guest, desk=GREETING, job=self._job)

    def _serve(self, connection: socket.socket, events: int) -> None:
        guest = self._guests[connection.fileno()]
        if events & selectors.EVENT_WRITE:
            self._flush(guest)
        if not events & selectors.EVENT_READ:
            return
        try:
            messages = guest.lines()
            if messages is None:
                self._say_goodbye(guest, "gone")
                return
            for message in messages:
                self._understand(guest, json.loads(message), time.monotonic())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            # One guest that talks nonsense is no reason to leave the others alone.
            self._tell(guest, refused=f"{type(error).__name__}: {error}")
            self._say_goodbye(guest, "gone")

    def _understand(self, guest: _Guest, message: dict[str, Any], now: float) -> None:
        if "absent" in message:
            self._absent[int(message["node"])] = str(message["absent"])
            self._names[int(message["node"])] = str(message["host"])
            self._tell(guest, noted=True)
        elif "stays" in message:
            guest.stays = True
            self._tell(guest, noted=True)
        elif "join" in message:
            self._join(guest, message, now)
        elif guest.seat is not None:
            self._hear(guest, guest.seat, message, now)

    def _join(self, guest: _Guest, message: dict[str, Any], now: float) -> None:
        name = str(message["join"])
        # What the scheduler said, and what each said of itself the last time, also in another meeting.
        self._names |= {node: str(host) for node, host in enumerate(message["hosts"]) if node not in self._names}
        self._names[int(message["node"])] = str(message["host"])
        meeting = self._meetings.setdefault(name, RollCall(int(message["nodes"]), self._names, now))
        seat = Seat(
            int(message["node"]), int(message["local"]), int(message["locals"]), str(message["host"]),
            str(message["device"]), now,
        )  # fmt: skip
        if name in self._verdicts:  # too late: the others have gone
            self._tell(guest, missed=self._verdicts[name])
            return
        meeting.join(seat, float(message["deadline_s"]), now)
        guest.seat, guest.meeting = seat, name
        if ranks := meeting.meet():
            places = [{"rank": s.rank, "node": s.node, "local": s.local, "host": s.host, "device": s.device}
                      for s in ranks]  # fmt: skip
            self._tell_all(name, met=places)

    def _hear(self, guest: _Guest, seat: Seat, message: dict[str, Any], now: float) -> None:
        seat.heard = now
        if "step" in message:
            seat.step, seat.steps = str(message["step"]), seat.steps + 1
        elif "share" in message:
            values = self._meetings[guest.meeting].share(seat, str(message["share"]), message["value"])
            if values is not None:
                self._tell_all(guest.meeting, shared=message["share"], values=values)
        elif "broke" in message:
            seat.end("broke", now, str(message["broke"]), bool(message["is_cause"]))
        elif "left" in message:
            seat.end("left", now)
            meeting = self._meetings.get(guest.meeting)
            if meeting and all(other.ended == "left" for other in meeting.seats.values()):
                del self._meetings[guest.meeting]
        else:
            seat.be_seen(str(message["at"]), now)
            self._tell(guest, here=True)

    def _judge(self, now: float) -> None:
        for name, meeting in self._meetings.items():
            if name not in self._verdicts and (verdict := meeting.judge(now, self._absent)):
                self._verdicts[name] = verdict
                self._tell_all(name, missed=verdict)

    def _tell_all(self, name: str, **message: Any) -> None:
        line = json.dumps(message).encode() + b"\n"  # once: of many ranks it is long
        for guest in self._guests.values():
            if guest.meeting == name:
                guest.to_send += line
                self._flush(guest)

    def _tell(self, guest: _Guest, **message: Any) -> None:
        guest.to_send += json.dumps(message).encode() + b"\n"
        self._flush(guest)

    def _flush(self, guest: _Guest) -> None:
        with suppress(OSError):  # one that is gone is noticed when it is read from
            sent = guest.connection.send(guest.to_send)
            guest.to_send = guest.to_send[sent:]
        waits = selectors.EVENT_WRITE if guest.to_send else 0
        self._selector.modify(guest.connection, selectors.EVENT_READ | waits, self._serve)

    def _say_goodbye(self, guest: _Guest, how: str) -> None:
        if guest.seat:
            guest.seat.end(how, time.monotonic())
        del self._guests[guest.connection.fileno()]
        self._selector.unregister(guest.connection)
        guest.connection.close()


def serve(port: int, job: str, patience_s: float) -> None:
    """Run in the child: print the port, and serve until the standard input ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # one descriptor a rank
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with _listen(port) as listening:
        print(listening.getsockname()[1], flush=True)
        _Server(listening, job, patience_s).run(sys.stdin.fileno())
    os._exit(0)


def _listen(port: int) -> socket.socket:
    if not port:  # nobody comes from elsewhere
        return socket.create_server(("127.0.0.1", 0))
    last: OSError | None = None
    # Of a cluster that has only IPv6 the names of its nodes have no other address.
    both = socket.has_dualstack_ipv6()
    for candidate in range(port, port + PORTS):
        try:
            family = socket.AF_INET6 if both else socket.AF_INET
            return socket.create_server(("", candidate), family=family, backlog=1024, dualstack_ipv6=both)
        except OSError as error:
            last = error
    assert last
    raise last
