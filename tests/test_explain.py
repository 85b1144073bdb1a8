"""explain(): what it says is printable, complete and true, and every algorithm that it lists can be asked for."""

from functools import partial

import numpy as np
import pytest
import reference
import torch_judge
from hypothesis import given
from reference import assert_close
from shapes import (
    CONV_CASES,
    DTYPES,
    NO_CHANNELS_CASES,
    NO_IMAGES_CASES,
    SEEDS,
    TRANSPOSE_CASES,
    channels_last,
    conv_cases,
    eighths,
    normal,
    transpose_cases,
)

import fastconv
from fastconv import functional as F

pytestmark = pytest.mark.usefixtures("restore_configuration")

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
INPUT = {1: F.conv1d_input, 2: F.conv2d_input, 3: F.conv3d_input}
WEIGHT = {1: F.conv1d_weight, 2: F.conv2d_weight, 3: F.conv3d_weight}
DIRECTIONS = ("forward", "input", "weight")


def explain(case, **more):
    function = (CONV_TRANSPOSE if hasattr(case, "output_padding") else CONV)[case.axes]
    return fastconv.explain(function, case.input, case.weight, **case.options, dtype=case.dtype, **more)


def double(array):
    return None if array is None else array.astype(np.float64)


def passes(case, judge, fill, seed=0, layout=np.asarray):
    """By direction: the call, which takes an algorithm, and the judge's result in float64."""
    x, w, b = case.arrays(fill, seed)
    y = judge.conv(*map(double, (x, w, b)), **case.options)
    grad = fill(np.random.default_rng(seed + 1), y.shape, case.dtype)
    d_input, d_weight, _ = judge.conv_backward(*map(double, (grad, x, w)), **case.options)
    x, grad = layout(x), layout(grad)
    found = {
        "forward": (partial(CONV[case.axes], x, w, b), y),
        "input": (partial(INPUT[case.axes], x.shape, w, grad), d_input),
        "weight": (partial(WEIGHT[case.axes], x, w.shape, grad), d_weight),
    }
    return {direction: (partial(call, **case.options), expected) for direction, (call, expected) in found.items()}


def refused(call, option):
    """Asks for an algorithm that does not serve, and is told why."""
    with pytest.raises(ValueError, match="algorithm") as caught:
        call(algorithm=option.name)
    assert option.reason in str(caught.value) and repr(option.name) in str(caught.value)


def served(call, option):
    """The result, or None where an algorithm is taken for the largest phase of a stride but does not serve another."""
    try:
        return call(algorithm=option.name)
    except ValueError as error:
        assert "every phase" in str(error) and repr(option.name) in str(error)
        return None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONV_CASES.values(), ids=CONV_CASES)
def test_every_algorithm_serves_or_says_why_not(case, dtype):
    case = case._replace(dtype=dtype)
    for direction, (call, expected) in passes(case, torch_judge, normal).items():
        told = explain(case, direction=direction)
        assert {"gemm" if direction == "weight" else "im2col", "reference"} <= {option.name for option in told.options}
        for option in told.options:
            if option.reason is not None:
                refused(call, option)
            elif (got := served(call, option)) is not None:
                assert_close(got, expected)


@given(conv_cases(), SEEDS)
def test_every_algorithm_on_any_convolution(case, seed):
    for direction, (call, expected) in passes(case, reference, eighths, seed).items():
        for option in explain(case, direction=direction).options:
            if option.reason is None and (got := served(call, option)) is not None:
                assert_close(got, expected)


@given(conv_cases(), SEEDS)
def test_every_algorithm_channels_last(case, seed):
    """Which ones serve depends on the layout: the others say so."""
    for direction, (call, expected) in passes(case, reference, eighths, seed, channels_last).items():
        taken = 0
        for option in explain(case, direction=direction).options:
            try:
                got = call(algorithm=option.name)
            except ValueError as error:
                assert repr(option.name) in str(error)
            else:
                assert_close(got, expected)
                taken += 1
        assert taken >= 2


@given(transpose_cases(), SEEDS)
def test_every_algorithm_on_any_transposed_convolution(case, seed):
    arrays = case.arrays(seed=seed)
    expected = reference.conv_transpose(*arrays, **case.options)
    for option in explain(case).options:
        call = partial(CONV_TRANSPOSE[case.axes], *arrays, **case.options)
        if option.reason is None and (got := served(call, option)) is not None:
            assert_close(got, expected)


@pytest.mark.parametrize("case", CONV_CASES.values(), ids=CONV_CASES)
def test_the_algorithm_told_is_the_one_taken(case):
    """Its result is that of "auto", bit for bit; but each phase of an input gradient's stride may take one of its own."""
    for direction, (call, _) in passes(case, torch_judge, normal).items():
        if direction != "input" or case.stride == 1:
            np.testing.assert_array_equal(call(algorithm=explain(case, direction=direction).algorithm), call())


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", (CONV_CASES | TRANSPOSE_CASES).values(), ids=CONV_CASES | TRANSPOSE_CASES)
def test_taken_algorithm_is_the_cheapest_that_applies(case, direction):
    told = explain(case, direction=direction)
    applicable = {option.name: option.cost for option in told.options if option.reason is None}
    assert applicable[told.algorithm] == min(applicable.values())
    assert told.options[-1].name == "reference" and told.options[-1].reason is None
    assert all(option.reason for option in told.options if option.name not in applicable)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_printed(direction):
    told = explain(CONV_CASES["dense 3x3"], direction=direction)
    text = str(told)
    assert text.isascii() and "\n" in text
    assert "conv2d" in text and direction in text
    for option in told.options:
        assert option.name in text
        if option.reason is not None:
            assert option.reason in text
    assert "2 threads" in text or "1 thread" in text
    for number in (told.flops, told.bytes, told.workspace):
        assert f"{number:,}" in text or str(number) in text
    assert any(isa in text for isa in ("baseline", "avx2", "avx512", "neon"))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_counts(direction):
    """Every direction of a convolution multiplies each weight with each output pixel once."""
    case = CONV_CASES["unequal everything"]
    told = explain(case, direction=direction)
    y = CONV[case.axes](*case.arrays(), **case.options)
    assert told.flops == 2 * y.size * np.prod(case.weight[1:])
    assert told.bytes == 4 * (np.prod(case.input) + np.prod(case.weight) + y.size)
    assert told.direction == direction


def test_output_shape():
    for case in CONV_CASES.values():
        assert explain(case).output_shape[-case.axes :] == CONV[case.axes](*case.arrays(), **case.options).shape[2:]
    for case in TRANSPOSE_CASES.values():
        y = CONV_TRANSPOSE[case.axes](*case.arrays(), **case.options)
        assert explain(case).output_shape[-case.axes :] == y.shape[2:]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_workspace_is_bounded_for_any_size(direction):
    """Far below the im2col matrix, which would take 166 GB here."""
    told = fastconv.explain(F.conv2d, (64, 256, 1024, 1024), (256, 256, 3, 3), padding=1, direction=direction)
    assert 0 < told.workspace <= 64 << 20


def test_threads_and_isa():
    case = CONV_CASES["dense 3x3"]
    fastconv.set_num_threads(3)
    assert explain(case).threads == 3
    fastconv.set_num_threads(1)
    assert explain(case).threads == 1
    fastconv.set_num_threads(8)
    assert explain(CONV_CASES["homework 2ch length 4"]).threads == 1
    assert explain(case).isa in ("baseline", "avx2", "avx512", "neon")


def test_one_image_without_batch_axis():
    told = fastconv.explain(F.conv2d, (16, 20, 20), (8, 16, 3, 3))
    batched = fastconv.explain(F.conv2d, (1, 16, 20, 20), (8, 16, 3, 3))
    assert told.algorithm == batched.algorithm and told.flops == batched.flops


EMPTY_CASES = NO_IMAGES_CASES | NO_CHANNELS_CASES


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", EMPTY_CASES.values(), ids=EMPTY_CASES)
def test_nothing_to_do(case, direction):
    told = explain(case, direction=direction)
    assert told.flops == 0 and "0 FLOPs" in str(told)
    assert explain(case._replace(dtype=np.float64), direction=direction).flops == 0


@pytest.mark.parametrize("name", sorted(EMPTY_CASES))
def test_algorithm_for_nothing(name):
    """Asking for an algorithm changes nothing where there is nothing to do, or is refused."""
    case = EMPTY_CASES[name]
    arrays = case.arrays()
    expected = CONV[case.axes](*arrays, **case.options)
    for algorithm in ("im2col", "reference"):
        try:
            y = CONV[case.axes](*arrays, **case.options, algorithm=algorithm)
        except ValueError as error:
            assert "algorithm" in str(error)
        else:
            np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_number_of_threads_does_not_choose_the_algorithm(direction):
    """Two algorithms would round differently, and a large machine must not fall back to a slow one."""
    taken = set()
    for count in (1, 2, 16, 64, 256):
        fastconv.set_num_threads(count)
        told = fastconv.explain(F.conv2d, (32, 128, 56, 56), (128, 128, 3, 3), padding=1, direction=direction)
        taken.add(told.algorithm)
    assert len(taken) == 1 and "reference" not in taken


def test_double_precision_has_its_own_account():
    single, double = (fastconv.explain(F.conv2d, (1, 8, 9, 9), (8, 8, 3, 3), dtype=dtype) for dtype in DTYPES)
    assert double.bytes == 2 * single.bytes and double.flops == single.flops


def test_arrays_stand_for_their_layout():
    """A first convolution of a photograph reads channels-last memory in place, where a copy would need a workspace."""
    x = np.zeros((1, 224, 224, 64), np.float32).transpose(0, 3, 1, 2)
    w = np.zeros((64, 64, 1, 1), np.float32)
    in_place, told = fastconv.explain(F.conv2d, x, w), fastconv.explain(F.conv2d, x.shape, w.shape)
    assert in_place.options != told.options and in_place.flops == told.flops and in_place.bytes == told.bytes
    assert fastconv.explain(F.conv2d, np.ascontiguousarray(x), w) == told
    assert fastconv.explain(F.conv2d, np.ascontiguousarray(x), w.shape) == told
    sliced = np.zeros((64, 128, 3, 3), np.float32)[:, ::2]
    assert fastconv.explain(F.conv2d, x, sliced, padding=1).bytes == 4 * (2 * x.size + sliced.size)
    wide = fastconv.explain(F.conv2d, x.astype(np.float64), (64, 64, 1, 1))
    assert wide == fastconv.explain(F.conv2d, x.astype(np.float64), (64, 64, 1, 1), dtype=np.float32)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("function, arguments", [(F.conv2d, (2, 1)), (F.conv_transpose2d, (2, 1))])
def test_the_algorithm_told_for_channels_last_arrays_serves_them(function, arguments, direction):
    x = np.zeros((2, 9, 9, 8), np.float32).transpose(0, 3, 1, 2)
    w = np.zeros((8, 8, 3, 3), np.float32)[:, ::-1]
    told = fastconv.explain(function, x, w, *arguments, direction=direction)
    assert told.output_shape == function(x, w, None, *arguments).shape[2:]
    assert told.algorithm in [option.name for option in told.options if option.reason is None]


def test_wrong_arguments():
    good = (1, 8, 9, 9), (8, 8, 3, 3)
    with pytest.raises(TypeError, match="function.*conv2d"):
        fastconv.explain(F.conv2d_backward, *good)
    with pytest.raises(TypeError, match="function"):
        fastconv.explain("conv2d", *good)
    with pytest.raises(ValueError, match="direction.*forward.*'backward'"):
        fastconv.explain(F.conv2d, *good, direction="backward")
    with pytest.raises(TypeError, match="dtype.*float16"):
        fastconv.explain(F.conv2d, *good, dtype="float16")
    with pytest.raises(ValueError, match="weight"):
        fastconv.explain(F.conv2d, (1, 7, 9, 9), (8, 8, 3, 3))
    with pytest.raises(ValueError, match="kernel 3"):
        fastconv.explain(F.conv2d, (1, 8, 2, 2), (8, 8, 3, 3))
    with pytest.raises(ValueError, match="input_shape"):
        fastconv.explain(F.conv2d, (8, 9), (8, 8, 3, 3))
    with pytest.raises(TypeError, match="input_shape"):
        fastconv.explain(F.conv2d, None, (8, 8, 3, 3))
    with pytest.raises(ValueError, match="stride"):
        fastconv.explain(F.conv2d, *good, stride=0)
    with pytest.raises(TypeError, match="dtype.*int64"):
        fastconv.explain(F.conv2d, np.zeros(good[0], np.int64), good[1])
    with pytest.raises(TypeError, match="input's dtype, got float32 and float64"):
        fastconv.explain(F.conv2d, np.zeros(good[0], np.float32), np.zeros(good[1]))
    with pytest.raises(ValueError, match="input_shape: expected shape .N, C, H, W.*got 2-D"):
        fastconv.explain(F.conv2d, np.zeros((8, 9)), good[1])
    with pytest.raises(TypeError, match="cp_conv1d takes shapes, not arrays"):
        fastconv.explain(F.cp_conv1d, np.zeros((1, 8, 9)), ((8, 2), (8, 2), (3, 2)))


# ---- factored convolutions ---------------------------------------------------------------------

CP_DIRECTIONS = ("forward", "input", "weight", "backward")


def cp_shapes(rank, out_channels=256, channels=256, kernel=(3, 3)):
    return tuple((size, rank) for size in (out_channels, channels, *kernel))


@pytest.mark.parametrize("direction", CP_DIRECTIONS)
def test_orders_of_a_low_rank_convolution(direction):
    told = fastconv.explain(F.cp_conv2d, (1, 256, 56, 56), cp_shapes(64), padding=1, direction=direction)
    orders = {option.name: option for option in told.options}
    assert list(orders) == ["folded", "split", "dense"]
    assert told.algorithm == min(orders.values(), key=lambda order: order.cost).name != "dense"
    assert told.output_shape == (1, 256, 56, 56)
    assert (told.flops, told.bytes) == (orders[told.algorithm].flops, orders[told.algorithm].bytes)
    for order in told.options:
        assert f"{order.flops:,}" in str(told) and f"{order.bytes:,}" in str(told)


def test_counts_of_a_low_rank_convolution():
    told = fastconv.explain(F.cp_conv2d, (2, 16, 20, 30), cp_shapes(4, 24, 16), padding=1)
    folded, split, dense = told.options
    pixels = 2 * 20 * 30
    arrays = 4 * pixels * (16 + 24)
    assert folded.flops == 2 * 4 * pixels * (16 + 9 + 24) and folded.bytes == arrays + 4 * 4 * (16 + 9 + 24)
    assert split.flops == 2 * 4 * pixels * (16 + 6 + 24) and split.bytes == arrays + 4 * 4 * (16 + 6 + 24)
    assert dense.flops == 2 * 24 * 16 * 9 * (pixels + 4) and dense.bytes == arrays + 4 * 24 * 16 * 9


@pytest.mark.parametrize("direction", CP_DIRECTIONS)
def test_a_rank_too_high_takes_the_dense_path(direction):
    told = fastconv.explain(F.cp_conv2d, (8, 16, 28, 28), cp_shapes(256, 16, 16), padding=1, direction=direction)
    assert told.algorithm == "dense"


def test_the_order_told_is_the_one_taken(rng):
    for rank, x_shape in ((2, (1, 8, 20, 20)), (96, (2, 8, 12, 12))):
        x, factors = rng.standard_normal(x_shape), [rng.standard_normal(shape) for shape in cp_shapes(rank, 8, 8)]
        told = fastconv.explain(F.cp_conv2d, x_shape, cp_shapes(rank, 8, 8), dtype=np.float64)
        asked_for = F.cp_conv2d(x, factors, algorithm=told.algorithm)
        np.testing.assert_array_equal(F.cp_conv2d(x, factors), asked_for)


def test_workspace_is_far_below_what_lies_between_the_links():
    fastconv.set_num_threads(1)
    for direction in CP_DIRECTIONS:
        told = fastconv.explain(F.cp_conv2d, (8, 256, 112, 112), cp_shapes(64), padding=1, direction=direction)
        assert told.workspace < 4 * 8 * 64 * 112 * 112 / 8
        told = fastconv.explain(F.cp_conv1d, (1, 64, 10**7), cp_shapes(16, 64, 64, (9,)), padding=4, direction=direction)
        assert told.workspace < 2 << 20


def test_separable_and_one_dimensional_ones():
    told = fastconv.explain(F.separable_conv2d, (64, 56, 56), ((128, 1, 3, 3), (32, 128, 1, 1)), 2, 1)
    assert (told.algorithm, told.output_shape) == ("fused", (32, 28, 28))
    fused, dense = told.options
    assert fused.flops == 2 * 128 * 28 * 28 * (9 + 32) and dense.reason
    told = fastconv.explain(F.cp_conv1d, (64, 5000), cp_shapes(8, 64, 64, (3,)))
    assert told.options[1].reason == "the kernel has one axis"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weight_shape": (256, 256, 3, 3)}, TypeError, "weight_shape: expected a tuple of shapes"),
        ({"weight_shape": cp_shapes(64)[:3]}, ValueError, "factors: expected 4 arrays"),
        ({"direction": "sideways"}, ValueError, "direction: expected one of .*'backward'.* got 'sideways'"),
        ({"groups": 2}, ValueError, "groups, output_padding: expected none for cp_conv2d, got 2, 0"),
        ({"input_shape": (1, 8, 56, 56)}, ValueError, r"factors\[1\] \(b\): expected 8 rows"),
    ],
)
def test_wrong_arguments_for_factored_convolutions_are_named(arguments, error, message):
    arguments = {"input_shape": (1, 256, 56, 56), "weight_shape": cp_shapes(64), **arguments}
    with pytest.raises(error, match=message):
        fastconv.explain(F.cp_conv2d, **arguments)
