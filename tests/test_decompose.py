"""cp_weight against einsum; cp_decompose against known factors, the best low-rank matrix, and tensorly."""

import numpy as np
import pytest
import tensorly
from tensorly.decomposition import parafac

from fastconv import functional as F

KERNEL_SUM = {3: "or,ir,kr->oik", 4: "or,ir,lr,kr->oilk", 5: "or,ir,mr,lr,kr->oimlk"}
SHAPES = [(8, 6, 5), (8, 6, 3, 3), (5, 6, 3, 3, 3)]


def low_rank(shape, rank, noise=0.0, seed=0):
    """A kernel of unit norm and the given rank, plus noise of the given norm."""
    rng = np.random.default_rng(seed)
    kernel = F.cp_weight([rng.standard_normal((size, rank)) for size in shape])
    rest = rng.standard_normal(shape)
    return kernel / np.linalg.norm(kernel) + noise * rest / np.linalg.norm(rest)


def distance(weight, factors):
    factors = [factor.astype(np.float64) for factor in factors]
    return np.linalg.norm(weight - F.cp_weight(factors)) / np.linalg.norm(weight)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_cp_weight_is_the_sum_of_outer_products(shape, dtype, rng):
    factors = [rng.standard_normal((size, 4)).astype(dtype) for size in shape]
    weight = F.cp_weight(factors)
    assert weight.dtype == dtype
    expected = np.einsum(KERNEL_SUM[len(shape)], *(factor.astype(np.float64) for factor in factors))
    np.testing.assert_allclose(weight, expected, rtol=0, atol=10 * np.finfo(dtype).eps * np.abs(expected).max())


@pytest.mark.parametrize(
    ("factors", "error", "message"),
    [
        ([np.ones((2, 1))] * 2, ValueError, r"factors: expected 3 arrays \(a, b, d\) or 4 arrays .*, got 2"),
        ([np.ones((2, 1)), np.ones((2, 1)), np.ones((2, 2))], ValueError, r"factors\[2\] \(d\): expected rank 1"),
        ([np.ones((2, 1)), np.ones((2, 1), "f4"), np.ones((2, 1))], TypeError, r"factors\[1\] \(b\): expected float64"),
        (np.ones((3, 2, 1)), TypeError, "factors: expected a tuple .* got ndarray"),
    ],
)
def test_wrong_factors_are_named(factors, error, message):
    with pytest.raises(error, match=message):
        F.cp_weight(factors)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_kernel_of_low_rank_is_recovered(shape):
    weight = low_rank(shape, rank=3, seed=2)
    factors, relative_error = F.cp_decompose(weight, 3, seed=0)
    assert [factor.shape for factor in factors] == [(size, 3) for size in shape]
    assert relative_error < 1e-6
    assert relative_error == pytest.approx(distance(weight, factors), rel=1e-6, abs=1e-15)


def test_recovered_factors_are_the_ones_put_in():
    """The decomposition of a generic kernel is unique up to the order and the scales of its terms."""
    rng = np.random.default_rng(3)
    truth = [rng.standard_normal((size, 2)) for size in (6, 5, 3, 3)]
    factors, _ = F.cp_decompose(F.cp_weight(truth), 2, tol=0.0)
    truth, factors = ([f / np.linalg.norm(f, axis=0) for f in group] for group in (truth, factors))
    for true, found in zip(truth, factors, strict=True):
        cosines = np.abs(true.T @ found)
        assert cosines.max(axis=0) == pytest.approx(1.0, abs=1e-9)
        assert set(cosines.argmax(axis=0)) == {0, 1}


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_a_pointwise_kernel_is_cut_like_its_singular_values(rank):
    """For a matrix the best error is known: the singular values that are left out (Eckart and Young)."""
    weight = np.random.default_rng(0).standard_normal((7, 5, 1, 1))
    singular = np.linalg.svd(weight[..., 0, 0], compute_uv=False)
    _, relative_error = F.cp_decompose(weight, rank)
    best = np.linalg.norm(singular[rank:]) / np.linalg.norm(singular)
    assert relative_error == pytest.approx(best, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("shape", "rank", "noise"),
    [
        ((8, 6, 5), 3, 0.1),
        ((12, 8, 3, 3), 2, 0.1),
        ((12, 8, 3, 3), 6, 0.3),
        ((16, 12, 3, 3), 8, 0.01),
        ((5, 4, 3, 3, 3), 4, 0.1),
    ],
)
@pytest.mark.filterwarnings("ignore:Trying to compute SVD:UserWarning")
def test_error_is_no_worse_than_tensorlys(shape, rank, noise):
    """Mean over four kernels, with 1 % of slack: where random columns complete the start, theirs are not ours."""
    ours, theirs = [], []
    for seed in range(4):
        weight = low_rank(shape, rank, noise, seed)
        ours.append(F.cp_decompose(weight, rank, max_iter=300, tol=1e-8, seed=seed)[1])
        reference = parafac(tensorly.tensor(weight), rank, n_iter_max=300, tol=1e-8, init="svd", random_state=seed)
        theirs.append(np.linalg.norm(weight - tensorly.cp_to_tensor(reference)) / np.linalg.norm(weight))
    assert np.mean(ours) <= 1.01 * np.mean(theirs)


def test_more_sweeps_never_hurt_and_tol_stops_them():
    weight = low_rank((12, 8, 3, 3), 6, noise=0.5)
    errors = [F.cp_decompose(weight, 6, max_iter=n, tol=0.0, seed=0)[1] for n in (1, 2, 4, 8, 16, 32)]
    assert all(later < earlier for earlier, later in zip(errors, errors[1:], strict=False))
    after_two = F.cp_decompose(weight, 6, tol=1.0, seed=0)[1]
    assert after_two == errors[1]


def test_size_is_balanced_over_the_factors_and_falls():
    factors, _ = F.cp_decompose(low_rank((12, 8, 3, 3), 5, noise=0.3), 5, seed=0)
    lengths = np.array([np.linalg.norm(factor, axis=0) for factor in factors])
    np.testing.assert_allclose(lengths, np.broadcast_to(lengths[0], lengths.shape), rtol=1e-12)
    assert np.all(np.diff(lengths[0]) <= 0)


def test_float32_is_decomposed_in_float64():
    weight = low_rank((8, 6, 3, 3), 4, noise=0.2).astype(np.float32)
    factors, relative_error = F.cp_decompose(weight, 4, seed=0)
    wide, wide_error = F.cp_decompose(weight.astype(np.float64), 4, seed=0)
    for factor, other in zip(factors, wide, strict=True):
        assert factor.dtype == np.float32
        np.testing.assert_array_equal(factor, other.astype(np.float32))
    assert relative_error == pytest.approx(wide_error, rel=1e-6)


def test_seed_decides_the_random_columns():
    weight = low_rank((8, 6, 3, 3), 6, noise=0.5)
    first, second, third = (F.cp_decompose(weight, 6, max_iter=5, seed=seed)[0] for seed in (1, 1, 2))
    generated, _ = F.cp_decompose(weight, 6, max_iter=5, seed=np.random.default_rng(1))
    for one, other, generator in zip(first, second, generated, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, generator)
    assert not np.allclose(first[2], third[2])


@pytest.mark.parametrize("rank", [2, 5, 20])
def test_rank_beyond_what_the_kernel_has(rank):
    """Gram matrices turn singular: the error stays at rounding and the factors stay moderate."""
    weight = low_rank((6, 5, 3, 3), 1)
    factors, relative_error = F.cp_decompose(weight, rank, seed=0)
    assert relative_error < 1e-7
    assert all(np.abs(factor).max() < 10 for factor in factors)


def test_repeated_slices():
    weight = np.repeat(np.repeat(low_rank((2, 2, 3, 3), 2), 4, axis=0), 3, axis=1)
    assert F.cp_decompose(weight, 4, seed=0)[1] < 1e-6


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (0, 3, 3), (4, 0, 3, 3), (4, 3, 0)])
def test_zero_and_empty_kernels(shape):
    factors, relative_error = F.cp_decompose(np.zeros(shape, np.float32), 2)
    assert relative_error == 0.0
    for factor, size in zip(factors, shape, strict=True):
        np.testing.assert_array_equal(factor, np.zeros((size, 2), np.float32), strict=True)


def test_one_element():
    factors, relative_error = F.cp_decompose(np.full((1, 1, 1, 1), -16.0), 1)
    assert relative_error < 1e-15
    assert np.abs(np.hstack(factors)) == pytest.approx(2.0)


@pytest.mark.parametrize("scale", [1e300, 1e-300, 5e-324])
def test_scale_does_not_matter(scale):
    weight = np.round(low_rank((4, 3, 2, 2), 1) * 1000) * scale
    weight = weight if scale != 5e-324 else np.ones((4, 3, 2, 2)) * scale
    factors, relative_error = F.cp_decompose(weight, 3, seed=0)
    assert np.isfinite(np.concatenate([factor.ravel() for factor in factors])).all()
    plain = F.cp_decompose(weight / np.abs(weight).max(), 3, seed=0)[1]
    assert relative_error == pytest.approx(plain, abs=1e-7)


def test_input_is_not_written_to():
    weight = low_rank((6, 5, 3, 3), 2).transpose(1, 0, 3, 2)[::-1]
    before = weight.copy()
    weight.flags.writeable = False
    factors, relative_error = F.cp_decompose(weight, 2)
    np.testing.assert_array_equal(weight, before)
    assert relative_error == pytest.approx(distance(before, factors), rel=1e-6, abs=1e-15)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weight": np.ones((2, 2, 3), int)}, TypeError, "weight: expected float32 or float64, got int64"),
        ({"weight": np.ones((2, 2))}, ValueError, r"weight: expected shape \(OC, IC, \*kernel\) .* got \(2, 2\)"),
        ({"weight": np.full((2, 2, 3), np.nan)}, ValueError, "weight: expected finite elements"),
        ({"weight": np.full((2, 2, 3), -np.inf)}, ValueError, "weight: expected finite elements"),
        ({"rank": 0}, ValueError, "rank: expected at least 1, got 0"),
        ({"rank": 1.5}, TypeError, "rank: expected an int, got 1.5"),
        ({"max_iter": 0}, ValueError, "max_iter: expected at least 1, got 0"),
        ({"starts": 0}, ValueError, "starts: expected at least 1, got 0"),
        ({"tol": -1e-3}, ValueError, "tol: expected a finite number, not negative, got -0.001"),
        ({"tol": np.nan}, ValueError, "tol: expected a finite number"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    arguments = {"weight": np.ones((2, 2, 3)), "rank": 1, **arguments}
    with pytest.raises(error, match=message):
        F.cp_decompose(**arguments)


def test_more_starts_never_hurt_and_report_their_sweeps():
    weight = low_rank((12, 8, 3, 3), 6, noise=0.5)
    heard = []
    one = F.cp_decompose(weight, 5, max_iter=20, seed=0)[1]
    many = F.cp_decompose(weight, 5, max_iter=20, starts=4, seed=0, callback=lambda *args: heard.append(args))[1]
    assert many <= one
    assert [sweep for sweep, _ in heard] == list(range(1, len(heard) + 1))
    assert min(error for _, error in heard) == pytest.approx(many, rel=1e-6)


def test_callback_can_stop_a_run():
    def stop(sweep, error):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        F.cp_decompose(low_rank((6, 5, 3), 2), 2, callback=stop)


@pytest.mark.parametrize("shape", SHAPES)
def test_rank_for_a_budget_is_the_kernels_own(shape):
    factors, error = F.cp_rank(low_rank(shape, 3, seed=2), 1e-4, seed=0)
    assert factors[0].shape[1] == 3
    assert error <= 1e-4


def test_rank_for_a_budget_falls_as_the_budget_grows():
    weight = low_rank((12, 8, 3, 3), 6, noise=0.3)
    found = [F.cp_rank(weight, budget, seed=0) for budget in (0.6, 0.4, 0.2)]
    assert all(error <= budget for (_, error), budget in zip(found, (0.6, 0.4, 0.2), strict=True))
    ranks = [factors[0].shape[1] for factors, _ in found]
    assert ranks == sorted(ranks) and ranks[0] < ranks[-1]
    for (_, _), rank, budget in zip(found, ranks, (0.6, 0.4, 0.2), strict=True):
        assert rank == 1 or F.cp_decompose(weight, rank - 1, seed=0)[1] > budget


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"relative_error": 0.01, "max_rank": 2}, "relative_error: expected a budget .* max_rank = 2 keeps, got 0.01; rank 2"),
        ({"relative_error": -0.1}, "relative_error: expected a finite number, not negative, got -0.1"),
        ({"relative_error": 0.1, "max_rank": 0}, "max_rank: expected at least 1, got 0"),
    ],
)
def test_wrong_arguments_of_cp_rank_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        F.cp_rank(low_rank((6, 5, 3, 3), 4), **arguments)
