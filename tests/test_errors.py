"""Wrong input of every kind to every function: the right exception, and a message one can act on.

`CALLS` holds a call of each function that works. A test spoils one argument of it and asks that the message
names that argument and says what it was. The rows of `MISFITS` are arguments that are wrong only together.
"""

import re

import numpy as np
import pytest

import fastconv
from fastconv import functional as F


def zeros(*shape):
    return np.zeros(shape, np.float32)


def calls(axes):
    """Working calls of every function of so many spatial axes."""
    size = (9, 8, 7)[:axes]
    n, three, pooled = f"{axes}d", (3,) * axes, tuple(s // 2 for s in size)
    x, w, b = zeros(2, 4, *size), zeros(6, 2, *three), zeros(6)
    wt = zeros(4, 3, *three)
    conv = {"stride": 1, "padding": 1, "dilation": 1, "groups": 2}
    transpose = {"stride": 1, "padding": 1, "output_padding": 0, "groups": 2, "dilation": 1}
    pool = {"kernel_size": 2, "stride": None, "padding": 0}
    y, small = zeros(2, 6, *size), zeros(2, 4, *pooled)
    indices = np.zeros(small.shape, np.int64)
    return {
        f"conv{n}": {"input": x, "weight": w, "bias": b, **conv},
        f"conv{n}_backward": {"grad_output": y, "input": x, "weight": w, **conv},
        f"conv{n}_input": {"input_size": x.shape, "weight": w, "grad_output": y, **conv},
        f"conv{n}_weight": {"input": x, "weight_size": w.shape, "grad_output": y, **conv},
        f"conv_transpose{n}": {"input": x, "weight": wt, "bias": b, **transpose},
        f"conv_transpose{n}_backward": {"grad_output": y, "input": x, "weight": wt, **transpose},
        f"max_pool{n}": {"input": x, **pool, "dilation": 1},
        f"max_pool{n}_backward": {"grad_output": small, "indices": indices, "input_size": x.shape},
        f"avg_pool{n}": {"input": x, **pool},
        f"avg_pool{n}_backward": {"grad_output": small, "input_size": x.shape, **pool},
        f"adaptive_max_pool{n}": {"input": x, "output_size": 3},
        f"adaptive_max_pool{n}_backward": {"grad_output": small, "indices": indices, "input_size": x.shape},
        f"adaptive_avg_pool{n}": {"input": x, "output_size": 3},
        f"adaptive_avg_pool{n}_backward": {"grad_output": small, "input_size": x.shape},
        f"max_unpool{n}": {"input": small, "indices": indices, **pool, "output_size": size},
    }


X, FACTORS = zeros(2, 4, 9, 8), (zeros(6, 2), zeros(4, 2), zeros(3, 2), zeros(3, 2))
SEPARABLE = {"depthwise_weight": zeros(8, 1, 3, 3), "pointwise_weight": zeros(6, 8, 1, 1)}
PLAIN = {"stride": 1, "padding": 1, "dilation": 1}
PATCHES = {"kernel_size": 3, "dilation": 1, "padding": 1, "stride": 1}
CALLS = {
    **calls(1),
    **calls(2),
    **calls(3),
    "separable_conv2d": {"input": X, **SEPARABLE, "bias": zeros(6), **PLAIN},
    "separable_conv2d_backward": {"grad_output": zeros(2, 6, 9, 8), "input": X, **SEPARABLE, **PLAIN},
    "cp_conv1d": {"input": zeros(2, 4, 9), "factors": FACTORS[:3], "bias": zeros(6), **PLAIN},
    "cp_conv1d_backward": {"grad_output": zeros(2, 6, 9), "input": zeros(2, 4, 9), "factors": FACTORS[:3], **PLAIN},
    "cp_conv2d": {"input": X, "factors": FACTORS, "bias": zeros(6), **PLAIN},
    "cp_conv2d_backward": {"grad_output": zeros(2, 6, 9, 8), "input": X, "factors": FACTORS, **PLAIN},
    "unfold": {"input": X, **PATCHES},
    "fold": {"input": zeros(2, 36, 72), "output_size": (9, 8), **PATCHES},
}

ARRAYS = ("input", "weight", "bias", "grad_output", "depthwise_weight", "pointwise_weight")


def axes_of(name):
    return int(re.search(r"(\d)d", name)[1]) if re.search(r"\dd", name) else 2


def fail(name, error, **changes):
    """The message of the error that the spoilt call raises."""
    with pytest.raises(error) as caught:
        getattr(F, name)(**{**CALLS[name], **changes})
    assert type(caught.value) is error
    return str(caught.value)


def having(*arguments):
    return [(name, argument) for name, call in CALLS.items() for argument in arguments if argument in call]


@pytest.mark.parametrize("name", CALLS)
def test_the_call_to_be_spoilt_works(name):
    getattr(F, name)(**CALLS[name])


# ---- arrays ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "int64", "int8", "uint8", "bool", "complex64", "complex128", "longdouble", "O"])
@pytest.mark.parametrize(("name", "argument"), having(*ARRAYS))
def test_dtype(name, argument, dtype):
    message = fail(name, TypeError, **{argument: CALLS[name][argument].astype(dtype)})
    assert argument in message and np.dtype(dtype).name in message and "float32" in message


@pytest.mark.parametrize(("name", "argument"), having(*ARRAYS))
def test_foreign_byte_order(name, argument):
    foreign = CALLS[name][argument].astype(np.dtype(np.float32).newbyteorder("S"))
    message = fail(name, TypeError, **{argument: foreign})
    assert argument in message and str(foreign.dtype) in message


def arrays_of(name):
    return [key for key in CALLS[name] if key in (*ARRAYS, "factors")]


@pytest.mark.parametrize(("name", "argument"), [row for row in having(*ARRAYS) if len(arrays_of(row[0])) > 1])
def test_dtypes_are_never_mixed(name, argument):
    message = fail(name, TypeError, **{argument: CALLS[name][argument].astype(np.float64)})
    assert "float64" in message and "float32" in message
    assert any(key in message for key in arrays_of(name))


@pytest.mark.parametrize("value", [object(), "text", {}, [], ["a", "b"], [[1.0, 2.0], [3.0]], 1 + 2j])
@pytest.mark.parametrize(("name", "argument"), having(*ARRAYS))
def test_no_array_at_all(name, argument, value):
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(F, name)(**{**CALLS[name], argument: value})
    assert argument in str(caught.value)


@pytest.mark.parametrize(("name", "argument"), having(*sorted(set(ARRAYS) - {"bias"})))
def test_none_is_no_array(name, argument):
    assert argument in fail(name, TypeError, **{argument: None})


@pytest.mark.parametrize("extra_axes", [-3, 2])
@pytest.mark.parametrize(("name", "argument"), having(*ARRAYS))
def test_number_of_axes(name, argument, extra_axes):
    array = CALLS[name][argument]
    wrong = array.reshape((1,) * 2 + array.shape) if extra_axes == 2 else array.ravel()[0]
    message = fail(name, ValueError, **{argument: wrong})
    assert argument in message and str(wrong.shape) in message


def test_torch_tensor_that_needs_gradients():
    torch = pytest.importorskip("torch")
    message = fail("conv2d", TypeError, input=torch.zeros(2, 4, 9, 8, requires_grad=True))
    assert "input" in message


# ---- options -----------------------------------------------------------------------------------

POSITIVE = ("stride", "dilation", "kernel_size")
SIZES = (*POSITIVE, "padding", "output_padding")


@pytest.mark.parametrize("value", [0, -1, -(2**40)])
@pytest.mark.parametrize(("name", "argument"), having(*POSITIVE, "groups"))
def test_less_than_one(name, argument, value):
    message = fail(name, ValueError, **{argument: value})
    assert argument in message and str(value) in message


@pytest.mark.parametrize(("name", "argument"), having(*POSITIVE))
def test_less_than_one_on_the_last_axis(name, argument):
    value = (*[1] * (axes_of(name) - 1), 0)
    message = fail(name, ValueError, **{argument: value})
    assert argument in message and ("got 0" in message or str(value) in message)


@pytest.mark.parametrize("value", [-1, -(2**40)])
@pytest.mark.parametrize(("name", "argument"), having("padding", "output_padding"))
def test_negative_padding(name, argument, value):
    message = fail(name, ValueError, **{argument: value})
    assert argument in message and str(value) in message


@pytest.mark.parametrize(("name", "argument"), having(*SIZES, "output_size"))
def test_length_of_a_tuple(name, argument):
    value = (2,) * (axes_of(name) + 1)
    message = fail(name, ValueError, **{argument: value})
    assert argument in message and str(value) in message
    assert argument in fail(name, ValueError, **{argument: ()})


@pytest.mark.parametrize("value", [1.0, 1.5, np.float64(1), True, np.True_, 1j, object(), float("nan"), [[1]], b"1"], ids=repr)
@pytest.mark.parametrize(("name", "argument"), having(*SIZES, "groups"))
def test_kind_of_a_number(name, argument, value):
    with pytest.raises((TypeError, ValueError) if value == [[1]] else TypeError) as caught:
        getattr(F, name)(**{**CALLS[name], argument: value})
    assert argument in str(caught.value)
    if isinstance(value, float):
        assert "1" in str(caught.value) or "nan" in str(caught.value)


@pytest.mark.parametrize("value", ["1", "full", "SAME", ""])
@pytest.mark.parametrize(("name", "argument"), having(*SIZES, "groups"))
def test_text(name, argument, value):
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(F, name)(**{**CALLS[name], argument: value})
    assert argument in str(caught.value) and repr(value) in str(caught.value)


@pytest.mark.parametrize(("name", "argument"), having(*sorted(set(SIZES) - {"stride"}), "groups"))
def test_none_is_no_number(name, argument):
    assert argument in fail(name, TypeError, **{argument: None})


@pytest.mark.parametrize("value", [2**31, 2**62, 2**63, 2**64, 2**200])
@pytest.mark.parametrize(("name", "argument"), having("groups", "kernel_size", "output_padding"))
def test_far_too_large(name, argument, value):
    assert argument in fail(name, ValueError, **{argument: value})


@pytest.mark.parametrize("value", [2**63, 2**64, 2**200])
@pytest.mark.parametrize(("name", "argument"), having("stride", "padding", "dilation"))
def test_beyond_64_bits(name, argument, value):
    assert argument in fail(name, ValueError, **{argument: value})


@pytest.mark.parametrize("mode", ["reflect", "circular", "Same", "causal"])
@pytest.mark.parametrize("name", [name for name in CALLS if re.fullmatch(r"(separable_|cp_)?conv\dd.*", name)])
def test_padding_mode(name, mode):
    message = fail(name, ValueError, padding=mode)
    assert "padding" in message and repr(mode) in message and "same" in message and "valid" in message


@pytest.mark.parametrize("mask", [(True, True), (True,) * 5, ()])
@pytest.mark.parametrize("name", [name for name in CALLS if re.search(r"conv.*_backward$", name)])
def test_output_mask(name, mask):
    message = fail(name, ValueError, output_mask=mask)
    assert "output_mask" in message and str(mask) in message


@pytest.mark.parametrize("mask", [None, True, 3])
@pytest.mark.parametrize("name", ["conv2d_backward", "conv_transpose2d_backward"])
def test_output_mask_is_a_sequence(name, mask):
    assert "output_mask" in fail(name, TypeError, output_mask=mask)


ALGORITHMIC = [name for name in CALLS if re.match(r"conv(_transpose)?.d(_input|_weight)?$", name)]


@pytest.mark.parametrize("algorithm", ["fft", "", "AUTO"])
@pytest.mark.parametrize("name", ALGORITHMIC)
def test_algorithm_that_does_not_exist(name, algorithm):
    message = fail(name, ValueError, algorithm=algorithm)
    assert "algorithm" in message and repr(algorithm) in message and "'reference'" in message


@pytest.mark.parametrize("name", ALGORITHMIC)
def test_algorithm_is_text(name):
    assert "algorithm" in fail(name, TypeError, algorithm=3)


def test_unknown_keyword_is_a_type_error():
    for name in CALLS:
        assert "strides" in fail(name, TypeError, strides=1)


# ---- sizes as arguments ------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "argument"), having("input_size", "weight_size"))
def test_size_arguments(name, argument):
    size = CALLS[name][argument]
    for wrong in (size[:1], (*size, 3, 3), (*size[:-1], -1), (*size[:-1], 2**63), (size[0] + 1, *size[1:])):
        message = fail(name, ValueError, **{argument: wrong})
        assert any(word in message for word in (argument, "grad_output", "groups"))
    for wrong in (None, 3, (*size[:-1], 2.0), (*size[:-1], True), "abc"):
        with pytest.raises((TypeError, ValueError)) as caught:
            getattr(F, name)(**{**CALLS[name], argument: wrong})
        assert argument in str(caught.value)


# ---- arguments that do not fit each other ------------------------------------------------------

OUT = zeros(2, 6, 9, 8)
READ_ONLY = zeros(2, 6, 9, 8)
READ_ONLY.flags.writeable = False

# (function, changes, exception, what the message must contain)
MISFITS = [
    ("conv1d", {"input": zeros(2, 5, 9)}, ValueError, ["input", "5", "weight", "2", "groups"]),
    ("conv2d", {"input": zeros(2, 5, 9, 8)}, ValueError, ["input", "5", "groups"]),
    ("conv2d", {"weight": zeros(6, 4, 3, 3)}, ValueError, ["weight", "4", "groups", "2"]),
    ("conv2d", {"weight": zeros(7, 2, 3, 3), "bias": None}, ValueError, ["weight", "groups", "7", "2"]),
    ("conv2d", {"groups": 3}, ValueError, ["groups", "3", "4"]),
    ("conv2d", {"bias": zeros(5)}, ValueError, ["bias", "(5,)", "6"]),
    ("conv2d", {"bias": zeros(1)}, ValueError, ["bias", "(1,)", "6"]),
    ("conv2d", {"bias": zeros(6, 1)}, ValueError, ["bias", "(6, 1)"]),
    ("conv2d", {"bias": zeros(0)}, ValueError, ["bias", "(0,)", "6"]),
    ("conv2d", {"weight": zeros(6, 2, 12, 3)}, ValueError, ["weight", "12", "9", "(1, 1)"]),
    ("conv2d", {"dilation": (1, 5)}, ValueError, ["dilation", "5", "11", "8", "(1, 1)"]),
    ("conv3d", {"padding": 0, "weight": zeros(6, 2, 1, 1, 8)}, ValueError, ["8", "7"]),
    ("conv1d", {"padding": ((1, 1, 1),)}, ValueError, ["padding", "((1, 1, 1),)"]),
    ("conv2d", {"padding": ((1, 1), (1, -1))}, ValueError, ["padding", "-1"]),
    ("conv2d", {"padding": ((1, 1), 1)}, ValueError, ["padding", "((1, 1), 1)"]),
    ("conv2d", {"weight": zeros(6, 2, 0, 3)}, ValueError, ["weight", "at least one", "0"]),
    ("conv2d", {"input": zeros(2, 4, 0, 8), "padding": 0}, ValueError, ["input", "0", "axis 0"]),
    ("conv2d", {"out": zeros(2, 6, 9, 7)}, ValueError, ["out", "(2, 6, 9, 7)", "(2, 6, 9, 8)"]),
    ("conv2d", {"out": zeros(6, 9, 8)}, ValueError, ["out", "(6, 9, 8)", "(2, 6, 9, 8)"]),
    ("conv2d", {"out": OUT.astype(np.float64)}, TypeError, ["out", "float64", "float32"]),
    ("conv2d", {"out": OUT.tolist()}, TypeError, ["out", "list"]),
    ("conv2d", {"out": READ_ONLY}, ValueError, ["out", "read-only"]),
    ("conv_transpose2d", {"out": zeros(2, 6, 9, 7)}, ValueError, ["out", "(2, 6, 9, 7)", "(2, 6, 9, 8)"]),
    ("conv_transpose2d", {"out": OUT.astype(np.float64)}, TypeError, ["out", "float64", "float32"]),
    ("conv_transpose2d", {"out": READ_ONLY}, ValueError, ["out", "read-only"]),
    ("conv2d_backward", {"grad_output": zeros(2, 6, 9, 9)}, ValueError, ["grad_output", "(2, 6, 9, 9)", "(2, 6, 9, 8)"]),
    ("conv2d_backward", {"grad_output": zeros(1, 6, 9, 8)}, ValueError, ["grad_output", "(1, 6, 9, 8)", "(2, 6, 9, 8)"]),
    ("conv2d_backward", {"grad_output": zeros(6, 9, 8)}, ValueError, ["grad_output", "(6, 9, 8)"]),
    ("conv2d_backward", {"stride": 2}, ValueError, ["grad_output", "(2, 6, 9, 8)", "(2, 6, 5, 4)"]),
    ("conv2d_input", {"input_size": (2, 4, 9, 9)}, ValueError, ["grad_output", "(2, 6, 9, 8)", "(2, 6, 9, 9)"]),
    ("conv2d_input", {"input_size": (2, 6, 9, 8)}, ValueError, ["6", "groups"]),
    ("conv2d_weight", {"weight_size": (6, 2, 3, 5)}, ValueError, ["grad_output", "(2, 6, 9, 8)", "(2, 6, 9, 6)"]),
    ("conv2d_weight", {"weight_size": (6, 4, 3, 3)}, ValueError, ["weight_size", "(6, 4, 3, 3)"]),
    ("conv_transpose2d", {"input": zeros(2, 6, 9, 8)}, ValueError, ["input", "6", "weight", "4"]),
    ("conv_transpose2d", {"bias": zeros(3)}, ValueError, ["bias", "(3,)", "6"]),
    ("conv_transpose2d", {"groups": 3}, ValueError, ["groups", "3", "4"]),
    ("conv_transpose2d", {"output_padding": 1}, ValueError, ["output_padding", "1", "stride", "dilation"]),
    ("conv_transpose2d", {"stride": 2, "output_padding": (1, 2)}, ValueError, ["output_padding", "2"]),
    ("conv_transpose2d", {"padding": 6}, ValueError, ["padding", "6"]),
    ("conv_transpose2d", {"padding": "reflect"}, ValueError, ["padding", "'reflect'"]),
    ("conv_transpose2d_backward", {"grad_output": zeros(2, 6, 9, 9)}, ValueError, ["grad_output", "(2, 6, 9, 9)", "(2, 6, 9, 8)"]),
    ("max_pool2d", {"padding": 2}, ValueError, ["padding", "2", "kernel_size", "2"]),
    ("avg_pool2d", {"padding": 2}, ValueError, ["padding", "2", "kernel_size", "2"]),
    ("max_pool2d", {"kernel_size": 10}, ValueError, ["kernel_size", "10", "9"]),
    ("max_pool2d", {"dilation": 8}, ValueError, ["9", "8"]),
    ("avg_pool2d", {"divisor_override": 0}, ValueError, ["divisor_override", "0"]),
    ("avg_pool3d", {"divisor_override": 0}, ValueError, ["divisor_override", "0"]),
    ("adaptive_avg_pool2d", {"output_size": -1}, ValueError, ["output_size", "-1"]),
    ("adaptive_max_pool2d", {"output_size": (3, -2)}, ValueError, ["output_size", "-2"]),
    ("max_pool2d_backward", {"indices": np.zeros((2, 4, 4, 4), np.int32)}, TypeError, ["indices", "int32", "int64"]),
    ("max_pool2d_backward", {"indices": zeros(2, 4, 4, 4)}, TypeError, ["indices", "float32", "int64"]),
    ("max_pool2d_backward", {"indices": np.zeros((2, 4, 4, 3), np.int64)}, ValueError, ["indices", "(2, 4, 4, 3)", "(2, 4, 4, 4)"]),
    ("max_pool2d_backward", {"indices": np.full((2, 4, 4, 4), 72)}, ValueError, ["indices", "72"]),
    ("max_pool2d_backward", {"indices": np.full((2, 4, 4, 4), -1)}, ValueError, ["indices", "-1"]),
    ("max_pool2d_backward", {"input_size": (2, 3, 9, 8)}, ValueError, ["(2, 3, 9, 8)", "(2, 4, 4, 4)"]),
    ("max_unpool2d", {"indices": np.full((2, 4, 4, 4), 72)}, ValueError, ["indices", "72"]),
    ("max_unpool2d", {"indices": np.full((2, 4, 4, 4), -(2**62))}, ValueError, ["indices"]),
    ("max_unpool2d", {"indices": np.zeros((2, 4, 4, 4), np.int32)}, TypeError, ["indices", "int32", "int64"]),
    ("max_unpool2d", {"output_size": (90, 8)}, ValueError, ["output_size", "90"]),
    ("avg_pool2d_backward", {"input_size": (2, 4, 20, 8)}, ValueError, ["grad_output", "(2, 4, 4, 4)", "(2, 4, 10, 4)"]),
    ("unfold", {"kernel_size": 12}, ValueError, ["kernel_size", "12"]),
    ("fold", {"input": zeros(2, 35, 72)}, ValueError, ["input", "35", "9"]),
    ("fold", {"input": zeros(2, 36, 71)}, ValueError, ["input", "71", "72"]),
    ("fold", {"output_size": (9, 9)}, ValueError, ["input", "72", "81"]),
    ("separable_conv2d", {"pointwise_weight": zeros(6, 7, 1, 1)}, ValueError, ["pointwise_weight", "(6, 7, 1, 1)", "8"]),
    ("separable_conv2d", {"depthwise_weight": zeros(7, 1, 3, 3)}, ValueError, ["depthwise_weight", "(7, 1, 3, 3)", "4"]),
    ("separable_conv2d", {"bias": zeros(8)}, ValueError, ["bias", "(8,)", "6"]),
    ("separable_conv2d", {"activation": "tanh"}, ValueError, ["activation", "relu6", "'tanh'"]),
    ("separable_conv2d_backward", {"activation": 6}, ValueError, ["activation", "relu6", "6"]),
    ("cp_conv2d", {"factors": FACTORS[:3]}, ValueError, ["factors", "4", "3"]),
    ("cp_conv2d", {"factors": (*FACTORS[:3], zeros(3, 1))}, ValueError, ["factors[3]", "(3, 1)", "2"]),
    ("cp_conv2d", {"factors": (FACTORS[0], zeros(5, 2), *FACTORS[2:])}, ValueError, ["factors[1]", "(5, 2)", "4"]),
    ("cp_conv2d", {"factors": zeros(4, 3, 2)}, TypeError, ["factors"]),
]


@pytest.mark.parametrize(("name", "changes", "error", "words"), MISFITS, ids=lambda v: v if isinstance(v, str) else "")
def test_misfit(name, changes, error, words):
    message = fail(name, error, **changes)
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in {message!r}"


@pytest.mark.parametrize("name", [name for name in CALLS if "out" not in name and re.fullmatch(r"conv(_transpose)?\dd", name)])
def test_out_is_untouched_by_a_refused_call(name):
    """Nothing is half-written: the error comes before the first element."""
    shape = getattr(F, name)(**CALLS[name]).shape
    out = np.full(shape, np.nan, np.float32)
    fail(name, ValueError, bias=zeros(5), out=out)
    assert np.isnan(out).all()


# ---- threads and precision ---------------------------------------------------------------------


def enter_num_threads(n):
    with fastconv.num_threads(n):
        pass


@pytest.mark.parametrize("function", [fastconv.set_num_threads, enter_num_threads])
@pytest.mark.parametrize("value", [0, -1, 2**31, 2**70])
def test_number_of_threads(function, value):
    before = fastconv.get_num_threads()
    with pytest.raises(ValueError, match="n.*" + re.escape(str(value))):
        function(value)
    assert fastconv.get_num_threads() == before


@pytest.mark.parametrize("function", [fastconv.set_num_threads, enter_num_threads])
@pytest.mark.parametrize("value", [1.0, "2", None, True])
def test_kind_of_a_number_of_threads(function, value):
    with pytest.raises(TypeError, match="n.*int"):
        function(value)


def test_precision():
    with pytest.raises(ValueError, match="precision") as caught:
        fastconv.set_float32_precision("medium")
    assert all(repr(word) in str(caught.value) for word in ("medium", "high", "highest"))
    with pytest.raises((TypeError, ValueError), match="precision"):
        fastconv.set_float32_precision(None)
