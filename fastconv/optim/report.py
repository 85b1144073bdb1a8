"""How training goes, in numbers: the size of every gradient, and of every step relative to what it changes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .optimizer import Network, Optimizer


class StepRow(NamedTuple):
    """One parameter in one step; norms are Euclidean."""

    name: str
    weight_norm: float
    gradient_norm: float
    update_norm: float

    @property
    def ratio(self) -> float:
        """Update to weight: about 1e-3 is healthy, much less learns nothing, much more tears down what was learnt."""
        if self.weight_norm == 0:
            return float("inf") if self.update_norm else 0.0
        return self.update_norm / self.weight_norm


class StepReport(NamedTuple):
    """One row per parameter; ``str`` prints the table."""

    rows: list[StepRow]

    def __str__(self) -> str:
        width = max([len(row.name) for row in self.rows] + [len("parameter")])
        lines = [f"{'parameter':<{width}}    |weight|  |gradient|    |update|  update/weight"]
        for row in self.rows:
            norms = f"{row.weight_norm:10.3e}  {row.gradient_norm:10.3e}  {row.update_norm:10.3e}"
            lines.append(f"{row.name:<{width}}  {norms}  {row.ratio:13.1e}")
        return "\n".join(lines)


def gradient_norms(net: Network) -> dict[str, float]:
    """The Euclidean norm of every gradient, by its parameter's name.

    Parameters
    ----------
    net : Layer, or any object with `params` and `grads`

    Returns
    -------
    dict of str to float

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn, optim
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> y, grad_input = layer(np.array([[3, 4]], np.float32)), layer.backward(np.ones((1, 1), np.float32))
    >>> optim.gradient_norms(layer)
    {'weight': 5.0}
    """
    return {name: _norm(gradient) for name, gradient in net.grads.items()}


def reported_step(optimizer: Optimizer) -> StepReport:
    """Take the optimiser's step and report it: norms of weights, gradients and updates, and update to weight.

    Parameters
    ----------
    optimizer : Optimizer

    Returns
    -------
    StepReport
        The weights as they were before the step; the gradients without the penalties' share.

    Raises
    ------
    RuntimeError, ValueError
        As `Optimizer.step`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn, optim
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> layer.params["weight"][...] = [[30, 40]]
    >>> y, grad_input = layer(np.array([[3, 4]], np.float32)), layer.backward(np.ones((1, 1), np.float32))
    >>> print(optim.reported_step(optim.SGD(layer, lr=0.01)))
    parameter    |weight|  |gradient|    |update|  update/weight
    weight      5.000e+01   5.000e+00   5.000e-02        1.0e-03
    """
    net = optimizer.net
    before = {name: net.params[name].copy() for name in net.grads}
    gradients = gradient_norms(net)
    optimizer.step()
    rows = [
        StepRow(name, _norm(old), gradients[name], _norm(net.params[name].astype(np.float64) - old))
        for name, old in before.items()
    ]
    return StepReport(rows)


def _norm(array: np.ndarray) -> float:
    """The Euclidean norm, in float64."""
    return float(np.linalg.norm(array.astype(np.float64).ravel()))
