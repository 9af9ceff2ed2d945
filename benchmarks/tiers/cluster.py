"""Three machines that read the same data set: one origin, one Valkey, and each machine has a pool and two workers.

Each machine is a network namespace, on a bridge, where this user may make them; else it is a folder of pools, on loopback.
Everything is inside one more namespace of its own, so that nothing is left whatever ends it. The origin counts what it sends:
the data set once. ``make cluster-demo`` shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from benchmarks.common.measure import Unavailable
from benchmarks.common.plan import KIB, MIB
from benchmarks.tiers.servers import Valkey
from foliocache.cli.demo.origin import Origin
from foliocache.cli.signals import CleanupStack, blocked

PATIENCE = 300  # seconds for all that the machines have to read
SHM = "/dev/shm"
NETWORK = "10.77.0."  # inside a namespace, so no other network is meant
PIECE = 256 * KIB


@dataclass(frozen=True)
class Size:
    """How much there is to read, and by how many."""

    machines: int = 3
    workers: int = 2
    files: int = 6
    file_bytes: int = 8 * MIB
    latency: float = 0.005  # seconds before each answer of the origin

    @property
    def total(self) -> int:
        return self.files * self.file_bytes


def measure(size: Size) -> dict[str, Any]:
    """Let the machines read everything, and return what they have read, and what the origin has sent.

    Raises Unavailable if there is no server, and OSError.
    """
    if not can_isolate():
        return _measured(size, isolated=False)
    options = [f"--{name}={value}" for name, value in vars(size).items()]
    command = ["unshare", "--net", sys.executable, "-m", "benchmarks.tiers.cluster", "--inside", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode:
        raise OSError(f"the machines could not be run: {done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    if "unavailable" in found:
        raise Unavailable(found["unavailable"])
    return found


def can_isolate() -> bool:
    """Return True if this user may make network namespaces with bridges."""
    if not shutil.which("unshare") or not shutil.which("ip"):
        return False
    tried = ["unshare", "--net", "sh", "-c", "ip link add bridge0 type bridge && ip link add one0 type veth peer name two0"]
    return subprocess.run(tried, capture_output=True, timeout=PATIENCE, check=False).returncode == 0


def _measured(size: Size, isolated: bool) -> dict[str, Any]:
    host = f"{NETWORK}1" if isolated else "127.0.0.1"
    if isolated:
        _ip("link set lo up", "link add shared type bridge", f"addr add {host}/24 dev shared", "link set shared up")
    with CleanupStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="foliocache-bench-", dir=_shm())))
        data = root / "data"
        data.mkdir()
        pieces = _write(data, size)
        origin = stack.enter_context(Origin(data, size.latency, host))
        server = stack.enter_context(Valkey(root, host, 2 * size.total + 64 * MIB))
        machines = []
        for number in range(size.machines):
            folder = root / f"machine-{number}"
            folder.mkdir()
            with blocked():
                machine = _start(folder, isolated)
                stack.callback(_end, machine)
            device, address = f"m{number}", f"{NETWORK}{10 + number}" if isolated else ""
            if isolated:
                _ip(
                    f"link add port{number} type veth peer name {device} netns {machine.pid}",
                    f"link set port{number} master shared up",
                )
            job = {
                "machine": number,
                "workers": size.workers,
                "device": device,
                "address": address,
                "name": "cluster",
                "size": 2 * size.total + 64 * MIB,
                "tiers": f"{server.url}?timeout=2",  # of this machine's processors, each has many workers
                "origin": origin.url,
                "pieces": pieces,
            }
            machines.append((machine, json.dumps(job) + "\n"))
        begin = time.monotonic()
        for machine, text in machines:  # all begin together
            assert machine.stdin
            machine.stdin.write(text)
            machine.stdin.flush()
        results = [_result(machine) for machine, _ in machines]
        seconds = time.monotonic() - begin
        counts = origin.counts()
    workers = [worker for result in results for worker in result]
    return {
        "isolated": isolated,
        "data_bytes": size.total,
        "read_bytes": sum(worker["bytes"] for worker in workers),
        "wrong": sum(worker["wrong"] for worker in workers),
        "origin_bytes": counts["bytes"],
        "origin_requests": counts["requests"],
        "ratio": counts["bytes"] / size.total,
        "seconds": seconds,
        "machines": results,
    }


def _write(folder: Path, size: Size) -> list[tuple[str, int, int, str]]:
    """Write the data set. Return its pieces: file, offset, length, digest."""
    made = []
    for number in range(size.files):
        content = random.Random(number).randbytes(size.file_bytes)
        (folder / f"{number}.bin").write_bytes(content)
        for offset in range(0, size.file_bytes, PIECE):
            piece = content[offset : offset + PIECE]
            made.append((f"{number}.bin", offset, len(piece), blake2b(piece, digest_size=16).hexdigest()))
    return made


def _start(folder: Path, isolated: bool) -> subprocess.Popen[str]:
    command = [*(["unshare", "--net"] if isolated else []), sys.executable, "-m", "benchmarks.tiers.machine"]
    machine = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"FOLIOCACHE_DIR": str(folder)},
        process_group=0,
    )
    assert machine.stdout
    if machine.stdout.readline() != "ready\n":
        raise OSError(f"a machine did not start (exit code {machine.wait(PATIENCE)})")
    return machine


def _end(machine: subprocess.Popen[str]) -> None:
    assert machine.stdin and machine.stdout
    machine.stdin.close()  # it ends its workers, and itself
    try:
        machine.wait(10)
    except subprocess.TimeoutExpired:
        machine.kill()
        machine.wait(10)
    machine.stdout.close()


def _result(machine: subprocess.Popen[str]) -> list[dict[str, Any]]:
    assert machine.stdout
    line = machine.stdout.readline()
    results = json.loads(line) if line else [None]
    if None in results:
        raise OSError("a worker has failed; what it said is above")
    return list(results)


def _ip(*commands: str) -> None:
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True, capture_output=True, timeout=PATIENCE)


def _shm() -> str | None:
    return SHM if os.access(SHM, os.W_OK) else None


def show(found: dict[str, Any]) -> None:
    """Print what was read, in words."""
    machines = found["machines"]
    kind = "network namespaces on a bridge" if found["isolated"] else "folders of pools, on loopback"
    print(f"{len(machines)} machines ({kind}), {len(machines[0])} workers each, one origin, one Valkey")
    print(f"{'machine':>8} {'read, MiB':>10} {'wrong':>6} {'from Valkey, MiB':>17} {'given to it, MiB':>17} {'seconds':>8}")
    for number, workers in enumerate(machines):
        tiers = [tier for worker in workers for tier in worker["tiers"]]
        read, wrong = (sum(worker[name] for worker in workers) for name in ("bytes", "wrong"))
        had, given = (sum(tier[name] for tier in tiers) for name in ("hit_bytes", "store_bytes"))
        seconds = max(worker["seconds"] for worker in workers)
        print(f"{number:>8} {read / MIB:>10.1f} {wrong:>6} {had / MIB:>17.1f} {given / MIB:>17.1f} {seconds:>8.1f}")
    print(
        f"data set {found['data_bytes'] / MIB:.1f} MiB, read {found['read_bytes'] / MIB:.1f} MiB; the origin sent "
        f"{found['origin_bytes'] / MIB:.1f} MiB in {found['origin_requests']} requests: {found['ratio']:.3f} times the data set"
    )


def main() -> int:
    """Run the demo. Returns 1 if a byte was wrong, or the origin sent more than the data set."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiers.cluster", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    for name, value in vars(Size()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    asked = vars(parser.parse_args())
    as_json, inside = asked.pop("json"), asked.pop("inside")
    try:
        found = _measured(Size(**asked), isolated=True) if inside else measure(Size(**asked))
    except Unavailable as missing:
        if not inside:
            print(missing, file=sys.stderr)
            return 1
        found = {"unavailable": str(missing)}
    if as_json or inside:
        print(json.dumps(found))
        return 0
    show(found)
    return int(bool(found["wrong"]) or round(found["ratio"], 2) > 1)


if __name__ == "__main__":
    sys.exit(main())
