// SPDX-License-Identifier: Apache-2.0
// What the pages' blocks of C++ may take for granted (snippets.py): the library, and a reader's tensors.
#pragma once

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include <Eigen/Core>

#include <apollo/apollo.hpp>
#include <apollo/eigen.hpp>

// Weights and gradients, as matrices and vectors of Eigen's.
extern Eigen::MatrixXf W, G, W_gradient;
extern Eigen::VectorXf b, b_gradient;

// A tensor type of the reader's own.
struct MyTensor {
  float* data;
  apollo::Index rows, cols;
};

// The reader's forward and backward pass: fills the gradients.
void backward();
