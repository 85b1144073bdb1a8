"""Normalisation layers: per channel over the batch, or per element of the batch.

Both compute ``xhat = (x - mu) / sqrt(var + eps)`` over some axes and share the gradient, which for m normalised values
is ``dL/dx = (g - mean(g) - xhat mean(g xhat)) / sqrt(var + eps)`` with ``g`` the gradient with respect to ``xhat``:
the mean and the variance depend on every x, and their share is what the two means take away.
"""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import DTypeLike

from fastconv import _core

from ._arguments import integer, real_dtype
from .layer import Layer


def _eps(eps: float) -> float:
    if not eps >= 0:
        raise ValueError(f"eps must not be negative, got {eps!r}")
    return float(eps)


class _BatchNorm(Layer):
    _output_is_free = True
    _gradient_is_free = True
    _dimensions: tuple[int, ...]
    _layout: str

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(real_dtype(dtype))
        self.num_features = integer(num_features, "num_features")
        self.eps = _eps(eps)
        self.momentum = momentum
        self.affine = bool(affine)
        self.track_running_stats = bool(track_running_stats)
        if affine:
            self.params["weight"] = np.ones(num_features, self.dtype)
            self.params["bias"] = np.zeros(num_features, self.dtype)
        if track_running_stats:
            self.buffers["running_mean"] = np.zeros(num_features, self.dtype)
            self.buffers["running_var"] = np.ones(num_features, self.dtype)
            self.buffers["num_batches_tracked"] = np.zeros((), np.int64)

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, bool]]:
        if x.ndim not in self._dimensions or x.shape[1] != self.num_features:
            raise ValueError(
                f"input of {type(self).__name__} must have shape {self._layout} with C={self.num_features}, "
                f"got {x.shape}"
            )
        rows = _rows(x)
        count = rows.shape[0] * rows.shape[2]
        from_batch = self.training or not self.track_running_stats
        if from_batch and count == 1:
            raise ValueError(
                f"input of {type(self).__name__} must have more than one value per channel in training, got 1 x 1"
            )
        if from_batch:
            mean, var = np.empty(self.num_features), np.empty(self.num_features)
        else:
            mean, var = (self.buffers[name].astype(np.float64) for name in ("running_mean", "running_var"))
        weight, bias = self._per_channel("weight", 1), self._per_channel("bias", 0)
        in_place = self._may_overwrite and not self._keeps
        y = _core.batch_norm(rows, mean, var, weight, bias, self.eps, from_batch, in_place)
        if self.training and self.track_running_stats:
            self._follow(mean, var, count)
        return _shaped_as(y, x.shape), (rows, mean, var, from_batch)

    def _per_channel(self, name: str, default: float) -> np.ndarray:
        """A parameter in float64, or what stands for it in a layer without parameters."""
        return self.params[name].astype(np.float64) if self.affine else np.full(self.num_features, float(default))

    def _follow(self, mean: np.ndarray, var: np.ndarray, count: int) -> None:
        """Let the running statistics follow those of a batch; their variance is the one without bias."""
        self.buffers["num_batches_tracked"] += 1
        if count:
            weight = 1 / float(self.buffers["num_batches_tracked"]) if self.momentum is None else self.momentum
            for name, value in (("running_mean", mean), ("running_var", var * (count / (count - 1)))):
                self.buffers[name] *= 1 - weight
                self.buffers[name] += weight * value

    def _backward(
        self, grad_output: np.ndarray, saved: tuple[np.ndarray, np.ndarray, np.ndarray, bool], input_gradient: bool
    ) -> np.ndarray | None:
        rows, mean, var, from_batch = saved
        weight = self._per_channel("weight", 1)
        grad_input, grad_weight, grad_bias = _core.batch_norm_gradient(
            rows, _rows(grad_output), mean, var, weight, self.eps, from_batch, input_gradient
        )
        if self.affine:
            self.grads["weight"], self.grads["bias"] = grad_weight.astype(self.dtype), grad_bias.astype(self.dtype)
        return _shaped_as(grad_input, grad_output.shape) if input_gradient else None


def _rows(x: np.ndarray) -> np.ndarray:
    """(N, C, ...) as (N, C, pixels); (N, C), which has one pixel, as (1, C, N), so that a channel's numbers are neighbours."""
    return x.T[np.newaxis] if x.ndim == 2 else x.reshape(*x.shape[:2], prod(x.shape[2:]))


def _shaped_as(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `_rows`."""
    return np.ascontiguousarray(rows[0].T) if len(shape) == 2 else rows.reshape(shape)


class BatchNorm1d(_BatchNorm):
    """Batch normalisation per channel of feature vectors or sequences, ``y = weight xhat + bias``.

    ``xhat = (x - mu_c) / sqrt(var_c + eps)``, with mean and (biased) variance of the batch in training, and the running
    ones after `eval`. Input and output ``(N, C)`` or ``(N, C, L)``.

    Parameters
    ----------
    num_features : int
        C.
    eps : float
    momentum : float or None
        Weight of the new batch in the running statistics; None averages over all batches seen.
    affine : bool
        Whether there are `weight` and `bias`.
    track_running_stats : bool
        False uses the batch's statistics also after `eval`.
    dtype : dtype
        float32 or float64.

    Attributes
    ----------
    params, grads : dict of str to ndarray
        "weight" and "bias" of shape ``(C,)``, initially 1 and 0.
    buffers : dict of str to ndarray
        "running_mean" and "running_var" of shape ``(C,)``, the latter without bias; "num_batches_tracked", an int64.

    Raises
    ------
    ValueError
        On a call whose input has another shape, or in training just one value per channel.

    References
    ----------
    Ioffe and Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate shift",
    2015, arXiv:1502.03167.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.BatchNorm1d(2, eps=0, dtype=np.float64)
    >>> layer(np.array([[1.0, 10.0], [3.0, 30.0]]))
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> layer.buffers["running_mean"]
    array([0.2, 2. ])
    """

    _dimensions = (2, 3)
    _layout = "(N, C) or (N, C, L)"


class BatchNorm2d(_BatchNorm):
    """Batch normalisation per channel of images, ``y = weight xhat + bias``.

    ``xhat = (x - mu_c) / sqrt(var_c + eps)``, with mean and (biased) variance over N, H and W of the batch in training,
    and the running ones after `eval`. Input and output ``(N, C, H, W)``.

    Parameters
    ----------
    num_features : int
        C.
    eps : float
    momentum : float or None
        Weight of the new batch in the running statistics; None averages over all batches seen.
    affine : bool
        Whether there are `weight` and `bias`.
    track_running_stats : bool
        False uses the batch's statistics also after `eval`.
    dtype : dtype
        float32 or float64.

    Attributes
    ----------
    params, grads : dict of str to ndarray
        "weight" and "bias" of shape ``(C,)``, initially 1 and 0.
    buffers : dict of str to ndarray
        "running_mean" and "running_var" of shape ``(C,)``, the latter without bias; "num_batches_tracked", an int64.

    Raises
    ------
    ValueError
        On a call whose input has another shape, or in training just one value per channel.

    References
    ----------
    Ioffe and Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate shift",
    2015, arXiv:1502.03167.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> y = nn.BatchNorm2d(3)(np.random.default_rng(0).random((8, 3, 5, 5), np.float32))
    >>> bool(np.allclose(y.mean((0, 2, 3)), 0, atol=1e-6)), bool(np.allclose(y.var((0, 2, 3)), 1, atol=1e-3))
    (True, True)
    """

    _dimensions = (4,)
    _layout = "(N, C, H, W)"


class LayerNorm(Layer):
    """Normalisation of each element of the batch over its last axes, ``y = weight xhat + bias``.

    ``xhat = (x - mu) / sqrt(var + eps)``, with mean and (biased) variance over the axes of `normalized_shape`; the same
    in training and evaluation. Input and output ``(..., *normalized_shape)``.

    Parameters
    ----------
    normalized_shape : int or tuple of int
        Sizes of the last axes.
    eps : float
    elementwise_affine : bool
        Whether there is a `weight`, and a `bias` if that is true too.
    bias : bool
    dtype : dtype
        float32 or float64.

    Attributes
    ----------
    params, grads : dict of str to ndarray
        "weight" and "bias" of shape `normalized_shape`, initially 1 and 0.

    Raises
    ------
    ValueError
        On a call whose input has other last axes.

    References
    ----------
    Ba, Kiros and Hinton, "Layer normalization", 2016, arXiv:1607.06450.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.LayerNorm(2, eps=0, dtype=np.float64)(np.array([[1.0, 3.0], [10.0, 30.0]]))
    array([[-1.,  1.],
           [-1.,  1.]])
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(real_dtype(dtype))
        sizes = tuple(normalized_shape) if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
        self.normalized_shape = tuple(integer(size, "normalized_shape") for size in sizes)
        self.eps = _eps(eps)
        self.elementwise_affine = bool(elementwise_affine)
        if elementwise_affine:
            self.params["weight"] = np.ones(self.normalized_shape, self.dtype)
        if elementwise_affine and bias:
            self.params["bias"] = np.zeros(self.normalized_shape, self.dtype)

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        batch = x.ndim - len(self.normalized_shape)
        if batch < 0 or x.shape[batch:] != self.normalized_shape:
            expected = ", ".join(map(str, ("...", *self.normalized_shape)))
            raise ValueError(f"input of LayerNorm must have shape ({expected}), got {x.shape}")
        axes = tuple(range(batch, x.ndim))
        centred = x - x.mean(axis=axes, keepdims=True)
        scale = 1 / np.sqrt((centred * centred).mean(axis=axes, keepdims=True) + self.eps)
        y = xhat = centred * scale
        if "weight" in self.params:
            y = y * self.params["weight"]
        if "bias" in self.params:
            y = y + self.params["bias"]
        return y, (xhat, scale)

    def _backward(
        self, grad_output: np.ndarray, saved: tuple[np.ndarray, np.ndarray], input_gradient: bool
    ) -> np.ndarray | None:
        xhat, scale = saved
        batch = xhat.ndim - len(self.normalized_shape)
        gradient = grad_output
        if "weight" in self.params:
            self.grads["weight"] = (grad_output * xhat).sum(axis=tuple(range(batch)))
            gradient = gradient * self.params["weight"]
        if "bias" in self.params:
            self.grads["bias"] = grad_output.sum(axis=tuple(range(batch)))
        if not input_gradient:
            return None
        axes = tuple(range(batch, xhat.ndim))
        along = (gradient * xhat).mean(axis=axes, keepdims=True)
        return (gradient - gradient.mean(axis=axes, keepdims=True) - xhat * along) * scale
