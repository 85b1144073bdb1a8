"""Inverted residuals: the three convolutions of a chain that evaluates, in one call of the engine.

Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018, arXiv:1801.04381, table 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastconv import _core

from .activation import _Limiter
from .convolution import Conv2d
from .layer import Layer

if TYPE_CHECKING:
    from .containers import Sequential

_LINE = 64  # bytes


def find_bottleneck(chain: Sequential) -> None:
    """If the chain is a 1x1 convolution, a depthwise and another 1x1 one, the first two limited alike, let it know.

    The 1x1 weights get the memory order that the engine reads in place: output channels next to each other.
    """
    layers = chain._flat()
    if len(chain.children) < 2 or len(layers) != 5 or not _is_bottleneck(layers):
        return
    chain._bottleneck = layers
    for mix in layers[0], layers[4]:
        mix.params["weight"] = _by_outputs(mix.params["weight"])


def _is_bottleneck(layers: list[Layer]) -> bool:
    first, limit, depthwise, other, last = layers
    if not all(type(layer) is Conv2d for layer in (first, depthwise, last)):
        return False
    if not (isinstance(limit, _Limiter) and isinstance(other, _Limiter)):
        return False
    bounds = limit._bounds()
    alike = bounds is not None and bounds == other._bounds() and bounds[0] <= 0 <= bounds[1]
    filters = depthwise.groups == depthwise.in_channels == depthwise.out_channels == first.out_channels
    return alike and filters and _padding(depthwise) is not None and _mixes(first) and _mixes(last)


def _mixes(layer: Conv2d) -> bool:
    return layer.kernel_size == layer.stride == (1, 1) and layer.groups == 1 and _padding(layer) == (0, 0)


def _padding(layer: Conv2d) -> tuple[int, ...] | None:
    """Zeros before and after each axis, where they are given as one number for both."""
    padding = (layer.padding,) * 2 if isinstance(layer.padding, int) else layer.padding
    return padding if isinstance(padding, tuple) and all(isinstance(n, int) and n >= 0 for n in padding) else None


def _by_outputs(weight: np.ndarray) -> np.ndarray:
    """The weights (OC, C, 1, 1), elements of a column next to each other, and columns, if they can, on cache lines."""
    memory = np.empty(weight.nbytes + _LINE, np.uint8)
    begin = -memory.ctypes.data % _LINE
    columns = memory[begin : begin + weight.nbytes].view(weight.dtype).reshape(weight.shape[1::-1])
    columns[...] = weight[:, :, 0, 0].T
    return columns.T[..., np.newaxis, np.newaxis]


def run_bottleneck(layers: list[Layer], x: np.ndarray) -> np.ndarray | None:
    """Output of such a chain, or None where its layers have to be applied one after the other."""
    first, limit, depthwise, _, last = layers
    x = np.asarray(x)
    if x.ndim != 4 or x.shape[1] != first.in_channels or x.dtype != first.dtype:
        return None
    arrays = []
    for layer in first, depthwise, last:
        weight, bias = layer.params["weight"], layer.params.get("bias")
        arrays += weight if layer is depthwise else weight[:, :, 0, 0].T, bias
    axes = []
    for axis, padding in enumerate(_padding(depthwise)):
        size, kernel = x.shape[2 + axis], depthwise.kernel_size[axis]
        stride, dilation = depthwise.stride[axis], depthwise.dilation[axis]
        out = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        axes.append((size, kernel, stride, dilation, padding, out))
    if min(x.shape) < 1 or min(axis[-1] for axis in axes) < 1:
        return None
    return _core.bottleneck(x, axes, *arrays, limit._bounds())
