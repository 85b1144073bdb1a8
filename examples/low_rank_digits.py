"""How low may the rank of a convolution be? A network that reads digits, its second convolution replaced by CP layers.

The network is trained first; then its second convolution (16 to 32 channels, 3x3) is decomposed at falling rank, the network
fine-tuned, and accuracy drawn against the layer's time and parameters.

Run: python examples/low_rank_digits.py [--epochs N] [--tuning N] [--out FILE]
"""

import argparse
import copy
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fastconv import nn, optim
from fastconv.demo import train

CONVOLUTION = 3     # the layer's place in the network
RANKS = (32, 16, 8, 4, 2, 1)


class Point(NamedTuple):
    """One network: accuracies are shares of the test digits, seconds the layer's own for all of them."""

    name: str
    error: float        # of the decomposed kernel, relative
    parameters: int
    seconds: float
    decomposed: float   # accuracy before fine-tuning
    accuracy: float


def fine_tune(net: nn.Sequential, digits: train.Digits, epochs: int) -> None:
    """Some more epochs, at a tenth of the learning rate."""
    generator = np.random.default_rng(1)
    criterion, optimizer = nn.NLLLoss(), optim.SGD(net, lr=train.LEARNING_RATE / 10, momentum=0.9)
    count = len(digits.train_labels)
    for _ in range(epochs):
        order = generator.permutation(count)
        for first in range(0, count, train.BATCH):
            batch = order[first:first + train.BATCH]
            criterion(net(digits.train_images[batch]), digits.train_labels[batch])
            net.backward(criterion.backward(), input_gradient=False)
            optimizer.step()


def accuracy(net: nn.Sequential, digits: train.Digits) -> float:
    return train.evaluate(net, digits.test_images, digits.test_labels)[1]


def measure(net: nn.Sequential, digits: train.Digits) -> tuple[int, float]:
    """Parameters of the convolution, and its least time of twenty."""
    x = digits.test_images
    for layer in net[:CONVOLUTION]:
        x = layer(x)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        net[CONVOLUTION](x)
        times.append(time.perf_counter() - start)
    return sum(array.size for array in net[CONVOLUTION].params.values()), min(times)


def replaced(net: nn.Sequential, rank: int) -> nn.Sequential:
    """A copy of the network whose second convolution is of this rank."""
    layers = copy.deepcopy(list(net))
    layers[CONVOLUTION] = nn.CPConv2d.from_conv(layers[CONVOLUTION], rank, seed=0)
    return nn.Sequential(*layers)


def compare(digits: train.Digits, epochs: int, tuning: int) -> list[Point]:
    net = train.fit(digits, epochs, seed=0).net
    parameters, seconds = measure(net, digits)
    points = [Point("dense", 0.0, parameters, seconds, accuracy(net, digits), accuracy(net, digits))]
    for rank in RANKS:
        smaller = replaced(net, rank)
        decomposed = accuracy(smaller, digits)
        fine_tune(smaller, digits, tuning)
        parameters, seconds = measure(smaller, digits)
        error = smaller[CONVOLUTION].relative_error
        points.append(Point(f"rank {rank}", error, parameters, seconds, decomposed, accuracy(smaller, digits)))
    return points


def table(points: list[Point]) -> str:
    lines = ["kernel   error  parameters  microseconds  accuracy decomposed, fine-tuned"]
    lines += [f"{p.name:8} {p.error:5.2f}  {p.parameters:10,}  {1e6 * p.seconds:12.0f}  {p.decomposed:19.1%}  {p.accuracy:10.1%}"
              for p in points]
    return "\n".join(lines)


def plot(points: list[Point], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name, values in zip(figure.subplots(1, 2, sharey=True), ("parameters of the convolution", "its time, microseconds"),
                                  ([p.parameters for p in points], [1e6 * p.seconds for p in points]), strict=True):
        axes.semilogx(values, [100 * p.accuracy for p in points], "o-", label="fine-tuned")
        axes.semilogx(values, [100 * p.decomposed for p in points], "s:", label="decomposed")
        for value, point in zip(values, points, strict=True):
            axes.annotate(point.name, (value, 100 * point.accuracy), textcoords="offset points", xytext=(4, -12), fontsize=8)
        axes.set(xlabel=name)
        axes.grid(alpha=0.3)
    figure.axes[0].set(ylabel="test digits read correctly, %")
    figure.axes[0].legend()
    figure.suptitle("The second convolution of the digits network at falling rank")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=15, help="of the dense network")
    parser.add_argument("--tuning", type=int, default=3, help="epochs of each decomposed one")
    parser.add_argument("--out", type=Path, default=Path("low_rank_digits.png"), help="the picture")
    options = parser.parse_args()
    points = compare(train.load(), options.epochs, options.tuning)
    print(table(points))
    plot(points, options.out)


if __name__ == "__main__":
    main()
