"""Tiers for tests: one in memory that obeys, and what a mapping needs to have it."""

from __future__ import annotations

import random

import pytest

from foliocache.tiers import behind, urls
from foliocache.tiers.guard import Guard


class MemoryTier:
    """A tier that keeps whole folios in a dict. ``broken``: what it raises."""

    def __init__(self):
        self.kept = {}
        self.broken = None
        self.loads = []

    def load(self, digest, parts):
        self.loads.append([(offset, len(buffer)) for offset, buffer in parts])
        if self.broken:
            raise self.broken
        filled = []
        for offset, buffer in parts:
            data = self.kept.get((digest, offset, len(buffer)))
            if data is None:
                buffer[:] = b"\xee" * len(buffer)  # nobody may see that
            else:
                buffer[:] = data
            filled.append(data is not None)
        return filled

    def store(self, digest, parts):
        if self.broken:
            raise self.broken
        for offset, data in parts:
            self.kept[digest, offset, len(data)] = bytes(data)

    def forget(self, seed, share):
        """Lose a share of what is kept."""
        chosen = random.Random(seed)
        self.kept = {key: data for key, data in self.kept.items() if chosen.random() >= share}


@pytest.fixture
def tier():
    return MemoryTier()


@pytest.fixture
def guard(tier):
    made = Guard("memory:", lambda: tier, 60.0)
    assert made.open()
    return made


@pytest.fixture(params=["copies", "pins"])
def tiered(request, monkeypatch, pool, guard):
    """A pool with a tier in memory. What it is to store is copied, or stays in the pool's pages."""
    if request.param == "pins":
        monkeypatch.setattr(behind, "PINNED_SHARE", 0)
    pool._tiers = (guard,)
    yield pool
    behind.flush(60)


@pytest.fixture(autouse=True)
def _own_guards(monkeypatch):
    """Every test opens its tiers itself, and leaves no thread that pauses."""
    monkeypatch.setattr(urls, "_guards", {})
    monkeypatch.setattr(behind, "_behinds", {})
    yield
    for queue in behind._behinds.values():
        queue._closed = True
