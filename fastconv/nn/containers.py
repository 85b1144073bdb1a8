"""`Sequential`, the chain of layers, `Residual`, the chain with a way around it, and the view that joins their dicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from itertools import zip_longest
from typing import Any, Self

import numpy as np

from fastconv import _core

from .bottleneck import run_bottleneck
from .layer import Layer


class _Joined(MutableMapping):
    """One of the dicts of several layers, joined under the keys "0.weight", "0.bias", "1.weight", ...

    A view: it holds the layers, not their arrays, so that reading, replacing and deleting reach the layers themselves.
    """

    def __init__(self, children: dict[str, Layer], attribute: str) -> None:
        self._children = children
        self._attribute = attribute

    def _find(self, key: str) -> tuple[MutableMapping[str, np.ndarray], str]:
        child, _, name = str(key).partition(".")
        if child not in self._children:
            raise KeyError(key)
        return getattr(self._children[child], self._attribute), name

    def __getitem__(self, key: str) -> np.ndarray:
        joined, name = self._find(key)
        return joined[name]

    def __setitem__(self, key: str, value: np.ndarray) -> None:
        joined, name = self._find(key)
        joined[name] = value

    def __delitem__(self, key: str) -> None:
        joined, name = self._find(key)
        del joined[name]

    def __iter__(self) -> Iterator[str]:
        for child, layer in self._children.items():
            for name in getattr(layer, self._attribute):
                yield f"{child}.{name}"

    def __len__(self) -> int:
        return sum(len(getattr(layer, self._attribute)) for layer in self._children.values())

    def __repr__(self) -> str:
        return repr(dict(self))


class Sequential(Layer):
    """A chain of layers, each fed with the output of the one before: ``y = f_n(... f_2(f_1(x)))``.

    `backward` applies the chain rule from the last layer to the first. The chain is a layer itself, so chains nest.

    Parameters
    ----------
    *layers : Layer, or one mapping of str to Layer
        Each object once, since a layer remembers one forward pass. A mapping names the layers, which are numbered
        otherwise: with the names of a PyTorch model its state dict loads as it is.

    Attributes
    ----------
    children : dict of str to Layer
        The layers by name, in order.
    layers : list of Layer
        The same without their names.
    params, grads, buffers : mutable mapping of str to ndarray
        Those of all layers, under PyTorch's names ("0.weight": the index, a dot, the layer's own name). They hold the
        layers' very arrays, and an assignment reaches the layer, so any optimiser for a dict of arrays can work on
        them.

    Raises
    ------
    TypeError
        If an argument is no layer, or a name no str.
    ValueError
        If a layer is there twice, or a name is empty or has a dot.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10))
    >>> net(np.zeros((2, 1, 8, 8), np.float32)).shape
    (2, 10)
    >>> net.backward(np.ones((2, 10), np.float32)).shape
    (2, 1, 8, 8)
    >>> for name, array in net.params.items():
    ...     array -= 0.01 * net.grads[name]
    >>> list(net.params)
    ['0.weight', '0.bias', '4.weight', '4.bias']
    """

    _input: np.ndarray | None = None  # the last one, if it was evaluated
    _bottleneck: list[Layer] | None = None  # its layers, if `fold_batch_norm` found them to be those of an inverted residual

    def __init__(self, *layers: Layer | Mapping[str, Layer]) -> None:
        super().__init__()
        named = layers[0] if len(layers) == 1 and isinstance(layers[0], Mapping) else dict(_numbered(layers))
        self.children: dict[str, Layer] = dict(named)
        self._check()
        self.params = _Joined(self.children, "params")
        self.grads = _Joined(self.children, "grads")
        self.buffers = _Joined(self.children, "buffers")

    def _check(self) -> None:
        """Hold the children to what `__init__` promises."""
        kind = type(self).__name__
        seen: dict[int, str] = {}
        for name, layer in self.children.items():
            if not isinstance(name, str):
                raise TypeError(f"names of layers of {kind} must be str, got {type(name).__name__}")
            if not name or "." in name:
                raise ValueError(f"names of layers of {kind} must not be empty nor have a dot, got {name!r}")
            if not isinstance(layer, Layer):
                raise TypeError(f"layers of {kind} must be Layer objects, got {type(layer).__name__} at {name}")
        for name, layer in self._leaves():
            if id(layer) in seen:
                raise ValueError(
                    f"layers {seen[id(layer)]} and {name} of {kind} are the same {type(layer).__name__} object; "
                    "a layer remembers one forward pass, so make one for each place"
                )
            seen[id(layer)] = name

    @property
    def layers(self) -> list[Layer]:
        """The layers in order, without their names."""
        return list(self.children.values())

    def _chain(self) -> list[Layer]:
        """The layers that the input passes one after the other."""
        return self.layers

    @property
    def _output_is_free(self) -> bool:
        chain = self._chain()
        return bool(chain) and chain[-1]._output_is_free

    @property
    def _gradient_is_free(self) -> bool:
        chain = self._chain()
        return bool(chain) and chain[0]._gradient_is_free

    def _leaves(self) -> Iterator[tuple[str, Layer]]:
        for child, layer in self.children.items():
            yield from ((f"{child}.{name}" if name else child, leaf) for name, leaf in layer._leaves())

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Apply the layers in order.

        Parameters
        ----------
        input : ndarray, float32 or float64
            What the first layer takes.

        Returns
        -------
        ndarray
            What the last layer returns.
        """
        self._input = None
        if not self._keeps or not self._evaluates():
            return self._apply(input)
        self._keeps = False
        try:
            y = self._apply(input)
        finally:
            self._keeps = True
        self._input = input
        return y

    def _apply(self, input: np.ndarray) -> np.ndarray:
        """The layers in order, which keep what this one keeps."""
        if self._bottleneck and not self._keeps and self._flat() == self._bottleneck:
            y = run_bottleneck(self._bottleneck, input)
            if y is not None:
                return y
        chain = self._chain()
        free, limits = False, None
        for layer, following in zip_longest(chain, chain[1:]):
            layer._may_overwrite, layer._is_limited = free, limits is not None
            layer._limits = limits = following._bounds() if following is not None and layer._can_limit else None
            layer._keeps = self._keeps
            try:
                input = layer.forward(input)
            finally:
                layer._may_overwrite, layer._is_limited, layer._limits, layer._keeps = False, False, None, True
            free = layer._output_is_free
        return input

    def _apply_again(self) -> None:
        """What the layers did not keep when they evaluated the last input."""
        if self._input is None:
            return
        input, self._input = self._input, None
        modes = [(layer, layer.training) for layer in self._all_layers()]
        self.eval()
        try:
            self._apply(input)
        finally:
            for layer, training in modes:
                layer.training = training

    def _flat(self) -> list[Layer]:
        """The layers in order, those of chains in it one by one."""
        layers: list[Layer] = []
        for layer in self.children.values():
            layers += layer._flat() if type(layer) is Sequential else [layer]
        return layers

    def _all_layers(self) -> Iterator[Layer]:
        yield self
        for layer in self.children.values():
            yield from layer._all_layers()

    def _evaluates(self) -> bool:
        if self.training:
            return False
        for layer in self.children.values():  # twice as fast as all() with a generator
            if not layer._evaluates():
                return False
        return True

    def backward(self, grad_output: np.ndarray, *, input_gradient: bool = True) -> np.ndarray | None:
        """Propagate a gradient from the last layer to the first and overwrite every layer's `grads`.

        Parameters
        ----------
        grad_output : ndarray
            Gradient with respect to the last output, of its shape and dtype.
        input_gradient : bool
            False stops at the first layer that has parameters and spares the gradient with respect to its input.

        Returns
        -------
        ndarray of the input's shape and dtype, or None if `input_gradient` is False
        """
        self._apply_again()
        chain = self._chain()
        first = 0 if input_gradient else next((i for i, layer in enumerate(chain) if layer.params), len(chain))
        free = False
        for place in range(len(chain) - 1, first - 1, -1):
            layer = chain[place]
            layer._may_overwrite = free
            try:
                grad_output = layer.backward(grad_output, input_gradient=input_gradient or place > first)
            finally:
                layer._may_overwrite = False
            free = layer._gradient_is_free
        return grad_output if input_gradient else None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_input": None}

    def train(self, mode: bool = True) -> Self:
        """Switch all layers to training mode (or to evaluation if `mode` is False); returns the chain itself."""
        for layer in self.layers:
            layer.train(mode)
        return super().train(mode)

    def _state(self) -> Iterator[tuple[str, np.ndarray]]:
        for child, layer in self.children.items():
            yield from ((f"{child}.{name}", array) for name, array in layer._state())

    def __len__(self) -> int:
        return len(self.children)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __getitem__(self, index: int | str | slice) -> Layer:
        """A layer by place or name, or for a slice the chain of those layers, which it shares with this one."""
        if isinstance(index, slice):
            return Sequential(dict(list(self.children.items())[index]))
        return self.children[index] if isinstance(index, str) else self.layers[index]

    def __repr__(self) -> str:
        lines = [f"({name}): {layer!r}".replace("\n", "\n  ") for name, layer in self.children.items()]
        body = "".join(f"\n  {line}" for line in lines) + ("\n)" if lines else ")")
        return f"{type(self).__name__}({body}"


def _numbered(layers: tuple[Layer, ...]) -> Iterator[tuple[str, Layer]]:
    """The names of layers that were given none: their places."""
    return ((str(place), layer) for place, layer in enumerate(layers))


class Residual(Sequential):
    """A chain with a way around it, ``y = f(x) + s(x)``; ``dL/dx`` is the sum of what comes back along both.

    f is the chain of layers and s the identity, or the layer `downsample` where f changes the shape.

    Parameters
    ----------
    *layers : Layer, or one mapping of str to Layer
        Those of f, as for `Sequential`.
    downsample : Layer or None
        s, under the name "downsample", as torchvision's ResNets have it; None for the identity.

    Attributes
    ----------
    children, layers, params, grads, buffers
        As those of `Sequential`, with `downsample` as the last layer.

    Raises
    ------
    ValueError
        As `Sequential`; and on a call where f(x) and s(x) differ in shape.

    References
    ----------
    He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016, arXiv:1512.03385.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> block = nn.Residual(nn.ReLU(), nn.ReLU())
    >>> block(np.array([-1.0, 2.0])), block.backward(np.array([1.0, 1.0]))
    (array([-1.,  4.]), array([1., 2.]))
    >>> names = {"conv1": nn.Conv2d(4, 8, 3, 2, 1), "bn1": nn.BatchNorm2d(8)}
    >>> block = nn.Residual(names, downsample=nn.Conv2d(4, 8, 1, 2, bias=False))
    >>> list(block.params)
    ['conv1.weight', 'conv1.bias', 'bn1.weight', 'bn1.bias', 'downsample.weight']
    """

    _output_is_free = True
    _gradient_is_free = True
    _can_limit = True

    def __init__(self, *layers: Layer | Mapping[str, Layer], downsample: Layer | None = None) -> None:
        super().__init__(*layers)
        if "downsample" in self.children:
            raise ValueError("layers of Residual must not be named 'downsample'; pass that one as downsample=")
        if downsample is not None:
            self.children["downsample"] = downsample
            self._check()

    def _chain(self) -> list[Layer]:
        return [layer for name, layer in self.children.items() if name != "downsample"]

    def _apply(self, input: np.ndarray) -> np.ndarray:
        """``f(input) + s(input)``."""
        limits = self._limits
        y = super()._apply(input)
        around = np.asarray(input)
        if "downsample" in self.children:
            downsample = self.children["downsample"]
            downsample._keeps = self._keeps
            try:
                around = downsample.forward(input)
            finally:
                downsample._keeps = True
        if y.shape != around.shape:
            raise ValueError(
                f"the layers of Residual and its downsample must agree in shape, got {y.shape} and {around.shape} "
                f"for an input of shape {np.shape(input)}"
            )
        if not super()._output_is_free:
            y = y.copy()
        _core.add(y, around, limits)
        return y

    def backward(self, grad_output: np.ndarray, *, input_gradient: bool = True) -> np.ndarray | None:
        """The sum of both ways' gradients; see `Sequential.backward`."""
        self._apply_again()
        grad_input = super().backward(grad_output, input_gradient=input_gradient)
        around = np.asarray(grad_output)
        if "downsample" in self.children:
            around = self.children["downsample"].backward(grad_output, input_gradient=input_gradient)
        return grad_input + around if input_gradient else None
