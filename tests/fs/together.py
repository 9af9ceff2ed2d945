"""Runs a function in several processes at once, by spawn or by fork."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from typing import Any

_PATIENCE = 120


def together(method: str, count: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """``function(number, *args)`` in `count` processes that wait for one another before they call it."""
    context = multiprocessing.get_context(method)
    barrier, results = context.Barrier(count), context.Queue()
    workers = [context.Process(target=_work, args=(barrier, results, function, number, *args)) for number in range(count)]
    for worker in workers:
        worker.start()
    try:
        answers = dict(results.get(timeout=_PATIENCE) for _ in workers)
    finally:
        for worker in workers:
            worker.join(_PATIENCE)
            worker.kill()
    failures = [answer for _, (fine, answer) in sorted(answers.items()) if not fine]
    assert not failures, "\n".join(failures)
    return [answer for _, (_, answer) in sorted(answers.items())]


def _work(barrier: Any, results: Any, function: Callable[..., Any], number: int, *args: Any) -> None:
    try:
        barrier.wait(_PATIENCE)
        answer = True, function(number, *args)
    except BaseException:
        answer = False, traceback.format_exc()
    results.put((number, answer))
