#!/bin/sh
# Writes .env and .secrets for compose.yaml, with secrets of its own; what is there stays as it is.
set -eu
cd "$(dirname "$0")/../.."
secret() { od -An -N 24 -tx1 /dev/urandom | tr -d ' \n'; }
umask 077
mkdir -p .secrets
if [ ! -e .secrets/metrics-key ]; then
  printf 'sk-ostler-%s' "$(secret)" > .secrets/metrics-key
  # Prometheus, another user in its container, is given this file alone: the folder keeps it from the others here.
  chmod 644 .secrets/metrics-key
fi
if [ -e .env ]; then
  echo ".env is there already; remove it for new secrets (the database keeps its old password)"
  exit
fi
cat > .env <<END
# Secrets and choices of compose.yaml. Keep this file to yourself.
OSTLER_API_KEY=sk-ostler-$(secret)
OSTLER_AGENT_TOKEN=$(secret)
POSTGRES_PASSWORD=$(secret)
S3_SECRET_KEY=$(secret)
GRAFANA_PASSWORD=$(secret)
# A base model of yours in place of the demo's, for every profile: what it is called, its name on the Hugging Face hub, and
# your token if it asks for one. It is for --profile gpu; on CPUs take a small one.
#OSTLER_BASE=Qwen/Qwen3-8B
#OSTLER_BASE_MODEL=Qwen/Qwen3-8B
#HF_TOKEN=
# The most tokens of a prompt with its answer (auto: what fits into the memory), the share of each GPU's memory that vLLM
# takes (less beside a tuner on the same GPU), and further flags of vLLM.
#ENGINE_MAX_MODEL_LEN=auto
#ENGINE_GPU_MEMORY=0.9
#ENGINE_ARGS=--tensor-parallel-size 2
# Where other projects' images are pulled from, with a slash at the end; empty is the container engine's own choice.
#IMAGE_REGISTRY=
# Ostler's own images are built here; these two pull them from where you pushed them (make push-images).
#OSTLER_IMAGES=registry.example.com/team/
#OSTLER_PULL_POLICY=missing
END
echo "wrote .env and .secrets"
