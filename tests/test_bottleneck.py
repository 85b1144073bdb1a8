"""Inverted residuals in one call: against float64, at any number of threads, and in networks that are folded for inference."""

import copy
import pickle

import numpy as np
import pytest
from shapes import normal

import fastconv
from fastconv import _core, nn
from fastconv import functional as F

# N, C, M, O, (H, W), kernel, stride, padding, dilation
PROBLEMS = {
    "one band": (1, 24, 96, 40, (14, 14), 3, 1, 1, 1),
    "odd channels": (2, 5, 32, 7, (9, 11), 3, 1, 1, 1),
    "bands": (1, 16, 96, 24, (112, 60), 3, 1, 1, 1),
    "bands, strided": (1, 16, 96, 24, (112, 112), 3, 2, 1, 1),
    "bands of few pixels": (2, 33, 128, 65, (48, 53), 5, 2, (0, 4), 1),
    "several images": (3, 32, 48, 16, (7, 7), 3, 1, 1, 1),
    "as many as threads": (4, 32, 112, 33, (7, 8), 3, 2, 1, 1),
    "5x5": (1, 40, 240, 40, (14, 14), 5, 1, 2, 1),
    "dilated": (1, 16, 64, 16, (12, 13), 3, 1, 2, 2),
    "not padded": (1, 16, 64, 16, (12, 13), 3, 1, 0, 1),
    "strides beyond the kernel": (1, 16, 64, 16, (23, 20), 3, 4, 1, 1),
    "padding wider than the image": (1, 8, 32, 8, (2, 3), 3, 1, 4, 1),
    "kernel of one row": (1, 8, 32, 8, (5, 6), (1, 4), 1, (0, 2), 1),
}


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def draw(problem, dtype, rng, biases=True):
    n, c, m, o, size, kernel, *_ = problem
    x = normal(rng, (n, c, *size), dtype)
    weights = [normal(rng, shape, dtype) / np.sqrt(np.prod(shape[1:]), dtype=dtype)
               for shape in ((m, c, 1, 1), (m, 1, *pair(kernel)), (o, m, 1, 1))]
    return x, weights, [normal(rng, (k,), dtype) if biases else None for k in (m, m, o)]


def expected(problem, x, weights, biases, bounds):
    """The layers one by one, in float64."""
    *_, stride, padding, dilation = problem
    x, *weights = (array.astype(np.float64) for array in (x, *weights))
    biases = [None if b is None else b.astype(np.float64) for b in biases]
    u = np.clip(F.conv2d(x, weights[0], biases[0]), *bounds)
    t = np.clip(F.conv2d(u, weights[1], biases[1], stride, padding, dilation, groups=u.shape[1]), *bounds)
    return F.conv2d(t, weights[2], biases[2])


def fused(problem, x, weights, biases, bounds):
    *_, size, kernel, stride, padding, dilation = problem
    axes = [(n, k, stride, dilation, p, (n + 2 * p - dilation * (k - 1) - 1) // stride + 1)
            for n, k, p in zip(size, pair(kernel), pair(padding))]
    first, last = (np.ascontiguousarray(weights[i][:, :, 0, 0].T) for i in (0, 2))
    return _core.bottleneck(x, axes, first, biases[0], weights[1], biases[1], last, biases[2], bounds)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bounds", [(0.0, 6.0), (0.0, np.inf), (-0.1, 0.2)])
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_values(problem, bounds, dtype, rng):
    arrays = draw(problem, dtype, rng, biases=bounds[1] != np.inf)
    y = {}
    for threads in (1, 2, 3):
        with fastconv.num_threads(threads):
            y[threads] = fused(problem, *arrays, bounds)
    right = expected(problem, *arrays, bounds)
    assert y[1].dtype == dtype and y[1].shape == right.shape
    np.testing.assert_allclose(y[1], right, rtol=0, atol=(4e-6 if dtype == np.float32 else 1e-14) * np.abs(right).max())
    assert (y[1] == y[2]).all() and (y[1] == y[3]).all()


def test_strided_input(rng):
    problem = PROBLEMS["one band"]
    x, *rest = draw(problem, np.float32, rng)
    wide = np.zeros((1, 48, 20, 20), np.float32)
    wide[:, ::-2, 3:17, 2:16] = x
    view = wide[:, ::-2, 3:17, 2:16]
    np.testing.assert_array_equal(fused(problem, view, *rest, (0, 6)), fused(problem, x, *rest, (0, 6)))


def test_nan_and_infinity_travel(rng):
    problem = PROBLEMS["one band"]
    x, *rest = draw(problem, np.float32, rng)
    x[0, 0, 5, 5] = np.nan
    bad = np.isnan(fused(problem, x, *rest, (0, 6)))
    window = np.zeros_like(bad)
    window[:, :, 4:7, 4:7] = True
    assert (bad == window).all()


@pytest.mark.parametrize("what", ["channels-last input", "middle channels", "bounds above zero", "rows beyond scratch"])
def test_refusals(what, rng):
    problem = {"middle channels": (1, 4, 33, 4, (5, 5), 3, 1, 1, 1),
               "rows beyond scratch": (1, 1, 1024, 1, (1, 9000), 3, 1, 1, 1)}.get(what, PROBLEMS["one band"])
    x, *rest = draw(problem, np.float32, rng)
    if what == "channels-last input":
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert fused(problem, x, *rest, (1, 6) if what == "bounds above zero" else (0, 6)) is None


# ---- networks --------------------------------------------------------------------------------------


def block(activation=nn.ReLU6, depth=2, residual=True):
    def limited(*conv, **options):
        return nn.Sequential(nn.Conv2d(*conv, bias=False, seed=0, **options), nn.BatchNorm2d(conv[1]), activation())

    layers = [limited(8, 48, 1), limited(48, 48, 3, 1, 1, groups=48), nn.Conv2d(48, 8, 1, bias=False, seed=1), nn.BatchNorm2d(8)]
    if depth == 1:
        layers = [layer for part in layers for layer in (part.layers if isinstance(part, nn.Sequential) else [part])]
    chain = nn.Sequential(*layers)
    return nn.Residual({"conv": chain}) if residual else chain


def trained(net, rng):
    """With running statistics of its own."""
    for _ in range(3):
        net(normal(rng, (2, 8, 6, 6), np.float32))
    return net


@pytest.mark.parametrize("net", [block(), block(nn.ReLU), block(depth=1), block(residual=False),
                                 nn.Sequential(block(), nn.ReLU(), block(nn.ReLU))],
                         ids=["nested", "ReLU", "flat", "alone", "two"])
def test_folded_networks_run_fused(net, rng):
    trained(net, rng)
    folded, x = nn.fold_batch_norm(net), normal(rng, (2, 8, 6, 6), np.float32)
    chains = [layer for layer in folded._all_layers() if getattr(layer, "_bottleneck", None)]
    assert len(chains) == str(net).count("groups=48")
    y = folded(x)
    net.eval()
    np.testing.assert_allclose(y, net(x), rtol=0, atol=1e-5)
    separate = copy.deepcopy(folded)
    for layer in separate._all_layers():
        layer._bottleneck = None
    np.testing.assert_allclose(y, separate(x), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(folded))(x), y)
    np.testing.assert_array_equal(copy.deepcopy(folded)(x), y)
    np.testing.assert_array_equal(folded.backward(y), separate.backward(y))    # by the layers, as ever
    assert all((value == separate.state_dict()[name]).all() for name, value in folded.state_dict().items())


def test_what_changes_after_folding_counts(rng):
    net = nn.fold_batch_norm(trained(block(residual=False), rng))
    x = normal(rng, (1, 8, 6, 6), np.float32)
    before = net(x)
    net.load_state_dict({name: 2 * value for name, value in net.state_dict().items()})
    changed = net(x)
    assert np.abs(changed - before).max() > 0.1
    for wrong in (np.zeros(48, np.float64), np.zeros(47, np.float32)):
        good, net.params["0.0.bias"] = net.params["0.0.bias"], wrong
        with pytest.raises((TypeError, ValueError), match="bias"):
            net(x)
        net.params["0.0.bias"] = good
    net.params["0.0.weight"] = np.ascontiguousarray(net.params["0.0.weight"])    # in another order: one by one
    np.testing.assert_allclose(net(x), changed, rtol=1e-4, atol=1e-4)
    del net[1].children["2"]    # the second limit
    assert np.abs(net(x) - changed).max() > 0.1
    with pytest.raises(ValueError, match="input of Conv2d must have shape"):
        net(x[:, :4])


@pytest.mark.parametrize("change", ["another limit", "groups", "no depthwise", "a stride", "same padding"])
def test_what_is_no_inverted_residual(change, rng):
    net = block(depth=1, residual=False)
    if change == "another limit":
        net.children["5"] = nn.ReLU()
    elif change == "groups":
        net.children["0"] = nn.Conv2d(8, 48, 1, groups=2)
    elif change == "no depthwise":
        net.children["3"] = nn.Conv2d(48, 48, 3, padding=1, groups=24)
    elif change == "a stride":
        net.children["6"] = nn.Conv2d(48, 8, 1, 2)
    else:
        net.children["3"] = nn.Conv2d(48, 48, 3, padding="same", groups=48)
    folded = nn.fold_batch_norm(trained(net, rng))
    assert folded._bottleneck is None
    x = normal(rng, (1, 8, 6, 6), np.float32)
    np.testing.assert_allclose(folded(x), net.eval()(x), rtol=0, atol=1e-5)
