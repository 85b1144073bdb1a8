"""`Sequential`, the chain of layers, and the view that shows its layers' dicts as one."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Self

import numpy as np

from .layer import Layer


class _Joined(MutableMapping):
    """One of the dicts of several layers, joined under the keys "0.weight", "0.bias", "1.weight", ...

    A view: it holds the layers, not their arrays, so that reading, replacing and deleting reach the layers themselves.
    """

    def __init__(self, layers: list[Layer], attribute: str) -> None:
        self._layers = layers
        self._attribute = attribute

    def _find(self, key: str) -> tuple[MutableMapping[str, np.ndarray], str]:
        index, _, name = str(key).partition(".")
        if not (index.isdecimal() and int(index) < len(self._layers) and index == str(int(index))):
            raise KeyError(key)
        return getattr(self._layers[int(index)], self._attribute), name

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
        for index, layer in enumerate(self._layers):
            for name in getattr(layer, self._attribute):
                yield f"{index}.{name}"

    def __len__(self) -> int:
        return sum(len(getattr(layer, self._attribute)) for layer in self._layers)

    def __repr__(self) -> str:
        return repr(dict(self))


class Sequential(Layer):
    """A chain of layers, each fed with the output of the one before: ``y = f_n(... f_2(f_1(x)))``.

    `backward` applies the chain rule from the last layer to the first. The chain is a layer itself, so chains nest.

    Parameters
    ----------
    *layers : Layer
        Each object once, since a layer remembers one forward pass.

    Attributes
    ----------
    layers : list of Layer
    params, grads, buffers : mutable mapping of str to ndarray
        Those of all layers, under PyTorch's names ("0.weight": the index, a dot, the layer's own name). They hold the
        layers' very arrays, and an assignment reaches the layer, so any optimiser for a dict of arrays can work on
        them.

    Raises
    ------
    TypeError
        If an argument is no layer.
    ValueError
        If a layer is there twice.

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

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        self.layers = list(layers)
        seen: dict[int, str] = {}
        for name, layer in self._leaves():
            if not isinstance(layer, Layer):
                raise TypeError(f"layers of Sequential must be Layer objects, got {type(layer).__name__} at {name}")
            if id(layer) in seen:
                raise ValueError(
                    f"layers {seen[id(layer)]} and {name} of Sequential are the same {type(layer).__name__} object; "
                    "a layer remembers one forward pass, so make one for each place"
                )
            seen[id(layer)] = name
        self.params = _Joined(self.layers, "params")
        self.grads = _Joined(self.layers, "grads")
        self.buffers = _Joined(self.layers, "buffers")

    def _leaves(self) -> Iterator[tuple[str, Layer]]:
        """All layers in the chain and in chains within it, with their names."""
        for index, layer in enumerate(self.layers):
            if isinstance(layer, Sequential):
                yield from ((f"{index}.{name}", leaf) for name, leaf in layer._leaves())
            else:
                yield str(index), layer

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
        for layer in self.layers:
            input = layer.forward(input)
        return input

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
        first = (
            0 if input_gradient else next((i for i, layer in enumerate(self.layers) if layer.params), len(self.layers))
        )
        for layer in reversed(self.layers[first + 1 :]):
            grad_output = layer.backward(grad_output)
        for layer in self.layers[first : first + 1]:
            grad_output = layer.backward(grad_output, input_gradient=input_gradient)
        return grad_output if input_gradient else None

    def train(self, mode: bool = True) -> Self:
        """Switch all layers to training mode (or to evaluation if `mode` is False); returns the chain itself."""
        for layer in self.layers:
            layer.train(mode)
        return super().train(mode)

    def _state(self) -> Iterator[tuple[str, np.ndarray]]:
        for index, layer in enumerate(self.layers):
            yield from ((f"{index}.{name}", array) for name, array in layer._state())

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __getitem__(self, index: int | slice) -> Layer:
        """A layer, or for a slice the chain of those layers, which it shares with this one."""
        return Sequential(*self.layers[index]) if isinstance(index, slice) else self.layers[index]

    def __repr__(self) -> str:
        lines = [f"({index}): {layer!r}".replace("\n", "\n  ") for index, layer in enumerate(self.layers)]
        return "Sequential(" + "".join(f"\n  {line}" for line in lines) + ("\n)" if lines else ")")
