"""The engine below Python: random problems through every algorithm, dispatch, thread pool, arena and blocks (tests/kernels)."""

import c_programs
import pytest

pytestmark = pytest.mark.timeout(900)  # the first test of a variant compiles it


def engine(tmp_path_factory, variant="plain", arguments=("1", "100")):
    return c_programs.report(variant, tmp_path_factory.getbasetemp(), "check_engine", *arguments)


@pytest.mark.parametrize("direction", ["forward", "adjoint", "weight"])
@pytest.mark.parametrize("real", ["float32", "float64"])
@pytest.mark.parametrize("isa", c_programs.ISAS)
def test_random_problems(isa, real, direction, tmp_path_factory):
    report = engine(tmp_path_factory)
    if isa not in report.isas:
        pytest.skip(f"this CPU does not have {isa}")
    algorithms = report.lines(isa, real, direction)
    assert {"chosen", "reference"} < set(algorithms), report.end
    wrong = [f"{name}: {rest}" for name, (verdict, rest) in algorithms.items() if verdict != "ok"]
    assert not wrong, "\n".join(wrong)
    # Winograd is for float32 alone; every other algorithm must have been reached by some problem.
    idle = {name for name, (_, runs) in algorithms.items() if int(runs) == 0}
    assert idle <= ({"winograd", "winograd_channels", "winograd_strided"} if real == "float64" else set())


@pytest.mark.parametrize("part", ["dispatch", "invalid", "sums"])
def test_engine(part, tmp_path_factory):
    verdict, rest = engine(tmp_path_factory).line(part)
    assert verdict == "ok", rest


@pytest.mark.parametrize("part", ["set", "wide", "callers", "arena", "blocks", "fork", "afterwards"])
def test_threads(part, tmp_path_factory):
    verdict, rest = c_programs.report("plain", tmp_path_factory.getbasetemp(), "check_threads").line(part)
    assert verdict == "ok", rest


def test_random_problems_under_address_sanitizer(tmp_path_factory):
    engine(tmp_path_factory, "address", ("1", "12")).require_success()


def test_random_problems_under_thread_sanitizer(tmp_path_factory):
    engine(tmp_path_factory, "thread", ("1", "3", "large")).require_success()


def test_threads_under_address_sanitizer(tmp_path_factory):
    c_programs.report("address", tmp_path_factory.getbasetemp(), "check_threads").require_success()


def test_threads_under_thread_sanitizer(tmp_path_factory):
    """Without the fork: the sanitizer's runtime cannot start threads in the child of a process that has several."""
    c_programs.report("thread", tmp_path_factory.getbasetemp(), "check_threads", "nofork").require_success()
