"""Activation functions, elementwise or along one axis. NaN and infinity travel as IEEE 754 says: ReLU(NaN) is NaN."""

from __future__ import annotations

import numpy as np

from fastconv import _core

from ._arguments import axis_index, integer
from .layer import Layer


class _Limiter(Layer):
    """The nearest number of an interval; the gradient passes within it."""

    _low, _high = 0.0, np.inf

    def _bounds(self) -> tuple[float, float] | None:
        # A derived class may have another _forward.
        return (self._low, self._high) if type(self)._forward is _Limiter._forward else None

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self._is_limited:
            x = np.asarray(np.clip(x, self._low, self._high, out=x if self._may_overwrite else None))
        return x, x

    def _backward(self, grad_output: np.ndarray, y: np.ndarray, input_gradient: bool) -> np.ndarray:
        high = self._high if np.isfinite(self._high) else np.nan  # an infinite y is open
        return _core.gate(y, grad_output, self._low, high, self._may_overwrite)


class ReLU(_Limiter):
    """Rectified linear unit, ``y = max(x, 0)``; ``dL/dx = dL/dy`` where ``x > 0``, else 0.

    Input and output of any shape, float32 or float64. A caller's input is not written to; in a chain, the output of a
    convolution, dense or normalisation layer in front is, since nobody else has it.

    References
    ----------
    Nair and Hinton, "Rectified linear units improve restricted Boltzmann machines", ICML 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.ReLU()(np.array([-1.0, 0.0, 2.0, np.nan]))
    array([ 0.,  0.,  2., nan])
    """


class ReLU6(_Limiter):
    """Rectified linear unit with a ceiling, ``y = min(max(x, 0), 6)``; ``dL/dx = dL/dy`` where ``0 < x < 6``, else 0.

    Input and output of any shape, float32 or float64.

    References
    ----------
    Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018, arXiv:1801.04381.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.ReLU6()(np.array([-1.0, 2.0, 7.0]))
    array([0., 2., 6.])
    """

    _high = 6.0


class Identity(Layer):
    """``y = x``: what stands where an activation may be chosen and none is.

    Input and output of any shape, float32 or float64.

    References
    ----------
    `torch.nn.Identity`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.Identity()(np.array([-1.0, 2.0]))
    array([-1.,  2.])
    """

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, None]:
        return x, None

    def _backward(self, grad_output: np.ndarray, saved: None, input_gradient: bool) -> np.ndarray:
        return grad_output


class Maxout(Layer):
    """The largest of every `pieces` neighbours along an axis, ``y_j = max_k x_{j pieces + k}``.

    After a dense or convolution layer of ``pieces m`` outputs it is a unit that learns its own convex activation. The
    gradient goes to the first of the largest. NaN is the largest of all.
    Input of any shape, float32 or float64; output with ``C / pieces`` elements along axis `dim`, where the input has C.

    Parameters
    ----------
    pieces : int
    dim : int

    Raises
    ------
    ValueError
        If `pieces` is not positive; on a call whose input has no such axis, or a C that `pieces` does not divide.

    References
    ----------
    Goodfellow et al., "Maxout networks", ICML 2013, arXiv:1302.4389.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> maxout = nn.Maxout(2)
    >>> maxout(np.array([[1.0, 3.0, -2.0, -5.0]])), maxout.backward(np.array([[10.0, 20.0]]))
    (array([[ 3., -2.]]), array([[ 0., 10., 20.,  0.]]))
    """

    def __init__(self, pieces: int, dim: int = 1) -> None:
        super().__init__()
        self.pieces = integer(pieces, "pieces")
        self.dim = integer(dim, "dim", minimum=-64)

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, int]]:
        axis = axis_index(self.dim, x.shape)
        if x.shape[axis] % self.pieces:
            raise ValueError(
                f"axis {axis} of the input of Maxout must be a multiple of pieces={self.pieces}, got shape {x.shape}"
            )
        pieces = x.reshape(*x.shape[:axis], x.shape[axis] // self.pieces, self.pieces, *x.shape[axis + 1 :])
        largest = np.expand_dims(pieces.argmax(axis=axis + 1), axis + 1)
        return np.take_along_axis(pieces, largest, axis + 1).squeeze(axis + 1), (largest, axis)

    def _backward(
        self, grad_output: np.ndarray, saved: tuple[np.ndarray, int], input_gradient: bool
    ) -> np.ndarray:
        largest, axis = saved
        before, outputs, after = grad_output.shape[:axis], grad_output.shape[axis], grad_output.shape[axis + 1 :]
        pieces = np.zeros((*before, outputs, self.pieces, *after), grad_output.dtype)
        np.put_along_axis(pieces, largest, np.expand_dims(grad_output, axis + 1), axis + 1)
        return pieces.reshape(*before, outputs * self.pieces, *after)


class LeakyReLU(Layer):
    """Leaky rectifier, ``y = x`` where ``x > 0``, else ``negative_slope x``.

    Input and output of any shape, float32 or float64.

    Parameters
    ----------
    negative_slope : float

    References
    ----------
    Maas, Hannun and Ng, "Rectifier nonlinearities improve neural network acoustic models", ICML 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.LeakyReLU(0.2)(np.array([-1.0, 0.0, 2.0]))
    array([-0.2,  0. ,  2. ])
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = float(negative_slope)

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slope = np.array([self.negative_slope, 1], x.dtype).take(x > 0)
        return x * slope, slope

    def _backward(self, grad_output: np.ndarray, slope: np.ndarray, input_gradient: bool) -> np.ndarray:
        return grad_output * slope


class ELU(Layer):
    """Exponential linear unit, ``y = x`` where ``x > 0``, else ``alpha (exp(x) - 1)``.

    Input and output of any shape, float32 or float64.

    Parameters
    ----------
    alpha : float

    References
    ----------
    Clevert, Unterthiner and Hochreiter, "Fast and accurate deep network learning by exponential linear units", 2015,
    arXiv:1511.07289.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.ELU()(np.array([-np.inf, 0.0, 2.0]))
    array([-1.,  0.,  2.])
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = float(alpha)

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.where(x > 0, x, self.alpha * np.expm1(np.minimum(x, 0))), x

    def _backward(self, grad_output: np.ndarray, x: np.ndarray, input_gradient: bool) -> np.ndarray:
        return np.where(x > 0, grad_output, grad_output * (self.alpha * np.exp(np.minimum(x, 0))))


def logistic(x: np.ndarray) -> np.ndarray:
    """``1 / (1 + exp(-x))`` without overflow."""
    small = np.exp(-np.abs(x))  # in [0, 1], where exp(-x) itself could overflow
    return np.where(x >= 0, 1, small) / (1 + small)


class Sigmoid(Layer):
    """Logistic function, ``y = 1 / (1 + exp(-x))``; ``dL/dx = dL/dy y (1 - y)``.

    Input and output of any shape, float32 or float64. No overflow, and full relative accuracy in both tails of y.

    References
    ----------
    Goodfellow, Bengio and Courville, "Deep learning", 2016, section 3.10.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.Sigmoid()(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y = logistic(x)
        return y, y

    def _backward(self, grad_output: np.ndarray, y: np.ndarray, input_gradient: bool) -> np.ndarray:
        return grad_output * (y * (1 - y))


class Tanh(Layer):
    """Hyperbolic tangent, ``y = tanh(x)``; ``dL/dx = dL/dy (1 - y^2)``.

    Input and output of any shape, float32 or float64.

    References
    ----------
    LeCun, Bottou, Orr and Müller, "Efficient backprop", 1998, section 4.4.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> tanh = nn.Tanh()
    >>> tanh(np.zeros(2)), tanh.backward(np.ones(2))
    (array([0., 0.]), array([1., 1.]))
    """

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y = np.tanh(x)
        return y, y

    def _backward(self, grad_output: np.ndarray, y: np.ndarray, input_gradient: bool) -> np.ndarray:
        return grad_output * (1 - y * y)


def log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """``x - log(sum(exp(x)))`` along an axis, shifted by the maximum so that nothing overflows."""
    with np.errstate(invalid="ignore"):  # infinity minus infinity is NaN, as it should be
        shifted = x - x.max(axis=axis, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


class Softmax(Layer):
    """Softmax along one axis, ``y_i = exp(x_i) / sum_j exp(x_j)``.

    Gradient: ``dL/dx = y (dL/dy - sum_j y_j dL/dy_j)``.
    Input and output of any shape, float32 or float64. In front of a cross-entropy use `CrossEntropyLoss`, which
    includes it.

    Parameters
    ----------
    dim : int
        The axis along which the outputs add up to 1.

    Raises
    ------
    ValueError
        On a call whose input has no such axis.

    References
    ----------
    Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.Softmax(dim=1)(np.array([[0.0, 0.0], [1000.0, 0.0]]))
    array([[0.5, 0.5],
           [1. , 0. ]])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = integer(dim, "dim", minimum=-64)

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        axis = axis_index(self.dim, x.shape)
        with np.errstate(invalid="ignore"):  # infinity minus infinity is NaN, as it should be
            y = np.exp(x - x.max(axis=axis, keepdims=True))
        y /= y.sum(axis=axis, keepdims=True)
        return y, y

    def _backward(self, grad_output: np.ndarray, y: np.ndarray, input_gradient: bool) -> np.ndarray:
        return y * (grad_output - (y * grad_output).sum(axis=self.dim, keepdims=True))


class LogSoftmax(Layer):
    """Logarithm of softmax along one axis, ``y_i = x_i - log sum_j exp(x_j)``.

    Gradient: ``dL/dx = dL/dy - exp(y) sum_j dL/dy_j``.
    Input and output of any shape, float32 or float64. Goes with `NLLLoss`.

    Parameters
    ----------
    dim : int
        The axis along which ``exp(y)`` adds up to 1.

    Raises
    ------
    ValueError
        On a call whose input has no such axis.

    References
    ----------
    Goodfellow, Bengio and Courville, "Deep learning", 2016, section 6.2.2.3.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.LogSoftmax(dim=1)(np.array([[1000.0, 0.0]]))
    array([[    0., -1000.]])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = integer(dim, "dim", minimum=-64)

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y = log_softmax(x, axis_index(self.dim, x.shape))
        return y, y

    def _backward(self, grad_output: np.ndarray, y: np.ndarray, input_gradient: bool) -> np.ndarray:
        return grad_output - np.exp(y) * grad_output.sum(axis=self.dim, keepdims=True)
