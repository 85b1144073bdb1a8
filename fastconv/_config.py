"""What a user can look at and set: the chooser's explanation, threads, precision, the build."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from fastconv import _core, _explain_factored
from fastconv.functional import conv
from fastconv.functional._types import Padding, Sizes

__all__ = [
    "Explanation",
    "explain",
    "get_float32_precision",
    "get_num_threads",
    "num_threads",
    "set_float32_precision",
    "set_num_threads",
    "show_config",
]

_SERVED = {
    **{getattr(conv, f"conv{n}d"): (n, False) for n in (1, 2, 3)},
    **{getattr(conv, f"conv_transpose{n}d"): (n, True) for n in (1, 2, 3)},
}
_DIRECTIONS = ("forward", "input", "weight")


class Option(NamedTuple):
    """One algorithm as the chooser saw it."""

    name: str
    reason: str | None
    cost: float
    workspace: int


class Explanation(NamedTuple):
    """Why a convolution runs as it does; ``print`` it."""

    function: str
    direction: str
    algorithm: str
    options: tuple[Option | _explain_factored.Order, ...]
    output_shape: tuple[int, ...]
    flops: int
    bytes: int
    workspace: int
    tiles: tuple[int, ...]
    isa: str
    threads: int

    def __str__(self) -> str:
        intensity = self.flops / self.bytes if self.bytes else 0.0
        lines = [
            f"{self.function}, {self.direction}: algorithm {self.algorithm!r}",
            f"  output shape  {self.output_shape}",
            f"  arithmetic    {self.flops:,} FLOPs, {self.bytes:,} bytes of arrays, {intensity:.1f} FLOPs per byte",
            f"  workspace     {self.workspace:,} bytes",
            f"  tiles         {self.tiles}",
            f"  runs on       {self.isa}, {self.threads} thread{'s' if self.threads != 1 else ''}",
            "  algorithms",
        ]
        for option in self.options:
            mark = "->" if option.name == self.algorithm else "  "
            told = (f"estimated {option.cost / 1000:,.1f} us on one thread, workspace {option.workspace:,} bytes"
                    if option.reason is None else f"refused: {option.reason}")
            if isinstance(option, _explain_factored.Order) and option.flops:
                told += f", {option.flops:,} FLOPs, {option.bytes:,} bytes of arrays"
            lines.append(f"    {mark} {option.name:<17} {told}")
        return "\n".join(lines)


def explain(function: Callable, input_shape: tuple[int, ...] | np.ndarray, weight_shape: tuple[int, ...] | np.ndarray,
            stride: Sizes = 1, padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, output_padding: Sizes = 0,
            dtype: DTypeLike = np.float32, direction: str = "forward") -> Explanation:
    """Say which algorithm a convolution takes, why each other one was refused or not taken, and what it costs.

    Parameters
    ----------
    function : callable
        conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d, cp_conv1d, cp_conv2d or
        separable_conv2d.
    input_shape : tuple of int, (N, C, *spatial) or (C, *spatial), or ndarray of that shape, float32 or float64
        An array stands for its shape, its dtype and its layout in memory: transposed, sliced, channels last. The other
        arrays are then laid out as a call would make them.
    weight_shape : tuple of int, or tuple of such tuples, or ndarray of the function's weight shape and the input's dtype
        As the function takes it; for a factored convolution the shapes of all factors, or of both weights.
    stride, padding, dilation, groups, output_padding
        As the function takes them.
    dtype : dtype, float32 (default) or float64
        Where shapes are given.
    direction : {"forward", "input", "weight", "backward"}
        The function itself, or its gradient with respect to its input or its weight; of a factored convolution with
        respect to all factors ("weight") or to the input and all factors ("backward").

    Returns
    -------
    Explanation
        Named fields; printable. Costs are estimates in nanoseconds; where shapes are given, for contiguous arrays. The
        options of a factored convolution are the orders in which its products can be taken, each with its FLOPs and bytes, the
        dense kernel's among them.

    Raises
    ------
    ValueError
        If shapes or options do not fit, or the direction is unknown.
    TypeError
        If the function is none of those served; for arrays of another dtype, of two, or for a factored convolution.

    Examples
    --------
    >>> import fastconv
    >>> told = fastconv.explain(fastconv.conv2d, (1, 64, 56, 56), (64, 64, 3, 3), padding=1)
    >>> told.flops
    231211008
    >>> [option.name for option in told.options]  # doctest: +ELLIPSIS
    ['fill', ..., 'reference']
    >>> shapes = (256, 64), (256, 64), (3, 64), (3, 64)  # of the factors a, b, c, d: rank 64
    >>> told = fastconv.explain(fastconv.cp_conv2d, (1, 256, 56, 56), shapes, padding=1)
    >>> told.algorithm, [option.name for option in told.options]
    ('folded', ['folded', 'split', 'dense'])
    """
    given = {array.dtype for array in (input_shape, weight_shape) if isinstance(array, np.ndarray)}
    if len(given) > 1:
        raise TypeError(f"weight_shape: expected an array of the input's dtype, got {input_shape.dtype} and {weight_shape.dtype}")
    real = _real(*given or {dtype})
    if any(function is served for served in _explain_factored.SERVED):
        if groups != 1 or output_padding != 0:
            raise ValueError(f"groups, output_padding: expected none for {function.__name__}, got {groups}, {output_padding}")
        if given:
            raise TypeError(f"input_shape, weight_shape: explain of {function.__name__} takes shapes, not arrays")
        return _explanation(function, direction, _explain_factored.describe(
            function, input_shape, weight_shape, stride, padding, dilation, real, direction))
    try:
        axes, transposed = _SERVED[function]
    except (KeyError, TypeError):
        names = ", ".join(served.__name__ for served in (*_SERVED, *_explain_factored.SERVED))
        raise TypeError(f"function: expected one of {names}, got {function!r}") from None
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction: expected one of {_DIRECTIONS}, got {direction!r}")
    told = _core.describe(axes, direction, transposed, input_shape, weight_shape, real, stride, padding, dilation, groups,
                          output_padding)
    return _explanation(function, direction, told | {"options": tuple(Option(*row) for row in told["options"])})


def _real(dtype: DTypeLike) -> np.dtype:
    try:
        real = np.dtype(dtype)
    except TypeError:
        real = None
    if real not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"dtype: expected float32 or float64, got {dtype!r}")
    return real


def _explanation(function: Callable, direction: str, told: dict) -> Explanation:
    return Explanation(function.__name__, direction, told["algorithm"], told["options"], told["output_shape"], told["flops"],
                       told["bytes"], told["workspace"], told["tiles"], _core.isa_name(), told["threads"])


def _check_threads(n: int) -> int:
    if isinstance(n, (bool, np.bool_)) or not hasattr(n, "__index__"):
        raise TypeError(f"n: expected an int, got {n!r}")
    n = n.__index__()
    if not 1 <= n <= 256:
        raise ValueError(f"n: expected a number of threads from 1 to 256, got {n}")
    return n


def set_num_threads(n: int) -> None:
    """Set how many threads the calls that follow may use, in the whole process. Results do not depend on it.

    Parameters
    ----------
    n : int, from 1 to 256
    """
    _core.set_threads(_check_threads(n))


def get_num_threads() -> int:
    """Return how many threads a call may use.

    The default is ``FASTCONV_NUM_THREADS``, else what the affinity mask and the cgroup quota leave to the process.
    """
    return _core.get_threads()


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Use n threads within a ``with`` block.

    Parameters
    ----------
    n : int, from 1 to 256

    Examples
    --------
    >>> import fastconv
    >>> with fastconv.num_threads(1):
    ...     fastconv.get_num_threads()
    1
    """
    before = _core.get_threads()
    set_num_threads(n)
    try:
        yield
    finally:
        _core.set_threads(before)


def set_float32_precision(precision: str) -> None:
    """Choose between speed and accuracy of float32 convolutions.

    Parameters
    ----------
    precision : {"high", "highest"}
        "high" (default) may use transformed algorithms (Winograd) where they are faster; "highest" uses direct sums only.
        Neither changes float64.
    """
    if precision not in ("high", "highest"):
        raise ValueError(f"precision: expected 'high' or 'highest', got {precision!r}")
    _core.set_precision(precision == "highest")


def get_float32_precision() -> str:
    """Return "high" or "highest", see `set_float32_precision`."""
    return _core.get_precision()


def show_config() -> None:
    """Print the version, the instruction sets, the threads and the precision in use."""
    from fastconv import __version__

    rows = {
        "fastconv": __version__,
        "numpy": np.__version__,
        "isa": f"{_core.isa_name()} (this CPU has {', '.join(_core.isa_available())})",
        "threads": f"{_core.get_threads()} (default {_core.default_threads()})",
        "float32 precision": _core.get_precision(),
    }
    for name, value in rows.items():
        print(f"{name:<18} {value}")


def _read_environment() -> None:
    """FASTCONV_ISA, FASTCONV_NUM_THREADS, FASTCONV_PRECISION; a value that cannot be used stops the import."""
    isa = os.environ.get("FASTCONV_ISA")
    if isa and not _core.cap_isa(isa):
        raise ValueError(f"FASTCONV_ISA: expected baseline, avx2, avx512 or neon, got {isa!r}")
    threads = os.environ.get("FASTCONV_NUM_THREADS")
    if threads:
        if not threads.strip().isdecimal() or not 1 <= int(threads) <= 256:
            raise ValueError(f"FASTCONV_NUM_THREADS: expected a number from 1 to 256, got {threads!r}")
        _core.set_threads(int(threads))
    precision = os.environ.get("FASTCONV_PRECISION")
    if precision:
        if precision not in ("high", "highest"):
            raise ValueError(f"FASTCONV_PRECISION: expected 'high' or 'highest', got {precision!r}")
        _core.set_precision(precision == "highest")


_read_environment()
