"""Client slots with any content are claimed, reaped, described and repaired."""

import os
import random
import signal

import pytest
from lines import in_child
from sampled import WHOLE
from units import unit

import foliocache
from foliocache.mm import client as core
from foliocache.mm import layout
from foliocache.pool import client

CONTENT = bytes(range(256)) * 1000
CLIENTS = 8


def read(offset, length):
    return CONTENT[offset : offset + length]


@pytest.fixture
def pool(pool_name):
    pool = foliocache.open(pool_name, size="1MiB", max_size="1MiB", page_size="4KiB", clients=CLIENTS)
    mapping = pool.mapping("k", len(CONTENT), "1", read)
    mapping.read(0, len(CONTENT))
    return pool


def use(pool):
    mapping = pool.mapping("k", len(CONTENT), "1", read)
    for offset in range(0, len(CONTENT), 4096):
        assert mapping.read_bytes(offset, 4096) == CONTENT[offset : offset + 4096]


def parts(pool):
    segment = pool._attachment.segment
    return segment, segment.memory, segment.mem


def others(pool):
    return [n for n in range(CLIENTS) if n != pool._attachment.number]


def die(pool):
    """Let a client die with two leases. Return the number of its slot."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        mapping = pool.mapping("k", len(CONTENT), "1", read)
        leases = [unit(mapping, 0), unit(mapping, 3)]
        os.write(writer, bytes([pool._attachment.number, len(leases)]))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    number = os.read(reader, 2)[0]
    os.close(reader)
    os.close(writer)
    return number


def put(pool, number, offset, value):
    segment, memory, _ = parts(pool)
    memory.poke32(client.offset(segment, number) + offset, value)


def is_clean(pool):
    """Assert that the audit is empty, that only this process's slot names folios, and that everything can be read."""
    mem = pool._attachment.segment.mem
    assert pool.audit() == []
    assert [number for number in others(pool) if not core.is_idle(mem, number)] == []
    assert [core.state(mem, number) for number in others(pool)] == [layout.SLOT_CLEAN] * (CLIENTS - 1)
    use(pool)
    assert pool.audit() == []
    return True


LEDGER = layout.CLIENT_LEDGER + 4 * 100
WORDS = {
    "a page that there is not, held": (LEDGER, layout.PIN_OWNED | 0x3FFFFF),
    "a page beyond the pool, as an intent": (layout.CLIENT_OPS, layout.PIN_INTENT | 0x3FFFFFFF),
    "a page that is free, held": (LEDGER, layout.PIN_OWNED | 255),
    "no mark": (LEDGER, 5),
    "both marks": (LEDGER, layout.PIN_OWNED | layout.PIN_INTENT | 7),
    "all ones": (layout.CLIENT_OPS + 4, 0xFFFFFFFF),
    "a state that there is not": (layout.CLIENT_STATE, 77),
    "in the middle of an operation": (layout.CLIENT_OP_SEQ, 0xFFFFFFFF),
    "another operation": (layout.CLIENT_OP_SEQ, 1),
    "generation": (layout.CLIENT_GENERATION, 0xFFFFFFFF),
    "pid": (layout.CLIENT_PID, 0xFFFFFFFF),
    "times": (layout.CLIENT_ATTACHED + 4, 0xFFFFFFFF),
}


@pytest.mark.parametrize("whose", ["clean", "dead"])
@pytest.mark.parametrize("what", WORDS)
def test_repair_clears_damaged_slots_that_nobody_holds(pool, what, whose):
    number = die(pool) if whose == "dead" else others(pool)[2]
    offset, value = WORDS[what]
    put(pool, number, offset, value)
    client.describe(pool._attachment.segment, number)
    assert pool.repair() == []
    assert is_clean(pool)


@pytest.mark.parametrize("what", WORDS)
def test_a_damaged_clean_slot_is_claimed_clean(pool, what):
    """Otherwise its words would be taken for the next client's pins when that dies."""
    offset, value = WORDS[what]
    put(pool, others(pool)[0], offset, value)
    assert in_child(lambda: use(pool)) == 0
    pool._attachment.reap()
    assert is_clean(pool)


def test_repair_of_a_sound_pool_finds_no_damaged_slot(pool):
    mapping = pool.mapping("k", len(CONTENT), "1", read)
    lease, size = unit(mapping, 5), mapping.unit_size
    assert pool._attachment.repair() == 0
    die(pool)
    assert pool._attachment.repair() == 0
    assert memoryview(lease) == CONTENT[5 * size : 6 * size] and pool.stat().pins == 1
    lease.release()
    assert is_clean(pool)


def test_who_attaches_during_a_repair_does_not_wait_for_it(pool, monkeypatch):
    """All the other slots have been looked at by then, and each was let go at once."""
    last = others(pool)[-1]
    put(pool, last, *WORDS["no mark"])
    attached = []

    def repair_slot(segment, number):
        if number == last:
            attached.append(in_child(lambda: use(pool)))
        return original(segment, number)

    original = client._repair_slot
    monkeypatch.setattr(client, "_repair_slot", repair_slot)
    assert pool._attachment.repair() == 1
    assert attached == [0]
    pool._attachment.reap()
    assert is_clean(pool)


def test_repair_leaves_the_slots_of_the_living_alone(pool):
    down, up = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        mapping = pool.mapping("k", len(CONTENT), "1", read)
        lease, size = unit(mapping, 2), mapping.unit_size
        os.write(up[1], b"x")
        os.read(down[0], 1)
        right = memoryview(lease) == CONTENT[2 * size : 3 * size]
        lease.release()
        os._exit(0 if right else 1)
    os.read(up[0], 1)
    assert pool.repair() == [] and pool.stat().pins == 1
    os.write(down[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    pool._attachment.reap()
    assert is_clean(pool)


@pytest.mark.parametrize("seed", range(12 if WHOLE else 6))
def test_any_table_can_be_lived_with_and_repaired(pool, seed):
    """Random words all over the slots of others: attaching, reaping, looking and reading go on, and a repair leaves nothing to
    find."""
    segment, memory, _ = parts(pool)
    rng = random.Random(seed)
    for _ in range(20):
        if rng.random() < 0.3:
            die(pool)
        for _ in range(rng.choice((1, 5, 200))):
            at = client.offset(segment, rng.choice(others(pool)))
            where = rng.choice((rng.randrange(0, 256, 4), rng.randrange(0, layout.CLIENT_SIZE, 4)))
            pfn = rng.randrange(segment.geometry["npages"] + 2)
            value = (
                rng.getrandbits(32),
                pfn,
                0,
                0xFFFFFFFF,
                layout.PIN_OWNED | pfn,
                layout.PIN_INTENT | pfn,
                layout.PIN_INTENT | layout.PIN_OWNED | pfn,
            )
            memory.poke32(at + where, rng.choice(value))
        assert in_child(lambda: use(foliocache.open(pool.name))) == 0
        pool.stat()
        pool.repair()
        assert is_clean(pool)


def test_a_pid_of_another_namespace_is_shown_as_such(pool):
    segment, memory, _ = parts(pool)
    (mine,) = pool.stat().clients
    assert (mine.pid, mine.pid_namespace) == (os.getpid(), os.stat("/proc/self/ns/pid").st_ino)
    at = client.offset(segment, mine.slot) + layout.CLIENT_PID_NAMESPACE
    assert memory.peek64(at) == os.stat("/proc/self/ns/pid").st_ino
    memory.poke64(at, 4_026_999_999)
    assert pool.stat().clients[0].pid_namespace == 4_026_999_999


def test_stat_settles_the_dead_or_says_that_they_wait(pool):
    mapping = pool.mapping("k", len(CONTENT), "1", read)
    die(pool)
    assert pool.stat().pins == 0 and len(pool.stat().clients) == 1
    lease = unit(mapping, 9)
    pfn = int(repr(lease).split("pfn ")[1].rstrip(">"))
    pid = os.fork()
    if pid == 0:
        mem, me = pool._attachment.segment.mem, pool._attachment.number
        core.op_begin(mem, me)
        core.announce(mem, me, pfn)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert sorted(found.state for found in pool.stat().clients) == ["attached", "dead"]
    lease.release()
    assert [found.state for found in pool.stat().clients] == ["attached"]
    assert is_clean(pool)
