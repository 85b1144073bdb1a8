"""How long a training step of the networks N1 and N2 takes, here and in PyTorch, and where the time goes.

Both take turns of three steps, with the same weights and batch. Run: python examples/step_time.py --threads 1
"""

import argparse
import time

import numpy as np
import train_cifar10
import train_mnist
from common import at_least
from fastconv import nn, optim
from torch_twin import compared, taking_turns, threads_of_all, torch_or_none, twin

NETWORKS = {"N1": (train_cifar10.network, (3, 32, 32)), "N2": (train_mnist.network, (1, 28, 28))}


def step(net, x, y):
    """A training step."""
    criterion, optimizer = nn.CrossEntropyLoss(), optim.SGD(net, lr=0.001, momentum=0.9)

    def train():
        criterion(net(x), y)
        net.backward(criterion.backward(), input_gradient=False)
        optimizer.step()

    return train


def step_of_torch(torch, net, x, y):
    """The same in PyTorch, from the same weights."""
    model = twin(torch, net)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)

    def train():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return train


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
    torch = torch_or_none()
    rng = np.random.default_rng(0)
    with threads_of_all(torch, options.threads):
        for name in options.network:
            make, size = NETWORKS[name]
            net = make(rng)
            x, y = rng.standard_normal((options.batch_size, *size), np.float32), rng.integers(0, 10, options.batch_size)
            calls = {"fastconv": step(net, x, y)} | ({"PyTorch": step_of_torch(torch, net, x, y)} if torch else {})
            print(f"{name} training step, batch {options.batch_size}: {compared(taking_turns(calls, options.rounds))}")
            print("\n".join(f"  {kind:<18} {direction:<8} {value:8.2f} ms"
                            for (kind, direction), value in profile(net, x, y, options.rounds).items()))


if __name__ == "__main__":
    main()
