"""Factored convolutions against the dense convolution that they stand for, and factors against tensorly's.

The judge expands the factors to the dense kernel with one einsum and lets PyTorch convolve and differentiate.
"""

import numpy as np
import pytest
import torch
import torch_judge as judge
from hypothesis import given
from hypothesis import strategies as st
from reference import assert_close

import fastconv
from fastconv import functional as F

CP_CONV = {1: F.cp_conv1d, 2: F.cp_conv2d}
CP_CONV_BACKWARD = {1: F.cp_conv1d_backward, 2: F.cp_conv2d_backward}
KERNEL_SUM = {3: "or,ir,kr->oik", 4: "or,ir,lr,kr->oilk", 5: "or,ir,mr,lr,kr->oimlk"}


# ---- the judge ---------------------------------------------------------------------------------


def dense_kernel(factors):
    return torch.einsum(KERNEL_SUM[len(factors)], *factors)


def separable_kernel(weights):
    """W[o,i,l,k] = sum over the M filters j of channel i of P[o,j] D[j,l,k]"""
    depthwise, pointwise = weights
    multiplier = pointwise.shape[1] // CHANNELS
    by_channel = depthwise.reshape(CHANNELS, multiplier, *depthwise.shape[2:])
    return torch.einsum("oim,imlk->oilk", pointwise.reshape(-1, CHANNELS, multiplier), by_channel)


def judged(kernel, x, weights, bias, **options):
    """The dense convolution, for weights that `kernel` expands."""
    return judge.conv(x, kernel([torch.tensor(w) for w in weights]).numpy(), bias, **options)


def judged_gradients(kernel, grad, x, weights, **options):
    """(gradient of x, gradients of the weights, gradient of bias) by autograd through the dense kernel."""
    leaves = [judge.leaf(w) for w in weights]
    dense = kernel(leaves)
    grad_x, grad_dense, grad_bias = judge.conv_backward(grad, x, dense.detach().numpy(), **options)
    dense.backward(torch.tensor(grad_dense))
    return grad_x, [leaf.grad.numpy() for leaf in leaves], grad_bias


# ---- cases -------------------------------------------------------------------------------------


def cp_arrays(size, kernel, rank, in_channels=3, out_channels=4, batch=2, dtype=np.float64, seed=0):
    """(input, factors, bias) of normal deviates."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, in_channels, *size)).astype(dtype)
    factors = [rng.standard_normal((n, rank)).astype(dtype) for n in (out_channels, in_channels, *kernel)]
    return x, factors, rng.standard_normal(out_channels).astype(dtype)


CHANNELS = 3


def separable_arrays(size, kernel, multiplier=2, out_channels=4, batch=2, dtype=np.float64, seed=0):
    """(input, (depthwise, pointwise), bias) of normal deviates."""
    rng = np.random.default_rng(seed)
    shapes = [
        (batch, CHANNELS, *size),
        (CHANNELS * multiplier, 1, *kernel),
        (out_channels, CHANNELS * multiplier, 1, 1),
        (out_channels,),
    ]
    x, depthwise, pointwise, bias = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    return x, (depthwise, pointwise), bias


GEOMETRIES = {
    "plain": {},
    "padded": {"padding": 1},
    "strided": {"stride": 2, "padding": 1},
    "uneven": {"stride": (3, 1), "padding": (0, 2), "dilation": (1, 2)},
    "pairs": {"stride": (1, 2), "padding": ((0, 3), (2, 1))},
    "beyond the kernel": {"padding": 5},
    "same": {"padding": "same"},
    "same, strided": {"padding": "same", "stride": (2, 3), "dilation": (2, 1)},
    "valid": {"padding": "valid", "stride": 2},
    "stride and dilation share a divisor": {"stride": 2, "dilation": 2, "padding": (1, 3)},
}
CP_CASES = {
    **{name: ((7, 9), (3, 2), 5, options) for name, options in GEOMETRIES.items()},
    "1x1, strided": ((7, 8), (1, 1), 2, {"stride": (2, 3), "padding": (1, 0)}),
    "stride over the kernel": ((8, 9), (2, 1), 2, {"stride": 4}),
    "only padding read": ((1, 1), (1, 1), 2, {"stride": 2, "padding": 1}),
    "one output": ((5, 3), (5, 3), 1, {"stride": 3}),
    "one column, its stride without meaning": ((5, 1), (1, 1), 1, {"stride": (1, 2), "padding": ((0, 0), (0, 2))}),
    "1-D": ((11,), (3,), 4, {"stride": 2, "padding": 1}),
    "1-D, same": ((10,), (4,), 4, {"stride": 3, "padding": "same"}),
    "1-D, pairs": ((9,), (2,), 1, {"padding": ((0, 2),), "dilation": (3,)}),
    "1-D, 1x1": ((9,), (1,), 3, {"stride": 4}),
}
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
cp_cases = pytest.mark.parametrize(("size", "kernel", "rank", "options"), CP_CASES.values(), ids=CP_CASES)
ORDERS = {1: ("auto", "folded", "dense"), 2: ("auto", "folded", "split", "dense")}
cp_orders = pytest.mark.parametrize(
    ("size", "kernel", "rank", "options", "algorithm"),
    [(*case, order) for case in CP_CASES.values() for order in ORDERS[len(case[0])]],
    ids=[f"{name}, {order}" for name, case in CP_CASES.items() for order in ORDERS[len(case[0])]],
)
geometries = pytest.mark.parametrize("options", GEOMETRIES.values(), ids=GEOMETRIES)


# ---- CP convolution ----------------------------------------------------------------------------


@dtypes
@cp_orders
def test_cp_equals_the_dense_convolution(size, kernel, rank, options, algorithm, dtype):
    x, factors, bias = cp_arrays(size, kernel, rank, dtype=dtype)
    y = CP_CONV[len(size)](x, factors, bias, **options, algorithm=algorithm)
    assert y.dtype == dtype
    assert y.flags.c_contiguous
    assert_close(y, judge.conv(x, F.cp_weight(factors), bias, **options))
    without_bias = CP_CONV[len(size)](x, factors, **options, algorithm=algorithm)
    assert_close(without_bias, judged(dense_kernel, x, factors, None, **options))


@dtypes
@cp_orders
def test_cp_gradients_equal_autograd_through_the_dense_kernel(size, kernel, rank, options, algorithm, dtype):
    x, factors, bias = cp_arrays(size, kernel, rank, dtype=dtype)
    y = CP_CONV[len(size)](x, factors, bias, **options)
    grad = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
    found = CP_CONV_BACKWARD[len(size)](grad, x, factors, **options, algorithm=algorithm)
    expected = judged_gradients(dense_kernel, grad, x, factors, **options)
    assert found._fields == ("input", "factors", "bias")
    assert_close(found.input, expected[0])
    assert_close(found.bias, expected[2])
    assert isinstance(found.factors, tuple)
    for gradient, judgement in zip(found.factors, expected[1], strict=True):
        assert_close(gradient, judgement)
    assert {g.dtype for g in (found.input, *found.factors, found.bias)} == {np.dtype(dtype)}


@st.composite
def axis_options(draw):
    """One axis: (size, kernel, stride, dilation, (before, after)), with at least one output."""
    kernel, stride, dilation = (draw(st.integers(1, limit)) for limit in (4, 5, 3))
    pad = draw(st.tuples(st.integers(0, 6), st.integers(0, 6)))
    least = max(1, (kernel - 1) * dilation + 1 - sum(pad))
    return draw(st.integers(least, least + 7)), kernel, stride, dilation, pad


def eighths(rng, shape):
    """Multiples of 1/8 in [-1, 1]: in float64 every product and sum of these tests is exact."""
    return rng.integers(-8, 9, shape) / 8


@given(axes=st.lists(axis_options(), min_size=1, max_size=2), rank=st.integers(1, 3), seed=st.integers(0, 99), data=st.data())
def test_cp_is_exact_on_dyadic_numbers(axes, rank, seed, data):
    algorithm = data.draw(st.sampled_from(ORDERS[len(axes)]))
    size, kernel, stride, dilation, padding = zip(*axes, strict=True)
    options = {"stride": stride, "dilation": dilation, "padding": padding}
    rng = np.random.default_rng(seed)
    x = eighths(rng, (2, 2, *size))
    factors = [eighths(rng, (n, rank)) for n in (3, 2, *kernel)]
    y = CP_CONV[len(axes)](x, factors, **options, algorithm=algorithm)
    np.testing.assert_array_equal(y, judged(dense_kernel, x, factors, None, **options))
    grad = eighths(rng, y.shape)
    found = CP_CONV_BACKWARD[len(axes)](grad, x, factors, **options, algorithm=algorithm)
    grad_x, grad_factors, _ = judged_gradients(dense_kernel, grad, x, factors, **options)
    np.testing.assert_array_equal(found.input, grad_x)
    for gradient, judgement in zip(found.factors, grad_factors, strict=True):
        np.testing.assert_array_equal(gradient, judgement)


def test_gradients_of_a_column_under_a_stride_across_it():
    """Its pixels are neighbours in memory though the stride of its only column is two."""
    rng = np.random.default_rng(0)
    x, factors = eighths(rng, (2, 2, 2, 1)), [eighths(rng, (n, 1)) for n in (3, 2, 1, 1)]
    options = {"stride": (1, 2), "padding": ((0, 0), (0, 2))}
    grad = eighths(rng, (2, 3, 2, 2))
    found = fastconv.cp_conv2d_backward(grad, x, factors, **options)
    _, grad_factors, _ = judged_gradients(dense_kernel, grad, x, factors, **options)
    for gradient, judgement in zip(found.factors, grad_factors, strict=True):
        np.testing.assert_array_equal(gradient, judgement)


@cp_cases
def test_cp_backward_is_the_adjoint_in_every_argument(size, kernel, rank, options):
    """y is linear in each array: <g, y(.., v, ..)> = <dL/dv, v>, whichever array v replaces."""
    x, factors, _ = cp_arrays(size, kernel, rank)
    convolve = CP_CONV[len(size)]
    rng = np.random.default_rng(2)
    grad = rng.standard_normal(convolve(x, factors, **options).shape)
    found = CP_CONV_BACKWARD[len(size)](grad, x, factors, **options)
    v = rng.standard_normal(x.shape)
    moved = np.vdot(grad, convolve(v, factors, **options))
    assert np.vdot(found.input, v) == pytest.approx(moved, rel=1e-11, abs=1e-11)
    for k, factor in enumerate(factors):
        v = rng.standard_normal(factor.shape)
        moved = np.vdot(grad, convolve(x, [*factors[:k], v, *factors[k + 1 :]], **options))
        assert np.vdot(found.factors[k], v) == pytest.approx(moved, rel=1e-11, abs=1e-11)


def test_rank_one_kernel_of_the_homework():
    """W[o,i,l,k] = a_o b_i c_l d_k: the four gradients, each written as one sum over windows."""
    x, factors, _ = cp_arrays((6, 5), (3, 2), rank=1)
    a, b, c, d = (factor[:, 0] for factor in factors)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 2), axis=(2, 3))
    y = F.cp_conv2d(x, factors)
    assert_close(y, np.einsum("o,i,l,k,nipqlk->nopq", a, b, c, d, windows))
    found = F.cp_conv2d_backward(y, x, factors).factors
    assert_close(found[0][:, 0], np.einsum("nopq,i,l,k,nipqlk->o", y, b, c, d, windows))
    assert_close(found[1][:, 0], np.einsum("nopq,o,l,k,nipqlk->i", y, a, c, d, windows))
    assert_close(found[2][:, 0], np.einsum("nopq,o,i,k,nipqlk->l", y, a, b, d, windows))
    assert_close(found[3][:, 0], np.einsum("nopq,o,i,l,nipqlk->k", y, a, b, c, windows))


@pytest.mark.parametrize("algorithm", ORDERS[2])
def test_elements_that_the_stride_skips_have_no_part(algorithm):
    """Rows and columns that no tap reads: NaN there reaches nothing, and their gradient is zero."""
    x, factors, bias = cp_arrays((7, 9), (1, 2), rank=3)
    options = {"stride": (3, 2), "dilation": (1, 2)}
    order = {"algorithm": algorithm}
    read = np.zeros((7, 9), bool)
    read[::3, ::2] = True
    x[:, :, ~read] = np.nan
    y = F.cp_conv2d(x, factors, bias, **options, **order)
    found = F.cp_conv2d_backward(np.ones_like(y), x, factors, **options, **order)
    clean = np.where(read, x, 0.0)
    assert_close(y, judged(dense_kernel, clean, factors, bias, **options))
    grad_x, grad_factors, _ = judged_gradients(dense_kernel, np.ones_like(y), clean, factors, **options)
    assert_close(found.input, grad_x)
    assert np.all(found.input[:, :, ~read] == 0)
    for gradient, judgement in zip(found.factors, grad_factors, strict=True):
        assert_close(gradient, judgement)


@pytest.mark.parametrize("algorithm", ORDERS[2])
@pytest.mark.parametrize("mask", [(True, False, False), (False, True, False), (False, False, True), (False,) * 3])
def test_cp_output_mask(mask, algorithm):
    x, factors, _ = cp_arrays((6, 7), (3, 2), rank=3)
    grad = np.random.default_rng(1).standard_normal((2, 4, 4, 6))
    everything = F.cp_conv2d_backward(grad, x, factors, algorithm=algorithm)
    found = F.cp_conv2d_backward(grad, x, factors, output_mask=mask, algorithm=algorithm)
    for needed, gradient, full in zip(mask, found, everything, strict=True):
        if not needed:
            assert gradient is None
        else:
            for one, other in zip(gradient, full, strict=True):
                np.testing.assert_array_equal(one, other)


# Large enough for several bands, tiles of columns and groups of images, where these do not divide evenly.
LARGE = {
    "bands": ((2, 5, 61, 47), (3, 3), 96, {"padding": 1}),
    "bands, strided": ((1, 5, 75, 67), (5, 3), 72, {"stride": 2, "padding": (2, 0)}),
    "bands, dilated and pairs": ((1, 5, 70, 53), (3, 2), 80, {"dilation": (4, 3), "padding": ((9, 1), (0, 5))}),
    "bands of what no cache holds": ((1, 68, 161, 149), (3, 3), 20, {"padding": 1}),
    "bands of what no cache holds, many middle channels": ((1, 68, 161, 149), (3, 3), 44, {"padding": 1}),
    "tiles": ((1, 3, 9, 1501), (3, 5), 48, {"padding": (1, 2)}),
    "tiles, strided": ((1, 3, 11, 1900), (3, 5), 40, {"stride": (2, 3), "padding": 4}),
    "bands and tiles": ((1, 3, 23, 977), (5, 7), 64, {"padding": (2, 9), "dilation": (2, 3)}),
    "groups of images": ((23, 6, 13, 11), (3, 3), 40, {"padding": 1}),
    "small images side by side": ((29, 6, 5, 5), (3, 3), 40, {"padding": 1}),
    "groups of small images": ((23, 6, 7, 7), (3, 3), 200, {"padding": 1}),
    "small images, strided": ((19, 9, 7, 6), (3, 2), 24, {"stride": 2, "padding": (0, 1)}),
    "small images, few terms": ((9, 33, 5, 7), (2, 3), 7, {"stride": (3, 1)}),
    "two runs of bands share rows": ((1, 64, 39, 39), (3, 3), 17, {"stride": (1, 2), "padding": (0, 3)}),
    "1-D tiles": ((2, 3, 9001), (31,), 24, {"padding": 15}),
    "1-D tiles, strided": ((1, 3, 20011), (9,), 24, {"stride": 3, "dilation": 5, "padding": ((7, 40),)}),
}
large = pytest.mark.parametrize(("shape", "kernel", "rank", "options"), LARGE.values(), ids=LARGE)


def everything(shape, kernel, rank, options, algorithm, dtype=np.float64):
    """(y, gradients) of one order."""
    x, factors, bias = cp_arrays(shape[2:], kernel, rank, shape[1], 4, shape[0], dtype=dtype)
    axes = len(kernel)
    y = CP_CONV[axes](x, factors, bias, **options, algorithm=algorithm)
    found = CP_CONV_BACKWARD[axes](y, x, factors, **options, algorithm=algorithm)
    return [y, found.input, *found.factors, found.bias]


@large
def test_bands_tiles_and_groups_equal_the_whole(shape, kernel, rank, options):
    expected = everything(shape, kernel, rank, options, "dense")
    for order in ORDERS[len(kernel)][1:-1]:
        for one, other in zip(everything(shape, kernel, rank, options, order), expected, strict=True):
            assert_close(one, other)


@pytest.mark.usefixtures("restore_configuration")
@large
def test_same_bits_at_any_number_of_threads(shape, kernel, rank, options):
    for order in ORDERS[len(kernel)][1:]:
        fastconv.set_num_threads(1)
        alone = everything(shape, kernel, rank, options, order, np.float32)
        for threads in (2, 3, 8):
            fastconv.set_num_threads(threads)
            for one, other in zip(everything(shape, kernel, rank, options, order, np.float32), alone, strict=True):
                np.testing.assert_array_equal(one, other)


# ---- separable convolution ---------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("multiplier", [1, 2])
@geometries
def test_separable_equals_the_dense_convolution(options, multiplier, dtype):
    x, weights, bias = separable_arrays((7, 9), (3, 2), multiplier, dtype=dtype)
    y = F.separable_conv2d(x, *weights, bias, **options)
    assert y.dtype == dtype
    assert y.flags.c_contiguous
    assert_close(y, judged(separable_kernel, x, weights, bias, **options))
    grad = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
    found = F.separable_conv2d_backward(grad, x, *weights, **options)
    assert found._fields == ("input", "depthwise_weight", "pointwise_weight", "bias")
    grad_x, grad_weights, grad_bias = judged_gradients(separable_kernel, grad, x, weights, **options)
    for gradient, judgement in zip(found, (grad_x, *grad_weights, grad_bias), strict=True):
        assert gradient.dtype == dtype
        assert_close(gradient, judgement)


TORCH_ACTIVATIONS = {"relu": torch.relu, "relu6": torch.nn.functional.relu6}
activations = pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)


def judged_separable(x, weights, bias, grad, activation, padding, stride=1):
    """The output, and the gradients of all arguments, as PyTorch's float64 layers have them."""
    leaves = [judge.leaf(array) for array in (x, *weights, bias)]
    x, depthwise, pointwise, bias = leaves
    z = torch.nn.functional.conv2d(x, depthwise, None, stride, padding, groups=x.shape[1])
    y = torch.nn.functional.conv2d(TORCH_ACTIVATIONS[activation](z), pointwise, bias)
    y.backward(torch.tensor(grad).double())
    return [y.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]


def separable_with(activation, x, weights, bias, grad, **options):
    y = F.separable_conv2d(x, *weights, bias, **options, activation=activation)
    return [y, *F.separable_conv2d_backward(grad, x, *weights, **options, activation=activation)]


# Shape of the input, kernel, stride: one band; bands, whose first ones recompute what they gate; tiles, which overlap; images
# side by side.
ACTIVATED = {
    "one band": ((2, 5, 9, 8), (3, 3), 1),
    "strided": ((2, 5, 9, 8), (3, 2), (2, 1)),
    "bands": ((1, 96, 57, 47), (3, 3), 1),
    "bands, strided": ((1, 64, 90, 71), (5, 3), 2),
    "tiles": ((1, 48, 9, 1501), (3, 5), 1),
    "side by side": ((23, 100, 7, 7), (3, 3), 1),
    "channels of a dense one": ((3, 16, 1, 1), (1, 1), 1),
}
activated = pytest.mark.parametrize(("shape", "kernel", "stride"), ACTIVATED.values(), ids=ACTIVATED)


def activated_arrays(shape, kernel, stride, dtype):
    rng = np.random.default_rng(0)
    shapes = [shape, (2 * shape[1], 1, *kernel), (5, 2 * shape[1], 1, 1), (5,)]
    x, depthwise, pointwise, bias = (2 * rng.standard_normal(size).astype(dtype) for size in shapes)
    options = {"stride": stride, "padding": (kernel[0] // 2, kernel[1] // 2)}
    grad = rng.standard_normal(F.separable_conv2d(x, depthwise, pointwise, **options).shape).astype(dtype)
    return (x, (depthwise, pointwise), bias, grad), options


@dtypes
@activations
@activated
def test_separable_with_an_activation_equals_three_layers(shape, kernel, stride, activation, dtype):
    (x, weights, bias, grad), options = activated_arrays(shape, kernel, stride, dtype)
    found = separable_with(activation, x, weights, bias, grad, **options)
    expected = judged_separable(x, weights, bias, grad, activation, options["padding"], stride)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        assert_close(one, other)


@pytest.mark.usefixtures("restore_configuration")
@activations
@activated
def test_separable_with_an_activation_has_the_same_bits_at_any_number_of_threads(shape, kernel, stride, activation):
    (x, weights, bias, grad), options = activated_arrays(shape, kernel, stride, np.float32)
    fastconv.set_num_threads(1)
    alone = separable_with(activation, x, weights, bias, grad, **options)
    for threads in (2, 3):
        fastconv.set_num_threads(threads)
        for one, other in zip(separable_with(activation, x, weights, bias, grad, **options), alone, strict=True):
            np.testing.assert_array_equal(one, other)


@activations
@pytest.mark.parametrize("position", range(4))
def test_separable_with_an_activation_output_mask(position, activation):
    (x, weights, bias, grad), options = activated_arrays((2, 5, 9, 8), (3, 3), 1, np.float64)
    everything = F.separable_conv2d_backward(grad, x, *weights, **options, activation=activation)
    mask = [k == position for k in range(4)]
    found = F.separable_conv2d_backward(grad, x, *weights, **options, activation=activation, output_mask=mask)
    np.testing.assert_array_equal(found[position], everything[position])
    assert [gradient is not None for gradient in found] == mask


def test_separable_activations_keep_what_is_not_finite():
    x, one = np.array([-np.inf, -1.0, np.inf, np.nan]).reshape(1, 1, 1, 4), np.ones((1, 1, 1, 1))
    y = F.separable_conv2d(x, one, one, activation="relu")
    np.testing.assert_array_equal(y.ravel(), [0.0, 0.0, np.inf, np.nan])
    found = F.separable_conv2d_backward(np.ones_like(x), x, one, one, activation="relu")
    np.testing.assert_array_equal(found.input.ravel(), [0.0, 0.0, 1.0, 1.0])


@given(
    axes=st.tuples(axis_options(), axis_options()),
    multiplier=st.integers(1, 3),
    out_channels=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_separable_is_exact_on_dyadic_numbers(axes, multiplier, out_channels, seed):
    size, kernel, stride, dilation, padding = zip(*axes, strict=True)
    options = {"stride": stride, "dilation": dilation, "padding": padding}
    rng = np.random.default_rng(seed)
    shapes = [(2, CHANNELS, *size), (CHANNELS * multiplier, 1, *kernel), (out_channels, CHANNELS * multiplier, 1, 1)]
    x, *weights = (eighths(rng, shape) for shape in shapes)
    y = F.separable_conv2d(x, *weights, **options)
    np.testing.assert_array_equal(y, judged(separable_kernel, x, weights, None, **options))
    grad = eighths(rng, y.shape)
    found = F.separable_conv2d_backward(grad, x, *weights, **options)
    grad_x, grad_weights, grad_bias = judged_gradients(separable_kernel, grad, x, weights, **options)
    for gradient, judgement in zip(found, (grad_x, *grad_weights, grad_bias), strict=True):
        np.testing.assert_array_equal(gradient, judgement)


SEPARABLE_LARGE = {
    "bands": ((2, 24, 61, 47), (3, 3), 2, {"padding": 1}),
    "bands, strided": ((1, 48, 75, 67), (5, 3), 1, {"stride": 2, "padding": (2, 0)}),
    "images of a batch, each a band": ((3, 48, 37, 41), (3, 3), 1, {"padding": 1}),
    "halves of a lone image": ((1, 200, 13, 14), (3, 3), 1, {"padding": 1}),
    "tiles": ((1, 24, 9, 1501), (3, 5), 2, {"padding": (1, 2), "dilation": (1, 2)}),
    "groups of images": ((23, 12, 19, 8), (3, 3), 3, {"padding": 1, "stride": (2, 1)}),
    "small images side by side": ((29, 12, 5, 5), (3, 3), 1, {"padding": 1}),
    "groups of small images": ((23, 100, 7, 7), (3, 3), 2, {"padding": 1}),
    "small images, strided": ((19, 9, 11, 9), (3, 2), 2, {"stride": 2, "padding": (0, 1)}),
}


def all_separable(shape, kernel, multiplier, options, dtype):
    rng = np.random.default_rng(0)
    channels, middle = shape[1], shape[1] * multiplier
    shapes = [shape, (middle, 1, *kernel), (5, middle, 1, 1), (5,)]
    x, depthwise, pointwise, bias = (rng.standard_normal(size).astype(dtype) for size in shapes)
    y = F.separable_conv2d(x, depthwise, pointwise, bias, **options)
    found = F.separable_conv2d_backward(y, x, depthwise, pointwise, **options)
    z = F.conv2d(x, depthwise, groups=channels, **options)
    mix = F.conv2d_backward(y, z, pointwise)
    filters = F.conv2d_backward(mix.input, x, depthwise, groups=channels, **options)
    return [y, *found], [F.conv2d(z, pointwise, bias), filters.input, filters.weight, mix.weight, mix.bias]


@pytest.mark.parametrize(
    ("shape", "kernel", "multiplier", "options"), SEPARABLE_LARGE.values(), ids=SEPARABLE_LARGE
)
def test_separable_bands_tiles_and_groups_equal_two_calls(shape, kernel, multiplier, options):
    for one, other in zip(*all_separable(shape, kernel, multiplier, options, np.float64), strict=True):
        assert_close(one, other)


@pytest.mark.usefixtures("restore_configuration")
@pytest.mark.parametrize(
    ("shape", "kernel", "multiplier", "options"), SEPARABLE_LARGE.values(), ids=SEPARABLE_LARGE
)
def test_separable_has_the_same_bits_at_any_number_of_threads(shape, kernel, multiplier, options):
    fastconv.set_num_threads(1)
    alone, _ = all_separable(shape, kernel, multiplier, options, np.float32)
    for threads in (2, 3, 8):
        fastconv.set_num_threads(threads)
        for one, other in zip(all_separable(shape, kernel, multiplier, options, np.float32)[0], alone, strict=True):
            np.testing.assert_array_equal(one, other)


@geometries
def test_separable_backward_is_the_adjoint_in_every_argument(options):
    x, weights, _ = separable_arrays((7, 9), (3, 2))
    arrays = [x, *weights]
    rng = np.random.default_rng(2)
    grad = rng.standard_normal(F.separable_conv2d(*arrays, **options).shape)
    found = F.separable_conv2d_backward(grad, *arrays, **options)
    for k, array in enumerate(arrays):
        v = rng.standard_normal(array.shape)
        moved = np.vdot(grad, F.separable_conv2d(*arrays[:k], v, *arrays[k + 1 :], **options))
        assert np.vdot(found[k], v) == pytest.approx(moved, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("position", range(4))
def test_separable_output_mask(position):
    x, weights, _ = separable_arrays((6, 7), (3, 2))
    grad = np.random.default_rng(1).standard_normal((2, 4, 4, 6))
    everything = F.separable_conv2d_backward(grad, x, *weights)
    mask = [k == position for k in range(4)]
    found = F.separable_conv2d_backward(grad, x, *weights, output_mask=mask)
    np.testing.assert_array_equal(found[position], everything[position])
    assert [gradient is not None for gradient in found] == mask


# ---- arrays of every kind ----------------------------------------------------------------------


def test_unbatched_input():
    x, factors, bias = cp_arrays((6, 7), (3, 2), rank=3, batch=1)
    y = F.cp_conv2d(x, factors, bias, padding=1)
    np.testing.assert_array_equal(F.cp_conv2d(x[0], factors, bias, padding=1), y[0])
    found, batched = (F.cp_conv2d_backward(g, z, factors, padding=1) for g, z in ((y[0], x[0]), (y, x)))
    np.testing.assert_array_equal(found.input, batched.input[0])
    np.testing.assert_array_equal(found.factors[1], batched.factors[1])

    x, factors, bias = cp_arrays((7,), (3,), rank=2, batch=1)
    y = F.cp_conv1d(x, factors, bias, stride=2)
    np.testing.assert_array_equal(F.cp_conv1d(x[0], factors, bias, stride=2), y[0])
    found = F.cp_conv1d_backward(y[0], x[0], factors, stride=2)
    np.testing.assert_array_equal(found.input, F.cp_conv1d_backward(y, x, factors, stride=2).input[0])

    x, weights, bias = separable_arrays((6, 7), (3, 2), batch=1)
    y = F.separable_conv2d(x, *weights, bias)
    np.testing.assert_array_equal(F.separable_conv2d(x[0], *weights, bias), y[0])
    found = F.separable_conv2d_backward(y[0], x[0], *weights)
    np.testing.assert_array_equal(found.input, F.separable_conv2d_backward(y, x, *weights).input[0])


def test_empty_batch():
    x, factors, bias = cp_arrays((6, 7), (3, 2), rank=3, batch=0)
    y = F.cp_conv2d(x, factors, bias, stride=2)
    assert y.shape == (0, 4, 2, 3)
    found = F.cp_conv2d_backward(y, x, factors, stride=2)
    assert found.input.shape == x.shape
    for gradient, array in zip((*found.factors, found.bias), (*factors, bias), strict=True):
        np.testing.assert_array_equal(gradient, np.zeros_like(array))

    x, weights, bias = separable_arrays((6, 7), (3, 2), batch=0)
    y = F.separable_conv2d(x, *weights, bias)
    assert y.shape == (0, 4, 4, 6)
    found = F.separable_conv2d_backward(y, x, *weights)
    assert found.input.shape == x.shape
    for gradient, array in zip(found[1:], (*weights, bias), strict=True):
        np.testing.assert_array_equal(gradient, np.zeros_like(array))


def awkward(array):
    """Equal values in a read-only array with reversed, transposed, non-contiguous memory."""
    room = np.zeros((*array.shape[::-1], 2), array.dtype).T[1][..., ::-1]
    room[...] = array
    room.flags.writeable = False
    return room


def test_any_memory_layout_read_only():
    x, factors, bias = cp_arrays((6, 7), (3, 2), rank=3)
    grad = np.random.default_rng(1).standard_normal((2, 4, 6, 8))
    y = F.cp_conv2d(awkward(x), [awkward(f) for f in factors], awkward(bias), padding=1)
    assert_close(y, F.cp_conv2d(x, factors, bias, padding=1))
    found = F.cp_conv2d_backward(awkward(grad), awkward(x), [awkward(f) for f in factors], padding=1)
    expected = F.cp_conv2d_backward(grad, x, factors, padding=1)
    for one, other in zip((found.input, *found.factors), (expected.input, *expected.factors), strict=True):
        assert_close(one, other)

    x, weights, bias = separable_arrays((6, 7), (3, 2))
    y = F.separable_conv2d(awkward(x), *map(awkward, weights), awkward(bias), padding=1)
    assert_close(y, F.separable_conv2d(x, *weights, bias, padding=1))


def test_channels_last_in_channels_last_out():
    x, factors, bias = cp_arrays((6, 7), (3, 2), rank=3)
    photographs = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    y = F.cp_conv2d(photographs, factors, bias)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    assert_close(y, F.cp_conv2d(x, factors, bias))

    x, weights, bias = separable_arrays((6, 7), (3, 2))
    photographs = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    y = F.separable_conv2d(photographs, *weights, bias)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    assert_close(y, F.separable_conv2d(x, *weights, bias))


def test_every_way_to_write_the_geometry():
    x, factors, bias = cp_arrays((6, 7), (3, 2), rank=3)
    y = F.cp_conv2d(x, factors, bias, stride=2, padding=1)
    for stride in ((2, 2), [2, 2], (2,), np.array([2, 2]), np.int64(2)):
        for padding in ((1, 1), (1,), ((1, 1), (1, 1)), [[1, 1], [1, 1]], np.ones(2, int), np.ones((2, 2), int)):
            np.testing.assert_array_equal(F.cp_conv2d(x, factors, bias, stride, padding), y)


def test_torch_tensors_are_taken_as_arrays():
    x, factors, bias = cp_arrays((6, 7), (3, 2), rank=3)
    y = F.cp_conv2d(torch.tensor(x), [torch.tensor(f) for f in factors], torch.tensor(bias))
    np.testing.assert_array_equal(y, F.cp_conv2d(x, factors, bias))


# ---- wrong input -------------------------------------------------------------------------------

X, (A, B, C, D), BIAS = cp_arrays((6, 7), (3, 2), rank=2)
_, (DEPTHWISE, POINTWISE), _ = separable_arrays((6, 7), (3, 2))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"factors": (A, B, C)}, ValueError, r"factors: expected 4 arrays \(a, b, c, d\), got 3"),
        ({"factors": A}, TypeError, "factors: expected a tuple of 4 arrays .*, got ndarray"),
        ({"factors": 3}, TypeError, "factors: expected a tuple of 4 arrays .*, got int"),
        ({"factors": (A, B, C, D[:, :1])}, ValueError, r"factors\[3\] \(d\): expected rank 2, .* got shape \(2, 1\)"),
        ({"factors": (A, B[:, 0], C, D)}, ValueError, r"factors\[1\] \(b\): expected shape .* got \(3,\)"),
        ({"factors": [f[:, :0] for f in (A, B, C, D)]}, ValueError, r"factors\[0\] \(a\): .*rank of at least 1"),
        ({"factors": (A, B, C[:0], D)}, ValueError, r"factors\[2\] \(c\): expected shape .* got \(0, 2\)"),
        ({"factors": (A, B[:2], C, D)}, ValueError, r"factors\[1\] \(b\): expected 3 rows, .* got shape \(2, 2\)"),
        ({"factors": (A, B.astype("f4"), C, D)}, TypeError, r"factors\[1\] \(b\): expected float64, .* got float32"),
        ({"factors": (A, B, C.astype(int), D)}, TypeError, r"factors\[2\] \(c\): .* got int64"),
        ({"input": X.astype("f4")}, TypeError, "factors: expected float32, the dtype of input, got float64"),
        ({"input": X.astype(int)}, TypeError, "input: expected float32 or float64, got int64"),
        ({"input": X[0, 0]}, ValueError, r"input: expected 4 axes .* got shape \(6, 7\)"),
        ({"input": X[:, :, :2]}, ValueError, "input: expected at least 3 elements .* axis 0.*; got 2"),
        ({"bias": BIAS[:3]}, ValueError, r"bias: expected shape \(4,\), got \(3,\)"),
        ({"bias": BIAS.astype("f4")}, TypeError, "bias: expected float64"),
        ({"stride": 0}, ValueError, "stride: expected an int from 1 .* or a tuple of 2; got 0"),
        ({"stride": (1, 2, 3)}, ValueError, r"stride: expected .* got \(1, 2, 3\)"),
        ({"stride": 1.5}, TypeError, "stride: expected .* got 1.5"),
        ({"dilation": (1, -1)}, ValueError, r"dilation: expected .* got \(1, -1\)"),
        ({"padding": -1}, ValueError, "padding: .* none negative; got -1"),
        ({"padding": "full"}, ValueError, "padding: expected 'same', 'valid', .* got 'full'"),
        ({"padding": (1, 2, 3)}, ValueError, r"padding: .* got \(1, 2, 3\)"),
        ({"padding": ((1, 2, 3), 0)}, ValueError, r"padding: .* got \(\(1, 2, 3\), 0\)"),
        ({"padding": ((1, 2), 0)}, ValueError, r"padding: .* got \(\(1, 2\), 0\)"),
        ({"padding": ((1, 2),)}, ValueError, r"padding: .* got \(\(1, 2\),\)"),
        ({"padding": 0.5}, TypeError, "padding: .* got 0.5"),
        ({"padding": ((True, 1), (1, 1))}, TypeError, "padding: .* got"),
        ({"padding": 2**62}, ValueError, f"padding: expected at most .* got {2**62}"),
        ({"algorithm": "winograd"}, ValueError, r"algorithm: expected 'auto' or one of .* got 'winograd'"),
        ({"stride": True}, TypeError, "stride: expected .* got True"),
        ({"stride": b"12"}, TypeError, "stride: expected .* got b'12'"),
        ({"dilation": 2**63}, ValueError, f"dilation: expected .* got {2**63}"),
        ({"input": [[1.0, 2.0], [3.0]]}, TypeError, "input: expected an array, got list"),
        ({"factors": (A, B, C, torch.ones(2, 2, requires_grad=True))}, TypeError, r"factors\[3\] \(d\): .* Tensor"),
    ],
)
def test_wrong_arguments_of_cp_conv2d_are_named(changed, error, message):
    arguments = {"input": X, "factors": (A, B, C, D), "bias": BIAS, **changed}
    with pytest.raises(error, match=message):
        F.cp_conv2d(**arguments)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"grad_output": np.ones((2, 4, 4, 5))}, ValueError, r"grad_output: expected shape \(2, 4, 4, 6\), got"),
        ({"grad_output": np.ones((2, 4, 4, 6), "f4")}, TypeError, "grad_output: expected float64, .* got float32"),
        ({"input": X[0]}, ValueError, r"grad_output: expected shape \(4, 4, 6\), got \(2, 4, 4, 6\)"),
        ({"output_mask": (True, True)}, ValueError, r"output_mask: expected 3 booleans, got \(True, True\)"),
        ({"output_mask": True}, TypeError, "output_mask: expected a tuple of 3 booleans, got True"),
        ({"factors": (A, B, D)}, ValueError, "factors: expected 4 arrays"),
    ],
)
def test_wrong_arguments_of_cp_conv2d_backward_are_named(changed, error, message):
    arguments = {"grad_output": np.ones((2, 4, 4, 6)), "input": X, "factors": (A, B, C, D), **changed}
    with pytest.raises(error, match=message):
        F.cp_conv2d_backward(**arguments)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"input": X[0, 0]}, ValueError, "input: expected 4 axes"),
        ({"depthwise_weight": DEPTHWISE[:, 0]}, ValueError, r"depthwise_weight: .* got \(6, 3, 2\)"),
        ({"depthwise_weight": DEPTHWISE[:5]}, ValueError, "depthwise_weight: expected a multiple of the 3"),
        ({"depthwise_weight": DEPTHWISE[:0]}, ValueError, r"depthwise_weight: .* got \(0, 1, 3, 2\)"),
        ({"depthwise_weight": DEPTHWISE.astype("f4")}, TypeError, "depthwise_weight: expected float64"),
        ({"pointwise_weight": POINTWISE[:, :3]}, ValueError, r"pointwise_weight: expected shape \(OC, 6, 1, 1\), got"),
        ({"pointwise_weight": POINTWISE.astype(int)}, TypeError, "pointwise_weight: expected float32 or float64"),
        ({"bias": BIAS[:2]}, ValueError, r"bias: expected shape \(4,\), got \(2,\)"),
        ({"dilation": 4}, ValueError, "input: expected at least 9 elements .* axis 0.* dilation 4; got 6"),
    ],
)
def test_wrong_arguments_of_separable_conv2d_are_named(changed, error, message):
    arguments = {"input": X, "depthwise_weight": DEPTHWISE, "pointwise_weight": POINTWISE, **changed}
    with pytest.raises(error, match=message):
        F.separable_conv2d(**arguments)
    if "bias" not in changed:
        with pytest.raises(error, match=message):
            F.separable_conv2d_backward(np.ones((2, 4, 4, 6)), **arguments)
