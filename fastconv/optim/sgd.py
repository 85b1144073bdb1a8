"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import _core

from .optimizer import Network, Optimizer, nonnegative


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum, Nesterov's momentum and weight decay as in `torch.optim.SGD`.

    With g the gradient plus ``weight_decay w``: ``v = momentum v + (1 - dampening) g``, starting as ``v = g``; then
    ``w = w - lr v``, for Nesterov ``w = w - lr (g + momentum v)``, and without momentum ``w = w - lr g``.

    Parameters
    ----------
    net : Layer, or any object with `params` and `grads`
    lr : float
        Learning rate.
    momentum, dampening, weight_decay : float
    nesterov : bool
        Needs momentum, and no dampening.
    l1 : float
        Factor of the penalty ``sum |w|``.

    Raises
    ------
    ValueError
        For negative values, and for `nesterov` without momentum or with dampening.
    TypeError
        If `net` has no `params` and `grads`.

    References
    ----------
    Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn, optim
    >>> layer = nn.Linear(1, 1, bias=False, dtype=np.float64)
    >>> layer.params["weight"][...] = 1
    >>> optimizer = optim.SGD(layer, lr=0.5, momentum=0.5)
    >>> for _ in range(2):
    ...     y, grad_input = layer(np.ones((1, 1))), layer.backward(np.ones((1, 1)))
    ...     optimizer.step()
    >>> layer.params["weight"]   # 1 - 0.5 * 1 - 0.5 * 1.5
    array([[-0.25]])
    """

    def __init__(
        self,
        net: Network,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        l1: float = 0,
    ) -> None:
        super().__init__(net, lr, weight_decay, l1)
        self.momentum = nonnegative(momentum, "momentum")
        self.dampening = dampening
        self.nesterov = bool(nesterov)
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(
                f"nesterov needs momentum > 0 and dampening = 0, got momentum={momentum} and dampening={dampening}"
            )

    def _update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any]) -> None:
        if not self.momentum:
            param -= self.lr * grad
            return
        keep, fraction = self.momentum, 1 - self.dampening
        if "velocity" not in state:  # the first velocity is the gradient, undampened
            state["velocity"], keep, fraction = np.zeros_like(param, order="C"), 0.0, 1.0
        _core.momentum_step(param, state["velocity"], grad, keep, fraction, self.momentum, self.lr, self.nesterov)
