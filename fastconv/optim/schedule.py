"""Learning rates that decay, and the decision to stop.

A schedule's rate is a formula in the number of its steps so far, not a chain of multiplications, so a run that resumes at
step t has the very rate that it would have had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastconv.nn import Layer

from .optimizer import Optimizer, nonnegative


class Schedule:
    """Base class: a subclass defines `_factor(t)`, the learning rate at step t as a fraction of the initial one.

    Parameters
    ----------
    optimizer : Optimizer
        Its `lr` at this moment is the initial one.

    Attributes
    ----------
    steps : int
        How often `step` was called.
    initial_lr : float
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be an Optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        self.initial_lr = optimizer.lr
        self.steps = 0

    def _factor(self, t: int) -> float:
        raise NotImplementedError(f"{type(self).__name__} defines no _factor")

    def step(self) -> None:
        """Count one step (an epoch, usually) and set the optimiser's learning rate."""
        self.steps += 1
        self.optimizer.lr = self.initial_lr * self._factor(self.steps)

    def state_dict(self) -> dict[str, Any]:
        """``{"steps": int, "initial_lr": float}``"""
        return {"steps": self.steps, "initial_lr": self.initial_lr}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a snapshot, setting the optimiser's learning rate.

        Parameters
        ----------
        state_dict : mapping
            From `state_dict`.

        Raises
        ------
        ValueError
            If it is of another form.
        """
        if set(state_dict) != {"steps", "initial_lr"}:
            raise ValueError(f"state_dict must have the keys 'steps' and 'initial_lr', got {sorted(state_dict)}")
        self.steps, self.initial_lr = int(state_dict["steps"]), float(state_dict["initial_lr"])
        self.optimizer.lr = self.initial_lr * self._factor(self.steps)


class StepLR(Schedule):
    """Decay in steps, ``lr_t = lr_0 gamma^floor(t / step_size)``, as `torch.optim.lr_scheduler.StepLR`.

    Parameters
    ----------
    optimizer : Optimizer
    step_size : int
        Steps between two decays.
    gamma : float

    Raises
    ------
    ValueError
        For a `step_size` below 1 or a negative `gamma`.

    Examples
    --------
    >>> from fastconv import nn, optim
    >>> optimizer = optim.SGD(nn.Linear(2, 2), lr=8.0)
    >>> schedule = optim.StepLR(optimizer, 2, gamma=0.5)
    >>> for epoch in range(4):
    ...     schedule.step()
    ...     print(optimizer.lr, end=" ")
    8.0 4.0 4.0 2.0
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        super().__init__(optimizer)
        if not step_size >= 1:
            raise ValueError(f"step_size must be at least 1, got {step_size!r}")
        self.step_size = step_size
        self.gamma = nonnegative(gamma, "gamma")

    def _factor(self, t: int) -> float:
        return self.gamma ** (t // self.step_size)


class ExponentialLR(Schedule):
    """Exponential decay, ``lr_t = lr_0 gamma^t``, as `torch.optim.lr_scheduler.ExponentialLR`.

    Parameters
    ----------
    optimizer : Optimizer
    gamma : float

    Raises
    ------
    ValueError
        For a negative `gamma`.

    Examples
    --------
    >>> from fastconv import nn, optim
    >>> optimizer = optim.SGD(nn.Linear(2, 2), lr=8.0)
    >>> schedule = optim.ExponentialLR(optimizer, 0.5)
    >>> schedule.step(); schedule.step(); optimizer.lr
    2.0
    """

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        super().__init__(optimizer)
        self.gamma = nonnegative(gamma, "gamma")

    def _factor(self, t: int) -> float:
        return self.gamma**t


class ReciprocalLR(Schedule):
    """Decay as 1/t, ``lr_t = lr_0 / (1 + decay t)``.

    In PyTorch this is `LambdaLR` with ``lambda t: 1 / (1 + decay * t)``. Of the three it is the one under which
    stochastic gradient descent converges (Robbins and Monro, "A stochastic approximation method", 1951): its steps add
    up to infinity, their squares do not.

    Parameters
    ----------
    optimizer : Optimizer
    decay : float

    Raises
    ------
    ValueError
        For a negative `decay`.

    Examples
    --------
    >>> from fastconv import nn, optim
    >>> optimizer = optim.SGD(nn.Linear(2, 2), lr=8.0)
    >>> schedule = optim.ReciprocalLR(optimizer, 0.5)
    >>> schedule.step(); schedule.step(); optimizer.lr
    4.0
    """

    def __init__(self, optimizer: Optimizer, decay: float) -> None:
        super().__init__(optimizer)
        self.decay = nonnegative(decay, "decay")

    def _factor(self, t: int) -> float:
        return 1 / (1 + self.decay * t)


class EarlyStopping:
    """Stop when the validation loss has not improved for a while, and keep the best weights.

    Parameters
    ----------
    net : Layer
    patience : int
        How many losses in a row may fail to improve on the best before `update` says stop.
    min_delta : float
        By how much a loss must be below the best one to count as better.

    Attributes
    ----------
    best_loss : float
        Infinite before the first loss. NaN never counts as better.
    waited : int
        Losses since the best one.

    Raises
    ------
    ValueError
        For a `patience` below 1 or a negative `min_delta`.

    References
    ----------
    Prechelt, "Early stopping - but when?", 1998.

    Examples
    --------
    >>> from fastconv import nn, optim
    >>> stopping = optim.EarlyStopping(nn.Linear(2, 2), patience=2)
    >>> [stopping.update(loss) for loss in (3.0, 1.0, 2.0, 1.5)]
    [False, False, False, True]
    >>> stopping.restore()    # the weights of loss 1.0
    """

    def __init__(self, net: Layer, patience: int = 5, min_delta: float = 0.0) -> None:
        if not patience >= 1:
            raise ValueError(f"patience must be at least 1, got {patience!r}")
        self.net = net
        self.patience = patience
        self.min_delta = nonnegative(min_delta, "min_delta")
        self.best_loss = float("inf")
        self.waited = 0
        self._best: dict[str, np.ndarray] = net.state_dict()

    def update(self, loss: float) -> bool:
        """Take note of a validation loss; True says stop.

        Parameters
        ----------
        loss : float

        Returns
        -------
        bool
        """
        if loss < self.best_loss - self.min_delta:
            self.best_loss, self.waited, self._best = float(loss), 0, self.net.state_dict()
        else:
            self.waited += 1
        return self.waited >= self.patience

    def restore(self) -> None:
        """Give the network back the weights and buffers that it had at the best loss."""
        self.net.load_state_dict(self._best)

    def state_dict(self) -> dict[str, Any]:
        """``{"best_loss": float, "waited": int, "best": the network's state}``"""
        return {"best_loss": self.best_loss, "waited": self.waited, "best": dict(self._best)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a snapshot.

        Parameters
        ----------
        state_dict : mapping
            From `state_dict`.

        Raises
        ------
        ValueError
            If it is of another form.
        """
        if set(state_dict) != {"best_loss", "waited", "best"}:
            raise ValueError(f"state_dict must have the keys 'best_loss', 'waited' and 'best', got {sorted(state_dict)}")
        self.best_loss, self.waited = float(state_dict["best_loss"]), int(state_dict["waited"])
        self._best = dict(state_dict["best"])
