#!/usr/bin/env bash
# Writes the lock files again from pyproject.toml (needs `uv`). Run by `make lock`, from the project's root.
#
# torch is installed first, by pip, because only pip finds a CPU build where one is configured; so torch, and on
# the CPU the CUDA packages that its general build asks for, are left out of what is locked here.
set -euo pipefail
cuda='^(nvidia-|cuda-|triton==)'
compile() {
  compile_from pyproject.toml "$@"
}
compile_from() {
  local source=$1 out=$2
  shift 2
  echo "$out"
  uv pip compile --quiet --universal --python-version 3.11 "$source" "$@" \
    --override requirements/overrides.txt --no-emit-package torch --no-emit-package ostler \
    --no-header --no-annotate --output-file "$out"
}
compile requirements/cpu.lock --extra cpu --extra demo --extra monitor --extra export --extra tuner
sed -i -E "/$cuda/d" requirements/cpu.lock
compile requirements/test.lock --extra cpu --extra test --constraint requirements/cpu.lock
sed -i -E "/$cuda/d" requirements/test.lock
compile requirements/gpu.lock --extra gpu --extra demo --extra monitor --extra export --extra tuner

# What the images hold: of each package the version that the tests ran with.
tested=(--constraint requirements/test.lock)
compile requirements/gateway.lock --extra kubernetes --extra otel --extra s3 "${tested[@]}"
compile requirements/monitor.lock --extra monitor --extra otel --extra s3 "${tested[@]}"
compile requirements/tuner.lock --extra tuner --extra kubernetes --extra otel --extra s3 "${tested[@]}"
compile_from requirements/agent.in requirements/agent.lock "${tested[@]}"
compile_from requirements/engine-cpu.in requirements/engine-cpu.lock "${tested[@]}"
sed -i -E "/$cuda/d" requirements/engine-cpu.lock
