"""The base class of the optimisers: the walk over a network's parameters."""

from __future__ import annotations

import copy
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
        Factor of the L2 penalty ``weight_decay / 2 sum w^2``, whose gradient ``weight_decay w`` is added to that of the
        loss.
    l1 : float
        Factor of the L1 penalty ``l1 sum |w|``, whose gradient ``l1 sign(w)`` (0 where w is 0) is added likewise.

    Attributes
    ----------
    state : dict of str to dict
        What the optimiser remembers per parameter. Plain data: pickle it along with the network to resume later.
    """

    def __init__(self, net: Network, lr: float, weight_decay: float, l1: float) -> None:
        if not (hasattr(net, "params") and hasattr(net, "grads")):
            raise TypeError(f"net must have params and grads, as layers have, got {type(net).__name__}")
        self.net = net
        self.lr = nonnegative(lr, "lr")
        self.weight_decay = nonnegative(weight_decay, "weight_decay")
        self.l1 = nonnegative(l1, "l1")
        self.state: dict[str, dict[str, Any]] = {}

    def _update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any]) -> None:
        raise NotImplementedError(f"{type(self).__name__} defines no _update")

    def penalty(self) -> float:
        """What `weight_decay` and `l1` add to the loss: ``weight_decay / 2 sum w^2 + l1 sum |w|`` over all parameters.

        Returns
        -------
        float
        """
        total = 0.0
        for param in self.net.params.values():
            wide = param.astype(np.float64)
            total += self.weight_decay / 2 * float((wide * wide).sum()) + self.l1 * float(np.abs(wide).sum())
        return total

    def state_dict(self) -> dict[str, Any]:
        """A snapshot of the learning rate and of what is remembered per parameter.

        Returns
        -------
        dict
            ``{"lr": float, "state": {parameter: {name: ndarray or int}}}``, copies.
        """
        return {"lr": self.lr, "state": copy.deepcopy(self.state)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a snapshot; the other settings are those of the constructor.

        Parameters
        ----------
        state_dict : mapping
            From `state_dict`.

        Raises
        ------
        ValueError
            If it is of another form, or for other parameters.
        """
        if set(state_dict) != {"lr", "state"}:
            raise ValueError(f"state_dict must have the keys 'lr' and 'state', got {sorted(state_dict)}")
        params = self.net.params
        for name, entries in state_dict["state"].items():
            if name not in params:
                raise ValueError(f"state_dict has a state for {name!r}, which net.params does not have")
            for key, value in entries.items():
                if np.ndim(value) and value.shape != params[name].shape:
                    raise ValueError(
                        f"{key!r} of {name!r} has shape {value.shape}, expected the parameter's {params[name].shape}"
                    )
        self.lr = nonnegative(state_dict["lr"], "lr")
        self.state = copy.deepcopy(dict(state_dict["state"]))

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
            if self.l1:
                grad = grad + self.l1 * np.sign(param)
            self._update(param, grad, self.state.setdefault(name, {}))
