"""A few calls timed against PyTorch's, one thread each, results compared first.

Only a taste, on whatever else this machine is doing: `benchmarks/` in the source tree is the harness, with more shapes, layouts, threads
and the machine's measured peak.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import fastconv
from fastconv import functional as F

ROUNDS = 15
FORMAT = "{:<46} {:>11} {:>11} {:>7}"


class Case(NamedTuple):
    """The same computation, by fastconv and by PyTorch."""

    name: str
    ours: Callable[[], np.ndarray]
    theirs: Callable[[], object]


def table() -> str:
    """The comparison as text, or a sentence that says why there is none."""
    if find_spec("torch") is None:
        return "Speed: PyTorch is not installed, so there is nothing to compare with."
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with fastconv.num_threads(1), torch.inference_mode():
            lines = [_line(case) for case in _cases(torch)]
    finally:
        torch.set_num_threads(threads)
    head = FORMAT.format("Speed, one thread, float32, median", "PyTorch", "fastconv", "ratio")
    return "\n".join([head, *lines])


def _cases(torch) -> list[Case]:
    """Convolution forward and backward, depthwise, one axis, pooling, and a call so small that only overhead counts."""
    draw = np.random.default_rng(0).standard_normal

    def pair(*shape: int):
        array = draw(shape, dtype=np.float32)
        return array, torch.from_numpy(array)

    digits, t_digits = pair(32, 1, 8, 8)
    first, t_first = pair(16, 1, 3, 3)
    x, t_x = pair(1, 64, 56, 56)
    w, t_w = pair(64, 64, 3, 3)
    depthwise, t_depthwise = pair(64, 1, 3, 3)
    signal, t_signal = pair(8, 64, 1000)
    filters, t_filters = pair(64, 1, 31)
    small, t_small = pair(1, 2, 4)
    two, t_two = pair(1, 2, 2)
    size, t = w.shape, torch.nn.functional
    return [
        Case("conv2d 1 to 16, 3x3, 32 digits of 8x8", lambda: F.conv2d(digits, first, padding=1),
             lambda: t.conv2d(t_digits, t_first, padding=1)),
        Case("conv2d 64 to 64, 3x3, 56x56", lambda: F.conv2d(x, w, padding=1), lambda: t.conv2d(t_x, t_w, padding=1)),
        Case("  its input gradient", lambda: F.conv2d_input(x.shape, w, x, padding=1),
             lambda: torch.nn.grad.conv2d_input(t_x.shape, t_w, t_x, padding=1)),
        Case("  its weight gradient", lambda: F.conv2d_weight(x, size, x, padding=1),
             lambda: torch.nn.grad.conv2d_weight(t_x, size, t_x, padding=1)),
        Case("conv2d depthwise, 64 channels, 3x3, 56x56", lambda: F.conv2d(x, depthwise, padding=1, groups=64),
             lambda: t.conv2d(t_x, t_depthwise, padding=1, groups=64)),
        Case("conv1d depthwise, 64 channels, 31 taps, 8x1000", lambda: F.conv1d(signal, filters, padding=15, groups=64),
             lambda: t.conv1d(t_signal, t_filters, padding=15, groups=64)),
        Case("max_pool2d 2x2, 64 channels, 56x56", lambda: F.max_pool2d(x, 2), lambda: t.max_pool2d(t_x, 2)),
        Case("avg_pool2d 3x3 stride 2, 64 channels, 56x56", lambda: F.avg_pool2d(x, 3, 2), lambda: t.avg_pool2d(t_x, 3, 2)),
        Case("conv1d 2 to 1, 2 taps, length 4", lambda: F.conv1d(small, two), lambda: t.conv1d(t_small, t_two)),
    ]


def _line(case: Case) -> str:
    expected = np.asarray(case.theirs())
    error = np.max(np.abs(case.ours() - expected)) / np.max(np.abs(expected))
    if not error <= 1e-5:
        return f"{case.name:<46} results differ by {error:.1e} of the largest, so no times"
    repeat = max(1, int(2e-3 / _seconds(case.theirs, 3)))
    times = np.array([(_seconds(case.theirs, repeat), _seconds(case.ours, repeat)) for _ in range(ROUNDS)])
    theirs, ours = np.median(times, axis=0)
    return FORMAT.format(case.name, f"{1e6 * theirs:.1f} us", f"{1e6 * ours:.1f} us", f"x {theirs / ours:.2f}")


def _seconds(call: Callable[[], object], repeat: int) -> float:
    """Mean time of a call."""
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - start) / repeat
