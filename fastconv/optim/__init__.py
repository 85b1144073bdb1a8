"""Optimisers that walk a network's `params` and `grads`; names and semantics follow `torch.optim`."""

from .adam import Adam
from .optimizer import Optimizer
from .sgd import SGD

__all__ = ["SGD", "Adam", "Optimizer"]
