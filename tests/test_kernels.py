"""Every kernel of every instruction set against loops in C, below Python (tests/kernels/check_kernels.c).

The kernels are read from the table in kernels.h, so that one without a check fails here.
"""

import re

import c_programs
import pytest

pytestmark = pytest.mark.timeout(900)  # the first test of a variant compiles it
HEADER = (c_programs.CSRC / "kernels" / "kernels.h").read_text()


def members(struct):
    """The names of the kernels in one structure of kernels.h; those of a structure inside it as "inner.name"."""
    [body] = re.findall(rf"typedef struct {struct} {{(.*?)\n}} {struct};", HEADER, re.DOTALL)
    names = re.findall(r"\(\*(\w+)\)\(", body)
    for kind, declared in re.findall(r"^ +(fc_\w+) ([^;]+);", body, re.MULTILINE):
        for name in re.sub(r"\[[^]]*\]", "", declared).split(", "):
            names += [f"{name}.{part}" for part in members(kind)] if f"struct {kind} " in HEADER else [name]
    return names


@pytest.mark.parametrize("kernel", members("fc_kernels"))
@pytest.mark.parametrize("real", ["float32", "float64"])
@pytest.mark.parametrize("isa", c_programs.ISAS)
def test_kernel(isa, real, kernel, tmp_path_factory):
    report = c_programs.report("plain", tmp_path_factory.getbasetemp(), "check_kernels")
    if isa not in report.isas:
        pytest.skip(f"this CPU does not have {isa}")
    verdict, rest = report.line(isa, real, kernel)
    assert verdict == "ok", rest
    assert int(rest) > 0, "no case was tried"


def test_kernels_under_sanitizers(tmp_path_factory):
    c_programs.report("address", tmp_path_factory.getbasetemp(), "check_kernels").require_success()
