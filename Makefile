# Two commands matter: `make demo` and `make test`. Both do all the set-up on a fresh clone.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
NATIVE := kernel hooks trace

.PHONY: native
native: $(NATIVE:%=emu/host/_%.abi3.so)

# The C that cffi generates is committed, so that installing needs no generator.
emu/host/_%.c: emu/host/_%.cdef.txt emu/host/_%.csrc.c
	$(PY) -m cffi.gen_src read-sources emu.host._$* $^ $@

emu/host/_%.abi3.so: emu/host/_%.c
	$(CC) -O2 -g -std=gnu11 -Wall -Wextra -shared -fPIC -DPy_LIMITED_API=0x030b0000 \
	  -I$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("include"))') -o $@ $<
