# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the runners (tests/run, bench/run, examples/run) share: packages, quiet builds, job counts. Sourced by bash.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jobs=${APOLLO_JOBS:-$(nproc)}

# need_packages PACKAGE...  installs the Debian packages that are missing; elsewhere CMake looks for itself.
need_packages() {
  if ! command -v dpkg-query >/dev/null; then
    echo "no dpkg here: taking for granted $*" >&2
    return 0
  fi
  local package missing=() as_root=()
  for package in "$@"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true) == installed ]] || missing+=("$package")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  if [[ $(id -u) -ne 0 ]]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      as_root=(sudo -n)
    else
      echo "missing packages, and neither root nor sudo to install them. Please run: apt-get install ${missing[*]}" >&2
      return 1
    fi
  fi
  echo "installing ${missing[*]}"
  mkdir -p "$root/build/log"
  quietly "$root/build/log/apt-update.log" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q update
  quietly "$root/build/log/apt-install.log" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -q install -y --no-install-recommends "${missing[@]}"
}

# quietly LOG COMMAND...  runs the command with its output in the log, whose end is shown if the command fails.
quietly() {
  local log=$1 status=0
  shift
  mkdir -p "$(dirname "$log")"
  "$@" >"$log" 2>&1 || status=$?
  if [[ $status -ne 0 ]]; then
    echo "failed with $status: $*"
    tail -n "${APOLLO_LOG_LINES:-80}" "$log"
  fi
  return "$status"
}

# build_preset PRESET [BUILD ARGUMENT...]  configures and builds; the preset says where.
build_preset() {
  local preset=$1
  shift
  (
    cd "$root" || exit
    quietly "build/log/$preset-configure.log" cmake --preset "$preset" || exit
    quietly "build/log/$preset-build.log" cmake --build --preset "$preset" -j "$jobs" "$@"
  )
}
