"""Convolution and transposed convolution layers in one, two and three dimensions.

The arithmetic is in `fastconv.functional`; the layers hold the parameters and pass them on. Convolution means
cross-correlation. Background: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016,
arXiv:1603.07285. Initialisation as in `torch.nn`: uniform on [-b, b) with b = 1 / sqrt(fan in), which is He et al.,
"Delving deep into rectifiers", 2015, arXiv:1502.01852, with a = sqrt(5).
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastconv import _core
from fastconv import functional as F

from ._arguments import check_channels, integer, per_axis, random_generator, real_dtype
from .layer import Layer

IntOrTuple = int | tuple[int, ...]
Padding = int | tuple[int, ...] | tuple[tuple[int, int], ...] | str
Seed = int | np.random.Generator | None


class _Convolution(Layer):
    """What all six layers share; a subclass names its functions and the order of the weight's two channel axes."""

    _axes: int
    _function: Callable[..., np.ndarray]
    _gradient: Callable[..., Any]
    _transposed = False
    _output_is_free = True
    _gradient_is_free = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple,
        padding: Padding,
        dilation: IntOrTuple,
        groups: int,
        bias: bool,
        padding_mode: str,
        dtype: DTypeLike,
        seed: Seed,
    ) -> None:
        super().__init__(real_dtype(dtype))
        if padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros', got {padding_mode!r}; pad with numpy.pad instead")
        self.in_channels = integer(in_channels, "in_channels")
        self.out_channels = integer(out_channels, "out_channels")
        self.kernel_size = per_axis(kernel_size, self._axes, "kernel_size")
        self.stride = per_axis(stride, self._axes, "stride")
        self.padding = padding
        self.dilation = per_axis(dilation, self._axes, "dilation")
        self.groups = integer(groups, "groups")
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % self.groups:
                raise ValueError(f"{name} must be a multiple of groups={groups}, got {getattr(self, name)}")
        first, second = self.out_channels, self.in_channels
        if self._transposed:
            first, second = second, first
        shape = (first, second // self.groups, *self.kernel_size)
        # As torch.nn: "fan in" is always counted over the weight's second axis, also for transposed convolution.
        bound = 1 / sqrt(prod(shape[1:]))
        generator = random_generator(seed)
        self._draw("weight", shape, bound, generator)
        if bias:
            self._draw("bias", (self.out_channels,), bound, generator)

    def _options(self) -> dict[str, object]:
        """The keyword arguments that forward and backward have in common."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        check_channels(x, self._axes, self.in_channels, type(self).__name__)
        parameters = x, self.params["weight"], self.params.get("bias")
        if self._limits is None:
            return self._function(*parameters, **self._options()), x
        geometry = self.stride, self.padding, self.dilation, self.groups
        return _core.convolve(self._axes, False, *parameters, *geometry, None, None, 0, self._limits), x

    def _backward(self, grad_output: np.ndarray, x: np.ndarray, input_gradient: bool) -> np.ndarray | None:
        gradients = self._gradient(
            grad_output,
            x,
            self.params["weight"],
            **self._options(),
            output_mask=(input_gradient, True, "bias" in self.params),
        )
        for name in self.params:
            self.grads[name] = getattr(gradients, name)
        return gradients.input


class _ConvNd(_Convolution):
    _can_limit = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dtype: DTypeLike = np.float32,
        seed: Seed = None,
    ) -> None:
        geometry = stride, padding, dilation, groups
        super().__init__(in_channels, out_channels, kernel_size, *geometry, bias, padding_mode, dtype, seed)


class Conv1d(_ConvNd):
    """1-D convolution, ``y[n,o,t] = b[o] + sum_{c,k} W[o,c,k] x[n, c, t * stride + k * dilation - padding]``.

    Input ``(N, C, L)`` or ``(C, L)``, output ``(N, OC, OL)`` or ``(OC, OL)`` with
    ``OL = (L + 2 padding - dilation (K - 1) - 1) // stride + 1``.

    Parameters
    ----------
    in_channels, out_channels : int
        C and OC.
    kernel_size : int or tuple of 1 int
        K.
    stride, dilation : int or tuple of 1 int
    padding : int, tuple of 1 int, tuple of 1 pair (before, after), "valid" or "same"
    groups : int
        Divides C and OC; each group of outputs sees its own C / groups inputs.
    bias : bool
        Whether there is a `bias`.
    padding_mode : {"zeros"}
    dtype : dtype
        float32 or float64.
    seed : int, numpy.random.Generator or None
        For the initial values: uniform, bounded by ``1 / sqrt(C / groups * K)``, as in `torch.nn`.

    Attributes
    ----------
    params, grads : dict of str to ndarray
        "weight" of shape ``(OC, C / groups, K)``, "bias" of shape ``(OC,)``.

    Raises
    ------
    ValueError
        For sizes that are not positive or do not divide, and padding modes other than "zeros".

    References
    ----------
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, arXiv:1603.07285.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.Conv1d(2, 1, 2, bias=False, dtype=np.float64)
    >>> layer.params["weight"][...] = [[[1, 0], [0, 1]]]
    >>> layer(np.array([[1.0, 2, -3, 2], [1, 2, -2, 1]]))
    array([[ 3.,  0., -2.]])
    """

    _axes = 1
    _function = staticmethod(F.conv1d)
    _gradient = staticmethod(F.conv1d_backward)


class Conv2d(_ConvNd):
    """2-D convolution, ``y[n,o,i,j] = b[o] + sum_{c,k,l} W[o,c,k,l] x[n, c, i sh + k dh - ph, j sw + l dw - pw]``.

    Input ``(N, C, H, W)`` or ``(C, H, W)``, output ``(N, OC, OH, OW)`` or ``(OC, OH, OW)`` with
    ``OH = (H + 2 ph - dh (KH - 1) - 1) // sh + 1`` for stride s, padding p and dilation d, and OW likewise.

    Parameters
    ----------
    in_channels, out_channels : int
        C and OC.
    kernel_size : int or tuple of 2 int
        (KH, KW); one int stands for both.
    stride, dilation : int or tuple of 2 int
    padding : int, tuple of 2 int, tuple of 2 pairs (before, after), "valid" or "same"
        "same" gives outputs of the size of the input, or of ``ceil(size / stride)``.
    groups : int
        Divides C and OC; each group of outputs sees its own C / groups inputs. ``groups=C`` is depthwise convolution.
    bias : bool
        Whether there is a `bias`.
    padding_mode : {"zeros"}
    dtype : dtype
        float32 or float64.
    seed : int, numpy.random.Generator or None
        For the initial values: uniform, bounded by ``1 / sqrt(C / groups * KH * KW)``, as in `torch.nn`.

    Attributes
    ----------
    params, grads : dict of str to ndarray
        "weight" of shape ``(OC, C / groups, KH, KW)``, "bias" of shape ``(OC,)``.

    Raises
    ------
    ValueError
        For sizes that are not positive or do not divide, and padding modes other than "zeros".

    References
    ----------
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, arXiv:1603.07285.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.Conv2d(3, 16, 3, stride=2, padding=1, seed=0)
    >>> y = layer(np.ones((8, 3, 32, 32), np.float32))
    >>> y.shape
    (8, 16, 16, 16)
    >>> layer.backward(np.ones_like(y)).shape, layer.grads["weight"].shape
    ((8, 3, 32, 32), (16, 3, 3, 3))
    """

    _axes = 2
    _function = staticmethod(F.conv2d)
    _gradient = staticmethod(F.conv2d_backward)


class Conv3d(_ConvNd):
    """3-D convolution: `Conv2d` with a depth axis in front of height and width.

    Input ``(N, C, D, H, W)`` or ``(C, D, H, W)``, output ``(N, OC, OD, OH, OW)`` or ``(OC, OD, OH, OW)``, with
    ``OD = (D + 2 pd - dd (KD - 1) - 1) // sd + 1`` for stride s, padding p and dilation d, and OH, OW likewise.

    Parameters
    ----------
    in_channels, out_channels : int
        C and OC.
    kernel_size : int or tuple of 3 int
        (KD, KH, KW).
    stride, dilation : int or tuple of 3 int
    padding : int, tuple of 3 int, tuple of 3 pairs (before, after), "valid" or "same"
    groups : int
        Divides C and OC; each group of outputs sees its own C / groups inputs.
    bias : bool
        Whether there is a `bias`.
    padding_mode : {"zeros"}
    dtype : dtype
        float32 or float64.
    seed : int, numpy.random.Generator or None
        For the initial values: uniform, bounded by ``1 / sqrt(C / groups * KD * KH * KW)``, as in `torch.nn`.

    Attributes
    ----------
    params, grads : dict of str to ndarray
        "weight" of shape ``(OC, C / groups, KD, KH, KW)``, "bias" of shape ``(OC,)``.

    Raises
    ------
    ValueError
        For sizes that are not positive or do not divide, and padding modes other than "zeros".

    References
    ----------
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, arXiv:1603.07285.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.Conv3d(1, 4, (1, 3, 3), padding="same")(np.zeros((2, 1, 5, 8, 8), np.float32)).shape
    (2, 4, 5, 8, 8)
    """

    _axes = 3
    _function = staticmethod(F.conv3d)
    _gradient = staticmethod(F.conv3d_backward)


class _ConvTransposeNd(_Convolution):
    _transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        output_padding: IntOrTuple = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrTuple = 1,
        padding_mode: str = "zeros",
        *,
        dtype: DTypeLike = np.float32,
        seed: Seed = None,
    ) -> None:
        geometry = stride, padding, dilation, groups
        super().__init__(in_channels, out_channels, kernel_size, *geometry, bias, padding_mode, dtype, seed)
        self.output_padding = per_axis(output_padding, self._axes, "output_padding", minimum=0)

    def _options(self) -> dict[str, object]:
        return {**super()._options(), "output_padding": self.output_padding}


class ConvTranspose1d(_ConvTransposeNd):
    """1-D transposed convolution: the input gradient of `Conv1d`, used as a layer; it enlarges by the stride.

    ``y[n, o, t * stride + k * dilation - padding] += W[c,o,k] x[n,c,t]`` over all c, t and k, plus ``b[o]``.
    Input ``(N, C, L)`` or ``(C, L)``, output ``(N, OC, OL)`` or ``(OC, OL)`` with
    ``OL = (L - 1) stride - 2 padding + dilation (K - 1) + output_padding + 1``.

    Parameters
    ----------
    in_channels, out_channels : int
        C and OC.
    kernel_size : int or tuple of 1 int
        K.
    stride, dilation : int or tuple of 1 int
    padding : int or tuple of 1 int
        That of the convolution whose gradient this is: it trims the output.
    output_padding : int or tuple of 1 int
        Makes the output longer at its end; less than the stride or the dilation.
    groups : int
        Divides C and OC.
    bias : bool
        Whether there is a `bias`.
    padding_mode : {"zeros"}
    dtype : dtype
        float32 or float64.
    seed : int, numpy.random.Generator or None
        For the initial values: uniform, bounded by ``1 / sqrt(OC / groups * K)``, as in `torch.nn`.

    Attributes
    ----------
    params, grads : dict of str to ndarray
        "weight" of shape ``(C, OC / groups, K)``, "bias" of shape ``(OC,)``.

    Raises
    ------
    ValueError
        For sizes that are not positive or do not divide, and padding modes other than "zeros".

    References
    ----------
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, arXiv:1603.07285, chapter 4.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.ConvTranspose1d(1, 1, 3, stride=2, bias=False, dtype=np.float64)
    >>> layer.params["weight"][...] = [[[1, 2, 3]]]
    >>> layer(np.array([[10.0, 1.0]]))
    array([[10., 20., 31.,  2.,  3.]])
    """

    _axes = 1
    _function = staticmethod(F.conv_transpose1d)
    _gradient = staticmethod(F.conv_transpose1d_backward)


class ConvTranspose2d(_ConvTransposeNd):
    """2-D transposed convolution: the input gradient of `Conv2d`, used as a layer; it enlarges by the stride.

    ``y[n, o, i sh + k dh - ph, j sw + l dw - pw] += W[c,o,k,l] x[n,c,i,j]`` over all c, i, j, k and l, plus ``b[o]``.
    Input ``(N, C, H, W)`` or ``(C, H, W)``, output ``(N, OC, OH, OW)`` or ``(OC, OH, OW)`` with
    ``OH = (H - 1) sh - 2 ph + dh (KH - 1) + output_padding + 1``, and OW likewise.

    Parameters
    ----------
    in_channels, out_channels : int
        C and OC.
    kernel_size : int or tuple of 2 int
        (KH, KW).
    stride, dilation : int or tuple of 2 int
    padding : int or tuple of 2 int
        That of the convolution whose gradient this is: it trims the output.
    output_padding : int or tuple of 2 int
        Makes the output larger at its end; less than the stride or the dilation.
    groups : int
        Divides C and OC.
    bias : bool
        Whether there is a `bias`.
    padding_mode : {"zeros"}
    dtype : dtype
        float32 or float64.
    seed : int, numpy.random.Generator or None
        For the initial values: uniform, bounded by ``1 / sqrt(OC / groups * KH * KW)``, as in `torch.nn`.

    Attributes
    ----------
    params, grads : dict of str to ndarray
        "weight" of shape ``(C, OC / groups, KH, KW)``, "bias" of shape ``(OC,)``.

    Raises
    ------
    ValueError
        For sizes that are not positive or do not divide, and padding modes other than "zeros".

    References
    ----------
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, arXiv:1603.07285, chapter 4.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1)(np.zeros((2, 16, 7, 7), np.float32)).shape
    (2, 8, 14, 14)
    """

    _axes = 2
    _function = staticmethod(F.conv_transpose2d)
    _gradient = staticmethod(F.conv_transpose2d_backward)


class ConvTranspose3d(_ConvTransposeNd):
    """3-D transposed convolution: `ConvTranspose2d` with a depth axis in front of height and width.

    Input ``(N, C, D, H, W)`` or ``(C, D, H, W)``, output ``(N, OC, OD, OH, OW)`` or ``(OC, OD, OH, OW)``, with
    ``OD = (D - 1) sd - 2 pd + dd (KD - 1) + output_padding + 1``, and OH, OW likewise.

    Parameters
    ----------
    in_channels, out_channels : int
        C and OC.
    kernel_size : int or tuple of 3 int
        (KD, KH, KW).
    stride, dilation : int or tuple of 3 int
    padding : int or tuple of 3 int
        That of the convolution whose gradient this is: it trims the output.
    output_padding : int or tuple of 3 int
        Makes the output larger at its end; less than the stride or the dilation.
    groups : int
        Divides C and OC.
    bias : bool
        Whether there is a `bias`.
    padding_mode : {"zeros"}
    dtype : dtype
        float32 or float64.
    seed : int, numpy.random.Generator or None
        For the initial values: uniform, bounded by ``1 / sqrt(OC / groups * KD * KH * KW)``, as in `torch.nn`.

    Attributes
    ----------
    params, grads : dict of str to ndarray
        "weight" of shape ``(C, OC / groups, KD, KH, KW)``, "bias" of shape ``(OC,)``.

    Raises
    ------
    ValueError
        For sizes that are not positive or do not divide, and padding modes other than "zeros".

    References
    ----------
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, arXiv:1603.07285, chapter 4.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.ConvTranspose3d(2, 1, 2, stride=2)(np.zeros((2, 3, 4, 5), np.float32)).shape
    (1, 6, 8, 10)
    """

    _axes = 3
    _function = staticmethod(F.conv_transpose3d)
    _gradient = staticmethod(F.conv_transpose3d_backward)
