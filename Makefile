# make demo | test | lint | bench | clean      (PYTHON=python3.12 make test chooses the interpreter)
#
# Each target sets up .venv first when it is missing, or when pyproject.toml or constraints.txt changed.

PYTHON ?= python3
# Each process takes tests that stand together, so that what one compiles serves the next.
PYTEST_ARGS ?= -n auto --dist worksteal
JOBS ?= 2
TORCH := torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq -c constraints.txt

.DELETE_ON_ERROR:
.PHONY: help demo browser test lint bench clean

help:
	@sed -n '1,3s/^# \{0,1\}//p' Makefile

# torch comes first, by its exact version: left to the resolver it may be replaced by a far larger build.
# The build backend is installed too, so that it is pinned like everything else (an isolated build ignores constraints).
$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (the first time takes some minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) '$(TORCH)' hatchling editables
	@$(PIP) --no-build-isolation --editable '.[fast,lab,bench,ray,test,lint]'
	@touch $(READY)

demo: $(READY)
	@rm -rf out/demo
	$(BIN)/multirate compare --task digits/ffnn --optimizers adam,adam-hd,adam-cam-hd,multirate \
		--seeds 3 --jobs $(JOBS) --out out/demo
	@echo "Open $(CURDIR)/out/demo/report.html in a browser."

# The report is tested in a real browser, which pip cannot install.
browser:
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
		|| echo "The browser tests need chromium, for example: apt-get install chromium" >&2

# One thread a test process: the processes share the cores already.
test: $(READY) browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/multirate bench --out results/speed

clean:
	rm -rf $(VENV) build dist out .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
