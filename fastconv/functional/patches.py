"""Patches: every window of an image as a column of a matrix, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fastconv import _core
from fastconv.functional._types import Sizes

__all__ = ["fold", "unfold"]


def unfold(
    input: ArrayLike, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1
) -> np.ndarray:
    r"""Every window of an image as a column (im2col).

    .. math:: y[n, (c, k), p] = x[n, c, p \cdot stride + k \cdot dilation - padding]

    with x zero in the padding; c and k = (i, j), and p = (u, v), are counted in row-major order. A convolution is
    the weight as a matrix (OC, C * KH * KW) times these columns.

    Parameters
    ----------
    input : ndarray of shape (N, C, H, W) or (C, H, W), float32 or float64
        Any strides.
    kernel_size : int or tuple of 2 int
        (KH, KW), at least 1.
    dilation : int or tuple of 2 int, default 1
        Distance between neighbouring taps of the window, at least 1.
    padding : int or tuple of 2 int, default 0
        Zeros added before and after each axis.
    stride : int or tuple of 2 int, default 1
        Distance between neighbouring windows, at least 1.

    Returns
    -------
    ndarray of shape (N, C * KH * KW, L) or (C * KH * KW, L), dtype of `input`
        ``L = OH * OW`` windows, ``OH = (H + 2 * padding - dilation * (KH - 1) - 1) // stride + 1``, OW likewise.

    Raises
    ------
    ValueError
        If shapes, sizes or options do not fit each other; the message names the argument.
    TypeError
        If `input` is not float32 or float64 in native byte order, or an option is no int.
    MemoryError
        If the result cannot be allocated.

    References
    ----------
    Chellapilla, Puri and Simard, "High performance convolutional neural networks for document processing", 2006,
    section 3.

    Examples
    --------
    >>> x = np.arange(9.0).reshape(1, 3, 3)
    >>> unfold(x, 2)
    array([[0., 1., 3., 4.],
           [1., 2., 4., 5.],
           [3., 4., 6., 7.],
           [4., 5., 7., 8.]])
    """
    return _core.unfold(input, kernel_size, dilation, padding, stride)


def fold(
    input: ArrayLike,
    output_size: int | Sequence[int],
    kernel_size: Sizes,
    dilation: Sizes = 1,
    padding: Sizes = 0,
    stride: Sizes = 1,
) -> np.ndarray:
    r"""Sum of columns put back as the windows of an image (col2im), the adjoint and the gradient of `unfold`.

    .. math:: x[n, c, i] = \sum_{p, k : p \cdot stride + k \cdot dilation - padding = i} y[n, (c, k), p]

    Parameters
    ----------
    input : ndarray of shape (N, C * KH * KW, L) or (C * KH * KW, L), float32 or float64
        Any strides; L as `unfold` gives it for an image of `output_size`.
    output_size : int or tuple of 2 int
        (H, W) of the image.
    kernel_size : int or tuple of 2 int
        (KH, KW), at least 1.
    dilation : int or tuple of 2 int, default 1
    padding : int or tuple of 2 int, default 0
    stride : int or tuple of 2 int, default 1
        As given to `unfold`.

    Returns
    -------
    ndarray of shape (N, C, H, W) or (C, H, W), dtype of `input`

    Raises
    ------
    ValueError
        If shapes, sizes or options do not fit each other; the message names the argument.
    TypeError
        If `input` is not float32 or float64 in native byte order, or an option is no int.
    MemoryError
        If the result or the scratch memory cannot be allocated.

    References
    ----------
    Chellapilla, Puri and Simard, "High performance convolutional neural networks for document processing", 2006,
    section 3.

    Examples
    --------
    How many 2x2 windows each pixel of a 3x3 image belongs to:

    >>> fold(np.ones((4, 4)), 3, 2)
    array([[[1., 2., 1.],
            [2., 4., 2.],
            [1., 2., 1.]]])
    """
    return _core.fold(input, output_size, kernel_size, dilation, padding, stride)
