"""Why deep plain networks do not learn: the gradient's norm in every layer of networks with 3 to 19 hidden layers.

Hidden layers have 5 units; with sigmoid the gradient shrinks from layer to layer towards the input, and batch normalisation
holds it up; with tanh or ReLU and initial values to match it is only the smaller the deeper the network.
Run: python examples/breast_cancer_depth.py --activation tanh
"""

import numpy as np
from common import at_least, fit, parser, plot, save
from datasets import table
from fastconv import nn, optim

ACTIVATIONS = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "ReLU": nn.ReLU}


def network(depth: int, activation: str, batch_norm: bool, generator: np.random.Generator) -> nn.Sequential:
    """30 features, `depth` hidden layers of 5 units, 2 classes; Xavier's initial values, He's for ReLU."""
    layers, before = [], 30
    for _ in range(depth):
        layers += [nn.Linear(before, 5), *([nn.BatchNorm1d(5)] if batch_norm else [])]
        layers.append(ACTIVATIONS[activation]())
        before = 5
    net = nn.Sequential(*layers, nn.Linear(5, 2))
    nn.initialize(net, "he" if activation == "ReLU" else "xavier", generator)
    return net


def layer_norms(net: nn.Sequential, data) -> list[float]:
    """The gradient's norm at every dense layer's weights, over all training examples, at the start."""
    criterion = nn.CrossEntropyLoss()
    criterion(net(data.train_x), data.train_y)
    net.backward(criterion.backward())
    norms = optim.gradient_norms(net)
    return [norms[name] for name, param in net.params.items() if param.ndim == 2]


def picture(norms: dict[str, list[float]], title: str, path) -> str:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "No picture: matplotlib is not installed."
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, values) in enumerate(norms.items()):
        style = "s--" if "batch norm" in name else "o-"
        axes.semilogy(range(1, len(values) + 1), values, style, markersize=3, color=f"C{number // 2}", label=name)
    axes.set(xlabel="layer, from the input", ylabel="norm of the weights' gradient", title=title)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center")
    return save(figure, path)


def main() -> None:
    options = parser(__doc__.splitlines()[0], epochs=30)
    options.add_argument("--depth", type=at_least(1), nargs="+", default=[3, 7, 11, 15, 19], metavar="N", help="hidden layers")
    options.add_argument("--activation", choices=ACTIVATIONS, default="sigmoid", help="of the hidden layers")
    options = options.parse_args()
    data = table("breast_cancer", options.seed).first(options.limit)
    norms, histories = {}, {}
    for depth in options.depth:
        for batch_norm in (False, True):
            name = f"{depth} layers{', batch norm' if batch_norm else ''}"
            generator = np.random.default_rng(options.seed)
            net = network(depth, options.activation, batch_norm, generator)
            norms[name] = layer_norms(net, data)
            optimizer = optim.Adam(net, lr=0.01)
            histories[name] = fit(net, data, nn.CrossEntropyLoss(), optimizer, epochs=options.epochs, batch_size=32,
                                  generator=generator, label=name)
            first, last = norms[name][0], norms[name][-1]
            print(f"{name}: gradient {first:.1e} at the first layer, {last:.1e} at the last; {histories[name]}")
    title = f"Breast Cancer, {options.activation}: gradients before training"
    print(picture(norms, title, options.out / "breast-cancer-gradients.png"))
    print(plot(histories, f"Breast Cancer, {options.activation}", options.out / "breast-cancer.png"))


if __name__ == "__main__":
    main()
