"""The passes between convolutions, below the layers that use them: against NumPy, at any size, stride and number of threads."""

import numpy as np
import pytest
from reference import assert_close
from shapes import DTYPES, normal

import fastconv
from fastconv import _core, nn, optim

SIZES = [(), (0, 3), (5,), (3, 7, 11), (16384,), (16385,), (2, 300001)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_gate(shape, dtype, rng):
    y, g = np.asarray(normal(rng, shape, dtype)), np.asarray(normal(rng, shape, dtype))
    np.testing.assert_array_equal(_core.gate(y, g, 0, np.nan), np.where(y > 0, g, 0))
    np.testing.assert_array_equal(_core.gate(y, g, -1, 0.5), np.where((y > -1) & (y < 0.5), g, 0))


def test_gate_of_what_is_no_number():
    y = np.array([np.nan, np.inf, -np.inf, 1, -1, 0, -0.0])
    g = np.array([1, 2, 3, np.inf, np.nan, np.inf, np.nan])
    np.testing.assert_array_equal(_core.gate(y, g, 0, np.nan), [1, 2, 0, np.inf, 0, 0, 0])


def test_gate_in_place(rng):
    y, g = normal(rng, (3, 5), np.float32), normal(rng, (3, 5), np.float32)
    expected = np.where(y > 0, g, 0)
    assert _core.gate(y, g, 0, np.nan, True) is g
    np.testing.assert_array_equal(g, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_residual_sum(shape, dtype, rng):
    y, x = (np.array(normal(rng, shape, dtype)) for _ in range(2))
    for limits in ((0, np.inf), (-0.5, 0.25), None):
        ours = y.copy()
        _core.add(ours, x, limits)
        np.testing.assert_array_equal(ours, np.clip(y + x, *(limits or (-np.inf, np.inf))))
    view = y.copy(order="F")
    _core.add(view, x, (0, 6))
    np.testing.assert_array_equal(view, np.clip(y + x, 0, 6))


# Input and weight shapes, stride and groups that the algorithms share between them.
BOUNDED = {
    "3x3": ((2, 24, 21, 19), (30, 24, 3, 3), 1, 1),
    "3x3 stride 2": ((2, 5, 17, 20), (7, 5, 3, 3), 2, 1),
    "1x1": ((1, 80, 18, 18), (40, 80, 1, 1), 1, 1, 0),
    "1x1 padded": ((1, 80, 18, 18), (40, 80, 1, 1), 1, 1),
    "depthwise": ((2, 6, 20, 33), (6, 1, 3, 3), 1, 6),
    "depthwise narrow": ((1, 18, 7, 7), (36, 1, 3, 3), 2, 18),
    "tiny": ((1, 2, 4, 4), (2, 2, 3, 3), 1, 1),
    "few output pixels": ((3, 130, 3, 2), (40, 65, 3, 3), 2, 2),
    "1d": ((3, 4, 50), (4, 2, 5), 1, 2),
    "3d": ((1, 3, 4, 6, 9), (5, 3, 2, 3, 3), 1, 1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "strided output"])
@pytest.mark.parametrize("case", BOUNDED.values(), ids=BOUNDED)
def test_bounded_convolution(case, layout, dtype, rng):
    """Every algorithm: the bits of a convolution, limited; NaN and infinity too."""
    x_shape, w_shape, stride, groups, padding = (*case, 1)[:5]
    x, w, bias = normal(rng, x_shape, dtype), normal(rng, w_shape, dtype), normal(rng, w_shape[:1], dtype)
    x.flat[7], x.flat[100 % x.size] = np.nan, np.inf
    if layout == "channels last":
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    axes, ran = x.ndim - 2, []
    shape = getattr(fastconv, f"conv{axes}d")(x, w, None, stride, padding, 1, groups).shape
    special = "depthwise", "planes", "stencil", "winograd", "winograd_channels", "winograd_strided"
    general = "few_pixels", "pixels", "pointwise", "channels", "im2col", "reference"
    for algorithm in (None, *special, *general):
        outs = [np.empty((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2] if layout == "strided output" else None for _ in range(2)]
        arguments = axes, False, x, w, bias, stride, padding, 1, groups
        try:
            y = _core.convolve(*arguments, outs[0], algorithm)
        except ValueError:
            continue
        for limits in ((0, np.inf), (-0.5, 0.25)):
            ours = _core.convolve(*arguments, outs[1], algorithm, 0, limits)
            np.testing.assert_array_equal(ours, np.clip(y, *limits), err_msg=str(algorithm))
        ran.append(algorithm)
    assert {None, "pixels", "im2col", "reference"} <= set(ran)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_momentum(shape, nesterov, dtype, rng):
    w, u, g = (np.array(normal(rng, shape, dtype)) for _ in range(3))
    velocity = 0.9 * u.astype(np.float64) + 0.7 * g
    step = g + 0.8 * velocity if nesterov else velocity
    expected = w - 0.1 * step
    _core.momentum_step(w, u, g, 0.9, 0.7, 0.8, 0.1, nesterov)
    assert_close(u, velocity, scale=5.0)
    assert_close(w, expected, scale=5.0)


def test_momentum_of_parameters_with_strides(rng):
    """A transposed, a reversed and a misaligned parameter are updated in place as a contiguous one is."""
    plain = normal(rng, (6, 4), np.float64)
    room = np.zeros(6 * 4 * 8 + 1, np.uint8)
    odd = room[1:].view(np.float64).reshape(6, 4)
    for view in (plain.copy().T.copy().T, plain[::-1].copy()[::-1], odd):
        view[...] = plain
        net = type("Net", (), {"params": {"w": view}, "grads": {"w": plain / 2}})()
        twin = type("Net", (), {"params": {"w": plain.copy()}, "grads": {"w": plain / 2}})()
        for one in (net, twin):
            optimizer = optim.SGD(one, lr=0.1, momentum=0.9)
            optimizer.step()
            optimizer.step()
        np.testing.assert_array_equal(net.params["w"], twin.params["w"])
        assert net.params["w"] is view


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "reversed", "broadcast"])
def test_batch_norm_of_any_strides(layout, dtype, rng):
    x = normal(rng, (4, 3, 5, 6), dtype)
    views = {"contiguous": x, "channels last": np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
             "reversed": x[::-1, :, ::-1].copy()[::-1, :, ::-1], "broadcast": np.broadcast_to(x[:1], x.shape)}
    view = views[layout]
    results = []
    for array in (view, np.ascontiguousarray(view)):
        layer = nn.BatchNorm2d(3, dtype=dtype)
        results.append((layer(array), layer.backward(array), layer.grads["weight"], layer.grads["bias"]))
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_a_large_mean_does_not_drown_the_variance(rng):
    """1e4 + noise of deviation 0.01 in float32, where E[x^2] - E[x]^2 would be all rounding."""
    x = (1e4 + 0.01 * rng.standard_normal((8, 2, 40, 40))).astype(np.float32)
    layer = nn.BatchNorm2d(2, momentum=1.0, eps=1e-12)
    layer(x)
    np.testing.assert_allclose(layer.buffers["running_var"], x.astype(np.float64).var((0, 2, 3), ddof=1), rtol=1e-6)


@pytest.mark.usefixtures("restore_configuration")
def test_the_same_bits_at_any_number_of_threads(rng):
    x, g = normal(rng, (8, 5, 96, 96), np.float32), normal(rng, (8, 5, 96, 96), np.float32)

    def everything():
        norm, w, u = nn.BatchNorm2d(5), x.copy(), g.copy()
        _core.momentum_step(w, u, g, 0.9, 1.0, 0.9, 0.1, True)
        return [norm(x), norm.backward(g), norm.grads["weight"], norm.grads["bias"], w, u, _core.gate(x, g, 0, 1)]

    fastconv.set_num_threads(1)
    expected = everything()
    for threads in (2, 3, 8):
        fastconv.set_num_threads(threads)
        for ours, one in zip(everything(), expected, strict=True):
            np.testing.assert_array_equal(ours, one)


def test_what_does_not_fit():
    a, b = np.zeros((2, 3)), np.zeros((2, 4))
    with pytest.raises(ValueError, match=r"gradient: expected shape \(2, 3\), got \(2, 4\)"):
        _core.gate(a, b, 0, 1)
    with pytest.raises(ValueError, match=r"x: expected shape \(2, 3\), got \(2, 4\)"):
        _core.add(a, b, None)
    with pytest.raises(TypeError, match="gradient"):
        _core.gate(a, a.astype(np.float32), 0, 1)
    with pytest.raises(ValueError, match=r"expected shape \(2, 3\), got \(2, 4\) and \(2, 3\)"):
        _core.momentum_step(a, a.copy(), b, 0, 1, 0, 0.1, False)
    a.flags.writeable = False
    with pytest.raises(ValueError, match="expected arrays that can be written, got a read-only one"):
        _core.momentum_step(a, np.zeros((2, 3)), np.zeros((2, 3)), 0, 1, 0, 0.1, False)
    per_channel = [np.zeros(3) for _ in range(4)]
    with pytest.raises(ValueError, match="expected 4 contiguous float64 numbers per channel, got"):
        _core.batch_norm(np.zeros((2, 4, 5)), *per_channel, 1e-5, True)
    with pytest.raises(ValueError, match=r"x: expected shape \(N, C, pixels\), got \(2, 3\)"):
        _core.batch_norm(np.zeros((2, 3)), *per_channel, 1e-5, True)
