# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Packages that are compared with, unpacked where nothing else of the machine sees them. Sourced by bench/peers/run and
# bench/cuda/run, after cmake/runner.sh.

cache=${APOLLO_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/apollo-peers}
python=/usr/bin/python3 # Debian's: the pinned archives are for its version, python3-torch is for it alone
# shellcheck disable=SC2154 # root: cmake/runner.sh
mkdir -p "$cache" "$root/build/log"

# install FOLDER REQUIREMENTS...  unpacks the pinned packages beside each other, unless they are there already.
install() {
  local folder=$cache/$1 stamp each files=()
  shift
  for each in "$@"; do files+=(-r "$each"); done
  stamp=$(cat "$@" | sha256sum)
  [[ $(cat "$folder.stamp" 2>/dev/null) != "${stamp%% *}" ]] || return 0
  echo "installing ${*##*/} into $folder" >&2
  rm -rf "$folder" "$folder.part" "$folder.stamp"
  quietly "$root/build/log/peers-${folder##*/}.log" "$python" -m pip install --quiet --no-deps --require-hashes \
    --only-binary :all: --target "$folder.part" "${files[@]}" >&2 || return
  mv "$folder.part" "$folder"
  echo "${stamp%% *}" >"$folder.stamp"
}
