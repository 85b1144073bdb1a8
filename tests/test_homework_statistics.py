"""Worked homework, E14 and E15: batch normalisation, softmax with cross-entropy, and their derivatives."""

import numpy as np
import pytest
import torch
from fastconv import nn
from fastconv.testing import gradcheck
from reference import assert_close

# ---- E14 ----------------------------------------------------------------------------------------

PIXELS = (0, 2, 3)    # all axes of (N, C, H, W) but the channels


def per_channel(a):
    return a[:, None, None]


def batch_norm(x, gamma, beta, eps=1e-5):
    """y = gamma xhat + beta, xhat = (x - mu_c) / sqrt(var_c + eps)"""
    mu, var = x.mean(PIXELS, keepdims=True), x.var(PIXELS, keepdims=True)
    return per_channel(gamma) * (x - mu) / np.sqrt(var + eps) + per_channel(beta)


def batch_norm_backward(g, x, gamma, beta, eps=1e-5):
    """With m = N H W values per channel and ghat = gamma g, mean and variance take their share of the gradient away:

    dL/dx = (ghat - mean(ghat) - xhat mean(ghat xhat)) / sqrt(var + eps),  dL/dgamma = sum g xhat,  dL/dbeta = sum g.
    """
    mu, var = x.mean(PIXELS, keepdims=True), x.var(PIXELS, keepdims=True)
    xhat = (x - mu) / np.sqrt(var + eps)
    ghat = per_channel(gamma) * g
    grad_x = ghat - ghat.mean(PIXELS, keepdims=True) - xhat * (ghat * xhat).mean(PIXELS, keepdims=True)
    return grad_x / np.sqrt(var + eps), (g * xhat).sum(PIXELS), g.sum(PIXELS)


@pytest.fixture
def batch(rng):
    """Input, gamma and beta: 3 images of 2 channels, 4 x 5, one channel with little variance."""
    x = rng.standard_normal((3, 2, 4, 5)) * per_channel(np.array([1.0, 0.05])) + per_channel(np.array([0.5, -2.0]))
    return x, np.array([1.5, -0.75]), np.array([0.25, 1.0])


def layer_of(gamma, beta):
    layer = nn.BatchNorm2d(2, dtype=np.float64)
    layer.params["weight"][...], layer.params["bias"][...] = gamma, beta
    return layer


def test_e14_forward_and_backward(batch, rng):
    x, gamma, beta = batch
    g = rng.standard_normal(x.shape)
    layer = layer_of(gamma, beta)
    assert_close(layer(x), batch_norm(*batch))
    grad_x, grad_gamma, grad_beta = batch_norm_backward(g, *batch)
    assert_close(layer.backward(g), grad_x)
    assert_close(layer.grads["weight"], grad_gamma)
    assert_close(layer.grads["bias"], grad_beta)

    leaves = [torch.tensor(a, requires_grad=True) for a in batch]
    y = torch.nn.functional.batch_norm(leaves[0], None, None, leaves[1], leaves[2], training=True)
    y.backward(torch.tensor(g))
    assert_close(batch_norm(*batch), y.detach().numpy())
    for by_hand, leaf in zip((grad_x, grad_gamma, grad_beta), leaves, strict=True):
        assert_close(by_hand, leaf.grad.numpy())

    # The output has mean beta and variance gamma^2 var/(var + eps), whatever came in.
    assert_close(layer(x).mean(PIXELS), beta)
    assert_close(layer(x).var(PIXELS), gamma**2 * x.var(PIXELS) / (x.var(PIXELS) + 1e-5))
    report = gradcheck(batch_norm, batch_norm_backward, *batch)
    assert report, report
    assert gradcheck(layer, None, x)


def test_e14_erratum_minus_eps(batch):
    """The sheet has sqrt(var - eps), which is no number where a channel hardly varies and wrong everywhere else.

    For var = 1 it is off by a factor of 1 + 1e-5, for the channel with var = 0.0025 by 1.004; the checker sees both.
    """
    x, gamma, beta = batch
    report = gradcheck(layer_of(gamma, beta), lambda g, x: batch_norm_backward(g, x, gamma, beta, eps=-1e-5)[0], x)
    assert not report
    assert report.worst.index[1] == 1    # the channel of little variance is the worst
    assert report.worst.got / report.worst.expected == pytest.approx(1.004, rel=1e-3)
    assert report.worst.wrong > 0.9 * x.size
    with np.errstate(invalid="ignore"):
        flat = np.full((1, 1, 2, 2), 3.0)
        assert np.isnan(batch_norm(flat, np.ones(1), np.zeros(1), eps=-1e-5)).all()
    assert np.array_equal(batch_norm(flat, np.ones(1), np.zeros(1)), np.zeros_like(flat))


def test_e14_mean_only(rng):
    """y_i = gamma (x_i - mean x) + beta. As d mean/dx_i = 1/n for every output, dL/dx_i = gamma (g_i - mean g).

    For n = 1 the output is beta whatever x is, and the gradient is zero. As n grows the mean of a gradient that sits on
    one element vanishes like 1/n, and what is left is gamma g: the identity, scaled.
    """
    gamma, beta = 1.5, 0.25

    def forward(x):
        return gamma * (x - x.mean()) + beta

    def backward(g, x):
        return gamma * (g - g.mean())

    for n in (1, 2, 7):
        assert gradcheck(forward, backward, rng.standard_normal(n))
    assert np.array_equal(backward(np.array([3.0]), np.array([5.0])), [0])
    for n in (10, 1000):
        g = np.zeros(n)
        g[0] = 1
        np.testing.assert_allclose(backward(g, g), gamma * (g - 1 / n), rtol=1e-14)

    x = torch.tensor(rng.standard_normal(7), requires_grad=True)
    g = rng.standard_normal(7)
    (gamma * (x - x.mean()) + beta).backward(torch.tensor(g))
    assert_close(backward(g, None), x.grad.numpy())
    # Forgetting that the mean depends on every x leaves the mean's share in.
    report = gradcheck(forward, lambda g, x: gamma * g, rng.standard_normal(7))
    assert not report and report.worst.wrong == 7


# ---- E15 ----------------------------------------------------------------------------------------


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def cross_entropy(z, target):
    return -np.log(softmax(z)[target])


def hessian_by_hand(z):
    p = softmax(z)
    return np.diag(p) - np.outer(p, p)


Z = np.array([0.5, -1.0, 2.0, 0.0, 1.25])


@pytest.mark.parametrize("target", range(5))
def test_e15_gradient_of_cross_entropy(target):
    """L = -log p_t = log sum_j exp z_j - z_t, so dL/dz_i = exp z_i / sum_j exp z_j - [i = t] = p - y."""
    y = np.eye(5)[target]
    criterion = nn.CrossEntropyLoss()
    loss = criterion(Z[None], np.array([target]))
    assert loss == pytest.approx(cross_entropy(Z, target), rel=1e-14)
    assert_close(criterion.backward()[0], softmax(Z) - y)
    leaf = torch.tensor(Z, requires_grad=True)
    torch.nn.functional.cross_entropy(leaf, torch.tensor(target)).backward()
    assert_close(criterion.backward()[0], leaf.grad.numpy())
    assert gradcheck(cross_entropy, lambda g, z, target: softmax(z) - y, Z, target)
    assert gradcheck(criterion, None, Z[None], np.array([target]))
    # y - p, the other way round, is the commonest slip.
    report = gradcheck(cross_entropy, lambda g, z, target: y - softmax(z), Z, target)
    assert not report and report.worst.wrong == 5


def test_e15_by_two_layers():
    """Log-softmax and negative log-likelihood are the same loss in two steps, and softmax alone has the Jacobian
    diag(p) - p p^T, which times -y/p is p - y again."""
    layer, criterion = nn.LogSoftmax(1), nn.NLLLoss()
    assert criterion(layer(Z[None]), np.array([2])) == pytest.approx(cross_entropy(Z, 2), rel=1e-14)
    assert_close(layer.backward(criterion.backward())[0], softmax(Z) - np.eye(5)[2])
    p = nn.Softmax(1)
    assert_close(p(Z[None])[0], softmax(Z))
    assert_close(p.backward(-np.eye(5)[2:3] / softmax(Z))[0], softmax(Z) - np.eye(5)[2], scale=1.0)


def test_e15_hessian():
    """d(p_i - y_i)/dz_j = p_i ([i = j] - p_j), so H = diag(p) - p p^T, whatever the target.

    v^T H v = sum p v^2 - (sum p v)^2 is the variance of v under p, so H is positive semidefinite, and zero exactly for
    constant v: adding a constant to all logits changes nothing.
    """
    hessian = hessian_by_hand(Z)
    # H is the Jacobian of the gradient, and symmetric, so it is also its own vector-Jacobian product.
    assert gradcheck(softmax, lambda g, z: hessian_by_hand(z) @ g, Z)
    expected = torch.autograd.functional.hessian(
        lambda z: torch.nn.functional.cross_entropy(z, torch.tensor(2)), torch.tensor(Z)
    )
    assert_close(hessian, expected.numpy())
    values = np.linalg.eigvalsh(hessian)
    assert abs(values[0]) < 1e-16 and np.all(values[1:] > 1e-3)
    np.testing.assert_allclose(hessian @ np.ones(5), 0, atol=1e-16)
    v = np.array([1.0, -2.0, 0.5, 3.0, 0.0])
    assert v @ hessian @ v == pytest.approx(softmax(Z) @ v**2 - (softmax(Z) @ v) ** 2, rel=1e-13)
    # diag(p (1 - p)), the formula for independent sigmoids, is right on the diagonal only.
    p = softmax(Z)
    assert not gradcheck(softmax, lambda g, z: p * (1 - p) * g, Z)
