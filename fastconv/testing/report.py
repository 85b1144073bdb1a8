"""What a gradient check found, to be printed, tested for truth or read element by element."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isnan


@dataclass(frozen=True)
class ArrayCheck:
    """The verdict on the gradient with respect to one array, and its worst element.

    Attributes
    ----------
    name : str
        The argument's name in `function`, "input" or the parameter's key for a layer.
    shape : tuple of int
        Shape of the array.
    checked, wrong, kinks : int
        How many numbers were compared, how many of them were off by more than `allowed`, and how many lie on a kink of
        the function and agree beside it.
    index : tuple of int, or None
        Place of the worst element; None if the array is empty or (`vjpcheck`) a direction was checked, not an element.
    expected, got, error, allowed : float
        At the worst element: the numeric derivative, the analytic one, their distance and the distance allowed.
    """

    name: str
    shape: tuple[int, ...]
    checked: int
    wrong: int
    kinks: int
    index: tuple[int, ...] | None
    expected: float
    got: float
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.wrong == 0

    @property
    def badness(self) -> float:
        """The worst element's error in units of what is allowed, above 1 if it is wrong."""
        if self.error == 0:
            return 0.0
        return self.error / self.allowed if self.allowed and not isnan(self.error) else inf

    @property
    def place(self) -> str:
        """The worst element as Python would index it, "[0, 2]"; the empty string where there is no index."""
        return "" if self.index is None else str(list(self.index))

    def _row(self) -> list[str]:
        return [self.name, str(self.shape), str(self.checked), str(self.wrong), str(self.kinks), self.place or "-",
                f"{self.expected:.9g}", f"{self.got:.9g}", f"{self.error:.1e}", f"{self.allowed:.1e}",
                "ok" if self.passed else "WRONG"]


_HEAD = ["array", "shape", "checked", "wrong", "kinks", "worst at", "expected", "got", "error", "allowed", ""]


class GradcheckReport:
    """The result of `gradcheck` or `vjpcheck`: true if every gradient is right, and a table when printed.

    Attributes
    ----------
    title : str
        The check that was made.
    arrays : tuple of ArrayCheck
        One for each array whose gradient was given, in the order of the arguments.
    """

    def __init__(self, title: str, arrays: tuple[ArrayCheck, ...]) -> None:
        self.title = title
        self.arrays = arrays

    @property
    def passed(self) -> bool:
        """Whether every gradient is right."""
        return all(check.passed for check in self.arrays)

    @property
    def worst(self) -> ArrayCheck:
        """The array whose worst element is furthest off, measured by what is allowed there."""
        return max(self.arrays, key=lambda check: (check.wrong > 0, check.badness))

    def __bool__(self) -> bool:
        return self.passed

    def __getitem__(self, name: str) -> ArrayCheck:
        """The verdict on the array of that name."""
        for check in self.arrays:
            if check.name == name:
                return check
        raise KeyError(name)

    def __str__(self) -> str:
        wrong = sum(not check.passed for check in self.arrays)
        verdict = f"FAILED, {wrong} of {len(self.arrays)} gradients wrong" if wrong else "passed"
        rows = [_HEAD, *(check._row() for check in self.arrays)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([f"{self.title}: {verdict}", *table])

    __repr__ = __str__
