"""Spans of OpenTelemetry for what readers wait for: requests to sources, and waits for other fillers. Off until ``enable``.

A span is made when its time is over, from the times that are measured anyhow; so a hit costs nothing, and a fill one look at
``emit`` while they are off. Its parent is the span in which the program read, also if a thread of the engine has filled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from ..mm import layout

if TYPE_CHECKING:
    from contextvars import Context

    from opentelemetry.trace import TracerProvider

KEY_MAX = 256  # characters


class Read(Protocol):
    """What a span says of a mapping."""

    @property
    def key(self) -> str: ...
    @property
    def version(self) -> str: ...


Emit: TypeAlias = Callable[[str, Read, int, int, int, bool], None]

emit: Emit | None = None  # called with "fill" or "wait", the mapping, the kind of source, ns, bytes, and whether it failed


def enable(provider: TracerProvider | None = None) -> None:
    """Make spans from now on, in this process and its forked children.

    Parameters
    ----------
    provider : opentelemetry.trace.TracerProvider, optional
        Where they go; the global provider if left out.

    Raises
    ------
    ImportError
        opentelemetry is not installed (the extra ``otel``).
    """
    global emit
    from opentelemetry import trace

    tracer = trace.get_tracer("foliocache", tracer_provider=provider)
    failed_status = trace.Status(trace.StatusCode.ERROR)

    def make(what: str, mapping: Read, source: int, ns: int, length: int, failed: bool) -> None:
        end = time.time_ns()
        kind = layout.SOURCES[source] if source < len(layout.SOURCES) else "tiers"
        attributes: dict[str, str | int] = {"foliocache.key": mapping.key[:KEY_MAX], "foliocache.version": mapping.version}
        if what == "fill":
            attributes |= {"foliocache.source": kind, "foliocache.bytes": length}
        try:
            span = tracer.start_span(f"foliocache.{what}", start_time=end - ns, attributes=attributes)
            if failed:
                span.set_status(failed_status)
            span.end(end)
        except Exception:  # an exporter's; the bytes are there
            return

    emit = make


def disable() -> None:
    """Make no spans any more."""
    global emit
    emit = None


def context() -> Context:
    """Return a copy of the context of the caller, in which another thread can make the caller's spans."""
    from contextvars import copy_context

    return copy_context()
