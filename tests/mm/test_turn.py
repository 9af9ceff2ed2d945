"""turn: one thread at a time, in turns and while turns are excluded, compiled and interpreted."""

import threading
import time

import pytest
from world import together

ROUNDS = 300


@pytest.fixture
def turn(segment):
    return Turn(segment)


class Turn:
    """A turn in a segment's memory, the interpreter's lock beside it, and a counter that is nobody's without one of them."""

    def __init__(self, segment):
        self.segment, self.core, self.lock, self.counter = segment, segment.unlocked.turn, threading.Lock(), 0
        self.at = segment.layout.TREE_LOCK

    def call(self, name):
        return getattr(self.core, name)(self.at)

    def words(self):
        layout = self.segment.layout
        return [self.segment.read(self.at + at) for at in (layout.TURN_INSIDE, layout.TURN_EXCLUDED)]

    def add_one(self):
        seen = self.counter
        time.sleep(0)  # lets another thread run
        self.counter = seen + 1

    def section(self):
        with self.lock:
            self.call("exclude")
            while self.call("is_taken"):
                time.sleep(0)
            self.add_one()
            self.call("readmit")

    def step(self):
        if self.call("try_begin"):
            self.add_one()
            self.call("end")
        else:
            self.section()


def test_one_at_a_time(turn):
    assert turn.call("try_begin") and turn.call("is_taken")
    assert not turn.call("try_begin") and turn.words() == [1, 0]
    turn.call("end")
    assert not turn.call("is_taken") and turn.call("try_begin")
    turn.call("end")
    assert turn.words() == [0, 0]


def test_none_while_it_is_excluded(turn):
    turn.call("exclude")
    turn.call("exclude")
    assert not turn.call("try_begin") and turn.words() == [0, 2]
    turn.call("readmit")
    assert not turn.call("try_begin")
    turn.call("readmit")
    assert turn.call("try_begin")
    turn.call("exclude")  # it keeps the next from beginning, and waits for this one
    assert turn.call("is_taken")
    turn.call("end")
    assert not turn.call("is_taken") and not turn.call("try_begin")


def test_threads_take_turns(turn):
    def steps():
        for _ in range(ROUNDS):
            turn.step()

    def sections():
        for _ in range(ROUNDS):
            turn.section()

    together(steps, steps, sections)
    assert turn.counter == 3 * ROUNDS and turn.words() == [0, 0]
