"""E14. Batch normalisation and its gradient.

    y = gamma xhat + beta,  xhat = (x - mu_c) / sqrt(var_c + eps), mean and variance of channel c over N, H, W.  g = gamma dL/dy:
    dL/dx = (g - mean(g) - xhat mean(g xhat)) / sqrt(var + eps)      dL/dgamma = sum dL/dy xhat      dL/dbeta = sum dL/dy

    Mean only, y_i = gamma (x_i - mean x): dL/dx_i = gamma (dL/dy_i - mean dL/dy); zero for n = 1, gamma dL/dy_i as n grows.
"""

import numpy as np
from fastconv import nn
from fastconv.testing import gradcheck
from show import compare, derivation, tensor, torch, verdict

AXES = (0, 2, 3)


def by_hand(g, x, gamma, beta, eps=1e-5):
    """y and the three gradients."""
    gamma, beta = gamma[:, None, None], beta[:, None, None]
    deviation = np.sqrt(x.var(AXES, keepdims=True) + eps)
    xhat, ghat = (x - x.mean(AXES, keepdims=True)) / deviation, gamma * g
    grad_x = (ghat - ghat.mean(AXES, keepdims=True) - xhat * (ghat * xhat).mean(AXES, keepdims=True)) / deviation
    return gamma * xhat + beta, grad_x, (g * xhat).sum(AXES), g.sum(AXES)


def main():
    derivation(__doc__)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 2, 2, 2)) * np.array([1, 0.05])[:, None, None]
    g, gamma, beta = rng.standard_normal(x.shape), np.array([1.5, -0.75]), np.array([0.25, 1.0])
    layer = nn.BatchNorm2d(2, dtype=np.float64)
    layer.params["weight"][...], layer.params["bias"][...] = gamma, beta
    y = layer(x)
    ours = [y, layer.backward(g), layer.grads["weight"], layer.grads["bias"]]
    theirs = [None] * 4
    if torch is not None:
        leaves = [tensor(a) for a in (x, gamma, beta)]
        out = torch.nn.functional.batch_norm(leaves[0], None, None, *leaves[1:], training=True)
        out.backward(torch.tensor(g))
        theirs = [out, *(leaf.grad for leaf in leaves)]
    for name, hand, a, b in zip(("y", "dL/dx", "dL/dgamma", "dL/dbeta"), by_hand(g, x, gamma, beta), ours, theirs, strict=True):
        compare(name, hand=hand, fastconv=a, torch=b)

    verdict("+ eps", gradcheck(layer, lambda g, x: by_hand(g, x, gamma, beta)[1], x))
    minus = gradcheck(layer, lambda g, x: by_hand(g, x, gamma, beta, eps=-1e-5)[1], x)
    verdict("xhat = (x - mu) / sqrt(var - eps)", minus, erratum=True)
    for n in (1, 2, 5):
        report = gradcheck(lambda x: 1.5 * (x - x.mean()), lambda g, x: 1.5 * (g - g.mean()), rng.standard_normal(n))
        verdict(f"mean only, n = {n}", report)


if __name__ == "__main__":
    main()
