"""Activation functions, elementwise or along one axis. NaN and infinity travel as IEEE 754 says: ReLU(NaN) is NaN."""

from __future__ import annotations

import numpy as np

from ._arguments import axis_index, integer
from .layer import Layer


class ReLU(Layer):
    """Rectified linear unit, ``y = max(x, 0)``; ``dL/dx = dL/dy`` where ``x > 0``, else 0.

    Input and output of any shape, float32 or float64. Never in place: inputs are not written to.

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

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y = np.maximum(x, 0)
        return y, y

    def _backward(self, grad_output: np.ndarray, y: np.ndarray, input_gradient: bool) -> np.ndarray:
        return _zero_where(y <= 0, grad_output)


def _zero_where(mask: np.ndarray, a: np.ndarray) -> np.ndarray:
    """`a` with zeros where `mask` is true, without a branch: on irregular masks `numpy.where` takes ten times as long.

    A product with 0 or 1 would do, were it not NaN for infinite elements; so the bits are masked.
    """
    integers = np.dtype(f"i{a.itemsize}")
    bits = mask.astype(integers)
    bits -= 1  # all ones where the element stays, all zeros where it goes
    bits &= a.view(integers)
    return bits.view(a.dtype)


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
        small = np.exp(-np.abs(x))  # in [0, 1], where exp(-x) itself could overflow
        y = np.where(x >= 0, 1, small) / (1 + small)
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
