"""What is installed, what importing costs, and who may include whom in csrc/ (the rules are in csrc/README.md)."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import fastconv
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"][^>"]+[>"])', re.MULTILINE)

# Included files by the including file's room. What is in angle brackets is the C library or the system.
RULES = {
    "base": r'"(base/\w+\.h|fastconv\.h)"|<.*>',
    "engine": r'"((base|engine)/\w+\.h|kernels/kernels\.h|fastconv\.h)"|<.*>',
    "kernels": r'"kernels/\w+\.(h|inc)"|<(stddef|stdint|string)\.h>',
    "": r'<(stddef|stdint)\.h>',
}


def run_python(*arguments, cwd=ROOT):
    """Standard output of a fresh interpreter that finds this fastconv."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env={**os.environ, "PYTHONPATH": path}, check=True,
                          capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def source_tree(tmp_path_factory):
    """A copy of the source tree, without what is built or downloaded, to run setup.py in."""
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "__pycache__", "demo-output")
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("source") / "fastconv", ignore=unwanted)


@pytest.fixture(scope="module")
def installed_files(source_tree):
    """The Python part of what a wheel installs, as setuptools sees it; the extension module comes beside it."""
    run_python("setup.py", "-q", "build_py", "--build-lib", "lib", cwd=source_tree)
    return sorted(path for path in (source_tree / "lib").rglob("*") if path.is_file())


def test_import_rules_of_the_c_sources():
    broken = []
    for path in sorted(CSRC.rglob("*")):
        if path.suffix in (".c", ".h", ".inc"):
            room = path.parent.relative_to(CSRC).as_posix().replace(".", "")
            broken += [f"{path.relative_to(ROOT)} includes {included}" for included in INCLUDE.findall(path.read_text())
                       if not re.fullmatch(RULES[room], included) or "Python.h" in included]
    assert not broken


@pytest.mark.parametrize("file, included", [("base/a.c", '"engine/conv.h"'), ("kernels/a.inc", "<stdlib.h>"),
                                            ("kernels/a.c", '"fastconv.h"'), ("engine/a.c", '"kernels/simd.h"')])
def test_the_rules_refuse(file, included):
    assert not re.fullmatch(RULES[file.split("/")[0]], included)


def test_kernels_call_no_allocator_and_no_threads():
    forbidden = re.compile(r"\b(malloc|calloc|realloc|free|alloca|pthread_\w+|fc_\w+_new)\s*\(")
    found = {path.name: forbidden.findall(path.read_text()) for path in (CSRC / "kernels").iterdir() if path.is_file()}
    assert not any(found.values()), found


def test_importing_loads_nothing_heavy():
    """Beyond NumPy, only fastconv itself and the standard library; layers, optimisers and checks only when they are used."""
    code = ("import json, sys, numpy; before = set(sys.modules); import fastconv; "
            "print(json.dumps(sorted(set(sys.modules) - before)))")
    added = json.loads(run_python("-c", code))
    foreign = [name for name in added if name.split(".")[0] not in {"fastconv", *sys.stdlib_module_names}]
    # Annotations may need numpy.typing, and Cython registers its types under names of its own.
    assert not [name for name in foreign if not re.match(r"numpy(\.typing|\._typing|$)|_cython_|cython_runtime", name)]
    assert not [name for name in added if re.match(r"fastconv\.(nn|optim|testing|demo)\b", name)]
    assert not {"dataclasses", "multiprocessing", "asyncio", "unittest"} & set(added)


def test_code_of_the_readme_runs_and_learns_what_it_says(capsys):
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    np.testing.assert_allclose(names["layer"].params["weight"], names["sobel"], atol=1e-3)
    assert "[-2." in capsys.readouterr().out


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md", "docs/differences.md", "docs/lowrank.md", "docs/networks.md",
                                  "docs/precision.md", "docs/training_speed.md"])
def test_files_that_are_linked_exist(path):
    for link in re.findall(r"\]\(([^):]+)\)", (ROOT / path).read_text()):
        assert (ROOT / path).parent.joinpath(link).is_file(), link


def test_one_version(source_tree):
    version = fastconv.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert run_python("setup.py", "--version", cwd=source_tree).split()[-1] == version
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest.group(1) == version


def test_every_module_is_installed(source_tree, installed_files):
    installed = {path.relative_to(source_tree / "lib").as_posix() for path in installed_files}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fastconv").rglob("*.py")}
    assert installed == modules | {"fastconv/py.typed"}


def test_wheel_is_at_most_3_megabytes(source_tree, installed_files, tmp_path):
    with zipfile.ZipFile(tmp_path / "wheel", "w", zipfile.ZIP_DEFLATED) as wheel:
        for path in [*installed_files, Path(fastconv._core.__file__)]:
            wheel.write(path)
    assert (tmp_path / "wheel").stat().st_size <= 3 << 20


def test_sdist_has_all_sources_and_nothing_built(source_tree, tmp_path):
    run_python("setup.py", "-q", "sdist", "--dist-dir", str(tmp_path), cwd=source_tree)
    [archive] = tmp_path.iterdir()
    with tarfile.open(archive) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    folders = ("csrc", "fastconv", "tests", "benchmarks", "examples", "docs")
    sources = {path.relative_to(source_tree).as_posix() for folder in folders
               for path in (source_tree / folder).rglob("*") if path.is_file()}
    top = {"setup.py", "pyproject.toml", "MANIFEST.in", "Makefile", "LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    assert not (sources | top) - names
    assert not [name for name in names if re.search(r"\.(so|o|a|pyc)$|_core\.c$|^build/|^\.venv/", name)]
