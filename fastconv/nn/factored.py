"""Layers whose kernel is a product: depthwise-separable and canonical polyadic (CP) convolution."""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from fastconv import functional as F
from fastconv.functional.factored import ACTIVATIONS

from ._arguments import check_channels, integer, per_axis, random_generator, real_dtype
from .convolution import Conv1d, Conv2d, IntOrTuple, Padding, Seed
from .layer import Layer


class SeparableConv2d(Layer):
    """Depthwise-separable 2-D convolution: a kernel for each channel, then a 1x1 mix of the channels.

    ``z = conv2d(x, depthwise_weight, groups=C)``, ``y = conv2d(z, pointwise_weight, bias)``. It needs
    ``C M (KH KW + OC)`` multiplications per pixel, where M is the multiplier, instead of the dense layer's
    ``C OC KH KW``. Input ``(N, C, H, W)`` or ``(C, H, W)``, output ``(N, OC, OH, OW)`` or ``(OC, OH, OW)``, sizes as of
    `Conv2d`.

    Parameters
    ----------
    in_channels, out_channels : int
        C and OC.
    kernel_size : int or tuple of 2 int
        (KH, KW).
    stride, dilation : int or tuple of 2 int
    padding : int, tuple of 2 int, tuple of 2 pairs (before, after), "valid" or "same"
    multiplier : int
        M, the number of depthwise kernels per input channel.
    bias : bool
        Whether there is a `bias`; the depthwise part has none.
    activation : {None, "relu", "relu6"}
        What is applied between the two, as in `fastconv.separable_conv2d`.
    dtype : dtype
        float32 or float64.
    seed : int, numpy.random.Generator or None
        For the initial values: those of the two `Conv2d` layers that it stands for.

    Attributes
    ----------
    params, grads : dict of str to ndarray
        "depthwise_weight" of shape ``(C M, 1, KH, KW)``, "pointwise_weight" of shape ``(OC, C M, 1, 1)``,
        "bias" of shape ``(OC,)``.

    Raises
    ------
    ValueError
        For sizes that are not positive, or another activation.

    References
    ----------
    Howard et al., "MobileNets: efficient convolutional neural networks for mobile vision applications", 2017,
    arXiv:1704.04861.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.SeparableConv2d(32, 64, 3, padding=1)
    >>> layer(np.zeros((1, 32, 14, 14), np.float32)).shape
    (1, 64, 14, 14)
    >>> sum(p.size for p in layer.params.values()), sum(p.size for p in nn.Conv2d(32, 64, 3).params.values())
    (2400, 18496)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        dilation: IntOrTuple = 1,
        multiplier: int = 1,
        bias: bool = True,
        *,
        activation: str | None = None,
        dtype: DTypeLike = np.float32,
        seed: Seed = None,
    ) -> None:
        super().__init__(real_dtype(dtype))
        if activation not in tuple(ACTIVATIONS):
            raise ValueError(f"activation of SeparableConv2d must be one of {tuple(ACTIVATIONS)}, got {activation!r}")
        self.activation = activation
        self.in_channels = integer(in_channels, "in_channels")
        self.out_channels = integer(out_channels, "out_channels")
        self.kernel_size = per_axis(kernel_size, 2, "kernel_size")
        self.stride = per_axis(stride, 2, "stride")
        self.padding = padding
        self.dilation = per_axis(dilation, 2, "dilation")
        self.multiplier = integer(multiplier, "multiplier")
        middle = self.in_channels * self.multiplier
        generator = random_generator(seed)
        self._draw("depthwise_weight", (middle, 1, *self.kernel_size), 1 / sqrt(prod(self.kernel_size)), generator)
        self._draw("pointwise_weight", (self.out_channels, middle, 1, 1), 1 / sqrt(middle), generator)
        if bias:
            self._draw("bias", (self.out_channels,), 1 / sqrt(middle), generator)

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        check_channels(x, 2, self.in_channels, "SeparableConv2d")
        weights = self.params["depthwise_weight"], self.params["pointwise_weight"]
        geometry = self.stride, self.padding, self.dilation
        return F.separable_conv2d(x, *weights, self.params.get("bias"), *geometry, activation=self.activation), x

    def _backward(self, grad_output: np.ndarray, x: np.ndarray, input_gradient: bool) -> np.ndarray | None:
        weights = self.params["depthwise_weight"], self.params["pointwise_weight"]
        mask = (input_gradient, True, True, "bias" in self.params)
        gradients = F.separable_conv2d_backward(
            grad_output, x, *weights, self.stride, self.padding, self.dilation, activation=self.activation, output_mask=mask
        )
        for name in self.params:
            self.grads[name] = getattr(gradients, name)
        return gradients.input


class _CPConv(Layer):
    """What the two layers share; a subclass names its functions, its factors and the dense layer it stands for."""

    _axes: int
    _names: tuple[str, ...]
    _function: Callable[..., np.ndarray]
    _gradient: Callable[..., Any]
    _dense: type[Layer]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        rank: int,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        dilation: IntOrTuple = 1,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        seed: Seed = None,
    ) -> None:
        super().__init__(real_dtype(dtype))
        self.in_channels = integer(in_channels, "in_channels")
        self.out_channels = integer(out_channels, "out_channels")
        self.kernel_size = per_axis(kernel_size, self._axes, "kernel_size")
        self.rank = integer(rank, "rank")
        self.stride = per_axis(stride, self._axes, "stride")
        self.padding = padding
        self.dilation = per_axis(dilation, self._axes, "dilation")
        self.relative_error: float | None = None
        rows = (self.out_channels, self.in_channels, *self.kernel_size)
        fan_in = prod(rows[1:])
        # The dense kernel that the factors stand for then has the variance that the dense layer starts with, 1 / (3
        # fan_in): it is a sum of `rank` products of independent factors, whose variances multiply.
        bound = sqrt(3) * (3 * fan_in * self.rank) ** (-0.5 / len(rows))
        generator = random_generator(seed)
        for name, size in zip(self._names, rows, strict=True):
            self._draw(name, (size, self.rank), bound, generator)
        if bias:
            self._draw("bias", (self.out_channels,), 1 / sqrt(fan_in), generator)

    @classmethod
    def from_conv(cls, layer: Conv1d | Conv2d, rank: int | None = None, *, relative_error: float | None = None,
                  **options: Any) -> Self:
        """The CP layer closest to a dense one: its weight is decomposed, its bias and geometry are taken over.

        Parameters
        ----------
        layer : Conv1d or Conv2d
            Without groups; it is left as it is.
        rank : int
            Number of terms; or instead of it:
        relative_error : float
            The budget for the kernel's error, for which `fastconv.cp_rank` looks for the lowest rank.
        **options
            `max_iter`, `tol`, `starts`, `callback` and `seed` of `fastconv.cp_decompose`.

        Returns
        -------
        CPConv1d or CPConv2d
            With `relative_error` set to the norm of the kernel's error divided by the kernel's norm.

        Raises
        ------
        TypeError
            If `layer` is of another kind.
        ValueError
            If `layer` has groups, or not one of rank and relative_error is given.
        """
        if not isinstance(layer, cls._dense):
            raise TypeError(f"layer must be a {cls._dense.__name__}, got {type(layer).__name__}")
        if layer.groups != 1:
            raise ValueError(f"layer must have groups=1 to be written as a CP convolution, got groups={layer.groups}")
        if (rank is None) == (relative_error is None):
            raise ValueError(f"expected either rank or relative_error, got {rank!r} and {relative_error!r}")
        weight = layer.params["weight"]
        if rank is None:
            factors, error = F.cp_rank(weight, relative_error, **options)
        else:
            factors, error = F.cp_decompose(weight, rank, **options)
        bias = "bias" in layer.params
        sizes = layer.in_channels, layer.out_channels, layer.kernel_size
        geometry = layer.stride, layer.padding, layer.dilation
        result = cls(*sizes, factors[0].shape[1], *geometry, bias, dtype=layer.dtype)
        result.relative_error = error
        for name, factor in zip(cls._names, factors, strict=True):
            result.params[name][...] = factor
        if bias:
            result.params["bias"][...] = layer.params["bias"]
        return result

    def _factors(self) -> tuple[np.ndarray, ...]:
        return tuple(self.params[name] for name in self._names)

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        check_channels(x, self._axes, self.in_channels, type(self).__name__)
        return self._function(x, self._factors(), self.params.get("bias"), self.stride, self.padding, self.dilation), x

    def _backward(self, grad_output: np.ndarray, x: np.ndarray, input_gradient: bool) -> np.ndarray | None:
        mask = (input_gradient, True, "bias" in self.params)
        gradients = self._gradient(
            grad_output, x, self._factors(), self.stride, self.padding, self.dilation, output_mask=mask
        )
        self.grads.update(zip(self._names, gradients.factors, strict=True))
        if "bias" in self.params:
            self.grads["bias"] = gradients.bias
        return gradients.input


class CPConv1d(_CPConv):
    """1-D convolution with a kernel of low rank, ``W[o,i,k] = sum_r a[o,r] b[i,r] d[k,r]``.

    Computed without forming W: 1x1 to R channels, depthwise, 1x1 to OC channels, ``R (C + K + OC)`` multiplications per
    output instead of ``C K OC``. Input ``(N, C, L)`` or ``(C, L)``, output ``(N, OC, OL)`` or ``(OC, OL)``, as
    `Conv1d`.

    Parameters
    ----------
    in_channels, out_channels : int
        C and OC.
    kernel_size : int or tuple of 1 int
        K.
    rank : int
        R, the number of terms.
    stride, dilation : int or tuple of 1 int
    padding : int, tuple of 1 int, tuple of 1 pair (before, after), "valid" or "same"
    bias : bool
        Whether there is a `bias`.
    dtype : dtype
        float32 or float64.
    seed : int, numpy.random.Generator or None
        For the initial values: uniform, such that W has the variance of `Conv1d`'s initial weight.

    Attributes
    ----------
    params, grads : dict of str to ndarray
        "a" of shape ``(OC, R)``, "b" of shape ``(C, R)``, "d" of shape ``(K, R)``, "bias" of shape ``(OC,)``.
    relative_error : float or None
        Of the kernel, if the layer was made by `from_conv`.

    Raises
    ------
    ValueError
        For sizes that are not positive.

    References
    ----------
    Lebedev et al., "Speeding-up convolutional neural networks using fine-tuned CP-decomposition", 2015,
    arXiv:1412.6553.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.CPConv1d(8, 16, 5, rank=2, padding="same")(np.zeros((4, 8, 100), np.float32)).shape
    (4, 16, 100)
    """

    _axes = 1
    _names = ("a", "b", "d")
    _function = staticmethod(F.cp_conv1d)
    _gradient = staticmethod(F.cp_conv1d_backward)
    _dense = Conv1d


class CPConv2d(_CPConv):
    """2-D convolution with a kernel of low rank, ``W[o,i,l,k] = sum_r a[o,r] b[i,r] c[l,r] d[k,r]``.

    Computed without forming W: 1x1 to R channels, a column and a row kernel per channel, 1x1 to OC channels,
    ``R (C + KH + KW + OC)`` multiplications per pixel instead of ``C OC KH KW``.
    Input ``(N, C, H, W)`` or ``(C, H, W)``, output ``(N, OC, OH, OW)`` or ``(OC, OH, OW)``, sizes as of `Conv2d`.

    Parameters
    ----------
    in_channels, out_channels : int
        C and OC.
    kernel_size : int or tuple of 2 int
        (KH, KW).
    rank : int
        R, the number of terms.
    stride, dilation : int or tuple of 2 int
    padding : int, tuple of 2 int, tuple of 2 pairs (before, after), "valid" or "same"
    bias : bool
        Whether there is a `bias`.
    dtype : dtype
        float32 or float64.
    seed : int, numpy.random.Generator or None
        For the initial values: uniform, such that W has the variance of `Conv2d`'s initial weight.

    Attributes
    ----------
    params, grads : dict of str to ndarray
        "a" of shape ``(OC, R)``, "b" of shape ``(C, R)``, "c" of shape ``(KH, R)``, "d" of shape ``(KW, R)``,
        "bias" of shape ``(OC,)``.
    relative_error : float or None
        Of the kernel, if the layer was made by `from_conv`.

    Raises
    ------
    ValueError
        For sizes that are not positive.

    References
    ----------
    Lebedev et al., "Speeding-up convolutional neural networks using fine-tuned CP-decomposition", 2015,
    arXiv:1412.6553.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> dense = nn.Conv2d(3, 8, 3, dtype=np.float64)
    >>> dense.params["weight"][...] = np.arange(1, 9).reshape(8, 1, 1, 1)   # a kernel of rank 1
    >>> layer = nn.CPConv2d.from_conv(dense, rank=1, seed=0)
    >>> x = np.ones((3, 5, 5))
    >>> bool(np.allclose(layer(x), dense(x)))
    True
    """

    _axes = 2
    _names = ("a", "b", "c", "d")
    _function = staticmethod(F.cp_conv2d)
    _gradient = staticmethod(F.cp_conv2d_backward)
    _dense = Conv2d
