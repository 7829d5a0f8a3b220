# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the scripts of this example share: its build, and the text it trains on when none is named. Sourced after
# cmake/runner.sh.

# Matrix products by oneDNN are worth it where it generates code for the processor; elsewhere Eigen's are taken.
llama_products=()
[[ $(uname -m) != x86_64 ]] || llama_products=(libdnnl-dev)

# build_llama  leaves the trainer at $llama_program.
build_llama() {
  need_packages g++ cmake ninja-build libeigen3-dev libcli11-dev nlohmann-json3-dev gnuplot-nox "${llama_products[@]}"
  build_preset examples --target llama
}
# shellcheck disable=SC2034  # for who sources this; relative to the root
llama_program=build/examples/examples/llama

# king_james FILE  writes the King James Bible (public domain) from Debian's package, a verse a line without its number.
king_james() {
  local file=$1
  [[ ! -s $file ]] || return 0
  need_packages bible-kjv bible-kjv-text
  if ! command -v bible >/dev/null; then
    echo "no bible-kjv here: name a text with --text FILE" >&2
    return 1
  fi
  mkdir -p "$(dirname "$file")"
  bible -f -l 0 gen1:1-rev22:21 | sed 's/^[^ ]* //' >"$file.part"
  mv "$file.part" "$file"
}
