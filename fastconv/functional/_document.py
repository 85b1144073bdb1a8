"""Docstrings that one, two and three spatial axes share: a template whose shapes are filled in per function."""

from __future__ import annotations

from collections.abc import Callable

_NAMES = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}


def document(template: str, axes: int, **parts: str) -> Callable:
    """Give the decorated function the template as docstring, with the names of ``axes`` spatial axes filled in."""
    names = _NAMES[axes]
    kernel = ("K",) if axes == 1 else tuple("K" + name for name in names)
    out = tuple("O" + name for name in names)
    values = {
        "axes": str(axes), "size": ", ".join(names), "kernel": ", ".join(kernel), "out": ", ".join(out),
        "size1": names[-1], "kernel1": kernel[-1], "out1": out[-1],
        "p": "p" if axes == 1 else "\\mathbf{p}", "k": "k" if axes == 1 else "\\mathbf{k}",
    }
    filled = {key: part.strip().format(**values) if "{" in part else part.strip() for key, part in parts.items()}
    text = template.format(**values, **filled)

    def decorate(function: Callable) -> Callable:
        function.__doc__ = text
        return function

    return decorate
