"""`python -m benchmarks.precision`: how exact float32 convolutions are, as the rows of docs/precision.md.

Of every case the largest error of any element, as a fraction of the largest element, against PyTorch in float64: of both settings
of `set_float32_precision` and of PyTorch in float32. The cases are random data, random data with a large mean or of one sign, and
the layers of a network that has learnt to read digits, over the digits and the gradients that it meets.
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import fastconv
import numpy as np
import torch

KERNELS = ((1, 3), (1, 7), (2, 2), (4, 4), (5, 5), (7, 7))  # and 3x3
STRIDED = ((4, 4), (5, 5), (7, 7))                  # of stride 2
PASSES = ("forward", "input gradient", "weight gradient")


class Case(NamedTuple):
    """A convolution with a padding of half its kernel; `grad` is the gradient that meets its outputs."""

    name: str
    data: str
    x: np.ndarray
    w: np.ndarray
    grad: np.ndarray
    stride: int = 1

    @property
    def padding(self) -> tuple[int, int]:
        return self.w.shape[2] // 2, self.w.shape[3] // 2


def ours(case: Case, which: str, precision: str) -> np.ndarray:
    before = fastconv.get_float32_precision()
    fastconv.set_float32_precision(precision)
    try:
        if which == "forward":
            return fastconv.conv2d(case.x, case.w, stride=case.stride, padding=case.padding)
        mask = (which == "input gradient", which == "weight gradient", False)
        gradients = fastconv.conv2d_backward(case.grad, case.x, case.w, stride=case.stride, padding=case.padding, output_mask=mask)
        return gradients.input if mask[0] else gradients.weight
    finally:
        fastconv.set_float32_precision(before)


def theirs(case: Case, which: str, dtype: torch.dtype) -> np.ndarray:
    x, w, grad = (torch.from_numpy(array).to(dtype) for array in (case.x, case.w, case.grad))
    if which == "forward":
        return torch.conv2d(x, w, stride=case.stride, padding=case.padding).numpy()
    if which == "input gradient":
        return torch.nn.grad.conv2d_input(x.shape, w, grad, stride=case.stride, padding=case.padding).numpy()
    return torch.nn.grad.conv2d_weight(x, w.shape, grad, stride=case.stride, padding=case.padding).numpy()


def errors(case: Case, which: str) -> list[float]:
    """Of "high", of "highest" and of PyTorch."""
    exact = theirs(case, which, torch.float64)
    results = (ours(case, which, "high"), ours(case, which, "highest"), theirs(case, which, torch.float32))
    return [float(np.abs(result - exact).max() / np.abs(exact).max()) for result in results]


def random_case(count: int, size: int, kernel: tuple[int, int] = (3, 3), stride: int = 1) -> Case:
    """64 outputs, 4 images; weights such that outputs are of the size of inputs."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((64, count, *kernel), np.float32) / np.float32((kernel[0] * kernel[1] * count) ** 0.5)
    x = rng.standard_normal((4, count, size, size), np.float32)
    stops = [(size + 2 * (extent // 2) - extent) // stride + 1 for extent in kernel]
    return Case(f"{count}-64@{size}", "N(0, 1)", x, w, rng.standard_normal((4, 64, *stops), np.float32), stride)


def random_cases(channels: list[int], size: int) -> Iterator[Case]:
    for count in channels:
        case = random_case(count, size)
        yield case
        yield case._replace(data="N(10, 1)", x=case.x + np.float32(10))
        yield case._replace(data="max(N(0, 1), 0)", x=np.maximum(case.x, 0))
    for kernel in KERNELS:
        case = random_case(channels[0], size, kernel)
        yield case._replace(name=f"{case.name}, {kernel[0]}x{kernel[1]}")
    for kernel in STRIDED:
        case = random_case(channels[0], size, kernel, 2)
        yield case._replace(name=f"{case.name}, {kernel[0]}x{kernel[1]} stride 2")


def digits_cases(epochs: int) -> Iterator[Case]:
    """The two convolutions of the demonstration's network after training, over 256 test digits."""
    from fastconv import nn
    from fastconv.demo import train

    digits = train.load()
    net = train.fit(digits, epochs, 0).net.eval()
    x, target = digits.test_images[:256], digits.test_labels[:256]
    inputs, criterion = [], nn.NLLLoss()
    for layer in net.layers:
        inputs.append(x)
        x = layer.forward(x)
    criterion(x, target)
    grad = criterion.backward()
    found = []
    for layer, x in zip(net.layers[::-1], inputs[::-1], strict=True):
        if isinstance(layer, nn.Conv2d):
            name = f"{layer.in_channels}-{layer.out_channels}@{x.shape[-1]}"
            found.append(Case(name, "the digits net", x, layer.params["weight"], grad))
        grad = layer.backward(grad)
    yield from found[::-1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 256, 512], metavar="C", help="of the random inputs")
    parser.add_argument("--size", type=int, default=28, metavar="N", help="height and width of the random inputs")
    parser.add_argument("--epochs", type=int, default=30, metavar="N", help="that the digits net is trained")
    options = parser.parse_args()
    columns = [f"{which}, {of}" for which in PASSES for of in ('`"high"`', '`"highest"`', "PyTorch")]
    print("| " + " | ".join(["convolution", "input", *columns]) + " |\n" + "|---" * (2 + len(columns)) + "|")
    for case in (*random_cases(options.channels, options.size), *digits_cases(options.epochs)):
        figures = [f"{error:.1e}" for which in PASSES for error in errors(case, which)]
        print("| " + " | ".join([case.name, case.data, *figures]) + " |", flush=True)


if __name__ == "__main__":
    main()
