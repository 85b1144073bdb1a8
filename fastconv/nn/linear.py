"""The dense layer, and the layer that flattens pixels for it."""

from __future__ import annotations

from math import prod, sqrt

import numpy as np
from numpy.typing import DTypeLike

from fastconv import _core

from ._arguments import axis_index, integer, random_generator, real_dtype
from .convolution import Seed
from .layer import Layer


class Linear(Layer):
    """Dense (fully connected) layer, ``y = x W^T + b``.

    Gradients: ``dL/dx = dL/dy W``, ``dL/dW = (dL/dy)^T x``, ``dL/db = sum over rows of dL/dy``.
    Input ``(..., in_features)``, output ``(..., out_features)``, with any axes in front, or none.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
        Whether there is a `bias`.
    dtype : dtype
        float32 or float64.
    seed : int, numpy.random.Generator or None
        For the initial values: uniform, bounded by ``1 / sqrt(in_features)``, as in `torch.nn`.

    Attributes
    ----------
    params, grads : dict of str to ndarray
        "weight" of shape ``(out_features, in_features)``, "bias" of shape ``(out_features,)``.

    Raises
    ------
    ValueError
        For sizes that are not positive, and on a call whose input has another last axis.

    References
    ----------
    Goodfellow, Bengio and Courville, "Deep learning", 2016, section 6.5. Initial values: He et al., 2015,
    arXiv:1502.01852.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.Linear(3, 1, dtype=np.float64)
    >>> layer.params["weight"][...], layer.params["bias"][...] = [[1, 2, 3]], 10
    >>> layer(np.array([[1.0, 0, 0], [1, 1, 1]]))
    array([[11.],
           [16.]])
    >>> layer.backward(np.array([[1.0], [0.0]])), layer.grads["weight"]
    (array([[1., 2., 3.],
           [0., 0., 0.]]), array([[1., 0., 0.]]))
    """

    _output_is_free = True
    _gradient_is_free = True
    _can_limit = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        seed: Seed = None,
    ) -> None:
        super().__init__(real_dtype(dtype))
        self.in_features = integer(in_features, "in_features")
        self.out_features = integer(out_features, "out_features")
        generator = random_generator(seed)
        bound = 1 / sqrt(self.in_features)
        self._draw("weight", (self.out_features, self.in_features), bound, generator)
        if bias:
            self._draw("bias", (self.out_features,), bound, generator)

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"input of Linear must have shape (..., {self.in_features}), got {x.shape}")
        weight, bias = self.params["weight"], self.params.get("bias")
        rows = x.reshape(-1, self.in_features)
        if 0 < len(rows) <= _FEW_ROWS:
            # A copy here is one copy; in the engine every task makes its own (4096-1024: 2.9, now 2.2 ms; 2 threads 3.1, 1.6).
            y = _product(np.ascontiguousarray(rows.T), weight, bias, self._limits).T
        else:
            y = rows @ weight.T
            if bias is not None:
                y += bias
            if self._limits is not None:
                np.clip(y, *self._limits, out=y)
        return y.reshape(*x.shape[:-1], self.out_features), x

    def _backward(self, grad_output: np.ndarray, x: np.ndarray, input_gradient: bool) -> np.ndarray | None:
        weight, rows = self.params["weight"], grad_output.reshape(-1, self.out_features)
        product = _product if 0 < len(rows) <= _FEW_ROWS else lambda b, a: a @ b
        self.grads["weight"] = product(x.reshape(-1, self.in_features), rows.T)
        if "bias" in self.params:
            self.grads["bias"] = rows.sum(axis=0)
        return product(weight, rows).reshape(x.shape) if input_gradient else None


# Rows up to which a 1x1 convolution, whose weights are matrix A and whose image is B, beats NumPy's BLAS. With a single row they
# are equal at one thread (1280-1000 220 us), but BLAS's threads stay awake for 30 ms and get in the way of the next layers:
# ResNet-18 at two threads 28 ms, 18.5 without them.
_FEW_ROWS = 64


def _product(
    b: np.ndarray, a: np.ndarray, bias: np.ndarray | None = None, limits: tuple[float, float] | None = None
) -> np.ndarray:
    """The matrix product ``A B``, plus a bias per row, limited."""
    return _core.convolve(1, False, b[np.newaxis], a[..., np.newaxis], bias, 1, 0, 1, 1, None, None, 0, limits)[0]


class Flatten(Layer):
    """Merge neighbouring axes into one, in row-major order; the gradient is reshaped back.

    Input of any shape, float32 or float64; output with axes `start_dim` to `end_dim` replaced by one.

    Parameters
    ----------
    start_dim, end_dim : int
        First and last axis to merge. The defaults keep the batch axis and merge the rest.

    Raises
    ------
    ValueError
        On a call whose input does not have these axes in this order.

    References
    ----------
    `torch.nn.Flatten`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.Flatten()(np.zeros((8, 16, 7, 7), np.float32)).shape
    (8, 784)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = integer(start_dim, "start_dim", minimum=-64)
        self.end_dim = integer(end_dim, "end_dim", minimum=-64)

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        first = axis_index(self.start_dim, x.shape, "start_dim")
        last = axis_index(self.end_dim, x.shape, "end_dim")
        if first > last:
            raise ValueError(
                f"start_dim must not come after end_dim, got axes {first} and {last} of an input of shape {x.shape}"
            )
        return x.reshape(*x.shape[:first], prod(x.shape[first : last + 1]), *x.shape[last + 1 :]), x.shape

    def _backward(self, grad_output: np.ndarray, shape: tuple[int, ...], input_gradient: bool) -> np.ndarray:
        return grad_output.reshape(shape)
