"""One input channel a group: every width, stride and kernel, forward and both gradients, against PyTorch in float64."""

import ctypes
import mmap
import sys

import numpy as np
import pytest
import torch_judge
from reference import assert_close

from fastconv import explain
from fastconv import functional as F

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
BACKWARD = {1: F.conv1d_backward, 2: F.conv2d_backward, 3: F.conv3d_backward}
DTYPES = [np.float32, np.float64]


def arrays(shape, kernel, multiplier=1, dtype=np.float32):
    """x, w, b of a layer whose groups are the channels of x."""
    rng = np.random.default_rng([*shape, *kernel])
    outputs = shape[1] * multiplier
    return [rng.standard_normal(s).astype(dtype) for s in (shape, (outputs, 1, *kernel), (outputs,))]


def doubles(*values):
    return [a.astype(np.float64) for a in values]


def check(x, w, b, algorithm=None, **options):
    """Forward and gradients of x and w as they lie in memory."""
    axes, options = x.ndim - 2, {"groups": x.shape[1], **options}
    expected = torch_judge.conv(*doubles(x, w, b), **options)
    assert_close(CONV[axes](x, w, b, **options, algorithm=algorithm), expected)
    grad = np.random.default_rng(1).standard_normal(expected.shape).astype(x.dtype)
    gradients = BACKWARD[axes](grad, x, w, **options)
    for actual, judged in zip(gradients, torch_judge.conv_backward(*doubles(grad, x, w), **options), strict=True):
        assert_close(actual, judged)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", range(1, 11))
def test_every_width(kernel, stride):
    for width in range(1, 41):
        if width + 2 * (kernel // 2) < kernel:
            continue
        known = kernel <= 9 and stride <= 2
        x, w, b = arrays((1, 3, 11, width), (kernel, kernel), dtype=DTYPES[width % 2])
        check(x, w, b, "depthwise" if known else None, stride=stride, padding=kernel // 2)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("height", range(1, 18))
def test_every_height(height, stride):
    x, w, b = arrays((2, 2, height, 21), (3, 3))
    check(x, w, b, "depthwise", stride=stride, padding=1)
    x, w, b = arrays((2, 2, height, 21), (5, 3))
    check(x, w, b, "depthwise", stride=stride, padding=(2, 1))


@pytest.mark.parametrize("padding", range(6))
@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_input_gradient_of_stride_2(kernel, padding):
    for size in [*range(1, 20), 31, 32, 33, 40, 63, 70]:
        if size + 2 * padding < kernel:
            continue
        x, w, b = arrays((2, 3, size % 13 + kernel, size), (kernel, kernel), dtype=DTYPES[size % 2])
        check(x, w, b, stride=2, padding=padding)
        problem = {"direction": "input", "groups": 3, "stride": 2, "padding": padding}
        chosen = explain(F.conv2d, x.shape, w.shape, **problem).algorithm
        assert size < 40 or chosen in {"depthwise", "planes"}  # the latter where vectors are of four


@pytest.mark.parametrize("shape", [(1, 2, 75, 30), (2, 3, 31, 70), (1, 1, 9, 512), (1, 1, 5, 513)])
def test_planes_too_large_for_one_copy(shape):
    check(*arrays(shape, (3, 3), 2), "depthwise", padding=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("multiplier", [2, 3, 16])
def test_channel_multiplier(multiplier, dtype):
    for options in ({"padding": 1}, {"padding": 1, "stride": 2}, {"padding": 3, "dilation": 3}):
        check(*arrays((2, 4, 13, 19), (3, 3), multiplier, dtype), "depthwise", **options)


@pytest.mark.parametrize("shape, kernel, options", [
    ((2, 5, 70), (3,), {"padding": 1}),
    ((2, 5, 71), (5,), {"padding": 2, "stride": 2}),
    ((2, 5, 71), (31,), {"padding": 15}),
    ((2, 5, 71), (4,), {"padding": 6, "dilation": 2}),
    ((2, 3, 5, 9, 18), (3, 3, 3), {"padding": 1}),
    ((2, 3, 5, 9, 18), (3, 3, 3), {"padding": 1, "stride": 2}),
    ((1, 3, 6, 9, 7), (2, 5, 3), {"padding": (1, 4, 2), "dilation": (2, 2, 1), "stride": (3, 1, 1)}),
], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_and_three_axes(shape, kernel, options, dtype):
    check(*arrays(shape, kernel, 1, dtype), **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [2, 3, 4, 8])
def test_groups_of_a_few_channels(channels, dtype):
    rng = np.random.default_rng(channels)
    for groups, size, kernel, options in [
        (5, (13, 19), (3, 3), {"padding": 1}),
        (2, (56, 56), (3, 3), {"padding": 1}),
        (1, (17, 40), (4, 5), {"padding": 2, "dilation": 2}),
        (3, (33, 37), (5, 3), {"padding": (2, 1), "stride": 2}),
        (2, (15, 21), (3, 3), {"padding": 1, "stride": 2}),
        (2, (3, 9, 18), (2, 3, 3), {"padding": 1}),
    ]:
        x = rng.standard_normal((2, groups * channels, *size)).astype(dtype)
        w = rng.standard_normal((groups * 3, channels, *kernel)).astype(dtype)
        b = rng.standard_normal(groups * 3).astype(dtype)
        expected = torch_judge.conv(*doubles(x, w, b), groups=groups, **options)
        assert_close(CONV[len(size)](x, w, b, groups=groups, **options, algorithm="depthwise"), expected)


@pytest.mark.parametrize("shape, weight, groups", [((1, 18, 9, 9), (4, 9, 3, 3), 2), ((1, 4, 9, 9), (4, 2, 2, 3), 2)])
def test_groups_of_more(shape, weight, groups):
    x, w = np.ones(shape, np.float32), np.ones(weight, np.float32)
    with pytest.raises(ValueError, match="many input channels"):
        F.conv2d(x, w, groups=groups, algorithm="depthwise")


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 16, 17, 31, 40])
def test_lone_rows(kernel):
    """By the stencil driver: rows in place but for their ends, runs of taps, longer than a vector or not."""
    for width in [*range(40, 60), 100, 127, 200, 333]:
        for padding in sorted({0, 1, kernel // 2, kernel - 1, kernel + 20}):
            dilation = 1 + (width + padding) % 3 // 2
            if width + 2 * padding < (kernel - 1) * dilation + 1:
                continue
            x, w, b = arrays((2, 3, width), (kernel,), 1 + width % 2, DTYPES[(width + padding) % 2])
            check(x, w, b, "stencil", padding=padding, dilation=dilation)
    x, w, b = arrays((1, 2, 5, 60), (3, kernel))
    check(x, w, b, "stencil", padding=(1, kernel // 2))


@pytest.mark.parametrize("options", [
    {"padding": 0},
    {"padding": (4, 9)},                    # whole windows in the padding
    {"padding": (0, 40)},                   # wider than the image
    {"padding": (0, 1)},
    {"padding": (15, 1)},
    {"padding": (7, 0), "stride": 2},
    {"padding": 2, "dilation": 2},
    {"padding": (2, 6), "dilation": (1, 6)},
    {"padding": (5, 1), "dilation": (5, 1)},
    {"padding": 2, "dilation": (1, 2), "stride": 2},
    {"padding": 2, "dilation": 2, "stride": 2},
], ids=str)
@pytest.mark.parametrize("width", [5, 14, 16, 33, 70])
def test_paddings_and_dilations(width, options):
    check(*arrays((2, 2, 12, width), (3, 3)), **options)
    check(*arrays((2, 2, 19, width + 2), (5, 3)), **options)


LAYOUTS = {
    "channels last": lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "rows and columns exchanged": lambda x: np.ascontiguousarray(x.swapaxes(2, 3)).swapaxes(2, 3),
    "gaps between rows": lambda x: np.pad(x, [(0, 0), (0, 0), (1, 2), (3, 4)], constant_values=np.nan)[:, :, 1:-2, 3:-4],
    "gaps between columns": lambda x: np.repeat(x, 2, axis=3)[..., ::2],
    "upside down": lambda x: np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1],
    "mirrored": lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
    "one row for all": lambda x: np.broadcast_to(x[:, :, :1], x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("width", [6, 14, 37])
def test_layouts(width, layout):
    x, w, b = arrays((2, 3, 10, width), (3, 3), 2)
    for stride in (1, 2):
        check(layout(x), w, b, "depthwise", padding=1, stride=stride)
        grad = np.random.default_rng(2).standard_normal(F.conv2d(x, w, stride=stride, padding=1, groups=3).shape)
        grad = layout(grad.astype(np.float32))
        options = {"stride": stride, "padding": 1, "groups": 3}
        judged = torch_judge.conv_backward(*doubles(grad, x, w), **options)
        for actual, expected in zip(F.conv2d_backward(grad, x, w, **options), judged, strict=True):
            assert_close(actual, expected)
    x, w, b = arrays((2, 3, 11, width), (5, 4), 2)
    check(layout(x), w, b, "depthwise", padding=2, stride=2)


@pytest.mark.parametrize("width", [3, 14, 16, 17, 40])
def test_what_lies_beside_a_row_is_not_used(width):
    """Infinities in the last column of a row reach the outputs whose windows hold them and no others."""
    x, w, _ = arrays((1, 2, 9, width), (3, 3))
    x[:, :, 4, -1] = np.inf
    for stride in (1, 2):
        options = {"stride": stride, "padding": 1, "groups": 2}
        expected = torch_judge.conv(*doubles(x, w), **options)
        actual = F.conv2d(x, w, **options, algorithm="depthwise")
        np.testing.assert_array_equal(np.isfinite(actual), np.isfinite(expected))
        inside = np.isfinite(expected)
        assert_close(actual[inside], expected[inside])


def at_end_of_memory(array):
    """The array, contiguous, the page after it (and the one before its first) not readable."""
    page = mmap.PAGESIZE
    bytes_ = -(-array.nbytes // page) * page
    room = mmap.mmap(-1, bytes_ + 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(room))
    libc = ctypes.CDLL(None, use_errno=True)
    for guard in (start, start + page + bytes_):
        assert libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0
    view = np.frombuffer(room, array.dtype, array.size, page + bytes_ - array.nbytes).reshape(array.shape)
    view[...] = array
    return view


def at_start_of_memory(array):
    padded = np.zeros(-(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE // array.itemsize, array.dtype)
    padded[: array.size] = array.ravel()
    return at_end_of_memory(padded)[: array.size].reshape(array.shape)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mprotect through ctypes is tried on Linux only")
@pytest.mark.parametrize("place", [at_end_of_memory, at_start_of_memory])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7, 9])
def test_no_access_outside_the_arrays(kernel, place):
    for width in (1, 2, 7, 14, 16, 30, 31, 33, 48):
        for stride in (1, 2):
            x, w, b = arrays((1, 2, 8, width), (kernel, kernel))
            padding = kernel // 2
            if width + 2 * padding < kernel:
                continue
            options = {"stride": stride, "padding": padding, "groups": 2}
            expected = torch_judge.conv(*doubles(x, w, b), **options)
            guarded = [place(a) for a in (x, w, b)]
            assert_close(F.conv2d(*guarded, **options, algorithm="depthwise"), expected)
            grad = place(expected.astype(np.float32))
            judged = torch_judge.conv_backward(*doubles(grad, x, w), **options)
            for actual, wanted in zip(F.conv2d_backward(grad, *guarded[:2], **options), judged, strict=True):
                assert_close(actual, wanted)


PLANES = [
    ((2, 20, 7, 7), (3, 3), {"padding": 1}),
    ((1, 33, 14, 14), (5, 5), {"padding": 2, "stride": 2}),
    ((3, 16, 9, 13), (3, 4), {"padding": (2, 1), "stride": (3, 2), "dilation": (2, 1)}),
    ((1, 17, 11, 1), (3, 1), {"padding": (1, 0)}),
    ((1, 24, 12, 15), (4, 3), {"padding": (0, 3), "stride": (1, 4), "dilation": (1, 2)}),
    ((2, 19, 700), (31,), {"padding": 15}),
    ((1, 40, 9000), (4,), {"padding": 3, "stride": 2}),
    ((1, 16, 40), (3,), {"padding": 50}),
    ((1, 20, 5, 6, 9), (3, 2, 3), {"padding": 1, "stride": (2, 1, 1)}),
]


@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("shape, kernel, options", PLANES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_lanes_over_channels(shape, kernel, options, multiplier, dtype):
    check(*arrays(shape, kernel, multiplier, dtype), "planes", **options)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("stride", [1, 2])
def test_lanes_over_channels_of_any_layout(layout, stride):
    x, w, b = arrays((2, 21, 10, 9), (3, 3))
    options = {"stride": stride, "padding": 1, "groups": 21}
    check(layout(x), w, b, "planes", **options)
    check(x, np.asfortranarray(w), b, "planes", **options)
    grad = layout(np.random.default_rng(3).standard_normal(F.conv2d(x, w, **options).shape).astype(np.float32))
    judged = torch_judge.conv_backward(*doubles(grad, x, w), **options)
    for actual, expected in zip(F.conv2d_backward(grad, x, w, **options), judged, strict=True):
        assert_close(actual, expected)


@pytest.mark.parametrize("direction", ["forward", "input", "weight"])
def test_planes_serve_narrow_images(direction):
    options = {"stride": 2, "padding": 2, "groups": 64}
    assert explain(F.conv2d, (1, 64, 14, 14), (64, 1, 5, 5), **options, direction=direction).algorithm == "planes"


@pytest.mark.parametrize("shape, weight, groups, reason", [
    ((1, 1, 9, 9), (1, 1, 3, 3), 1, "few channels"),
    ((1, 40, 9, 9), (40, 2, 3, 3), 20, "more than one input channel"),
    ((1, 40, 400), (40, 1, 300), 40, "too many taps"),
])
def test_planes_say_what_they_refuse(shape, weight, groups, reason):
    x, w = np.ones(shape, np.float32), np.ones(weight, np.float32)
    with pytest.raises(ValueError, match=reason):
        CONV[x.ndim - 2](x, w, groups=groups, algorithm="planes")
