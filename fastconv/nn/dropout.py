"""Dropout: in training, elements or channels are zeroed at random, and the rest is scaled up to make up for it."""

from __future__ import annotations

import numpy as np

from ._arguments import probability, random_generator
from .convolution import Seed
from .layer import Layer


class _Dropout(Layer):
    def __init__(self, p: float = 0.5, *, seed: Seed = None) -> None:
        super().__init__()
        self.p = probability(p)
        self._generator = random_generator(seed)

    def _mask_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        raise NotImplementedError

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        shape = self._mask_shape(x.shape)
        if not self.training or self.p == 0:
            return x, None
        kept = self._generator.random(shape, np.float32) >= self.p
        factor = kept * x.dtype.type(1 / (1 - self.p) if self.p < 1 else 0)
        return x * factor, factor

    def _backward(self, grad_output: np.ndarray, factor: np.ndarray | None, input_gradient: bool) -> np.ndarray:
        return grad_output if factor is None else grad_output * factor


class Dropout(_Dropout):
    """Inverted dropout, ``y = x m / (1 - p)`` in training.

    There m is, for each element, 0 with probability p and 1 else, so the expectation of y is x. After `eval` y is x.
    Input and output of any shape, float32 or float64.

    Parameters
    ----------
    p : float
        Probability that an element is dropped, 0 to 1.
    seed : int, numpy.random.Generator or None
        The layer's own source of randomness.

    Raises
    ------
    ValueError
        If `p` is no probability.

    References
    ----------
    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> sorted(set(nn.Dropout(0.75, seed=0)(np.ones(100)).tolist()))
    [0.0, 4.0]
    >>> nn.Dropout(0.75).eval()(np.ones(3))
    array([1., 1., 1.])
    """

    def _mask_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape


class Dropout2d(_Dropout):
    """Dropout of whole channels, ``y[n,c] = x[n,c] m[n,c] / (1 - p)`` in training.

    There m is 0 with probability p and 1 else. Neighbouring pixels are alike, so dropping single ones does little.
    After `eval` y is x. Input and output ``(N, C, H, W)`` or, as in `torch.nn`, ``(N, C, L)``, float32 or float64.

    Parameters
    ----------
    p : float
        Probability that a channel is dropped, 0 to 1.
    seed : int, numpy.random.Generator or None
        The layer's own source of randomness.

    Raises
    ------
    ValueError
        If `p` is no probability, and on a call whose input has other axes.

    References
    ----------
    Tompson et al., "Efficient object localization using convolutional networks", 2014, arXiv:1411.4280.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> y = nn.Dropout2d(0.5, seed=0)(np.ones((1, 6, 4, 4)))
    >>> y.shape, set(y.sum((0, 2, 3)).tolist()) == {0.0, 32.0}
    ((1, 6, 4, 4), True)
    """

    def _mask_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) not in (3, 4):
            raise ValueError(f"input of Dropout2d must have shape (N, C, H, W) or (N, C, L), got {shape}")
        return shape[:2] + (1,) * (len(shape) - 2)
