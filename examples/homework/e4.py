"""E4. A 1x1 convolution from M to N channels is one dense layer, applied to every pixel.

    y[n,:,i,j] = W x[n,:,i,j] + b, so with pixels as rows:  Y = X W^T + b
    dL/dX = dL/dY W       dL/dW = dL/dY^T X       dL/db = sum of dL/dY over the pixels
"""

import numpy as np
from fastconv import conv2d, conv2d_backward
from show import compare, derivation, tensor, torch


def rows(a):
    """(N, C, H, W) as one row of C numbers per pixel."""
    return a.transpose(0, 2, 3, 1).reshape(-1, a.shape[1])


def main():
    derivation(__doc__)
    rng = np.random.default_rng(0)
    x, g = rng.integers(-3, 4, (1, 3, 2, 2)).astype(float), rng.integers(-3, 4, (1, 2, 2, 2)).astype(float)
    w, b = rng.integers(-3, 4, (2, 3)).astype(float), np.array([0.5, -0.5])
    y, gradients = conv2d(x, w[:, :, None, None], b), conv2d_backward(g, x, w[:, :, None, None])
    torch_y = leaves = None
    if torch is not None:
        leaves = [tensor(a) for a in (x, w, b)]
        torch_y = torch.nn.functional.linear(leaves[0].permute(0, 2, 3, 1).reshape(-1, 3), *leaves[1:])
        torch_y.backward(torch.tensor(rows(g)))
    compare("Y, pixels as rows", hand=rows(x) @ w.T + b, fastconv=rows(y), torch=torch_y)
    compare("dL/dX", hand=rows(g) @ w, fastconv=rows(gradients.input), torch=leaves and rows(leaves[0].grad.numpy()))
    compare("dL/dW", hand=rows(g).T @ rows(x), fastconv=gradients.weight[:, :, 0, 0], torch=leaves and leaves[1].grad)
    compare("dL/db", hand=rows(g).sum(axis=0), fastconv=gradients.bias, torch=leaves and leaves[2].grad)


if __name__ == "__main__":
    main()
