"""Layers at the edges: extreme values, accuracy, the rules of batch normalisation, and input that is refused."""

import numpy as np
import pytest
import torch
from reference import assert_close
from shapes import DTYPES, normal

from fastconv import nn


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["ReLU", "LeakyReLU", "ELU", "Sigmoid", "Tanh"])
def test_activations_of_extreme_values(name, dtype):
    """Infinities, NaN and magnitudes where a naive formula overflows; no warning either."""
    x = np.array([-np.inf, -1e30, -100, -1e-30, -0.0, 0.0, 1e-30, 100, 1e30, np.inf, np.nan], dtype)
    ours, theirs = getattr(nn, name)(), getattr(torch.nn, name)()
    leaf = torch.tensor(x, requires_grad=True)
    expected = theirs(leaf)
    expected.backward(torch.ones_like(expected))
    tolerance = {"rtol": 1e-6 if dtype == np.float32 else 1e-14, "atol": 1e-43}  # torch flushes sigmoid(-100) to zero
    np.testing.assert_allclose(ours(x), expected.detach().numpy(), **tolerance)
    finite = np.isfinite(x)  # at infinities and NaN torch's gradients follow from its own rearrangements
    gradient = ours.backward(np.ones_like(x))
    np.testing.assert_allclose(gradient[finite], leaf.grad.numpy()[finite], **tolerance)


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
def test_softmax_of_extreme_values(name):
    x = np.array([[1e4, 0, -1e4], [-np.inf, 0, 0], [-np.inf] * 3, [np.inf, 0, 0], [np.nan, 0, 0]])
    expected = getattr(torch.nn, name)(dim=1)(torch.tensor(x)).numpy()
    np.testing.assert_allclose(getattr(nn, name)(dim=1)(x), expected, rtol=1e-15)


def test_gradient_of_relu_passes_only_where_the_input_is_positive():
    relu = nn.ReLU()
    relu(np.array([-1.0, 0.0, 2.0, -3.0, 4.0, np.nan]))
    np.testing.assert_array_equal(relu.backward(np.array([1, 1, -1, np.inf, -np.inf, 1])), [0, 0, -1, 0, -np.inf, 1])


@pytest.mark.parametrize("name", ["ReLU", "LeakyReLU"])
def test_rectifiers_take_any_strides(name, rng):
    """Reversed, transposed, every second, broadcast: the same as the contiguous copies."""
    x, grad_output = normal(rng, (6, 8), np.float64), normal(rng, (6, 8), np.float64)
    layer = getattr(nn, name)()
    for view in (lambda a: a[::-1, ::2], lambda a: a.T, lambda a: np.broadcast_to(a[0], (3, 8))):
        y = layer(view(x))
        gradient = layer.backward(view(grad_output))
        np.testing.assert_array_equal(y, layer(view(x).copy()))
        np.testing.assert_array_equal(gradient, layer.backward(view(grad_output).copy()))


def test_batch_norm_evaluates_with_what_it_saw(rng):
    """Running mean and unbiased variance with momentum None are plain averages over the batches."""
    layer = nn.BatchNorm2d(3, momentum=None, dtype=np.float64)
    batches = [normal(rng, (4, 3, 5, 6), np.float64) * 3 + 2 for _ in range(4)]
    for batch in batches:
        layer(batch)
    mean = np.mean([batch.mean((0, 2, 3)) for batch in batches], axis=0)
    var = np.mean([batch.var((0, 2, 3), ddof=1) for batch in batches], axis=0)
    assert_close(layer.buffers["running_mean"], mean)
    assert_close(layer.buffers["running_var"], var)
    assert layer.buffers["num_batches_tracked"] == 4
    before = layer.state_dict()
    expected = (batches[0] - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None]
    assert_close(layer.eval()(batches[0]), expected)
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_batch_norm_of_a_large_mean_keeps_its_accuracy(rng):
    x = normal(rng, (64, 2, 32, 32), np.float64) + 1000
    layer = nn.BatchNorm2d(2)
    expected = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
    # Rounding the input and rounding the mean to float32 cost 2^-15 of a standard deviation each, and nothing else may.
    assert np.abs(layer(x.astype(np.float32)) - expected).max() < 2.0**-13


def test_batch_norm_backward_belongs_to_the_mode_of_its_forward(rng):
    layer = nn.BatchNorm1d(3, dtype=np.float64)
    x, grad_output = normal(rng, (5, 3), np.float64), normal(rng, (5, 3), np.float64)
    layer(x)
    expected = layer.backward(grad_output)
    layer.eval()
    np.testing.assert_array_equal(layer.backward(grad_output), expected)


@pytest.mark.parametrize("options", [{}, {"track_running_stats": False}])
def test_batch_norm_needs_two_values(options):
    layer = nn.BatchNorm2d(3, **options)
    with pytest.raises(
        ValueError, match="BatchNorm2d must have more than one value per channel in training, got 1 x 1"
    ):
        layer(np.zeros((1, 3, 1, 1), np.float32))
    assert "num_batches_tracked" not in layer.buffers or layer.buffers["num_batches_tracked"] == 0


# ---- errors --------------------------------------------------------------------------------------

REFUSED = {
    "no channels": (lambda: nn.Conv2d(0, 1, 3), ValueError, "in_channels must be at least 1, got 0"),
    "fractional channels": (lambda: nn.Conv2d(1, 1.5, 3), TypeError, "out_channels must be an int, got float"),
    "groups": (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "in_channels must be a multiple of groups=2, got 3"),
    "groups, out": (
        lambda: nn.Conv1d(4, 3, 3, groups=2),
        ValueError,
        "out_channels must be a multiple of groups=2, got 3",
    ),
    "kernel's axes": (
        lambda: nn.Conv2d(1, 1, (3, 3, 3)),
        ValueError,
        r"kernel_size must be an int or .* 2, got \(3, 3, 3\)",
    ),
    "empty kernel": (lambda: nn.Conv2d(1, 1, (3, 0)), ValueError, "kernel_size must be at least 1, got 0"),
    "stride": (lambda: nn.Conv1d(1, 1, 3, stride=0), ValueError, "stride must be at least 1, got 0"),
    "dilation": (lambda: nn.Conv3d(1, 1, 3, dilation=-1), ValueError, "dilation must be at least 1, got -1"),
    "padding mode": (
        lambda: nn.Conv2d(1, 1, 3, padding_mode="reflect"),
        ValueError,
        "padding_mode must be 'zeros', got 'reflect'",
    ),
    "output padding": (
        lambda: nn.ConvTranspose2d(1, 1, 3, output_padding=-1),
        ValueError,
        "output_padding must be at least 0, got -1",
    ),
    "rank": (lambda: nn.CPConv2d(1, 1, 3, 0), ValueError, "rank must be at least 1, got 0"),
    "multiplier": (
        lambda: nn.SeparableConv2d(1, 1, 3, multiplier=0),
        ValueError,
        "multiplier must be at least 1, got 0",
    ),
    "activation": (
        lambda: nn.SeparableConv2d(1, 1, 3, activation="tanh"),
        ValueError,
        r"activation of SeparableConv2d must be one of \(None, 'relu', 'relu6'\), got 'tanh'",
    ),
    "pool": (lambda: nn.MaxPool2d(0), ValueError, "kernel_size must be at least 1, got 0"),
    "pool's padding": (lambda: nn.AvgPool1d(2, padding=-1), ValueError, "padding must be at least 0, got -1"),
    "divisor": (lambda: nn.AvgPool2d(2, divisor_override=0), ValueError, "divisor_override must be at least 1, got 0"),
    "features": (lambda: nn.Linear(2, 0), ValueError, "out_features must be at least 1, got 0"),
    "norm": (lambda: nn.BatchNorm1d(0), ValueError, "num_features must be at least 1, got 0"),
    "eps": (lambda: nn.LayerNorm(3, eps=-1), ValueError, "eps must not be negative, got -1"),
    "dim": (lambda: nn.Softmax("1"), TypeError, "dim must be an int, got str"),
    "not a layer": (lambda: nn.Sequential(nn.ReLU(), np.tanh), TypeError, "must be Layer objects, got ufunc at 1"),
}


@pytest.mark.parametrize("make, error, message", REFUSED.values(), ids=REFUSED)
def test_constructor_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()


INPUTS_REFUSED = {
    "Linear": (nn.Linear(3, 2), (4, 2), r"Linear must have shape \(..., 3\), got \(4, 2\)"),
    "Linear of a scalar": (nn.Linear(1, 2), (), r"Linear must have shape \(..., 1\), got \(\)"),
    "BatchNorm1d": (
        nn.BatchNorm1d(3),
        (2, 3, 4, 5),
        r"must have shape \(N, C\) or \(N, C, L\) with C=3, got \(2, 3, 4, 5\)",
    ),
    "BatchNorm2d": (nn.BatchNorm2d(3), (2, 4, 5, 5), r"must have shape \(N, C, H, W\) with C=3, got \(2, 4, 5, 5\)"),
    "LayerNorm": (nn.LayerNorm((3, 4)), (2, 3, 5), r"LayerNorm must have shape \(..., 3, 4\), got \(2, 3, 5\)"),
    "Dropout2d": (nn.Dropout2d(), (2, 3), r"Dropout2d must have shape \(N, C, H, W\) or \(N, C, L\), got \(2, 3\)"),
    "Softmax": (nn.Softmax(2), (2, 3), r"dim must be an axis of the input, whose shape is \(2, 3\), got 2"),
    "LogSoftmax": (nn.LogSoftmax(-3), (2, 3), r"dim must be an axis of the input, whose shape is \(2, 3\), got -3"),
    "Flatten": (nn.Flatten(2), (2, 3), r"start_dim must be an axis of the input, whose shape is \(2, 3\), got 2"),
    "Flatten, reversed": (nn.Flatten(2, 1), (2, 3, 4), "start_dim must not come after end_dim, got axes 2 and 1"),
    "Conv2d": (
        nn.Conv2d(3, 4, 3),
        (2, 4, 5, 5),
        r"Conv2d must have shape \(N, 3, H, W\) or \(3, H, W\), got \(2, 4, 5, 5\)",
    ),
    "Conv1d": (nn.Conv1d(3, 4, 3), (2, 3, 5, 5), r"Conv1d must have shape \(N, 3, L\) or \(3, L\), got \(2, 3, 5, 5\)"),
    "Conv1d of a vector": (nn.Conv1d(1, 4, 3), (5,), r"Conv1d must have shape \(N, 1, L\) or \(1, L\), got \(5,\)"),
    "ConvTranspose3d": (
        nn.ConvTranspose3d(2, 4, 3),
        (3, 5, 5, 5),
        r"must have shape \(N, 2, D, H, W\) or \(2, D, H, W\)",
    ),
    "SeparableConv2d": (
        nn.SeparableConv2d(3, 4, 3),
        (3, 5),
        r"must have shape \(N, 3, H, W\) or \(3, H, W\), got \(3, 5\)",
    ),
    "CPConv1d": (
        nn.CPConv1d(3, 4, 3, 2),
        (2, 4, 5),
        r"CPConv1d must have shape \(N, 3, L\) or \(3, L\), got \(2, 4, 5\)",
    ),
}


@pytest.mark.parametrize("layer, shape, message", INPUTS_REFUSED.values(), ids=INPUTS_REFUSED)
def test_input_of_the_wrong_shape(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer(np.zeros(shape, np.float32))
