"""Time several callables fairly: turn about, in one process, as medians over rounds."""

import gc
import time
from collections.abc import Callable, Mapping
from itertools import repeat
from math import ceil
from typing import Any

Call = Callable[[], Any]


def timed(call: Call, repeats: int) -> float:
    """Seconds that `repeats` calls take."""
    start = time.perf_counter()
    for _ in repeat(None, repeats):
        call()
    return time.perf_counter() - start


def calibrate(call: Call, seconds: float) -> int:
    """How many calls last at least `seconds`, found by growing the number at most tenfold at a time.

    The first call is not counted and the shorter of two timings is: workers that have to be woken take milliseconds.
    """
    repeats = 1
    call()
    while (elapsed := min(timed(call, repeats), timed(call, repeats))) < seconds:
        wanted = ceil(1.1 * repeats * seconds / max(elapsed, 1e-9))
        repeats = min(max(wanted, repeats + 1), 10 * repeats)
    return repeats


def settle(busy: float = 0.1, tick: float = 0.012, limit: float = 0.1) -> None:
    """Sleep until no thread of this process burns time any more.

    PyTorch's OpenMP workers spin for some 10 ms after their last parallel region; whoever runs next on the same cores
    would pay for that. The kernel adds up the time of a thread that is running at its own ticks, as few as one in 10 ms:
    with naps of 2 ms spinning workers went unseen, and dense 3x3 lost a third of its speed at two threads.
    """
    deadline = time.perf_counter() + limit
    while time.perf_counter() < deadline:
        wall, cpu = time.perf_counter(), time.process_time()
        time.sleep(tick)
        if time.process_time() - cpu < busy * (time.perf_counter() - wall):
            return


def turn(call: Call, repeats: int, quiet: bool) -> float:
    """Seconds per call, after a pause if other threads may spin, and with the caches and the own workers warm."""
    if quiet:
        settle()
    timed(call, 1 + repeats // 10)
    return timed(call, repeats) / repeats


def alternate(calls: Mapping[str, Call], rounds: int, seconds: float, quiet: bool = False,
              begin: Call | None = None) -> dict[str, list[float]]:
    """Seconds per call in each of `rounds` rounds; a round gives every callable one turn of at least `seconds`, after `begin`."""
    repeats = {name: calibrate(call, seconds) for name, call in calls.items()}
    measured: dict[str, list[float]] = {name: [] for name in calls}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            if begin is not None:
                begin()
            for name, call in calls.items():
                measured[name].append(turn(call, repeats[name], quiet))
    finally:
        if collecting:
            gc.enable()
    return measured
