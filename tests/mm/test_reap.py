"""reap: a client is killed at every step of each operation; a reaper settles what it left, or a second reaper after it.

``make test`` takes a part of the steps, always the same ones; FOLIOCACHE_CHECK=whole takes all.
"""

import traceback

import deaths
import pytest
import world as worlds
from deaths import DYING, LIVING, NAME, REAPER, THIRD, Bench, content_of
from sampled import WHOLE

STRIDE = 13 if WHOLE else 19  # of the steps at which the second client is killed

KEY, OTHER, NEW = 1, 2, 3


@pytest.fixture(scope="module")
def world():
    return worlds.World("deaths", deaths.SMALL)


class Operation:
    """One operation. ``begin`` prepares the segment; ``run`` is what the client is killed in."""

    pages, folios, order, span = 16, 1, 0, 0
    index = 0
    keys = (KEY, OTHER, NEW)
    is_in_use = False  # a living client has a folio that the dead one may name
    stride = 1
    wanted = KEY  # the object that is read afterwards

    def make(self, world):
        bench = Bench(world, self.pages, self.folios, self.order, self.span)
        self.begin(bench)
        return bench

    def begin(self, bench):
        bench.load_all(REAPER, KEY, range(self.folios))

    def interrupt(self, bench):
        """Return what another client does in the middle of it: see ``Bench.killed_at``."""


class Hit(Operation):
    def run(self, bench):
        bench.look_up(DYING, 0, KEY, 0)


class Miss(Operation):
    folios, index = 16, 9

    def begin(self, bench):
        bench.load_all(REAPER, KEY, [8])

    def run(self, bench):
        bench.look_up(DYING, 0, KEY, 9)


class StaleSlot(Hit):
    """The folio is freed between the load of its slot and the get."""

    def interrupt(self, bench):
        return "before", "fetch_add_acquire", 0, lambda: bench.truncate(REAPER, KEY)


class StaleSlotReused(Hit):
    """The same, and its page is another folio by then."""

    def interrupt(self, bench):
        def reuse():
            bench.truncate(REAPER, KEY)
            bench.load_all(REAPER, OTHER, [0])

        return "before", "fetch_add_acquire", 0, reuse


class UnpublishedBehindTheGet(Hit):
    """The getter's second load finds the slot empty, and the getter has the last reference."""

    def interrupt(self, bench):
        pfn = bench.look_up(REAPER, 0, KEY, 0)
        bench.drop(REAPER, 0, pfn)
        return "behind", "fetch_add_acquire", 0, lambda: bench.truncate(REAPER, KEY)


class Release(Operation):
    """Not the last reference."""

    def begin(self, bench):
        self.pfn = bench.load(DYING, 5, KEY, 0)

    def run(self, bench):
        bench.drop(DYING, 5, self.pfn)


class ReleaseLast(Release):
    def begin(self, bench):
        super().begin(bench)
        bench.truncate(REAPER, KEY)


class ReleaseLastLarge(ReleaseLast):
    order = 2


class Load(Operation):
    """A new folio; its block is split from the largest."""

    def begin(self, bench):
        pass

    def run(self, bench):
        bench.load(DYING, 0, KEY, self.index)


class LoadDeep(Load):
    folios, index = 16, 9


class LoadDeepBeside(LoadDeep):
    def begin(self, bench):
        bench.load_all(REAPER, KEY, [4, 5])


class LoadLarge(Load):
    folios, order, index = 4, 2, 3


class LoadEvicting(Load):
    """Every page is in use, and all folios are cold."""

    pages, folios, wanted = 8, 16, NEW

    def begin(self, bench):
        bench.load_all(REAPER, KEY, range(4))

    def run(self, bench):
        bench.load(DYING, 0, NEW, 0)


class LoadLargeEvicting(Load):
    """No block is free that is large enough: one is cleared."""

    pages, folios, wanted = 16, 1, NEW

    def begin(self, bench):
        for key in range(10, 25):
            bench.load_all(REAPER, key, [0])
        bench.order = 1

    keys = (*range(10, 25), OTHER, NEW)

    def run(self, bench):
        bench.load(DYING, 0, NEW, 0)


class LoadWithoutRoom(Load):
    """Every folio is pinned; there is a page for the folio and none for its nodes."""

    pages, folios, wanted, is_in_use = 8, 16, NEW, True

    def begin(self, bench):
        for index in range(4):
            bench.load(LIVING, index, KEY, index)
        self.held = 4
        while bench.free() > 1:
            table = bench.pagetable.make(LIVING, self.held, 1)
            assert table != bench.layout.NIL
            self.held += 1

    def run(self, bench):
        bench.load(DYING, 0, NEW, 9)


class LoadLosing(Load):
    """Another client inserts the same folio first."""

    def begin(self, bench):
        bench.load_all(REAPER, OTHER, [0])

    def interrupt(self, bench):
        return "before", "store_release", 1, lambda: bench.load_all(REAPER, KEY, [0])


class LoadSpan(Load):
    """A folio of four units."""

    folios, span, index = 16, 2, 8


class LoadLargeSpan(Load):
    """A folio of two units of two pages."""

    folios, order, span, index = 8, 1, 1, 4


class LoadSpanLosing(LoadSpan):
    """Another inserts a folio of the last unit first, so that there is room for two."""

    def interrupt(self, bench):
        def load_small():
            bench.span = 0
            bench.load_all(REAPER, KEY, [11])
            bench.span = self.span

        return "before", "store_release", 1, load_small


class FailedFill(Load):
    def run(self, bench):
        bench.fail_fill(DYING, bench.grab(DYING, 0, KEY, 0) & bench.layout.NIL)


class Evict(Operation):
    folios, index = 16, 5

    def begin(self, bench):
        bench.load_all(REAPER, KEY, [5])

    def run(self, bench):
        with bench.operation(DYING):
            bench.vmscan.shrink(DYING, 1)


class EvictOneOfMany(Evict):
    def begin(self, bench):
        bench.load_all(REAPER, KEY, [4, 5])


class EvictSpan(Evict):
    span, index = 2, 4

    def begin(self, bench):
        bench.load_all(REAPER, KEY, [4])


class EvictUsed(Evict):
    """Reclaim finds a folio that is in use."""

    def begin(self, bench):
        bench.load(LIVING, 0, KEY, 5)

    is_in_use = True


class Truncate(Operation):
    folios, index = 5, 4

    def run(self, bench):
        bench.truncate(DYING, KEY)


class Remove(Release):
    folios, index = 5, 0

    def begin(self, bench):
        bench.load_all(REAPER, KEY, [3])
        super().begin(bench)

    def run(self, bench):
        with bench.operation(DYING):
            ino = bench.mapping.lookup(DYING, KEY, KEY + 1)
            bench.filemap.remove(DYING, ino, self.pfn)


class TruncateSpan(Operation):
    folios, span, index = 8, 1, 4

    def begin(self, bench):
        bench.load_all(REAPER, KEY, [0, 4])

    def run(self, bench):
        bench.truncate(DYING, KEY)


class RemoveSpan(Remove):
    folios, span, index = 8, 2, 0

    def begin(self, bench):
        bench.load_all(REAPER, KEY, [4])
        Release.begin(self, bench)


class OpenAndRelease(Operation):
    """A record that never gets a folio."""

    def begin(self, bench):
        bench.load_all(REAPER, OTHER, [0])

    def run(self, bench):
        ino = bench.open_mapping(DYING, KEY)
        with bench.operation(DYING):
            bench.mapping.release(DYING, ino)


class OpenInOneChain(OpenAndRelease):
    """Its chain has another record."""

    def begin(self, bench):
        bench.load_all(REAPER, KEY + bench.shape["nbuckets"], [0])

    keys = (KEY, KEY + 64, OTHER)


class Shrink(Operation):
    folios, index = 16, 5

    def begin(self, bench):
        bench.load_all(REAPER, KEY, [5])
        bench.truncate(REAPER, KEY)

    def run(self, bench):
        with bench.operation(DYING):
            while bench.slab.shrink(DYING):
                pass


class Sweep(Operation):
    def begin(self, bench):
        for key in (KEY, OTHER):
            bench.open_mapping(REAPER, key)

    def run(self, bench):
        bench.reap.sweep(DYING)


class Table(Operation):
    folios, index = 4, 2
    entries = 8

    def begin(self, bench):
        bench.load_all(REAPER, KEY, range(4))


class MakeTable(Table):
    stride = 7

    def run(self, bench):
        bench.pagetable.make(DYING, 0, self.entries)


class MakeLargeTable(MakeTable):
    entries, stride = 3000, 101


class MoveIntoTable(Table):
    def begin(self, bench):
        super().begin(bench)
        self.table = bench.pagetable.make(DYING, 0, self.entries)
        self.pfn = bench.look_up(DYING, 1, KEY, 2)

    def run(self, bench):
        bench.pagetable.move(DYING, 1, self.table, 3, self.pfn)


class LookupInTable(MoveIntoTable):
    def begin(self, bench):
        super().begin(bench)
        super().run(bench)

    def run(self, bench):
        bench.pagetable.lookup(DYING, 1, self.table, 3)


class ReleaseTable(MoveIntoTable):
    """One of its folios has been withdrawn and is freed with the table."""

    def begin(self, bench):
        super().begin(bench)
        super().run(bench)
        bench.pagetable.move(DYING, 1, self.table, 5, bench.look_up(DYING, 1, KEY, 1))
        bench.truncate(REAPER, KEY)

    def run(self, bench):
        bench.pagetable.release(DYING, 0, self.table)


class AskName(Operation):
    """A new name, in a new page."""

    def run(self, bench):
        assert bench.ask(DYING, NAME, 20)


class AskNameAgain(AskName):
    def begin(self, bench):
        super().begin(bench)
        assert bench.ask(REAPER, NAME, 10)


class AskNameReclaiming(AskName):
    """The set is full."""

    def begin(self, bench):
        super().begin(bench)
        for key in range(100, 100 + bench.shape["nnames"]):
            assert bench.ask(REAPER, key, 10)


class AskNameEvicting(AskName):
    """Every page is in use, and all folios are cold."""

    folios = 16

    def begin(self, bench):
        index = 0
        while bench.free():
            bench.load_all(REAPER, KEY, [index])
            index += 1


class ForgetName(AskNameAgain):
    def run(self, bench):
        assert bench.names.forget(DYING, NAME)


class WithdrawName(Operation):
    """Another sleeps for the answer."""

    def begin(self, bench):
        super().begin(bench)
        self.id = bench.names.begin(DYING, NAME, NAME, NAME, 10, 10, b"", 0)
        assert bench.names.join(REAPER, NAME, NAME, NAME)

    def run(self, bench):
        bench.names.withdraw(DYING, self.id, 10)


OPERATIONS = {operation.__name__: operation for operation in (
    Hit, Miss, StaleSlot, StaleSlotReused, UnpublishedBehindTheGet, Release, ReleaseLast, ReleaseLastLarge, Load,
    LoadDeep, LoadDeepBeside, LoadLarge, LoadEvicting, LoadLargeEvicting, LoadWithoutRoom, LoadLosing, FailedFill,
    Evict, EvictOneOfMany, EvictUsed, Truncate, Remove, OpenAndRelease, OpenInOneChain, Shrink, Sweep, MakeTable,
    MakeLargeTable, MoveIntoTable, LookupInTable, ReleaseTable, AskName, AskNameAgain, AskNameReclaiming, AskNameEvicting,
    ForgetName, WithdrawName, LoadSpan, LoadLargeSpan, LoadSpanLosing, EvictSpan,
    TruncateSpan, RemoveSpan,
)}  # fmt: skip


def stops(operation, world, first=0, stride=1):
    """Yield the segment after each kill, and at last after the operation's end, with its client dead; and where the kill
    was."""
    bench = operation.make(world)
    image = bytes(bench.buffer)
    k, place = first, ""
    while place is not None:
        bench.restore(image)
        with bench.killed_at(k, DYING, operation.interrupt(bench)) as steps:
            operation.run(bench)
        place = steps.place
        bench.die(DYING)
        yield bench, f"{operation.__class__.__name__} {k}: {place}"
        k += stride


def let_go(bench):
    """The living client releases what it holds."""
    for n in range(bench.layout.PINS):
        pfn = bench.read(bench.client.pin(LIVING, n)) & bench.layout.PIN_PFN
        if pfn and bench.page_type.type(pfn) == bench.layout.TYPE_TABLE:
            bench.pagetable.release(LIVING, n, pfn)
        elif pfn:
            bench.drop(LIVING, n, pfn)


def check(operation, bench, me):
    """Assert that everything is settled, and that the segment works."""
    if operation.is_in_use:
        let_go(bench)
        assert bench.settle(me, bench.dead()) == 0
    bench.assert_settled()
    bench.assert_works(me, operation.wanted, operation.index)
    bench.assert_settled()
    bench.assert_whole(me, operation.keys)


def reaped(operation, bench):
    waiting = bench.settle(REAPER, [DYING])
    assert waiting == 0 or operation.is_in_use
    check(operation, bench, REAPER)


def adopted(operation, bench):
    """The next client in its slot settles it."""
    waiting = bench.adopt(DYING)
    assert waiting == 0 or operation.is_in_use
    if waiting == 0:
        check(operation, bench, DYING)


def missed(operation, bench):
    """Other clients use the same object before a reaper runs."""
    for key in (operation.wanted, OTHER):
        if (pfn := bench.load(THIRD, 0, key, operation.index)) != bench.layout.NIL:
            assert bench.content(pfn) == content_of(key, operation.index)
            bench.drop(THIRD, 0, pfn)
    bench.ask(THIRD, NAME, 30)
    bench.names.forget(THIRD, NAME)
    with bench.operation(THIRD):
        bench.vmscan.shrink(THIRD, 2)
    reaped(operation, bench)


def errors_of(place, function, *args):
    """Return the failed assertions, with where the client was killed."""
    try:
        function(*args)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return [f"{place}\n    {where.name}:{where.lineno} {error!r}"]
    return []


@pytest.mark.parametrize("heir", [reaped, adopted, missed])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_client_may_die_at_every_step(world, name, heir):
    operation = OPERATIONS[name]()
    stride = operation.stride * (1 if heir is reaped else 4) * (1 if WHOLE else 2)
    failed = []
    for bench, place in stops(operation, world, 0, stride):
        failed += errors_of(place, heir, operation, bench)
    assert not failed, "\n".join(failed)


def settles(operation, bench):
    bench.settle(REAPER, [DYING])


def adopts(operation, bench):
    bench.adopt(DYING)


def works(operation, bench):
    """A client that finds the dead client's locks and folios before it is reaped."""
    bench.load(REAPER, 0, operation.wanted, operation.index)
    bench.ask(REAPER, NAME, 30)


TWICE = (
    "StaleSlotReused", "ReleaseLast", "LoadDeepBeside", "LoadEvicting", "EvictOneOfMany", "Shrink", "ReleaseTable",
    "AskNameAgain", "AskNameReclaiming", "LoadSpanLosing", "RemoveSpan",
)  # fmt: skip


@pytest.mark.parametrize("duty", [settles, adopts, works])
@pytest.mark.parametrize("name", TWICE)
def test_who_comes_after_it_may_die_as_well(world, name, duty):
    """A third client settles both."""
    operation = OPERATIONS[name]()
    heir = DYING if duty is adopts else REAPER
    failed = []
    for number, (bench, place) in enumerate(stops(operation, world, 1, 17 if WHOLE else 23)):
        image, dead = bytes(bench.buffer), set(bench.mem.dead)
        k, second = number % STRIDE, ""
        while second is not None:
            bench.restore(image, dead)
            with bench.killed_at(k, heir) as steps:
                duty(operation, bench)
            second = steps.place
            bench.die(heir)
            failed += errors_of(f"{place}, then {k}: {second}", settled_by_a_third, operation, bench)
            k += STRIDE
    assert not failed, "\n".join(failed)


def settled_by_a_third(operation, bench):
    waiting = bench.settle(THIRD, bench.dead())
    assert waiting == 0 or operation.is_in_use
    check(operation, bench, THIRD)


@pytest.mark.parametrize("name", ["Hit", "Release", "EvictUsed", "Remove"])
def test_a_folio_that_a_living_client_holds_waits_for_it(world, name):
    """It keeps page and content, the page is not reused, and once it has released it everything is settled."""
    operation = OPERATIONS[name]()
    waited = 0
    for bench, _ in stops(operation, world):
        pfn = bench.look_up(LIVING, 7, KEY, operation.index)
        if pfn == bench.layout.NIL:
            continue
        named = bench.has_intent(DYING, pfn)
        assert bench.settle(REAPER, [DYING]) == named
        assert bench.client.state(DYING) == (bench.layout.SLOT_DEAD if named else bench.layout.SLOT_CLEAN)
        assert bench.content(pfn) == content_of(KEY, operation.index)
        assert bench.settle(REAPER, bench.dead()) == named
        bench.drop(LIVING, 7, pfn)
        let_go(bench)
        assert bench.settle(REAPER, bench.dead()) == 0
        check(operation, bench, REAPER)
        waited += named
    assert waited > 1


def test_names_that_have_to_wait_are_gathered_in_one_slot(world):
    """So that the other slots can be reused. The reaper may be killed at every step."""
    bench = Bench(world, folios=2)
    for number, pfn in zip((DYING, THIRD), bench.load_all(REAPER, KEY, [0, 1]), strict=True):
        assert bench.look_up(LIVING, number, KEY, (DYING, THIRD).index(number)) == pfn
        bench.client.op_begin(number)
        bench.client.announce(number, pfn)
        bench.die(number)
    image, k, killed = bytes(bench.buffer), 0, ""
    while killed is not None:
        bench.restore(image, {DYING, THIRD})
        with bench.killed_at(k, REAPER) as steps:
            assert bench.settle(REAPER, [DYING, THIRD]) == 1
        killed = steps.place
        assert bench.settle(LIVING, bench.dead()) == 1
        assert bench.dead() == [DYING], f"{k}: {killed}"
        for number in (DYING, THIRD):
            bench.drop(LIVING, number, bench.read(bench.client.pin(LIVING, number)) & bench.layout.PIN_PFN)
        assert bench.settle(LIVING, bench.dead()) == 0
        bench.assert_settled()
        bench.assert_whole(LIVING, [KEY])
        k += 1
    assert k > 50


def test_a_slot_without_room_keeps_its_own_names(world):
    bench = Bench(world)
    layout = bench.layout
    for n in range(layout.PINS):
        bench.write(bench.client.pin(DYING, n), layout.PIN_INTENT | 1)
    bench.client.announce(THIRD, 2)
    assert not bench.reap.hand_over_unresolved(THIRD, DYING)
    assert bench.has_intent(THIRD, 2)


def test_a_client_in_an_operation_is_waited_for(world):
    """It may have loaded the slot before the folio was withdrawn."""
    operation = Hit()
    for bench, _ in stops(operation, world):
        if bench.client.is_idle(DYING):
            continue
        if not any(bench.has_intent(DYING, pfn) for pfn in range(bench.pages)):
            continue
        bench.client.op_begin(LIVING)
        assert bench.settle(REAPER, [DYING]) == 1
        bench.client.op_end(LIVING)
        assert bench.settle(REAPER, [DYING]) == 0
        check(operation, bench, REAPER)


def test_a_stale_reference_on_a_page_of_objects_is_taken_back(world):
    """Its getter died before it saw that the page is not a FILE. The page stays, with only its slab cache's reference."""
    bench = Bench(world)
    bench.load_all(REAPER, KEY, [0])
    ino = bench.mapping.lookup(REAPER, KEY, KEY + 1)
    page = bench.slab.pfn_of(ino & bench.layout.OBJECT_MASK)
    bench.client.op_begin(DYING)
    bench.client.announce(DYING, page)
    bench.page_ref.try_get(bench.at(page))
    bench.die(DYING)
    assert bench.settle(REAPER, [DYING]) == 0
    assert bench.count(page) == 1
    bench.assert_settled()
    bench.assert_works(REAPER, KEY, 0)
