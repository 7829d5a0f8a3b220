# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Where the runners find nvcc. Sourced by bash.

# find_nvcc  puts the toolkit's folder on PATH, where it often is not. Fails where there is no nvcc.
find_nvcc() {
  local place
  for place in "${CUDA_PATH:-}" "${CUDA_HOME:-}" /usr/local/cuda; do
    if ! command -v nvcc >/dev/null && [[ -n $place && -x $place/bin/nvcc ]]; then PATH=$PATH:$place/bin; fi
  done
  command -v nvcc >/dev/null
}
