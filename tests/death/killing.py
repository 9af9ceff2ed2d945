"""Kill (or stop) a child at one instruction after the other of a scene, and check each time that everything is settled.

``python killing.py SEGMENT SCENE [MOST]`` prints what was done, as JSON. It is a process of its own because it forks often, and
its children should be small.
"""

import faulthandler
import json
import signal
import sys
import time

from scenes import BESIDE, SCENES, World, beside_readers
from stepping import AT_THE_END, ENDED, REACHED

PATIENCE = 60  # seconds until one death counts as a hang
TURNS = 2  # of a loop in long operations
MANY_TURNS = 50
LONG = 20_000  # instructions


def points(world, prepare, most):
    """Where to kill: at every store to the segment and every instruction, in long operations at TURNS turns of each loop; or at
    most ``most`` of the stores, evenly spread, but for the later turns of long loops."""
    before = world.image()
    chosen = world.stepper.stores(prepare)
    world.restore(before)
    if most:
        quick = [point for point in chosen if point.nth <= MANY_TURNS]
        return len(chosen), [*quick[:: -(-len(quick) // most)], AT_THE_END]
    path = world.stepper.instructions(prepare)
    world.restore(before)
    stores = {(point.pc, point.nth) for point in chosen}
    everywhere = [p for p in path if len(path) <= LONG or p.nth <= TURNS or (p.pc, p.nth) in stores]
    return len(path), [*everywhere, AT_THE_END]


def kill_everywhere(world, scene, most):
    world.restore(world.empty)
    prepare = scene(world)
    before = world.image()
    start = time.monotonic()
    steps, chosen = points(world, prepare, most)
    kills = unreached = 0
    for number, point in enumerate(chosen):
        signal.alarm(PATIENCE)
        world.restore(before)
        outcome = world.stepper.kill(prepare, point)
        try:
            world.settle(work_first=number % 2 == 1)
        except BaseException:
            print(f"{scene.__name__}: killed at {point}, {world.stepper.where(point.pc)}", file=sys.stderr)
            raise
        kills += outcome == REACHED
        unreached += outcome == ENDED and point is not AT_THE_END
    signal.alarm(0)
    # The generated code between Python and the core may take another path now and then.
    assert unreached <= len(chosen) // 100, f"{unreached} points of {len(chosen)} were not on every child's path"
    seconds = round(time.monotonic() - start, 1)
    return {"scene": scene.__name__, "steps": steps, "kills": kills, "unreached": unreached, "seconds": seconds}


def stop_everywhere(world, scene, most):
    """Stop the child without killing it; meanwhile this process reaps another client, and works. Both go on without damage."""
    world.restore(world.empty)
    prepare = scene(world)
    before = world.image()
    start = time.monotonic()
    path = world.stepper.instructions(prepare)
    chosen = path[:: -(-len(path) // most)] if most else path
    waited = 0
    for point in chosen:
        signal.alarm(PATIENCE)
        world.restore(before)
        try:
            with world.stepper.stopped(prepare, point) as (pid, outcome):
                assert outcome == REACHED
                waited += world.attachment.reap()[1] > 0
                world.read() if scene is beside_readers else world.work()
                world.attachment.reap()
                world.stepper.go_on(pid)
            world.settle(work_first=False)
        except BaseException:
            print(f"{scene.__name__}: stopped at {point}, {world.stepper.where(point.pc)}", file=sys.stderr)
            raise
    signal.alarm(0)
    seconds = round(time.monotonic() - start, 1)
    return {"scene": scene.__name__, "steps": len(path), "stops": len(chosen), "reaper waited": waited, "seconds": seconds}


def main(name, scene, most=0):
    faulthandler.register(signal.SIGALRM, chain=True)
    everywhere = stop_everywhere if SCENES[scene] in BESIDE else kill_everywhere
    print(json.dumps(everywhere(World(name), SCENES[scene], int(most))))


if __name__ == "__main__":
    main(*sys.argv[1:])
