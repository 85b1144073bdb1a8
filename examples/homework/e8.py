"""E8. The weight gradient of a convolution is a correlation of its input with its output's error.

    yhat[o,s,t] = sum_cij W[o,c,i,j] X[c,s+i,t+j],  L = sum (y - yhat)^2,  so
    dL/dW[o,c,i,j] = sum_st -2 (y - yhat)[o,s,t] X[c,s+i,t+j]
"""

import numpy as np
from fastconv import conv2d, conv2d_weight
from fastconv.testing import gradcheck
from show import compare, derivation, tensor, torch, verdict


def main():
    derivation(__doc__)
    rng = np.random.default_rng(0)
    x, y, w = (rng.integers(-3, 4, size).astype(float) for size in ((2, 5, 5), (2, 3, 3), (2, 2, 3, 3)))
    error = -2 * (y - conv2d(x, w))
    # The error as a kernel of one input channel, over every channel of x by itself.
    hand = np.stack([conv2d(channel[None], error[:, None]) for channel in x], axis=1)
    torch_gradient = None
    if torch is not None:
        leaf = tensor(w)
        ((torch.tensor(y) - torch.nn.functional.conv2d(torch.tensor(x), leaf)) ** 2).sum().backward()
        torch_gradient = leaf.grad
    compare("dL/dW", hand=hand, fastconv=conv2d_weight(x, w.shape, error), torch=torch_gradient)

    def loss(w):
        return ((y - conv2d(x, w)) ** 2).sum()

    verdict("a correlation", gradcheck(loss, lambda g, w: g * hand, w))
    flipped = gradcheck(loss, lambda g, w: g * hand[:, :, ::-1, ::-1], w)
    verdict("a convolution in the mathematician's sense, which flips (a slip, not the sheet's)", flipped, erratum=True)


if __name__ == "__main__":
    main()
