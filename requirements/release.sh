#!/usr/bin/env bash
# Builds the source archive and the wheel into dist/, installs the wheel into an empty environment, with the newest
# packages that it allows, and tries it there. Run by `make release-check`; needs a network.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
work=$(mktemp -d)
gateway=
trap '[ -z "$gateway" ] || kill "$gateway"; rm -rf "$work"' EXIT
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)

say() { printf '%s\n' "$*"; }
fail() { say "error: $*" >&2; exit 1; }

say "Building ostler $version"
rm -rf dist
"$python" -m venv "$work/build"
"$work/build/bin/pip" -qq install build
mkdir "$work/source"
git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- | tar --extract --directory "$work/source"
"$work/build/bin/python" -m build --outdir dist "$work/source" >"$work/build.log" 2>&1 || { tail -n 20 "$work/build.log" >&2; fail "the build failed"; }
ls dist/"ostler-$version.tar.gz" dist/"ostler-$version-py3-none-any.whl"

say "Installing the wheel into an empty environment"
"$python" -m venv "$work/empty"
"$work/empty/bin/pip" -qq install dist/*.whl
"$work/empty/bin/pip" check
if "$work/empty/bin/pip" list --format=freeze | grep -iE '^(torch|vllm|evidently|pandas|pytest)=='; then
  fail "the wheel brings what only an extra should"
fi

say "Trying it"
cd "$work"
own=(env -i PATH="$PATH" HOME="$work" OSTLER_HOME="$work/home" OSTLER_DRAIN_DELAY_S=0 "$work/empty/bin/ostler")
ostler() { "${own[@]}" "$@"; }
[ "$(ostler --version)" = "ostler $version" ] || fail "the command says another version: $(ostler --version)"
ostler --help >/dev/null
for group in keys jobs data policy webhooks golden feedback; do ostler "$group" --help >/dev/null; done
ostler migrate
ostler keys create first --admin --local >/dev/null 2>&1
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"${own[@]}" gateway --base any --engine-url http://127.0.0.1:9 --port "$port" >"$work/gateway.log" 2>&1 &
gateway=$!
for _ in $(seq 100); do
  if alive=$("$python" -c "import urllib.request as u; print(u.urlopen('http://127.0.0.1:$port/livez').status)" 2>/dev/null); then break; fi
  sleep 0.2
done
[ "${alive:-}" = 200 ] || { tail -n 20 "$work/gateway.log" >&2; fail "a gateway of the wheel does not start"; }
kill "$gateway"
wait "$gateway" || fail "a gateway of the wheel does not stop in order"
gateway=
say "ostler $version installs and starts: $("$work/empty/bin/pip" list --format=freeze | wc -l) packages, $(du -sm "$work/empty" | cut -f1) MB"
