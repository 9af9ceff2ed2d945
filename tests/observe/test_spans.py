"""Spans of OpenTelemetry: one for each request to a source and each wait, below the span of the program that read."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import foliocache
from foliocache.observe import spans

trace = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")
LIMIT = 60
SIZE = 100_000


@pytest.fixture
def exporter():
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    made = InMemorySpanExporter()
    provider = trace.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    spans.enable(provider)
    made.tracer = provider.get_tracer("program")
    yield made
    spans.disable()


def found(exporter, name="foliocache.fill"):
    return [span for span in exporter.get_finished_spans() if span.name == name]


def read(offset, length):
    return bytes(length)


def test_a_fill_is_a_span_with_its_time(pool, exporter):
    def slow(offset, length):
        return bytes(length)

    before = time.time_ns()
    mapping = pool.mapping("k", 1000, "7", slow)
    mapping.read_bytes(0, 1000)
    mapping.read_bytes(0, 1000)  # a hit
    (span,) = found(exporter)
    expected = {"foliocache.key": "k", "foliocache.version": "7", "foliocache.source": "function", "foliocache.bytes": 1000}
    assert dict(span.attributes) == expected and span.status.is_unset
    assert before <= span.start_time + 1_000_000 and span.start_time <= span.end_time <= time.time_ns()
    assert span.end_time - span.start_time <= pool.statistics().sources[0].latency.seconds * 1e9 + 1000


@pytest.mark.parametrize("concurrent", [False, True], ids=["here", "in the engine"])
def test_its_parent_is_the_span_in_which_the_program_reads(pool, exporter, concurrent):
    with exporter.tracer.start_as_current_span("work") as work:
        pool.mapping("k", SIZE, "1", read, concurrent=concurrent, readahead=0).read_bytes(0, SIZE)
    filled = found(exporter)
    assert filled and {span.parent.span_id for span in filled} == {work.get_span_context().span_id}


def test_a_failure_has_its_status(pool, exporter):
    def fails(offset, length):
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        pool.mapping("k", 1000, "1", fails).read_bytes(0, 10)
    (span,) = found(exporter)
    assert not span.status.is_ok and not span.status.is_unset and span.attributes["foliocache.bytes"] == 0


@pytest.mark.parametrize("concurrent", [False, True])
async def test_coroutines_have_them_too(pool, exporter, concurrent):
    async def source(offset, length):
        return bytes(length)

    with exporter.tracer.start_as_current_span("work") as work:
        assert await pool.mapping("k", 1000, "1", source, concurrent=concurrent).read_bytes_async(0, 1000) == bytes(1000)
    async with asyncio.timeout(LIMIT):
        while not found(exporter):  # the reader is told first
            await asyncio.sleep(0.001)
    (span,) = found(exporter)
    assert span.attributes["foliocache.bytes"] == 1000 and span.parent.span_id == work.get_span_context().span_id


def test_a_wait_is_a_span(pool, exporter):
    begun, may_end = threading.Event(), threading.Event()

    def slow(offset, length):
        begun.set()
        assert may_end.wait(LIMIT)
        return bytes(length)

    mapping = pool.mapping("k", 1000, "1", slow)
    filler = threading.Thread(target=mapping.read_bytes, args=(0, 10))
    waiter = threading.Thread(target=mapping.read_bytes, args=(0, 10))
    filler.start()
    assert begun.wait(LIMIT)
    waiter.start()
    deadline = time.monotonic() + LIMIT
    while pool.stat().counters.waits == 0 and time.monotonic() < deadline:
        time.sleep(0.001)
    may_end.set()
    filler.join(LIMIT)
    waiter.join(LIMIT)
    assert len(found(exporter)) == 1 and len(found(exporter, "foliocache.wait")) == pool.statistics().waits.total == 1


def test_an_exporter_that_fails_does_not_fail_the_read(pool):
    class Bad:
        def get_tracer(self, *arguments, **options):
            return self

        def start_span(self, *arguments, **options):
            raise RuntimeError("no")

    spans.enable(Bad())
    try:
        assert pool.mapping("k", 1000, "1", read).read_bytes(0, 10) == bytes(10)
    finally:
        spans.disable()


def test_there_are_none_unless_they_are_enabled(pool, exporter):
    spans.disable()
    pool.mapping("k", 1000, "1", read).read_bytes(0, 10)
    assert spans.emit is None and found(exporter) == []


def test_the_package_need_not_be_installed():
    assert foliocache.__name__ and spans.emit is None
