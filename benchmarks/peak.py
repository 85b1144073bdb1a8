"""The limits of this machine, measured in the run that quotes them: multiply-adds per second, and copied bytes.

A core that has been busy for long is slower than one that begins, and a shared one than one alone (Zen 4: 118 GFLOPS in its best
moments, 95 to 108 beside rows that take their turns), so a row's share of the peak is of the peak in the same rounds.

Both come from small C loops (peak.c) that the system's compiler builds into a temporary directory. Where there is none,
NumPy stands in: a matrix product, and `np.copyto`.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

TRIALS, TRIALS_A_ROUND = 10, 3     # the scheduler puts two new threads on one core at times
TRIAL_SECONDS = 3e-3
COPIED_PER_TRIAL = 1 << 27
SMALL, LARGE = 1 << 12, 1 << 28

# What FASTCONV_ISA caps, the peak is capped at too.
ISA_FLAGS = {"baseline": [], "avx2": ["-mavx2", "-mfma"]}


@cache
def library() -> ctypes.CDLL | None:
    """peak.c, built for this CPU; None where no compiler builds it."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    flags = ISA_FLAGS.get(os.environ.get("FASTCONV_ISA", ""), ["-march=native"])
    source = Path(__file__).with_name("peak.c")
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "peak.so")
        command = [compiler, "-O3", "-ffp-contract=fast", *flags, "-shared", "-fPIC", str(source), "-o", target]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
            built = ctypes.CDLL(target)
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"peak.c was not built, NumPy stands in: {error}", file=sys.stderr)
            return None
    for real in ("float", "double"):
        function = getattr(built, f"multiply_adds_{real}")
        function.argtypes = [ctypes.c_long, *[ctypes.c_double] * 3, ctypes.POINTER(ctypes.c_double)]
        function.restype = ctypes.c_long
    built.copies.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
    built.copies.restype = None
    return built


def source() -> str:
    return "C loop" if library() else "NumPy"


def concurrently(work: Callable[[int], object], threads: int, trials: int = TRIALS) -> float:
    """Seconds from the first thread's start to the last one's end, best of `trials`; `work` gets the thread's number."""
    barrier = threading.Barrier(threads)

    def span(index: int) -> tuple[float, float]:
        barrier.wait()
        start = time.perf_counter()
        work(index)
        return start, time.perf_counter()

    with ThreadPoolExecutor(threads) as pool:
        measured = [list(pool.map(span, range(threads))) for _ in range(trials)]
    return min(max(end for _, end in spans) - min(start for start, _ in spans) for spans in measured)


def multiply_adds(dtype: str, rounds: int) -> int:
    """Run the loop in this thread; returns how many operations it did, additions and products each counting one."""
    built = library()
    if built is None:
        size = 384
        matrix = np.full((size, size), 0.5, dtype)
        product = np.empty_like(matrix)
        for _ in range(1 + rounds // 100_000):
            np.matmul(matrix, matrix, out=product)
        return 2 * size**3 * (1 + rounds // 100_000)
    total = ctypes.c_double()
    function = built.multiply_adds_double if dtype == "float64" else built.multiply_adds_float
    return int(function(rounds, 1.0, 0.999, 0.001, ctypes.byref(total)))


@cache
def trial(dtype: str) -> tuple[int, int]:
    """Rounds of the loop that last at least TRIAL_SECONDS, and their operations."""
    rounds = 1000
    while True:
        start = time.perf_counter()
        operations = multiply_adds(dtype, rounds)
        if time.perf_counter() - start > TRIAL_SECONDS:
            return rounds, operations
        rounds *= 2


def fma_flops(dtype: str, threads: int, trials: int = TRIALS_A_ROUND) -> float:
    """Operations per second of `threads` threads together at this moment, in the best of `trials`."""
    rounds, operations = trial(dtype)
    return threads * operations / concurrently(lambda _: multiply_adds(dtype, rounds), threads, trials)


@cache
def _copy_rate(nbytes: int, threads: int) -> float:
    built = library()
    size = nbytes // (2 * threads)
    repeats = max(1, COPIED_PER_TRIAL // nbytes)
    sources = [np.ones(size, np.uint8) for _ in range(threads)]
    targets = [np.zeros(size, np.uint8) for _ in range(threads)]

    def work(index: int) -> None:
        if built is not None:
            built.copies(targets[index].ctypes.data, sources[index].ctypes.data, size, repeats)
        else:
            for _ in range(repeats):
                np.copyto(targets[index], sources[index])

    return threads * 2 * size * repeats / concurrently(work, threads)


def copy_rate(nbytes: int, threads: int) -> float:
    """Bytes per second, read and written, of a copy that touches about `nbytes`; small ones stay in cache, as rows."""
    size = 1 << min(max((nbytes - 1).bit_length(), SMALL.bit_length() - 1), LARGE.bit_length() - 1)
    return _copy_rate(size, threads)
