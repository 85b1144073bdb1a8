"""The kernels and the engine compiled for AArch64 and run in an emulator: NEON's vectors, and a compiler that is not x86's."""

import c_programs
import pytest

pytestmark = pytest.mark.timeout(900)  # the first test compiles everything
REALS = ("float32", "float64")


def emulated(tmp_path_factory, program, *arguments):
    report = c_programs.report("aarch64", tmp_path_factory.getbasetemp(), program, *arguments)
    report.require_success()
    return report


def test_every_kernel(tmp_path_factory):
    report = emulated(tmp_path_factory, "check_kernels")
    assert report.isas == c_programs.ISAS_OF["aarch64"]
    for real in REALS:
        assert {verdict for verdict, _ in report.lines("neon", real).values()} == {"ok"}, report.end


def test_random_problems_through_every_algorithm(tmp_path_factory):
    report = emulated(tmp_path_factory, "check_engine", "1", "12")
    for real in REALS:
        for direction in ("forward", "adjoint", "weight"):
            algorithms = report.lines("neon", real, direction)
            assert {"chosen", "reference"} < set(algorithms), report.end
            assert {verdict for verdict, _ in algorithms.values()} == {"ok"}, report.end
