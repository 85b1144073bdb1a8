"""Train the MNIST network, or a dense one, with one batch size after the other, and compare them.

Reads the four idx files of MNIST or Fashion-MNIST, gzipped or not, and downloads nothing; without --data it runs on a stand-in.
Run: python examples/train_mnist.py --batch-size 1 8 32 50 --epochs 10
"""

from pathlib import Path

import numpy as np
from common import at_least, fail, fit, parser, plot
from datasets import Split, mnist
from fastconv import nn, optim


def network(generator: np.random.Generator, hidden: int = 1024) -> nn.Sequential:
    """Convolution, ReLU and max pooling twice; a dense layer with dropout; ten classes."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, seed=generator), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, seed=generator), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, hidden, seed=generator), nn.ReLU(), nn.Dropout(0.5, seed=generator),
        nn.Linear(hidden, 10, seed=generator), nn.LogSoftmax(1))


def dense(generator: np.random.Generator, hidden: int = 128) -> nn.Sequential:
    """One hidden layer, fully connected, with dropout; ten classes."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(28 * 28, hidden, seed=generator), nn.ReLU(), nn.Dropout(0.5, seed=generator),
        nn.Linear(hidden, 10, seed=generator), nn.LogSoftmax(1))


NETWORKS = {"N2": network, "dense": dense}


def only(data: Split, classes: list[int]) -> Split:
    """The examples of these classes."""
    kept = [np.isin(target, classes) for target in (data.train_y, data.test_y)]
    if not all(part.any() for part in kept):
        fail(f"there are no examples of the classes {classes}")
    return Split(data.train_x[kept[0]], data.train_y[kept[0]], data.test_x[kept[1]], data.test_y[kept[1]], data.name)


def main() -> None:
    options = parser(__doc__.split("\n\n")[0], epochs=5)
    options.add_argument("--data", type=Path, metavar="DIR", help="folder of train-images-idx3-ubyte and the other three")
    options.add_argument("--network", choices=NETWORKS, default="N2", help="convolutions and dense layers, or dense layers only")
    options.add_argument("--batch-size", type=at_least(1), nargs="+", default=[32], metavar="N", help="one run for each")
    options.add_argument("--classes", type=int, nargs="+", metavar="K", help="train on these classes only")
    options.add_argument("--lr", type=float, default=0.01, help="initial learning rate; times 0.9 after every epoch")
    options = options.parse_args()
    data = mnist(options.data, options.seed)
    data = (only(data, options.classes) if options.classes else data).first(options.limit)
    print(f"{len(data.train_y)} training and {len(data.test_y)} test images of {data.name}")
    histories = {}
    for size in options.batch_size:
        generator = np.random.default_rng(options.seed)
        net = NETWORKS[options.network](generator)
        if not histories:
            print(nn.summary(net, (1, 28, 28)))
        optimizer = optim.SGD(net, lr=options.lr, momentum=0.9 if size > 1 else 0)
        name = f"batches of {size}"
        histories[name] = fit(net, data, nn.NLLLoss(), optimizer, epochs=options.epochs, batch_size=size, label=name,
                              generator=generator, schedule=optim.ExponentialLR(optimizer, 0.9))
        print(f"{name}: {histories[name]}")
    print(plot(histories, f"Network {options.network} on {data.name}", options.out / "mnist.png"))


if __name__ == "__main__":
    main()
