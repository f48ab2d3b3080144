"""A file system that refuses what a volume of Databricks refuses: FUSE, one folder of files, in memory.

What it does, by reports of users: no file is renamed and none linked (ENOSYS, earth-mover/icechunk issue 2341); a
file is written from its beginning on and never elsewhere, so that nothing is appended (ESPIPE, "Illegal seek"); modes
and owners are not changed. A file is stored when it is closed, as a store of objects takes it whole. Harder than what
is known of the real one: fsync is refused.

A program: it is started with the number of the open descriptor of /dev/fuse, and serves it until it is unmounted.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Callable

_ROOT = 1
_HEADER = struct.Struct("<IIQQIIIHH")
_LARGEST_QUESTION = 1 << 17
_MODE, _OWNER, _GROUP, _SIZE = 1, 2, 4, 8  # what SETATTR is to change
_FORGET, _BATCH_FORGET = 2, 42  # the questions without an answer


class Refused(Exception):
    """Not done, for this reason of errno(3)."""


class Volume:
    """The files: stored ones, and those that are being written; by number (``node``) as the kernel asks."""

    def __init__(self) -> None:
        self._stored: dict[int, bytes] = {}
        self._written: dict[int, bytearray] = {}
        self._nodes: dict[bytes, int] = {}
        self._newest = _ROOT
        self._answers: dict[int, Callable[[int, bytes], bytes]] = {
            1: self._look_up,
            3: self._get_attributes,
            4: self._set_attributes,
            10: self._remove,
            14: lambda node, asked: bytes(16),  # OPEN
            15: self._read,
            16: self._write,
            17: lambda node, asked: struct.pack("<5Q4I24x", *[1 << 19] * 5, 4096, 255, 4096, 0),  # STATFS
            18: self._store,  # RELEASE
            20: lambda node, asked: _refuse(errno.EOPNOTSUPP),  # FSYNC: ENOSYS would be hidden by the kernel
            25: self._store,  # FLUSH
            26: lambda node, asked: struct.pack("<4I2H2I2HI28x", 7, 31, 0, 0, 8, 6, 4096, 1, 1, 0, 0),  # INIT
            27: lambda node, asked: bytes(16),  # OPENDIR
            28: self._list,
            29: lambda node, asked: b"",  # RELEASEDIR
            34: lambda node, asked: b"",  # ACCESS
            35: self._create,
        }  # fmt: skip

    def answer(self, question: bytes) -> bytes:
        """The answer to one question of the kernel (include/uapi/linux/fuse.h); none to some."""
        _, code, unique, node, *_ = _HEADER.unpack_from(question)
        if code in (_FORGET, _BATCH_FORGET):
            return b""
        reply, error = b"", 0
        try:
            reply = self._answers.get(code, _unknown)(node, question[_HEADER.size :])
        except Refused as refused:
            error = int(refused.args[0])
        return struct.pack("<IiQ", 16 + len(reply), -error, unique) + reply

    def _look_up(self, node: int, asked: bytes) -> bytes:
        name = asked.rstrip(b"\0")
        if name not in self._nodes:
            _refuse(errno.ENOENT)
        return self._entry(self._nodes[name])

    def _get_attributes(self, node: int, asked: bytes) -> bytes:
        return bytes(16) + self._attributes(node)

    def _set_attributes(self, node: int, asked: bytes) -> bytes:
        changed, _, _, size = struct.unpack_from("<IIQQ", asked)
        if changed & (_MODE | _OWNER | _GROUP):
            _refuse(errno.EPERM)
        if changed & _SIZE:
            if size:
                _refuse(errno.EOPNOTSUPP)
            self._written[node] = bytearray()
        return bytes(16) + self._attributes(node)

    def _remove(self, node: int, asked: bytes) -> bytes:
        del self._stored[self._nodes.pop(asked.rstrip(b"\0"))]
        return b""

    def _create(self, node: int, asked: bytes) -> bytes:
        self._newest += 1
        self._nodes[asked[16:].rstrip(b"\0")] = self._newest
        self._stored[self._newest], self._written[self._newest] = b"", bytearray()
        return self._entry(self._newest) + bytes(16)

    def _read(self, node: int, asked: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", asked)
        return self._stored[node][offset : offset + size]

    def _write(self, node: int, asked: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", asked)
        written = self._written.get(node)
        if written is None or offset != len(written):
            _refuse(errno.ESPIPE)
        else:
            written += asked[40 : 40 + size]
        return struct.pack("<II", size, 0)

    def _store(self, node: int, asked: bytes) -> bytes:
        if node in self._written:
            self._stored[node] = bytes(self._written.pop(node))
        return b""

    def _list(self, node: int, asked: bytes) -> bytes:
        _, offset, _ = struct.unpack_from("<QQI", asked)
        entries = b""
        for position, (name, number) in enumerate(sorted(self._nodes.items()), start=1):
            if position > offset:
                entry = struct.pack("<QQII", number, position, len(name), 8) + name
                entries += entry + bytes(-len(entry) % 8)
        return entries

    def _entry(self, node: int) -> bytes:
        return struct.pack("<4QII", node, 0, 0, 0, 0, 0) + self._attributes(node)

    def _attributes(self, node: int) -> bytes:
        size = 0 if node == _ROOT else len(self._written.get(node, self._stored[node]))
        mode = 0o40777 if node == _ROOT else 0o100777
        return struct.pack("<6Q10I", node, size, 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def _unknown(node: int, asked: bytes) -> bytes:
    return _refuse(errno.ENOSYS)


def _refuse(why: int) -> bytes:
    raise Refused(why)


def serve(device: int) -> None:
    """Answer until there is nobody who asks."""
    volume = Volume()
    while True:
        answer = volume.answer(os.read(device, _LARGEST_QUESTION))
        if answer:
            os.write(device, answer)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
