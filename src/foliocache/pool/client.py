"""This process as a client of a segment; and settling the slots of dead clients.

``slot.ClientSlot`` holds the kernel's lock on a byte of the file, and with it a slot of the client table. A slot is *clean* if
no folio is named in it. A slot that is not clean and whose lock is free is a dead client's. ``reap`` settles those slots
(``mm.reap`` says how). One process at a time does so: it has the lock on one more byte (``slot.Reaping``). No lock outlives its
holder.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Literal

from ..errors import PoolError, PoolFullError
from ..mm import atomics, backing, layout
from ..mm import client as core
from ..mm import reap as reaper
from ..observe import notices
from ..observe.records import ClientInfo
from ..sizes import format_size
from .slot import ClientSlot, Reaping, is_reaping_here

if TYPE_CHECKING:
    from .segment import Segment

STATES: dict[int, Literal["clean", "attached", "dead"]] = {
    layout.SLOT_CLEAN: "clean",
    layout.SLOT_ATTACHED: "attached",
    layout.SLOT_DEAD: "dead",
}
# Seconds that a process without a clean slot waits for another process that reaps, which may be stopped.
ADOPT_WAIT = 10.0
_LOOK_AGAIN = 0.01


def opened(segment: Segment) -> ClientSlot:
    """Return a ClientSlot for this process with its descriptor open, and no number yet. Raises PoolError."""
    slot = ClientSlot(segment)
    _open(slot)
    return slot


def _open(slot: ClientSlot) -> None:
    segment = slot.segment
    if not segment.geometry["fenced"]:
        atomics.membarrier_errno()  # registers this process: attaching has done so already, a forked child has not
    try:
        slot.open()
    except OSError as error:
        raise PoolError(
            f"pool {segment.name!r} ({segment.path}) cannot be opened again by this process: {error.strerror}. A process that "
            "has given up the right to open it, or changed its root, must have attached before, or be forked by one that may; "
            "where descriptors have run out (ulimit -n), close some"
        ) from None


def adopt(slot: ClientSlot) -> None:
    """Take the slot of a dead client, after ``slot.claim`` found no clean one, and settle it. Raises PoolError.

    A reaper has the locks of the slots of dead clients, so this process must become the reaper.
    """
    segment = slot.segment
    _open(slot)
    deadline = time.monotonic() + ADOPT_WAIT
    while not slot.join():
        with (right := Reaping(slot)) as reaping:
            if reaping and (slot.join() or _adopt_one(slot)):  # another thread may have adopted one meanwhile
                return
        if right.problem:
            raise PoolError(f"pool {segment.name!r} cannot be used: {segment.path} cannot be locked: {right.problem}")
        if reaping and segment.slots < segment.geometry["nclients"]:
            raise PoolFullError(
                f"pool {segment.name!r} has {segment.slots} client slots with memory, all are in use, and there is no memory "
                f"for another one ({format_size(layout.CLIENT_SIZE)}): {os.path.dirname(segment.path)} is full. End a process "
                f"that uses the pool, let one call Pool.trim, or enlarge the file system (docker run --shm-size=...)"
            )
        if reaping:
            raise PoolError(
                f"pool {segment.name!r} has room for {segment.geometry['nclients']} client processes and all are attached; "
                "stop one, or create it with a larger clients="
            )
        if is_reaping_here(slot):
            raise PoolError(
                f"pool {segment.name!r} is being attached by this thread, which a signal handler or a finalizer that uses the "
                "pool has interrupted; use the pool once before that can happen, or in another thread"
            )
        if time.monotonic() > deadline:
            raise PoolError(
                f"pool {segment.name!r} has no free client slot, and another process has been cleaning up after dead ones for "
                f"{ADOPT_WAIT:.0f} s; is one of its users stopped?"
            )
        time.sleep(_LOOK_AGAIN)


def _adopt_one(slot: ClientSlot) -> bool:
    for number in range(slot.segment.slots):
        if slot.lock(number) and (core.state(slot.segment.mem, number) == layout.SLOT_CLEAN or _inherit(slot, number)):
            slot.keep(number)
            return True
    return False


def _inherit(slot: ClientSlot, number: int) -> bool:
    """As the next client of a slot, settle what the last one and all other dead clients have left. Return True if the slot can
    be used.

    Other processes see the slot as attached and alive from here on. The dead client's intents are moved to the ledger first, so
    that CLIENT_OPS is free for this process's own.
    """
    mem = slot.segment.mem
    core.move_intents(mem, number)
    core.attach(mem, number)
    _settle(mem, number, [*_find_dead(slot, number), number])
    return core.is_idle(mem, number)


def reap(slot: ClientSlot) -> tuple[int, int]:
    """Settle what dead clients have left. Return how many there are, and how many of them wait for a living client's lease.

    Does nothing while another process, or another thread of this one, reaps.
    """
    mem, me = slot.segment.mem, slot.number
    with Reaping(slot) as reaping:
        dead = _find_dead(slot, me) if reaping else []
        if not dead:
            return 0, 0
        waiting = _settle(mem, me, dead)
    notices.dead_clients(slot.segment.name, len(dead), waiting)
    return len(dead), waiting


def _find_dead(slot: ClientSlot, me: int) -> list[int]:
    """Return the slots of dead clients other than me, with their locks taken, so that no other process adopts them."""
    mem = slot.segment.mem
    numbers = range(slot.segment.slots)
    dead = [n for n in numbers if n != me and core.state(mem, n) != layout.SLOT_CLEAN and slot.lock(n)]
    for number in dead:
        core.set_state(mem, number, layout.SLOT_DEAD)
    return dead


def repair(slot: ClientSlot) -> int:
    """Clear damaged words in the slots without a holder, and settle those of dead clients. Return how many words or slots were
    damaged.

    A clean slot names no folio. In a dead client's slot, words are cleared that name a page beyond the pool or have neither
    bit; a word with both bits, owned and intent, becomes an intent. Does nothing while another process reaps.
    """
    segment, me = slot.segment, slot.number
    with Reaping(slot) as reaping:
        if not reaping:
            return 0
        damaged, dead = int(_repair_slots(segment)), []
        for number in range(segment.slots):
            if number == me or not slot.lock(number):
                continue
            if not _is_sound(segment, number):
                damaged += _repair_slot(segment, number)
            if core.state(segment.mem, number) == layout.SLOT_CLEAN:
                slot.unlock(number)
            else:
                core.set_state(segment.mem, number, layout.SLOT_DEAD)
                dead.append(number)
        if dead:
            _settle(segment.mem, me, dead)
        return damaged


def _repair_slots(segment: Segment) -> bool:
    """Find the slots again that have been held, if the number of those with memory is too small. True if it was."""
    before = segment.slots
    for number in range(segment.geometry["nclients"] - 1, before - 1, -1):
        if is_alive(segment, number) or _has_been_written(segment, number):
            while segment.slots <= number and backing.back_slot(segment.mem):
                pass
            return True
    return False


def _has_been_written(segment: Segment, number: int) -> bool:
    at = offset(segment, number)
    try:
        return os.lseek(segment.fd, at, os.SEEK_DATA) < at + layout.CLIENT_SIZE
    except OSError:  # there is no data behind this place
        return False


def _is_sound(segment: Segment, number: int) -> bool:
    """Return True if a slot is clean in every word. Nearly all are, and checking them takes no lock of the core."""
    mem = segment.mem
    return (
        core.state(mem, number) == layout.SLOT_CLEAN
        and core.is_idle(mem, number)
        and not core.op_seq(mem, number) & 1
        and not segment.memory.peek32(offset(segment, number) + layout.CLIENT_UNNAMED)
    )


def _repair_slot(segment: Segment, number: int) -> bool:
    """Correct what can only be damage in a slot whose lock this process has. True if there was any."""
    mem, memory = segment.mem, segment.memory
    state = core.state(mem, number)
    wrong = {}
    for n in range(core.words(mem)):
        at = core.word_at(mem, number, n)
        right = _repaired(segment, state, memory.peek32(at), n < layout.OPS)
        if right is not None:
            wrong[at] = right
    unnamed = offset(segment, number) + layout.CLIENT_UNNAMED
    if memory.peek32(unnamed):
        wrong[unnamed] = 0
    for at, right in wrong.items():
        memory.poke32(at, right)
    if state not in STATES:
        core.set_state(mem, number, layout.SLOT_DEAD)
    elif state == layout.SLOT_CLEAN and core.op_seq(mem, number) & 1:
        core.detach(mem, number)
    else:
        return bool(wrong)
    return True


def _repaired(segment: Segment, state: int, word: int, is_intent: bool) -> int | None:
    """Return the value that a word of a slot in this state must have; None if the word may be right. is_intent: it is one of
    CLIENT_OPS."""
    if word == 0:
        return None
    pfn, mark = word & layout.PIN_PFN, word & ~layout.PIN_PFN
    if state == layout.SLOT_CLEAN or pfn >= segment.geometry["npages"] or not mark:
        return 0
    if mark == layout.PIN_OWNED and segment.memory.peek32(_count_at(segment, pfn)) & layout.FROZEN:
        return 0  # a frozen folio has no references
    return (
        pfn | layout.PIN_INTENT
        if mark == layout.PIN_INTENT | layout.PIN_OWNED or (is_intent and mark == layout.PIN_OWNED)
        else None
    )


def _count_at(segment: Segment, pfn: int) -> int:
    return segment.geometry["memmap"] + pfn * layout.FOLIO_SIZE + layout.F_REF


def _settle(mem: int, me: int, dead: list[int]) -> int:
    """Settle the locks of all dead clients, then all their pins, then their intents. Return how many slots stay in state
    SLOT_DEAD: at most one, which keeps what has to wait, unless its words do not suffice."""
    for number in dead:
        reaper.locks(mem, me, number)
    for number in dead:
        reaper.pins(mem, me, number)
    keepers: list[int] = []
    for number in dead:
        if reaper.resolve_intents(mem, me, number) and not any(
            reaper.hand_over_unresolved(mem, number, keeper) for keeper in keepers
        ):
            keepers.append(number)
        elif number != me:
            core.detach(mem, number)
    reaper.sweep(mem, me)
    return len(keepers)


def is_alive(segment: Segment, number: int) -> bool:
    """Return True if a process holds this slot."""
    return core.is_alive(segment.mem, number)


def offset(segment: Segment, number: int) -> int:
    """Return the offset of a slot in the segment."""
    return segment.geometry["clients"] + number * layout.CLIENT_SIZE


def describe(segment: Segment, number: int) -> ClientInfo:
    """Return a slot as a ClientInfo. One that has never been held is clean, with pid 0."""
    at, memory = offset(segment, number), segment.memory
    state = STATES.get(core.state(segment.mem, number), "dead")
    if state == "attached" and not is_alive(segment, number):
        state = "dead"
    return ClientInfo(
        slot=number,
        pid=memory.peek32(at + layout.CLIENT_PID),
        pid_namespace=memory.peek64(at + layout.CLIENT_PID_NAMESPACE),
        attached=memory.peek64(at + layout.CLIENT_ATTACHED) / 1e9,
        state=state,
        pins=core.pins(segment.mem, number) if state != "clean" else 0,
    )


def counter(segment: Segment, number: int, n: int) -> int:
    """Return the n-th of ``layout.COUNTERS`` of a slot, summed over all clients that have held it."""
    return segment.memory.peek64(offset(segment, number) + layout.CLIENT_COUNTERS + n * 8)


def attached(segment: Segment) -> int:
    """Return how many processes are attached now, or have died and are not settled."""
    return sum(core.state(segment.mem, number) == layout.SLOT_ATTACHED for number in range(segment.slots))


def used_slots(segment: Segment) -> list[int]:
    """Return the numbers of the slots that have ever been held."""

    def is_used(number: int) -> bool:
        generation = segment.memory.peek32(offset(segment, number) + layout.CLIENT_GENERATION)
        return generation != 0 or core.state(segment.mem, number) != layout.SLOT_CLEAN

    return [number for number in range(segment.slots) if is_used(number)]
