#!/bin/sh
# Builds the images, or pushes them: deploy/images.sh build|push. Run by `make images` and `make push-images`.
#
#   REGISTRY      where they are pulled from later, such as registry.example.com/team; without one they stay here
#   VERSION       their tag; the version in pyproject.toml if not given
#   TARGETS       which of them; all if not given
#   BUILDER       docker, podman or buildah; the first of them that works if not given
#   PYTHON_IMAGE, TORCH_INDEX, REVISION, SOURCE, VERSION   passed on to the Dockerfile
set -eu
cd "$(dirname "$0")/.."
fail() { echo "error: $1" >&2; exit 1; }
works() {
  case $1 in
    docker) docker info >/dev/null 2>&1 ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

verb=${1:-}
case $verb in
  build) ;;
  push) [ -n "${REGISTRY:-}" ] || fail "say where to: REGISTRY=registry.example.com/team" ;;
  *) fail "say build or push" ;;
esac
if [ -z "${BUILDER:-}" ]; then
  for BUILDER in docker podman buildah none; do works "$BUILDER" && break; done
  [ "$BUILDER" != none ] || fail "this needs docker (running), podman or buildah"
fi
: "${VERSION:=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)}"
: "${TARGETS:=gateway monitor tuner agent engine-cpu}"

for target in $TARGETS; do
  image=${REGISTRY:+${REGISTRY%/}/}ostler/$target:$VERSION
  if [ "$verb" = push ]; then
    "$BUILDER" push "$image"
    continue
  fi
  set -- build --target "$target" --tag "$image" --build-arg "VERSION=$VERSION"
  # Health checks are not part of the format that these two write otherwise.
  [ "$BUILDER" = docker ] || set -- "$@" --format docker
  for name in PYTHON_IMAGE TORCH_INDEX REVISION SOURCE; do
    eval "value=\${$name:-}"
    [ -z "$value" ] || set -- "$@" --build-arg "$name=$value"
  done
  "$BUILDER" "$@" .
  echo "$image"
done
