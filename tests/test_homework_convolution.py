"""Worked homework, E6 to E10: the convolution layer and its factored forms, their gradients, matrices and sizes."""

from functools import partial

import fastconv
import numpy as np
import pytest
import torch
from fastconv import (
    avg_pool2d,
    conv1d,
    conv2d,
    conv2d_backward,
    conv2d_weight,
    conv_transpose1d,
    cp_conv2d,
    cp_conv2d_backward,
    cp_weight,
    max_pool2d,
    nn,
    separable_conv2d,
    separable_conv2d_backward,
)
from fastconv.testing import conv_matrix, gradcheck
from reference import assert_close


def autograd(function, grad_output, *arrays):
    """The output of a PyTorch function of arrays, and its gradients."""
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    y = function(*leaves)
    y.backward(torch.tensor(grad_output))
    return y.detach().numpy(), [leaf.grad.numpy() for leaf in leaves]


# ---- E6 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("multiplier", [1, 2])
def test_e6_separable_convolution_is_a_dense_one_with_the_product_kernel(rng, multiplier):
    """u_c = d_c * x_c' (one kernel per channel, c' = c // multiplier), then y_o = sum_c p[o,c] u_c, so

        y_o = sum_c' W[o,c'] * x_c'   with   W[o,c',i,j] = sum_{c of c'} p[o,c] d[c,i,j].

    Backward by the chain rule through W:  dL/dp[o,c] = sum_ij dL/dW[o,c',i,j] d[c,i,j],
                                           dL/dd[c,i,j] = sum_o p[o,c] dL/dW[o,c',i,j],  and dL/dx is the dense one.
    """
    x = rng.standard_normal((2, 3, 7, 6))
    d, p = rng.standard_normal((3 * multiplier, 1, 3, 3)), rng.standard_normal((4, 3 * multiplier, 1, 1))
    b = rng.standard_normal(4)
    d_of, p_of = d.reshape(3, multiplier, 3, 3), p.reshape(4, 3, multiplier)
    dense = np.einsum("ocm,cmij->ocij", p_of, d_of)

    y = separable_conv2d(x, d, p, b, padding=1)
    assert_close(y, conv2d(x, dense, b, padding=1))
    g = rng.standard_normal(y.shape)
    grads = separable_conv2d_backward(g, x, d, p, padding=1)
    through = conv2d_backward(g, x, dense, padding=1)
    assert_close(grads.input, through.input)
    assert_close(grads.pointwise_weight.reshape(p_of.shape), np.einsum("ocij,cmij->ocm", through.weight, d_of))
    assert_close(grads.depthwise_weight.reshape(d_of.shape), np.einsum("ocm,ocij->cmij", p_of, through.weight))
    assert_close(grads.bias, g.sum(axis=(0, 2, 3)))

    def in_torch(x, d, p, b):
        u = torch.nn.functional.conv2d(x, d, padding=1, groups=3)
        return torch.nn.functional.conv2d(u, p, b)

    expected, expected_grads = autograd(in_torch, g, x, d, p, b)
    assert_close(y, expected)
    for actual, wanted in zip(grads, expected_grads, strict=True):
        assert_close(actual, wanted)
    report = gradcheck(partial(separable_conv2d, padding=1), separable_conv2d_backward, x[:1], d, p, b)
    assert report, report
    # The parameters saved: 9 C m + OC C m against 9 C OC.
    assert d.size + p.size == 27 * multiplier + 12 * multiplier and dense.size == 108


# ---- E7 -----------------------------------------------------------------------------------------


def four_small_convolutions(x, a, b, c, d):
    """The low-rank convolution with the fewest operations: mix channels, filter columns, filter rows, mix channels."""
    rank = a.shape[1]
    x = conv2d(x, b.T[:, :, None, None])                              # IC -> R
    x = conv2d(x, c.T[:, None, :, None], groups=rank)                 # vertical, KH taps
    x = conv2d(x, d.T[:, None, None, :], groups=rank)                 # horizontal, KW taps
    return conv2d(x, a[:, :, None, None])                             # R -> OC


@pytest.mark.parametrize("rank", [1, 3])
def test_e7_low_rank_kernel(rng, rank):
    """W[i,j,l,k] = sum_r a_ir b_jr c_lr d_kr. The sums over j, l, k and r can be done one after the other:

        y[i,s,t] = sum_r a_ir sum_k d_kr sum_l c_lr sum_j b_jr x[j,s+l,t+k].

    Gradients of the factors, from the dense kernel's G = dL/dW by the product rule:

        dL/da_ir = sum_jlk G[i,j,l,k] b_jr c_lr d_kr,

    and so for the others; the input's gradient is the dense layer's.
    """
    factors = tuple(rng.standard_normal((n, rank)) for n in (5, 4, 3, 2))
    a, b, c, d = factors
    x, bias = rng.standard_normal((2, 4, 6, 7)), rng.standard_normal(5)
    w = sum(np.einsum("i,j,l,k->ijlk", a[:, r], b[:, r], c[:, r], d[:, r]) for r in range(rank))
    assert_close(cp_weight(factors), w)

    y = cp_conv2d(x, factors, bias)
    assert_close(y, conv2d(x, w, bias))
    assert_close(y, four_small_convolutions(x, *factors) + bias[:, None, None])

    g = rng.standard_normal(y.shape)
    grads = cp_conv2d_backward(g, x, factors)
    dense = conv2d_backward(g, x, w)
    by_hand = (
        np.einsum("ijlk,jr,lr,kr->ir", dense.weight, b, c, d),
        np.einsum("ijlk,ir,lr,kr->jr", dense.weight, a, c, d),
        np.einsum("ijlk,ir,jr,kr->lr", dense.weight, a, b, d),
        np.einsum("ijlk,ir,jr,lr->kr", dense.weight, a, b, c),
    )
    assert_close(grads.input, dense.input)
    for actual, wanted in zip(grads.factors, by_hand, strict=True):
        assert_close(actual, wanted)
    assert_close(grads.bias, dense.bias)

    def in_torch(x, a, b, c, d, bias):
        return torch.nn.functional.conv2d(x, torch.einsum("ir,jr,lr,kr->ijlk", a, b, c, d), bias)

    expected, expected_grads = autograd(in_torch, g, x, *factors, bias)
    assert_close(y, expected)
    for actual, wanted in zip((grads.input, *grads.factors, grads.bias), expected_grads, strict=True):
        assert_close(actual, wanted)
    report = gradcheck(cp_conv2d, cp_conv2d_backward, x[:1], factors, bias)
    assert report, report


def test_e7_counts():
    """Parameters R (OC + IC + KH + KW) for OC IC KH KW. Multiplications per pixel are as many: every entry of a factor
    is used once per pixel (but at the edges). 256 to 256 channels, 3 x 3, rank 16: 8288 for 589824, 71 times fewer."""
    dense, rank_16 = nn.Conv2d(256, 256, 3, bias=False), nn.CPConv2d(256, 256, 3, rank=16, bias=False)
    count = {layer: sum(a.size for a in layer.params.values()) for layer in (dense, rank_16)}
    assert count[dense] == 256 * 256 * 3 * 3 == 589824
    assert count[rank_16] == 16 * (256 + 256 + 3 + 3) == 8288
    assert count[dense] / count[rank_16] == pytest.approx(71.2, abs=0.05)


def test_e7_rank_1_formula_on_a_rank_2_kernel(rng):
    """The rank-1 formula on a sum of two terms: right for the first column of each factor, wrong for the second."""
    factors = tuple(rng.standard_normal((n, 2)) for n in (3, 2, 3, 3))
    x = rng.standard_normal((1, 2, 5, 5))

    def first_term_only(g, x, factors):
        grads = cp_conv2d_backward(g, x, tuple(f[:, :1] for f in factors))
        return None, tuple(np.hstack([f, f]) for f in grads.factors)

    report = gradcheck(lambda x, factors: cp_conv2d(x, factors), first_term_only, x, factors)
    assert not report
    for i, factor in enumerate(factors):
        check = report[f"factors[{i}]"]
        assert check.wrong == len(factor) and check.index[1] == 1


# ---- E8 -----------------------------------------------------------------------------------------


def test_e8_weight_gradient_is_a_correlation_of_input_and_error(rng):
    """yhat = W * X, L = sum (y - yhat)^2. As yhat[o,s,t] = sum W[o,c,i,j] X[c,s+i,t+j],

        dL/dW[o,c,i,j] = sum_st -2 (y - yhat)[o,s,t] X[c,s+i,t+j],

    the correlation of X with the error as its kernel. A batch adds up: with N in the channels' place it is one
    convolution of N channels, X^T (C, N, H, W) with the error^T (OC, N, OH, OW).
    """
    x, y, w = (rng.standard_normal(s) for s in ((2, 3, 7, 6), (2, 4, 5, 4), (4, 3, 3, 3)))
    error = -2 * (y - conv2d(x, w))
    grad_w = conv2d(x.transpose(1, 0, 2, 3), error.transpose(1, 0, 2, 3)).transpose(1, 0, 2, 3)
    assert_close(grad_w, conv2d_weight(x, w.shape, error))
    assert_close(grad_w, conv2d_backward(error, x, w).weight)
    leaf = torch.tensor(w, requires_grad=True)
    ((torch.tensor(y) - torch.nn.functional.conv2d(torch.tensor(x), leaf)) ** 2).sum().backward()
    assert_close(grad_w, leaf.grad.numpy())

    def loss(w):
        return ((y - conv2d(x, w)) ** 2).sum()

    assert gradcheck(loss, lambda g, w: g * grad_w, w)
    # A true convolution, which flips the kernel, is the mistake to make here: only the middle tap stays where it was.
    report = gradcheck(loss, lambda g, w: g * grad_w[:, :, ::-1, ::-1], w)
    assert not report and report.worst.wrong == 4 * 3 * 8


# ---- E9 -----------------------------------------------------------------------------------------

FILTER = np.array([[[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]])    # one filter of size 3 over 3 channels
MATRIX = np.array([
    [2, 3, 0, 0, 5, 6, 0, 0, 8, 9, 0, 0],
    [1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0],
    [0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9],
    [0, 0, 1, 2, 0, 0, 4, 5, 0, 0, 7, 8],
])


def test_e9_convolution_as_a_matrix(rng):
    """Z = M H with H's three channels of length 4 stacked. Column 4 c + i of M holds what H[c,i] feeds: w[c,2] goes
    into Z[i-1], w[c,1] into Z[i], w[c,0] into Z[i+1]. So dL/dH = M^T dL/dZ is a convolution of dL/dZ with the flipped
    filter, padding 1: the transposed convolution."""
    h, grad_z = rng.standard_normal((3, 4)), rng.standard_normal((1, 4))
    m = conv_matrix(FILTER, h.shape, padding=1)
    assert np.array_equal(m, MATRIX)
    assert_close(conv1d(h, FILTER, padding=1).ravel(), m @ h.ravel())
    grad_h = (m.T @ grad_z.ravel()).reshape(3, 4)
    assert_close(conv1d(grad_z, FILTER.transpose(1, 0, 2)[:, :, ::-1], padding=1), grad_h)
    assert_close(conv_transpose1d(grad_z, FILTER, padding=1), grad_h)
    z, (by_autograd, _) = autograd(partial(torch.nn.functional.conv1d, padding=1), grad_z, h, FILTER)
    assert_close(m @ h.ravel(), z.ravel())
    assert_close(grad_h, by_autograd)
    assert gradcheck(partial(conv1d, padding=1), fastconv.conv1d_backward, h, FILTER)


def test_e9_stride_2(rng):
    """Z of length 2: every second row of M. Its gradient is that of stride 1 for the error with zeros stuffed in."""
    h, grad_z = rng.standard_normal((3, 4)), rng.standard_normal((1, 2))
    m = conv_matrix(FILTER, h.shape, stride=2, padding=1)
    assert np.array_equal(m, MATRIX[::2])
    assert_close(conv1d(h, FILTER, stride=2, padding=1).ravel(), m @ h.ravel())
    grad_h = (m.T @ grad_z.ravel()).reshape(3, 4)
    stuffed = np.array([[grad_z[0, 0], 0, grad_z[0, 1], 0]])
    assert_close(conv1d(stuffed, FILTER.transpose(1, 0, 2)[:, :, ::-1], padding=1), grad_h)
    assert_close(conv_transpose1d(grad_z, FILTER, stride=2, padding=1, output_padding=1), grad_h)
    _, (by_autograd, _) = autograd(partial(torch.nn.functional.conv1d, stride=2, padding=1), grad_z, h, FILTER)
    assert_close(grad_h, by_autograd)
    assert gradcheck(partial(conv1d, stride=2, padding=1), fastconv.conv1d_backward, h, FILTER)


def test_e9_erratum_three_columns_for_four_outputs(rng):
    """The sheet's M^T has 3 columns, so dL/dZ[3] goes nowhere: wrong are the two inputs per channel that feed Z[3]."""
    h = rng.standard_normal((3, 4))
    layer = partial(conv1d, weight=FILTER, padding=1)
    report = gradcheck(layer, lambda g, h: (MATRIX.T[:, :3] @ g[0, :3]).reshape(3, 4), h)
    assert not report and report.worst.wrong == 6
    # M[3] holds 1 2, 4 5, 7 8 for H[c,2] and H[c,3]; the largest is missed most.
    assert report.worst.index == (2, 3)
    assert gradcheck(layer, lambda g, h: (MATRIX.T @ g[0]).reshape(3, 4), h)


# ---- E10 ----------------------------------------------------------------------------------------


def convolved_size(n, k, s=1, p=0):
    """(n + 2p - k)/s + 1, which may be no whole number."""
    return (n + 2 * p - k) / s + 1


@pytest.mark.parametrize(("stride", "size"), [(1, 5), (2, 3), (3, 7 / 3)])
def test_e10_7x7_input_and_3x3_filter(stride, size):
    """Stride 3 does not fit: 2.33. As every library, fastconv then rounds down, so the last row and column are never
    read and their gradient is zero."""
    assert convolved_size(7, 3, stride) == pytest.approx(size)
    x, w = np.arange(49.0).reshape(1, 1, 7, 7), np.ones((1, 1, 3, 3))
    y = conv2d(x, w, stride=stride)
    assert y.shape == (1, 1, int(size), int(size))
    read = conv2d_backward(np.ones_like(y), x, w, stride=stride).input[0, 0] > 0
    assert read[:6, :6].all()
    assert read[6].any() == read[:, 6].any() == float(size).is_integer()


@pytest.mark.parametrize(("padding", "kernel"), [(1, 3), (2, 5), (3, 7)])
def test_e10_padding_that_keeps_the_size(padding, kernel):
    """p = (k - 1)/2, which is what "same" takes."""
    x, w = np.random.default_rng(0).standard_normal((1, 1, 7, 7)), np.ones((1, 1, kernel, kernel))
    assert convolved_size(7, kernel, 1, padding) == 7
    y = conv2d(x, w, padding=padding)
    assert y.shape == x.shape
    assert np.array_equal(y, conv2d(x, w, padding="same"))


@pytest.mark.parametrize(
    ("layer", "shape", "parameters"),
    [
        (nn.Conv2d(3, 10, 5, padding=2), (10, 32, 32), 760),    # 10 (5*5*3 + 1)
        (nn.Conv2d(3, 6, 5), (6, 28, 28), 456),                 # 32 - 5 + 1
        (nn.MaxPool2d(2), (3, 16, 16), 0),                      # (W - F)/S + 1 = (32 - 2)/2 + 1
        (nn.MaxPool2d(3, stride=1), (3, 30, 30), 0),
        (nn.AvgPool2d(2), (3, 16, 16), 0),
    ],
    ids=repr,
)
def test_e10_32x32x3(layer, shape, parameters):
    assert layer(np.ones((3, 32, 32), np.float32)).shape == shape
    assert sum(a.size for a in layer.params.values()) == parameters


def test_e10_pooling_sizes():
    for n, f, s in [(4, 2, 2), (7, 3, 2), (224, 2, 2), (5, 2, 1)]:
        x = np.zeros((1, n, n))
        expected = (1, *[(n - f) // s + 1] * 2)
        assert max_pool2d(x, f, s).shape == avg_pool2d(x, f, s).shape == expected
