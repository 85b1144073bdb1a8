"""Kernels in CP form: the dense kernel of given factors, and factors for a dense kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from itertools import count
from math import isfinite, prod
from operator import index

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .conv import conv1d

# By the number of spatial axes: output channels, input channels, then one for each kernel axis.
FACTOR_NAMES = {1: ("a", "b", "d"), 2: ("a", "b", "c", "d"), 3: ("a", "b", "e", "c", "d")}

# What messages call them.
FACTOR_LABELS = {n: [f"factors[{k}] ({name})" for k, name in enumerate(names)] for n, names in FACTOR_NAMES.items()}

REALS = (np.dtype(np.float32), np.dtype(np.float64))

# Singular values of a Gram matrix below this part of its largest are taken for rounding: about 1e4 epsilons.
PINV_CUTOFF = 1e-12


def cp_weight(factors: Sequence[ArrayLike]) -> NDArray:
    """The dense kernel that CP factors stand for.

    With R the rank, for two spatial axes::

        W[o,i,l,k] = sum_r  a[o,r] b[i,r] c[l,r] d[k,r]

    Parameters
    ----------
    factors : sequence of 3, 4 or 5 arrays of shapes (OC, R), (IC, R) and (K, R) for each kernel axis
        All float32 or all float64.

    Returns
    -------
    array of shape (OC, IC, *kernel), dtype of the factors

    Raises
    ------
    ValueError
        Where the number of factors or their ranks do not fit.
    TypeError
        Where the factors are not arrays of one dtype, float32 or float64.

    References
    ----------
    F. Hitchcock, "The expression of a tensor or a polyadic as a sum of products", J. Math. Phys. 6, 1927.

    Examples
    --------
    >>> import numpy as np
    >>> a, b, d = np.array([[1.0], [10.0]]), np.array([[2.0]]), np.array([[1.0], [-1.0]])
    >>> cp_weight((a, b, d))
    array([[[  2.,  -2.]],
    <BLANKLINE>
           [[ 20., -20.]]])
    """
    first, *others = arrays = check_factors(factors, FACTOR_NAMES)
    product = conv1d(khatri_rao(others).T[np.newaxis], first[:, :, np.newaxis])  # of matrices, on as many threads as are set
    return product.reshape([len(array) for array in arrays])


def as_array(value: ArrayLike, name: str) -> NDArray:
    """`value` as a NumPy array of float32 or float64."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors that track gradients
        raise TypeError(f"{name}: expected an array, got {type(value).__name__}: {error}") from error
    if array.dtype not in REALS:
        raise TypeError(f"{name}: expected float32 or float64, got {array.dtype}")
    return array


def _arrays_of(axes: Iterable[int]) -> str:
    """The arrays of factors for these numbers of spatial axes, in words."""
    return " or ".join(f"{n + 2} arrays ({', '.join(FACTOR_NAMES[n])})" for n in axes)


def check_factors(factors: Sequence[ArrayLike], axes: Iterable[int]) -> list[NDArray]:
    """The factors as arrays of one dtype and one rank; `axes` lists the numbers of spatial axes to accept."""
    if isinstance(factors, np.ndarray) or not isinstance(factors, Iterable):
        raise TypeError(f"factors: expected a tuple of {_arrays_of(axes)}, got {type(factors).__name__}")
    given = tuple(factors)
    if len(given) - 2 not in axes:
        raise ValueError(f"factors: expected {_arrays_of(axes)}, got {len(given)}")
    labels = FACTOR_LABELS[len(given) - 2]
    arrays: list[NDArray] = []
    for factor, label in zip(given, labels, strict=True):
        array = as_array(factor, label)
        first, shape = arrays[0] if arrays else array, array.shape
        if array.dtype != first.dtype:
            raise TypeError(f"{label}: expected {first.dtype}, the dtype of factors[0], got {array.dtype}")
        if len(shape) != 2 or shape[1] == 0 or (len(arrays) >= 2 and shape[0] == 0):
            raise ValueError(f"{label}: expected shape (size, rank) with a rank of at least 1, got {shape}")
        if shape[1] != first.shape[1]:
            raise ValueError(f"{label}: expected rank {first.shape[1]}, that of factors[0], got shape {shape}")
        arrays.append(array)
    return arrays


def cp_decompose(
    weight: ArrayLike,
    rank: int,
    *,
    max_iter: int = 500,
    tol: float = 1e-8,
    starts: int = 1,
    callback: Callable[[int, float], object] | None = None,
    seed: int | np.random.Generator | None = None,
) -> tuple[tuple[NDArray, ...], float]:
    """CP factors of a dense kernel, by alternating least squares.

    Looks for factors of the given rank R that minimise, for two spatial axes::

        || W[o,i,l,k] - sum_r  a[o,r] b[i,r] c[l,r] d[k,r] ||_2

    One factor at a time: with the others fixed that is linear least squares, ``a = W_(1) K pinv(K^T K)``, where
    ``W_(1)`` is the kernel as an OC x (IC KH KW) matrix and ``K`` the column-wise Kronecker product of b, c and d,
    whose Gram matrix ``K^T K = (b^T b) * (c^T c) * (d^T d)`` is an elementwise product; likewise for the others.
    The columns are kept at length one while it runs. It starts from the leading left singular vectors of each
    unfolding, and from random columns where the rank exceeds their number.

    Parameters
    ----------
    weight : array of shape (OC, IC, *kernel), 1 to 3 kernel axes, float32 or float64
        Decomposed in float64 either way.
    rank : int
        Number of terms R, at least 1.
    max_iter : int
        Sweeps over all factors at most.
    tol : float
        Stop when a sweep changes the relative error (see Returns) by less than this. The error is followed
        through its expanded square, so differences below about 1e-8 are rounding.
    starts : int
        How often to begin: once as described above, then from random columns; the best end is returned.
    callback : callable, optional
        Called as ``callback(sweep, error)`` after every sweep, with the sweep's number, from 1 on through all starts,
        and the relative error it reached: for a progress bar, or to raise an exception that stops a long run.
    seed : int or numpy.random.Generator, optional
        For the random columns.

    Returns
    -------
    factors : tuple of arrays (OC, R), (IC, R) and (K, R) for each kernel axis, dtype of weight
        Terms by falling size; each term's size is spread evenly over its factors.
    relative_error : float
        ``||W - cp_weight(factors)|| / ||W||`` of the factors as returned; 0.0 for a kernel of zeros.

    Raises
    ------
    ValueError
        Where the number of axes, rank, max_iter, tol or starts does not fit, or the weight has NaN or infinite elements.
    TypeError
        Where the weight is neither float32 nor float64, or rank, max_iter or starts not an int.

    See Also
    --------
    cp_rank : the lowest rank that keeps an error.

    Notes
    -----
    The problem is not convex: what is found is a local minimum, and another seed may find a better one. A kernel
    may even have no best approximation of a rank; its terms then grow and cancel until one of the limits stops it.

    References
    ----------
    T. Kolda, B. Bader, "Tensor decompositions and applications", SIAM Review 51, 2009, section 3.4.
    A. Phan, P. Tichavsky, A. Cichocki, "Fast alternating LS algorithms for high order CANDECOMP/PARAFAC tensor
    factorizations", IEEE Trans. Signal Process. 61, 2013: products shared by several factors.

    Examples
    --------
    >>> import numpy as np
    >>> sobel = np.outer([1.0, 2.0, 1.0], [-1.0, 0.0, 1.0]).reshape(1, 1, 3, 3)
    >>> factors, relative_error = cp_decompose(sobel, rank=1)
    >>> np.allclose(cp_weight(factors), sobel), relative_error < 1e-12
    (True, True)
    """
    array = as_array(weight, "weight")
    _check_decompose(array, tol, rank=rank, max_iter=max_iter, starts=starts)
    scale = float(np.max(np.abs(array), initial=0.0))
    if scale == 0.0:
        return tuple(np.zeros((size, rank), array.dtype) for size in array.shape), 0.0
    scaled = array.astype(np.float64) / scale  # no square overflows or vanishes
    rng, sweeps = np.random.default_rng(seed), count(1)

    def report(error: float) -> None:
        if callback is not None:
            callback(next(sweeps), error)

    ends = []
    for again in range(starts):
        directions = _random_directions if again else _leading_directions
        start = [directions(scaled, mode, rank, rng) for mode in range(scaled.ndim)]
        ends.append(_alternating_least_squares(scaled, start, max_iter, tol, report))
    factors, sizes, _ = min(ends, key=lambda end: end[2])
    order = np.argsort(-sizes)
    share = 1 / array.ndim
    balanced = tuple((f[:, order] * (sizes[order] ** share * scale**share)).astype(array.dtype) for f in factors)
    returned = cp_weight([f.astype(np.float64) / scale**share for f in balanced])
    return balanced, float(np.linalg.norm(scaled - returned) / np.linalg.norm(scaled))


def cp_rank(
    weight: ArrayLike,
    relative_error: float,
    *,
    max_rank: int | None = None,
    **options: object,
) -> tuple[tuple[NDArray, ...], float]:
    """CP factors of the lowest rank found whose error is within a budget.

    Ranks 1, 2, 4, ... are tried until one keeps the budget, then those between it and the last by bisection. Each is one
    run of `cp_decompose`; since that finds local minima, a lower rank that would do may be missed.

    Parameters
    ----------
    weight : array of shape (OC, IC, *kernel), 1 to 3 kernel axes, float32 or float64
    relative_error : float
        The budget for ``||W - cp_weight(factors)|| / ||W||``, not negative.
    max_rank : int, optional
        Where to give up; by default the product of all sizes but the largest, which is enough for any kernel.
    **options
        `max_iter`, `tol`, `starts`, `callback` and `seed` of `cp_decompose`.

    Returns
    -------
    factors : tuple of arrays (OC, R), (IC, R) and (K, R) for each kernel axis, dtype of weight
    relative_error : float
        As `cp_decompose` returns it.

    Raises
    ------
    ValueError
        Where no rank up to max_rank keeps the budget, and as `cp_decompose`.
    TypeError
        As `cp_decompose`.

    References
    ----------
    J. Kruskal, "Rank, decomposition, and uniqueness for 3-way and N-way arrays", 1989: bounds of the rank.

    Examples
    --------
    >>> import numpy as np
    >>> weight = cp_weight([np.random.default_rng(0).standard_normal((size, 3)) for size in (8, 6, 3, 3)])
    >>> factors, error = cp_rank(weight, 1e-3, seed=0)
    >>> factors[0].shape[1], error < 1e-3
    (3, True)
    """
    array = as_array(weight, "weight")
    if not (isfinite(relative_error) and relative_error >= 0):
        raise ValueError(f"relative_error: expected a finite number, not negative, got {relative_error}")
    enough = max(1, prod(sorted(array.shape)[:-1]))
    largest = enough if max_rank is None else index(max_rank)
    if largest < 1:
        raise ValueError(f"max_rank: expected at least 1, got {max_rank}")
    too_low, rank = 0, 1
    found = cp_decompose(array, rank, **options)
    while found[1] > relative_error:
        if rank == largest:
            raise ValueError(f"relative_error: expected a budget that some rank up to max_rank = {largest} keeps, got "
                             f"{relative_error}; rank {rank} reaches {found[1]:.3g}")
        too_low, rank = rank, min(2 * rank, largest)
        found = cp_decompose(array, rank, **options)
    while rank - too_low > 1:
        middle = (too_low + rank) // 2
        attempt = cp_decompose(array, middle, **options)
        if attempt[1] <= relative_error:
            rank, found = middle, attempt
        else:
            too_low = middle
    return found


def _check_decompose(weight: NDArray, tol: float, **counts: int) -> None:
    if weight.ndim not in (3, 4, 5):
        raise ValueError(f"weight: expected shape (OC, IC, *kernel) with 1 to 3 kernel axes, got {weight.shape}")
    if not np.isfinite(weight).all():
        raise ValueError("weight: expected finite elements, got NaN or infinity")
    for name, value in counts.items():
        try:
            if index(value) < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        except TypeError:
            raise TypeError(f"{name}: expected an int, got {value!r}") from None
    if not (isfinite(tol) and tol >= 0):
        raise ValueError(f"tol: expected a finite number, not negative, got {tol}")


def _alternating_least_squares(
    weight: NDArray, factors: list[NDArray], max_iter: int, tol: float, report: Callable[[float], None]
) -> tuple[list[NDArray], NDArray, float]:
    """Factors with columns of length one (or zero), the size of each term, and the relative error, from a start.

    A sweep reads the kernel twice: for the first factor, and to contract it with that factor; all the
    others work on the result of that.
    """
    unfolded = weight.reshape(len(weight), -1)
    norm, rank = np.linalg.norm(weight), factors[0].shape[1]
    grams = [factor.T @ factor for factor in factors]
    error = np.inf
    for _ in range(max_iter):
        for mode in range(weight.ndim):
            if mode == 0:
                product = unfolded @ khatri_rao(factors[1:])
            else:
                if mode == 1:
                    contracted = (factors[0].T @ unfolded).reshape(rank, *weight.shape[1:])
                product = _contract_others(contracted, factors[1:], mode - 1)
            gram = prod(grams[:mode] + grams[mode + 1 :])
            solution = product @ np.linalg.pinv(gram, PINV_CUTOFF, hermitian=True)
            factors[mode], sizes = _normalised(solution)
            grams[mode] = factors[mode].T @ factors[mode]
        # ||W - V||^2 = ||W||^2 - 2 <W, V> + ||V||^2, both products at hand from the last factor's step
        squared = norm**2 - 2 * np.sum(product * solution) + sizes @ prod(grams) @ sizes
        previous, error = error, float(np.sqrt(max(0.0, squared)) / norm)
        report(error)
        if abs(previous - error) < tol:
            break
    return factors, sizes, error


def _random_directions(weight: NDArray, mode: int, rank: int, rng: np.random.Generator) -> NDArray:
    return _normalised(rng.standard_normal((weight.shape[mode], rank)))[0]


def _leading_directions(weight: NDArray, mode: int, rank: int, rng: np.random.Generator) -> NDArray:
    """Leading left singular vectors of one unfolding, then random columns, `rank` in all."""
    unfolded = np.moveaxis(weight, mode, 0).reshape(weight.shape[mode], -1)
    vectors = np.linalg.svd(unfolded, full_matrices=False)[0][:, :rank]
    missing = rng.standard_normal((len(unfolded), rank - vectors.shape[1]))
    return np.hstack([vectors, _normalised(missing)[0]])


def _normalised(columns: NDArray) -> tuple[NDArray, NDArray]:
    """Columns of length one, zeros left as they are, and what their lengths were."""
    lengths = np.linalg.norm(columns, axis=0)
    return columns / np.where(lengths == 0, 1.0, lengths), lengths


def khatri_rao(factors: Sequence[NDArray]) -> NDArray:
    """Column-wise Kronecker product of (I1, R), (I2, R), ...: shape (I1 I2 ..., R), the last index fastest."""
    return reduce(lambda right, left: (left[:, np.newaxis] * right).reshape(len(left) * len(right), -1), factors[::-1])


def _contract_others(tensor: NDArray, factors: Sequence[NDArray], keep: int) -> NDArray:
    """Contract each axis of `tensor` (R, I1, I2, ...) but axis `keep` with its factor (I, R): shape (I_keep, R)."""
    rank = len(tensor)
    for factor in reversed(factors[keep + 1 :]):
        tensor = tensor.reshape(rank, -1, len(factor)) @ factor.T[:, :, np.newaxis]
    for factor in factors[:keep]:
        tensor = factor.T[:, np.newaxis] @ tensor.reshape(rank, len(factor), -1)
    return tensor.reshape(rank, -1).T
