"""The C programs of tests/kernels, once per session and variant: linked with the libraries of the extension module ("plain"),
with csrc/ compiled again under a sanitizer, or compiled for AArch64 and run in an emulator, so that NEON is tested anywhere."""

import ast
import os
import platform
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ISAS_OF = {"x86_64": ["baseline", "avx2", "avx512"], "aarch64": ["baseline", "neon"]}
ISAS = ISAS_OF.get(platform.machine(), ["baseline"])
CSRC, CHECKS = ROOT / "csrc", ROOT / "tests" / "kernels"
CHECKED = ["gemm", "rows", "windows", "cross", "trail", "depthwise", "planes", "winograd", "winograd_channels", "pool", "pool_narrow",
           "pool_rows", "elementwise"]
PROGRAMS = {
    "check_kernels": ["check.c", *(f"check_{part}.c" for part in CHECKED)],
    "check_engine": ["check.c", "problems.c"],
    "check_threads": [],
}

# Sanitizers see the same in kernels that are neither optimised nor inlined, which compile in 1 s instead of 35; but then no
# compiler fuses multiply-adds, hence OPTIMIZED.
VARIANTS = {
    "plain": ["-DOPTIMIZED"],
    "address": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "thread": ["-O1", "-g", "-fsanitize=thread"],
    "aarch64": ["-DOPTIMIZED", "-static"],
}
CROSS_COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"    # Debian's packages of .ci/run
# Fresh memory is NaN under "address" and huge otherwise, so that scratch that is read before it is written shows.
ENVIRONMENT = {
    "plain": {"MALLOC_PERTURB_": "128"},
    "address": {"ASAN_OPTIONS": "allocator_may_return_null=1:max_malloc_fill_size=1073741824:malloc_fill_byte=255"},
    "thread": {"TSAN_OPTIONS": "allocator_may_return_null=1"},
    "aarch64": {},
}


def setup_flags(machine=platform.machine()):
    """COMMON and a machine's ISA_FLAGS as setup.py has them, without running the rest of it."""
    names = {}
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in {"COMMON", "AVX2", "AVX512", "ISA_FLAGS"}:
            exec(compile(ast.Module([node], []), "setup.py", "exec"), names)
    return names["COMMON"], names["ISA_FLAGS"].get(machine, {})


def run(command, timeout=200, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=timeout, **options)


def emulator(variant):
    return [EMULATOR] if variant == "aarch64" else []


def compiler(variant):
    if variant == "aarch64":
        if missing := [name for name in (CROSS_COMPILER, EMULATOR) if not shutil.which(name)]:
            pytest.skip(f"this machine does not have {' and '.join(missing)}")
        return [CROSS_COMPILER]
    command = shlex.split(os.environ.get("CC", "")) or next(([c] for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    if not command:
        pytest.skip("there is no C compiler on this machine")
    return command


def require_variant(variant, directory):
    """Skip where the compiler lacks this variant's sanitizer, or the system cannot run what it makes."""
    probe = directory / "probe"
    made = run([*compiler(variant), *VARIANTS[variant], "-x", "c", "-", "-o", probe], input="int main(void) { return 0; }")
    if made.returncode or run([*emulator(variant), probe]).returncode:
        pytest.skip(f"the compiler or the system does not support {' '.join(VARIANTS[variant])}")


def sources(variant):
    """Every file to compile, with its flags. A sanitizer needs csrc/ compiled again, and so does another machine."""
    emulated = variant == "aarch64"
    common, isas = setup_flags(*["aarch64"] * emulated)
    common, own = [*common, f"-I{CSRC}"], VARIANTS[variant]
    warned = ["-Wall", "-Wextra", "-Wshadow", "-Werror"]
    kernels = warned if emulated else ["-O0", "-DINLINE=static inline"]
    if variant != "plain":
        for isa, flags in {**isas, "baseline": []}.items():
            yield CSRC / "kernels" / f"{isa}.c", [*common, *flags, *own, *kernels]
        for file in sorted([*CSRC.glob("engine/*.c"), *CSRC.glob("base/*.c")]):
            yield file, [*common, *own, *warned]
    for file in sorted(CHECKS.glob("*.c")):
        yield file, [*common, "-O2", "-ffp-contract=off", *warned, *own]


def module_libraries():
    """What fastconv._core is linked from, in link order; setup.py compiles what has changed. And what failed."""
    made = run([sys.executable, "setup.py", "-q", "build_clib"], timeout=600, cwd=ROOT)
    names = ["engine", *setup_flags()[1], "baseline", "base"]
    return [ROOT / "build" / "csrc" / f"libfastconv_{name}.a" for name in names], made.stderr if made.returncode else ""


@cache
def build(variant, directory):
    """The directory with the programs of a variant, made once for the session's temporary directory; and what failed."""
    command, place = compiler(variant), directory / f"c-{variant}"
    place.mkdir(exist_ok=True)
    require_variant(variant, place)

    def compile_source(job):
        source, flags = job
        target = place / f"{source.parent.name}-{source.stem}.o"
        made = run([*command, *flags, "-c", source, "-o", target])
        return source, target, made.stderr if made.returncode else ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = list(pool.map(compile_source, sources(variant)))
    errors = "".join(error for _, _, error in compiled)
    objects = {source: target for source, target, _ in compiled}
    library = [target for source, target in objects.items() if source.is_relative_to(CSRC)]
    if variant == "plain":
        library, failed = module_libraries()
        errors += failed
    for program, parts in PROGRAMS.items():
        own = [objects[CHECKS / part] for part in [f"{program}.c", *parts]]
        made = run([*command, *VARIANTS[variant], *own, *library, "-pthread", "-lm", "-o", place / program])
        errors += made.stderr if made.returncode and not errors else ""
    return place, errors


class Report:
    """What a program said: the ISAs of this CPU, then a line per check: "ok" or "FAIL", about what, the rest; how it ended."""

    def __init__(self, ran):
        self.said = [line.split(" ") for line in ran.stdout.splitlines()]
        self.isas = next((words[1:] for words in self.said if words[0] == "isas"), ISAS)
        self.end = f"exit status {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
        self.succeeded = ran.returncode == 0 and not ran.stderr

    def lines(self, *about):
        """Verdict and rest of the lines about this, by the word that follows."""
        found = [words for words in self.said if tuple(words[1 : 1 + len(about)]) == about]
        return {words[1 + len(about)]: (words[0], " ".join(words[2 + len(about) :])) for words in found}

    def line(self, *about):
        found = self.lines(*about[:-1])
        assert about[-1] in found, f"there is no check of {' '.join(about)}, or the program ended before it; {self.end}"
        return found[about[-1]]

    def require_success(self):
        assert self.succeeded, self.end


@cache
def report(variant, directory, program, *arguments):
    """Run a program of tests/kernels, once for all tests that read its report."""
    place, errors = build(variant, directory)
    assert not errors, errors
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FASTCONV_")}
    return Report(run([*emulator(variant), place / program, *arguments], env=environment | ENVIRONMENT[variant]))
