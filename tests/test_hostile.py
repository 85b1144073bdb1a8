"""Absurd input: sizes near 2^31 and 2^63, empty axes, no memory. Nothing crashes, hangs or reads outside an array.

What could take the interpreter down runs in a child under limits of memory and time: a call that allocates
what it should refuse, or loops over 2^40 nothings, ends as a failed test instead of a dead machine.
"""

import resource
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from fastconv import functional as F

SECONDS, BYTES = 20, 3 << 30

PROLOGUE = """
import faulthandler
import numpy as np
import fastconv
from fastconv import functional as F

def huge(*shape, dtype=np.float32):
    "An array of any shape, one number in memory."
    return np.broadcast_to(np.ones((), dtype), shape)

def refused(call, *errors):
    try:
        call()
    except errors or (ValueError, MemoryError) as error:
        assert str(error) or isinstance(error, MemoryError), "an error without a message"
    else:
        raise AssertionError("accepted")

faulthandler.enable()
"""


def limits():
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def in_child(program):
    """Run a program under limits; anything but its clean end fails the test."""
    child = subprocess.run(
        [sys.executable, "-c", PROLOGUE + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=5 * SECONDS,
        preexec_fn=limits,  # noqa: PLW1509: the child starts no thread before it
    )
    assert child.returncode == 0, f"exit code {child.returncode}\n{child.stdout}\n{child.stderr}"
    return child.stdout


# Each line must be refused with a ValueError or a MemoryError. `huge` arrays cost no memory, their results would.
REFUSED = {
    "conv": """
        F.conv1d(huge(1, 1, 2**31 + 5), huge(1, 1, 3))
        F.conv1d(huge(1, 1, 2**40), huge(1, 1, 3))
        F.conv1d(huge(1, 1, 2**60), huge(1, 1, 3), padding=2**60)
        F.conv1d(huge(1, 1, 8), huge(1, 1, 3), padding=2**62)
        F.conv1d(huge(1, 1, 8), huge(1, 1, 3), padding=2**63 - 1)
        F.conv1d(huge(1, 1, 8), huge(1, 1, 3), padding=((2**63 - 1, 2**63 - 1),))
        F.conv1d(huge(1, 1, 8), huge(1, 1, 3), dilation=2**62)
        F.conv1d(huge(1, 1, 8), huge(1, 1, 3), dilation=2**63 - 1)
        F.conv1d(huge(1, 1, 8), huge(1, 1, 3), dilation=2**63 - 1, padding=2**63 - 1)
        F.conv1d(huge(2**31, 2, 8), huge(2**31, 2, 3))
        F.conv2d(huge(1, 1, 2**31, 2**31), huge(1, 1, 1, 1))
        F.conv2d(huge(2**20, 1, 2**20, 2**20), huge(2**20, 1, 1, 1))
        F.conv2d(huge(1, 1, 8, 8), huge(1, 1, 2**31, 2**31))
        F.conv2d(huge(1, 1, 8, 8), huge(1, 1, 3, 3), padding=(2**31, 2**31))
        F.conv2d(huge(1, 1, 8, 8), huge(1, 1, 3, 3), padding=(2**40, 2**40), stride=(2**10, 1))
        F.conv3d(huge(1, 1, 2**21, 2**21, 2**20), huge(1, 1, 1, 1, 1))
        F.conv3d(huge(2**10, 1, 2**21, 2**21, 2**10), huge(1, 1, 1, 1, 1), padding=2**20)
        F.conv2d(huge(0, 1, 2**31, 2**31), huge(0, 1, 3, 3), groups=2**31)
        """,
    "gradients": """
        F.conv1d_input((1, 1, 2**40), huge(1, 1, 3), huge(1, 1, 2**40 - 2))
        F.conv1d_input((1, 1, 2**63 - 1), huge(1, 1, 3), huge(1, 1, 6))
        F.conv1d_input((1, 1, 2**64), huge(1, 1, 3), huge(1, 1, 6))
        F.conv2d_input((2**31, 2**31, 2**31, 2**31), huge(1, 1, 3, 3), huge(1, 1, 6, 6))
        F.conv1d_weight(huge(1, 1, 8), (2**62, 1, 3), huge(1, 2**62, 6))
        F.conv1d_weight(huge(1, 2**40, 8), (1, 2**40, 3), huge(1, 1, 6))
        F.conv2d_weight(huge(1, 1, 8, 8), (1, 1, 2**63 - 1, 3), huge(1, 1, 6, 6))
        F.conv1d_backward(huge(1, 2**40, 6), huge(1, 1, 8), huge(2**40, 1, 3))
        """,
    "transposed": """
        F.conv_transpose1d(huge(1, 1, 8), huge(1, 1, 3), stride=2**62)
        F.conv_transpose1d(huge(1, 1, 8), huge(1, 1, 3), stride=2**40)
        F.conv_transpose1d(huge(1, 1, 8), huge(1, 1, 3), dilation=2**62)
        F.conv_transpose1d(huge(1, 1, 8), huge(1, 1, 3), stride=2**63 - 1, output_padding=2**63 - 2)
        F.conv_transpose1d(huge(1, 1, 8), huge(1, 1, 3), padding=2**63 - 1)
        F.conv_transpose1d(huge(1, 1, 2**62), huge(1, 1, 3))
        F.conv_transpose2d(huge(1, 1, 2**31, 2**31), huge(1, 2**10, 3, 3), stride=2**10)
        F.conv_transpose2d(huge(1, 2**31, 4, 4), huge(2**31, 2**31, 1, 1), groups=2**31)
        """,
    "pooling": """
        F.max_pool1d(huge(1, 1, 2**40), 2)
        F.max_pool1d(huge(1, 1, 2**62), 1)
        F.max_pool2d(huge(1, 1, 2**31, 2**31), 2)
        F.max_pool2d(huge(1, 1, 8, 8), 2**62)
        F.max_pool2d(huge(1, 1, 8, 8), 2, dilation=2**62)
        F.max_pool2d(huge(1, 1, 8, 8), 2**63 - 1, padding=2**62 - 1, dilation=2**62, ceil_mode=True)
        F.avg_pool1d(huge(1, 1, 2**40), 2)
        F.avg_pool2d(huge(1, 1, 2**31, 2**31), 2)
        F.avg_pool3d(huge(1, 1, 8, 8, 8), 2**62)
        F.adaptive_avg_pool2d(huge(1, 1, 8, 8), 2**40)
        F.adaptive_avg_pool1d(huge(1, 1, 8), 2**62)
        F.adaptive_max_pool2d(huge(1, 1, 8, 8), (2**31, 2**31))
        F.adaptive_max_pool1d(huge(1, 1, 8), 2**63)
        F.max_unpool1d(huge(1, 1, 4), huge(1, 1, 4, dtype=np.int64), 2**62)
        F.max_unpool2d(huge(1, 1, 4, 4), huge(1, 1, 4, 4, dtype=np.int64), 2, 2**62)
        F.max_pool1d_backward(huge(1, 1, 4), huge(1, 1, 4, dtype=np.int64), (1, 1, 2**62))
        F.avg_pool1d_backward(huge(1, 1, 4), (1, 1, 2**62), 2)
        F.adaptive_avg_pool1d_backward(huge(1, 1, 4), (1, 1, 2**62))
        F.adaptive_avg_pool1d_backward(huge(1, 1, 4), (1, 1, 2**64))
        """,
    "patches": """
        F.unfold(huge(1, 1, 2**31, 2**31), 1)
        F.unfold(huge(1, 1, 8, 8), 2**62)
        F.unfold(huge(1, 1, 8, 8), 3, padding=2**62)
        F.unfold(huge(1, 1, 8, 8), 3, dilation=2**63 - 1)
        F.unfold(huge(1, 2**40, 80, 80), 40)
        F.fold(huge(1, 9, 4), (2**62, 2**62), 3)
        F.fold(huge(1, 9, 4), (2**31, 2**31), 3)
        F.fold(huge(1, 2**62, 4), (4, 4), 2**31)
        """,
    "factored": """
        F.cp_weight((huge(2**31, 2), huge(2**31, 2), huge(3, 2), huge(3, 2)))
        F.cp_conv1d(huge(1, 2**40, 8), (huge(3, 2), huge(2**40, 2), huge(3, 2)), padding=2**62)
        F.cp_conv2d(huge(1, 1, 8, 8), (huge(2**40, 2), huge(1, 2), huge(3, 2), huge(3, 2)))
        F.separable_conv2d(huge(1, 1, 2**31, 2**31), huge(1, 1, 3, 3), huge(1, 1, 1, 1))
        """,
}


@pytest.mark.parametrize("what", REFUSED)
def test_absurd_sizes_are_refused(what):
    in_child("".join(f"refused(lambda: {line.strip()})\n" for line in REFUSED[what].strip().splitlines()))


# Absurd on paper, small in fact: the answer is exact. Where an option times a size passes 2^60, a refusal will do.


def exact_or_refused(expected, function, *arrays, **options):
    try:
        result = function(*arrays, **options)
    except ValueError as error:
        assert "64 bits" in str(error) and max(options.values()) >= 2**57
    else:
        np.testing.assert_array_equal(result, expected)


FAR = [2**20, 2**31, 2**40, 2**56, 2**60, 2**62, 2**63 - 1]
X, W = np.arange(8.0).reshape(1, 1, 8), np.array([[[1.0, 10.0, 100.0]]])


@pytest.mark.parametrize("far", [6, *FAR])
def test_huge_stride_keeps_the_first_window(far):
    one = np.ones((1, 1, 1))
    exact_or_refused([[[210.0]]], F.conv1d, X, W, stride=far)
    exact_or_refused([[[1.0, 10, 100, 0, 0, 0, 0, 0]]], F.conv1d_input, X.shape, W, one, stride=far)
    exact_or_refused([[[0.0, 1, 2]]], F.conv1d_weight, X, W.shape, one, stride=far)
    exact_or_refused([[[2.0]]], F.max_pool1d, X, 3, stride=far)
    exact_or_refused([[[1.0]]], F.avg_pool1d, X, 3, stride=far)


@pytest.mark.parametrize("far", [9, *FAR])
def test_huge_dilation_of_one_tap_means_nothing(far):
    three = np.array([[[3.0]]])
    exact_or_refused(3 * X, F.conv1d, X, three, dilation=far)
    exact_or_refused(3 * X, F.conv1d_input, X.shape, three, X, dilation=far)
    exact_or_refused(3 * X, F.conv_transpose1d, X, three, dilation=far)
    exact_or_refused(X, F.max_pool1d, X, 1, dilation=far)


@pytest.mark.parametrize("far", FAR)
def test_huge_stride_of_one_transposed_pixel_means_nothing(far):
    exact_or_refused(2 * W, F.conv_transpose1d, np.array([[[2.0]]]), W, stride=far)


@pytest.mark.parametrize("far", FAR)
def test_padding_and_stride_both_huge(far):
    """Three windows: the middle one begins at the input, the others lie in padding."""
    three = np.ones((1, 1, 3))
    exact_or_refused([[[5.0, 215.0, 5.0]]], F.conv1d, X, W, np.array([5.0]), stride=far, padding=far)
    exact_or_refused([[[1.0, 10, 100, 0, 0, 0, 0, 0]]], F.conv1d_input, X.shape, W, three, stride=far, padding=far)
    exact_or_refused([[[0.0, 1, 2]]], F.conv1d_weight, X, W.shape, three, stride=far, padding=far)


@pytest.mark.parametrize("far", FAR)
def test_dilation_that_jumps_over_the_input(far):
    """The middle of three taps meets the input, the others lie in padding."""
    exact_or_refused(10 * X, F.conv1d, X, W, padding=far, dilation=far)
    exact_or_refused(10 * X, F.conv1d_input, X.shape, W, X, padding=far, dilation=far)
    exact_or_refused([[[0.0, (X * X).sum(), 0]]], F.conv1d_weight, X, W.shape, X, padding=far, dilation=far)


def test_transposed_strides_of_thousands_take_no_ages():
    """Millions of output phases, nine of them with anything to sum."""
    in_child(
        """
        y = F.conv_transpose2d(np.full((1, 1, 2, 2), 2.0), np.ones((1, 1, 3, 3)), np.ones(1), stride=1500)
        assert y.shape == (1, 1, 1503, 1503)
        assert np.count_nonzero(y == 3) == 36 and np.count_nonzero(y == 1) == 1503**2 - 36
        dx = F.conv2d_input((1, 1, 2000, 2000), np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2)), stride=1500)
        assert dx.sum() == 16
        """
    )


def test_pooling_window_far_larger_than_the_input():
    """The window clipped to the input, or a refusal, but no walk over 2^80 taps."""
    in_child(
        """
        for side in (2**20, 2**40, 2**62):
            try:
                assert F.max_pool2d(huge(1, 1, 8, 8), side, padding=side // 2).max() == 1
            except ValueError as error:
                assert "kernel_size" in str(error)
            try:
                F.avg_pool2d(huge(1, 1, 8, 8), side, padding=side // 2)
            except ValueError as error:
                assert "kernel_size" in str(error)
        """
    )


def test_empty_results_of_huge_arrays():
    """No images of 2^31 pixels are no pixels at all."""
    in_child(
        """
        assert F.conv2d(huge(0, 3, 2**31, 2**10), huge(4, 3, 3, 3)).shape == (0, 4, 2**31 - 2, 2**10 - 2)
        assert F.conv1d(huge(1, 2**40, 3), huge(0, 2**40, 3)).shape == (1, 0, 1)
        assert F.conv1d_weight(huge(0, 2, 2**40), (4, 2, 3), huge(0, 4, 2**40 - 2)).any() == False
        assert F.max_pool1d(huge(0, 3, 2**40), 2).shape == (0, 3, 2**39)
        assert F.avg_pool1d(huge(0, 3, 2**40), 2).shape == (0, 3, 2**39)
        assert F.conv_transpose1d(huge(0, 2, 2**40), huge(2, 3, 3)).shape == (0, 3, 2**40 + 2)
        """
    )


def test_broadcast_input_larger_than_two_billion_elements():
    """Offsets beyond 2^31 from one number in memory; the few outputs are exact."""
    in_child(
        """
        x = huge(1, 1, 2**33)
        assert F.conv1d(x, huge(1, 1, 3), stride=2**26).tolist() == [[[3.0] * 128]]
        assert F.max_pool1d(x, 2, stride=2**26).tolist() == [[[1.0] * 128]]
        images = huge(2**33, 1, 4)
        assert F.conv1d(images[: 2**32 : 2**30], huge(1, 1, 4)).tolist() == [[[4.0]]] * 4
        """
    )


def test_strides_that_span_gigabytes():
    """Two pixels nearly 2^31 bytes apart, the memory between them never touched."""
    in_child(
        """
        import mmap
        room = mmap.mmap(-1, 2**31, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        floats = np.frombuffer(room, np.float32)
        x = floats[:: 2**29 - 1].reshape(1, 1, 2)
        x[...] = 3, 4
        assert F.conv1d(x, huge(1, 1, 2)).tolist() == [[[7.0]]]
        assert F.conv1d(x[..., ::-1], np.float32([[[1, 0]]])).tolist() == [[[4.0]]]
        with open("/proc/self/statm") as statm:
            assert int(statm.read().split()[1]) * mmap.PAGESIZE < 2**29
        """
    )


# ---- memory ------------------------------------------------------------------------------------


def test_no_memory_for_the_result():
    in_child(
        """
        refused(lambda: F.conv2d(huge(1, 1, 2**16, 2**16), huge(1, 1, 1, 1)), MemoryError)
        refused(lambda: F.conv_transpose2d(huge(1, 1, 2**15, 2**15), huge(1, 4, 1, 1)), MemoryError)
        refused(lambda: F.max_pool2d(huge(1, 4, 2**15, 2**15), 1), MemoryError)
        refused(lambda: F.unfold(huge(1, 1, 2**14, 2**14), 5, padding=2), MemoryError)
        assert F.conv1d(huge(1, 1, 4), huge(1, 1, 2)).tolist() == [[[2.0] * 3]]
        """
    )


def test_no_memory_for_scratch():
    """The address space shrinks to almost nothing, the output exists: a result or a MemoryError, and a working library."""
    in_child(
        """
        import resource
        fastconv.set_num_threads(1)
        rng = np.random.default_rng(0)
        x, w = rng.standard_normal((4, 256, 40, 40)), rng.standard_normal((256, 256, 5, 5))
        out = np.full((4, 256, 36, 36), np.nan)
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
        for spare in (0, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24):
            resource.setrlimit(resource.RLIMIT_AS, (used + spare, 3 << 30))
            try:
                F.conv2d(x, w, out=out)
            except MemoryError:
                resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
                assert np.isnan(out).all(), "half-written"
            else:
                break
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
        y = F.conv2d(x[:1, :, :5, :5], w)
        np.testing.assert_allclose(y[0, :, 0, 0], np.tensordot(w, x[0, :, :5, :5], 3), rtol=1e-10)
        """
    )


def test_scratch_stays_far_below_the_im2col_matrix():
    """The matrix of pytorch/pytorch#5285 would hold 16 x 5184 x 50176 floats, 16 GB; one image of it runs in 1.5 GB."""
    in_child(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (1500 << 20, 3 << 30))
        fastconv.set_float32_precision("highest")  # exact sums
        y = F.conv2d(np.ones((1, 64, 224, 224), np.float32), np.ones((3, 64, 9, 9), np.float32), padding=4)
        assert y[0, :, 100, 100].tolist() == [5184.0] * 3 and y[0, 0, 0, 0] == 1600.0
        """
    )


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_every_small_geometry_ends_in_a_result_or_a_clear_error(axes):
    """Sizes 0 to 3 and options that often do not fit: an array or a ValueError, never anything else."""
    rng = np.random.default_rng(axes)
    outcomes = set()
    for _ in range(1500):
        size, kernel = rng.integers(0, 4, axes), rng.integers(0, 4, axes)
        n, c, o, groups = rng.integers(0, 4, 4)
        stride, padding, dilation, extra = rng.integers(-1, 4, 4)
        x, w = np.ones((n, c * groups, *size)), np.ones((o * groups, c, *kernel))
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        for function, weight, more in ((f"conv{axes}d", w, {}), (f"conv_transpose{axes}d", w.swapaxes(0, 1), {"output_padding": extra})):
            try:
                outcomes.add(getattr(F, function)(x, weight, **options, **more).ndim)
            except ValueError as error:
                assert len(str(error)) > 20
                outcomes.add(ValueError)
    assert outcomes == {axes + 2, ValueError}
