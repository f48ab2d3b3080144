"""Xids and SXids in the kernel's log: what is read, and what is not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pytest_bionemo.probes import kernel_log
from pytest_bionemo.probes.kernel_log import SwitchError, Xid

LOADED = "6,1,1000000,-;NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.95.05\n"


def log_of(folder: Path, text: str | bytes) -> kernel_log.KernelLog:
    (folder / "dev").mkdir()
    (folder / "dev/kmsg").write_bytes(text if isinstance(text, bytes) else text.encode())
    return kernel_log.read(folder)


@pytest.mark.parametrize(
    ("line", "xid"),
    [
        (
            "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
            ((0, 0x3B, 0), 79, "pid='<unknown>', name=<unknown>, GPU has fallen off the bus."),
        ),
        ("NVRM: Xid (0000:01:00): 31, Ch 0000000b", ((0, 1, 0), 31, "Ch 0000000b")),
        ("NVRM: Xid (PCI:0009:01:00 GPU-I:03): 94, Contained", ((9, 1, 0), 94, "Contained")),
        ("NVRM: Xid (PCI:0000:C1:00): 119", ((0, 0xC1, 0), 119, "")),
    ],
)
def test_an_xid_is_read_in_every_form(tmp_path: Path, line: str, xid: tuple[object, ...]) -> None:
    (found,) = log_of(tmp_path, f"{LOADED}3,900,60000000,-;{line}\n SUBSYSTEM=pci\n").xids
    assert (found.address, found.code, found.text, found.seconds) == (*xid, 60.0)


def test_a_switch_error_says_whether_it_is_fatal(tmp_path: Path) -> None:
    text = (
        "4,1,2000000,-;nvidia-nvswitch0: SXid (PCI:0000:c4:00.0): 12028, Non-fatal, Link 32 egress\n"
        "4,2,3000000,-;nvidia-nvswitch0: SXid (PCI:0000:c4:00.0): 22013, Fatal, Link 08 Minion\n"
        "4,3,3000001,-;nvidia-nvswitch0: SXid (PCI:0000:c4:00.0): Severity 5 Engine instance 8\n"
    )
    assert log_of(tmp_path, text).switch_errors == (
        SwitchError("0000:c4:00.0", 12028, False, 2.0),
        SwitchError("0000:c4:00.0", 22013, True, 3.0),
    )


def test_what_was_before_the_driver_was_loaded_is_over(tmp_path: Path) -> None:
    before = "3,5,500000,-;NVRM: Xid (PCI:0000:3b:00): 79, ...\n3,6,500000,-;x SXid (PCI:0000:c4:00.0): 1, Fatal, x\n"
    after = "3,7,9000000,-;NVRM: Xid (PCI:0000:3b:00): 13, ...\n"
    log = log_of(tmp_path, before + LOADED + after)
    assert [xid.code for xid in log.xids] == [13]
    assert log.switch_errors == ()


def test_a_driver_that_somebody_says_was_loaded_takes_nothing_back(tmp_path: Path) -> None:
    text = f"3,1,2,-;NVRM: Xid (PCI:0000:3b:00): 79, x\n13,{LOADED.partition(',')[2]}"
    assert [xid.code for xid in log_of(tmp_path, text).xids] == [79]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0" * 5000,
        b"\xff\xfe NVRM: Xid \xff",
        b"3,1,x,-;NVRM: Xid (PCI:): 79\n",
        b"3,1;NVRM: Xid (PCI:zz:00:00): 79\n",
        b"3,1,2,-;NVRM: Xid (PCI:0000:3b:00): many\n",
        b"user wrote: Xid 79 was seen on (PCI:0000:3b:00): 79\n",
        b"3,1,2,-;NVRM: Xid (PCI:0000:3b:00): " + b"9" * 5000 + b", x\n",
        b"3,1,2,-;NVRM: Xid (PCI:0000:" + b"b" * 5000 + b":00): 79, x\n",
        b"3,1,2,-;x SXid (PCI:0000:c1:00.0): " + b"9" * 5000 + b", Fatal, x\n",
        "3,1,2,-;NVRM: Xid (PCI:0000:3b:00): \u0667\u0669, x\n".encode(),
        b"13,1,2,-;NVRM: Xid (PCI:0000:3b:00): 79, as everybody may write\n",
        b"13,1,2,-;x SXid (PCI:0000:c1:00.0): 22013, Fatal, as everybody may write\n",
    ],
)
def test_lines_that_are_no_xids_are_none(tmp_path: Path, text: bytes) -> None:
    log = log_of(tmp_path, text)
    assert (log.xids, log.switch_errors, log.unreadable) == ((), (), None)
    assert log.is_whole


def test_an_xid_without_a_time_is_one_all_the_same(tmp_path: Path) -> None:
    assert log_of(tmp_path, "NVRM: Xid (PCI:0000:3b:00): 79, x").xids == (Xid((0, 0x3B, 0), 79, "x", 0.0),)


def test_a_log_without_an_end_is_left(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kmsg").symlink_to("/dev/zero")
    log = kernel_log.read(tmp_path)
    assert not log.is_whole
    assert log.xids == ()


def test_a_log_that_never_speaks_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    os.mkfifo(tmp_path / "dev/kmsg")
    assert kernel_log.read(tmp_path) == kernel_log.KernelLog()


def test_without_a_log_it_says_so(tmp_path: Path) -> None:
    assert kernel_log.read(tmp_path).unreadable == "there is no /dev/kmsg here, as in most containers"


def test_a_log_that_this_user_may_not_read_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "open", refuse)
    assert kernel_log.read(tmp_path).unreadable == "this user may not read the kernel's log (Operation not permitted)"


def test_a_folder_in_its_place_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "dev/kmsg").mkdir(parents=True)
    assert "Is a directory" in str(kernel_log.read(tmp_path).unreadable)


def test_records_that_were_overwritten_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kmsg").touch()
    said: list[object] = [BrokenPipeError(), b"3,1,2,-;NVRM: Xid (PCI:0000:3b:00): 79, x\n", BlockingIOError()]

    def read(*_: object) -> object:
        one = said.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    monkeypatch.setattr(os, "read", read)
    assert [xid.code for xid in kernel_log.read(tmp_path).xids] == [79]
    assert said == []


@pytest.mark.parametrize(
    ("pci", "address"),
    [("00000000:3B:00.0", (0, 0x3B, 0)), ("00000009:01:00.0", (9, 1, 0)), ("", None), (None, None), ("what", None)],
)
def test_an_address_is_the_one_that_nvml_writes(pci: str | None, address: tuple[int, int, int] | None) -> None:
    assert kernel_log.address_of(pci) == address
