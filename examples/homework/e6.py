"""E6. A separable convolution is a dense one with the product kernel.

    u_c = d_c * x_c (one k x k kernel per channel), y_o = sum_c p[o,c] u_c   =   sum_c W[o,c] * x_c,  W[o,c,i,j] = p[o,c] d[c,i,j]

    dL/dp[o,c] = sum_ij dL/dW[o,c,i,j] d[c,i,j]      dL/dd[c,i,j] = sum_o p[o,c] dL/dW[o,c,i,j]      dL/dx is the dense one's
"""

import numpy as np
from fastconv import conv2d, conv2d_backward, separable_conv2d, separable_conv2d_backward
from fastconv.testing import gradcheck
from show import compare, derivation, tensor, torch, verdict


def main():
    derivation(__doc__)
    rng = np.random.default_rng(0)
    x, d, p = rng.standard_normal((1, 2, 4, 4)), rng.standard_normal((2, 1, 3, 3)), rng.standard_normal((3, 2, 1, 1))
    dense = p * d[:, 0]
    y = separable_conv2d(x, d, p, padding=1)
    g = rng.standard_normal(y.shape)
    by_fastconv, through = separable_conv2d_backward(g, x, d, p, padding=1), conv2d_backward(g, x, dense, padding=1)
    torch_y = leaves = None
    if torch is not None:
        leaves = [tensor(a) for a in (x, d, p)]
        between = torch.nn.functional.conv2d(leaves[0], leaves[1], padding=1, groups=2)
        torch_y = torch.nn.functional.conv2d(between, leaves[2])
        torch_y.backward(torch.tensor(g))
    compare("y", hand=conv2d(x, dense, padding=1), fastconv=y, torch=torch_y)
    hand_d = (p * through.weight).sum(axis=0)[:, None]
    hand_p = (through.weight * d[:, 0]).sum(axis=(2, 3), keepdims=True)
    compare("dL/dd", hand=hand_d, fastconv=by_fastconv.depthwise_weight, torch=leaves and leaves[1].grad)
    compare("dL/dp", hand=hand_p, fastconv=by_fastconv.pointwise_weight, torch=leaves and leaves[2].grad)
    compare("dL/dx", hand=through.input, fastconv=by_fastconv.input, torch=leaves and leaves[0].grad)
    verdict("all of it, numerically", gradcheck(separable_conv2d, separable_conv2d_backward, x, d, p))
    print(f"Parameters: {d.size} + {p.size} instead of {dense.size}")


if __name__ == "__main__":
    main()
