"""Who of a meeting is there, how far each is, and who is to blame when the meeting cannot go on.

Pure: it is told what happened and what the time is (seconds of any steady clock), and opens no connection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_bionemo.model import count

# Ranks of one node that dies do not end in the same instant: all that go within this time went together.
_TOGETHER_S = 1.0
# Shorter, and a rank that only waits for its processor would be taken for one that hangs.
_SILENCE_S = 10.0
_SILENT_SHARE = 0.25
# Shorter, and one that imports a large library, which holds up all its threads, would be taken for one that hangs.
_LEAST_SILENCE_S = 3.0
# Whoever is slow is not seen at one place for so long.
_STANDSTILL_S = 3.0
# Where the main thread of a rank is that waits for the others.
_WAITING_IN = "(distributed_c10d.py:"


@dataclass
class Seat:
    """One rank: where it is, what it does, and how it ended if it did.

    ``steps`` counts what it has begun, ``at`` is where its main thread was seen last, ``at_since`` since when it is
    there. ``ended`` is "left" (all went well), "gone" (its connection ended: so did its process) or "broke" (an error
    ended its workload, whose text is ``error``); None while it takes part.
    """

    node: int
    local: int
    locals: int
    host: str
    device: str
    heard: float
    rank: int = -1
    step: str = "its arrival"
    steps: int = 0
    at: str = ""
    at_since: float = 0.0
    ended: str | None = None
    ended_at: float = 0.0
    error: str = ""
    is_cause: bool = False

    def be_seen(self, at: str, now: float) -> None:
        """It lives, and its main thread is there."""
        if at != self.at:
            self.at, self.at_since = at, now

    def end(self, how: str, now: float, error: str = "", is_cause: bool = False) -> None:
        """It takes part no longer; the first end counts. ``is_cause``: the error can be no other rank's."""
        if self.ended is None:
            self.ended, self.ended_at, self.is_cause = how, now, is_cause
            self.error = " ".join(error.split())  # the verdict is one line

    def __str__(self) -> str:
        number = f"rank {self.rank}" if self.rank >= 0 else f"process {self.local}"
        return f"{number} ({self.host}, {self.device})"


@dataclass
class RollCall:
    """One meeting.

    :param nodes: how many take part.
    :param hosts: their names, of those that are known.
    :param started: when it was first asked for.
    """

    nodes: int
    hosts: Mapping[int, str]
    started: float
    seats: dict[tuple[int, int], Seat] = field(default_factory=dict)
    ends_at: float = float("inf")
    silence_s: float = _SILENCE_S
    has_met: bool = False
    _locals: dict[int, int] = field(default_factory=dict)
    _due: int = 0
    _shared: dict[str, dict[int, Any]] = field(default_factory=dict)

    def join(self, seat: Seat, deadline_s: float, now: float) -> None:
        """One comes, which can wait for so long.

        :raises ValueError: if its place is taken: two processes would pass for one rank.
        """
        key = (seat.node, seat.local)
        if key in self.seats:
            raise ValueError(f"node {seat.node} has two processes for its device {seat.local}")
        if not 0 <= seat.node < self.nodes:
            raise ValueError(f"there is no node {seat.node} in a job of {count(self.nodes, 'node')}")
        self.seats[key] = seat
        self._due += seat.locals - self._locals.get(seat.node, 0)
        self._locals[seat.node] = seat.locals
        # Whoever can wait the shortest has to be answered in time, and so all are.
        self.ends_at = min(self.ends_at, now + deadline_s)
        self.silence_s = min(self.silence_s, max(_LEAST_SILENCE_S, deadline_s * _SILENT_SHARE))

    def meet(self) -> list[Seat] | None:
        """The ranks in their order, the first time that all are here."""
        if self.has_met or not self._is_complete():
            return None
        self.has_met = True
        ranks = [self.seats[key] for key in sorted(self.seats)]
        for rank, seat in enumerate(ranks):
            seat.rank = rank
        return ranks

    def share(self, seat: Seat, name: str, value: Any) -> list[Any] | None:
        """One gives its value; those of all, in the order of the ranks, when it is the last one."""
        values = self._shared.setdefault(name, {})
        values[seat.rank] = value
        if len(values) < len(self.seats):
            return None
        return [values[rank] for rank in sorted(self._shared.pop(name))]

    def wake(self, now: float) -> None:
        """Whoever counts the time was not there itself: nobody's silence until now counts."""
        for seat in self.seats.values():
            seat.heard = now

    def judge(self, now: float, absent: Mapping[int, str]) -> dict[str, Any] | None:
        """Why the meeting cannot go on, None while it can.

        :param absent: nodes that said that they do not take part, with the reason.
        :return: ``text`` (one line), ``ranks`` and ``hosts`` that are to blame, ``step`` in which it ended (None
            before all had met).
        """
        seats = self.seats.values()
        # First what ended processes; what the others make of that comes later and is no cause.
        if gone := [seat for seat in seats if seat.ended == "gone"]:
            is_settled = now - min(seat.ended_at for seat in gone) >= _TOGETHER_S
            return self._blame(gone, "died") if is_settled else None
        silent = [seat for seat in seats if seat.ended is None and now - seat.heard > self.silence_s]
        if silent:
            longest = max(now - seat.heard for seat in silent)
            return self._blame(silent, f"hangs: not a sign of life for {longest:.0f} s")
        # A rank whose neighbour is stopped may break off long before the silence of that one is noticed.
        if broke := [seat for seat in seats if seat.ended == "broke"]:
            first = min(broke, key=lambda seat: (not seat.is_cause, seat.ended_at))
            is_settled = now - first.ended_at > _TOGETHER_S + (0 if first.is_cause else self.silence_s)
            # At the deadline what is known has to do: a verdict that comes later finds nobody.
            return self._blame([first], f"broke off: {first.error}") if is_settled or now >= self.ends_at else None
        if not self.has_met:
            return self._judge_arrival(now, absent)
        return self._judge_progress(now) if now >= self.ends_at else None

    def _is_complete(self) -> bool:
        # Asked for every rank that comes: counting all of them each time would take long for many.
        return len(self._locals) == self.nodes and len(self.seats) == self._due

    def _judge_arrival(self, now: float, absent: Mapping[int, str]) -> dict[str, Any] | None:
        away = [node for node in absent if node not in {seat.node for seat in self.seats.values()}]
        if away:
            said = "; ".join(f"{self._name(node)} does not take part: {absent[node]}" for node in sorted(away))
            return self._verdict(said, [], [self._host(node) for node in sorted(away)], None)
        if now < self.ends_at:
            return None
        here = {seat.node: seat for seat in self.seats.values()}
        lacking = [node for node in range(self.nodes) if node not in here]
        waited = f"within {now - self.started:.0f} s"
        if lacking:
            names = _listed([self._name(node) for node in lacking])
            return self._verdict(f"{names} did not arrive {waited}", [], [self._host(node) for node in lacking], None)
        keys = [(node, local) for node, seat in sorted(here.items()) for local in range(seat.locals)]
        late = [(node, local) for node, local in keys if (node, local) not in self.seats]
        names = _listed([f"process {local} of {self._name(node)}" for node, local in late])
        hosts = [self._host(node) for node, _ in late]
        return self._verdict(f"{names} did not arrive {waited}", [], hosts, None)

    def _judge_progress(self, now: float) -> dict[str, Any] | None:
        working = [seat for seat in self.seats.values() if seat.ended is None]
        if not working:
            return None
        first, last = min(seat.steps for seat in working), max(seat.steps for seat in self.seats.values())
        behind = [seat for seat in working if seat.steps == first]
        if first < last:
            ahead = next(seat for seat in self.seats.values() if seat.steps == last)
            beyond = "at its end" if ahead.ended else f"at {ahead.step}"
            return self._blame(behind, f"does not go on, while {ahead} is {beyond}")
        return self._judge_places(working, now)

    def _judge_places(self, working: Sequence[Seat], now: float) -> dict[str, Any]:
        """All are in the same step: one that stands elsewhere in the program than most is what they wait for."""
        places = Counter(seat.at for seat in working)
        most, number = places.most_common(1)[0]
        elsewhere = [seat for seat in working if seat.at != most]
        # Of ranks that all go on, only too slowly, each is seen at another place; and who waits holds up nobody.
        stands = all(now - seat.at_since >= _STANDSTILL_S for seat in elsewhere)
        waits = _WAITING_IN not in most and any(_WAITING_IN in seat.at for seat in elsewhere)
        if elsewhere and number > len(working) / 2 and stands and not waits:
            return self._blame(elsewhere, f"stays at {elsewhere[0].at}, while the others are at {most}")
        seen = _listed([f"{seat} at {seat.at}" for seat in working if seat.at]) if elsewhere else f"at {most}"
        text = f"all {count(len(working), 'rank')} stay in the step {working[0].step!r}: {seen}"
        return self._verdict(text, [], [], working[0].step)

    def _blame(self, seats: Sequence[Seat], how: str) -> dict[str, Any]:
        # All ranks of a node that is lost would make a line that nobody reads.
        named = _listed([str(seat) for seat in sorted(seats, key=lambda seat: (seat.node, seat.local))])
        step = f" in the step {seats[0].step!r}" if self.has_met else " before all had met"
        ranks = sorted(seat.rank for seat in seats if seat.rank >= 0)
        return self._verdict(f"{named}{step}: {how}", ranks, [seat.host for seat in seats], seats[0].step)

    def _verdict(
        self, text: str, ranks: Sequence[int], hosts: Iterable[str | None], step: str | None
    ) -> dict[str, Any]:
        known = sorted({host for host in hosts if host})
        return {"text": text, "ranks": list(ranks), "hosts": known, "step": step if self.has_met else None}

    def _host(self, node: int) -> str | None:
        here = next((seat.host for seat in self.seats.values() if seat.node == node), None)
        return here or self.hosts.get(node)

    def _name(self, node: int) -> str:
        return self._host(node) or f"node {node} of the {self.nodes} (counted from 0)"


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
