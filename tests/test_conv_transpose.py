"""Transposed convolution, forward and backward."""

import numpy as np
import pytest
import reference
import torch_judge
from hypothesis import given
from reference import assert_close
from shapes import DTYPES, SEEDS, TRANSPOSE_CASES, TransposeCase, eighths, normal, transpose_cases

import fastconv
from fastconv import functional as F

CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
BACKWARD = {1: F.conv_transpose1d_backward, 2: F.conv_transpose2d_backward, 3: F.conv_transpose3d_backward}
CONV_INPUT = {1: F.conv1d_input, 2: F.conv2d_input, 3: F.conv3d_input}

SMALL = {
    1: TransposeCase((2, 4, 7), (4, 3, 3), stride=2, padding=1, groups=2),
    2: TransposeCase((2, 4, 5, 6), (4, 3, 3, 3), stride=2, padding=1, groups=2),
    3: TransposeCase((2, 4, 3, 4, 5), (4, 3, 3, 3, 3), stride=2, padding=1, groups=2),
}


def doubles(arrays):
    return [None if a is None else a.astype(np.float64) for a in arrays]


def output_gradient(y, fill, seed=1):
    return fill(np.random.default_rng(seed), y.shape, y.dtype)


@given(transpose_cases(), SEEDS)
def test_against_reference(case, seed):
    arrays = case.arrays(seed=seed)
    y = CONV_TRANSPOSE[case.axes](*arrays, **case.options)
    assert y.dtype == case.dtype and y.flags.c_contiguous
    assert_close(y, reference.conv_transpose(*arrays, **case.options))


@given(transpose_cases(), SEEDS)
def test_backward_against_reference(case, seed):
    x, w, b = case.arrays(seed=seed)
    grad = output_gradient(reference.conv_transpose(x, w, b, **case.options).astype(case.dtype), eighths, seed)
    got = BACKWARD[case.axes](grad, x, w, **case.options)
    for actual, expected in zip(got, reference.conv_transpose_backward(grad, x, w, **case.options), strict=True):
        assert actual.dtype == case.dtype and actual.flags.c_contiguous
        assert_close(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", TRANSPOSE_CASES.values(), ids=TRANSPOSE_CASES)
def test_against_torch(case, dtype):
    x, w, b = case._replace(dtype=dtype).arrays(normal)
    y = CONV_TRANSPOSE[case.axes](x, w, b, **case.options)
    assert y.dtype == dtype and y.flags.c_contiguous
    assert_close(y, torch_judge.conv_transpose(*doubles([x, w, b]), **case.options))
    grad = output_gradient(y, normal)
    got = BACKWARD[case.axes](grad, x, w, **case.options)
    expected = torch_judge.conv_transpose_backward(*doubles([grad, x, w]), **case.options)
    for actual, right in zip(got, expected, strict=True):
        assert_close(actual, right)


@pytest.mark.parametrize("case", SMALL.values(), ids=str)
def test_options_by_position_as_in_torch(case):
    x, w, b = case.arrays()
    expected = reference.conv_transpose(x, w, b, stride=2, padding=1, output_padding=1, groups=2, dilation=3)
    np.testing.assert_array_equal(CONV_TRANSPOSE[case.axes](x, w, b, 2, 1, 1, 2, 3), expected)
    grad = output_gradient(expected, eighths)
    got = BACKWARD[case.axes](grad.astype(x.dtype), x, w, 2, 1, 1, 2, 3)
    for actual, right in zip(got, reference.conv_transpose_backward(grad, x, w, 2, 1, 1, 2, 3), strict=True):
        np.testing.assert_array_equal(actual, right)


@pytest.mark.parametrize("case", SMALL.values(), ids=str)
def test_one_image_without_batch_axis(case):
    x, w, b = case.arrays()
    y = CONV_TRANSPOSE[case.axes](x[:1], w, b, **case.options)
    np.testing.assert_array_equal(CONV_TRANSPOSE[case.axes](x[0], w, b, **case.options), y[0])
    grad = output_gradient(y, eighths)
    batched = BACKWARD[case.axes](grad, x[:1], w, **case.options)
    alone = BACKWARD[case.axes](grad[0], x[0], w, **case.options)
    np.testing.assert_array_equal(alone.input, batched.input[0])
    np.testing.assert_array_equal(alone.weight, batched.weight)
    np.testing.assert_array_equal(alone.bias, batched.bias)


@pytest.mark.parametrize("name", sorted(TRANSPOSE_CASES.keys() - {"output padding under dilation"}))
def test_is_the_input_gradient_of_a_convolution(name):
    """Unless the output padding reaches the stride: then the convolution has one output more."""
    case = TRANSPOSE_CASES[name]
    x, w, _ = case._replace(dtype=np.float64).arrays(normal)
    y = CONV_TRANSPOSE[case.axes](x, w, None, **case.options)
    convolution = {name: value for name, value in case.options.items() if name != "output_padding"}
    assert_close(CONV_INPUT[case.axes](y.shape, w, x, **convolution), y)


def test_places_that_no_input_reaches_hold_the_bias():
    x, w, b = TRANSPOSE_CASES["holes between windows"].arrays()
    y = F.conv_transpose2d(x, w, b, stride=(3, 4))
    for hole in (y[:, :, 2::3], y[:, :, :, 2::4], y[:, :, :, 3::4]):
        np.testing.assert_array_equal(hole, np.broadcast_to(b.reshape(1, -1, 1, 1), hole.shape))


@pytest.mark.parametrize("shape", [(0, 4, 5, 6), (2, 0, 5, 6)], ids=["no images", "no input channels"])
def test_empty_axes(shape):
    w, b = np.ones((shape[1], 3, 3, 3)), np.array([1.0, 2, 3])
    y = F.conv_transpose2d(np.ones(shape), w, b, stride=2)
    np.testing.assert_array_equal(y, reference.conv_transpose(np.ones(shape), w, b, stride=2))
    gradients = F.conv_transpose2d_backward(np.ones_like(y), np.ones(shape), w, stride=2)
    np.testing.assert_array_equal(gradients.input, np.zeros(shape))
    np.testing.assert_array_equal(gradients.weight, np.zeros(w.shape))
    np.testing.assert_array_equal(gradients.bias, np.full(3, float(y[:, 0].size)))


@pytest.mark.parametrize("name", ["stride 1", "double the size", "grouped", "holes between windows", "1d", "3d"])
def test_out_is_overwritten_and_never_read(name):
    case = TRANSPOSE_CASES[name]
    arrays = case.arrays(normal)
    expected = CONV_TRANSPOSE[case.axes](*arrays, **case.options)
    out = np.full_like(expected, np.nan)
    assert CONV_TRANSPOSE[case.axes](*arrays, **case.options, out=out) is out
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("mask", [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)])
def test_output_mask(mask):
    case = TRANSPOSE_CASES["grouped"]
    x, w, _ = case.arrays(normal)
    grad = output_gradient(F.conv_transpose2d(x, w, **case.options), normal)
    everything = F.conv_transpose2d_backward(grad, x, w, **case.options)
    some = F.conv_transpose2d_backward(grad, x, w, **case.options, output_mask=tuple(map(bool, mask)))
    assert some._fields == ("input", "weight", "bias")
    for wanted, actual, expected in zip(mask, some, everything, strict=True):
        if wanted:
            np.testing.assert_array_equal(actual, expected)
        else:
            assert actual is None


@given(transpose_cases(), SEEDS)
def test_adjoint_identity(case, seed):
    """<conv_transpose(x, w), g> = <x, dx> = <w, dw>: the function is linear in each of its arguments."""
    x, w, _ = case._replace(dtype=np.float64).arrays(normal, seed)
    y = CONV_TRANSPOSE[case.axes](x, w, None, **case.options)
    grad = output_gradient(y, normal, seed)
    gradients = BACKWARD[case.axes](grad, x, w, **case.options)
    scale = np.linalg.norm(y) * np.linalg.norm(grad)
    assert_close(np.vdot(x, gradients.input), np.vdot(y, grad), scale)
    assert_close(np.vdot(w, gradients.weight), np.vdot(y, grad), scale)


# Windows that tile the image: one product for all phases, of all images, of each, or of some rows of each.
TILING = {
    "1d": TransposeCase((3, 32, 50), (32, 3, 20), stride=20),
    "2d": TransposeCase((2, 64, 5, 6), (64, 3, 8, 8), stride=8),
    "3d groups": TransposeCase((2, 64, 3, 4, 5), (64, 2, 4, 4, 4), stride=4, groups=2),
    "one axis": TransposeCase((2, 64, 9, 12), (64, 3, 1, 16), stride=(1, 16)),
    "image by image": TransposeCase((9, 64, 14, 14), (64, 3, 16, 16), stride=16),
    "pairs": TransposeCase((2, 16, 21, 37), (16, 3, 2, 2), stride=2),
    "a few rows of an image": TransposeCase((2, 8, 150, 151), (8, 3, 2, 2), stride=2),
    "one window": TransposeCase((3, 64, 1, 1), (64, 16, 7, 5)),
    "one window, groups": TransposeCase((2, 64, 1, 1, 1), (64, 16, 3, 2, 5), stride=2, groups=2),
}


# The others: one convolution of stride 1 whose channels are the phases, interleaved; cropped by the padding or not.
PHASES = {
    "1d": TransposeCase((2, 64, 301), (64, 2, 11), stride=4),
    "odd, padded": TransposeCase((1, 64, 30, 31), (64, 3, 7, 7), stride=2, padding=3, output_padding=1),
    "even, padded": TransposeCase((3, 64, 16, 19), (64, 3, 4, 4), stride=2, padding=1),
    "strides differ": TransposeCase((2, 48, 17, 40), (48, 3, 5, 3), stride=(3, 1), padding=(1, 2), output_padding=(2, 0)),
    "padded by more than a stride": TransposeCase((2, 48, 23, 24), (48, 2, 9, 9), stride=3, padding=(4, 5)),
    "groups": TransposeCase((2, 64, 20, 20), (64, 3, 6, 6), stride=4, padding=1, output_padding=1, groups=2),
    "3d": TransposeCase((2, 24, 5, 6, 7), (24, 3, 3, 3, 3), stride=2, padding=1, output_padding=(1, 0, 1)),
    "a few rows of an image": TransposeCase((2, 24, 130, 150), (24, 3, 3, 3), stride=2),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", PHASES.values(), ids=PHASES)
def test_phases_as_channels(case, dtype):
    check_interleaved(case, dtype, "im2col", always=False)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("case", PHASES.values(), ids=PHASES)
@np.errstate(invalid="ignore")
def test_what_is_not_finite_reaches_no_more_than_its_taps(case, value):
    x, w, b = case.arrays(normal)
    x[-1, 5, ..., 3] = value
    channels_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    expected = torch_judge.conv_transpose(*doubles([x, w, b]), **case.options)
    for image in x, channels_last:
        y = CONV_TRANSPOSE[case.axes](image, w, b, **case.options)
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(np.isfinite(y), finite)
        assert_close(np.where(finite, y, 0), np.where(finite, expected, 0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", TILING.values(), ids=TILING)
def test_windows_that_tile_the_image(case, dtype):
    check_interleaved(case, dtype, "im2col", always=True)


# The same two wide, in rows of whole halves of vectors: the kernel interleaves the phases.
PAIRS = {
    "1d": TransposeCase((3, 16, 104), (16, 5, 2), stride=2),
    "2d": TransposeCase((2, 16, 19, 24), (16, 3, 2, 2), stride=2),
    "of a row of two": TransposeCase((2, 32, 7, 8), (32, 4, 2, 2), stride=2),
    "a vector and a half": TransposeCase((2, 32, 3, 8), (32, 7, 3, 2), stride=(3, 2)),
    "3d groups": TransposeCase((2, 32, 3, 5, 16), (32, 3, 1, 3, 2), stride=(1, 3, 2), groups=2),
    "few rows of a tile": TransposeCase((1, 64, 40, 16), (64, 3, 1, 2), stride=(1, 2)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", PAIRS.values(), ids=PAIRS)
def test_pairs_that_the_kernel_interleaves(case, dtype):
    check_interleaved(case, dtype, "pixels", always=False)


# One tap, every second pixel of a row: what lies between is written with them.
SPACED = {
    "1d": TransposeCase((3, 40, 50), (40, 21, 1), stride=2, output_padding=1),
    "2d": TransposeCase((2, 33, 9, 13), (33, 7, 1, 1), stride=2),
    "an even image": TransposeCase((2, 40, 14, 14), (40, 19, 1, 1), stride=2, output_padding=1),
    "less than two vectors": TransposeCase((2, 48, 1, 23), (48, 9, 1, 1), stride=(1, 2)),
    "less than a strip": TransposeCase((3, 16, 7, 5), (16, 9, 1, 1), stride=2, output_padding=(1, 0)),
    "3d groups, strides differ": TransposeCase((2, 32, 3, 5, 16), (32, 5, 1, 1, 1), stride=(1, 3, 2), groups=2, output_padding=(0, 2, 1)),
    "blocks of terms": TransposeCase((1, 1250, 5, 9), (1250, 12, 1, 1), stride=2),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", SPACED.values(), ids=SPACED)
def test_pixels_that_are_written_with_what_lies_between(case, dtype):
    check_interleaved(case, dtype, "pointwise", always=False)


def test_pixels_beyond_the_last_step():
    """A dilation lets the output be padded by more than a stride."""
    case = TransposeCase((2, 40, 14, 14), (40, 19, 1, 1), stride=2, dilation=4, output_padding=3)
    x, w, b = case.arrays(normal)
    y = CONV_TRANSPOSE[2](x, w, b, **case.options)
    assert_close(y, torch_judge.conv_transpose(*doubles([x, w, b]), **case.options))


def check_interleaved(case, dtype, algorithm, always):
    """`always`: taken whatever the instruction set, whose prices differ; else by AVX-512 at least."""
    x, w, b = case._replace(dtype=dtype).arrays(normal)
    told = fastconv.explain(CONV_TRANSPOSE[case.axes], x, w, **case.options)
    serve = {option.name for option in told.options if option.reason is None}
    assert algorithm in ({told.algorithm} if always else serve)
    channels_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    for image, bias in [(x, b), (channels_last, None), (channels_last, b)]:
        results = []
        for threads in (1, 2):
            fastconv.set_num_threads(threads)
            results.append(CONV_TRANSPOSE[case.axes](image, w, bias, **case.options))
        assert_close(results[0], torch_judge.conv_transpose(*doubles([image, w, bias]), **case.options))
        np.testing.assert_array_equal(*results)
        *sizes, width = results[0].shape
        apart = np.zeros((*sizes, width + 3), dtype)[..., :width]    # rows that do not follow each other
        assert_close(CONV_TRANSPOSE[case.axes](image, w, bias, **case.options, out=apart), results[0].astype(np.float64))
