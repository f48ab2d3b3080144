"""How fast two ranks exchange data: connected for that alone, so that one that breaks leaves all others as they are.

The connection is made of PyTorch's own parts, NCCL on GPUs and gloo on the CPU, and not of its default process group,
of which a process has one, and which a pair that breaks would leave unusable.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from pytest_bionemo.workloads import device, timing

LEAST_SAMPLES = 12
"""Of each direction: the interval of their median leaves out the two smallest and the two largest."""
_MOST_SAMPLES = 30
_LEAST_BYTES = 4 << 10
_MOST_BYTES = 64 << 20
# Long enough for the clock of the host, and for what a message and its receipt take besides the data.
_SAMPLE_S = 0.01
_NO_MORE = 0
_PERIOD = 251  # of the numbers in a message, a prime: no part of it that is moved by a block is right
# PyTorch's own watchdog ends a process whose NCCL hangs: not before this link has given up.
_WATCHDOG = 4


class Silent(RuntimeError):
    """The other rank sends nothing."""


class Store:
    """Where two ranks find each other: one of them keeps it, at a port of its own machine."""

    def __init__(self, patience_s: float) -> None:
        self._timeout = timedelta(seconds=patience_s)
        self._kept = _store("localhost", 0, True, self._timeout)
        self.port: int = self._kept.port

    def found(self) -> Any:
        """For the rank that keeps it."""
        return self._kept


def measure(kept: Store | None, where: tuple[str, int], *, budget_s: float, patience_s: float) -> dict[str, Any]:
    """Exchange data with one other rank, which does the same, in one direction after the other.

    :param kept: the store, in the rank that keeps it, which is the first to send.
    :param where: address and port of the store for the other rank.
    :param budget_s: for the samples of one direction.
    :param patience_s: after which a rank that sends nothing is given up.
    :return: ``rate``, at which this rank sent (GB/s: ``value``, its confidence ``interval``, ``samples``), ``wrong``
        (bytes that it received so) and ``failure`` (None, or why there are no such numbers).
    """
    timeout = timedelta(seconds=patience_s)
    doing = "they do not connect"
    try:
        store = kept.found() if kept else _store(*where, False, timeout)
        link = _Link(store, 0 if kept else 1, patience_s)
        doing = "no data come through"
        found: dict[str, Any] = {}
        for sends in (kept is not None, kept is None):
            found |= {"rate": link.send(budget_s)} if sends else {"wrong": link.receive()}
        link.close()
    except (RuntimeError, ValueError, OSError) as error:  # what PyTorch and its libraries raise
        return {"failure": f"{doing}: {_in_one_line(error)}", "rate": None, "wrong": 0}
    return {"failure": None, **found}


def _store(host: str, port: int, keeps: bool, timeout: timedelta) -> Any:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(host, port, None, keeps, timeout, wait_for_workers=False)


class _Link:
    """One end of a connection of two ranks."""

    def __init__(self, store: Any, rank: int, patience_s: float) -> None:
        import torch.distributed as dist

        self._other = 1 - rank
        self._patience_s = patience_s
        self._is_nccl = device().type == "cuda"
        kind: Any = dist.ProcessGroupNCCL if self._is_nccl else dist.ProcessGroupGloo
        seconds = patience_s * (_WATCHDOG if self._is_nccl else 1)
        self._group = kind(store, rank, 2, timedelta(seconds=seconds))

    def send(self, budget_s: float) -> dict[str, Any]:
        """Send messages, longer ones until the clock can time them; how fast."""
        count = _LEAST_BYTES
        while True:
            seconds = self._sample(count, 2)[-1]  # the first finds a cold connection, and a shaped network's credit
            if seconds >= _SAMPLE_S or count == _MOST_BYTES:
                break
            count = min(_MOST_BYTES, 4 * count)
        samples = max(LEAST_SAMPLES, min(_MOST_SAMPLES, int(budget_s / seconds)))
        found = timing.summarise(self._sample(count, samples)).rate(count / 1e9)
        self._announce(_NO_MORE, 0)
        return {"value": found["value"], "interval": found["ci95"], "samples": found["samples"]}

    def receive(self) -> int:
        """Take what the other one sends until it says that this was all; how many bytes were wrong."""
        import torch

        wrong = 0
        while True:
            header = _header()
            self._take(header)
            count, samples = header.tolist()
            if count == _NO_MORE:
                return wrong
            block = torch.empty(count, dtype=torch.uint8, device=device())
            for _ in range(samples):
                block.zero_()
                self._take(block)
                self._give(header)
            wrong = max(wrong, int((block != _message(count)).sum()))

    def close(self) -> None:
        """End it, both ends being done."""
        if self._is_nccl:
            self._group.shutdown()

    def _sample(self, count: int, samples: int) -> list[float]:
        """Seconds that messages of so many bytes took, each until its receipt was here."""
        block, receipt = _message(count), _header()
        self._announce(count, samples)
        found = []
        for _ in range(samples):
            timing.synchronize()
            start = time.perf_counter()
            self._give(block)
            self._take(receipt)
            found.append(timing.sound(time.perf_counter() - start))
        return found

    def _announce(self, count: int, samples: int) -> None:
        header = _header()
        header[0], header[1] = count, samples
        self._give(header)

    def _give(self, tensor: Any) -> None:
        self._finish(self._group.send([tensor], self._other, 0))

    def _take(self, tensor: Any) -> None:
        self._finish(self._group.recv([tensor], self._other, 0))

    def _finish(self, work: Any) -> None:
        """Wait for it, for so long as anybody waits.

        :raises Silent: on a GPU, whose own wait would only queue; gloo raises its own errors.
        """
        work.wait()
        if not self._is_nccl:
            return
        import torch

        done: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        ends_at = time.monotonic() + self._patience_s
        while not done.query():
            if time.monotonic() > ends_at:
                self._group.abort()
                raise Silent(f"nothing for {self._patience_s:.0f} s")


def _header() -> Any:
    import torch

    return torch.zeros(2, dtype=torch.int64, device=device())


def _message(count: int) -> Any:
    """Bytes that both ranks know: no zero among them, which a buffer holds before anything has come."""
    import torch

    return (torch.arange(count, device=device()) % _PERIOD + 1).to(torch.uint8)


def _in_one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no text'}"[:160]
