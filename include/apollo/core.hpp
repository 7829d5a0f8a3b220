// SPDX-License-Identifier: Apache-2.0
// Views, random numbers and policies alone: what somebody needs who writes loops of their own.
#pragma once

#include <apollo/policy/granularity.hpp>
#include <apollo/policy/limiter.hpp>
#include <apollo/policy/moments.hpp>
#include <apollo/policy/projection.hpp>
#include <apollo/policy/storage.hpp>
#include <apollo/random/normal.hpp>
#include <apollo/tensor/number.hpp>
#include <apollo/tensor/tensor_view.hpp>
#include <apollo/tensor/traits.hpp>
#include <apollo/tensor/view.hpp>
