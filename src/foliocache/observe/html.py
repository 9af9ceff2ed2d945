"""What a notebook shows of a pool, a mapping or a lease: a line, and a small picture. No script, no style sheet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ..sizes import format_size
from .records import Stat

WIDTH, HEIGHT = 360, 14  # pixels
STEPS = 120  # of a picture of an object
COLOURS = {"cached": "#3f86a6", "index": "#8d84b8", "free": "#b9c2bf", "": "#8882"}


def stat(found: Stat) -> str:
    """Return a pool's statistics: its memory as a bar, and a table."""
    pages = found.pages_by_state
    index = pages.node + pages.inode + pages.name + pages.table
    parts = (("cached", pages.file), ("index", index), ("free", pages.free))
    counters = found.counters
    lookups = counters.hits + counters.misses
    rows = (
        ("memory", f"{format_size(found.backed_bytes)} taken of {format_size(found.pool_bytes)}"),
        ("cached", f"{format_size(found.cached_bytes)} of {found.mappings:,} objects"),
        ("hits", f"{100 * counters.hits / lookups:.1f} % of {lookups:,}" if lookups else "no lookups"),
        ("processes", f"{len(found.clients):,}; {found.pins:,} pins"),
    )
    bar = _bar([(COLOURS[name], count) for name, count in parts], found.pages)
    return _block(f"Pool {found.name}", bar, rows)


def mapping(key: str, version: str, size: int, unit_size: int, cached: Sequence[bool]) -> str:
    """Return an object: which parts of it are cached, as a bar.

    Parameters
    ----------
    key, version, size, unit_size
        Of the mapping.
    cached
        For equal parts of the object, in order, whether they are cached.
    """
    share = sum(cached) / len(cached) if cached else 0.0
    rows = (
        ("version", version or "none"),
        ("size", f"{format_size(size)} in units of {format_size(unit_size)}"),
        ("cached", f"about {100 * share:.0f} %" if 0 < share < 1 else "all" if share else "nothing"),
    )
    bar = _bar([(COLOURS["cached" if there else ""], 1) for there in cached], len(cached))
    return _block(key, bar, rows)


def lease(length: int, cached: bool, released: bool) -> str:
    """Return a lease: how many bytes, and whether they are pinned in the pool."""
    state = "released" if released else "pinned in the pool" if cached else "a private copy"
    return _block("Lease", "", (("bytes", f"{length:,}"), ("state", state)))


def _bar(parts: Iterable[tuple[str, float]], whole: float) -> str:
    """Return a bar of parts of a whole, each in its colour."""
    drawn, x = [], 0.0
    for colour, part in parts:
        wide = WIDTH * min(1.0, part / whole) if whole else 0.0
        if wide:
            drawn.append(f'<rect x="{x:.2f}" width="{wide:.2f}" height="{HEIGHT}" fill="{colour}"/>')
        x += wide
    back = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{COLOURS[""]}"/>'
    return f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-hidden="true">{back}{"".join(drawn)}</svg>'


def _block(title: str, bar: str, rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows)
    return f"<div><b>{escape(title)}</b><br>{bar}<table>{cells}</table></div>"
