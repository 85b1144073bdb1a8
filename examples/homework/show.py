"""How the homework programs print: the derivation, then by hand, fastconv and PyTorch side by side, then the checker's word.

A program that finds what should agree to differ, or an erratum that the gradient checker lets pass, ends with exit status 1.
"""

from __future__ import annotations

import textwrap

import numpy as np
from fastconv.testing import GradcheckReport

try:
    import torch
except ImportError:
    torch = None


def derivation(text: str) -> None:
    """A program's own documentation, which is the derivation."""
    print(textwrap.dedent(text).strip(), end="\n\n")


def tensor(array: np.ndarray):
    """A PyTorch tensor of the array's numbers whose gradient is wanted."""
    return torch.tensor(np.asarray(array, np.float64), requires_grad=True)


def compare(what: str, tolerance: float = 1e-12, **columns) -> None:
    """Print arrays side by side, or below one another where they are long, and hold them to each other.

    `tolerance` is relative to the largest element. A column that is None belongs to a PyTorch that is not installed.
    """
    arrays = {name: np.asarray(getattr(value, "detach", lambda value=value: value)())
              for name, value in columns.items() if value is not None}
    texts = {name: np.array2string(array, precision=6, suppress_small=True, max_line_width=70, threshold=24)
             for name, array in arrays.items()}
    print(f"{what}, {arrays[next(iter(arrays))].shape}" if arrays[next(iter(arrays))].ndim else what)
    for name, text in texts.items():
        print(textwrap.indent(text, " " * 12).replace(" " * 12, f"  {name:<10}", 1))
    if torch is None:
        print("  PyTorch   is not installed")
    first, *others = arrays.values()
    scale = np.abs(first).max() if first.size else 1
    difference = max((np.abs(first - other).max() for other in others), default=0.0)
    print(f"  they agree to {difference:.1e}\n")
    if any(first.shape != other.shape for other in others) or not difference <= tolerance * max(scale, 1e-300):
        raise SystemExit(f"{what}: they should agree to {tolerance:.0e} of {scale:.3g}")


def verdict(claim: str, report: GradcheckReport, *, erratum: bool = False) -> None:
    """What the gradient checker says of a derivation; an erratum must fail."""
    print(f"{'ERRATUM: ' if erratum else ''}{claim}")
    print(textwrap.indent(str(report), "  "), end="\n\n")
    if report.passed == erratum:
        raise SystemExit(f"{claim}: the gradient checker should have said otherwise")
