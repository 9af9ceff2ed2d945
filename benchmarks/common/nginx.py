"""nginx on loopback as an origin: a process of our own, on a free port, with a configuration of its own.

It serves one folder in three ways, each under a path of its own. ``limited/`` sends 50 MB/s over each connection, as one
connection to S3 gives; without a short ``sendfile_max_chunk`` the limit would not bind below 4 MiB. ``slow/`` waits 20 ms
before each answer: nginx asks a server that never answers, gives up after 20 ms, and then sends the file itself.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common.measure import Unavailable
from foliocache.cli.signals import CleanupStack, blocked

WAYS = {"unlimited": "", "limited": "limited/", "slow": "slow/"}
START_SECONDS = 10
STOP_SECONDS = 10
LOG_SECONDS = 10
HELD = 512  # connections of the server that never answers

_CONFIGURATION = """
{user} daemon off; worker_processes 2; pid {folder}/pid; error_log {folder}/error crit;
events {{ worker_connections 1024; }}
http {{
  sendfile on; tcp_nodelay on; keepalive_requests 1000000; keepalive_timeout 1h; default_type application/octet-stream;
  log_format sent '$request_method $body_bytes_sent $uri'; access_log {folder}/log sent;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    root {files};
    location /limited/ {{ alias {files}/; limit_rate 50m; sendfile_max_chunk 128k; }}
    location /small/ {{ try_files /small =404; }}
    location /slow/ {{ proxy_pass http://127.0.0.1:{silent}; proxy_read_timeout 20ms; error_page 504 = @file; }}
    location = /.status {{ stub_status; access_log off; }}
    location @file {{ rewrite ^/slow/(.*) /$1 break; }}
  }}
}}
"""


class Origin:
    """Where it listens, which folder it serves, and what it has sent: counted in its own log."""

    def __init__(self, port: int, log: Path, files: Path):
        self.port = port
        self.files = files
        self._log = log
        self._seen = 0
        self._looks = 0

    def url(self, name: str, way: str = "unlimited") -> str:
        """Return the URL of a file of the folder, served in that way."""
        return f"http://127.0.0.1:{self.port}/{WAYS[way]}{name}"

    def sent(self) -> tuple[int, int]:
        """Return the number of requests, and the bytes of all bodies, since the last call."""
        lines = self.lines()
        return len(lines), sum(size for _, _, size in lines)

    def lines(self) -> list[tuple[str, str, int]]:
        """Return (method, path, bytes of the body) of each request since the last call."""
        text = self._settled()[self._seen :]
        self._seen += len(text)
        lines = [line.split(" ", 2) for line in text.splitlines()]
        return [(method, path, int(size)) for method, size, path in lines]

    def _settled(self) -> str:
        """The log, when it has a line about each request that nginx has begun: a client has its bytes before that."""
        begun, deadline = self._begun(), time.monotonic() + LOG_SECONDS
        while (text := self._log.read_text()).count("\n") < begun:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nginx has begun {begun} requests, and ended {text.count(chr(10))} of them")
            time.sleep(0.001)
        return text

    def _begun(self) -> int:
        """The number of requests that nginx has begun, without those of this method, which are not in the log."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LOG_SECONDS)
        connection.request("GET", "/.status")
        numbers = connection.getresponse().read().split(b"requests")[1].split()  # accepts, handled, requests
        connection.close()
        self._looks += 1
        return int(numbers[2]) - self._looks


@contextlib.contextmanager
def serving(files: Path) -> Iterator[Origin]:
    """Serve the files of a folder. Raises Unavailable where nginx is not installed."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise Unavailable("nginx is not installed (apt-get install nginx-light)")
    with CleanupStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-nginx-")))
        silent = stack.enter_context(_silence())
        port = _free_port()
        user = "" if os.geteuid() else "user root;"  # whose workers can read a folder of ours
        text = _CONFIGURATION.format(folder=folder, files=files, port=port, silent=silent, user=user)
        (folder / "configuration").write_text(text)
        with blocked():
            process = subprocess.Popen([program, "-c", str(folder / "configuration"), "-e", str(folder / "error")])
            stack.callback(_stop, process)
        _wait_for(port, process, folder / "error")
        origin = Origin(port, folder / "log", files)
        origin.sent()
        yield origin


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes], errors: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
            connection.request("HEAD", "/")
            connection.getresponse().read()
            connection.close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                said = errors.read_text() if errors.exists() else ""
                raise Unavailable(f"nginx does not start: {said.strip()}") from None
            time.sleep(0.01)


@contextlib.contextmanager
def _silence() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=HELD) as listener:

        def take() -> None:
            held: deque[socket.socket] = deque()
            with contextlib.suppress(OSError):
                while True:
                    held.append(listener.accept()[0])
                    if len(held) > HELD:
                        held.popleft().close()
            for each in held:
                each.close()

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
