"""E9. A convolution is a matrix, and its gradient is the transposed matrix: a transposed convolution.

H has 3 channels of length 4; one filter of size 3, padding 1. Z = M H, H's channels stacked, and dL/dH = M^T dL/dZ. Row t of M
holds the filter at t-1, t, t+1 of every channel; column 4c + i holds w[c,2], w[c,1], w[c,0] at i-1, i, i+1, so M^T convolves with
the flipped filter. With stride 2, Z has length 2, M every second row, and the gradient is that of the error with zeros stuffed in.
"""

import numpy as np
from fastconv import conv1d, conv_transpose1d
from fastconv.testing import conv_matrix, gradcheck
from show import compare, derivation, tensor, torch, verdict

FILTER = np.array([[[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]])
HAND = np.array([[2, 3, 0, 0, 5, 6, 0, 0, 8, 9, 0, 0], [1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0],
                 [0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9], [0, 0, 1, 2, 0, 0, 4, 5, 0, 0, 7, 8.0]])


def main():
    derivation(__doc__)
    rng = np.random.default_rng(0)
    h = rng.integers(-3, 4, (3, 4)).astype(float)
    for stride, stuffed in ((1, None), (2, [0, 2])):
        print(f"---- stride {stride}\n")
        m = conv_matrix(FILTER, h.shape, stride=stride, padding=1)
        print(f"M =\n{m}\n")
        compare("M", hand=HAND[::stride], fastconv=m)
        grad_z = rng.integers(-3, 4, (1, len(m))).astype(float)
        torch_z = leaf = None
        if torch is not None:
            leaf = tensor(h)
            torch_z = torch.nn.functional.conv1d(leaf, torch.tensor(FILTER), stride=stride, padding=1)
            torch_z.backward(torch.tensor(grad_z))
        compare("Z", hand=(m @ h.ravel())[None], fastconv=conv1d(h, FILTER, stride=stride, padding=1), torch=torch_z)
        error = grad_z
        if stuffed:
            error = np.zeros((1, 4))
            error[:, stuffed] = grad_z
            print(f"the error with zeros stuffed in: {error}\n")
        flipped = conv1d(error, FILTER.transpose(1, 0, 2)[:, :, ::-1], padding=1)
        transposed = conv_transpose1d(grad_z, FILTER, stride=stride, padding=1, output_padding=stride - 1)
        compare("dL/dH", hand=(m.T @ grad_z[0]).reshape(3, 4), flipped=flipped, fastconv=transposed, torch=torch and leaf.grad)

    def layer(h):
        return conv1d(h, FILTER, padding=1)

    verdict("M^T dL/dZ", gradcheck(layer, lambda g, h: (HAND.T @ g[0]).reshape(3, 4), h))
    three = gradcheck(layer, lambda g, h: (HAND.T[:, :3] @ g[0, :3]).reshape(3, 4), h)
    verdict("M^T has 3 columns for 4 outputs", three, erratum=True)


if __name__ == "__main__":
    main()
