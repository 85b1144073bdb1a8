"""Layers against `torch.nn` and autograd: outputs, gradients, modes, initial values, and what they refuse."""

import copy
import pickle
from typing import NamedTuple

import numpy as np
import pytest
import torch
from layer_judge import assert_same, torch_backward
from reference import assert_close
from shapes import DTYPES, normal

from fastconv import nn

# PyTorch says so of itself, once per process.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


class Case(NamedTuple):
    """A layer by name, the constructor arguments for us and for PyTorch alike, and an input shape."""

    name: str
    arguments: tuple
    options: dict
    shape: tuple

    def __str__(self):
        return f"{self.name}{self.arguments}{self.options or ''}"


def case(name, *arguments, shape, **options):
    return Case(name, arguments, options, shape)


WITH_PARAMETERS = [
    case("Conv1d", 3, 4, 3, shape=(2, 3, 11)),
    case("Conv1d", 4, 6, (5,), 2, 3, 2, 2, False, shape=(2, 4, 17)),
    case("Conv1d", 3, 2, 4, padding="same", shape=(3, 10)),
    case("Conv2d", 3, 4, 3, shape=(2, 3, 7, 8)),
    case("Conv2d", 3, 4, (3, 2), (2, 1), (1, 2), (1, 3), shape=(2, 3, 9, 10)),
    case("Conv2d", 4, 4, 3, stride=2, padding=1, groups=4, bias=False, shape=(2, 4, 8, 7)),
    case("Conv2d", 2, 3, 1, shape=(2, 5, 6)),
    case("Conv2d", 2, 3, (3, 4), padding="same", dilation=2, shape=(1, 2, 9, 9)),
    case("Conv2d", 2, 3, 3, padding="valid", padding_mode="zeros", shape=(0, 2, 9, 9)),
    case("Conv3d", 2, 3, 2, shape=(2, 2, 4, 5, 6)),
    case("Conv3d", 2, 4, (1, 3, 2), (1, 2, 1), (0, 1, 1), groups=2, shape=(2, 4, 5, 6)),
    case("ConvTranspose1d", 3, 4, 3, shape=(2, 3, 6)),
    case("ConvTranspose1d", 4, 6, 4, 3, 1, 2, 2, False, 2, shape=(4, 6)),
    case("ConvTranspose2d", 3, 4, 3, shape=(2, 3, 5, 4)),
    case("ConvTranspose2d", 4, 6, (4, 3), (2, 3), (1, 0), (1, 2), groups=2, dilation=(1, 2), shape=(2, 4, 5, 4)),
    case("ConvTranspose3d", 2, 4, 2, shape=(2, 3, 2, 4)),
    case("ConvTranspose3d", 2, 4, (1, 3, 2), 2, (0, 1, 0), 1, 2, shape=(2, 2, 3, 2, 4)),
    case("Linear", 5, 3, shape=(4, 5)),
    case("Linear", 5, 3, bias=False, shape=(5,)),
    case("Linear", 5, 1, shape=(2, 3, 4, 5)),
    case("Linear", 5, 3, shape=(0, 5)),
    case("BatchNorm1d", 3, shape=(6, 3)),
    case("BatchNorm1d", 3, 1e-2, 0.3, shape=(4, 3, 5)),
    case("BatchNorm1d", 3, affine=False, shape=(4, 3)),
    case("BatchNorm1d", 3, track_running_stats=False, shape=(4, 3)),
    case("BatchNorm2d", 3, shape=(4, 3, 5, 6)),
    case("BatchNorm2d", 3, momentum=None, shape=(1, 3, 5, 6)),
    case("BatchNorm2d", 3, shape=(0, 3, 5, 6)),
    case("LayerNorm", 6, shape=(4, 6)),
    case("LayerNorm", 6, shape=(6,)),
    case("LayerNorm", (4, 5), 1e-2, shape=(2, 3, 4, 5)),
    case("LayerNorm", [4, 5], bias=False, shape=(2, 4, 5)),
    case("LayerNorm", (5,), elementwise_affine=False, shape=(2, 4, 5)),
]

WITHOUT_PARAMETERS = [
    case("MaxPool1d", 2, shape=(2, 3, 9)),
    case("MaxPool1d", (3,), 2, 1, 2, ceil_mode=True, shape=(3, 10)),
    case("MaxPool2d", 2, shape=(2, 3, 8, 6)),
    case("MaxPool2d", (3, 2), (2, 1), (1, 0), shape=(2, 3, 9, 8)),
    case("MaxPool2d", 3, stride=2, dilation=2, ceil_mode=True, shape=(3, 10, 11)),
    case("MaxPool3d", 2, shape=(2, 3, 4, 5, 6)),
    case("MaxPool3d", (1, 3, 2), (1, 2, 1), (0, 1, 1), shape=(3, 4, 5, 6)),
    case("AvgPool1d", 2, shape=(2, 3, 9)),
    case("AvgPool1d", 3, 2, 1, True, False, shape=(3, 10)),
    case("AvgPool2d", 2, shape=(2, 3, 8, 6)),
    case("AvgPool2d", (3, 2), (2, 1), (1, 0), count_include_pad=False, shape=(2, 3, 9, 8)),
    case("AvgPool2d", 3, 2, 1, True, True, 5, shape=(3, 10, 11)),
    case("AvgPool3d", 2, shape=(2, 3, 4, 5, 6)),
    case("AvgPool3d", (1, 3, 2), 2, (0, 1, 0), divisor_override=3, shape=(3, 4, 5, 6)),
    case("AdaptiveMaxPool1d", 4, shape=(2, 3, 9)),
    case("AdaptiveMaxPool2d", (3, None), shape=(2, 3, 8, 6)),
    case("AdaptiveMaxPool3d", 2, shape=(3, 4, 5, 6)),
    case("AdaptiveAvgPool1d", 4, shape=(3, 9)),
    case("AdaptiveAvgPool2d", (3, None), shape=(2, 3, 8, 6)),
    case("AdaptiveAvgPool3d", 2, shape=(2, 3, 4, 5, 6)),
    case("Flatten", shape=(2, 3, 4, 5)),
    case("Flatten", 0, 1, shape=(2, 3, 4, 5)),
    case("Flatten", start_dim=-3, end_dim=-2, shape=(2, 3, 4, 5)),
    case("ReLU", shape=(4, 5)),
    case("ReLU", shape=()),
    case("ReLU6", shape=(40, 5)),
    case("Identity", shape=(4, 5)),
    case("LeakyReLU", shape=(4, 5)),
    case("LeakyReLU", 0.2, shape=(2, 4, 5)),
    case("LeakyReLU", -0.5, shape=(20,)),
    case("ELU", shape=(4, 5)),
    case("ELU", 1.5, shape=(4, 5)),
    case("ELU", -1.5, shape=(20,)),
    case("Sigmoid", shape=(4, 5)),
    case("Tanh", shape=(4, 5)),
    case("Softmax", 1, shape=(4, 5)),
    case("Softmax", dim=-3, shape=(2, 4, 5)),
    case("LogSoftmax", 1, shape=(4, 5)),
    case("LogSoftmax", dim=0, shape=(4, 5, 2)),
    case("Dropout", 0.0, shape=(4, 5)),
    case("Dropout2d", 0.0, shape=(4, 5, 2, 3)),
]

CASES = WITH_PARAMETERS + WITHOUT_PARAMETERS


def twins(case, dtype):
    """Our layer with random parameters, and PyTorch's in float64 with the same ones."""
    options = {"dtype": dtype} if case in WITH_PARAMETERS else {}
    seeded = hasattr(nn, case.name) and case.name.startswith(("Conv", "Linear", "Dropout"))
    ours = getattr(nn, case.name)(*case.arguments, **case.options, **options, **({"seed": 0} if seeded else {}))
    theirs = getattr(torch.nn, case.name)(*case.arguments, **case.options).double()
    rng = np.random.default_rng(1)
    for name in ours.params:
        ours.params[name][...] = normal(rng, ours.params[name].shape, dtype)
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in ours.state_dict().items()})
    return ours, theirs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_torch(case, dtype, rng):
    ours, theirs = twins(case, dtype)
    for _ in range(2):  # the second call sees the first one's buffers, and must not see its gradients
        assert_same(ours, theirs, normal(rng, case.shape, dtype), rng)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_evaluation_against_torch(case, dtype, rng):
    ours, theirs = twins(case, dtype)
    x = normal(rng, case.shape, dtype)
    assert_same(ours, theirs, x, rng)
    assert ours.eval() is ours and not ours.training
    assert_same(ours, theirs.eval(), x, rng)
    assert ours.train() is ours and ours.training
    assert_same(ours, theirs.train(), x, rng)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_input_gradient_can_be_left_out(case, rng):
    ours, _ = twins(case, np.float64)
    y = ours(normal(rng, case.shape, np.float64))
    grad_output = normal(rng, y.shape, np.float64)
    ours.backward(grad_output)
    expected = dict(ours.grads)
    ours.grads.clear()
    assert ours.backward(grad_output, input_gradient=False) is None
    assert ours.grads.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(ours.grads[name], expected[name])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_inputs_are_not_written_to_and_tensors_are_taken(case, rng):
    ours, _ = twins(case, np.float64)
    x = normal(rng, case.shape, np.float64)
    x.flags.writeable = False
    y = ours(x)
    grad_output = normal(rng, y.shape, np.float64)
    grad_output.flags.writeable = False
    grad_input = ours.backward(grad_output)
    again, _ = twins(case, np.float64)
    np.testing.assert_array_equal(again(torch.tensor(x)), y)
    np.testing.assert_array_equal(again.backward(torch.tensor(grad_output)), grad_input)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_backward_must_fit_the_forward(case, rng):
    ours, _ = twins(case, np.float32)
    with pytest.raises(RuntimeError, match=rf"{case.name}\.backward was called before forward"):
        ours.backward(np.zeros(3, np.float32))
    y = ours(normal(rng, case.shape, np.float32))
    wrong = np.zeros((*y.shape, 1), np.float32)
    with pytest.raises(ValueError, match=f"grad_output of {case.name} must have the output's shape .*, got .*1"):
        ours.backward(wrong)
    with pytest.raises(
        TypeError, match=f"grad_output of {case.name} must have the output's dtype float32, got float64"
    ):
        ours.backward(np.zeros(y.shape))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dtypes_that_are_refused(case):
    ours, _ = twins(case, np.float32)
    for dtype in (np.int64, np.float16, np.complex64):
        with pytest.raises(TypeError, match=f"input of {case.name} must be float32.*, got {np.dtype(dtype)}"):
            ours(np.zeros(case.shape, dtype))
    if case in WITH_PARAMETERS:
        with pytest.raises(
            TypeError, match=f"input of {case.name} must be float32, as its parameters are, got float64"
        ):
            ours(np.zeros(case.shape))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_repr_is_the_constructor_call(case):
    ours, _ = twins(case, np.float64)
    again = eval(repr(ours), vars(nn) | {"dtype": np.dtype})
    assert repr(again) == repr(ours)
    assert {n: p.shape for n, p in again.params.items()} == {n: p.shape for n, p in ours.params.items()}


@pytest.mark.parametrize("case", WITH_PARAMETERS, ids=str)
def test_copies_and_pickles_work_alone(case, rng):
    ours, _ = twins(case, np.float64)
    x = normal(rng, case.shape, np.float64)
    y = ours(x)
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        with pytest.raises(RuntimeError, match="before forward"):
            twin.backward(np.zeros_like(y))
        for name in twin.params:
            assert not np.shares_memory(twin.params[name], ours.params[name])
            np.testing.assert_array_equal(twin.params[name], ours.params[name])


# ---- initial values ------------------------------------------------------------------------------

LARGE = [
    case("Conv1d", 64, 96, 5, shape=None),
    case("Conv2d", 32, 64, (3, 5), groups=4, shape=None),
    case("Conv3d", 16, 96, (1, 2, 3), shape=None),
    case("ConvTranspose1d", 64, 96, 5, shape=None),
    case("ConvTranspose2d", 32, 64, 3, groups=2, shape=None),
    case("ConvTranspose3d", 16, 96, 2, shape=None),
    case("Linear", 100, 200, shape=None),
]


@pytest.mark.parametrize("case", LARGE, ids=str)
def test_initial_values_have_the_distribution_of_torch(case):
    torch.manual_seed(0)
    ours = getattr(nn, case.name)(*case.arguments, **case.options, seed=0)
    theirs = getattr(torch.nn, case.name)(*case.arguments, **case.options).state_dict()
    bound = np.abs(theirs["weight"].numpy()).max()  # of thousands of values: within 0.1 % of torch's bound
    assert list(ours.params) == list(theirs)
    for name, value in ours.params.items():
        assert value.shape == tuple(theirs[name].shape) and value.dtype == np.float32
        assert abs(value.mean()) < 4 * bound / np.sqrt(3 * value.size)
        assert np.abs(value).max() <= 1.001 * bound
    assert np.abs(ours.params["weight"]).max() >= 0.999 * bound
    assert abs(ours.params["weight"].std() / (bound / np.sqrt(3)) - 1) < 0.02
    assert np.abs(ours.params["bias"]).max() >= 0.9 * bound


def test_cp_layers_start_with_the_variance_of_the_dense_layer():
    layer = nn.CPConv2d(40, 50, (5, 3), rank=30, dtype=np.float64, seed=0)
    weight = np.einsum("or,ir,lr,kr->oilk", *(layer.params[name] for name in "abcd"))
    assert abs(weight.std() / (1 / np.sqrt(3 * 40 * 15)) - 1) < 0.15


SEEDED = {
    "Conv2d": lambda **options: nn.Conv2d(3, 4, 3, **options),
    "ConvTranspose1d": lambda **options: nn.ConvTranspose1d(3, 4, 3, **options),
    "SeparableConv2d": lambda **options: nn.SeparableConv2d(3, 4, 3, **options),
    "CPConv2d": lambda **options: nn.CPConv2d(3, 4, 3, 2, **options),
    "Linear": lambda **options: nn.Linear(3, 4, **options),
}


@pytest.mark.parametrize("make", SEEDED.values(), ids=SEEDED)
def test_seed(make):
    layer = make(seed=7)
    generator = np.random.default_rng(7)
    same, single, shared, after = (
        make(seed=7),
        make(seed=7, dtype=np.float64),
        make(seed=generator),
        make(seed=generator),
    )
    for name, value in layer.params.items():
        np.testing.assert_array_equal(same.params[name], value)
        np.testing.assert_array_equal(shared.params[name], value)
        np.testing.assert_array_equal(single.params[name].astype(np.float32), value)
        assert single.params[name].dtype == np.float64
        assert (after.params[name] != value).all()
        assert (make(seed=8).params[name] != value).all()
        assert (make().params[name] != make().params[name]).all()
    for wrong in ("7", 7.0, np.random.RandomState(7)):
        with pytest.raises(TypeError, match=f"seed must be an int, .*, got {type(wrong).__name__}"):
            make(seed=wrong)
    for wrong in (np.int32, np.float16, None):
        with pytest.raises(TypeError, match=f"dtype must be float32 or float64, got {wrong and np.dtype(wrong)}"):
            make(dtype=wrong)


# ---- convolution that PyTorch does not have ------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_padding_with_stride(dtype, rng):
    layer = nn.Conv2d(2, 3, (3, 4), stride=2, padding="same", dtype=dtype)
    theirs = torch.nn.Sequential(torch.nn.ZeroPad2d((1, 1, 1, 1)), torch.nn.Conv2d(2, 3, (3, 4), stride=2)).double()
    state = {f"1.{name}": torch.from_numpy(value) for name, value in layer.state_dict().items()}
    theirs.load_state_dict(state)
    x = normal(rng, (2, 2, 7, 8), dtype)  # 7 wide needs (1, 1), 8 wide with a kernel of 4 needs (1, 1)
    expected_y, expected_grad, expected_grads = torch_backward(theirs, x, np.ones((2, 3, 4, 4)))
    assert_close(layer(x), expected_y)
    assert_close(layer.backward(np.ones((2, 3, 4, 4), dtype)), expected_grad)
    assert_close(layer.grads["weight"], expected_grads["1.weight"])


def test_asymmetric_padding(rng):
    layer = nn.Conv2d(2, 3, 3, padding=((1, 2), (0, 3)), dtype=np.float64)
    plain = nn.Conv2d(2, 3, 3, dtype=np.float64)
    plain.load_state_dict(layer.state_dict())
    x = normal(rng, (2, 2, 5, 6), np.float64)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 2), (0, 3)))
    y = layer(x)
    assert_close(y, plain(padded))
    assert_close(layer.backward(y), plain.backward(y)[:, :, 1:-2, :-3])
    assert_close(layer.grads["weight"], plain.grads["weight"])


FACTORED = {
    "separable": lambda dtype: nn.SeparableConv2d(3, 4, (3, 2), (2, 1), (1, 2), (1, 2), 2, dtype=dtype, seed=0),
    "separable, no bias": lambda dtype: nn.SeparableConv2d(3, 4, 3, bias=False, dtype=dtype, seed=0),
    "cp": lambda dtype: nn.CPConv2d(3, 4, (3, 2), 5, (2, 1), (1, 2), (1, 2), dtype=dtype, seed=0),
    "cp, no bias": lambda dtype: nn.CPConv2d(3, 4, 3, rank=1, bias=False, dtype=dtype, seed=0),
    "cp, 1-D": lambda dtype: nn.CPConv1d(3, 4, 3, 2, 2, 1, 2, dtype=dtype, seed=0),
    "cp, 1-D, no bias": lambda dtype: nn.CPConv1d(3, 4, 3, 2, bias=False, dtype=dtype, seed=0),
}


def dense(layer, tensors, x):
    """The layer's output as PyTorch computes it from the dense kernel."""
    if isinstance(layer, nn.SeparableConv2d):
        depthwise, pointwise = tensors["depthwise_weight"], tensors["pointwise_weight"]
        grouped = (pointwise.flatten(1).T[:, :, None, None] * depthwise).unflatten(0, (-1, layer.multiplier))
        weight = grouped.sum(1).transpose(0, 1)
    elif isinstance(layer, nn.CPConv2d):
        weight = torch.einsum("or,ir,lr,kr->oilk", *(tensors[name] for name in "abcd"))
    else:
        weight = torch.einsum("or,ir,kr->oik", *(tensors[name] for name in "abd"))
    function = torch.nn.functional.conv1d if isinstance(layer, nn.CPConv1d) else torch.nn.functional.conv2d
    return function(x, weight, tensors.get("bias"), layer.stride, layer.padding, layer.dilation)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("activation", "between"), [("relu", nn.ReLU), ("relu6", nn.ReLU6)])
def test_separable_layer_with_an_activation_equals_three_layers(activation, between, dtype, rng):
    layer = nn.SeparableConv2d(3, 4, 3, padding=1, multiplier=2, activation=activation, dtype=dtype, seed=0)
    chain = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=False, dtype=dtype), between(), nn.Conv2d(6, 4, 1, dtype=dtype)
    )
    for mine, (place, name) in {
        "depthwise_weight": (0, "weight"), "pointwise_weight": (2, "weight"), "bias": (2, "bias")
    }.items():
        chain[place].params[name][...] = layer.params[mine]
    x = 10 * normal(rng, (2, 3, 9, 8), dtype)
    y = layer(x)
    assert_close(y, chain(x))
    assert_close(layer.backward(y), chain.backward(y))
    assert_close(layer.grads["depthwise_weight"], chain[0].grads["weight"])
    assert_close(layer.grads["pointwise_weight"], chain[2].grads["weight"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", FACTORED.values(), ids=FACTORED)
def test_factored_layers_equal_the_dense_kernel(make, dtype, rng):
    layer = make(dtype)
    x = normal(rng, (2, 3, 9, 8)[: 3 if isinstance(layer, nn.CPConv1d) else 4], dtype)
    leaves = {name: torch.tensor(value.astype(np.float64), requires_grad=True) for name, value in layer.params.items()}
    leaf = torch.tensor(x.astype(np.float64), requires_grad=True)
    expected = dense(layer, leaves, leaf)
    y = layer(x)
    assert_close(y, expected.detach().numpy())
    grad_output = normal(rng, y.shape, dtype)
    expected.backward(torch.tensor(grad_output.astype(np.float64)))
    assert_close(layer.backward(grad_output), leaf.grad.numpy())
    assert layer.grads.keys() == layer.params.keys()
    for name, gradient in layer.grads.items():
        assert gradient.dtype == dtype
        assert_close(gradient, leaves[name].grad.numpy())
    assert layer.backward(grad_output, input_gradient=False) is None
    assert_close(layer(x[0]), y[0])  # the batch axis may be left out
    assert repr(eval(repr(layer), vars(nn) | {"dtype": np.dtype})) == repr(layer)


@pytest.mark.parametrize("axes", [1, 2])
def test_cp_layer_from_a_dense_one(axes, rng):
    dense_class, cp_class = ((nn.Conv1d, nn.CPConv1d), (nn.Conv2d, nn.CPConv2d))[axes - 1]
    conv = dense_class(4, 6, 3, stride=2, padding=1, dilation=2, dtype=np.float64, seed=0)
    factors = [rng.uniform(0.5, 1.5, (size, 2)) for size in (6, 4, 3, 3)[: 2 + axes]]
    conv.params["weight"][...] = np.einsum(("or,ir,kr->oik", "or,ir,lr,kr->oilk")[axes - 1], *factors)
    layer = cp_class.from_conv(conv, 2, seed=0, max_iter=5000, tol=1e-14)
    x = normal(rng, (2, 4, 11, 10)[: 2 + axes], np.float64)
    assert layer.relative_error < 1e-4 and layer.dtype == np.float64
    assert np.abs(layer(x) - conv(x)).max() < 1e-3 * np.abs(conv(x)).max()
    np.testing.assert_array_equal(layer.params["bias"], conv.params["bias"])
    assert not np.shares_memory(layer.params["bias"], conv.params["bias"])
    assert "bias" not in cp_class.from_conv(dense_class(2, 3, 2, bias=False), 1, seed=0).params
    with pytest.raises(ValueError, match="layer must have groups=1 .*, got groups=2"):
        cp_class.from_conv(dense_class(4, 6, 3, groups=2), 2)
    with pytest.raises(TypeError, match=f"layer must be a {dense_class.__name__}, got Linear"):
        cp_class.from_conv(nn.Linear(2, 3), 2)
    within = cp_class.from_conv(conv, relative_error=0.01, seed=0)
    assert within.rank == 2 and within.relative_error <= 0.01
    with pytest.raises(ValueError, match="expected either rank or relative_error, got 2 and 0.1"):
        cp_class.from_conv(conv, 2, relative_error=0.1)


# ---- maxout --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, pieces, dim", [((4, 6), 2, 1), ((6,), 3, 0), ((2, 3, 8, 5), 4, -2), ((2, 4), 1, 1)])
def test_maxout_against_torch(shape, pieces, dim, dtype, rng):
    layer, x = nn.Maxout(pieces, dim), normal(rng, shape, dtype)
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    axis = dim % len(shape)
    expected = leaf.unflatten(axis, (-1, pieces)).max(axis + 1).values
    y = layer(x)
    assert y.dtype == dtype
    assert_close(y, expected.detach().numpy())
    grad_output = normal(rng, y.shape, dtype)
    expected.backward(torch.tensor(grad_output, dtype=torch.float64))
    assert_close(layer.backward(grad_output), leaf.grad.numpy())


def test_maxout_takes_nan_for_the_largest_and_refuses_what_does_not_divide():
    np.testing.assert_array_equal(nn.Maxout(2)(np.array([[np.nan, 1, 2, np.nan, -np.inf, -3]])), [[np.nan, np.nan, -3]])
    with pytest.raises(ValueError, match=r"axis 1 of the input of Maxout must be a multiple of pieces=4, got .* \(2, 6\)"):
        nn.Maxout(4)(np.zeros((2, 6)))
    with pytest.raises(ValueError, match="pieces must be at least 1, got 0"):
        nn.Maxout(0)


# ---- initial values by scheme --------------------------------------------------------------------


@pytest.mark.parametrize("scheme, deviation", [("zeros", 0), ("small", 0.01), ("large", 1), ("xavier", None), ("he", None)])
def test_initialize(scheme, deviation):
    """Xavier and He as PyTorch has them: gain / sqrt(fan in), the gain being 1 for linear units and sqrt(2) for ReLU."""
    net = nn.Sequential(nn.Conv2d(8, 64, (3, 5), groups=2), nn.BatchNorm2d(64), nn.Sequential(nn.Linear(100, 300)))
    before = net.state_dict()
    nn.initialize(net, scheme, seed=3)
    for name in ("0.weight", "2.0.weight"):
        weight = net.params[name]
        fan_in = torch.nn.init._calculate_fan_in_and_fan_out(torch.from_numpy(weight))[0]
        gain = torch.nn.init.calculate_gain("relu" if scheme == "he" else "linear")
        expected = gain / np.sqrt(fan_in) if deviation is None else deviation
        assert abs(weight.std() - expected) <= 4 * expected / np.sqrt(2 * weight.size)
        assert abs(weight.mean()) <= 4 * expected / np.sqrt(weight.size)
    assert not net.params["0.bias"].any() and not net.params["2.0.bias"].any()
    for name in ("1.weight", "1.bias"):
        np.testing.assert_array_equal(net.params[name], before[name])
    first = net.state_dict()
    nn.initialize(net, scheme, seed=3)
    assert all((net.state_dict()[name] == value).all() for name, value in first.items())


def test_initialize_refuses():
    with pytest.raises(ValueError, match="scheme must be one of 'zeros', 'small', 'large', 'xavier', 'he', got 'kaiming'"):
        nn.initialize(nn.Linear(2, 3), "kaiming")
    with pytest.raises(TypeError, match="net must be a Layer, got dict"):
        nn.initialize({}, "he")


# ---- dropout -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout(dtype, rng):
    x = normal(rng, (100, 200), dtype)
    layer = nn.Dropout(0.3, seed=1)
    y = layer(x)
    kept = y != 0
    assert y.dtype == dtype
    assert_close(y[kept], x[kept].astype(np.float64) / 0.7)
    assert abs(kept.mean() - 0.7) < 4 * np.sqrt(0.7 * 0.3 / x.size)
    grad_output = normal(rng, x.shape, dtype)
    assert_close(layer.backward(grad_output), np.where(kept, grad_output.astype(np.float64) / 0.7, 0))
    assert ((layer(x) != 0) != kept).any()  # another mask every time
    np.testing.assert_array_equal(nn.Dropout(0.3, seed=1)(x), y)
    layer.eval()
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(layer.backward(grad_output), grad_output)


@pytest.mark.parametrize("shape", [(40, 50, 3, 4), (40, 50, 5)])
def test_dropout2d_drops_whole_channels(shape):
    layer = nn.Dropout2d(0.25, seed=1)
    x = np.ones(shape)
    y = layer(x).reshape(40, 50, -1)
    assert (y == y[:, :, :1]).all()
    assert set(np.unique(y)) == {0, 1 / 0.75}
    assert abs((y[:, :, 0] == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 2000)
    np.testing.assert_array_equal(layer.backward(x).reshape(y.shape), y)


@pytest.mark.parametrize("layer", [nn.Dropout, nn.Dropout2d])
def test_dropout_limits(layer):
    x = np.ones((2, 3, 4, 5), np.float32)
    np.testing.assert_array_equal(layer(0)(x), x)
    everything = layer(1.0)
    np.testing.assert_array_equal(everything(x), np.zeros_like(x))
    np.testing.assert_array_equal(everything.backward(x), np.zeros_like(x))
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="p must be a probability between 0 and 1, got"):
            layer(wrong)
