"""PyTorch as the judge: its functions on NumPy arrays, for every padding form that fastconv takes."""

import numpy as np
import torch
from reference import padding_pairs, per_axis

CONV = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}
CONV_TRANSPOSE = {
    1: torch.nn.functional.conv_transpose1d,
    2: torch.nn.functional.conv_transpose2d,
    3: torch.nn.functional.conv_transpose3d,
}


def leaf(array):
    """A tensor of the array's own values that records gradients."""
    return None if array is None else torch.tensor(np.ascontiguousarray(array), requires_grad=True)


def _conv(x, w, b, stride, padding, dilation, groups):
    axes = w.ndim - 2
    pairs = padding_pairs(padding, x.shape[2:], w.shape[2:], per_axis(stride, axes), per_axis(dilation, axes))
    # torch.nn.functional.pad lists the last axis first.
    padded = torch.nn.functional.pad(x, [n for pair in reversed(pairs) for n in pair])
    return CONV[axes](padded, w, b, stride, 0, dilation, groups)


def conv(x, w, b=None, stride=1, padding=0, dilation=1, groups=1):
    return _conv(leaf(x), leaf(w), leaf(b), stride, padding, dilation, groups).detach().numpy()


def conv_backward(grad, x, w, stride=1, padding=0, dilation=1, groups=1):
    """(dL/dx, dL/dw, dL/db) by autograd"""
    leaves = leaf(x), leaf(w), leaf(np.zeros(w.shape[0], w.dtype))
    _conv(*leaves, stride, padding, dilation, groups).backward(torch.tensor(np.ascontiguousarray(grad)))
    return tuple(tensor.grad.numpy() for tensor in leaves)


def conv_transpose(x, w, b=None, **options):
    return CONV_TRANSPOSE[w.ndim - 2](leaf(x), leaf(w), leaf(b), **options).detach().numpy()


def conv_transpose_backward(grad, x, w, groups=1, **options):
    leaves = leaf(x), leaf(w), leaf(np.zeros(w.shape[1] * groups, w.dtype))
    y = CONV_TRANSPOSE[w.ndim - 2](*leaves, groups=groups, **options)
    y.backward(torch.tensor(np.ascontiguousarray(grad)))
    return tuple(tensor.grad.numpy() for tensor in leaves)
