"""E1. A network 3-2-1 by hand, a step of SGD and one of Adam, and two slips of the sheet.

    z1 = W1 x1 + W3 x2 + W5 x3     h1 = tanh(z1)             o = W7 h1 + W8 h2     p = sigmoid(o)
    z2 = W2 x1 + W4 x2 + W6 x3     h2 = LeakyReLU_0.2(z2)    L = -y log p - (1 - y) log(1 - p)

    dL/do = p - y         dL/dW7 = dL/do h1      dL/dz1 = dL/do W7 (1 - tanh^2 z1)      dL/dW1 = dL/dz1 x1, ...
                          dL/dW8 = dL/do h2      dL/dz2 = dL/do W8 (1 or 0.2)           dL/dW2 = dL/dz2 x1, ...

Adam's first step, its bias corrected, has mhat = g and vhat = g^2, so it is lr g / (|g| + eps).
"""

import numpy as np
from fastconv import nn, optim
from fastconv.testing import gradcheck
from show import compare, derivation, tensor, torch, verdict

WEIGHTS, X, Y = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, -0.4]), np.array([1.5, 1, 1]), 0.0
RATE = 0.1


def loss(w, x):
    z1, z2 = w[0:6:2] @ x, w[1:6:2] @ x
    o = w[6] * np.tanh(z1) + w[7] * np.where(z2 > 0, z2, 0.2 * z2)
    return np.logaddexp(0, o) - Y * o


def gradient(w, x, slope_of_tanh):
    z1, z2 = w[0:6:2] @ x, w[1:6:2] @ x
    h = np.array([np.tanh(z1), np.where(z2 > 0, z2, 0.2 * z2)])
    grad_o = 1 / (1 + np.exp(-w[6:] @ h)) - Y
    grad_z = grad_o * w[6:] * [slope_of_tanh(z1), 1 if z2 > 0 else 0.2]
    return np.concatenate([np.outer(x, grad_z).ravel(), grad_o * h])


class Network:
    """The same of fastconv's layers; the optimisers need no more than `params` and `grads`."""

    def __init__(self):
        self.hidden, self.out = nn.Linear(3, 2, bias=False, dtype=np.float64), nn.Linear(2, 1, bias=False, dtype=np.float64)
        self.hidden.params["weight"][...], self.out.params["weight"][...] = WEIGHTS[:6].reshape(3, 2).T, WEIGHTS[6:]
        self.tanh, self.leaky, self.criterion = nn.Tanh(), nn.LeakyReLU(0.2), nn.BCEWithLogitsLoss()
        self.params = {"hidden": self.hidden.params["weight"], "out": self.out.params["weight"]}
        self.grads = {}

    def pass_through(self):
        z = self.hidden(X[None])
        o = self.out(np.hstack([self.tanh(z[:, :1]), self.leaky(z[:, 1:])]))
        value = self.criterion(o, np.full_like(o, Y))
        grad_h = self.out.backward(self.criterion.backward())
        self.hidden.backward(np.hstack([self.tanh.backward(grad_h[:, :1]), self.leaky.backward(grad_h[:, 1:])]))
        self.grads = {"hidden": self.hidden.grads["weight"], "out": self.out.grads["weight"]}
        return value


def flat(arrays):
    """The two matrices as W1 ... W8."""
    return np.concatenate([arrays["hidden"].T.ravel(), arrays["out"].ravel()])


def in_torch(name, **options):
    """Loss, gradient and weights after one step."""
    if torch is None:
        return None, None, None
    w, x = tensor(WEIGHTS), torch.tensor(X)
    h = torch.stack([torch.tanh(w[0:6:2] @ x), torch.nn.functional.leaky_relu(w[1:6:2] @ x, 0.2)])
    value = torch.nn.functional.binary_cross_entropy_with_logits(w[6:] @ h, torch.tensor(Y, dtype=torch.float64))
    value.backward()
    getattr(torch.optim, name)([w], lr=RATE, **options).step()
    return value, w.grad, w


def main():
    derivation(__doc__)
    hand = gradient(WEIGHTS, X, lambda z: 1 - np.tanh(z) ** 2)
    network, (torch_loss, torch_gradient, after_sgd) = Network(), in_torch("SGD")
    compare("loss", hand=loss(WEIGHTS, X), fastconv=network.pass_through(), torch=torch_loss)
    compare("gradient of W1 ... W8", hand=hand, fastconv=flat(network.grads), torch=torch_gradient)
    optim.SGD(network, lr=RATE).step()
    compare("after one step of SGD", hand=WEIGHTS - RATE * hand, fastconv=flat(network.params), torch=after_sgd)
    network = Network()
    network.pass_through()
    optim.Adam(network, lr=RATE).step()
    by_hand = WEIGHTS - RATE * hand / (np.abs(hand) + 1e-8)
    compare("after one step of Adam", hand=by_hand, fastconv=flat(network.params), torch=in_torch("Adam")[2])
    verdict("tanh' = 1 - tanh^2 z", gradcheck(loss, lambda g, w, x: (hand, None), WEIGHTS, X))
    sheet = gradient(WEIGHTS, X, lambda z: (1 - np.tanh(z)) ** 2)
    verdict("tanh' = (1 - tanh z)^2", gradcheck(loss, lambda g, w, x: (sheet, None), WEIGHTS, X), erratum=True)
    print("ERRATUM: Adam's step is lr g / (g^2 + eps), without the root. Its steps would be\n"
          f"  {RATE * hand / (hand**2 + 1e-8)}\nthe larger the smaller the gradient; with the root each is lr = {RATE} long.")


if __name__ == "__main__":
    main()
