"""The native part of the build; everything else is in pyproject.toml.

csrc/ becomes static libraries, because every instruction set's kernels need flags of their own, and fastconv._core
links them. FASTCONV_WERROR=1 (set by the Makefile) turns the compiler's warnings about csrc/ into errors; a stranger's
newer compiler may warn without breaking his installation.
"""

import os
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from glob import glob

import numpy
from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

# -g0: Python's own -g would make the compiler a third slower for symbols that the linker strips.
COMMON = ["-std=gnu11", "-O3", "-g0", "-ffp-contract=fast", "-fno-math-errno", "-fvisibility=hidden", "-pthread"]
WARNINGS = ["-Wall", "-Wextra", "-Wshadow"] + ["-Werror"] * (os.environ.get("FASTCONV_WERROR") == "1")

AVX2 = ["-mavx2", "-mfma"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"]
ISA_FLAGS = {"x86_64": {"avx2": AVX2, "avx512": AVX512}, "aarch64": {"neon": []}, "arm64": {"neon": []}}

MACHINE = sysconfig.get_platform().rsplit("-", 1)[-1]
HEADERS = sorted(glob("csrc/**/*.h", recursive=True) + glob("csrc/**/*.inc", recursive=True)) + ["setup.py"]


def library(name, pattern, flags=()):
    sources = sorted(glob(f"csrc/{pattern}"))
    cflags = [*COMMON, *WARNINGS, *flags]
    return f"fastconv_{name}", {"sources": sources, "include_dirs": ["csrc"], "cflags": cflags, "obj_deps": {"": HEADERS}}


# In link order: the engine calls the kernels and the base.
LIBRARIES = [
    library("engine", "engine/*.c"),
    library("baseline", "kernels/baseline.c"),
    *(library(isa, f"kernels/{isa}.c", flags) for isa, flags in ISA_FLAGS.get(MACHINE, {}).items()),
    library("base", "base/*.c"),
]


class BuildLibraries(build_clib):
    """Compile what changed, all libraries at once; the standard command compiles one file after the other.

    They know nothing of Python, so every interpreter and tests/c_programs.py share them.
    """

    def initialize_options(self):
        super().initialize_options()
        self.build_clib = self.build_temp = "build/csrc"

    def build_libraries(self, libraries):
        def compile_source(source, info):
            [target] = self.compiler.object_filenames([source], output_dir=self.build_temp)
            if newer_group([source, *info["obj_deps"][""]], target):
                self.compiler.compile([source], output_dir=self.build_temp, include_dirs=info["include_dirs"],
                                      extra_postargs=info["cflags"])
            return target

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = {name: [pool.submit(compile_source, source, info) for source in info["sources"]]
                    for name, info in reversed(libraries)}     # the kernels, which take longest, before the engine
        for name, targets in jobs.items():
            archive = os.path.join(self.build_clib, self.compiler.library_filename(name))
            if os.path.exists(archive):
                os.remove(archive)   # "ar" would keep the members of sources that have gone
            self.compiler.create_static_lib([target.result() for target in targets], name, output_dir=self.build_clib)


class BuildExtension(build_ext):
    """`build_ext --inplace` alone builds the libraries too."""

    def run(self):
        self.run_command("build_clib")
        super().run()


core = Extension(
    "fastconv._core",
    sources=["fastconv/_core.pyx"],
    include_dirs=["csrc", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    extra_compile_args=["-O2", "-g0", "-fvisibility=hidden", "-pthread"],
    extra_link_args=["-pthread", "-lm"] + ["-Wl,--strip-all"] * (sys.platform == "linux"),
    depends=[*HEADERS, *glob("fastconv/*.px[id]"), *(source for _, info in LIBRARIES for source in info["sources"])],
)
core.cython_c_in_temp = True     # the generated C stays out of the source tree
core.cython_directives = {"language_level": 3}

setup(libraries=LIBRARIES, ext_modules=[core], cmdclass={"build_clib": BuildLibraries, "build_ext": BuildExtension})
