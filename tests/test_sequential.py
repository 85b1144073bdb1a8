"""Chains of layers: a whole network against PyTorch, the joined dicts, modes, copies, and what they refuse."""

import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from layer_judge import assert_same
from shapes import normal

from fastconv import nn


def network_n1(module, **options):
    """Network N1 of the homework, with a batch normalisation per block."""
    layers, channels = [], [3, 32, 64, 128, 128, 256, 256]
    for index, (before, after) in enumerate(pairwise(channels)):
        layers += [module.Conv2d(before, after, 3, padding=1, **options), module.ReLU()]
        if index % 2:
            layers += [module.MaxPool2d(2), module.BatchNorm2d(after, **options)]
    sizes = [4096, 1024, 512, 10]
    layers += [module.Flatten(), module.Linear(4096, 1024, **options)]
    for before, after in pairwise(sizes[1:]):
        layers += [module.ReLU(), module.Linear(before, after, **options)]
    return module.Sequential(*layers)


def test_network_n1_against_torch(rng):
    torch.manual_seed(0)
    theirs = network_n1(torch.nn, dtype=torch.float64)
    ours = network_n1(nn, dtype=np.float64)
    ours.load_state_dict(theirs.state_dict())
    assert_same(ours, theirs, normal(rng, (2, 3, 32, 32), np.float64), rng)


def chain():
    inner = nn.Sequential(nn.Linear(4, 5, dtype=np.float64, seed=1), nn.Tanh())
    return nn.Sequential(
        nn.Flatten(), inner, nn.BatchNorm1d(5, dtype=np.float64), nn.Linear(5, 2, dtype=np.float64, seed=2)
    )


def test_chain_shows_the_very_arrays_of_its_layers(rng):
    net = chain()
    assert list(net.params) == ["1.0.weight", "1.0.bias", "2.weight", "2.bias", "3.weight", "3.bias"]
    assert len(net.params) == 6 and len(net.grads) == 0
    assert list(net.buffers) == ["2.running_mean", "2.running_var", "2.num_batches_tracked"]
    assert net.params["1.0.weight"] is net[1][0].params["weight"]
    net.backward(np.ones_like(net(normal(rng, (3, 2, 2), np.float64))))
    assert list(net.grads) == list(net.params)
    assert net.grads["3.bias"] is net[3].grads["bias"]
    replacement = np.ones((2, 5))
    net.params["3.weight"] = replacement
    assert net[3].params["weight"] is replacement
    del net.grads["1.0.bias"]
    assert list(net[1][0].grads) == ["weight"] and "1.0.bias" not in net.grads
    for missing in ("weight", "9.weight", "x.weight", "-1.weight", "00.weight", "3.wieght", "0.weight"):
        assert missing not in net.params


def evaluating_net(**seed):
    block = nn.Residual({"conv": nn.Conv2d(4, 4, 3, padding=1, **seed), "norm": nn.BatchNorm2d(4)}, downsample=nn.Conv2d(4, 4, 1, **seed))
    return nn.Sequential(nn.Conv2d(2, 4, 3, **seed), nn.ReLU(), nn.Sequential(block, nn.ReLU()), nn.Dropout(0.5, seed=1),
                         nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3, **seed))


@pytest.mark.parametrize("of", ["the chain", "a part of it"])
def test_backward_after_evaluation_applies_the_layers_again(of, rng):
    """A chain that evaluates keeps its input only; a layer in training mode anywhere in it, and it keeps what each layer did."""
    net, x = evaluating_net(seed=0), normal(rng, (3, 2, 4, 4), np.float32)
    net(x)    # other running statistics than the first ones, and leftovers of a pass that must not come back
    twin = copy.deepcopy(net)
    (net if of == "the chain" else net[2]).eval()
    twin.eval()
    for layer in twin._all_layers():    # chains that keep everything
        layer.training = isinstance(layer, nn.Sequential)
    if of == "a part of it":
        net[3].eval()
        net[4].train()
    y, expected = net(x), twin(x)
    np.testing.assert_array_equal(y, expected)
    assert net[2][0]["conv"]._saved is None and (net[0]._saved is None) == (of == "the chain")
    g = normal(rng, y.shape, np.float32)
    net.train()    # as a validation step between a forward and its backward pass might
    np.testing.assert_array_equal(net.backward(g), twin.backward(g))
    assert all(layer.training for layer in net._all_layers())
    for name, gradient in twin.grads.items():
        np.testing.assert_array_equal(net.grads[name], gradient, err_msg=name)


def test_what_evaluation_kept_is_not_pickled_nor_needed(rng):
    net = evaluating_net(seed=0).eval()
    x = normal(rng, (3, 2, 4, 4), np.float32)
    y = net(x)
    again = pickle.loads(pickle.dumps(net))
    with pytest.raises(RuntimeError, match="before forward"):
        again.backward(y)
    np.testing.assert_array_equal(again(x), y)
    with pytest.raises(RuntimeError, match="before forward"):
        net[0].backward(y)    # alone, it has nothing
    assert [row.output_size for row in nn.summary(net, (2, 4, 4)).rows][-2:] == [(4,), (3,)]


def test_chain_modes_and_sequence():
    net = chain()
    assert net.eval() is net and not net.training and not any(layer.training for layer in (*net, net[1][1]))
    assert net.train() is net and all(layer.training for layer in (*net, net[1][1]))
    assert len(net) == 4 and net[-1] is net.layers[3] and isinstance(net[1:3], nn.Sequential)
    assert net[1:3][0] is net[1]
    assert repr(net).splitlines()[:3] == ["Sequential(", "  (0): Flatten()", "  (1): Sequential("]
    assert "    (0): Linear(in_features=4, out_features=5, dtype=dtype('float64'))" in repr(net).splitlines()


def test_chain_stops_before_layers_without_parameters(rng):
    net = chain()
    x = normal(rng, (3, 2, 2), np.float64)
    grad_output = np.ones_like(net(x))
    net.backward(grad_output)
    expected = dict(net.grads)
    for layer in (net[1][0], net[2], net[3]):
        layer.grads.clear()
    net[0]._output = None  # Flatten must not be asked at all
    assert net.backward(grad_output, input_gradient=False) is None
    assert list(net.grads) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(net.grads[name], expected[name])
    only_activations = nn.Sequential(nn.ReLU(), nn.Tanh())
    only_activations(x)
    assert only_activations.backward(x, input_gradient=False) is None


def test_empty_chain_is_the_identity():
    net, x = nn.Sequential(), np.ones(3)
    assert net(x) is x and net.backward(x) is x and repr(net) == "Sequential()" and not net.params


def test_chain_refuses_a_layer_that_is_there_twice():
    relu = nn.ReLU()
    with pytest.raises(ValueError, match=r"layers 0 and 2\.1 of Sequential are the same ReLU object"):
        nn.Sequential(relu, nn.Tanh(), nn.Sequential(nn.Tanh(), relu))


def test_chain_backward_before_forward():
    with pytest.raises(RuntimeError, match=r"Linear\.backward was called before forward"):
        chain().backward(np.zeros((3, 2)))


def test_chain_survives_pickle_and_copy(rng):
    net = chain()
    x = normal(rng, (3, 2, 2), np.float64)
    y = net(x)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert twin.params["1.0.weight"] is twin[1][0].params["weight"]
        np.testing.assert_array_equal(twin(x), y)
        twin.params["3.bias"][...] = 0
        twin.params["3.weight"] = np.zeros((2, 5))
        np.testing.assert_array_equal(twin(x), np.zeros((3, 2)))
    np.testing.assert_array_equal(net(x), y)


def test_convolutions_limit_their_outputs_for_what_follows(rng):
    """The bits of the layers one by one, which do not know of each other; a derived activation is called as it is."""
    class Shifted(nn.ReLU):
        def _forward(self, x):
            return np.maximum(x, -1), x

    def layers():
        return [nn.Conv2d(3, 8, 3, seed=0), nn.ReLU6(), nn.Conv2d(8, 8, 1, seed=1), Shifted(), nn.ConvTranspose2d(8, 4, 2, seed=2),
                nn.ReLU(), nn.Residual(nn.Conv2d(4, 4, 3, padding=1, seed=3)), nn.ReLU(), nn.Flatten(), nn.Linear(1764, 20, seed=4),
                nn.ReLU6(), nn.Linear(20, 5, bias=False, seed=5), nn.ReLU()]

    x = normal(rng, (80, 3, 22, 22), np.float32)
    for images in (x[:2], x):    # few and many rows of the dense layers
        net, y = nn.Sequential(*layers()), images
        for layer in layers():
            y = layer(y)
        np.testing.assert_array_equal(net(images), y)
        assert (net[2].forward(net[1](net[0](images))) < -1).any()    # limits do not outlast the chain's call


def test_activations_overwrite_only_what_nobody_else_has(rng):
    """Behind a convolution or a batch normalisation ReLU works in place; the caller's arrays, and what layers need for their
    gradients, stay. So a chain gives the very bits of its layers called one by one."""
    def layers():
        return [nn.ReLU(), nn.Conv2d(2, 4, 3, padding=1, seed=0), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU6(), nn.ReLU(),
                nn.Residual(nn.Conv2d(4, 4, 1, seed=1)), nn.ReLU(), nn.Residual(nn.ReLU()), nn.Residual(), nn.ReLU()]

    x = normal(rng, (3, 2, 8, 8), np.float32)
    before, net, alone = x.copy(), nn.Sequential(*layers()), layers()
    y, expected, seen = net(x), x, []
    for layer in alone:
        expected = layer(expected)
        seen.append((expected, expected.copy()))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(x, before)
    for array, copied in seen:    # called one by one, no layer writes over another's output
        np.testing.assert_array_equal(array, copied)
    g = np.ones_like(y)
    grad_input, expected = net.backward(g), g
    for layer in reversed(alone):
        expected = layer.backward(expected)
    np.testing.assert_array_equal(grad_input, expected)
    for name, grad in net.grads.items():
        index, _, rest = name.partition(".")
        np.testing.assert_array_equal(grad, alone[int(index)].grads[rest])
    assert not any(layer._may_overwrite for layer in net)
