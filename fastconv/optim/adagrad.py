"""AdaGrad."""

from __future__ import annotations

from typing import Any

import numpy as np

from .optimizer import Network, Optimizer, nonnegative


class Adagrad(Optimizer):
    """AdaGrad: steps divided by the root of all squared gradients so far, as `torch.optim.Adagrad`.

    With g the gradient plus ``weight_decay w``, and t counting steps from 0: ``s = s + g^2``, starting at
    `initial_accumulator_value`; ``w = w - lr / (1 + t lr_decay) g / (sqrt(s) + eps)``.

    Parameters
    ----------
    net : Layer, or any object with `params` and `grads`
    lr : float
        Learning rate.
    lr_decay, weight_decay, initial_accumulator_value, eps : float
    l1 : float
        Factor of the penalty ``sum |w|``.

    Raises
    ------
    ValueError
        For negative values.
    TypeError
        If `net` has no `params` and `grads`.

    References
    ----------
    Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and stochastic optimization", JMLR 12,
    2011.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn, optim
    >>> layer = nn.Linear(1, 1, bias=False, dtype=np.float64)
    >>> layer.params["weight"][...] = 1
    >>> optimizer = optim.Adagrad(layer, lr=0.5)
    >>> for gradient in (3.0, 4.0):
    ...     y, grad_input = layer(np.ones((1, 1))), layer.backward(np.full((1, 1), gradient))
    ...     optimizer.step()
    >>> layer.params["weight"].round(6)   # 1 - 0.5 * 3/3 - 0.5 * 4/5
    array([[0.1]])
    """

    def __init__(
        self,
        net: Network,
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        *,
        l1: float = 0,
    ) -> None:
        super().__init__(net, lr, weight_decay, l1)
        self.lr_decay = nonnegative(lr_decay, "lr_decay")
        self.initial_accumulator_value = nonnegative(initial_accumulator_value, "initial_accumulator_value")
        self.eps = nonnegative(eps, "eps")

    def _update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any]) -> None:
        if not state:
            state.update(step=0, square=np.full_like(param, self.initial_accumulator_value))
        rate = self.lr / (1 + state["step"] * self.lr_decay)
        state["step"] += 1
        square = state["square"]
        square += grad * grad
        param -= rate * (grad / (np.sqrt(square) + self.eps))
