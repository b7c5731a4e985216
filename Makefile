# `make run` serves on this machine; `make test` checks everything. The other targets are pieces of these.
ENGINE ?= cpu
VENV := .venv
BIN := $(VENV)/bin
STEPS := format lint types tests

PIECES :=
ROUNDS := 5
RUN_S := 10

.PHONY: help install run test bench demo demo-models lock release-check audit docs images push-images check-images clean $(STEPS)

help:
	@echo "make run            install what is needed and serve on port 8080 (ENGINE=gpu for the GPU build)"
	@echo "make install        the same without serving"
	@echo "make test           format, lint, types and tests (FULL_SIZE=1: with 1,000 adapters)"
	@echo "make format         only whether the code is formatted"
	@echo "make lint           only the linter"
	@echo "make types          only the types"
	@echo "make tests          only the tests"
	@echo "make bench          measure the speed into benchmarks/RESULTS.md (PIECES=\"requests swap\" ROUNDS=5 RUN_S=10)"
	@echo "make demo           the closed loop as a story of ten minutes, with a page at the end"
	@echo "make demo-models    train the demo's models again"
	@echo "make docs           write the generated pages again and build the site into site/ (SITE_URL=https://...)"
	@echo "make images         build the container images (REGISTRY=registry.example.com/team VERSION=...)"
	@echo "make push-images    push them there"
	@echo "make check-images   build images and try them under strict rules (root, buildah, minutes)"
	@echo "make lock           write requirements/*.lock again from pyproject.toml"
	@echo "make release-check  build the wheel, and try it in an empty environment"
	@echo "make audit          look for known vulnerabilities in what is locked (ADVISORIES=all.zip)"
	@echo "make clean          remove .venv, .bench and the caches of tools"

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

# Tests on real engines come one after another: each takes all cores for itself. What failed beside all the others runs
# once more, alone: what fails there, too, is wrong, and what does not is printed above as failed, and is to be mended.
AGAIN := --last-failed --last-failed-no-failures none
tests: $(VENV)/installed-test
	$(BIN)/pytest -m "not engine" --numprocesses auto --maxprocesses 8 --dist worksteal || $(BIN)/pytest -m "not engine" $(AGAIN)
	$(BIN)/pytest -m engine || $(BIN)/pytest -m engine $(AGAIN)

# Hours, on a machine that does nothing else. What it needs beside the tests' environment it installs into .bench.
bench: $(VENV)/installed-test
	$(BIN)/python -m benchmarks.speed $(PIECES) --rounds $(ROUNDS) --seconds $(RUN_S)

demo: $(VENV)/installed-$(ENGINE)
	@$(BIN)/ostler demo --report story.html

demo-models: $(VENV)/installed-test
	$(BIN)/python -m demo.recipe

lock:
	requirements/lock.sh

docs: $(VENV)/installed-test
	$(BIN)/python -m docs.source
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# The archive and the wheel in dist/, and whether that one installs and starts in an empty environment.
release-check: $(VENV)/installed-test
	requirements/release.sh

# Known vulnerabilities of what is locked: ADVISORIES=all.zip (OSV's export of PyPI) needs no network.
audit: $(VENV)/installed-test
	$(BIN)/python requirements/audit.py $(or $(ADVISORIES),$(error say ADVISORIES=all.zip; docs/releasing.md says where it comes from)) requirements/*.lock

# Ostler's container images, for REGISTRY if one is said (see deploy/images.sh for what else may be).
images:
	deploy/images.sh build

push-images:
	deploy/images.sh push

# The images, built on a local base and run with a read-only root, without rights and without a network.
check-images: $(VENV)/installed-test
	$(BIN)/python -m deploy.check_images

clean:
	rm -rf $(VENV) .bench .mypy_cache .pytest_cache .ruff_cache .hypothesis
