"""Programs of the system that tests start: where they are, and that they end."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def program(name: str, package: str = "prometheus or prometheus-node-exporter") -> str:
    """Where it is; without it the test is skipped, except where everything has to be there."""
    found = shutil.which(name)
    if not found and os.environ.get("CI"):
        pytest.fail(f"{name} is not installed: Debian's package {package} has it")
    return found or pytest.skip(f"{name} is not installed")


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is there until the end of the block, whatever happens in it."""
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
