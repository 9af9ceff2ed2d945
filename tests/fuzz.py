"""A fuzzer of pools: damages copies of a pool, and requires that a process that uses them never crashes, hangs or reads wrong
bytes.

``python tests/fuzz.py FIRST COUNT`` tries mutants FIRST .. FIRST + COUNT - 1, prints each that fails, and statistics; exits
with 1 if one has failed. A mutant's number is its seed: ``python tests/fuzz.py N 1`` tries the same damage again.

Four pools are damaged: two page sizes, each as a process leaves it that is killed in the middle of everything (leases, a
window, a fill), and as it is when that has been settled. Everything but the bytes that users read may be damaged. In a child of
its own, each mutant is attached, read, listed, audited, repaired by the command line, read and audited again. Wanted:

- no crash, no hang, no exception but FoliocacheError and MemoryError, no traceback from the command line;
- every byte that is read is right;
- after ``fsck --repair`` nothing is left to find, and nothing appears while the pool is used again.
"""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter

import foliocache
from foliocache.cli import app
from foliocache.mm import layout
from foliocache.pool import files
from foliocache.pool import segment as segments

SIZES = [100_000, 1_500_000, 5_000, 9_000_000, *[3_000] * 50, *[20_000] * 8]
NAMES = 30
FILLING = len(SIZES)  # the object whose fill is never finished
SIZES.append(8_000)
POOLS = (("4KiB", "2MiB"), ("16KiB", "4MiB"))
CLIENTS = 8
DEADLINE = 20  # seconds for one mutant
READS = 50
LENGTHS = (10, 5_000, 30_000)
INTERNAL_ERROR = 70
ALLOWED = (foliocache.FoliocacheError, MemoryError)
PATTERN = random.Random(0).randbytes(max(SIZES) + 4096)


def content(number, offset, length):
    """Return bytes of an object; no other object has the same bytes at the same offset."""
    start = offset + 61 * number
    return PATTERN[start : start + max(0, min(length, SIZES[number] - offset))]


def mapping(pool, number, read=None):
    return pool.mapping(
        f"object {number}", SIZES[number], "1", read or (lambda offset, length: content(number, offset, length))
    )


class Base:
    """A pool to damage: its bytes and its geometry."""

    def __init__(self, image, shape):
        self.image = image
        self.shape = shape
        self.page = 1 << shape["page_shift"]
        self.kinds = [self.word(self.at(pfn, layout.F_TYPE)) & layout.TYPE_MASK for pfn in range(shape["npages"])]
        self.objects = [pfn for pfn, kind in enumerate(self.kinds) if kind > layout.TYPE_FILE]
        self.files = [pfn for pfn, kind in enumerate(self.kinds) if kind == layout.TYPE_FILE]
        self.unfilled = [pfn for pfn in self.files if not self.word(self.at(pfn, layout.F_FLAGS)) & layout.PG_UPTODATE]

    def at(self, pfn, field):
        return self.shape["memmap"] + pfn * layout.FOLIO_SIZE + field

    def word(self, at):
        return int.from_bytes(self.image[at : at + 4], "little")

    def regions(self):
        """Return (name, begin, end) of everything that may be damaged: all except free pages and user data."""
        shape = self.shape
        return [
            ("identity", 0, 128),
            ("globals", 512, layout.TREE_LOCK),
            ("tree locks", layout.TREE_LOCK, layout.HEADER_SIZE),
            ("clients", shape["clients"], shape["clients"] + CLIENTS * layout.CLIENT_SIZE),
            ("buckets", shape["buckets"], shape["buckets"] + 4 * shape["nbuckets"]),
            ("ghosts", shape["ghosts"], shape["ghosts"] + 4 * shape["nghosts"]),
            ("names", shape["names"], shape["names"] + 4 * shape["nnames"]),
            ("folios", shape["memmap"], shape["memmap"] + layout.FOLIO_SIZE * shape["npages"]),
            *[("objects", shape["data"] + pfn * self.page, shape["data"] + (pfn + 1) * self.page) for pfn in self.objects],
        ]


def bases():
    """Make the pools: the same in every run except for times, pids and the pool's own number."""
    found = []
    for page_size, size in POOLS:
        found += _pool(page_size, size)
    return found


def _pool(page_size, size):
    name = "base"
    ready, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _live(name, page_size, size, go)
        finally:
            os._exit(1)
    os.close(go)
    alive = os.read(ready, 1)
    os.close(ready)
    killed = _read(name)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert alive == b"x", "the process that makes the pool has failed"
    _in_child(lambda: foliocache.attach(name).close())
    settled = _read(name)
    segment = segments.attach(name)
    shape = dict(segment.geometry)
    foliocache.remove(name)
    return [Base(killed, shape), Base(settled, shape)]


def _live(name, page_size, size, go):
    """Use a pool until this process is killed."""
    pool = foliocache.open(name, size=size, max_size=size, page_size=page_size, clients=CLIENTS)
    rng = random.Random(1)
    objects = [mapping(pool, number) for number in range(FILLING)]
    for _ in range(400):
        number = rng.randrange(FILLING)
        objects[number].read_bytes(rng.randrange(SIZES[number]), rng.choice(LENGTHS))
    held = [objects[number].lease(0) for number in (0, 1, 5, 9)]
    for number in range(NAMES):
        pool.names.ask(f"object {number}").answer(SIZES[number], "1")
    asking = pool.names.ask("asked")

    def stopped(offset, length):
        os.write(go, b"x")
        while held:
            signal.pause()

    with objects[0].window(0, 50_000):
        mapping(pool, FILLING, stopped).read(0, 10)
    asking.withdraw()


def _read(name):
    with open(files.path_of(name), "rb") as file:
        return file.read()


def _in_child(function):
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


class Mutant:
    """One damaged copy: ``bytes``, and in ``notes`` the damage."""

    def __init__(self, seed, bases):
        self.rng = random.Random(seed)
        self.number = self.rng.randrange(len(bases))
        self.base = bases[self.number]
        self.bytes = bytearray(self.base.image)
        self.notes = []
        self.kind = self.rng.choice(OPERATIONS)
        getattr(self, self.kind)()

    def region(self):
        names = sorted({name for name, _, _ in self.base.regions()})
        name = self.rng.choice([*names, "folios", "folios", "objects", "objects", "clients"])
        return self.rng.choice([region for region in self.base.regions() if region[0] == name])

    def place(self):
        """Return the offset of a word, and the end of what may be damaged after it. Words in use are chosen more often."""
        name, begin, end = self.region()
        if name == "folios":
            pfn = self.rng.choice((self.rng.randrange(self.base.shape["npages"]), self.rng.choice(self.base.files)))
            return self.base.at(pfn, 4 * self.rng.randrange(layout.FOLIO_SIZE // 4)), end
        if name == "clients" and self.rng.random() < 0.7:
            return begin + 4 * self.rng.randrange(layout.CLIENT_LEDGER // 4 + 8), end
        if name == "objects" and self.rng.random() < 0.5:
            size = self.rng.choice((layout.NODE_SIZE, layout.MAPPING_SIZE, layout.NAME_SIZE))
            place = self.rng.randrange(self.base.page // size) * size + 4 * self.rng.randrange(layout.NODE_SLOTS // 4 + 2)
            return begin + place, end
        return begin + 4 * self.rng.randrange((end - begin) // 4), end

    def value(self, old):
        """Return a value that is likely to do harm."""
        rng, pages = self.rng, self.base.shape["npages"]
        pfn = rng.randrange(pages + 2)
        return rng.choice(
            (
                0, 1, 2, old + 1, old - 1, old ^ 1, old ^ 1 << rng.randrange(32), rng.getrandbits(32), 0xFFFFFFFF, 0x7FFFFFFF,
                pfn, pages << 1, (pfn + 1) << 1, pfn << 1 | layout.XA_NODE, layout.FROZEN, layout.FROZEN | pfn,
                layout.PIN_OWNED | pfn, layout.BUDDY_PARKED, layout.BUDDY_QUARANTINED, rng.randrange(12),
                rng.randrange(12) << layout.ORDER_SHIFT | rng.randrange(6),
            )
        ) & 0xFFFFFFFF  # fmt: skip

    def poke(self, at, value):
        self.notes.append(f"word at {at}: {int.from_bytes(self.bytes[at : at + 4], 'little'):#x} -> {value:#x}")
        self.bytes[at : at + 4] = value.to_bytes(4, "little")

    def word(self):
        at, _ = self.place()
        self.poke(at, self.value(self.base.word(at)))

    def words(self):
        for _ in range(self.rng.randrange(2, 12)):
            self.word()

    def many(self):
        for _ in range(self.rng.randrange(50, 800)):
            self.word()

    def bits(self):
        for _ in range(self.rng.randrange(1, 40)):
            at = self.rng.randrange(self.base.shape["data"])
            self.bytes[at] ^= 1 << self.rng.randrange(8)
            self.notes.append(f"bit of byte {at}")

    def fill(self):
        at, end = self.place()
        size = min(self.rng.choice((4, 64, 512, 4096, 20_000)), end - at)
        byte = self.rng.choice((b"\0", b"\xff", b"\x01"))
        self.bytes[at : at + size] = byte * size
        self.notes.append(f"{size} bytes of {byte!r} at {at}")

    def field(self):
        """Damage the same field of many descriptors."""
        field, value = 4 * self.rng.randrange(layout.FOLIO_SIZE // 4), self.value(0)
        for pfn in range(self.base.shape["npages"]):
            if self.rng.random() < 0.3:
                self.poke(self.base.at(pfn, field), value)

    def kinds(self):
        """Damage the type or the identity of a page in use, in one or two words."""
        for _ in range(self.rng.randrange(1, 6)):
            pfn = self.rng.choice(self.base.files + self.base.objects)
            kind, mark = self.rng.randrange(6) | self.rng.randrange(12) << layout.ORDER_SHIFT, self.rng.randrange(13)
            field, value = self.rng.choice(
                (
                    (layout.F_TYPE, kind),
                    (layout.F_BUDDY, mark),
                    (layout.F_BUDDY, layout.BUDDY_PARKED),
                    (layout.F_LENGTH, self.rng.choice((0, 1, self.base.page + 1, 1 << 31))),
                    (layout.F_FLAGS, self.rng.randrange(128)),
                )
            )
            self.poke(self.base.at(pfn, field), value)

    def shuffle(self):
        """Copy cache lines over others."""
        for _ in range(self.rng.randrange(1, 10)):
            source, target = self.place()[0] & ~63, self.place()[0] & ~63
            self.bytes[target : target + 64] = self.base.image[source : source + 64]
            self.notes.append(f"line at {source} to {target}")

    def swap(self):
        """Exchange words of two descriptors, or of two records or nodes."""
        for _ in range(self.rng.randrange(1, 6)):
            if self.rng.random() < 0.5:
                one, other = (self.base.at(self.rng.choice(self.base.files), 0) for _ in range(2))
                place, size = self.rng.choice(((layout.F_INO, 8), (layout.F_INDEX, 8), (layout.F_INO, 16), (layout.F_TYPE, 4)))
            else:
                one, other = (self.object_at() for _ in range(2))
                place, size = self.rng.choice(((0, 4), (layout.MAPPING_INO, 8), (layout.MAPPING_DIGEST_LO, 16), (64, 64)))
            for target, source in ((one, other), (other, one)):
                self.bytes[target + place : target + place + size] = self.base.image[source + place : source + place + size]
            self.notes.append(f"{size} bytes at {one + place} and {other + place} swapped")

    def object_at(self):
        kinds = (
            (layout.TYPE_NODE, layout.NODE_SIZE),
            (layout.TYPE_INODE, layout.MAPPING_SIZE),
            (layout.TYPE_NAME, layout.NAME_SIZE),
        )
        kind, size = self.rng.choice(kinds)
        pfn = self.rng.choice([pfn for pfn in self.base.objects if self.base.kinds[pfn] == kind])
        return self.base.shape["data"] + pfn * self.base.page + self.rng.randrange(self.base.page // size) * size

    def cut(self):
        size = len(self.bytes)
        del self.bytes[self.rng.choice((0, 16, 107, 128, 4096, size // 2, size - 1, self.rng.randrange(size))) :]
        self.notes.append(f"cut to {len(self.bytes)} bytes")

    def extend(self):
        self.bytes += bytes(self.rng.choice((1, 4096, 100_000)))
        self.notes.append(f"extended to {len(self.bytes)} bytes")

    def changed(self, pfns, field):
        """True if this field of one of these descriptors is damaged."""
        places = [self.base.at(pfn, field) for pfn in pfns]
        return any(self.bytes[at : at + 4] != self.base.image[at : at + 4] for at in places)

    def excused(self):
        """Return objects whose bytes may be wrong. Only PG_UPTODATE says that a page has its content (docs/limits.md, "Trust"):
        if the flags of the page that was being filled are damaged, its object is not asked for."""
        return {FILLING} if self.changed(self.base.unfilled, layout.F_FLAGS) else set()

    def may_lose_pins(self):
        """True if a page may be evicted while it is held. Only the count says how many hold it (docs/limits.md, "Trust")."""
        return self.changed(self.base.files, layout.F_REF)


OPERATIONS = ["word"] * 4 + [
    "words",
    "words",
    "many",
    "bits",
    "fill",
    "fill",
    "field",
    "kinds",
    "kinds",
    "shuffle",
    "swap",
    "cut",
    "extend",
]


class Trial:
    """The test of one mutant, in a child process; ``say`` tells the parent what is wrong."""

    def __init__(self, mutant, name, pipe):
        self.mutant = mutant
        self.rng = mutant.rng
        self.name = name
        self.pipe = pipe
        self.stage = "attach"
        self.excused = mutant.excused()

    def say(self, what, **details):
        os.write(self.pipe, json.dumps({"what": what, "stage": self.stage, **details})[:3000].encode() + b"\n")

    def step(self, function, *arguments):
        try:
            return function(*arguments)
        except ALLOWED:
            return None
        except BaseException:
            self.say("traceback", text=traceback.format_exc()[-2000:])

    def at(self, stage):
        self.stage = stage
        os.write(self.pipe, json.dumps({"at": stage}).encode() + b"\n")

    def run(self):
        self.at("attach")
        pool = self.step(foliocache.attach, self.name)
        if pool is None:
            self.step(foliocache.open, self.name)
        else:
            pool.fill_timeout = 0.01
            held = self.hold(pool)
            self.read(pool, "read")
        for command in (["ls"], ["ls", "--names"], ["stat"], ["fsck"], ["fsck", "--repair"]):
            self.command(command)
        if pool is not None:
            self.at("repair")
            self.is_clean(self.step(pool.repair))
            self.check(held)
            self.read(pool, "read again")
            self.at("audit")
            self.is_clean(self.step(pool.audit))

    def hold(self, pool):
        """Return leases and a window that are kept, each with the bytes it should have."""
        self.at("hold")
        if self.mutant.may_lose_pins():
            return []
        held = [(self.step(mapping(pool, number).lease, 0), number, None) for number in (0, 2, 5, 60)]
        held.append((self.step(mapping(pool, 0).window, 0, 50_000), 0, 50_000))
        return [(lease, content(number, 0, length or len(lease))) for lease, number, length in held if lease is not None]

    def check(self, held):
        for lease, wanted in held:
            if bytes(memoryview(lease)) != wanted:
                self.say("wrong bytes", of=repr(lease))

    def read(self, pool, stage):
        self.at(stage)
        for _ in range(READS):
            number = self.rng.choice((self.rng.randrange(len(SIZES)), self.rng.randrange(4), FILLING))
            if number not in self.excused:
                self.step(self.read_one, pool, number)
                self.step(self.use_name, pool, f"object {self.rng.randrange(2 * NAMES)}")

    def use_name(self, pool, key):
        chance = self.rng.random()
        if chance < 0.1:
            pool.names.forget(key)
        elif pool.names.recall(key, 60) is None or chance < 0.3:
            with pool.names.ask(key) as ask:
                ask.answer(self.rng.randrange(1 << 40), "2", bytes(self.rng.randrange(100)))

    def read_one(self, pool, number):
        found = mapping(pool, number)
        offset, length = self.rng.randrange(SIZES[number]), self.rng.choice(LENGTHS)
        if bytes(found.read(offset, length)) != content(number, offset, length):
            self.say("wrong bytes", object=number, offset=offset, length=length)
        chance = self.rng.random()
        if chance < 0.05:
            found.invalidate()
        elif chance < 0.1:
            with found.window(offset, 20_000) as window, memoryview(window) as view:
                if view != content(number, offset, 20_000):
                    self.say("wrong bytes", window=number, offset=offset)
        elif chance < 0.12:
            pool.forget(found.key)

    def command(self, command):
        self.at(" ".join(command))
        arguments = [*command, self.name, *self.rng.choice(([], ["--json"]))]
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            code = self.step(app.run, arguments)
        if code == INTERNAL_ERROR or "Traceback" in errors.getvalue():
            self.say("exit code", code=code, text=(out.getvalue() + errors.getvalue())[-2000:])

    def is_clean(self, findings):
        if findings:
            self.say("left to find", count=len(findings), first=findings[0].to_dict())


def attempt(seed, bases, folder):
    """Try one mutant. Return a list of what is wrong, and the mutant."""
    mutant = Mutant(seed, bases)
    name = f"mutant{seed}"
    path = os.path.join(folder, f"foliocache.{name}")
    with open(path, "wb") as file:
        file.write(mutant.bytes)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(DEADLINE)
        trial = Trial(mutant, name, writer)
        try:
            trial.step(trial.run)
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        lines = [json.loads(line) for line in pipe if line.endswith("}\n")]
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    found = [line for line in lines if "what" in line]
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        what = "hang" if number == signal.SIGALRM else f"killed by {signal.Signals(number).name}"
        found.append({"what": what, "stage": [line["at"] for line in lines if "at" in line][-1:]})
    return found, mutant


def fuzz(first, count):
    """Try mutants and print those that fail. Return how many failed, and statistics."""
    folder = tempfile.mkdtemp(prefix="foliocache-fuzz-", dir="/dev/shm")
    os.environ["FOLIOCACHE_DIR"] = folder
    failed, statistics = 0, Counter()
    try:
        pools = bases()
        for seed in range(first, first + count):
            found, mutant = attempt(seed, pools, folder)
            statistics[mutant.kind] += 1
            statistics.update({line["what"] for line in found})
            if found:
                failed += 1
                print(f"mutant {seed}: {mutant.kind} of pool {mutant.number}, {'; '.join(mutant.notes[:8])}")
                for line in found[:4]:
                    print(f"    {line}")
                print(f"    again: python tests/fuzz.py {seed} 1", flush=True)
    finally:
        shutil.rmtree(folder)
    return failed, statistics


def main():
    first, count = int(sys.argv[1]), int(sys.argv[2])
    failed, statistics = fuzz(first, count)
    print(f"{count} mutants from {first} on, {failed} failed: {dict(statistics)}")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
