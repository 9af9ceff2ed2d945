"""foliocache metrics: the text that Prometheus reads, the server, and the dashboard and alerts that are made from the names."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request

import pytest
from cli.cli_command import environment, run
from documents import ROOT, page, rows
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import foliocache
from foliocache.cli import address
from foliocache.cli.exits import CommandError, UsageError
from foliocache.pool.watch import Watch

LIMIT = 60  # seconds


@pytest.fixture(autouse=True)
def shared_memory(monkeypatch):
    """A folder for the pools of this test alone."""
    with tempfile.TemporaryDirectory(prefix="foliocache-test-", dir="/dev/shm") as folder:
        monkeypatch.setenv("FOLIOCACHE_DIR", folder)
        yield folder


def made(name, objects=3):
    pool = foliocache.open(name, size="4MiB")
    for n in range(objects):
        mapping = pool.mapping(f"k{n}", 100_000, "1", lambda offset, length: bytes(length))
        mapping.read_bytes(0, 100_000)
        mapping.read_bytes(0, 10)
    return pool


def parsed(text):
    """{(sample's name, labels): value} of all samples."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples, name, **labels):
    return samples[name, frozenset(labels.items())]


def test_the_text_is_open_metrics_and_says_what_statistics_say():
    with made("one") as pool, made("two", 1):
        done = run("metrics")
        found = pool.statistics()
    assert (done.code, done.err) == (0, "")
    samples = parsed(done.out)
    labels = {"cache_name": "one", "cache_tier": "memory"}
    assert value(samples, "cache_requests_total", cache_request_type="hit", **labels) == found.counters.hits
    assert value(samples, "cache_requests_total", cache_request_type="miss", **labels) == found.counters.misses
    assert value(samples, "cache_entries", **labels) == 3 and value(samples, "cache_estimated_size_bytes", **labels) > 300_000
    assert value(samples, "cache_entries", cache_name="two", cache_tier="memory") == 1
    where = {"cache_name": "one", "source": "function", "cache_tier": "origin"}
    assert value(samples, "foliocache_source_bytes_total", **where) == 300_000
    count = value(samples, "foliocache_source_request_duration_seconds_count", **where)
    assert count == found.sources[0].requests
    assert value(samples, "foliocache_source_request_duration_seconds_bucket", le="+Inf", **where) == count
    states = ("cached", "index", "free", "other")
    memory = [value(samples, "foliocache_memory_bytes", cache_name="one", state=state) for state in states]
    assert sum(memory) == found.backed_bytes


def test_one_pool():
    with made("one"), made("two"):
        samples = parsed(run("metrics", "one").out)
    assert {dict(labels)["cache_name"] for _, labels in samples} == {"one"}


def test_no_pools():
    assert parsed(run("metrics").out) == {}


def test_a_pool_that_is_not_there():
    done = run("metrics", "nix")
    assert (done.code, done.out) == (3, "") and "there is no pool 'nix'" in done.err


def test_a_pool_that_cannot_be_read_is_down(shared_memory):
    with open(f"{shared_memory}/foliocache.bad", "wb") as file:
        file.write(bytes(5000))
    with made("good"):
        samples = parsed(run("metrics").out)
    assert value(samples, "foliocache_pool_up", cache_name="bad") == 0
    assert value(samples, "foliocache_pool_up", cache_name="good") == 1


def test_a_watch_is_no_client_and_follows_a_pool_that_is_made_a_second_time():
    watch = Watch()
    with foliocache.open("one", size="4MiB", clients=1):  # its only slot is taken
        (seen,) = watch.look()
        assert seen.statistics.clients == 1 and seen.error is None
    foliocache.remove("one")
    assert watch.look() == []
    with made("one"):
        assert watch.look()[0].statistics.objects == 3


@pytest.fixture
def server():
    """A server of metrics in a process of its own: its URL."""
    command = [sys.executable, "-m", "foliocache", "metrics", "--serve", ":0"]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        said = process.stderr.readline()
        yield process, re.fullmatch(r"metrics at (http://127\.0\.0\.1:\d+/metrics)\n", said)[1]
    finally:
        process.kill()
        process.communicate(timeout=LIMIT)


def scrape(url, accept):
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=LIMIT) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_prometheus_scrapes_it(server):
    _, url = server
    with made("one") as pool:
        kind, text = scrape(url, "application/openmetrics-text;version=1.0.0")
        assert kind.startswith("application/openmetrics-text") and text.endswith("# EOF\n")
        pool.mapping("k0", 100_000, "1").read_bytes(0, 10)
        assert text != scrape(url, "application/openmetrics-text;version=1.0.0")[1]
        assert scrape(url, "text/plain")[0].startswith("text/plain")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_server(server, number, code):
    process, url = server
    scrape(url, "text/plain")
    os.kill(process.pid, number)
    assert process.wait(LIMIT) == code


def test_a_port_that_is_taken(server):
    _, url = server
    port = re.search(r":(\d+)/", url)[1]
    done = run("metrics", "--serve", f":{port}")
    assert done.code == 3 and f"cannot listen at 127.0.0.1:{port}" in done.err


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [(":1", "127.0.0.1", 1), ("9464", "127.0.0.1", 9464), ("h.example:80", "h.example", 80), ("[::1]:65535", "::1", 65535)],
)
def test_addresses(text, host, port):
    assert address.parse_address(text) == (host, port)


@pytest.mark.parametrize("text", ["", ":", "host", "host:", ":65536", ":-1", "::1:80", ":٣", "1.2.3.4:x"])
def test_what_is_no_address(text):
    with pytest.raises(UsageError, match="no address"):
        address.parse_address(text)


def test_loopback():
    assert address.is_loopback("127.0.0.1") and address.is_loopback("::1") and address.is_loopback("localhost")
    assert not address.is_loopback("0.0.0.0") and not address.is_loopback("192.0.2.1")
    with pytest.raises(CommandError, match="has no address"):
        address.is_loopback("no such host")


# The files that use the names.

NAME = re.compile(r"\b(?:cache|foliocache)_[a-z_]+\b")
LABELS = {"cache_name", "cache_tier", "cache_request_type", "cache_eviction_cause"}


def exported():
    with tempfile.TemporaryDirectory() as folder, made("one"):
        with foliocache.open("two", size="4MiB", tiers=[f"disk:{folder}/tier?size=16MiB"]) as pool:
            pool.mapping("k", 1000, "1", lambda offset, length: bytes(length)).read_bytes(0, 10)
        return {name for name, _ in parsed(run("metrics").out)} | {"foliocache_source_errors_total"}


def test_the_dashboard_asks_for_metrics_that_there_are():
    board = json.loads((ROOT / "docs/grafana.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [variable["query"] for variable in board["templating"]["list"]]
    used = {name for text in asked for name in NAME.findall(text)} - LABELS
    assert len(used) > 10 and used <= exported()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    places = [panel["gridPos"] for panel in board["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)


def test_the_alerts_ask_for_metrics_that_there_are():
    text = (ROOT / "docs/alerts.yml").read_text()
    rules = re.findall(r"- alert: (\w+)\n +expr: (?:\|\n)?(.*?)\n +(?:for|labels):", text, re.DOTALL)
    assert len(rules) == text.count("- alert:")
    used = {name for _, expression in rules for name in NAME.findall(expression)} - LABELS
    assert used and used <= exported()
    assert {name for name, _ in rules} == {row[0].strip("`") for row in rows(page("observing.md"), "alert", "what to do")}


def test_the_metrics_of_the_page_are_those_that_there_are():
    told = {row[0].strip("`") for row in rows(page("observing.md"), "metric", "labels", "what it is")}
    samples = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in exported()}
    assert told == samples
