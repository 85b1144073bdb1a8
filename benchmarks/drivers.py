"""`python -m benchmarks --drivers`: every algorithm that serves a row's forward pass, timed, against the one that is chosen.

A row on which the chosen algorithm is more than `SLACK` slower than the best is a wrong choice: a defect of the estimates.
"""

import statistics
from functools import partial
from typing import Any

import fastconv

from . import timing
from .rows import Convolution, Row

SLACK = 1.05
HOPELESS = 20     # times the cheapest estimate; not timed


def serves(row: Row) -> bool:
    """Whether the row's function takes an algorithm by name."""
    return type(row) is Convolution and not row.transposed


def measure(row: Convolution, rounds: int, seconds: float) -> dict[str, Any]:
    """The record of a row: median seconds by algorithm, and which one the chooser takes."""
    arrays = row.arrays()
    call = row.fastconv("forward", arrays).call
    told = fastconv.explain(getattr(fastconv, row.op), arrays["input"], arrays["weight"], row.stride, row.padding, row.dilation,
                            row.groups)
    costs = {option.name: option.cost for option in told.options if option.reason is None}
    least = min(costs.values())
    calls = {name: partial(call, algorithm=name) for name, cost in costs.items() if cost < HOPELESS * least}
    rounds_of = timing.alternate(calls, rounds, seconds)
    times = {name: statistics.median(measured) for name, measured in rounds_of.items()}
    return {"chosen": told.algorithm, "seconds": times, "costs": costs}


def line(record: dict[str, Any], width: int) -> str:
    """One row: the algorithms from the fastest on, estimates in brackets, and the mark of a wrong choice."""
    times, costs, chosen = record["seconds"], record["costs"], record["chosen"]
    best = min(times, key=times.__getitem__)
    shown = [f"{'*' * (name == chosen)}{name} {1e6 * times[name]:.1f} ({1e-3 * costs[name]:.1f})"
             for name in sorted(times, key=times.__getitem__)]
    lost = times[chosen] / times[best]
    mark = f"  WRONG: {best} is {lost:.2f} x as fast" if lost > SLACK else ""
    return f"{record['name']:{width}}  {'  '.join(shown)}{mark}"
