"""Threads: the same bits at any count, after fork, from many Python threads at once, without the GIL, without leaks."""

import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from hypothesis import given
from shapes import CONV_CASES, SEEDS, TRANSPOSE_CASES, conv_cases, normal, transpose_cases

import fastconv
from fastconv import functional as F

pytestmark = pytest.mark.usefixtures("restore_configuration")


def forward_and_backward(case, seed=0):
    """Every array that a convolution's forward and backward pass compute."""
    x, w, b = case.arrays(normal, seed)
    y = getattr(F, f"conv{case.axes}d")(x, w, b, **case.options)
    return y, *getattr(F, f"conv{case.axes}d_backward")(y, x, w, **case.options)


def transpose_forward_and_backward(case, seed=0):
    x, w, b = case.arrays(normal, seed)
    y = getattr(F, f"conv_transpose{case.axes}d")(x, w, b, **case.options)
    return y, *getattr(F, f"conv_transpose{case.axes}d_backward")(y, x, w, **case.options)


def hold_equal(got, expected):
    for actual, right in zip(got, expected, strict=True):
        np.testing.assert_array_equal(actual, right)


def hold_same_at_any_count(function, *arguments):
    with fastconv.num_threads(1):
        expected = function(*arguments)
    for count in (2, 3, 8):
        with fastconv.num_threads(count):
            hold_equal(function(*arguments), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CONV_CASES.values(), ids=CONV_CASES)
def test_convolution_at_any_count(case, dtype):
    hold_same_at_any_count(forward_and_backward, case._replace(dtype=dtype))


@pytest.mark.parametrize("case", TRANSPOSE_CASES.values(), ids=TRANSPOSE_CASES)
def test_transposed_convolution_at_any_count(case):
    hold_same_at_any_count(transpose_forward_and_backward, case)


def test_scratch_of_many_threads_does_not_decide(rng):
    """A strided gradient by 'im2col' is one product if that one's scratch is within the bound: as three threads need it, it was not."""
    weight, grad = normal(rng, (160, 160, 3, 5), np.float32), normal(rng, (6, 160, 5, 12), np.float32)
    options = {"stride": (1, 2), "padding": (1, 3), "algorithm": "im2col"}
    hold_same_at_any_count(lambda: (fastconv.conv2d_input((6, 160, 5, 21), weight, grad, **options),))


@given(conv_cases(), SEEDS)
def test_any_convolution_at_any_count(case, seed):
    hold_same_at_any_count(forward_and_backward, case, seed)


@given(transpose_cases(), SEEDS)
def test_any_transposed_convolution_at_any_count(case, seed):
    hold_same_at_any_count(transpose_forward_and_backward, case, seed)


def every_pooling(x):
    values, indices = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    average = F.avg_pool2d(x, 3, 2, 1)
    adaptive, where = F.adaptive_max_pool2d(x, (5, 7), return_indices=True)
    return (
        values,
        indices,
        average,
        adaptive,
        where,
        F.adaptive_avg_pool2d(x, (5, 7)),
        *F.max_pool2d(x, 3, 1, 1, return_indices=True),
        F.avg_pool2d(x, 3, 1, 1),
        F.max_pool2d_backward(values, indices, x.shape),
        F.avg_pool2d_backward(average, x.shape, 3, 2, 1),
        F.adaptive_max_pool2d_backward(adaptive, where, x.shape),
        F.adaptive_avg_pool2d_backward(adaptive, x.shape),
        F.max_unpool2d(values, indices, 3, 2, 1, x.shape[2:]),
        F.unfold(x, 3, padding=1),
        F.fold(F.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1, 9, 11), (4, 32, 56, 57), (1, 2, 300, 301)])
def test_pooling_and_patches_at_any_count(shape, dtype, rng):
    hold_same_at_any_count(every_pooling, normal(rng, shape, dtype))


# ---- the number of threads ---------------------------------------------------------------------


def test_set_and_get():
    for count in (1, 2, 7, 64):
        fastconv.set_num_threads(count)
        assert fastconv.get_num_threads() == count
    fastconv.set_num_threads(np.int64(3))
    assert fastconv.get_num_threads() == 3


def test_context_manager_puts_the_number_back():
    fastconv.set_num_threads(3)
    with fastconv.num_threads(2):
        assert fastconv.get_num_threads() == 2
        with fastconv.num_threads(5):
            assert fastconv.get_num_threads() == 5
        assert fastconv.get_num_threads() == 2
    assert fastconv.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError), fastconv.num_threads(4):
        raise ZeroDivisionError
    assert fastconv.get_num_threads() == 3


def in_child(program, **environment):
    """What a fresh interpreter prints; its failure fails the test."""
    program = "import numpy as np, fastconv\nfrom fastconv import functional as F\n" + textwrap.dedent(program)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FASTCONV_")}
    child = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=clean | environment
    )
    assert child.returncode == 0, f"exit code {child.returncode}\n{child.stdout}\n{child.stderr}"
    return child.stdout.strip()


def test_environment_sets_the_number():
    assert in_child("print(fastconv.get_num_threads())", FASTCONV_NUM_THREADS="3") == "3"


@pytest.mark.parametrize("value", ["0", "-2", "many", "", "2.5", "99999999999999999999"])
def test_environment_that_makes_no_sense(value):
    """Refused at import with the variable's name, or as good as not set; never another number."""
    program = """
        import os
        print(fastconv.get_num_threads() == len(os.sched_getaffinity(0)) or fastconv.get_num_threads())
        """
    try:
        printed = in_child(program, FASTCONV_NUM_THREADS=value)
    except AssertionError as error:
        assert "FASTCONV_NUM_THREADS" in str(error)
    else:
        assert printed == "True"


def test_default_obeys_the_affinity_mask():
    one = min(os.sched_getaffinity(0))
    program = f"""
        import os, subprocess, sys
        os.sched_setaffinity(0, {{{one}}})
        subprocess.run([sys.executable, "-c", "import fastconv; print(fastconv.get_num_threads())"], check=True)
        """
    assert in_child(program) == "1"


def test_show_config_names_the_threads(capsys):
    fastconv.set_num_threads(5)
    shown = fastconv.show_config()
    text = capsys.readouterr().out + (str(shown) if shown is not None else "")
    assert "threads" in text.lower() and "5" in text


# ---- fork --------------------------------------------------------------------------------------


def test_fork_after_the_pool_has_started():
    """A child has one thread and must start its own pool; parent and child, and the child's child, all agree."""
    in_child(
        """
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)   # fork in a process with threads is what is tested
        fastconv.set_num_threads(4)
        rng = np.random.default_rng(0)
        x, w = rng.standard_normal((4, 32, 40, 40)), rng.standard_normal((32, 32, 3, 3))
        expected = F.conv2d(x, w)

        def ends_well(pid):
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

        def works():
            return fastconv.get_num_threads() == 4 and all(np.array_equal(F.conv2d(x, w), expected) for _ in range(3))

        pid = os.fork()
        if pid == 0:
            good = works()
            grandchild = os.fork()
            if grandchild == 0:
                os._exit(not works())
            os._exit(not (good and ends_well(grandchild) and works()))
        assert works() and ends_well(pid) and works()
        """
    )


def test_fork_while_another_thread_computes():
    """The pool's lock may be held at the moment of the fork; the child must not wait for its dead holder."""
    in_child(
        """
        import os, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        fastconv.set_num_threads(2)
        rng = np.random.default_rng(0)
        x, w = rng.standard_normal((2, 16, 40, 40)), rng.standard_normal((16, 16, 3, 3))
        expected = F.conv2d(x, w)
        stop = threading.Event()

        def busy():
            while not stop.is_set():
                F.conv2d(x, w)

        worker = threading.Thread(target=busy)
        worker.start()
        for _ in range(30):
            pid = os.fork()
            if pid == 0:
                os._exit(not np.array_equal(F.conv2d(x, w), expected))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        stop.set()
        worker.join()
        """
    )


def test_multiprocessing_pool_by_fork():
    printed = in_child(
        """
        import multiprocessing, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        fastconv.set_num_threads(2)
        x, w = np.ones((2, 8, 64, 64)), np.ones((8, 8, 3, 3))
        F.conv2d(x, w)

        def work(i):
            return float(F.conv2d(i * x, w)[0, 0, 0, 0])

        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(pool.map(work, range(6)))
        """
    )
    assert printed == str([72.0 * i for i in range(6)])


def test_process_ends_while_the_pool_sleeps():
    assert in_child("fastconv.set_num_threads(8); F.conv2d(np.ones((8, 8, 64, 64)), np.ones((8, 8, 3, 3))); print('done')") == "done"


# ---- several Python threads --------------------------------------------------------------------


def test_several_python_threads_at_once():
    """Six threads, each with its own problem and its own expectation, calling over and over."""
    fastconv.set_num_threads(2)
    names = ["dense 3x3", "depthwise", "pointwise", "7x7 stride 2", "grouped", "1d dense"]
    expected = {name: forward_and_backward(CONV_CASES[name]) for name in names}
    wrong = []
    start = threading.Barrier(len(names))

    def work(name):
        start.wait()
        try:
            for _ in range(10):
                hold_equal(forward_and_backward(CONV_CASES[name]), expected[name])
        except BaseException as error:  # handed to the main thread
            wrong.append((name, error))

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_setting_the_number_while_others_compute():
    expected = forward_and_backward(CONV_CASES["dense 3x3"])
    stop, wrong = threading.Event(), []

    def compute():
        while not stop.is_set():
            try:
                hold_equal(forward_and_backward(CONV_CASES["dense 3x3"]), expected)
            except AssertionError as error:
                wrong.append(error)
                return

    worker = threading.Thread(target=compute)
    worker.start()
    for i in range(200):
        fastconv.set_num_threads(1 + i % 5)
        F.conv2d(np.ones((2, 4, 32, 32)), np.ones((4, 4, 3, 3)))
    stop.set()
    worker.join()
    assert not wrong


LONG_CALLS = {
    "conv2d": "F.conv2d(x, w)",
    "conv2d_weight": "F.conv2d_weight(x, w.shape, y)",
    "conv2d_input": "F.conv2d_input(x.shape, w, y)",
    "conv_transpose2d": "F.conv_transpose2d(y, w)",
    "max_pool2d": "F.max_pool2d(flat, 9, 1)",
    "avg_pool2d": "F.avg_pool2d(flat, 9, 1)",
    "unfold": "F.unfold(flat[:1, :8], 7)",
}


@pytest.mark.parametrize("call", LONG_CALLS.values(), ids=LONG_CALLS)
def test_the_gil_is_released(call):
    """Another Python thread counts on while one is inside a call.

    The interpreter's switch interval is set to an hour: a thread gets the GIL only when its holder gives it up. So
    the counter, which gives it up at every step, can step between entry and return only if the call itself lets go.
    One call that lets go proves it: the counter's own core may be taken from a virtual machine for several calls, so a
    call in which nothing was counted is repeated.
    """
    in_child(
        f"""
        import sys, threading, time
        fastconv.set_num_threads(1)
        rng = np.random.default_rng(0)
        x, w = rng.standard_normal((4, 64, 56, 56)), rng.standard_normal((64, 64, 3, 3))
        y, flat = rng.standard_normal((4, 64, 54, 54)), rng.standard_normal((4, 32, 256, 256))
        steps, stop = 0, threading.Event()

        def count():
            global steps
            while not stop.is_set():
                steps += 1
                time.sleep(0)

        sys.setswitchinterval(3600)
        counter = threading.Thread(target=count, daemon=True)
        counter.start()
        while steps == 0:
            time.sleep(0)
        gained = []
        while len(gained) < 300 and max(gained, default=0) <= 10:
            before = steps
            {call}
            gained.append(steps - before)
        stop.set()
        counter.join()
        # A call that holds the GIL lets at most the step through that waits at its entry or its return.
        assert max(gained) > 10, gained
        """
    )


# ---- memory ------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_number_of_shapes():
    """A thousand shapes, forward and backward, leave the process no more than a few megabytes larger."""
    printed = in_child(
        """
        import gc
        fastconv.set_num_threads(2)

        def resident():
            gc.collect()
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

        def work(first, last):
            for i in range(first, last):
                x = np.ones((1 + i % 3, 8, 20 + i % 37, 20 + i % 41), np.float32)
                w = np.ones((8 + i % 5, 8, 1 + i % 3, 1 + i % 4), np.float32)
                y = F.conv2d(x, w, stride=1 + i % 2)
                F.conv2d_backward(y, x, w, stride=1 + i % 2)
                values, indices = F.max_pool2d(y, 2, return_indices=True)
                F.max_pool2d_backward(values, indices, y.shape)

        work(0, 200)
        before = resident()
        work(200, 1200)
        print(resident() - before)
        """
    )
    assert float(printed) < 8


def test_python_threads_that_end_give_their_scratch_back():
    printed = in_child(
        """
        import threading
        fastconv.set_num_threads(1)
        x, w = np.ones((1, 32, 40, 40), np.float32), np.ones((32, 32, 3, 3), np.float32)
        y = F.conv2d(x, w)

        def resident():
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

        def work(times):
            for _ in range(times):
                threads = [threading.Thread(target=F.conv2d_backward, args=(y, x, w)) for _ in range(4)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

        work(25)
        before = resident()
        work(100)
        print(resident() - before)
        """
    )
    assert float(printed) < 8


def test_errors_leak_nothing():
    printed = in_child(
        """
        def resident():
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

        def work(times):
            for _ in range(times):
                x = np.ones((1, 4, 64, 64))
                for bad in ({"bias": np.ones(5)}, {"algorithm": "none"}, {"stride": 0}, {"out": np.ones(3)}):
                    try:
                        F.conv2d(x, np.ones((4, 4, 3, 3)), **bad)
                    except ValueError:
                        pass

        work(100)
        before = resident()
        work(2000)
        print(resident() - before)
        """
    )
    assert float(printed) < 8
