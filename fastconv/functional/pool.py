"""Pooling over one, two and three spatial axes: maximum and mean of windows or of a grid, gradients, unpooling.

Windows and sizes are PyTorch's. A window slides over the input as a convolution's kernel does; adaptive pooling chooses
windows itself so that the output has a given size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fastconv import _core
from fastconv.functional._document import document
from fastconv.functional._types import Sizes

__all__ = [
    f"{name}{n}d{what}"
    for name, parts in {
        "max_pool": ("", "_backward"),
        "avg_pool": ("", "_backward"),
        "adaptive_max_pool": ("", "_backward"),
        "adaptive_avg_pool": ("", "_backward"),
        "max_unpool": ("",),
    }.items()
    for what in parts
    for n in (1, 2, 3)
]

OutputSize = int | Sequence[int | None] | None
Pooled = np.ndarray | tuple[np.ndarray, np.ndarray]

_WINDOW = """\
    kernel_size : int or tuple of {axes} int
        Size {kernel} of the window, at least 1.
    stride : int or tuple of {axes} int, optional
        Distance between neighbouring windows, at least 1; `kernel_size` where left out.
    padding : int or tuple of {axes} int, default 0
        Positions added before and after each spatial axis, at most half of `kernel_size`."""

_CEIL = """\
    ceil_mode : bool, default False
        Round the output's size up instead of down, for windows that begin inside the input or the padding before it."""

_MEAN = """\
    count_include_pad : bool, default True
        Divide by the window's positions in the padding too (not by those beyond it, which `ceil_mode` adds)."""

_DIVISOR = """
    divisor_override : int, optional
        What to divide by instead, other than 0."""

_ERRORS = """\
    ValueError
        If shapes, sizes or options do not fit each other; the message names the argument.
    TypeError
        If an array is not float32 or float64 in native byte order, or an option is of the wrong kind.
    MemoryError
        If the result or the scratch memory cannot be allocated."""

_DUMOULIN = 'Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, section 3.'
_HE = 'He et al., "Spatial pyramid pooling in deep convolutional networks for visual recognition", 2014, section 2.'

_MAX_POOL = """Maximum of every window ({axes}-D).

    .. math:: y[n, c, {p}] = \\max_{{{k}}} x[n, c, {p} \\cdot stride + {k} \\cdot dilation - padding]

    over the taps that lie inside x. A NaN in the window is its maximum; of equal values the first in row-major order wins.

    Parameters
    ----------
    input : ndarray of shape (N, C, {size}) or (C, {size}), float32 or float64
        Any strides; a channels-last view gives channels-last results.
    {window}
    dilation : int or tuple of {axes} int, default 1
        Distance between neighbouring taps of the window, at least 1.
    {ceil}
    return_indices : bool, default False
        Return the places of the maxima too.

    Returns
    -------
    y : ndarray of shape (N, C, {out}) or (C, {out}), dtype of `input`
        ``{out1} = ({size1} + 2 * padding - dilation * ({kernel1} - 1) - 1) // stride + 1``.
    indices : ndarray of y's shape, int64
        Only with `return_indices`: where each maximum came from, flat over the spatial axes of its channel; of several NaNs,
        the last.

    Raises
    ------
    {errors}

    References
    ----------
    {dumoulin}

    Examples
    --------
    {example}
    """

_AVG_POOL = """Mean of every window ({axes}-D).

    .. math:: y[n, c, {p}] = \\frac{{1}}{{count}} \\sum_{{{k}}} x[n, c, {p} \\cdot stride + {k} - padding]

    with x zero in the padding.

    Parameters
    ----------
    input : ndarray of shape (N, C, {size}) or (C, {size}), float32 or float64
        Any strides; a channels-last view gives a channels-last result.
    {window}
    {ceil}
    {mean}

    Returns
    -------
    ndarray of shape (N, C, {out}) or (C, {out}), dtype of `input`
        ``{out1} = ({size1} + 2 * padding - {kernel1}) // stride + 1``.

    Raises
    ------
    {errors}

    References
    ----------
    {dumoulin}

    Examples
    --------
    {example}
    """

_ADAPTIVE_MAX_POOL = """Maximum over a grid of windows that yields the given output size ({axes}-D).

    .. math:: y[n, c, {p}] = \\max \\{{x[n, c, i] : \\lfloor p \\, size / out \\rfloor \\le i <
              \\lceil (p + 1) \\, size / out \\rceil\\}} \\text{{ on every axis}}

    A NaN in the window is its maximum; of equal values the first in row-major order wins.

    Parameters
    ----------
    input : ndarray of shape (N, C, {size}) or (C, {size}), float32 or float64
        Any strides; a channels-last view gives channels-last results.
    output_size : int, None or tuple of {axes} (int or None)
        ({out}), at least 0; None stands for the input's size.
    return_indices : bool, default False
        Return the places of the maxima too.

    Returns
    -------
    y : ndarray of shape (N, C, {out}) or (C, {out}), dtype of `input`
    indices : ndarray of y's shape, int64
        Only with `return_indices`: where each maximum came from, flat over the spatial axes of its channel.

    Raises
    ------
    {errors}

    References
    ----------
    {he}

    Examples
    --------
    {example}
    """

_ADAPTIVE_AVG_POOL = """Mean over a grid of windows that yields the given output size ({axes}-D); 1 is global pooling.

    .. math:: y[n, c, {p}] = \\text{{mean}} \\{{x[n, c, i] : \\lfloor p \\, size / out \\rfloor \\le i <
              \\lceil (p + 1) \\, size / out \\rceil\\}} \\text{{ on every axis}}

    Parameters
    ----------
    input : ndarray of shape (N, C, {size}) or (C, {size}), float32 or float64
        Any strides; a channels-last view gives a channels-last result.
    output_size : int, None or tuple of {axes} (int or None)
        ({out}), at least 0; None stands for the input's size.

    Returns
    -------
    ndarray of shape (N, C, {out}) or (C, {out}), dtype of `input`

    Raises
    ------
    {errors}

    References
    ----------
    {he}

    Examples
    --------
    {example}
    """

_MAX_UNPOOL = """Partial inverse of `max_pool{axes}d`: every value back at its index, zeros elsewhere.

    .. math:: y[n, c, indices[n, c, {p}]] = x[n, c, {p}]

    Where indices repeat, the last value in row-major order stays.

    Parameters
    ----------
    input : ndarray of shape (N, C, {size}) or (C, {size}), float32 or float64
    indices : ndarray of the shape of `input`, int64
        As `max_pool{axes}d` returns them.
    {window}
    output_size : tuple of {axes} int, or a whole shape, optional
        Spatial sizes of the result, less than `stride` away from the usual ones.

    Returns
    -------
    ndarray of shape (N, C, {out}) or (C, {out}), dtype of `input`
        Usually ``{out1} = ({size1} - 1) * stride - 2 * padding + {kernel1}``.

    Raises
    ------
    {errors}

    References
    ----------
    Zeiler and Fergus, "Visualizing and understanding convolutional networks", 2013, section 2.1.

    Examples
    --------
    {example}
    """

_MAX_BACKWARD = """Gradient of `{name}`: every output's gradient goes to where its maximum came from.

    .. math:: dx[n, c, i] = \\sum_{{p : indices[n, c, p] = i}} dy[n, c, p]

    Parameters
    ----------
    grad_output : ndarray of shape (N, C, {out}) or (C, {out}), float32 or float64
    indices : ndarray of the shape of `grad_output`, int64
        As ``{name}(..., return_indices=True)`` returns them.
    input_size : tuple of int, (N, C, {size}) or (C, {size})

    Returns
    -------
    ndarray of shape `input_size`, dtype of `grad_output`

    Raises
    ------
    {errors}

    Examples
    --------
    {example}
    """

_AVG_BACKWARD = """Gradient of `avg_pool{axes}d`: every output's gradient, divided, goes to all of its window.

    .. math:: dx[n, c, i] = \\sum_{{p, k : p \\cdot stride + k - padding = i}} dy[n, c, p] / count[p]

    Parameters
    ----------
    grad_output : ndarray of shape (N, C, {out}) or (C, {out}), float32 or float64
    input_size : tuple of int, (N, C, {size}) or (C, {size})
    {window}
    {ceil}
    {mean}

    Returns
    -------
    ndarray of shape `input_size`, dtype of `grad_output`

    Raises
    ------
    {errors}

    Examples
    --------
    {example}
    """

_ADAPTIVE_AVG_BACKWARD = """Gradient of `adaptive_avg_pool{axes}d`: every output's gradient, divided, goes to all of its window.

    .. math:: dx[n, c, i] = \\sum_{{p : i \\in window(p)}} dy[n, c, p] / |window(p)|

    Parameters
    ----------
    grad_output : ndarray of shape (N, C, {out}) or (C, {out}), float32 or float64
    input_size : tuple of int, (N, C, {size}) or (C, {size})

    Returns
    -------
    ndarray of shape `input_size`, dtype of `grad_output`

    Raises
    ------
    {errors}

    Examples
    --------
    {example}
    """


def _document(template, axes, example, name=""):
    mean = _MEAN + (_DIVISOR if axes > 1 else "")
    return document(template, axes, window=_WINDOW, ceil=_CEIL, mean=mean, errors=_ERRORS, dumoulin=_DUMOULIN, he=_HE,
                    name=name, example=example)


@_document(_MAX_POOL, 1, """
    >>> max_pool1d(np.array([[1.0, 2, -3, 2]]), 2, stride=1)
    array([[2., 2., 2.]])
""")
def max_pool1d(input: ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1,
               ceil_mode: bool = False, return_indices: bool = False) -> Pooled:
    return _core.max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@_document(_MAX_POOL, 2, """
    >>> x = np.arange(16.0).reshape(1, 4, 4)
    >>> y, indices = max_pool2d(x, 2, return_indices=True)
    >>> y
    array([[[ 5.,  7.],
            [13., 15.]]])
    >>> indices
    array([[[ 5,  7],
            [13, 15]]])
""")
def max_pool2d(input: ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1,
               ceil_mode: bool = False, return_indices: bool = False) -> Pooled:
    return _core.max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@_document(_MAX_POOL, 3, """
    >>> max_pool3d(np.ones((2, 1, 4, 5, 6), dtype=np.float32), 2).shape
    (2, 1, 2, 2, 3)
""")
def max_pool3d(input: ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1,
               ceil_mode: bool = False, return_indices: bool = False) -> Pooled:
    return _core.max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@_document(_MAX_BACKWARD, 1, """
    >>> max_pool1d_backward(np.array([[1.0, 10, 100]]), np.array([[1, 1, 3]]), (1, 4))
    array([[  0.,  11.,   0., 100.]])
""", name="max_pool1d")
def max_pool1d_backward(grad_output: ArrayLike, indices: ArrayLike, input_size: Sequence[int]) -> np.ndarray:
    return _core.max_pool_backward(1, grad_output, indices, input_size)


@_document(_MAX_BACKWARD, 2, """
    >>> y, indices = max_pool2d(np.arange(9.0).reshape(1, 3, 3), 2, stride=1, return_indices=True)
    >>> max_pool2d_backward(np.ones_like(y), indices, (1, 3, 3))
    array([[[0., 0., 0.],
            [0., 1., 1.],
            [0., 1., 1.]]])
""", name="max_pool2d")
def max_pool2d_backward(grad_output: ArrayLike, indices: ArrayLike, input_size: Sequence[int]) -> np.ndarray:
    return _core.max_pool_backward(2, grad_output, indices, input_size)


@_document(_MAX_BACKWARD, 3, """
    >>> max_pool3d_backward(np.full((1, 1, 1, 1), 5.0), np.full((1, 1, 1, 1), 3), (1, 1, 2, 2))
    array([[[[0., 0.],
             [0., 5.]]]])
""", name="max_pool3d")
def max_pool3d_backward(grad_output: ArrayLike, indices: ArrayLike, input_size: Sequence[int]) -> np.ndarray:
    return _core.max_pool_backward(3, grad_output, indices, input_size)


@_document(_AVG_POOL, 1, """
    >>> avg_pool1d(np.array([[1.0, 2, -3, 2]]), 2, stride=1)
    array([[ 1.5, -0.5, -0.5]])
""")
def avg_pool1d(input: ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, ceil_mode: bool = False,
               count_include_pad: bool = True) -> np.ndarray:
    return _core.avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad)


@_document(_AVG_POOL, 2, """
    >>> x = np.arange(16.0).reshape(1, 4, 4)
    >>> avg_pool2d(x, 2)
    array([[[ 2.5,  4.5],
            [10.5, 12.5]]])
    >>> avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
    array([[[ 2.5,  4. ],
            [ 8.5, 10. ]]])
""")
def avg_pool2d(input: ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, ceil_mode: bool = False,
               count_include_pad: bool = True, divisor_override: int | None = None) -> np.ndarray:
    return _core.avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@_document(_AVG_POOL, 3, """
    >>> avg_pool3d(np.ones((1, 2, 2, 3)), 2, divisor_override=2)
    array([[[[4.]]]])
""")
def avg_pool3d(input: ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, ceil_mode: bool = False,
               count_include_pad: bool = True, divisor_override: int | None = None) -> np.ndarray:
    return _core.avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@_document(_AVG_BACKWARD, 1, """
    >>> avg_pool1d_backward(np.array([[2.0, 20, 200]]), (1, 4), 2, stride=1)
    array([[  1.,  11., 110., 100.]])
""")
def avg_pool1d_backward(grad_output: ArrayLike, input_size: Sequence[int], kernel_size: Sizes, stride: Sizes | None = None,
                        padding: Sizes = 0, ceil_mode: bool = False, count_include_pad: bool = True) -> np.ndarray:
    return _core.avg_pool_backward(1, grad_output, input_size, kernel_size, stride, padding, ceil_mode, count_include_pad)


@_document(_AVG_BACKWARD, 2, """
    >>> avg_pool2d_backward(np.array([[[4.0, 8]]]), (1, 2, 5), 2)
    array([[[1., 1., 2., 2., 0.],
            [1., 1., 2., 2., 0.]]])
""")
def avg_pool2d_backward(grad_output: ArrayLike, input_size: Sequence[int], kernel_size: Sizes, stride: Sizes | None = None,
                        padding: Sizes = 0, ceil_mode: bool = False, count_include_pad: bool = True,
                        divisor_override: int | None = None) -> np.ndarray:
    return _core.avg_pool_backward(2, grad_output, input_size, kernel_size, stride, padding, ceil_mode, count_include_pad,
                                   divisor_override)


@_document(_AVG_BACKWARD, 3, """
    >>> avg_pool3d_backward(np.full((1, 1, 1, 1), 8.0), (1, 2, 2, 2), 2).sum()
    np.float64(8.0)
""")
def avg_pool3d_backward(grad_output: ArrayLike, input_size: Sequence[int], kernel_size: Sizes, stride: Sizes | None = None,
                        padding: Sizes = 0, ceil_mode: bool = False, count_include_pad: bool = True,
                        divisor_override: int | None = None) -> np.ndarray:
    return _core.avg_pool_backward(3, grad_output, input_size, kernel_size, stride, padding, ceil_mode, count_include_pad,
                                   divisor_override)


@_document(_ADAPTIVE_MAX_POOL, 1, """
    >>> adaptive_max_pool1d(np.array([[5.0, 1, 2, 3, 4]]), 2, return_indices=True)
    (array([[5., 4.]]), array([[0, 4]]))
""")
def adaptive_max_pool1d(input: ArrayLike, output_size: OutputSize, return_indices: bool = False) -> Pooled:
    return _core.adaptive_max_pool(1, input, output_size, return_indices)


@_document(_ADAPTIVE_MAX_POOL, 2, """
    >>> adaptive_max_pool2d(np.arange(12.0).reshape(1, 3, 4), (2, None))
    array([[[ 4.,  5.,  6.,  7.],
            [ 8.,  9., 10., 11.]]])
""")
def adaptive_max_pool2d(input: ArrayLike, output_size: OutputSize, return_indices: bool = False) -> Pooled:
    return _core.adaptive_max_pool(2, input, output_size, return_indices)


@_document(_ADAPTIVE_MAX_POOL, 3, """
    >>> adaptive_max_pool3d(np.arange(24.0).reshape(1, 2, 3, 4), 1)
    array([[[[23.]]]])
""")
def adaptive_max_pool3d(input: ArrayLike, output_size: OutputSize, return_indices: bool = False) -> Pooled:
    return _core.adaptive_max_pool(3, input, output_size, return_indices)


@_document(_MAX_BACKWARD, 1, """
    >>> adaptive_max_pool1d_backward(np.array([[1.0, 10]]), np.array([[0, 4]]), (1, 5))
    array([[ 1.,  0.,  0.,  0., 10.]])
""", name="adaptive_max_pool1d")
def adaptive_max_pool1d_backward(grad_output: ArrayLike, indices: ArrayLike, input_size: Sequence[int]) -> np.ndarray:
    return _core.max_pool_backward(1, grad_output, indices, input_size)


@_document(_MAX_BACKWARD, 2, """
    >>> y, indices = adaptive_max_pool2d(np.arange(6.0).reshape(1, 2, 3), (1, 2), return_indices=True)
    >>> adaptive_max_pool2d_backward(np.ones_like(y), indices, (1, 2, 3))
    array([[[0., 0., 0.],
            [0., 1., 1.]]])
""", name="adaptive_max_pool2d")
def adaptive_max_pool2d_backward(grad_output: ArrayLike, indices: ArrayLike, input_size: Sequence[int]) -> np.ndarray:
    return _core.max_pool_backward(2, grad_output, indices, input_size)


@_document(_MAX_BACKWARD, 3, """
    >>> adaptive_max_pool3d_backward(np.full((1, 1, 1, 1), 5.0), np.full((1, 1, 1, 1), 2), (1, 1, 1, 3))
    array([[[[0., 0., 5.]]]])
""", name="adaptive_max_pool3d")
def adaptive_max_pool3d_backward(grad_output: ArrayLike, indices: ArrayLike, input_size: Sequence[int]) -> np.ndarray:
    return _core.max_pool_backward(3, grad_output, indices, input_size)


@_document(_ADAPTIVE_AVG_POOL, 1, """
    >>> adaptive_avg_pool1d(np.array([[5.0, 1, 3, 3, 5]]), 2)
    array([[3.        , 3.66666667]])
""")
def adaptive_avg_pool1d(input: ArrayLike, output_size: OutputSize) -> np.ndarray:
    return _core.adaptive_avg_pool(1, input, output_size)


@_document(_ADAPTIVE_AVG_POOL, 2, """
    >>> adaptive_avg_pool2d(np.arange(12.0).reshape(1, 3, 4), (1, None))
    array([[[4., 5., 6., 7.]]])
""")
def adaptive_avg_pool2d(input: ArrayLike, output_size: OutputSize) -> np.ndarray:
    return _core.adaptive_avg_pool(2, input, output_size)


@_document(_ADAPTIVE_AVG_POOL, 3, """
    >>> adaptive_avg_pool3d(np.arange(24.0).reshape(1, 2, 3, 4), 1)
    array([[[[11.5]]]])
""")
def adaptive_avg_pool3d(input: ArrayLike, output_size: OutputSize) -> np.ndarray:
    return _core.adaptive_avg_pool(3, input, output_size)


@_document(_ADAPTIVE_AVG_BACKWARD, 1, """
    >>> adaptive_avg_pool1d_backward(np.array([[3.0, 30]]), (1, 5))
    array([[ 1.,  1., 11., 10., 10.]])
""")
def adaptive_avg_pool1d_backward(grad_output: ArrayLike, input_size: Sequence[int]) -> np.ndarray:
    return _core.adaptive_avg_pool_backward(1, grad_output, input_size)


@_document(_ADAPTIVE_AVG_BACKWARD, 2, """
    >>> adaptive_avg_pool2d_backward(np.full((1, 1, 1), 6.0), (1, 2, 3))
    array([[[1., 1., 1.],
            [1., 1., 1.]]])
""")
def adaptive_avg_pool2d_backward(grad_output: ArrayLike, input_size: Sequence[int]) -> np.ndarray:
    return _core.adaptive_avg_pool_backward(2, grad_output, input_size)


@_document(_ADAPTIVE_AVG_BACKWARD, 3, """
    >>> adaptive_avg_pool3d_backward(np.full((1, 1, 1, 1), 6.0), (1, 1, 2, 3))
    array([[[[1., 1., 1.],
             [1., 1., 1.]]]])
""")
def adaptive_avg_pool3d_backward(grad_output: ArrayLike, input_size: Sequence[int]) -> np.ndarray:
    return _core.adaptive_avg_pool_backward(3, grad_output, input_size)


@_document(_MAX_UNPOOL, 1, """
    >>> max_unpool1d(np.array([[5.0, 7]]), np.array([[0, 3]]), 2)
    array([[5., 0., 0., 7.]])
""")
def max_unpool1d(input: ArrayLike, indices: ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
                 output_size: Sequence[int] | None = None) -> np.ndarray:
    return _core.max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


@_document(_MAX_UNPOOL, 2, """
    >>> y, indices = max_pool2d(np.arange(16.0).reshape(1, 4, 4), 2, return_indices=True)
    >>> max_unpool2d(y, indices, 2)
    array([[[ 0.,  0.,  0.,  0.],
            [ 0.,  5.,  0.,  7.],
            [ 0.,  0.,  0.,  0.],
            [ 0., 13.,  0., 15.]]])
""")
def max_unpool2d(input: ArrayLike, indices: ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
                 output_size: Sequence[int] | None = None) -> np.ndarray:
    return _core.max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


@_document(_MAX_UNPOOL, 3, """
    >>> max_unpool3d(np.full((1, 1, 1, 1), 5.0), np.full((1, 1, 1, 1), 3), (1, 2, 2))
    array([[[[0., 0.],
             [0., 5.]]]])
""")
def max_unpool3d(input: ArrayLike, indices: ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
                 output_size: Sequence[int] | None = None) -> np.ndarray:
    return _core.max_unpool(3, input, indices, kernel_size, stride, padding, output_size)
