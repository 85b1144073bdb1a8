"""Optimisers, step by step against `torch.optim`, and whole training runs against PyTorch's."""

import pickle

import numpy as np
import pytest
import torch
from reference import assert_close
from shapes import DTYPES, normal

from fastconv import nn, optim

STEPS = 20

SGD = [
    {},
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.3},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    {"lr": 0.1, "weight_decay": 0.05},
    {"lr": 0.1, "momentum": 0.8, "dampening": -0.5, "weight_decay": 0.05},
    {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.05, "nesterov": True},
    {"lr": 0.0, "momentum": 0.9},
]
ADAM = [
    {},
    {"lr": 0.1},
    {"lr": 0.1, "betas": (0.5, 0.7)},
    {"lr": 0.1, "betas": (0.0, 0.0)},
    {"lr": 0.1, "eps": 0.1},
    {"lr": 0.1, "weight_decay": 0.05},
    {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-3, "weight_decay": 0.05},
]
ADAGRAD = [
    {},
    {"lr": 0.1, "lr_decay": 0.3},
    {"lr": 0.1, "initial_accumulator_value": 0.5, "weight_decay": 0.05},
    {"lr": 0.1, "eps": 0.1},
]
RMSPROP = [
    {},
    {"lr": 0.1, "alpha": 0.5, "eps": 0.1},
    {"lr": 0.01, "momentum": 0.9},
    {"lr": 0.01, "centered": True, "alpha": 0.9, "eps": 1e-3},
    {"lr": 0.01, "centered": True, "momentum": 0.7, "weight_decay": 0.05, "eps": 1e-3},
]
ALL = {"SGD": SGD, "Adam": ADAM, "Adagrad": ADAGRAD, "RMSprop": RMSPROP}
OPTIMIZERS = [(name, options) for name, several in ALL.items() for options in several]


class Parameters:
    """The least that an optimiser needs: no layer at all."""

    def __init__(self, **params):
        self.params = params
        self.grads = {}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, options", OPTIMIZERS, ids=str)
def test_every_step_against_torch(name, options, dtype, rng):
    start = {"a": normal(rng, (3, 4), dtype), "b": normal(rng, (5,), dtype), "scalar": normal(rng, (), dtype)[...]}
    net = Parameters(**{key: np.array(value) for key, value in start.items()})
    theirs = {key: torch.tensor(value, dtype=torch.float64) for key, value in start.items()}
    optimizer = getattr(optim, name)(net, **options)
    judge = getattr(torch.optim, name)(theirs.values(), **options)
    arrays = dict(net.params)
    for _ in range(STEPS):
        for key, tensor in theirs.items():
            net.grads[key] = np.asarray(normal(rng, tensor.shape, np.float64), dtype)
            tensor.grad = torch.tensor(net.grads[key], dtype=torch.float64)
        optimizer.step()
        judge.step()
        for key, tensor in theirs.items():
            assert net.params[key] is arrays[key]  # updated in place
            assert net.params[key].dtype == dtype
            assert_close(net.params[key], tensor.numpy(), scale=max(1, tensor.abs().max().item()))


def test_the_learning_rate_may_change_on_the_way(rng):
    net = Parameters(a=normal(rng, (4,), np.float64))
    tensor = torch.tensor(net.params["a"])
    optimizer, judge = optim.SGD(net, lr=0.1, momentum=0.9), torch.optim.SGD([tensor], lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(judge, 0.9)
    for _ in range(STEPS):
        net.grads["a"] = normal(rng, (4,), np.float64)
        tensor.grad = torch.tensor(net.grads["a"])
        optimizer.step()
        judge.step()
        schedule.step()
        optimizer.lr *= 0.9
    assert_close(net.params["a"], tensor.numpy())


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_left_alone(name, rng):
    net = Parameters(a=normal(rng, (4,), np.float64))
    options = {"lr": 0.1, "weight_decay": 0.1, "l1": 0.1, **({"momentum": 0.9} if name == "SGD" else {})}
    optimizer = getattr(optim, name)(net, **options)
    net.grads["a"] = normal(rng, (4,), np.float64)
    net.grads["a"].flags.writeable = False
    for _ in range(3):
        optimizer.step()


def test_a_parameter_without_a_gradient_is_frozen(rng):
    net = nn.Sequential(nn.Linear(3, 4, seed=0), nn.ReLU(), nn.Linear(4, 2, seed=1))
    optimizer = optim.SGD(net, lr=0.1, momentum=0.9)
    before = net.state_dict()
    net.backward(np.ones_like(net(normal(rng, (5, 3), np.float32))))
    for key in ("0.weight", "0.bias"):
        del net.grads[key]
    optimizer.step()
    for key, value in net.state_dict().items():
        assert (value == before[key]).all() == key.startswith("0")


def test_an_optimiser_of_ones_own_walks_the_same_arrays(rng):
    """Plain NumPy on `net.params`, in place or by assignment, is as good as `optim.SGD`."""
    x = normal(rng, (5, 3), np.float64)

    def trained(update):
        net = nn.Sequential(
            nn.Linear(3, 4, dtype=np.float64, seed=0), nn.Sequential(nn.Tanh(), nn.BatchNorm1d(4, dtype=np.float64))
        )
        optimizer = optim.SGD(net, lr=0.1)
        for _ in range(3):
            y = net(x)
            net.backward(y - 1)
            update(net, optimizer)
        return net.state_dict()

    def step(net, optimizer):
        optimizer.step()

    def in_place(net, _):
        for key in net.params:
            net.params[key] -= 0.1 * net.grads[key]

    def assigned(net, _):
        for key in net.params:
            net.params[key] = net.params[key] - 0.1 * net.grads[key]

    expected = trained(step)
    for update in (in_place, assigned):
        for key, value in trained(update).items():
            np.testing.assert_array_equal(value, expected[key])


# ---- training ------------------------------------------------------------------------------------


def api_network(module, **options):
    """The network of the documentation's twelve lines."""
    return module.Sequential(
        module.Conv2d(1, 16, 3, padding=1, **options),
        module.ReLU(),
        module.MaxPool2d(2),
        module.Flatten(),
        module.Linear(16 * 14 * 14, 10, **options),
    )


def train(net, criterion, optimizer, x, target, steps):
    losses = []
    for _ in range(steps):
        losses.append(criterion(net(x), target))
        net.backward(criterion.backward(), input_gradient=False)
        optimizer.step()
    return losses


def train_torch(net, criterion, optimizer, x, target, steps):
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = criterion(net(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


TRAINING = {"SGD": {"lr": 0.01, "momentum": 0.9}, "Adam": {"lr": 1e-3}, "RMSprop": {"lr": 1e-4}, "Adagrad": {}}


@pytest.mark.parametrize("name, options", TRAINING.items(), ids=TRAINING)
def test_training_is_that_of_torch(name, options, rng):
    x, target = normal(rng, (8, 1, 28, 28), np.float64), rng.integers(0, 10, 8)
    ours = api_network(nn, dtype=np.float64)
    theirs = api_network(torch.nn, dtype=torch.float64)
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in ours.state_dict().items()})
    losses = train(ours, nn.CrossEntropyLoss(), getattr(optim, name)(ours, **options), x, target, STEPS)
    judge = getattr(torch.optim, name)(theirs.parameters(), **options)
    expected = train_torch(theirs, torch.nn.CrossEntropyLoss(), judge, torch.tensor(x), torch.tensor(target), STEPS)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-9)
    assert losses[-1] < 0.5 * losses[0]
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.params[key], value.numpy(), rtol=0, atol=1e-9)


def test_training_in_single_precision_learns(rng):
    x, target = normal(rng, (32, 1, 28, 28), np.float32), rng.integers(0, 10, 32)
    net = api_network(nn, seed=0)
    losses = train(net, nn.CrossEntropyLoss(), optim.SGD(net, lr=0.01, momentum=0.9), x, target, 40)
    assert losses[-1] < 0.1 * losses[0]
    assert (net.eval()(x).argmax(axis=1) == target).all()


@pytest.mark.parametrize("name, options", TRAINING.items(), ids=TRAINING)
def test_a_run_that_was_pickled_resumes_to_the_same_result(name, options, rng):
    """Weights, running statistics, moments and the state of dropout's generator all go on where they were."""
    x, target = normal(rng, (8, 6), np.float64), rng.integers(0, 3, 8)
    wide = {"dtype": np.float64}
    net = nn.Sequential(
        nn.Linear(6, 16, seed=0, **wide),
        nn.BatchNorm1d(16, **wide),
        nn.ReLU(),
        nn.Dropout(0.5, seed=1),
        nn.Linear(16, 3, seed=2, **wide),
    )
    optimizer, criterion = getattr(optim, name)(net, **options), nn.CrossEntropyLoss()
    train(net, criterion, optimizer, x, target, 10)
    checkpoint = pickle.dumps((net, optimizer))
    losses = train(net, criterion, optimizer, x, target, 10)
    restored, restored_optimizer = pickle.loads(checkpoint)
    assert restored_optimizer.net is restored
    assert train(restored, criterion, restored_optimizer, x, target, 10) == losses


# ---- errors --------------------------------------------------------------------------------------

REFUSED = {
    "lr": (lambda net: optim.SGD(net, lr=-1), "lr must not be negative, got -1"),
    "lr is NaN": (lambda net: optim.Adam(net, lr=float("nan")), "lr must not be negative, got nan"),
    "momentum": (lambda net: optim.SGD(net, momentum=-0.1), "momentum must not be negative, got -0.1"),
    "weight decay": (lambda net: optim.SGD(net, weight_decay=-1), "weight_decay must not be negative, got -1"),
    "nesterov alone": (lambda net: optim.SGD(net, nesterov=True), "nesterov needs momentum > 0 and dampening = 0"),
    "nesterov dampened": (
        lambda net: optim.SGD(net, momentum=0.9, dampening=0.1, nesterov=True),
        "nesterov needs momentum > 0 and dampening = 0, got momentum=0.9 and dampening=0.1",
    ),
    "beta": (lambda net: optim.Adam(net, betas=(0.9, 1.0)), r"betas must be two numbers in \[0, 1\), got \(0.9, 1.0\)"),
    "betas": (lambda net: optim.Adam(net, betas=(0.9,)), r"betas must be two numbers in \[0, 1\), got \(0.9,\)"),
    "l1": (lambda net: optim.SGD(net, l1=-1), "l1 must not be negative, got -1"),
    "lr_decay": (lambda net: optim.Adagrad(net, lr_decay=-1), "lr_decay must not be negative, got -1"),
    "alpha": (lambda net: optim.RMSprop(net, alpha=1.0), r"alpha must be in \[0, 1\), got 1.0"),
    "eps": (lambda net: optim.Adam(net, eps=-1e-8), "eps must not be negative, got -1e-08"),
}


@pytest.mark.parametrize("make, message", REFUSED.values(), ids=REFUSED)
def test_constructor_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make(nn.Linear(2, 3))


def test_what_is_no_network():
    for wrong in ({"weight": np.zeros(3)}, [np.zeros(3)], nn.Linear(2, 3).params):
        with pytest.raises(
            TypeError, match=f"net must have params and grads, as layers have, got {type(wrong).__name__}"
        ):
            optim.SGD(wrong, lr=0.1)


def test_step_before_backward():
    net = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(RuntimeError, match=r"step was called before backward: net\.grads is empty"):
        optim.SGD(net, lr=0.1).step()
    optim.SGD(nn.ReLU(), lr=0.1).step()  # nothing to train, nothing to complain about


def test_a_gradient_of_the_wrong_shape():
    net = Parameters(a=np.zeros((2, 3)))
    net.grads["a"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"net.grads\['a'\] must have the parameter's shape \(2, 3\), got \(3,\)"):
        optim.SGD(net, lr=0.1).step()
