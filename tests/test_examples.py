"""The example programs, each run small, and what they say when something is missing."""

import gzip
import pickle
import re
import runpy
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.image import imread
from threadpoolctl import threadpool_limits

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

PROGRAMS = {
    "train_digits": (["--epochs", "1", "--limit", "64"], ["digits"]),
    "train_cifar10": (["--epochs", "2", "--limit", "40", "--width", "2", "--regularizer", "none", "l1", "l1-strong", "l2",
                       "l2-strong", "dropout", "augment", "stopping"], ["cifar10"]),
    "train_mnist": (["--epochs", "1", "--limit", "40", "--batch-size", "8", "32", "--classes", "0", "1"], ["mnist"]),
    "iris": (["--epochs", "2"], [f"iris-{name}" for name in ("activation", "scheme", "optimizer", "decay", "penalty", "loss")]),
    "breast_cancer_depth": (["--epochs", "1", "--depth", "3", "9"], ["breast-cancer", "breast-cancer-gradients"]),
    "image_filters": (["--photograph", "flower.jpg"], ["filters"]),
    "template_matching": ([], ["template-matching"]),
}

OPENCV = ["TM_CCORR", "TM_CCORR_NORMED", "TM_CCOEFF", "TM_CCOEFF_NORMED", "TM_SQDIFF", "TM_SQDIFF_NORMED"]


@pytest.fixture
def program(monkeypatch, capsys):
    """Runs an example as a program of its own would run, but in this process, where everything is imported already."""
    before = set(sys.modules)

    def run(path, *arguments):
        monkeypatch.syspath_prepend(str((EXAMPLES / path).parent))
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        with threadpool_limits(1, user_api="blas"):
            names = runpy.run_path(str(EXAMPLES / path), run_name="__main__")
        return capsys.readouterr().out, names

    yield run
    for name in set(sys.modules) - before:    # "common", "datasets" and "show" are no names to leave behind
        if str(EXAMPLES) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_run_and_draw(name, program, tmp_path):
    arguments, pictures = PROGRAMS[name]
    shown, _ = program(f"{name}.py", *arguments, "--out", tmp_path / "pictures")
    assert len(re.findall("^Picture: ", shown, re.MULTILINE)) == len(pictures)
    for picture in pictures:
        assert imread(tmp_path / "pictures" / f"{picture}.png")[..., :3].std() > 0.05
    if name.startswith("train_") and name != "train_digits":
        assert "a stand-in for" in shown


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_have_help(name, program, capsys):
    with pytest.raises(SystemExit) as stopped:
        program(f"{name}.py", "--help")
    assert stopped.value.code == 0
    assert "--out DIR" in capsys.readouterr().out


@pytest.mark.parametrize("number", range(1, 16))
def test_homework(number, program):
    """Each compares by itself and ends with status 1 where something disagrees; errata must fail the checker."""
    shown, _ = program(f"homework/e{number}.py")
    assert shown.startswith(f"E{number}. ")
    assert "  hand  " in shown and "  fastconv  " in shown and ("  torch  " in shown or number == 13)
    errata = {1: 2, 3: 2, 8: 1, 9: 1, 14: 1, 15: 1}.get(number, 0)
    assert shown.count("ERRATUM: ") == errata


def test_a_dense_network_reads_two_classes(program, tmp_path):
    shown, _ = program("train_mnist.py", "--network", "dense", "--classes", 0, 1, "--epochs", 2, "--out", tmp_path)
    assert "Conv2d" not in shown and float(re.search(r"accuracy ([\d.]+)%", shown).group(1)) > 90
    assert (tmp_path / "mnist.png").is_file()


def test_a_disagreement_stops_a_homework_program(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES / "homework"))
    import show
    from fastconv.testing import gradcheck

    with pytest.raises(SystemExit, match="y: they should agree to 1e-12 of 2"):
        show.compare("y", hand=[1.0, 2.0], fastconv=[1.0, 2.1])
    right = gradcheck(np.tanh, lambda g, z: g * (1 - np.tanh(z) ** 2), np.ones(2))
    with pytest.raises(SystemExit, match="a slip: the gradient checker should have said otherwise"):
        show.verdict("a slip", right, erratum=True)
    monkeypatch.setattr(show, "torch", None)
    show.compare("y", hand=[1.0], fastconv=[1.0], torch=None)
    del sys.modules["show"]


def test_seeds_and_checkpoints_decide_a_run(program, tmp_path):
    """Two epochs at once, or one, a checkpoint and another one: the same losses to the bit."""
    common = ["--limit", "40", "--width", "2", "--regularizer", "dropout", "--lr", "0.05", "--out", tmp_path]
    checkpoint = ["--checkpoint", tmp_path / "run"]

    def last_losses():
        return [line for line in shown.splitlines() if line.startswith("dropout: ")][0].rsplit(";", 1)[0]

    shown, _ = program("train_cifar10.py", *common, "--epochs", "3")
    expected = last_losses()
    program("train_cifar10.py", *common, "--epochs", "1", *checkpoint)
    shown, _ = program("train_cifar10.py", *common, "--epochs", "3", *checkpoint, "--resume")
    assert last_losses() == expected
    shown, _ = program("train_cifar10.py", *common, "--epochs", "3", "--seed", "1")
    assert last_losses() != expected


def write_cifar10(folder):
    """Six batches as the python archive has them, of 20 images each."""
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        batch = {b"data": rng.integers(0, 256, (20, 3072), np.uint8), b"labels": rng.integers(0, 10, 20).tolist()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


def test_cifar10_is_read(program, tmp_path, capsys):
    write_cifar10(tmp_path)
    options = ["--data", tmp_path, "--width", "1", "--epochs", "1", "--out", tmp_path]
    assert "100 training and 20 test images of CIFAR-10" in program("train_cifar10.py", *options)[0]
    (tmp_path / "test_batch").write_bytes(pickle.dumps(Path("no array"), protocol=2))
    with pytest.raises(SystemExit, match=r"test_batch is no batch of CIFAR-10's python archive: pathlib\S* does not belong"):
        program("train_cifar10.py", *options)
    (tmp_path / "data_batch_3").unlink()
    with pytest.raises(SystemExit, match="data_batch_3 is not there. Without --data the program runs on a stand-in"):
        program("train_cifar10.py", *options)


def test_idx_files_are_read(program, tmp_path):
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        images = struct.pack(">4B3I", 0, 0, 8, 3, 30, 28, 28) + rng.integers(0, 256, 30 * 784, np.uint8).tobytes()
        labels = struct.pack(">4BI", 0, 0, 8, 1, 30) + (np.arange(30) % 10).astype(np.uint8).tobytes()
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(images)
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    options = ["--data", tmp_path, "--epochs", "1", "--out", tmp_path]
    assert "30 training and 30 test images of idx files" in program("train_mnist.py", *options)[0]
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(images[:-1])
    with pytest.raises(SystemExit, match="should hold 30x28x28 bytes, but holds 23519"):
        program("train_mnist.py", *options)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(b"no idx file")
    with pytest.raises(SystemExit, match="is no idx file of bytes with 3 axes; it begins with b'no i'"):
        program("train_mnist.py", *options)


@pytest.mark.parametrize("arguments, message", [
    (["train_cifar10.py", "--resume"], "--resume needs --checkpoint"),
    (["train_cifar10.py", "--resume", "--checkpoint", "missing"], "missing.none.npz is not there to resume from"),
    (["train_mnist.py", "--network", "dense", "--classes", "99"], r"there are no examples of the classes \[99\]"),
    (["image_filters.py", "--photograph", "missing.png"], "missing.png is not there"),
    (["image_filters.py", "--photograph", __file__], "cannot be read as a picture"),
    (["template_matching.py", "--top", "420"], "the patch must lie within the photograph, which is 427 x 640"),
])
def test_errors_are_clear(arguments, message, program):
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        program(*arguments)


def test_without_matplotlib_and_tqdm(program, monkeypatch, tmp_path, capsys):
    for module in ("matplotlib.figure", "tqdm"):
        monkeypatch.setitem(sys.modules, module, None)
    shown, _ = program("iris.py", "--epochs", "1", "--sweep", "loss", "--out", tmp_path)
    assert "No picture: matplotlib is not installed." in shown
    assert not list(tmp_path.iterdir())


FIGURES = r"fastconv [\d.]+ ms \(least [\d.]+\)"
RATIO = r": x [\d.]+ \(least x [\d.]+\)"


@pytest.fixture
def keep_torch_threads():
    """A program sets PyTorch's threads for its own process."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("keep_torch_threads")
def test_step_time_compares_with_torch(program):
    """How long it takes is no matter of a test; that both networks are built in PyTorch and timed by layers is."""
    shown, _ = program("step_time.py", "--batch-size", 2, "--rounds", 1)
    assert len(re.findall(rf"^N[12] training step, batch 2: {FIGURES}, PyTorch .*{RATIO}$", shown, re.M)) == 2
    for kind in ("Conv2d", "ReLU", "MaxPool2d", "Linear"):
        assert len(re.findall(rf"^  {kind} +(?:forward|backward) +[\d.]+ ms$", shown, re.M)) == 4


@pytest.mark.usefixtures("keep_torch_threads")
def test_inference_time_compares_with_torch(program):
    """All four networks, with one and two threads; PyTorch's twins of them give the same scores in both layouts."""
    shown, _ = program("inference_time.py", "--batch-size", 1, "--size", 32, "--rounds", 1)
    lines = re.findall(rf"^(.*), threads ([12]): {FIGURES}, PyTorch .*, PyTorch channels-last .*{RATIO}; scores agree to (.*)$",
                       shown, re.M)
    assert [line[:2] for line in lines] == [(f"{name}, 1 x {side}x{side}", threads) for name, side in (
        ("N1", 32), ("N2", 28), ("ResNet-18", 32), ("MobileNetV2", 32)) for threads in "12"]
    assert all(float(apart) < 1e-4 for *_, apart in lines)


@pytest.mark.usefixtures("keep_torch_threads")
@pytest.mark.parametrize("name", ["step_time", "inference_time"])
def test_timing_without_torch(name, program, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    shown, _ = program(f"{name}.py", "--network", "N2", "--batch-size", 2, "--rounds", 1, "--threads", 1)
    assert re.search(rf": {FIGURES}$", shown, re.M) and "PyTorch" not in shown


def test_template_matching_equals_opencv(program, tmp_path):
    _, names = program("template_matching.py", "--out", tmp_path)
    image = names["photograph"]("flower.jpg").astype(np.float64).transpose(2, 0, 1)
    template = image[:, 150:174, 260:290]
    as_opencv = [np.ascontiguousarray(a.transpose(1, 2, 0), np.float32) for a in (image, template)]
    for (name, measure), mode in zip(names["six_measures"](image, template).items(), OPENCV, strict=True):
        theirs = cv2.matchTemplate(*as_opencv, getattr(cv2, mode))
        scale = 1 if name.startswith("normalised") else measure.max()
        np.testing.assert_allclose(np.minimum(measure, 1) if scale == 1 else measure, theirs, rtol=0, atol=1e-4 * scale)
