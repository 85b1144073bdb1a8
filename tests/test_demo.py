"""The main job, `python -m fastconv demo`: once as a user runs it, then its parts."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from fastconv import nn
from fastconv.__main__ import main
from fastconv.demo import filters, gradients, train
from matplotlib.image import imread
from sklearn.datasets import load_sample_image

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ["Conv2d", "ReLU", "MaxPool2d", "Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear", "ReLU", "Dropout", "Linear",
          "LogSoftmax", "NLLLoss", "the whole network"]


def run_python(*arguments):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run([sys.executable, *arguments], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo with its default settings, and the folder of its pictures."""
    folder = tmp_path_factory.mktemp("demo") / "pictures"
    return run_python("-W", "error", "-m", "fastconv", "demo", "--out", str(folder)), folder


@pytest.fixture(scope="module")
def digits():
    return train.load()


def test_demo_reaches_98_percent(demo):
    finished, _ = demo
    assert finished.returncode == 0, finished.stderr
    accuracy = float(re.search(r"([\d.]+)% of 360 test digits read correctly after 30 epochs", finished.stdout).group(1))
    assert accuracy >= 98
    assert "1350/1350" in finished.stderr     # the progress bar's last word


def test_demo_finds_every_gradient_right(demo):
    finished, _ = demo
    rows = re.findall(r"^(.*?)(?:, weight .*?)?  +(?:every element|random directions) .* (right|WRONG)$", finished.stdout, re.MULTILINE)
    assert rows == [(layer, "right") for layer in LAYERS]


def test_demo_compares_speed_and_results_with_pytorch(demo):
    finished, _ = demo
    assert len(re.findall(r" us +[\d.]+ us +x [\d.]+$", finished.stdout, re.MULTILINE)) == 9


@pytest.mark.parametrize("name, size", [("training.png", (900, 1500)), ("filters.png", (750, 2250))])
def test_demo_writes_its_pictures_where_it_says(demo, name, size):
    finished, folder = demo
    assert finished.stdout.splitlines()[-1] == f"Pictures: {folder.resolve()}"
    picture = imread(folder / name)
    assert picture.shape[:2] == size
    assert picture[..., :3].std() > 0.1     # neither blank nor nearly so


def test_demo_without_pytorch_says_so():
    finished = run_python("-c", "import sys; sys.modules['torch'] = None; from fastconv.demo import speed; print(speed.table())")
    assert finished.stdout == "Speed: PyTorch is not installed, so there is nothing to compare with.\n"


def test_demo_without_its_packages_says_what_to_install(tmp_path):
    code = ("import sys; sys.modules.update(sklearn=None, tqdm=None); from fastconv.__main__ import main; "
            f"main(['demo', '--out', {str(tmp_path / 'pictures')!r}])")
    finished = run_python("-c", code)
    assert finished.returncode == 1
    assert finished.stderr.strip() == ("The demo needs scikit-learn and tqdm, which fastconv itself does not. "
                                       "Install with: python -m pip install scikit-learn tqdm")
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize("arguments, message", [
    ([], "command"), (["train"], "train"), (["demo", "--epochs", "0"], "--epochs: must be at least 1, got 0"),
    (["demo", "--seed", "-1"], "--seed: must not be negative, got -1"), (["demo", "--epochs", "many"], "--epochs")])
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--out DIR", "--epochs N", "--seed S", "demo-output", "PyTorch"))


def test_split_is_complete_and_always_the_same(digits):
    assert [array.shape for array in digits] == [(1437, 1, 8, 8), (1437,), (360, 1, 8, 8), (360,)]
    assert abs(digits.train_images.mean()) < 1e-6
    assert abs(digits.train_images.std() - 1) < 1e-6
    everything = np.concatenate([digits.train_images, digits.test_images]).reshape(1797, 64)
    assert len(np.unique(everything, axis=0)) == 1797      # the digits all differ, so none is on both sides
    for first, second in zip(digits, train.load(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_seed_decides_the_training(digits):
    small = train.Digits(*(array[:64] for array in digits))
    losses = [train.fit(small, 1, seed).batch_losses for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_a_wrong_gradient_is_shown(digits):
    class Slope(nn.ReLU):
        """ReLU with the derivative of its absolute value."""

        def _backward(self, grad_output, saved, input_gradient):
            return grad_output * 1.01

    rows = list(gradients.check(nn.Sequential(nn.Flatten(), Slope(), nn.Linear(64, 10, seed=0), nn.LogSoftmax(1)), digits))
    assert [row.passed for row in rows] == [True, False, True, True, True, False]
    assert str(rows[1]).endswith("WRONG")


def test_filters_equal_opencv():
    photograph = load_sample_image("flower.jpg").astype(np.float32)
    filtered = filters.apply(photograph)
    for name, picture in zip(filters.KERNELS, filtered, strict=True):
        kernel = filters.SCALES.get(name, 1) * np.array(filters.KERNELS[name], dtype=np.float32)
        expected = cv2.filter2D(photograph, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT_101)
        assert np.max(np.abs(picture - expected)) <= 1e-5 * np.max(np.abs(expected)), name


@pytest.mark.parametrize("name, expected", [
    ("check_your_gradient", ["FAILED", "passed", "FAILED", "passed"]),
    ("why_this_algorithm", ["algorithm '"] * 3),
])
def test_examples_run(name, expected):
    finished = run_python("-W", "error", str(ROOT / "examples" / f"{name}.py"))
    assert finished.returncode == 0, finished.stderr
    assert re.findall("|".join(sorted(set(expected))), finished.stdout) == expected


def test_low_rank_example(digits, tmp_path, monkeypatch):
    """Two ranks and few digits: parameters and the kernel's error go opposite ways, and fine-tuning helps."""
    location = importlib.util.spec_from_file_location("low_rank_digits", ROOT / "examples" / "low_rank_digits.py")
    example = importlib.util.module_from_spec(location)
    location.loader.exec_module(example)
    monkeypatch.setattr(example, "RANKS", (8, 1))
    few = digits._replace(train_images=digits.train_images[:640], train_labels=digits.train_labels[:640])
    dense, eight, one = points = example.compare(few, 4, 2)
    assert [dense.parameters, eight.parameters, one.parameters] == [4640, 8 * 54 + 32, 54 + 32]
    assert 0 == dense.error < eight.error < one.error < 1
    assert eight.accuracy > eight.decomposed and one.accuracy > one.decomposed
    assert "rank 8" in example.table(points)
    example.plot(points, tmp_path / "picture.png")
    assert imread(tmp_path / "picture.png").shape[2] == 4
