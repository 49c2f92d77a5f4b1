# The manual of daily work. `make check` is what continuous integration runs.
PYTHON ?= python
# tools of the environment that $(PYTHON) belongs to, activated or not
export PATH := $(shell $(PYTHON) -c "import os, sys; print(os.path.dirname(sys.executable))"):$(PATH)
CPP_FILES := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh')

# What `sanitize` builds, beside the usual modules. Leaks are not looked for: Python and PyTorch keep memory to the end.
# Tests of threads set their number; the others take a third of the time with one.
SANITIZED := build/sanitize
ASAN := $(shell $${CXX:-c++} -print-file-name=libasan.so) $(shell $${CXX:-c++} -print-file-name=libstdc++.so)

.PHONY: help check lint types test sanitize format native bench wheel clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/'

check: lint types test  ## everything a change must pass

lint:  ## style and common mistakes, Python and C++
	ruff check .
	ruff format --check .
	clang-format --dry-run -Werror $(CPP_FILES)

types:  ## type hints
	mypy

# Several processes of one thread each: two halve the time of two threads in one, as most tests are too small for threads.
# Tests of threads set their number.
test:  ## all tests, on all cores; without a GPU the Triton kernels run in Triton's interpreter
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q --numprocesses=auto --maxprocesses=8 --dist=worksteal

sanitize:  ## test the C++ kernels built to stop at a wrong access or an undefined operation (needs GCC on Linux)
	cmake -G Ninja -S . -B $(SANITIZED)/objects -DCOFI_SANITIZE=ON -DPython_EXECUTABLE="$$(command -v $(PYTHON))"
	cmake --build $(SANITIZED)/objects
	rm -rf $(SANITIZED)/lib
	cmake --install $(SANITIZED)/objects --prefix $(SANITIZED)/lib
	$(PYTHON) setup.py -q build_py --build-lib $(SANITIZED)/lib
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1 LD_PRELOAD="$(ASAN)" \
	  $(PYTHON) -m pytest -q --capture=sys -p no:cacheprovider \
	  -o "pythonpath=$(SANITIZED)/lib ." -k "not triton and not persistent_build" tests/native tests/kernels

format:  ## rewrite files in the project's style
	ruff check --fix .
	ruff format .
	clang-format -i $(CPP_FILES)

native:  ## rebuild the compiled modules in place, only what changed (needs an environment with cmake, ninja, pybind11)
	$(PYTHON) setup.py -q build_ext --inplace

bench:  ## run the benchmarks
	$(PYTHON) -m pytest -q bench

wheel:  ## source distribution and wheel in dist/
	$(PYTHON) -m build

clean:  ## remove what the other targets made
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache cofi_kernels/*.so
