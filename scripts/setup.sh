#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes a checkout ready to use: Debian packages, .venv, the Verilator tree, the model file. `make setup` calls it.
# Idempotent: each step is skipped when what it makes is there; a stamp over its inputs makes the usual call instant.
# PYTHON=/path/to/python3 chooses the interpreter (default: python3 on PATH, 3.11 or later).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "setup: $*"; }
fail() { echo "setup: error: $*" >&2; exit 1; }

python=${PYTHON:-python3}
command -v "$python" >/dev/null || fail "no $python; install Python 3.11 or later (apt-get install python3)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) at $(command -v "$python") is older than 3.11; set PYTHON=/path/to/a/newer/python3"

# --- What is missing of the system's packages. Looked for by what they provide, so that nothing is asked of apt for
# --- tools that came another way.
has_header() { echo "#include <$1>" | g++ -E -x c++ -o /dev/null - 2>/dev/null; }
has_libpython() {
    "$1" - <<'PY'
import sys, sysconfig
from pathlib import Path
folders = [sysconfig.get_config_var(name) for name in ("LIBDIR", "LIBPL")] + [sys.base_prefix + "/lib"]
name = sysconfig.get_config_var("INSTSONAME") or ""
sys.exit(not (".so" in name and any(folder and (Path(folder) / name).exists() for folder in folders)))
PY
}
missing_packages() {
    command -v g++ >/dev/null || echo g++
    command -v make >/dev/null || echo make
    command -v perl >/dev/null || echo perl
    command -v ccache >/dev/null || echo ccache
    command -v tclsh >/dev/null || echo tcl # runs the scripts of board outputs against stand-ins
    has_header lz4.h || echo liblz4-dev
    has_header zlib.h || echo zlib1g-dev
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    # cocotb embeds Python in the simulator and needs the shared library, which Debian packages apart.
    if [ "$(readlink -f "$(command -v "$python")")" = "$(readlink -f /usr/bin/python3)" ]; then
        has_libpython "$python" || echo "lib$(basename "$(readlink -f /usr/bin/python3)")"
    fi
}
install_packages() {
    local packages=("$@") root=()
    say "installing Debian packages: ${packages[*]}"
    command -v apt-get >/dev/null || fail "apt-get not found; install by hand what provides: ${packages[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || fail "not root and no sudo; as root: apt-get install -y ${packages[*]}"
        root=(sudo)
    fi
    local log
    log=$(mktemp)
    if ! { "${root[@]}" env PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive sh -c \
        'apt-get update -q && apt-get install -q -y --no-install-recommends "$@"' apt "${packages[@]}"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "apt-get could not install: ${packages[*]}"
    fi
    rm -f "$log"
}

# --- Stamp: the inputs of the Python environment.
inputs=(pyproject.toml scripts/constraints.txt scripts/setup.sh
    cosim/instinfer/cosim/toolchain.py cosim/instinfer/cosim/modelfile.py
    sw/host_driver/instinfer/host/integrations/smollm2/weights.py)
stamp=$( { cat "${inputs[@]}"; "$python" -c 'import sys; print(sys.version, sys.base_prefix)'; pwd; } | sha256sum)
stamp_file=.venv/setup.stamp
cache=${INSTINFER_CACHE:-.cache}
models=("$cache"/models/*.gguf)
if [ -f "$stamp_file" ] && [ "$(cat "$stamp_file")" = "$stamp" ] && [ -x .venv/bin/verilator ] && [ -f "${models[0]}" ]; then
    [ "${1:-}" = "--quiet" ] || say "nothing to do, .venv is up to date"
    exit 0
fi

mkdir -p .cache
exec 9>.cache/setup.lock
flock 9 # two `make` at once: the second one waits here

mapfile -t packages < <(missing_packages)
[ "${#packages[@]}" -eq 0 ] || install_packages "${packages[@]}"
has_libpython "$python" || fail "$(command -v "$python") has no shared libpython, which cocotb needs; " \
    "build it with --enable-shared, or set PYTHON=/usr/bin/python3"

same_python='import sys; sys.exit(sys.prefix == sys.base_prefix or sys.version != sys.argv[1])'
if ! .venv/bin/python -c "$same_python" "$("$python" -c 'import sys; print(sys.version)')" 2>/dev/null ||
    ! grep -qs "^VIRTUAL_ENV=.*$PWD/.venv" .venv/bin/activate; then
    say "creating .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi
say "bringing the Python packages of .venv up to date (about 700 MB the first time, a minute or two)"
PIP_CONSTRAINT=scripts/constraints.txt .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
    --editable '.[dev]'
.venv/bin/python -m instinfer.cosim.toolchain
.venv/bin/python -m instinfer.cosim.modelfile
echo "$stamp" >"$stamp_file"
say "done"
