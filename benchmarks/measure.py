"""The process that measures; `python -m benchmarks` starts one per malloc setting, which a process cannot change.

Reads its options as JSON from standard input and writes one JSON object per line: the machine, the peaks, then a record
for every row, pass and number of threads.
"""

import json
import statistics
import sys
from typing import Any

import fastconv
import numpy as np

from . import drivers, machine, peak, peers, timing
from .rows import Factored, Row, load

# The contract's bound on max|error| / max|y|; where PyTorch itself is further off (long sums), twice its error.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


class WrongResult(Exception):
    """A result that differs from the float64 one by more than rounding explains."""


def deviation(result: np.ndarray, exact: np.ndarray) -> float:
    """max|result - exact| / max|exact|"""
    return float(np.abs(result - exact).max(initial=0.0) / (np.abs(exact).max(initial=0.0) or 1.0))


def check(result: np.ndarray, peer_result: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """Both errors; raises WrongResult when ours is not right."""
    if (result.shape, result.dtype) != (peer_result.shape, peer_result.dtype):
        raise WrongResult(f"{result.dtype} {result.shape}, expected {peer_result.dtype} {peer_result.shape}")
    error, peer_error = deviation(result, exact), deviation(peer_result, exact)
    bound = max(TOLERANCE[result.dtype.name], 2 * peer_error)
    if not error <= bound:      # NaN is wrong too
        raise WrongResult(f"error {error:.1e} of max|y|, allowed {bound:.1e}, PyTorch's {peer_error:.1e}")
    return {"fastconv": error, "torch": peer_error}


def measure(row: Row, which: str, threads: int, rounds: int, seconds: float) -> dict[str, Any]:
    """The record of one row and pass: checked first, then timed."""
    arrays = row.arrays()
    ours, theirs = row.fastconv(which, arrays), peers.contenders(row, which, arrays)
    record: dict[str, Any] = {}
    if theirs:
        first = theirs[0]
        record["errors"] = check(ours.array(ours.call()), first.array(first.call()), peers.exact(row, which, arrays))
    beside = [row.dense_call(which, arrays), *([peers.dense(row, which, arrays)] if theirs else [])] \
        if isinstance(row, Factored) else []
    calls = {contender.name: contender.call for contender in (ours, *theirs, *beside)}
    peaks: list[float] = []
    record["rounds"] = timing.alternate(calls, rounds, seconds, quiet=threads > 1,
                                        begin=lambda: peaks.append(peak.fma_flops(row.dtype, threads)))
    record["seconds"] = {name: statistics.median(times) for name, times in record["rounds"].items()}
    nbytes = row.nbytes(which)
    return record | {
        "flops": row.flops(which),
        "bytes": nbytes,
        "peak flops": statistics.median(peaks),
        "copy rate": peak.copy_rate(nbytes, threads),
    }


def emit(kind: str, **content: Any) -> None:
    print(json.dumps({"kind": kind, **content}), flush=True)


def run(names: list[str], threads: list[int], passes: list[str], rounds: int, seconds: float) -> None:
    rows = [row for row in load() if row.name in names]
    record: dict[str, Any]
    emit("machine", **machine.describe())
    for number in threads:
        fastconv.set_num_threads(number)
        peers.set_num_threads(number)
        flops = {dtype: peak.fma_flops(dtype, number, peak.TRIALS) for dtype in TOLERANCE}
        emit("peak", threads=number, flops=flops, copy=peak.copy_rate(peak.LARGE, number))
        for row in rows:
            for which in (name for name in row.passes if name in passes):
                record = {"name": row.name, "cls": row.cls, "op": row.op, "dtype": row.dtype, "pass": which}
                record["threads"] = number
                try:
                    record |= measure(row, which, number, rounds, seconds)
                except Exception as error:  # one row that fails is reported and must not cost the others
                    record["failure"] = f"{type(error).__name__}: {error}"
                emit("record", **record)


def run_drivers(names: list[str], threads: list[int], passes: list[str], rounds: int, seconds: float) -> None:
    """Our own algorithms against each other."""
    emit("machine", **machine.describe())
    for number in threads:
        fastconv.set_num_threads(number)
        for row in (row for row in load() if row.name in names and drivers.serves(row)):
            for which in (name for name in row.passes if name in passes):
                found = drivers.measure(row, which, rounds, seconds)
                emit("drivers", name=row.name, threads=number, **{"pass": which}, **found)


if __name__ == "__main__":
    task = json.load(sys.stdin)
    with peers.unrecorded():
        (run_drivers if task.pop("drivers") else run)(**task)
