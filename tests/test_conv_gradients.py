"""Convolution, backward: against the reference, against autograd, and by the adjoint identities."""

from itertools import product

import numpy as np
import pytest
import reference
import torch
import torch_judge
from hypothesis import example, given
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
    eighths,
    normal,
)

from fastconv import functional as F

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
BACKWARD = {1: F.conv1d_backward, 2: F.conv2d_backward, 3: F.conv3d_backward}
INPUT = {1: F.conv1d_input, 2: F.conv2d_input, 3: F.conv3d_input}
WEIGHT = {1: F.conv1d_weight, 2: F.conv2d_weight, 3: F.conv3d_weight}


def doubles(arrays):
    return [a.astype(np.float64) for a in arrays]


def problem(case, fill, seed=0):
    """(grad_output, input, weight) of a case"""
    x, w, _ = case.arrays(fill, seed)
    shape = reference.conv(x[:, :0], w[:, :0], **{**case.options, "groups": 1}).shape
    return fill(np.random.default_rng(seed + 1), shape, case.dtype), x, w


@given(conv_cases(), SEEDS)
def test_against_reference(case, seed):
    arrays = problem(case, eighths, seed)
    got = BACKWARD[case.axes](*arrays, **case.options)
    for actual, expected in zip(got, reference.conv_backward(*arrays, **case.options), strict=True):
        assert actual.dtype == case.dtype and actual.flags.c_contiguous
        assert_close(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONV_CASES.values(), ids=CONV_CASES)
def test_against_torch(case, dtype):
    arrays = problem(case._replace(dtype=dtype), normal)
    got = BACKWARD[case.axes](*arrays, **case.options)
    for actual, expected in zip(got, torch_judge.conv_backward(*doubles(arrays), **case.options), strict=True):
        assert actual.dtype == dtype and actual.flags.c_contiguous
        assert_close(actual, expected)


@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 3}, {"dilation": 5}, {"padding": 2, "stride": 2}], ids=str)
def test_weight_gradient_of_rows_that_are_cut(options):
    """Rows of more than 4096 outputs are summed in stripes."""
    case = ConvCase((2, 3, 25000), (5, 3, 3), **options)
    grad, x, w = problem(case, normal)
    assert_close(F.conv1d_weight(x, w.shape, grad, **options), torch_judge.conv_backward(*doubles((grad, x, w)), **options)[1])


# By algorithm: patches under few pixels, in many ways of lying in memory; rows of outputs of one vector.
BY_ALGORITHM = [
    ("patches", ConvCase((1, 35, 7, 5), (200, 35, 3, 3), padding=1)),
    ("patches", ConvCase((2, 40, 5, 6), (300, 20, 2, 3), padding=1, groups=2, stride=2)),
    ("patches", ConvCase((2, 33, 12, 12), (300, 33, 3, 3), padding=1, stride=2)),
    ("patches", ConvCase((3, 48, 9, 9), (320, 48, 5, 5), stride=2)),
    ("patches", ConvCase((1, 256, 64), (512, 256, 3), padding=1, stride=2)),
    ("patches", ConvCase((2, 16, 3, 5, 4), (400, 16, 2, 3, 2), padding=1, dilation=(2, 1, 2), stride=(1, 2, 1))),
    ("patches", ConvCase((1, 3, 64, 48), (70, 3, 16, 16), stride=16)),
    ("patches", ConvCase((2, 3, 60, 47), (20, 3, 14, 14), stride=(14, 9), padding=3)),
    ("patches", ConvCase((2, 6, 30, 33), (36, 2, 5, 8), stride=8, padding=(2, 0), groups=3)),
    ("patches", ConvCase((2, 1, 5, 9, 34), (9, 1, 2, 3, 16), stride=(1, 2, 6), dilation=(2, 1, 1))),
    ("patches", ConvCase((3, 2, 200), (33, 2, 16), stride=7, padding=8, dilation=2)),
    ("channels", ConvCase((2, 4, 30, 30), (16, 4, 5, 5))),
    ("channels", ConvCase((4, 3, 40, 128), (16, 3, 7, 7), padding=3)),
    ("channels", ConvCase((1, 6, 9, 700), (32, 3, 7, 7), padding=3, groups=2)),
    ("channels", ConvCase((1, 3, 6, 20, 24), (16, 3, 3, 3, 3), padding=1, stride=(1, 2, 1))),
]


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize(("algorithm", "case"), BY_ALGORITHM, ids=str)
def test_weight_gradient_by_algorithm(algorithm, case, last):
    for dtype in DTYPES:
        grad, x, w = problem(case._replace(dtype=dtype), normal)
        expected = torch_judge.conv_backward(*doubles((grad, x, w)), **case.options)[1]
        if last:
            grad, x = channels_last(grad), channels_last(x)
        assert_close(WEIGHT[case.axes](x, w.shape, grad, **case.options, algorithm=algorithm), expected)


# One output, whose window has as many taps as the image pixels but not its shape: col2im.c took it for the image.
ANOTHER_SHAPE = ConvCase((3, 2, 2, 1, 2), (15, 2, 1, 2, 2), 2, "same", 1, 1, False, np.float64)


@example(ANOTHER_SHAPE, 0)
@given(conv_cases(), SEEDS)
def test_adjoint_identities(case, seed):
    """<conv(x, w), g> = <x, dx> = <w, dw>, and <b, db> is the bias' own share."""
    grad, x, w = problem(case._replace(dtype=np.float64), normal, seed)
    b = normal(np.random.default_rng(seed), w.shape[0], np.float64)
    y = CONV[case.axes](x, w, **case.options)
    gradients = BACKWARD[case.axes](grad, x, w, **case.options)
    scale = np.linalg.norm(y) * np.linalg.norm(grad)
    assert_close(np.vdot(x, gradients.input), np.vdot(y, grad), scale)
    assert_close(np.vdot(w, gradients.weight), np.vdot(y, grad), scale)
    bias_image = np.broadcast_to(b.reshape(-1, *[1] * case.axes), y.shape)
    assert_close(np.vdot(b, gradients.bias), np.vdot(bias_image, grad), np.linalg.norm(bias_image) * np.linalg.norm(grad))


@pytest.mark.parametrize("case", CASE_FOR_EVERY_AXIS_COUNT.values(), ids=str)
@pytest.mark.parametrize("mask", list(product((True, False), repeat=3)))
def test_output_mask(case, mask):
    arrays = problem(case, normal)
    everything = BACKWARD[case.axes](*arrays, **case.options)
    some = BACKWARD[case.axes](*arrays, **case.options, output_mask=mask)
    assert type(some) is F.ConvGradients and some._fields == ("input", "weight", "bias")
    for wanted, actual, expected in zip(mask, some, everything, strict=True):
        if wanted:
            np.testing.assert_array_equal(actual, expected)
        else:
            assert actual is None


@pytest.mark.parametrize("case", CASE_FOR_EVERY_AXIS_COUNT.values(), ids=str)
def test_each_gradient_alone(case):
    """conv*d_input and conv*d_weight are the same work as the whole backward pass."""
    grad, x, w = problem(case, normal)
    gradients = BACKWARD[case.axes](grad, x, w, **case.options)
    np.testing.assert_array_equal(INPUT[case.axes](x.shape, w, grad, **case.options), gradients.input)
    np.testing.assert_array_equal(WEIGHT[case.axes](x, w.shape, grad, **case.options), gradients.weight)


@pytest.mark.parametrize("case", CASE_FOR_EVERY_AXIS_COUNT.values(), ids=str)
def test_options_by_position_as_in_torch(case):
    case = case._replace(stride=2, padding=3, dilation=2)
    grad, x, w = problem(case, eighths)
    expected = reference.conv_backward(grad, x, w, 2, 3, 2, 2)
    np.testing.assert_array_equal(BACKWARD[case.axes](grad, x, w, 2, 3, 2, 2).weight, expected[1])
    np.testing.assert_array_equal(INPUT[case.axes](x.shape, w, grad, 2, 3, 2, 2), expected[0])
    np.testing.assert_array_equal(WEIGHT[case.axes](x, w.shape, grad, 2, 3, 2, 2), expected[1])


@pytest.mark.parametrize("size", [7, 8])
def test_input_size_settles_what_the_stride_leaves_open(size):
    """Stride 2 maps 7 and 8 inputs to the same 3 outputs; PyTorch's functions of these names are the judge."""
    rng = np.random.default_rng(0)
    w, grad, x = rng.standard_normal((3, 2, 3)), rng.standard_normal((1, 3, 3)), rng.standard_normal((1, 2, size))
    tensors = [torch.from_numpy(a) for a in (w, grad, x)]
    got = F.conv1d_input(x.shape, w, grad, stride=2)
    assert_close(got, torch.nn.grad.conv1d_input(x.shape, tensors[0], tensors[1], stride=2))
    assert size == 7 or not got[..., 7].any()
    got = F.conv1d_weight(x, w.shape, grad, stride=2)
    assert_close(got, torch.nn.grad.conv1d_weight(tensors[2], w.shape, tensors[1], stride=2))


@pytest.mark.parametrize("case", CASE_FOR_EVERY_AXIS_COUNT.values(), ids=str)
def test_one_image_without_batch_axis(case):
    grad, x, w = problem(case._replace(input=(1, *case.input[1:])), normal)
    batched = BACKWARD[case.axes](grad, x, w, **case.options)
    alone = BACKWARD[case.axes](grad[0], x[0], w, **case.options)
    np.testing.assert_array_equal(alone.input, batched.input[0])
    np.testing.assert_array_equal(alone.weight, batched.weight)
    np.testing.assert_array_equal(alone.bias, batched.bias)
    np.testing.assert_array_equal(INPUT[case.axes](x.shape[1:], w, grad[0], **case.options), batched.input[0])
    np.testing.assert_array_equal(WEIGHT[case.axes](x[0], w.shape, grad[0], **case.options), batched.weight)


@pytest.mark.parametrize("case", (NO_IMAGES_CASES | NO_CHANNELS_CASES).values(), ids=NO_IMAGES_CASES | NO_CHANNELS_CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_axes(case, dtype):
    arrays = problem(case._replace(dtype=dtype), eighths)
    got = BACKWARD[case.axes](*arrays, **case.options)
    for actual, expected in zip(got, reference.conv_backward(*arrays, **case.options), strict=True):
        assert actual.dtype == dtype
        np.testing.assert_array_equal(actual, expected)


def test_pixels_between_the_windows_have_no_gradient():
    grad, x, w = problem(CONV_CASES["stride beyond the kernel"], normal)
    gradient = F.conv2d_input(x.shape, w, grad, stride=7)
    seen = np.zeros(x.shape[2:], bool)
    seen[np.ix_(*((np.arange(n) % 7 < 2) & (np.arange(n) < 7 * m) for n, m in zip(x.shape[2:], grad.shape[2:], strict=True)))] = True
    assert gradient[:, :, seen].all()
    assert not gradient[:, :, ~seen].any()
