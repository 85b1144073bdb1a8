"""A training run in one file, from which it goes on to the same bits.

The file is a `.npz`: arrays as they are, and one string of JSON for all that is no array. Nothing is pickled, so a
checkpoint from somebody else can be opened without running his code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from fastconv.nn import Layer

FORMAT = "fastconv checkpoint 1"
PLAIN = (bool, int, float, str, type(None))


def save_checkpoint(path: str | PathLike[str], /, **objects: Any) -> None:
    """Write the state of networks, optimisers, schedules, random generators and plain values to one file.

    Parameters
    ----------
    path : path-like
        Of the file; by custom it ends in ".npz". What was there is replaced only when the new file is complete.
    **objects
        By names of your own: layers (with parameters, buffers and the state of dropout's generators), anything with
        `state_dict` and `load_state_dict`, `numpy.random.Generator`, and numbers, strings, None, arrays, and dicts and
        lists of them.

    Raises
    ------
    TypeError
        For an object that is none of these.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> from fastconv import nn, optim
    >>> net = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5, seed=1))
    >>> optimizer, generator = optim.SGD(net, momentum=0.9), np.random.default_rng(0)
    >>> path = os.path.join(tempfile.mkdtemp(), "run.npz")
    >>> optim.save_checkpoint(path, net=net, optimizer=optimizer, generator=generator, epoch=3)
    >>> a = generator.random()
    >>> optim.load_checkpoint(path, net=net, optimizer=optimizer, generator=generator)
    {'epoch': 3}
    >>> generator.random() == a
    True
    """
    arrays: dict[str, np.ndarray] = {}
    plain = {name: _take_apart(_state_of(value), name, arrays) for name, value in objects.items()}
    document = json.dumps({"format": FORMAT, "objects": plain})
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    try:
        with open(partial, "wb") as file:
            np.savez(file, **arrays, json=np.array(document))
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(path: str | PathLike[str], /, **objects: Any) -> dict[str, Any]:
    """Put the states of a file back into objects that were made as those that were saved.

    Parameters
    ----------
    path : path-like
        From `save_checkpoint`.
    **objects
        Those to fill, by the names under which they were saved.

    Returns
    -------
    dict
        What the file holds besides, by name: the plain values.

    Raises
    ------
    ValueError
        If the file is no checkpoint, has nothing under a name, or does not fit an object.
    OSError
        If it cannot be read.
    """
    try:
        with open(path, "rb") as binary, np.load(binary, allow_pickle=False) as file:
            document = json.loads(str(file["json"]))
            arrays = {name: file[name] for name in file.files if name != "json"}
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} is no checkpoint of fastconv: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{path} is no checkpoint of fastconv: it does not say {FORMAT!r}")
    states = {name: _put_together(value, arrays) for name, value in document["objects"].items()}
    missing = [name for name in objects if name not in states]
    if missing:
        raise ValueError(f"{path} holds nothing named {', '.join(missing)}, only {', '.join(states)}")
    for name, value in objects.items():
        _restore(name, value, states.pop(name))
    return states


def _generators(net: Layer) -> Iterator[tuple[str, np.random.Generator]]:
    """The random generators of a network's layers, by the layers' names."""
    for name, layer in net._leaves():
        generator = getattr(layer, "_generator", None)
        if generator is not None:
            yield name, generator


def _state_of(value: Any) -> Any:
    """What there is to save of an object, in dicts, arrays and plain values."""
    if isinstance(value, Layer):
        random = {name: generator.bit_generator.state for name, generator in _generators(value)}
        return {"state": value.state_dict(), "random": random}
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    return value.state_dict() if hasattr(value, "state_dict") else value


def _restore(name: str, value: Any, state: Any) -> None:
    """Fill one object."""
    if isinstance(value, Layer):
        generators = dict(_generators(value))
        if set(generators) != set(state["random"]):
            raise ValueError(f"{name} has random layers {sorted(generators)}, the checkpoint {sorted(state['random'])}")
        value.load_state_dict(state["state"])
        for layer, generator in generators.items():
            generator.bit_generator.state = state["random"][layer]
    elif isinstance(value, np.random.Generator):
        value.bit_generator.state = state
    elif hasattr(value, "load_state_dict"):
        value.load_state_dict(state)
    else:
        raise TypeError(f"{name} must be a layer, a generator or have load_state_dict, got {type(value).__name__}")


def _take_apart(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """`value` for JSON, its arrays moved to `arrays` and replaced by ``{"array": their place there}``.

    Other mappings become ``{"dict": ...}``, so that no key of theirs can be mistaken.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        arrays[f"{len(arrays)}"] = np.asarray(value)
        return {"array": f"{len(arrays) - 1}"}
    if isinstance(value, Mapping):
        return {"dict": {key: _take_apart(part, f"{name}.{key}", arrays) for key, part in value.items()}}
    if isinstance(value, (list, tuple)):
        return [_take_apart(part, f"{name}[{index}]", arrays) for index, part in enumerate(value)]
    raise TypeError(f"{name} cannot be saved: it is a {type(value).__name__} without state_dict")


def _put_together(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of `_take_apart`; tuples come back as lists."""
    if isinstance(value, list):
        return [_put_together(part, arrays) for part in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    return {key: _put_together(part, arrays) for key, part in value["dict"].items()}
