"""The examples' data: read where the user has it, never downloaded; without it stand-ins, which say that they are."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Training and test examples, float32, and their classes, int64."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    name: str

    def first(self, count: int | None) -> Split:
        """Only the first examples of both parts, or all."""
        return self if count is None else Split(*(array[:count] for array in self[:4]), self.name)


def normalized(train_x: np.ndarray, train_y, test_x: np.ndarray, test_y, name: str) -> Split:
    """Both parts with the training examples' mean 0 and deviation 1, per channel or feature."""
    axes = (0, *range(2, train_x.ndim))
    mean = train_x.mean(axis=axes, keepdims=True, dtype=np.float64)
    deviation = train_x.std(axis=axes, keepdims=True, dtype=np.float64) + 1e-8
    parts = [((x - mean) / deviation).astype(np.float32) for x in (train_x, test_x)]
    return Split(parts[0], np.asarray(train_y, np.int64), parts[1], np.asarray(test_y, np.int64), name)


def need(path: Path) -> Path:
    """The path, if there is such a file."""
    if not path.is_file():
        raise SystemExit(f"error: {path} is not there. Without --data the program runs on a stand-in.")
    return path


class _Arrays(pickle.Unpickler):
    """Opens CIFAR-10's batches, which are pickled dicts of NumPy arrays, and nothing that could do harm."""

    def find_class(self, module: str, name: str):
        if (module.split(".")[0], name) in {("numpy", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"),
                                            ("_codecs", "encode")}:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not belong into a batch of CIFAR-10")


def cifar10(folder: Path | None, seed: int = 0) -> Split:
    """CIFAR-10 from its unpacked python archive (data_batch_1 ... data_batch_5, test_batch), or a stand-in."""
    if folder is None:
        return photograph_patches(seed)
    parts = []
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        path = need(folder / name)
        try:
            with open(path, "rb") as file:
                content = _Arrays(file, encoding="bytes").load()
            parts.append((content[b"data"].reshape(-1, 3, 32, 32), content[b"labels"]))
        except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise SystemExit(f"error: {path} is no batch of CIFAR-10's python archive: {error}") from None
    train_x, train_y = np.concatenate([x for x, _ in parts[:-1]]), np.concatenate([y for _, y in parts[:-1]])
    return normalized(train_x, train_y, *parts[-1], "CIFAR-10")


def photograph_patches(seed: int, train: int = 4000, test: int = 1000) -> Split:
    """Patches of 32x32 from ten regions, 128 pixels wide, of scikit-learn's two photographs; the region is the class.

    Test patches come from other places of the same regions and may overlap with training patches.
    """
    from sklearn.datasets import load_sample_images

    generator = np.random.default_rng(seed)
    photographs = [picture.transpose(2, 0, 1) for picture in load_sample_images().images]    # (3, 427, 640)
    labels = generator.integers(10, size=train + test)
    patches = np.empty((train + test, 3, 32, 32), np.uint8)
    for patch, label in zip(patches, labels, strict=True):
        top, left = generator.integers(427 - 31), generator.integers(128 - 31) + 128 * (label % 5)
        patch[...] = photographs[label // 5][:, top : top + 32, left : left + 32]
    name = "a stand-in for CIFAR-10: patches of two photographs, the class being where they were cut"
    return normalized(patches[:train], labels[:train], patches[train:], labels[train:], name)


def mnist(folder: Path | None, seed: int = 0) -> Split:
    """MNIST or Fashion-MNIST from its four idx files, gzipped or not, or a stand-in."""
    if folder is None:
        return enlarged_digits(seed)
    arrays = []
    for part, what, axes in [(p, w, a) for p in ("train", "t10k") for w, a in (("images", 3), ("labels", 1))]:
        plain = folder / f"{part}-{what}-idx{axes}-ubyte"
        zipped = plain.with_name(plain.name + ".gz")
        arrays.append(idx(zipped if zipped.is_file() else need(plain), axes))
    train_x, train_y, test_x, test_y = arrays
    return normalized(train_x[:, None], train_y, test_x[:, None], test_y, f"idx files of {folder}")


def idx(path: Path, axes: int) -> np.ndarray:
    """An idx file of bytes: two zeros, the type 8, the number of axes, their sizes in big-endian, the elements."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        try:
            content = file.read()
        except (OSError, EOFError) as error:
            raise SystemExit(f"error: {path} cannot be read: {error}") from None
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) < 4 + 4 * axes:
        raise SystemExit(f"error: {path} is no idx file of bytes with {axes} axes; it begins with {content[:4]!r}")
    sizes = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    elements = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    if elements.size != np.prod(sizes, dtype=np.int64):
        raise SystemExit(f"error: {path} should hold {'x'.join(map(str, sizes))} bytes, but holds {elements.size}")
    return elements.reshape(sizes)


def enlarged_digits(seed: int) -> Split:
    """scikit-learn's 1797 digits of 8x8, enlarged to 24x24 with a frame, as large as MNIST's."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.pad(bunch.images.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))[:, None]
    order = np.random.default_rng(seed).permutation(len(images))
    train, test = order[360:], order[:360]
    name = "a stand-in for MNIST: scikit-learn's digits, enlarged to 28x28"
    return normalized(images[train], bunch.target[train], images[test], bunch.target[test], name)


def table(name: str, seed: int = 0, held_out: float = 0.25) -> Split:
    """scikit-learn's "iris" or "breast_cancer": features (N, F) and classes."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    order = np.random.default_rng(seed).permutation(len(bunch.target))
    cut = int(held_out * len(order))
    test, train = order[:cut], order[cut:]
    return normalized(bunch.data[train], bunch.target[train], bunch.data[test], bunch.target[test], name)
