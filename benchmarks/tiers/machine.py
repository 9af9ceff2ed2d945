"""One machine of the demo of a cluster: a pool of its own, and worker processes that read everything, each in its own order.

Its job is a JSON document, the first line of stdin. It prints what its workers have read, as JSON, and ends when stdin ends,
whatever its workers are doing. ``python -m benchmarks.tiers.machine work`` is a worker, whose job is its whole stdin.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from hashlib import blake2b
from typing import Any

PATIENCE = 300  # seconds for a worker


def main() -> None:
    """Run the workers, and print their results."""
    print("ready", flush=True)
    line = sys.stdin.readline()
    if not line:
        return
    job = json.loads(line)
    if job["address"]:
        device, address = job["device"], job["address"]
        for step in (f"link set {device} up", "link set lo up", f"addr add {address}/24 dev {device}"):
            subprocess.run(["ip", *step.split()], check=True, timeout=PATIENCE)
    command = [sys.executable, "-m", "benchmarks.tiers.machine", "work"]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(job["workers"])
    ]
    threading.Thread(target=_end_with_parent, args=(workers,), daemon=True).start()
    for number, worker in enumerate(workers):
        assert worker.stdin
        worker.stdin.write(json.dumps({**job, "seed": job["machine"] * job["workers"] + number}))
        worker.stdin.close()
        worker.stdin = None
    results = [worker.communicate(timeout=PATIENCE)[0] for worker in workers]
    print(json.dumps([json.loads(result) if result else None for result in results]), flush=True)


def _end_with_parent(workers: list[subprocess.Popen[str]]) -> None:
    sys.stdin.read()
    for worker in workers:
        with contextlib.suppress(OSError):
            worker.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Read every piece of every file, in an order that the seed gives, and check it. Return what was read."""
    import fsspec

    import foliocache.tiers

    pieces: list[tuple[str, int, int, str]] = [tuple(piece) for piece in job["pieces"]]
    random.Random(job["seed"]).shuffle(pieces)
    options = {"name": job["name"], "size": job["size"], "tiers": job["tiers"]}
    begin, wrong = time.monotonic(), 0
    with contextlib.ExitStack() as stack:
        files = {}
        for name, offset, length, digest in pieces:
            if name not in files:
                files[name] = stack.enter_context(fsspec.open(f"folio::{job['origin']}/{name}", folio=options))
            files[name].seek(offset)
            wrong += blake2b(files[name].read(length), digest_size=16).hexdigest() != digest
        seconds = time.monotonic() - begin
        foliocache.tiers.flush()
        with foliocache.attach(job["name"]) as pool:
            tiers = [tier.to_dict() for tier in pool.tiers]
    return {"bytes": sum(length for _, _, length, _ in pieces), "wrong": wrong, "seconds": seconds, "tiers": tiers}


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        print(json.dumps(work(json.load(sys.stdin))))
    else:
        main()
