#!/usr/bin/env bash
# Set up what a fresh Debian or Ubuntu machine lacks.
#   setup.sh PYTHON VENV   create the virtual environment and install the pinned packages
#   setup.sh --system      install the compiler and the browser when they are missing and we may
set -eu -o pipefail

apt_install() {  # apt_install WHY PACKAGE...: with root or password-less sudo; otherwise one sentence, and 1
  local why=$1 sudo=""
  shift
  if ! command -v apt-get >/dev/null; then
    echo "sheaf: $why, and this system has no apt-get; install the equivalent of: $*" >&2
    return 1
  fi
  if [ "$(id -u)" -ne 0 ]; then
    if sudo -n true 2>/dev/null; then sudo="sudo -n"; else
      echo "sheaf: $why; run: sudo apt-get install $*" >&2
      return 1
    fi
  fi
  echo "sheaf: $why; installing $*"
  export DEBIAN_FRONTEND=noninteractive
  mkdir -p .sheaf/logs
  { $sudo apt-get update -q && $sudo apt-get install -y -q --no-install-recommends "$@"; } >.sheaf/logs/apt.log 2>&1 || {
    tail -n 5 .sheaf/logs/apt.log >&2
    echo "sheaf: installing $* failed; the whole log is .sheaf/logs/apt.log" >&2
    return 1
  }
}

if [ "${1:-}" = "--system" ]; then
  # Neither is fatal: without a compiler the references run, without a browser its tests say what is missing.
  command -v "${CXX:-g++}" >/dev/null || apt_install "no C++ compiler" g++ || true
  if [ -z "${SHEAF_NO_BROWSER:-}" ] && ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null; then
    apt_install "no Chromium for the browser tests" chromium || true
  fi
  exit 0
fi

python=$1 venv=$2
mkdir -p .sheaf/logs
log=.sheaf/logs/setup.log
: >"$log"
if ! "$python" -m venv "$venv" >>"$log" 2>&1; then
  version=$("$python" -c 'import sys; print(f"{sys.version_info.major}.{sys.version_info.minor}")')
  apt_install "Python cannot create virtual environments" "python$version-venv" || exit 1
  "$python" -m venv --clear "$venv" >>"$log" 2>&1
fi

step() {  # step WHAT COMMAND...: a line that counts the seconds while the command writes to the log
  local what=$1 start=$SECONDS job
  shift
  "$@" >>"$log" 2>&1 &
  job=$!
  trap 'kill "$job" 2>/dev/null; exit 130' INT TERM
  while kill -0 "$job" 2>/dev/null; do
    [ -t 1 ] && printf '\rsetup: %s, %d s ' "$what" $((SECONDS - start))
    sleep 1
  done
  if wait "$job"; then
    [ -t 1 ] && printf '\r'
    printf 'setup: %s, %d s, done\n' "$what" $((SECONDS - start))
  else
    printf '\nsheaf: error: %s failed; last lines of %s:\n' "$what" "$log" >&2
    grep -v '^WARNING' "$log" | tail -n 8 >&2
    if grep -q 'DO NOT MATCH THE HASHES' "$log"; then
      echo "sheaf: error: a package is not the file that requirements.lock names and was not installed; empty pip's cache" \
        "(\`$venv/bin/python -m pip cache purge\`) and try again, and do not trust the index if it happens again" >&2
    fi
    exit 1
  fi
}

locked() {  # locked FILE PACKAGE: the lines of one package in a lock
  awk -v start="$2==" 'index($0, start) == 1 { on = 1 } on { print } on && !/\\$/ { exit }' "$1"
}

# Nothing is installed whose digest is not in requirements.lock, what builds the few source packages included. torch is the
# exception: its builds for CPU and CUDA differ from index to index, so it is pinned by version, with what CUDA needs besides.
pip=("$venv/bin/python" -m pip --disable-pip-version-check install)
hashed=(--require-hashes --no-deps --no-build-isolation)
locked requirements.lock setuptools >.sheaf/setuptools.lock
step "build tool" "${pip[@]}" "${hashed[@]}" -r .sheaf/setuptools.lock
step "packages" "${pip[@]}" "${hashed[@]}" -r requirements.lock
step "PyTorch (large)" "${pip[@]}" -c constraints.txt "$(grep '^torch==' constraints.txt)"
step "Sheaf itself" "${pip[@]}" --no-deps --no-build-isolation -e .
