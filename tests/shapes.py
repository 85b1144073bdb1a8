"""The shapes that tests run over: hypothesis strategies for small ones, named cases for the rest.

A case knows its geometry and makes its arrays. Cases that hypothesis draws hold small multiples
of 1/8, so that sums are exact and a wrong tap cannot hide in rounding; named cases hold normal
deviates, so that rounding is what they test.
"""

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

DTYPES = (np.float32, np.float64)
LARGEST_SIDE = {1: 40, 2: 11, 3: 6}


def eighths(rng, shape, dtype):
    """Multiples of 1/8 in [-2, 2]: products and short sums of them are exact in float32."""
    return (rng.integers(-16, 17, shape) / 8).astype(dtype)


def channels_last(array):
    """The same values, a pixel's channels next to each other in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


def normal(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


class ConvCase(NamedTuple):
    """One convolution: shapes of input and weight, and everything else that conv*d takes."""

    input: tuple
    weight: tuple
    stride: object = 1
    padding: object = 0
    dilation: object = 1
    groups: int = 1
    bias: bool = True
    dtype: type = np.float32

    @property
    def axes(self):
        return len(self.input) - 2

    @property
    def options(self):
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    def arrays(self, fill=eighths, seed=0):
        """(input, weight, bias or None)"""
        rng = np.random.default_rng(seed)
        bias = fill(rng, self.weight[:1], self.dtype) if self.bias else None
        return fill(rng, self.input, self.dtype), fill(rng, self.weight, self.dtype), bias


class TransposeCase(NamedTuple):
    """One transposed convolution; `weight` is (in_channels, out_channels // groups, *kernel)."""

    input: tuple
    weight: tuple
    stride: object = 1
    padding: object = 0
    output_padding: object = 0
    groups: int = 1
    dilation: object = 1
    bias: bool = True
    dtype: type = np.float32

    @property
    def axes(self):
        return len(self.input) - 2

    @property
    def options(self):
        return {
            "stride": self.stride,
            "padding": self.padding,
            "output_padding": self.output_padding,
            "groups": self.groups,
            "dilation": self.dilation,
        }

    def arrays(self, fill=eighths, seed=0):
        """(input, weight, bias or None)"""
        rng = np.random.default_rng(seed)
        bias = fill(rng, (self.weight[1] * self.groups,), self.dtype) if self.bias else None
        return fill(rng, self.input, self.dtype), fill(rng, self.weight, self.dtype), bias


class PoolCase(NamedTuple):
    """One pooling; average pooling has no dilation and ignores it."""

    input: tuple
    kernel_size: object
    stride: object = None
    padding: object = 0
    dilation: object = 1
    ceil_mode: bool = False
    dtype: type = np.float32

    @property
    def axes(self):
        return len(self.input) - 2

    def array(self, fill=eighths, seed=0):
        """Multiples of 1/8 have many ties, which is what max pooling should see."""
        return fill(np.random.default_rng(seed), self.input, self.dtype)


# ---- strategies --------------------------------------------------------------------------------

SEEDS = st.integers(0, 2**16)


def per_axis(values, axes):
    """One int for all axes, or a tuple with an int for each."""
    return values | st.tuples(*[values] * axes)


def as_tuple(value, axes):
    return (value,) * axes if isinstance(value, int) else value


FEW_CHANNELS = st.integers(1, 5)
CHANNELS = FEW_CHANNELS | st.sampled_from((8, 15, 16, 17, 32))    # a vector's lanes, and about them


@st.composite
def conv_cases(draw, axes=None, paddings=("numbers", "pairs", "same", "valid"), channels=CHANNELS):
    """Convolutions with at least one output pixel, `channels` a group; padding may exceed both kernel and input."""
    axes = draw(st.sampled_from((1, 2, 3))) if axes is None else axes
    kernel = draw(st.tuples(*[st.integers(1, 5 if axes < 3 else 3)] * axes))
    stride = draw(per_axis(st.integers(1, 4), axes))
    dilation = draw(per_axis(st.integers(1, 3), axes))
    match draw(st.sampled_from(paddings)):
        case "numbers":
            padding = draw(per_axis(st.integers(0, 6), axes))
            total = [2 * p for p in as_tuple(padding, axes)]
        case "pairs":
            padding = draw(st.tuples(*[st.tuples(st.integers(0, 6), st.integers(0, 6))] * axes))
            total = [sum(pair) for pair in padding]
        case "same":
            padding, total = "same", [10**6] * axes
        case "valid":
            padding, total = "valid", [0] * axes
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, as_tuple(dilation, axes), strict=True)]
    smallest = [max(1, r - p) for r, p in zip(reach, total, strict=True)]
    size = [draw(st.integers(low, max(low, LARGEST_SIDE[axes]))) for low in smallest]
    groups = draw(st.integers(1, 3))
    ins, outs = draw(channels), draw(channels)
    return ConvCase(
        input=(draw(st.integers(1, 3)), ins * groups, *size),
        weight=(outs * groups, ins, *kernel),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        dtype=draw(st.sampled_from(DTYPES)),
    )


@st.composite
def transpose_cases(draw, axes=None):
    """Transposed convolutions with at least one output pixel."""
    axes = draw(st.sampled_from((1, 2, 3))) if axes is None else axes
    kernel = draw(st.tuples(*[st.integers(1, 5 if axes < 3 else 3)] * axes))
    stride, dilation = (draw(st.tuples(*[st.integers(1, high)] * axes)) for high in (4, 3))
    padding = draw(st.tuples(*[st.integers(0, 4)] * axes))
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    size = []
    for k, s, p, e, d in zip(kernel, stride, padding, extra, dilation, strict=True):
        # Smallest n with (n - 1) s - 2 p + d (k - 1) + e + 1 >= 1.
        low = max(1, 1 - (d * (k - 1) + e - 2 * p) // s)
        size.append(draw(st.integers(low, max(low, LARGEST_SIDE[axes] // 2))))
    groups = draw(st.integers(1, 3))
    ins, outs = draw(CHANNELS), draw(CHANNELS)
    return TransposeCase(
        input=(draw(st.integers(1, 3)), ins * groups, *size),
        weight=(ins * groups, outs, *kernel),
        stride=stride,
        padding=padding,
        output_padding=extra,
        groups=groups,
        dilation=dilation,
        bias=draw(st.booleans()),
        dtype=draw(st.sampled_from(DTYPES)),
    )


@st.composite
def pool_cases(draw, axes=None, dilated=True):
    """Poolings with at least one window, within PyTorch's limits.

    Padding is at most half the kernel. No window lies in padding alone: an axis is at least as long as the
    dilation. In 3-D an axis is at least as long as the kernel.
    """
    axes = draw(st.sampled_from((1, 2, 3))) if axes is None else axes
    kernel = draw(per_axis(st.integers(1, 4), axes))
    stride = draw(st.none() | per_axis(st.integers(1, 4), axes))
    dilation = draw(per_axis(st.integers(1, 3), axes)) if dilated else 1
    padding, size = [], []
    for k, d in zip(as_tuple(kernel, axes), as_tuple(dilation, axes), strict=True):
        padding.append(draw(st.integers(0, k // 2)))
        low = max(d, d * (k - 1) + 1 - 2 * padding[-1], k if axes == 3 else 1)
        size.append(draw(st.integers(low, max(low, LARGEST_SIDE[axes]))))
    return PoolCase(
        input=(draw(st.integers(1, 2)), draw(st.integers(1, 4)), *size),
        kernel_size=kernel,
        stride=stride,
        padding=tuple(padding),
        dilation=dilation,
        ceil_mode=draw(st.booleans()),
        dtype=draw(st.sampled_from(DTYPES)),
    )


# ---- named cases -------------------------------------------------------------------------------

# Sizes sit on, just below and just above the multiples of 6, 8, 14, 16, 32, 48 and 64 that microkernels
# tile by, and reductions pass the few hundred taps that one block of a long sum holds.
CONV_CASES = {
    "homework 2ch length 4": ConvCase((1, 2, 4), (1, 2, 2)),
    "single element": ConvCase((1, 1, 1, 1), (1, 1, 1, 1)),
    "single element 3d": ConvCase((1, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
    "pointwise": ConvCase((2, 64, 14, 14), (48, 64, 1, 1)),
    "pointwise, far channels": ConvCase((2, 200, 19, 17), (45, 200, 1, 1)),
    "pointwise, far channels, one row": ConvCase((1, 130, 1, 300), (64, 130, 1, 1)),
    "pointwise stride 2": ConvCase((1, 33, 15, 15), (17, 33, 1, 1), stride=2),
    "pointwise padded": ConvCase((1, 5, 9, 9), (7, 5, 1, 1), padding=3),
    "pointwise padded stride 2": ConvCase((3, 16, 13, 13), (2, 16, 1, 1), stride=2, padding=(0, 1)),
    "pointwise grouped": ConvCase((2, 30, 7, 7), (21, 10, 1, 1), groups=3),
    "image stem": ConvCase((2, 3, 33, 47), (32, 3, 3, 3), padding=1),
    "7x7 stride 2": ConvCase((1, 3, 61, 45), (21, 3, 7, 7), stride=2, padding=3),
    "11x11 stride 4": ConvCase((1, 3, 67, 67), (13, 3, 11, 11), stride=4),
    "one channel": ConvCase((1, 1, 65, 129), (1, 1, 3, 3), padding=1),
    "lenet": ConvCase((4, 1, 28, 28), (6, 1, 5, 5)),
    "dense 3x3": ConvCase((2, 64, 17, 31), (65, 64, 3, 3), padding=1),
    "dense 3x3 narrow": ConvCase((3, 96, 7, 7), (100, 96, 3, 3), padding=1),
    "dense 3x3 no padding": ConvCase((2, 32, 13, 19), (33, 32, 3, 3)),
    "dense 3x3 stride 2": ConvCase((2, 32, 28, 28), (64, 32, 3, 3), stride=2, padding=1),
    "dense 3x3 dilated": ConvCase((1, 24, 23, 23), (25, 24, 3, 3), padding=2, dilation=2),
    "dense 5x5": ConvCase((2, 31, 15, 15), (47, 31, 5, 5), padding=2),
    "dense 5x5, channels in parts": ConvCase((3, 192, 9, 10), (100, 192, 5, 5), padding=2),
    "long reduction": ConvCase((1, 257, 8, 8), (16, 257, 3, 3), padding=1),
    "many images": ConvCase((65, 3, 8, 8), (8, 3, 3, 3), padding=1),
    "many outputs": ConvCase((1, 4, 3, 3), (257, 4, 3, 3)),
    "one output pixel": ConvCase((3, 40, 7, 7), (50, 40, 7, 7)),
    "dense layer, five rows": ConvCase((5, 1312, 1), (37, 1312, 1)),
    "few output pixels": ConvCase((3, 130, 3, 2), (40, 65, 3, 3), stride=2, padding=1, groups=2),
    "row kernel": ConvCase((2, 8, 20, 35), (8, 8, 1, 7), padding=(0, 3)),
    "column kernel": ConvCase((2, 8, 35, 20), (8, 8, 7, 1), padding=(3, 0)),
    "wide strip": ConvCase((1, 6, 1, 300), (5, 6, 1, 9), padding=(0, 4)),
    "tall strip": ConvCase((1, 6, 300, 1), (5, 6, 9, 1), padding=(4, 0)),
    "unequal everything": ConvCase(
        (2, 12, 29, 37), (9, 4, 3, 5), stride=(3, 2), padding=((0, 4), (3, 1)), dilation=(2, 3), groups=3
    ),
    "padding beyond the input": ConvCase((1, 2, 3, 4), (3, 2, 3, 3), padding=9),
    "same with stride": ConvCase((2, 3, 30, 29), (5, 3, 4, 3), stride=(3, 2), padding="same"),
    "stride beyond the kernel": ConvCase((1, 4, 40, 41), (6, 4, 2, 2), stride=7),
    "stride beyond the input": ConvCase((1, 4, 5, 5), (6, 4, 2, 2), stride=100),
    "depthwise": ConvCase((2, 35, 15, 33), (35, 1, 3, 3), padding=1, groups=35),
    "depthwise stride 2": ConvCase((1, 34, 28, 28), (34, 1, 3, 3), stride=2, padding=1, groups=34),
    "depthwise 7x7": ConvCase((1, 16, 14, 14), (16, 1, 7, 7), padding=3, groups=16),
    "depthwise multiplier": ConvCase((2, 9, 12, 17), (27, 1, 3, 3), padding=1, groups=9),
    "depthwise dilated": ConvCase((1, 8, 19, 21), (8, 1, 3, 3), padding=4, dilation=4, groups=8),
    "grouped": ConvCase((2, 48, 14, 14), (64, 12, 3, 3), padding=1, groups=4),
    "audio": ConvCase((2, 1, 1000), (16, 1, 80), stride=4),
    "1d dense": ConvCase((2, 40, 101), (56, 40, 3), padding=1),
    "1d depthwise long": ConvCase((2, 24, 130), (24, 1, 31), padding=15, groups=24),
    "1d causal dilated": ConvCase((1, 16, 200), (16, 16, 2), padding=((8, 0),), dilation=8),
    "3d dense": ConvCase((1, 16, 9, 10, 11), (20, 16, 3, 3, 3), padding=1),
    "3d stride 2": ConvCase((2, 3, 9, 16, 15), (8, 3, 3, 5, 5), stride=(1, 2, 2), padding=(1, 2, 2)),
    "3d depthwise": ConvCase((1, 10, 6, 7, 18), (10, 1, 3, 3, 3), padding=1, groups=10),
    "3d pointwise": ConvCase((1, 18, 4, 5, 6), (19, 18, 1, 1, 1)),
}

TRANSPOSE_CASES = {
    "single element": TransposeCase((1, 1, 1, 1), (1, 1, 1, 1)),
    "stride 1": TransposeCase((2, 20, 13, 17), (20, 33, 3, 3), padding=1),
    "double the size": TransposeCase((2, 32, 14, 14), (32, 16, 4, 4), stride=2, padding=1),
    "double, odd kernel": TransposeCase((1, 24, 15, 9), (24, 17, 3, 3), stride=2, padding=1, output_padding=1),
    "2x2 stride 2": TransposeCase((1, 33, 16, 16), (33, 12, 2, 2), stride=2),
    "holes between windows": TransposeCase((1, 5, 6, 7), (5, 4, 2, 2), stride=(3, 4)),
    "holes and output padding": TransposeCase((1, 5, 6, 7), (5, 4, 1, 2), stride=4, output_padding=(3, 2)),
    "dilated": TransposeCase((1, 7, 11, 12), (7, 9, 3, 3), stride=2, padding=3, dilation=2, output_padding=1),
    "dilation coprime to stride": TransposeCase((1, 3, 8, 9), (3, 4, 3, 4), stride=(2, 3), dilation=(3, 2)),
    "output padding under dilation": TransposeCase((1, 3, 5, 6), (3, 2, 3, 3), dilation=3, output_padding=2),
    "padding beyond the kernel": TransposeCase((1, 4, 9, 9), (4, 5, 3, 3), padding=5),
    "grouped": TransposeCase((2, 24, 9, 9), (24, 7, 3, 3), stride=2, padding=1, groups=4),
    "depthwise": TransposeCase((1, 19, 9, 14), (19, 1, 4, 4), stride=2, padding=1, groups=19),
    "pointwise": TransposeCase((2, 40, 7, 7), (40, 33, 1, 1)),
    "pointwise, every second pixel": TransposeCase((1, 300, 20, 36), (300, 33, 1, 1), stride=2, output_padding=1),
    "long reduction": TransposeCase((1, 130, 7, 7), (130, 18, 5, 5), stride=2, padding=2),
    "1d": TransposeCase((2, 32, 50), (32, 16, 16), stride=8, padding=4),
    "1d depthwise": TransposeCase((1, 16, 70), (16, 1, 5), stride=3, padding=2, groups=16),
    "3d": TransposeCase((1, 8, 4, 5, 6), (8, 9, 3, 3, 3), stride=2, padding=1, output_padding=1),
    "3d unequal": TransposeCase((1, 6, 3, 5, 4), (6, 2, 2, 3, 4), stride=(1, 2, 3), padding=(0, 1, 2), groups=2),
}

# Empty along one axis: the result is empty or, without input channels, the bias alone.
NO_IMAGES_CASES = {
    "no images": ConvCase((0, 3, 8, 8), (4, 3, 3, 3)),
    "no images, grouped 1d": ConvCase((0, 4, 9), (6, 2, 3), padding=1, groups=2),
    "no images 3d": ConvCase((0, 2, 4, 4, 4), (3, 2, 3, 3, 3)),
}
NO_CHANNELS_CASES = {
    "no input channels": ConvCase((2, 0, 8, 8), (4, 0, 3, 3)),
    "no input channels 1d": ConvCase((2, 0, 9), (3, 0, 2), stride=2),
    "no output channels": ConvCase((2, 3, 8, 8), (0, 3, 3, 3)),
}

CASE_FOR_EVERY_AXIS_COUNT = {
    1: ConvCase((2, 6, 29), (8, 3, 3), stride=2, padding=1, groups=2),
    2: ConvCase((2, 6, 13, 19), (8, 3, 3, 3), stride=2, padding=1, groups=2),
    3: ConvCase((2, 6, 5, 7, 9), (8, 3, 3, 3, 3), stride=2, padding=1, groups=2),
}
