"""Every layer of the trained network against central differences, on two real digits.

A layer with few numbers has every element of every gradient checked (`gradcheck`), one with many is checked along a random
direction per array (`vjpcheck`); the last row is the whole network. Where ReLU or max pooling has a kink, a gradient between the two
one-sided slopes is right; equal pixels, of which these images are full, make many.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from fastconv import nn
from fastconv.testing import gradcheck, vjpcheck

from .train import Digits

EVERY_ELEMENT = 6000    # numbers in a layer up to which each is checked; two evaluations per number, about 1 s
FORMAT = "{:<32} {:<18} {:>7} {:>6} {:>9}  {}"
HEAD = "Gradients against central differences, in float64\n" + FORMAT.format(
    "layer", "checked", "numbers", "kinks", "error", "verdict")


class Row(NamedTuple):
    """The verdict on one layer; `error` is the largest among its arrays, relative to the numeric derivative there."""

    layer: str
    checked: str
    numbers: int
    kinks: int
    error: float
    passed: bool

    def __str__(self) -> str:
        verdict = "right" if self.passed else "WRONG"
        return FORMAT.format(self.layer, self.checked, self.numbers, self.kinks, f"{self.error:.1e}", verdict)


def check(net: nn.Sequential, digits: Digits) -> Iterator[Row]:
    """One row per layer, on what reaches it from two test digits, and one for the whole network."""
    images, labels = digits.test_images[:2], digits.test_labels[:2]
    x = images
    for layer in net.layers:
        weight = f", weight {layer.params['weight'].shape}" if layer.params else ""
        yield _row(type(layer).__name__ + weight, layer, x)
        x = layer(x)
    yield _row("NLLLoss", nn.NLLLoss(), x, labels)
    yield _row("the whole network", net, images)


def _row(name: str, layer: object, *arrays: np.ndarray) -> Row:
    numbers = arrays[0].size + sum(array.size for array in getattr(layer, "params", {}).values())
    every = numbers <= EVERY_ELEMENT
    report = (gradcheck if every else vjpcheck)(layer, None, *arrays)
    error = max(check.error / max(abs(check.expected), 1e-300) if check.error else 0.0 for check in report.arrays)
    return Row(name, "every element" if every else "random directions", sum(check.checked for check in report.arrays),
               sum(check.kinks for check in report.arrays), error, report.passed)
