"""Pooling layers: maximum and average, over windows or over a grid of given size, in one, two and three dimensions.

The arithmetic is in `fastconv.functional`; the layers keep what its gradients need: indices for the maximum, the
input's shape for both. A pooling layer has no parameters, but the gradient passes through it all the same: to the
maximum, or spread evenly over the window. Windows follow Dumoulin and Visin, "A guide to convolution arithmetic for
deep learning", 2016, arXiv:1603.07285; grids He et al., "Spatial pyramid pooling in deep convolutional networks", 2014,
arXiv:1406.4729.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastconv import functional as F

from ._arguments import integer, per_axis
from .convolution import IntOrTuple
from .layer import Layer

Shape = tuple[int, ...]


class _Pool(Layer):
    """What all share; a subclass names its pair of functions."""

    _axes: int
    _function: Callable[..., np.ndarray]
    _gradient: Callable[..., np.ndarray]
    _output_is_free = True
    _gradient_is_free = True


class _MaxPool(_Pool):
    def __init__(
        self,
        kernel_size: IntOrTuple,
        stride: IntOrTuple | None = None,
        padding: IntOrTuple = 0,
        dilation: IntOrTuple = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = per_axis(kernel_size, self._axes, "kernel_size")
        self.stride = self.kernel_size if stride is None else per_axis(stride, self._axes, "stride")
        self.padding = per_axis(padding, self._axes, "padding", minimum=0)
        self.dilation = per_axis(dilation, self._axes, "dilation")
        self.ceil_mode = bool(ceil_mode)

    def _pool(self, x: np.ndarray, return_indices: bool) -> Any:
        return self._function(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, return_indices)

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray | None, np.ndarray | Shape]]:
        if not self.training:  # a gradient is unlikely
            return self._pool(x, False), (None, x)
        y, indices = self._pool(x, True)
        return y, (indices, x.shape)

    def _backward(
        self, grad_output: np.ndarray, saved: tuple[np.ndarray | None, np.ndarray | Shape], input_gradient: bool
    ) -> np.ndarray:
        indices, of = saved
        if indices is None:
            return self._gradient(grad_output, self._pool(of, True)[1], of.shape)
        return self._gradient(grad_output, indices, of)


class _AvgPool(_Pool):
    def __init__(
        self,
        kernel_size: IntOrTuple,
        stride: IntOrTuple | None = None,
        padding: IntOrTuple = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = per_axis(kernel_size, self._axes, "kernel_size")
        self.stride = self.kernel_size if stride is None else per_axis(stride, self._axes, "stride")
        self.padding = per_axis(padding, self._axes, "padding", minimum=0)
        self.ceil_mode = bool(ceil_mode)
        self.count_include_pad = bool(count_include_pad)

    def _options(self) -> tuple[object, ...]:
        return self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, Shape]:
        return self._function(x, *self._options()), x.shape

    def _backward(self, grad_output: np.ndarray, input_size: Shape, input_gradient: bool) -> np.ndarray:
        return self._gradient(grad_output, input_size, *self._options())


class _AvgPoolWithDivisor(_AvgPool):
    """Average pooling in two and three dimensions, which as in `torch.nn` can divide by a number of one's own."""

    def __init__(
        self,
        kernel_size: IntOrTuple,
        stride: IntOrTuple | None = None,
        padding: IntOrTuple = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)
        self.divisor_override = None if divisor_override is None else integer(divisor_override, "divisor_override")

    def _options(self) -> tuple[object, ...]:
        return *super()._options(), self.divisor_override


class _AdaptivePool(_Pool):
    def __init__(self, output_size: int | tuple[int | None, ...] | None) -> None:
        super().__init__()
        self.output_size = output_size


class _AdaptiveMaxPool(_AdaptivePool):
    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, Shape]]:
        y, indices = self._function(x, self.output_size, True)
        return y, (indices, x.shape)

    def _backward(self, grad_output: np.ndarray, saved: tuple[np.ndarray, Shape], input_gradient: bool) -> np.ndarray:
        indices, input_size = saved
        return self._gradient(grad_output, indices, input_size)


class _AdaptiveAvgPool(_AdaptivePool):
    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, Shape]:
        return self._function(x, self.output_size), x.shape

    def _backward(self, grad_output: np.ndarray, input_size: Shape, input_gradient: bool) -> np.ndarray:
        return self._gradient(grad_output, input_size)


class MaxPool1d(_MaxPool):
    """1-D max pooling, ``y[n,c,t] = max_k x[n, c, t s + k d - p]``.

    Input ``(N, C, L)`` or ``(C, L)``, float32 or float64; output ``(N, C, OL)`` (without N if the input is), with
    ``OL = (L + 2 p - d (K - 1) - 1) // s + 1`` for stride s, padding p, dilation d. Padding never
    wins, NaN always does, and of equal values the first, in row-major order; that one receives the gradient.

    Parameters
    ----------
    kernel_size : int or tuple of 1 int
        K.
    stride : int or tuple of 1 int, or None
        None means `kernel_size`.
    padding : int or tuple of 1 int
        At most half the kernel.
    dilation : int or tuple of 1 int
    ceil_mode : bool
        Round the output's size up instead of down.

    Raises
    ------
    ValueError
        For sizes out of range.

    References
    ----------
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, arXiv:1603.07285.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.MaxPool1d(2, stride=1)(np.array([[3.0, 0.0, -2.0]]))
    array([[3., 0.]])
    """

    _axes = 1
    _function = staticmethod(F.max_pool1d)
    _gradient = staticmethod(F.max_pool1d_backward)


class MaxPool2d(_MaxPool):
    """2-D max pooling, ``y[n,c,i,j] = max_{k,l} x[n, c, i s + k d - p, j s + l d - p]``.

    Input ``(N, C, H, W)`` or ``(C, H, W)``, float32 or float64; output ``(N, C, OH, OW)`` (without N if the input is),
    with ``OH = (H + 2 p - d (KH - 1) - 1) // s + 1``, ``OW`` likewise for stride s, padding p, dilation d. Padding
    never wins, NaN always does, and of equal values the first, in row-major order; that one receives the gradient.

    Parameters
    ----------
    kernel_size : int or tuple of 2 int
        (KH, KW).
    stride : int or tuple of 2 int, or None
        None means `kernel_size`.
    padding : int or tuple of 2 int
        At most half the kernel.
    dilation : int or tuple of 2 int
    ceil_mode : bool
        Round the output's size up instead of down.

    Raises
    ------
    ValueError
        For sizes out of range.

    References
    ----------
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, arXiv:1603.07285.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> pool = nn.MaxPool2d(2)
    >>> pool(np.array([[[1.0, 2.0, 5.0, 0.0], [4.0, 3.0, 0.0, 5.0]]]))
    array([[[4., 5.]]])
    >>> pool.backward(np.array([[[10.0, 20.0]]]))
    array([[[ 0.,  0., 20.,  0.],
            [10.,  0.,  0.,  0.]]])
    """

    _axes = 2
    _function = staticmethod(F.max_pool2d)
    _gradient = staticmethod(F.max_pool2d_backward)


class MaxPool3d(_MaxPool):
    """3-D max pooling, `MaxPool2d` with a depth axis in front.

    Input ``(N, C, D, H, W)`` or ``(C, D, H, W)``, float32 or float64; output ``(N, C, OD, OH, OW)``, without N if the
    input is, with ``OD = (D + 2 p - d (KD - 1) - 1) // s + 1``, ``OH`` and ``OW`` likewise for stride s, padding p,
    dilation d. Padding never wins, NaN always does, and of equal values the first, in row-major order; that one
    receives the gradient.

    Parameters
    ----------
    kernel_size : int or tuple of 3 int
        (KD, KH, KW).
    stride : int or tuple of 3 int, or None
        None means `kernel_size`.
    padding : int or tuple of 3 int
        At most half the kernel.
    dilation : int or tuple of 3 int
    ceil_mode : bool
        Round the output's size up instead of down.

    Raises
    ------
    ValueError
        For sizes out of range.

    References
    ----------
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, arXiv:1603.07285.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.MaxPool3d(2)(np.zeros((1, 4, 6, 8), np.float32)).shape
    (1, 2, 3, 4)
    """

    _axes = 3
    _function = staticmethod(F.max_pool3d)
    _gradient = staticmethod(F.max_pool3d_backward)


class AvgPool1d(_AvgPool):
    """1-D average pooling, ``y[n,c,t] = sum_k x[n, c, t s + k - p] / K``.

    Input ``(N, C, L)`` or ``(C, L)``, float32 or float64; output ``(N, C, OL)`` (without N if the input is), with
    ``OL = (L + 2 p - K) // s + 1`` for stride s and padding p.

    Parameters
    ----------
    kernel_size : int or tuple of 1 int
        K.
    stride : int or tuple of 1 int, or None
        None means `kernel_size`.
    padding : int or tuple of 1 int
        At most half the kernel.
    ceil_mode : bool
        Round the output's size up instead of down.
    count_include_pad : bool
        Whether zeros of the padding count as elements of the average.

    Raises
    ------
    ValueError
        For sizes out of range.

    References
    ----------
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, arXiv:1603.07285.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.AvgPool1d(2, stride=1)(np.array([[3.0, 0.0, -2.0]]))
    array([[ 1.5, -1. ]])
    """

    _axes = 1
    _function = staticmethod(F.avg_pool1d)
    _gradient = staticmethod(F.avg_pool1d_backward)


class AvgPool2d(_AvgPoolWithDivisor):
    """2-D average pooling, ``y[n,c,i,j] = sum_{k,l} x[n, c, i s + k - p, j s + l - p] / (KH KW)``.

    Input ``(N, C, H, W)`` or ``(C, H, W)``, float32 or float64; output ``(N, C, OH, OW)`` (without N if the input is),
    with ``OH = (H + 2 p - KH) // s + 1``, ``OW`` likewise for stride s and padding p.

    Parameters
    ----------
    kernel_size : int or tuple of 2 int
        (KH, KW).
    stride : int or tuple of 2 int, or None
        None means `kernel_size`.
    padding : int or tuple of 2 int
        At most half the kernel.
    ceil_mode : bool
        Round the output's size up instead of down.
    count_include_pad : bool
        Whether zeros of the padding count as elements of the average.
    divisor_override : int or None
        Divide by this number instead.

    Raises
    ------
    ValueError
        For sizes out of range.

    References
    ----------
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, arXiv:1603.07285.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> pool = nn.AvgPool2d(2)
    >>> pool(np.array([[[1.0, 2.0, 5.0, 0.0], [4.0, 3.0, 0.0, 5.0]]]))
    array([[[2.5, 2.5]]])
    >>> pool.backward(np.array([[[4.0, 8.0]]]))
    array([[[1., 1., 2., 2.],
            [1., 1., 2., 2.]]])
    """

    _axes = 2
    _function = staticmethod(F.avg_pool2d)
    _gradient = staticmethod(F.avg_pool2d_backward)


class AvgPool3d(_AvgPoolWithDivisor):
    """3-D average pooling, `AvgPool2d` with a depth axis in front.

    Input ``(N, C, D, H, W)`` or ``(C, D, H, W)``, float32 or float64; output ``(N, C, OD, OH, OW)``, without N if the
    input is, with ``OD = (D + 2 p - KD) // s + 1``, ``OH`` and ``OW`` likewise for stride s and padding p.

    Parameters
    ----------
    kernel_size : int or tuple of 3 int
        (KD, KH, KW).
    stride : int or tuple of 3 int, or None
        None means `kernel_size`.
    padding : int or tuple of 3 int
        At most half the kernel.
    ceil_mode : bool
        Round the output's size up instead of down.
    count_include_pad : bool
        Whether zeros of the padding count as elements of the average.
    divisor_override : int or None
        Divide by this number instead.

    Raises
    ------
    ValueError
        For sizes out of range.

    References
    ----------
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, arXiv:1603.07285.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.AvgPool3d(2)(np.zeros((1, 4, 6, 8), np.float32)).shape
    (1, 2, 3, 4)
    """

    _axes = 3
    _function = staticmethod(F.avg_pool3d)
    _gradient = staticmethod(F.avg_pool3d_backward)


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """1-D pooling to a given size: the maximum over windows that divide the input into a grid.

    Window i along L covers ``floor(i L / OL) ... ceil((i + 1) L / OL) - 1``; windows overlap where sizes do not divide.
    Input ``(N, C, L)`` or ``(C, L)``, float32 or float64; output ``(N, C, OL)`` (without N if the input is).

    Parameters
    ----------
    output_size : int
        OL.

    References
    ----------
    He et al., "Spatial pyramid pooling in deep convolutional networks for visual recognition", 2014, arXiv:1406.4729.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.AdaptiveMaxPool1d(2)(np.array([[1.0, 2.0, 6.0]]))
    array([[2., 6.]])
    """

    _axes = 1
    _function = staticmethod(F.adaptive_max_pool1d)
    _gradient = staticmethod(F.adaptive_max_pool1d_backward)


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """2-D pooling to a given size: the maximum over windows that divide the input into a grid.

    Window i along H and W covers ``floor(i H / OH) ... ceil((i + 1) H / OH) - 1``; windows overlap where sizes do not
    divide. Input ``(N, C, H, W)`` or ``(C, H, W)``, float32 or float64; output ``(N, C, OH, OW)`` (without N if the
    input is).

    Parameters
    ----------
    output_size : int, None or tuple of 2 int or None
        (OH, OW); None keeps the input's size, one int stands for both.

    References
    ----------
    He et al., "Spatial pyramid pooling in deep convolutional networks for visual recognition", 2014, arXiv:1406.4729.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.AdaptiveMaxPool2d((1, None))(np.zeros((8, 16, 7, 9), np.float32)).shape
    (8, 16, 1, 9)
    """

    _axes = 2
    _function = staticmethod(F.adaptive_max_pool2d)
    _gradient = staticmethod(F.adaptive_max_pool2d_backward)


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """3-D pooling to a given size: the maximum over windows that divide the input into a grid.

    Window i along D, H and W covers ``floor(i D / OD) ... ceil((i + 1) D / OD) - 1``; windows overlap where sizes do
    not divide. Input ``(N, C, D, H, W)`` or ``(C, D, H, W)``, float32 or float64; output ``(N, C, OD, OH, OW)``
    (without N if the input is).

    Parameters
    ----------
    output_size : int, None or tuple of 3 int or None
        (OD, OH, OW); None keeps the input's size, one int stands for all.

    References
    ----------
    He et al., "Spatial pyramid pooling in deep convolutional networks for visual recognition", 2014, arXiv:1406.4729.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.AdaptiveMaxPool3d(2)(np.zeros((16, 3, 7, 9), np.float32)).shape
    (16, 2, 2, 2)
    """

    _axes = 3
    _function = staticmethod(F.adaptive_max_pool3d)
    _gradient = staticmethod(F.adaptive_max_pool3d_backward)


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """1-D pooling to a given size: the average over windows that divide the input into a grid.

    Window i along L covers ``floor(i L / OL) ... ceil((i + 1) L / OL) - 1``; windows overlap where sizes do not divide.
    Input ``(N, C, L)`` or ``(C, L)``, float32 or float64; output ``(N, C, OL)`` (without N if the input is).

    Parameters
    ----------
    output_size : int
        OL.

    References
    ----------
    He et al., "Spatial pyramid pooling in deep convolutional networks for visual recognition", 2014, arXiv:1406.4729.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.AdaptiveAvgPool1d(2)(np.array([[1.0, 2.0, 6.0]]))
    array([[1.5, 4. ]])
    """

    _axes = 1
    _function = staticmethod(F.adaptive_avg_pool1d)
    _gradient = staticmethod(F.adaptive_avg_pool1d_backward)


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """2-D pooling to a given size: the average over windows that divide the input into a grid.

    Window i along H and W covers ``floor(i H / OH) ... ceil((i + 1) H / OH) - 1``; windows overlap where sizes do not
    divide. Input ``(N, C, H, W)`` or ``(C, H, W)``, float32 or float64; output ``(N, C, OH, OW)`` (without N if the
    input is).

    Parameters
    ----------
    output_size : int, None or tuple of 2 int or None
        (OH, OW); None keeps the input's size, one int stands for both.

    References
    ----------
    He et al., "Spatial pyramid pooling in deep convolutional networks for visual recognition", 2014, arXiv:1406.4729.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.AdaptiveAvgPool2d((1, None))(np.zeros((8, 16, 7, 9), np.float32)).shape
    (8, 16, 1, 9)
    """

    _axes = 2
    _function = staticmethod(F.adaptive_avg_pool2d)
    _gradient = staticmethod(F.adaptive_avg_pool2d_backward)


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """3-D pooling to a given size: the average over windows that divide the input into a grid.

    Window i along D, H and W covers ``floor(i D / OD) ... ceil((i + 1) D / OD) - 1``; windows overlap where sizes do
    not divide. Input ``(N, C, D, H, W)`` or ``(C, D, H, W)``, float32 or float64; output ``(N, C, OD, OH, OW)``
    (without N if the input is).

    Parameters
    ----------
    output_size : int, None or tuple of 3 int or None
        (OD, OH, OW); None keeps the input's size, one int stands for all.

    References
    ----------
    He et al., "Spatial pyramid pooling in deep convolutional networks for visual recognition", 2014, arXiv:1406.4729.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.AdaptiveAvgPool3d(2)(np.zeros((16, 3, 7, 9), np.float32)).shape
    (16, 2, 2, 2)
    """

    _axes = 3
    _function = staticmethod(F.adaptive_avg_pool3d)
    _gradient = staticmethod(F.adaptive_avg_pool3d_backward)
