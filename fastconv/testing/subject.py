"""What can be checked, brought into one form: a function of float64 arrays, and its gradient.

Three kinds of things come in: a layer, a pair of fastconv functions, the user's own pair. Each becomes a `Subject`, and
the checks in `gradients` know nothing else.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np


class Subject:
    """A function of arrays, ``y = f(a_0, a_1, ...)``, and its vector-Jacobian product.

    Parameters
    ----------
    names : sequence of str
        What to call each argument in a report.
    arguments : sequence
        Arrays, or tuples or lists of arrays (the factors of a CP convolution). Floating arrays are copied as float64
        and are what is checked; arrays of integers (class targets, indices) and bools are constants.
    function : callable
        ``function(*arguments) -> y``
    backward : callable
        ``backward(grad_output, *arguments) -> gradients``

    Attributes
    ----------
    names : list of str
    arrays : list of ndarray
        The arguments, one by one. They belong to the subject; a check moves their elements and puts them back.
    """

    def __init__(self, names: Sequence[str], arguments: Sequence[Any],
                 function: Callable[..., Any], backward: Callable[..., Any]) -> None:
        self.names: list[str] = []
        self.arrays: list[np.ndarray] = []
        self._counts: list[int | None] = []
        self._function = function
        self._backward = backward
        for name, argument in zip(names, arguments, strict=True):
            grouped = isinstance(argument, (tuple, list)) and any(isinstance(part, np.ndarray) for part in argument)
            parts = argument if grouped else (argument,)
            self._counts.append(len(parts) if grouped else None)
            self.names += [f"{name}[{i}]" for i in range(len(parts))] if grouped else [name]
            self.arrays += [_working_copy(part, name) for part in parts]
        if not any(self._is_checked()):
            raise TypeError("there is no array of floats to differentiate by; integers and bools are constants")

    def _is_checked(self) -> list[bool]:
        return [array.dtype.kind == "f" for array in self.arrays]

    def _arguments(self) -> list[Any]:
        """Copies, in the shape of the call, so that a function that works in place or keeps its input does no harm."""
        arrays = iter([array.copy() for array in self.arrays])
        return [next(arrays) if n is None else tuple(next(arrays) for _ in range(n)) for n in self._counts]

    def evaluate(self) -> np.ndarray:
        """``f`` at the current arrays, checked to be one array of float64."""
        result = self._function(*self._arguments())
        if isinstance(result, (tuple, list)):
            raise TypeError(f"function must return one array or number, got a {type(result).__name__} of {len(result)}")
        output = np.array(result)
        if output.dtype != np.float64:
            raise TypeError(f"function must compute in float64, as its arguments are, but it returned {output.dtype}; "
                            "differences of coarser numbers say nothing")
        return output

    def gradients(self, grad_output: np.ndarray) -> dict[int, np.ndarray]:
        """The analytic gradients at the current arrays, by position in `arrays`, without those that were None."""
        # [()] turns an array of no axes into the number that a scalar's gradient is.
        result = self._backward(grad_output.copy()[()], *self._arguments())
        given = list(_leaves(result)) if isinstance(result, tuple) else [result]
        if isinstance(result, list) and len(self.arrays) > 1:
            given = result
        checked = self._is_checked()
        if len(given) == sum(checked) < len(self.arrays):
            iterator = iter(given)
            given = [next(iterator) if is_checked else None for is_checked in checked]
        if len(given) != len(self.arrays):
            raise ValueError(f"backward must return one gradient for each of the {len(self.arrays)} arrays "
                             f"({', '.join(self.names)}), got {len(given)}")
        gradients = {k: self._checked_gradient(k, gradient) for k, gradient in enumerate(given) if gradient is not None}
        if not gradients:
            raise ValueError("backward returned None for every array, so there is nothing to check")
        return gradients

    def _checked_gradient(self, k: int, gradient: Any) -> np.ndarray:
        name, array = self.names[k], self.arrays[k]
        if array.dtype.kind != "f":
            raise TypeError(f"backward returned a gradient for {name}, which is {array.dtype} and so a constant; "
                            "pass it as floats, or return None for it")
        gradient = np.asarray(gradient)
        if gradient.dtype.kind not in "fiu":
            raise TypeError(f"the gradient for {name} must be real numbers, got {gradient.dtype}")
        if gradient.shape != array.shape:
            raise ValueError(f"the gradient for {name} must have its shape {array.shape}, got {gradient.shape}")
        return gradient.astype(np.float64)


def make_subject(function: Any, backward: Any, arguments: Sequence[Any]) -> Subject:
    """The `Subject` for whatever the user gave as `function` and `backward`."""
    layer = _layer_of(function)
    if not (callable(function) or layer is not None):
        raise TypeError(f"function must be callable or a layer, got {type(function).__name__}")
    if not (callable(backward) or backward is None):
        raise TypeError(f"backward must be callable, or None for a layer's or a fastconv function's own, "
                        f"got {type(backward).__name__}")
    if not arguments:
        raise TypeError("give the arrays to differentiate by after function and backward")
    if layer is not None:
        return _layer_subject(layer, backward, arguments)
    names = _argument_names(function, len(arguments))
    public = _public(function)
    if backward is None:
        backward = getattr(_fastconv(), f"{public}_backward", None)
        if backward is None:
            raise TypeError("backward may be None only for a layer or a fastconv function that has a _backward")
    if public and _public(backward):
        return Subject(names, arguments, *_pair(function, backward, names))
    return Subject(names, arguments, function, backward)


# ---- arrays -------------------------------------------------------------------------------------


def _working_copy(argument: Any, name: str) -> np.ndarray:
    array = np.asarray(argument)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be an array of real numbers, got {type(argument).__name__} of {array.dtype}")
    return np.array(array, dtype=np.float64 if array.dtype.kind == "f" else array.dtype, order="C")


def _leaves(nested: Any) -> Iterator[Any]:
    """The elements of tuples within tuples."""
    if isinstance(nested, tuple):
        for part in nested:
            yield from _leaves(part)
    else:
        yield nested


def _argument_names(function: Callable[..., Any], count: int) -> list[str]:
    """The names of the function's first `count` positional parameters."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):     # some compiled functions tell nothing
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:count]
    rest = next((p.name for p in parameters if p.kind == p.VAR_POSITIONAL), "arrays")
    return names + [f"{rest}[{i}]" for i in range(count - len(names))]


# ---- layers -------------------------------------------------------------------------------------


def _layer_of(function: Any) -> Any:
    """The layer that `function` is, or whose `forward` it is; None if it is neither."""
    owner = getattr(function, "__self__", function) if getattr(function, "__name__", "") == "forward" else function
    has_both = all(callable(getattr(owner, name, None)) for name in ("forward", "backward"))
    return owner if has_both and not isinstance(owner, type) else None


def _inner_layers(layer: Any) -> Iterator[Any]:
    """A layer and all layers that it holds, in attributes, lists and dicts."""
    waiting, seen = [layer], set()
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if _layer_of(thing) is not None:
            yield thing
            waiting += vars(thing).values()
        elif isinstance(thing, dict):
            waiting += thing.values()
        elif isinstance(thing, (list, tuple)):
            waiting += thing


def _float64_copy(layer: Any) -> Any:
    """A copy of the layer with all parameters and statistics in float64."""
    twin = copy.deepcopy(layer)
    for inner in _inner_layers(twin):
        if getattr(inner, "dtype", None) is not None:
            inner.dtype = np.dtype(np.float64)
        for arrays in (getattr(inner, "params", {}), getattr(inner, "buffers", {})):
            for key, array in list(arrays.items()):
                if array.dtype.kind == "f" and array.dtype != np.float64:
                    arrays[key] = array.astype(np.float64)
    return twin


def _layer_subject(layer: Any, backward: Any, arguments: Sequence[Any]) -> Subject:
    """A layer as a function of its inputs and its parameters.

    Every evaluation starts from a fresh copy, so that random numbers (dropout) repeat themselves and running statistics
    (batch normalisation) stay where they were.
    """
    template = _float64_copy(layer)
    names = _argument_names(layer.forward, len(arguments))
    own = backward is None or (_layer_of(getattr(backward, "__self__", None)) is layer)
    if not own:
        return Subject(names, arguments, lambda *inputs: copy.deepcopy(template).forward(*inputs), backward)
    params = dict(getattr(template, "params", {}))
    seeded = bool(_required(layer.backward))     # a loss is the end of the chain: its backward takes no gradient

    def run(inputs_and_params: tuple[np.ndarray, ...]) -> tuple[Any, Any]:
        twin = copy.deepcopy(template)
        for key, array in zip(params, inputs_and_params[len(arguments):], strict=True):
            twin.params[key][...] = array
        return twin, twin.forward(*inputs_and_params[:len(arguments)])

    def gradients(grad_output: np.ndarray, *inputs_and_params: np.ndarray) -> tuple[Any, ...]:
        twin, _ = run(inputs_and_params)
        given = twin.backward(grad_output) if seeded else twin.backward()
        given = given if isinstance(given, tuple) else (given,)
        return (*given, *[None] * (len(arguments) - len(given)), *(twin.grads[key] for key in params))

    return Subject([*names, *params], [*arguments, *params.values()], lambda *values: run(values)[1], gradients)


# ---- pairs of fastconv functions ----------------------------------------------------------------


def _fastconv() -> Any:
    import fastconv     # not at the top: fastconv imports this package

    return fastconv


def _public(function: Any) -> str:
    """The name of a public fastconv function, or of the one inside a functools.partial; empty for any other."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", "")
    return name if name and getattr(_fastconv(), name, None) is function else ""


def _required(function: Callable[..., Any]) -> list[str]:
    """The names of the parameters that have no default."""
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [p.name for p in positional if p.default is p.empty]


def _options(function: Any) -> dict[str, Any]:
    """The keyword arguments that a functools.partial holds."""
    options: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        options = {**function.keywords, **options}
        function = function.func
    return options


def _pair(function: Any, backward: Any, names: list[str]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A fastconv function and its `_backward` as a pair over the same arrays.

    `backward` gets what it asks for by name: arrays, `input_size`, max pooling's `indices`, and the options of
    `function`, which so need to be given only once.
    """
    parameters = list(inspect.signature(backward).parameters)
    takes_indices = "indices" in parameters and "indices" not in names
    options = {**_options(function), **_options(backward)}

    def forward(*arguments: Any) -> Any:
        return function(*arguments, return_indices=True)[0] if takes_indices else function(*arguments)

    def gradients(grad_output: np.ndarray, *arguments: Any) -> Any:
        known = {**options, **dict(zip(names, arguments, strict=True)), "input_size": np.shape(arguments[0])}
        if takes_indices:
            known["indices"] = function(*arguments, return_indices=True)[1]
        result = backward(grad_output, **{name: known[name] for name in parameters[1:] if name in known})
        return tuple(getattr(result, name) for name in names) if hasattr(result, "_fields") else result

    return forward, gradients
