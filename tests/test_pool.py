"""Pooling and unpooling against PyTorch, forward and backward, through every driver of the engine.

Values and indices of a maximum are equal, not close. Five drivers share the work: `rows` (windows alike, lanes along a
row), `narrow` (planes no wider than a vector or two), `channels` (channels last in memory, as many as a vector has lanes),
`planes` (as many planes, transposed), `box` (one window at a time).
"""

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as tF
from hypothesis import given
from hypothesis import strategies as st
from reference import assert_close
from shapes import DTYPES, SEEDS, channels_last, eighths, normal, pool_cases
from torch_judge import leaf

import fastconv
from fastconv import functional as F


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread():
    """Its workers would only wait for each other on problems as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ours(name, axes, what=""):
    return getattr(F, f"{name}{axes}d{what}")


def torchs(name, axes):
    return getattr(tF, f"{name}{axes}d")


def every_other(x):
    """The same values, two elements apart in memory, with larger ones between."""
    y = np.full((*x.shape[:-1], 2 * x.shape[-1]), 10**6, x.dtype)
    y[..., ::2] = x
    return y[..., ::2]


def reversed_axes(x):
    backwards = (slice(None), slice(None), *[slice(None, None, -1)] * (x.ndim - 2))
    return np.ascontiguousarray(x[backwards])[backwards]


LAYOUTS = [np.ascontiguousarray, np.asfortranarray, channels_last, every_other, reversed_axes]
layouts = st.sampled_from(LAYOUTS)


def torch_gradient(y, x, seed=5):
    """A random dL/dy, and torch's dL/dx for it."""
    grad = np.random.default_rng(seed).standard_normal(y.shape).astype(x.detach().numpy().dtype)
    y.backward(torch.from_numpy(grad))
    return grad, x.grad.numpy()


def check_max_pool(x, options, layout=np.ascontiguousarray):
    """Values and indices against torch's, with and without indices; the gradient where x has no NaN."""
    axes = x.ndim - 2
    tensor = leaf(x)
    expected, where = torchs("max_pool", axes)(tensor, *options, return_indices=True)
    y, indices = ours("max_pool", axes)(layout(x), *options, return_indices=True)
    assert y.dtype == x.dtype and indices.dtype == np.int64
    np.testing.assert_array_equal(y, expected.detach())
    np.testing.assert_array_equal(indices, where)
    np.testing.assert_array_equal(ours("max_pool", axes)(layout(x), *options), y)
    if np.isfinite(x).all():
        grad, grad_x = torch_gradient(expected, tensor)
        assert_close(ours("max_pool", axes, "_backward")(layout(grad), indices, x.shape), grad_x)


def check_avg_pool(x, options, divisor=None, layout=np.ascontiguousarray):
    axes = x.ndim - 2
    last = {} if axes == 1 else {"divisor_override": divisor}
    tensor = leaf(x)
    expected = torchs("avg_pool", axes)(tensor, *options, **last)
    y = ours("avg_pool", axes)(layout(x), *options, **last)
    assert_close(y, expected.detach())
    grad, grad_x = torch_gradient(expected, tensor)
    assert_close(ours("avg_pool", axes, "_backward")(layout(grad), x.shape, *options, **last), grad_x)


def check_adaptive(x, size, layout=np.ascontiguousarray):
    axes = x.ndim - 2
    tensor = leaf(x)
    expected, where = torchs("adaptive_max_pool", axes)(tensor, size, return_indices=True)
    y, indices = ours("adaptive_max_pool", axes)(layout(x), size, return_indices=True)
    np.testing.assert_array_equal(y, expected.detach())
    np.testing.assert_array_equal(indices, where)
    np.testing.assert_array_equal(ours("adaptive_max_pool", axes)(layout(x), size), y)
    if not np.isfinite(x).all():
        return
    grad, grad_x = torch_gradient(expected, tensor)
    assert_close(ours("adaptive_max_pool", axes, "_backward")(layout(grad), indices, x.shape), grad_x)
    tensor = leaf(x)
    expected = torchs("adaptive_avg_pool", axes)(tensor, size)
    assert_close(ours("adaptive_avg_pool", axes)(layout(x), size), expected.detach())
    grad, grad_x = torch_gradient(expected, tensor)
    assert_close(ours("adaptive_avg_pool", axes, "_backward")(layout(grad), x.shape), grad_x)


# ---- any shape and option ----------------------------------------------------------------------


@given(pool_cases(), layouts, st.sampled_from([1, 17]), SEEDS)
def test_max_pool(case, layout, channels, seed):
    x = case._replace(input=(case.input[0], case.input[1] * channels, *case.input[2:])).array(seed=seed)
    check_max_pool(x, (case.kernel_size, case.stride, case.padding, case.dilation, case.ceil_mode), layout)


@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("divisor", [None, 5, -3])
@given(case=pool_cases(dilated=False), layout=layouts, channels=st.sampled_from([1, 17]), seed=SEEDS)
def test_avg_pool(case, layout, channels, divisor, seed, count_include_pad):
    x = case._replace(input=(case.input[0], case.input[1] * channels, *case.input[2:])).array(seed=seed)
    check_avg_pool(x, (case.kernel_size, case.stride, case.padding, case.ceil_mode, count_include_pad), divisor, layout)


@given(st.data(), st.sampled_from([1, 2, 3]), layouts, st.sampled_from([2, 17]), st.sampled_from(DTYPES), SEEDS)
def test_adaptive_pools(data, axes, layout, channels, dtype, seed):
    side = {1: 40, 2: 12, 3: 6}[axes]
    size, out = (data.draw(st.tuples(*[st.integers(1, side)] * axes)) for _ in range(2))
    check_adaptive(eighths(np.random.default_rng(seed), (2, channels, *size), dtype), out, layout)


def test_adaptive_output_size_none_is_the_inputs(rng):
    x = normal(rng, (2, 3, 5, 7), np.float32)
    np.testing.assert_array_equal(F.adaptive_avg_pool2d(x, (None, 3)), F.adaptive_avg_pool2d(x, (5, 3)))
    np.testing.assert_array_equal(F.adaptive_max_pool2d(x, None), x)


# ---- vectors and their tails -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [np.ascontiguousarray, channels_last])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 3, 0), (2, 5, 1)])
def test_every_width(kernel, stride, padding, layout, dtype):
    """Outputs from 1 to 40 wide; 18 channels, so that a vector of channels has a tail too."""
    rng = np.random.default_rng(kernel * stride)
    for width in range(1, 41):
        size = (width - 1) * stride + kernel - 2 * padding
        if size < 1:
            continue
        x = eighths(rng, (1, 18, 2 * kernel + 1, size), dtype)
        check_max_pool(x, (kernel, stride, padding), layout)
        check_avg_pool(x, (kernel, stride, padding, False, False), layout=layout)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [1, 2, 3, 7, 33, 100])
def test_long_rows(kernel, dtype):
    """Rows cut into several blocks of columns, and gradients into blocks and chunks."""
    rng = np.random.default_rng(kernel)
    for stride in (1, 2, kernel, 200):
        x = eighths(rng, (1, 2, 30011), dtype)
        check_max_pool(x, (kernel, stride, kernel // 2, 1, True))
        check_avg_pool(x, (kernel, stride, kernel // 2, True, False))


@pytest.mark.parametrize("shape", [(1, 1, 301, 400), (1, 2, 20, 60, 70), (1, 20, 100, 130)])
def test_large_planes(shape, rng):
    """Planes cut into several blocks of rows."""
    x = eighths(rng, shape, np.float32)
    for layout in (np.ascontiguousarray, channels_last, every_other):
        check_max_pool(x, (3, 2, 1), layout)
        check_avg_pool(x, (2, 2, 0), layout=layout)
        check_adaptive(x, 3, layout)


@pytest.mark.parametrize("size", [1, 7, 9, (40, 3), (3, 40), (2, 2500)])
def test_adaptive_sizes_from_global_to_larger_than_the_input(size, rng):
    check_adaptive(eighths(rng, (2, 5, 33, 37), np.float32), size)
    check_adaptive(eighths(rng, (2, 33, 9, 11), np.float64), size, channels_last)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_many_planes(layout, dtype):
    """Groups of planes with a tail, bands of rows, narrow and unequal windows; two images that are one run of planes or not."""
    rng = np.random.default_rng(7)
    for shape, size in [((2, 70, 13, 13), 6), ((3, 33, 60, 61), (7, 9)), ((2, 19, 5, 7, 6), (3, 2, 4)), ((1, 150, 90), 40)]:
        check_adaptive(eighths(rng, shape, dtype), size, layout)
        check_max_pool(eighths(rng, shape, dtype), (2, 2), layout)
        check_avg_pool(eighths(rng, shape, dtype), (3, 2, 1, True, False), layout=layout)
    check_adaptive(eighths(rng, (4, 40, 9, 14), dtype)[::2], (4, 5), layout)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [8, 9, 13, 15, 16, 17])
def test_narrow_planes(width, dtype):
    """Rows of a vector or two, of the input or of both; windows wider than a vector; gradients of up to 32 rows and of more."""
    rng = np.random.default_rng(width)
    x = eighths(rng, (2, 33, 7, width), dtype)
    for window in [(2, 2, 0), (3, 2, 1), (3, 1, 1), ((2, 9), (2, 1), (0, 4)), ((3, width), 1, 0)]:
        check_max_pool(x, window)
        check_avg_pool(x, (*window, True, False))
        check_avg_pool(x, (*window, False, False))
    for size in [1, 3, (6, 5), (7, width), (9, 16)]:
        check_adaptive(x, size)
    for shape, window in [((20, 64, width), (2, 2, 0)), ((20, 66, width), (3, 2, 1)), ((20, 14, width), (2, 3, 1)),
                          ((20, 5, 7, width), (3, 2, 1)), ((20, 14, width), (5, 2, 2))]:
        check_avg_pool(eighths(rng, (1, *shape), dtype), (*window, True, False))


@pytest.mark.parametrize("dtype", DTYPES)
def test_deep_windows(dtype, rng):
    """Planes that are reduced before their rows: bands of rows, padding on every side, rows narrower than a vector."""
    for shape in [(1, 3, 7, 9, 20), (2, 2, 5, 70, 33), (1, 2, 20, 3, 17), (1, 19, 4, 5, 6), (1, 2, 3, 200, 64)]:
        x = eighths(rng, shape, dtype)
        for window in [(2, 2, 0), (3, 2, 1), (3, 1, 1), ((3, 1, 2), (1, 2, 1), (1, 0, 1)), ((3, 2, 3), 1, 1)]:
            check_avg_pool(x, (*window, True, False))
            check_max_pool(x, (*window, 1, True))
        check_max_pool(x, ((2, 3, 2), 1, 1, (2, 1, 3)))
        x[..., ::3, 5] = np.nan
        check_max_pool(x, (3, 2, 1))
        np.testing.assert_array_equal(F.max_pool3d(x, 3, 2, 1), F.max_pool3d(x, 3, 2, 1, return_indices=True)[0])


def test_stride_beyond_the_input_and_gaps_between_windows(rng):
    x = eighths(rng, (2, 3, 50, 61), np.float32)
    for stride in (7, 30, (1, 61), (50, 1), 1000):
        check_max_pool(x, (2, stride))
        check_avg_pool(x, (2, stride, 1))


@pytest.mark.parametrize("width", [6, 8, 20, 64, 200])
def test_deep_windows_that_meet_few_columns(width, rng):
    """Planes that are reduced to one first, whole rows of them, of which a single window reads the first columns."""
    x = eighths(rng, (1, 64, 9, 11, width), np.float32)
    for window in [((9, 2, 5), (9, 9, width), (1, 0, 2)), ((3, 3, 2), (2, 4, width), (1, 1, 1)), ((2, 7, 3), (1, 1, width))]:
        check_max_pool(x, window)
        check_avg_pool(x, window)


# ---- NaN, infinities, ties ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [np.ascontiguousarray, channels_last])
def test_nan_at_every_place(layout, dtype, rng):
    """In each position of a window and of a vector, alone and before and behind another."""
    x = eighths(rng, (1, 16, 3, 37), dtype)
    for i in range(3 * 37):
        spoilt = x.copy()
        spoilt.reshape(16, -1)[:, i] = np.nan
        check_max_pool(spoilt, (3, 1, 1), layout)
        spoilt.reshape(16, -1)[:, (i * 7 + 3) % 111] = np.nan
        check_max_pool(spoilt, ((3, 2), (1, 2)), layout)
        check_adaptive(spoilt, (2, 5), layout)


@given(pool_cases(), layouts, st.sampled_from([1, 17]), st.sampled_from([0.1, 0.5, 0.95]), SEEDS)
def test_awkward_values(case, layout, channels, share, seed):
    """NaN, both infinities and both zeros among ties."""
    x = case._replace(input=(case.input[0], case.input[1] * channels, *case.input[2:])).array(seed=seed)
    rng = np.random.default_rng(seed)
    spots = rng.random(x.shape) < share
    x[spots] = rng.choice([np.nan, np.inf, -np.inf, -np.inf, 0.0, -0.0], spots.sum())
    check_max_pool(x, (case.kernel_size, case.stride, case.padding, case.dilation, case.ceil_mode), layout)
    check_adaptive(x, 2, layout)


@pytest.mark.parametrize("value", [0.0, -np.inf, np.inf, np.nan])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, channels_last, every_other])
def test_all_equal(value, layout):
    """The first tap inside the input wins, the last where all are NaN; also where nothing beats the padding."""
    for dtype in DTYPES:
        for shape in ((1, 16, 9, 40), (1, 16, 4, 5)):
            x = np.full(shape, value, dtype)
            check_max_pool(x, (3, 2, 1), layout)
            check_max_pool(x, (2, 1, 1, 2, True), layout)
            check_adaptive(x, (2, 3), layout)


@pytest.mark.parametrize("first", [0.0, -0.0])
def test_sign_of_zero_is_the_first_zeros(first):
    x = np.array([[[first, -first] * 40]])
    for y in (F.max_pool1d(x, 2), F.max_pool1d(x, 80), F.adaptive_max_pool1d(x, 3, True)[0][..., :1]):
        np.testing.assert_array_equal(np.signbit(y), np.signbit(first))


def test_nan_spreads_in_averages_only_where_windows_see_it():
    x = np.ones((1, 1, 5, 40), np.float32)
    x[0, 0, 2, 20] = np.nan
    np.testing.assert_array_equal(F.avg_pool2d(x, 3, 1, 1), tF.avg_pool2d(torch.from_numpy(x), 3, 1, 1))


def test_window_of_padding_alone():
    """Only a dilation beyond the input makes one: its maximum is -infinity, and its index still lies inside."""
    x = np.arange(6.0).reshape(1, 2, 3)
    y, indices = F.max_pool1d(x, 2, 1, 1, 4, return_indices=True)
    np.testing.assert_array_equal(y, np.full((1, 2, 1), -np.inf))
    assert ((indices >= 0) & (indices < 3)).all()
    y, indices = F.max_pool1d(channels_last(np.tile(x, (1, 16, 1))), 2, 1, 1, 4, return_indices=True)
    np.testing.assert_array_equal(y, np.full((1, 32, 1), -np.inf))
    assert ((indices >= 0) & (indices < 3)).all()


# ---- sizes and divisors ------------------------------------------------------------------------


def test_ceil_mode_and_padding_by_hand():
    """The overhang of ceil_mode is never counted, padding only where it is asked for; PyTorch's documented rule."""
    x = np.arange(1.0, 7).reshape(1, 1, 6)
    np.testing.assert_allclose(F.avg_pool1d(x, 3, 2, 1, True), [[[1, 3, 5, 3]]])
    np.testing.assert_allclose(F.avg_pool1d(x, 3, 2, 1, True, False), [[[1.5, 3, 5, 6]]])
    # A window that would begin in the padding behind the input is dropped.
    assert F.max_pool1d(np.zeros((1, 1, 4)), 2, 4, 1, 1, True).shape == (1, 1, 2)
    assert F.max_pool1d(np.zeros((1, 1, 3)), 2, 4, 1, 1, True).shape == (1, 1, 1)


@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 9), st.integers(0, 4), st.integers(1, 3), st.booleans())
def test_output_size_is_pytorchs(size, kernel, stride, padding, dilation, ceil_mode):
    padding = min(padding, kernel // 2)
    x = np.zeros((1, 1, 1, size), np.float32)
    options = (1, kernel), (1, stride), (0, padding), (1, dilation), ceil_mode
    try:
        expected = tF.max_pool2d(torch.from_numpy(x), *options).shape
    except RuntimeError:
        with pytest.raises(ValueError, match="kernel_size"):
            F.max_pool2d(x, *options)
    else:
        assert F.max_pool2d(x, *options).shape == tuple(expected)


def test_mean_of_many_stays_precise(rng):
    """Long float32 sums, far from zero, against float64: within 1e-6 where a running sum would lose 1e-4."""
    x = (1000 + rng.standard_normal((1, 16, 300, 400))).astype(np.float32)
    expected = x.astype(np.float64).mean(axis=(2, 3), keepdims=True)
    for layout in (np.ascontiguousarray, channels_last, every_other):
        np.testing.assert_allclose(F.adaptive_avg_pool2d(layout(x), 1), expected, rtol=1e-6)
        np.testing.assert_allclose(F.avg_pool2d(layout(x), (300, 400)), expected, rtol=1e-6)
    windows = np.lib.stride_tricks.sliding_window_view(x[0, 0, :80, :90].astype(np.float64), (61, 61)).mean(axis=(-2, -1))
    np.testing.assert_allclose(F.avg_pool2d(x[:, :1, :80, :90], 61, 1)[0, 0], windows, rtol=1e-6)


def test_mean_of_a_constant_is_the_constant():
    """Exactly: the sum is divided, not multiplied by a rounded reciprocal."""
    for eighths_of_one in range(1, 30):
        x = np.full((1, 1, 30, 30), eighths_of_one / 8, np.float32)
        for kernel in (3, 5, 7):
            y = F.avg_pool2d(x, kernel, 1, kernel // 2, count_include_pad=False)
            np.testing.assert_array_equal(y, x)


# ---- batches, threads --------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_unbatched(axes, rng):
    x = normal(rng, (3, *(9, 8, 7)[:axes]), np.float64)
    y, indices = ours("max_pool", axes)(x, 2, return_indices=True)

    def everything(x, y, indices):
        return (
            *ours("max_pool", axes)(x, 2, return_indices=True),
            *ours("adaptive_max_pool", axes)(x, 4, return_indices=True),
            ours("avg_pool", axes)(x, 2),
            ours("adaptive_avg_pool", axes)(x, 4),
            ours("max_pool", axes, "_backward")(y, indices, x.shape),
            ours("avg_pool", axes, "_backward")(y, x.shape, 2),
            ours("adaptive_avg_pool", axes, "_backward")(y, x.shape),
            ours("max_unpool", axes)(y, indices, 2, output_size=x.shape),
        )

    for alone, batch in zip(everything(x, y, indices), everything(x[None], y[None], indices[None]), strict=True):
        assert alone.ndim == axes + 1
        np.testing.assert_array_equal(alone[None], batch)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8), (0, 8, 8)])
def test_no_images_or_channels(shape):
    x = np.zeros(shape, np.float32)
    y, indices = F.max_pool2d(x, 2, return_indices=True)
    assert y.shape == indices.shape == (*shape[:-2], 4, 4)
    assert F.avg_pool2d(x, 3, 1, 1).shape == shape
    assert F.adaptive_avg_pool2d(x, 3).shape == F.adaptive_max_pool2d(x, 3).shape == (*shape[:-2], 3, 3)
    assert F.max_pool2d_backward(y, indices, shape).shape == F.avg_pool2d_backward(y, shape, 2).shape == shape
    assert F.max_unpool2d(y, indices, 2).shape == shape


def test_empty_output_of_adaptive_pooling(rng):
    x = normal(rng, (2, 3, 5, 6), np.float32)
    y, indices = F.adaptive_max_pool2d(x, (0, 2), return_indices=True)
    assert y.shape == indices.shape == F.adaptive_avg_pool2d(x, (0, 2)).shape == (2, 3, 0, 2)
    np.testing.assert_array_equal(F.adaptive_max_pool2d_backward(y, indices, x.shape), np.zeros_like(x))
    np.testing.assert_array_equal(F.adaptive_avg_pool2d_backward(y, x.shape), np.zeros_like(x))


@pytest.mark.usefixtures("restore_configuration")
@pytest.mark.parametrize("shape", [(4, 33, 61, 70), (1, 1, 900, 800), (2, 3, 9, 70, 80)])
def test_threads_change_no_bit(shape, rng):
    """Every driver and every gradient, on work enough for several threads."""
    x = normal(rng, shape, np.float32)
    axes = x.ndim - 2

    def everything(image):
        y, indices = ours("max_pool", axes)(image, 3, 2, 1, return_indices=True)
        mean, grid = ours("avg_pool", axes)(image, 3, 1, 1), ours("adaptive_avg_pool", axes)(image, 7)
        return (
            *(y, indices, mean, grid),
            *ours("adaptive_max_pool", axes)(image, 5, return_indices=True),
            ours("max_pool", axes, "_backward")(y, indices, x.shape),
            ours("avg_pool", axes, "_backward")(mean, x.shape, 3, 1, 1),
            ours("adaptive_avg_pool", axes, "_backward")(grid, x.shape),
            ours("max_unpool", axes)(y, indices, 3, 2, 1, x.shape),
        )

    results = []
    for threads in (1, 2, 5):
        fastconv.set_num_threads(threads)
        results.append(everything(x) + everything(channels_last(x)))
    for other in results[1:]:
        for one, many in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, many)


# ---- gradients and unpooling -------------------------------------------------------------------


def test_overlapping_windows_add_their_gradients():
    x = np.array([[[0.0, 9, 0, 0]]])
    y, indices = F.max_pool1d(x, 2, 1, return_indices=True)
    grad_x = F.max_pool1d_backward(np.array([[[1.0, 10, 100]]]), indices, x.shape)
    np.testing.assert_array_equal(grad_x, [[[0, 11, 100, 0]]])


def test_gradients_carry_nan_and_infinity_where_they_belong():
    grad, indices = np.array([[[np.nan, np.inf, 1]]]), np.array([[[0, 2, 4]]])
    np.testing.assert_array_equal(F.max_pool1d_backward(grad, indices, (1, 1, 5)), [[[np.nan, 0, np.inf, 0, 1]]])
    np.testing.assert_array_equal(F.avg_pool1d_backward(grad, (1, 1, 6), 2), [[[np.nan, np.nan, np.inf, np.inf, 0.5, 0.5]]])


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_unpool(axes, layout, dtype, rng):
    x = rng.permutation(2 * 17 * 7**axes).reshape(2, 17, *[7] * axes).astype(dtype)
    y, indices = ours("max_pool", axes)(x, 3, 2, 1, return_indices=True)
    for size in (None, (7,) * axes, (8,) * axes, x.shape):
        expected = torchs("max_unpool", axes)(torch.from_numpy(y), torch.from_numpy(indices), 3, 2, 1, output_size=size)
        np.testing.assert_array_equal(ours("max_unpool", axes)(layout(y), layout(indices), 3, 2, 1, size), expected)


def test_unpool_keeps_the_last_of_equal_indices():
    x, indices = np.array([[[1.0, 2, 3]]]), np.array([[[4, 4, 1]]])
    np.testing.assert_array_equal(F.max_unpool1d(x, indices, 2), reference.max_unpool(x, indices, (6,)))


def test_unpool_keeps_the_sign_of_zero():
    assert np.signbit(F.max_unpool1d(np.array([[[-0.0]]]), np.array([[[1]]]), 2)).tolist() == [[[False, True]]]


@pytest.mark.parametrize("size", [(32,), (67,), (2, 40), (3, 40), (4, 38), (5, 65), (4, 6, 34), (3, 4, 34), (4, 3, 34), (3, 5, 33),
                                  (6, 1, 36), (150, 130)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_windows_side_by_side(size, dtype, rng):
    """Rows of windows two wide, of at least a vector, also where an index belongs to no such window, or to no position at all."""
    x = rng.permutation(3 * 4 * int(np.prod(size))).reshape(3, 4, *size).astype(dtype)
    window = tuple(min(2, n) for n in size)
    y, indices = ours("max_pool", len(size))(x, window, return_indices=True)
    grad = np.where(rng.random(y.shape) < 0.1, -0.0, rng.standard_normal(y.shape)).astype(dtype)
    flat = indices.reshape(12, -1)
    for plane, place, other in ((0, 0, None), (7, flat.shape[1] - 1, 1), (0, 5, 0), (11, 2, size[-1] - 1)):
        flat[plane, place] = flat[plane, place] if other is None else other
        put, added = np.zeros((2, *x.shape), dtype).reshape(2, 12, -1)
        for i in range(12):
            for at, value in zip(flat[i], grad.reshape(12, -1)[i], strict=True):
                put[i, at] = value
                added[i, at] += value
        for expected, result in ((added, ours("max_pool", len(size), "_backward")(grad, indices, x.shape)),
                                 (put, ours("max_unpool", len(size))(grad, indices, window, output_size=x.shape))):
            np.testing.assert_array_equal(result.reshape(12, -1), expected)
            np.testing.assert_array_equal(np.signbit(result).reshape(12, -1), np.signbit(expected))
    flat[9, 3] += 2**32
    with pytest.raises(ValueError, match="indices: expected flat positions"):
        ours("max_pool", len(size), "_backward")(grad, indices, x.shape)


@pytest.mark.parametrize("wrong", [-1, 16, 2**40, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("place", [0, 5, 11])
def test_index_outside_the_plane(wrong, place):
    """Found wherever it stands, in unpooling and in the gradient, and nothing is written there."""
    x, indices = np.ones((1, 3, 2, 2), np.float32), np.arange(12).reshape(1, 3, 2, 2)
    indices.ravel()[place] = wrong
    for values, where in ((x, indices), (channels_last(x), channels_last(indices)), (x[:, :, ::-1], indices[:, :, ::-1])):
        with pytest.raises(ValueError, match=f"indices: .*16 elements, got {wrong}"):
            F.max_pool2d_backward(values, where, (1, 3, 4, 4))
        with pytest.raises(ValueError, match=f"indices: .*16 elements, got {wrong}"):
            F.max_unpool2d(values, where, 2)


# ---- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["ceil_mode", "return_indices"])
@pytest.mark.parametrize("value", [1, None, "yes", 0.0])
def test_flags_are_bools(option, value):
    with pytest.raises(TypeError, match=f"{option}: expected a bool"):
        F.max_pool2d(np.zeros((1, 4, 4)), 2, **{option: value})


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_count_include_pad_is_a_bool(value):
    with pytest.raises(TypeError, match="count_include_pad: expected a bool"):
        F.avg_pool2d(np.zeros((1, 4, 4)), 2, count_include_pad=value)


@pytest.mark.parametrize("value", [0, 2**64, 2.5, True, "2"])
def test_divisor_override(value):
    error = ValueError if type(value) is int else TypeError
    with pytest.raises(error, match="divisor_override"):
        F.avg_pool2d(np.zeros((1, 4, 4)), 2, divisor_override=value)


def test_numpy_integers_and_bools_are_welcome(rng):
    x = normal(rng, (2, 3, 8, 8), np.float32)
    expected = F.max_pool2d(x, 3, 2, 1, 1, True)
    three, two, one = np.int32(3), np.uint8(2), np.int64(1)
    np.testing.assert_array_equal(F.max_pool2d(x, three, [two, 2], np.array([1, 1]), (one,), np.True_), expected)


def test_size_of_an_empty_plane():
    x = np.zeros((2, 3, 0, 5), np.float32)
    for call in (lambda: F.max_pool2d(x, 1), lambda: F.avg_pool2d(x, 1)):
        with pytest.raises(ValueError, match="size 0"):
            call()
    for call in (lambda: F.adaptive_max_pool2d(x, 1), lambda: F.adaptive_avg_pool2d(x, 1)):
        with pytest.raises(ValueError, match="input: .*size 0"):
            call()
    with pytest.raises(ValueError, match="input_size: .*at least one element"):
        F.adaptive_avg_pool2d_backward(np.zeros((2, 3, 1, 1), np.float32), x.shape)
