# make demo | test | bench | wheel | clean. Needs Python 3.11+, a C compiler and make; everything else goes into .venv.
# "make test" treats the compiler's warnings as errors, as CI must; the other targets do not.

PYTHON  ?= python3
PY      := .venv/bin/python
CORE    := fastconv/_core$(shell $(PYTHON) -c "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))")
SOURCES := setup.py $(wildcard fastconv/*.pyx fastconv/*.pxi) $(shell find csrc -name '*.[ch]' -o -name '*.inc')

.PHONY: demo test bench wheel clean built

demo: built
	$(PY) -m fastconv demo $(ARGS)

test: export FASTCONV_WERROR = 1
test: built
	$(PY) -m pytest $(ARGS)

bench: built
	$(PY) -m benchmarks $(ARGS)

wheel: built
	$(PY) -m build --no-isolation --outdir dist

clean:
	rm -rf build dist *.egg-info fastconv/_core*.so .venv

# The environment's first installation builds the core too, so only a second make can tell whether it is out of date.
built: .venv/ready
	@$(MAKE) --silent --no-print-directory $(CORE)

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q torch==2.13.0 "setuptools>=77" "Cython>=3.1" "numpy>=2.0"
	$(PY) -m pip install -q --no-build-isolation -e ".[dev]"
	touch $@

$(CORE): $(SOURCES)
	echo "compiling $@"
	$(PY) setup.py -q build_ext --inplace
