// SPDX-License-Identifier: Apache-2.0
// The singular value decomposition that a refresh is held against: LAPACK's sgesdd, on OpenBLAS.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include <apollo/apollo.hpp>

// As OpenBLAS has them. Declared here, since its runtime package brings no headers.
extern "C" {
void sgesdd_(const char* jobz, const int* m, const int* n, float* a, const int* lda, float* s, float* u, const int* ldu,
             float* vt, const int* ldvt, float* work, const int* lwork, int* iwork, int* info, std::size_t jobz_length);
void openblas_set_num_threads(int threads);
char* openblas_get_config(void);
int openblas_get_parallel(void);  // 0: one thread, 1: threads of its own, 2: OpenMP's
}

namespace bench {

inline std::string blas_name() {
  const char* threads[] = {"without threads", "with threads of its own", "with OpenMP's threads"};
  return std::string(openblas_get_config()) + ", " + threads[openblas_get_parallel() % 3];
}

/// jobz = 'S': all min(rows, cols) singular values and both sides' vectors, the smallest form that has the leading
/// ones.
class Lapack {
 public:
  /// Of matrices as LAPACK sees them: rows x cols, column-major.
  Lapack(int rows, int cols)
      : rows_(rows),
        cols_(cols),
        side_(rows < cols ? rows : cols),
        a_(size(rows, cols)),
        values_(size(side_, 1)),
        u_(size(rows, side_)),
        vt_(size(side_, cols)),
        integers_(8 * size(side_, 1)) {
    float wanted = 0;
    call(&wanted, -1);
    work_.resize(static_cast<std::size_t>(wanted) + 1);
  }

  /// Takes a copy of `values`, which decompose() then overwrites.
  void set(const std::vector<float>& values) { a_ = values; }

  /// Errors: what sgesdd reports.
  void decompose(int threads) {
    openblas_set_num_threads(threads);
    call(work_.data(), static_cast<int>(work_.size()));
  }

  /// The sum of the squares of the largest `count` singular values: what the exact basis sees of the matrix.
  double energy(apollo::Index count) const {
    double sum = 0;
    for (std::size_t k = 0; k < static_cast<std::size_t>(count); ++k) sum += double{values_[k]} * double{values_[k]};
    return sum;
  }

 private:
  static std::size_t size(int rows, int cols) {
    return static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
  }

  void call(float* work, int length) {
    int info = 0;
    sgesdd_("S", &rows_, &cols_, a_.data(), &rows_, values_.data(), u_.data(), &rows_, vt_.data(), &side_, work,
            &length, integers_.data(), &info, 1);
    if (info != 0) throw std::runtime_error("sgesdd ended with info " + std::to_string(info));
  }

  int rows_, cols_, side_;
  std::vector<float> a_, values_, u_, vt_, work_;
  std::vector<int> integers_;
};

}  // namespace bench
