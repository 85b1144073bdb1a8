"""Convolution and pooling for NumPy, in C, as fast as the hardware allows."""

from importlib import import_module as _import_module

from fastconv import functional
from fastconv._config import (
    Explanation,
    explain,
    get_float32_precision,
    get_num_threads,
    num_threads,
    set_float32_precision,
    set_num_threads,
    show_config,
)
from fastconv.functional import *  # noqa: F403

__version__ = "0.1.0"

_LAZY = ("nn", "optim", "testing")

__all__ = [
    "Explanation",
    "__version__",
    "explain",
    "functional",
    "get_float32_precision",
    "get_num_threads",
    "nn",
    "num_threads",
    "optim",
    "set_float32_precision",
    "set_num_threads",
    "show_config",
    "testing",
    *functional.__all__,
]


def __getattr__(name):
    """Import the larger parts when they are first used, so that importing fastconv stays fast."""
    if name in _LAZY:
        return _import_module(f"fastconv.{name}")
    raise AttributeError(f"module 'fastconv' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_LAZY})
