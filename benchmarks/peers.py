"""PyTorch at its best: the same row in both its memory layouts, and once in float64 as the judge. OpenCV for photographs.

Tensors are converted beforehand, recording of gradients is off, and a gradient comes from the operator that computes it
alone, not from a walk through autograd.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from .rows import AdaptivePooling, Contender, Convolution, Factored, LowRank, Patches, Pooling, Row, per_axis

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

try:
    import cv2
except ImportError:
    cv2 = None  # type: ignore[assignment]

OPENCV = "opencv"
NCHW = "torch"
CHANNELS_LAST = "torch channels_last"
DENSE = "torch dense"           # recorded beside the chain that a factored convolution is compared with

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
    op, tensor = row.op, lambda returned: returned
    if row.axes == 1:   # a row of an image: the operators behind the gradient begin with two axes
        op, tensor = row.op.replace("1d", "2d"), lambda returned: returned[:, :, 0]
        x, grad, window = x[:, :, None], grad[:, :, None], ((1, row.kernel), (1, row.stride), (0, row.padding))
    if row.maximum:
        _, indices = getattr(torch.nn.functional, op)(x, *window, return_indices=True)
        backward = getattr(torch.ops.aten, f"{op}_with_indices_backward").default
        return partial(backward, grad, x, *window, 1, False, indices), tensor
    backward = getattr(torch.ops.aten, f"{op}_backward").default
    return partial(backward, grad, x, *window, False, True, None), tensor


def adaptive_pooling(row: AdaptivePooling, which: str, tensors: Tensors) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    x, grad = tensors["input"], tensors["grad_output"]
    function = getattr(torch.nn.functional, row.op)
    if which == "forward":
        return partial(function, x, row.output_size), lambda returned: returned
    if row.maximum:
        _, indices = function(x, row.output_size, return_indices=True)
        return partial(getattr(torch.ops.aten, f"{row.op}_backward").default, grad, x, indices), lambda returned: returned
    # PyTorch makes a size of 1 a mean, whose gradient is an expansion and has no operator of its own.
    if set(row.output[2:]) == {1}:
        pixels = x[0, 0].numel()
        return lambda: (grad / pixels).expand(x.shape).contiguous(), lambda returned: returned
    return partial(getattr(torch.ops.aten, f"_{row.op}_backward").default, grad, x), lambda returned: returned


def links(row: Factored, tensors: Tensors) -> list[tuple[Any, tuple, int]]:
    """The chain of convolutions that frameworks run: weight, (stride, padding, dilation) and groups of each."""
    plain = ((1,) * row.axes, (0,) * row.axes, (1,) * row.axes)
    if not isinstance(row, LowRank):
        return [(tensors["depthwise"], row.geometry, row.weight[1]), (tensors["pointwise"], plain, 1)]
    ones = (1,) * row.axes
    chain = [(tensors["b"].T.reshape(row.rank, -1, *ones), plain, 1)]
    for axis, name in enumerate(row.weights[2:]):
        own = tuple((*rest[:axis], value[axis], *rest[axis + 1 :])
                    for rest, value in zip(plain, row.geometry, strict=True))
        shape = [-1 if i == axis else 1 for i in range(row.axes)]
        chain.append((tensors[name].T.reshape(row.rank, 1, *shape), own, row.rank))
    return [*chain, (tensors["a"].reshape(-1, row.rank, *ones), plain, 1)]


def factored(row: Factored, which: str, tensors: Tensors) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """The chain's calls, one after the other; backward, what lies between them was kept."""
    chain = [(weight.contiguous(), options, groups) for weight, options, groups in links(row, tensors)]
    convolve = getattr(torch, f"conv{row.axes}d")
    differentiate = torch.ops.aten.convolution_backward.default

    def forward(kept: list) -> Any:
        x = tensors["input"]
        for weight, options, groups in chain:
            kept.append(x)
            x = convolve(x, weight, None, *options, groups)
        return x

    if which == "forward":
        return lambda: forward([]), lambda y: y
    inputs: list = []
    forward(inputs)

    def backward() -> list:
        grad, found = tensors["grad_output"], []
        for x, (weight, options, groups) in zip(reversed(inputs), reversed(chain), strict=True):
            grad, grad_weight, _ = differentiate(grad, x, weight, None, *options, False, [0] * row.axes, groups,
                                                 [True, True, False])
            found.insert(0, grad_weight)
        return [grad, *found]

    def together(found: list) -> Any:
        grad, *weights = found
        if isinstance(row, LowRank):
            first, *filters, last = (weight.reshape(len(weight), -1) for weight in weights)
            weights = [last, first.T, *(weight.T for weight in filters)]
        return torch.cat([part.reshape(-1) for part in (grad, *weights)])

    return backward, together


def contender(name: str, row: Row, which: str, tensors: Tensors) -> Contender:
    if isinstance(row, Convolution):
        call, tensor = convolution(row, which, tensors)
    elif isinstance(row, Pooling):
        call, tensor = pooling(row, which, tensors)
    elif isinstance(row, Factored):
        call, tensor = factored(row, which, tensors)
    elif isinstance(row, AdaptivePooling):
        call, tensor = adaptive_pooling(row, which, tensors)
    elif isinstance(row, Patches):
        call = partial(getattr(torch.nn.functional, row.op), tensors["input"], *row.arguments())
        tensor = lambda returned: returned  # noqa: E731
    else:
        raise TypeError(f"row {row.name!r}: {type(row).__name__} has no PyTorch side")
    return Contender(name, call, lambda returned: tensor(returned).numpy())


def contenders(row: Row, which: str, arrays: dict[str, np.ndarray]) -> list[Contender]:
    """PyTorch on contiguous tensors and, where the format exists, on channels-last ones, then OpenCV where it filters a
    photograph; none where it is missing."""
    if torch is None:
        return []
    formats = {NCHW: torch.contiguous_format}
    if row.axes > 1:
        formats[CHANNELS_LAST] = torch.channels_last if row.axes == 2 else torch.channels_last_3d
    found = [
        contender(name, row, which, {key: laid_out(array, row, memory) for key, array in arrays.items()})
        for name, memory in formats.items()
    ]
    if cv2 is not None and which == "forward" and filters_photograph(row):
        found.append(photograph_filter(arrays))
    return found


def filters_photograph(row: Row) -> bool:
    """One channel under one odd kernel, the result as large: what `cv2.filter2D` computes."""
    return (isinstance(row, Convolution) and row.op == "conv2d" and row.input[:2] == row.weight[:2] == (1, 1)
            and row.output == row.input and row.stride == 1)


def photograph_filter(arrays: dict[str, np.ndarray]) -> Contender:
    image, kernel = arrays["input"][0, 0], arrays["weight"][0, 0]
    return Contender(OPENCV, partial(cv2.filter2D, image, -1, kernel, borderType=cv2.BORDER_CONSTANT),
                     lambda returned: returned[None, None])


def laid_out(array: np.ndarray, row: Row, memory: Any) -> Any:
    """A tensor in this memory format, which factors do not have."""
    tensor = torch.from_numpy(array)
    return tensor.contiguous(memory_format=memory) if tensor.ndim == row.axes + 2 else tensor


def dense(row: Factored, which: str, arrays: dict[str, np.ndarray]) -> Contender:
    """The dense call that a factored convolution stands for: recorded beside it, not what it is judged by."""
    x, w, grad = (torch.from_numpy(array) for array in (arrays["input"], row.dense(arrays), arrays["grad_output"]))
    if which == "forward":
        return Contender(DENSE, partial(getattr(torch, f"conv{row.axes}d"), x, w, None, *row.geometry))
    call = partial(torch.ops.aten.convolution_backward.default, grad, x, w, None, *row.geometry, False, [0] * row.axes, 1,
                   [True, True, False])
    return Contender(DENSE, call)


def exact(row: Row, which: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The result in float64."""
    judge = contender("float64", row, which, {key: torch.from_numpy(array).double() for key, array in arrays.items()})
    return judge.array(judge.call())


def set_num_threads(threads: int) -> None:
    if torch is not None:
        torch.set_num_threads(threads)
    if cv2 is not None:
        cv2.setNumThreads(threads)


def unrecorded() -> AbstractContextManager[Any]:
    """A context in which PyTorch records nothing for autograd."""
    return nullcontext() if torch is None else torch.inference_mode()
