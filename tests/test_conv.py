"""Convolution, forward: against the naive reference on small shapes and against PyTorch on named ones."""

import numpy as np
import pytest
import reference
import torch_judge
from hypothesis import given
from reference import assert_close
from shapes import (
    CASE_FOR_EVERY_AXIS_COUNT,
    CONV_CASES,
    DTYPES,
    NO_CHANNELS_CASES,
    NO_IMAGES_CASES,
    SEEDS,
    ConvCase,
    channels_last,
    conv_cases,
    normal,
)

import fastconv
from fastconv import functional as F

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def doubles(arrays):
    return [None if a is None else a.astype(np.float64) for a in arrays]


@given(conv_cases(), SEEDS)
def test_against_reference(case, seed):
    arrays = case.arrays(seed=seed)
    y = CONV[case.axes](*arrays, **case.options)
    assert y.dtype == case.dtype and y.flags.c_contiguous
    assert_close(y, reference.conv(*arrays, **case.options))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONV_CASES.values(), ids=CONV_CASES)
def test_against_torch(case, dtype):
    arrays = case._replace(dtype=dtype).arrays(normal)
    y = CONV[case.axes](*arrays, **case.options)
    assert y.dtype == dtype and y.flags.c_contiguous
    assert_close(y, torch_judge.conv(*doubles(arrays), **case.options))


@pytest.mark.parametrize("case", CASE_FOR_EVERY_AXIS_COUNT.values(), ids=str)
def test_options_by_position_as_in_torch(case):
    x, w, b = case.arrays()
    by_position = CONV[case.axes](x, w, b, 2, 3, 2, 2)
    expected = reference.conv(x, w, b, stride=2, padding=3, dilation=2, groups=2)
    np.testing.assert_array_equal(by_position, expected)


@pytest.mark.parametrize("case", CASE_FOR_EVERY_AXIS_COUNT.values(), ids=str)
def test_one_image_without_batch_axis(case):
    x, w, b = case.arrays()
    y = CONV[case.axes](x[0], w, b, **case.options)
    np.testing.assert_array_equal(y, CONV[case.axes](x, w, b, **case.options)[0])


@pytest.mark.parametrize("case", CASE_FOR_EVERY_AXIS_COUNT.values(), ids=str)
def test_padding_forms_that_mean_the_same(case):
    x, w, b = case.arrays()
    conv, axes = CONV[case.axes], case.axes
    twos = conv(x, w, b, padding=2, groups=2)
    for same_thing in ((2,) * axes, [2] * axes, ((2, 2),) * axes, np.int64(2)):
        np.testing.assert_array_equal(conv(x, w, b, padding=same_thing, groups=2), twos)
    np.testing.assert_array_equal(conv(x, w, b, padding="valid", groups=2), conv(x, w, b, groups=2))
    ones = conv(x, w, b, padding=1, groups=2)
    assert ones.shape[2:] == x.shape[2:]
    np.testing.assert_array_equal(conv(x, w, b, padding="same", groups=2), ones)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_same_padding_gives_ceil_of_size_over_stride(axes, stride, kernel):
    case = ConvCase((1, 2, *(8, 7, 6)[:axes]), (3, 2, *[kernel] * axes), stride, "same", dilation=2)
    arrays = case.arrays()
    y = CONV[axes](*arrays, **case.options)
    assert y.shape[2:] == tuple(-(-n // stride) for n in (8, 7, 6)[:axes])
    np.testing.assert_array_equal(y, reference.conv(*arrays, **case.options))


@pytest.mark.parametrize("case", (NO_IMAGES_CASES | NO_CHANNELS_CASES).values(), ids=NO_IMAGES_CASES | NO_CHANNELS_CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_axes(case, dtype):
    arrays = case._replace(dtype=dtype).arrays()
    y = CONV[case.axes](*arrays, **case.options)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, reference.conv(*arrays, **case.options))


def test_no_bias_is_a_zero_bias():
    x, w, _ = CONV_CASES["dense 3x3"].arrays(normal)
    zero = np.zeros(w.shape[0], w.dtype)
    np.testing.assert_array_equal(F.conv2d(x, w, padding=1), F.conv2d(x, w, zero, padding=1))


@pytest.mark.parametrize("name", ["dense 3x3", "depthwise", "grouped", "pointwise", "1d dense", "3d dense", "image stem"])
def test_out_is_overwritten_and_never_read(name):
    case = CONV_CASES[name]
    arrays = case.arrays(normal)
    expected = CONV[case.axes](*arrays, **case.options)
    out = np.full_like(expected, np.nan)
    assert CONV[case.axes](*arrays, **case.options, out=out) is out
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["dense 3x3", "dense 3x3 narrow", "lenet", "depthwise", "pointwise", "1d dense", "3d dense"])
def test_an_image_does_not_know_its_batch(name, dtype):
    """By one algorithm, an image's result is the same bit for bit alone and in a batch."""
    case = CONV_CASES[name]
    x, w, b = case._replace(dtype=dtype).arrays(normal)
    x = np.concatenate([x, x[::-1]])
    conv = CONV[case.axes]
    for option in fastconv.explain(conv, x.shape, w.shape, **case.options, dtype=dtype).options:
        if option.reason is None:
            whole = conv(x, w, b, **case.options, algorithm=option.name)
            for n in range(x.shape[0]):
                alone = conv(x[n : n + 1], w, b, **case.options, algorithm=option.name)
                np.testing.assert_array_equal(alone[0], whole[n])


@pytest.mark.parametrize("stride", [1, 2, (1, 2)])
@pytest.mark.parametrize("images", [1, 7])
def test_channels_by_runs_of_rows_anywhere(images, stride):
    """Rows with gaps between them, last row first; blocks of them end within images, others where threads differ."""
    case = ConvCase((images, 24, 22, 13), (41, 24, 3, 2), stride=stride, padding=((2, 1), (0, 1)), dilation=(2, 1))
    x, w, b = case.arrays()
    x = x[:, :, ::-2]
    expected = reference.conv(x, w, b, **case.options)
    y = F.conv2d(x, w, b, **case.options, algorithm="channels")
    np.testing.assert_array_equal(y, expected)
    dx = F.conv2d_input(x.shape, w, y, **case.options, algorithm="channels")
    assert_close(dx, reference.conv_backward(y, x, w, **case.options)[0])
    with fastconv.num_threads(3):
        np.testing.assert_array_equal(F.conv2d(x, w, b, **case.options, algorithm="channels"), expected)
        np.testing.assert_array_equal(F.conv2d_input(x.shape, w, y, **case.options, algorithm="channels"), dx)


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("stride", [1, 2, (1, 3)], ids=str)
@pytest.mark.parametrize("images, height", [(1, 4), (2, 1)])
def test_channels_of_wide_rows(images, height, stride, last):
    """Rows that are cut into two to five blocks of columns, which read beyond their ends."""
    case = ConvCase((images, 24, height, 1500), (40, 24, 3, 5), stride=stride, padding=((1, 1), (3, 2)), dilation=(1, 2))
    x, w, b = case.arrays()
    expected = reference.conv(x, w, b, **case.options)
    x = channels_last(x) if last else x
    y = F.conv2d(x, w, b, **case.options, algorithm="channels")
    np.testing.assert_array_equal(y, expected)
    g = channels_last(y) if last else y
    dx = F.conv2d_input(x.shape, w, g, **case.options, algorithm="channels")
    assert_close(dx, reference.conv_backward(g, x, w, **case.options)[0])
    with fastconv.num_threads(3):
        np.testing.assert_array_equal(F.conv2d(x, w, b, **case.options, algorithm="channels"), expected)
        np.testing.assert_array_equal(F.conv2d_input(x.shape, w, g, **case.options, algorithm="channels"), dx)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", [17, 28, 32, 37, 61, 149])
def test_rows_of_pixels(width, stride, dtype):
    """Output rows as products of their own, several a call, or as one row of a band without gaps; any threads, the same bits."""
    case = ConvCase((2, 3, 23, width), (13, 3, 3, 3), stride=stride, padding=(1, stride % 2), dtype=dtype)
    x, w, b = case.arrays(normal)
    results = []
    for threads in (1, 2):
        with fastconv.num_threads(threads):
            results.append(F.conv2d(x, w, b, **case.options, algorithm="pixels"))
    np.testing.assert_array_equal(*results)
    assert_close(results[0], reference.conv(x, w, b, **case.options))


def test_a_call_repeats_bit_for_bit():
    arrays = CONV_CASES["dense 3x3"].arrays(normal)
    first = F.conv2d(*arrays, padding=1)
    for _ in range(5):
        np.testing.assert_array_equal(F.conv2d(*arrays, padding=1), first)
