"""Objects in event loops: tasks wait for each other, and for other processes, without blocking the loop."""

import asyncio
import functools
import threading
import time
import weakref

import numpy
import pytest

import foliocache
from foliocache.filler import awaiting

PATIENCE = 60


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


@pytest.mark.parametrize("size", [3, 500_000])
def test_made_once_by_many_tasks(shared, key, size):
    calls = []

    async def make():
        calls.append(1)
        await asyncio.sleep(0)
        return numpy.arange(size)

    async def ask():
        return await asyncio.gather(*[shared.get_or_create_async(key, make) for _ in range(20)])

    assert all(each[-1] == size - 1 and not each.flags.writeable for each in run(ask()))
    assert calls == [1]
    assert shared.get(key)[-1] == size - 1


def test_the_failure_of_a_task_is_told_to_those_that_wait(shared, key):
    async def ask():
        making, waiting = asyncio.Event(), asyncio.Event()

        async def fail():
            making.set()
            await waiting.wait()
            raise LookupError("not there")

        async def waiter():
            waiting.set()
            return await shared.get_or_create_async(key, fail)

        first = asyncio.ensure_future(shared.get_or_create_async(key, fail))
        await making.wait()
        return await asyncio.gather(first, waiter(), return_exceptions=True)

    first, second = run(ask())
    assert type(first) is LookupError
    assert type(second) in (LookupError, foliocache.SourceError)  # it has waited, or come too late for that


@pytest.mark.parametrize("steps", range(1, 7))
def test_a_call_that_is_cancelled_at_once_leaves_no_question(shared, key, steps):
    """Also if its traceback is kept, with all that the frames have."""
    shared.fill_timeout = 1000 * PATIENCE

    async def make():
        return numpy.arange(50_000)

    async def ask():
        for n in range(20):
            task = asyncio.create_task(shared.get_or_create_async(f"{key}{n}", make))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            (kept,) = await asyncio.gather(task, return_exceptions=True)
            assert (await shared.get_or_create_async(f"{key}{n}", make))[-1] == 49_999
            del kept

    run(ask())


def test_a_cancelled_maker_is_replaced(shared, key):
    async def ask():
        started = asyncio.Event()

        async def never():
            started.set()
            await asyncio.Event().wait()

        async def make():
            return 5

        maker = asyncio.ensure_future(shared.get_or_create_async(key, never))
        await started.wait()
        waiter = asyncio.ensure_future(shared.get_or_create_async(key, make))
        await asyncio.sleep(0.01)
        maker.cancel()
        return await waiter

    assert run(ask()) == 5


def test_a_coroutine_that_is_closed_while_it_makes_leaves_no_question(shared, key):
    """By what drives it, or by the garbage collector when its loop has been closed: it can await nothing any more."""
    shared.fill_timeout = 1000 * PATIENCE

    async def ask(name):
        started = asyncio.Event()

        async def never():
            started.set()
            await asyncio.Event().wait()

        coroutine = shared.get_or_create_async(name, never)
        task = asyncio.create_task(coroutine)
        await started.wait()
        return coroutine, task

    async def closed():
        coroutine, task = await ask(key)
        coroutine.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(closed())
    assert shared.get_or_create(key, lambda: 1) == 1
    loop = asyncio.new_event_loop()
    coroutine, _task = loop.run_until_complete(ask(key + "2"))
    loop.close()
    coroutine.close()
    assert shared.get_or_create(key + "2", lambda: 1) == 1


def test_what_comes_for_a_loop_that_has_been_closed_is_kept_by_nobody(shared):
    """It may be a lease. The task is still there."""
    go, made = threading.Event(), []

    class Lease:
        pass

    def function():
        assert go.wait(PATIENCE)
        lease = Lease()
        made.append(weakref.ref(lease))
        return lease

    loop = asyncio.new_event_loop()
    task = loop.create_task(awaiting.in_engine(shared.engine, function))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    go.set()
    deadline = time.monotonic() + PATIENCE
    while not made or made[0]() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    task.get_coro().close()


def test_a_question_is_withdrawn_although_its_task_is_cancelled_before_a_thread_does_it(shared, key, monkeypatch):
    """Others would wait for it until it is collected: it is in the traceback of what the task raised."""
    calls = []

    async def ask():
        question = await shared.names.ask_async(key)
        with monkeypatch.context() as patch:
            patch.setattr(shared.engine, "submit", lambda call: calls.append(call) or True)
            task = asyncio.ensure_future(question.__aexit__(None, None, None))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert shared.names.is_asked(key)
        calls.pop()()  # as a thread of the engine does
        assert not shared.names.is_asked(key)
        del question

    run(ask())
    assert not calls


def test_the_loop_goes_on_while_a_thread_makes_it(shared, key):
    turns = threading.Event()

    def slow():
        assert turns.wait(PATIENCE)
        return "slow"

    async def unused():
        return "mine"

    async def ask():
        maker = threading.Thread(target=shared.get_or_create, args=(key, slow))
        maker.start()
        while not any(mine[2] == key for mine in shared.objects._making):
            await asyncio.sleep(0.001)
        waiter = asyncio.ensure_future(shared.get_or_create_async(key, unused))
        for _ in range(10):
            await asyncio.sleep(0)
        turns.set()
        found = await waiter
        maker.join(PATIENCE)
        return found

    assert run(ask()) == "slow"


def test_a_task_that_asks_for_itself_is_refused(shared, key):
    async def nested():
        return await shared.get_or_create_async(key, nested)

    with pytest.raises(foliocache.FoliocacheError, match="itself"):
        run(nested())


def test_a_maker_that_cannot_be_awaited_is_refused_in_words(shared, key):
    with pytest.raises(TypeError, match=r"returned int, which cannot be awaited; use an async function or get_or_create$"):
        asyncio.run(shared.get_or_create_async(key, lambda: 5))
    assert shared.get_or_create(key, lambda: 6) == 6


def test_memoized_coroutine_functions(shared, key):
    calls = []

    async def function(a):
        calls.append(a)
        return a * 2

    function.__qualname__ = key
    kept = shared.memoize(key=lambda a: str(a))(function)

    async def ask():
        return [await kept(1), await kept(1), *await asyncio.gather(kept(2), kept(2))]

    assert asyncio.iscoroutinefunction(kept)
    assert run(ask()) == [2, 2, 4, 4]
    assert calls == [1, 2]


class Doubled:
    async def __call__(self, a):
        return a * 2

    async def method(self, a):
        return a * 3


@pytest.mark.parametrize(
    ("function", "factor"),
    [
        (Doubled(), 2),
        (functools.partial(Doubled()), 2),
        (functools.partial(functools.partial(Doubled()), 7), 2),
        (Doubled().method, 3),
        (functools.partial(Doubled().method, 7), 3),
    ],
)
def test_memoized_callables_that_are_coroutine_functions_inside(shared, function, factor):
    kept = shared.memoize(function)
    arguments = () if isinstance(function, functools.partial) and function.args else (7,)
    assert asyncio.iscoroutinefunction(kept)
    assert [run(kept(*arguments)), run(kept(*arguments))] == [7 * factor] * 2
