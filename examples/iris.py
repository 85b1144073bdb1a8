"""A dense network on Iris: which activation, which initial values, which optimiser, which penalty, which decay?

Each sweep changes one thing and keeps the rest (ReLU, He, Adam). Run: python examples/iris.py --sweep activation optimizer
"""

from functools import partial

import numpy as np
from common import History, fit, parser, plot
from datasets import table
from fastconv import nn, optim

ACTIVATIONS = {
    "identity": nn.Identity, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "ReLU": nn.ReLU, "LeakyReLU": nn.LeakyReLU,
    "ELU": nn.ELU, "maxout": lambda: nn.Maxout(2),
}
OPTIMIZERS = {
    "SGD": partial(optim.SGD, lr=0.05),
    "momentum": partial(optim.SGD, lr=0.05, momentum=0.9),
    "Nesterov": partial(optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
    "AdaGrad": partial(optim.Adagrad, lr=0.05),
    "RMSprop": partial(optim.RMSprop, lr=0.005),
    "Adam": partial(optim.Adam, lr=0.01),
}
DECAYS = {
    "none": lambda optimizer: None,
    "step": lambda optimizer: optim.StepLR(optimizer, 20, 0.5),
    "exponential": lambda optimizer: optim.ExponentialLR(optimizer, 0.97),
    "1/t": lambda optimizer: optim.ReciprocalLR(optimizer, 0.05),
}
PENALTIES = {"none": {}, "L2 1e-3": {"weight_decay": 1e-3}, "L2 1e-1": {"weight_decay": 1e-1}, "L1 1e-2": {"l1": 1e-2}}
SCHEMES = ("zeros", "small", "large", "xavier", "he")
LOSSES = {"cross-entropy": nn.CrossEntropyLoss, "hinge": nn.MultiMarginLoss}


def run(data, options, activation="ReLU", scheme="he", optimizer="Adam", decay="none", penalty="none",
        loss="cross-entropy", label="") -> History:
    """Two hidden layers of 16 units."""
    generator = np.random.default_rng(options.seed)
    pieces = 2 if activation == "maxout" else 1
    make = ACTIVATIONS[activation]
    net = nn.Sequential(nn.Linear(4, 16 * pieces), make(), nn.Linear(16, 16 * pieces), make(), nn.Linear(16, 3))
    nn.initialize(net, scheme, generator)
    stepper = OPTIMIZERS[optimizer](net, **PENALTIES[penalty])
    return fit(net, data, LOSSES[loss](), stepper, epochs=options.epochs, batch_size=16, generator=generator, label=label,
               schedule=DECAYS[decay](stepper))


SWEEPS = {"activation": ACTIVATIONS, "scheme": SCHEMES, "optimizer": OPTIMIZERS, "decay": DECAYS, "penalty": PENALTIES,
          "loss": LOSSES}


def main() -> None:
    options = parser(__doc__.splitlines()[0], epochs=60)
    options.add_argument("--sweep", nargs="+", choices=SWEEPS, default=list(SWEEPS), help="what to vary")
    options = options.parse_args()
    data = table("iris", options.seed).first(options.limit)
    for sweep in options.sweep:
        print(f"\n{sweep}")
        histories = {}
        for choice in SWEEPS[sweep]:
            histories[choice] = run(data, options, **{sweep: choice}, label=f"{sweep} {choice}")
            print(f"  {choice}: {histories[choice]}")
        print(plot(histories, f"Iris: {sweep}", options.out / f"iris-{sweep}.png"))


if __name__ == "__main__":
    main()
