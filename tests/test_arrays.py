"""The same values in any memory: strides of every kind in and out, and inputs that stay as they were."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import assert_close
from shapes import CONV_CASES, SEEDS, conv_cases, eighths, normal

import fastconv
from fastconv import functional as F


def fortran(a):
    return np.asfortranarray(a)


def channels_last(a):
    """For two axes or fewer, as of a bias, the array itself."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) if a.ndim > 2 else a.copy()


def sliced(a):
    """Every other element of every axis of a larger array full of NaN, which nothing may read."""
    larger = np.full([2 * n + 1 for n in a.shape], np.nan, a.dtype)
    view = larger[tuple(slice(1, 2 * n + 1, 2) for n in a.shape)]
    view[...] = a
    return view


def reversed_axes(a):
    backwards = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[backwards])[backwards]


def last_axes_swapped(a):
    return np.ascontiguousarray(np.swapaxes(a, -1, -2)).swapaxes(-1, -2) if a.ndim > 1 else a.copy()


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def misaligned(a):
    """One byte off its natural alignment."""
    a = np.ascontiguousarray(a)
    moved = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    moved[...] = a
    assert not moved.flags.aligned
    return moved


def odd_byte_strides(a):
    """A field of a packed record: strides that are no multiple of the element's size."""
    records = np.zeros(a.shape, np.dtype([("flag", np.uint8), ("value", a.dtype)]))
    records["value"] = a
    return records["value"]


def foreign_subclass(a):
    return a.view(np.recarray)


LAYOUTS = [
    fortran,
    channels_last,
    sliced,
    reversed_axes,
    last_axes_swapped,
    read_only,
    misaligned,
    odd_byte_strides,
    foreign_subclass,
]
OUT_LAYOUTS = [fortran, channels_last, sliced, reversed_axes, last_axes_swapped, misaligned, odd_byte_strides]


def shared_problem(dtype=np.float64):
    rng = np.random.default_rng(3)
    return {name: eighths(rng, shape, dtype) for name, shape in SHAPES.items()}


SHAPES = {
    "x": (2, 6, 9, 11),
    "w": (8, 3, 3, 3),
    "b": (8,),
    "wt": (6, 4, 3, 3),
    "g": (2, 8, 9, 11),
    "gt": (2, 8, 9, 11),
    "depthwise": (12, 1, 3, 3),
    "pointwise": (5, 12, 1, 1),
    "gs": (2, 5, 9, 11),
    "fa": (5, 2),
    "fb": (6, 2),
    "fc": (3, 2),
    "fd": (3, 2),
    "gp": (2, 6, 4, 5),
    "columns": (2, 54, 99),
}


def flat(result):
    """Every array in a result that may be an array or nested tuples of arrays."""
    return [result] if isinstance(result, np.ndarray) else [a for part in result for a in flat(part)]


# Every function, as a function of named arrays of `SHAPES`.
CALLS = {
    "conv2d": lambda x, w, b: F.conv2d(x, w, b, padding=1, groups=2),
    "conv2d_backward": lambda g, x, w: F.conv2d_backward(g, x, w, padding=1, groups=2),
    "conv2d_input": lambda w, g: F.conv2d_input(SHAPES["x"], w, g, padding=1, groups=2),
    "conv2d_weight": lambda x, g: F.conv2d_weight(x, SHAPES["w"], g, padding=1, groups=2),
    "conv_transpose2d": lambda x, wt, b: F.conv_transpose2d(x, wt, b, padding=1, groups=2),
    "conv_transpose2d_backward": lambda gt, x, wt: F.conv_transpose2d_backward(gt, x, wt, padding=1, groups=2),
    "separable_conv2d": lambda x, depthwise, pointwise: F.separable_conv2d(x, depthwise, pointwise, padding=1),
    "separable_conv2d_backward": lambda gs, x, depthwise, pointwise: F.separable_conv2d_backward(
        gs, x, depthwise, pointwise, padding=1
    ),
    "cp_conv2d": lambda x, fa, fb, fc, fd: F.cp_conv2d(x, (fa, fb, fc, fd), padding=1),
    "cp_conv2d_backward": lambda gs, x, fa, fb, fc, fd: F.cp_conv2d_backward(gs, x, (fa, fb, fc, fd), padding=1),
    "cp_weight": lambda fa, fb, fc, fd: F.cp_weight((fa, fb, fc, fd)),
    "max_pool2d": lambda x: F.max_pool2d(x, 2, return_indices=True),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, padding=1),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, (4, 5), return_indices=True),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (4, 5)),
    "max_pool2d_backward": lambda gp, x: F.max_pool2d_backward(
        gp, F.max_pool2d(x, 2, return_indices=True)[1], SHAPES["x"]
    ),
    "avg_pool2d_backward": lambda gp: F.avg_pool2d_backward(gp, SHAPES["x"], 2),
    "adaptive_avg_pool2d_backward": lambda gp: F.adaptive_avg_pool2d_backward(gp, SHAPES["x"]),
    "max_unpool2d": lambda gp, x: F.max_unpool2d(
        gp, F.max_pool2d(x, 2, return_indices=True)[1], 2, output_size=SHAPES["x"][2:]
    ),
    "unfold": lambda x: F.unfold(x, 3, padding=1),
    "fold": lambda columns: F.fold(columns, (9, 11), 3, padding=1),
}


# Windows of unequal sizes: the drivers of planes and of channels last add what overlaps in different orders.
SUMMED_IN_LAYOUTS_ORDER = {"adaptive_avg_pool2d_backward"}


def arguments(name, arrays):
    code = CALLS[name].__code__
    return {key: arrays[key] for key in code.co_varnames[: code.co_argcount]}


@pytest.mark.usefixtures("restore_configuration")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CALLS)
def test_layout_of_each_input_changes_nothing(name, layout, dtype):
    """Without Winograd, for which the layout may decide and whose points round."""
    fastconv.set_float32_precision("highest")
    plain = arguments(name, shared_problem(dtype))
    expected = flat(CALLS[name](**plain))
    odd = {key: layout(a) for key, a in plain.items()}
    assert_same = assert_close if name in SUMMED_IN_LAYOUTS_ORDER else np.testing.assert_array_equal
    for key in plain:
        for actual, right in zip(flat(CALLS[name](**{**plain, key: odd[key]})), expected, strict=True):
            assert_same(actual, right)
            assert actual.dtype == right.dtype
    for actual, right in zip(flat(CALLS[name](**odd)), expected, strict=True):
        assert_same(actual, right)
        assert type(actual) is np.ndarray
    for key in plain:
        np.testing.assert_array_equal(odd[key], plain[key])


@pytest.mark.parametrize("name", CALLS)
def test_broadcast_inputs(name):
    """Stride 0 on every axis: one number in memory stands for a whole array."""
    ones = {key: np.broadcast_to(np.float64(0.5), a.shape) for key, a in arguments(name, shared_problem()).items()}
    whole = {key: a.copy() for key, a in ones.items()}
    for actual, expected in zip(flat(CALLS[name](**ones)), flat(CALLS[name](**whole)), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", CALLS)
def test_torch_tensors_as_input(name):
    arrays = arguments(name, shared_problem(np.float32))
    tensors = {key: torch.tensor(np.flip(a).copy()).flip(tuple(range(a.ndim))) for key, a in arrays.items()}
    for actual, expected in zip(flat(CALLS[name](**tensors)), flat(CALLS[name](**arrays)), strict=True):
        assert type(actual) is np.ndarray
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", CALLS)
def test_nested_lists_of_floats_as_input(name):
    arrays = arguments(name, shared_problem())
    lists = {key: a.tolist() for key, a in arrays.items()}
    for actual, expected in zip(flat(CALLS[name](**lists)), flat(CALLS[name](**arrays)), strict=True):
        np.testing.assert_array_equal(actual, expected)


def in_every_way(case, x, w, grad):
    """y and the three gradients of one convolution."""
    conv, backward = getattr(F, f"conv{case.axes}d"), getattr(F, f"conv{case.axes}d_backward")
    return [conv(x, w, **case.options), *backward(grad, x, w, **case.options)]


@pytest.mark.usefixtures("restore_configuration")
@given(conv_cases(), st.data(), SEEDS)
def test_any_layout_with_any_convolution(case, data, seed):
    """Exact sums are equal to the bit; by default the layout may decide for Winograd, whose points round."""
    x, w, _ = case.arrays(seed=seed)
    y_shape = getattr(F, f"conv{case.axes}d")(x, w, **case.options).shape
    arrays = (x, w, eighths(np.random.default_rng(seed), y_shape, case.dtype))
    odd = [data.draw(st.sampled_from(LAYOUTS))(a) for a in arrays]
    fastconv.set_float32_precision("high")
    by_default = in_every_way(case, *odd)
    fastconv.set_float32_precision("highest")
    expected = in_every_way(case, *arrays)
    for actual, close, value in zip(in_every_way(case, *odd), by_default, expected, strict=True):
        np.testing.assert_array_equal(actual, value)
        assert_close(close, value)


# ---- layout of the result ----------------------------------------------------------------------


def is_channels_last(a, batched=True):
    return np.moveaxis(a, 1 if batched else 0, -1).flags.c_contiguous and not a.flags.c_contiguous


IMAGE_TO_IMAGE = {
    "conv1d": ((2, 6, 20), lambda x: F.conv1d(x, np.ones((4, 6, 3), x.dtype))),
    "conv2d": ((2, 6, 9, 11), lambda x: F.conv2d(x, np.ones((4, 6, 3, 3), x.dtype), padding=1)),
    "depthwise": ((2, 6, 9, 11), lambda x: F.conv2d(x, np.ones((6, 1, 3, 3), x.dtype), padding=1, groups=6)),
    "conv3d": ((2, 3, 4, 5, 6), lambda x: F.conv3d(x, np.ones((4, 3, 2, 2, 2), x.dtype))),
    "conv_transpose2d": ((2, 6, 9, 11), lambda x: F.conv_transpose2d(x, np.ones((6, 4, 3, 3), x.dtype), stride=2)),
    "max_pool2d": ((2, 6, 9, 11), lambda x: F.max_pool2d(x, 2)),
    "avg_pool2d": ((2, 6, 9, 11), lambda x: F.avg_pool2d(x, 2)),
    "adaptive_avg_pool2d": ((2, 6, 9, 11), lambda x: F.adaptive_avg_pool2d(x, 3)),
    "adaptive_max_pool2d": ((2, 6, 9, 11), lambda x: F.adaptive_max_pool2d(x, 3)),
}


@pytest.mark.parametrize("name", IMAGE_TO_IMAGE)
def test_channels_last_gives_channels_last(name):
    shape, function = IMAGE_TO_IMAGE[name]
    x = eighths(np.random.default_rng(0), shape, np.float32)
    expected = function(x)
    assert expected.flags.c_contiguous
    y = function(channels_last(x))
    assert is_channels_last(y)
    np.testing.assert_array_equal(y, expected)
    alone = np.moveaxis(np.ascontiguousarray(np.moveaxis(x[0], 0, -1)), -1, 0)
    y = function(alone)
    assert is_channels_last(y, batched=False)
    np.testing.assert_array_equal(y, expected[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("outputs", [8, 16, 18, 24, 30, 32, 36, 48, 64, 72, 80, 120, 128])
def test_few_channels_to_pixels_that_are_written_whole(outputs, dtype):
    rng = np.random.default_rng(outputs)
    x, w, b = (eighths(rng, shape, dtype) for shape in ((8, 3, 17, 19), (outputs, 3, 3, 3), (outputs,)))
    for bias in None, b:    # of strips that are equally wide and of others
        y = F.conv2d(channels_last(x), w, bias, padding=1, algorithm="channels")
        assert is_channels_last(y)
        np.testing.assert_array_equal(y, F.conv2d(x, w, bias, padding=1, algorithm="reference"))


@pytest.mark.parametrize("name", IMAGE_TO_IMAGE)
@pytest.mark.parametrize("layout", [fortran, sliced, reversed_axes, last_axes_swapped])
def test_other_layouts_give_c_order(name, layout):
    if name == "conv1d" and layout is last_axes_swapped:
        pytest.skip("(N, C, L) with its last axes swapped is channels-last")
    shape, function = IMAGE_TO_IMAGE[name]
    assert function(layout(np.ones(shape, np.float32))).flags.c_contiguous


def test_photograph_as_it_comes():
    """(H, W, 3) seen as (3, H, W): the result can be handed back as a picture without a copy."""
    photograph = np.random.default_rng(0).random((20, 30, 3), np.float32)
    blur = np.full((3, 1, 3, 3), np.float32(1 / 9))
    y = F.conv2d(photograph.transpose(2, 0, 1), blur, padding="same", groups=3)
    picture = y.transpose(1, 2, 0)
    assert picture.shape == photograph.shape and picture.flags.c_contiguous
    assert picture[5, 7, 1] == pytest.approx(photograph[4:7, 6:9, 1].mean(), rel=1e-6)


# ---- out= --------------------------------------------------------------------------------------

WRITERS = {
    "conv1d": ((2, 6, 20), lambda x, **o: F.conv1d(x, np.ones((4, 6, 3), x.dtype), padding=1, **o)),
    "conv2d": IMAGE_TO_IMAGE["conv2d"][:1] + (lambda x, **o: F.conv2d(x, np.ones((6, 6, 3, 3), x.dtype), padding=1, **o),),
    "depthwise": ((2, 6, 9, 11), lambda x, **o: F.conv2d(x, np.ones((6, 1, 3, 3), x.dtype), padding=1, groups=6, **o)),
    "pointwise": ((2, 6, 9, 11), lambda x, **o: F.conv2d(x, np.ones((6, 6, 1, 1), x.dtype), **o)),
    "conv3d": ((2, 3, 4, 5, 6), lambda x, **o: F.conv3d(x, np.ones((3, 3, 3, 3, 3), x.dtype), padding=1, **o)),
    "conv_transpose2d": (
        (2, 6, 9, 11),
        lambda x, **o: F.conv_transpose2d(x, np.ones((6, 6, 3, 3), x.dtype), padding=1, **o),
    ),
    "conv_transpose2d stride 2": (
        (2, 6, 9, 11),
        lambda x, **o: F.conv_transpose2d(x, np.ones((6, 6, 2, 2), x.dtype), stride=2, **o),
    ),
}


@pytest.mark.parametrize("layout", OUT_LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", WRITERS)
def test_out_of_any_strides(name, layout, dtype):
    shape, function = WRITERS[name]
    x = eighths(np.random.default_rng(0), shape, dtype)
    expected = function(x)
    out = layout(np.full_like(expected, np.nan))
    assert function(x, out=out) is out
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", WRITERS)
def test_out_leaves_its_surroundings_alone(name):
    shape, function = WRITERS[name]
    x = eighths(np.random.default_rng(0), shape, np.float32)
    expected = function(x)
    room = np.full([2 * n + 3 for n in expected.shape], np.nan, np.float32)
    inner = tuple(slice(2, 2 + 2 * n, 2) for n in expected.shape)
    function(x, out=room[inner])
    np.testing.assert_array_equal(room[inner], expected)
    room[inner] = np.nan
    assert np.isnan(room).all()


def overlaps(x):
    """Arrays of x's shape that share memory with it."""
    base = np.zeros((x.shape[0] + 1, *x.shape[1:]), x.dtype)
    moved_x, moved_out = base[:-1], base[1:]
    return {
        "itself": (x, x),
        "backwards": (x, x[..., ::-1]),
        "one image on": (moved_x, moved_out),
        "one image back": (moved_out, moved_x),
    }


@pytest.mark.parametrize("way", ["itself", "backwards", "one image on", "one image back"])
@pytest.mark.parametrize("name", sorted(WRITERS.keys() - {"conv_transpose2d stride 2", "conv1d"}))
def test_out_that_overlaps_the_input(name, way):
    """As NumPy's functions do it: the result is what it would be without overlap."""
    shape, function = WRITERS[name]
    values = eighths(np.random.default_rng(0), shape, np.float64)
    x, out = overlaps(values.copy())[way]
    x[...] = values
    assert function(x, out=out) is out
    np.testing.assert_array_equal(out, function(values))


def test_out_that_overlaps_weight_or_bias():
    rng = np.random.default_rng(0)
    x, w, b = eighths(rng, (3, 3, 5, 5), np.float64), eighths(rng, (3, 3, 3, 3), np.float64), eighths(rng, (3,), np.float64)
    expected = F.conv2d(x, w, b)
    out = w.copy()
    np.testing.assert_array_equal(F.conv2d(x, out, b, out=out), expected)
    out = np.zeros((3, 3, 3, 3))
    out[0, 0, 0] = b
    np.testing.assert_array_equal(F.conv2d(x, w, out[0, 0, 0], out=out), expected)


def test_result_shares_no_memory_with_arguments():
    """Not even where a 1x1 convolution or a 1x1 window could hand the input through."""
    x, one = np.ones((1, 1, 4, 4)), np.ones((1, 1, 1, 1))
    for y in (F.conv2d(x, one), F.max_pool2d(x, 1), F.avg_pool2d(x, 1), F.unfold(x, 1), F.adaptive_avg_pool2d(x, 4)):
        assert not np.shares_memory(y, x) and y.flags.writeable


@pytest.mark.parametrize("name", ["dense 3x3", "depthwise", "pointwise", "7x7 stride 2", "1d dense", "3d dense"])
def test_nothing_around_the_input_is_read(name):
    """Inputs cut out of arrays full of NaN give finite results, forward and backward."""
    case = CONV_CASES[name]
    x, w, b = (sliced(a) for a in case.arrays(normal))
    y = getattr(F, f"conv{case.axes}d")(x, w, b, **case.options)
    assert np.isfinite(y).all()
    for gradient in getattr(F, f"conv{case.axes}d_backward")(sliced(y), x, w, **case.options):
        assert np.isfinite(gradient).all()
