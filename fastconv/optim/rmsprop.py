"""RMSprop."""

from __future__ import annotations

from typing import Any

import numpy as np

from .optimizer import Network, Optimizer, nonnegative


class RMSprop(Optimizer):
    """RMSprop: steps divided by the root of a running mean of squared gradients, as `torch.optim.RMSprop`.

    With g the gradient plus ``weight_decay w``: ``s = alpha s + (1 - alpha) g^2``, starting at 0; the step is ``d = g /
    (sqrt(s) + eps)``, where centered with ``s - m^2`` for s, ``m = alpha m + (1 - alpha) g`` being the gradient's
    running mean. Then ``w = w - lr d``, and with momentum ``v = momentum v + d``, ``w = w - lr v``.

    Parameters
    ----------
    net : Layer, or any object with `params` and `grads`
    lr : float
        Learning rate.
    alpha : float
        Decay of the running means, from 0 to less than 1.
    eps, weight_decay, momentum : float
    centered : bool
        Whether to divide by the running deviation instead.
    l1 : float
        Factor of the penalty ``sum |w|``.

    Raises
    ------
    ValueError
        For values out of range.
    TypeError
        If `net` has no `params` and `grads`.

    References
    ----------
    Tieleman and Hinton, "Neural networks for machine learning", lecture 6.5, 2012; centered: Graves, "Generating
    sequences with recurrent neural networks", 2013, arXiv:1308.0850.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn, optim
    >>> layer = nn.Linear(1, 1, bias=False, dtype=np.float64)
    >>> layer.params["weight"][...] = 1
    >>> optimizer = optim.RMSprop(layer, lr=0.25, alpha=0.75)
    >>> y, grad_input = layer(np.ones((1, 1))), layer.backward(np.full((1, 1), 1000.0))
    >>> optimizer.step()
    >>> layer.params["weight"].round(6)   # 1 - 0.25 / sqrt(0.25)
    array([[0.5]])
    """

    def __init__(
        self,
        net: Network,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        *,
        l1: float = 0,
    ) -> None:
        super().__init__(net, lr, weight_decay, l1)
        if not 0 <= alpha < 1:
            raise ValueError(f"alpha must be in [0, 1), got {alpha!r}")
        self.alpha = alpha
        self.eps = nonnegative(eps, "eps")
        self.momentum = nonnegative(momentum, "momentum")
        self.centered = bool(centered)

    def _update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any]) -> None:
        if not state:
            names = ["square", *["mean"] * self.centered, *["velocity"] * bool(self.momentum)]
            state.update({name: np.zeros_like(param) for name in names})
        square = state["square"]
        square *= self.alpha
        square += (1 - self.alpha) * (grad * grad)
        if self.centered:
            state["mean"] += (1 - self.alpha) * (grad - state["mean"])
            square = square - state["mean"] * state["mean"]
        step = grad / (np.sqrt(square) + self.eps)
        if self.momentum:
            state["velocity"] *= self.momentum
            state["velocity"] += step
            step = state["velocity"]
        param -= self.lr * step
