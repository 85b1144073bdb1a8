"""What the example programs share: options, a progress bar, the training loop, pictures of curves."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from datasets import Split
from fastconv import nn, optim


def fail(message: str) -> NoReturn:
    """Stop with one line on standard error and exit status 1."""
    raise SystemExit(f"error: {message}")


def at_least(minimum: int) -> Callable[[str], int]:
    """An integer option with a lower bound."""

    def integer(text: str) -> int:
        number = int(text)
        if number < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {number}")
        return number

    return integer


def parser(description: str, epochs: int) -> argparse.ArgumentParser:
    """The options that all training programs have."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    result.add_argument("--epochs", type=at_least(1), default=epochs, metavar="N", help="passes over the training data")
    result.add_argument("--seed", type=at_least(0), default=0, metavar="S", help="of weights, batches and dropout")
    result.add_argument("--out", type=Path, default=Path("."), metavar="DIR", help="folder for the picture")
    result.add_argument("--limit", type=at_least(1), metavar="N", help="take only the first N training and test examples")
    return result


class Bar:
    """A progress bar: tqdm's where that is installed, else a line of our own; in a log file, one line at the end."""

    def __init__(self, total: int, label: str) -> None:
        self._total, self._label, self._done, self._note, self._shown = total, label, 0, "", 0.0
        try:
            from tqdm import tqdm
        except ImportError:
            self._tqdm = None
        else:
            interval = 0.1 if sys.stderr.isatty() else 30
            self._tqdm = tqdm(total=total, desc=label, unit="batch", mininterval=interval)

    def advance(self) -> None:
        """One batch more."""
        self._done += 1
        if self._tqdm is not None:
            self._tqdm.update()
        elif sys.stderr.isatty() and time.monotonic() > self._shown + 0.1:
            self._show()

    def note(self, text: str) -> None:
        """Words to stand beside the bar."""
        self._note = text
        if self._tqdm is not None:
            self._tqdm.set_postfix_str(text, refresh=False)

    def _show(self, end: str = "") -> None:
        filled = 30 * self._done // max(self._total, 1)
        bar = "#" * filled + "." * (30 - filled)
        print(f"\r{self._label} [{bar}] {self._done}/{self._total} {self._note}", end=end, file=sys.stderr, flush=True)
        self._shown = time.monotonic()

    def close(self) -> None:
        if self._tqdm is not None:
            self._tqdm.close()
        else:
            self._show("\n")


class History(NamedTuple):
    """Loss of every batch; loss and accuracy on both parts after every epoch; the time it took."""

    batch_losses: list[float]
    train_losses: list[float]
    test_losses: list[float]
    train_accuracies: list[float]
    test_accuracies: list[float]
    seconds: list[float]

    def __str__(self) -> str:
        best = int(np.argmin(self.test_losses))
        return (f"test loss {self.test_losses[best]:.4f}, accuracy {self.test_accuracies[best]:.1%} after epoch {best + 1} "
                f"of {len(self.test_losses)}; training loss {self.train_losses[best]:.4f}; {sum(self.seconds):.1f} s")


def batches(count: int, size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Indices of all examples in a random order, in parts; a last part of one example is left out (batch norm needs two)."""
    order = generator.permutation(count)
    for first in range(0, count, size):
        part = order[first : first + size]
        if len(part) > 1 or size == 1:
            yield part


def evaluate(net: nn.Layer, criterion, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Mean loss and accuracy in evaluation mode, in batches of 256."""
    net.eval()
    loss = right = 0.0
    for first in range(0, len(x), 256):
        scores, target = net(x[first : first + 256]), y[first : first + 256]
        loss += criterion(scores, target) * len(target)
        right += float((scores.argmax(axis=1) == target).sum())
    net.train()
    return loss / len(x), right / len(x)


def fit(net: nn.Layer, data: Split, criterion, optimizer: optim.Optimizer, *, epochs: int, batch_size: int,
        generator: np.random.Generator, label: str = "training", schedule: optim.Schedule | None = None,
        stopping: optim.EarlyStopping | None = None, augment: Callable | None = None, history: History | None = None,
        after_epoch: Callable[[History], None] | None = None) -> History:
    """Train a network; with `stopping`, until it says so, and then with the best weights."""
    history = history or History([], [], [], [], [], [])
    per_epoch = -(-len(data.train_y) // batch_size)
    bar = Bar((epochs - len(history.test_losses)) * per_epoch, label)
    while len(history.test_losses) < epochs:
        start = time.perf_counter()
        for batch in batches(len(data.train_y), batch_size, generator):
            x = data.train_x[batch]
            loss = criterion(net(x if augment is None else augment(x, generator)), data.train_y[batch])
            net.backward(criterion.backward(), input_gradient=False)
            optimizer.step()
            history.batch_losses.append(loss + optimizer.penalty() if optimizer.l1 or optimizer.weight_decay else loss)
            bar.advance()
        history.seconds.append(time.perf_counter() - start)
        train, test = (evaluate(net, criterion, *part) for part in (data[:2], data[2:4]))
        for column, value in zip(history[1:5], (train[0], test[0], train[1], test[1]), strict=True):
            column.append(value)
        bar.note(f"loss {train[0]:.4f}, test {test[0]:.4f}, accuracy {test[1]:.1%}")
        if schedule is not None:
            schedule.step()
        if stopping is not None and stopping.update(test[0]):
            break
        if after_epoch is not None:
            after_epoch(history)
    if stopping is not None:
        stopping.restore()
    bar.close()
    return history


def plot(histories: dict[str, History], title: str, path: Path) -> str:
    """Draw loss and accuracy of one or several runs; returns a sentence that says where, or why not."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "No picture: matplotlib is not installed."
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    figure.suptitle(title)
    for number, (name, history) in enumerate(histories.items()):
        epochs, colour = np.arange(1, len(history.test_losses) + 1), f"C{number}"
        loss.semilogy(epochs, history.train_losses, ":", color=colour)
        loss.semilogy(epochs, history.test_losses, "o-", markersize=3, color=colour, label=name)
        accuracy.plot(epochs, 100 * np.array(history.train_accuracies), ":", color=colour)
        accuracy.plot(epochs, 100 * np.array(history.test_accuracies), "o-", markersize=3, color=colour, label=name)
    loss.set(xlabel="epoch", ylabel="loss", title="Loss (dotted: on the training examples)")
    accuracy.set(xlabel="epoch", ylabel="right, %", title="Accuracy")
    for axes in (loss, accuracy):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    figure.legend(*loss.get_legend_handles_labels(), loc="outside right center")
    return save(figure, path)


def save(figure, path: Path) -> str:
    """Write a figure, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return f"Picture: {path.resolve()}"
