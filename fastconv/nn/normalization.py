"""Normalisation layers: per channel over the batch, or per element of the batch.

Both compute ``xhat = (x - mu) / sqrt(var + eps)`` over some axes and share the gradient, which for m normalised values
is ``dL/dx = (g - mean(g) - xhat mean(g xhat)) / sqrt(var + eps)`` with ``g`` the gradient with respect to ``xhat``:
the mean and the variance depend on every x, and their share is what the two means take away.
"""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import DTypeLike

from ._arguments import integer, real_dtype
from .layer import Layer


def _eps(eps: float) -> float:
    if not eps >= 0:
        raise ValueError(f"eps must not be negative, got {eps!r}")
    return float(eps)


class _BatchNorm(Layer):
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
        rows = x.reshape(*x.shape[:2], prod(x.shape[2:]))
        from_batch = self.training or not self.track_running_stats
        mean, var = (
            self._batch_statistics(rows) if from_batch else (self.buffers["running_mean"], self.buffers["running_var"])
        )
        scale = 1 / np.sqrt(var + self.eps)
        xhat = (rows - mean[:, None]) * scale[:, None]
        y = xhat * self.params["weight"][:, None] + self.params["bias"][:, None] if self.affine else xhat
        return y.reshape(x.shape), (xhat, scale, from_batch)

    def _batch_statistics(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and biased variance per channel; in training the running ones follow, the variance without bias."""
        count = rows.shape[0] * rows.shape[2]
        if count == 1:
            raise ValueError(
                f"input of {type(self).__name__} must have more than one value per channel in training, "
                f"got {rows.shape[0]} x {rows.shape[2]}"
            )
        mean = _channel_sums(rows) / max(count, 1)
        var = _channel_sums((rows - mean[:, None]) ** 2) / max(count, 1)
        if self.training and self.track_running_stats:
            self.buffers["num_batches_tracked"] += 1
            if count:
                weight = 1 / float(self.buffers["num_batches_tracked"]) if self.momentum is None else self.momentum
                for name, value in (("running_mean", mean), ("running_var", var * (count / (count - 1)))):
                    self.buffers[name] *= 1 - weight
                    self.buffers[name] += weight * value
        return mean, var

    def _backward(
        self, grad_output: np.ndarray, saved: tuple[np.ndarray, np.ndarray, bool], input_gradient: bool
    ) -> np.ndarray | None:
        xhat, scale, from_batch = saved
        rows = grad_output.reshape(xhat.shape)
        grad_bias, grad_weight = _channel_sums(rows), _channel_sums(rows * xhat)
        if self.affine:
            self.grads["weight"], self.grads["bias"] = grad_weight, grad_bias
            scale = scale * self.params["weight"]
        if not input_gradient:
            return None
        if from_batch:
            count = max(rows.shape[0] * rows.shape[2], 1)
            rows = rows - (grad_bias / count)[:, None] - xhat * (grad_weight / count)[:, None]
        return (rows * scale[:, None]).reshape(grad_output.shape)


def _channel_sums(rows: np.ndarray) -> np.ndarray:
    """Sums of an (N, C, L) array per channel, in float64: NumPy's own order is not accurate over two axes."""
    return rows.sum(axis=(0, 2), dtype=np.float64).astype(rows.dtype)


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
