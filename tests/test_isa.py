"""Every instruction set that this CPU has: a child per cap runs a forward and backward suite, the parent judges it."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
import torch_judge
from reference import assert_close
from shapes import CONV_CASES, TRANSPOSE_CASES, PoolCase, normal

NEEDS = {
    "baseline": set(),
    "avx2": {"avx2", "fma"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "neon": {"asimd"},
}
POOL_CASES = {
    "2x2": PoolCase((2, 3, 14, 31), 2),
    "3x3 stride 2": PoolCase((1, 2, 15, 33), 3, 2, 1, ceil_mode=True),
    "1d dilated": PoolCase((2, 3, 40), 3, 1, 1, 2),
    "3d": PoolCase((1, 2, 5, 6, 17), 2, 1),
}
DTYPES = {"float32": np.float32, "float64": np.float64}


def conv_problems():
    for name, case in CONV_CASES.items():
        for dtype in DTYPES.values():
            yield name, case._replace(dtype=dtype)


def transpose_problems():
    for name, case in TRANSPOSE_CASES.items():
        for dtype in DTYPES.values():
            yield name, case._replace(dtype=dtype)


def pool_problems():
    for name, case in POOL_CASES.items():
        for dtype in DTYPES.values():
            yield name, case._replace(dtype=dtype)


def results(conv, conv_backward, conv_transpose, conv_transpose_backward, max_pool, avg_pool):
    """Every array of the suite by a name of its own, computed with the functions given."""
    found = {}

    def keep(label, arrays):
        for part, array in enumerate(arrays):
            found[f"{label} {part}"] = array

    for name, case in conv_problems():
        x, w, b = case.arrays(normal)
        y = conv(x, w, b, **case.options)
        # A gradient of its own, not y, so that an error in the forward pass stays there.
        grad = normal(np.random.default_rng(1), y.shape, case.dtype)
        keep(f"conv: {name} {case.dtype.__name__}", (y, *conv_backward(grad, x, w, **case.options)))
    for name, case in transpose_problems():
        x, w, b = case.arrays(normal)
        y = conv_transpose(x, w, b, **case.options)
        grad = normal(np.random.default_rng(1), y.shape, case.dtype)
        keep(f"transpose: {name} {case.dtype.__name__}", (y, *conv_transpose_backward(grad, x, w, **case.options)))
    for name, case in pool_problems():
        x = case.array()
        values, indices = max_pool(x, case.kernel_size, case.stride, case.padding, case.dilation, case.ceil_mode)
        average = avg_pool(x, case.kernel_size, case.stride, case.padding, case.ceil_mode)
        keep(f"pool: {name} {case.dtype.__name__}", (values, indices, average))
    return found


def by_axes(name):
    """fastconv's functions of one family as one function; `name` has {} where the number of axes goes."""
    from fastconv import functional

    def call(*arrays, **options):
        axes = next(a.ndim for a in arrays if a is not None) - 2
        return getattr(functional, name.format(axes))(*arrays, **options)

    return call


def pooling_by_axes(name, **more):
    from fastconv import functional

    return lambda x, *options: getattr(functional, name.format(x.ndim - 2))(x, *options, **more)


def fastconvs():
    """The suite by fastconv, as a child runs it."""
    return results(
        by_axes("conv{}d"),
        by_axes("conv{}d_backward"),
        by_axes("conv_transpose{}d"),
        by_axes("conv_transpose{}d_backward"),
        pooling_by_axes("max_pool{}d", return_indices=True),
        pooling_by_axes("avg_pool{}d"),
    )


def in_doubles(function):
    return lambda *arrays, **options: function(*(None if a is None else np.float64(a) for a in arrays), **options)


@pytest.fixture(scope="module")
def expected():
    return results(
        in_doubles(torch_judge.conv),
        in_doubles(torch_judge.conv_backward),
        in_doubles(torch_judge.conv_transpose),
        in_doubles(torch_judge.conv_transpose_backward),
        reference.max_pool,
        reference.avg_pool,
    )


def cpu_has(features):
    cpu = Path("/proc/cpuinfo").read_text()
    return all(feature in cpu.split() for feature in features)


def child(program, **environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FASTCONV_")}
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [clean.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=200,
        env=clean | {"PYTHONPATH": path} | environment,
    )


def skip_unless_it_runs(isa):
    if (isa == "neon") != (platform.machine() in ("aarch64", "arm64")) and isa != "baseline":
        pytest.skip(f"{isa} is not of this machine's architecture, {platform.machine()}")
    if not cpu_has(NEEDS[isa]):
        pytest.skip(f"this CPU lacks {', '.join(sorted(NEEDS[isa]))}")


@pytest.mark.parametrize("isa", NEEDS)
def test_wide_rows(isa):
    """Blocks of columns, by AVX2 of copies: wider than what the engine's random problems are."""
    skip_unless_it_runs(isa)
    done = child(f"""
import pytest
raise SystemExit(pytest.main(["-q", "-p", "no:cacheprovider", "-k", "wide_rows", {str(Path(__file__).with_name("test_conv.py"))!r}]))
""", FASTCONV_ISA=isa)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("isa", NEEDS)
def test_isa(isa, expected, tmp_path):
    skip_unless_it_runs(isa)
    file = tmp_path / "results.npz"
    program = f"""
import contextlib, io, numpy, fastconv, test_isa
text = io.StringIO()
with contextlib.redirect_stdout(text):
    returned = fastconv.show_config()
print(text.getvalue(), returned or "")
numpy.savez({str(file)!r}, **test_isa.fastconvs())
"""
    run = child(program, FASTCONV_ISA=isa)
    assert run.returncode == 0, run.stderr
    assert isa in run.stdout.lower(), "show_config does not name the instruction set"
    with np.load(file) as got:
        assert got.files == list(expected)
        for name, right in expected.items():
            if right.dtype == np.int64:
                np.testing.assert_array_equal(got[name], right, err_msg=name)
            else:
                assert got[name].dtype == DTYPES["float32" if "float32" in name else "float64"], name
                assert_close(got[name], right)


def test_isa_that_does_not_exist():
    run = child("import fastconv", FASTCONV_ISA="sse9")
    assert run.returncode != 0
    assert "FASTCONV_ISA" in run.stderr and "'sse9'" in run.stderr and "baseline" in run.stderr
