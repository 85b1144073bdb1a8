"""A table of a network's layers: what each returns and how many parameters it has."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from .containers import Sequential
from .layer import Layer


class SummaryRow(NamedTuple):
    """One layer: its name in the chain, its class, the shape of its output without the batch axis, its parameters."""

    name: str
    layer: str
    output_size: tuple[int, ...]
    parameters: int


class Summary(NamedTuple):
    """The table; ``str`` prints it."""

    input_size: tuple[int, ...]
    rows: list[SummaryRow]

    @property
    def parameters(self) -> int:
        """Those of all layers."""
        return sum(row.parameters for row in self.rows)

    def __str__(self) -> str:
        cells = [("", "layer", "output size", "parameters"), ("", "input", str(self.input_size), "")]
        cells += [(row.name, row.layer, str(row.output_size), str(row.parameters)) for row in self.rows]
        cells.append(("", "total", "", str(self.parameters)))
        name, layer, size, count = (max(map(len, column)) for column in zip(*cells, strict=True))
        lines = (f"{a:<{name}}  {b:<{layer}}  {c:>{size}}  {d:>{count}}" for a, b, c, d in cells)
        return "\n".join(line.rstrip() for line in lines)


def summary(net: Layer, input_size: tuple[int, ...], dtype: DTypeLike = None) -> Summary:
    """Run a network on zeros and list its layers.

    Parameters
    ----------
    net : Layer
        A chain or a single layer. Modes and buffers stay as they are; what a forward pass has saved is dropped, so do
        not call this between `forward` and `backward`.
    input_size : tuple of int
        The shape of one element of a batch: ``(C, H, W)``, say.
    dtype : dtype or None
        float32 or float64; None takes that of the network's first parameter, or float32.

    Returns
    -------
    Summary
        Prints as a table; `rows` and `parameters` hold the numbers.

    Raises
    ------
    ValueError, TypeError
        Where a layer refuses what the one before returns.

    References
    ----------
    Sizes are ``(n + 2 p - k) / s + 1``: Dumoulin and Visin, 2016, arXiv:1603.07285.

    Examples
    --------
    >>> from fastconv import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 96, 11, stride=4), nn.MaxPool2d(3, stride=2), nn.Flatten())
    >>> print(nn.summary(net, (3, 227, 227)))
       layer       output size  parameters
       input     (3, 227, 227)
    0  Conv2d     (96, 55, 55)       34944
    1  MaxPool2d  (96, 27, 27)           0
    2  Flatten        (69984,)           0
       total                         34944
    """
    if dtype is None:
        dtype = next((value.dtype for value in net.params.values()), np.float32)
    leaves = list(net._leaves())
    modes = [(layer, layer.training) for layer in net._all_layers()]
    rows = []
    try:
        for layer, _ in modes:  # chains that do not evaluate keep what their layers return
            layer.training = isinstance(layer, Sequential)
        net.forward(np.zeros((1, *input_size), dtype))
        for name, layer in leaves:
            count = sum(value.size for value in layer.params.values())
            rows.append(SummaryRow(name, type(layer).__name__, layer._output[0][1:], count))
    finally:
        for layer, training in modes:
            layer.training = training
            layer._saved = layer._output = None
    return Summary(tuple(input_size), rows)
