"""The command line: ``python -m fastconv demo``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {number}")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m fastconv", description="Convolution and pooling for NumPy.")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    demo = commands.add_parser(
        "demo", help="train a network on handwritten digits, check its gradients, filter a photograph, compare speed",
        description="Train a small convolutional network on scikit-learn's handwritten digits, check the gradients of all its "
                    "layers numerically, filter a photograph with nine kernels, and compare speed with PyTorch where that is "
                    "installed. Needs no network. The exit status is 1 if a gradient is wrong.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    demo.add_argument("--out", type=Path, default=Path("demo-output"), metavar="DIR", help="folder for the pictures")
    demo.add_argument("--epochs", type=_positive, default=30, metavar="N", help="passes over the training digits")
    demo.add_argument("--seed", type=_natural, default=0, metavar="S", help="of weights, batches and dropout")
    options = parser.parse_args(arguments)

    from fastconv.demo import run     # not before the arguments are known to be right

    return run(options.out, options.epochs, options.seed)


if __name__ == "__main__":
    sys.exit(main())
