"""The naive float64 reference against PyTorch: the oracle must be right before it may judge."""

import numpy as np
import pytest
import reference
import torch
import torch_judge
from hypothesis import given
from reference import assert_close
from shapes import (
    CONV_CASES,
    NO_IMAGES_CASES,
    SEEDS,
    TRANSPOSE_CASES,
    conv_cases,
    normal,
    pool_cases,
    transpose_cases,
)
from torch.nn import functional as tF

def hold_conv(case, fill, seed):
    x, w, b = (None if a is None else a.astype(np.float64) for a in case.arrays(fill, seed))
    y = reference.conv(x, w, b, **case.options)
    assert_close(y, torch_judge.conv(x, w, b, **case.options))
    grad = fill(np.random.default_rng(seed + 1), y.shape, np.float64)
    got = reference.conv_backward(grad, x, w, **case.options)
    for actual, expected in zip(got, torch_judge.conv_backward(grad, x, w, **case.options), strict=True):
        assert_close(actual, expected)


def hold_conv_transpose(case, fill, seed):
    x, w, b = (None if a is None else a.astype(np.float64) for a in case.arrays(fill, seed))
    y = reference.conv_transpose(x, w, b, **case.options)
    assert_close(y, torch_judge.conv_transpose(x, w, b, **case.options))
    grad = fill(np.random.default_rng(seed + 1), y.shape, np.float64)
    got = reference.conv_transpose_backward(grad, x, w, **case.options)
    for actual, expected in zip(got, torch_judge.conv_transpose_backward(grad, x, w, **case.options), strict=True):
        assert_close(actual, expected)


@given(conv_cases(), SEEDS)
def test_conv(case, seed):
    hold_conv(case, normal, seed)


@pytest.mark.parametrize("case", CONV_CASES.values(), ids=CONV_CASES)
def test_conv_named(case):
    hold_conv(case, normal, 0)


@pytest.mark.parametrize("case", NO_IMAGES_CASES.values(), ids=NO_IMAGES_CASES)
def test_conv_without_images(case):
    x, w, b = case.arrays()
    assert_close(reference.conv(x, w, b, **case.options), torch_judge.conv(x, w, b, **case.options))


def test_conv_without_channels():
    """A sum over no channels is zero, so the bias remains; PyTorch 2.13 answers with no channels instead."""
    bias = np.array([3.0, 5.0])
    y = reference.conv(np.ones((1, 0, 4)), np.ones((2, 0, 3)), bias)
    np.testing.assert_array_equal(y, [[[3, 3], [5, 5]]])


@given(transpose_cases(), SEEDS)
def test_conv_transpose(case, seed):
    hold_conv_transpose(case, normal, seed)


@pytest.mark.parametrize("case", TRANSPOSE_CASES.values(), ids=TRANSPOSE_CASES)
def test_conv_transpose_named(case):
    hold_conv_transpose(case, normal, 0)


def test_same_padding_with_stride_is_tensorflows():
    """tf.nn.conv1d of ones: 6 inputs, kernel 3, stride 2 pads (0, 1), so only the last window is short."""
    x, w = np.ones((1, 1, 6)), np.ones((1, 1, 3))
    np.testing.assert_array_equal(reference.conv(x, w, stride=2, padding="same"), [[[3, 3, 2]]])


MAX_POOL = {1: tF.max_pool1d, 2: tF.max_pool2d, 3: tF.max_pool3d}
AVG_POOL = {1: tF.avg_pool1d, 2: tF.avg_pool2d, 3: tF.avg_pool3d}
ADAPTIVE_MAX = {1: tF.adaptive_max_pool1d, 2: tF.adaptive_max_pool2d, 3: tF.adaptive_max_pool3d}
ADAPTIVE_AVG = {1: tF.adaptive_avg_pool1d, 2: tF.adaptive_avg_pool2d, 3: tF.adaptive_avg_pool3d}
UNPOOL = {1: tF.max_unpool1d, 2: tF.max_unpool2d, 3: tF.max_unpool3d}


def gradient(y, leaf, seed=5):
    """A random dL/dy as an array, and torch's dL/dx for it."""
    grad = np.random.default_rng(seed).standard_normal(y.shape)
    y.backward(torch.from_numpy(grad))
    return grad, leaf.grad.numpy()


@given(pool_cases(), SEEDS)
def test_max_pool(case, seed):
    x = case.array(seed=seed).astype(np.float64)
    leaf = torch_judge.leaf(x)
    options = case.kernel_size, case.stride, case.padding, case.dilation, case.ceil_mode
    expected, where = MAX_POOL[case.axes](leaf, *options, return_indices=True)
    values, indices = reference.max_pool(x, *options)
    np.testing.assert_array_equal(values, expected.detach())
    np.testing.assert_array_equal(indices, where)
    grad, grad_x = gradient(expected, leaf)
    assert_close(reference.max_pool_backward(grad, indices, x.shape), grad_x)


def test_max_pool_of_nan_and_minus_infinity():
    x = np.array([[[1.0, np.nan, 2, 3, np.nan, np.nan, -np.inf, -np.inf, -np.inf, 7]]])
    for padding, ceil_mode in ((0, False), (1, False), (1, True)):
        expected, where = tF.max_pool1d(torch.from_numpy(x), 3, 2, padding, 1, ceil_mode, return_indices=True)
        values, indices = reference.max_pool(x, 3, 2, padding, 1, ceil_mode)
        np.testing.assert_array_equal(values, expected)
        np.testing.assert_array_equal(indices, where)


@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("divisor", [None, 5, -3])
@given(case=pool_cases(dilated=False), seed=SEEDS)
def test_avg_pool(case, seed, count_include_pad, divisor):
    x = case.array(normal, seed).astype(np.float64)
    divisor = {} if divisor is None or case.axes == 1 else {"divisor_override": divisor}
    leaf = torch_judge.leaf(x)
    options = case.kernel_size, case.stride, case.padding, case.ceil_mode, count_include_pad
    expected = AVG_POOL[case.axes](leaf, *options, **divisor)
    assert_close(reference.avg_pool(x, *options, **divisor), expected.detach())
    grad, grad_x = gradient(expected, leaf)
    assert_close(reference.avg_pool_backward(grad, x.shape, *options, **divisor), grad_x)


ADAPTIVE_CASES = [
    ((2, 3, 10), 4),
    ((2, 3, 5), 9),
    ((1, 2, 7, 11), (3, 5)),
    ((1, 2, 3, 4), 6),
    ((1, 2, 5, 6, 7), (2, 6, 3)),
    ((1, 2, 4, 4, 4), 1),
]


@pytest.mark.parametrize(("shape", "output_size"), ADAPTIVE_CASES)
def test_adaptive_pools(shape, output_size, rng):
    x = rng.standard_normal(shape)
    axes = x.ndim - 2
    leaf = torch_judge.leaf(x)
    expected, where = ADAPTIVE_MAX[axes](leaf, output_size, return_indices=True)
    values, indices = reference.adaptive_max_pool(x, output_size)
    np.testing.assert_array_equal(values, expected.detach())
    np.testing.assert_array_equal(indices, where)
    grad, grad_x = gradient(expected, leaf)
    assert_close(reference.max_pool_backward(grad, indices, shape), grad_x)

    leaf = torch_judge.leaf(x)
    expected = ADAPTIVE_AVG[axes](leaf, output_size)
    assert_close(reference.adaptive_avg_pool(x, output_size), expected.detach())
    grad, grad_x = gradient(expected, leaf)
    assert_close(reference.adaptive_avg_pool_backward(grad, shape), grad_x)


@pytest.mark.parametrize("shape", [(2, 3, 9), (2, 3, 6, 9), (1, 2, 4, 6, 5)])
def test_max_unpool(shape, rng):
    x = rng.standard_normal(shape)
    values, indices = reference.max_pool(x, 2)
    expected = UNPOOL[x.ndim - 2](torch.from_numpy(values), torch.from_numpy(indices), 2, output_size=shape[2:])
    np.testing.assert_array_equal(reference.max_unpool(values, indices, shape[2:]), expected)


@given(conv_cases(axes=2, paddings=("numbers", "valid")), SEEDS)
def test_unfold_and_fold(case, seed):
    x = case.arrays(normal, seed)[0].astype(np.float64)
    padding = 0 if case.padding == "valid" else case.padding
    options = case.weight[2:], case.dilation, padding, case.stride
    columns = reference.unfold(x, *options)
    np.testing.assert_array_equal(columns, tF.unfold(torch.from_numpy(x), *options))
    expected = tF.fold(torch.from_numpy(columns), x.shape[2:], *options)
    assert_close(reference.fold(columns, x.shape[2:], *options), expected)
