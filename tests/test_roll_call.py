"""The judgement of a meeting: pure, with a clock of its own."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_bionemo.roll_call import RollCall, Seat

NAMES = {0: "node1", 1: "node2", 2: "node3"}


def meeting(nodes: int = 3, of: int | None = None, deadline_s: float = 40) -> RollCall:
    """A meeting to which so many nodes, of one device each, have come at the time 0."""
    made = RollCall(of or nodes, NAMES, 0.0)
    for node in range(nodes):
        made.join(Seat(node, 0, 1, f"node{node + 1}", "gpu0", 0.0), deadline_s, 0.0)
    return made


def hear_all(made: RollCall, now: float) -> None:
    for seat in made.seats.values():
        seat.heard = now


def test_ranks_are_numbered_once_all_are_here_whatever_the_order_in_which_they_came() -> None:
    made = RollCall(2, {}, 0.0)
    for node, local in ((1, 1), (0, 0), (1, 0)):
        assert made.meet() is None
        made.join(Seat(node, local, 2 if node else 1, f"n{node}", f"gpu{local}", 0.0), 10, 0.0)
    ranks = made.meet()
    assert ranks is not None
    assert [(seat.rank, seat.node, seat.local) for seat in ranks] == [(0, 0, 0), (1, 1, 0), (2, 1, 1)]
    assert made.meet() is None, "they meet once"


@pytest.mark.parametrize(("node", "reason"), [(0, "two processes for its device 0"), (3, "no node 3 in a job of 3")])
def test_a_place_is_taken_once_and_must_be_one_of_the_job(node: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        meeting().join(Seat(node, 0, 1, "node1", "gpu0", 0.0), 10, 0.0)


def test_all_that_die_together_are_named_and_those_that_break_off_for_it_are_not() -> None:
    made = meeting()
    made.meet()
    made.seats[0, 0].end("broke", 10.0, "Connection closed by peer")
    made.seats[2, 0].end("gone", 10.1)
    made.seats[1, 0].end("gone", 10.4)
    assert made.judge(10.5, {}) is None, "more may follow"
    verdict = made.judge(11.2, {})
    assert verdict is not None
    assert verdict["hosts"] == ["node2", "node3"]
    assert verdict["ranks"] == [1, 2]


def test_one_that_breaks_off_is_the_cause_only_when_no_other_fell_silent_meanwhile() -> None:
    for last_sign, host in ((9.0, "node2"), (30.0, "node1")):
        made = meeting()
        made.meet()
        hear_all(made, 30.0)
        made.seats[1, 0].heard = last_sign
        made.seats[0, 0].end("broke", 18.0, "Timed out")
        verdict = made.judge(29.5, {})
        assert verdict is not None
        assert verdict["hosts"] == [host]
    sure = meeting()
    sure.meet()
    hear_all(sure, 18.0)
    sure.seats[0, 0].end("broke", 18.0, "ValueError: no", is_cause=True)
    assert sure.judge(19.1, {}) is not None, "its own error needs no waiting"


def test_who_counts_the_time_may_have_been_stopped_himself() -> None:
    made = meeting()
    made.meet()
    made.wake(1000.0)
    made.ends_at = 2000.0
    assert made.judge(1001.0, {}) is None


def test_at_the_deadline_the_one_that_is_behind_is_named_or_the_one_that_is_elsewhere() -> None:
    def stuck(**places: Any) -> dict[str, Any]:
        made = meeting()
        made.meet()
        hear_all(made, 39.9)
        for node, seat in enumerate(made.seats.values()):
            seat.step, seat.steps = "sum", places["steps"][node]
            seat.at = places["at"][node]
        assert made.judge(39.9, {}) is None
        verdict = made.judge(40.0, {})
        assert verdict is not None
        return verdict

    at = ("all_reduce", "all_reduce", "all_reduce")
    assert stuck(steps=(2, 1, 2), at=at)["hosts"] == ["node2"]
    assert stuck(steps=(2, 2, 2), at=("all_reduce", "all_reduce", "read_data"))["hosts"] == ["node3"]
    nobody = stuck(steps=(2, 2, 2), at=at)
    assert nobody["hosts"] == []
    assert nobody["text"] == "all 3 ranks stay in the step 'sum': at all_reduce"


def test_who_is_slow_is_not_taken_for_one_that_stands_still_and_neither_is_who_waits() -> None:
    def blamed(*places: tuple[str, float]) -> list[str]:
        made = meeting()
        made.meet()
        hear_all(made, 39.9)
        for seat, (at, since) in zip(made.seats.values(), places, strict=True):
            seat.be_seen("before", 1.0)
            seat.be_seen(at, since)
            seat.be_seen(at, 39.9)
        verdict = made.judge(40.0, {})
        assert verdict is not None
        return list(verdict["hosts"])

    waits, works = "all_reduce (distributed_c10d.py:3252)", "forward (model.py:7)"
    assert blamed((works, 39.5), (waits, 39.5), (works, 39.5)) == []
    assert blamed((works, 20.0), (waits, 20.0), (works, 20.0)) == [], "whoever waits holds up nobody"
    assert blamed((waits, 20.0), (works, 39.5), (waits, 20.0)) == [], "it goes on"
    assert blamed((waits, 20.0), (works, 20.0), (waits, 20.0)) == ["node2"]


def test_one_that_comes_late_lets_nobody_seem_to_hang() -> None:
    made = meeting(2, of=3)
    hear_all(made, 30.0)
    made.join(Seat(2, 0, 1, "node3", "gpu0", 30.0), 1.0, 30.0)
    made.meet()
    assert made.judge(30.9, {}) is None
    hear_all(made, 30.9)
    verdict = made.judge(31.0, {})
    assert verdict is not None
    assert "hangs" not in verdict["text"]


def test_what_breaks_off_shortly_before_the_deadline_is_named_at_it_in_one_line() -> None:
    made = meeting()
    made.meet()
    made.seats[1, 0].end("broke", 38.0, "RuntimeError: a mistake\n  of two lines")
    hear_all(made, 39.9)
    assert made.judge(39.9, {}) is None
    verdict = made.judge(40.0, {})
    assert verdict is not None
    assert verdict["hosts"] == ["node2"]
    assert verdict["text"].endswith(": broke off: RuntimeError: a mistake of two lines")


def test_those_that_did_not_arrive_are_named_as_far_as_their_names_are_known() -> None:
    made = meeting(2, of=3)
    hear_all(made, 39.0)
    assert made.judge(39.0, {}) is None
    verdict = made.judge(40.0, {})
    assert verdict is not None
    assert (verdict["hosts"], verdict["step"]) == (["node3"], None)
    made.hosts = {}
    verdict = made.judge(40.0, {})
    assert verdict is not None
    assert verdict["hosts"] == []
    assert verdict["text"] == "node 2 of the 3 (counted from 0) did not arrive within 40 s"
    verdict = meeting(2, of=3).judge(1.0, {2: "no driver answers"})
    assert verdict is not None
    assert verdict["text"] == "node3 does not take part: no driver answers"


def test_values_are_shared_in_the_order_of_the_ranks_when_the_last_one_has_come() -> None:
    made = meeting()
    ranks = made.meet()
    assert ranks
    assert made.share(ranks[2], "who", "c") is None
    assert made.share(ranks[0], "who", "a") is None
    assert made.share(ranks[1], "who", "b") == ["a", "b", "c"]
