"""One exploration on several cores.

The entries of the explorer's stack are independent of each other, so after a start in one process, forked workers take them one
by one (a shared counter says which is next) and send back what they saw. The set of executions is the same; only which failure
comes first may differ, so the one of the lowest entry is reported.
"""

import multiprocessing
import pickle

from .explore import Result

ENTRIES_PER_JOB = 32


def spread(explorer, jobs):
    total = explorer.run(enough=ENTRIES_PER_JOB * jobs)
    entries = explorer.stack
    if not entries or (total.failure and explorer.stop) or explorer.late():
        return total
    context = multiprocessing.get_context("fork")
    following = context.Value("i", 0)
    pipes = []
    for _ in range(jobs):
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(explorer, entries, following, theirs))
        worker.start()
        theirs.close()
        pipes.append((worker, ours))
    parts = []
    for worker, ours in pipes:
        parts += pickle.loads(ours.recv_bytes())
        worker.join()
    for _, part in sorted(parts, key=lambda numbered: numbered[0]):
        total.add(part)
    return total


def _work(explorer, entries, following, pipe):
    parts = []
    while True:
        with following.get_lock():
            number = following.value
            following.value += 1
        if number >= len(entries):
            break
        explorer.result = Result()
        explorer.result.finished = explorer.bound is None
        explorer.machine.operations = 0
        explorer.stack = [entries[number]]
        explorer.run()
        parts.append((number, explorer.result))
        if (explorer.result.failure and explorer.stop) or explorer.late():
            with following.get_lock():
                following.value = len(entries)
    pipe.send_bytes(pickle.dumps(parts))
