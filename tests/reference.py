"""Naive float64 twins of fastconv's functions: the oracle that every other test leans on.

Each function is the textbook definition written as a loop over kernel taps or over output
positions, for any number of spatial axes, always computed in float64, always batched:
arrays are (N, C, *spatial). Nothing here is clever and nothing here is fast.

Convolution pads a copy of its input and gathers; transposed convolution scatters onto a canvas
and crops it. The two share no code, so each can be the judge of the other's adjoint.
"""

from itertools import product
from math import ceil, prod

import numpy as np

TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}


def assert_close(actual, expected, scale=None):
    """Hold `actual` to its dtype's tolerance, relative to the largest finite |expected| or to `scale`."""
    actual, expected = np.asarray(actual), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    if scale is None:
        scale = np.max(np.abs(expected), where=np.isfinite(expected), initial=0.0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[actual.dtype] * scale)


# ---- geometry ----------------------------------------------------------------------------------


def per_axis(value, axes):
    """An int for every axis, or the tuple that was given."""
    return (value,) * axes if isinstance(value, (int, np.integer)) else tuple(value)


def padding_pairs(padding, size, kernel, stride, dilation):
    """Zeros (before, after) on every axis, from any form that fastconv's `padding` takes."""
    if padding == "valid":
        return [(0, 0)] * len(size)
    if padding == "same":
        pairs = []
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
            total = max(0, (ceil(n / s) - 1) * s + d * (k - 1) + 1 - n)
            pairs.append((total // 2, total - total // 2))
        return pairs
    return [tuple(p) if isinstance(p, (tuple, list)) else (p, p) for p in per_axis(padding, len(size))]


def tap_slices(tap, stride, dilation, count):
    """Where tap `tap` of `count` windows, `stride` apart, lies in a padded array."""
    return tuple(
        slice(t * d, t * d + s * (n - 1) + 1, s) if n else slice(0, 0)
        for t, s, d, n in zip(tap, stride, dilation, count, strict=True)
    )


def zero_pad(x, pairs):
    return np.pad(np.asarray(x, np.float64), [(0, 0), (0, 0), *pairs])


def crop(canvas, pairs, size):
    return canvas[(..., *(slice(before, before + n) for (before, _), n in zip(pairs, size, strict=True)))]


def group_slices(channels, groups):
    """The run of channels that each group owns."""
    per_group = channels // groups
    return [slice(g * per_group, (g + 1) * per_group) for g in range(groups)]


class Geometry:
    """Kernel, stride, dilation, padding and output size of a convolution, one entry per spatial axis."""

    def __init__(self, size, kernel, stride, padding, dilation):
        axes = len(size)
        self.size, self.kernel = tuple(size), tuple(kernel)
        self.stride, self.dilation = per_axis(stride, axes), per_axis(dilation, axes)
        self.pairs = padding_pairs(padding, size, kernel, self.stride, self.dilation)
        self.out = tuple(
            (n + sum(pair) - d * (k - 1) - 1) // s + 1
            for n, pair, k, s, d in zip(size, self.pairs, kernel, self.stride, self.dilation, strict=True)
        )

    def taps(self):
        """Every kernel tap with the slices of the padded input that it meets."""
        for tap in np.ndindex(*self.kernel):
            yield tap, (..., *tap_slices(tap, self.stride, self.dilation, self.out))

    def canvas(self, n, channels):
        """A zero array of the padded input's shape."""
        return np.zeros((n, channels, *(n + sum(pair) for n, pair in zip(self.size, self.pairs, strict=True))))


# ---- convolution -------------------------------------------------------------------------------


def channel_products(a, b):
    """sum_{n,p} a[n,i,p] b[n,j,p] for every pair (i, j) of channels"""
    axes = (0, *range(2, a.ndim))
    return np.tensordot(a, b, axes=(axes, axes))


def conv(x, w, b=None, stride=1, padding=0, dilation=1, groups=1):
    """y[n,o,p] = b[o] + sum_{i,k} w[o,i,k] x[n,i, stride p + dilation k - padding]"""
    w = np.asarray(w, np.float64)
    geometry = Geometry(x.shape[2:], w.shape[2:], stride, padding, dilation)
    padded = zero_pad(x, geometry.pairs)
    y = np.zeros((x.shape[0], w.shape[0], *geometry.out))
    for ins, outs in zip(group_slices(x.shape[1], groups), group_slices(w.shape[0], groups), strict=True):
        for tap, window in geometry.taps():
            y[:, outs] += np.einsum("oi,ni...->no...", w[(outs, slice(None), *tap)], padded[:, ins][window])
    return y if b is None else y + np.reshape(b, (1, -1) + (1,) * len(geometry.size))


def conv_backward(grad, x, w, stride=1, padding=0, dilation=1, groups=1):
    """(dL/dx, dL/dw, dL/db) of `conv`, each tap's contribution sent back where it came from."""
    grad, w = np.asarray(grad, np.float64), np.asarray(w, np.float64)
    geometry = Geometry(x.shape[2:], w.shape[2:], stride, padding, dilation)
    padded = zero_pad(x, geometry.pairs)
    grad_padded = geometry.canvas(*x.shape[:2])
    grad_w = np.zeros(w.shape)
    for ins, outs in zip(group_slices(x.shape[1], groups), group_slices(w.shape[0], groups), strict=True):
        for tap, window in geometry.taps():
            at = (outs, slice(None), *tap)
            grad_padded[:, ins][window] += np.einsum("oi,no...->ni...", w[at], grad[:, outs])
            grad_w[at] = channel_products(grad[:, outs], padded[:, ins][window])
    grad_x = crop(grad_padded, geometry.pairs, geometry.size)
    return grad_x, grad_w, grad.sum(axis=(0, *range(2, grad.ndim)))


def transpose_size(size, kernel, stride, padding, output_padding, dilation):
    """Output size of a transposed convolution, by its formula."""
    axes = len(size)
    parameters = (per_axis(v, axes) for v in (stride, padding, output_padding, dilation))
    return tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for n, k, s, p, extra, d in zip(size, kernel, *parameters, strict=True)
    )


def conv_transpose(x, w, b=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """y[n,o, stride p + dilation k - padding] = b[o] + sum_i w[i,o,k] x[n,i,p], scattered"""
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    out = transpose_size(x.shape[2:], w.shape[2:], stride, padding, output_padding, dilation)
    # The convolution from `out` back to x's size has the same geometry.
    geometry = Geometry(out, w.shape[2:], stride, padding, dilation)
    canvas = geometry.canvas(x.shape[0], w.shape[1] * groups)
    for ins, outs in zip(group_slices(x.shape[1], groups), group_slices(w.shape[1] * groups, groups), strict=True):
        for tap in np.ndindex(*geometry.kernel):
            window = (..., *tap_slices(tap, geometry.stride, geometry.dilation, x.shape[2:]))
            canvas[:, outs][window] += np.einsum("io,ni...->no...", w[(ins, slice(None), *tap)], x[:, ins])
    y = crop(canvas, geometry.pairs, out)
    return y if b is None else y + np.reshape(b, (1, -1) + (1,) * len(out))


def conv_transpose_backward(grad, x, w, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """(dL/dx, dL/dw, dL/db) of `conv_transpose`: the same walk, gathering instead of scattering."""
    grad, x, w = (np.asarray(a, np.float64) for a in (grad, x, w))
    geometry = Geometry(grad.shape[2:], w.shape[2:], stride, padding, dilation)
    padded = zero_pad(grad, geometry.pairs)
    grad_x, grad_w = np.zeros(x.shape), np.zeros(w.shape)
    for ins, outs in zip(group_slices(x.shape[1], groups), group_slices(w.shape[1] * groups, groups), strict=True):
        for tap in np.ndindex(*geometry.kernel):
            window = (..., *tap_slices(tap, geometry.stride, geometry.dilation, x.shape[2:]))
            at = (ins, slice(None), *tap)
            grad_x[:, ins] += np.einsum("io,no...->ni...", w[at], padded[:, outs][window])
            grad_w[at] = channel_products(x[:, ins], padded[:, outs][window])
    return grad_x, grad_w, grad.sum(axis=(0, *range(2, grad.ndim)))


# ---- pooling -----------------------------------------------------------------------------------


def pool_size(n, k, s, p, d, ceil_mode):
    """Windows along one axis; with `ceil_mode` the last may overhang but must start inside input or left padding."""
    span = n + 2 * p - d * (k - 1) - 1
    count = (-(-span // s) if ceil_mode else span // s) + 1
    return count - 1 if ceil_mode and (count - 1) * s >= n + p else count


def pool_windows(size, kernel, stride, padding, dilation, ceil_mode):
    """Per axis a list of windows, each the list of its positions, padding and overhang included."""
    axes = len(size)
    kernel = per_axis(kernel, axes)
    stride = kernel if stride is None else per_axis(stride, axes)
    rows = zip(size, kernel, stride, per_axis(padding, axes), per_axis(dilation, axes), strict=True)
    return [
        [[o * s - p + t * d for t in range(k)] for o in range(pool_size(n, k, s, p, d, ceil_mode))]
        for n, k, s, p, d in rows
    ]


def adaptive_windows(size, output_size):
    """Window i of an axis covers floor(i n / m) up to ceil((i + 1) n / m)."""
    return [
        [list(range(i * n // m, -(-(i + 1) * n // m))) for i in range(m)]
        for n, m in zip(size, per_axis(output_size, len(size)), strict=True)
    ]


def each_window(windows):
    """Every output position with the list of input positions of its window, both row-major."""
    for at in np.ndindex(*(len(axis) for axis in windows)):
        yield at, list(product(*(axis[o] for axis, o in zip(windows, at, strict=True))))


def inside(position, size):
    return all(0 <= i < n for i, n in zip(position, size, strict=True))


def max_over(x, windows):
    """Maximum and its flat index per window: a NaN wins over all before it, of equal values the first wins."""
    x = np.asarray(x)
    size = x.shape[2:]
    out = tuple(len(axis) for axis in windows)
    values = np.full((*x.shape[:2], *out), -np.inf, x.dtype)
    indices = np.full(values.shape, -1, np.int64)
    for at, window in each_window(windows):
        best, where = values[(..., *at)], indices[(..., *at)]
        for position in window:
            if inside(position, size):
                candidate = x[(..., *position)]
                better = (where < 0) | (candidate > best) | np.isnan(candidate)
                best = np.where(better, candidate, best)
                where = np.where(better, np.ravel_multi_index(position, size), where)
        values[(..., *at)], indices[(..., *at)] = best, where
    return values, indices


def max_pool(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    """(values, flat indices) of the maximum of every window"""
    return max_over(x, pool_windows(x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode))


def adaptive_max_pool(x, output_size):
    return max_over(x, adaptive_windows(x.shape[2:], output_size))


def max_pool_backward(grad, indices, input_size):
    """Every gradient added at the place its maximum came from; serves adaptive pooling too."""
    grad_x = np.zeros((*grad.shape[:2], prod(input_size[2:])))
    for n, c in np.ndindex(*grad.shape[:2]):
        for value, index in zip(grad[n, c].ravel(), indices[n, c].ravel(), strict=True):
            grad_x[n, c, index] += value
    return grad_x.reshape(input_size)


def max_unpool(x, indices, output_size):
    """Every value put at its index, zeros elsewhere; `output_size` holds the spatial sizes."""
    y = np.zeros((*x.shape[:2], prod(output_size)))
    for n, c in np.ndindex(*x.shape[:2]):
        for value, index in zip(x[n, c].ravel(), indices[n, c].ravel(), strict=True):
            y[n, c, index] = value
    return y.reshape(*x.shape[:2], *output_size)


def average_weights(size, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override):
    """Every output position with its window's positions inside the input and its divisor."""
    reach = [n + p for n, p in zip(size, per_axis(padding, len(size)), strict=True)]
    for at, window in each_window(pool_windows(size, kernel, stride, padding, 1, ceil_mode)):
        real = [position for position in window if inside(position, size)]
        padded = [position for position in window if all(i < r for i, r in zip(position, reach, strict=True))]
        yield at, real, divisor_override or (len(padded) if count_include_pad else len(real))


def avg_pool(
    x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    """Mean of every window; overhang beyond the padding is never counted."""
    x = np.asarray(x, np.float64)
    windows = pool_windows(x.shape[2:], kernel_size, stride, padding, 1, ceil_mode)
    y = np.zeros((*x.shape[:2], *(len(axis) for axis in windows)))
    rule = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    for at, real, divisor in average_weights(x.shape[2:], *rule):
        for position in real:
            y[(..., *at)] += x[(..., *position)] / divisor
    return y


def avg_pool_backward(
    grad,
    input_size,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
):
    grad_x = np.zeros(input_size)
    rule = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    for at, real, divisor in average_weights(input_size[2:], *rule):
        for position in real:
            grad_x[(..., *position)] += grad[(..., *at)] / divisor
    return grad_x


def adaptive_avg_pool(x, output_size):
    x = np.asarray(x, np.float64)
    windows = adaptive_windows(x.shape[2:], output_size)
    y = np.zeros((*x.shape[:2], *(len(axis) for axis in windows)))
    for at, window in each_window(windows):
        for position in window:
            y[(..., *at)] += x[(..., *position)] / len(window)
    return y


def adaptive_avg_pool_backward(grad, input_size):
    grad_x = np.zeros(input_size)
    for at, window in each_window(adaptive_windows(input_size[2:], grad.shape[2:])):
        for position in window:
            grad_x[(..., *position)] += grad[(..., *at)] / len(window)
    return grad_x


# ---- patches -----------------------------------------------------------------------------------


def unfold(x, kernel_size, dilation=1, padding=0, stride=1):
    """(N, C * taps, windows): every window of `conv` as a column"""
    n, c = x.shape[:2]
    geometry = Geometry(x.shape[2:], per_axis(kernel_size, x.ndim - 2), stride, padding, dilation)
    padded = zero_pad(x, geometry.pairs)
    columns = np.stack([padded[window].reshape(n, c, -1) for _, window in geometry.taps()], axis=2)
    return columns.reshape(n, c * prod(geometry.kernel), prod(geometry.out))


def fold(columns, output_size, kernel_size, dilation=1, padding=0, stride=1):
    """Adjoint of `unfold`: every column added back to its window."""
    axes = len(output_size)
    geometry = Geometry(output_size, per_axis(kernel_size, axes), stride, padding, dilation)
    n, c = columns.shape[0], columns.shape[1] // prod(geometry.kernel)
    by_tap = np.asarray(columns, np.float64).reshape(n, c, prod(geometry.kernel), *geometry.out)
    canvas = geometry.canvas(n, c)
    for i, (_, window) in enumerate(geometry.taps()):
        canvas[window] += by_tap[:, :, i]
    return crop(canvas, geometry.pairs, geometry.size)
