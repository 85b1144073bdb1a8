"""The same rows under pytest-benchmark, for those who keep their histories there: `pytest benchmarks --benchmark-only`.

Fastconv and PyTorch stand in one group per row and pass, on as many threads as FASTCONV_NUM_THREADS says (default 1).
Without `--benchmark-only` nothing here is collected: the suite has no timed tests.
"""

import os

import fastconv
import pytest

from . import peers
from .measure import check
from .rows import load

THREADS = int(os.environ.get("FASTCONV_NUM_THREADS", "1"))
CASES = [(row, which) for row in load() for which in row.passes]
CONTENDERS = ["fastconv"] + [peers.NCHW, peers.CHANNELS_LAST] * (peers.torch is not None)


@pytest.fixture(autouse=True)
def same_conditions():
    """One number of threads for both sides, and nothing recorded for autograd."""
    fastconv.set_num_threads(THREADS)
    peers.set_num_threads(THREADS)
    with peers.unrecorded():
        yield


@pytest.mark.benchmark(max_time=0.1, min_rounds=7, warmup="off", disable_gc=True)
@pytest.mark.parametrize("row, which, name", [
    pytest.param(row, which, name, id=f"{row.name}-{which}-{name}")
    for row, which in CASES for name in CONTENDERS if row.axes > 1 or name != peers.CHANNELS_LAST
])
def test_row(benchmark, row, which, name):
    arrays = row.arrays()
    ours, theirs = row.fastconv(which, arrays), peers.contenders(row, which, arrays)
    if theirs:
        check(ours.array(ours.call()), theirs[0].array(theirs[0].call()), peers.exact(row, which, arrays))
    [contender] = [contender for contender in (ours, *theirs) if contender.name == name]
    benchmark.group = f"{row.name}, {which}"
    benchmark.name = name
    benchmark(contender.call)
