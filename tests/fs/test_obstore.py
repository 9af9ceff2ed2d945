"""``sources.obstore``: objects of obstore's stores in a pool, and ``client="obstore"`` of ``folio::``."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from origin import http_date

import foliocache
from foliocache import ChangedError, SourceError
from foliocache.adapters.fsspec import FolioFileSystem
from foliocache.adapters.fsspec.ranges import OPENING

obstore = pytest.importorskip("obstore")

from obstore.store import HTTPStore, LocalStore, MemoryStore, S3Store  # noqa: E402

from foliocache.sources.obstore import Object  # noqa: E402

LONG_AGO = http_date(1_000_000_000)
PLAIN = {"allow_http": True}
ONCE = {"max_retries": 0}


@pytest.fixture
def opened(pool):
    return foliocache.open(**pool)


def http_store(origin):
    return HTTPStore(origin.url, client_options=PLAIN, retry_config=ONCE)


def s3_store(s3):
    return S3Store(
        "bucket", endpoint=s3.url, access_key_id="k", secret_access_key="s", region="eu-west-1", client_options=PLAIN
    )


def at_http(request, data):
    origin = request.getfixturevalue("origin")
    origin.put("/folder/x", data)
    return http_store(origin), "folder/x", f"{origin.url}/folder/x"


def at_s3(request, data):
    s3 = request.getfixturevalue("s3")
    s3.bare.pipe_file("bucket/folder/x", data)
    return s3_store(s3), "folder/x", "s3://bucket/folder/x?"


def at_local(request, data):
    folder = request.getfixturevalue("tmp_path")
    (folder / "x").write_bytes(data)
    os.utime(folder / "x", (1e9, 1e9))
    return LocalStore(folder), "x", f"file://{folder.resolve()}/x"


def in_memory(request, data):
    store = MemoryStore()
    store.put("x", data)
    return store, "x", "memory://"


@pytest.mark.parametrize("place", [at_http, at_s3, at_local, in_memory])
def test_an_object_of_a_store(place, request, opened, data):
    store, path, key = place(request, data)
    mapping = Object(store, path).mapping(opened)
    assert mapping.key.startswith(key) and mapping.size == len(data)
    assert bytes(mapping.read(1000, 1_500_000)) == data[1000:1_501_000]
    assert mapping.read_bytes(0, len(data)) == data
    again = Object(store, path).mapping(opened)
    assert (again.key, again.version) == (mapping.key, mapping.version)
    assert again.read_bytes(0, len(data)) == data
    assert opened.stat().counters.fill_bytes == len(data)
    assert opened.audit() == []


@pytest.mark.parametrize("place", [at_http, at_s3, at_local, in_memory])
def test_what_has_changed_is_not_cached_under_the_old_version(place, request, opened, data):
    store, path, _ = place(request, data)
    mapping = Object(store, path).mapping(opened)
    other = bytes(len(data))
    if isinstance(store, HTTPStore):
        request.getfixturevalue("origin").put("/folder/x", other)
    else:
        store.put(path, other)
    with pytest.raises(ChangedError):
        mapping.read(0, 100)
    assert Object(store, path).mapping(opened).read_bytes(0, 100) == bytes(100)
    if not isinstance(store, HTTPStore):
        store.delete(path)
        with pytest.raises(ChangedError):
            mapping.read(0, 100)


def test_the_answer_is_checked_and_not_the_question(s3, opened, data):
    """An endpoint that is deaf to If-Match."""
    s3.bare.pipe_file("bucket/x", data)
    mapping = Object(s3_store(s3), "x").mapping(opened)
    s3.deaf = True
    s3.bare.pipe_file("bucket/x", bytes(len(data)))
    with pytest.raises(ChangedError):
        mapping.read(0, 100)


def test_a_file_that_is_written_while_it_is_read(tmp_path, opened, data):
    """Its answer was given before: the question is asked again behind it."""

    class Store(LocalStore):
        def get(self, path, *, options=None):
            answer = super().get(path, options=options)
            with open(tmp_path / "x", "r+b") as file:
                file.write(bytes(1000))
            return answer

    (tmp_path / "x").write_bytes(data)
    os.utime(tmp_path / "x", (1e9, 1e9))
    mapping = Object(Store(tmp_path), "x").mapping(opened)
    with pytest.raises(ChangedError):
        mapping.read(0, 100)
    assert opened.stat().counters.fills == 0


def test_a_date_that_is_of_now_is_no_version(tmp_path, opened, data):
    (tmp_path / "x").write_bytes(data)
    assert Object(LocalStore(tmp_path), "x").version != Object(LocalStore(tmp_path), "x").version


def test_a_weak_etag_counts_for_its_date(origin, opened, data):
    origin.put("/x", data, etag='W/"1"', modified=LONG_AGO)
    source = Object(http_store(origin), "x")
    assert source.version.startswith("Last-Modified=Sun, 09 Sep 2001 01:46:40 +0000")
    assert source.mapping(opened).read_bytes(0, 1000) == data[:1000]
    origin.put("/x", data, etag='W/"1"', modified=http_date(1_000_000_010))
    with pytest.raises(ChangedError):
        source.mapping(opened).read(1_500_000, 100)


def test_what_knows_no_versions_is_refused_unless_the_user_says_so(origin, opened, data):
    origin.put("/x", data, etag=None, modified=None)
    with pytest.raises(SourceError, match="nothing tells its versions apart; if it does not change, say so by version="):
        Object(http_store(origin), "x").mapping(opened)
    mapping = Object(http_store(origin), "x", version="as long as it lasts").mapping(opened)
    assert mapping.read_bytes(0, len(data)) == data
    origin.put("/x", data + b"more", etag=None, modified=None)
    mapping.invalidate()
    with pytest.raises(ChangedError):
        mapping.read(0, 100)


def test_errors(origin, opened, data):
    store = http_store(origin)
    with pytest.raises(FileNotFoundError) as raised:
        Object(store, "nothing").mapping(opened)
    assert raised.value.filename == "nothing"

    def refuse(command, status, body, headers):
        return (403, b"") if command == "GET" else (status, body)

    origin.put("/x", data, twist=refuse)
    with pytest.raises(PermissionError):
        Object(store, "x").mapping(opened).read(0, 100)
    origin.put("/y", data, ranges=False)
    with pytest.raises(SourceError, match=r"(?i)range"):
        Object(store, "y").mapping(opened).read(0, 100)
    dead = HTTPStore("http://127.0.0.1:1", client_options=PLAIN, retry_config=ONCE)
    with pytest.raises(SourceError, match="error sending request") as failed:
        Object(dead, "x").mapping(opened)
    assert "Debug source" not in str(failed.value) and failed.value.filename == "x"


def test_an_answer_that_is_cut_off(data):
    store = MemoryStore()
    store.put("x", data)

    class Cut:
        meta, range = store.head("x"), (0, 1000)

        def stream(self, min_chunk_size):
            return iter([b"some"])

    class Cutting(MemoryStore):
        head = store.head

        def get(self, path, *, options=None):
            return Cut()

    with pytest.raises(SourceError, match="ended 996 bytes early"):
        list(Object(Cutting(), "x").read_into(0, [memoryview(bytearray(1000))]))


def test_a_store_of_another_kind_needs_a_key(opened):
    class Mine:
        pass

    with pytest.raises(ValueError, match="objects of a Mine is not known; say it by key="):
        Object(Mine(), "x")


def test_keys_tell_places_apart(monkeypatch):
    def key(**options):
        return Object(S3Store("b", prefix="p", **options), "x").key

    plain = key()
    assert plain == "s3://b/p/x"
    assert key(access_key_id="k", secret_access_key="s", client_options={"timeout": "9s"}) == plain
    elsewhere = key(endpoint="http://127.0.0.1:9000", client_options=PLAIN)
    assert elsewhere.startswith("s3://b/p/x?") and elsewhere == key(endpoint="http://127.0.0.1:9000")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    assert key() not in (plain, elsewhere)
    one, other = MemoryStore(), MemoryStore()
    assert Object(one, "x").key == Object(one, "x").key != Object(other, "x").key


def reads_pickled(text, want):
    mapping = pickle.loads(text)
    assert mapping.read_bytes(0, mapping.size) == want


def test_a_mapping_pickles_for_spawned_processes(origin, opened, data):
    origin.put("/x", data)
    mapping = Object(http_store(origin), "x").mapping(opened)
    mapping.read(0, 10)
    worker = multiprocessing.get_context("spawn").Process(target=reads_pickled, args=(pickle.dumps(mapping), data))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
    assert opened.stat().counters.fill_bytes == len(data)


def test_an_interrupt_does_not_wait_for_the_store(origin, opened, data):
    origin.put("/x", data)
    release = threading.Event()

    def interrupt(path, headers):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        assert release.wait(60)

    mapping = Object(http_store(origin), "x").mapping(opened)
    origin.before_get = interrupt
    try:
        with pytest.raises(KeyboardInterrupt):
            mapping.read(0, 100)
        with pytest.raises(KeyboardInterrupt):
            next(Object(http_store(origin), "x").read_into(0, [memoryview(bytearray(100))]))
    finally:
        origin.before_get = lambda path, headers: None
        release.set()
    assert mapping.read_bytes(0, 100) == data[:100]  # which that fill, or another one, has brought


FORKS = """
    import multiprocessing, os, sys
    import foliocache
    from foliocache import FoliocacheError
    from foliocache.sources.obstore import Object
    from obstore.store import HTTPStore

    url, name, way, is_used = sys.argv[1:]
    store = HTTPStore(url, client_options={"allow_http": True})
    pool = foliocache.attach(name)
    source = Object(store, "x", version="1")
    if is_used == "used":
        assert source.mapping(pool).read_bytes(0, 10) == bytes(10)
    if is_used == "used by others":
        store.head("x")

    def child():
        if is_used == "imported":
            assert source.mapping(pool).read_bytes(1 << 20, 10) == bytes(10)
            return
        try:
            source.mapping(pool).read(1 << 20, 10)
        except FoliocacheError as error:
            assert "'spawn' or 'forkserver'" in str(error), error
        else:
            raise AssertionError("it was not refused")
        if is_used == "used":
            assert source.mapping(pool).read_bytes(0, 10) == bytes(10)  # a hit needs no store

    if way == "os.fork":
        pid = os.fork()
        if pid == 0:
            child()
            sys.exit()
        assert os.waitpid(pid, 0)[1] == 0
    else:
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(60)
        assert process.exitcode == 0
    assert source.mapping(pool).read_bytes(2 << 20, 10) == bytes(10)  # the parent goes on
"""


@pytest.mark.parametrize("way", ["os.fork", "multiprocessing"])
@pytest.mark.parametrize("is_used", ["imported", "used", "used by others"])
def test_forks(way, is_used, origin, pool):
    url = origin.put("/x", bytes(3 << 20))
    foliocache.open(**pool)
    command = [sys.executable, "-c", textwrap.dedent(FORKS), url.removesuffix("/x"), pool["name"], way, is_used]
    environment = os.environ | {"PYTHONPATH": str(Path(foliocache.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 0, done.stderr


# folio::, client=


@pytest.fixture
def by_obstore(monkeypatch):
    """How many bytes obstore has read for folio::."""
    from foliocache.sources import obstore as module

    read, count = module.read_version, [0]

    def counting(store, path, version, offset, buffers):
        for each, buffer in zip(read(store, path, version, offset, buffers), list(map(len, buffers)), strict=True):
            count[0] += buffer
            yield each

    monkeypatch.setattr(module, "read_version", counting)
    return count


@pytest.mark.parametrize(
    ("client", "options"),
    [
        ("obstore", {"key": None, "secret": None}),  # which are in the environment
        ("obstore", {"requester_pays": True, "default_block_size": 1 << 20, "client_kwargs": {}}),
        ("auto", {"anon": True, "key": None, "secret": None}),
    ],
)
def test_s3_by_obstore(client, options, s3, pool, data, by_obstore, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")  # the target is told another one
    s3.bare.pipe_file("bucket/a folder/x=1+2,3.bin", data, ACL="public-read")
    fs = FolioFileSystem(target_protocol="s3", target_options={**s3.options, **options}, client=client, **pool)
    assert fs.cat_file("bucket/a folder/x=1+2,3.bin") == data
    assert by_obstore == [len(data) - OPENING]
    plain = FolioFileSystem(target_protocol="s3", target_options=s3.options, **pool)
    assert plain.cat_file("bucket/a folder/x=1+2,3.bin") == data and by_obstore == [len(data) - OPENING], "they share pages"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"config_kwargs": {"s3": {"addressing_style": "path"}}}, "it has the option config_kwargs"),
        ({"client_kwargs": {"region_name": "eu-west-1", "verify": False}}, "client_kwargs has verify"),
        ({"session": None}, "it has the option session"),
    ],
)
def test_what_s3_options_obstore_cannot_be_told(options, word, s3, pool, data, by_obstore):
    s3.bare.pipe_file("bucket/x", data)
    target = {"target_protocol": "s3", "target_options": {**s3.options, **options}}
    with pytest.raises(ValueError, match=rf"obstore cannot be told to read 'bucket/x' as S3FileSystem does: {word}; leave"):
        FolioFileSystem(**target, client="obstore", **pool).cat_file("bucket/x")
    assert FolioFileSystem(**target, client="auto", **pool).cat_file("bucket/x") == data
    assert by_obstore == [0]


def test_a_change_is_judged_by_the_target(s3, pool, data, by_obstore):
    s3.bare.pipe_file("bucket/x", data)
    fs = FolioFileSystem(target_protocol="s3", target_options=s3.options, client="obstore", **pool)
    with fs.open("bucket/x") as file:
        assert file.read(10) == data[:10]
        s3.bare.pipe_file("bucket/x", bytes(len(data)))
        with pytest.raises(ChangedError):
            file.seek(1_900_000)
            file.read(10)
    assert fs.cat_file("bucket/x", 0, 10) == bytes(10)


@pytest.fixture
def nginx(tmp_path, data):
    from benchmarks.common import measure, nginx

    (tmp_path / "x.bin").write_bytes(data)
    (tmp_path / "x y.bin").write_bytes(data)
    try:
        with nginx.serving(tmp_path) as origin:
            yield origin
    except measure.Unavailable as missing:
        pytest.skip(str(missing))


def test_http_by_obstore(nginx, pool, data, by_obstore, tmp_path):
    fs = FolioFileSystem(target_protocol="http", client="obstore", **pool)
    nginx.sent()
    assert fs.cat_file(nginx.url("x.bin")) == data
    assert by_obstore == [len(data) - OPENING] and nginx.sent()[1] == len(data)
    with pytest.raises(ValueError, match="obstore would spell its URL otherwise"):
        fs.cat_file(nginx.url("x%20y.bin"))
    careful = FolioFileSystem(target_protocol="http", client="auto", **pool)
    assert careful.cat_file(nginx.url("x%20y.bin")) == data
    assert by_obstore == [len(data) - OPENING]


def test_what_obstore_cannot_read_the_target_does(origin, pool, data, by_obstore):
    """A server without ranges. Asked by name, obstore says so itself."""
    url = origin.put("/x", data, ranges=None)
    assert FolioFileSystem(target_protocol="http", client="auto", **pool).cat_file(url) == data
    assert by_obstore == [0]
    foliocache.open(**pool).forget(url)
    with pytest.raises(OSError, match=r"(?i)range"):
        FolioFileSystem(target_protocol="http", client="obstore", **pool).cat_file(url)


@pytest.mark.parametrize(
    ("client", "protocol", "error", "word"),
    [
        ("Obstore", "http", ValueError, "client is None, 'auto' or 'obstore', not 'Obstore'"),
        ("obstore", "file", ValueError, "client='obstore' reads https:// and s3:// URLs, and not what LocalFileSystem has"),
    ],
)
def test_clients_that_make_no_sense(client, protocol, error, word, pool):
    with pytest.raises(error, match=word):
        FolioFileSystem(target_protocol=protocol, client=client, **pool)
    FolioFileSystem(target_protocol="file", client="auto", **pool)


def test_without_obstore(monkeypatch, origin, pool, data):
    monkeypatch.setattr("foliocache.adapters.fsspec.targets.obstore.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"install foliocache\[obstore\]"):
        FolioFileSystem(target_protocol="http", client="obstore", **pool)
    assert FolioFileSystem(target_protocol="http", client="auto", **pool).cat_file(origin.put("/x", data)) == data
