"""State dicts: what they hold, the exchange with PyTorch in both directions, and what does not fit."""

import io

import numpy as np
import pytest
import torch
from reference import assert_close
from shapes import DTYPES, normal

from fastconv import nn


def network(module, **options):
    """A network with every kind of layer that has a state, chains in chains, and layers without one between them."""
    return module.Sequential(
        module.Conv2d(1, 4, 3, padding=1, **options),
        module.BatchNorm2d(4, **options),
        module.ReLU(),
        module.MaxPool2d(2),
        module.Sequential(
            module.ConvTranspose2d(4, 2, 2, stride=2, bias=False, **options), module.LeakyReLU(0.1), module.Flatten()
        ),
        module.LayerNorm(2 * 6 * 6, **options),
        module.Linear(2 * 6 * 6, 8, **options),
        module.BatchNorm1d(8, affine=False, **options),
        module.Linear(8, 3, bias=False, **options),
    )


def trained_torch_network():
    """PyTorch's, with running statistics that are not the initial ones."""
    torch.manual_seed(0)
    net = network(torch.nn, dtype=torch.float64)
    for _ in range(3):
        net(torch.randn(5, 1, 6, 6, dtype=torch.float64))
    return net


def other_values(state):
    """A state of the same form with different numbers."""
    rng = np.random.default_rng(5)
    return {name: rng.integers(1, 9, value.shape).astype(value.dtype) for name, value in state.items()}


def assert_states_equal(state, expected):
    assert list(state) == list(expected)
    for name, value in expected.items():
        assert state[name].dtype == np.asarray(value).dtype, name
        np.testing.assert_array_equal(state[name], np.asarray(value))


def test_names_order_shapes_and_dtypes_are_those_of_torch():
    ours, theirs = network(nn).state_dict(), network(torch.nn).state_dict()
    assert list(ours) == list(theirs)
    assert {n: v.shape for n, v in ours.items()} == {n: tuple(v.shape) for n, v in theirs.items()}
    assert {n: v.dtype for n, v in ours.items()} == {n: v.numpy().dtype for n, v in theirs.items()}
    assert all(type(value) is np.ndarray for value in ours.values())


def test_from_torch(rng):
    theirs, ours = trained_torch_network(), network(nn, dtype=np.float64)
    ours.load_state_dict(theirs.state_dict())
    assert_states_equal(ours.state_dict(), theirs.state_dict())
    x = normal(rng, (4, 1, 6, 6), np.float64)
    assert_close(ours.eval()(x), theirs.eval()(torch.tensor(x)).detach().numpy())
    assert not any(np.shares_memory(ours.params[name], p.detach().numpy()) for name, p in theirs.named_parameters())


def test_to_torch(rng):
    ours, theirs = network(nn, dtype=np.float64), network(torch.nn, dtype=torch.float64)
    x = normal(rng, (4, 1, 6, 6), np.float64)
    ours(x + 1)
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in ours.state_dict().items()})
    assert_states_equal(ours.state_dict(), theirs.state_dict())
    assert_close(ours.eval()(x), theirs.eval()(torch.tensor(x)).detach().numpy())


def test_parameters_that_require_gradients_are_taken():
    theirs = torch.nn.Linear(3, 2)
    ours = nn.Linear(3, 2)
    ours.load_state_dict(dict(theirs.named_parameters()))
    assert_states_equal(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_cast_to_the_layers_dtype(dtype):
    theirs, ours = trained_torch_network(), network(nn, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        got = ours.state_dict()[name]
        assert got.dtype == (dtype if name.split(".")[-1] != "num_batches_tracked" else np.int64)
        np.testing.assert_array_equal(got, value.numpy().astype(got.dtype))


def test_a_state_is_a_snapshot_and_loading_keeps_the_arrays(rng):
    net = network(nn, dtype=np.float64)
    state = net.state_dict()
    live = {**net.params, **net.buffers}
    frozen = {name: value.copy() for name, value in state.items()}
    net.load_state_dict(other_values(state))
    assert_states_equal(state, frozen)
    assert_states_equal(net.state_dict(), other_values(state))
    for name, array in {**net.params, **net.buffers}.items():
        assert array is live[name]  # an optimiser that holds it goes on working
    net(normal(rng, (4, 1, 6, 6), np.float64))
    assert net.buffers["1.num_batches_tracked"] == other_values(state)["1.num_batches_tracked"] + 1


def test_through_an_npz_file(rng):
    net, again = network(nn), network(nn)
    net(normal(rng, (4, 1, 6, 6), np.float32))
    file = io.BytesIO()
    np.savez(file, **net.state_dict())
    file.seek(0)
    with np.load(file) as stored:
        again.load_state_dict(stored)
    assert_states_equal(again.state_dict(), net.state_dict())


@pytest.mark.parametrize(
    "layer", [nn.SeparableConv2d(2, 3, 3), nn.CPConv1d(2, 3, 3, 2), nn.CPConv2d(2, 3, 3, 2)], ids=repr
)
def test_factored_layers(layer):
    assert list(layer.state_dict()) == list(layer.params)
    layer.load_state_dict(other_values(layer.state_dict()))
    assert_states_equal(layer.params, other_values(layer.state_dict()))


def test_layers_without_a_state():
    for layer in (nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.BatchNorm2d(3, affine=False, track_running_stats=False)):
        assert layer.state_dict() == {}
        layer.load_state_dict({})
        with pytest.raises(ValueError, match=r"unexpected keys \['weight'\]"):
            layer.load_state_dict({"weight": np.zeros(3)})


def test_everything_that_does_not_fit_is_named_and_nothing_is_loaded():
    net = network(nn)
    before = net.state_dict()
    state = other_values(before)
    del state["0.bias"], state["7.running_var"]
    state["9.weight"] = np.zeros(2)
    state["0.weight"] = np.zeros((4, 1, 5, 5))
    with pytest.raises(ValueError, match="state_dict") as error:
        net.load_state_dict(state)
    assert str(error.value) == (
        "state_dict does not fit Sequential: missing keys ['0.bias', '7.running_var']; unexpected keys ['9.weight']; "
        "'0.weight' has shape (4, 1, 5, 5), expected (4, 1, 3, 3)"
    )
    assert_states_equal(net.state_dict(), before)


def test_not_strict_ignores_keys_but_not_shapes():
    net = network(nn)
    before = net.state_dict()
    net.load_state_dict({"0.bias": np.arange(4), "head.weight": np.zeros(3)}, strict=False)
    assert_states_equal(net.state_dict(), {**before, "0.bias": np.arange(4, dtype=np.float32)})
    with pytest.raises(ValueError, match=r"'0\.bias' has shape \(1,\), expected \(4,\)"):
        net.load_state_dict({"0.bias": np.zeros(1)}, strict=False)


def test_dtypes_that_cannot_be_stored():
    layer = nn.BatchNorm1d(2)
    before = layer.state_dict()
    for name, wrong in (
        ("weight", np.ones(2, complex)),
        ("num_batches_tracked", np.ones(())),
        ("bias", np.array(["a", "b"])),
    ):
        with pytest.raises(TypeError, match=f"'{name}' has dtype .*, expected {before[name].dtype}"):
            layer.load_state_dict({**before, "running_mean": np.ones(2), name: wrong})
        assert_states_equal(layer.state_dict(), before)
