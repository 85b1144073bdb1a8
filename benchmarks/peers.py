"""PyTorch at its best: the same row in both its memory layouts, and once in float64 as the judge.

Tensors are converted beforehand, recording of gradients is off, and a gradient comes from the operator that computes it
alone, not from a walk through autograd.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from .rows import Contender, Convolution, Pooling, Row, per_axis

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

NCHW = "torch"
CHANNELS_LAST = "torch channels_last"

Tensors = dict[str, Any]


def convolution(row: Convolution, which: str, tensors: Tensors) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """The call for a pass, and how to take the result's tensor out of what it returns."""
    x, w, grad = tensors["input"], tensors["weight"], tensors["grad_output"]
    if which == "forward":
        tail = (0, row.groups, row.dilation) if row.transposed else (row.dilation, row.groups)
        return partial(getattr(torch, row.op), x, w, None, row.stride, row.padding, *tail), lambda returned: returned
    mask = [which == "input", which == "weight", False]
    stride, padding, dilation = (per_axis(value, row.axes) for value in (row.stride, row.padding, row.dilation))
    call = partial(torch.ops.aten.convolution_backward.default, grad, x, w, None, stride, padding, dilation,
                   row.transposed, [0] * row.axes, row.groups, mask)
    return call, lambda returned: returned[mask.index(True)]


def pooling(row: Pooling, which: str, tensors: Tensors) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    x, grad = tensors["input"], tensors["grad_output"]
    window = (row.kernel, row.stride, row.padding)
    if which == "forward":
        function = getattr(torch if row.maximum else torch.nn.functional, row.op)
        return partial(function, x, *window), lambda returned: returned
    if row.maximum:
        _, indices = getattr(torch.nn.functional, row.op)(x, *window, return_indices=True)
        backward = getattr(torch.ops.aten, f"{row.op}_with_indices_backward").default
        return partial(backward, grad, x, *window, 1, False, indices), lambda returned: returned
    backward = getattr(torch.ops.aten, f"{row.op}_backward").default
    return partial(backward, grad, x, *window, False, True, None), lambda returned: returned


def contender(name: str, row: Row, which: str, tensors: Tensors) -> Contender:
    if isinstance(row, Convolution):
        call, tensor = convolution(row, which, tensors)
    elif isinstance(row, Pooling):
        call, tensor = pooling(row, which, tensors)
    else:
        raise TypeError(f"row {row.name!r}: {type(row).__name__} has no PyTorch side")
    return Contender(name, call, lambda returned: tensor(returned).numpy())


def contenders(row: Row, which: str, arrays: dict[str, np.ndarray]) -> list[Contender]:
    """PyTorch on contiguous tensors and, where the format exists, on channels-last ones; none where it is missing."""
    if torch is None:
        return []
    formats = {NCHW: torch.contiguous_format}
    if row.axes > 1:
        formats[CHANNELS_LAST] = torch.channels_last if row.axes == 2 else torch.channels_last_3d
    return [
        contender(name, row, which,
                  {key: torch.from_numpy(array).contiguous(memory_format=memory) for key, array in arrays.items()})
        for name, memory in formats.items()
    ]


def exact(row: Row, which: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The result in float64."""
    judge = contender("float64", row, which, {key: torch.from_numpy(array).double() for key, array in arrays.items()})
    return judge.array(judge.call())


def set_num_threads(threads: int) -> None:
    if torch is not None:
        torch.set_num_threads(threads)


def unrecorded() -> AbstractContextManager[Any]:
    """A context in which PyTorch records nothing for autograd."""
    return nullcontext() if torch is None else torch.inference_mode()
