"""An independent reference for the checker: small straight-line programs, enumerated naively.

A program is a list of threads, a thread a list of instructions: ("W", loc, value, order), ("R", loc, order), ("A", loc, n,
order) for fetch_add, ("F", order). ``sc`` interleaves over one memory; ``tso`` does the same with a store buffer for each
thread (Owens, Sarkar, Sewell 2009), a definition that has nothing in common with the checker's axioms. ``rc11`` enumerates all
reads-from and modification orders and keeps those that satisfy the axioms as they stand in the paper, without seq_cst.
"""

import itertools

from foliocache.check import facade_model as atomics

LOCS = {"x": 0, "y": 64, "z": 128}


def body(instructions):
    """Return the thread as a function for the checker, which returns what it read."""

    def run(mem):
        seen = []
        for kind, *rest in instructions:
            if kind == "W":
                getattr(atomics, f"store_{rest[2]}")(mem, LOCS[rest[0]], rest[1])
            elif kind == "R":
                seen.append(getattr(atomics, f"load_{rest[1]}")(mem, LOCS[rest[0]]))
            elif kind == "A":
                seen.append(getattr(atomics, f"fetch_add_{rest[2]}")(mem, LOCS[rest[0]], rest[1]))
            else:
                getattr(atomics, f"fence_{rest[0]}")()
        return tuple(seen)

    return run


def machine(threads, buffered):
    """Return all outcomes of the sc or the store-buffer machine: (what each thread read, final memory)."""
    start = (tuple(0 for _ in threads), tuple(() for _ in threads), tuple(() for _ in threads), tuple((k, 0) for k in LOCS))
    seen, todo, outcomes = {start}, [start], set()
    while todo:
        state = todo.pop()
        following = list(_steps(threads, state, buffered))
        if not following:
            outcomes.add((state[1], state[3]))
        for new in following:
            if new not in seen:
                seen.add(new)
                todo.append(new)
    return outcomes


def _steps(threads, state, buffered):
    pcs, reads, buffers, memory = state
    values = dict(memory)
    for t, code in enumerate(threads):
        if buffers[t]:
            (loc, value), rest = buffers[t][0], buffers[t][1:]
            yield pcs, reads, _with(buffers, t, rest), tuple((k, value if k == loc else v) for k, v in memory)
        if pcs[t] == len(code):
            continue
        kind, *rest = code[pcs[t]]
        drains = kind == "A" or ("seq_cst" in rest and kind != "R")
        if drains and buffers[t]:
            continue
        done = _with(pcs, t, pcs[t] + 1)
        if kind == "F":
            yield done, reads, buffers, memory
        elif kind == "R":
            own = [v for k, v in buffers[t] if k == rest[0]]
            yield done, _with(reads, t, reads[t] + (own[-1] if own else values[rest[0]],)), buffers, memory
        elif kind == "A":
            new = tuple((k, v + rest[1] if k == rest[0] else v) for k, v in memory)
            yield done, _with(reads, t, reads[t] + (values[rest[0]],)), buffers, new
        elif buffered and not drains:
            yield done, reads, _with(buffers, t, buffers[t] + ((rest[0], rest[1]),)), memory
        else:
            yield done, reads, buffers, tuple((k, rest[1] if k == rest[0] else v) for k, v in memory)


def _with(items, i, value):
    return (*items[:i], value, *items[i + 1 :])


class _E:
    def __init__(self, t, i, kind, loc, value, order, half=None):
        self.t, self.i, self.kind, self.loc, self.value, self.order, self.half = t, i, kind, loc, value, order, half


ACQ, REL = ("acquire", "acq_rel"), ("release", "acq_rel")


def rc11(threads):
    """Return all outcomes that RC11's axioms allow, and the number of their executions."""
    events, reads, writes = _events(threads)
    outcomes, count = set(), 0
    for choice in itertools.product(*([w for w in writes if w.loc == r.loc and w is not r.half] for r in reads)):
        rf = dict(zip(reads, choice, strict=True))
        values = _values(rf, writes)
        if values is None:
            continue
        for mo in _orders(writes, rf):
            if _consistent(events, rf, mo):
                count += 1
                outcomes.add(_outcome(threads, reads, rf, mo, values))
    return outcomes, count


def _events(threads):
    events = [_E(-1, 0, "W", loc, 0, "relaxed") for loc in LOCS]
    for t, code in enumerate(threads):
        i = 0
        for kind, *rest in code:
            if kind == "F":
                events.append(_E(t, i, "F", None, None, rest[0]))
            elif kind == "R":
                events.append(_E(t, i, "R", rest[0], None, rest[1]))
            elif kind == "W":
                events.append(_E(t, i, "W", rest[0], rest[1], rest[2]))
            else:
                write = _E(t, i + 1, "W", rest[0], rest[1], rest[2])
                read = _E(t, i, "R", rest[0], None, rest[2], write)
                write.half = read
                events += [read, write]
                i += 1
            i += 1
    return events, [e for e in events if e.kind == "R"], [e for e in events if e.kind == "W"]


def _values(rf, writes):
    """Return the value of each write: fixed, or for an add what was read plus n; None if that is circular."""
    values = {w: w.value for w in writes if w.half is None}
    while len(values) < len(writes):
        ready = [w for w in writes if w not in values and rf[w.half] in values]
        if not ready:
            return None
        values.update((w, values[rf[w.half]] + w.value) for w in ready)
    return values


def _orders(writes, rf):
    per_loc = []
    for loc in LOCS:
        first, *others = [w for w in writes if w.loc == loc]
        orders = [(first, *p) for p in itertools.permutations(others)]
        per_loc.append([o for o in orders if all(w.half is None or o[k - 1] is rf[w.half] for k, w in enumerate(o))])
    for combination in itertools.product(*per_loc):
        yield [w for order in combination for w in order], {w: k for order in combination for k, w in enumerate(order)}


def _closure(pairs):
    reach = {}
    for a, b in pairs:
        reach.setdefault(a, set()).add(b)
    changed = True
    while changed:
        changed = False
        for a in list(reach):
            more = set().union(*(reach.get(b, ()) for b in reach[a])) - reach[a]
            if more:
                reach[a] |= more
                changed = True
    return reach


def _consistent(events, rf, mo):
    _, rank = mo
    po = {(a, b) for a in events for b in events if b.t >= 0 and (a.t < 0 or (a.t == b.t and a.i < b.i))}
    causes = _closure(po | {(w, r) for r, w in rf.items()})
    if any(a in causes[a] for a in causes):
        return False
    hb = _closure(po | {(s, d) for r, w in rf.items() for s in _sources(events, rf, w) for d in _targets(events, r)})
    eco = {(w, r) for r, w in rf.items()}
    eco |= {(a, b) for a in rank for b in rank if a.loc == b.loc and rank[a] < rank[b]}
    eco |= {(r, b) for r, w in rf.items() for b in rank if b.loc == r.loc and rank[b] > rank[w] and b is not r.half}
    eco |= {(r, r.half) for r in rf if r.half}
    eco = _closure(eco)
    return not any(a in hb.get(b, ()) for a in eco for b in eco[a]) and not any(a in hb[a] for a in hb)


def _sources(events, rf, w):
    """Yield the release ends of synchronization for a read that acquires w: heads of its release sequence, or fences before."""
    while True:
        if w.order in REL:
            yield w
        yield from (f for f in events if f.kind == "F" and f.order in (*REL, "seq_cst") and f.t == w.t and f.i < w.i)
        if w.half is None:
            return
        w = rf[w.half]


def _targets(events, r):
    if r.order in ACQ:
        yield r
    yield from (f for f in events if f.kind == "F" and f.order in (*ACQ, "seq_cst") and f.t == r.t and f.i > r.i)


def _outcome(threads, reads, rf, mo, values):
    got = tuple(tuple(values[rf[r]] for r in reads if r.t == t) for t in range(len(threads)))
    order, _ = mo
    return got, tuple((loc, values[[w for w in order if w.loc == loc][-1]]) for loc in LOCS)


def renamings(threads, equal):
    """Yield every permutation of the numbers of equal threads: old number to new."""
    for orders in itertools.product(*(itertools.permutations(group) for group in equal)):
        names = {t: t for t in range(-1, threads)}
        for group, order in zip(equal, orders, strict=True):
            names.update(zip(group, order, strict=True))
        yield names


def orbit(graph, equal):
    """Return a value that is equal for graphs of the checker that differ only by the numbers of equal threads."""
    return min(repr(renamed(graph, names)) for names in renamings(len(graph.threads), equal))


OF_A_THREAD = ("dead", "acknowledged", "woken")  # locations called (what, thread, ...)


def renamed(graph, names):
    """Return a value for a graph whose threads get those new numbers, by the old ones."""

    def event(e):
        return names[e.thread], e.index

    def place(loc):
        return (loc[0], names[loc[1]], *loc[2:]) if isinstance(loc, tuple) and loc[0] in OF_A_THREAD else loc

    took = sorted((*event(e), event(e.rf) if e.rf else e.value) for events in graph.threads for e in events if e.kind in "RC")
    return took, sorted((str(place(loc)), [event(w) for w in writes]) for loc, writes in graph.mo.items() if len(writes) > 1)
