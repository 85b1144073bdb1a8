"""The gradient checker: right gradients pass, wrong ones are named, and nothing of the user's is touched."""

from functools import partial
from typing import NamedTuple

import fastconv
import numpy as np
import pytest
import reference
from fastconv import nn
from fastconv.testing import assert_gradients, conv_matrix, gradcheck, vjpcheck
from hypothesis import assume, given
from hypothesis import strategies as st
from reference import assert_close
from shapes import FEW_CHANNELS, SEEDS, conv_cases


def draw(rng, *shape, dtype=np.float64):
    return rng.standard_normal(shape).astype(dtype)


# ---- what may be checked -------------------------------------------------------------------------

CONVOLUTIONS = {
    "conv1d": (fastconv.conv1d, (2, 4, 7), (3, 4, 3), {}),
    "conv2d": (fastconv.conv2d, (2, 3, 5, 4), (2, 3, 3, 2), {}),
    "conv3d": (fastconv.conv3d, (1, 2, 4, 3, 3), (2, 2, 2, 3, 1), {}),
    "no batch": (fastconv.conv2d, (3, 5, 4), (2, 3, 3, 2), {}),
    "stride": (fastconv.conv2d, (2, 4, 6, 5), (4, 2, 3, 3), {"stride": (2, 1), "padding": 1, "groups": 2}),
    "same": (fastconv.conv2d, (1, 2, 5, 6), (2, 2, 2, 3), {"stride": 2, "padding": "same"}),
    "dilation": (fastconv.conv1d, (1, 2, 9), (2, 2, 3), {"dilation": 3, "padding": ((2, 0),)}),
}


@pytest.mark.parametrize(("function", "size", "weight_size", "options"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.parametrize("bias", [False, True])
def test_convolution_pair_takes_its_options_once(rng, function, size, weight_size, options, bias):
    backward = getattr(fastconv, f"{function.__name__}_backward")
    arrays = [draw(rng, *size), draw(rng, *weight_size), *([draw(rng, weight_size[0])] if bias else [])]
    report = gradcheck(partial(function, **options), backward, *arrays)
    assert report, report
    assert [check.name for check in report.arrays] == ["input", "weight", "bias"][: len(arrays)]
    assert [check.checked for check in report.arrays] == [a.size for a in arrays]


def test_options_given_to_backward_are_the_ones_checked(rng):
    forward, backward = partial(fastconv.conv1d, padding=1), partial(fastconv.conv1d_backward, padding=1)
    x, w = draw(rng, 1, 2, 6), draw(rng, 2, 2, 3)
    assert gradcheck(forward, backward, x, w)
    assert gradcheck(forward, None, x, w)
    # An output of the same shape from another place: only the numbers can tell.
    shifted = partial(fastconv.conv1d_backward, padding=((0, 2),))
    assert not gradcheck(forward, shifted, x, w)


POOLS = {
    "max": (fastconv.max_pool2d, {"kernel_size": 2}),
    "overlapping max": (fastconv.max_pool2d, {"kernel_size": 3, "stride": 1, "padding": 1}),
    "adaptive max": (fastconv.adaptive_max_pool2d, {"output_size": (2, 3)}),
    "average": (fastconv.avg_pool2d, {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False}),
    "adaptive average": (fastconv.adaptive_avg_pool2d, {"output_size": 3}),
}


@pytest.mark.parametrize(("function", "options"), POOLS.values(), ids=POOLS)
def test_pooling_pair_gets_sizes_and_indices(rng, function, options):
    backward = getattr(fastconv, f"{function.__name__}_backward")
    assert_gradients(partial(function, **options), backward, draw(rng, 2, 2, 5, 5))


def test_factored_pairs(rng):
    x = draw(rng, 2, 3, 5, 4)
    separable = draw(rng, 6, 1, 3, 3), draw(rng, 2, 6, 1, 1), draw(rng, 2)
    assert_gradients(partial(fastconv.separable_conv2d, padding=1), fastconv.separable_conv2d_backward, x, *separable)
    factors = draw(rng, 4, 2), draw(rng, 3, 2), draw(rng, 3, 2), draw(rng, 2, 2)
    report = gradcheck(fastconv.cp_conv2d, fastconv.cp_conv2d_backward, x, factors, draw(rng, 4))
    assert report, report
    assert [check.name for check in report.arrays] == ["input", *(f"factors[{i}]" for i in range(4)), "bias"]
    assert gradcheck(fastconv.cp_conv1d, None, draw(rng, 1, 3, 6), [draw(rng, 2, 2), draw(rng, 3, 2), draw(rng, 3, 2)])


def test_layers_in_float32_are_checked_in_float64_and_left_alone(rng):
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, seed=0), nn.ReLU(), nn.BatchNorm2d(2)),
        nn.Dropout(0.4, seed=1),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 3, seed=2),
    )
    x = draw(rng, 3, 1, 4, 4, dtype=np.float32)
    net(x)
    before = net.state_dict()
    report = gradcheck(net, None, x)
    assert report, report
    assert [check.name for check in report.arrays] == ["input", *net.params]
    assert [check.shape for check in report.arrays] == [x.shape, *(a.shape for a in net.params.values())]
    after = net.state_dict()
    assert all(after[key].dtype == a.dtype and np.array_equal(after[key], a) for key, a in before.items())
    assert not net.grads
    assert net.backward(np.ones((3, 3), np.float32)).shape == x.shape    # the user's own forward is still remembered
    assert gradcheck(net.eval(), net.backward, x)
    assert gradcheck(net.forward, net.backward, x)


def test_dropout_continues_its_own_random_numbers_after_a_check():
    checked, unchecked = nn.Dropout(0.5, seed=3), nn.Dropout(0.5, seed=3)
    x = np.ones(50)
    gradcheck(checked, None, x)
    assert np.array_equal(checked(x), unchecked(x))


def test_fixed_arrays_and_inner_layers_of_a_layer_are_promoted_too(rng):
    class Blurred(nn.Layer):
        """Layers in a dict and in an attribute that refers back, and a kernel that is not trained."""

        def __init__(self):
            super().__init__()
            self.buffers["kernel"] = np.full((1, 1, 3), 1 / 3, np.float32)
            self.inner = {"first": nn.Conv1d(1, 1, 3, seed=0)}
            self.inner["first"].owner = self

        def _forward(self, x):
            return self.inner["first"](fastconv.conv1d(x, self.buffers["kernel"])), None

        def _backward(self, grad_output, saved, input_gradient):
            grad = self.inner["first"].backward(grad_output)
            return fastconv.conv_transpose1d(grad, self.buffers["kernel"])

    layer = Blurred()
    assert gradcheck(layer, None, draw(rng, 2, 1, 9, dtype=np.float32))
    assert layer.buffers["kernel"].dtype == layer.inner["first"].params["weight"].dtype == np.float32


class Scaled(nn.Layer):
    """y = s x, with a gradient of s that is off by a factor."""

    def __init__(self, factor, dtype=np.float64):
        super().__init__(dtype)
        self.params["s"] = np.array([1.0, 2.0, 3.0], dtype)
        self.factor = factor

    def _forward(self, x):
        return self.params["s"] * x, x

    def _backward(self, grad_output, x, input_gradient):
        self.grads["s"] = grad_output * x * self.factor
        return self.params["s"] * grad_output


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_layer_of_the_users_own(dtype):
    x = np.array([0.5, 0.25, 8.0])
    assert gradcheck(Scaled(1, dtype), None, x)
    report = gradcheck(nn.Sequential(nn.Tanh(), Scaled(np.array([1, 1.5, 1]), dtype)), None, x)
    assert not report
    assert report["input"].passed
    assert (report.worst.name, report.worst.index, report.worst.wrong) == ("1.s", (1,), 1)
    assert report.worst.got == pytest.approx(1.5 * report.worst.expected)


def test_a_layer_that_shares_nothing_but_its_method_names(rng):
    class Square:
        def forward(self, x):
            self.x = x
            return x**2

        def backward(self, grad_output):
            return 2 * self.x * grad_output

    assert gradcheck(Square(), None, draw(rng, 4))


def test_a_hand_derived_gradient_of_a_layer(rng):
    """One's own backward against a layer as the function, which is then a function of its input alone."""
    layer = nn.Conv1d(2, 3, 3, padding=1, seed=0)
    w = layer.params["weight"].astype(np.float64)

    def by_hand(g, x):
        return fastconv.conv1d(g, w.transpose(1, 0, 2)[:, :, ::-1], padding=1)

    report = gradcheck(layer, by_hand, draw(rng, 1, 2, 5))
    assert report, report
    assert [check.name for check in report.arrays] == ["input"]
    assert not gradcheck(layer, lambda g, x: 2 * by_hand(g, x), draw(rng, 1, 2, 5))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_with_their_targets(rng, reduction):
    targets = np.array([2, 0, 1])
    assert gradcheck(nn.CrossEntropyLoss(reduction=reduction), None, draw(rng, 3, 4), targets)
    assert gradcheck(nn.NLLLoss(reduction=reduction), None, draw(rng, 3, 4), targets)
    report = gradcheck(nn.MSELoss(reduction=reduction), None, draw(rng, 3, 4), draw(rng, 3, 4))
    assert report and [check.name for check in report.arrays] == ["input"]


class Gradients(NamedTuple):
    x: object
    w: object


@pytest.mark.parametrize("wrap", [tuple, list, Gradients._make])
def test_own_functions_may_return_any_sequence(rng, wrap):
    x, w = draw(rng, 3, 4), draw(rng, 4, 2)
    report = gradcheck(lambda x, w: x @ w, lambda g, x, w: wrap([g @ w.T, x.T @ g]), x, w)
    assert report and [check.name for check in report.arrays] == ["x", "w"]


def test_a_scalar_function_is_seeded_with_one():
    z, t = np.array([0.3, -1.0, 2.0]), np.array([0, 0, 1])
    p = np.exp(z) / np.exp(z).sum()
    # The sheet's formula, which knows of no upstream gradient; the integer target is a constant.
    assert gradcheck(lambda z, t: np.log(np.exp(z).sum()) - z @ t, lambda g, z, t: p - t, z, t)
    assert gradcheck(lambda z, t: np.log(np.exp(z).sum()) - z @ t, lambda g, z, t: (g * (p - t), None), z, t)


def test_none_is_not_checked(rng):
    report = gradcheck(lambda x, w: x * w, lambda g, x, w: (None, g * x), draw(rng, 3), draw(rng, 3))
    assert report and [check.name for check in report.arrays] == ["w"]


def test_numbers_lists_and_functions_without_a_signature(rng):
    assert gradcheck(lambda a: a**2, lambda g, a: 2 * a * g, 3.0)
    assert gradcheck(np.tanh, lambda g, x: g / np.cosh(x) ** 2, (0.5, 1.5))
    report = gradcheck(lambda *a: a[0] + 2 * a[1], lambda g, *a: (g, 2 * g), draw(rng, 2), draw(rng, 2))
    assert [check.name for check in report.arrays] == ["a[0]", "a[1]"]
    assert report


def test_empty_arrays_pass(rng):
    report = gradcheck(lambda x, w: x @ w, lambda g, x, w: (g @ w.T, x.T @ g), np.zeros((0, 3)), draw(rng, 3, 2))
    assert report and report["x"].checked == 0 and "[" not in report["x"].place
    assert str(report)
    assert vjpcheck(lambda x, w: w + x.sum(), lambda g, x, w: (x, g), np.zeros((0, 3)), draw(rng, 3, 2))


# ---- what is found ------------------------------------------------------------------------------


@given(st.integers(0, 1), st.integers(0, 11), st.sampled_from([1e-4, 1.0, 1e3, np.nan, np.inf]), SEEDS)
def test_the_wrong_element_is_named(array, position, error, seed):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((4, 3)), rng.standard_normal((3, 4))

    def backward(g, x, w):
        gradients = g @ w.T, x.T @ g
        gradients[array].flat[position] += error
        return gradients

    report = gradcheck(np.matmul, backward, x, w, seed=seed)
    index = tuple(int(i) for i in np.unravel_index(position, (x, w)[array].shape))
    assert not report
    assert (report.worst.name, report.worst.index, report.worst.wrong) == (report.arrays[array].name, index, 1)
    assert report.arrays[1 - array].passed
    assert report.worst.got - report.worst.expected == pytest.approx(error, rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("bad", [0, 1])
def test_nan_is_worse_than_any_number(rng, bad):
    def backward(g, *arrays):
        gradients = [3 * g, 3 * g]
        gradients[bad][1] = np.nan
        return gradients

    worst = gradcheck(lambda x, y: x + y, backward, draw(rng, 3), draw(rng, 3)).worst
    assert (worst.name, worst.index) == ("xy"[bad], (1,)) and np.isnan(worst.got)


def test_assertion_message_names_argument_index_expected_and_got():
    def square_backward(g, x, w):
        return 2 * x * w * g, np.where([[0, 0], [0, 1]], 7, x**2) * g

    x, w = np.array([[1.0, 2.0], [3.0, 4.0]]), np.ones((2, 2))
    assert_gradients(lambda x, w: x**2 * w, lambda g, x, w: (2 * x * w * g, x**2 * g), x, w)
    with pytest.raises(AssertionError) as info:
        assert_gradients(lambda x, w: x**2 * w, square_backward, x, w)
    first = str(info.value).splitlines()[0]
    worst = gradcheck(lambda x, w: x**2 * w, square_backward, x, w).worst
    assert worst.got / worst.expected == pytest.approx(7 / 16)
    assert first == (
        f"the gradient with respect to w is wrong at [1, 1]: expected {worst.expected:.9g}, got {worst.got:.9g}"
    )
    assert "gradcheck: FAILED, 1 of 2 gradients wrong" in str(info.value)


def test_the_printed_report(rng):
    report = gradcheck(lambda x, w: x * w, lambda g, x, w: (g * w, 2 * g * x), draw(rng, 2), draw(rng, 2))
    lines = str(report).splitlines()
    assert lines[0] == "gradcheck: FAILED, 1 of 2 gradients wrong"
    assert lines[2].split()[:5] == ["x", "(2,)", "2", "0", "0"] and lines[2].endswith("ok")
    assert lines[3].split()[:5] == ["w", "(2,)", "2", "2", "0"] and lines[3].endswith("WRONG")
    assert repr(report) == str(report)
    with pytest.raises(KeyError):
        report["v"]


def test_every_output_matters():
    """A gradient that forgets one output of many is found, whichever the output and the seed."""
    for forgotten in range(6):
        kept = np.arange(6) != forgotten
        assert not gradcheck(np.sin, lambda g, x, kept=kept: g * np.cos(x) * kept, np.linspace(0, 1, 6), seed=forgotten)


def test_the_tolerance_tells_small_constants(rng):
    """1e-5 added to a variance or taken from it: a relative difference of 1e-5 in the gradient."""
    x = draw(rng, 20)

    def standardise(x, eps=1e-5):
        return (x - x.mean()) / np.sqrt(x.var() + eps)

    def backward(g, x, eps=1e-5):
        xhat = standardise(x, eps)
        return (g - g.mean() - xhat * (g * xhat).mean()) / np.sqrt(x.var() + eps)

    assert gradcheck(standardise, lambda g, x: backward(g, x), x)
    assert not gradcheck(standardise, lambda g, x: backward(g, x, -1e-5), x)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e6])
def test_the_tolerance_scales_with_the_function(rng, scale):
    x = draw(rng, 10)
    assert gradcheck(lambda x: scale * np.sin(x), lambda g, x: scale * np.cos(x) * g, x)
    assert not gradcheck(lambda x: scale * np.sin(x), lambda g, x: scale * np.cos(x) * g * (1 + 1e-4), x)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_the_step_scales_with_the_array(scale):
    x = scale * np.linspace(-2, 2, 7)
    report = gradcheck(lambda x: np.sin(x / scale), lambda g, x: np.cos(x / scale) / scale * g, x)
    assert report and report.worst.kinks == 0
    assert report.worst.error < 1e-7 * np.abs(report.worst.expected)


def test_large_numbers_inside_leave_rounding_that_is_allowed_for(rng):
    """A large constant in the output, and large terms that cancel within it."""
    assert gradcheck(lambda x: 1e6 + np.sin(x), lambda g, x: g * np.cos(x), draw(rng, 10))
    slopes = np.array([1e3, 1e-4, -1e3])
    assert gradcheck(lambda x: np.cumsum(slopes * x)[-1], lambda g, x: g * slopes, np.array([1.0, 0.3, 1.0]))


def test_own_step_and_tolerances():
    def wrong(g, x):
        return g * x * 2.001

    x = np.array([1.0, 2.0])
    assert not gradcheck(np.square, wrong, x)
    assert gradcheck(np.square, wrong, x, rtol=1e-2)
    assert gradcheck(np.square, wrong, x, atol=1e-2)
    assert not gradcheck(np.square, lambda g, x: g * x * 2, x, rtol=0, atol=0)
    # A quadratic has no truncation error at any step, a cubic has h^2.
    assert gradcheck(np.square, lambda g, x: 2 * x * g, x, eps=0.1)
    report = gradcheck(lambda x: x**3, lambda g, x: 3 * x**2 * g, np.array(1.0), eps=0.125, rtol=1.0)
    assert report.worst.expected == pytest.approx(3 + 0.125**2, abs=1e-12)


# ---- kinks, jumps and noise ---------------------------------------------------------------------


@pytest.mark.parametrize("at", [0.0, 1e-9, -1e-9, 1e-7, -3e-7, 2e-6, -5e-6])
def test_relu_at_and_near_its_kink(at):
    def relu(x):
        return np.maximum(x, 0)

    x = np.array([at, 1.0, -1.0])
    report = gradcheck(relu, lambda g, x: g * (x > 0), x)
    assert report and report.worst.kinks == (abs(at) < 5e-8)    # a shorter step gets clear of the others
    assert not gradcheck(relu, lambda g, x: g * (x > 0) * 1.01 - 0.01, x)
    for outside in (-0.1, 1.1):
        report = gradcheck(relu, lambda g, x, outside=outside: g * np.where(np.abs(x) < 1, outside, x > 0), x)
        assert not report and report.worst.index == (0,)
        upstream = report.worst.got / outside
        assert np.isclose(report.worst.expected, [0, upstream], atol=0.03).any()    # one side's slope, not the mean


def test_ties_in_max_pooling_go_to_one_of_them():
    pool = partial(fastconv.max_pool1d, kernel_size=2)
    x = np.ones((1, 1, 6))
    report = gradcheck(pool, fastconv.max_pool1d_backward, x)
    assert report and report.worst.kinks == 6
    assert not gradcheck(pool, lambda g, x: np.repeat(2 * g, 2, axis=-1), x)
    assert not gradcheck(pool, lambda g, x: np.repeat(-g, 2, axis=-1), x)


def test_where_kinks_meet_the_slopes_on_the_two_sides_say_nothing():
    """relu(x) - relu(-x) is x, with slope 1 on either side of 0, but the chain rule with relu'(0) = 0 gives 0 there."""
    def relu_twice(x):
        return np.maximum(x, 0) - np.maximum(-x, 0)

    report = gradcheck(relu_twice, lambda g, x: g * ((x > 0) * 1.0 + (x < 0)), np.array([0.0, 0.5]))
    assert report and report.worst.kinks == 1
    assert not gradcheck(relu_twice, lambda g, x: g * ((x > 0) * 1.0 + (x < 0)) * 0.9, np.array([0.0]))


@pytest.mark.parametrize("seed", range(4))
def test_flat_pictures_through_a_network(seed):
    """Ties in every window, and several windows of the second pooling behind each pixel."""
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, seed=seed),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1, seed=seed),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 4, seed=seed),
        nn.LogSoftmax(1),
    )
    picture = np.kron([[0.0, 1.0], [0.5, 0.0]], np.ones((4, 4)))[None, None]
    report = gradcheck(net, None, picture, seed=seed)
    assert report, report
    assert report["input"].kinks > 0
    assert vjpcheck(net, None, picture, seed=seed)


def test_a_look_beside_may_leave_the_functions_domain():
    assert gradcheck(np.log, lambda g, x: g / x, np.array([1e-4, 1.0]))
    for seed in range(5):
        assert not gradcheck(np.log, lambda g, x: 2 * g / x, np.array([1e-4, 1.0]), seed=seed)


def test_a_look_beside_moves_everything_back():
    """The second array's gradient, relu(x), is 0 where the first one's has its kink, and not beside it."""
    report = gradcheck(
        lambda x, w: np.maximum(x, 0) * w, lambda g, x, w: (g * w * (x > 0), g * np.maximum(x, 0)), np.zeros(5), np.ones(5)
    )
    assert report and [check.kinks for check in report.arrays] == [5, 0]


def test_a_jump_excuses_nothing():
    for step in (np.sign, lambda x: np.heaviside(x, 0.0), lambda x: np.heaviside(x, 1.0)):
        report = gradcheck(step, lambda g, x: 3 * g, np.array([0.0, 1.0]))
        assert not report and report.worst.wrong == 2 and report.worst.kinks == 0


def test_coarse_arithmetic_inside_excuses_nothing(rng):
    def coarse(x):
        return np.sin(x.astype(np.float32)).astype(np.float64)

    assert not gradcheck(coarse, lambda g, x: 5 * g, draw(rng, 10))


def test_a_function_that_does_not_repeat_itself_is_refused(rng):
    with pytest.raises(ValueError, match="function must return the same for the same arrays"):
        gradcheck(lambda x: x * (rng.random(x.shape) < 0.5), lambda g, x: g, draw(rng, 5))


# ---- one direction ------------------------------------------------------------------------------


def test_vjpcheck_names_the_array(rng):
    x, w, b = draw(rng, 2, 3, 8, 8), draw(rng, 4, 3, 3, 3), draw(rng, 4)
    assert vjpcheck(fastconv.conv2d, fastconv.conv2d_backward, x, w, b)

    def backward(g, x, w, b):
        right = fastconv.conv2d_backward(g, x, w)
        return right._replace(weight=right.weight[:, :, ::-1])

    report = vjpcheck(fastconv.conv2d, backward, x, w, b)
    assert not report
    assert [check.passed for check in report.arrays] == [True, False, True]
    assert report.worst.name == "weight" and report.worst.index is None and report.worst.checked == 1
    assert "vjpcheck: FAILED" in str(report)


def test_vjpcheck_crosses_the_kinks_of_a_big_array(rng):
    x = draw(rng, 300_000)
    assert vjpcheck(lambda x: np.maximum(x, 0), lambda g, x: g * (x > 0), x)
    assert not vjpcheck(lambda x: np.maximum(x, 0), lambda g, x: g * (x > -0.01), x)


def test_vjpcheck_evaluates_twice_per_array(rng):
    calls = []

    def function(x, w):
        calls.append(1)
        return x * w

    vjpcheck(function, lambda g, x, w: (g * w, g * x), draw(rng, 50), draw(rng, 50))
    assert len(calls) == 6    # two at the point, two for each array


@given(SEEDS)
def test_seeds_choose_directions(seed):
    x = np.linspace(-1, 1, 7)
    one, same, other = (vjpcheck(np.exp, lambda g, x: g * np.exp(x), x, seed=s) for s in (seed, seed, seed + 1))
    assert one and same and other
    assert one.worst.got == same.worst.got != other.worst.got


# ---- the user's arrays --------------------------------------------------------------------------


def test_arrays_are_never_touched(rng):
    base = draw(rng, 6, 4)
    before = base.copy()
    x = base[::-2, 1:]
    x.flags.writeable = False

    def in_place(x):
        x *= x
        return x

    def backward_in_place(g, x):
        g *= x
        g *= 2
        return g

    assert gradcheck(in_place, backward_in_place, x)
    assert np.array_equal(base, before)


def test_float32_arrays_are_promoted(rng):
    seen = []

    def function(x):
        seen.append(x.dtype)
        return x**2

    assert gradcheck(function, lambda g, x: 2 * x * g, draw(rng, 3, dtype=np.float32))
    assert set(seen) == {np.dtype(np.float64)}


# ---- wrong use ----------------------------------------------------------------------------------

X = np.array([1.0, 2.0, 3.0])


def right(g, x):
    return 2 * x * g


BAD = {
    "no arrays": (TypeError, "give the arrays", lambda: gradcheck(np.square, right)),
    "no function": (TypeError, "function must be callable or a layer, got int", lambda: gradcheck(3, right, X)),
    "forgotten backward": (
        TypeError,
        "backward must be callable, or None .* got ndarray",
        lambda: gradcheck(np.square, X),
    ),
    "None for own code": (TypeError, "backward may be None only", lambda: gradcheck(np.square, None, X)),
    "only integers": (TypeError, "no array of floats", lambda: gradcheck(np.square, right, np.array([1, 2]))),
    "complex": (
        TypeError,
        "x must be an array of real numbers.*complex128",
        lambda: gradcheck(np.square, right, X * 1j),
    ),
    "strings": (TypeError, "x must be an array of real numbers", lambda: gradcheck(np.square, right, "abc")),
    "gradient count": (
        ValueError,
        r"one gradient for each of the 2 arrays \(x, w\), got 3",
        lambda: gradcheck(lambda x, w: x * w, lambda g, x, w: (g, g, g), X, X),
    ),
    "too few gradients": (
        ValueError,
        r"each of the 2 arrays \(x, w\), got 1",
        lambda: gradcheck(lambda x, w: x * w, lambda g, x, w: g * w, X, X),
    ),
    "gradient shape": (
        ValueError,
        r"gradient for x must have its shape \(3,\), got \(1, 3\)",
        lambda: gradcheck(np.square, lambda g, x: right(g, x)[None], X),
    ),
    "gradient kind": (
        TypeError,
        "must be real numbers, got complex",
        lambda: gradcheck(np.square, lambda g, x: g * 1j, X),
    ),
    "all None": (ValueError, "None for every array", lambda: gradcheck(np.square, lambda g, x: None, X)),
    "gradient of a constant": (
        TypeError,
        "gradient for n, which is int64",
        lambda: gradcheck(lambda x, n: x * n, lambda g, x, n: (g * n, g * x), X, np.array([1, 2, 3])),
    ),
    "tuple of outputs": (
        TypeError,
        "one array or number, got a tuple of 2",
        lambda: gradcheck(lambda x: (x, x), right, X),
    ),
    "float32 output": (TypeError, "returned float32", lambda: gradcheck(lambda x: x.astype(np.float32), right, X)),
    "nan": (
        ValueError,
        r"finite numbers, got nan at \[1\]",
        lambda: gradcheck(np.square, right, np.array([1, np.nan])),
    ),
    "changing shape": (
        ValueError,
        r"always return the same shape, got \(3,\), then \(2,\)",
        lambda: gradcheck(lambda x: x[x <= 3], right, X),
    ),
    "eps": (ValueError, "eps must be finite and positive, got 0", lambda: gradcheck(np.square, right, X, eps=0)),
    "rtol": (
        ValueError,
        "rtol must be finite and not negative, got -1",
        lambda: gradcheck(np.square, right, X, rtol=-1),
    ),
    "atol": (
        ValueError,
        "atol must be finite and not negative, got nan",
        lambda: gradcheck(np.square, right, X, atol=np.nan),
    ),
}


@pytest.mark.parametrize(("error", "message", "call"), BAD.values(), ids=BAD)
def test_wrong_use_is_explained(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_errors_of_the_users_code_come_through_and_leave_no_trace():
    x = X.copy()

    def fails_when_moved(x):
        if x[1] > 2:
            raise ArithmeticError("the user's own")
        return x

    with pytest.raises(ArithmeticError, match="the user's own"):
        gradcheck(fails_when_moved, right, x)
    assert np.array_equal(x, X)


# ---- the matrix ---------------------------------------------------------------------------------


@given(conv_cases(channels=FEW_CHANNELS), SEEDS)
def test_conv_matrix_is_the_convolution_and_its_transpose_the_gradient(case, seed):
    x, w, _ = case._replace(dtype=np.float64, bias=False).arrays(seed=seed)
    expected = reference.conv(x, w, **case.options)
    assume(x.size * expected.size < 10**6)
    matrix = conv_matrix(w, x.shape, **case.options)
    assert matrix.shape == (expected.size, x.size)
    assert_close(matrix @ x.ravel(), expected.ravel())
    grad = np.random.default_rng(seed + 1).standard_normal(expected.shape)
    assert_close(matrix.T @ grad.ravel(), reference.conv_backward(grad, x, w, **case.options)[0].ravel())
    unbatched = conv_matrix(w, x.shape[1:], **case.options)
    assert np.array_equal(unbatched, matrix[: len(unbatched), : x[0].size])


def test_conv_matrix_keeps_the_weights_dtype():
    assert conv_matrix([[[1, 2]]], (1, 3)).tolist() == [[1, 2, 0], [0, 1, 2]]
    for dtype in (np.int64, np.float32, np.float64):
        assert conv_matrix(np.ones((2, 1, 2), dtype), (2, 2, 4), groups=2).dtype == dtype


BAD_MATRIX = {
    "complex": (
        TypeError,
        "weight must be an array of real numbers, got complex128",
        (np.ones((1, 1, 2)) * 1j, (1, 4)),
        {},
    ),
    "no channels": (
        ValueError,
        r"weight must have shape \(OC, C // groups, \*kernel\).*got \(3,\)",
        (np.ones(3), (1, 4)),
        {},
    ),
    "empty": (ValueError, r"got \(1, 1, 0\)", (np.ones((1, 1, 0)), (1, 4)), {}),
    "input axes": (ValueError, r"input_size must be \(C, \*spatial\).*got \(4,\)", (np.ones((1, 1, 2)), (4,)), {}),
    "channels": (ValueError, r"input of 2 channels, got input_size \(3, 4\)", (np.ones((1, 2, 2)), (3, 4)), {}),
    "groups": (ValueError, "out_channels divisible by groups", (np.ones((3, 1, 2)), (2, 4)), {"groups": 2}),
    "groups 0": (ValueError, "in 0 groups", (np.ones((3, 1, 2)), (2, 4)), {"groups": 0}),
    "too small": (ValueError, "input", (np.ones((1, 1, 5)), (1, 4)), {}),
    "padding": (ValueError, "padding", (np.ones((1, 1, 2)), (1, 4)), {"padding": "full"}),
    "stride": (ValueError, "stride", (np.ones((1, 1, 2)), (1, 4)), {"stride": 0}),
}


@pytest.mark.parametrize(("error", "message", "arguments", "options"), BAD_MATRIX.values(), ids=BAD_MATRIX)
def test_conv_matrix_refuses(error, message, arguments, options):
    with pytest.raises(error, match=message):
        conv_matrix(*arguments, **options)
