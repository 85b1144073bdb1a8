"""Factored convolutions: separable and CP (canonical polyadic), forward and backward.

A factored kernel is a product of small ones, so its convolution is a chain of small convolutions (`_chain`).
The functions here check their arguments, build the chain and give its gradients the shapes of the factors.
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastconv import _core

from ._chain import Chain, check_array, check_bias, check_grad_output, check_input, check_mask, geometry
from ._cp import cp_convolve, cp_gradients, cp_problem
from ._types import Padding, Sizes
from .decompose import cp_decompose, cp_rank, cp_weight

__all__ = [
    "CPGradients",
    "SeparableGradients",
    "cp_conv1d",
    "cp_conv1d_backward",
    "cp_conv2d",
    "cp_conv2d_backward",
    "cp_decompose",
    "cp_rank",
    "cp_weight",
    "separable_conv2d",
    "separable_conv2d_backward",
]


class SeparableGradients(NamedTuple):
    """Gradients of `separable_conv2d`; None where the output mask left one out."""

    input: NDArray | None
    depthwise_weight: NDArray | None
    pointwise_weight: NDArray | None
    bias: NDArray | None


class CPGradients(NamedTuple):
    """Gradients of `cp_conv1d` and `cp_conv2d`; `factors` is a tuple like the argument."""

    input: NDArray | None
    factors: tuple[NDArray, ...] | None
    bias: NDArray | None


# ---- separable ---------------------------------------------------------------------------------

ACTIVATIONS = {None: None, "relu": (0.0, inf), "relu6": (0.0, 6.0)}  # bounds


def separable_conv2d(
    input: ArrayLike,
    depthwise_weight: ArrayLike,
    pointwise_weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    *,
    activation: str | None = None,
) -> NDArray:
    """Depthwise separable convolution: a filter for each channel, then a mix of the channels at each pixel.

    With ``M`` filters for each input channel, ``C' = C * M`` and zeros outside the input::

        z[n,j,p,q] = sum_{l,k}  D[j,0,l,k] x[n, j // M, p SH + l DH - PH, q SW + k DW - PW]
        y[n,o,p,q] = bias[o] + sum_j  P[o,j,0,0] z[n,j,p,q]

    which is the convolution with the dense kernel ``W[o,i,l,k] = sum_{j // M = i} P[o,j,0,0] D[j,0,l,k]`` at
    ``C' (KH KW + OC)`` instead of ``OC C KH KW`` multiplications for each pixel of the output.

    Parameters
    ----------
    input : array of shape (N, C, H, W) or (C, H, W), float32 or float64
    depthwise_weight : array of shape (C * M, 1, KH, KW), dtype of input
    pointwise_weight : array of shape (OC, C * M, 1, 1), dtype of input
    bias : array of shape (OC,), dtype of input, optional
    stride, dilation : int or tuple of 2 ints
        Of the depthwise filter.
    padding : int, tuple of 2 ints, tuple of 2 pairs (before, after), "same" or "valid"
        As in `conv2d`.
    activation : {None, "relu", "relu6"}
        What is applied to z before the channels are mixed: nothing, ``max(z, 0)`` or ``min(max(z, 0), 6)``.

    Returns
    -------
    array of shape (N, OC, OH, OW) or (OC, OH, OW), dtype of input

    Raises
    ------
    ValueError
        Where a shape, stride, padding or dilation does not fit, or the activation is none of these.
    TypeError
        Where a dtype is not float32 or float64, or not that of input.

    References
    ----------
    L. Sifre, "Rigid-motion scattering for image classification", thesis, 2014. A. Howard et al., "MobileNets:
    efficient convolutional neural networks for mobile vision applications", arXiv:1704.04861, 2017.

    Examples
    --------
    Each channel's difference to the right, then the sum of both channels:

    >>> import numpy as np
    >>> x = np.array([[[1.0, 2.0, 4.0]], [[0.0, 10.0, 30.0]]])
    >>> depthwise = np.array([-1.0, 1.0] * 2).reshape(2, 1, 1, 2)
    >>> separable_conv2d(x, depthwise, np.ones((1, 2, 1, 1)))
    array([[[11., 22.]]])
    >>> separable_conv2d(-x, depthwise, np.ones((1, 2, 1, 1)), activation="relu")
    array([[[0., 0.]]])
    """
    chain, x, batched = separable_problem(input, depthwise_weight, pointwise_weight, stride, padding, dilation, activation)
    y = chain.forward(x, check_bias(bias, len(chain.last), x))
    return y if batched else y[0]


def separable_conv2d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    depthwise_weight: ArrayLike,
    pointwise_weight: ArrayLike,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    *,
    activation: str | None = None,
    output_mask: Sequence[bool] = (True, True, True, True),
) -> SeparableGradients:
    """Gradients of `separable_conv2d`.

    With ``g = dL/dy``, ``z`` and ``M`` as in `separable_conv2d` and ``e = dL/dz``, every sum running over the
    indices that its left side lacks::

        dL/dbias[o]     = sum  g[n,o,p,q]
        dL/dP[o,j,0,0]  = sum  g[n,o,p,q] z[n,j,p,q]
        e[n,j,p,q]      = sum  P[o,j,0,0] g[n,o,p,q]
        dL/dD[j,0,l,k]  = sum  e[n,j,p,q] x[n, j // M, p SH + l DH - PH, q SW + k DW - PW]
        dL/dx[n,i,h,w]  = sum  D[j,0,l,k] e[n,j,p,q]    over j // M = i, p SH + l DH - PH = h, q SW + k DW - PW = w

    With an activation, z in the second line is what it leaves, and e is zero where z lies on or outside its bounds.

    Parameters
    ----------
    grad_output : array of shape (N, OC, OH, OW) or (OC, OH, OW), dtype of input
    input : array of shape (N, C, H, W) or (C, H, W), float32 or float64
    depthwise_weight : array of shape (C * M, 1, KH, KW), dtype of input
    pointwise_weight : array of shape (OC, C * M, 1, 1), dtype of input
    stride, padding, dilation, activation
        As given to `separable_conv2d`.
    output_mask : sequence of 4 bools
        Which gradients to compute: of input, depthwise_weight, pointwise_weight and bias.

    Returns
    -------
    SeparableGradients
        ``(input, depthwise_weight, pointwise_weight, bias)``, each of its argument's shape, None where masked.

    Raises
    ------
    ValueError, TypeError
        As `separable_conv2d`, and where grad_output does not have the output's shape.

    References
    ----------
    The equations follow from those of `separable_conv2d` by the chain rule.

    Examples
    --------
    >>> import numpy as np
    >>> x, depthwise = np.ones((1, 2, 3, 3)), np.ones((2, 1, 2, 2))
    >>> pointwise = np.array([1.0, -1.0]).reshape(1, 2, 1, 1)
    >>> gradients = separable_conv2d_backward(np.ones((1, 1, 2, 2)), x, depthwise, pointwise)
    >>> gradients.input[0, 1]
    array([[-1., -2., -1.],
           [-2., -4., -2.],
           [-1., -2., -1.]])
    >>> gradients.bias
    array([4.])
    """
    mask = check_mask(output_mask, 4)
    chain, x, batched = separable_problem(input, depthwise_weight, pointwise_weight, stride, padding, dilation, activation)
    grad = check_grad_output(grad_output, len(chain.last), chain.out, x, batched)
    grad_x, _, (grad_filter,), grad_last = chain.backward(grad, x, (mask[0], False, mask[1], mask[2]))
    return SeparableGradients(
        grad_x if grad_x is None or batched else grad_x[0],
        None if grad_filter is None else grad_filter[:, np.newaxis],
        None if grad_last is None else grad_last[:, :, np.newaxis, np.newaxis],
        _core.channel_sums(grad) if mask[3] else None,
    )


def separable_problem(
    input: ArrayLike,
    depthwise_weight: ArrayLike,
    pointwise_weight: ArrayLike,
    stride: Sizes,
    padding: Padding,
    dilation: Sizes,
    activation: str | None = None,
) -> tuple[Chain, NDArray, bool]:
    """The chain, the input with a batch axis, and whether it came with one."""
    if not (activation is None or isinstance(activation, str)) or activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {tuple(ACTIVATIONS)}, got {activation!r}")
    x, batched = check_input(input, 2)
    depthwise = check_array(depthwise_weight, "depthwise_weight", like=x)
    pointwise = check_array(pointwise_weight, "pointwise_weight", like=x)
    channels = x.shape[1]
    if depthwise.ndim != 4 or depthwise.shape[1] != 1 or 0 in depthwise.shape:
        raise ValueError(f"depthwise_weight: expected shape (C * multiplier, 1, KH, KW), got {depthwise.shape}")
    if channels == 0 or len(depthwise) % channels:
        raise ValueError(
            f"depthwise_weight: expected a multiple of the {channels} channels of input on axis 0, "
            f"got shape {depthwise.shape}"
        )
    if pointwise.ndim != 4 or pointwise.shape[1:] != (len(depthwise), 1, 1):
        raise ValueError(f"pointwise_weight: expected shape (OC, {len(depthwise)}, 1, 1), got {pointwise.shape}")
    axes = geometry(x.shape[2:], depthwise.shape[2:], stride, padding, dilation)
    return Chain(axes, None, (depthwise[:, 0],), pointwise[:, :, 0, 0], ACTIVATIONS[activation]), x, batched


# ---- CP ----------------------------------------------------------------------------------------


def cp_conv1d(
    input: ArrayLike,
    factors: Sequence[ArrayLike],
    bias: ArrayLike | None = None,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    *,
    algorithm: str = "auto",
) -> NDArray:
    """1-D convolution with a kernel in CP form, ``W[o,i,k] = sum_r a[o,r] b[i,r] d[k,r]``.

    With zeros outside the input::

        u[n,r,w] = sum_i  b[i,r] x[n,i,w]
        t[n,r,q] = sum_k  d[k,r] u[n, r, q S + k D - P]
        y[n,o,q] = bias[o] + sum_r  a[o,r] t[n,r,q]

    Parameters
    ----------
    input : array of shape (N, IC, W) or (IC, W), float32 or float64
    factors : sequence of 3 arrays a (OC, R), b (IC, R), d (KW, R), dtype of input
    bias : array of shape (OC,), dtype of input, optional
    stride, dilation : int or tuple of 1 int
    padding : int, tuple of 1 int, tuple of 1 pair (before, after), "same" or "valid"
        As in `conv1d`.
    algorithm : {"auto", "folded", "dense"}
        "folded" runs the links band by band, "dense" expands the kernel with `cp_weight` and calls `conv1d`; "auto"
        takes what `explain` estimates to be faster.

    Returns
    -------
    array of shape (N, OC, OW) or (OC, OW), dtype of input

    Raises
    ------
    ValueError
        Where a shape, rank, stride, padding or dilation does not fit.
    TypeError
        Where a dtype is not float32 or float64, or not that of input.

    See Also
    --------
    cp_conv2d : the same on images.
    cp_weight : the dense kernel of the factors.
    cp_decompose : factors for a dense kernel.

    References
    ----------
    V. Lebedev et al., "Speeding-up convolutional neural networks using fine-tuned CP-decomposition",
    arXiv:1412.6553, 2015.

    Examples
    --------
    The sum of two channels, its difference to the right, and twice that:

    >>> import numpy as np
    >>> x = np.array([[1.0, 2.0, 4.0], [0.0, 10.0, 30.0]])
    >>> a, b, d = np.array([[1.0], [2.0]]), np.array([[1.0], [1.0]]), np.array([[-1.0], [1.0]])
    >>> cp_conv1d(x, (a, b, d))
    array([[11., 22.],
           [22., 44.]])
    """
    return cp_convolve(cp_problem(1, input, factors, stride, padding, dilation), bias, algorithm)


def cp_conv1d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    factors: Sequence[ArrayLike],
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    *,
    output_mask: Sequence[bool] = (True, True, True),
    algorithm: str = "auto",
) -> CPGradients:
    """Gradients of `cp_conv1d`.

    With ``g = dL/dy``, ``u`` and ``t`` as in `cp_conv1d`, every sum running over the indices that its left
    side lacks::

        dL/dbias[o]    = sum  g[n,o,q]
        dL/da[o,r]     = sum  g[n,o,q] t[n,r,q]
        dL/dt[n,r,q]   = sum  a[o,r] g[n,o,q]
        dL/dd[k,r]     = sum  dL/dt[n,r,q] u[n, r, q S + k D - P]
        dL/du[n,r,w]   = sum  d[k,r] dL/dt[n,r,q]    over q S + k D - P = w
        dL/db[i,r]     = sum  dL/du[n,r,w] x[n,i,w]
        dL/dx[n,i,w]   = sum  b[i,r] dL/du[n,r,w]

    Parameters
    ----------
    grad_output : array of shape (N, OC, OW) or (OC, OW), dtype of input
    input : array of shape (N, IC, W) or (IC, W), float32 or float64
    factors : sequence of 3 arrays a (OC, R), b (IC, R), d (KW, R), dtype of input
    stride, padding, dilation
        As given to `cp_conv1d`.
    output_mask : sequence of 3 bools
        Which gradients to compute: of input, of the factors, of bias.
    algorithm
        As `cp_conv1d`'s.

    Returns
    -------
    CPGradients
        ``(input, (a, b, d), bias)``, each of its argument's shape, None where masked.

    Raises
    ------
    ValueError, TypeError
        As `cp_conv1d`, and where grad_output does not have the output's shape.

    References
    ----------
    The equations follow from those of `cp_conv1d` by the chain rule.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1.0, 2.0, 4.0], [0.0, 10.0, 30.0]])
    >>> a, b, d = np.array([[1.0], [2.0]]), np.array([[1.0], [1.0]]), np.array([[-1.0], [1.0]])
    >>> gradients = cp_conv1d_backward(np.ones((2, 2)), x, (a, b, d))
    >>> gradients.factors[2]
    array([[ 39.],
           [138.]])
    >>> gradients.input
    array([[-3.,  0.,  3.],
           [-3.,  0.,  3.]])
    """
    problem = cp_problem(1, input, factors, stride, padding, dilation)
    return CPGradients(*cp_gradients(problem, grad_output, output_mask, algorithm))


def cp_conv2d(
    input: ArrayLike,
    factors: Sequence[ArrayLike],
    bias: ArrayLike | None = None,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    *,
    algorithm: str = "auto",
) -> NDArray:
    """2-D convolution with a kernel in CP form, ``W[o,i,l,k] = sum_r a[o,r] b[i,r] c[l,r] d[k,r]``.

    With zeros outside the input::

        u[n,r,h,w] = sum_i  b[i,r] x[n,i,h,w]                       to R channels
        v[n,r,p,w] = sum_l  c[l,r] u[n, r, p SH + l DH - PH, w]     column filter
        t[n,r,p,q] = sum_k  d[k,r] v[n, r, p, q SW + k DW - PW]     row filter
        y[n,o,p,q] = bias[o] + sum_r  a[o,r] t[n,r,p,q]             to OC channels

    At stride 1 that is ``R (IC + KH + KW + OC)`` instead of ``OC IC KH KW`` multiplications for each pixel,
    fewer where the rank R is low enough. All links run on a band of rows before the next, so that the R channels
    between them stay in cache. Elements of the input that no tap reads, because the stride skips them, are left
    out from the start.

    Parameters
    ----------
    input : array of shape (N, IC, H, W) or (IC, H, W), float32 or float64
    factors : sequence of 4 arrays a (OC, R), b (IC, R), c (KH, R), d (KW, R), dtype of input
    bias : array of shape (OC,), dtype of input, optional
    stride, dilation : int or tuple of 2 ints
    padding : int, tuple of 2 ints, tuple of 2 pairs (before, after), "same" or "valid"
        As in `conv2d`.
    algorithm : {"auto", "folded", "split", "dense"}
        "split" runs the links as above band by band, "folded" with both filters as one, ``c[l,r] d[k,r]``; "dense"
        expands the kernel with `cp_weight` and calls `conv2d`; "auto" takes what `explain` estimates to be fastest.

    Returns
    -------
    array of shape (N, OC, OH, OW) or (OC, OH, OW), dtype of input

    Raises
    ------
    ValueError
        Where a shape, rank, stride, padding or dilation does not fit.
    TypeError
        Where a dtype is not float32 or float64, or not that of input.

    See Also
    --------
    cp_weight : the dense kernel of the factors.
    cp_decompose : factors for a dense kernel.

    References
    ----------
    V. Lebedev et al., "Speeding-up convolutional neural networks using fine-tuned CP-decomposition",
    arXiv:1412.6553, 2015.

    Examples
    --------
    Sobel's filter is of rank 1, a smoothing column times a difference along the row:

    >>> import numpy as np
    >>> x = np.arange(12.0).reshape(1, 3, 4) ** 2
    >>> one, smooth, difference = np.ones((1, 1)), np.array([[1.0], [2.0], [1.0]]), np.array([[-1.0], [0.0], [1.0]])
    >>> cp_conv2d(x, (one, one, smooth, difference))
    array([[[80., 96.]]])
    """
    return cp_convolve(cp_problem(2, input, factors, stride, padding, dilation), bias, algorithm)


def cp_conv2d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    factors: Sequence[ArrayLike],
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    *,
    output_mask: Sequence[bool] = (True, True, True),
    algorithm: str = "auto",
) -> CPGradients:
    """Gradients of `cp_conv2d`.

    With ``g = dL/dy``, ``h' = p SH + l DH - PH`` and ``w' = q SW + k DW - PW``, every sum running over the
    indices that its left side lacks, the definition gives::

        dL/da[o,r] = sum  g[n,o,p,q]        b[i,r] c[l,r] d[k,r] x[n,i,h',w']
        dL/db[i,r] = sum  g[n,o,p,q] a[o,r]        c[l,r] d[k,r] x[n,i,h',w']
        dL/dc[l,r] = sum  g[n,o,p,q] a[o,r] b[i,r]        d[k,r] x[n,i,h',w']
        dL/dd[k,r] = sum  g[n,o,p,q] a[o,r] b[i,r] c[l,r]        x[n,i,h',w']

    With ``u``, ``v`` and ``t`` as in `cp_conv2d`, the common parts of these are the gradients of what lies
    between the links, and each factor costs one small contraction::

        dL/dbias[o]      = sum  g[n,o,p,q]
        dL/da[o,r]       = sum  g[n,o,p,q] t[n,r,p,q]
        dL/dt[n,r,p,q]   = sum  a[o,r] g[n,o,p,q]
        dL/dd[k,r]       = sum  dL/dt[n,r,p,q] v[n,r,p,w']
        dL/dv[n,r,p,w]   = sum  d[k,r] dL/dt[n,r,p,q]    over w' = w
        dL/dc[l,r]       = sum  dL/dv[n,r,p,w] u[n,r,h',w]
        dL/du[n,r,h,w]   = sum  c[l,r] dL/dv[n,r,p,w]    over h' = h
        dL/db[i,r]       = sum  dL/du[n,r,h,w] x[n,i,h,w]
        dL/dx[n,i,h,w]   = sum  b[i,r] dL/du[n,r,h,w]

    Parameters
    ----------
    grad_output : array of shape (N, OC, OH, OW) or (OC, OH, OW), dtype of input
    input : array of shape (N, IC, H, W) or (IC, H, W), float32 or float64
    factors : sequence of 4 arrays a (OC, R), b (IC, R), c (KH, R), d (KW, R), dtype of input
    stride, padding, dilation
        As given to `cp_conv2d`.
    output_mask : sequence of 3 bools
        Which gradients to compute: of input, of the factors, of bias.
    algorithm
        As `cp_conv2d`'s.

    Returns
    -------
    CPGradients
        ``(input, (a, b, c, d), bias)``, each of its argument's shape, None where masked.

    Raises
    ------
    ValueError, TypeError
        As `cp_conv2d`, and where grad_output does not have the output's shape.

    References
    ----------
    The equations follow from the definition by the chain rule; the naming is that of V. Lebedev et al.,
    arXiv:1412.6553, 2015.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(4.0).reshape(1, 2, 2)
    >>> one, c, d = np.ones((1, 1)), np.array([[1.0], [2.0]]), np.array([[3.0], [5.0]])
    >>> gradients = cp_conv2d_backward(np.ones((1, 1, 1)), x, (one, one, c, d))
    >>> gradients.input                       # the kernel itself
    array([[[ 3.,  5.],
            [ 6., 10.]]])
    >>> gradients.factors[2]                  # c: the rows of x under d
    array([[ 5.],
           [21.]])
    """
    problem = cp_problem(2, input, factors, stride, padding, dilation)
    return CPGradients(*cp_gradients(problem, grad_output, output_mask, algorithm))
