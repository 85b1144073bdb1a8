"""Prints, for every row and pass of the benchmark with two threads, what a call's peak memory exceeds its arrays by.

A JSON object per line: bytes as the process's resident memory shows them, and as `explain` tells them (null where it does not
serve). Each call is the first of a process of its own, forked before anything was computed. Run by test_memory.py.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from benchmarks.rows import Convolution, Row, channels_last, load

import fastconv


def status(field: str) -> int:
    """Bytes that /proc tells of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


def arrays_of(result: object) -> Iterator[np.ndarray]:
    """The arrays of a result, of tuples within tuples."""
    if isinstance(result, np.ndarray):
        yield result
    elif isinstance(result, tuple):
        for part in result:
            yield from arrays_of(part)


def measured(row: Row, which: str) -> int:
    arrays = {name: np.ones(shape, row.dtype) for name, shape in row.shapes().items()}
    if row.layout == "channels_last":
        arrays |= {name: channels_last(arrays[name]) for name in ("input", "grad_output")}
    call = row.fastconv(which, arrays).call
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")    # the peak begins anew
    result = call()
    return status("VmHWM") - before - sum(array.nbytes for array in arrays_of(result))


def told(row: Row, which: str) -> int | None:
    if not isinstance(row, Convolution):
        return None
    return fastconv.explain(getattr(fastconv, row.op), row.input, row.weight, row.stride, row.padding, row.dilation, row.groups,
                            dtype=row.dtype, direction=which).workspace


def main() -> None:
    fastconv.set_num_threads(2)
    for row in load():
        for which in row.passes:
            child = os.fork()
            if child == 0:
                line = {"name": row.name, "pass": which, "layout": row.layout, "measured": measured(row, which),
                        "told": told(row, which)}
                print(json.dumps(line), flush=True)
                os._exit(0)
            if os.waitpid(child, 0)[1]:
                sys.exit(f"{row.name}, {which}: the process that measures failed")


if __name__ == "__main__":
    main()
