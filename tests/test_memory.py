"""The memory of results: on cache lines, used again, NumPy's to keep, and bounded; and scratch."""

import ctypes
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from fastconv import functional as F

LINE = 64


def address(a):
    return a.__array_interface__["data"][0]


def images(dtype=np.float32, channels=64):
    return np.ones((1, channels, 28, 28), dtype), np.ones((channels, channels, 1, 1), dtype)


def results():
    x, w = images()
    y = F.conv2d(x, w)
    pooled, indices = F.max_pool2d(x, 1, return_indices=True)
    return {
        "conv2d": y,
        "gradients": F.conv2d_backward(y, x, w)[0],
        "channels-last": F.conv2d(np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1), w),
        "max_pool2d": pooled,
        "indices": indices,
        "unfold": F.unfold(x, 3),
        "float64": F.conv2d(*images(np.float64)),
    }


@pytest.mark.parametrize("name", list(results()))
def test_large_results_begin_on_a_cache_line(name):
    assert address(results()[name]) % LINE == 0


def test_a_freed_result_serves_the_next_one():
    x, w = images(channels=65)    # a size that no other test leaves behind
    first = F.conv2d(x, w)
    kept = address(first)
    second = F.conv2d(x, w)
    assert address(second) != kept
    del first
    assert address(F.conv2d(x, w)) == kept


def test_results_are_arrays_that_own_their_memory():
    x, w = images()
    y = F.conv2d(x, w)
    assert y.flags.owndata and y.base is None
    y.resize((1, 64, 30, 30), refcheck=False)
    assert np.all(y.ravel()[: 64 * 28 * 28] == 64) and np.all(y.ravel()[64 * 28 * 28 :] == 0)
    y.resize((64,), refcheck=False)
    assert np.all(y == 64)


def test_numpy_allocates_everything_else():
    x, w = images()
    names = {np._core.multiarray.get_handler_name(a) for a in (np.empty(1 << 20), F.conv2d(x, w).copy(), x + x)}
    assert names == {"default_allocator"}
    assert np._core.multiarray.get_handler_name(F.conv2d(x, w)) == "fastconv"


def test_a_handler_that_the_caller_has_set_is_used():
    """NumPy's own handler under another name, so that it is not the default one."""
    api = ctypes.pythonapi
    api.PyCapsule_GetPointer.restype, api.PyCapsule_New.restype = ctypes.c_void_p, ctypes.py_object
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    numpy_api = ctypes.cast(api.PyCapsule_GetPointer(np._core._multiarray_umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
    exchange = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(numpy_api[304])
    default = exchange(api.PyCapsule_New(numpy_api[305], b"mem_handler", None))
    exchange(default)
    size = 127 + 1 + 5 * ctypes.sizeof(ctypes.c_void_p)
    own = ctypes.create_string_buffer(ctypes.string_at(api.PyCapsule_GetPointer(default, b"mem_handler"), size), size)
    own[:5] = b"mine\0"
    x, w = images()
    try:
        exchange(api.PyCapsule_New(ctypes.addressof(own), b"mem_handler", None))
        name = np._core.multiarray.get_handler_name(F.conv2d(x, w))
    finally:
        exchange(default)
    assert name == "mine"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_what_is_kept_is_bounded():
    """2 GiB of freed results of ever new sizes leave at most 128 MiB behind, and what a process needs anyway."""
    program = """
import numpy as np
from fastconv import functional as F
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
w = np.ones((1, 1, 1, 1), np.float32)
x = np.zeros((1, 1, 5000, 5000), np.float32)
x += 1
F.conv2d(x[:, :, :10, :10], w)
before = resident()
for rows in range(5000, 1000, -200):
    F.conv2d(x[:, :, :rows], w)
print(resident() - before)
"""
    grown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert float(grown) < 128 + 64


def test_threads_get_blocks_of_their_own():
    x, w = images()
    wrong = []

    def work(value):
        for _ in range(100):
            y = F.conv2d(x * value, w)
            if not np.all(y == 64 * value):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(v,)) for v in (1, 2, 3, 4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


MEBIBYTE = 1 << 20


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peak memory is read from /proc")
def test_scratch_of_every_row_is_bounded_and_as_told():
    """Two threads, the benchmark's rows. A first call takes 1 MiB for code and the second thread's stack, up to 2 more where
    the system gives a huge page; booked scratch that nothing touches is not resident: a thread that comes too late to get
    any work leaves its half alone."""
    program = Path(__file__).with_name("row_memory.py")
    paths = {"PYTHONPATH": os.pathsep.join([str(program.parents[1]), *filter(None, sys.path)])}
    shown = subprocess.run([sys.executable, str(program)], env=os.environ | paths, stdout=subprocess.PIPE, text=True, check=True,
                           timeout=240).stdout
    rows = [json.loads(line) for line in shown.splitlines()]
    assert len(rows) > 200
    assert [row for row in rows if row["measured"] > 24 * MEBIBYTE or (row["told"] or 0) > 24 * MEBIBYTE] == []
    contiguous = [row for row in rows if row["told"] is not None and row["layout"] == "channels_first"]
    assert [row for row in contiguous if row["measured"] > row["told"] + 3 * MEBIBYTE] == []
    assert [row for row in contiguous if row["measured"] < row["told"] / 2 - MEBIBYTE] == []
