"""Train the CIFAR-10 network, with one regulariser after the other, and compare them.

Reads CIFAR-10's python archive, unpacked (https://www.cs.toronto.edu/~kriz/cifar.html), and downloads nothing; without --data it
runs on a stand-in. Run: python examples/train_cifar10.py --regularizer none l2 dropout --epochs 10
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
from common import at_least, fail, fit, parser, plot, History
from datasets import cifar10
from fastconv import nn, optim

PENALTIES = {"l1": {"l1": 1e-3}, "l1-strong": {"l1": 1e-2}, "l2": {"weight_decay": 1e-3}, "l2-strong": {"weight_decay": 1e-2}}
REGULARIZERS = ["none", *PENALTIES, "dropout", "augment", "stopping"]


def network(generator: np.random.Generator, width: int = 32, dropout: bool = False) -> nn.Sequential:
    """Three blocks of two convolutions, max pooling and batch normalisation; three dense layers. `width` is 32 in full."""
    layers, channels = [], [3, width, 2 * width, 4 * width, 4 * width, 8 * width, 8 * width]
    for index, (before, after) in enumerate(pairwise(channels)):
        layers += [nn.Conv2d(before, after, 3, padding=1, seed=generator), nn.ReLU()]
        layers += [nn.Dropout2d(0.15, seed=generator)] * dropout
        if index % 2:
            layers += [nn.MaxPool2d(2), nn.BatchNorm2d(after)]
    layers.append(nn.Flatten())
    for before, after in pairwise([128 * width, 32 * width, 16 * width]):
        layers += [nn.Linear(before, after, seed=generator), nn.ReLU(), *[nn.Dropout(0.5, seed=generator)] * dropout]
    return nn.Sequential(*layers, nn.Linear(16 * width, 10, seed=generator))


def augment(x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Each image turned by a random multiple of 90 degrees and shifted by up to 4 pixels, black moving in."""
    padded = np.pad(x, ((0, 0), (0, 0), (4, 4), (4, 4)))
    result = np.empty_like(x)
    turns, tops, lefts = (generator.integers(n, size=len(x)) for n in (4, 9, 9))
    for image, source, turn, top, left in zip(result, padded, turns, tops, lefts, strict=True):
        image[...] = np.rot90(source[:, top : top + 32, left : left + 32], turn, axes=(1, 2))
    return result


def train(regularizer: str, data, options) -> tuple[nn.Sequential, History]:
    """One run, from the checkpoint if there is one to resume from."""
    generator = np.random.default_rng(options.seed)
    net = network(generator, options.width, regularizer == "dropout")
    optimizer = optim.SGD(net, lr=options.lr, momentum=0.9, **PENALTIES.get(regularizer, {}))
    stopping = optim.EarlyStopping(net, options.patience) if regularizer == "stopping" else None
    run = {"net": net, "optimizer": optimizer, "generator": generator} | ({"stopping": stopping} if stopping else {})
    history, path = None, options.checkpoint and options.checkpoint.with_suffix(f".{regularizer}.npz")
    if options.resume:
        if not path.is_file():
            fail(f"{path} is not there to resume from")
        history = History(*optim.load_checkpoint(path, **run)["history"])

    def after_epoch(history: History) -> None:
        if path:
            optim.save_checkpoint(path, **run, history=list(history))

    return net, fit(net, data, nn.CrossEntropyLoss(), optimizer, epochs=options.epochs, batch_size=options.batch_size,
                    generator=generator, label=regularizer, stopping=stopping, history=history,
                    augment=augment if regularizer == "augment" else None, after_epoch=after_epoch)


def main() -> None:
    options = parser(__doc__.split("\n\n")[0], epochs=5)
    options.add_argument("--data", type=Path, metavar="DIR", help="folder of data_batch_1 ... test_batch")
    options.add_argument("--regularizer", nargs="+", choices=REGULARIZERS, default=["none"], help="one run for each")
    options.add_argument("--batch-size", type=at_least(1), default=32, metavar="N", help="images per step")
    options.add_argument("--lr", type=float, default=0.001, help="learning rate; momentum is 0.9")
    options.add_argument("--width", type=at_least(1), default=32, metavar="N", help="channels of the first layer")
    options.add_argument("--patience", type=at_least(1), default=3, metavar="N", help="epochs that 'stopping' waits")
    options.add_argument("--checkpoint", type=Path, metavar="FILE", help="write one per run after every epoch")
    options.add_argument("--resume", action="store_true", help="go on from --checkpoint")
    options = options.parse_args()
    if options.resume and not options.checkpoint:
        fail("--resume needs --checkpoint")
    data = cifar10(options.data, options.seed).first(options.limit)
    print(f"{len(data.train_y)} training and {len(data.test_y)} test images of {data.name}")
    histories = {}
    for regularizer in options.regularizer:
        net, histories[regularizer] = train(regularizer, data, options)
        if len(histories) == 1:
            print(nn.summary(net, (3, 32, 32)))
        print(f"{regularizer}: {histories[regularizer]}")
    print(plot(histories, f"Network N1 on {data.name}", options.out / "cifar10.png"))


if __name__ == "__main__":
    main()
