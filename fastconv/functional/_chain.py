"""Chains of small convolutions: what a factored convolution is made of.

`Axis` holds the geometry of one spatial axis, `Chain` the weights of the links; the engine runs all links at once
(csrc/engine/chain.c).
"""

from collections.abc import Sequence
from functools import lru_cache
from math import gcd
from operator import index
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastconv import _core

from ._types import Padding, Sizes
from .decompose import as_array

LARGEST = 2**63 - 1  # the engine counts in 64 bits

# Geometries that are remembered, by checked ints: to work one out takes 3 us, of CP r16 256@56's 145 at two threads.
REMEMBERED = 256


# ---- geometry ----------------------------------------------------------------------------------


class Axis(NamedTuple):
    """One spatial axis of a convolution; the defaults are those of a pointwise one."""

    size: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0

    @property
    def reach(self) -> int:
        return (self.kernel - 1) * self.dilation + 1

    @property
    def padded(self) -> int:
        return self.before + self.size + self.after

    @property
    def out(self) -> int:
        return (self.padded - self.reach) // self.stride + 1

    def read_part(self) -> tuple[slice, "Axis"]:
        """The slice of the input that the kernel can read, and the same convolution on that slice.

        The positions read are `o * stride + k * dilation - before`: all lie `gcd(stride, dilation)` apart,
        and the last one is the last tap of the last output.
        """
        size, kernel, stride, dilation, before, _ = self
        if stride == 1 and (self.out - 1) + (kernel - 1) * dilation + 1 - before >= size:
            return slice(None), self  # the common case: all of it
        step = gcd(stride if self.out > 1 else 0, dilation if kernel > 1 else 0) or 1
        start = -before % step
        stop = min(size, (self.out - 1) * stride + self.reach - before)
        if stop <= start:  # only padding is read; a convolution wants an input all the same
            return slice(None), self
        size = len(range(start, stop, step))
        stride, dilation = max(1, stride // step), max(1, dilation // step)
        before = (before + start) // step
        after = (self.out - 1) * stride + (kernel - 1) * dilation + 1 - size - before
        return slice(start, stop, step), Axis(size, kernel, stride, dilation, before, after)


def geometry(
    size: Sequence[int], kernel: Sequence[int], stride: Sizes, padding: Padding, dilation: Sizes
) -> tuple[Axis, ...]:
    """The spatial axes of a convolution, each with its own share of stride, padding and dilation."""
    count = len(size)
    strides, dilations = _per_axis(stride, count, "stride"), _per_axis(dilation, count, "dilation")
    pairs = None if isinstance(padding, str) and padding == "same" else _padding_pairs(padding, count)
    try:
        return _axes(tuple(size), tuple(kernel), strides, pairs, dilations)
    except OverflowError:
        raise ValueError(f"padding: expected at most 2**63 - 1 elements on a padded axis; got {padding!r}") from None


@lru_cache(REMEMBERED)
def _axes(size: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], pairs: tuple | None,
          dilations: tuple[int, ...]) -> tuple[Axis, ...]:
    """Of ints that were checked; `pairs` is None for "same". OverflowError where padding is too much."""
    if pairs is None:
        pairs = tuple(_same_padding(*axis) for axis in zip(size, kernel, strides, dilations, strict=True))
    axes = tuple(Axis(n, k, s, d, *pair) for n, k, s, d, pair in zip(size, kernel, strides, dilations, pairs, strict=True))
    for position, axis in enumerate(axes):
        if axis.padded > LARGEST:
            raise OverflowError
        if axis.out < 1:
            raise ValueError(
                f"input: expected at least {axis.reach} elements with padding on spatial axis {position}, the reach "
                f"of a kernel of size {axis.kernel} at dilation {axis.dilation}; got {axis.size}, "
                f"padded {axis.padded}"
            )
    return axes


@lru_cache(REMEMBERED)
def read_parts(axes: tuple[Axis, ...]) -> tuple[tuple[slice, ...], tuple[Axis, ...]]:
    """`Axis.read_part` of all axes: the slices, and the axes on them."""
    slices, parts = zip(*(axis.read_part() for axis in axes), strict=True)
    return slices, parts


@lru_cache(REMEMBERED)
def engine_axes(axes: tuple[Axis, ...]) -> tuple[tuple[int, ...], ...]:
    """The axes as _core takes them."""
    return tuple((axis.size, axis.kernel, axis.stride, axis.dilation, axis.before, axis.out) for axis in axes)


def _integer(value: object) -> int:
    """An int, but no bool; TypeError for anything else."""
    if isinstance(value, (bool, np.bool)):
        raise TypeError
    return index(value)


def _entries(value: object, count: int) -> list:
    """One entry for each spatial axis: those given, or the only one for all."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, (tuple, list)):
        return [value] * count
    alone = len(value) == 1 and not isinstance(value[0], (tuple, list))
    return list(value) * (count if alone else 1)


def _per_axis(value: Sizes, count: int, name: str) -> tuple[int, ...]:
    """One positive int for each spatial axis."""
    if type(value) is int and 1 <= value <= LARGEST:
        return (value,) * count
    expected = f"an int from 1 to 2**63 - 1, or a tuple of {count}"
    try:
        values = tuple(_integer(entry) for entry in _entries(value, count))
    except TypeError:
        raise TypeError(f"{name}: expected {expected}; got {value!r}") from None
    if len(values) != count or min(values) < 1 or max(values) > LARGEST:
        raise ValueError(f"{name}: expected {expected}; got {value!r}")
    return values


def _same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Padding for `ceil(size / stride)` outputs; an odd element goes after."""
    total = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
    return total // 2, total - total // 2


def _padding_pairs(padding: Padding, count: int) -> tuple[tuple[int, int], ...]:
    """Zeros (before, after) for each axis, from every form of padding but "same"."""
    if type(padding) is int and padding >= 0:
        return ((padding, padding),) * count
    expected = f"'same', 'valid', an int, or a tuple of {count} ints or (before, after) pairs, none negative"
    if isinstance(padding, str):
        if padding != "valid":
            raise ValueError(f"padding: expected {expected}; got {padding!r}")
        return ((0, 0),) * count
    entries = _entries(padding, count)
    if not any(isinstance(entry, (tuple, list)) for entry in entries):
        entries = [(entry, entry) for entry in entries]
    if len(entries) != count or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in entries):
        raise ValueError(f"padding: expected {expected}; got {padding!r}")
    try:
        pairs = tuple((_integer(before), _integer(after)) for before, after in entries)
    except TypeError:
        raise TypeError(f"padding: expected {expected}; got {padding!r}") from None
    if any(min(pair) < 0 for pair in pairs):
        raise ValueError(f"padding: expected {expected}; got {padding!r}")
    return pairs


# ---- chains ------------------------------------------------------------------------------------


class Chain(NamedTuple):
    """A mix to `middle` channels (none where `first` is None), a filter for each of them, a mix to the output."""

    axes: tuple[Axis, ...]
    first: NDArray | None  # (in_channels, middle)
    filters: tuple[NDArray, ...]  # (middle, *kernel), or (middle, KH) and (middle, KW): one after the other
    last: NDArray  # (out_channels, middle)
    bounds: tuple[float, float] | None = None  # of what the filter leaves, where first is None

    @property
    def out(self) -> list[int]:
        return [axis.out for axis in self.axes]

    def forward(self, x: NDArray, bias: NDArray | None) -> NDArray:
        return _core.chain_forward(x, engine_axes(self.axes), self.first, self.filters, self.last, bias, self.bounds)

    def backward(self, grad: NDArray, x: NDArray, needed: Sequence[bool]) -> tuple:
        """Gradients of x, first, the filters (a list) and last; `needed`, in that order, says which to compute.

        What lies between the links is computed again, band by band, rather than kept from the forward pass.
        """
        return _core.chain_backward(grad, x, engine_axes(self.axes), self.first, self.filters, self.last, needed, self.bounds)


# ---- arguments ---------------------------------------------------------------------------------


def check_array(value: ArrayLike, name: str, like: NDArray | None = None) -> NDArray:
    """`value` as an array of float32 or float64; of the input's dtype where `like` gives the input."""
    array = as_array(value, name)
    if like is not None and array.dtype != like.dtype:
        raise TypeError(f"{name}: expected {like.dtype}, the dtype of input, got {array.dtype}")
    return array


def check_input(input: ArrayLike, axes: int) -> tuple[NDArray, bool]:
    """The input with a batch axis, and whether it came with one."""
    x = check_array(input, "input")
    if x.ndim not in (axes + 1, axes + 2):
        raise ValueError(
            f"input: expected {axes + 2} axes (N, C and {axes} spatial), or {axes + 1} without N, got shape {x.shape}"
        )
    batched = x.ndim == axes + 2
    return (x if batched else x[np.newaxis]), batched


def check_bias(bias: ArrayLike | None, out_channels: int, x: NDArray) -> NDArray | None:
    if bias is None:
        return None
    array = check_array(bias, "bias", like=x)
    if array.shape != (out_channels,):
        raise ValueError(f"bias: expected shape {(out_channels,)}, got {array.shape}")
    return array


def check_grad_output(
    grad_output: ArrayLike, out_channels: int, out: Sequence[int], x: NDArray, batched: bool
) -> NDArray:
    """The gradient of an output of these channels and sizes, with a batch axis."""
    grad = check_array(grad_output, "grad_output", like=x)
    expected = (len(x), out_channels, *out)[0 if batched else 1 :]
    if grad.shape != expected:
        raise ValueError(f"grad_output: expected shape {expected}, got {grad.shape}")
    return grad if batched else grad[np.newaxis]


def check_mask(output_mask: Sequence[bool], length: int) -> tuple[bool, ...]:
    if not isinstance(output_mask, (tuple, list)):
        raise TypeError(f"output_mask: expected a tuple of {length} booleans, got {output_mask!r}")
    if len(output_mask) != length:
        raise ValueError(f"output_mask: expected {length} booleans, got {output_mask!r}")
    return tuple(bool(needed) for needed in output_mask)
