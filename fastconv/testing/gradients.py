r"""Gradients against central differences.

A backward pass computes :math:`J^T v` for an upstream gradient :math:`v`. Along any direction :math:`u`,

.. math:: \langle J^T v, u \rangle = \langle v, J u \rangle
          \approx \sum_k v_k \frac{y_k(a + h u) - y_k(a - h u)}{2 h}

holds exactly in the limit. `gradcheck` takes for u every unit vector in turn, `vjpcheck` one random direction.

**Step.** The right side errs by about :math:`h^2 f'''/6` (truncation) and :math:`\epsilon |f| / h` (rounding), least
together at :math:`h = \epsilon^{1/3}`, 6e-6 in float64, where what remains is about :math:`\epsilon^{2/3}`, 4e-11.
The differences are taken for each output before they are summed, so outputs that do not depend on an element add
nothing.

**Tolerance.** Allowed is ``atol + rtol * |expected|`` with ``rtol = 1e-6`` (that still tells ``var + 1e-5`` from
``var - 1e-5``) and an `atol` of the size of what rounding can do: a hundred times :math:`\epsilon^{2/3} ||v y||_2`,
and 1e-8 of the array's largest gradient.

**Kinks.** Where ReLU is at 0 or two values tie in max pooling there is no derivative, and a central difference gives
the mean of the slopes on the two sides. What disagrees is therefore looked at again: first over a step 64 times
shorter, which leaves out a kink nearby and follows sharp bends; then at points beside the given one, all arrays moved
by about 1e-4 at random, both gradients anew. If they agree there, the given point lies on a kink, where the choice is
the backward pass's own, and is counted as such. (To ask instead for a number between the slopes on the two sides is
not enough: where several kinks meet, as on flat parts of pictures, slopes cancel and every choice may lie outside.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .report import ArrayCheck, GradcheckReport
from .subject import Subject, make_subject

EPSILON = float(np.finfo(np.float64).eps)
STEP = EPSILON ** (1 / 3)
RTOL = 1e-6
NUDGE = 16      # how far beside a kink the second look is taken, in steps
CLOSER = ((False, 64), (True, 64), (True, 256), (True, 1024))     # looks again: nudged or not, step how much shorter

Arrays = ArrayLike | Sequence[NDArray]     # a sequence: the factors of a CP convolution


def gradcheck(
    function: Any,
    backward: Callable[..., Any] | None,
    *arrays: Arrays,
    eps: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    seed: int = 0,
) -> GradcheckReport:
    r"""Compare every element of every gradient with a central difference, in float64.

    `function` and `backward` may be

    * a layer and None: ``gradcheck(layer, None, x)``. Checked are the gradients with respect to the input and to all
      parameters, on a float64 copy of the layer in its present mode (dropout repeats its mask). A loss works alike,
      with its target after the input. Anything with `forward`, `backward` and, if it learns, `params` and `grads` is
      a layer. With a `backward` of your own, it is that one that is checked, against the layer as a function of its
      inputs.
    * a fastconv function and its `_backward`: ``gradcheck(conv2d, conv2d_backward, x, w, b)``. Options are given
      once, to the function: ``gradcheck(functools.partial(max_pool2d, kernel_size=2), max_pool2d_backward, x)``;
      sizes and indices are passed on. `backward` may be None here too.
    * your own code: ``function(*arrays)`` returns an array or a number, ``backward(grad_output, *arrays)`` one
      gradient per array: an array, or a tuple of them where there are several. None stands for a gradient that is not
      to be checked.

    The upstream gradient is random, with no element near zero, so that every output matters; for a function that
    returns a number it is 1. Your arrays are copied and never changed. This takes two evaluations per element: keep
    the arrays small, or use `vjpcheck`.

    Parameters
    ----------
    function : callable or layer
    backward : callable, or None for a layer's or fastconv function's own
    *arrays : array_like of any shape, or tuple of arrays (the factors of `cp_conv2d`)
        Where to check. Floats are promoted to float64; integers and bools are constants (class targets, indices).
    eps : float, optional
        Step of the differences; default ``6e-6 * max(1, |a_i|)``, the cube root of float64's precision.
    rtol, atol : float, optional
        An element is right within ``atol + rtol * |expected|``. Default 1e-6, and what rounding can make up.
    seed : int
        Of the upstream gradient.

    Returns
    -------
    GradcheckReport
        True if all gradients are right; printed, a table with each array's worst element.

    Raises
    ------
    ValueError
        If gradients have the wrong number or shape, outputs are not finite, or `function` does not repeat itself.
    TypeError
        If an argument is of the wrong kind, or `function` does not compute in float64.

    Notes
    -----
    Step, tolerance and what happens at kinks (ReLU at 0, ties in max pooling): see `fastconv.testing.gradients`.

    Examples
    --------
    A student's derivative of tanh, wrong and right:

    >>> import numpy as np
    >>> from fastconv.testing import gradcheck
    >>> z = np.array([0.5, 1.0, 2.0])
    >>> report = gradcheck(np.tanh, lambda g, z: g * (1 - np.tanh(z)) ** 2, z)
    >>> bool(report), report.worst.index
    (False, (0,))
    >>> print(gradcheck(np.tanh, lambda g, z: g * (1 - np.tanh(z) ** 2), z))    # doctest: +ELLIPSIS
    gradcheck: passed
    array   shape ...
    x       (3,) ...
    """
    check = _Check(make_subject(function, backward, arrays), eps, rtol, atol, seed)
    return GradcheckReport("gradcheck", tuple(check.every_element(*given) for given in check.given))


def vjpcheck(
    function: Any, backward: Callable[..., Any] | None, *arrays: Arrays, seed: int = 0
) -> GradcheckReport:
    r"""Compare each gradient with a central difference along one random direction.

    The numbers compared are :math:`\langle v, J u\rangle` and :math:`\langle J^T v, u\rangle`.

    Two evaluations per array, however big it is, and a wrong gradient passes only if its error happens to be orthogonal
    to u. It says which array is wrong but not where; `gradcheck` does. The arguments are those of `gradcheck`.

    Parameters
    ----------
    function, backward, *arrays
        As in `gradcheck`.
    seed : int
        Of the upstream gradient v and of the directions u.

    Returns
    -------
    GradcheckReport
        With `expected` the numeric and `got` the analytic inner product of each array.

    Raises
    ------
    ValueError, TypeError
        As `gradcheck`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.testing import vjpcheck
    >>> x, w = np.ones((500, 400)), np.ones((400, 300))
    >>> bool(vjpcheck(np.matmul, lambda g, x, w: (g @ w.T, x.T @ g), x, w))
    True
    """
    check = _Check(make_subject(function, backward, arrays), None, None, None, seed)
    return GradcheckReport("vjpcheck", tuple(check.random_direction(*given) for given in check.given))


def assert_gradients(
    function: Any,
    backward: Callable[..., Any] | None,
    *arrays: Arrays,
    eps: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    seed: int = 0,
) -> None:
    """`gradcheck` for a test suite: silent if every gradient is right.

    Parameters
    ----------
    function, backward, *arrays, eps, rtol, atol, seed
        As in `gradcheck`.

    Raises
    ------
    AssertionError
        Names the argument and its worst element: index, expected, got; below, the report of `gradcheck`.
    ValueError, TypeError
        As `gradcheck`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.testing import assert_gradients
    >>> assert_gradients(np.square, lambda g, x: g * x, np.array([1.0, 3.0]))    # doctest: +ELLIPSIS
    Traceback (most recent call last):
    AssertionError: the gradient with respect to x is wrong at [1]: expected ..., got ...
    """
    report = gradcheck(function, backward, *arrays, eps=eps, rtol=rtol, atol=atol, seed=seed)
    if not report:
        worst = report.worst
        raise AssertionError(f"the gradient with respect to {worst.name} is wrong at {worst.place}: "
                             f"expected {worst.expected:.9g}, got {worst.got:.9g}\n\n{report}")


class _Line(NamedTuple):
    """A direction in one array: at one place or, with an Ellipsis, everywhere; and the step along it."""

    place: tuple[int, ...] | EllipsisType
    direction: Any
    step: float

    def along(self, gradient: NDArray) -> float:
        """<gradient, u>"""
        return float(np.sum(gradient[self.place] * self.direction))


class _Check:
    """One check of one subject: the outputs at the point, the upstream gradient, the analytic gradients."""

    def __init__(self, subject: Subject, eps: float | None, rtol: float | None, atol: float | None, seed: int) -> None:
        for name, value in (("eps", eps), ("rtol", rtol), ("atol", atol)):
            if value is not None and not (0 <= value < np.inf and (value or name != "eps")):
                expected = "positive" if name == "eps" else "not negative"
                raise ValueError(f"{name} must be finite and {expected}, got {value}")
        self.subject = subject
        self.eps, self.rtol, self.atol = eps, RTOL if rtol is None else rtol, atol
        self.random = np.random.default_rng(seed)
        self.output = _repeatable_output(subject)
        self.upstream = self._upstream()
        self.given = list(subject.gradients(self.upstream).items())
        self.noise = 100 * EPSILON ** (2 / 3) * float(np.linalg.norm(self.upstream * self.output))

    def _upstream(self) -> NDArray:
        if self.output.ndim == 0:
            return np.ones(())
        sign = self.random.choice([-1.0, 1.0], self.output.shape)
        return sign * self.random.uniform(0.5, 1.5, self.output.shape)

    def every_element(self, k: int, gradient: NDArray) -> ArrayCheck:
        steps = self._steps(self.subject.arrays[k])
        return self._compare(k, gradient, [_Line(place, 1.0, step) for place, step in np.ndenumerate(steps)])

    def random_direction(self, k: int, gradient: NDArray) -> ArrayCheck:
        steps = self._steps(self.subject.arrays[k])
        direction = self.random.standard_normal(steps.shape)
        return self._compare(k, gradient, [_Line(..., direction, np.max(steps, initial=STEP))])

    def _steps(self, array: NDArray) -> NDArray:
        return STEP * np.maximum(1.0, np.abs(array)) if self.eps is None else np.full(array.shape, self.eps)

    def _compare(self, k: int, gradient: NDArray, lines: list[_Line]) -> ArrayCheck:
        """The verdict on <gradient, u> for the direction u of each line through array k."""
        expected = np.array([self._central(k, line) for line in lines])
        got = np.array([line.along(gradient) for line in lines])
        largest = np.max(np.abs(expected), initial=0.0)
        atol = self.noise + 1e-8 * largest if self.atol is None else self.atol
        allowed = atol + self.rtol * np.abs(expected)
        kinks = 0
        for nudged, shorter in CLOSER:
            doubtful = np.flatnonzero(~(np.abs(expected - got) <= allowed))
            if not doubtful.size:
                break
            with self._beside() if nudged else nullcontext():
                here = self.subject.gradients(self.upstream)[k] if nudged else gradient
                for i in doubtful:
                    closer, analytic = self._central(k, lines[i], shorter), lines[i].along(here)
                    agrees = abs(closer - analytic) <= allowed[i]
                    kinks += nudged and agrees
                    # Far from the first number, it is a slope where that was a mean of slopes: say this one.
                    if agrees or abs(closer - expected[i]) > 0.01 * largest:
                        expected[i], got[i] = closer, analytic
        return self._verdict(k, lines, expected, got, allowed, int(kinks))

    def _verdict(
        self, k: int, lines: list[_Line], expected: NDArray, got: NDArray, allowed: NDArray, kinks: int
    ) -> ArrayCheck:
        name, shape, count = self.subject.names[k], self.subject.arrays[k].shape, len(lines)
        if not count:
            return ArrayCheck(name, shape, 0, 0, 0, None, 0.0, 0.0, 0.0, 0.0)
        error = np.abs(expected - got)
        right = error <= allowed    # a comparison that NaN fails
        worst = int(np.argmax(error - allowed))     # of which NaN counts as the largest
        place = lines[worst].place
        index = place if isinstance(place, tuple) else None
        numbers = (float(array[worst]) for array in (expected, got, error, allowed))
        return ArrayCheck(name, shape, count, count - int(right.sum()), kinks, index, *numbers)

    def _central(self, k: int, line: _Line, shorter: int = 1) -> float:
        """The central difference of <v, y> along a line through array k."""
        array, step = self.subject.arrays[k], line.step / shorter
        before = array[line.place].copy()
        outputs = []
        try:
            for shift in (step, -step):
                array[line.place] = before + shift * line.direction
                outputs.append(self.subject.evaluate())
        finally:
            array[line.place] = before
        for output in outputs:
            if output.shape != self.output.shape:
                raise ValueError("function must always return the same shape, "
                                 f"got {self.output.shape}, then {output.shape}")
        return float(np.sum(self.upstream * ((outputs[0] - outputs[1]) / (2 * step))))

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """All arrays moved a little at random, and put back."""
        checked = [array for array in self.subject.arrays if array.dtype.kind == "f"]
        before = [array.copy() for array in checked]
        for array in checked:
            array += NUDGE * self._steps(array) * self.random.standard_normal(array.shape)
        try:
            with np.errstate(all="ignore"):     # this may step over the edge of where the function is defined
                yield
        finally:
            for array, values in zip(checked, before, strict=True):
                array[...] = values


def _repeatable_output(subject: Subject) -> NDArray:
    """The function's output at the point, checked to be finite and the same twice."""
    output, again = subject.evaluate(), subject.evaluate()
    if not np.all(np.isfinite(output)):
        raise ValueError(f"function must return finite numbers, got {output[~np.isfinite(output)][0]} at "
                         f"{[int(i) for i in np.argwhere(~np.isfinite(output))[0]]}")
    rounding = 1e-12 * np.max(np.abs(output), initial=0.0)
    if output.shape != again.shape or not np.allclose(output, again, rtol=0, atol=rounding):
        raise ValueError("function must return the same for the same arrays, but two calls differ; fix its seed")
    return output
