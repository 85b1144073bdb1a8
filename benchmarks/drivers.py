"""`python -m benchmarks --drivers`: every algorithm that serves a row and pass, timed, against the one that is chosen.

A row on which the chosen algorithm is more than `SLACK` slower than the best is a wrong choice: a defect of the estimates.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import fastconv
import numpy as np

from . import timing
from .rows import Convolution, Row

SLACK = 1.05
HOPELESS = 20     # times the cheapest estimate; not timed


def serves(row: Row) -> bool:
    """Whether the row's functions take an algorithm by name."""
    return type(row) is Convolution


def by_algorithm(row: Convolution, which: str, arrays: dict[str, np.ndarray]) -> Callable[..., np.ndarray]:
    """The pass as a function of `algorithm`."""
    x, w, grad = arrays["input"], arrays["weight"], arrays["grad_output"]
    options = {"stride": row.stride, "padding": row.padding, "dilation": row.dilation, "groups": row.groups}
    if row.transposed and which != "forward":       # gradients of an adjoint: the convolution, and the weight's from x
        which, x, grad = ("weight" if which == "weight" else "forward"), grad, x
    elif row.transposed:
        return partial(getattr(fastconv, row.op), x, w, **options)
    name = f"conv{row.axes}d"
    call = {
        "forward": partial(getattr(fastconv, name), x, w),
        "input": partial(getattr(fastconv, f"{name}_input"), x.shape, w, grad),
        "weight": partial(getattr(fastconv, f"{name}_weight"), x, w.shape, grad),
    }[which]
    return partial(call, **options)


def accepted(call: Callable[..., np.ndarray], algorithm: str) -> bool:
    """Whether every phase of an input gradient's stride takes it; estimates are of the largest."""
    try:
        call(algorithm=algorithm)
    except ValueError:
        return False
    return True


def measure(row: Convolution, which: str, rounds: int, seconds: float) -> dict[str, Any]:
    """The record of a row and pass: median seconds by algorithm, and which one the chooser takes."""
    arrays = row.arrays()
    call = by_algorithm(row, which, arrays)
    told = fastconv.explain(getattr(fastconv, row.op), arrays["input"], arrays["weight"], row.stride, row.padding, row.dilation,
                            row.groups, direction=which)
    costs = {option.name: option.cost for option in told.options if option.reason is None}
    least = min(costs.values())
    calls = {name: partial(call, algorithm=name) for name, cost in costs.items()
             if name != told.algorithm and cost < HOPELESS * least and accepted(call, name)}
    calls[told.algorithm] = call        # each phase of a stride its own
    rounds_of = timing.alternate(calls, rounds, seconds)
    times = {name: statistics.median(measured) for name, measured in rounds_of.items()}
    return {"chosen": told.algorithm, "seconds": times, "costs": costs}


def line(record: dict[str, Any], width: int) -> str:
    """One row and pass: the algorithms from the fastest on, estimates in brackets, and the mark of a wrong choice."""
    times, costs, chosen = record["seconds"], record["costs"], record["chosen"]
    best = min(times, key=times.__getitem__)
    shown = [f"{'*' * (name == chosen)}{name} {1e6 * times[name]:.1f} ({1e-3 * costs[name]:.1f})"
             for name in sorted(times, key=times.__getitem__)]
    lost = times[chosen] / times[best]
    mark = f"  WRONG: {best} is {lost:.2f} x as fast" if lost > SLACK else ""
    return f"{record['name']:{width}}  {record['pass']:7}  {'  '.join(shown)}{mark}"
