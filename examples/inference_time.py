"""How long an inference of the networks N1, N2, ResNet-18 and MobileNetV2 takes, here and in PyTorch.

Batch normalisation is folded into the convolutions on both sides, PyTorch runs in both of its memory layouts and without
gradients, its activations in place, all taking turns. Run: python examples/inference_time.py --threads 1
"""

import argparse

import numpy as np
import train_cifar10
import train_mnist
from common import at_least
from fastconv import nn
from models import mobilenet_v2, resnet18
from torch_twin import compared, taking_turns, threads_of_all, torch_or_none, twin

# Network from a generator or a number of classes, its input's channels and side, and how many images at once.
NETWORKS = {"N1": (lambda: train_cifar10.network(np.random.default_rng(0)), (3, 32), 32),
            "N2": (lambda: train_mnist.network(np.random.default_rng(0)), (1, 28), 32),
            "ResNet-18": (lambda: resnet18(1000), (3, 224), 1), "MobileNetV2": (lambda: mobilenet_v2(1000), (3, 224), 1)}


def inferences_of_torch(torch, net, x):
    """The same network in PyTorch, in each memory layout."""
    calls = {}
    for name, layout in (("PyTorch", torch.contiguous_format), ("PyTorch channels-last", torch.channels_last)):
        model = twin(torch, net).eval().to(memory_format=layout)
        for part in model.modules():
            if isinstance(part, (torch.nn.ReLU, torch.nn.ReLU6)):
                part.inplace = True
        image = torch.from_numpy(x).to(memory_format=layout)

        def infer(model=model, image=image):
            with torch.no_grad():
                return model(image)

        calls[name] = infer
    return calls


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, nargs="+", default=list(NETWORKS), help="which")
    parser.add_argument("--threads", type=at_least(1), nargs="+", default=[1, 2], metavar="N",
                        help="of fastconv, NumPy's BLAS and PyTorch")
    parser.add_argument("--batch-size", type=at_least(1), metavar="N", help="images at once, instead of 32 small or 1 large")
    parser.add_argument("--size", type=at_least(32), metavar="N", help="height and width of ResNet-18's and MobileNetV2's images")
    parser.add_argument("--rounds", type=at_least(1), default=10, metavar="N", help="how often each is timed")
    options = parser.parse_args()
    torch = torch_or_none()
    for name in options.network:
        make, (channels, side), batch = NETWORKS[name]
        side = options.size if options.size and side == 224 else side
        x = np.random.default_rng(0).standard_normal((options.batch_size or batch, channels, side, side), np.float32)
        net = make()
        nn.initialize(net, "he", np.random.default_rng(0))    # whose outputs do not die away over fifty layers
        net = nn.fold_batch_norm(net)
        calls = {"fastconv": lambda net=net, x=x: net(x)} | (inferences_of_torch(torch, net, x) if torch else {})
        for number in options.threads:
            with threads_of_all(torch, number):
                scores, *others = [np.asarray(call()) for call in calls.values()]
                apart = [np.abs(other - scores).max() / np.abs(scores).max() for other in others]
                agreement = f"; scores agree to {max(apart):.0e}" if apart else ""
                print(f"{name}, {len(x)} x {side}x{side}, threads {number}: {compared(taking_turns(calls, options.rounds))}"
                      f"{agreement}", flush=True)


if __name__ == "__main__":
    main()
