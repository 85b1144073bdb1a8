"""The rows of shapes.json: what each computes, its arithmetic and its arrays, and how fastconv is called for it.

A new kind of operation is one more class here (named in `KINDS`) and one more function in `peers.py`.
"""

import json
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

import fastconv
import numpy as np

SHAPES = Path(__file__).with_name("shapes.json")
PASSES = ("forward", "input", "weight", "backward")     # backward: the input's and all weights' gradients


@dataclass(frozen=True)
class Contender:
    """One way to compute a result: `call()` is what is timed, `array` takes the result out of what it returned."""

    name: str
    call: Callable[[], Any]
    array: Callable[[Any], np.ndarray] = np.asarray


def per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


def channels_last(array: np.ndarray) -> np.ndarray:
    """The same array, kept in memory as N, spatial axes, C."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


@dataclass(frozen=True, kw_only=True)
class Row(ABC):
    """A line of shapes.json; `layout` is how fastconv's input and output gradient lie in memory."""

    name: str
    op: str
    cls: str
    input: tuple[int, ...]
    dtype: str = "float32"
    stride: int | tuple[int, ...] = 1
    padding: int | tuple[int, ...] = 0
    layout: str = "channels_first"

    passes: ClassVar[tuple[str, ...]]

    @property
    def axes(self) -> int:
        return len(self.input) - 2

    @property
    @abstractmethod
    def output(self) -> tuple[int, ...]:
        """The result's shape."""

    @abstractmethod
    def flops(self, which: str = "forward") -> int:
        """Nominal operations of a pass: what direct code does, padding counted; 0 where none are."""

    @abstractmethod
    def nbytes(self, which: str) -> int:
        """The least traffic of a pass: each of its arrays read or written once."""

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the operands: `input`, `grad_output` and, for a convolution, its weights."""

    @abstractmethod
    def fastconv(self, which: str, arrays: dict[str, np.ndarray]) -> Contender:
        """Our call for a pass."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Random operands."""
        return self.random(**self.shapes())

    @property
    def itemsize(self) -> int:
        return np.dtype(self.dtype).itemsize

    def random(self, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        arrays = {name: rng.standard_normal(shape).astype(self.dtype) for name, shape in shapes.items()}
        if self.layout == "channels_last":
            arrays |= {name: channels_last(arrays[name]) for name in ("input", "grad_output")}
        return arrays


@dataclass(frozen=True, kw_only=True)
class Convolution(Row):
    weight: tuple[int, ...]
    dilation: int | tuple[int, ...] = 1
    groups: int = 1

    passes = ("forward", "input", "weight")

    @property
    def transposed(self) -> bool:
        return "transpose" in self.op

    @property
    def output(self) -> tuple[int, ...]:
        sizes = zip(
            self.input[2:],
            self.weight[2:],
            *(per_axis(value, self.axes) for value in (self.stride, self.padding, self.dilation)),
            strict=True,
        )
        if self.transposed:
            return (self.input[0], self.weight[1] * self.groups,
                    *((n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in sizes))
        return (self.input[0], self.weight[0], *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes))

    def flops(self, which: str = "forward") -> int:
        # Every weight meets every output pixel once, or every input pixel where the convolution is transposed.
        pixels = self.input[2:] if self.transposed else self.output[2:]
        return 2 * self.input[0] * prod(pixels) * prod(self.weight)

    def nbytes(self, which: str) -> int:
        # Each pass reads two of input, weight and output (or their gradients) and writes the third.
        return self.itemsize * (prod(self.input) + prod(self.weight) + prod(self.output))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"input": self.input, "weight": self.weight, "grad_output": self.output}

    def fastconv(self, which: str, arrays: dict[str, np.ndarray]) -> Contender:
        x, w, grad = arrays["input"], arrays["weight"], arrays["grad_output"]
        tail = (0, self.groups, self.dilation) if self.transposed else (self.dilation, self.groups)
        options = (self.stride, self.padding, *tail)
        if which == "forward":
            return Contender("fastconv", partial(getattr(fastconv, self.op), x, w, None, *options))
        backward = getattr(fastconv, f"{self.op}_backward")
        mask = (which == "input", which == "weight", False)
        return Contender("fastconv", partial(backward, grad, x, w, *options, output_mask=mask), attrgetter(which))


@dataclass(frozen=True, kw_only=True)
class Pool(Row):
    """What pooling by windows and to a size have in common."""

    passes = ("forward", "input")

    @property
    def maximum(self) -> bool:
        return "max" in self.op

    def flops(self, which: str = "forward") -> int:
        return 0

    def nbytes(self, which: str) -> int:
        indices = 8 * prod(self.output) if self.maximum and which == "input" else 0
        return self.itemsize * (prod(self.input) + prod(self.output)) + indices

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"input": self.input, "grad_output": self.output}


@dataclass(frozen=True, kw_only=True)
class Pooling(Pool):
    kernel: int | tuple[int, ...]

    @property
    def output(self) -> tuple[int, ...]:
        sizes = zip(
            self.input[2:],
            *(per_axis(value, self.axes) for value in (self.kernel, self.stride, self.padding)),
            strict=True,
        )
        return (*self.input[:2], *((n + 2 * p - k) // s + 1 for n, k, s, p in sizes))

    def fastconv(self, which: str, arrays: dict[str, np.ndarray]) -> Contender:
        forward = partial(getattr(fastconv, self.op), arrays["input"], self.kernel, self.stride, self.padding)
        if which == "forward":
            return Contender("fastconv", forward)
        backward = getattr(fastconv, f"{self.op}_backward")
        if self.maximum:
            _, indices = forward(return_indices=True)
            return Contender("fastconv", partial(backward, arrays["grad_output"], indices, self.input))
        return Contender("fastconv", partial(backward, arrays["grad_output"], self.input, self.kernel, self.stride,
                                             self.padding))


@dataclass(frozen=True, kw_only=True)
class Factored(Row):
    """A convolution whose kernel is a product; `weight` is the shape of the dense kernel that it stands for."""

    weight: tuple[int, ...]
    dilation: int | tuple[int, ...] = 1

    passes = ("forward", "backward")

    @property
    @abstractmethod
    def weights(self) -> tuple[str, ...]:
        """The operands that are weights, in the order of our arguments and gradients."""

    @abstractmethod
    def dense(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """The dense kernel."""

    @property
    def geometry(self) -> tuple[tuple[int, ...], ...]:
        """Stride, padding and dilation of each axis."""
        return tuple(per_axis(value, self.axes) for value in (self.stride, self.padding, self.dilation))

    @property
    def output(self) -> tuple[int, ...]:
        sizes = zip(self.input[2:], self.weight[2:], *self.geometry, strict=True)
        return (self.input[0], self.weight[0], *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes))

    def nbytes(self, which: str) -> int:
        # The backward pass reads what the forward pass reads and the output's gradient, and writes a gradient of each.
        shapes = self.shapes()
        read = sum(prod(shapes[name]) for name in ("input", *self.weights))
        return self.itemsize * (prod(self.output) + (read if which == "forward" else 2 * read))

    def dense_call(self, which: str, arrays: dict[str, np.ndarray]) -> Contender:
        """Our dense convolution, forward or both gradients."""
        x, w, grad, function = arrays["input"], self.dense(arrays), arrays["grad_output"], f"conv{self.axes}d"
        options = (self.stride, self.padding, self.dilation)
        if which == "forward":
            return Contender("fastconv dense", partial(getattr(fastconv, function), x, w, None, *options))
        backward = getattr(fastconv, f"{function}_backward")
        return Contender("fastconv dense", partial(backward, grad, x, w, *options, output_mask=(True, True, False)))


@dataclass(frozen=True, kw_only=True)
class LowRank(Factored):
    """A CP convolution."""

    rank: int

    @property
    def weights(self) -> tuple[str, ...]:
        return ("a", "b", "c", "d") if self.axes == 2 else ("a", "b", "d")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        factors = {name: (size, self.rank) for name, size in zip(self.weights, self.weight, strict=True)}
        return {"input": self.input, "grad_output": self.output, **factors}

    def dense(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        return fastconv.cp_weight([arrays[name] for name in self.weights])

    def flops(self, which: str = "forward") -> int:
        # A gradient is as much work as the pass, for the input and for the factors each.
        outputs = self.weight[0] + sum(self.weight[2:])
        pixels = self.weight[1] * prod(self.input[2:]) + outputs * prod(self.output[2:])
        return 2 * self.input[0] * self.rank * pixels * (1 if which == "forward" else 2)

    def fastconv(self, which: str, arrays: dict[str, np.ndarray]) -> Contender:
        x, factors, grad = arrays["input"], [arrays[name] for name in self.weights], arrays["grad_output"]
        options = (self.stride, self.padding, self.dilation)
        if which == "forward":
            return Contender("fastconv", partial(getattr(fastconv, self.op), x, factors, None, *options))
        call = partial(getattr(fastconv, f"{self.op}_backward"), grad, x, factors, *options,
                       output_mask=(True, True, False))
        return Contender("fastconv", call, lambda found: in_a_row(found.input, *found.factors))


@dataclass(frozen=True, kw_only=True)
class Separable(Factored):
    """A depthwise separable convolution."""

    multiplier: int = 1

    weights = ("depthwise", "pointwise")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        middle = self.weight[1] * self.multiplier
        return {"input": self.input, "grad_output": self.output, "depthwise": (middle, 1, *self.weight[2:]),
                "pointwise": (self.weight[0], middle, 1, 1)}

    def dense(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        depthwise = arrays["depthwise"].reshape(self.weight[1], self.multiplier, *self.weight[2:])
        pointwise = arrays["pointwise"].reshape(self.weight[0], self.weight[1], self.multiplier)
        return np.einsum("oim,imlk->oilk", pointwise, depthwise)

    def flops(self, which: str = "forward") -> int:
        middle = self.weight[1] * self.multiplier
        products = middle * (prod(self.weight[2:]) + self.weight[0]) * prod(self.output[2:])
        return 2 * self.input[0] * products * (1 if which == "forward" else 2)

    def fastconv(self, which: str, arrays: dict[str, np.ndarray]) -> Contender:
        x, depthwise, pointwise = arrays["input"], arrays["depthwise"], arrays["pointwise"]
        options = (self.stride, self.padding, self.dilation)
        if which == "forward":
            return Contender("fastconv", partial(fastconv.separable_conv2d, x, depthwise, pointwise, None, *options))
        call = partial(fastconv.separable_conv2d_backward, arrays["grad_output"], x, depthwise, pointwise, *options,
                       output_mask=(True, True, True, False))
        return Contender("fastconv", call, lambda found: in_a_row(*found[:3]))


def in_a_row(*gradients: np.ndarray) -> np.ndarray:
    """Several gradients as one array, to be judged together."""
    return np.concatenate([gradient.ravel() for gradient in gradients])


@dataclass(frozen=True, kw_only=True)
class AdaptivePooling(Pool):
    """Pooling to a size; size 1 is global pooling."""

    output_size: int | tuple[int, ...]

    @property
    def output(self) -> tuple[int, ...]:
        return (*self.input[:2], *per_axis(self.output_size, self.axes))

    def fastconv(self, which: str, arrays: dict[str, np.ndarray]) -> Contender:
        forward = partial(getattr(fastconv, self.op), arrays["input"], self.output_size)
        if which == "forward":
            return Contender("fastconv", forward)
        tail = (forward(return_indices=True)[1],) if self.maximum else ()
        return Contender("fastconv", partial(getattr(fastconv, f"{self.op}_backward"), arrays["grad_output"], *tail, self.input))


@dataclass(frozen=True, kw_only=True)
class Patches(Row):
    """unfold of an image, or fold of such columns back to `output_size`; each is the other's gradient."""

    kernel: int
    dilation: int = 1
    output_size: tuple[int, int] | None = None

    passes = ("forward",)

    @property
    def output(self) -> tuple[int, ...]:
        taps = self.kernel * self.kernel
        if self.output_size:
            return (self.input[0], self.input[1] // taps, *self.output_size)
        reach = self.dilation * (self.kernel - 1) + 1
        stops = prod((n + 2 * self.padding - reach) // self.stride + 1 for n in self.input[2:])
        return (self.input[0], self.input[1] * taps, stops)

    def flops(self, which: str = "forward") -> int:
        return 0

    def nbytes(self, which: str) -> int:
        return self.itemsize * (prod(self.input) + prod(self.output))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"input": self.input, "grad_output": self.output}

    def arguments(self) -> tuple[Any, ...]:
        """What follows the array, in the order that PyTorch has too."""
        size = (self.output_size,) if self.output_size else ()
        return (*size, self.kernel, self.dilation, self.padding, self.stride)

    def fastconv(self, which: str, arrays: dict[str, np.ndarray]) -> Contender:
        return Contender("fastconv", partial(getattr(fastconv, self.op), arrays["input"], *self.arguments()))


KINDS = {"conv": Convolution, "conv_transpose": Convolution, "max_pool": Pooling, "avg_pool": Pooling, "cp_conv": LowRank,
         "separable_conv": Separable, "adaptive_max_pool": AdaptivePooling, "adaptive_avg_pool": AdaptivePooling,
         "unfold": Patches, "fold": Patches}


def row_from(entry: dict[str, Any]) -> Row:
    """A row from its JSON object; an unknown operation or key is an error, not a row that is left out."""
    kind = re.sub(r"[123]d$", "", entry["op"])
    if kind not in KINDS:
        raise ValueError(f"row {entry['name']!r}: op is {entry['op']!r}, "
                         f"expected one of {', '.join(KINDS)}, all but the last two with 1d, 2d or 3d")
    if entry.get("layout", "channels_last") != "channels_last":
        raise ValueError(f"row {entry['name']!r}: layout is {entry['layout']!r}, expected channels_last or none")
    return KINDS[kind](**{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})


def load(path: Path = SHAPES) -> list[Row]:
    return [row_from(entry) for entry in json.loads(path.read_text())]


def select(rows: Sequence[Row], only: str | None = None, cls: str | None = None) -> list[Row]:
    """The rows whose name contains `only` and whose class is `cls`, where these are given."""
    return [row for row in rows if (only is None or only in row.name) and (cls is None or row.cls == cls)]
