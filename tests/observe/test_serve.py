"""foliocache serve: what it answers, whom it refuses, and its page in a real browser."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from urllib.parse import urlsplit

import pytest
from cli.cli_command import environment, run

import foliocache
from foliocache.cli import serve
from foliocache.pool.watch import Watch

LIMIT = 60  # seconds
TOKEN = "abcdefghij0123456789"
BAD = "bad <img src=x onerror=\"document.title='pwned'\">"


@pytest.fixture(autouse=True)
def shared_memory(monkeypatch):
    """A folder for the pools of this test alone."""
    with tempfile.TemporaryDirectory(prefix="foliocache-test-", dir="/dev/shm") as folder:
        monkeypatch.setenv("FOLIOCACHE_DIR", folder)
        yield folder


@pytest.fixture
def pool():
    with foliocache.open("one", size="4MiB") as pool:
        for n, key in enumerate(("small", "large", BAD)):
            pool.mapping(key, (n + 1) * 50_000, "1", lambda o, n: bytes(n)).read_bytes(0, (n + 1) * 50_000)
        yield pool


@pytest.fixture
def started():
    """Start servers, each in a process of its own: a function that returns the process and its URL."""
    running = []

    def start(*arguments):
        command = [sys.executable, "-m", "foliocache", "serve", "--listen", ":0", *arguments]
        process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
        running.append(process)
        return process, process.stderr.readline().strip()

    yield start
    for process in running:
        process.kill()
        process.communicate(timeout=LIMIT)


def get(url, path, method="GET", **headers):
    """Return the answer to one request, and its body."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=LIMIT)
    try:
        connection.request(method, path, headers={key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def events(url, path):
    """Yield (event, document) of a stream of events."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=LIMIT)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.headers["Content-Type"] == "text/event-stream"
        kind = "message"
        for line in answer:
            field, _, value = line.decode().strip().partition(": ")
            if field == "event":
                kind = value
            elif field == "data":
                yield kind, json.loads(value)
                kind = "message"
    finally:
        connection.close()


def test_files_and_their_headers(pool, started):
    _, url = started()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        answer, body = get(url, path)
        assert answer.status == 200 and answer.headers["Content-Type"].startswith(kind) and body
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert not re.search(rb"https?://", body)
        head, nothing = get(url, path, "HEAD")
        assert (int(head.headers["Content-Length"]), nothing) == (len(body), b"")


def test_events_have_what_statistics_and_picture_have(pool, started):
    _, url = started()
    stream = events(url, "/events?pool=one")
    assert next(stream)[0] == "history"
    kind, found = next(stream)
    assert (kind, found["pools"], found["pool"], found["error"]) == ("message", ["one"], "one", None)
    assert found["statistics"]["counters"]["fill_bytes"] == 300_000
    assert {each["key"] for each in found["objects"]} == {"small", "large", BAD}
    assert os.getpid() in {each["pid"] for each in found["clients"]}
    pool.mapping("more", 1000, "1", lambda o, n: bytes(n)).read_bytes(0, 1000)
    while found["statistics"]["objects"] == 3:
        _, found = next(stream)
    assert found["statistics"]["counters"]["fill_bytes"] == 301_000
    stream.close()


def test_pages_names_and_findings(pool, started):
    _, url = started()
    pool.names.ask("k").answer(100, "1")
    next(events(url, "/events?pool=one"))
    assert len(get(url, "/pages?pool=one")[1]) == 2 * 256
    assert json.loads(get(url, "/findings?pool=one")[1]) == []
    (name,) = json.loads(get(url, "/names?pool=one")[1])
    assert (name["key"], name["size"]) == ("k", 100)


def test_the_parts_of_an_object(pool, started):
    mapping = pool.mapping("part", 320_000, "1", lambda o, n: bytes(n), folio_size="16KiB", readahead=0)
    assert mapping.unit_size == 16384  # the usual size
    mapping.read_bytes(0, 40_000)
    _, url = started()
    next(events(url, "/events?pool=one"))
    assert json.loads(get(url, "/parts?pool=one&key=part&version=1")[1]) == [2] * 3 + [0] * 17
    assert json.loads(get(url, "/parts?pool=one&key=large&version=1")[1]) == [2] * 7
    for other in ("key=part&version=2", "key=nix&version=1", ""):
        assert json.loads(get(url, f"/parts?pool=one&{other}")[1]) is None


def test_what_is_not_there(pool, started):
    _, url = started()
    assert get(url, "/nothing")[0].status == get(url, "/pages")[0].status == get(url, "/../serve.py")[0].status == 404
    assert get(url, "/pages?pool=nix")[0].status == get(url, "/findings?pool=..%2Fx")[0].status == 409
    _, found = [next(stream) for stream in [events(url, "/events?pool=nix")] for _ in range(2)][1]
    assert "no pool 'nix'" in found["error"] and found["statistics"] is None
    for method in ("POST", "PUT", "DELETE"):
        assert get(url, "/", method)[0].status == 501


def test_without_a_token_other_names_than_loopback_are_refused(pool, started):
    _, url = started()
    for host in ("evil.example", "10.0.0.1:8465", "", "127.0.0.1.evil.example"):
        assert get(url, "/", Host=host)[0].status == 421
    for host in ("localhost:1", "127.0.0.1", "[::1]:99"):
        assert get(url, "/", Host=host)[0].status == 200


def test_with_a_token_nothing_is_told_without_it(pool, started):
    _, url = started("--token", TOKEN)
    assert url.endswith(f"/?token={TOKEN}")
    for path in ("/", "/events", "/pages?pool=one", "/page.js", "/?token=wrong", "/?token="):
        answer, body = get(url, path)
        assert answer.status == 403 and b"token" in body and "Set-Cookie" not in answer.headers
    answer, _ = get(url, f"/?token={TOKEN}", Host="pool.example")
    assert answer.status == 200 and "HttpOnly; SameSite=Strict" in answer.headers["Set-Cookie"]
    cookie = answer.headers["Set-Cookie"].partition(";")[0]
    assert get(url, "/page.js", Cookie=cookie)[0].status == 200
    assert get(url, "/page.js", Cookie="foliocache=wrong")[0].status == 403


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--listen", "0.0.0.0:0"], "give --token"),
        (["--listen", "192.0.2.1:0"], "give --token"),
        (["--token", "short"], "at least 16"),
        (["--token", "with spaces and ünïcode"], "letters and digits"),
        (["--listen", "x:y"], "no address"),
    ],
)
def test_usage(arguments, told):
    done = run("serve", *arguments)
    assert done.code == 2 and told in done.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_while_a_page_is_open(pool, started, number, code):
    process, url = started()
    stream = events(url, "/events")
    next(stream)
    process.send_signal(number)
    assert process.wait(LIMIT) == code


def test_so_many_pages_and_no_more(pool, started):
    _, url = started()
    open_pages = [events(url, "/events") for _ in range(serve.READERS)]
    for stream in open_pages:
        next(stream)
    answer, body = get(url, "/events")
    assert answer.status == 503 and b"16 pages" in body
    for stream in open_pages:
        stream.close()


def test_one_look_serves_all_and_a_pool_that_comes_back_is_another(pool):
    sampler = serve.Sampler(Watch())
    sampler.look()
    first = sampler.picture("one")
    assert sampler.picture("one") is first
    foliocache.remove("one")
    sampler.look()
    assert sampler.shown("one")["error"] == "There is no pool 'one'." and sampler.history == {}
    with foliocache.open("one", size="8MiB"):
        sampler.look()
        assert sampler.shown(None)["statistics"]["pool_bytes"] == 8 << 20
        assert len(sampler.picture("one").dots) == 2 * 512
    sampler.close()


def test_who_waits_for_a_look_is_woken_by_the_end():
    sampler = serve.Sampler(Watch())
    waiting = threading.Thread(target=sampler.wait, args=(0,))
    waiting.start()
    sampler.stop()
    waiting.join(LIMIT)
    assert not waiting.is_alive()


# In Chromium.


@pytest.fixture
def browser(tmp_path):
    """Debian's Chromium, without a window."""
    webdriver = pytest.importorskip("selenium.webdriver")
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in programs:
        pytest.skip("there is no chromium with chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,1400"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    driver.set_script_timeout(LIMIT)
    yield driver
    driver.quit()


def shows(browser, expression):
    """Wait until a JavaScript expression is true."""
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, LIMIT).until(lambda page: page.execute_script(f"return {expression}"))


@pytest.mark.timeout(400)
def test_the_page(pool, started, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    with foliocache.open("two", size="4MiB") as two:
        two.mapping("other", 1000, "1", lambda o, n: bytes(n)).read_bytes(0, 1000)
        _, url = started()
        browser.get(f"{url}?pool=one")
        shows(browser, "document.getElementById('dots').dataset.dots === '256'")
        text = browser.find_element(By.TAG_NAME, "main").text
        for wanted in ("small", "large", BAD, "48.8 KiB", "of 4.0 MiB", str(os.getpid())):
            assert wanted in text, text
        assert browser.title == "foliocache"  # a key is text, and not markup

        # Another pool, by the keyboard alone; then the dots, the colours and the findings.
        browser.find_element(By.CSS_SELECTOR, "nav button[aria-selected=true]").send_keys(Keys.ARROW_RIGHT)
        shows(browser, "document.querySelector('#objects').innerText.includes('other')")
        assert browser.current_url.endswith("?pool=two")
        dots = browser.find_element(By.ID, "dots")
        assert "cached" in dots.get_attribute("aria-label")
        dots.send_keys(Keys.END)
        shows(browser, "document.getElementById('dot').textContent.startsWith('page 255: ')")
        for colour in ("object", "age"):
            browser.execute_script(f"document.querySelector('input[value={colour}]').click()")
            shows(browser, "document.getElementById('legend').textContent.includes('darker')")
        browser.execute_script("document.getElementById('ask-findings').click()")
        shows(browser, "document.getElementById('findings').textContent === 'Everything agrees.'")

        # The parts of an object, by the keyboard; the focus stays when the table is renewed.
        button = browser.find_element(By.CSS_SELECTOR, "#objects button")
        button.send_keys(Keys.ENTER)
        shows(browser, "(document.querySelector('canvas.parts') || document.body).ariaLabel?.includes('100 %')")
        browser.execute_script("window.seen = document.querySelector('canvas.parts')")
        shows(browser, "document.querySelector('canvas.parts') !== window.seen")
        assert browser.execute_script("return document.activeElement.dataset.object") == '["other","1"]'

        # It is live, in the dark as well, and fits a narrow window.
        two.mapping("new", 1000, "1", lambda o, n: bytes(n)).read_bytes(0, 1000)
        shows(browser, "document.querySelector('#objects').innerText.includes('new')")
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        shows(browser, "getComputedStyle(document.body).backgroundColor === 'rgb(20, 23, 26)'")
        browser.set_window_size(500, 900)
        shows(browser, "document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        foliocache.remove("two")
        shows(browser, "document.getElementById('trouble').textContent.includes('no pool')")
        errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE" and "409" not in entry["message"]]
        assert errors == []
