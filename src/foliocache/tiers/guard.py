"""Between a tier and its callers: a failure is a miss, and a tier that fails or is slow is left alone for a while.

Nothing here waits for a lock: counters may lose a count when threads race, and tokens are deques, whose methods are atomic.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from ..errors import PoolMismatchError
from ..mm import layout
from ..observe import notices
from ..observe.records import Finding
from .tier import Claiming, Part, Tier, TierStat

PAUSE = 1.0  # seconds that a tier is left alone after its first failure; twice as long after each further one
PAUSE_MAX = 60.0


class Account(Protocol):
    """Where a pool counts what tiers and sources do, for all its processes. It does nothing in a process that is no client."""

    def request(self, source: int, ns: int, length: int, failed: bool) -> None:
        """Count a request to one of ``layout.SOURCES``."""
        ...

    def tally(self, word: int, n: int) -> None:
        """Add to one of the statistics of ``layout``."""
        ...


class Breaker:
    """Whether one kind of calls of a tier is made. A failure stops them for a pause; then one call tries again.

    A call that has not returned for ``timeout`` seconds stops the others, too: it cannot be called back, but nobody joins it.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.reason: str = ""  # why the calls are stopped; "" if they are not
        self._failures = 0
        self._until = 0.0
        self._numbers = itertools.count()
        self._new_process()

    def _new_process(self) -> None:
        self._pid = os.getpid()
        self._trial: deque[None] = deque([None])  # the right to try again after a pause
        self._calls: dict[int, tuple[float, bool]] = {}  # those under way: when they began, and whether they are a trial

    def begin(self) -> int | None:
        """Begin a call. Return its number for ``end``, or None if the tier is left alone."""
        if self._pid != os.getpid():  # the parent's calls do not end here
            self._new_process()
        now = time.monotonic()
        if self._calls and any(now - begun > self.timeout for begun, _ in list(self._calls.values())):
            return None
        is_trial = bool(self._failures)
        if is_trial:
            if now < self._until:
                return None
            try:
                self._trial.pop()
            except IndexError:
                return None
        number = next(self._numbers)
        self._calls[number] = now, is_trial
        return number

    def end(self, number: int, error: BaseException | None) -> tuple[float, str]:
        """End a call. Return the seconds that it took, and why the tier is left alone from now on, if it was not before."""
        begun, is_trial = self._calls.pop(number)
        took = time.monotonic() - begun
        if error is None and took > self.timeout:
            error = TimeoutError(f"it took {took:.3f} s, and the timeout is {self.timeout:g} s")
        was_well = not self._failures
        if error is not None:
            self._until = time.monotonic() + min(PAUSE * 2 ** min(self._failures, 10), PAUSE_MAX)
            self._failures += 1
            self.reason = f"{type(error).__name__}: {error}"
        elif is_trial:
            self._failures, self.reason = 0, ""
        if is_trial:
            self._trial.append(None)
        return took, self.reason if error is not None and was_well else ""

    @property
    def is_stopped(self) -> bool:
        """True if a call would not be made now, because others have failed."""
        return bool(self._failures) and (time.monotonic() < self._until or not self._trial)


class Guard:
    """A tier as one process uses it. ``make`` opens it, and may fail.

    Parameters
    ----------
    url
        Where it is, for messages.
    make
        Returns the Tier.
    timeout
        Seconds that a load may take.
    rate
        Bytes per second that are stored at most; 0 for any number.
    """

    def __init__(self, url: str, make: Callable[[], Tier], timeout: float, rate: int = 0) -> None:
        self.url = url
        self.rate = rate
        self._due = 0.0
        scheme = url.partition(":")[0]
        self.kind: str = "disk" if scheme == "disk" else "valkey"
        self._make = make
        self.tier: Tier | None = None
        self.loads: Breaker = Breaker(timeout)
        self.stores: Breaker = Breaker(30 * timeout)
        self.hits: int = 0
        self.misses: int = 0
        self.hit_bytes: int = 0
        self.skipped: int = 0
        self.stored: int = 0
        self.store_bytes: int = 0
        self.dropped: int = 0
        self.declined: int = 0
        self.errors: int = 0
        self.load_seconds: float = 0.0
        self.store_seconds: float = 0.0
        self.slowest_load: float = 0.0
        self.wait_seconds: float = 0.0

    def open(self) -> bool:
        """Open the tier if it is not open. Return False if that fails, or has failed a moment ago.

        Raises PoolMismatchError, and ImportError: no later try can change that.
        """
        if self.tier is not None:
            return True
        number = self.stores.begin()
        if number is None:
            return False
        error: Exception | None = None
        try:
            self.tier = self._make()
        except Exception as raised:
            error = raised
        self._ended(self.stores, number, error)
        if isinstance(error, (PoolMismatchError, ImportError)):
            raise error
        return self.tier is not None

    def holds(self, digest: bytes, spans: Sequence[tuple[int, int]], account: Account | None = None) -> Sequence[bool]:
        """Return for each span (offset, length) whether it is worth to load it."""
        if self.tier is None or self.loads.is_stopped:
            self.skipped += len(spans)
            self._tally(account, layout.TIER_SKIPPED, len(spans))
            return [False] * len(spans)
        look = getattr(self.tier, "holds", None)
        if look is None:
            return [True] * len(spans)
        number = self.loads.begin()
        found: Sequence[bool] = [False] * len(spans)
        if number is None:
            self.skipped += len(spans)
            self._tally(account, layout.TIER_SKIPPED, len(spans))
            return found
        error: Exception | None = None
        try:
            found = look(digest, spans)
        except Exception as raised:
            error = raised
        finally:
            self._ended(self.loads, number, error)
        self.misses += len(found) - sum(found)
        self._tally(account, layout.TIER_MISSES, len(found) - sum(found))
        return found

    @property
    def lease(self) -> float:
        """Seconds that a claim lasts; 0 if the tier grants none."""
        return float(getattr(self.tier, "lease", 0.0))

    @property
    def piece(self) -> int:
        """Bytes that are claimed at a time, of a tier that grants claims."""
        return int(getattr(self.tier, "piece", 1 << 20))

    def claim(self, digest: bytes, spans: Sequence[tuple[int, int]]) -> Sequence[bool]:
        """Return for each span (offset, length) False if another machine is fetching it."""
        granted: Sequence[bool] = [True] * len(spans)
        number = None if self.loads.is_stopped else self.stores.begin()  # a full server refuses claims, and is read
        if number is None:
            return granted
        error: Exception | None = None
        try:
            found = cast(Claiming, self.tier).claim(digest, spans)
            if len(found) != len(spans):
                raise ValueError(f"it answered for {len(found)} spans instead of {len(spans)}")
            granted = found
        except Exception as raised:
            error = raised
        finally:
            self._ended(self.stores, number, error)
        return granted

    def release(self, digest: bytes, spans: Sequence[tuple[int, int]]) -> None:
        """Give claims back. Raises nothing of the tier's: they end by themselves, too.

        Stores may be stopped: a full server can do this.
        """
        release = getattr(self.tier, "release", None)
        if release is None or self.loads.is_stopped:
            return
        try:
            release(digest, spans)
        except Exception:
            self.errors += 1

    def pace(self, length: int) -> float:
        """Note that so many bytes were stored. Return the seconds until the next may be, by the tier's rate."""
        if not self.rate:
            return 0.0
        pace = getattr(self.tier, "pace", None)
        if pace is not None:  # for all processes together
            with contextlib.suppress(Exception):
                return float(pace(length, self.rate))
        now = time.monotonic()
        self._due = max(now, self._due) + length / self.rate
        return self._due - now

    def load(
        self, digest: bytes, parts: Sequence[Part], account: Account | None = None, *, again: bool = False
    ) -> Sequence[bool]:
        """Fill the buffers that the tier has. Return for each part whether it is full. Raises nothing of the tier's.

        ``again``: it was asked for these before, which is not counted as a miss a second time.
        """
        filled: Sequence[bool] = [False] * len(parts)
        number = None if self.tier is None else self.loads.begin()
        if number is None or self.tier is None:
            self.skipped += len(parts)
            self._tally(account, layout.TIER_SKIPPED, len(parts))
            return filled
        error: Exception | None = None
        try:
            filled = self.tier.load(digest, parts)
            if len(filled) != len(parts):
                raise ValueError(f"it answered for {len(filled)} parts instead of {len(parts)}")
        except Exception as raised:
            error, filled = raised, [False] * len(parts)
        finally:
            took = self._ended(self.loads, number, error)
        self.load_seconds += took
        self.slowest_load = max(self.slowest_load, took)
        had = sum(map(bool, filled))
        self.hits += had
        missed = 0 if again else len(parts) - had
        self.misses += missed
        length = sum(len(buffer) for (_, buffer), full in zip(parts, filled, strict=True) if full)
        self.hit_bytes += length
        if account is not None:
            account.request(layout.SOURCES.index(self.kind), int(took * 1e9), length, error is not None)
            self._tally(account, layout.TIER_HITS, had)
            self._tally(account, layout.TIER_MISSES, missed)
        return filled

    def wants(self, digest: bytes, offset: int, length: int, account: Account | None = None) -> bool:
        """Return True if the tier works, and would keep this range."""
        if self.stores.is_stopped:
            self.drop(1, account)
            return False
        decide = getattr(self.tier, "wants", None)
        if decide is None:
            return True
        try:
            wanted = bool(decide(digest, offset, length))
        except Exception:
            wanted = True  # the store will fail, and say why
        self.declined += not wanted
        self._tally(account, layout.TIER_DECLINED, not wanted)
        return wanted

    def drop(self, parts: int, account: Account | None) -> None:
        """Count ranges that are not stored, because there is no room for them in the queue, or the tier is left alone."""
        self.dropped += parts
        self._tally(account, layout.TIER_DROPPED, parts)

    def store(self, digest: bytes, parts: Sequence[Part], account: Account | None = None) -> bool:
        """Give ranges to the tier. Return False if they were not stored. Raises nothing of the tier's."""
        number = self.stores.begin() if self.open() else None
        if number is None or self.tier is None:
            self.drop(len(parts), account)
            return False
        error: Exception | None = None
        try:
            self.tier.store(digest, parts)
        except Exception as raised:
            error = raised
        self.store_seconds += self._ended(self.stores, number, error)
        if error is not None:
            self.drop(len(parts), account)
            return False
        length = sum(len(data) for _, data in parts)
        self.stored += len(parts)
        self.store_bytes += length
        self._tally(account, layout.TIER_STORES, len(parts))
        self._tally(account, layout.TIER_STORE_BYTES, length)
        return True

    def check(self, repair: bool) -> list[Finding]:
        """Return what is wrong in the tier, if it can check itself; that it does not work is a finding, too."""
        if self.tier is None:
            return [Finding("tier", self.url, self.stores.reason)]
        checking = getattr(self.tier, "check", None)
        if checking is None:
            return []
        try:
            return list(checking(repair=repair))
        except Exception as error:
            return [Finding("tier", self.url, f"the check could not be finished: {type(error).__name__}: {error}")]

    def stat(self) -> TierStat:
        """Return what this process has had from the tier."""
        return TierStat(
            self.url,
            self.loads.reason or self.stores.reason or "ready",
            self.hits,
            self.misses,
            self.hit_bytes,
            self.skipped,
            self.stored,
            self.store_bytes,
            self.dropped,
            self.declined,
            self.errors,
            self.load_seconds,
            self.store_seconds,
            self.slowest_load,
            self.wait_seconds,
        )

    def _tally(self, account: Account | None, word: int, n: int) -> None:
        if account is not None and n:
            account.tally(layout.STAT_TIERS + layout.TIERS.index(self.kind) * layout.TIER_WORDS + word, n)

    def _ended(self, breaker: Breaker, number: int, error: Exception | None) -> float:
        took, reason = breaker.end(number, error)
        if error is not None or took > breaker.timeout:
            self.errors += 1
        if reason:
            what = "not read" if breaker is self.loads else "not written"
            notices.logger().warning("tier %s is %s for a while: %s", self.url, what, reason)
        return took
