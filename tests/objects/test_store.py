"""Made once per machine, whole or not at all: threads, forks, death, eviction, failure."""

import asyncio
import contextlib
import gc
import os
import random
import re
import signal
import threading
import time
import weakref

import lines
import numpy
import pytest
from lines import at_line, count_lines

import foliocache
from foliocache.objects import store
from foliocache.objects.many import get_or_create_many

PATIENCE = 60


def forked(function):
    """The pid of a child that runs function."""
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            function()
            status = 0
        os._exit(status)
    return pid


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def thread(function):
    """A started thread that runs function; ``result()`` waits for what it returns or raises."""
    answer = []

    def run():
        try:
            answer.append(function())
        except BaseException as error:
            answer.append(error)

    started = threading.Thread(target=run)
    started.start()

    def result():
        started.join(PATIENCE)
        if isinstance(answer[0], BaseException):
            raise answer[0]
        return answer[0]

    return result


@pytest.mark.parametrize("size", [10, 50_000, 3_000_000])
def test_made_once_by_many_processes(shared, key, tmp_path, size):
    read, write = os.pipe()
    made = tmp_path / "made"

    def make():
        with made.open("a") as file:
            file.write("x")
        time.sleep(0.05)  # the others come meanwhile; right without it, too
        return numpy.full(size, 7, "u1")

    def worker():
        os.read(read, 1)
        for _ in range(20):
            assert (shared.get_or_create(key, make) == 7).all()

    children = [forked(worker) for _ in range(6)]
    os.write(write, b"x" * 6)
    assert [ended(child) for child in children] == [0] * 6
    assert made.read_text() == "x"


def test_the_failure_of_one_is_told_to_all_who_wait(shared, key, asleep):
    started = threading.Event()

    def fail():
        started.set()
        assert asleep.wait(PATIENCE)
        raise OSError(5, "the disk is gone")

    maker = thread(lambda: shared.get_or_create(key, fail))
    assert started.wait(PATIENCE)
    waiter = thread(lambda: shared.get_or_create(key, lambda: 1))
    with pytest.raises(OSError, match="the disk is gone") as raised:
        maker()
    assert not isinstance(raised.value, foliocache.SourceError)
    with pytest.raises(foliocache.SourceError, match=r"that was making .* failed: OSError: .*the disk is gone") as raised:
        waiter()
    assert raised.value.errno == 5
    assert shared.get(key) is None
    assert shared.get_or_create(key, lambda: 2) == 2


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Störung" * 30, "Störung"),
        ("\N{SNOWMAN}" * 30, "\N{SNOWMAN}" * 13),
        ('"\\\n' * 60, "?" * 40),
        ("\U0001f600" * 60, "\U0001f600" * 10),
    ],
)
def test_a_failure_of_a_class_of_any_name_is_told(shared, key, asleep, name, told):
    """The maker gets its own exception, whatever its class is called, and those that wait its name."""
    started = threading.Event()

    def fail():
        started.set()
        assert asleep.wait(PATIENCE)
        raise type(name, (Exception,), {})("in words " * 100)

    maker = thread(lambda: shared.get_or_create(key, fail))
    assert started.wait(PATIENCE)
    waiter = thread(lambda: shared.get_or_create(key, lambda: 1))
    with pytest.raises(Exception, match="in words") as raised:
        maker()
    assert type(raised.value).__name__ == name
    with pytest.raises(foliocache.SourceError, match=f"failed: {re.escape(told)}.*: in words"):
        waiter()


def test_an_interrupted_maker_is_replaced(shared, key, asleep):
    started = threading.Event()

    def interrupted():
        started.set()
        assert asleep.wait(PATIENCE)
        raise KeyboardInterrupt

    maker = thread(lambda: shared.get_or_create(key, interrupted))
    assert started.wait(PATIENCE)
    assert shared.get_or_create(key, lambda: "mine") == "mine"
    with pytest.raises(KeyboardInterrupt):
        maker()


@pytest.mark.parametrize("size", [5, 5_000_000])
def test_a_killed_maker_is_replaced(shared, key, asleep, size):
    read, write = os.pipe()

    def hang():
        os.write(write, b"x")
        time.sleep(PATIENCE)

    child = forked(lambda: shared.get_or_create(key, hang))
    os.read(read, 1)
    waiter = thread(lambda: shared.get_or_create(key, lambda: numpy.zeros(size)))
    assert asleep.wait(PATIENCE)
    os.kill(child, signal.SIGKILL)
    assert ended(child) == -signal.SIGKILL
    assert waiter().sum() == 0


def test_killed_at_any_time_while_it_puts(pool):
    """Whatever was finished is whole."""
    randomly = random.Random(1)
    for _ in range(25):

        def endlessly():
            n = 0
            while True:
                n += 1
                pool.put("k", numpy.full(100_000 + n, n))

        child = forked(endlessly)
        time.sleep(randomly.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        ended(child)
        found = pool.get("k")
        assert found is None or ((found == found[0]).all() and len(found) == 100_000 + found[0])
        del found
    assert pool.get_or_create("other", lambda: numpy.arange(100_000))[5] == 5


@pytest.mark.parametrize("how", ["get_or_create", "get_or_create_async"])
def test_an_answer_between_the_look_and_the_turn_is_used(pool, monkeypatch, how):
    """Another thread's answer comes after this one's look found nothing, and before it asks."""
    names = pool.objects._names
    recall = names.recall

    def late(*arguments, **options):
        monkeypatch.setattr(names, "recall", recall)
        pool.put("key", "another's")
        return recall(*arguments, **options)

    monkeypatch.setattr(names, "recall", late)
    found = getattr(pool, how)("key", lambda: pytest.fail("made a second time"))
    assert (asyncio.run(found) if how == "get_or_create_async" else found) == "another's"


def test_a_part_that_was_evicted_has_it_made_once_more(pool):
    """In a pool of 4 MiB; what is got is right, whatever was evicted."""
    calls = []

    def make(n):
        calls.append(n)
        return numpy.full(90_000 + n, n)

    for n in [*range(8), *range(8)]:
        array = pool.get_or_create(f"k{n}", lambda n=n: make(n))
        assert (array == n).all() and len(array) == 90_000 + n
        del array
    assert len(calls) > 8
    mapping = pool.mapping("filler", 4 << 20, read=lambda offset, length: bytes(length))
    for lease in mapping.pieces():
        lease.release()
    calls.clear()
    assert all(each is None or (each == n).all() for n in range(8) for each in [pool.get(f"k{n}")])


def test_never_wrong_while_four_processes_evict_each_others(pool):
    def worker(seed):
        randomly = random.Random(seed)
        held = []
        for _ in range(150):
            n = randomly.randrange(12)
            array = pool.get_or_create(f"k{n}", lambda n=n: numpy.full(n * n * 1500 + 1, n))
            held = [*held[-randomly.randrange(1, 3) :], (n, array)]
            assert all((each == m).all() and len(each) == m * m * 1500 + 1 for m, each in held)
            if n == 3:
                pool.delete("k3")
            if n == 4:
                pool.put("k4", numpy.full(4 * 4 * 1500 + 1, 4))

    children = [forked(lambda seed=seed: worker(seed)) for seed in range(4)]
    assert [ended(child) for child in children] == [0] * 4


def test_what_does_not_fit_is_given_uncached(pool):
    calls = []
    for _ in range(2):
        array = pool.get_or_create("large", lambda: calls.append(1) or numpy.zeros(5 << 20, "u1"))
        assert len(array) == 5 << 20 and not array.flags.writeable
    assert len(calls) == 2
    assert pool.put("large", b"x" * (5 << 20)) is False
    assert pool.get("large") is None
    held = [pool.get_or_create(f"k{n}", lambda: numpy.zeros(1 << 20, "u1")) for n in range(6)]
    assert all((each == 0).all() for each in held)
    assert pool.put("k0", numpy.zeros(1 << 20, "u1")) is False


def test_those_that_wait_for_what_does_not_fit_need_not_wait_for_each_other(shared, key, asleep):
    together = threading.Barrier(2)

    def first():
        assert asleep.wait(PATIENCE)
        return numpy.zeros(65 << 20, "u1")

    def other():
        together.wait(PATIENCE)  # passes only if both make it at once
        return numpy.zeros(65 << 20, "u1")

    maker = thread(lambda: shared.get_or_create(key, first))
    while not shared.objects._making:
        time.sleep(0.001)
    waiters = [thread(lambda: shared.get_or_create(key, other)) for _ in range(2)]
    assert [len(each()) for each in [maker, *waiters]] == [65 << 20] * 3


def test_a_maker_that_asks_for_others_and_for_itself(shared, key):
    assert shared.get_or_create(key, lambda: [shared.get_or_create(key + "2", lambda: 1)]) == [1]
    with pytest.raises(foliocache.FoliocacheError, match=r"asks for .* itself"):
        shared.get_or_create(key + "3", lambda: shared.get_or_create(key + "3", int))
    assert shared.get_or_create(key + "3", lambda: 3) == 3


def test_a_key_is_usable_after_an_interrupt_at_any_line(shared, key):
    def interrupt():
        raise KeyboardInterrupt

    lines = count_lines(lambda: shared.get_or_create(key, lambda: [1] * 300))
    interrupted = 0
    for line in range(1, lines + 1):
        try:
            with at_line(line, interrupt):
                shared.get_or_create(f"{key}{line}", lambda: [1] * 300)
        except KeyboardInterrupt:
            interrupted += 1
        assert shared.get_or_create(f"{key}{line}", lambda: [1] * 300) == [1] * 300
    assert interrupted > lines // 2


def test_keys_are_usable_after_an_interrupt_at_any_line_while_several_are_made(shared, key, monkeypatch):
    """Also of the standard library: what is being made must not count as being made for ever."""
    monkeypatch.setattr(lines, "PACKAGE", "")

    def interrupt():
        raise KeyboardInterrupt

    def made(name):
        names = [f"{key} {name} {n}" for n in range(3)]
        return get_or_create_many(shared.objects, names, lambda places: [[n] * 300 for n in places], "", None, "any")

    interrupted = 0
    for line in range(1, count_lines(lambda: made("first")) + 1):
        try:
            with at_line(line, interrupt):
                made(line)
        except KeyboardInterrupt:
            interrupted += 1
        assert made(line) == [[n] * 300 for n in range(3)]
        assert shared.objects._making == set()
    assert interrupted > 100


def test_versions_expiry_and_deletion(shared, key):
    assert [shared.get_or_create(key, lambda n=n: n, version=str(n)) for n in (1, 2, 1)] == [1, 2, 1]
    assert shared.get_or_create(key, lambda: 5, version="1", expiry=0) == 5
    assert shared.get(key, version="1", expiry=0) is None
    assert shared.get(key, version="1", expiry=60) == shared.get(key, version="1", expiry=10**400) == 5
    assert shared.put(key, numpy.arange(50_000), version="2")
    old = shared.get(key, version="2")
    shared.delete(key)
    assert [shared.get(key, "none", version=version) for version in "12"] == ["none", "none"]
    assert old[-1] == 49_999
    assert not [each for each in shared.mappings() if each.key == f"object:{key}"]


def test_what_was_replaced_leaves_the_pool(shared, key):
    for n in range(5):
        shared.put(key, numpy.full(100_000, n))
        shared.get_or_create(key, lambda n=n: numpy.full(100_000, n), expiry=0)
    assert len([each for each in shared.mappings() if each.key == f"object:{key}"]) == 1


def test_a_forked_child_has_views_of_its_own(shared, key):
    shared.put(key, numpy.arange(1_000_000))
    array = shared.get(key)

    def child():
        assert shared.get(key)[-1] == 999_999
        assert shared.stat().pins > 0

    assert ended(forked(child)) == 0
    assert array[-1] == 999_999


def test_as_many_arrays_as_one_likes(shared, key):
    """More than a process can have leases: those are copies."""
    shared.put(key, numpy.arange(100))
    shared.put(key + "2", numpy.arange(1_000_000))
    arrays = [shared.get(key) for _ in range(2100)]
    assert all(each[-1] == 99 for each in arrays)
    assert shared.get(key + "2")[-1] == 999_999
    assert shared.put(key, numpy.arange(100)) is False


@pytest.mark.parametrize(
    "wrong",
    [{"key": 1}, {"version": 2}, {"expiry": -1}, {"expiry": "x"}, {"loads": "pickle"}, {"make": 5}, {"writable": True}],
)
def test_what_makes_no_sense_is_refused(shared, key, wrong):
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        shared.get_or_create(**{"key": key, "make": int, **wrong})


@pytest.mark.parametrize("wrong", [{"loads": "pickle"}, {"writable": True}, {"expiry": -1}, {"version": 2}])
def test_nothing_is_made_if_an_option_makes_no_sense(shared, key, wrong):
    calls = []
    with pytest.raises(ValueError, match=next(iter(wrong))):
        shared.get_or_create(key, lambda: calls.append(1), **wrong)
    assert calls == []
    if "writable" not in wrong:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            shared.memoize(**wrong)(abs)


@pytest.mark.parametrize("wrong", [{"loads": "pickle"}, {"writable": True}, {"expiry": -1}, {"version": 2}])
@pytest.mark.parametrize("is_there", [False, True])
def test_options_are_checked_whether_the_pool_has_the_object_or_not(shared, key, wrong, is_there):
    if is_there:
        shared.put(key, 5)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        shared.get(key, **wrong)
    shared.delete(key)


def test_names_and_modes_are_checked_by_every_call(shared, key):
    shared.put(key, numpy.arange(3))
    for call in (shared.get, shared.delete, lambda name: shared.put(name, 1)):
        for wrong in (5, None, b"key"):
            with pytest.raises(ValueError, match="the key of an object must be a string"):
                call(wrong)
    with pytest.raises(ValueError, match="the version of an object must be a string"):
        shared.put(key, 1, version=1)
    for name in (key, f"{key}, missing"):
        with pytest.raises(ValueError, match='writable must be "copy"'):
            shared.get(name, writable=True)


def test_what_was_found_is_nothing_to_the_garbage_collector(pool_name):
    """A full collection copies the heap of a forked worker, and what a worker keeps of each sample would cause one."""
    pool = foliocache.open(pool_name, size="64MiB")
    values = {str(n): n if n % 2 else (numpy.full(9000 + n, n), n) for n in range(400)}
    for key, value in values.items():
        pool.put(key, value)

    def read(keys):
        return [pool.get(key) for key in keys]

    read([*values][:4])
    gc.collect()
    before = len(gc.get_objects())
    found = read(values)
    assert [each if isinstance(each, int) else each[1] for each in found] == [*range(400)]
    del found
    gc.collect()
    assert len(gc.get_objects()) < before + 100


def test_a_pool_that_has_found_objects_is_freed(pool_name):
    pool = foliocache.open(pool_name, size="8MiB")
    array = pool.get_or_create("array", lambda: numpy.arange(50_000))
    pool.get("array"), pool.get("array", writable="copy"), pool.get("nothing")
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None  # though an array is there
    assert array.sum() == 50_000 * 49_999 // 2


class ChangedOnce(dict):
    """A dict that another thread changes between ``iter`` and ``next``, the first time."""

    changed = False

    def __iter__(self):
        found = super().__iter__()
        if not self.changed:
            self.changed = True
            self["another", ""] = None
        return found


def test_another_thread_remembers_a_name_while_the_oldest_is_forgotten(pool, monkeypatch):
    monkeypatch.setattr(store, "KNOWN_MAX", 4)
    pool.objects._known = ChangedOnce()
    for n in range(6):
        assert pool.get(f"key {n}", n) == n
    assert pool.objects._known.changed and len(pool.objects._known) <= 4


def test_room_for_several_folios_is_made_at_once(pool_name):
    """In a full pool, by evicting another object; not for one of a single folio, nor for a large part of the pool."""
    pool = foliocache.open(pool_name, size="16MiB")

    def evicted(size):
        before = pool.stat().counters.evictions
        pool._object("k", size, "v", None).make_room()
        return pool.stat().counters.evictions - before

    assert evicted(196_608) == 0, "there is room"
    for n in range(100):
        pool.put(f"k{n}", numpy.zeros(196_608, "u1"))
    assert evicted(131_072) == evicted(4 << 20) == 0
    assert evicted(196_608) == 3
    for n in range(100):
        pool.delete(f"k{n}")
    assert evicted(196_608) == 0, "there is room again"


@pytest.mark.parametrize("size", [131_072, 160_000])
@pytest.mark.parametrize("new", [("new", ""), ("old", "2")], ids=["other keys", "another version"])
def test_a_new_set_in_a_full_pool_is_kept(pool_name, new, size):
    """An object that is recreated has another random version, and its ghost knows it, in however many folios it is."""
    pool, (name, version) = foliocache.open(pool_name, size="16MiB"), new
    for _ in range(3):
        for n in range((15 << 20) // size):
            pool.get_or_create(f"old{n}", lambda: numpy.zeros(size, "u1"))
    made = []
    for n in list(range((8 << 20) // size)) * 6:
        pool.get_or_create(f"{name}{n}", lambda n=n: made.append(n) or numpy.zeros(size, "u1"), version=version)
    before = len(made)
    for n in range((8 << 20) // size):
        pool.get_or_create(f"{name}{n}", lambda n=n: made.append(n) or numpy.zeros(size, "u1"), version=version)
    assert made[before:] == []
