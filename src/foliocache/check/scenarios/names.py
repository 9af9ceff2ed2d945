"""Names: copied without a lock while they change, asked for once, forgotten.

Two names fit into the index, which is one set, and into each page of them. An answer is a time, a size and eight bytes, which
belong together; a name's digest is its key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..mutation import Edit
from ..program import Program
from ..scenario import ALL, WEAK, Bug
from . import crash_fixtures, fixtures, scenario, tree
from .crash_fixtures import FEW, FEW_PARTS, OTHER, VICTIM, Pool

if TYPE_CHECKING:
    from ..graph import Loc
    from ..loader import Core
    from ..memory import Direct, Mem
    from ..program import Final, Thread

SMALL = {"NAME_WAYS": 2, "NAME_TEXT_MAX": 0, "NAME_DATA_MAX": 8}
NAMES = {**crash_fixtures.SMALL, **SMALL}
SPIN = fixtures.SPIN_LOCK
ORIGIN = 0x900
A, B, C = 11, 12, 13
FIELDS = {
    0: "sequence", 4: "free", 8: "id", 16: "asker", 20: "asker's life", 24: "asked", 32: "used", 40: "digest", 48: "digest'",
    56: "key", 64: "state", 72: "since", 80: "size", 88: "data",
}  # fmt: skip


def name(loc: Loc) -> Any:
    """Return the name under which a reader knows the location, or None."""
    if isinstance(loc, int) and fixtures.NAMES <= loc < fixtures.FREE:
        return f"index {(loc - fixtures.NAMES) // 4}"
    if isinstance(loc, int) and fixtures.DATA <= loc < fixtures.CLIENTS:
        number, field = divmod(loc - fixtures.DATA, 96)
        return f"{FIELDS.get(field, field)} of record {number}"
    return "origin" if loc == ORIGIN else fixtures.names(loc)


def packed(value: int) -> bytes:
    return value.to_bytes(8, "little")


class Table:
    """A pool with one page of names. Client 0 has asked for the keys ``known``, and been answered; each answer is its time."""

    def __init__(self, core: Core, *known: int, ways: int = 2) -> None:
        self.core: Core = core
        self.known: tuple[int, ...] = known
        self.ways: int = ways

    def setup(self, mem: Direct) -> None:
        core = self.core
        fixtures.pages(core, mem)
        for part in (core.slab, core.lru, core.mapping, core.names):
            part.setup(mem)
        for key in self.known or (C,):
            self.answer(mem, 0, self.begin(mem, 0, key, 1), key, 1)
        if not self.known:
            core.names.forget(mem, 0, C)

    # Steps of a client.

    def begin(self, mem: Mem, me: int, key: int, now: int = 2, oldest: int = 2) -> int:
        return self.core.names.begin(mem, me, key, key, key, now, oldest, b"", 0)

    def answer(self, mem: Mem, me: int, id: int, key: int, asked: int, value: int | None = None) -> bool:
        """Answer with something that says whose answer it is."""
        value = asked if value is None else value
        layout = self.core.layout
        state = layout.NAME_PRESENT | 8 << layout.NAME_VERSION_SHIFT
        return self.core.names.answer(mem, me, id, asked, state, 1000 * key + value, packed(1000 * key + value), 8)

    def lookup(self, mem: Mem, me: int, key: int) -> int | None:
        """Return the value of what is known of a key, or None."""
        layout = self.core.layout
        out = bytearray(layout.NAME_SIZE - layout.NAME_KEY)
        state = self.core.names.lookup(mem, me, key, key, key, out)
        return None if state == layout.NAME_UNKNOWN else self.checked(out, key, state)

    def checked(self, out: bytearray, key: int, state: int) -> int:
        """Return the value of a copied answer of a key, all parts of which belong together."""
        layout = self.core.layout
        words = [int.from_bytes(out[at : at + 8], "little") for at in range(0, len(out), 8)]
        found, value = dict(zip(("key", "state", "since", "size", "data"), words, strict=True)), words[3] % 1000
        right = {
            "key": key, "state": state | 8 << layout.NAME_VERSION_SHIFT, "since": value, "size": 1000 * key + value,
            "data": 1000 * key + value,
        }  # fmt: skip
        assert found == right, f"looked for {key}, found {found}"
        return value

    # Threads.

    def reader(self, me: int, key: int) -> Thread:
        return lambda mem: self.lookup(mem, me, key)

    def lister(self, me: int, key: int) -> Thread:
        """Return a thread that lists the first name, which is that of this key."""

        def list_one(mem: Mem) -> Any:
            layout = self.core.layout
            out = bytearray(layout.NAME_SIZE - layout.NAME_KEY)
            found = self.core.names.next_used(mem, me, 0, out)
            return self.checked(out, key, layout.NAME_PRESENT) if found != layout.NIL else None

        return list_one

    def forgetter(self, me: int, key: int) -> Thread:
        return lambda mem: self.core.names.forget(mem, me, key)

    def asker(self, me: int, key: int, now: int = 2) -> Thread:
        """Return a thread that asks and answers, unless it is told that it need not."""

        def ask(mem: Mem) -> bool | None:
            id = self.begin(mem, me, key, now, now)
            return self.answer(mem, me, id, key, now) if id > self.core.layout.NAME_BUSY else None

        return ask

    def resolver(self, me: int, key: int, looks: bool = True) -> Callable[[Mem], str]:
        """Return a thread that wants an answer of time 2 or later, as ``foliocache.pool.names`` gets one: whether it asked.

        Unless it ``looks``, what it is told that is there it leaves there.
        """

        def resolve(mem: Mem) -> str:
            core, layout = self.core, self.core.layout
            for _ in range(3):
                value = self.lookup(mem, me, key) if looks else None
                if value is not None and value >= 2:
                    return "told"
                id = self.begin(mem, me, key)
                if id > layout.NAME_BUSY:
                    assert self.answer(mem, me, id, key, 2), "an answer that was asked for is not remembered"
                    return "asked"
                if id == layout.NAME_FRESH and not looks:
                    return "told"
                assert id in (layout.NAME_FRESH, layout.NAME_TAKEN), f"begin returns {id}"
                ticket = core.names.join(mem, me, key, key, key) if id == layout.NAME_TAKEN else 0
                if ticket:
                    core.names.sleep(mem, ticket, 1)
            raise AssertionError("two rounds were not enough")

        return resolve

    def program(self, *threads: Thread, final: Final | None = None) -> Program:
        def judge(mem: Direct, results: list[Any]) -> None:
            for finding in self.core.audit.Audit(mem).run():
                raise AssertionError("{check}: {where} {message}".format(**finding))
            if final:
                final(mem, results)

        shape = tree.geometry(2) | {"nnames": self.ways}
        return Program(list(threads), self.setup, judge, shape, names=name)


LOOK_AGAIN = "    return atomics.load_relaxed(mem, at + layout.NAME_SEQ) == sequence"
COPY_BUGS = {
    "not-looked-again": Bug((Edit("names", "_copy", LOOK_AGAIN, "    return True"),), ALL, "parts of two answers"),
    "odd-taken": Bug((Edit("names", "_begin_copy", "0 if sequence & 1 else sequence", "sequence"),), ALL, "the same"),
    "change-unmarked": Bug((Edit("names", "_begin_change", " | 1", ""),), ALL, "the same"),
    "reader-unfenced": Bug((Edit("names", "_copy", "    atomics.fence_acquire()\n", ""),), WEAK,
        "the second look may come before the copy"),
    "writer-unfenced": Bug((Edit("names", "_begin_change", "    atomics.fence_release()\n", ""),), WEAK,
        "a part of the change may be seen before the odd value"),
    "end-relaxed": Bug((Edit("names", "_end_change", "store_release", "store_relaxed"),), WEAK,
        "the even value may be seen before the change"),
    "copy-relaxed": Bug((Edit("names", "_begin_copy", "load_acquire", "load_relaxed"),), WEAK, "the same"),
}  # fmt: skip


@scenario("names/lookup-answer", NAMES, SPIN, COPY_BUGS)
def lookup_answer(core: Core) -> Program:
    """A name is looked up while its answer is replaced: one of the two answers is found, or none."""
    t = Table(core, A)
    return t.program(t.reader(1, A), t.asker(2, A))


REUSE_BUGS = {
    "clear-unfenced": Bug((Edit("slab", "_take", "    atomics.fence_release()\n", ""),), WEAK,
        "a word that the next name's maker has cleared is copied with the rest of this one"),
    "digest-unasked": Bug((Edit("names", "_lookup", "sequence and _is(mem, at, digest_lo, digest_hi)", "sequence"),), ALL,
        "another name's answer"),
    "sequence-again": Bug((Edit("names", "_end_change", "(serial & layout.OBJECT_MASK) << 1", "2"),), ALL,
        "the record's next life has the same sequence word"),
}  # fmt: skip


@scenario("names/list-answer", NAMES, SPIN, {
    k: COPY_BUGS[k] for k in ("not-looked-again", "odd-taken", "reader-unfenced", "writer-unfenced")})  # fmt: skip
def list_answer(core: Core) -> Program:
    """As names/lookup-answer, for who lists all names."""
    t = Table(core, A)
    return t.program(t.lister(1, A), t.asker(2, A))


@scenario("names/lookup-repair", NAMES, SPIN, {
    "unlocked": Bug((Edit("names", "repair", "    if _lock(mem, me):\n",
        "    if True:\n"),), ALL, "two clients change the index"),
})  # fmt: skip
def lookup_repair(core: Core) -> Program:
    """The index is rebuilt while one client looks a name up and another answers."""
    t = Table(core, A)
    return t.program(t.reader(1, A), t.asker(2, A), lambda mem: core.names.repair(mem, 3))


@scenario("names/lookup-reuse", NAMES, SPIN, REUSE_BUGS)
def lookup_reuse(core: Core) -> Program:
    """A name is looked up while one client forgets it and another makes a name of the same record, and answers it."""
    t = Table(core, A)
    return t.program(t.reader(1, A), t.forgetter(2, A), t.asker(3, B))


@scenario("names/lookup-again", NAMES, SPIN, {"sequence-again": REUSE_BUGS["sequence-again"]}, slow=True)
def lookup_again(core: Core) -> Program:
    """As names/lookup-reuse, and the other client makes the same name."""
    t = Table(core, A)
    return t.program(t.reader(1, A), t.forgetter(2, A), t.asker(3, A))


class Forged(Table):
    """The page of names held other bytes before: they look like an answer for A."""

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        core, layout = self.core, self.core.layout
        number = core.slab.alloc(mem, 0, layout.SLAB_NAMES, 0)
        core.slab.free(mem, 0, layout.SLAB_NAMES, number)
        at = core.slab.at(mem, layout.SLAB_NAMES, number)
        core.atomics.store_relaxed(mem, at + layout.NAME_SEQ, 8)
        for field, value in (("DIGEST_LO", A), ("DIGEST_HI", A), ("STATE", layout.NAME_PRESENT), ("OBJECT_SIZE", 666)):
            core.atomics.store_relaxed64(mem, at + getattr(layout, f"NAME_{field}"), value)


@scenario("names/lookup-make", NAMES, SPIN, {
    "index-relaxed": Bug((Edit("names", "_index", "store_release", "store_relaxed"),), WEAK,
        "the record may be seen as its page was before"),
    "reader-unfenced": COPY_BUGS["reader-unfenced"],
})  # fmt: skip
def lookup_make(core: Core) -> Program:
    """A name is looked up while it is made, of memory that looks like an answer for it."""
    t = Forged(core)
    return t.program(t.reader(1, A), lambda mem: t.begin(mem, 2, A))


@scenario("names/lookup-reclaim", NAMES, SPIN, {"digest-unasked": REUSE_BUGS["digest-unasked"]})
def lookup_reclaim(core: Core) -> Program:
    """The set is full: a name is looked up while another one takes a place there."""
    t = Table(core, A, B)
    return t.program(t.reader(1, A), t.asker(2, C))


FORGET_BUGS = {
    "id-unasked": Bug((Edit("names", "_record", " or atomics.load_relaxed64(mem, at + layout.NAME_ID) != id", ""),), ALL,
        "an answer is written into the next record of the same name"),
    "forget-late": Bug((Edit("names", "forget", "                _drop(mem, me, place, atomics.load_relaxed(mem, place) - 1)\n",
        "                atomics.store_relaxed64(mem, at + layout.NAME_STATE, 0)\n"),), ALL,
        "what is known is forgotten, but the question goes on"),
}  # fmt: skip


@scenario("names/forget-answer", NAMES, SPIN, FORGET_BUGS)
def forget_answer(core: Core) -> Program:
    """A client asks the origin and answers; another changes the origin, then forgets the name; and a third one begins to ask.

    In the end the name does not say what the origin was before.
    """
    t = Table(core)

    def ask(mem: Mem) -> None:
        id = t.begin(mem, 1, A)
        found = core.atomics.load_relaxed(mem, ORIGIN)
        if id > core.layout.NAME_BUSY:
            t.answer(mem, 1, id, A, 2 + found)

    def change(mem: Mem) -> None:
        core.atomics.store_relaxed(mem, ORIGIN, 1)
        core.names.forget(mem, 2, A)

    def final(mem: Direct, results: list[Any]) -> None:
        known = t.lookup(mem, 0, A)
        assert known in (None, 3), f"the name still says {known}"

    return t.program(ask, change, lambda mem: t.begin(mem, 3, A), final=final)


ASK_BUGS = {
    "no-wake": Bug((Edit("names", "_wake", "atomics.futex_wake(mem, at + layout.NAME_ASKER, layout.NIL)", "pass"),), ALL,
        "no thread wakes the sleeper"),
    "sleep-without-bit": Bug((Edit("names", "join", " | layout.NAME_WAITERS", ""),), ALL,
        "the asker does not know that a thread sleeps"),
    "taken-unheeded": Bug((Edit("names", "_ask", " and _is_asked(mem, at):", " and False:"),), ALL, "both ask"),
    "fresh-unheeded": Bug((Edit("names", "_ask", " and _is_within(since, now, oldest):", " and False:"),), ALL, "both ask"),
}  # fmt: skip


def once(mem: Direct, results: list[Any]) -> None:
    assert results.count("asked") == 1, f"the clients say {results}"


@scenario("names/ask-two", NAMES, SPIN, ASK_BUGS)
def ask_two(core: Core) -> Program:
    """Two clients want the same answer: one asks, the other sleeps, or comes later."""
    t = Table(core)
    return t.program(t.resolver(1, A), t.resolver(2, A), final=once)


@scenario("names/ask-three", NAMES, SPIN, {k: ASK_BUGS[k] for k in ("taken-unheeded", "fresh-unheeded")})
def ask_three(core: Core) -> Program:
    """Three clients want the same answer, and look once: one asks."""
    t = Table(core)

    def final(mem: Direct, results: list[Any]) -> None:
        assert results.count(True) == 1, f"the clients say {results}"

    return t.program(t.asker(1, A), t.asker(2, A), t.asker(3, A), final=final)


class Asked(Table):
    """Client 1 is asking for A, since time 1."""

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        self.id: int = self.begin(mem, 1, A, 1, 1)

    def sleeper(self, me: int) -> Thread:
        def sleep(mem: Mem) -> int:
            ticket = self.core.names.join(mem, me, A, A, A)
            return self.core.names.sleep(mem, ticket, 1) if ticket else 0

        return sleep


@scenario("names/two-waiters", NAMES, SPIN, {
    "wake-one": Bug((Edit("names", "_wake", "NAME_ASKER, layout.NIL)", "NAME_ASKER, 1)"),), ALL, "the second one sleeps on"),
})  # fmt: skip
def two_waiters(core: Core) -> Program:
    """Two clients sleep for the answer to one question: both are woken."""
    t = Asked(core)
    return t.program(lambda mem: t.answer(mem, 1, t.id, A, 1), t.sleeper(2), t.sleeper(3))


@scenario("names/withdraw", NAMES, SPIN, {"no-wake": ASK_BUGS["no-wake"]})
def withdraw(core: Core) -> Program:
    """The question fails: who sleeps for the answer is woken."""
    t = Asked(core)
    return t.program(lambda mem: core.names.withdraw(mem, 1, t.id, 1), t.sleeper(2))


@scenario("names/forget-asked", NAMES, SPIN, {"no-wake": ASK_BUGS["no-wake"]})
def forget_asked(core: Core) -> Program:
    """The name is forgotten while its asker goes on: who sleeps for the answer is woken, and the answer is not remembered."""
    t = Asked(core)
    return t.program(t.forgetter(3, A), t.sleeper(2))


@scenario("names/reclaim-asked", NAMES, SPIN, {
    "asked-reclaimed": Bug((Edit("names", "_victim", "at and not _is_asked(mem, at)", "at"),), ALL,
        "a question loses its name"),
})  # fmt: skip
def reclaim_asked(core: Core) -> Program:
    """The set is full, of a name that is being asked for and one that is not: the latter makes room."""
    t = Asked(core, B)

    def final(mem: Direct, results: list[Any]) -> None:
        assert results[0], "the answer is not remembered"
        assert t.lookup(mem, 0, A) == 1 and t.lookup(mem, 0, C) == 2

    return t.program(lambda mem: t.answer(mem, 1, t.id, A, 1), t.asker(2, C), final=final)


@scenario("names/ask-old", NAMES, SPIN, {
    "waiters-dropped": Bug((Edit("names", "_set_asker", "me + 1 | waiters", "me + 1"),), ALL,
        "who slept for the first question is not woken by the answer to the second"),
})  # fmt: skip
def ask_old(core: Core) -> Program:
    """A client asks since long ago, another sleeps for its answer, and a third one, which wants a later, takes its place."""
    t = Asked(core)
    return t.program(t.sleeper(2), t.asker(3, A))


# Death.

DEATH = {**FEW, **SMALL}


class Mortal(Pool):
    """A pool with a page of names and nothing else."""

    def __init__(self, core: Core, *known: int) -> None:
        super().__init__(core)
        self.table: Table = Table(core, *known)

    def setup(self, mem: Direct) -> None:
        self.table.setup(mem)
        for client in range(self.clients):
            self.core.client.set_state(mem, client, self.core.layout.SLOT_ATTACHED)

    def left(self, mem: Direct) -> None:
        """As ``Pool.left``, and every client gets an answer."""
        super().left(mem)
        for key in (A, B):
            assert self.table.resolver(0, key)(mem) in ("asked", "told")
            assert self.table.lookup(mem, 0, key) == 2, "an answer was not remembered"
        super().left(mem)

    def beside(self, victim: Thread, other: Thread, mortal: Sequence[int] = (VICTIM,)) -> Program:
        program = self.program((VICTIM, victim), (OTHER, other), mortal=mortal, timeouts=True)
        program.geometry["nnames"] = self.table.ways
        return program

    def name(self, loc: Loc) -> Any:
        in_slots = isinstance(loc, int) and fixtures.CLIENTS <= loc < fixtures.BUCKETS
        return super().name(loc) if in_slots or isinstance(loc, tuple) else name(loc)


DEATH_BUGS = {
    "dead-asker-waited-for": Bug((Edit("names", "_is_asked", "        and client.is_alive(mem, asker - 1)\n", ""),), ALL,
        "who wants the answer waits for a dead client"),
    "names-unrepaired": Bug((Edit("names", "_lock", "        _repair(mem, me)\n", "        pass\n"),), ALL,
        "a half written name stays in the index"),
    "half-kept": Bug((Edit("names", "is_sound", "        and sequence & 1 == 0\n", ""),), ALL, "the same"),
}  # fmt: skip


@scenario("death/names-answer", DEATH, FEW_PARTS, {
    k: DEATH_BUGS[k] for k in ("dead-asker-waited-for", "names-unrepaired", "half-kept")})  # fmt: skip
def death_answer(core: Core) -> Program:
    """The victim asks for a name that is known, and answers; another client wants the same answer."""
    m = Mortal(core, A)
    return m.beside(m.table.asker(VICTIM, A), m.table.resolver(OTHER, A, looks=False))


@scenario("death/names-answer-both", DEATH, FEW_PARTS, slow=True)
def death_answer_both(core: Core) -> Program:
    """Two clients ask for a name that is known, and answer; both may die."""
    m = Mortal(core, A)
    return m.beside(m.table.asker(VICTIM, A), m.table.asker(OTHER, A), (VICTIM, OTHER))


@scenario("death/names-make", DEATH, FEW_PARTS)
def death_make(core: Core) -> Program:
    """The victim asks for a new name, another client for another one."""
    m = Mortal(core)
    return m.beside(m.table.asker(VICTIM, A), m.table.asker(OTHER, B))


@scenario("death/names-forget", DEATH, FEW_PARTS)
def death_forget(core: Core) -> Program:
    """The victim forgets a name that another client looks up."""
    m = Mortal(core, A)
    return m.beside(m.table.forgetter(VICTIM, A), m.table.reader(OTHER, A))


@scenario("death/names-reclaim", DEATH, FEW_PARTS, slow=True)
def death_reclaim(core: Core) -> Program:
    """The set is full: the victim asks for a third name, while another client looks one of the two up."""
    m = Mortal(core, A, B)
    return m.beside(m.table.asker(VICTIM, C), m.table.reader(OTHER, A))


MARK_BUGS = {
    "mark-unseen": Bug((Edit("names", "join", "        if at and _is_asked(mem, at):\n", "        if False:\n"),), ALL,
        "what was read while the victim wrote is kept, and nobody forgets it"),
}  # fmt: skip


class Marked(Mortal):
    """The victim is asking for B: that is the mark of A, which is being changed."""

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        self.table.begin(mem, VICTIM, B)


@scenario("death/names-change", DEATH, FEW_PARTS, MARK_BUGS)
def death_change(core: Core) -> Program:
    """The victim has marked a name; it forgets it, and changes the origin. Another client asks for the name, looks for the
    mark, then at the origin, and answers if there was no mark.

    In the end the name does not say what the origin was before, wherever the victim died. If it lives, it forgets the name once
    more: that is names/forget-answer.
    """
    m = Marked(core)
    t, layout = m.table, core.layout

    def change(mem: Mem) -> None:
        core.names.forget(mem, VICTIM, A)
        core.atomics.store_relaxed(mem, ORIGIN, 1)

    def read(mem: Mem) -> None:
        id = t.begin(mem, OTHER, A)
        is_marked = core.names.join(mem, OTHER, B, B, B) != 0
        found = core.atomics.load_relaxed(mem, ORIGIN)
        if id > layout.NAME_BUSY and is_marked:
            core.names.withdraw(mem, OTHER, id, 2)
        elif id > layout.NAME_BUSY:
            t.answer(mem, OTHER, id, A, 2 + found)

    def final(mem: Direct, results: list[Any]) -> None:
        known = t.lookup(mem, 0, A)
        assert known in ((None, 3) if core.atomics.load_relaxed(mem, ORIGIN) else (None, 2)), f"the name still says {known}"
        for key in (A, B):
            core.names.forget(mem, 0, key)
        m.left(mem)

    return dataclasses.replace(m.beside(change, read), final=final)
