"""How far repeated measurements of one healthy device lie apart: ``python benchmarks/fleet_noise.py FILE``.

Measures nine short quantities in turn on this machine's processor. The machine is not ours alone, and the node of a
job is: what is measured while a piece of work of known length takes longer than usual, before or after, is measured
again, and a round of which too much was disturbed is left out (the checks of the topic ``benchmark`` wait for
``host::undisturbed``). The tests of stragglers generate their fleets from the file: a line for each round, each value
over the median of its quantity.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

Work = Callable[[], object]
# A look is short, so that it is seldom disturbed; a value is the median of several.
_LOOK_S = 2e-3
_LOOKS = 7
_TRIES = 30
_DISTURBED = 1.08


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rounds", type=int, default=256)
    options = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    works, disturbed = _works(), Disturbed(lambda: sum(range(2000)))
    found = [{name: _measure(work, disturbed) for name, work in works.items()} for _ in range(options.rounds)]
    rounds = [values for values in found if None not in values.values()]
    medians = {name: median(filter(None, (values[name] for values in rounds))) for name in works}
    with options.file.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(works), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{(values[name] or 0) / medians[name]:.4f}" for name in works} for values in rounds)
    print(f"{disturbed.found} of {disturbed.asked} looks were disturbed, {len(rounds)} rounds are whole")


class Disturbed:
    """Whether something else runs on this core: a piece of work of known length takes longer."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._usual = min(_fastest(work, 20) for _ in range(200))
        self.found = self.asked = 0

    def __call__(self) -> bool:
        """Look now."""
        self.asked += 1
        is_disturbed = _fastest(self._work, 5) > _DISTURBED * self._usual
        self.found += is_disturbed
        return is_disturbed


def _measure(work: Work, disturbed: Disturbed) -> float | None:
    """Seconds: the median of the fastest samples of short looks that nothing disturbed; None if too many were."""
    work()
    once = _fastest(work, 3)
    samples = max(3, int(_LOOK_S / once))
    seen: list[float] = []
    for _ in range(_TRIES):
        was_disturbed = disturbed()
        fastest = _fastest(work, samples)
        if not was_disturbed and not disturbed():
            seen.append(fastest)
        if len(seen) == _LOOKS:
            return median(seen)
    return None


def _fastest(work: Work, samples: int) -> float:
    found = []
    for _ in range(samples):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def _works() -> dict[str, Work]:
    import torch

    square, small, line = torch.randn(256, 256), torch.randn(96, 96), torch.randn(1 << 16)
    half, target = square.bfloat16(), torch.empty_like(line)
    signal, picture = torch.randn(1 << 13, dtype=torch.complex64), torch.randn(96, 96, dtype=torch.complex64)
    return {
        "matmul_fp32": lambda: square @ square,
        "matmul_bf16": lambda: half @ half,
        "memory_copy": lambda: target.copy_(line),
        "memory_read": lambda: line.sum(),
        "fft_1d": lambda: torch.fft.fft(signal),
        "fft_2d": lambda: torch.fft.fft2(picture),
        "spd_inverse": lambda: torch.linalg.inv(small),
        "softmax": lambda: square.softmax(-1),
        "launch": lambda: small[0, 0].add_(1),
    }


if __name__ == "__main__":
    main()
