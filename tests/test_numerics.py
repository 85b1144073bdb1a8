"""What floating point does: NaN and infinities go where IEEE sends them, and rounding stays within its bounds."""

import os
import subprocess
import sys

import numpy as np
import pytest
import reference
import torch
import torch_judge
from hypothesis import given
from hypothesis import strategies as st
from reference import assert_close
from shapes import CONV_CASES, DTYPES, SEEDS, ConvCase, conv_cases, normal

import fastconv
from fastconv import _core
from fastconv import functional as F

pytestmark = pytest.mark.usefixtures("restore_configuration")

NONFINITE = [np.nan, np.inf, -np.inf]
# Widths with and without vector tails, every driver's kind of problem.
NAN_CASES = ["dense 3x3", "dense 3x3 narrow", "lenet", "depthwise", "depthwise 7x7", "pointwise", "7x7 stride 2", "grouped", "1d dense", "3d dense"]


def nonzero(rng, shape, dtype):
    """No zeros, so that a NaN or infinity is never multiplied away."""
    return (rng.choice([-1, 1], shape) * rng.integers(1, 17, shape) / 8).astype(dtype)


def spoil(array, value, places, seed=0):
    flat = np.random.default_rng(seed).choice(array.size, places, replace=False)
    array.ravel()[flat] = value
    return array


def hold(actual, expected):
    """Non-finite values in the same places, the others within tolerance."""
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    assert_close(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", NONFINITE)
@pytest.mark.parametrize("name", NAN_CASES)
@np.errstate(invalid="ignore")
def test_nonfinite_input_reaches_every_window_that_holds_it_and_no_other(name, value, dtype):
    case = CONV_CASES[name]._replace(dtype=dtype)
    x, w, b = case.arrays(nonzero)
    spoil(x, value, 2)
    fastconv.set_float32_precision("highest")
    y = getattr(F, f"conv{case.axes}d")(x, w, b, **case.options)
    expected = reference.conv(x, w, b, **case.options)
    assert np.isfinite(expected).any() and not np.isfinite(expected).all()
    hold(y, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAN_CASES)
@np.errstate(invalid="ignore")
def test_nonfinite_gradient(name, dtype):
    case = CONV_CASES[name]._replace(dtype=dtype)
    x, w, _ = case.arrays(nonzero)
    grad = spoil(nonzero(np.random.default_rng(1), reference.conv(x, w, **case.options).shape, dtype), np.nan, 1)
    fastconv.set_float32_precision("highest")
    got = getattr(F, f"conv{case.axes}d_backward")(grad, x, w, **case.options)
    expected = reference.conv_backward(grad, x, w, **case.options)
    hold(got.input, expected[0])
    np.testing.assert_array_equal(np.isnan(got.bias), np.isnan(expected[2]))
    # A tap that meets only padding may or may not be multiplied; one output channel's weights see the NaN, no other's.
    spoilt = np.isnan(expected[2])
    assert np.isfinite(got.weight[~spoilt]).all() and np.isnan(got.weight[spoilt]).any()


@given(conv_cases(), SEEDS, st.sampled_from(NONFINITE))
@np.errstate(invalid="ignore")
def test_nonfinite_input_anywhere(case, seed, value):
    x, w, b = case.arrays(nonzero, seed)
    spoil(x, value, 1, seed)
    fastconv.set_float32_precision("highest")
    hold(getattr(F, f"conv{case.axes}d")(x, w, b, **case.options), reference.conv(x, w, b, **case.options))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", NONFINITE)
def test_nonfinite_input_by_default_precision(value, dtype):
    """Whatever the algorithm, an output whose window holds a NaN or an infinity is not finite, and far ones are."""
    x, w, _ = ConvCase((1, 16, 40, 40), (16, 16, 3, 3), dtype=dtype).arrays(nonzero)
    x[0, 5, 20, 20] = value
    y = F.conv2d(x, w, padding=1)
    assert not np.isfinite(y[:, :, 19:22, 19:22]).any()
    y[:, :, 12:29, 12:29] = 0
    assert np.isfinite(y).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", NONFINITE)
def test_nonfinite_weight_and_bias_stay_in_their_channel(value, dtype):
    x, w, b = ConvCase((2, 6, 9, 17), (20, 6, 3, 3), dtype=dtype).arrays(nonzero)
    w[7, 2, 1, 1] = value
    b[13] = value
    y = F.conv2d(x, w, b, padding=1)
    spoilt = np.zeros(20, bool)
    spoilt[[7, 13]] = True
    assert not np.isfinite(y[:, spoilt]).any()
    assert np.isfinite(y[:, ~spoilt]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_is_zero_and_not_minus_zero_or_old_memory(dtype):
    x, w = np.full((1, 1, 2, 2), 3, dtype), np.ones((1, 1, 1, 1), dtype)
    y = F.conv2d(x, w, padding=3)
    assert y.sum() == 12 and not np.signbit(y).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_denormals_are_not_flushed(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    for kernel in (1, 3):
        x = np.full((1, 8, 12, 12), 5 * tiny, dtype)
        w = np.zeros((8, 8, kernel, kernel), dtype)
        w[np.arange(8), np.arange(8), kernel // 2, kernel // 2] = 3
        fastconv.set_float32_precision("highest")
        np.testing.assert_array_equal(F.conv2d(x, w, padding=kernel // 2), x * 3)
        np.testing.assert_array_equal(F.conv2d_input(x.shape, w, x, padding=kernel // 2), x * 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_overflow_is_infinity(dtype):
    large = np.finfo(dtype).max
    x, w = np.full((1, 1, 4), large, dtype), np.array([[[1.0, 1.0]], [[1.0, 0.0]], [[-1.0, -1.0]]], dtype)
    np.testing.assert_array_equal(F.conv1d(x, w)[0, :, 0], [np.inf, large, -np.inf])


# ---- rounding ----------------------------------------------------------------------------------

LONG_SUMS = {
    "512 channels": ConvCase((1, 512, 14, 14), (64, 512, 3, 3), padding=1),
    "2048 channels pointwise": ConvCase((1, 2048, 7, 7), (64, 2048, 1, 1)),
    "one large kernel": ConvCase((1, 1, 80, 80), (8, 1, 41, 41)),
    "depthwise large kernel": ConvCase((1, 4, 80, 80), (4, 1, 31, 31), groups=4),
    "1d long kernel": ConvCase((1, 3, 5000), (4, 3, 2001)),
}


def positive(rng, shape, dtype):
    """Sums without cancellation: where one running accumulator loses most."""
    return rng.random(shape).astype(dtype)


def error(actual, expected):
    return np.abs(actual - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("algorithm", ["pixels", "channels", "im2col"])
def test_highest_precision_of_a_short_sum(algorithm):
    """288 terms are more than one accumulator takes: in one it errs by 7.4e-7 of max|y|, in three by 2.9e-7."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((4, 32, 32, 32), np.float32), rng.standard_normal((64, 32, 3, 3), np.float32)
    fastconv.set_float32_precision("highest")
    exact = F.conv2d(x.astype(np.float64), w.astype(np.float64), padding=1)
    assert np.abs(F.conv2d(x, w, padding=1, algorithm=algorithm) - exact).max() <= 5e-7 * np.abs(exact).max()


@pytest.mark.parametrize("fill", [normal, positive])
@pytest.mark.parametrize("case", LONG_SUMS.values(), ids=LONG_SUMS)
def test_long_sums_in_float32(case, fill):
    """Within 1e-5 of max|y| by default; under "highest" within 1e-6, as blocks of a long sum start at zero."""
    x, w, _ = case.arrays(fill)
    expected = torch_judge.conv(x.astype(np.float64), w.astype(np.float64), **case.options)
    conv = getattr(F, f"conv{case.axes}d")
    assert error(conv(x, w, **case.options), expected) < 1e-5
    fastconv.set_float32_precision("highest")
    assert error(conv(x, w, **case.options), expected) < 1e-6


@pytest.mark.parametrize("fill", [normal, positive])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_and_bias_gradients_sum_many_pixels(fill, dtype):
    """256 thousand pixels go into every element."""
    rng = np.random.default_rng(0)
    x, w, grad = fill(rng, (4, 3, 256, 256), dtype), np.ones((5, 3, 3, 3), dtype), fill(rng, (4, 5, 256, 256), dtype)
    got = F.conv2d_backward(grad, x, w, padding=1)
    expected = torch_judge.conv_backward(*(a.astype(np.float64) for a in (grad, x, w)), padding=1)
    for actual, right in zip(got, expected, strict=True):
        assert_close(actual, right)


# Every m, one axis and both, kernels in one piece and in several, phases of a dilation, rows cut into stripes.
WINOGRAD = {
    "2x2": ConvCase((2, 64, 17, 17), (40, 64, 2, 2)),
    "3x3": ConvCase((2, 64, 17, 17), (40, 64, 3, 3), padding=1),
    "4x4": ConvCase((2, 64, 17, 17), (40, 64, 4, 4), padding=1),
    "5x5": ConvCase((2, 64, 17, 17), (40, 64, 5, 5), padding=2),
    "6x7": ConvCase((2, 33, 17, 17), (20, 33, 6, 7), padding=3),
    "11x11": ConvCase((1, 16, 30, 30), (16, 16, 11, 11), padding=5),
    "1x7": ConvCase((2, 64, 17, 17), (40, 64, 1, 7), padding=(0, 3)),
    "7x1": ConvCase((2, 64, 17, 17), (40, 64, 7, 1), padding=(3, 0)),
    "2x5": ConvCase((2, 64, 17, 17), (40, 64, 2, 5)),
    "dilated": ConvCase((2, 32, 25, 30), (40, 32, 3, 5), padding=(3, 4), dilation=(3, 2)),
    "wide": ConvCase((1, 64, 4, 450), (16, 64, 3, 3), padding=1),
    "wide 5x5": ConvCase((1, 64, 6, 230), (16, 64, 5, 5), padding=2),
    "grouped": ConvCase((2, 60, 13, 13), (40, 30, 5, 5), padding=2, groups=2),
    "sequence": ConvCase((3, 64, 301), (40, 64, 3), padding=1),
    "dilated sequence": ConvCase((3, 64, 320), (40, 64, 3), padding=8, dilation=8),
    "dilated odd sequence": ConvCase((3, 64, 301), (40, 64, 5), padding=8, dilation=4),
    "3d": ConvCase((1, 32, 4, 12, 12), (20, 32, 3, 5, 5), padding=(1, 2, 2)),
    "sequence in six taps": ConvCase((3, 70, 301), (40, 70, 6), padding=(4,)),
    "sequence of few channels": ConvCase((3, 5, 2300), (40, 5, 31), padding=3),
    "sequence of a channel": ConvCase((2, 1, 900), (20, 1, 301), padding=150),
    "dilated sequence of few channels": ConvCase((2, 3, 300), (20, 3, 5), padding=8, dilation=4),
    "strided sequence of a channel": ConvCase((3, 1, 2004), (70, 1, 80), stride=4, padding=8),
}

# One to five taps a phase, every m, phases whose taps begin before or after their output's place, an axis alone, wide weights.
STRIDED = {
    "3x2 stride 2": ConvCase((2, 64, 18, 18), (40, 64, 3, 2), stride=2),
    "3x3 stride 2": ConvCase((2, 64, 28, 28), (40, 64, 3, 3), stride=2, padding=1),
    "3x3 stride 2, valid": ConvCase((1, 40, 29, 30), (33, 40, 3, 3), stride=2),
    "4x4 stride 2": ConvCase((2, 64, 32, 32), (40, 64, 4, 4), stride=2, padding=1),
    "5x5 stride 2": ConvCase((2, 64, 33, 33), (40, 64, 5, 5), stride=2, padding=2),
    "7x7 stride 2": ConvCase((2, 40, 24, 24), (64, 40, 7, 7), stride=2, padding=3),
    "10x9 stride 2": ConvCase((1, 20, 31, 31), (20, 20, 10, 9), stride=2, padding=4),
    "5x4 stride 3x2": ConvCase((2, 64, 31, 30), (40, 64, 5, 4), stride=(3, 2), padding=(0, 3)),
    "3x4 stride 1x2": ConvCase((2, 64, 14, 31), (40, 64, 3, 4), stride=(1, 2), padding=1),
    "8x8 stride 4": ConvCase((2, 17, 33, 33), (20, 17, 8, 8), stride=4, padding=2),
    "grouped": ConvCase((2, 60, 22, 22), (40, 30, 4, 4), stride=2, padding=1, groups=2),
    "many channels": ConvCase((1, 300, 12, 12), (100, 300, 4, 4), stride=2, padding=1),
    "sequence": ConvCase((3, 64, 301), (40, 64, 4), stride=2, padding=1),
    "along columns": ConvCase((2, 64, 31, 9), (40, 64, 5, 1), stride=(2, 1), padding=(2, 0)),
    "3d": ConvCase((1, 32, 3, 20, 20), (20, 32, 1, 4, 4), stride=(1, 2, 2), padding=(0, 1, 1)),
    "packed": ConvCase((2, 3, 41, 38), (50, 3, 7, 7), stride=2, padding=3),
    "packed by four": ConvCase((1, 3, 61, 70), (20, 3, 11, 11), stride=4, padding=2),
    "packed groups": ConvCase((2, 12, 30, 29), (40, 6, 5, 4), stride=2, padding=(1, 2), groups=2),
    "packed sequence": ConvCase((3, 2, 203), (24, 2, 5), stride=2, padding=2),
}


def mean_of_ten(rng, shape, dtype):
    return (10 + rng.standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize("fill", [normal, positive, mean_of_ten])
@pytest.mark.parametrize("case", WINOGRAD.values(), ids=WINOGRAD)
def test_winograd(case, fill):
    """Within 4e-6 of max|y|, in any layout, the same at any number of threads."""
    x, _, b = case.arrays(fill)
    w = normal(np.random.default_rng(1), case.weight, np.float32)
    conv = getattr(F, f"conv{case.axes}d")
    expected = torch_judge.conv(*(a.astype(np.float64) for a in (x, w, b)), **case.options)
    channels_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    flipped = np.flip(np.ascontiguousarray(np.flip(w, (0, *range(2, w.ndim))).swapaxes(0, 1)).swapaxes(0, 1), (0, *range(2, w.ndim)))
    for image, weight in [(x, w), (channels_last, w), (x, flipped), (x, np.repeat(w, 2, -1)[..., ::2])]:
        results = []
        for threads in (1, 2):
            fastconv.set_num_threads(threads)
            results.append(conv(image, weight, b, **case.options, algorithm="winograd_channels"))
        assert error(results[0], expected) < 4e-6
        np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("value", NONFINITE)
@pytest.mark.parametrize("case", WINOGRAD.values(), ids=WINOGRAD)
@np.errstate(invalid="ignore")
def test_nonfinite_input_by_winograd(case, value):
    x, w, b = case.arrays(nonzero)
    spoil(x, value, 1)
    conv = getattr(F, f"conv{case.axes}d")
    got = conv(x, w, b, **case.options, algorithm="winograd_channels")
    expected = torch_judge.conv(*(a.astype(np.float64) for a in (x, w, b)), **case.options)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))


def strided(case, transposed, *arrays):
    return _core.convolve(case.axes, transposed, *arrays, case.stride, case.padding, 1, case.groups, None, "winograd_strided")


@pytest.mark.parametrize("fill", [normal, positive, mean_of_ten])
@pytest.mark.parametrize("case", STRIDED.values(), ids=STRIDED)
def test_strided_winograd(case, fill):
    """The convolution, and the transposed one of its output: as `test_winograd` has it."""
    x, _, b = case.arrays(fill)
    w = normal(np.random.default_rng(1), case.weight, np.float32)
    exact = torch_judge.conv(*(a.astype(np.float64) for a in (x, w, b)), **case.options)
    grad = fill(np.random.default_rng(2), exact.shape, np.float32)
    back = torch_judge.conv_transpose(grad.astype(np.float64), w.astype(np.float64), **case.options)
    for transposed, image, bias, expected in [(False, x, b, exact), (True, grad, None, back)]:
        channels_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(image, 1, -1)), -1, 1)
        last = np.moveaxis(np.ascontiguousarray(np.moveaxis(w, 1, -1)), -1, 1)
        for array, weight in [(image, w), (channels_last, last), (image, np.repeat(w, 2, -1)[..., ::2])]:
            results = []
            for threads in (1, 2):
                fastconv.set_num_threads(threads)
                results.append(strided(case, transposed, array, weight, bias))
            assert error(results[0], expected) < 4e-6
            np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("value", NONFINITE)
@pytest.mark.parametrize("case", STRIDED.values(), ids=STRIDED)
@np.errstate(invalid="ignore")
def test_nonfinite_input_by_strided_winograd(case, value):
    x, w, b = case.arrays(nonzero)
    grad = nonzero(np.random.default_rng(2), torch_judge.conv(x, w, b, **case.options).shape, np.float32)
    spoil(x, value, 1)
    spoil(grad, value, 1)
    expected = torch_judge.conv(*(a.astype(np.float64) for a in (x, w, b)), **case.options)
    back = torch_judge.conv_transpose(grad.astype(np.float64), w.astype(np.float64), **case.options)
    for got, right in [(strided(case, False, x, w, b), expected), (strided(case, True, grad, w, None), back)]:
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(right))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(right))


# Every m, kernels in pieces, each axis alone, phases of a stride with and without the last tap.
WINOGRAD_GRADIENTS = {
    "batch": ConvCase((8, 64, 16, 16), (48, 64, 3, 3), padding=1),
    "wide": ConvCase((1, 32, 20, 300), (32, 32, 3, 3)),
    "dilated": ConvCase((2, 64, 30, 30), (64, 64, 3, 3), padding=2, dilation=2),
    "3d": ConvCase((1, 32, 5, 28, 28), (32, 32, 3, 3, 3), padding=1),
    "2x2": ConvCase((2, 64, 33, 33), (64, 64, 2, 2)),
    "4x4": ConvCase((4, 48, 20, 21), (64, 48, 4, 4), padding=1),
    "5x5": ConvCase((8, 32, 14, 14), (64, 32, 5, 5), padding=2),
    "7x7 dilated": ConvCase((2, 64, 29, 31), (50, 64, 7, 7), padding=6, dilation=(2, 1)),
    "9x6": ConvCase((3, 33, 25, 26), (32, 33, 9, 6), padding=(4, 2)),
    "row": ConvCase((4, 64, 17, 17), (64, 64, 1, 7), padding=(0, 3)),
    "column": ConvCase((8, 96, 36, 9), (96, 96, 7, 1), padding=(3, 0)),
    "sequence": ConvCase((2, 64, 1000), (64, 64, 3), padding=4, dilation=4),
    "4x4 stride 2": ConvCase((8, 64, 32, 32), (64, 64, 4, 4), stride=2, padding=1),
    "5x5 stride 2": ConvCase((4, 36, 41, 40), (64, 36, 5, 5), stride=2, padding=2),
    "12x7 stride 4x2": ConvCase((4, 32, 64, 60), (48, 32, 12, 7), stride=(4, 2), padding=2),
    "6x6 stride 3": ConvCase((4, 48, 50, 51), (80, 48, 6, 6), stride=3),
    "14x14 stride 2": ConvCase((4, 32, 50, 51), (64, 32, 14, 14), stride=2, padding=6),
    "3x4 stride 1x2": ConvCase((4, 64, 20, 41), (64, 64, 3, 4), stride=(1, 2), padding=1),
    "column stride 2": ConvCase((8, 64, 80, 9), (64, 64, 8, 1), stride=(2, 1), padding=(2, 0)),
    "sequence stride 2": ConvCase((8, 64, 1000), (64, 64, 4), stride=2, padding=1),
}


def weight_problem(case, fill):
    x, w, _ = case.arrays(fill)
    shape = torch_judge.conv(x[:, :1], w[:1, :1], **case.options).shape
    return x, w.shape, fill(np.random.default_rng(1), (shape[0], w.shape[0], *shape[2:]), np.float32)


@pytest.mark.parametrize("fill", [normal, positive])
@pytest.mark.parametrize("case", WINOGRAD_GRADIENTS.values(), ids=WINOGRAD_GRADIENTS)
def test_weight_gradient_by_winograd(case, fill):
    """Its error is no larger than a direct sum's, though the promise is 1e-5 of max|dw|."""
    x, shape, grad = weight_problem(case, fill)
    gradient = getattr(F, f"conv{case.axes}d_weight")
    w = np.zeros(shape)
    expected = torch_judge.conv_backward(grad.astype(np.float64), x.astype(np.float64), w, **case.options)[1]
    channels_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    for image in (x, channels_last):
        results = []
        for threads in (1, 2):
            fastconv.set_num_threads(threads)
            results.append(gradient(image, shape, grad, **case.options, algorithm="winograd"))
        assert error(results[0], expected) < 2e-6
        np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("value", NONFINITE)
@pytest.mark.parametrize("case", WINOGRAD_GRADIENTS.values(), ids=WINOGRAD_GRADIENTS)
@np.errstate(invalid="ignore")
def test_nonfinite_weight_gradient_by_default_precision(case, value):
    """Winograd would spread it over channels that never meet it: all is summed directly instead."""
    x, shape, grad = weight_problem(case, nonzero)
    spoil(x, value, 1)
    gradient = getattr(F, f"conv{case.axes}d_weight")
    got = gradient(x, shape, grad, **case.options)
    fastconv.set_float32_precision("highest")
    np.testing.assert_array_equal(got, gradient(x, shape, grad, **case.options))
    assert not np.isfinite(got).all() and np.isfinite(got).any()


def test_weight_gradient_ignores_what_its_scratch_held():
    """Of 65 channels the last block has fewer vectors than the others: what lies beyond them must not count as not finite."""
    case = ConvCase((8, 65, 16, 16), (48, 65, 3, 3), padding=1)
    x, shape, grad = weight_problem(case, normal)
    assert fastconv.explain(F.conv2d, x.shape, shape, **case.options, direction="weight").algorithm == "winograd"
    fastconv.set_num_threads(1)
    expected = F.conv2d_weight(x, shape, grad, **case.options)
    spoilt = np.full((8, 128, 16, 16), np.nan, np.float32)
    for _ in range(5):
        fastconv.set_num_threads(2)
        F.conv2d_weight(spoilt, (48, 128, 3, 3), grad, **case.options)
        np.testing.assert_array_equal(F.conv2d_weight(x, shape, grad, **case.options), expected)


def test_float64_is_double_all_the_way():
    """Values that float32 cannot hold, through every function that computes."""
    x = 1 + np.arange(1, 401).reshape(1, 4, 10, 10) * 2.0**-40
    w = 1 + np.arange(1, 145).reshape(4, 4, 3, 3) * 2.0**-42
    y = F.conv2d(x, w, padding=1)
    assert error(y, torch_judge.conv(x, w, padding=1)) < 1e-15
    for actual, right in zip(F.conv2d_backward(y, x, w, padding=1), torch_judge.conv_backward(y, x, w, padding=1), strict=True):
        assert error(actual, right) < 1e-14
    assert error(F.conv_transpose2d(x, w, stride=2), torch_judge.conv_transpose(x, w, stride=2)) < 1e-15
    assert error(F.avg_pool2d(x, 2), torch.nn.functional.avg_pool2d(torch.from_numpy(x), 2).numpy()) < 1e-15
    np.testing.assert_array_equal(F.max_pool2d(x, 1), x)


# ---- precision ---------------------------------------------------------------------------------


def test_precision_is_set_and_read():
    assert fastconv.get_float32_precision() == "high"
    fastconv.set_float32_precision("highest")
    assert fastconv.get_float32_precision() == "highest"
    fastconv.set_float32_precision("high")
    assert fastconv.get_float32_precision() == "high"


def precision_of_child(**environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FASTCONV_")}
    program = "import fastconv; print(fastconv.get_float32_precision())"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=clean | environment)


def test_precision_from_the_environment():
    assert precision_of_child().stdout.strip() == "high"
    assert precision_of_child(FASTCONV_PRECISION="highest").stdout.strip() == "highest"


def test_precision_from_an_environment_that_makes_no_sense():
    run = precision_of_child(FASTCONV_PRECISION="medium")
    assert run.returncode != 0
    assert "FASTCONV_PRECISION" in run.stderr and "'medium'" in run.stderr and "highest" in run.stderr
