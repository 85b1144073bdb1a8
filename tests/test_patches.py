"""unfold and fold against PyTorch and against each other.

Arrays hold multiples of 1/8, so that sums are exact in any order and results are equal, not close.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as tF
from hypothesis import given
from hypothesis import strategies as st
from shapes import DTYPES, SEEDS, eighths, normal

import fastconv
from fastconv import functional as F


def every_other(x):
    y = np.full((*x.shape[:-1], 2 * x.shape[-1]), 10**6, x.dtype)
    y[..., ::2] = x
    return y[..., ::2]


LAYOUTS = [
    np.ascontiguousarray,
    np.asfortranarray,
    every_other,
    lambda x: np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1],
    lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
]


def window(draw, most_padding):
    """kernel_size, dilation, padding, stride as torch.nn.functional.unfold takes them, and a size that they fit."""
    kernel, dilation, stride = (draw(st.tuples(st.integers(1, top), st.integers(1, top))) for top in (4, 3, 4))
    padding = draw(st.tuples(st.integers(0, most_padding), st.integers(0, most_padding)))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    return (kernel, dilation, padding, stride), tuple(draw(st.integers(low, low + 20)) for low in least)


@st.composite
def problems(draw):
    """Padding may exceed both kernel and input."""
    options, size = window(draw, 6)
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 5)), *size)
    return shape, options, draw(st.sampled_from(DTYPES)), draw(st.sampled_from(LAYOUTS)), draw(SEEDS)


@given(problems())
def test_unfold(problem):
    shape, options, dtype, layout, seed = problem
    x = eighths(np.random.default_rng(seed), shape, dtype)
    y = F.unfold(layout(x), *options)
    assert y.dtype == dtype and y.flags.c_contiguous
    np.testing.assert_array_equal(y, tF.unfold(torch.from_numpy(x), *options))
    np.testing.assert_array_equal(F.unfold(layout(x)[0], *options), y[0])


@given(problems())
def test_fold(problem):
    shape, options, dtype, layout, seed = problem
    columns = eighths(np.random.default_rng(seed), F.unfold(np.zeros(shape), *options).shape, dtype)
    x = F.fold(layout(columns), shape[2:], *options)
    assert x.dtype == dtype and x.flags.c_contiguous
    np.testing.assert_array_equal(x, tF.fold(torch.from_numpy(columns), shape[2:], *options))
    np.testing.assert_array_equal(F.fold(layout(columns)[0], shape[2:], *options), x[0])


@given(problems())
def test_fold_is_the_adjoint_of_unfold(problem):
    """<unfold x, c> = <x, fold c>, exactly."""
    shape, options, _, layout, seed = problem
    rng = np.random.default_rng(seed)
    x = eighths(rng, shape, np.float64)
    columns = F.unfold(x, *options)
    other = eighths(rng, columns.shape, np.float64)
    assert np.vdot(columns, other) == np.vdot(x, F.fold(layout(other), shape[2:], *options))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS[:3])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_every_width(stride, layout, dtype, rng):
    """Rows of 1 to 40 windows: every tail of a vector."""
    for width in range(1, 41):
        x = eighths(rng, (1, 2, 4, (width - 1) * stride + 3), dtype)
        y = F.unfold(layout(x), (2, 3), stride=stride)
        np.testing.assert_array_equal(y, tF.unfold(torch.from_numpy(x), (2, 3), stride=stride))
        expected = tF.fold(torch.from_numpy(y), x.shape[2:], (2, 3), stride=stride)
        np.testing.assert_array_equal(F.fold(layout(y), x.shape[2:], (2, 3), stride=stride), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_long_rows(layout, rng):
    """Rows of more windows than are gathered at a time."""
    x = eighths(rng, (1, 2, 3, 5003), np.float32)
    y = F.unfold(layout(x), 3, 2, 2, (1, 2))
    np.testing.assert_array_equal(y, tF.unfold(torch.from_numpy(x), 3, 2, 2, (1, 2)))
    expected = tF.fold(torch.from_numpy(y), x.shape[2:], 3, 2, 2, (1, 2))
    np.testing.assert_array_equal(F.fold(layout(y), x.shape[2:], 3, 2, 2, (1, 2)), expected)


def test_convolution_is_a_product_with_the_columns(rng):
    x, w = normal(rng, (2, 5, 9, 11), np.float64), normal(rng, (7, 5, 3, 2), np.float64)
    y = w.reshape(7, -1) @ F.unfold(x, (3, 2), padding=1, stride=2)
    np.testing.assert_allclose(y.reshape(2, 7, 5, 6), F.conv2d(x, w, padding=1, stride=2), rtol=0, atol=1e-12)


def test_nan_and_infinity_stay_where_they_are():
    x = np.array([[[np.nan, np.inf], [-np.inf, 1.0]]])
    np.testing.assert_array_equal(F.unfold(x, 2, padding=1), tF.unfold(torch.from_numpy(x), 2, padding=1))
    np.testing.assert_array_equal(F.fold(x.reshape(1, 4), 2, 1), x)


@pytest.mark.parametrize(("shape", "channels"), [((0, 3, 8, 8), 3), ((2, 0, 8, 8), 0), ((0, 8, 8), 0)])
def test_no_images_or_channels(shape, channels):
    x = np.zeros(shape, np.float32)
    y = F.unfold(x, 3)
    assert y.shape == (*shape[:-3], channels * 9, 36)
    assert F.fold(y, 8, 3).shape == shape


@pytest.mark.usefixtures("restore_configuration")
def test_threads_change_no_bit(rng):
    x = normal(rng, (2, 6, 90, 101), np.float32)
    results = []
    for threads in (1, 2, 5):
        fastconv.set_num_threads(threads)
        columns = F.unfold(x, 5, padding=2)
        results.append((columns, F.fold(columns, x.shape[2:], 5, padding=2)))
    for columns, image in results[1:]:
        np.testing.assert_array_equal(columns, results[0][0])
        np.testing.assert_array_equal(image, results[0][1])


COLUMNS = np.zeros((2, 27, 49), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: F.unfold(np.zeros((2, 3, 9)), 10), ValueError, ["kernel_size", "10", "spatial axis 0", "3"]),
        (lambda: F.unfold(np.zeros((1, 2, 3, 9, 9)), 3), ValueError, ["input", "(1, 2, 3, 9, 9)", "(N, C, H, W)"]),
        (lambda: F.unfold(np.zeros((3, 9, 9)), (3, 3, 3)), ValueError, ["kernel_size", "(3, 3, 3)", "2"]),
        (lambda: F.unfold(np.zeros((3, 9, 9)), 3, padding=-1), ValueError, ["padding", "-1"]),
        (lambda: F.unfold(np.zeros((3, 9, 9)), 3, padding="same"), TypeError, ["padding", "'same'"]),
        (lambda: F.unfold(np.zeros((3, 9, 9)), 3, stride=0), ValueError, ["stride", "0"]),
        (lambda: F.unfold(np.zeros((3, 9, 9)), None), TypeError, ["kernel_size", "None"]),
        (lambda: F.fold(COLUMNS, 9, 2), ValueError, ["input", "27", "4"]),
        (lambda: F.fold(COLUMNS, (9, 10), 3), ValueError, ["input", "49", "56", "(9, 10)"]),
        (lambda: F.fold(COLUMNS, 2, 3), ValueError, ["kernel_size", "3", "2"]),
        (lambda: F.fold(COLUMNS, (0, 9), 3), ValueError, ["output_size", "0"]),
        (lambda: F.fold(COLUMNS, 9.0, 3), TypeError, ["output_size", "9.0"]),
        (lambda: F.fold(COLUMNS[None], 9, 3), ValueError, ["input", "(1, 2, 27, 49)"]),
        (lambda: F.fold(COLUMNS.astype(int), 9, 3), TypeError, ["input", "int64", "float32"]),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert not [word for word in words if word not in str(caught.value)], caught.value
