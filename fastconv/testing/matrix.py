"""A convolution written out as the matrix that it is."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..functional._chain import Axis, geometry
from ..functional._types import Padding, Sizes


def conv_matrix(weight: ArrayLike, input_size: Sequence[int], stride: Sizes = 1, padding: Padding = 0,
                dilation: Sizes = 1, groups: int = 1) -> NDArray:
    r"""The dense matrix of a convolution: ``conv(x).ravel() == M @ x.ravel()``.

    One output axis of a convolution reads, at output :math:`o` and tap :math:`k`, the input
    :math:`i = o s - p + k d`. With :math:`S_k[o, i] = 1` there and 0 elsewhere,

    .. math:: M = \sum_{k, l} W_{\cdot\cdot kl} \otimes S_k \otimes S_l

    (a Kronecker product, with one more factor per spatial axis). From it one reads what backpropagation does: the
    gradient with respect to the input is :math:`M^T\, \partial L/\partial y`, which is the transposed convolution. The
    matrix has ``conv(x).size * x.size`` elements, so this is for understanding and for tests.

    Parameters
    ----------
    weight : array_like, shape (OC, C // groups, *kernel), 1 to 3 spatial axes, any real dtype
        Kernel as in `conv1d`, `conv2d` and `conv3d`.
    input_size : sequence of int
        Shape of `x`, ``(C, *spatial)`` or ``(N, C, *spatial)``; with a batch, M is block-diagonal.
    stride, dilation : int or tuple of int
    padding : int, tuple of int, tuple of (before, after) pairs, "valid" or "same"
    groups : int

    Returns
    -------
    ndarray, shape (conv(x).size, x.size), of the weight's dtype

    Raises
    ------
    ValueError
        If shapes or options do not fit each other.
    TypeError
        If `weight` is not real.

    Examples
    --------
    One channel of length 4, one filter of size 3, padding 1:

    >>> from fastconv.testing import conv_matrix
    >>> conv_matrix([[[1, 2, 3]]], (1, 4), padding=1)
    array([[2, 3, 0, 0],
           [1, 2, 3, 0],
           [0, 1, 2, 3],
           [0, 0, 1, 2]])
    """
    weight = np.asarray(weight)
    if weight.dtype.kind not in "fiu":
        raise TypeError(f"weight must be an array of real numbers, got {weight.dtype}")
    if not 3 <= weight.ndim <= 5 or 0 in weight.shape:
        raise ValueError("weight must have shape (OC, C // groups, *kernel) with 1 to 3 spatial axes, none empty, "
                         f"got {weight.shape}")
    input_size = tuple(input_size)
    count = weight.ndim - 2
    if len(input_size) not in (count + 1, count + 2):
        raise ValueError(f"input_size must be (C, *spatial) or (N, C, *spatial) with {count} spatial axes, "
                         f"as weight has, got {input_size}")
    channels, spatial = input_size[-count - 1], input_size[-count:]
    out_channels, per_group = weight.shape[:2]
    if groups < 1 or out_channels % groups or channels != per_group * groups:
        raise ValueError(f"weight of shape {weight.shape} in {groups} groups needs an out_channels divisible by groups "
                         f"and an input of {per_group * groups} channels, got input_size {input_size}")

    axes = geometry(spatial, weight.shape[2:], stride, padding, dilation)
    # Append each axis' (o, i) after contracting its taps, then bring outputs to the front: OC, o..., C, i...
    matrix = _dense_over_channels(weight, groups)
    for axis in axes:
        matrix = np.tensordot(matrix, _selection(axis, weight.dtype), axes=(2, 0))
    outputs, inputs = range(2, matrix.ndim, 2), range(3, matrix.ndim, 2)
    matrix = matrix.transpose(0, *outputs, 1, *inputs)
    matrix = matrix.reshape(out_channels * prod(axis.out for axis in axes), channels * prod(spatial))
    return matrix if len(input_size) == count + 1 else np.kron(np.eye(input_size[0], dtype=weight.dtype), matrix)


def _dense_over_channels(weight: NDArray, groups: int) -> NDArray:
    """The weight with the zeros that grouping leaves out, (OC, C, *kernel)."""
    out_channels, per_group, *kernel = weight.shape
    dense = np.zeros((groups, out_channels // groups, groups, per_group, *kernel), weight.dtype)
    for g, block in enumerate(np.split(weight, groups)):
        dense[g, :, g] = block
    return dense.reshape(out_channels, groups * per_group, *kernel)


def _selection(axis: Axis, dtype: np.dtype) -> NDArray:
    """S[k, o, i] = 1 where output o reads input i at tap k of this axis."""
    k, o, i = np.ogrid[:axis.kernel, :axis.out, :axis.size]
    return (i == o * axis.stride - axis.before + k * axis.dilation).astype(dtype)
