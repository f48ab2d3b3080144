"""Workloads for the tests of the workers: some do their work, the others fail in every way there is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CALLS = {"count": 0}


def add(a: float, b: float) -> dict[str, float]:
    return {"sum": a + b}


def where() -> dict[str, Any]:
    CALLS["count"] += 1
    return {
        "pid": os.getpid(),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "calls": CALLS["count"],
        "torch": "torch" in sys.modules,
        "threads": os.environ["OMP_NUM_THREADS"],
        "folder": os.environ["TMPDIR"],
    }


def sleep(seconds: float) -> dict[str, float]:
    time.sleep(seconds)
    return {"seconds": seconds}


def only_on(device: str, action: str) -> dict[str, Any]:
    """Misbehave on one device and work on the others."""
    if os.environ["CUDA_VISIBLE_DEVICES"] == device:
        ACTIONS[action]()
    return {"pid": os.getpid()}


def hang() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)


def hang_with_a_child(note: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(note).write_text(str(child.pid))
    hang()


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(7)


def exit_politely() -> None:
    raise SystemExit("a library had enough")


def run_out_of_memory() -> None:
    raise MemoryError("no room for 80 GB")


class OutOfMemoryError(RuntimeError):
    """Named as torch's own."""


def run_out_of_gpu_memory() -> None:
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 80.00 GiB")


def break_the_context() -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def find_the_gpu_full() -> None:
    raise RuntimeError("CUDA error: out of memory")


def find_no_room_for_cublas() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def break_cublas() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")


def break_the_driver() -> None:
    raise RuntimeError("CUDA driver error: unknown error")


def talk_or_hang(hanging: str) -> dict[str, str]:
    """Hang on one device; on the others answer with more than a pipe holds."""
    if os.environ["CUDA_VISIBLE_DEVICES"] == hanging:
        hang()
    return {"text": "x" * (1 << 20)}


def write_into_the_channel() -> dict[str, int]:
    """Write into every pipe of this process, as a library with a wrong file descriptor does."""
    for number in range(3, 64):
        try:
            os.write(number, b"nonsense\n")
        except OSError:
            continue
    return {"answer": 42}


def make_a_mistake() -> None:
    raise ValueError("not a number of heads")


def nothing() -> None:
    """Return nothing."""


def no_json() -> dict[str, object]:
    return {"tensor": object()}


def noisy() -> dict[str, int]:
    print("one line")
    os.write(1, b"another, from C\n" * 20000)
    return {"answer": 42}


ACTIONS = {
    "hang": hang,
    "crash": crash,
    "be_killed": be_killed,
    "leave": leave,
    "exit_politely": exit_politely,
    "run_out_of_memory": run_out_of_memory,
    "run_out_of_gpu_memory": run_out_of_gpu_memory,
    "break_the_context": break_the_context,
    "find_the_gpu_full": find_the_gpu_full,
    "find_no_room_for_cublas": find_no_room_for_cublas,
    "break_cublas": break_cublas,
    "break_the_driver": break_the_driver,
    "make_a_mistake": make_a_mistake,
}
