"""Worked homework, E1 to E5: small networks by hand, by fastconv's layers, and by PyTorch.

Each test states the derivation and then holds three computations to one another: the sheet's numbers, fastconv, and
autograd. Where a sheet is wrong (an *erratum*), the gradient checker shows it and names the element.
"""

import numpy as np
import pytest
import torch
from fastconv import conv2d, conv2d_backward, nn, optim
from fastconv.testing import gradcheck
from reference import assert_close


def layer_with(layer, weight, bias=None):
    """The layer with these parameters."""
    layer.load_state_dict({"weight": np.asarray(weight)} | ({} if bias is None else {"bias": np.asarray(bias)}))
    return layer


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


# ---- E1 -----------------------------------------------------------------------------------------


class Network321:
    """3 inputs, a tanh and a leaky ReLU unit, 1 output; `params` holds W1 ... W8 as the matrices of two Linear layers.

    z1 = W1 x1 + W3 x2 + W5 x3     h1 = tanh(z1)           o = W7 h1 + W8 h2
    z2 = W2 x1 + W4 x2 + W6 x3     h2 = LeakyReLU(z2)      p = sigmoid(o)
    """

    def __init__(self, weights):
        w = np.asarray(weights, np.float64)
        self.hidden = layer_with(nn.Linear(3, 2, bias=False, dtype=np.float64), w[:6].reshape(3, 2).T)
        self.out = layer_with(nn.Linear(2, 1, bias=False, dtype=np.float64), w[None, 6:])
        self.tanh, self.leaky = nn.Tanh(), nn.LeakyReLU(0.2)
        self.params = {"hidden": self.hidden.params["weight"], "out": self.out.params["weight"]}

    def forward(self, x):
        z = self.hidden(x[None])
        h = np.concatenate([self.tanh(z[:, :1]), self.leaky(z[:, 1:])], axis=1)
        return self.out(h)[0, 0]

    def backward(self, grad_o):
        grad_h = self.out.backward(np.array([[grad_o]]))
        grad_z = np.concatenate([self.tanh.backward(grad_h[:, :1]), self.leaky.backward(grad_h[:, 1:])], axis=1)
        grad_x = self.hidden.backward(grad_z)[0]
        self.grads = {"hidden": self.hidden.grads["weight"], "out": self.out.grads["weight"]}
        return grad_x

    @property
    def weights(self):
        return np.concatenate([self.params["hidden"].T.ravel(), self.params["out"].ravel()])

    @property
    def weight_gradients(self):
        return np.concatenate([self.grads["hidden"].T.ravel(), self.grads["out"].ravel()])


WEIGHTS = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, -0.4])
X, Y = np.array([1.5, 1.0, 1.0]), 0.0


def cross_entropy_of(w, x):
    """The whole network and its loss as one formula of W1 ... W8."""
    z1, z2 = w[0:6:2] @ x, w[1:6:2] @ x
    p = sigmoid(w[6] * np.tanh(z1) + w[7] * np.where(z2 > 0, z2, 0.2 * z2))
    return -np.log(1 - p)     # y = 0


def gradient_by_hand(w, x, tanh_slope):
    """dL/do = p - y, and from there by the chain rule; `tanh_slope` is the derivative of tanh that is used."""
    z1, z2 = w[0:6:2] @ x, w[1:6:2] @ x
    h1, h2 = np.tanh(z1), np.where(z2 > 0, z2, 0.2 * z2)
    grad_o = sigmoid(w[6] * h1 + w[7] * h2) - Y
    grad_z1 = grad_o * w[6] * tanh_slope(z1)
    grad_z2 = grad_o * w[7] * np.where(z2 > 0, 1, 0.2)
    gradient = np.empty(8)
    gradient[0:6:2], gradient[1:6:2] = grad_z1 * x, grad_z2 * x
    gradient[6:] = grad_o * h1, grad_o * h2
    return gradient


def right_slope(z):
    return 1 - np.tanh(z) ** 2


def sheet_slope(z):
    return (1 - np.tanh(z)) ** 2


def autograd_e1(weights):
    """The network in PyTorch, with its gradients filled in."""
    hidden = torch.tensor(weights[:6].reshape(3, 2).T.copy(), requires_grad=True)
    out = torch.tensor(weights[None, 6:], requires_grad=True)
    z = hidden @ torch.tensor(X)
    h = torch.stack([torch.tanh(z[0]), torch.nn.functional.leaky_relu(z[1], 0.2)])
    loss = torch.nn.functional.binary_cross_entropy(torch.sigmoid(out @ h), torch.tensor([Y], dtype=torch.float64))
    loss.backward()
    return hidden, out, loss


def test_e1_forward_and_backward():
    """z1 = 0.9*1.5 + 0.7 + 0.5 = 2.55, z2 = 0.8*1.5 + 0.6 + 0.4 = 2.2, o = 0.3 tanh(2.55) - 0.4*2.2, dL/do = p."""
    net = Network321(WEIGHTS)
    o = net.forward(X)
    assert o == pytest.approx(0.3 * np.tanh(2.55) - 0.88, abs=1e-15)
    grad_x = net.backward(sigmoid(o) - Y)
    assert_close(net.weight_gradients, gradient_by_hand(WEIGHTS, X, right_slope))
    hidden, out, loss = autograd_e1(WEIGHTS)
    assert cross_entropy_of(WEIGHTS, X) == pytest.approx(loss.item(), rel=1e-14)
    assert_close(net.grads["hidden"], hidden.grad.numpy())
    assert_close(net.grads["out"], out.grad.numpy())
    assert gradcheck(lambda x: cross_entropy_of(WEIGHTS, x), lambda g, x: g * grad_x, X)


def test_e1_erratum_derivative_of_tanh():
    """The sheet takes (1 - tanh z)^2 for 1 - tanh^2 z. Only W1, W3, W5 are behind tanh, so only they come out wrong."""
    assert gradcheck(cross_entropy_of, lambda g, w, x: (gradient_by_hand(w, x, right_slope), None), WEIGHTS, X)
    report = gradcheck(cross_entropy_of, lambda g, w, x: (gradient_by_hand(w, x, sheet_slope), None), WEIGHTS, X)
    assert not report
    assert (report.worst.name, report.worst.index, report.worst.wrong) == ("w", (0,), 3)
    # (1 - t)^2 instead of (1 - t)(1 + t): the ratio is (1 - t)/(1 + t) = exp(-2 z1).
    assert report.worst.got / report.worst.expected == pytest.approx(np.exp(-2 * 2.55), rel=1e-5)
    # On tanh alone, with the verdict as a student sees it:
    verdict = str(gradcheck(np.tanh, lambda g, z: g * sheet_slope(z), np.array([2.55])))
    assert verdict.startswith("gradcheck: FAILED, 1 of 1 gradients wrong")
    assert "[0]" in verdict and verdict.endswith("WRONG")


def test_e1_one_step_of_sgd():
    """w <- w - lr g"""
    net = Network321(WEIGHTS)
    net.backward(sigmoid(net.forward(X)) - Y)
    optim.SGD(net, lr=0.1).step()
    assert_close(net.weights, WEIGHTS - 0.1 * gradient_by_hand(WEIGHTS, X, right_slope))
    hidden, out, _ = autograd_e1(WEIGHTS)
    torch.optim.SGD([hidden, out], lr=0.1).step()
    assert_close(net.params["hidden"], hidden.detach().numpy())
    assert_close(net.params["out"], out.detach().numpy())
    assert cross_entropy_of(net.weights, X) < cross_entropy_of(WEIGHTS, X)


def test_e1_first_step_of_adam_and_the_sheets_missing_root():
    """At the first step the bias corrections give mhat = g and vhat = g^2, so the step is lr g / (sqrt(g^2) + eps).

    Erratum: the sheet divides by vhat itself. That step would be lr / g: the smaller the gradient, the larger the step.
    """
    net = Network321(WEIGHTS)
    net.backward(sigmoid(net.forward(X)) - Y)
    g = net.weight_gradients
    optim.Adam(net, lr=0.1, eps=1e-8).step()
    assert_close(net.weights, WEIGHTS - 0.1 * g / (np.abs(g) + 1e-8))
    hidden, out, _ = autograd_e1(WEIGHTS)
    torch.optim.Adam([hidden, out], lr=0.1, eps=1e-8).step()
    assert_close(net.params["hidden"], hidden.detach().numpy())
    assert_close(net.params["out"], out.detach().numpy())
    step, sheet_step = np.abs(WEIGHTS - net.weights), np.abs(0.1 * g / (g**2 + 1e-8))
    assert np.allclose(step, 0.1, rtol=1e-5)
    assert sheet_step.max() > 10 * step.max() and np.argmax(sheet_step) == np.argmin(np.abs(g))


# ---- E2 -----------------------------------------------------------------------------------------


def network_of_1x1_convolutions():
    """z = w5 h1 + w6 h2 with h1 = w1 i1 + w2 i2, h2 = w3 i1 + w4 i2: a pixel of two channels through two 1x1 layers."""
    return nn.Sequential(
        layer_with(nn.Conv2d(2, 2, 1, bias=False, dtype=np.float64), np.reshape([0.1, 0.2, 0.3, 0.4], (2, 2, 1, 1))),
        layer_with(nn.Conv2d(2, 1, 1, bias=False, dtype=np.float64), np.reshape([0.5, 0.6], (1, 2, 1, 1))),
        nn.Sigmoid(),
    )


def flat(arrays):
    return np.concatenate([a.ravel() for a in arrays.values()])


def test_e2_two_epochs():
    """L = (y - a)^2, dL/dz = -2 (y - a) a (1 - a), dL/dw5 = dL/dz h1, dL/dw1 = dL/dz w5 i1, and so on.

    The sheet rounds a = 0.91606 to 0.916 in epoch 1, an error of 6e-5 in 1 - a = 0.084, or 0.07 %; twice that in L and
    dL/dz, where 1 - a is squared. With learning rate 0.1 and |dw| <= 0.0388 it moves the weights by less than 6e-6. The
    same arithmetic with the sheet's rounding gives the sheet's digits exactly.
    """
    i, y, lr = np.array([3.0, 5.0]).reshape(1, 2, 1, 1), 1.0, 0.1

    # The sheet's own arithmetic.
    a, dz = 0.916, -0.01292
    assert -2 * (y - a) * a * (1 - a) == pytest.approx(dz, abs=1e-5)    # -0.0129265, cut off
    h1, h2 = 3 * 0.1 + 5 * 0.2, 3 * 0.3 + 5 * 0.4
    sheet = np.array([-0.01938, -0.0323, -0.023256, -0.03876, -0.016796, -0.037468])
    np.testing.assert_allclose(dz * np.array([1.5, 2.5, 1.8, 3.0, h1, h2]), sheet, atol=1e-9)
    sheet_weights = np.array([0.101938, 0.20323, 0.3023256, 0.403876, 0.5016796, 0.6037468])
    np.testing.assert_allclose(np.arange(1, 7) / 10 - lr * sheet, sheet_weights, atol=1e-12)

    # Epoch 1 without rounding.
    net = network_of_1x1_convolutions()
    optimizer = optim.SGD(net, lr=lr)
    a = net(i)
    assert float(a.squeeze()) == pytest.approx(0.916, abs=1e-4)
    assert float((y - a).squeeze() ** 2) == pytest.approx(0.00705, rel=2e-3)
    net.backward(-2 * (y - a))
    np.testing.assert_allclose(flat(net.grads), sheet, rtol=1.5e-3)
    optimizer.step()
    np.testing.assert_allclose(flat(net.params), sheet_weights, atol=6e-6)

    # Epoch 2, from the sheet's weights; its numbers have six or seven digits.
    net.load_state_dict({name: part.reshape(net.params[name].shape)
                         for name, part in zip(net.params, np.split(sheet_weights, [4]), strict=True)})
    z = net[:2](i)
    assert float(z.squeeze()) == pytest.approx(2.429981, abs=1e-6)
    a = net(i)
    assert float(a.squeeze()) == pytest.approx(0.919085, abs=1e-6)
    assert float((y - a).squeeze() ** 2) == pytest.approx(0.0065472, abs=3e-7)
    net.backward(-2 * (y - a))
    optimizer.step()
    after = [0.1037493, 0.2062488, 0.3045054, 0.4075090, 0.5032706, 0.6072687]
    np.testing.assert_allclose(flat(net.params), after, atol=2e-6)
    a = net(i)
    assert float(a.squeeze()) == pytest.approx(0.921847, abs=1e-6)
    assert float((y - a).squeeze() ** 2) == pytest.approx(0.0061079, abs=3e-7)


def test_e2_against_autograd_and_numerically():
    i = np.array([3.0, 5.0]).reshape(1, 2, 1, 1)
    net = network_of_1x1_convolutions()
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 2, 1, bias=False), torch.nn.Conv2d(2, 1, 1, bias=False), torch.nn.Sigmoid()
    ).double()
    model.load_state_dict({name: torch.tensor(w) for name, w in net.state_dict().items()})
    torch_sgd, sgd = torch.optim.SGD(model.parameters(), lr=0.1), optim.SGD(net, lr=0.1)
    for _ in range(5):
        torch_sgd.zero_grad()
        ((1 - model(torch.tensor(i))) ** 2).sum().backward()
        net.backward(-2 * (1 - net(i)))
        for name, parameter in model.named_parameters():
            assert_close(net.grads[name], parameter.grad.numpy())
        torch_sgd.step()
        sgd.step()
    for name, parameter in model.named_parameters():
        assert_close(net.params[name], parameter.detach().numpy())
    report = gradcheck(net, None, i)
    assert report, report


# ---- E3 -----------------------------------------------------------------------------------------

DATA_1 = np.array([[1.0, 2, -3, 2], [1, 2, -2, 1]])
DATA_2 = np.array([[4.0, 2, -2, 2], [3, 2, -7, 2]])
# The sheet gives no weights; these keep every number below short and have no ties in the maxima.
W_E3 = np.array([[[1.0, 1], [0, 1]]])
POOLS = {
    "average": (nn.AvgPool1d(2, stride=1), [-0.5, -1], 1.25, [[-2.5, -1.5], [4, 6.5]]),
    "maximum": (nn.MaxPool1d(2, stride=1), [3, 2], 13, [[22, 0], [-8, 4]]),
}


def squared_distance(net, data):
    """||out(Data2) - out(Data1)||^2, the two as a batch through the same weights, and its gradient by the outputs."""
    out = net(data)
    e = out[1] - out[0]
    return (e**2).sum(), e, np.stack([-2 * e, 2 * e])


@pytest.mark.parametrize(("pool", "difference", "loss", "gradient"), POOLS.values(), ids=POOLS)
def test_e3_gradient_through_pooling(pool, difference, loss, gradient):
    """Convolution c[t] = x0[t] + x0[t+1] + x1[t+1], so c(Data1) = 5 -3 0 and c(Data2) = 8 -7 2.

    Average: out = 1 -1.5 and 0.5 -2.5, e = -0.5 -1, L = 1.25. Each output is half of two windows:
        dL/dw[c,k] = sum_t e[t] (D[c,t+k] + D[c,t+k+1]), D = Data2 - Data1 = [3 0 1 0; 2 0 -5 1]
        = [-0.5*3 - 1*1, -0.5*1 - 1*1; -0.5*2 + 1*5, 0.5*5 + 1*4] = [-2.5 -1.5; 4 6.5].
    Maximum: out = 5 0 and 8 2, e = 3 2, L = 13. The maxima are at t = 0 and t = 2 in both; the gradient goes there:
        dL/dw[c,k] = 2*3 D[c,k] + 2*2 D[c,2+k] = 6 [3 0; 2 0] + 4 [1 0; -5 1] = [22 0; -8 4].
    The bias cancels in the difference: its gradient is 0.
    """
    data = np.stack([DATA_1, DATA_2])
    net = nn.Sequential(layer_with(nn.Conv1d(2, 1, 2, dtype=np.float64), W_E3, [0.25]), pool)
    value, e, grad_out = squared_distance(net, data)
    np.testing.assert_allclose(e.ravel(), difference, rtol=1e-14)
    assert value == pytest.approx(loss, rel=1e-14)
    net.backward(grad_out)
    np.testing.assert_allclose(net.grads["0.weight"][0], gradient, rtol=1e-14)
    np.testing.assert_allclose(net.grads["0.bias"], 0, atol=1e-14)
    report = gradcheck(net, None, data)
    assert report, report

    w = torch.tensor(W_E3, requires_grad=True)
    c = torch.nn.functional.conv1d(torch.tensor(data), w)
    torch_pool = torch.nn.functional.avg_pool1d if isinstance(pool, nn.AvgPool1d) else torch.nn.functional.max_pool1d
    out = torch_pool(c, 2, 1)
    ((out[1] - out[0]) ** 2).sum().backward()
    assert_close(net.grads["0.weight"], w.grad.numpy())

    optim.SGD(net, lr=0.01).step()
    assert_close(net.params["0.weight"], W_E3 - 0.01 * np.array([gradient]))
    assert squared_distance(net, data)[0] < loss


@pytest.mark.parametrize(("pool", "loss", "gradient"), [(p, v, g) for p, _, v, g in POOLS.values()], ids=POOLS)
def test_e3_erratum_pooling_has_a_derivative(pool, loss, gradient):
    """Erratum: "pooling has no weights, so its derivative is zero". Then nothing before it could ever learn."""
    data = np.stack([DATA_1, DATA_2])

    def loss_of(w):
        net = nn.Sequential(layer_with(nn.Conv1d(2, 1, 2, bias=False, dtype=np.float64), w), pool)
        return squared_distance(net, data)[0]

    def sheet(g, w):
        net = nn.Sequential(layer_with(nn.Conv1d(2, 1, 2, bias=False, dtype=np.float64), w), pool)
        derivative_of_pooling = 0 * pool.backward(squared_distance(net, data)[2])
        net[0].backward(derivative_of_pooling)
        return net.grads["0.weight"]

    report = gradcheck(loss_of, sheet, W_E3)
    largest = np.unravel_index(np.argmax(np.abs(gradient)), (2, 2))
    assert not report and report.worst.got == 0
    assert report.worst.index == (0, *largest)
    assert report.worst.expected == pytest.approx(np.array(gradient)[largest], rel=1e-8)
    assert report.worst.wrong == np.count_nonzero(gradient)


# ---- E4 -----------------------------------------------------------------------------------------


def test_e4_a_1x1_convolution_is_a_dense_layer_on_every_pixel(rng):
    """y[:, p] = W x[:, p] + b for every pixel p, so with pixels as rows Y = X W^T + b, and the gradients are those of
    that product: dX = dY W, dW = dY^T X, db = sum of dY over pixels."""
    x, g = rng.standard_normal((2, 5, 6, 7)), rng.standard_normal((2, 4, 6, 7))
    w, b = rng.standard_normal((4, 5)), rng.standard_normal(4)
    rows, grad_rows = (a.transpose(0, 2, 3, 1).reshape(-1, a.shape[1]) for a in (x, g))

    y = conv2d(x, w[:, :, None, None], b)
    assert_close(y.transpose(0, 2, 3, 1).reshape(-1, 4), rows @ w.T + b)
    grads = conv2d_backward(g, x, w[:, :, None, None])
    assert_close(grads.input.transpose(0, 2, 3, 1).reshape(-1, 5), grad_rows @ w)
    assert_close(grads.weight[:, :, 0, 0], grad_rows.T @ rows)
    assert_close(grads.bias, grad_rows.sum(axis=0))

    dense = layer_with(nn.Linear(5, 4, dtype=np.float64), w, b)
    convolution = layer_with(nn.Conv2d(5, 4, 1, dtype=np.float64), w[:, :, None, None], b)
    assert_close(dense(rows), convolution(x).transpose(0, 2, 3, 1).reshape(-1, 4))
    grad_x = convolution.backward(g)
    assert_close(dense.backward(grad_rows), grad_x.transpose(0, 2, 3, 1).reshape(-1, 5))
    assert_close(dense.grads["weight"], convolution.grads["weight"][:, :, 0, 0])
    assert_close(dense.grads["bias"], convolution.grads["bias"])


# ---- E5 -----------------------------------------------------------------------------------------

SUMMARY_E5 = """\
       layer       output size  parameters
       input     (3, 227, 227)
0   Conv2d      (96, 55, 55)       34944
1   MaxPool2d   (96, 27, 27)           0
2   Conv2d     (256, 27, 27)       24832
3   MaxPool2d  (256, 13, 13)           0
4   Conv2d     (384, 13, 13)      885120
5   Conv2d     (384, 13, 13)     1327488
6   Conv2d     (256, 13, 13)      884992
7   MaxPool2d    (256, 6, 6)           0
8   Flatten          (9216,)           0
9   Linear           (4096,)    37748736
10  Linear           (4096,)    16777216
11  Linear           (1000,)     4096000
    total                       61779328
"""


def network_e5(module):
    return module.Sequential(
        module.Conv2d(3, 96, 11, stride=4), module.MaxPool2d(3, stride=2),
        module.Conv2d(96, 256, 1), module.MaxPool2d(3, stride=2),
        module.Conv2d(256, 384, 3, padding=1), module.Conv2d(384, 384, 3, padding=1),
        module.Conv2d(384, 256, 3, padding=1), module.MaxPool2d(3, stride=2),
        module.Flatten(), module.Linear(9216, 4096, bias=False), module.Linear(4096, 4096, bias=False),
        module.Linear(4096, 1000, bias=False),
    )


def test_e5_model_summary(capsys):
    """Sizes (n + 2p - k)/s + 1: (227 - 11)/4 + 1 = 55, (55 - 3)/2 + 1 = 27, (27 - 3)/2 + 1 = 13, (13 - 3)/2 + 1 = 6.
    Parameters in*out*k*k + out: 3*96*121 + 96 = 34944, and so on; 256*6*6 = 9216 inputs to the first dense layer."""
    print(nn.summary(network_e5(nn), (3, 227, 227)))
    assert capsys.readouterr().out.split() == SUMMARY_E5.split()
    with torch.device("meta"):    # shapes without numbers
        sizes = [tuple(p.shape) for p in network_e5(torch.nn).parameters()]
    assert sum(int(np.prod(size)) for size in sizes) == 61779328
