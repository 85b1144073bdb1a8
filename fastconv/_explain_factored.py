"""explain() for factored convolutions: the orders considered, their operations and bytes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastconv import _core
from fastconv.functional import factored
from fastconv.functional._chain import engine_axes
from fastconv.functional._cp import cp_problem
from fastconv.functional._types import Padding, Sizes

CP = {factored.cp_conv1d: 1, factored.cp_conv2d: 2}
SERVED = (*CP, factored.separable_conv2d)
WANTED = {"forward": 0, "input": 1, "weight": 14, "backward": 15}  # the engine's gradients


class Order(NamedTuple):
    """One order of a chain's contractions as the chooser saw it: what it computes, and the least it reads and writes."""

    name: str
    reason: str | None
    cost: float
    workspace: int
    flops: int
    bytes: int


def describe(function, input_shape: tuple[int, ...], weight_shapes: tuple[tuple[int, ...], ...], stride: Sizes,
             padding: Padding, dilation: Sizes, dtype: np.dtype, direction: str) -> dict:
    """What `explain` tells, for a function of `SERVED`; shapes are checked as the function checks arrays."""
    if direction not in WANTED:
        raise ValueError(f"direction: expected one of {tuple(WANTED)}, got {direction!r}")
    x, *weights = (_shaped(shape, dtype) for shape in (input_shape, *_shapes(weight_shapes)))
    wanted = WANTED[direction]
    if function in CP:
        problem = cp_problem(CP[function], x, weights, stride, padding, dilation)
        a, b, *_ = problem.factors
        sizes = len(problem.x), len(b), a.shape[1], len(a)
        told = _core.describe_orders(engine_axes(problem.axes), *sizes, dtype, wanted)
        out_channels, out = len(a), problem.out
    else:
        _two(weights)
        chain, x, _ = factored.separable_problem(x, *weights, stride, padding, dilation)
        sizes = len(x), x.shape[1], *chain.last.shape[::-1]
        told = _core.describe_separable(engine_axes(chain.axes), *sizes, dtype, wanted & ~2)
        out_channels, out = len(chain.last), chain.out
    batch = input_shape[:-1 - len(out)]
    return told | {"options": tuple(Order(*row) for row in told["options"]), "output_shape": (*batch, out_channels, *out)}


def _shaped(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of this shape that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def _shapes(weight_shapes: object) -> tuple:
    if not isinstance(weight_shapes, (tuple, list)) or not all(isinstance(s, (tuple, list)) for s in weight_shapes):
        raise TypeError(f"weight_shape: expected a tuple of shapes, one for each weight or factor, got {weight_shapes!r}")
    return tuple(weight_shapes)


def _two(weights: list) -> None:
    if len(weights) != 2:
        raise ValueError(f"weight_shape: expected 2 shapes (depthwise_weight, pointwise_weight), got {len(weights)}")
