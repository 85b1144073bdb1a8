"""Optimisers that walk a network's `params` and `grads`, and what a training run needs besides.

Names and semantics follow `torch.optim` where it has them: the optimisers, learning rate schedules, and here also early
stopping, checkpoints, and reports on gradients and steps.
"""

from .adagrad import Adagrad
from .adam import Adam
from .checkpoint import load_checkpoint, save_checkpoint
from .optimizer import Optimizer
from .report import StepReport, gradient_norms, reported_step
from .rmsprop import RMSprop
from .schedule import EarlyStopping, ExponentialLR, ReciprocalLR, Schedule, StepLR
from .sgd import SGD

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "EarlyStopping",
    "ExponentialLR",
    "Optimizer",
    "RMSprop",
    "ReciprocalLR",
    "Schedule",
    "StepLR",
    "StepReport",
    "gradient_norms",
    "load_checkpoint",
    "reported_step",
    "save_checkpoint",
]
