"""How long a training step and an inference of the networks N1 and N2 take, here and in PyTorch, and where the time goes.

Both take turns of three steps, with the same weights and batch; the least time of each counts. Run: python examples/step_time.py --threads 1
"""

import argparse
import time

import fastconv
import numpy as np
import train_cifar10
import train_mnist
from common import at_least
from fastconv import nn, optim

NETWORKS = {"N1": (train_cifar10.network, (3, 32, 32)), "N2": (train_mnist.network, (1, 28, 28))}


def steps(net, x, y):
    """A training step, and an inference."""
    criterion, optimizer = nn.CrossEntropyLoss(), optim.SGD(net, lr=0.001, momentum=0.9)

    def train():
        criterion(net(x), y)
        net.backward(criterion.backward(), input_gradient=False)
        optimizer.step()

    def infer():
        net.eval()(x)
        net.train()

    return train, infer


def steps_of_torch(torch, net, x, y):
    """The same in PyTorch, from the same weights."""
    layers = []
    for layer in net.layers:
        options = {name: getattr(layer, name) for name in ("stride", "padding") if isinstance(layer, nn.Conv2d)}
        arguments = {nn.Conv2d: ("in_channels", "out_channels", "kernel_size"), nn.Linear: ("in_features", "out_features"),
                     nn.BatchNorm2d: ("num_features",), nn.MaxPool2d: ("kernel_size", "stride"), nn.Dropout: ("p",),
                     nn.LogSoftmax: ("dim",)}.get(type(layer), ())
        layers.append(getattr(torch.nn, type(layer).__name__)(*(getattr(layer, name) for name in arguments), **options))
    model = torch.nn.Sequential(*layers)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in net.state_dict().items()})
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)

    def train():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    def infer():
        with torch.no_grad():
            model.eval()(x)
        model.train()

    return train, infer


def least(calls, rounds):
    """The least time of each call in milliseconds, taking turns."""
    times = [[] for _ in calls]
    for _ in range(rounds):
        for call, column in zip(calls, times, strict=True):
            time.sleep(0.03)    # until the other library's threads no longer spin, waiting for work; then its data leaves the caches
            call()
            for _ in range(3):
                start = time.perf_counter()
                call()
                column.append(time.perf_counter() - start)
    return [1e3 * min(column) for column in times]


def profile(net, x, y, rounds):
    """Milliseconds per kind of layer and direction, largest first."""
    criterion, optimizer = nn.CrossEntropyLoss(), optim.SGD(net, lr=0.001, momentum=0.9)
    times = {}

    def clock(key, call):
        start = time.perf_counter()
        result = call()
        times.setdefault(key, []).append(1e3 * (time.perf_counter() - start))
        return result

    for _ in range(rounds):
        a = x
        for i, layer in enumerate(net.layers):
            a = clock((i, type(layer).__name__, "forward"), lambda layer=layer, a=a: layer.forward(a))
        g = clock((0, "loss", ""), lambda a=a: (criterion(a, y), criterion.backward())[1])
        for i, layer in reversed(list(enumerate(net.layers))):
            g = clock((i, type(layer).__name__, "backward"),
                      lambda layer=layer, g=g, i=i: layer.backward(g, input_gradient=i > 0))
        clock((0, "SGD with momentum", ""), optimizer.step)
    kinds = {}
    for (_, kind, direction), column in times.items():
        kinds[kind, direction] = kinds.get((kind, direction), 0.0) + min(column)
    return dict(sorted(kinds.items(), key=lambda item: -item[1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, nargs="+", default=list(NETWORKS), help="which")
    parser.add_argument("--threads", type=at_least(1), default=1, metavar="N", help="of fastconv, NumPy's BLAS and PyTorch")
    parser.add_argument("--batch-size", type=at_least(1), default=32, metavar="N", help="images per step")
    parser.add_argument("--rounds", type=at_least(1), default=10, metavar="N", help="how often each is timed")
    options = parser.parse_args()
    try:
        import torch
    except ImportError:
        torch = None
    from threadpoolctl import threadpool_limits

    fastconv.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    with threadpool_limits(options.threads):
        for name in options.network:
            make, size = NETWORKS[name]
            net = make(rng)
            x, y = rng.standard_normal((options.batch_size, *size), np.float32), rng.integers(0, 10, options.batch_size)
            calls = steps(net, x, y)
            if torch is not None:
                torch.set_num_threads(options.threads)
                calls += steps_of_torch(torch, net, x, y)
            milliseconds = least(calls, options.rounds + 1)
            for index, what in enumerate(("training step", "inference")):
                line = f"{name} {what}, batch {options.batch_size}: fastconv {milliseconds[index]:.1f} ms"
                if torch is not None:
                    theirs = milliseconds[index + 2]
                    line += f", PyTorch {theirs:.1f} ms: x {theirs / milliseconds[index]:.2f}"
                print(line)
            print("\n".join(f"  {kind:<18} {direction:<8} {value:8.2f} ms"
                            for (kind, direction), value in profile(net, x, y, options.rounds).items()))


if __name__ == "__main__":
    main()
