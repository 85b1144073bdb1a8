"""The main job: what fastconv is for, on real data, in a minute and without a network connection.

=============  ========================================================================
`train`        trains a convolutional network on scikit-learn's handwritten digits
`gradients`    checks the gradient of every layer of that network numerically
`filters`      filters a photograph with nine classical kernels
`speed`        compares some calls with PyTorch's, where PyTorch is installed
=============  ========================================================================

They are users of the public API and read as examples of it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

PACKAGES = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "threadpoolctl": "threadpoolctl", "tqdm": "tqdm"}


def run(folder: Path, epochs: int, seed: int) -> int:
    """Run all four parts, print what they find and write the pictures.

    Parameters
    ----------
    folder : pathlib.Path
        For the pictures; made if it is not there.
    epochs, seed : int
        Of the training.

    Returns
    -------
    int
        0, or 1 if a gradient is wrong.

    Raises
    ------
    SystemExit
        If a package that only the demo needs is missing; says what to install.
    """
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise SystemExit(f"The demo needs {' and '.join(missing)}, which fastconv itself does not. "
                         f"Install with: python -m pip install {' '.join(missing)}")
    from threadpoolctl import threadpool_limits

    # OpenBLAS's threads wait by spinning; with matrices this small that gains nothing, and on a busy machine it costs tenfold.
    with threadpool_limits(1, user_api="blas"):
        return _run(folder, epochs, seed)


def _run(folder: Path, epochs: int, seed: int) -> int:
    from . import filters, gradients, speed, train

    folder.mkdir(parents=True, exist_ok=True)
    digits = train.load()
    history = train.fit(digits, epochs, seed)
    print(train.summary(history))
    train.plot(history, digits, folder / "training.png")

    print(f"\n{gradients.HEAD}")
    right = True
    for row in gradients.check(history.net, digits):
        print(row)
        right &= row.passed

    print(f"\n{filters.contact_sheet(folder / 'filters.png')}")
    print(f"\n{speed.table()}")
    print(f"\nPictures: {folder.resolve()}")
    return 0 if right else 1
