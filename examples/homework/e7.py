"""E7. A low-rank kernel, W[i,j,l,k] = sum_r a_ir b_jr c_lr d_kr: four small convolutions instead of a large one.

    y[i,s,t] = sum_r a_ir sum_k d_kr sum_l c_lr sum_j b_jr x[j,s+l,t+k]     (mix channels, columns, rows, mix channels)

With G = dL/dW of the dense layer:  dL/da_ir = sum_jlk G[i,j,l,k] b_jr c_lr d_kr, and so for b, c, d; dL/dx is the dense one's.
Parameters, and multiplications per pixel: R (OC + IC + KH + KW) instead of OC IC KH KW.
"""

import numpy as np
from fastconv import conv2d, conv2d_backward, cp_conv2d, cp_conv2d_backward
from fastconv.testing import gradcheck
from show import compare, derivation, tensor, torch, verdict

SUMS = {"a": "ijlk,jr,lr,kr->ir", "b": "ijlk,ir,lr,kr->jr", "c": "ijlk,ir,jr,kr->lr", "d": "ijlk,ir,jr,lr->kr"}


def main():
    derivation(__doc__)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 2, 5, 5))
    for rank in (1, 2):
        print(f"---- rank {rank}\n")
        factors = tuple(rng.standard_normal((size, rank)) for size in (3, 2, 3, 3))
        w = np.einsum("ir,jr,lr,kr->ijlk", *factors)
        y = cp_conv2d(x, factors)
        g = rng.standard_normal(y.shape)
        gradients, dense = cp_conv2d_backward(g, x, factors), conv2d_backward(g, x, w)
        torch_y, leaves = None, [None] * 5
        if torch is not None:
            leaves = [tensor(a) for a in (x, *factors)]
            torch_y = torch.nn.functional.conv2d(leaves[0], torch.einsum("ir,jr,lr,kr->ijlk", *leaves[1:]))
            torch_y.backward(torch.tensor(g))
        compare("y", hand=conv2d(x, w), fastconv=y, torch=torch_y)
        for index, (name, sums) in enumerate(SUMS.items()):
            others = [factor for other, factor in enumerate(factors) if other != index]
            compare(f"dL/d{name}", hand=np.einsum(sums, dense.weight, *others), fastconv=gradients.factors[index],
                    torch=torch and leaves[index + 1].grad)
        compare("dL/dx", hand=dense.input, fastconv=gradients.input, torch=torch and leaves[0].grad)
        verdict("all of it, numerically", gradcheck(cp_conv2d, cp_conv2d_backward, x, factors))
    print(f"256 to 256 channels, 3x3, rank 16: {16 * (256 + 256 + 3 + 3)} parameters instead of {256 * 256 * 9}")


if __name__ == "__main__":
    main()
