# `make run` serves on this machine; `make test` checks everything. The other targets are pieces of these.
ENGINE ?= cpu
VENV := .venv
BIN := $(VENV)/bin
STEPS := format lint types tests

.PHONY: help install run test demo demo-models lock clean $(STEPS)

help:
	@echo "make run      install what is needed and serve on port 8080 (ENGINE=gpu for the GPU build)"
	@echo "make install  the same without serving"
	@echo "make test     format, lint, types and tests"
	@echo "make demo     the closed loop as a story of ten minutes, with a page at the end"
	@echo "make demo-models  train the demo's models again"
	@echo "make lock     write requirements/*.lock again from pyproject.toml"

install: $(VENV)/installed-$(ENGINE)

run: $(VENV)/installed-$(ENGINE)
	@exec $(BIN)/ostler up

test: $(VENV)/installed-test
	@$(MAKE) --no-print-directory $(STEPS)

$(VENV)/installed-%: requirements/%.lock requirements/install.sh pyproject.toml
	@requirements/install.sh $*

format: $(VENV)/installed-test
	$(BIN)/ruff format --check .

lint: $(VENV)/installed-test
	$(BIN)/ruff check .

types: $(VENV)/installed-test
	$(BIN)/mypy

# Tests on real engines come one after another: each takes all cores for itself.
tests: $(VENV)/installed-test
	$(BIN)/pytest -m "not engine" --numprocesses logical --maxprocesses 8
	$(BIN)/pytest -m engine

demo: $(VENV)/installed-$(ENGINE)
	@$(BIN)/ostler demo --report story.html

demo-models: $(VENV)/installed-test
	$(BIN)/python -m demo.recipe

lock:
	requirements/lock.sh

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
