"""E2. Two epochs of a linear-linear-sigmoid network with squared error, built of 1x1 convolutions.

    h1 = i1 w1 + i2 w2      z = h1 w5 + h2 w6      a = sigmoid(z)      L = (y - a)^2
    h2 = i1 w3 + i2 w4      dL/dz = -2 (y - a) a (1 - a)
    dL/dw5 = dL/dz h1       dL/dw1 = dL/dz w5 i1   dL/dw2 = dL/dz w5 i2
    dL/dw6 = dL/dz h2       dL/dw3 = dL/dz w6 i1   dL/dw4 = dL/dz w6 i2

The sheet rounds a to 0.916 in epoch 1, so its gradients are right to 0.15 % and its weights to 6e-6.
"""

import numpy as np
from fastconv import nn, optim
from show import compare, derivation, tensor, torch

I, Y, RATE = np.array([3.0, 5.0]), 1.0, 0.1
SHEET_GRADIENT = np.array([-0.01938, -0.0323, -0.023256, -0.03876, -0.016796, -0.037468])
SHEET_WEIGHTS = [np.array([0.101938, 0.20323, 0.3023256, 0.403876, 0.5016796, 0.6037468]),
                 np.array([0.1037493, 0.2062488, 0.3045054, 0.4075090, 0.5032706, 0.6072687])]


def by_hand(w):
    """Output and gradient of w1 ... w6."""
    h = w[:4].reshape(2, 2) @ I
    a = 1 / (1 + np.exp(-w[4:] @ h))
    grad_z = -2 * (Y - a) * a * (1 - a)
    return a, np.concatenate([np.outer(grad_z * w[4:], I).ravel(), grad_z * h])


def in_torch(w):
    if torch is None:
        return None, None
    w = tensor(w)
    a = torch.sigmoid(w[4:] @ (w[:4].reshape(2, 2) @ torch.tensor(I)))
    ((Y - a) ** 2).backward()
    return a, w.grad


def flat(arrays):
    return np.concatenate([array.ravel() for array in arrays.values()])


def main():
    derivation(__doc__)
    net = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False, dtype=np.float64), nn.Conv2d(2, 1, 1, bias=False, dtype=np.float64),
                        nn.Sigmoid())
    optimizer, pixel = optim.SGD(net, lr=RATE), I.reshape(1, 2, 1, 1)
    start = np.arange(1, 7) / 10
    for epoch, sheet in enumerate(SHEET_WEIGHTS, 1):
        print(f"---- epoch {epoch}\n")
        for name, part in zip(net.params, np.split(start, [4]), strict=True):
            net.params[name][...] = part.reshape(net.params[name].shape)
        a, (hand_a, hand), (torch_a, torch_gradient) = net(pixel), by_hand(start), in_torch(start)
        net.backward(-2 * (Y - a))
        compare("a", hand=hand_a, fastconv=a.item(), torch=torch_a)
        compare("gradient of w1 ... w6", hand=hand, fastconv=flat(net.grads), torch=torch_gradient)
        if epoch == 1:
            compare("and as the sheet has it", 1.5e-3, hand=hand, sheet=SHEET_GRADIENT)
        optimizer.step()
        compare("weights after the step", 1e-5, sheet=sheet, fastconv=flat(net.params))
        start = sheet    # the sheet goes on from its own rounded numbers
    for name, part in zip(net.params, np.split(start, [4]), strict=True):
        net.params[name][...] = part.reshape(net.params[name].shape)
    a = net(pixel).item()
    # Six digits, cut off.
    compare("evaluation: a and L", 1.1e-6, sheet=[0.921847, 0.0061079], fastconv=[a, (Y - a) ** 2])


if __name__ == "__main__":
    main()
