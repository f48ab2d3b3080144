"""Collectives over the ranks of a job: what comes out is compared with what must, then they are timed.

The operands are integers whose sums are exact in FP32, in any order: there is one right answer, whatever the
algorithm and the number of ranks.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bionemo.workloads import device, network, timing
from pytest_bionemo.workloads.meeting import Meeting, meet

if TYPE_CHECKING:
    import torch

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")

# A prime: no rank has the values of another one among the first thousand. Sums stay below 2**24 for 16,000 ranks.
_PERIOD = 1021
_ITEM = 4
_LEAST_SAMPLES, _MOST_SAMPLES = 8, 60
_WARM_UP = 2
_NAMED_AT_MOST = 8


def say_hello(name: str, place: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
    """Meet all ranks and sum up 1 over them.

    :return: ``size`` (how many there are), ``sum``, ``rank``, ``hosts`` (of all ranks) and ``network``
        (:func:`network.used`).
    """
    import torch
    import torch.distributed as dist

    log, heard = _listen_to_nccl()
    with meet(name, place, deadline_s) as ranks, ranks.group():
        ranks.step("the first all-reduce")
        ones = torch.ones(1, device=device())
        dist.all_reduce(ones)
        return {
            "size": ranks.size,
            "sum": ones.item(),
            "rank": ranks.rank,
            "hosts": [rank.host for rank in ranks.ranks],
            "network": network.used(log.read_text(errors="replace") if log and log.exists() else "", heard),
        }


def confer(name: str, place: Mapping[str, Any], deadline_s: float, lack: str | None) -> dict[str, Any]:
    """Ask all ranks what they lack: ``lacks`` are pairs of a host and what it told, of those that lack something."""
    with meet(name, place, deadline_s) as ranks:
        told = zip(ranks.ranks, ranks.share("lack", lack), strict=True)
        return {"lacks": sorted({(rank.host, said) for rank, said in told if said})}


def run(
    operation: str,
    sizes: Sequence[int],
    budget_s: float,
    name: str,
    place: Mapping[str, Any],
    deadline_s: float,
    attempt: int = 1,
) -> dict[str, Any]:
    """One collective, checked and timed at each size.

    :param operation: one of ``OPERATIONS``.
    :param sizes: of the message, in bytes, as nccl-tests counts it: what one rank ends with, or begins with.
    :param budget_s: for the timing of each size.
    :param attempt: 1, or 2 for a second measurement.
    :return: ``size`` (ranks), ``found_flip`` (whether a bit that was flipped on purpose was seen), ``wrong`` (what
        came out wrong, of all ranks: ``rank``, ``bytes``, ``elements``, ``of``, ``expected``, ``got``, and
        ``source``, the rank whose part it is, None for a sum), ``timings`` (for each size ``bytes`` and ``rate``,
        the bus bandwidth in GB/s, and ``seconds``).
    """
    with meet(name, place, deadline_s) as ranks, ranks.group():
        found_flip, wrong, timings = True, [], []
        for size in sizes:
            collective = _Collective(operation, ranks, size)
            ranks.step(f"{operation} of {_readable(collective.bytes)}")
            collective.work()
            mistakes, saw = collective.compare()
            found_flip = found_flip and saw
            if _worst(1.0 if mistakes else 0.0):
                wrong += [one for told in ranks.share(f"wrong at {size}", mistakes) for one in told]
                continue
            timings.append(_time(collective, ranks, budget_s))
        return {"size": ranks.size, "found_flip": found_flip, "wrong": wrong, "timings": timings}


def matrix(
    size_bytes: int, budget_s: float, name: str, place: Mapping[str, Any], deadline_s: float, attempt: int = 1
) -> dict[str, Any]:
    """Every device sends to every other one, one pair after the other; what arrives is compared.

    :param budget_s: for each ordered pair.
    :return: ``pairs``: ``source`` and ``target`` (ranks), ``wrong`` (how many numbers arrived so, ``of`` how many)
        and ``rate`` in GB/s, the same on every rank.
    """
    with meet(name, place, deadline_s) as ranks, ranks.group():
        found = []
        for source in range(ranks.size):
            for target in range(ranks.size):
                if source != target:
                    ranks.step(f"sending from rank {source} to rank {target}")
                    found.append(_send(ranks, source, target, size_bytes, budget_s))
        return {"pairs": found, "size": ranks.size}


def _send(ranks: Meeting, source: int, target: int, size_bytes: int, budget_s: float) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    index = torch.arange(size_bytes // _ITEM, device=device())
    sent = _integers(index, source)
    buffer = sent.clone() if ranks.rank == source else torch.zeros_like(sent)

    def once() -> float:
        timing.synchronize()
        start = time.perf_counter()
        if ranks.rank == source:
            dist.send(buffer, target)
        elif ranks.rank == target:
            dist.recv(buffer, source)
        timing.synchronize()
        return time.perf_counter() - start

    for _ in range(_WARM_UP):
        lasted = _worst(once())
    wrong = int(_worst(float((buffer != sent).sum()) if ranks.rank == target else 0.0))
    durations = _worst_of([once() for _ in range(_samples(lasted, budget_s))])
    rate = timing.summarise(durations).rate(index.numel() * _ITEM / 1e9)
    return {"source": source, "target": target, "wrong": wrong, "of": index.numel(), "rate": rate}


class _Collective:
    """One operation at one size, with its operands."""

    def __init__(self, operation: str, ranks: Meeting, size: int) -> None:
        import torch

        self._ranks = ranks
        self._operation = operation
        self._part = max(1, size // _ITEM // ranks.size)
        """The elements of one rank's part; a sum over all and a broadcast have as many parts as there are ranks."""
        self.elements = self._part * ranks.size
        self.bytes = self.elements * _ITEM
        index = torch.arange(self.elements, device=device())
        own = self._value(index, ranks.rank)
        self._input = own[: self._part].clone() if operation == "all_gather" else own
        if operation == "all_to_all":
            # Each receiver is sent another part.
            self._input = self._value(index, ranks.rank)
        self._output = torch.empty_like(self._input)
        if operation == "all_gather":
            self._output = torch.empty(self.elements, device=device())
        elif operation == "reduce_scatter":
            self._output = torch.empty(self._part, device=device())
        elif operation == "broadcast" and ranks.rank != self._root:
            self._input = torch.zeros_like(own)

    @property
    def _root(self) -> int:
        return self._ranks.size - 1

    def work(self) -> None:
        """Do it once. A sum over all and a broadcast overwrite their operand."""
        import torch.distributed as dist

        operations: dict[str, Callable[[], object]] = {
            "all_reduce": lambda: dist.all_reduce(self._input),
            "all_gather": lambda: dist.all_gather_into_tensor(self._output, self._input),
            "reduce_scatter": lambda: dist.reduce_scatter_tensor(self._output, self._input),
            "all_to_all": lambda: dist.all_to_all_single(self._output, self._input),
            "broadcast": lambda: dist.broadcast(self._input, self._root),
        }
        operations[self._operation]()

    def forget(self) -> None:
        """Sums of sums leave the numbers that are exact: from here on there is nothing to compare."""
        self._input.zero_()

    def compare(self) -> tuple[list[dict[str, Any]], bool]:
        """What is wrong in this rank's result, and whether a bit that is flipped on purpose is seen."""
        import torch

        is_in_place = self._operation in ("all_reduce", "broadcast")
        result = self._input if is_in_place else self._output
        expected, sources = self._expected()
        differs = result != expected
        flipped = result.clone()
        flipped.view(torch.int32)[-1] ^= 1 << 3
        seen = int((flipped != expected).sum()) - int(differs.sum())
        # Of a wrong element the flip can make a right one.
        found_flip = seen == 1 or bool(differs[-1])
        mistakes: list[dict[str, Any]] = []
        for source in sources:
            part = differs if source is None else differs[source * self._part : (source + 1) * self._part]
            if int(part.sum()) and len(mistakes) < _NAMED_AT_MOST:
                first = int(part.nonzero()[0]) + (source or 0) * self._part
                mistakes.append(
                    {
                        "rank": self._ranks.rank,
                        "source": self._root if self._operation == "broadcast" else source,
                        "bytes": self.bytes,
                        "elements": int(part.sum()),
                        "of": part.numel(),
                        "expected": expected[first].item(),
                        "got": repr(result[first].item()),  # JSON has no NaN
                    }
                )
        return mistakes, found_flip

    def _expected(self) -> tuple[torch.Tensor, Sequence[int | None]]:
        """The right result, and whose parts it is made of (None: everybody's)."""
        import torch

        size, rank = self._ranks.size, self._ranks.rank
        index = torch.arange(self.elements, device=device())
        part, source = index % self._part, index // self._part
        if self._operation == "all_reduce":
            return self._sum(index), [None]
        if self._operation == "reduce_scatter":
            return self._sum(index[rank * self._part : (rank + 1) * self._part]), [None]
        if self._operation == "broadcast":
            return self._value(index, self._root), [None]
        if self._operation == "all_gather":
            return self._value(part, source), range(size)
        return self._value(part + rank * self._part, source), range(size)

    def _value(self, index: torch.Tensor, rank: int | torch.Tensor) -> torch.Tensor:
        return _integers(index, rank)

    def _sum(self, index: torch.Tensor) -> torch.Tensor:
        import torch

        period = torch.arange(_PERIOD, device=device())
        total = torch.zeros(_PERIOD, device=device())
        for rank in range(self._ranks.size):
            total += self._value(period, rank)
        return total[index % _PERIOD]

    @property
    def bus_factor(self) -> float:
        """What of the message crosses a rank's link, whatever the algorithm (nccl-tests, PERFORMANCE.md)."""
        size = self._ranks.size
        share = (size - 1) / size
        return {"all_reduce": 2 * share, "broadcast": 1.0}.get(self._operation, share)


def _integers(index: torch.Tensor, rank: int | torch.Tensor) -> torch.Tensor:
    """The elements of a rank: integers from -510 to 510."""
    return ((index + 7 * rank) % _PERIOD - _PERIOD // 2).float()


def _time(collective: _Collective, ranks: Meeting, budget_s: float) -> dict[str, Any]:
    """A collective takes as long as its slowest rank does: of each sample the longest counts."""
    collective.forget()
    for _ in range(_WARM_UP):
        lasted = _worst(_once(collective))
    timing_ = timing.summarise(_worst_of([_once(collective) for _ in range(_samples(lasted, budget_s))]))
    amount = collective.bytes * collective.bus_factor / 1e9
    return {"bytes": collective.bytes, "seconds": timing_.seconds(), "rate": timing_.rate(amount)}


def _once(collective: _Collective) -> float:
    timing.synchronize()
    start = time.perf_counter()
    collective.work()
    timing.synchronize()
    return time.perf_counter() - start


def _samples(lasted_s: float, budget_s: float) -> int:
    """How many: the same on every rank, as all know how long the slowest took."""
    return min(_MOST_SAMPLES, max(_LEAST_SAMPLES, int(budget_s / max(lasted_s, 1e-6))))


def _worst(value: float) -> float:
    """The largest value of all ranks."""
    return _worst_of([value])[0]


def _worst_of(values: Sequence[float]) -> list[float]:
    """The same of each."""
    import torch
    import torch.distributed as dist

    found = torch.tensor(values, dtype=torch.float64, device=device())
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return [float(value) for value in found.tolist()]


def _listen_to_nccl() -> tuple[Path | None, int]:
    """Where NCCL writes what it does in this process, unless somebody reads that already, and how much it has."""
    # It reads its variables once, when the first group is made: those of later meetings are in the same file.
    path = Path(tempfile.gettempdir()) / f"nccl-{os.getpid()}.log"
    if device().type != "cuda" or os.environ.get("NCCL_DEBUG_FILE", str(path)) != str(path):
        return None, 0
    if "NCCL_DEBUG_FILE" not in os.environ:
        if "NCCL_DEBUG" in os.environ:
            return None, 0
        os.environ.update(NCCL_DEBUG="INFO", NCCL_DEBUG_SUBSYS="INIT,NET", NCCL_DEBUG_FILE=str(path))
    return path, len(path.read_text(errors="replace")) if path.exists() else 0


def _readable(size: int) -> str:
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= scale:
            return f"{size / scale:.4g} {unit}"
    return f"{size} B"
