"""``foliocache demo``: what the cache is for, on this machine, in about a minute.

Real files in tar shards, a real HTTP server that counts what it sends, and spawned workers that read every file in an order
of their own and check every byte: without a cache, with fsspec's own block cache (one per worker), and through ``folio::``
(one for all). The pool, the folder, the server and the workers are gone afterwards, whatever ended it.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
import tempfile
import threading
import webbrowser
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import foliocache
from foliocache.cli.demo import dataset as files
from foliocache.cli.demo import report
from foliocache.cli.demo.origin import Origin
from foliocache.cli.demo.worker import Job
from foliocache.cli.demo.worker_pool import Measured, WorkerPool
from foliocache.cli.exits import CommandError
from foliocache.cli.memory import allocated
from foliocache.cli.options import Json, Milliseconds, Positive, Share, Size, check_pool, open_pool
from foliocache.cli.output import counted, emit_json, finish, tell
from foliocache.cli.progress import Silent, watcher
from foliocache.cli.serve import page_of
from foliocache.cli.signals import CleanupStack, blocked
from foliocache.sizes import format_size

MIB = 2**20
DATASET_BYTES = 110 * MIB
SERVED, INDEX = "shards", "index.json"
KINDS = {
    "uncached": "fsspec over http",
    "blockcache": "fsspec's block cache, one per worker",
    "folio": "folio::http, one pool for all",
}
BLOCK = 5 * MIB  # of a file that is fetched at once: fsspec's default over HTTP, in which its block cache reads as well
SPARE = 1.25  # the pool's size over the dataset's, where none is given


@dataclass(frozen=True)
class Plan:
    """What is read, by how many workers, from where."""

    dataset: files.Dataset
    index: Path
    origin: Origin
    workers: int
    epochs: int
    sample: float
    pool: str | int

    def jobs(self, prefix: str = "", sample: float = 1.0, **settings: dict[str, Any]) -> list[Job]:
        """One job per worker; ``settings`` are fsspec's: for its ``filesystem`` and for ``opening`` files."""
        url, index = prefix + self.origin.url, str(self.index)
        return [Job(number, index, url, self.epochs, sample, **settings) for number in range(self.workers)]


def demo(
    *,
    workers: Positive = 4,
    epochs: Positive = 2,
    latency: Milliseconds = 20.0,
    size: Size = None,
    shards: Positive = 8,
    sample: Share = 0.1,
    dataset: Path | None = None,
    page: bool = False,
    json: Json = False,
) -> int:
    """Show what the cache saves, on real files over real HTTP.

    Parameters
    ----------
    workers
        Processes that read, each all files in an order of its own.
    epochs
        How often each worker reads every file.
    latency
        Milliseconds that the origin waits before it answers.
    size
        The pool's size, like 64MiB; without it, room for the whole dataset.
    shards
        Tar files that the dataset is packed into.
    sample
        The share of the files that the uncached run reads; the others read all.
    dataset
        A folder to read instead of Python's own library.
    page
        Open a page in the browser that shows the pool, live; it stays until Ctrl-C.
    json
        Print the result as JSON.
    """
    if importlib.util.find_spec("aiohttp") is None:
        raise CommandError('the demo reads over HTTP, for which fsspec needs aiohttp: pip install "foliocache[http]"')
    if size is not None:
        check_pool(size)
    watch = watcher(quiet=json)
    with CleanupStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="foliocache-demo-")))
        packed = _pack(root, _source(dataset), shards, watch)
        origin = stack.enter_context(Origin(root / SERVED, latency / 1000))
        watch.say(f"origin {origin.url}, {latency:g} ms before each answer")
        pool = size or -(-int(packed.total_bytes * SPARE) // MIB) * MIB
        result = _measure(Plan(packed, root / INDEX, origin, workers, epochs, sample, pool), watch, stack, page)
        if page:
            with suppress(KeyboardInterrupt):
                with blocked():  # so that Ctrl-C ends the page alone as soon as there is a result
                    _tell(result, json)
                    finish(sys.stdout)
                    watch.say("the page stays until Ctrl-C")
                threading.Event().wait()
        else:
            _tell(result, json)
    return report.exit_code(result)


def _tell(result: dict[str, Any], json: bool) -> None:
    """Print the result."""
    if json:
        emit_json(result)
    else:
        report.show(result)


def _source(folder: Path | None) -> list[Path]:
    """The files to read: a folder's, or enough of Python's own."""
    if folder is None:
        return files.choose(files.library(), DATASET_BYTES)
    if not folder.is_dir():
        raise CommandError(f"--dataset {folder}: no such folder")
    return list(files.walk(folder))


def _pack(root: Path, paths: list[Path], shards: int, watch: Silent) -> files.Dataset:
    """Pack the files into ``root``, and write their index next to them."""
    (root / SERVED).mkdir()
    packed = files.pack(paths, root / SERVED, shards)
    packed.save(root / INDEX)
    content = f"{counted(len(packed.members), 'file')}, {format_size(packed.total_bytes)}"
    watch.say(f"packed {content}, into {counted(len(packed.shards), 'tar shard')}")
    return packed


def _measure(plan: Plan, watch: Silent, stack: CleanupStack, page: bool) -> dict[str, Any]:
    """Make the three runs, one after the other; the document of ``--json``. The pool, and a page of it, end with the stack."""
    runs = [
        _run(plan, watch, "uncached", plan.jobs(sample=plan.sample, opening={"cache_type": "none"})),
        _run(plan, watch, "blockcache", plan.jobs(opening={"cache_type": "blockcache"})),
        _run_folio(plan, watch, stack, page),
    ]
    return {
        "dataset_bytes": plan.dataset.total_bytes,
        "files": len(plan.dataset.members),
        "shards": len(plan.dataset.shards),
        "workers": plan.workers,
        "epochs": plan.epochs,
        "latency_ms": plan.origin.latency * 1000,
        "runs": runs,
    }


def _run(plan: Plan, watch: Silent, name: str, jobs: list[Job], pool: str | None = None) -> dict[str, Any]:
    """Have workers do these jobs; what they and the origin have counted."""
    reads = jobs[0].members(plan.dataset) * plan.epochs
    watch.say(f"{name}: {counted(plan.workers, 'worker')}, {counted(reads, 'file')} each; {KINDS[name]}")
    before = plan.origin.counts()
    with watch.workers(plan.workers, reads) as progress, CleanupStack() as stack:
        measured = stack.enter_context(WorkerPool(jobs, pool, progress)).run()
    after = plan.origin.counts()
    return _summary(name, jobs[0].sample, measured, {key: after[key] - before[key] for key in after})


def _summary(name: str, sample: float, measured: Measured, origin: dict[str, int]) -> dict[str, Any]:
    """One run, as the JSON has it."""
    tallies = measured.tallies
    return {
        "name": name,
        "sample": sample,
        "members": sum(tally.members for tally in tallies),
        "read_bytes": sum(tally.read_bytes for tally in tallies),
        "origin_bytes": origin["bytes"],
        "requests": origin["requests"],
        "seconds": round(measured.seconds, 3),
        "hits": sum(tally.hits for tally in tallies),
        "misses": sum(tally.misses for tally in tallies),
        "peak_pss_bytes": measured.peak_bytes,
        "idle_each_bytes": measured.idle_bytes // len(tallies),
        "wrong_bytes": sum(tally.wrong_bytes for tally in tallies),
        "wrong_members": sorted({name for tally in tallies for name in tally.wrong}),
    }


def _run_folio(plan: Plan, watch: Silent, stack: CleanupStack, page: bool) -> dict[str, Any]:
    """The run through a pool of its own, which the stack removes whatever happens."""
    name = f"demo-{os.getpid()}-{secrets.token_hex(4)}"
    stack.callback(_remove, name)
    with blocked():
        pool = open_pool(name, plan.pool)
    path = pool.path
    if page:
        _show_page(stack.enter_context(page_of(name)))
    options = {"name": name, "size": plan.pool, "check_files": False}  # who a shard is, is asked once for all workers
    jobs = plan.jobs("folio::", filesystem={"folio": options}, opening={"block_size": BLOCK})
    made = _run(plan, watch, "folio", jobs, path)
    made["idle_each_bytes"] -= allocated(path) // plan.workers
    counters = pool.stat().counters
    return made | {
        "hits": counters.hits,
        "misses": counters.misses,
        "pool_bytes": allocated(path),
        "counters": counters.to_dict(),
        "findings": [finding.to_dict() for finding in pool.audit()],
    }


def _show_page(url: str) -> None:
    """Tell the page's address, and open it if there is a browser with windows, or one that the user has chosen."""
    tell(f"page {url}")
    if any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")):
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()  # a browser may take its time


def _remove(name: str) -> None:
    """Remove the demo's pool, if it was made."""
    with suppress(foliocache.PoolNotFoundError):
        foliocache.remove(name)
