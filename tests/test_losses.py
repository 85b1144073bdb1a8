"""Loss functions against `torch.nn` and autograd, and against their formulas."""

import numpy as np
import pytest
import torch
from reference import assert_close
from shapes import DTYPES, normal

from fastconv import nn

CLASSIFIERS = ["CrossEntropyLoss", "NLLLoss"]
SHAPES = [(6, 5), (5,), (2, 5, 3), (2, 5, 3, 4), (1, 1)]
REDUCTIONS = ["mean", "sum"]


def targets(rng, shape, classes):
    return rng.integers(0, classes, shape[:1] + shape[2:] if len(shape) > 1 else ())


def assert_same(name, reduction, x, target):
    """Loss and gradient are PyTorch's, computed in float64."""
    criterion = getattr(nn, name)(reduction=reduction)
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    wide = torch.tensor(target, dtype=torch.float64 if target.dtype.kind == "f" else torch.int64)
    expected = getattr(torch.nn, name)(reduction=reduction)(leaf, wide)
    expected.backward()
    loss = criterion(x, target)
    gradient = criterion.backward()
    assert type(loss) is float
    assert_close(x.dtype.type(loss), expected.item())
    assert gradient.dtype == x.dtype
    assert_close(gradient, leaf.grad.numpy())
    np.testing.assert_array_equal(criterion.backward(), gradient)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classification_against_torch(name, shape, reduction, dtype, rng):
    x = normal(rng, shape, dtype)
    if name == "NLLLoss":
        x = nn.LogSoftmax(dim=min(1, len(shape) - 1))(x)
    assert_same(name, reduction, x, targets(rng, shape, x.shape[min(1, len(shape) - 1)]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)], ids=str)
def test_squared_error_against_torch(shape, reduction, dtype, rng):
    assert_same("MSELoss", reduction, normal(rng, shape, dtype), normal(rng, shape, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)], ids=str)
def test_binary_cross_entropy_against_torch(shape, reduction, dtype, rng):
    x = 5 * normal(rng, shape, dtype)
    for target in (rng.integers(0, 2, shape).astype(dtype), rng.random(shape, dtype)):
        assert_same("BCEWithLogitsLoss", reduction, np.asarray(x, dtype), np.asarray(target))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"p": 2}, {"margin": 0.25}, {"p": 2, "margin": 3.0, "reduction": "sum"}], ids=str)
@pytest.mark.parametrize("shape", [(6, 5), (5,), (1, 1)], ids=str)
def test_hinge_loss_against_torch(shape, options, dtype, rng):
    x = normal(rng, shape, dtype)
    target = rng.integers(0, shape[-1], shape[:-1])
    criterion, leaf = nn.MultiMarginLoss(**options), torch.tensor(x, dtype=torch.float64, requires_grad=True)
    expected = torch.nn.MultiMarginLoss(**options)(leaf, torch.tensor(target))
    expected.backward()
    assert_close(dtype(criterion(x, target)), expected.item(), scale=max(1.0, expected.item()))
    assert criterion.backward().dtype == dtype
    assert_close(criterion.backward(), leaf.grad.numpy(), scale=1.0)


def test_hinge_loss_refuses():
    with pytest.raises(ValueError, match="p must be 1 or 2, got 3"):
        nn.MultiMarginLoss(p=3)
    with pytest.raises(ValueError, match=r"input of MultiMarginLoss must have shape \(N, C\) or \(C,\), got \(2, 3, 4\)"):
        nn.MultiMarginLoss()(np.zeros((2, 3, 4)), np.zeros((2, 4), int))


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int32, np.int64])
def test_any_integers_name_classes(kind, rng):
    x, target = normal(rng, (6, 5), np.float64), targets(rng, (6, 5), 5)
    for name in CLASSIFIERS:
        criterion = getattr(nn, name)()
        loss, gradient = criterion(x, target), criterion.backward()
        assert criterion(x, target.astype(kind)) == criterion(x, target.tolist()) == loss
        assert criterion(torch.tensor(x), torch.tensor(target)) == loss
        np.testing.assert_array_equal(criterion.backward(), gradient)


def test_cross_entropy_is_log_softmax_and_likelihood(rng):
    x, target = normal(rng, (6, 5), np.float64), targets(rng, (6, 5), 5)
    log_softmax, likelihood, entropy = nn.LogSoftmax(dim=1), nn.NLLLoss(), nn.CrossEntropyLoss()
    assert_close(entropy(x, target), likelihood(log_softmax(x), target))
    assert_close(entropy.backward(), log_softmax.backward(likelihood.backward()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_of_logits_that_would_overflow(dtype):
    """exp(1e4) is infinite in either dtype; the loss is the difference of two logits, its gradient p - y."""
    x = np.array([[1e4, 0, -1e4], [1e4, 0, -1e4], [1e4, 1e4, 0]], dtype)
    criterion = nn.CrossEntropyLoss(reduction="sum")
    assert criterion(x[:1], [0]) == 0
    assert criterion(x[1:2], [2]) == 2e4
    np.testing.assert_array_equal(criterion.backward(), [[1, 0, -1]])
    assert_close(dtype(criterion(x[2:], [0])), np.log(2))
    assert_close(criterion.backward(), [[-0.5, 0.5, 0]])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_nan_and_infinity_reach_the_loss(name):
    criterion = getattr(nn, name)()
    assert np.isnan(criterion(np.array([[np.nan, 0.0]]), [0]))
    assert criterion(np.array([[-np.inf, 0.0]]), [0]) == np.inf


@pytest.mark.parametrize("name, shape", [("CrossEntropyLoss", (0, 3)), ("NLLLoss", (0, 3)), ("MSELoss", (0,))])
def test_empty_batch(name, shape):
    """Nothing to average is NaN as in PyTorch, nothing to add up is 0; the gradient is empty."""
    x = np.zeros(shape)
    target = x if name == "MSELoss" else np.zeros(0, int)
    criterion = getattr(nn, name)()
    assert np.isnan(criterion(x, target))
    assert criterion.backward().shape == shape
    assert getattr(nn, name)(reduction="sum")(x, target) == 0


def test_mean_of_many_single_precision_losses_keeps_its_accuracy(rng):
    x = rng.uniform(-1, 0, (1_000_000, 2)).astype(np.float32)
    expected = -x[:, 1].astype(np.float64).mean()
    assert abs(nn.NLLLoss()(x, np.ones(len(x), int)) - expected) < 1e-12


def test_inputs_are_left_alone(rng):
    x, target = normal(rng, (6, 5), np.float64), targets(rng, (6, 5), 5)
    for name, other in (("CrossEntropyLoss", target), ("NLLLoss", target), ("MSELoss", x + 1)):
        before = x.copy(), other.copy()
        criterion = getattr(nn, name)()
        criterion(x, other)
        criterion.backward()[...] = 7
        np.testing.assert_array_equal(x, before[0])
        np.testing.assert_array_equal(other, before[1])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_targets_that_are_refused(name):
    criterion, x = getattr(nn, name)(), np.zeros((2, 3), np.float32)
    for wrong in (3, -1, -100):
        with pytest.raises(ValueError, match=rf"target of {name} must be in 0 \.\.\. 2, got {wrong}"):
            criterion(x, [0, wrong])
    with pytest.raises(ValueError, match=r"must have shape \(2,\) for an input of shape \(2, 3\), got \(2, 1\)"):
        criterion(x, [[0], [1]])
    with pytest.raises(ValueError, match=r"must have shape \(N, C\), \(C,\) or \(N, C, ...\), got \(\)"):
        criterion(np.float32(0), 0)
    for wrong in (np.zeros(2), np.zeros(2, bool), x):
        with pytest.raises(TypeError, match=f"target of {name} must hold integer class indices, got {wrong.dtype}"):
            criterion(x, wrong)


def test_squared_error_refuses_targets_that_differ():
    criterion, x = nn.MSELoss(), np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"target of MSELoss must have the input's shape \(2, 3\), got \(3,\)"):
        criterion(x, x[0])
    with pytest.raises(TypeError, match="target of MSELoss must have the input's dtype float32, got float64"):
        criterion(x, x.astype(np.float64))


@pytest.mark.parametrize("name", [*CLASSIFIERS, "MSELoss"])
def test_order_of_calls_and_options(name):
    criterion = getattr(nn, name)(reduction="sum")
    assert repr(criterion) == f"{name}(reduction='sum')"
    with pytest.raises(RuntimeError, match=f"{name}.backward was called before the loss"):
        criterion.backward()
    with pytest.raises(TypeError, match=f"input of {name} must be float32 or float64, got int64"):
        criterion(np.zeros((2, 3), np.int64), np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="reduction must be 'mean' or 'sum', got 'none'"):
        getattr(nn, name)(reduction="none")
