"""The base class of the optimisers: the walk over a network's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np


class Network(Protocol):
    """Anything with parameters and gradients under the same keys: a layer, a chain of layers, a class of your own."""

    params: Mapping[str, np.ndarray]
    grads: Mapping[str, np.ndarray]


def nonnegative(value: float, name: str) -> float:
    """`value`, if it is not negative and not NaN."""
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, got {value!r}")
    return value


class Optimizer:
    """Base class: a subclass defines `_update(param, grad, state)`, which changes `param` in place.

    Parameters
    ----------
    net : Layer, or any object with `params` and `grads`
        Mappings of str to ndarray. They are looked up anew in every step.
    lr : float
        Learning rate. Assign to the attribute to change it on the way: ``optimizer.lr *= 0.9``.
    weight_decay : float
        Factor of the penalty ``weight_decay / 2 |w|^2``, whose gradient ``weight_decay w`` is added to that of the
        loss.

    Attributes
    ----------
    state : dict of str to dict
        What the optimiser remembers per parameter. Plain data: pickle it along with the network to resume later.
    """

    def __init__(self, net: Network, lr: float, weight_decay: float) -> None:
        if not (hasattr(net, "params") and hasattr(net, "grads")):
            raise TypeError(f"net must have params and grads, as layers have, got {type(net).__name__}")
        self.net = net
        self.lr = nonnegative(lr, "lr")
        self.weight_decay = nonnegative(weight_decay, "weight_decay")
        self.state: dict[str, dict[str, Any]] = {}

    def _update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any]) -> None:
        raise NotImplementedError(f"{type(self).__name__} defines no _update")

    def step(self) -> None:
        """Update every parameter that has a gradient, in place. To freeze one, delete its entry of `net.grads` first.

        Raises
        ------
        RuntimeError
            If there are no gradients at all.
        ValueError
            If a gradient has another shape than its parameter.
        """
        params, grads = self.net.params, self.net.grads
        if params and not grads:
            raise RuntimeError("step was called before backward: net.grads is empty")
        for name, grad in grads.items():
            param = params[name]
            if grad.shape != param.shape:
                raise ValueError(f"net.grads[{name!r}] must have the parameter's shape {param.shape}, got {grad.shape}")
            if self.weight_decay:
                grad = grad + self.weight_decay * param
            self._update(param, grad, self.state.setdefault(name, {}))
