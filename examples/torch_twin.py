"""The same network in PyTorch, and both timed taking turns."""

import statistics
import time
from collections import OrderedDict
from contextlib import contextmanager

import fastconv
from fastconv import nn

# Attributes of a layer that its twin's constructor takes under the same names, besides those of every convolution.
CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
ATTRIBUTES = {nn.Conv2d: CONVOLUTION, nn.Linear: ("in_features", "out_features"), nn.BatchNorm2d: ("num_features",),
              nn.MaxPool2d: ("kernel_size", "stride", "padding"), nn.Dropout: ("p",), nn.LogSoftmax: ("dim",),
              nn.AdaptiveAvgPool2d: ("output_size",)}


def torch_or_none():
    """PyTorch, where it is installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch


@contextmanager
def threads_of_all(torch, number):
    """As many threads for fastconv, NumPy's BLAS and PyTorch."""
    from threadpoolctl import threadpool_limits

    before = fastconv.get_num_threads()
    fastconv.set_num_threads(number)
    if torch:
        torch.set_num_threads(number)
    with threadpool_limits(number):
        yield
    fastconv.set_num_threads(before)


def twin(torch, net):
    """The same network in PyTorch, with copies of the same weights."""
    model = module(torch, net)
    model.load_state_dict({name: torch.tensor(array) for name, array in net.state_dict().items()})
    return model


def module(torch, layer):
    """The same layer, or chain of layers under the same names, with weights of its own."""
    if not isinstance(layer, nn.Sequential):
        options = {name: getattr(layer, name) for name in ATTRIBUTES.get(type(layer), ())}
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            options["bias"] = "bias" in layer.params
        return getattr(torch.nn, type(layer).__name__)(**options)
    children = OrderedDict((name, module(torch, child)) for name, child in layer.children.items())
    return (residual(torch) if isinstance(layer, nn.Residual) else torch.nn.Sequential)(children)


def residual(torch):
    """The class of a chain with a way around it."""
    class Residual(torch.nn.Sequential):
        def forward(self, x):
            y = x
            for name, child in self.named_children():
                y = y if name == "downsample" else child(y)
            y += self.downsample(x) if hasattr(self, "downsample") else x
            return y

    return Residual


def taking_turns(calls, rounds):
    """Milliseconds of every call by name, in turns of three."""
    times = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            time.sleep(0.03)    # until the other library's threads no longer spin, waiting for work
            call()    # its own data comes into the caches
            for _ in range(3):
                start = time.perf_counter()
                call()
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def compared(times):
    """Medians and least times in words, and how many times ours PyTorch's are, the better of its layouts."""
    figures = {name: (statistics.median(column), min(column)) for name, column in times.items()}
    words = ", ".join(f"{name} {median:.1f} ms (least {least:.1f})" for name, (median, least) in figures.items())
    peers = [figure for name, figure in figures.items() if name != "fastconv"]
    if not peers:
        return words
    median, least = (min(column) / ours for column, ours in zip(zip(*peers), figures["fastconv"]))
    return f"{words}: x {median:.2f} (least x {least:.2f})"
