"""Adam."""

from __future__ import annotations

from typing import Any

import numpy as np

from .optimizer import Network, Optimizer, nonnegative


class Adam(Optimizer):
    """Adam: steps scaled by running moments of the gradient, as `torch.optim.Adam`.

    With g the gradient plus ``weight_decay w``, and t counting steps: ``m = beta1 m + (1 - beta1) g``,
    ``v = beta2 v + (1 - beta2) g^2``, both starting at 0, ``w = w - lr mhat / (sqrt(vhat) + eps)`` with
    ``mhat = m / (1 - beta1^t)`` and ``vhat = v / (1 - beta2^t)``. The first step is thus ``lr g / (|g| + eps)``.

    Parameters
    ----------
    net : Layer, or any object with `params` and `grads`
    lr : float
        Learning rate.
    betas : tuple of 2 float
        Decay of the two moments, each at least 0 and less than 1.
    eps : float
    weight_decay : float
        Added to the gradient (the L2 penalty, not AdamW).
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
    Kingma and Ba, "Adam: a method for stochastic optimization", 2014, arXiv:1412.6980.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn, optim
    >>> layer = nn.Linear(1, 1, bias=False, dtype=np.float64)
    >>> layer.params["weight"][...] = 1
    >>> optimizer = optim.Adam(layer, lr=0.25)
    >>> y, grad_input = layer(np.ones((1, 1))), layer.backward(np.full((1, 1), 1000.0))
    >>> optimizer.step()
    >>> layer.params["weight"].round(6)   # the first step has length lr, whatever the gradient
    array([[0.75]])
    """

    def __init__(
        self,
        net: Network,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        l1: float = 0,
    ) -> None:
        super().__init__(net, lr, weight_decay, l1)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {betas!r}")
        self.betas = tuple(betas)
        self.eps = nonnegative(eps, "eps")

    def _update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any]) -> None:
        if not state:
            state.update(step=0, mean=np.zeros_like(param), square=np.zeros_like(param))
        beta1, beta2 = self.betas
        state["step"] += 1
        mean, square = state["mean"], state["square"]
        mean += (1 - beta1) * (grad - mean)
        square *= beta2
        square += (1 - beta2) * (grad * grad)
        denominator = np.sqrt(square) / (1 - beta2 ** state["step"]) ** 0.5 + self.eps
        param -= self.lr / (1 - beta1 ** state["step"]) * (mean / denominator)
