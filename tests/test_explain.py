"""explain(): what it says is printable, complete and true, and every algorithm that it lists can be asked for."""

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
    conv_cases,
    normal,
)

import fastconv
from fastconv import functional as F

pytestmark = pytest.mark.usefixtures("restore_configuration")

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
DIRECTIONS = ("forward", "input", "weight")


def explain(case, **more):
    function = (CONV_TRANSPOSE if hasattr(case, "output_padding") else CONV)[case.axes]
    return fastconv.explain(function, case.input, case.weight, **case.options, dtype=case.dtype, **more)


def double(array):
    return None if array is None else array.astype(np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONV_CASES.values(), ids=CONV_CASES)
def test_every_algorithm_serves_or_says_why_not(case, dtype):
    case = case._replace(dtype=dtype)
    arrays = case.arrays(normal)
    expected = torch_judge.conv(*map(double, arrays), **case.options)
    told = explain(case)
    assert {"im2col", "reference"} <= {option.name for option in told.options}
    for option in told.options:
        if option.reason is None:
            assert_close(CONV[case.axes](*arrays, **case.options, algorithm=option.name), expected)
        else:
            with pytest.raises(ValueError, match="algorithm") as caught:
                CONV[case.axes](*arrays, **case.options, algorithm=option.name)
            assert option.reason in str(caught.value) and repr(option.name) in str(caught.value)


@given(conv_cases(), SEEDS)
def test_every_algorithm_on_any_convolution(case, seed):
    arrays = case.arrays(seed=seed)
    expected = reference.conv(*arrays, **case.options)
    for option in explain(case).options:
        if option.reason is None:
            assert_close(CONV[case.axes](*arrays, **case.options, algorithm=option.name), expected)


@pytest.mark.parametrize("case", CONV_CASES.values(), ids=CONV_CASES)
def test_the_algorithm_told_is_the_one_taken(case):
    """Its result is that of "auto", bit for bit."""
    arrays = case.arrays(normal)
    automatic = CONV[case.axes](*arrays, **case.options)
    asked_for = CONV[case.axes](*arrays, **case.options, algorithm=explain(case).algorithm)
    np.testing.assert_array_equal(asked_for, automatic)


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
