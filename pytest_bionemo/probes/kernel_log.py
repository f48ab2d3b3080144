"""What the NVIDIA driver has written to the kernel's log since the machine was started: Xids and SXids.

The log is read and never written to: what looks like an Xid in a log has clusters replace the node. Source of the
format: Linux, Documentation/ABI/testing/dev-kmsg; of the lines: NVIDIA, Xid Errors, Fabric Manager User Guide.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PciAddress = tuple[int, int, int]
"""Domain, bus, device: which function of the device it is the driver leaves out."""

_LONGEST_BYTES = 64 << 20
_LONGEST_S = 0.5
_RECORD = 8192  # a record is handed over whole, and is no longer than this (CONSOLE_EXT_LOG_MAX)

# "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, ...", without "PCI:" before driver 319, with "GPU-I:03" for a MIG slice.
_XID = re.compile(
    r"NVRM: Xid \((?:PCI:)?(?P<address>[0-9a-fA-F]{1,8}:[0-9a-fA-F]{1,2}:[0-9a-fA-F]{1,2})(?![0-9a-fA-F])[^)]*\): "
    r"(?P<code>[0-9]{1,5})(?![0-9])(?:,\s*(?P<text>.*))?"
)
# "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 22013, Fatal, Link 08 ..."
_SXID = re.compile(
    r"SXid \((?:PCI:)?(?P<address>[0-9a-fA-F:.]+)\): (?P<code>[0-9]{1,5}), (?P<severity>Fatal|Non-fatal)"
)
# Everybody who may write to /dev/kmsg can, but never as the kernel.
_PRIORITY = re.compile(r"([0-9]{1,10}),")
_LOADED = "NVRM: loading NVIDIA"


@dataclass(frozen=True)
class Xid:
    """An error report of the driver about one GPU. ``seconds`` is since the machine was started."""

    address: PciAddress
    code: int
    text: str
    seconds: float


@dataclass(frozen=True)
class SwitchError:
    """An error report of the driver about one NVSwitch."""

    address: str
    code: int
    is_fatal: bool
    seconds: float


@dataclass(frozen=True)
class KernelLog:
    """What was found, oldest first, since the driver was last loaded.

    ``unreadable`` says why nothing could be read, None if it could. ``is_whole``: it was read to its end.
    """

    xids: tuple[Xid, ...] = ()
    switch_errors: tuple[SwitchError, ...] = ()
    unreadable: str | None = None
    is_whole: bool = True


def read(root: Path = Path("/")) -> KernelLog:
    """Read the log of this boot. Never waits: neither for the next line, nor for longer than half a second."""
    path = root / "dev/kmsg"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return KernelLog(unreadable="there is no /dev/kmsg here, as in most containers")
    except OSError as error:
        return KernelLog(unreadable=f"this user may not read the kernel's log ({error.strerror or error})")
    try:
        reading = _Reading(descriptor)
        return _understand(reading.lines(), reading)
    finally:
        os.close(descriptor)


class _Reading:
    """Reads what is there, within bounds."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.failure: str | None = None
        self.is_whole = True

    def lines(self) -> Iterator[str]:
        rest = b""
        for block in self._blocks():
            *whole, rest = (rest + block).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
        yield rest.decode(errors="replace")

    def _blocks(self) -> Iterator[bytes]:
        end = time.monotonic() + _LONGEST_S
        size = 0
        while True:
            try:
                block = os.read(self._descriptor, _RECORD)
            except BlockingIOError:  # no further record
                return
            except BrokenPipeError:  # one was overwritten before it was read: the next is the oldest that is left
                continue
            except OSError as error:
                self.failure = f"the kernel's log cannot be read ({error.strerror or error})"
                return
            if not block:
                return
            yield block
            size += len(block)
            if size > _LONGEST_BYTES or time.monotonic() > end:
                self.is_whole = False
                return


def _understand(lines: Iterator[str], reading: _Reading) -> KernelLog:
    xids: list[Xid] = []
    errors: list[SwitchError] = []
    for line in lines:
        if not _is_the_kernels(line):
            continue
        if _LOADED in line:
            # What was wrong before belongs to a driver that is gone, and to GPUs that have been set up anew.
            xids.clear()
            errors.clear()
        elif found := _XID.search(line):
            address = _address(found["address"])
            xids.append(Xid(address, int(found["code"]), (found["text"] or "").strip(), _seconds(line)))
        elif found := _SXID.search(line):
            errors.append(
                SwitchError(found["address"], int(found["code"]), found["severity"] == "Fatal", _seconds(line))
            )
    if reading.failure and not xids and not errors:
        return KernelLog(unreadable=reading.failure)
    return KernelLog(tuple(xids), tuple(errors), is_whole=reading.is_whole and reading.failure is None)


def _is_the_kernels(line: str) -> bool:
    """'4,1234,98765432,-;text': its first field is eight times the facility, 0 for the kernel, and the level."""
    found = _PRIORITY.match(line)
    return found is None or int(found[1]) >> 3 == 0


def _seconds(line: str) -> float:
    """'4,1234,98765432,-;text': its third field is in microseconds."""
    fields = line.partition(";")[0].split(",")
    try:
        return int(fields[2]) / 1e6
    except (IndexError, ValueError):
        return 0.0


def address_of(pci: str | None) -> PciAddress | None:
    """What NVML writes as '00000000:3B:00.0'; None where it is no such thing."""
    try:
        return _address((pci or "").partition(".")[0])
    except ValueError:
        return None


def _address(text: str) -> PciAddress:
    domain, bus, device = (int(part, 16) for part in text.split(":"))
    return domain, bus, device


def describe(address: PciAddress) -> str:
    """'0000:3b:00'."""
    return "{:04x}:{:02x}:{:02x}".format(*address)
