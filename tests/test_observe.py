"""What a pool says of itself, as types."""

import json
import os
import pickle

import pytest

from foliocache import ClientInfo, Finding, ObjectInfo, Stat
from foliocache.mm import layout
from foliocache.observe.records import Counters, FoliosByType, PagesByState

SIZE = 100_000


@pytest.fixture
def mapping(pool):
    made = pool.mapping("k", SIZE, "1", lambda offset, length: bytes(length))
    made.read_bytes(0, SIZE)
    return made


def test_the_counters_are_those_of_the_layout():
    assert Counters._fields == layout.COUNTERS


def test_stat(pool, mapping):
    with mapping.lease(0):
        found = pool.stat()
    assert isinstance(found, Stat)
    assert (found.name, found.path, found.pins) == (pool.name, pool.path, 1)
    assert isinstance(found.pages_by_state, PagesByState) and isinstance(found.folios_by_type, FoliosByType)
    assert found.cached_bytes == found.pages_by_state.file * found.page_size >= SIZE
    assert found.counters.fill_bytes == SIZE
    (client,) = found.clients
    assert isinstance(client, ClientInfo)
    assert (client.pid, client.state, client.pins) == (os.getpid(), "attached", 1)


def test_objects(pool, mapping):
    (found,) = pool.mappings()
    assert found == ObjectInfo("k", "1", SIZE, mapping.unit_size, 7, 3, SIZE, 0)


def test_findings_of_an_audit_and_of_a_repair(pool, mapping):
    memory = pool._attachment.segment.memory
    counted = memory.peek32(layout.TABLE_COUNT)
    memory.poke32(layout.TABLE_COUNT, counted + 3)
    assert pool.audit() == [Finding("table", "mappings", f"{counted + 3} counted, {counted} in the chains")]
    assert pool.repair() == [] == pool.audit()


def test_records_are_values(pool, mapping):
    found = pool.stat()
    assert found == pickle.loads(pickle.dumps(found)) and hash(found) == hash(pickle.loads(pickle.dumps(found)))
    with pytest.raises(AttributeError):
        found.pins = 7
    with pytest.raises(AttributeError):
        found.counters.anything = 7


def test_to_dict_is_the_record_as_json_reads_it(pool, mapping):
    for record in (pool.stat(), *pool.mappings(), Finding("check", "where", "message")):
        plain = record.to_dict()
        assert list(plain) == list(record._fields)
        assert json.loads(json.dumps(plain)) == plain
    assert pool.stat().to_dict()["clients"][0]["pid"] == os.getpid()
    assert pool.stat().to_dict()["counters"]["fill_bytes"] == SIZE
