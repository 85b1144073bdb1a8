"""Convolution and transposed convolution over one, two and three spatial axes, with their gradients.

Convolution means cross-correlation. The gradient with respect to the input *is* the transposed convolution: both are the
adjoint of one linear map and are computed by one code path.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastconv import _core
from fastconv.functional._document import document
from fastconv.functional._types import Padding, Sizes

__all__ = [
    "ConvGradients",
    *(f"conv{n}d{what}" for what in ("", "_backward", "_input", "_weight") for n in (1, 2, 3)),
    *(f"conv_transpose{n}d{what}" for what in ("", "_backward") for n in (1, 2, 3)),
]


class ConvGradients(NamedTuple):
    """What a convolution's backward pass returns; an entry that the mask leaves out is None."""

    input: np.ndarray | None
    weight: np.ndarray | None
    bias: np.ndarray | None


_core.set_gradients_type(ConvGradients)

_OPTIONS = """\
    stride : int or tuple of {axes} int, default 1
        Distance between neighbouring windows, at least 1.
    padding : int, tuple of {axes} int, tuple of {axes} (before, after) pairs, "valid" or "same", default 0
        Zeros added before and after each spatial axis, at least 0. "same" gives ``ceil(size / stride)`` outputs per axis;
        an odd total puts the extra zero after (with a stride above 1 this is TensorFlow's rule; PyTorch refuses the case).
    dilation : int or tuple of {axes} int, default 1
        Distance between neighbouring taps of the kernel, at least 1.
    groups : int, default 1
        Number of groups; output channels of group g see the input channels of group g only. Divides C and OC."""

_ERRORS = """\
    ValueError
        If shapes, sizes or options do not fit each other; the message names the argument.
    TypeError
        If an array is not float32 or float64 in native byte order, dtypes are mixed, or an option is no int."""

_CONV = """Convolve ({axes}-D cross-correlation) an input of several channels with a bank of filters.

    .. math:: y[n, o, {p}] = b[o] + \\sum_{{c, {k}}} w[o, c, {k}] \\, x[n, c, {p} \\cdot stride + {k} \\cdot dilation - padding]

    with c over the input channels of o's group, and x zero outside its bounds.

    Parameters
    ----------
    input : ndarray of shape (N, C, {size}) or (C, {size}), float32 or float64
        Any strides; a channels-last view gives a channels-last result.
    weight : ndarray of shape (OC, C // groups, {kernel}), dtype of `input`
    bias : ndarray of shape (OC,), dtype of `input`, optional
    {options}
    out : ndarray of the result's shape and dtype, any strides, optional
        Where to write the result. May overlap the inputs.
    algorithm : str, default "auto"
        A name that `explain` lists: "im2col" (GEMM over packed patches), "reference" and others.

    Returns
    -------
    ndarray of shape (N, OC, {out}) or (OC, {out}), dtype of `input`
        ``{out1} = ({size1} + padding before and after - dilation * ({kernel1} - 1) - 1) // stride + 1``.

    Raises
    ------
    {errors}
    MemoryError
        If the result or the scratch memory cannot be allocated.

    References
    ----------
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, sections 2 and 3.

    Examples
    --------
    {example}
    """

_TRANSPOSED = """Transposed convolution ({axes}-D): the adjoint of `conv{axes}d`, also called fractionally strided.

    .. math:: y[n, o, {p}] = b[o] + \\sum_{{c, q, {k}: q \\cdot stride + {k} \\cdot dilation - padding = {p}}}
              w[c, o, {k}] \\, x[n, c, q]

    Computed as one dense convolution per phase of the stride: nothing is multiplied by an inserted zero.

    Parameters
    ----------
    input : ndarray of shape (N, C, {size}) or (C, {size}), float32 or float64
    weight : ndarray of shape (C, OC // groups, {kernel}), dtype of `input`
    bias : ndarray of shape (OC,), dtype of `input`, optional
    stride : int or tuple of {axes} int, default 1
    padding : int, tuple of {axes} int or tuple of {axes} (before, after) pairs, default 0
        Outputs removed before and after each spatial axis.
    output_padding : int or tuple of {axes} int, default 0
        Outputs added after each axis; less than the stride or the dilation.
    groups : int, default 1
    dilation : int or tuple of {axes} int, default 1
    out : ndarray of the result's shape and dtype, any strides, optional
    algorithm : str, default "auto"
        A name that `explain` lists, to be taken for every phase of the stride.

    Returns
    -------
    ndarray of shape (N, OC, {out}) or (OC, {out}), dtype of `input`
        ``{out1} = ({size1} - 1) * stride - padding before and after + dilation * ({kernel1} - 1) + output_padding + 1``.

    Raises
    ------
    {errors}

    References
    ----------
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, section 4.

    Examples
    --------
    {example}
    """

_BACKWARD = """Gradients of `{name}` with respect to its input, weight and bias.

    .. math:: dx = A^T dy, \\quad dw[o, c, k] = \\sum_{{n, p}} dy[n, o, p] \\, x[n, c, p \\cdot stride + k \\cdot dilation -
              padding], \\quad db[o] = \\sum_{{n, p}} dy[n, o, p]

    where A is the convolution as a matrix (for the transposed convolution, A and its adjoint exchange their places).

    Parameters
    ----------
    grad_output : ndarray of the shape of ``{name}(input, weight, ...)``, float32 or float64
    input : ndarray of shape (N, C, {size}) or (C, {size}), dtype of `grad_output`
    weight : ndarray of shape {weight}, dtype of `grad_output`
    stride, padding, dilation, groups{extra}
        As given to `{name}`.
    output_mask : tuple of three bool, default (True, True, True)
        Which of (input, weight, bias) are wanted; the others are None and are not computed.

    Returns
    -------
    ConvGradients
        ``input``, ``weight`` and ``bias``, of the shapes and dtype of what they are the gradients of.

    Raises
    ------
    {errors}

    Examples
    --------
    {example}
    """

_INPUT = """Gradient of `conv{axes}d` with respect to its input (the name and order of ``torch.nn.grad``).

    .. math:: dx[n, c, i] = \\sum_{{o, p, k: p \\cdot stride + k \\cdot dilation - padding = i}} w[o, c, k] \\, dy[n, o, p]

    Parameters
    ----------
    input_size : tuple of int, (N, C, {size}) or (C, {size})
    weight : ndarray of shape (OC, C // groups, {kernel}), dtype of `grad_output`
    grad_output : ndarray of shape (N, OC, {out}) or (OC, {out}), float32 or float64
    {options}
    algorithm : str, default "auto"
        A name that `explain` lists with direction="input", to be taken for every phase of the stride.

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

_WEIGHT = """Gradient of `conv{axes}d` with respect to its weight (the name and order of ``torch.nn.grad``).

    .. math:: dw[o, c, k] = \\sum_{{n, p}} dy[n, o, p] \\, x[n, c, p \\cdot stride + k \\cdot dilation - padding]

    Parameters
    ----------
    input : ndarray of shape (N, C, {size}) or (C, {size}), dtype of `grad_output`
    weight_size : tuple of int, (OC, C // groups, {kernel})
    grad_output : ndarray of shape (N, OC, {out}) or (OC, {out}), float32 or float64
    {options}
    algorithm : str, default "auto"
        A name that `explain` lists with direction="weight".

    Returns
    -------
    ndarray of shape `weight_size`, dtype of `grad_output`

    Raises
    ------
    {errors}

    Examples
    --------
    {example}
    """


def _convolution(axes, example):
    return document(_CONV, axes, options=_OPTIONS, errors=_ERRORS, example=example)


def _transposed(axes, example):
    return document(_TRANSPOSED, axes, errors=_ERRORS, example=example)


def _gradient(template, axes, example):
    return document(template, axes, options=_OPTIONS, errors=_ERRORS, example=example)


def _backward(name, axes, example):
    transposed = "transpose" in name
    weight = "(C, OC // groups, {kernel})" if transposed else "(OC, C // groups, {kernel})"
    return document(_BACKWARD, axes, name=name, weight=weight, extra=", output_padding" if transposed else "", errors=_ERRORS,
                    example=example)


@_convolution(1, """
    >>> x = np.array([[1.0, 2, -3, 2], [1, 2, -2, 1]])
    >>> w = np.ones((1, 2, 2))
    >>> conv1d(x, w)
    array([[ 6., -1., -2.]])
""")
def conv1d(input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, stride: Sizes = 1, padding: Padding = 0,
           dilation: Sizes = 1, groups: int = 1, *, out: np.ndarray | None = None, algorithm: str = "auto") -> np.ndarray:
    return _core.convolve(1, False, input, weight, bias, stride, padding, dilation, groups, out, algorithm)


@_convolution(2, """
    >>> x = np.arange(9.0).reshape(1, 3, 3)
    >>> laplacian = np.array([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).reshape(1, 1, 3, 3)
    >>> conv2d(x, laplacian, padding="same")[0]
    array([[  4.,   2.,  -2.],
           [ -2.,   0.,  -6.],
           [-14., -10., -20.]])
""")
def conv2d(input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, stride: Sizes = 1, padding: Padding = 0,
           dilation: Sizes = 1, groups: int = 1, *, out: np.ndarray | None = None, algorithm: str = "auto") -> np.ndarray:
    return _core.convolve(2, False, input, weight, bias, stride, padding, dilation, groups, out, algorithm)


@_convolution(3, """
    >>> x = np.ones((2, 1, 4, 5, 6), dtype=np.float32)
    >>> conv3d(x, np.ones((3, 1, 2, 2, 2), dtype=np.float32), stride=2).shape
    (2, 3, 2, 2, 3)
""")
def conv3d(input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, stride: Sizes = 1, padding: Padding = 0,
           dilation: Sizes = 1, groups: int = 1, *, out: np.ndarray | None = None, algorithm: str = "auto") -> np.ndarray:
    return _core.convolve(3, False, input, weight, bias, stride, padding, dilation, groups, out, algorithm)


@_transposed(1, """
    >>> conv_transpose1d(np.array([[1.0, 2]]), np.array([[[1.0, 10, 100]]]), stride=2)
    array([[  1.,  10., 102.,  20., 200.]])
""")
def conv_transpose1d(input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, stride: Sizes = 1,
                     padding: Padding = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1, *,
                     out: np.ndarray | None = None, algorithm: str = "auto") -> np.ndarray:
    return _core.convolve(1, True, input, weight, bias, stride, padding, dilation, groups, out, algorithm, output_padding)


@_transposed(2, """
    >>> conv_transpose2d(np.array([[[1.0, 2]]]), np.ones((1, 1, 2, 2)), stride=2)
    array([[[1., 1., 2., 2.],
            [1., 1., 2., 2.]]])
""")
def conv_transpose2d(input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, stride: Sizes = 1,
                     padding: Padding = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1, *,
                     out: np.ndarray | None = None, algorithm: str = "auto") -> np.ndarray:
    return _core.convolve(2, True, input, weight, bias, stride, padding, dilation, groups, out, algorithm, output_padding)


@_transposed(3, """
    >>> conv_transpose3d(np.ones((1, 2, 3, 3, 3)), np.ones((2, 4, 2, 2, 2)), stride=2).shape
    (1, 4, 6, 6, 6)
""")
def conv_transpose3d(input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, stride: Sizes = 1,
                     padding: Padding = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1, *,
                     out: np.ndarray | None = None, algorithm: str = "auto") -> np.ndarray:
    return _core.convolve(3, True, input, weight, bias, stride, padding, dilation, groups, out, algorithm, output_padding)


@_backward("conv1d", 1, """
    >>> x, w = np.array([[1.0, 2, -3, 2]]), np.array([[[1.0, 10]]])
    >>> grads = conv1d_backward(np.ones((1, 3)), x, w)
    >>> grads.input, grads.weight, grads.bias
    (array([[ 1., 11., 11., 10.]]), array([[[0., 1.]]]), array([3.]))
""")
def conv1d_backward(grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Sizes = 1, padding: Padding = 0,
                    dilation: Sizes = 1, groups: int = 1, *,
                    output_mask: tuple[bool, bool, bool] = (True, True, True)) -> ConvGradients:
    return _core.gradients(1, False, grad_output, input, weight, stride, padding, dilation, groups, output_mask)


@_backward("conv2d", 2, """
    >>> x, w = np.ones((1, 3, 3)), np.ones((1, 1, 2, 2))
    >>> conv2d_backward(np.ones((1, 2, 2)), x, w, output_mask=(True, False, False)).input
    array([[[1., 2., 1.],
            [2., 4., 2.],
            [1., 2., 1.]]])
""")
def conv2d_backward(grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Sizes = 1, padding: Padding = 0,
                    dilation: Sizes = 1, groups: int = 1, *,
                    output_mask: tuple[bool, bool, bool] = (True, True, True)) -> ConvGradients:
    return _core.gradients(2, False, grad_output, input, weight, stride, padding, dilation, groups, output_mask)


@_backward("conv3d", 3, """
    >>> x, w = np.ones((1, 3, 3, 3)), np.ones((1, 1, 2, 2, 2))
    >>> conv3d_backward(np.ones((1, 2, 2, 2)), x, w).bias
    array([8.])
""")
def conv3d_backward(grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Sizes = 1, padding: Padding = 0,
                    dilation: Sizes = 1, groups: int = 1, *,
                    output_mask: tuple[bool, bool, bool] = (True, True, True)) -> ConvGradients:
    return _core.gradients(3, False, grad_output, input, weight, stride, padding, dilation, groups, output_mask)


@_backward("conv_transpose1d", 1, """
    >>> x, w = np.array([[1.0, 2]]), np.array([[[1.0, 10, 100]]])
    >>> conv_transpose1d_backward(np.ones((1, 5)), x, w, stride=2).input
    array([[111., 111.]])
""")
def conv_transpose1d_backward(grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Sizes = 1,
                              padding: Padding = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1, *,
                              output_mask: tuple[bool, bool, bool] = (True, True, True)) -> ConvGradients:
    return _core.gradients(1, True, grad_output, input, weight, stride, padding, dilation, groups, output_mask, output_padding)


@_backward("conv_transpose2d", 2, """
    >>> x, w = np.array([[[1.0, 2]]]), np.ones((1, 1, 2, 2))
    >>> conv_transpose2d_backward(np.ones((1, 2, 4)), x, w, stride=2).weight
    array([[[[3., 3.],
             [3., 3.]]]])
""")
def conv_transpose2d_backward(grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Sizes = 1,
                              padding: Padding = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1, *,
                              output_mask: tuple[bool, bool, bool] = (True, True, True)) -> ConvGradients:
    return _core.gradients(2, True, grad_output, input, weight, stride, padding, dilation, groups, output_mask, output_padding)


@_backward("conv_transpose3d", 3, """
    >>> x, w = np.ones((2, 1, 1, 1)), np.ones((2, 3, 2, 2, 2))
    >>> conv_transpose3d_backward(np.ones((3, 2, 2, 2)), x, w).bias
    array([8., 8., 8.])
""")
def conv_transpose3d_backward(grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Sizes = 1,
                              padding: Padding = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1, *,
                              output_mask: tuple[bool, bool, bool] = (True, True, True)) -> ConvGradients:
    return _core.gradients(3, True, grad_output, input, weight, stride, padding, dilation, groups, output_mask, output_padding)


@_gradient(_INPUT, 1, """
    >>> conv1d_input((1, 4), np.array([[[1.0, 10]]]), np.ones((1, 3)))
    array([[ 1., 11., 11., 10.]])
""")
def conv1d_input(input_size: tuple[int, ...], weight: ArrayLike, grad_output: ArrayLike, stride: Sizes = 1,
                 padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, algorithm: str = "auto") -> np.ndarray:
    return _core.input_gradient(1, input_size, weight, grad_output, stride, padding, dilation, groups, algorithm)


@_gradient(_INPUT, 2, """
    >>> conv2d_input((1, 2, 2), np.array([[[[1.0, 2], [3, 4]]]]), np.ones((1, 1, 1)))
    array([[[1., 2.],
            [3., 4.]]])
""")
def conv2d_input(input_size: tuple[int, ...], weight: ArrayLike, grad_output: ArrayLike, stride: Sizes = 1,
                 padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, algorithm: str = "auto") -> np.ndarray:
    return _core.input_gradient(2, input_size, weight, grad_output, stride, padding, dilation, groups, algorithm)


@_gradient(_INPUT, 3, """
    >>> conv3d_input((5, 1, 4, 4, 4), np.ones((2, 1, 3, 3, 3)), np.ones((5, 2, 2, 2, 2))).max()
    np.float64(16.0)
""")
def conv3d_input(input_size: tuple[int, ...], weight: ArrayLike, grad_output: ArrayLike, stride: Sizes = 1,
                 padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, algorithm: str = "auto") -> np.ndarray:
    return _core.input_gradient(3, input_size, weight, grad_output, stride, padding, dilation, groups, algorithm)


@_gradient(_WEIGHT, 1, """
    >>> conv1d_weight(np.array([[1.0, 2, -3, 2]]), (1, 1, 2), np.ones((1, 3)))
    array([[[0., 1.]]])
""")
def conv1d_weight(input: ArrayLike, weight_size: tuple[int, ...], grad_output: ArrayLike, stride: Sizes = 1,
                  padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, algorithm: str = "auto") -> np.ndarray:
    return _core.weight_gradient(1, input, weight_size, grad_output, stride, padding, dilation, groups, algorithm)


@_gradient(_WEIGHT, 2, """
    >>> conv2d_weight(np.arange(4.0).reshape(1, 2, 2), (1, 1, 1, 1), np.ones((1, 2, 2)))
    array([[[[6.]]]])
""")
def conv2d_weight(input: ArrayLike, weight_size: tuple[int, ...], grad_output: ArrayLike, stride: Sizes = 1,
                  padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, algorithm: str = "auto") -> np.ndarray:
    return _core.weight_gradient(2, input, weight_size, grad_output, stride, padding, dilation, groups, algorithm)


@_gradient(_WEIGHT, 3, """
    >>> conv3d_weight(np.ones((1, 4, 4, 4)), (2, 1, 3, 3, 3), np.ones((2, 2, 2, 2))).shape
    (2, 1, 3, 3, 3)
""")
def conv3d_weight(input: ArrayLike, weight_size: tuple[int, ...], grad_output: ArrayLike, stride: Sizes = 1,
                  padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, algorithm: str = "auto") -> np.ndarray:
    return _core.weight_gradient(3, input, weight_size, grad_output, stride, padding, dilation, groups, algorithm)
