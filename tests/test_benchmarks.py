"""The benchmark's arithmetic, its order of turns and its judgement of results; nothing here asserts a time."""

import json
import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from reference import assert_close

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))

from benchmarks import __main__ as command  # noqa: E402
from benchmarks import drivers, peak, peers, picture, precision, report, timing  # noqa: E402
from benchmarks.measure import WrongResult, check, measure  # noqa: E402
from benchmarks.rows import load, row_from, select  # noqa: E402

ROWS = {row.name: row for row in load()}


def row(op, **entry):
    return row_from({"name": f"small {op}", "op": op, "cls": "small", **entry})


# rows


def test_every_row_is_loaded_under_a_name_of_its_own():
    entries = json.loads((ROOT / "benchmarks" / "shapes.json").read_text())
    assert len(ROWS) == len(entries)
    operations = {"conv1d", "conv2d", "conv3d", "conv_transpose2d", "max_pool2d", "avg_pool2d"}
    assert {row.op for row in ROWS.values()} >= operations


@pytest.mark.parametrize("name", ROWS)
def test_output_shape_is_pytorchs(name):
    tested = ROWS[name]
    meta = {key: torch.empty(shape, device="meta") for key, shape in tested.shapes().items()}
    assert tuple(peers.contender("meta", tested, "forward", meta).call().shape) == tested.output


@pytest.mark.parametrize("name, flops", [
    ("homework 2-1 k2 L4", 2 * 3 * 4),                                      # 3 outputs, 4 weights each
    ("mobilenet dw3x3s2 64@112", 2 * 64 * 56 * 56 * 9),
    ("resnext g32 3x3 128@56", 2 * 128 * 56 * 56 * 4 * 9),
    ("alexnet conv1 11x11s4", 2 * 96 * 55 * 55 * 3 * 121),
    ("tcn 128-128 k3 d8 L1024", 2 * 4 * 128 * 1024 * 128 * 3),
    ("upsample 4x4s2 128-64@14 b8", 2 * 8 * 128 * 14 * 14 * 64 * 16),       # every input pixel meets every weight
    ("max_pool2d 2x2s2 2@6", 0),
    ("cp r16 64-128 5x5s2@56", 2 * 16 * (64 * 56 * 56 + (5 + 5 + 128) * 28 * 28)),
    ("separable s2 64-128@112", 2 * 64 * (9 + 128) * 56 * 56),
])
def test_flops_by_hand(name, flops):
    assert ROWS[name].flops() == flops


@pytest.mark.parametrize("name, which, nbytes", [
    ("homework 2-1 k2 L4", "forward", 4 * (8 + 4 + 3)),
    ("double 64-64@28 b8", "weight", 8 * (8 * 64 * 784 + 64 * 64 * 9 + 8 * 64 * 784)),
    ("avg_pool2d 2x2s2 2@6", "input", 4 * (72 + 18)),
    ("max_pool2d 2x2s2 2@6", "forward", 4 * (72 + 18)),
    ("max_pool2d 2x2s2 2@6", "input", 4 * (72 + 18) + 8 * 18),              # and the indices
    ("separable 128-128@56", "forward", 4 * (2 * 128 * 3136 + 128 * 9 + 128 * 128)),
    ("separable 128-128@56", "backward", 4 * (3 * 128 * 3136 + 2 * (128 * 9 + 128 * 128))),
])
def test_bytes_by_hand(name, which, nbytes):
    assert ROWS[name].nbytes(which) == nbytes


def test_selection_by_name_and_class():
    rows = load()
    assert [row.name for row in select(rows, only="homework")] == ["homework 2-1 k2 L4"]
    assert {row.cls for row in select(rows, cls="tiny")} == {"tiny"}
    assert select(rows, only="homework", cls="pool") == []


def test_unknown_operation_layout_or_key_is_refused():
    with pytest.raises(ValueError, match="op is 'matmul', expected one of conv"):
        row("matmul", input=[1, 1, 4])
    with pytest.raises(ValueError, match="layout is 'nhwc', expected channels_last"):
        row("avg_pool1d", input=[1, 1, 4], kernel=2, layout="nhwc")
    with pytest.raises(TypeError, match="colour"):
        row("avg_pool1d", input=[1, 1, 4], kernel=2, colour="red")


SMALL = [
    row("conv1d", input=[2, 4, 9], weight=[6, 2, 3], stride=2, padding=1, dilation=2, groups=2),
    row("conv2d", input=[2, 3, 7, 6], weight=[4, 3, 3, 2], stride=[2, 1], padding=[1, 0]),
    row("conv2d", input=[2, 3, 7, 6], weight=[4, 3, 3, 2], layout="channels_last"),
    row("conv2d", input=[1, 4, 6, 6], weight=[4, 1, 3, 3], groups=4, dtype="float64"),
    row("conv3d", input=[1, 2, 4, 5, 6], weight=[3, 2, 2, 3, 1], padding=1),
    row("conv_transpose1d", input=[1, 3, 5], weight=[3, 2, 4], stride=3, padding=1),
    row("conv_transpose2d", input=[2, 4, 5, 4], weight=[4, 3, 3, 3], stride=2, padding=1, groups=2),
    row("max_pool2d", input=[2, 3, 8, 7], kernel=3, stride=2, padding=1),
    row("max_pool1d", input=[2, 3, 9], kernel=3, stride=2, padding=1),
    row("avg_pool1d", input=[2, 3, 9], kernel=3, stride=2, padding=1),
    row("max_pool3d", input=[1, 2, 4, 6, 5], kernel=2, stride=2),
    row("avg_pool2d", input=[2, 3, 8, 7], kernel=3, stride=2, padding=1),
    row("avg_pool3d", input=[1, 2, 4, 6, 5], kernel=2, stride=2),
    row("cp_conv1d", input=[2, 3, 9], weight=[4, 3, 3], rank=2, stride=2, padding=1, dilation=2),
    row("cp_conv2d", input=[2, 3, 7, 8], weight=[4, 3, 3, 2], rank=2, stride=[2, 1], padding=[1, 0]),
    row("cp_conv2d", input=[2, 3, 7, 8], weight=[4, 3, 3, 2], rank=2, layout="channels_last"),
    row("separable_conv2d", input=[2, 3, 7, 8], weight=[4, 3, 3, 2], multiplier=2, stride=2, padding=[1, 0]),
    row("adaptive_max_pool2d", input=[2, 3, 8, 7], output_size=[3, 2]),
    row("adaptive_avg_pool2d", input=[2, 3, 8, 7], output_size=3),
    row("adaptive_avg_pool2d", input=[2, 3, 8, 7], output_size=1, dtype="float64"),
    row("unfold", input=[2, 3, 8, 7], kernel=3, stride=2, padding=1),
    row("fold", input=[2, 12, 12], output_size=[5, 4], kernel=2),
]


@pytest.mark.parametrize("tested", SMALL, ids=lambda tested: f"{tested.op}-{tested.dtype}-{tested.layout}")
def test_all_contenders_compute_the_same(tested):
    with peers.unrecorded():
        arrays = tested.arrays()
        assert arrays["grad_output"].shape == tested.output
        for which in tested.passes:
            exact = peers.exact(tested, which, arrays)
            ours, *theirs = [tested.fastconv(which, arrays), *peers.contenders(tested, which, arrays)]
            assert [peer.name for peer in theirs] == ["torch", "torch channels_last"][: 1 if tested.axes == 1 else 2]
            result = ours.array(ours.call())
            for peer in theirs:
                check(result, peer.array(peer.call()), exact)


def test_dense_calls_stand_beside_factored_ones():
    tested = row("cp_conv2d", input=[2, 3, 7, 8], weight=[4, 3, 3, 2], rank=2, stride=2)
    arrays = tested.arrays()
    y = tested.fastconv("forward", arrays).call()
    for dense in (tested.dense_call("forward", arrays), peers.dense(tested, "forward", arrays)):
        np.testing.assert_allclose(np.asarray(dense.call()), y, rtol=1e-4, atol=1e-5)
    grad_x = tested.fastconv("backward", arrays).call().input
    for dense in (tested.dense_call("backward", arrays), peers.dense(tested, "backward", arrays)):
        np.testing.assert_allclose(np.asarray(dense.call()[0]), grad_x, rtol=1e-4, atol=1e-5)


def test_opencv_filters_photographs():
    photograph = row("conv2d", input=[1, 1, 9, 8], weight=[1, 1, 3, 3], padding=1)
    arrays = photograph.arrays()
    *_, opencv = peers.contenders(photograph, "forward", arrays)
    assert opencv.name == peers.OPENCV
    check(photograph.fastconv("forward", arrays).call(), opencv.array(opencv.call()), peers.exact(photograph, "forward", arrays))


def test_channels_last_rows_lie_in_memory_that_way():
    arrays = row("conv2d", input=[2, 3, 7, 6], weight=[4, 3, 3, 2], layout="channels_last").arrays()
    for name in ("input", "grad_output"):
        assert arrays[name].transpose(0, 2, 3, 1).flags.c_contiguous


# judgement


def test_results_are_judged_against_float64_and_the_peers_own_error():
    exact = np.array([1.0, -2.0, 4.0])
    right = exact.astype(np.float32)
    assert check(right, right, exact) == {"fastconv": 0.0, "torch": 0.0}
    off = right + np.float32(4 * 3e-5)
    with pytest.raises(WrongResult, match=r"error 3\.0e-05 of max\|y\|, allowed 1\.0e-05"):
        check(off, right, exact)
    assert check(off, right + np.float32(4 * 2e-5), exact)["fastconv"] == pytest.approx(3e-5, rel=1e-2)
    with pytest.raises(WrongResult, match="error nan"):
        check(np.array([1, np.nan, 4], np.float32), right, exact)
    with pytest.raises(WrongResult, match=r"float32 \(3, 1\), expected float32 \(3,\)"):
        check(right[:, None], right, exact)
    with pytest.raises(WrongResult, match="expected float32"):
        check(exact, right, exact)


def test_absolute_figures_without_pytorch(monkeypatch):
    monkeypatch.setattr(peers, "torch", None)
    measured = measure(ROWS["homework 2-1 k2 L4"], "forward", threads=1, rounds=1, seconds=1e-6)
    assert list(measured["seconds"]) == ["fastconv"] and "errors" not in measured
    assert report.ratios(measured) == {}
    assert report.line(measured | {"name": "row", "pass": "forward"}, 8).split()[3:5] == ["-", "-"]


# timing


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for what the test adds to it."""
    state = SimpleNamespace(now=0.0, cpu=0.0)
    state.sleep = lambda seconds: setattr(state, "now", state.now + seconds)
    monkeypatch.setattr(timing, "time", SimpleNamespace(
        perf_counter=lambda: state.now, process_time=lambda: state.cpu, sleep=lambda seconds: state.sleep(seconds)))
    return state


def test_calibration_reaches_the_length_asked_for_and_ignores_a_slow_first_call(clock):
    costs = iter([0.020])

    def call():
        clock.now += next(costs, 1e-6)

    repeats = timing.calibrate(call, 3e-3)
    assert 3000 <= repeats <= 10 * 3000
    assert timing.timed(call, repeats) >= 3e-3


def test_contenders_take_turns(clock):
    log = []

    def contender(name, cost):
        def call():
            log.append(name)
            clock.now += cost
        return call

    measured = timing.alternate({"a": contender("a", 2e-3), "b": contender("b", 5e-4)}, rounds=3, seconds=1e-3,
                                begin=lambda: log.append("begin"))
    assert [name for name, _ in groupby(log)] == ["a", "b"] + ["begin", "a", "b"] * 3      # calibration, then three rounds
    assert measured == {"a": pytest.approx([2e-3] * 3), "b": pytest.approx([5e-4] * 3)}


def test_settling_waits_for_spinning_threads(clock):
    def sleep(seconds):
        clock.now += seconds
        if clock.now < 0.0115:       # a worker that spins for 11 ms
            clock.cpu += seconds

    clock.sleep = sleep
    timing.settle(tick=0.002)
    assert clock.now == pytest.approx(0.012)


# limits


def test_numpy_stands_in_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    peak.library.cache_clear()
    try:
        assert peak.source() == "NumPy"
        assert peak.multiply_adds("float64", 1) == 2 * 384**3
        assert peak._copy_rate.__wrapped__(1 << 20, 2) > 0
    finally:
        monkeypatch.undo()
        peak.library.cache_clear()


# report


def record(ours, nchw=None, channels_last=None, **content):
    named = {"fastconv": ours, "torch": nchw, "torch channels_last": channels_last}
    seconds = {name: value for name, value in named.items() if value is not None}
    return {"name": "row", "cls": "c", "pass": "forward", "threads": 1, "malloc": "tuned",
            "flops": 0, "bytes": 1, "copy rate": 1e9, "peak flops": 1e9,
            "seconds": seconds, "rounds": {name: [value] for name, value in seconds.items()}, **content}


def test_ratios_and_geometric_mean():
    assert report.ratios(record(2.0, 6.0, 3.0)) == {"NCHW": 3.0, "channels_last": 1.5, "better": 1.5}
    assert report.ratios(record(2.0, 1.0)) == {"NCHW": 0.5, "better": 0.5}
    assert report.ratios(record(2.0)) == {}
    assert report.ratios({"failure": "ValueError"}) == {}
    slower_from_the_third_round_on = {"fastconv": [1.0, 1.0, 3.0, 3.0, 3.0], "torch": [2.0, 2.0, 2.0, 6.0, 6.0]}
    assert report.ratios(record(3.0, 2.0, rounds=slower_from_the_third_round_on)) == {"NCHW": 2.0, "better": 2.0}
    assert report.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)


def test_per_cent_of_the_limit_that_binds():
    bound_by_copy = record(0.2, flops=1e9, **{"peak flops": 1e11}, bytes=1e9) | {"copy rate": 1e10}
    assert report.per_cent_of_peak(bound_by_copy) == (pytest.approx(50), "copy")
    bound_by_fma = bound_by_copy | {"peak flops": 1e10, "copy rate": 1e11}
    assert report.per_cent_of_peak(bound_by_fma) == (pytest.approx(50), "fma")


def test_summary_gives_means_worst_rows_and_losers():
    text = report.summary([
        record(1.0, 4.0, 2.0, name="wins", cls="dense3x3"),
        record(1.0, 1.0, 0.5, name="loses", cls="dense3x3"),
        record(1.0, 9.0, cls="tiny", name="small"),
        {"name": "broken", "cls": "tiny", "pass": "forward", "failure": "ValueError: no"},
    ])
    lines = {line.split("  ")[0]: line.split("  ")[1:] for line in text.splitlines()}
    cells = {head: [cell.strip() for cell in rest if cell] for head, rest in lines.items() if head}
    assert cells["dense3x3"] == ["2.00 / 1.00", "1.00 / 0.50"]
    assert cells["tiny"] == ["9.00 / 9.00", "9.00 / 9.00"]
    assert cells["all"] == ["3.30 / 1.00", "2.08 / 0.50"]       # cube roots of 36 and of 9
    assert "below 1.0 x PyTorch's better layout: 1 of 3\n  0.50  forward  loses" in text
    assert "not installed" in report.summary([record(1.0)])


def test_lines_stand_under_the_heading_and_failures_say_why():
    whole = report.line(record(1e-3, 4e-3, 2e-3, flops=2e6, bytes=1e6), 8)
    assert len(whole) == len(report.heading(8))
    assert whole.split() == "row forward 1000.0 4000.0 2000.0 2.0 1.0 200 fma 4.00 2.00 2.00 ?".split()
    assert report.line(record(1.0, failure="ValueError: no"), 8) == "row       forward  FAILED  ValueError: no"


def test_picture_sorts_rows_by_ratio():
    records = [record(1.0, gain, name=f"x{gain}", threads=threads) for threads in (1, 2) for gain in (0.5, 3.0, 2.0)]
    assert picture.by_row(records, "forward") == {f"x{gain}": {1: gain, 2: gain} for gain in (3.0, 2.0, 0.5)}
    assert picture.by_row(records, "weight") == {}


# the command


def test_options_are_checked(capsys):
    for wrong in (["--passes", "sideways"], ["--threads", "0"], ["--rounds", "0"], ["--malloc", "fast"]):
        with pytest.raises(SystemExit):
            command.arguments(wrong)
        assert wrong[0] in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no row has a name with 'nonesuch'"):
        command.main(["--only", "nonesuch"])


def test_environment_of_the_measuring_process(monkeypatch):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    assert "MALLOC_TOP_PAD_" not in command.environment("default", None, None)
    tuned = command.environment("tuned", "avx2", "highest")
    assert tuned["MALLOC_TOP_PAD_"] == "268435456"
    names = ("FASTCONV_ISA", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
    assert [tuned[name] for name in names] == ["avx2", "avx2", "AVX2", "AVX2"]
    assert tuned["FASTCONV_PRECISION"] == "highest"


def test_a_whole_run_of_one_tiny_row(tmp_path, capfd):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib, which the demo extra installs")
    figures, drawn = tmp_path / "run.json", tmp_path / "run.png"
    argv = ["--only", "homework", "--malloc", "tuned", "--threads", "1", "--rounds", "3", "--milliseconds", "0.05"]
    assert command.main([*argv, "--json", str(figures), "--picture", str(drawn)]) == 0
    printed = capfd.readouterr().out
    result = json.loads(figures.read_text())
    assert [(one["name"], one["pass"], one["malloc"], one["threads"]) for one in result["records"]] == [
        ("homework 2-1 k2 L4", which, "tuned", 1) for which in ("forward", "input", "weight")
    ]
    for one in result["records"]:
        assert one["flops"] == 24 and one["bytes"] == 60
        assert len(one["rounds"]["fastconv"]) == len(one["rounds"]["torch"]) == 3
        assert one["seconds"]["fastconv"] == sorted(one["rounds"]["fastconv"])[1]
        ratios = [their / our for their, our in zip(one["rounds"]["torch"], one["rounds"]["fastconv"], strict=True)]
        assert one["ratios"]["better"] == sorted(ratios)[1]
        assert one["errors"]["fastconv"] <= 1e-5
    assert result["peaks"][0]["flops"]["float32"] > 0 and result["machine"]["cores"] >= 1
    assert result["command"].startswith("python -m benchmarks --only homework")
    assert drawn.read_bytes().startswith(b"\x89PNG")
    assert command.main(["--load", str(figures)]) == 0
    again = capfd.readouterr().out
    assert printed.endswith(again[again.index("\nmalloc tuned, threads 1: PyTorch's time"):])


def test_rows_run_under_pytest_benchmark_and_only_on_demand():
    def pytest_benchmarks(*options):
        command_line = [sys.executable, "-m", "pytest", "benchmarks", "-q", "-p", "no:cacheprovider", *options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        return subprocess.run(command_line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    timed = pytest_benchmarks("--benchmark-only", "-k", "homework and forward")
    assert "benchmark 'homework 2-1 k2 L4, forward': 2 tests" in timed.stdout
    assert timed.returncode == 0
    plain = pytest_benchmarks("--collect-only")
    assert plain.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, plain.stdout


# algorithms against each other
@pytest.mark.parametrize("which", ["forward", "input", "weight"])
@pytest.mark.parametrize("entry", [
    {"op": "conv2d", "weight": (8, 4, 3, 3)},
    {"op": "conv2d", "weight": (8, 4, 3, 3), "layout": "channels_last"},
    {"op": "conv2d", "weight": (8, 4, 3, 3), "stride": 2},
    {"op": "conv_transpose2d", "weight": (4, 8, 3, 3), "stride": 2},
], ids=str)
def test_every_algorithm_that_serves_a_row_is_timed(entry, which):
    measured = row(input=(1, 4, 8, 8), **entry)
    record = drivers.measure(measured, which, 1, 1e-6)
    assert record["chosen"] in record["seconds"]
    assert set(record["seconds"]) <= set(record["costs"])
    assert len(record["seconds"]) > 2
    arrays = measured.arrays()
    expected = measured.fastconv(which, arrays)
    for algorithm in record["seconds"]:
        if drivers.accepted(call := drivers.by_algorithm(measured, which, arrays), algorithm):
            assert_close(call(algorithm=algorithm), expected.array(expected.call()))


def test_a_choice_beyond_the_slack_is_marked():
    record = {"name": "r", "pass": "input", "chosen": "b", "costs": {"a": 2e3, "b": 1e3}, "seconds": {"a": 1e-6, "b": 1.06e-6}}
    assert drivers.line(record, 3).endswith("input    a 1.0 (2.0)  *b 1.1 (1.0)  WRONG: a is 1.06 x as fast")
    record["seconds"]["b"] = 1.04e-6
    assert "WRONG" not in drivers.line(record, 3)


def test_only_convolutions_take_an_algorithm_by_name():
    assert drivers.serves(row("conv2d", input=(1, 4, 8, 8), weight=(8, 4, 3, 3)))
    assert drivers.serves(row("conv_transpose2d", input=(1, 4, 8, 8), weight=(4, 8, 3, 3)))
    assert not drivers.serves(row("max_pool2d", input=(1, 4, 8, 8), kernel=2, stride=2))


# precision
def test_errors_are_within_what_is_documented(monkeypatch, capsys):
    """4e-6 of the largest element with "high", 5e-7 with "highest" or PyTorch's own error."""
    monkeypatch.setattr(sys, "argv", ["precision", "--channels", "32", "--size", "12", "--epochs", "1"])
    precision.main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    kernels = "1x3", "1x7", "2x2", "4x4", "5x5", "7x7", *(f"{kernel} stride 2" for kernel in ("4x4", "5x5", "7x7"))
    others = [f"32-64@12, {kernel}" for kernel in kernels]
    assert [row[0] for row in rows] == ["32-64@12"] * 3 + others + ["1-16@8", "16-32@4"]
    for high, highest, theirs in (map(float, row[at : at + 3]) for row in rows for at in (2, 5, 8)):
        assert high < 4e-6 and highest < max(5e-7, theirs)
