"""Networks defined and initialised in PyTorch, rebuilt here from their weights: residual blocks, files, folding."""

import json

import numpy as np
import pytest
import torch
from layer_judge import torch_backward
from models import conv_norm_relu6, inverted_residual, mobilenet_blocks, mobilenet_v2, resnet18
from reference import assert_close
from shapes import normal
from torch import nn as tnn

from fastconv import nn

# ---- the two models in PyTorch, with the names of torchvision's ------------------------------------


class BasicBlock(tnn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1, self.bn1 = tnn.Conv2d(before, after, 3, stride, 1, bias=False), tnn.BatchNorm2d(after)
        self.conv2, self.bn2 = tnn.Conv2d(after, after, 3, 1, 1, bias=False), tnn.BatchNorm2d(after)
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = tnn.Sequential(tnn.Conv2d(before, after, 1, stride, bias=False), tnn.BatchNorm2d(after))

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet18(tnn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1, self.bn1 = tnn.Conv2d(3, 64, 7, 2, 3, bias=False), tnn.BatchNorm2d(64)
        self.maxpool = tnn.MaxPool2d(3, 2, 1)
        before = 64
        for number, after in enumerate((64, 128, 256, 512), 1):
            first = BasicBlock(before, after, 1 if number == 1 else 2)
            setattr(self, f"layer{number}", tnn.Sequential(first, BasicBlock(after, after, 1)))
            before = after
        self.fc = tnn.Linear(512, classes)

    def forward(self, x):
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class InvertedResidual(tnn.Module):
    def __init__(self, before, after, stride, expansion):
        super().__init__()
        self.conv = inverted_residual(tnn, before, after, stride, expansion)
        self.residual = stride == 1 and before == after

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(tnn.Module):
    def __init__(self, classes):
        super().__init__()
        self.features = tnn.Sequential(
            conv_norm_relu6(tnn, 3, 32, 3, 2), *(InvertedResidual(*block) for block in mobilenet_blocks()),
            conv_norm_relu6(tnn, 320, 1280, 1))
        self.classifier = tnn.Sequential(tnn.Dropout(0.2), tnn.Linear(1280, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


MODELS = {"ResNet-18": (ResNet18, resnet18, 64), "MobileNetV2": (MobileNetV2, mobilenet_v2, 64)}


@pytest.fixture(scope="module", params=MODELS)
def models(request):
    """PyTorch's in evaluation mode, after two batches that gave its running statistics values; and ours, untouched."""
    theirs, ours, size = MODELS[request.param]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)    # OpenMP's wait by spinning, which on a busy machine takes tenfold
    torch.manual_seed(0)
    model = theirs(20)
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(2, 3, size, size) + 0.5)
    yield model.eval(), ours, normal(np.random.default_rng(1), (2, 3, size, size), np.float32)
    torch.set_num_threads(threads)


def write_safetensors(path, state):
    """The format by its specification, written here, since the library is none of ours."""
    header, blobs, place = {"__metadata__": {"format": "pt"}}, [], 0
    names = {torch.float32: "F32", torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16"}
    for name, tensor in state.items():
        shape = list(tensor.shape)
        blobs.append(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        header[name] = {"dtype": names[tensor.dtype], "shape": shape, "data_offsets": [place, place + len(blobs[-1])]}
        place += len(blobs[-1])
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


@pytest.mark.parametrize("source", ["state_dict", "safetensors"])
def test_a_model_of_torch_gives_the_same_scores(models, source, tmp_path):
    """The state dict loads as it is, since the layers have the same names; scores agree to 1e-4 of the largest, before
    and after folding."""
    theirs, make, x = models
    state = theirs.state_dict()
    if source == "safetensors":
        write_safetensors(tmp_path / "model.safetensors", state)
        state = nn.load_safetensors(tmp_path / "model.safetensors")
    ours = make(20)
    ours.load_state_dict(state)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
    tolerance = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(ours.eval()(x), expected, rtol=0, atol=tolerance)
    folded = nn.fold_batch_norm(ours)
    assert not any(isinstance(layer, nn.BatchNorm2d) for _, layer in folded._leaves())
    assert any(isinstance(layer, nn.BatchNorm2d) for _, layer in ours._leaves())
    np.testing.assert_allclose(folded(x), expected, rtol=0, atol=tolerance)


def test_names_and_order_are_those_of_torch(models):
    theirs, make, _ = models
    ours, state = make(20).state_dict(), theirs.state_dict()
    assert sorted(ours) == sorted(state)
    assert {name: array.shape for name, array in ours.items()} == {name: tuple(t.shape) for name, t in state.items()}


# ---- residual blocks -------------------------------------------------------------------------------


class TorchResidual(tnn.Module):
    def __init__(self, branch, downsample):
        super().__init__()
        self.branch, self.downsample = branch, downsample

    def forward(self, x):
        return self.branch(x) + (x if self.downsample is None else self.downsample(x))


@pytest.mark.parametrize("downsample", [False, True])
def test_residual_gradients_against_torch(downsample, rng):
    after, stride = (6, 2) if downsample else (4, 1)

    def parts(module, **wide):
        around = module.Conv2d(4, after, 1, stride, **wide) if downsample else None
        branch = (module.Conv2d(4, after, 3, stride, 1, bias=False, **wide), module.BatchNorm2d(after, **wide), module.Tanh())
        return branch, around

    branch, around = parts(nn, dtype=np.float64)
    ours = nn.Residual(*branch, downsample=around)
    branch, around = parts(tnn, dtype=torch.float64)
    theirs = TorchResidual(tnn.Sequential(*branch), around)
    ours_state = {name if "downsample" in name else f"branch.{name}": torch.from_numpy(value)
                  for name, value in ours.state_dict().items()}
    theirs.load_state_dict(ours_state)
    x = normal(rng, (3, 4, 6, 6), np.float64)
    y = ours(x)
    grad_output = normal(rng, y.shape, np.float64)
    expected_y, expected_grad, expected_grads = torch_backward(theirs, x, grad_output)
    assert_close(y, expected_y)
    assert_close(ours.backward(grad_output), expected_grad)
    for name, expected in expected_grads.items():
        assert_close(ours.grads[name.removeprefix("branch.")], expected)
    before = dict(ours.grads)
    assert ours.backward(grad_output, input_gradient=False) is None
    for name, expected in before.items():
        assert_close(ours.grads[name], expected)


def test_residual_refuses():
    with pytest.raises(ValueError, match=r"must agree in shape, got \(1, 3\) and \(1, 2\) for an input of shape \(1, 2\)"):
        nn.Residual(nn.Linear(2, 3))(np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="must not be named 'downsample'"):
        nn.Residual({"downsample": nn.ReLU()})
    relu = nn.ReLU()
    with pytest.raises(ValueError, match="layers 0 and downsample of Residual are the same ReLU object"):
        nn.Residual(relu, downsample=relu)
    for wrong in ("", "a.b"):
        with pytest.raises(ValueError, match=f"must not be empty nor have a dot, got {wrong!r}"):
            nn.Sequential({wrong: nn.ReLU()})
    with pytest.raises(TypeError, match="names of layers of Sequential must be str, got int"):
        nn.Sequential({0: nn.ReLU()})
    with pytest.raises(TypeError, match="layers of Sequential must be Layer objects, got str at a"):
        nn.Sequential({"a": "ReLU"})


def test_named_chains():
    net = nn.Sequential({"conv": nn.Conv2d(1, 2, 3), "act": nn.ReLU()})
    assert list(net.params) == ["conv.weight", "conv.bias"]
    assert net["conv"] is net[0] and net["act"] is net[-1] and list(net[1:].children) == ["act"]
    assert repr(net).splitlines()[2] == "  (act): ReLU()"


# ---- folding ---------------------------------------------------------------------------------------

FOLDED = {
    "Conv1d": (lambda: nn.Conv1d(2, 6, 3, dtype=np.float64), lambda: nn.BatchNorm1d(6, dtype=np.float64), (3, 2, 8)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False, dtype=np.float64),
               lambda: nn.BatchNorm2d(6, eps=1e-2, dtype=np.float64), (3, 4, 8, 7)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, groups=2, dtype=np.float64),
                        lambda: nn.BatchNorm2d(6, affine=False, dtype=np.float64), (3, 4, 5, 4)),
    "Linear": (lambda: nn.Linear(5, 6, dtype=np.float64), lambda: nn.BatchNorm1d(6, dtype=np.float64), (7, 5)),
}


@pytest.mark.parametrize("layer, norm, shape", FOLDED.values(), ids=FOLDED)
def test_folding(layer, norm, shape, rng):
    net = nn.Sequential(layer(), norm(), nn.ReLU())
    for name in net[1].params:
        net[1].params[name][...] = rng.uniform(0.5, 1.5, 6)
    for _ in range(3):
        net(normal(rng, shape, np.float64) + 1)
    before = net.state_dict()
    folded = nn.fold_batch_norm(net)
    assert list(folded.children) == ["0", "2"] and not folded.training and net.training
    x = normal(rng, shape, np.float64)
    assert_close(folded(x), net.eval()(x))
    assert all((before[name] == value).all() for name, value in net.state_dict().items())


def test_what_is_not_folded(rng):
    """Behind ReLU or pooling, and where the batch's own statistics are used after eval too."""
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.ReLU(), nn.BatchNorm2d(2),
                        nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))
    x = normal(rng, (3, 2, 4, 4), np.float32)
    assert list(nn.fold_batch_norm(net).children) == list(net.children)
    np.testing.assert_array_equal(nn.fold_batch_norm(net)(x), net.eval()(x))
    assert isinstance(nn.fold_batch_norm(nn.ReLU()), nn.ReLU)
    with pytest.raises(TypeError, match="net must be a Layer, got dict"):
        nn.fold_batch_norm({})


# ---- safetensors -----------------------------------------------------------------------------------


def test_safetensors_dtypes(tmp_path):
    state = {"a": torch.randn(2, 3), "half": torch.randn(4).half(), "brain": torch.randn(5).bfloat16(),
             "scalar": torch.tensor(7), "empty": torch.zeros(0, 3)}
    write_safetensors(tmp_path / "a.safetensors", state)
    loaded = nn.load_safetensors(str(tmp_path / "a.safetensors"))
    assert list(loaded) == list(state)
    for name, tensor in state.items():
        expected = (tensor.float() if name == "brain" else tensor).numpy()
        np.testing.assert_array_equal(loaded[name], expected, strict=True)
        assert loaded[name].flags.writeable


BROKEN = {
    "no header": (b"\x01", "its header would have 1 of 1 bytes"),
    "cut header": ((99).to_bytes(8, "little") + b"{}", "its header would have 99 of 10 bytes"),
    "no JSON": ((2).to_bytes(8, "little") + b"{]", "its header is no JSON object"),
    "a list": ((2).to_bytes(8, "little") + b"[]", "its header is no JSON object"),
}
ENTRIES = {
    "cut data": ({"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
                 r"of shape \(3,\), F32, does not fit its bytes 0 to 12 of 8"),
    "size": ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "does not fit its bytes"),
    "negative": ({"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}, "does not fit its bytes"),
    "order": ({"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}, "does not fit its bytes"),
    "dtype": ({"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}, "has dtype F8_E4M3, expected one of F64, F32"),
    "entry": ({"shape": [2]}, "must have dtype, shape and two data_offsets"),
    "offsets": ({"dtype": "F32", "shape": [2], "data_offsets": 8}, "must have dtype, shape and two data_offsets"),
}


@pytest.mark.parametrize("content, message", BROKEN.values(), ids=BROKEN)
def test_what_is_no_safetensors_file(content, message, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=f"is no safetensors file: {message}"):
        nn.load_safetensors(tmp_path / "a")


@pytest.mark.parametrize("entry, message", ENTRIES.values(), ids=ENTRIES)
def test_arrays_that_do_not_fit_their_file(entry, message, tmp_path):
    text = json.dumps({"w": entry}).encode()
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(ValueError, match=f"'w'.* {message}"):
        nn.load_safetensors(tmp_path / "a")
