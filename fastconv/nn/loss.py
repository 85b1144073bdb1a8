"""Loss functions: ``criterion(input, target)`` is a Python float, ``criterion.backward()`` the input's gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arguments import _REAL
from .activation import log_softmax, logistic


class _Loss:
    """What all losses share: the reduction, and the order of calls.

    A loss defines `_forward(x, target) -> (terms, saved)`, the terms still to be added up, and `_backward(saved,
    scale)`, the gradient of their sum times `scale`.
    """

    def __init__(self, reduction: str = "mean") -> None:
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
        self.reduction = reduction
        self._saved: tuple[Any, float] | None = None

    def _forward(self, x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, Any]:
        raise NotImplementedError

    def _backward(self, saved: Any, scale: float) -> np.ndarray:
        raise NotImplementedError

    def forward(self, input: np.ndarray, target: np.ndarray) -> float:
        """The loss.

        Parameters
        ----------
        input : ndarray, float32 or float64
            What the network returned.
        target : ndarray
            What it should have returned; see the class for shape and dtype.

        Returns
        -------
        float
            Mean (NaN if there is nothing to average) or sum.

        Raises
        ------
        ValueError
            If shapes do not fit or targets are out of range.
        TypeError
            If dtypes do not fit.
        """
        x = np.asarray(input)
        if x.dtype not in _REAL:
            raise TypeError(f"input of {type(self).__name__} must be float32 or float64, got {x.dtype}")
        terms, saved = self._forward(x, np.asarray(target))
        total = float(terms.sum(dtype=np.float64))
        if self.reduction == "sum":
            self._saved = saved, 1.0
            return total
        self._saved = saved, 1 / max(terms.size, 1)
        return total / terms.size if terms.size else float("nan")

    def __call__(self, input: np.ndarray, target: np.ndarray) -> float:
        """The same as `forward`."""
        return self.forward(input, target)

    def backward(self) -> np.ndarray:
        """Gradient of the last loss with respect to its input.

        Returns
        -------
        ndarray of the input's shape and dtype

        Raises
        ------
        RuntimeError
            If no loss has been computed yet.
        """
        if self._saved is None:
            raise RuntimeError(
                f"{type(self).__name__}.backward was called before the loss: there is nothing to differentiate"
            )
        return self._backward(*self._saved)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(reduction={self.reduction!r})"


def _class_indices(x: np.ndarray, target: np.ndarray, name: str) -> tuple[int, np.ndarray]:
    """The class axis of `x`, and `target` with that axis of length 1, checked."""
    if x.ndim == 0:
        raise ValueError(f"input of {name} must have shape (N, C), (C,) or (N, C, ...), got ()")
    axis = min(x.ndim - 1, 1)
    classes = x.shape[axis]
    expected = x.shape[:axis] + x.shape[axis + 1 :]
    if target.dtype.kind not in "iu":
        raise TypeError(f"target of {name} must hold integer class indices, got {target.dtype}")
    if target.shape != expected:
        raise ValueError(
            f"target of {name} must have shape {expected} for an input of shape {x.shape}, got {target.shape}"
        )
    outside = (target < 0) | (target >= classes)
    if outside.any():
        raise ValueError(f"target of {name} must be in 0 ... {classes - 1}, got {target[outside].flat[0]}")
    return axis, np.expand_dims(target, axis)


def _same_form(x: np.ndarray, target: np.ndarray, name: str) -> None:
    """Hold a target of real numbers to the input's shape and dtype."""
    if target.shape != x.shape:
        raise ValueError(f"target of {name} must have the input's shape {x.shape}, got {target.shape}")
    if target.dtype != x.dtype:
        raise TypeError(f"target of {name} must have the input's dtype {x.dtype}, got {target.dtype}")


class CrossEntropyLoss(_Loss):
    """Cross-entropy of softmax, ``-log(exp(x_t) / sum_j exp(x_j))`` for target class t.

    Gradient: ``softmax(x) - onehot(t)``.
    Input ``(N, C)``, ``(C,)`` or ``(N, C, d1, ...)``, the unnormalised logits; target without the class axis C.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        Over all targets.

    Raises
    ------
    ValueError, TypeError
        On a call, for targets that are out of range, of another shape, or not integer.

    References
    ----------
    Goodfellow, Bengio and Courville, "Deep learning", 2016, section 6.2.2.3.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> criterion = nn.CrossEntropyLoss()
    >>> round(criterion(np.array([[0.0, 0.0], [1000.0, 0.0]]), [1, 0]), 6)   # the mean of log 2 and 0
    0.346574
    >>> criterion.backward()
    array([[ 0.25, -0.25],
           [ 0.  ,  0.  ]])
    """

    def _forward(self, x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, Any]:
        axis, indices = _class_indices(x, target, "CrossEntropyLoss")
        log_p = log_softmax(x, axis)
        return -np.take_along_axis(log_p, indices, axis), (log_p, indices, axis)

    def _backward(self, saved: Any, scale: float) -> np.ndarray:
        log_p, indices, axis = saved
        gradient = np.exp(log_p)
        np.put_along_axis(gradient, indices, np.take_along_axis(gradient, indices, axis) - 1, axis)
        gradient *= scale
        return gradient


class NLLLoss(_Loss):
    """Negative log-likelihood, ``-x_t`` for target class t and logarithms x of probabilities.

    Gradient: ``-onehot(t)``.
    Input ``(N, C)``, ``(C,)`` or ``(N, C, d1, ...)``, as `LogSoftmax` returns it; target without the class axis C.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        Over all targets.

    Raises
    ------
    ValueError, TypeError
        On a call, for targets that are out of range, of another shape, or not integer.

    References
    ----------
    Goodfellow, Bengio and Courville, "Deep learning", 2016, section 5.5.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> criterion = nn.NLLLoss()
    >>> criterion(np.array([[-1.0, -2.0], [-3.0, -4.0]]), [1, 0])
    2.5
    >>> criterion.backward()
    array([[ 0. , -0.5],
           [-0.5,  0. ]])
    """

    def _forward(self, x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, Any]:
        axis, indices = _class_indices(x, target, "NLLLoss")
        return -np.take_along_axis(x, indices, axis), (x, indices, axis)

    def _backward(self, saved: Any, scale: float) -> np.ndarray:
        x, indices, axis = saved
        gradient = np.zeros_like(x)
        np.put_along_axis(gradient, indices, -scale, axis)
        return gradient


class MSELoss(_Loss):
    """Squared error, ``(x - t)^2``, divided by the number of elements for the mean.

    Gradient: ``2 (x - t)``, divided likewise.
    Input and target of one shape and one dtype; nothing is broadcast.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        Over all elements.

    Raises
    ------
    ValueError, TypeError
        On a call, for a target of another shape or dtype.

    References
    ----------
    Goodfellow, Bengio and Courville, "Deep learning", 2016, section 5.1.4.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> criterion = nn.MSELoss(reduction="sum")
    >>> criterion(np.array([1.0, 2.0]), np.array([1.0, 5.0]))
    9.0
    >>> criterion.backward()
    array([ 0., -6.])
    """

    def _forward(self, x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, Any]:
        _same_form(x, target, "MSELoss")
        difference = x - target
        return difference * difference, difference

    def _backward(self, difference: np.ndarray, scale: float) -> np.ndarray:
        return difference * (2 * scale)


class BCEWithLogitsLoss(_Loss):
    """Binary cross-entropy of the logistic function, ``-t log p - (1 - t) log(1 - p)`` with ``p = 1 / (1 + exp(-x))``.

    Gradient: ``p - t``. Computed as ``max(x, 0) - x t + log(1 + exp(-|x|))``, in which nothing overflows.
    Input and target of one shape and one dtype, targets from 0 to 1; nothing is broadcast.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        Over all elements.

    Raises
    ------
    ValueError, TypeError
        On a call, for a target of another shape or dtype.

    References
    ----------
    Goodfellow, Bengio and Courville, "Deep learning", 2016, section 6.2.2.2.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> criterion = nn.BCEWithLogitsLoss(reduction="sum")
    >>> criterion(np.array([1000.0, 1000.0]), np.array([1.0, 0.0]))
    1000.0
    >>> criterion.backward()
    array([0., 1.])
    """

    def _forward(self, x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, Any]:
        _same_form(x, target, "BCEWithLogitsLoss")
        return np.maximum(x, 0) - x * target + np.log1p(np.exp(-np.abs(x))), (x, target)

    def _backward(self, saved: Any, scale: float) -> np.ndarray:
        x, target = saved
        return (logistic(x) - target) * x.dtype.type(scale)


class MultiMarginLoss(_Loss):
    """Hinge loss of several classes, the linear SVM's: ``sum over j != t of max(0, margin - x_t + x_j)^p / C``.

    Gradient: with ``h_j = p max(0, margin - x_t + x_j)^(p-1) / C`` for j != t where that maximum is positive, and else
    0: ``h_j`` for j != t and ``-sum of all h`` for t.
    Input ``(N, C)`` or ``(C,)``, scores without any softmax; target without the class axis C.

    Parameters
    ----------
    p : {1, 2}
    margin : float
    reduction : {"mean", "sum"}
        Over all targets.

    Raises
    ------
    ValueError, TypeError
        For another `p`; on a call, for targets that are out of range, of another shape, or not integer.

    References
    ----------
    Crammer and Singer, "On the algorithmic implementation of multiclass kernel-based vector machines", JMLR 2, 2001;
    in this form Weston and Watkins, "Support vector machines for multi-class pattern recognition", ESANN 1999.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> criterion = nn.MultiMarginLoss()
    >>> criterion(np.array([[3.0, 2.5, 0.0, 1.0]]), [0])    # (0 + 0.5 + 0 + 0) / 4
    0.125
    >>> criterion.backward()
    array([[-0.25,  0.25,  0.  ,  0.  ]])
    """

    def __init__(self, p: int = 1, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        if p not in (1, 2):
            raise ValueError(f"p must be 1 or 2, got {p!r}")
        self.p = p
        self.margin = float(margin)

    def _forward(self, x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, Any]:
        if x.ndim > 2:
            raise ValueError(f"input of MultiMarginLoss must have shape (N, C) or (C,), got {x.shape}")
        axis, indices = _class_indices(x, target, "MultiMarginLoss")
        excess = np.maximum(x - np.take_along_axis(x, indices, axis) + x.dtype.type(self.margin), 0)
        np.put_along_axis(excess, indices, 0, axis)
        return (excess**self.p).sum(axis=axis) / x.shape[axis], (excess, indices, axis)

    def _backward(self, saved: Any, scale: float) -> np.ndarray:
        excess, indices, axis = saved
        slope = (excess > 0).astype(excess.dtype) if self.p == 1 else 2 * excess
        slope *= scale / excess.shape[axis]
        np.put_along_axis(slope, indices, -slope.sum(axis=axis, keepdims=True), axis)
        return slope
