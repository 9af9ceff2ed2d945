"""Which tiers a pool has: all its processes agree, and what makes no sense is refused."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time

import fsspec
import pytest

import foliocache
from foliocache.adapters.fsspec.target import target_for
from foliocache.errors import PoolMismatchError
from foliocache.pool import tiers as records
from foliocache.pool.files import hidden
from foliocache.tiers import behind, flush, urls

LIMIT = 120
MIB = 1 << 20


@pytest.fixture
def url(tmp_path):
    return f"disk:{tmp_path}/tier?size=16MiB"


def shown(pool):
    return [tier.url for tier in pool.tiers]


def test_a_pool_has_none_by_default(pool):
    assert pool.tiers == ()
    assert not os.path.exists(hidden(pool.path, "tiers"))


def test_those_who_open_it_later_have_the_same(pool_name, url):
    assert shown(foliocache.open(pool_name, size="4MiB", tiers=[url])) == [url]
    code = "import sys, foliocache; print(*[tier.url for tier in foliocache.attach(sys.argv[1]).tiers])"
    done = subprocess.run([sys.executable, "-c", code, pool_name], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout.split() == [url]
    assert shown(foliocache.open(pool_name)) == shown(foliocache.open(pool_name, tiers=url)) == [url]
    for other in ([], f"{url}&timeout=2"):
        with pytest.raises(PoolMismatchError, match="it has: disk:/"):
            foliocache.open(pool_name, tiers=other)


def test_an_existing_pool_can_be_given_tiers_once(pool, url):
    assert shown(foliocache.open(pool.name, tiers=[])) == []
    assert shown(foliocache.open(pool.name, tiers=[url])) == [url] == shown(pool)


def test_those_who_had_it_open_before_have_them_too(pool, url, monkeypatch):
    """Another process gives it tiers: what is opened from then on has them."""
    data, sent = bytes(range(256)) * 40, []
    read = lambda offset, length: sent.append(length) or data[offset : offset + length]  # noqa: E731
    before = pool.mapping("before", len(data), "1", read)
    code = "import sys, foliocache; foliocache.open(sys.argv[1], tiers=sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, pool.name, url], timeout=LIMIT, check=True)
    monkeypatch.setattr(records, "LOOK_AGAIN", 3600)
    assert shown(pool) == []
    monkeypatch.setattr(records, "LOOK_AGAIN", 0)
    assert shown(pool) == [url]
    for key in ("before", "after"):
        assert pool.mapping(key, len(data), "1", read).read_bytes(0, len(data)) == data
    assert flush(LIMIT)
    pool.forget("before")
    pool.forget("after")
    assert sum(sent) == 2 * len(data)
    for key in ("before", "after"):
        assert pool.mapping(key, len(data), "1", read).read_bytes(0, len(data)) == data
    assert sum(sent) == 2 * len(data)
    pool.forget("before")
    assert before.read_bytes(0, len(data)) == data and sum(sent) == 3 * len(data)  # it goes on without


def test_tiers_that_cannot_be_used_here_are_told_of_once_in_a_while(pool, url, monkeypatch, caplog):
    records._write(pool.path, (url.partition("?")[0].replace("disk:", "tape:"),))
    monkeypatch.setattr(records, "LOOK_AGAIN", 0)
    assert pool.mapping("k", 3, "1", lambda offset, length: b"abc").read_bytes(0, 3) == b"abc"
    assert "cannot be used here" in caplog.text


def test_those_who_open_it_at_once_agree(pool, tmp_path):
    code = (
        "import sys, foliocache\n"
        "sys.stdin.read()\n"
        "try: print(*[tier.url for tier in foliocache.open(sys.argv[1], tiers=sys.argv[2]).tiers])\n"
        "except foliocache.PoolMismatchError: print('refused')"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, pool.name, f"disk:{tmp_path}/{n}?size=4MiB"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(4)
    ]
    answers = sorted(one.communicate(timeout=LIMIT)[0].strip() for one in started)
    assert answers[1:] == ["refused"] * 3
    assert shown(foliocache.open(pool.name)) == answers[:1]


def test_a_new_pool_has_not_the_tiers_of_the_old(pool_name, url):
    pool = foliocache.open(pool_name, size="4MiB", tiers=[url])
    record = hidden(pool.path, "tiers")
    with open(record, "rb") as file:
        left = file.read()
    foliocache.remove(pool_name)
    assert not os.path.exists(record)
    with open(record, "wb") as file:  # as if the remover had been killed
        file.write(left)
    assert foliocache.open(pool_name, size="4MiB").tiers == ()
    assert shown(foliocache.open(pool_name, tiers=[url])) == [url]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"pool": [0, 0], "tiers": []}', b'{"pool": 7, "tiers": 7}', b"\xff" * 100]
)
def test_a_damaged_record_is_none(pool, url, content):
    with open(hidden(pool.path, "tiers"), "wb") as file:
        file.write(content)
    assert foliocache.open(pool.name).tiers == ()
    assert shown(foliocache.open(pool.name, tiers=[url])) == [url]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_record_of_another_user_is_ignored(pool, url):
    with open(hidden(pool.path, "tiers"), "w") as file:
        file.write(json.dumps({"pool": [os.stat(pool.path).st_dev, os.stat(pool.path).st_ino], "tiers": [url]}))
    assert records.recorded(pool.path) == (url,)
    os.chown(hidden(pool.path, "tiers"), 65534, 65534)
    assert records.recorded(pool.path) is None


@pytest.mark.parametrize(
    ("tiers", "message"),
    [
        ("disc:/a", "there are disk:"),
        ("disk:relative", "the absolute path of a folder"),
        ("disk://host/a", "the absolute path of a folder"),
        ("disk:/a?size=1B", "needs a size of"),
        ("disk:/a?size=x", "is not a size"),
        ("disk:/a?slot=5000", "power of two"),
        ("disk:/a?sice=1GiB", "no option 'sice'"),
        ("disk:/a?size=1GiB&size=2GiB", "given twice"),
        ("disk:/a?size", "options are written as"),
        ("disk:/a?timeout=0", "a number of seconds"),
        ("disk:/a?timeout=nan", "a number of seconds"),
        ("disk:/a?direct=maybe", "direct is one of yes, no, auto"),
        ("disk:/a,disk:/a", "a tier is given twice"),
        ("disk:/a#b?size=1GiB", "not a URL.*%23"),
        ("disk:/a%00?size=1GiB", "not a URL"),
        ([""], "there are disk:"),
        ([7], "a tier is a text"),
        (7, "in a sequence, not 7"),
        (b"disk:/a", "in a sequence, not b'disk:/a'"),
    ],
)
def test_what_is_no_tier_is_refused(pool, tiers, message):
    with pytest.raises(ValueError, match=message):
        foliocache.open(pool.name, tiers=tiers)
    assert foliocache.open(pool.name).tiers == ()


def test_a_password_is_not_shown():
    assert urls.shown("valkey://me:secret@host:6379?x=1") == "valkey://me:***@host:6379?x=1"
    with pytest.raises(ValueError, match=r"no://me:\*\*\*@host"):
        urls.split("no://me:secret@host")
    assert urls.shown("disk:/a:b@c") == "disk:/a:b@c" and urls.shown("valkey://me@host:1") == "valkey://me@host:1"


@pytest.mark.parametrize("password", ["se@cret", "se:cret", "se#cret", "se/cret", "se?cret", "12/cret", "12?cret", "[cret"])
def test_a_password_that_is_not_written_as_in_a_url_is_not_told(password):
    for place in ("host", "host:6379?lease=x", "host:99999"):
        text = f"valkey://me:{password}@{place}"
        assert "cret" not in urls.shown(text) and place in urls.shown(text)
        if place != "host" or password not in ("se@cret", "se:cret"):  # those two can be read
            with pytest.raises(ValueError, match="tier 'valkey://") as caught:
                urls.split(text)
            assert "cret" not in str(caught.value)


def test_a_rate_holds_stores_up_and_nobody_else(pool_name, url):
    """After the first store, the next one would have to wait for a quarter of an hour."""
    with foliocache.open(pool_name, size="4MiB", tiers=f"{url}&rate=1KiB") as pool:
        sent = []
        read = lambda offset, length: sent.append(length) or bytes(length)  # noqa: E731
        assert pool.mapping("k", MIB, "1", read).read_bytes(0, MIB) == bytes(MIB)
        assert pool.mapping("other", MIB, "1", read).read_bytes(0, MIB) == bytes(MIB)
        assert sum(sent) == 2 * MIB
        assert not flush(0.05)


def test_a_child_leaves_what_its_parent_stores(pool_name, url, monkeypatch):
    """What is pinned for the tier is unpinned once, by the parent."""
    monkeypatch.setattr(behind, "PINNED_SHARE", 0)
    with foliocache.open(pool_name, size="4MiB", tiers=url) as pool:
        go_on = threading.Event()
        inner = pool._tiers[0].tier.store
        monkeypatch.setattr(pool._tiers[0].tier, "store", lambda *asked: (go_on.wait(LIMIT), inner(*asked)))
        data = os.urandom(MIB)
        mapping = pool.mapping("k", MIB, "1", lambda offset, length: data[offset : offset + length])
        assert mapping.read_bytes(0, MIB) == data
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                status = 0 if flush(0) and mapping.read_bytes(0, MIB) == data else 2
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert pool.stat().pins > 0
        go_on.set()
        assert flush(LIMIT)
        assert pool.stat().pins == 0
        assert pool.audit() == []
        sent = []
        pool.forget("k")
        again = pool.mapping("k", MIB, "1", lambda offset, length: sent.append(length) or data[offset : offset + length])
        assert again.read_bytes(0, MIB) == data and sent == []


def test_two_pools_share_a_tier(pool, url):
    """What one has read, the other does not ask of the origin."""
    other = foliocache.open(f"{pool.name}-other", size="4MiB", page_size="4KiB", tiers=[url])
    try:
        content, sent = bytes(range(256)) * 1000, []

        def read(offset, length):
            sent.append(length)
            return content[offset : offset + length]

        first = foliocache.open(pool.name, tiers=[url])
        assert first.mapping("k", len(content), "1", read).read_bytes(0, len(content)) == content
        assert flush(60)
        assert other.mapping("k", len(content), "1", read).read_bytes(0, len(content)) == content
        assert sum(sent) == len(content)
        assert first.tiers == other.tiers
    finally:
        other.close()
        foliocache.remove(other.name)


def test_folio_urls_have_tiers(pool_name, url, tmp_path):
    (tmp_path / "file").write_bytes(b"content" * 10_000)
    deadline = time.monotonic() + 60
    target = target_for(fsspec.filesystem("file"))
    while target.identify(f"{tmp_path}/file") != target.identify(f"{tmp_path}/file"):  # just written: each open is a version
        assert time.monotonic() < deadline, "its stamps never settle"
    options = {"name": pool_name, "size": "4MiB", "tiers": url}
    for _ in range(2):
        with fsspec.open(f"folio::file://{tmp_path}/file", folio=options) as file:
            assert file.read() == b"content" * 10_000
        assert flush(60)
        pool = foliocache.open(pool_name)
        for found in pool.mappings():
            pool.forget(found.key)
    assert pool.tiers[0].hit_bytes == 70_000
    pool.close()
