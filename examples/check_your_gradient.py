"""Is a gradient derived by hand right? Three from exercise sheets, two of which are wrong.

Run: python examples/check_your_gradient.py
"""

import numpy as np
from fastconv import functional as F
from fastconv.testing import gradcheck

rng = np.random.default_rng(0)

print("tanh, as a sheet has it: (1 - tanh z)^2")
print(gradcheck(np.tanh, lambda grad, z: grad * (1 - np.tanh(z)) ** 2, rng.standard_normal(5)))

print("\ntanh, right: 1 - tanh^2 z")
print(gradcheck(np.tanh, lambda grad, z: grad * (1 - np.tanh(z) ** 2), rng.standard_normal(5)))


def pooled(x):
    """Average pooling, two wide, step one."""
    return F.avg_pool1d(x, 2, 1)


print("\naverage pooling, 'whose derivative is zero because it has no weights'")
print(gradcheck(pooled, lambda grad, x: np.zeros_like(x), rng.standard_normal((1, 2, 4))))

print("\naverage pooling, right: each gradient is spread over its window")
print(gradcheck(pooled, lambda grad, x: F.avg_pool1d_backward(grad, x.shape, 2, 1), rng.standard_normal((1, 2, 4))))
