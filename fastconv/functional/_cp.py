"""CP convolution: the orders in which its products can be taken, and how each runs.

"folded" and "split" are chains, executed band by band by the engine (csrc/engine/chain.c); "dense" is an ordinary convolution
with the kernel that the factors stand for, for ranks too high to pay.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastconv import _core

from ._chain import Axis, Chain, check_bias, check_grad_output, check_input, check_mask, engine_axes, geometry, read_parts
from ._types import Padding, Sizes
from .conv import conv1d, conv1d_backward, conv2d, conv2d_backward
from .decompose import check_factors, cp_weight, khatri_rao

CONV = {1: conv1d, 2: conv2d}
CONV_BACKWARD = {1: conv1d_backward, 2: conv2d_backward}


class CPProblem(NamedTuple):
    """A CP convolution: its input, its axes, the part of the input that is read, and the axes on that part."""

    x: NDArray
    batched: bool
    whole: tuple[Axis, ...]
    read: tuple[slice, ...]
    axes: tuple[Axis, ...]
    factors: list[NDArray]

    @property
    def out(self) -> list[int]:
        return [axis.out for axis in self.axes]

    def order(self, algorithm: str, wanted: int) -> str:
        """The order asked for, or the fastest for the gradients `wanted` (of input 1, of all factors 14; 0: forward)."""
        orders = ("folded", "split", "dense") if len(self.axes) == 2 else ("folded", "dense")
        if algorithm == "auto":
            a, b, *_ = self.factors
            sizes = len(self.x), len(b), a.shape[1], len(a)
            return _core.choose_order(engine_axes(self.axes), *sizes, self.x.dtype, wanted)
        if algorithm not in orders:
            raise ValueError(f"algorithm: expected 'auto' or one of {orders}, got {algorithm!r}")
        return algorithm

    def chain(self, order: str) -> Chain:
        """The chain b, then the filters, folded into one or one after the other, then a."""
        a, b, *filters = self.factors
        return Chain(self.axes, b, tuple(taps.T for taps in filters) if order == "split" else (fold(filters),), a)

    def dense_options(self) -> dict:
        return {
            "stride": tuple(axis.stride for axis in self.whole),
            "padding": tuple((axis.before, axis.after) for axis in self.whole),
            "dilation": tuple(axis.dilation for axis in self.whole),
        }


def fold(filters: Sequence[NDArray]) -> NDArray:
    """The product of the kernel axes' factors (K, R): shape (R, *kernel)."""
    return filters[0].T if len(filters) == 1 else _core.fold_filters(*filters)


def unfold_gradient(grad: NDArray, filters: Sequence[NDArray]) -> Sequence[NDArray]:
    """Gradients of the kernel axes' factors from that of their product (R, *kernel)."""
    return [grad.T] if len(filters) == 1 else _core.unfold_filters(grad, *filters)


def cp_problem(
    axes: int, input: ArrayLike, factors: Sequence[ArrayLike], stride: Sizes, padding: Padding, dilation: Sizes
) -> CPProblem:
    """The channels are mixed before any stride, so the input is cut down to the elements that the kernel can read."""
    x, batched = check_input(input, axes)
    a, b, *filters = arrays = check_factors(factors, (axes,))
    if a.dtype != x.dtype:
        raise TypeError(f"factors: expected {x.dtype}, the dtype of input, got {a.dtype}")
    if len(b) != x.shape[1]:
        raise ValueError(
            f"factors[1] (b): expected {x.shape[1]} rows, the channels of an input of shape {x.shape}, "
            f"got shape {b.shape}"
        )
    whole = geometry(x.shape[2:], [len(taps) for taps in filters], stride, padding, dilation)
    return CPProblem(x, batched, whole, *read_parts(whole), arrays)


def cp_convolve(problem: CPProblem, bias: ArrayLike | None, algorithm: str) -> NDArray:
    x, order = problem.x, problem.order(algorithm, 0)
    bias = check_bias(bias, len(problem.factors[0]), x)
    if order == "dense":
        y = CONV[len(problem.axes)](x, cp_weight(problem.factors), bias, **problem.dense_options())
    else:
        y = problem.chain(order).forward(x[(..., *problem.read)], bias)
    return y if problem.batched else y[0]


def cp_gradients(
    problem: CPProblem, grad_output: ArrayLike, output_mask: Sequence[bool], algorithm: str
) -> tuple[NDArray | None, tuple[NDArray, ...] | None, NDArray | None]:
    """Gradients of the input, the factors and the bias, None where masked."""
    need_input, need_factors, need_bias = check_mask(output_mask, 3)
    x = problem.x
    grad = check_grad_output(grad_output, len(problem.factors[0]), problem.out, x, problem.batched)
    order = problem.order(algorithm, need_input + 14 * need_factors)
    gradients = _dense_gradients if order == "dense" else _chain_gradients
    grad_x, grad_factors = gradients(problem, order, grad, need_input, need_factors)
    return (
        grad_x if grad_x is None or problem.batched else grad_x[0],
        tuple(np.ascontiguousarray(g) for g in grad_factors) if need_factors else None,
        _core.channel_sums(grad) if need_bias else None,
    )


def _chain_gradients(problem: CPProblem, order: str, grad: NDArray, need_input: bool, need_factors: bool) -> tuple:
    x, (_, _, *filters) = problem.x, problem.factors
    part = x[(..., *problem.read)]
    needed = (need_input, need_factors, need_factors, need_factors)
    grad_x, grad_b, grad_filters, grad_a = problem.chain(order).backward(grad, part, needed)
    if need_input and part.shape != x.shape:  # what is never read has no gradient
        grad_part, grad_x = grad_x, np.zeros_like(grad_x, shape=x.shape)
        grad_x[(..., *problem.read)] = grad_part
    if not need_factors:
        return grad_x, None
    by_axis = [g.T for g in grad_filters] if order == "split" else unfold_gradient(grad_filters[0], filters)
    return grad_x, (grad_a, grad_b, *by_axis)


def _dense_gradients(problem: CPProblem, _: str, grad: NDArray, need_input: bool, need_factors: bool) -> tuple:
    backward = CONV_BACKWARD[len(problem.axes)]
    mask = (need_input, need_factors, False)
    found = backward(grad, problem.x, cp_weight(problem.factors), **problem.dense_options(), output_mask=mask)
    return found.input, _contract(found.weight, problem.factors) if need_factors else None


def _contract(grad: NDArray, factors: Sequence[NDArray]) -> tuple:
    """The dense kernel's gradient, contracted with all factors but one: products of matrices, then of vectors for each term."""
    a, b, *filters = factors
    rank, folded, unfolded = a.shape[1], fold(filters), grad.reshape(len(a), -1)
    grad_a = conv1d(khatri_rao(factors[1:])[np.newaxis], unfolded[:, :, np.newaxis])[0]
    terms = conv1d(unfolded[np.newaxis], a.T[:, :, np.newaxis]).reshape(1, rank, len(b), -1)
    grad_b = conv2d(terms, folded.reshape(rank, 1, 1, -1), groups=rank)[0, :, :, 0].T
    grad_filter = conv2d(terms, b.T.reshape(rank, 1, -1, 1), groups=rank).reshape(folded.shape)
    return (grad_a, grad_b, *unfold_gradient(grad_filter, filters))
