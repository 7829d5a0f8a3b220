# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# The text that examples train on when none is named. Sourced after cmake/runner.sh.

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
