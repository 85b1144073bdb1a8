"""E15. Softmax with cross-entropy: the gradient is p - y, the Hessian diag(p) - p p^T.

    L = -log p_t = log sum_j exp z_j - z_t      dL/dz_i = exp z_i / sum_j exp z_j - [i = t] = p_i - y_i
    d2L/dz_i dz_j = p_i ([i = j] - p_j)         v^T H v = sum p v^2 - (sum p v)^2, the variance of v under p, is never negative
"""

import numpy as np
from fastconv import nn
from fastconv.testing import gradcheck
from show import compare, derivation, tensor, torch, verdict

Z, TARGET = np.array([0.5, -1.0, 2.0, 0.0]), 2


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def loss(z):
    return -np.log(softmax(z)[TARGET])


def main():
    derivation(__doc__)
    p, y = softmax(Z), np.eye(4)[TARGET]
    criterion = nn.CrossEntropyLoss()
    ours = criterion(Z[None], [TARGET])
    theirs = gradient = hessian = None
    if torch is not None:
        leaf, target = tensor(Z), torch.tensor(TARGET)
        theirs = torch.nn.functional.cross_entropy(leaf, target)
        theirs.backward()
        gradient = leaf.grad
        hessian = torch.autograd.functional.hessian(lambda z: torch.nn.functional.cross_entropy(z, target), torch.tensor(Z))
    compare("loss", hand=loss(Z), fastconv=ours, torch=theirs)
    compare("dL/dz", hand=p - y, fastconv=criterion.backward()[0], torch=gradient)
    # The Hessian is the Jacobian of softmax: fastconv's backward pass of it, for every unit vector.
    layer = nn.Softmax(1)
    layer(np.tile(Z, (4, 1)))
    compare("Hessian", hand=np.diag(p) - np.outer(p, p), fastconv=layer.backward(np.eye(4)), torch=hessian)
    print(f"Its eigenvalues: {np.linalg.eigvalsh(np.diag(p) - np.outer(p, p)).round(6)}\n")
    verdict("p - y", gradcheck(loss, lambda g, z: softmax(z) - y, Z))
    verdict("y - p (a slip, not the sheet's)", gradcheck(loss, lambda g, z: y - softmax(z), Z), erratum=True)


if __name__ == "__main__":
    main()
