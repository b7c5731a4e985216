#!/usr/bin/env bash
# Writes the lock files again from pyproject.toml (needs `uv`). Run by `make lock`, from the project's root.
#
# torch is installed first, by pip, because only pip finds a CPU build where one is configured; so torch, and on
# the CPU the CUDA packages that its general build asks for, are left out of what is locked here.
set -euo pipefail
cuda='^(nvidia-|cuda-|triton==)'
compile() {
  local out=$1
  shift
  echo "$out"
  uv pip compile --quiet --universal --python-version 3.11 pyproject.toml "$@" \
    --override requirements/overrides.txt --no-emit-package torch --no-emit-package ostler \
    --no-header --no-annotate --no-emit-index-url --output-file "$out"
}
compile requirements/cpu.lock --extra cpu --extra demo --extra monitor --extra export --extra tuner
sed -i -E "/$cuda/d" requirements/cpu.lock
compile requirements/test.lock --extra cpu --extra test --constraint requirements/cpu.lock
sed -i -E "/$cuda/d" requirements/test.lock
compile requirements/gpu.lock --extra gpu --extra demo --extra monitor --extra export --extra tuner
