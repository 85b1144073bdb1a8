"""A convolutional network learns to read handwritten digits.

The network is a homework classic: convolution, ReLU and max pooling, twice; a dense layer, dropout, a second dense layer and
log-softmax, trained on the negative log-likelihood by stochastic gradient descent with momentum, its learning rate decaying
exponentially. Of the 1797 digits of 8x8 pixels, 1437 train it and 360 test it; which ones does not depend on the seed. Every time
a training digit is shown it is shifted at random by up to a pixel, so that it cannot be learnt by heart.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fastconv import nn, optim

TEST_DIGITS = 360
BATCH = 32
LEARNING_RATE = 0.03
DECAY = 0.95    # of the learning rate, per epoch
GOAL = 0.98     # test accuracy that the default settings reach


class Digits(NamedTuple):
    """Images of shape (N, 1, 8, 8), float32, and labels of shape (N,), int64."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


class History(NamedTuple):
    """The trained network and how it came about; losses and accuracies are those at the end of each epoch."""

    net: nn.Sequential
    batch_losses: list[float]
    train_losses: list[float]
    test_losses: list[float]
    train_accuracies: list[float]
    test_accuracies: list[float]
    seconds: float


def load() -> Digits:
    """scikit-learn's digits, split at random but always alike, with the training images' mean 0 and standard deviation 1."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.images))
    test, train = order[:TEST_DIGITS], order[TEST_DIGITS:]
    images = bunch.images[:, np.newaxis]
    images = (images - images[train].mean()) / images[train].std()
    images = images.astype(np.float32)
    return Digits(images[train], bunch.target[train], images[test], bunch.target[test])


def network(generator: np.random.Generator) -> nn.Sequential:
    """The network, for images of shape (N, 1, 8, 8); its output is the logarithm of each class's probability, (N, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, seed=generator), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, seed=generator), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 2 * 2, 1024, seed=generator), nn.ReLU(), nn.Dropout(0.5, seed=generator),
        nn.Linear(1024, 10, seed=generator), nn.LogSoftmax(1))


class Shifted:
    """Images that come back shifted by -1, 0 or 1 pixel along each axis, each by its own random amount."""

    def __init__(self, images: np.ndarray, generator: np.random.Generator) -> None:
        height, width = images.shape[2:]
        padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
        self._shifts = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))    # (N, 1, 3, 3, H, W)
        self._generator = generator

    def __getitem__(self, batch: np.ndarray) -> np.ndarray:
        down, right = self._generator.integers(3, size=(2, len(batch)))
        return self._shifts[batch, :, down, right]


def evaluate(net: nn.Sequential, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Loss and accuracy in evaluation mode, that is without dropout."""
    net.eval()
    scores = net(images)
    net.train()
    return nn.NLLLoss()(scores, labels), float(np.mean(scores.argmax(axis=1) == labels))


def fit(digits: Digits, epochs: int, seed: int) -> History:
    """Train a new network, showing a progress bar."""
    from tqdm import tqdm

    generator = np.random.default_rng(seed)
    net, criterion = network(generator), nn.NLLLoss()
    images = Shifted(digits.train_images, generator)
    optimizer = optim.SGD(net, lr=LEARNING_RATE, momentum=0.9)
    history = History(net, [], [], [], [], [], 0.0)
    start = time.perf_counter()
    count = len(digits.train_labels)
    interval = 0.1 if sys.stderr.isatty() else 10    # a log file needs no animation
    with tqdm(total=epochs * -(-count // BATCH), desc="training", unit="batch", mininterval=interval) as bar:
        for _ in range(epochs):
            order = generator.permutation(count)
            for first in range(0, count, BATCH):
                batch = order[first:first + BATCH]
                loss = criterion(net(images[batch]), digits.train_labels[batch])
                net.backward(criterion.backward(), input_gradient=False)
                optimizer.step()
                history.batch_losses.append(loss)
                bar.update()
            optimizer.lr *= DECAY
            train_loss, train_accuracy = evaluate(net, digits.train_images, digits.train_labels)
            test_loss, test_accuracy = evaluate(net, digits.test_images, digits.test_labels)
            history.train_losses.append(train_loss)
            history.test_losses.append(test_loss)
            history.train_accuracies.append(train_accuracy)
            history.test_accuracies.append(test_accuracy)
            bar.set_postfix_str(f"loss {train_loss:.4f}, test accuracy {test_accuracy:.1%}", refresh=False)
    return history._replace(seconds=time.perf_counter() - start)


def summary(history: History) -> str:
    """What was reached, in a sentence."""
    accuracy = history.test_accuracies[-1]
    return (f"{accuracy:.1%} of {TEST_DIGITS} test digits read correctly after {len(history.test_accuracies)} epochs, "
            f"{history.seconds:.1f} s ({'the goal is' if accuracy >= GOAL else 'below the goal of'} {GOAL:.0%}).")


def plot(history: History, digits: Digits, path: Path) -> None:
    """Write a picture: the loss, the accuracy, and test digits that are still misread."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[3, 1])
    upper.suptitle(summary(history))
    loss, accuracy = upper.subplots(1, 2)
    epochs = np.arange(1, len(history.test_losses) + 1)
    batches = np.arange(1, len(history.batch_losses) + 1) * len(epochs) / len(history.batch_losses)
    loss.semilogy(batches, history.batch_losses, color="0.8", linewidth=0.5, label="each batch, with dropout")
    loss.semilogy(epochs, history.train_losses, "o-", markersize=3, label="training digits")
    loss.semilogy(epochs, history.test_losses, "s-", markersize=3, label="test digits")
    loss.set(xlabel="epoch", ylabel="negative log-likelihood", title="Loss")
    loss.legend()
    accuracy.plot(epochs, 100 * np.array(history.train_accuracies), "o-", markersize=3, label="training digits")
    accuracy.plot(epochs, 100 * np.array(history.test_accuracies), "s-", markersize=3, label="test digits")
    accuracy.axhline(100 * GOAL, color="0.5", linestyle=":", label=f"goal, {GOAL:.0%}")
    accuracy.set(xlabel="epoch", ylabel="read correctly, %", title="Accuracy")
    accuracy.legend(loc="lower right")
    for axes in (loss, accuracy):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    _plot_misread(history.net, digits, lower)
    figure.savefig(path, dpi=150)


def _plot_misread(net: nn.Sequential, digits: Digits, figure) -> None:
    """The first eight test digits that the network misreads."""
    net.eval()
    read = net(digits.test_images).argmax(axis=1)
    net.train()
    misread = np.flatnonzero(read != digits.test_labels)
    figure.suptitle(f"Test digits misread: {len(misread)} of {len(read)}" + ("; the first eight" if len(misread) > 8 else ""))
    for axes, i in zip(figure.subplots(1, 8, squeeze=False)[0], [*misread[:8], *[None] * 8]):
        axes.axis("off")
        if i is not None:
            axes.imshow(digits.test_images[i, 0], cmap="gray_r")
            axes.set_title(f"{digits.test_labels[i]} read as {read[i]}", fontsize=9)
