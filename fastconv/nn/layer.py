"""The base class of all layers.

A layer is its equation. `_forward` returns the output and whatever the gradient will need; `_backward` turns the
output's gradient into the input's and fills `grads`. What every layer must do besides, namely checking what comes in,
remembering what was saved, modes and state dicts, is written here once. Layers record nothing globally: there is no
tape and no graph, and a layer that nobody refers to is gone with everything it saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from ._arguments import _REAL, real_dtype


class Layer:
    """Base class: a differentiable function with parameters.

    A new layer calls `super().__init__(dtype)`, puts its arrays into `params` (and what is saved but not trained into
    `buffers`), and defines `_forward(x) -> (y, saved)` and `_backward(grad_output, saved, input_gradient) ->
    grad_input`; the latter stores one gradient per parameter in `grads` and may return None where `input_gradient` is
    false.

    Parameters
    ----------
    dtype : dtype or None
        float32 or float64, that of the parameters, and then inputs must have it too; None for a layer without
        parameters, which takes either.

    Attributes
    ----------
    params : dict of str to ndarray
        The parameters, by PyTorch's names. Update the arrays in place or replace them, as you like.
    grads : dict of str to ndarray
        Their gradients, under the same keys, of the same shapes and dtypes; empty until `backward` and overwritten by
        it.
    buffers : dict of str to ndarray
        What belongs to the state but has no gradient (running statistics).
    training : bool
        True after `train` (the default), False after `eval`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> class Scale(nn.Layer):
    ...     '''y = s x, with one trained factor s.'''
    ...     def __init__(self):
    ...         super().__init__(np.float64)
    ...         self.params["s"] = np.array([2.0])
    ...     def _forward(self, x):
    ...         return self.params["s"] * x, x
    ...     def _backward(self, grad_output, x, input_gradient):
    ...         self.grads["s"] = np.sum(grad_output * x, keepdims=True)
    ...         return self.params["s"] * grad_output
    >>> scale = Scale()
    >>> scale(np.array([1.0, 3.0]))
    array([2., 6.])
    >>> scale.backward(np.array([1.0, 1.0])), scale.grads
    (array([2., 2.]), {'s': array([4.])})
    """

    # Whether every output is a new array that the layer itself does not need any more; a chain's next layer may then write
    # its own output over it, if it can, while the chain says so.
    _output_is_free = False
    # The same of the gradient that `_backward` returns.
    _gradient_is_free = False
    _may_overwrite = False
    # A chain asks a layer that can limit its own outputs while it writes them to do so for the ReLU that follows.
    _can_limit = False
    _limits: tuple[float, float] | None = None
    _is_limited = False
    # Whether what `backward` needs is remembered; a chain that evaluates would rather compute it again.
    _keeps = True

    def __init__(self, dtype: DTypeLike | None = None) -> None:
        self.params: MutableMapping[str, np.ndarray] = {}
        self.grads: MutableMapping[str, np.ndarray] = {}
        self.buffers: MutableMapping[str, np.ndarray] = {}
        self.training = True
        self.dtype = None if dtype is None else real_dtype(dtype)
        self._saved: Any = None
        self._output: tuple[tuple[int, ...], np.dtype] | None = None

    def _draw(self, name: str, shape: tuple[int, ...], bound: float, generator: np.random.Generator) -> None:
        """A parameter, uniform on [-bound, bound); drawn in float64, so that a seed means the same in both dtypes."""
        self.params[name] = generator.uniform(-bound, bound, shape).astype(self.dtype)

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, Any]:
        raise NotImplementedError(f"{type(self).__name__} defines no _forward")

    def _backward(self, grad_output: np.ndarray, saved: Any, input_gradient: bool) -> np.ndarray | None:
        raise NotImplementedError(f"{type(self).__name__} defines no _backward")

    def _bounds(self) -> tuple[float, float] | None:
        """What the layer is if it is nothing but the nearest number of an interval."""
        return None

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Apply the layer and remember what `backward` needs.

        Parameters
        ----------
        input : ndarray, float32 or float64
            Of the layer's dtype if it has parameters. The layer keeps references to input and output instead of
            copies, so change neither in place before `backward`.

        Returns
        -------
        ndarray of the input's dtype

        Raises
        ------
        TypeError
            If the input is of another dtype.
        ValueError
            If its shape does not fit.
        """
        x = np.asarray(input)
        if self.dtype is not None and x.dtype != self.dtype:
            raise TypeError(
                f"input of {type(self).__name__} must be {self.dtype}, as its parameters are, got {x.dtype}"
            )
        if x.dtype not in _REAL:
            raise TypeError(f"input of {type(self).__name__} must be float32 or float64, got {x.dtype}")
        self._saved = self._output = None  # the memory of the last pass serves this one
        y, saved = self._forward(x)
        if self._keeps:
            self._saved, self._output = saved, (y.shape, y.dtype)
        return y

    def __call__(self, input: np.ndarray) -> np.ndarray:
        """The same as `forward`."""
        return self.forward(input)

    def backward(self, grad_output: np.ndarray, *, input_gradient: bool = True) -> np.ndarray | None:
        """Propagate a gradient through the last `forward` and overwrite `grads`.

        Parameters
        ----------
        grad_output : ndarray
            Gradient with respect to the last output, of its shape and dtype.
        input_gradient : bool
            False leaves out the gradient with respect to the input, which the first layer of a network need not
            compute.

        Returns
        -------
        ndarray of the last input's shape and dtype, or None if `input_gradient` is False

        Raises
        ------
        RuntimeError
            If `forward` has not been called yet.
        ValueError, TypeError
            If `grad_output` has another shape or dtype than the output had.
        """
        name = type(self).__name__
        if self._output is None:
            raise RuntimeError(f"{name}.backward was called before forward: there is nothing to differentiate")
        shape, dtype = self._output
        gradient = np.asarray(grad_output)
        if gradient.shape != shape:
            raise ValueError(f"grad_output of {name} must have the output's shape {shape}, got {gradient.shape}")
        if gradient.dtype != dtype:
            raise TypeError(f"grad_output of {name} must have the output's dtype {dtype}, got {gradient.dtype}")
        if not (input_gradient or self.params):
            return None
        self.grads.clear()  # before the new ones are made, so that they find the old ones' memory
        grad_input = self._backward(gradient, self._saved, input_gradient)
        return grad_input if input_gradient else None

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode (or to evaluation if `mode` is False); returns the layer itself."""
        self.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Switch to evaluation mode: dropout off, running statistics used and left alone; returns the layer itself.

        A chain in this mode keeps nothing but its input, so that the memory of a layer's output soon serves another's;
        its `backward`, which works all the same, first applies the layers once more.
        """
        return self.train(False)

    def _all_layers(self) -> Iterator[Layer]:
        """Itself and, in a chain, the layers and chains in it."""
        yield self

    def _evaluates(self) -> bool:
        """Whether it is in evaluation mode, with all layers in it."""
        return not self.training

    def _leaves(self) -> Iterator[tuple[str, Layer]]:
        """The layers that are no chains of others, with their names: for a single layer itself, without a name."""
        yield "", self

    def _state(self) -> Iterator[tuple[str, np.ndarray]]:
        """The names and arrays, not copies, that make up the state, in PyTorch's order."""
        yield from self.params.items()
        yield from self.buffers.items()

    def state_dict(self) -> dict[str, np.ndarray]:
        """A snapshot of parameters and buffers, under the names that PyTorch gives them.

        Returns
        -------
        dict of str to ndarray
            Copies. `torch_model.load_state_dict({k: torch.from_numpy(v) for k, v in d.items()})` loads them there,
            and `numpy.savez(file, **d)` stores them.

        Examples
        --------
        >>> from fastconv import nn
        >>> {name: array.shape for name, array in nn.Sequential(nn.Linear(3, 2), nn.ReLU()).state_dict().items()}
        {'0.weight': (2, 3), '0.bias': (2,)}
        """
        return {name: array.copy() for name, array in self._state()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        """Copy a state into this layer's own arrays, all of it or, on error, nothing.

        Parameters
        ----------
        state_dict : mapping of str to array_like
            From `state_dict` here or in PyTorch (CPU tensors), or an open `.npz` file. Values are cast to this layer's
            dtype.
        strict : bool
            False ignores keys that are missing or unexpected; shapes must fit all the same.

        Raises
        ------
        ValueError
            Names the missing and unexpected keys and the shapes that differ.
        TypeError
            If a value has a dtype that cannot be stored, such as complex.
        """
        own = dict(self._state())
        values = {name: _detached(state_dict[name]) for name in own if name in state_dict}
        problems = []
        if strict and len(values) < len(own):
            problems.append(f"missing keys {[name for name in own if name not in values]}")
        unexpected = [name for name in state_dict if name not in own]
        if strict and unexpected:
            problems.append(f"unexpected keys {unexpected}")
        problems += [
            f"{name!r} has shape {value.shape}, expected {own[name].shape}"
            for name, value in values.items()
            if value.shape != own[name].shape
        ]
        if problems:
            raise ValueError(f"state_dict does not fit {type(self).__name__}: " + "; ".join(problems))
        for name, value in values.items():
            if not np.can_cast(value.dtype, own[name].dtype, "same_kind"):
                raise TypeError(f"state_dict: {name!r} has dtype {value.dtype}, expected {own[name].dtype}")
        for name, value in values.items():
            own[name][...] = value

    def __repr__(self) -> str:
        """The constructor call, without the arguments that have their defaults."""
        from inspect import signature  # slow to import and rarely needed

        shown = []
        for name, parameter in signature(type(self)).parameters.items():
            value = name in self.params if name == "bias" else getattr(self, name, parameter.default)
            if value != parameter.default:
                shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __getstate__(self) -> dict[str, Any]:
        """What pickle and copy take: everything but the arrays saved for `backward`."""
        return {**self.__dict__, "_saved": None, "_output": None}


def _detached(value: Any) -> np.ndarray:
    """`value` as an array; a tensor that requires a gradient (a PyTorch parameter) is detached first."""
    return np.asarray(value.detach() if hasattr(value, "detach") else value)
