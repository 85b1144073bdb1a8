"""Batch normalisation folded into the layer in front of it, for inference."""

from __future__ import annotations

import copy

import numpy as np

from .bottleneck import find_bottleneck
from .containers import Sequential
from .convolution import _Convolution, _ConvNd
from .layer import Layer
from .linear import Linear
from .normalization import _BatchNorm


def fold_batch_norm(net: Layer) -> Layer:
    """A copy of a network for inference, whose batch normalisations are part of the layers in front of them.

    After `eval`, batch normalisation is ``y = s (x - mean) + bias`` with ``s = weight / sqrt(var + eps)``, and behind a
    convolution or dense layer ``x = W * u + b`` that is the layer ``y = (s W) * u + s (b - mean) + bias``. So it costs
    nothing. Where something else stands in front (ReLU, pooling), it stays.

    A chain that then is an inverted residual (a 1x1 convolution, ReLU6 or ReLU, a depthwise one, the same again, a 1x1
    one) is applied in one call, whose intermediate results stay in the processor's cache; so its output may differ by
    rounding from that of its layers. Its 1x1 weights, the same numbers, get another order in memory.

    Parameters
    ----------
    net : Layer
        Not changed.

    Returns
    -------
    Layer
        In evaluation mode. Chains are folded within, also in residual blocks; layers keep their names.

    Raises
    ------
    TypeError
        If `net` is no layer.

    References
    ----------
    Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference", 2017,
    arXiv:1712.05877, section 3.2.

    Examples
    --------
    >>> from fastconv import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    >>> nn.fold_batch_norm(net)
    Sequential(
      (0): Conv2d(in_channels=3, out_channels=8, kernel_size=(3, 3), stride=(1, 1), dilation=(1, 1))
      (2): ReLU()
    )
    """
    if not isinstance(net, Layer):
        raise TypeError(f"net must be a Layer, got {type(net).__name__}")
    folded = copy.deepcopy(net).eval()
    _fold_chain(folded)
    return folded


def _fold_chain(net: Layer) -> None:
    """Fold within a chain and the chains in it, in place."""
    if not isinstance(net, Sequential):
        return
    for layer in net.layers:
        _fold_chain(layer)
    following = net._chain()
    for name, norm in list(net.children.items()):
        place = following.index(norm) if norm in following else 0
        before = following[place - 1] if place else None
        if isinstance(norm, _BatchNorm) and norm.track_running_stats and _takes(before, norm):
            _fold(before, norm)
            del net.children[name]
            following.remove(norm)
    if type(net) is Sequential:
        find_bottleneck(net)


def _takes(before: Layer | None, norm: _BatchNorm) -> bool:
    """Whether `before` is a layer whose output channels are those that `norm` scales."""
    outputs = getattr(before, "out_channels", getattr(before, "out_features", None))
    return isinstance(before, (_Convolution, Linear)) and outputs == norm.num_features


def _fold(layer: Layer, norm: _BatchNorm) -> None:
    """Scale and shift the layer's outputs as `norm` does; computed in float64, rounded once."""
    wide = {name: value.astype(np.float64) for name, value in (norm.params | norm.buffers).items()}
    scale = wide.get("weight", 1.0) / np.sqrt(wide["running_var"] + norm.eps)
    shift = wide.get("bias", 0.0) - wide["running_mean"] * scale
    weight = layer.params["weight"]
    layer.params["bias"] = (layer.params.get("bias", 0) * scale + shift).astype(layer.dtype)
    if isinstance(layer, (_ConvNd, Linear)):
        factors = scale.reshape(-1, *[1] * (weight.ndim - 1))
    else:  # transposed: (in_channels, out_channels / groups, ...), the outputs of a group beside its inputs
        per_group = scale.reshape(layer.groups, 1, -1)
        inputs = weight.shape[0] // layer.groups
        factors = np.repeat(per_group, inputs, axis=1).reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
    layer.params["weight"] = (weight * factors).astype(layer.dtype)
