# Two commands matter: `make demo` and `make test`. Both do all the set-up on a fresh clone.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
JOBS ?= auto
# A plain path in site-packages: setuptools' default, an import hook, costs every start of Python 10 ms more.
EDITABLE := --config-settings editable_mode=compat --editable

# Installing again under running tests would pull the extension modules away from them; tests are parallel by themselves.
.NOTPARALLEL:
.PHONY: help setup demo demo-migrate test test-stops test-order fuzz oracle mutants examine lint litmus bench guests native docs clean

help:
	@echo "make demo          set up .venv and watch a guest's bytes survive a reboot and a kill -9"
	@echo "make test          every test that a plain machine can run"
	@echo "make test-stops    every suite that runs guests again, with a stop asked for in every basic block"
	@echo "make test-order    the pytest plugin's own tests, two at a time and in random order"
	@echo "make fuzz          the tests with random inputs, ten times as many of them (EMU_FUZZ=10); hours"
	@echo "make oracle        the model of persistence against other machines on 20,000 random programs; minutes"
	@echo "make mutants       break each promise by a small edit and see a test turn red; minutes"
	@echo "make examine       let QEMU, iasl, Linux, ndctl and qemu.qmp judge us (apt packages: see .ci/run)"
	@echo "make litmus        92 small programs, each with its exact set of memories after a crash"
	@echo "make bench         speed and memory, as ratios against peers in the same run"
	@echo "make lint          ruff, mypy --strict, import-linter, generated files"
	@echo "make docs          the documentation as a site, in build/docs"
	@echo "make demo-migrate  a counting guest moves from one emu to another"
	@echo "make guests        rebuild the bundled guest images (gcc, ld)"

setup: $(READY)

$(READY): pyproject.toml $(wildcard launcher/* emu/host/_*.c emu/persistence/lab/_*.c emu/cpu/engine/_*.c emu/cpu/engine/*.h emu/host/*.h)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("emu needs Python 3.11 or newer; run: make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import ensurepip' || { echo "the venv module is incomplete; on Debian: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; os.path.exists(sysconfig.get_path("include") + "/Python.h") or sys.exit("Python.h is missing; on Debian: apt-get install python3-dev")'
	@command -v $(CC) >/dev/null || { echo "no C compiler ($(CC)); on Debian: apt-get install gcc"; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check $(EDITABLE) '.[test]'
	@$(PY) -m compileall -q emu devices guest
	@touch $@

demo: $(READY)
	@$(VENV)/bin/emu demo persistence

demo-migrate: $(READY)
	@$(VENV)/bin/emu demo migrate

test: $(READY)
	$(PY) -m pytest -n $(JOBS) tests/unit tests/integration

# Nightly. An input that fails is kept as a test: an @example for Hypothesis, an item in its list elsewhere.
EMU_FUZZ ?= 10
fuzz: $(READY)
	EMU_FUZZ=$(EMU_FUZZ) $(PY) -m pytest -n $(JOBS) -m fuzz -o timeout=7200 tests/unit tests/integration

# Nightly. The model of persistence against the operational machine, and against what guests do, also stopped in between.
EMU_PROGRAMS ?= 20000
ORACLE := $(addprefix tests/unit/persistence/test_persistence_,oracle.py programs.py)
oracle: $(READY)
	EMU_PROGRAMS=$(EMU_PROGRAMS) $(PY) -m pytest -n $(JOBS) -o timeout=7200 $(ORACLE)
	EMU_PROGRAMS=$(EMU_PROGRAMS) EMU_STOP_EVERY_BLOCK=1 $(PY) -m pytest -n $(JOBS) -o timeout=7200 $(lastword $(ORACLE))

# Nightly. MUTANTS=NAME... for some of them. (With `examine`, for the generator of C that an edited .csrc.c needs.)
mutants: $(VENV)/.examine
	$(PY) -m tests.mutants $(MUTANTS)

$(VENV)/.examine: $(READY)
	$(PY) -m pip install --quiet --disable-pip-version-check $(EDITABLE) '.[test,examine,lint]'
	@touch $@

# What stops must not change (docs/architecture.md): suites that run guests, in every room that does. Without what only
# draws and counts, and the boots of Linux over and over (test_linux_boots_alike.py: ten minutes so); the rest of the suite
# does that. `make test-stops STOPS="tests/unit tests/integration"` runs them all, which takes long.
STOPS := $(addprefix tests/unit/,api board cpu gdb guest machine) \
         $(addprefix tests/unit/persistence/test_persistence_, \
           hangs.py jobs.py known_ports.py programs.py reads.py stores.py unwinding.py waits.py) \
         $(addprefix tests/integration/test_, \
           crash_command.py crash_explained.py crash_instructions.py crash_labels.py crash_litmus.py crash_recovery.py crash_trace.py \
           debug_command.py guest_images.py linux_beginnings.py migration_machines.py run_ends.py run_linux.py store_log.py)
test-stops: $(READY)
	EMU_STOP_EVERY_BLOCK=1 $(PY) -m pytest -n $(JOBS) $(STOPS)

# The plugin promises that tests which use it may run beside each other and in any order: its own do. A failure says its
# seed: --random-order-seed=N does it again.
test-order: $(READY)
	$(PY) -m pytest -n 2 --random-order tests/unit/testing

examine: $(VENV)/.examine
	$(PY) -m pytest -n $(JOBS) tests/oracle

lint: $(VENV)/.examine
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) -m pytest -q tests/unit/cli/test_cli_docs.py

$(VENV)/.docs: $(READY)
	$(PY) -m pip install --quiet --disable-pip-version-check $(EDITABLE) '.[docs]'
	@touch $@

docs: $(VENV)/.docs
	$(VENV)/bin/sphinx-build --quiet --fail-on-warning --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

litmus: $(READY)
	$(PY) -m pytest tests/integration/test_crash_litmus.py

bench: $(READY)
	$(PY) -m tests.bench

guests:
	$(MAKE) -C guest

# The C that cffi generates is committed, so that installing needs no generator. A clone's file times mean
# nothing, so no other target may depend on a rule that writes it. A test fails when it is behind its sources.
NATIVE := emu/host/_kernel emu/host/_pages emu/persistence/lab/_chunks \
  $(addprefix emu/cpu/engine/_,hooks trace system x87 sse translate accesses)
native: $(NATIVE:=.abi3.so)

$(filter emu/cpu/engine/%,$(NATIVE:=.abi3.so)): $(wildcard emu/cpu/engine/*.h)
$(filter emu/host/%,$(NATIVE:=.abi3.so)): $(wildcard emu/host/*.h)
%.abi3.so: %.cdef.txt %.csrc.c
	$(PY) -m cffi.gen_src read-sources $(subst /,.,$*) $*.cdef.txt $*.csrc.c $*.c
	$(CC) -O2 -g -std=gnu11 -Wall -Wextra -shared -fPIC -DPy_LIMITED_API=0x030b0000 \
	  -I$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("include"))') -o $@ $*.c

clean:
	rm -rf build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
