"""Workers that read random ranges of objects which do not fit into the pool, and check every byte.

The content of an object is a function of its key and the offset, so that a worker needs no copy to compare with: each 8-byte
word is its own position times a constant that depends on the key.
"""

import contextlib
import multiprocessing
import os
import random
import signal
import threading
import time
import traceback
from concurrent.futures import ProcessPoolExecutor

import numpy as np

import foliocache

_GOLDEN = 0x9E3779B97F4A7C15


def content(key, offset, length):
    """Bytes offset .. offset + length - 1 of object key."""
    first, last = offset // 8, (offset + length + 7) // 8
    words = np.arange(first, last, dtype=np.uint64) * np.uint64((hash(key) & 0xFFFF) * 2 + 1) + np.uint64(_GOLDEN & 0xFFFFFFFF)
    return words.tobytes()[offset - first * 8 : offset - first * 8 + length]


def source(key):
    return lambda offset, length: content(key, offset, length)


class Job:
    """What the workers do: ``objects`` of (key, size), read at random until ``seconds`` are over."""

    def __init__(self, name, objects, seconds, seed=0, invalidate=0.001):
        self.name = name
        self.objects = objects
        self.seconds = seconds
        self.seed = seed
        self.invalidate = invalidate

    def run(self, workers):
        """The number of reads of each worker; raises if one found a wrong byte or died."""
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as executor:
            return list(executor.map(self.work, range(workers), timeout=self.seconds + 120))

    def work(self, number):
        rng = random.Random(self.seed * 1000 + number)
        pool = foliocache.attach(self.name)
        mappings = [pool.mapping(str(key), size, "v", source(key)) for key, size in self.objects]
        deadline = time.monotonic() + self.seconds
        held = []
        reads = 0
        while time.monotonic() < deadline:
            self.step(rng, rng.choice(list(zip(self.objects, mappings, strict=True))), held)
            reads += 1
        return reads

    def step(self, rng, choice, held):
        (key, size), mapping = choice
        offset = rng.randrange(size)
        length = min(rng.choice((1, 100, 5000, 70_000, 600_000)), size - offset)
        view = mapping.read(offset, length)
        expected = content(key, offset, length)
        if view != expected:
            raise AssertionError(f"wrong bytes: object {key} offset {offset} length {length}")
        held.append((view, expected))
        if len(held) > 20:
            view, expected = held.pop(rng.randrange(len(held)))
            if view != expected:
                raise AssertionError(f"bytes changed under a pin: object {key}")
        if rng.random() < self.invalidate:
            mapping.invalidate()


class MortalJob(Job):
    """Workers with two threads that run until they are killed, and do everything that can be interrupted: read, invalidate,
    hold leases, open windows, and some die while they read from the source."""

    def live(self, number):
        """The body of a forked worker. Any way out of it is a failure."""
        threads = [threading.Thread(target=self._try_to_live, args=(number * 2 + n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _try_to_live(self, seed):
        try:
            rng = random.Random(seed)
            pool = foliocache.attach(self.name)
            held = []
            while True:
                key, size = rng.choice(self.objects)
                mapping = pool.mapping(str(key), size, "v", self._mortal_source(key, rng))
                self.step(rng, ((key, size), mapping), held)
                if rng.random() < 0.05:
                    self._look_through_a_window(rng, mapping, key)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def _mortal_source(self, key, rng):
        def read(offset, length):
            if rng.random() < 0.0005:
                os.kill(os.getpid(), signal.SIGKILL)
            return content(key, offset, length)

        return read

    def _look_through_a_window(self, rng, mapping, key):
        offset = rng.randrange(mapping.size)
        length = min(rng.choice((1, 9_000, 300_000)), mapping.size - offset)
        # There may be no room for all of its folios at once.
        with contextlib.suppress(foliocache.FoliocacheError), mapping.window(offset, length) as window:
            if memoryview(window) != content(key, offset, length):
                raise AssertionError(f"wrong bytes in a window: object {key} offset {offset} length {length}")
