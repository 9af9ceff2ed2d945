"""FTP: MLST, or MDTM and SIZE, before and after each read.

FTPFileSystem's ``info()`` lists the whole folder, and keeps the listing until ``invalidate_cache()`` is called for that folder.
The protocol has commands that ask for one file. They are sent here, over a connection of our own.
"""

from __future__ import annotations

import ftplib
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .asked import AskedTarget, Known
from .base import UNCACHED, Identity, refuse_directory

_BLOCK = 1 << 16
_NOT_KNOWN_HERE = ("500", "501", "502", "504")


class FTPTarget(AskedTarget):
    """The identity is the size, the date and, if the server has it, the file's unique number."""

    known: Known = Known(
        date=("modify",), extra=("unique",), listings=True, attributes=("host", "port"), manners=frozenset({"tempdir", "tls"})
    )

    def identify(self, path: str) -> Identity:
        if path in self.unsteady:
            return UNCACHED
        facts = self.call(self._facts, path)
        if facts is None:
            return UNCACHED
        refuse_directory(path, facts)
        return self.identity(facts)

    def _facts(self, path: str) -> dict[str, Any] | None:
        """Return the server's facts about one file; None if the server lacks the commands, or the path is not a file."""
        connection = self._connection()
        try:
            return _parsed(connection.sendcmd(f"MLST {path}"))
        except ftplib.error_perm as error:
            if not str(error).startswith(_NOT_KNOWN_HERE):
                raise FileNotFoundError(2, os.strerror(2), path) from error
        try:
            connection.voidcmd("TYPE I")
            return {"type": "file", "size": connection.size(path), "modify": connection.sendcmd(f"MDTM {path}")[4:].strip()}
        except ftplib.error_perm:
            return None

    def _connection(self) -> ftplib.FTP:
        """Return a working connection: a server closes one that is idle for some minutes, and it is then opened again."""
        alive = False
        if self.own.ftp.sock is not None:
            with suppress(OSError, EOFError, ftplib.Error):
                self.own.ftp.voidcmd("NOOP")
                alive = True
        if not alive:
            self.own._connect()
            if self.own.tls is True:
                self.own.ftp.prot_p()
        return self.own.ftp

    def reader(self, path: str, identity: Identity) -> Callable[[int, Any], Any]:
        def read(offset: int, length: int) -> bytes:
            data = self.call(self._retrieve, path, offset, length)
            self.confirm(path, identity)
            return data

        return read

    def _retrieve(self, path: str, offset: int, length: int | None) -> bytes:
        """Return the bytes from offset on. If the transfer does not end normally, the connection is closed."""
        connection = self._connection()
        done = False
        try:
            connection.voidcmd("TYPE I")
            data = bytearray()
            with connection.transfercmd(f"RETR {path}", rest=offset or None) as wire:
                while (length is None or len(data) < length) and (more := wire.recv(_BLOCK)):
                    data += more
            with suppress(ftplib.error_temp):  # 426: we closed the transfer early
                connection.voidresp()
            done = True
            return bytes(data if length is None else data[:length])
        except ftplib.error_perm as error:
            raise FileNotFoundError(2, os.strerror(2), path) from error
        finally:
            if not done:
                connection.close()

    def uncached(self, path: str, identity: Identity, start: int | None, end: int | None) -> bytes:
        return self.call(self._retrieve, path, 0, None)[start:end]


def _parsed(answer: str) -> dict[str, Any]:
    """Return the facts of an MLST answer, from its second line: ``size=5;modify=20260102030405;type=file; /name``."""
    line = answer.splitlines()[1].strip()
    facts: dict[str, Any] = dict(fact.lower().split("=", 1) for fact in line.split("; ", 1)[0].split(";") if "=" in fact)
    facts["type"] = "file" if facts.get("type") == "file" else "directory" if "dir" in facts.get("type", "") else "other"
    facts["size"] = int(facts["size"]) if facts.get("size", "").isdecimal() else None
    return facts
