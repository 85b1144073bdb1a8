"""Checks of constructor arguments that several layers share; each returns the value in its one normal form."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

_REAL = (np.dtype(np.float32), np.dtype(np.float64))


def real_dtype(dtype: DTypeLike) -> np.dtype:
    """`dtype` as float32 or float64."""
    if dtype is None:  # which numpy.dtype would take for float64
        raise TypeError("dtype must be float32 or float64, got None")
    real = np.dtype(dtype)
    if real not in _REAL:
        raise TypeError(f"dtype must be float32 or float64, got {real}")
    return real


def random_generator(seed: int | np.random.Generator | None) -> np.random.Generator:
    """`seed` as a generator; a generator is shared, not copied."""
    if seed is not None and not isinstance(seed, (int, np.integer, np.random.Generator)):
        raise TypeError(f"seed must be an int, a numpy.random.Generator or None, got {type(seed).__name__}")
    return np.random.default_rng(seed)


def integer(value: Any, name: str, minimum: int = 1) -> int:
    """`value` as an int that is at least `minimum`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {type(value).__name__}") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def per_axis(value: Any, axes: int, name: str, minimum: int = 1) -> tuple[int, ...]:
    """`value`, an int or one int per spatial axis, as a tuple of `axes` ints."""
    values = tuple(value) if isinstance(value, (tuple, list, np.ndarray)) else (value,) * axes
    if len(values) != axes:
        raise ValueError(f"{name} must be an int or a tuple of {axes}, got {value!r}")
    return tuple(integer(v, name, minimum) for v in values)


def probability(p: float) -> float:
    """`p` as a float in [0, 1]."""
    if not 0 <= p <= 1:
        raise ValueError(f"p must be a probability between 0 and 1, got {p!r}")
    return float(p)


def axis_index(dim: int, shape: tuple[int, ...], name: str = "dim") -> int:
    """`dim` counted from the front in an array of this shape."""
    if not -len(shape) <= dim < len(shape):
        raise ValueError(f"{name} must be an axis of the input, whose shape is {shape}, got {dim}")
    return dim % len(shape)


def check_channels(x: np.ndarray, axes: int, channels: int, name: str) -> None:
    """Hold the input of a convolution layer to its axes and channels: the user's mistake is not the weight."""
    if x.ndim - axes not in (1, 2) or x.shape[-axes - 1] != channels:
        size = ("L", "H, W", "D, H, W")[axes - 1]
        wanted = f"(N, {channels}, {size}) or ({channels}, {size})"
        raise ValueError(f"input of {name} must have shape {wanted}, got {x.shape}")
