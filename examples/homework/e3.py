"""E3. The gradient passes through a pooling layer, although that has no weights.

Minimise L = ||out(Data2) - out(Data1)||^2, out being a Conv1d (2 to 1 channels, kernel 2) and a pool of width 2, stride 1. The
sheet gives no weights; here w = [1 1; 0 1], which has no ties, so c[t] = x0[t] + x0[t+1] + x1[t+1]: 5 -3 0 for Data1 and 8 -7 2
for Data2.

    average: out = 1 -1.5 and 0.5 -2.5, e = -0.5 -1, L = 1.25. Each output is half of two windows, D = Data2 - Data1:
             dL/dw[c,k] = sum_t e[t] (D[c,t+k] + D[c,t+k+1]) = [-2.5 -1.5; 4 6.5]
    maximum: out = 5 0 and 8 2, e = 3 2, L = 13. The maxima are at t = 0 and t = 2 in both, and there the gradient goes:
             dL/dw[c,k] = 2 e[0] D[c,k] + 2 e[1] D[c,2+k] = [22 0; -8 4]
"""

import numpy as np
from fastconv import nn, optim
from fastconv.testing import gradcheck
from show import compare, derivation, tensor, torch, verdict

DATA = np.array([[[1.0, 2, -3, 2], [1, 2, -2, 1]], [[4, 2, -2, 2], [3, 2, -7, 2]]])
W = np.array([[[1.0, 1], [0, 1]]])
HAND = {"average": (1.25, [[[-2.5, -1.5], [4, 6.5]]]), "maximum": (13.0, [[[22.0, 0], [-8, 4]]])}


def network(pool, w):
    net = nn.Sequential(nn.Conv1d(2, 1, 2, bias=False, dtype=np.float64), pool)
    net.params["0.weight"][...] = w
    return net


def loss_and_gradient(pool, w, derivative_of_pooling=1):
    net = network(pool, w)
    out = net(DATA)
    e = out[1] - out[0]
    net[0].backward(derivative_of_pooling * pool.backward(np.stack([-2 * e, 2 * e])))
    return (e**2).sum(), net


def in_torch(kind):
    if torch is None:
        return None, None
    w = tensor(W)
    pool = torch.nn.functional.avg_pool1d if kind == "average" else torch.nn.functional.max_pool1d
    out = pool(torch.nn.functional.conv1d(torch.tensor(DATA), w), 2, 1)
    loss = ((out[1] - out[0]) ** 2).sum()
    loss.backward()
    return loss, w.grad


def main():
    derivation(__doc__)
    for kind, pool in (("average", nn.AvgPool1d(2, stride=1)), ("maximum", nn.MaxPool1d(2, stride=1))):
        print(f"---- {kind}\n")
        (loss, net), (torch_loss, torch_gradient) = loss_and_gradient(pool, W), in_torch(kind)
        compare("loss", hand=HAND[kind][0], fastconv=loss, torch=torch_loss)
        compare("gradient of w", hand=HAND[kind][1], fastconv=net.grads["0.weight"], torch=torch_gradient)
        optim.SGD(net, lr=0.01).step()
        after = loss_and_gradient(pool, net.params["0.weight"])[0]
        print(f"One step of SGD, lr 0.01: L = {loss:g} becomes {after:g}\n")

        def loss_of(w, pool=pool):
            return loss_and_gradient(pool, w)[0]

        def right(g, w, pool=pool):
            return loss_and_gradient(pool, w)[1].grads["0.weight"]

        def sheet(g, w, pool=pool):
            return loss_and_gradient(pool, w, derivative_of_pooling=0)[1].grads["0.weight"]

        verdict("the gradient goes through the pool", gradcheck(loss_of, right, W))
        verdict("pooling has no weights, so its derivative is zero", gradcheck(loss_of, sheet, W), erratum=True)


if __name__ == "__main__":
    main()
