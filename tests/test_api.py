"""The public contract: every name of the API, its signature, its type hints and its documentation."""

import inspect
import subprocess
import sys

import pytest

import fastconv
from fastconv import functional

MASK = "output_mask=(True, True, True)"

CONV = "(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *, out=None, algorithm='auto')"
CONV_BACKWARD = f"(grad_output, input, weight, stride=1, padding=0, dilation=1, groups=1, *, {MASK})"
CONV_INPUT = "(input_size, weight, grad_output, stride=1, padding=0, dilation=1, groups=1, *, algorithm='auto')"
CONV_WEIGHT = "(input, weight_size, grad_output, stride=1, padding=0, dilation=1, groups=1, *, algorithm='auto')"
TRANSPOSE = "stride=1, padding=0, output_padding=0, groups=1, dilation=1, *, "
POOL = "kernel_size, stride=None, padding=0, "
AVG = POOL + "ceil_mode=False, count_include_pad=True"
AVG_2D_3D = AVG + ", divisor_override=None"

FUNCTIONS = {
    "separable_conv2d": (
        "(input, depthwise_weight, pointwise_weight, bias=None, stride=1, padding=0, dilation=1, *, activation=None)"
    ),
    "cp_conv1d": "(input, factors, bias=None, stride=1, padding=0, dilation=1, *, algorithm='auto')",
    "cp_conv2d": "(input, factors, bias=None, stride=1, padding=0, dilation=1, *, algorithm='auto')",
    "cp_weight": "(factors)",
    "unfold": "(input, kernel_size, dilation=1, padding=0, stride=1)",
    "fold": "(input, output_size, kernel_size, dilation=1, padding=0, stride=1)",
    "set_num_threads": "(n)",
    "get_num_threads": "()",
    "num_threads": "(n)",
    "show_config": "()",
    "set_float32_precision": "(precision)",
    "get_float32_precision": "()",
}
for n in (1, 2, 3):
    FUNCTIONS |= {
        f"conv{n}d": CONV,
        f"conv{n}d_backward": CONV_BACKWARD,
        f"conv{n}d_input": CONV_INPUT,
        f"conv{n}d_weight": CONV_WEIGHT,
        f"conv_transpose{n}d": f"(input, weight, bias=None, {TRANSPOSE}out=None, algorithm='auto')",
        f"conv_transpose{n}d_backward": f"(grad_output, input, weight, {TRANSPOSE}{MASK})",
        f"max_pool{n}d": f"(input, {POOL}dilation=1, ceil_mode=False, return_indices=False)",
        f"avg_pool{n}d": f"(input, {AVG if n == 1 else AVG_2D_3D})",
        f"adaptive_max_pool{n}d": "(input, output_size, return_indices=False)",
        f"adaptive_avg_pool{n}d": "(input, output_size)",
        f"max_unpool{n}d": f"(input, indices, {POOL}output_size=None)",
        f"max_pool{n}d_backward": "(grad_output, indices, input_size)",
        f"adaptive_max_pool{n}d_backward": "(grad_output, indices, input_size)",
        f"avg_pool{n}d_backward": f"(grad_output, input_size, {AVG if n == 1 else AVG_2D_3D})",
        f"adaptive_avg_pool{n}d_backward": "(grad_output, input_size)",
    }

# The API leaves some of these signatures open: what it fixes is how they begin.
BEGINNINGS = {
    "separable_conv2d_backward": ["grad_output", "input", "depthwise_weight", "pointwise_weight"],
    "cp_conv1d_backward": ["grad_output", "input", "factors"],
    "cp_conv2d_backward": ["grad_output", "input", "factors"],
    "cp_decompose": ["weight", "rank"],
    "cp_rank": ["weight", "relative_error"],
}

CONFIGURATION = {
    "explain",
    "set_num_threads",
    "get_num_threads",
    "num_threads",
    "show_config",
    "set_float32_precision",
    "get_float32_precision",
}

LAYERS = (
    "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d MaxPool1d MaxPool2d MaxPool3d AvgPool1d "
    "AvgPool2d AvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d AdaptiveAvgPool1d AdaptiveAvgPool2d "
    "AdaptiveAvgPool3d Linear Flatten ReLU LeakyReLU Sigmoid Tanh ELU Softmax LogSoftmax BatchNorm1d BatchNorm2d "
    "LayerNorm Dropout Dropout2d Sequential CrossEntropyLoss NLLLoss MSELoss"
).split()

TESTING = {
    "gradcheck": "(function, backward, *arrays, eps=None, rtol=None, atol=None, seed=0)",
    "vjpcheck": "(function, backward, *arrays, seed=0)",
    "conv_matrix": "(weight, input_size, stride=1, padding=0, dilation=1, groups=1)",
}

DOCUMENTED = sorted(FUNCTIONS | BEGINNINGS | {"explain": None})


def bare_signature(function):
    """The signature as text, without type hints."""
    signature = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signature(name):
    assert bare_signature(getattr(fastconv, name)) == FUNCTIONS[name]


@pytest.mark.parametrize("name", BEGINNINGS)
def test_signature_begins(name):
    assert list(inspect.signature(getattr(fastconv, name)).parameters)[: len(BEGINNINGS[name])] == BEGINNINGS[name]


def test_cp_decompose_takes_its_options_by_keyword():
    parameters = inspect.signature(fastconv.cp_decompose).parameters
    assert [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY] == ["max_iter", "tol", "starts", "callback", "seed"]
    assert parameters["seed"].default is None


def test_explain_takes_a_direction():
    parameters = inspect.signature(fastconv.explain).parameters
    assert parameters["direction"].default == "forward"


@pytest.mark.parametrize("name", sorted((FUNCTIONS | BEGINNINGS).keys() - CONFIGURATION) + ["ConvGradients"])
def test_functional_has_it_too(name):
    assert getattr(functional, name) is getattr(fastconv, name)
    assert name in functional.__all__


def test_version_is_a_string():
    assert fastconv.__version__.count(".") == 2


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name):
    assert inspect.isclass(getattr(fastconv.nn, name))


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_optimizer(name):
    assert inspect.isclass(getattr(fastconv.optim, name))


@pytest.mark.parametrize("name", TESTING)
def test_testing_signature(name):
    assert bare_signature(getattr(fastconv.testing, name)) == TESTING[name]


def test_assert_gradients_begins_like_gradcheck():
    assert bare_signature(fastconv.testing.assert_gradients).startswith("(function, backward, *arrays")


@pytest.mark.parametrize("name", DOCUMENTED)
def test_type_hints(name):
    signature = inspect.signature(getattr(fastconv, name))
    untyped = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
    assert not untyped
    assert signature.return_annotation is not signature.empty


@pytest.mark.parametrize("name", sorted(set(DOCUMENTED) - CONFIGURATION))
def test_docstring_is_numpydoc(name):
    """Every section and every parameter; that the examples are right is for doctest."""
    function = getattr(fastconv, name)
    doc = inspect.getdoc(function)
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"\n{section}\n{'-' * len(section)}\n" in doc, section
    parameters = doc.split("\nParameters\n")[1].split("\nReturns\n")[0]
    for parameter in inspect.signature(function).parameters:
        assert parameter in parameters


def test_importing_fastconv_imports_neither_its_lazy_parts_nor_the_tools_of_its_demo():
    program = "import numpy, sys; before = set(sys.modules); import fastconv; print(*(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "fastconv.functional" in loaded
    lazy = {"nn", "optim", "testing", "demo"}
    assert not [m for m in loaded if m.split(".")[0] == "fastconv" and len(m.split(".")) > 1 and m.split(".")[1] in lazy]
    assert not {"torch", "sklearn", "matplotlib", "tqdm", "scipy", "cv2"} & {m.split(".")[0] for m in loaded}


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_thing"):
        fastconv.no_such_thing  # noqa: B018
