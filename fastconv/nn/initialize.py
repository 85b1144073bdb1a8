"""Initial values by name, for comparing how training starts; what layers draw by themselves is `torch.nn`'s default."""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt

import numpy as np

from ._arguments import random_generator
from .convolution import Seed
from .layer import Layer

# The standard deviation of a weight with n inputs.
SCHEMES: dict[str, Callable[[int], float]] = {
    "zeros": lambda n: 0.0,
    "small": lambda n: 0.01,
    "large": lambda n: 1.0,
    "xavier": lambda n: sqrt(1 / n),
    "he": lambda n: sqrt(2 / n),
}


def initialize(net: Layer, scheme: str, seed: Seed = None) -> None:
    """Draw every weight of a network anew, ``w ~ N(0, s^2)``, and set the biases in front of it to zero.

    With n the weight's fan in, the number of inputs that one output sums over, s is 0 for "zeros", 0.01 for "small", 1
    for "large", ``sqrt(1 / n)`` for "xavier", which keeps the variance of a linear or tanh layer's output, and
    ``sqrt(2 / n)`` for "he", which makes up for the half that ReLU cuts off. Weights are the parameters of two axes or
    more, their biases the "bias" of the same layer; what has one axis only (batch normalisation) stays as it is.

    Parameters
    ----------
    net : Layer
        Its arrays are written in place.
    scheme : {"zeros", "small", "large", "xavier", "he"}
    seed : int, numpy.random.Generator or None

    Raises
    ------
    ValueError
        For another scheme.
    TypeError
        If `net` is no layer.

    References
    ----------
    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010 (here
    with n, not the mean of fan in and fan out); He et al., "Delving deep into rectifiers", 2015, arXiv:1502.01852.

    Examples
    --------
    >>> from fastconv import nn
    >>> net = nn.Sequential(nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 10))
    >>> nn.initialize(net, "he", seed=0)
    >>> round(float(net.params["0.weight"].std()), 3)    # sqrt(2 / 200)
    0.1
    """
    if not isinstance(net, Layer):
        raise TypeError(f"net must be a Layer, got {type(net).__name__}")
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(map(repr, SCHEMES))}, got {scheme!r}")
    generator = random_generator(seed)
    for _, layer in net._leaves():
        weights = {name: value for name, value in layer.params.items() if value.ndim > 1}
        for value in weights.values():
            deviation = SCHEMES[scheme](prod(value.shape[1:]))
            value[...] = deviation * generator.standard_normal(value.shape)
        if weights and "bias" in layer.params:
            layer.params["bias"][...] = 0
