"""One scenario with one mutation, in a process of its own: a mutation may make a setup or a thread run for ever."""

from __future__ import annotations

import dataclasses
import math
import os
import resource
import signal
from typing import TYPE_CHECKING

from . import scenario
from .mutation import Mismatch

if TYPE_CHECKING:
    from .mutation import Mutation
    from .scenario import Scenario

BUDGET = 20.0  # seconds of an exploration
LIMIT = 5  # so many seconds of processor time later, the kernel ends the process


def found(which: Scenario, mutation: Mutation, budget: float = BUDGET) -> str:
    """Return how the scenario fails with this mutation under rc11; "" if it does not, or has a stand-in in that place."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGXCPU, signal.SIG_DFL)
            limit = math.ceil(budget) + LIMIT
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.write(theirs, _found(which, mutation, budget).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        told = pipe.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return "limit" if status < 0 else told


def _found(which: Scenario, mutation: Mutation, budget: float) -> str:
    changed = dataclasses.replace(which, stand_ins=(*which.stand_ins, mutation))
    try:
        row = scenario.run(changed, budget=budget)
    except Mismatch:
        return ""
    except Exception as error:  # in the sequential setup, before any thread begins
        return type(error).__name__
    return row.found.kind if row.found else ""
