# The commands the README names. Each sets up what it needs; a second call finds it done.
# PYTHON names the interpreter the virtual environment is made from, ARGS goes to the command that is run.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; exit; }; done; echo python3)
VENV_PYTHON := .venv/bin/python
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help build demo test test-all bench lint format wheel abi-check gpu-check clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

build:  ## the virtual environment, the pinned dependencies and the extension
	@"$(PYTHON)" scripts/bootstrap.py

demo: build  ## train the CNN on real digits with torch.nn and with nnart_ops, side by side
	@$(VENV_PYTHON) -m nnart_ops.demo $(ARGS)

test: build  ## the tests
	@$(VENV_PYTHON) -m pytest -n 2 $(ARGS)

test-all: build  ## the tests and the wider sweeps
	@$(VENV_PYTHON) -m pytest -n 2 -m "slow or not slow" $(ARGS)

bench: build  ## the benchmarks against native PyTorch
	@$(VENV_PYTHON) -m benchmarks.run $(ARGS)

lint: build  ## ruff, mypy and clang-format, changing nothing
	@$(VENV_PYTHON) scripts/lint.py

format: build  ## let ruff and clang-format change what they can
	@$(VENV_PYTHON) scripts/lint.py --fix

wheel: build  ## dist/*.whl for this Python
	@$(VENV_PYTHON) -m pip wheel --no-build-isolation --no-deps --wheel-dir dist .

abi-check: wheel  ## the one wheel under the oldest, the pinned and the newest torch (gigabytes of downloads)
	@$(VENV_PYTHON) scripts/abi_check.py

gpu-check:  ## the CUDA kernels on this machine's GPU: built for it, tested, sanitized and timed in one call
	@"$(PYTHON)" scripts/gpu_check.py $(ARGS)

clean:  ## remove what was built; the virtual environment stays
	rm -rf build dist nnart_ops/*.so nnart_ops.egg-info
