"""Runs the recipes of docs/recipes: the very code of the page, in several processes at once, against a server that counts.

In the code, ``https://example.org`` stands for the server, and ``"https"`` for its protocol. The pools are in a folder of the
test's own, and what is valid for a minute is valid for an hour: on a slow machine, the second run begins late.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from documents import page

import foliocache
from benchmarks.common import nginx
from benchmarks.common.measure import Unavailable

LIMIT = 240  # seconds after which a recipe hangs
ORIGIN = "https://example.org"


class Server:
    """A server of one folder. ``requests`` are (method, path, bytes of the body), all that there were since `forget`."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.requests: list[tuple[str, str, int]] = []

    def look(self) -> None:
        """Wait until all requests that were answered are in ``requests``."""

    def forget(self) -> None:
        self.look()
        self.requests.clear()

    def methods(self) -> Counter[str]:
        self.look()
        return Counter(method for method, _, _ in self.requests)

    def sent(self) -> int:
        """The bytes of all bodies of GET."""
        self.look()
        return sum(size for method, _, size in self.requests if method == "GET")

    def asked(self) -> Counter[str]:
        """How many requests there were for each path."""
        self.look()
        return Counter(path for _, path, _ in self.requests)


class Nginx(Server):
    """nginx, whose log says what it has sent."""

    def __init__(self, origin: nginx.Origin, folder: Path) -> None:
        super().__init__(f"http://127.0.0.1:{origin.port}", folder)
        self._origin = origin

    def look(self) -> None:
        self.requests += self._origin.lines()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve a folder by nginx if it is installed, else by a server of this process."""
    try:
        with nginx.serving(folder) as origin:
            yield Nginx(origin, folder)
            return
    except Unavailable:
        pass
    with _serving_here(folder) as server:
        yield server


@contextlib.contextmanager
def _serving_here(folder: Path) -> Iterator[Server]:
    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    server = Server(f"http://127.0.0.1:{listener.server_address[1]}", folder)
    listener.recipes = server  # type: ignore[attr-defined]
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join(60)


class Handler(SimpleHTTPRequestHandler):
    """Answers as nginx does: ranges, an ETag of date and size."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        server: Server = self.server.recipes  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        file = server.folder / path.lstrip("/")
        found = file.stat() if file.is_file() else None
        content = file.read_bytes() if found else b""
        first, last = 0, len(content) - 1
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked and asked[1]:
            first, last = int(asked[1]), min(int(asked[2] or last), last)
        elif asked:
            first = max(len(content) - int(asked[2]), 0)
        body = content[first : last + 1]
        code = 404 if not found else 200 if not asked else 206 if body else 416
        server.requests.append((self.command, path, len(body) if self.command == "GET" else 0))
        self.send_response(code)
        if found:
            self.send_header("ETag", f'"{found.st_mtime_ns:x}-{found.st_size:x}"')
            self.send_header("Last-Modified", self.date_time_string(int(found.st_mtime)))
            self.send_header("Accept-Ranges", "bytes")
        if code == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def code(name: str, language: str = "python") -> list[str]:
    """Return the blocks of code of a recipe."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page(f"recipes/{name}.md"), re.DOTALL | re.MULTILINE)


class Kitchen:
    """A folder for scripts, and the environment of the processes that run them."""

    def __init__(self, server: Server, folder: Path, pools: Path) -> None:
        self.server, self.folder = server, folder
        path = os.pathsep.join(filter(None, [str(Path(foliocache.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
        self.environment = os.environ | {"FOLIOCACHE_DIR": str(pools), "PYTHONPATH": path, "PYTHONWARNINGS": "default"}

    def script(self, text: str, name: str = "recipe.py") -> Path:
        file = self.folder / name
        text = text.replace(ORIGIN, self.server.url).replace('"https"', '"http"')
        file.write_text(re.sub(r'\b(expiry"?[=:] ?)60\b', r"\g<1>3600", text))
        return file

    def cook(self, text: str, processes: int = 3, at_once: bool = False) -> list[str]:
        """Run a script in several processes at once, and return what each has printed. Anything on stderr is a failure.

        at_once: the processes end as those of ``multiprocessing`` do, without the interpreter's finalization."""
        end = "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n" if at_once else ""
        command = [sys.executable, str(self.script(text + end))]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running = [
            subprocess.Popen(command, env=self.environment, cwd=self.folder, text=True, **streams) for _ in range(processes)
        ]
        try:
            done = [process.communicate(timeout=LIMIT) for process in running]
        finally:
            for process in running:
                process.kill()
                process.wait(60)
        for process, (out, err) in zip(running, done, strict=True):
            assert (process.returncode, err) == (0, ""), f"{out}\n{err}"
        return [out for out, _ in done]


def files(folder: Path, names: Sequence[str] = ("*",)) -> int:
    """Return the bytes of the files of a folder."""
    return sum(file.stat().st_size for name in names for file in folder.rglob(name) if file.is_file())


def field() -> Any:
    """Return random numbers below 1 of time, y and x, and one that is 99."""
    import numpy

    values = numpy.random.default_rng(1).random((24, 100, 100)).astype("f4")
    values[5, 6, 7] = 99
    return values
